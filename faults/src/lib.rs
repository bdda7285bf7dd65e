//! Faults in the system calls of a program and of the processes that it starts, for tests.
//!
//! [`trace`] runs a shell script under ptrace(2) and lists the system calls of our programs in it. With a [`Case`]
//! it lets exactly one of these calls fail, or kills the process immediately before or after the call. A call is
//! named by its process, its name and its number among the calls of this name, so a case hits the same call in
//! each run of a deterministic program.
//!
//! Only processes that execute our programs are counted: from `main` of a program, and all of the embedded init,
//! which also is the stage. If such a process executes another program, that program and the init run on
//! untraced.

#![forbid(unsafe_code)]

mod table;
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod tracer;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Command;
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
    errnos: &'static [Errno],
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

/// Returns whether [`trace`] supports this target.
pub const fn is_supported() -> bool {
    cfg!(all(target_arch = "x86_64", target_env = "gnu"))
}

/// Runs a script, and injects the fault of a case into it.
///
/// `set_up` sets the environment and the standard streams. The streams must not be pipes to this process, because
/// nothing reads them meanwhile. The calling thread waits for all children of the calling process: no other
/// thread may start one. If the calling process is a subreaper
/// ([prctl(2)](https://man7.org/linux/man-pages/man2/prctl.2.html), `PR_SET_CHILD_SUBREAPER`), its children
/// include all processes that the script left behind.
///
/// Returns when the shell has ended, and each other traced process has ended or is no longer traced.
///
/// # Errors
/// - `Unsupported`: the target is not x86_64 with the GNU C library.
/// - The errors of [ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html): `EPERM` without
///   `CAP_SYS_PTRACE`, if the program changes its user or is traced already.
pub fn trace(script: &Script, case: Option<&Case>, set_up: impl FnOnce(&mut Command)) -> io::Result<Run> {
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    {
        tracer::run(script, case, set_up)
    }
    #[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
    {
        let _ = (script, case, set_up, table::errnos("", [0; 6]));
        Err(io::ErrorKind::Unsupported.into())
    }
}
