//! What is wanted: plain data, without a handle in it.
//!
//! A [`Spec`] can be written down as JSON, compared, kept and read again. It becomes a
//! plan by [`Plan::new`](crate::Plan::new).

mod files;
mod hooks;
mod namespaces;
mod process;
mod text;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use cgroup_core::Limits;
use ns_core::{Kind, Kinds, TimeOffsets};
use serde::{Deserialize, Serialize};

pub use files::{
    Attributes, DEVICES, LINKS, Link, Mount, MountIdMaps, MountKind, Node, NodeKind, Propagation,
    PropagationKind, Root, Writes,
};
pub use hooks::{Hook, Hooks};
pub use namespaces::{IdMaps, Join, Namespace, Namespaces};
pub(crate) use process::rlimit_name;
pub use process::{
    Capabilities, IoPriority, MemoryPolicy, Process, Rlimit, Scheduler, Seccomp, StreamOwner, Terminal, User,
};

/// Everything about one container.
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
    /// The program and what it is given.
    pub process: Process,
    /// For each kind of namespace: a new one, the caller's own, or somebody's.
    pub namespaces: Namespaces,
    /// Ids of a new user namespace.
    pub id_maps: IdMaps,
    /// Clock offsets of a new time namespace.
    pub time_offsets: Option<TimeOffsets>,
    /// What the container sees as `/`.
    pub root: Root,
    /// Open no device node that the root itself holds.
    pub root_nodev: bool,
    /// Leave the host's sockets and named pipes usable through [`Root::HostReadOnly`].
    pub root_sockets: bool,
    /// Enter the root by chroot(2) and not by pivot_root(2), which refuses where the host's root is
    /// its first, in-memory one (an initramfs). What the root covers stays in the mount namespace: a
    /// program with CAP_SYS_ADMIN there may uncover it.
    #[serde(default)]
    pub no_pivot: bool,
    /// Mount the root and all that is in it in a mount namespace that is not new, on the root's own
    /// path: everything in that namespace sees the mounts, and they stay after the container. The
    /// root is entered by chroot(2).
    #[serde(default)]
    pub mounts_stay: bool,
    /// Mounts within the root, in order.
    pub mounts: Vec<Mount>,
    /// Device nodes and pipes within the root, made after the mounts.
    pub nodes: Vec<Node>,
    /// Symbolic links within the root, made after the mounts.
    pub links: Vec<Link>,
    /// How mounts pass between the new mnt namespace and the caller's: none at all where
    /// it is not said. A mount of the container can pass something on only if this does.
    pub propagation: Option<Propagation>,
    /// Paths that are hidden; one that does not exist is passed over.
    #[serde(with = "text")]
    pub masked_paths: Vec<PathBuf>,
    /// Paths that are made read-only; one that does not exist is passed over.
    #[serde(with = "text")]
    pub readonly_paths: Vec<PathBuf>,
    /// Host name, for a new uts namespace (at most 64 bytes).
    pub hostname: Option<String>,
    /// NIS domain name, for a new uts namespace (at most 64 bytes).
    pub domainname: Option<String>,
    /// Kernel parameters, `net.ipv4.ip_forward`, of the new net, ipc, uts or user namespace. The
    /// host name is not among them: see [`hostname`](Self::hostname).
    pub sysctls: BTreeMap<String, String>,
    /// Bring up `lo` in a new net namespace.
    pub loopback: bool,
    /// Run a small init as pid 1, which forwards signals and reaps orphans.
    pub init: bool,
    /// Resource limits of the container's cgroup.
    pub limits: Limits,
    /// Which devices may be used, by rules of which the last that is about one wins; `None`
    /// sets no filter. [`cgroup_core::device::DEFAULT`] is what containers have by custom.
    pub devices: Option<Vec<cgroup_core::device::Rule>>,
    /// Programs that are run in the container on its way to its own.
    pub hooks: Hooks,
}

impl Default for Spec {
    /// No program yet, and nothing isolated.
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
            init: false,
            limits: Limits::default(),
            devices: None,
            hooks: Hooks::default(),
        }
    }
}

/// What containers hide of `/proc` and `/sys`: what tells about the host or reaches it.
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

/// What containers may read and not write.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `PATH` where the caller gives none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Spec {
    /// Whether the root is the host's without its sockets and named pipes.
    pub(crate) fn hides_sockets(&self) -> bool {
        self.root == Root::HostReadOnly && !self.root_sockets
    }

    /// A program with nothing isolated: the ground to build on.
    pub fn bare(program: impl AsRef<OsStr>) -> Self {
        Spec {
            process: Process { args: vec![program.as_ref().into()], ..Process::default() },
            ..Spec::default()
        }
    }

    /// A program in a container as one expects it: new namespaces of the five classic
    /// kinds and cgroup; the host's files read-only with `/proc`, `/sys`, `/dev`, `/tmp`
    /// and `/run` of its own; the customary capabilities, no new privileges, the
    /// standard system-call filter; `lo` up. A user other than root owns the standard streams
    /// that it writes to ([`StreamOwner::Needed`]).
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut spec = Spec::bare(program);
        spec.namespaces = Namespaces::new(Kinds::FIVE | Kinds::from(Kind::Cgroup));
        spec.root = Root::HostReadOnly;
        let tmpfs = |mode| MountKind::Tmpfs { size: None, mode: Some(mode) };
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
