//! The specification of a container: plain data without handles.
//!
//! A [`Spec`] can be written as JSON, compared, stored and read again. [`Plan::new`](crate::Plan::new)
//! makes a plan from it.

mod files;
mod hooks;
mod namespaces;
mod process;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cgroup_core::Limits;
use ns_core::{Kind, Kinds, TimeOffsets};
use serde::{Deserialize, Serialize};

pub use files::{
    Attributes, DEVICES, LINKS, Link, Mount, MountIdMaps, MountKind, Node, NodeKind, Propagation,
    PropagationKind, Root, StorageLimit, Writes,
};
pub use hooks::{Hook, Hooks};
pub use namespaces::{IdMaps, Join, NamespaceMode, Namespaces};
pub(crate) use process::rlimit_name;
pub use process::{
    Capabilities, IoPriority, MemoryPolicy, Process, Rlimit, Scheduler, Seccomp, StreamOwner, Terminal, User,
};

/// The specification of one container.
///
/// ```
/// use nspod_sandbox::spec::Spec;
/// let spec = Spec::new("/bin/true");
/// let json = serde_json::to_string(&spec).unwrap();
/// assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// The program.
    pub process: Process,
    /// The namespace of each kind: new, the caller's, or an existing one.
    pub namespaces: Namespaces,
    /// Id maps of a new user namespace.
    pub id_maps: IdMaps,
    /// Clock offsets of a new time namespace.
    pub time_offsets: Option<TimeOffsets>,
    /// The root: the file system that the container sees as `/`.
    pub root: Root,
    /// Whether to mount the root with `nodev`, so that its device nodes cannot be opened.
    pub root_nodev: bool,
    /// Whether the host's sockets and named pipes stay usable in [`Root::HostReadOnly`].
    pub root_sockets: bool,
    /// Whether to enter the root by chroot(2) instead of pivot_root(2), which fails if the host's
    /// root is an initramfs. The mounts that the root covers stay in the mount namespace: a program
    /// with CAP_SYS_ADMIN there can uncover them.
    #[serde(default)]
    pub no_pivot: bool,
    /// Whether to mount the root and its mounts in an existing mount namespace, at the root's own
    /// path. All processes in that namespace see the mounts, and the mounts stay after the
    /// container has ended. The root is entered by chroot(2).
    #[serde(default)]
    pub mounts_stay: bool,
    /// Mounts within the root, in order.
    pub mounts: Vec<Mount>,
    /// Device nodes and pipes within the root, made after the mounts.
    pub nodes: Vec<Node>,
    /// Symbolic links within the root, made after the mounts.
    pub links: Vec<Link>,
    /// Propagation of mount events between the new mnt namespace and the caller's. By default no
    /// events are propagated. A mount of the container can propagate events only if this field
    /// allows it.
    pub propagation: Option<Propagation>,
    /// Paths in the container to hide. A path that does not exist is ignored.
    #[serde(with = "text")]
    pub masked_paths: Vec<PathBuf>,
    /// Paths in the container to make read-only. A path that does not exist is ignored.
    #[serde(with = "text")]
    pub readonly_paths: Vec<PathBuf>,
    /// Host name for a new or joined uts namespace, at most 64 bytes.
    pub hostname: Option<String>,
    /// NIS domain name for a new or joined uts namespace, at most 64 bytes.
    pub domainname: Option<String>,
    /// Kernel parameters (`net.ipv4.ip_forward`) of the new or joined net, ipc, uts or user
    /// namespace. The host name is a separate field, [`hostname`](Self::hostname).
    pub sysctls: BTreeMap<String, String>,
    /// Whether to bring up `lo` in a new net namespace.
    pub loopback: bool,
    /// Whether the embedded init is pid 1 and starts the program as its child. With `None`, the
    /// default, it is if the pid namespace is new, unless a child does not inherit the program's
    /// [scheduler](Process::scheduler). See [`Command::init`](crate::Command::init).
    pub init: Option<bool>,
    /// Resource limits of the container's cgroup.
    pub limits: Limits,
    /// Rules that allow or deny devices. The last rule that matches a device decides. `None` sets
    /// no filter. [`cgroup_core::device::DEFAULT`] has the usual rules of containers.
    pub devices: Option<Vec<cgroup_core::device::Rule>>,
    /// Programs that run in the container before its own program.
    pub hooks: Hooks,
}

