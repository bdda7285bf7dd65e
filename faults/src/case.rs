//! What a run is, and what can happen in it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

/// A system call of a traced process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Number of the process or thread, in the order of creation. The shell has number 0.
    pub task: usize,
    /// Name of the call.
    pub name: &'static str,
    /// Number among the calls of this name in the process, from 1.
    pub nth: usize,
    /// The errnos that are plausible for it.
    pub(crate) errnos: &'static [Errno],
}

impl Call {
    /// Returns what names the call: its process, its name, and its number.
    pub const fn id(&self) -> (usize, &'static str, usize) {
        (self.task, self.name, self.nth)
    }

    /// Returns the cases of this call: each errno that is plausible for it, and both kinds of kill.
    pub fn cases(&self) -> impl Iterator<Item = Case> + '_ {
        let kills = [Fault::KillBefore, Fault::KillAfter];
        let faults = self.errnos.iter().copied().map(Fault::Errno).chain(kills);
        faults.map(|fault| Case { call: self.clone(), fault })
    }
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel does not perform the call, which returns this errno.
    Errno(Errno),
    /// SIGKILL ends the process before the call.
    KillBefore,
    /// SIGKILL ends the process after the call, before it sees the result.
    KillAfter,
}

/// One fault in one call. It is printed as `TASK/CALL.NTH/FAULT`, such as `1/openat.3/EMFILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The call.
    pub call: Call,
    /// What happens to it.
    pub fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}/", self.call.task, self.call.name, self.call.nth)?;
        match self.fault {
            Fault::Errno(errno) => write!(f, "{errno:?}"),
            Fault::KillBefore => f.write_str("kill-before"),
            Fault::KillAfter => f.write_str("kill-after"),
        }
    }
}

/// A script to trace.
#[derive(Debug)]
pub struct Script {
    /// Text for sh(1).
    pub text: String,
    /// Our programs, whose calls count.
    pub own: Vec<PathBuf>,
    /// Time after which all traced processes are killed.
    pub bound: Duration,
}

/// The result of a traced run.
#[derive(Debug)]
pub struct Run {
    /// The calls that can fail, in the order in which they were made; only of a run without a case.
    pub calls: Vec<Call>,
    /// The case's call was made.
    pub reached: bool,
    /// The bound was exceeded.
    pub hung: bool,
    /// Exit code of the shell: 128 and the number for a signal.
    pub code: i32,
}
