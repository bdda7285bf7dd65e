//! Pidfds against the real kernel.
// The unsafe blocks are plain system calls on locals. Others have a comment.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::{Child, Gate, pause};
use ns_core::{Clone3, ErrorKind, ExitStatus, Kind, Namespace, NamespaceSet, Pidfd};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn wait_returns_exit_codes_and_signals() {
    for code in [0, 1, 255] {
        assert_eq!(Child::run(Clone3::default(), || code).wait(), ExitStatus::Exited(code));
    }
    let killed = Child::sleeping(Clone3::default());
    killed.pidfd.send_signal(libc::SIGKILL).unwrap();
    assert_eq!(killed.wait(), ExitStatus::Signaled { signal: libc::SIGKILL, core_dumped: false });
    // The kernel keeps the status of a reaped process since Linux 6.15.
    if nspod_testkit::kernel_is_at_least(6, 15) {
        assert_eq!(killed.pidfd.exit_info().unwrap().map(ExitStatus::shell_code), Some(137));
    }
}

#[test]
fn wait_returns_the_resource_usage() {
    let child = Child::run(Clone3::default(), || {
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        while usage.ru_utime.tv_sec == 0 && usage.ru_utime.tv_usec < 20_000 {
            unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
        }
        0
    });
    let usage = child.pidfd.wait().unwrap().usage;
    assert!(usage.user >= Duration::from_millis(20), "{usage:?}");
    assert!(usage.user + usage.system < Duration::from_secs(60), "{usage:?}");
    // In bytes: a test binary has more than 100 KiB resident and less than 4 GiB.
    assert!(usage.max_rss > 100 << 10 && usage.max_rss < 4 << 30, "{usage:?}");
}

#[test]
fn try_wait_does_not_wait_for_a_running_child() {
    let child = Child::sleeping(Clone3::default());
    assert_eq!(child.pidfd.try_wait().unwrap(), None);
    assert!(!child.pidfd.poll(Some(Duration::ZERO)).unwrap());
    assert_eq!(child.pidfd.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    child.pidfd.send_signal(libc::SIGTERM).unwrap();
    let exit = child.pidfd.wait_timeout(60 * SECOND).unwrap().expect("it was killed");
    assert_eq!(exit.status.shell_code(), 128 + libc::SIGTERM);
}

#[test]
fn a_timeout_beyond_the_range_of_the_clock_never_expires() {
    let child = Child::run(Clone3::default(), || 3);
    assert!(child.pidfd.poll(Some(Duration::MAX)).unwrap());
    assert_eq!(child.wait(), ExitStatus::Exited(3));
}

#[test]
fn a_second_wait_reports_that_the_process_was_already_reaped() {
    let child = Child::run(Clone3::default(), || 0);
    child.assert_success();
    let error = child.pidfd.wait().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
    assert!(error.to_string().ends_with("has already been reaped"), "{error}");
    for error in [child.pidfd.send_signal(0).unwrap_err(), child.pidfd.pid().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NoSuchProcess, "{error}");
    }
}

#[test]
fn a_grandchild_can_be_polled_and_queried_but_not_waited_for() {
    let gate = Gate::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&writer);
    let child = Child::run(Clone3::default(), || unsafe {
        let grandchild = libc::fork();
        if grandchild == 0 {
            gate.wait();
            libc::_exit(9);
        }
        libc::write(raw, (&raw const grandchild).cast(), 4);
        let mut status = 0;
        libc::waitpid(grandchild, &mut status, 0);
        0
    });
    let mut pid = [0; 4];
    reader.read_exact(&mut pid).unwrap();
    let grandchild = Pidfd::open(i32::from_ne_bytes(pid)).unwrap();
    assert_eq!(grandchild.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
    assert!(!grandchild.poll(Some(Duration::ZERO)).unwrap());
    gate.open();
    assert!(grandchild.poll(Some(60 * SECOND)).unwrap());
    child.assert_success();
    let info = grandchild.exit_info();
    match nspod_testkit::kernel_is_at_least(6, 15) {
        true => assert_eq!(info.unwrap(), Some(ExitStatus::Exited(9))),
        // The kernel lacks PIDFD_GET_INFO, or the exit status in it.
        false => {
            let kind = info.unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::Unsupported | ErrorKind::NoSuchProcess), "{kind:?}");
        }
    }
}

#[test]
fn a_descriptor_of_another_process_can_be_copied() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&writer);
    let child = Child::sleeping(Clone3::default());
    let copy = child.pidfd.get_fd(raw).unwrap();
    drop(writer);
    drop(child);
    use std::io::Write;
    std::fs::File::from(copy).write_all(b"through the child").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the child");
    let error = Child::sleeping(Clone3::default()).pidfd.get_fd(1_000_000).unwrap_err();
    assert!(error.to_string().ends_with("the process does not have this descriptor"), "{error}");
}

#[test]
fn only_a_pidfd_is_accepted_as_a_pidfd() {
    let child = Child::sleeping(Clone3::default());
    let fd: OwnedFd = Pidfd::open(child.pid).unwrap().into();
    assert_eq!(Pidfd::from_owned_fd(fd).unwrap().pid().unwrap(), child.pid);
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = Pidfd::from_owned_fd(file.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn opening_a_missing_process_is_refused_with_the_reason() {
    for (pid, kind) in
        [(i32::MAX, ErrorKind::NoSuchProcess), (0, ErrorKind::InvalidInput), (-1, ErrorKind::InvalidInput)]
    {
        assert_eq!(Pidfd::open(pid).unwrap_err().kind(), kind, "{pid}");
    }
}

#[test]
fn a_signal_that_does_not_exist_is_refused() {
    let child = Child::run(Clone3::default(), pause);
    let error = child.pidfd.send_signal(999).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn an_ended_process_has_no_namespaces() {
    let child = Child::run(Clone3::default(), || 0);
    assert!(child.pidfd.poll(None).unwrap());
    // A zombie.
    let errors = [
        NamespaceSet::of_pid(child.pid).unwrap_err(),
        NamespaceSet::of_pidfd(&child.pidfd).unwrap_err(),
        Namespace::of_pid(child.pid, Kind::Net).unwrap_err(),
        Namespace::of_pidfd(&child.pidfd, Kind::Net).unwrap_err(),
    ];
    child.assert_success();
    // Reaped.
    let more = [
        NamespaceSet::of_pidfd(&child.pidfd).unwrap_err(),
        Namespace::of_pidfd(&child.pidfd, Kind::Net).unwrap_err(),
    ];
    for error in errors.iter().chain(&more) {
        assert_eq!(error.kind(), ErrorKind::NoSuchProcess, "{error}");
    }
}

#[test]
fn a_process_that_is_reaped_while_it_is_opened_has_ended() {
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
    let (pid, done) = (AtomicI32::new(0), AtomicBool::new(false));
    let errors = std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            let mut errors = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let pid = pid.load(Ordering::Relaxed);
                errors.extend(
                    Some(pid).filter(|pid| *pid > 0).and_then(|pid| Pidfd::open(pid).err()?.raw_os_error()),
                );
            }
            errors
        });
        for _ in 0..500 {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            pid.store(child.id() as i32, Ordering::Relaxed);
            child.wait().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        opener.join().unwrap()
    });
    assert!(errors.iter().all(|errno| *errno == libc::ESRCH), "{errors:?}");
}
