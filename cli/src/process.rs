//! Processes that outlive the invocation that started them: found again by pid, start
//! time and boot, so that a pid that was given to another is never taken for them.

use std::sync::OnceLock;

use nix::unistd::getpid;
use ns_core::Pidfd;
use serde::{Deserialize, Serialize};

use crate::dir::read_small;

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
    pub fn of(pid: i32) -> Option<Process> {
        Some(Process { pid, start: stat(pid)?.1, boot: boot_id() })
    }

    pub fn current() -> Option<Process> {
        Process::of(getpid().as_raw())
    }

    /// A handle on it, if it has not ended.
    pub fn open(&self) -> Option<Pidfd> {
        let pidfd = Pidfd::open(self.pid).ok()?;
        // Whoever the pidfd is of cannot lose its pid now.
        self.lives().then_some(pidfd)
    }

    /// Whether it has ended, or is on its way there.
    pub fn is_ending(&self) -> bool {
        !self.lives() || read(&format!("/proc/{}/stat", self.pid)).is_none_or(|text| ends(&text))
    }

    pub fn lives(&self) -> bool {
        match stat(self.pid) {
            Some((state, start)) => {
                !matches!(state, 'Z' | 'X') && start == self.start && self.boot == boot_id()
            }
            None => false,
        }
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

/// It is the same as long as anybody can ask.
fn boot_id() -> String {
    static ID: OnceLock<String> = OnceLock::new();
    let id = || read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    ID.get_or_init(id).trim_end().to_owned()
}

fn stat(pid: i32) -> Option<(char, u64)> {
    parse(&read(&format!("/proc/{pid}/stat"))?)
}

fn read(path: &str) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    Some(String::from_utf8_lossy(&read_small(file).ok()?).into_owned())
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
        assert!(me.lives() && me.open().is_some());
        let before = Process { start: me.start - 1, ..me.clone() };
        assert!(!before.lives() && before.open().is_none());
        let boot = Process { boot: "another".into(), ..me };
        assert!(!boot.lives());
    }

    #[test]
    fn a_process_that_has_ended_and_not_been_reaped_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        Pidfd::open(process.pid).unwrap().poll(None).unwrap();
        assert!(!process.lives());
        child.wait().unwrap();
        assert!(process.open().is_none());
    }
}
