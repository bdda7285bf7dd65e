//! What the container sees as its file system.

use std::path::PathBuf;

use ns_core::IdMap;
use serde::{Deserialize, Serialize};

use super::text;

/// What the container sees as `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The mount namespace's own root, left as it is.
    #[default]
    Host,
    /// The caller's `/`, read-only with all that is mounted below it, and without its sockets
    /// and named pipes: the container sees their names and reaches nobody behind them.
    ///
    /// Each mount of the host is shown through an overlay (Linux 5.11 in a user namespace), as it
    /// was mounted when the plan was made. A file that the host replaces by another one of the same
    /// name may be seen as it was, if the container has looked at it before. A socket that the
    /// container shall use is bound by its name, or
    /// [`Spec::root_sockets`](crate::spec::Spec::root_sockets) binds the host's mounts
    /// themselves. overlayfs stacks two layers deep: where `/` is an overlay on an overlay, as in a
    /// container of this sort in a container, it refuses a further one, and the start fails.
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
    /// Further attributes of the mount alone, and those that it shall not have.
    #[serde(default)]
    pub attributes: Attributes,
    /// Attributes of the mount and of all below it.
    #[serde(default)]
    pub recursive_attributes: Attributes,
    /// How mounts on it pass to and from its copies in other namespaces, in order.
    #[serde(default)]
    pub propagation: Vec<Propagation>,
    /// Show other owners of its files than those that are stored.
    #[serde(default)]
    pub id_maps: Option<MountIdMaps>,
    /// Of a tmpfs: begin with a copy of what the root has at the destination.
    #[serde(default)]
    pub copy_up: bool,
}

/// Attributes of a mount, as mount_setattr(2) takes them: `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// To set. Of the access time settings (`MOUNT_ATTR__ATIME`) one value is set, with the
    /// mask in `clear`.
    pub set: u64,
    /// To clear.
    pub clear: u64,
}

/// How mounts pass between a mount and its copies in other namespaces:
/// [mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// The type.
    pub kind: PropagationKind,
    /// For all mounts below as well.
    pub recursive: bool,
}

impl Propagation {
    /// As mount(2) takes it.
    pub(crate) fn flags(self) -> u64 {
        let kind = match self.kind {
            PropagationKind::Shared => libc::MS_SHARED,
            PropagationKind::Slave => libc::MS_SLAVE,
            PropagationKind::Private => libc::MS_PRIVATE,
            PropagationKind::Unbindable => libc::MS_UNBINDABLE,
        };
        kind | if self.recursive { libc::MS_REC } else { 0 }
    }
}

/// A type of propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PropagationKind {
    /// To and from.
    Shared,
    /// From the host, not to it.
    Slave,
    /// Neither.
    Private,
    /// Neither, and it cannot be bind-mounted.
    Unbindable,
}

/// Whose the files of a mount are seen to be (mount_setattr(2), `MOUNT_ATTR_IDMAP`; since
/// Linux 5.12, for each file system since a version of its own).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdMaps {
    /// Stored user ids (inside) to those that are seen (outside); none: as the container's
    /// user namespace maps them.
    pub uid: Option<IdMap>,
    /// The same for groups.
    pub gid: Option<IdMap>,
    /// For all mounts below as well.
    pub recursive: bool,
}

/// A device node or named pipe within the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where.
    #[serde(with = "text")]
    pub path: PathBuf,
    /// What.
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner within the container.
    pub uid: u32,
    /// Group within the container.
    pub gid: u32,
}

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A symbolic link within the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where; what is there already stays.
    #[serde(with = "text")]
    pub path: PathBuf,
    /// To what.
    #[serde(with = "text")]
    pub target: PathBuf,
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
    /// A file system by its kernel name, with options as its driver takes them.
    FileSystem {
        /// `ext4`, `tmpfs`, `devpts` …
        fstype: String,
        /// The device or whatever the file system takes for its source.
        #[serde(with = "text")]
        source: PathBuf,
        /// Its own options; one without a value is a flag.
        options: Vec<(String, Option<String>)>,
    },
    /// Nothing new: the mount that is at the destination, to change its attributes.
    Remount,
    /// A new, empty tmpfs.
    Tmpfs {
        /// At most this many bytes.
        size: Option<u64>,
        /// Permission bits of its root. Without any it has those of the directory that it covers, or
        /// 1777 where there is none.
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
        let plain = matches!(
            kind,
            MountKind::Bind { .. } | MountKind::Dev | MountKind::FileSystem { .. } | MountKind::Remount
        );
        let strict = !tmpfs && !plain;
        let bind = matches!(kind, MountKind::Bind { .. });
        let readonly = matches!(kind, MountKind::Sysfs | MountKind::Cgroup);
        Mount {
            destination: destination.into(),
            kind,
            readonly,
            nosuid: strict || tmpfs,
            nodev: strict || tmpfs || bind,
            noexec: strict,
            attributes: Attributes::default(),
            recursive_attributes: Attributes::default(),
            propagation: Vec::new(),
            id_maps: None,
            copy_up: false,
        }
    }
}

/// Devices that every container has: path, major and minor number.
///
/// Specification: [OCI runtime, default devices](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices).
pub const DEVICES: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Symbolic links that every container has in `/dev`: path and target.
///
/// Specification: [OCI runtime, dev symbolic links](https://github.com/opencontainers/runtime-spec/blob/main/runtime-linux.md#dev-symbolic-links).
pub const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];
