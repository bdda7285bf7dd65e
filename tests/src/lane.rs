//! What a test needs of the place it runs in, and skipping where that is missing: loudly,
//! by name, and never where `NSPOD_NO_SKIP` is set.

use cgroup_core::{Controllers, Hierarchy};

/// Whether to keep loops short: the guest lane is an emulated machine, 10 to 20 times slower.
pub fn slow() -> bool {
    std::env::var_os("NSPOD_LANE").is_some_and(|lane| lane == "guest")
}

/// Says that a test is skipped, and why.
///
/// # Panics
/// Where nothing may be skipped (`NSPOD_NO_SKIP`).
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    assert!(std::env::var_os("NSPOD_NO_SKIP").is_none(), "{name} must not be skipped: {reason}");
    eprintln!("SKIP {name}: {reason}");
}

/// Whether the caller is root; if not, the test is skipped.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("this takes root");
    }
    root
}

/// Whether the caller is root on a host whose cgroups have these controllers; if not, the
/// test is skipped with the host's own reason.
pub fn controllers(wanted: Controllers) -> bool {
    if !root() {
        return false;
    }
    let host = match Hierarchy::detect() {
        Ok(host) => host,
        Err(error) => {
            skip(&error.to_string());
            return false;
        }
    };
    let Some(controller) = (wanted - host.controllers()).members().next() else { return true };
    let reason = host.why_missing(controller);
    skip(&reason.map_or_else(|| format!("no {controller} controller"), |reason| reason.to_string()));
    false
}
