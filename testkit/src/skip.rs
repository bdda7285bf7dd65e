//! Skipping tests, and the length of tests that repeat something.

use std::process::{Command, Stdio};

/// Reports that the running test is skipped, in the form that `cargo xtask test` counts.
///
/// Call this in the thread of the test, whose name is the name of the test.
///
/// # Panics
/// If `NSPOD_NO_SKIP` is set, because no test may be skipped then.
pub fn skip(reason: &str) {
    skip_test(std::thread::current().name().unwrap_or("a test"), reason);
}

/// Does the same as [`skip`] for a test of this name, which need not run in a thread of its own.
///
/// # Panics
/// As [`skip`].
pub fn skip_test(name: &str, reason: &str) {
    assert!(std::env::var_os("NSPOD_NO_SKIP").is_none(), "{name} must not be skipped: {reason}");
    eprintln!("SKIP {name}: {reason}");
}

/// Returns whether this process runs as root. If not, the test is skipped.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("this test needs root");
    }
    root
}

/// Returns whether all these programs are installed. If not, the test is skipped.
pub fn programs(names: &[&str]) -> bool {
    let is_installed = |name: &&&str| {
        let mut command = Command::new(name);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        started.is_ok_and(|mut child| {
            let _ = child.kill();
            child.wait().is_ok()
        })
    };
    let missing: Vec<_> = names.iter().filter(|name| !is_installed(name)).copied().collect();
    if !missing.is_empty() {
        skip(&format!("this test needs these programs: {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// Returns whether the machine is the emulated guest, which is 10 to 20 times slower than the host.
pub fn is_slow() -> bool {
    std::env::var_os("NSPOD_LANE").is_some_and(|lane| lane == "guest")
}

/// Returns how often a test repeats an attempt, from the number for the host: less in the guest, and
/// `NSPOD_ROUNDS` times as often if that is set.
///
/// # Panics
/// If `NSPOD_ROUNDS` is not a number.
pub fn rounds(usual: u32) -> u32 {
    let factor = std::env::var("NSPOD_ROUNDS");
    let factor = factor.map_or(1, |factor| factor.parse().expect("NSPOD_ROUNDS must be a number"));
    let usual = if is_slow() { usual.div_ceil(20) } else { usual };
    usual.saturating_mul(factor)
}
