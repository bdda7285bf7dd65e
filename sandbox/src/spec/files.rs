//! The file system of a container.

use std::path::PathBuf;

use ns_core::IdMap;
use serde::{Deserialize, Serialize};

use super::text;

/// The root of a container: the file system that it sees as `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The root of the mount namespace, unchanged.
    #[default]
    Host,
    /// The caller's `/`, read-only with all mounts below it, and without its sockets and named
    /// pipes: the container sees their names, but cannot connect to them or open them.
    ///
    /// Each mount of the host is shown through an overlay (since Linux 5.11 in a user namespace),
    /// as it was mounted when the plan was made. If the host replaces a file that the container has
    /// already accessed, the container may still see the old file. To let the container use a
    /// socket, bind it by its name, or set [`Spec::root_sockets`](crate::spec::Spec::root_sockets),
    /// which binds the host's mounts instead. overlayfs allows two levels: if `/` is an overlay on
    /// an overlay, as in such a container within a container, the start fails.
    HostReadOnly,
    /// An empty, read-only tmpfs.
    Empty,
    /// A directory of the host.
    Dir {
        /// The directory on the host.
        #[serde(with = "text")]
        path: PathBuf,
        /// Whether the root is read-only.
        readonly: bool,
    },
    /// An overlay of directories that stay unchanged, and a place for writes.
    ///
    /// In a user namespace, an overlay of the host's root (the single layer `/`) consists of an
    /// overlay for each directory without mounts below it, because the host's mounts are locked
    /// together there. Its writes are in a tmpfs ([`Writes::Tmpfs`]). A file can be changed if its
    /// owner has an id in the container, and so have the owners of the directories above it in the
    /// overlay, except those above the working directory. Files in a directory with mounts below it
    /// are read-only.
    Overlay {
        /// The layers, directories on the host, uppermost first.
        #[serde(with = "text")]
        lower: Vec<PathBuf>,
        /// The place for writes.
        writes: Writes,
        /// Limit of the writes.
        #[serde(default)]
        limit: StorageLimit,
    },
}

/// The place for the writes to an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    /// A tmpfs that ends with the container.
    Tmpfs,
    /// Directories on one file system, which keep the writes.
    Dir {
        /// The directory on the host for the writes.
        #[serde(with = "text")]
        upper: PathBuf,
        /// An empty directory on the host, which overlayfs requires on the same file system.
        #[serde(with = "text")]
        work: PathBuf,
    },
}

/// The maximum space of a tmpfs or of a directory. At the limit, writes fail with `ENOSPC` or
/// `EDQUOT`. A limit of 0 is invalid: to the kernel it means no limit.
///
/// A directory is limited by a project quota
/// ([quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html)), on an ext4 or xfs that
/// enforces them. Only root can set it. What the directory contains before counts, except links,
/// pipes and devices. The limit ends when the container is deleted. After a reboot, it stays until
/// a container with a limit uses the directory. Since Linux 5.14.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageLimit {
    /// Maximum size in bytes, which the kernel rounds up to a block or a page. The blocks of the
    /// directory itself, and of the directories of an overlay, do not count when they are empty.
    /// `None` means no limit; in a tmpfs, half of the memory.
    pub size: Option<u64>,
    /// Maximum number of files, directories and other inodes. The directories of an overlay count.
    /// `None` means no limit; in a tmpfs, half of the number of pages of the memory.
    pub inodes: Option<u64>,
}

impl StorageLimit {
    /// Returns a limit of the size in bytes.
    pub fn of_size(size: u64) -> StorageLimit {
        StorageLimit { size: Some(size), inodes: None }
    }

    /// Returns whether nothing is limited.
    pub fn is_empty(self) -> bool {
        self == StorageLimit::default()
    }
}

/// A mount within the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path within the container. If it is missing, it is made: a directory, or a file for the bind
    /// of a file. With [`Root::HostReadOnly`], it is made in a layer above the host's files, and
    /// nothing is made on the host. Then it stays missing in a file system that has no overlay
    /// (`vfat`, kernel file systems), below a directory with an access control list, and with
    /// [`Spec::root_sockets`](crate::spec::Spec::root_sockets). With [`Root::Host`], it must exist.
    #[serde(with = "text")]
    pub destination: PathBuf,
    /// Mount type and source.
    pub kind: MountKind,
    /// Whether the mount is read-only (`MOUNT_ATTR_RDONLY`), with all mounts below a recursive
    /// bind.
    #[serde(default)]
    pub readonly: bool,
    /// Whether set-user-ID bits, set-group-ID bits and file capabilities are ignored
    /// (`MOUNT_ATTR_NOSUID`).
    #[serde(default)]
    pub nosuid: bool,
    /// Whether opening devices fails (`MOUNT_ATTR_NODEV`).
    #[serde(default)]
    pub nodev: bool,
    /// Whether executing programs fails (`MOUNT_ATTR_NOEXEC`).
    #[serde(default)]
    pub noexec: bool,
    /// Additional attributes of the mount to set and to clear.
    #[serde(default)]
    pub attributes: Attributes,
    /// Attributes of the mount and of all mounts below it.
    #[serde(default)]
    pub recursive_attributes: Attributes,
    /// Propagation types, applied in order.
    #[serde(default)]
    pub propagation: Vec<Propagation>,
    /// ID mapping of the mount (idmapped mount). Only binds support it.
    #[serde(default)]
    pub id_maps: Option<MountIdMaps>,
    /// Whether to start with a copy of the root's directory at the destination. Only a tmpfs
    /// supports it.
    #[serde(default)]
    pub copy_up: bool,
    /// Limit of the space. Only a tmpfs and a bind of a directory without the mounts below it support it.
    #[serde(default)]
    pub limit: StorageLimit,
}

