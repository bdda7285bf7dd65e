//! Processes that outlive the invocation that started them: found again by pid, start
//! time and boot, so that a pid that was given to another is never taken for them.

use std::path::Path;
use std::sync::OnceLock;

use nix::libc;
use nix::unistd::getpid;
use ns_core::Pidfd;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use nspod_sandbox::store::read_small;

/// A process, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start: u64,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot: String,
}

impl Process {
    /// A process that lives, or is the caller's to wait for.
    ///
    /// # Errors
    /// If there is no such process in `/proc`, or it cannot be read.
    pub fn of(pid: i32) -> Result<Process> {
        let gone = || Error::new(format!("process {pid} is not in /proc: mount it"));
        Ok(Process { pid, start: stat(pid)?.ok_or_else(gone)?.1, boot: boot_id()?.to_owned() })
    }

    pub fn current() -> Result<Process> {
        Process::of(getpid().as_raw())
    }

    /// A handle on it, if it has not ended.
    ///
    /// # Errors
    /// If that cannot be found out, for one because this process is out of descriptors.
    pub fn open(&self) -> Result<Option<Pidfd>> {
        match Pidfd::open(self.pid) {
            // The process that the pidfd is of cannot lose its pid now.
            Ok(pidfd) => Ok(self.lives()?.then_some(pidfd)),
            // The number is nobody's, or a thread's.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether it has ended, or is on its way there, as far as can be seen.
    pub fn is_ending(&self) -> bool {
        let seen =
            || -> Result<bool> { Ok(!self.lives()? || stat_of(self.pid)?.is_none_or(|text| ends(&text))) };
        seen().unwrap_or(false)
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn lives(&self) -> Result<bool> {
        let Some((state, start)) = stat(self.pid)? else { return Ok(false) };
        let boot = boot_id()?;
        let same_boot = self.boot.is_empty() || boot.is_empty() || self.boot == boot;
        Ok(!matches!(state, 'Z' | 'X') && start == self.start && same_boot)
    }
}

/// Whether a text of `/proc/PID/stat` is of one that was killed or that has begun to end.
fn ends(text: &str) -> bool {
    const PF_EXITING: u64 = 4;
    const PF_SIGNALED: u64 = 0x400;
    const PENDING_SIGKILL: u64 = 1 << 8;
    let fields = text.rfind(')').map_or("", |at| &text[at + 1..]);
    // Counted as in proc(5), where the state is the third.
    let field =
        |n: usize| fields.split_ascii_whitespace().nth(n - 3).and_then(|n| n.parse().ok()).unwrap_or(0);
    field(9) & (PF_EXITING | PF_SIGNALED) != 0 || field(31) & PENDING_SIGKILL != 0
}

/// It stays the same for the life of this process. Empty where `/proc` has only processes
/// (`subset=pid`).
pub fn boot_id() -> Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let text = read(Path::new("/proc/sys/kernel/random/boot_id"))?.unwrap_or_default();
    Ok(ID.get_or_init(|| text.trim_end().to_owned()))
}

fn stat(pid: i32) -> Result<Option<(char, u64)>> {
    Ok(stat_of(pid)?.and_then(|text| parse(&text)))
}

fn stat_of(pid: i32) -> Result<Option<String>> {
    read(Path::new(&format!("/proc/{pid}/stat")))
}

/// What a file of `/proc` says; `None` if there is none, as of a process that has ended.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::File::open(path).and_then(read_small) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(e) => Err(Error::io("read", path, &e)),
    }
}

/// State and start time from `/proc/PID/stat`. The name, in parentheses, may hold anything.
fn parse(text: &str) -> Option<(char, u64)> {
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_killed_is_ending_before_it_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        assert!(!process.is_ending());
        child.kill().unwrap();
        // The flags are read before what is pending, and it may go from one to the other between.
        assert!((0..100).any(|_| process.is_ending()));
        child.wait().unwrap();
        assert!(process.is_ending());
        let text = |flags: u32, pending: u32| {
            format!("1 (a) b) S 1 1 1 0 -1 {flags} {} {pending} 0", [0; 21].map(|n| n.to_string()).join(" "))
        };
        assert!(!ends(&text(0x400040, 0)) && ends(&text(0x400044, 0)) && ends(&text(0x400040, 256)));
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["a", "a b", "a) Z 1 2", "((", ""] {
            assert_eq!(parse(&format!("12 ({name}) {rest}")), Some(('S', 4711)));
        }
        assert_eq!(parse("12 (a) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_recycled_pid_is_somebody_else() {
        let me = Process::current().unwrap();
        assert!(me.lives().unwrap() && me.open().unwrap().is_some());
        let before = Process { start: me.start - 1, ..me.clone() };
        assert!(!before.lives().unwrap() && before.open().unwrap().is_none());
        let boot = |boot: &str| Process { boot: boot.into(), ..me.clone() };
        assert!(!boot("another").lives().unwrap() && boot("").lives().unwrap());
    }

    #[test]
    fn a_process_that_has_ended_and_not_been_reaped_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        Pidfd::open(process.pid).unwrap().poll(None).unwrap();
        assert!(!process.lives().unwrap());
        child.wait().unwrap();
        assert!(process.open().unwrap().is_none());
    }
}
