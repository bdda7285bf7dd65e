#![doc = include_str!("../README.md")]

use std::fmt;

use nix::errno::Errno;
use nix::unistd::Uid;

/// Prints an errno as `Operation not permitted (EPERM)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrnoText(pub Errno);

impl fmt::Display for ErrnoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.0.desc(), self.0)
    }
}

/// Returns how the caller gets CAP_SYS_ADMIN, for the end of an error message. Root can lack the capability in a
/// container. See [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html).
pub fn how_to_get_sys_admin() -> &'static str {
    match Uid::effective().is_root() {
        true => "root lacks it here, so start the container around it with --cap-add SYS_ADMIN",
        false => "run as root",
    }
}

/// Returns how the caller gets a cgroup, for the end of an error message. Root can have none in a container. See
/// [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html), section "Cgroups v2 delegation".
pub fn how_to_get_a_cgroup() -> &'static str {
    match Uid::effective().is_root() {
        true => "make /sys/fs/cgroup writable for root here, or delegate a cgroup to it",
        false => "run as root, or delegate a cgroup to the caller",
    }
}