/// Attributes of a mount: `MOUNT_ATTR_*` of
/// [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), since Linux 5.12.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Attributes to set. To set one of the access time attributes, `clear` must include their mask
    /// (`MOUNT_ATTR__ATIME`).
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
}

/// Propagation of mount events between a mount and its peers in other namespaces:
/// [mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// Propagation type.
    pub kind: PropagationKind,
    /// Whether it also applies to all mounts below.
    pub recursive: bool,
}

impl Propagation {
    /// Returns the flags of mount(2).
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

/// Propagation type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PropagationKind {
    /// Mount events pass in both directions.
    Shared,
    /// Mount events pass from the host to the container only.
    Slave,
    /// Mount events pass in neither direction.
    Private,
    /// Private, and the mount cannot be bind-mounted.
    Unbindable,
}

/// ID mapping of a mount (idmapped mount): `MOUNT_ATTR_IDMAP` of
/// [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), since Linux
/// 5.12. Support for each file system began in a different version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdMaps {
    /// Map of the stored user ids (inside) to the displayed ones (outside). If both maps are `None`, the
    /// map of the container's user namespace is used.
    pub uid: Option<IdMap>,
    /// Map of the stored group ids to the displayed ones.
    pub gid: Option<IdMap>,
    /// Whether it also applies to all mounts below.
    pub recursive: bool,
}

/// A device node or named pipe within the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Path within the container.
    #[serde(with = "text")]
    pub path: PathBuf,
    /// Type and device number.
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as an id in the container.
    pub uid: u32,
    /// Group, as an id in the container.
    pub gid: u32,
}

/// Type of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe (FIFO).
    Fifo,
}

/// A symbolic link within the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Path within the container. An existing file stays. With [`Root::HostReadOnly`], a link is
    /// made where a mount point can be: see [`Mount::destination`].
    #[serde(with = "text")]
    pub path: PathBuf,
    /// Target of the link, as the container sees it.
    #[serde(with = "text")]
    pub target: PathBuf,
}

/// Mount type and source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Path on the host.
        #[serde(with = "text")]
        source: PathBuf,
        /// Whether to include everything mounted below it.
        recursive: bool,
    },
    /// A file system by its name in `/proc/filesystems`, with options of its driver.
    FileSystem {
        /// `ext4`, `tmpfs`, `devpts` …
        fstype: String,
        /// Source: a device on the host, or another value that the file system expects.
        #[serde(with = "text")]
        source: PathBuf,
        /// Options for the driver. An option without a value is a flag.
        options: Vec<(String, Option<String>)>,
    },
    /// The existing mount at the destination, to change its attributes.
    Remount,
    /// A new, empty tmpfs.
    Tmpfs {
        /// Permission bits of its root. The default is the mode of the directory that it covers, or
        /// 1777 if it covers none.
        mode: Option<u32>,
    },
    /// A procfs of the container's pid namespace.
    Proc,
    /// A sysfs of the container's net namespace.
    Sysfs,
    /// The POSIX message queues of the container's ipc namespace.
    Mqueue,
    /// A devpts with the container's terminals.
    Devpts,
    /// The cgroup2 hierarchy, as the container's cgroup namespace sees it.
    Cgroup,
    /// The standard `/dev`: a tmpfs with [`DEVICES`], [`LINKS`], and the container's own `pts`,
    /// `shm` and `mqueue`.
    Dev,
}

impl Mount {
    /// Returns a bind mount of a file or directory of the host, with everything mounted below it.
    /// `source` is a path on the host, `destination` one in the container. See
    /// [mount(2)](https://man7.org/linux/man-pages/man2/mount.2.html), `MS_BIND`.
    pub fn bind(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        Mount::new(destination, MountKind::Bind { source: source.into(), recursive: true })
    }

    /// Returns a read-only bind mount, like [`bind`](Self::bind).
    ///
    /// ```
    /// use nspod_sandbox::{Command, spec::{Mount, Root}};
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let mut command = Command::new("ls");
    /// command.root(Root::Empty).arg("/usr/bin");
    /// for dir in ["/usr", "/lib", "/lib64", "/bin"] {
    ///     # if !std::path::Path::new(dir).exists() { continue; }
    ///     command.mount(Mount::bind_ro(dir, dir));
    /// }
    /// # command.stdout(nspod_sandbox::Stdio::Null);
    /// assert!(command.status()?.status.success());
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    pub fn bind_ro(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        Mount { readonly: true, ..Mount::bind(source, destination) }
    }

    /// Returns a mount at a path in the container, with the usual flags of its kind: `nosuid`, `nodev` and `noexec` for kernel file
    /// systems, `nodev` for binds.
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
            limit: StorageLimit::default(),
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
