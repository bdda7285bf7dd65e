//! What the container sees as its file system.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::text;

/// What the container sees as `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The mount namespace's own root, left as it is.
    #[default]
    Host,
    /// The caller's `/`, read-only with all that is mounted below it.
    HostReadOnly,
    /// Nothing at all: an empty, read-only tmpfs.
    Empty,
    /// A directory.
    Dir {
        /// The directory on the host.
        #[serde(with = "text")]
        path: PathBuf,
        /// Let nothing be written to it.
        readonly: bool,
    },
    /// Directories that stay as they are, and a place for what is written.
    Overlay {
        /// The layers, uppermost first.
        #[serde(with = "text")]
        lower: Vec<PathBuf>,
        /// Where writes go.
        writes: Writes,
    },
}

/// Where an overlay's writes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    /// A tmpfs that ends with the container.
    Tmpfs {
        /// At most this many bytes; `None` is the kernel's default, half of the memory.
        size: Option<u64>,
    },
    /// Directories on one file system, which keep what is written.
    Dir {
        /// The writes.
        #[serde(with = "text")]
        upper: PathBuf,
        /// An empty directory that overlayfs needs beside it.
        #[serde(with = "text")]
        work: PathBuf,
    },
}

/// A mount within the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, within the container. A missing directory (for a bind of a file: a missing
    /// file) is made where the root can be written.
    #[serde(with = "text")]
    pub destination: PathBuf,
    /// What.
    pub kind: MountKind,
    /// Let nothing be written to it (with all below it, for a recursive bind).
    #[serde(default)]
    pub readonly: bool,
    /// Ignore set-user-ID bits and file capabilities.
    #[serde(default)]
    pub nosuid: bool,
    /// Open no device.
    #[serde(default)]
    pub nodev: bool,
    /// Execute nothing.
    #[serde(default)]
    pub noexec: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// On the host.
        #[serde(with = "text")]
        source: PathBuf,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// A new, empty tmpfs.
    Tmpfs {
        /// At most this many bytes.
        size: Option<u64>,
        /// Permission bits of its root.
        mode: Option<u32>,
    },
    /// The processes of the container's pid namespace.
    Proc,
    /// The devices and parameters that its net namespace shows.
    Sysfs,
    /// Its POSIX message queues.
    Mqueue,
    /// Its terminals.
    Devpts,
    /// Its cgroups (v2), seen from its cgroup namespace.
    Cgroup,
    /// A tmpfs with null, zero, full, random, urandom, tty, the links to `/proc/self/fd`,
    /// and `pts`, `shm` and `mqueue` of the container's own.
    Dev,
}

impl Mount {
    /// A mount with the flags that its kind commonly has: `nosuid`, `nodev` and `noexec`
    /// on kernel file systems, `nodev` alone on binds.
    pub fn new(destination: impl Into<PathBuf>, kind: MountKind) -> Self {
        let tmpfs = matches!(kind, MountKind::Tmpfs { .. });
        let strict = !tmpfs && !matches!(kind, MountKind::Bind { .. } | MountKind::Dev);
        let dev = matches!(kind, MountKind::Dev);
        let readonly = matches!(kind, MountKind::Sysfs | MountKind::Cgroup);
        Mount {
            destination: destination.into(),
            kind,
            readonly,
            nosuid: strict || tmpfs,
            nodev: !dev,
            noexec: strict,
        }
    }
}
