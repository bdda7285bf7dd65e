//! Whether a process has surely ended, for the removal of what it left behind.

use std::fs::read_link;
use std::time::Duration;

use ns_core::{Pidfd, ProcessId};

/// Returns whether the process has surely ended. Returns `false` in doubt: the caller then kills or removes
/// nothing. [`ProcessId::is_alive`] is not sufficient, because `/proc` can hide the process
/// (`hidepid=invisible`), and because the first thread can have ended before the others.
pub(crate) fn has_ended(process: &ProcessId) -> bool {
    match Pidfd::open(process.pid) {
        Err(e) => e.raw_os_error() == Some(libc::ESRCH),
        // The pidfd of a process is readable when all its threads have ended.
        Ok(pidfd) => pidfd.poll(Some(Duration::ZERO)).unwrap_or(false) || is_another(process),
    }
}

/// Returns whether another process has the pid now.
fn is_another(process: &ProcessId) -> bool {
    let boots_differ = |now: &str| !process.boot.is_empty() && !now.is_empty() && process.boot != now;
    match ProcessId::of(process.pid) {
        Ok(now) if boots_differ(&now.boot) => true,
        // Start times of different time namespaces cannot be compared.
        Ok(now) => now.start != process.start && has_own_clocks(process.pid),
        Err(_) => false,
    }
}

/// Returns whether the process is in the caller's time namespace.
fn has_own_clocks(pid: i32) -> bool {
    let own = read_link("/proc/self/ns/time");
    match own {
        Ok(own) => read_link(format!("/proc/{pid}/ns/time")).is_ok_and(|other| other == own),
        // Before Linux 5.6 there are no time namespaces.
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_its_last_thread_has() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        assert!(!has_ended(&id));
        // Another process has the pid.
        assert!(has_ended(&ProcessId { start: id.start - 1, ..id.clone() }));
        assert!(has_ended(&ProcessId { boot: "another".into(), ..id.clone() }));
        child.kill().unwrap();
        assert!(Pidfd::open(id.pid).unwrap().poll(Some(Duration::from_secs(60))).unwrap());
        assert!(has_ended(&id), "a zombie");
        child.wait().unwrap();
        assert!(has_ended(&id));
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_lives() {
        if !nspod_testkit::programs(&["python3"]) {
            return;
        }
        let threads = "import ctypes, threading, time\n\
            threading.Thread(target=time.sleep, args=(60,)).start()\n\
            ctypes.CDLL(None).syscall(ctypes.c_long(EXIT), 0)";
        let exit = libc::SYS_exit.to_string();
        let mut child = std::process::Command::new("python3")
            .args(["-c", &threads.replace("EXIT", &exit)])
            .spawn()
            .unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", id.pid)).unwrap();
        nspod_testkit::eventually("the first thread ends", || stat().contains(") Z "));
        assert!(!id.is_alive().unwrap());
        assert!(!has_ended(&id));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(&id));
    }

    const HIDDEN: &str = "NSPOD_TEST_HIDDEN";

    /// Not a test itself: the next test runs this function as a user to whom `/proc` hides a process.
    #[test]
    fn the_program_that_sees_only_itself() {
        let Ok(words) = std::env::var(HIDDEN) else { return };
        let (pid, start) = words.split_once(' ').unwrap();
        let id = ProcessId { pid: pid.parse().unwrap(), start: start.parse().unwrap(), boot: String::new() };
        assert!(!id.is_alive().unwrap(), "/proc shows the process");
        assert!(!has_ended(&id));
    }

    #[test]
    fn a_process_that_proc_hides_lives() {
        use std::os::unix::fs::PermissionsExt;
        if !nspod_testkit::root() || !nspod_testkit::programs(&["setpriv"]) {
            return;
        }
        let me = ProcessId::current().unwrap();
        // The user may not be able to reach the directory of this program.
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let copy = directory.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let script = "mount -t proc -o hidepid=2 proc /proc && \
            exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
        let mut program = std::process::Command::new("unshare");
        program.args(["--mount", "sh", "-c", script, "sh"]).arg(copy);
        program.args(["--exact", "ended::tests::the_program_that_sees_only_itself"]);
        let output = program.env(HIDDEN, format!("{} {}", me.pid, me.start)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}
