//! Helpers that the tests of all crates share. This crate depends on no other crate of the workspace, so that
//! each of them can use it in its tests.

#![forbid(unsafe_code)]

mod guard;
mod program;
mod skip;

pub use guard::{Guard, in_own_process, in_time};
pub use program::{Output, PATIENCE, copy_program, end_of, eventually, run_with};
pub use skip::{is_slow, programs, root, rounds, skip, skip_test};

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// Checks that a call failed with an error whose text contains `part`.
///
/// # Panics
/// If it succeeded, or failed with another error.
#[track_caller]
pub fn assert_refused<T, E: std::fmt::Display>(result: Result<T, E>, part: &str) {
    match result {
        Ok(_) => panic!("this must be refused, with {part:?} in the error"),
        Err(error) => assert!(error.to_string().contains(part), "{error}: {part:?} is not in it"),
    }
}

/// Returns whether the running kernel has at least this version.
///
/// # Panics
/// If `/proc` cannot be read.
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
}

/// Returns a name that begins with `what` and that no other running test has. An earlier test with this pid, which
/// was killed and left a container, had another name too.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static START: LazyLock<u16> =
        LazyLock::new(|| SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs() as u16));
    format!("{what}-{}-{:04x}-{}", std::process::id(), *START, COUNT.fetch_add(1, Ordering::Relaxed))
}