impl Default for Spec {
    /// Returns a spec without a program and without isolation.
    fn default() -> Self {
        Spec {
            process: Process::default(),
            namespaces: Namespaces::default(),
            id_maps: IdMaps::Auto,
            time_offsets: None,
            root: Root::Host,
            root_nodev: true,
            root_sockets: false,
            no_pivot: false,
            mounts_stay: false,
            mounts: Vec::new(),
            nodes: Vec::new(),
            links: Vec::new(),
            propagation: None,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            hostname: None,
            domainname: None,
            sysctls: BTreeMap::new(),
            loopback: false,
            init: None,
            limits: Limits::default(),
            devices: None,
            hooks: Hooks::default(),
        }
    }
}

/// Paths of `/proc` and `/sys` that containers hide, because they describe or control the host.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths of `/proc` that are read-only in containers.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Default value of `PATH`.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Spec {
    /// Returns whether the embedded init is pid 1 of the container: see [`init`](Self::init).
    pub fn has_init(&self) -> bool {
        let inherited = self.process.scheduler.as_ref().is_none_or(Scheduler::is_inherited);
        self.init.unwrap_or_else(|| self.namespaces.is_new(Kind::Pid) && inherited)
    }

    /// Returns whether the root is the host's root without its sockets and named pipes.
    pub(crate) fn hides_sockets(&self) -> bool {
        self.root == Root::HostReadOnly && !self.root_sockets
    }

    /// Returns whether the root is an overlay of the host's root.
    pub(crate) fn overlays_host(&self) -> bool {
        matches!(&self.root, Root::Overlay { lower, .. } if *lower == [Path::new("/")])
    }

    /// Leaves the mount namespace as it is: the spec gets [`Root::Host`], and no mounts, masked paths
    /// or read-only paths. For a mount namespace that other processes use.
    pub fn keep_mounts(&mut self) {
        self.root = Root::Host;
        self.mounts.clear();
        self.masked_paths.clear();
        self.readonly_paths.clear();
    }

    /// Returns the spec of a program without isolation.
    pub fn bare(program: impl AsRef<OsStr>) -> Self {
        Spec {
            process: Process { args: vec![program.as_ref().into()], ..Process::default() },
            ..Spec::default()
        }
    }

    /// Returns the spec of a program in a usual container: new pid, net, mnt, ipc, uts and cgroup
    /// namespaces; the host's files, read-only, with new `/proc`, `/sys`, `/dev`, `/tmp` and
    /// `/run`; [`Capabilities::CONTAINER`], no new privileges, the standard system-call filter;
    /// `lo` up. If the user is not root, the user becomes the owner of the standard streams
    /// ([`StreamOwner::Needed`]).
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut spec = Spec::bare(program);
        spec.namespaces = Namespaces::new(Kinds::FIVE | Kinds::from(Kind::Cgroup));
        spec.root = Root::HostReadOnly;
        let tmpfs = |mode| MountKind::Tmpfs { mode: Some(mode) };
        spec.mounts = vec![
            Mount::new("/proc", MountKind::Proc),
            Mount::new("/dev", MountKind::Dev),
            Mount::new("/sys", MountKind::Sysfs),
            Mount::new("/sys/fs/cgroup", MountKind::Cgroup),
            Mount::new("/tmp", tmpfs(0o1777)),
            Mount::new("/run", tmpfs(0o755)),
        ];
        spec.masked_paths = MASKED_PATHS.iter().map(PathBuf::from).collect();
        spec.readonly_paths = READONLY_PATHS.iter().map(PathBuf::from).collect();
        spec.loopback = true;
        spec.process.env = vec![("PATH".into(), PATH.into())];
        spec.process.capabilities = Some(Capabilities::CONTAINER);
        spec.process.user = Some(User::default());
        spec.process.cwd = Some("/".into());
        spec.process.no_new_privs = true;
        spec.process.seccomp = Seccomp::Standard;
        spec.process.new_session = true;
        spec.process.streams = StreamOwner::Needed;
        spec
    }
}
