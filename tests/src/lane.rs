//! The requirements of a test. A test whose requirement is missing is skipped, unless `NSPOD_NO_SKIP` is set.

pub use nspod_testkit::{is_slow, root, rounds, skip};

use cgroup_core::{Controllers, Hierarchy};

/// Returns whether this process runs as root on a host whose cgroups have these controllers. If not, the test is
/// skipped with the reason that the host gives.
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
