//! The identity of a process, against processes that end.

use std::process::{Child, Command};
use std::sync::mpsc;

use ns_core::{ErrorKind, Pidfd, ProcessId, boot_id};

fn sleep() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

#[test]
fn an_identity_opens_the_process_that_it_was_taken_from() {
    let me = ProcessId::current().unwrap();
    assert_eq!(me.pid, std::process::id() as i32);
    assert!(me.is_alive().unwrap() && !me.is_ending().unwrap());
    assert_eq!(me.open().unwrap().unwrap().pid().unwrap(), me.pid);
    assert_eq!(ProcessId::of_pidfd(&Pidfd::open(me.pid).unwrap()).unwrap(), me);
}

#[test]
fn another_process_with_the_same_pid_is_not_opened() {
    let me = ProcessId::current().unwrap();
    let before = ProcessId { start: me.start - 1, ..me.clone() };
    assert!(!before.is_alive().unwrap() && before.is_ending().unwrap());
    assert!(before.open().unwrap().is_none());
    let boot = |boot: &str| ProcessId { boot: boot.into(), ..me.clone() };
    assert!(boot("another").open().unwrap().is_none());
    assert!(boot("").open().unwrap().is_some());
}

#[test]
fn a_zombie_has_an_identity_and_is_not_alive() {
    let mut child = Command::new("true").spawn().unwrap();
    let pidfd = Pidfd::open(child.id() as i32).unwrap();
    pidfd.poll(None).unwrap();
    let id = ProcessId::of_pidfd(&pidfd).unwrap();
    assert!(!id.is_alive().unwrap() && id.is_ending().unwrap() && id.open().unwrap().is_none());
    child.wait().unwrap();
    assert!(!id.is_alive().unwrap() && id.open().unwrap().is_none());
    assert_eq!(ProcessId::of(id.pid).unwrap_err().kind(), ErrorKind::NoSuchProcess);
    assert_eq!(ProcessId::of_pidfd(&pidfd).unwrap_err().kind(), ErrorKind::NoSuchProcess);
}

#[test]
fn a_killed_process_is_ending_before_it_has_ended() {
    let mut child = sleep();
    let id = ProcessId::of(child.id() as i32).unwrap();
    assert!(!id.is_ending().unwrap());
    child.kill().unwrap();
    // The kernel reports the flags before the pending signals, and may turn a signal into a flag in between.
    assert!((0..100).any(|_| id.is_ending().unwrap()));
    child.wait().unwrap();
    assert!(id.is_ending().unwrap());
}

#[test]
fn an_unused_pid_is_gone_and_not_an_error() {
    let me = ProcessId::current().unwrap();
    for pid in [0, -1, i32::MAX] {
        let id = ProcessId { pid, ..me.clone() };
        assert!(id.open().unwrap().is_none(), "{pid}");
    }
    // A thread has an id and a directory in /proc, and is not a process.
    let (tell, told) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid().as_raw()).unwrap();
        let _ = ended.recv();
    });
    assert!(ProcessId { pid: told.recv().unwrap(), ..me }.open().unwrap().is_none());
    drop(end);
    thread.join().unwrap();
}

#[test]
fn the_boot_id_is_the_kernels() {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(boot_id().unwrap(), text.trim());
}

#[cfg(feature = "serde")]
#[test]
fn an_identity_survives_json() {
    let me = ProcessId::current().unwrap();
    let json = serde_json::to_string(&me).unwrap();
    assert_eq!(json, format!(r#"{{"pid":{},"start":{},"boot":"{}"}}"#, me.pid, me.start, me.boot));
    assert_eq!(serde_json::from_str::<ProcessId>(&json).unwrap(), me);
}
