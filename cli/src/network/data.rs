//! Types and constants of both kinds of network.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the interface in the container.
pub(super) const INTERFACE: &str = "eth0";
/// Name of this step in errors.
pub(super) const STEP: &str = "network";

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    /// Address of the host. `None` means all addresses.
    pub(crate) address: Option<IpAddr>,
    pub(crate) host: u16,
    pub(crate) container: u16,
    pub(crate) udp: bool,
}

/// The namespace to connect.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    /// Directory of the container or pod in the store.
    pub(crate) dir: &'a Path,
    pub(crate) net: PathBuf,
    /// The user namespace that owns `net`. `None` if the caller has the capabilities over `net`.
    pub(crate) user: Option<PathBuf>,
    pub(crate) cgroup: Option<PathBuf>,
    /// Whether the cgroup is that of a pod: the helper gets a cgroup of its own in it.
    pub(crate) pod: bool,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host, self.container, if self.udp { "udp" } else { "tcp" })
    }
}

/// Returns the first program of this name in the directories.
pub(super) fn find_program(name: &str, dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    dirs.into_iter().map(|dir| dir.join(name)).filter(|path| path.is_absolute()).find(is_program)
}
