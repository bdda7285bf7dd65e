//! The dumpable flag of the host program, which allows core dumps and tracing.

use nix::sys::prctl::{get_dumpable, set_dumpable};
use nspod_sandbox::{Command, Stdio};

/// Starts a program whose child changes its ids while it shares memory with this process.
fn start() {
    let mut command = Command::new("true");
    command.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null).user(1, 1);
    assert!(command.status().unwrap().status.success());
}

#[test]
fn a_start_keeps_the_mark_and_does_not_undo_make_undumpable() {
    if !nspod_testkit::root() {
        return;
    }
    set_dumpable(true).unwrap();
    start();
    assert!(get_dumpable().unwrap(), "the child's change of user has cleared the flag of this process");
    // If the flag is cleared before a start, by any means, it stays cleared.
    set_dumpable(false).unwrap();
    start();
    assert!(!get_dumpable().unwrap());
    // If this function clears the flag, it stays cleared even while a start is in progress.
    set_dumpable(true).unwrap();
    std::thread::scope(|scope| {
        let starts = scope.spawn(|| (0..20).for_each(|_| start()));
        nspod_sandbox::make_undumpable().unwrap();
        starts.join().unwrap();
    });
    assert!(!get_dumpable().unwrap());
}
