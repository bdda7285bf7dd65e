//! What is wanted: plain data, without a handle in it.
//!
//! A [`Spec`] can be written down as JSON, compared, kept and read again. It becomes a
//! plan by [`Plan::new`](crate::Plan::new).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use cgroup_core::Limits;
use ns_core::{IdMap, Kind, Kinds, TimeOffsets};
use serde::{Deserialize, Serialize};

use crate::seccomp::Profile;

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
    /// Mounts within the root, in order.
    pub mounts: Vec<Mount>,
    /// Paths that are hidden; one that does not exist is passed over.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that are made read-only; one that does not exist is passed over.
    pub readonly_paths: Vec<PathBuf>,
    /// Host name, for a new uts namespace (at most 64 bytes).
    pub hostname: Option<String>,
    /// NIS domain name, for a new uts namespace (at most 64 bytes).
    pub domainname: Option<String>,
    /// Kernel parameters, `net.ipv4.ip_forward`, of the new net, ipc or uts namespace.
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
}

/// The program and what it is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// Program and arguments. A program without a slash is looked up in the container's
    /// `PATH`.
    #[serde(with = "os_strings")]
    pub args: Vec<OsString>,
    /// Environment: nothing else is handed on.
    #[serde(with = "os_pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// Working directory within the container; `None` stays where the caller is, or at
    /// `/` of a new root.
    pub cwd: Option<PathBuf>,
    /// Whom to run as; `None` stays who the caller is, or uid 0 of a new user namespace.
    pub user: Option<User>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Capability sets; `None` leaves what the kernel gives.
    pub capabilities: Option<Capabilities>,
    /// No execve(2) grants privileges.
    pub no_new_privs: bool,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// Resource limits of setrlimit(2).
    pub rlimits: Vec<Rlimit>,
    /// -1000 (never) to 1000 (first).
    pub oom_score_adj: Option<i32>,
    /// A terminal of its own as standard input, output and error.
    pub terminal: Option<Terminal>,
    /// A session of its own.
    pub new_session: bool,
}

/// Ids within the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Size of a new terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Rows; 0 leaves the kernel's default.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// One kind's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// A new one.
    New,
    /// The caller's own.
    #[default]
    Host,
    /// Somebody's.
    Join(Join),
}

/// Whose namespace is joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    /// That of a process, by its pid as the caller sees it.
    Pid(i32),
    /// One that is pinned at a path, or a `/proc/PID/ns/KIND` file.
    Path(PathBuf),
    /// One that the caller of the library hands over as a descriptor.
    Handle,
}

/// A choice for each of the eight kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Namespaces {
    pub mnt: Namespace,
    pub net: Namespace,
    pub pid: Namespace,
    pub user: Namespace,
    pub uts: Namespace,
    pub ipc: Namespace,
    pub cgroup: Namespace,
    pub time: Namespace,
}

impl Namespaces {
    /// New ones of the given kinds, the caller's own of the others.
    pub fn new(kinds: Kinds) -> Self {
        let mut all = Namespaces::default();
        for kind in kinds.kinds() {
            *all.get_mut(kind) = Namespace::New;
        }
        all
    }

    /// The choice for a kind.
    pub fn get(&self, kind: Kind) -> &Namespace {
        match kind {
            Kind::Mnt => &self.mnt,
            Kind::Net => &self.net,
            Kind::Pid => &self.pid,
            Kind::User => &self.user,
            Kind::Uts => &self.uts,
            Kind::Ipc => &self.ipc,
            Kind::Cgroup => &self.cgroup,
            Kind::Time => &self.time,
        }
    }

    /// The choice for a kind, to change.
    pub fn get_mut(&mut self, kind: Kind) -> &mut Namespace {
        match kind {
            Kind::Mnt => &mut self.mnt,
            Kind::Net => &mut self.net,
            Kind::Pid => &mut self.pid,
            Kind::User => &mut self.user,
            Kind::Uts => &mut self.uts,
            Kind::Ipc => &mut self.ipc,
            Kind::Cgroup => &mut self.cgroup,
            Kind::Time => &mut self.time,
        }
    }

    /// The kinds of which a new namespace is wanted.
    pub fn new_kinds(&self) -> Kinds {
        Kind::ALL.into_iter().filter(|k| self.is_new(*k)).collect()
    }

    /// The kinds of which a namespace is joined.
    pub fn joined_kinds(&self) -> Kinds {
        Kind::ALL.into_iter().filter(|k| matches!(self.get(*k), Namespace::Join(_))).collect()
    }

    /// Whether a new namespace of the kind is wanted.
    pub fn is_new(&self, kind: Kind) -> bool {
        *self.get(kind) == Namespace::New
    }
}

/// How the ids of a new user namespace map to the caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdMaps {
    /// As root: 65,536 ids, from root's lines in `/etc/subuid` and `/etc/subgid` or else
    /// the last block that systemd's UIDS-GIDS sets aside for containers (0x6FFF0000).
    /// As an ordinary user: the caller as 0 and the ranges of `/etc/subuid` and
    /// `/etc/subgid` above it, where there are some and newuidmap is there to write
    /// them; else [`IdMaps::Single`].
    #[default]
    Auto,
    /// The caller's uid and gid alone, as uid 0 and gid 0.
    Single,
    /// These.
    Maps {
        /// For `uid_map`.
        uid: IdMap,
        /// For `gid_map`.
        gid: IdMap,
    },
}

/// What the container sees as `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The mount namespace's own root, left as it is.
    #[default]
    Host,
    /// The caller's `/`, read-only with all that is mounted below it.
    HostReadOnly,
    /// A directory.
    Dir {
        /// The directory on the host.
        path: PathBuf,
        /// Let nothing be written to it.
        readonly: bool,
    },
    /// Directories that stay as they are, and a place for what is written.
    Overlay {
        /// The layers, uppermost first.
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
        upper: PathBuf,
        /// An empty directory that overlayfs needs beside it.
        work: PathBuf,
    },
}

/// A mount within the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, within the container. A missing directory (for a bind of a file: a missing
    /// file) is made where the root can be written.
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
    /// on kernel file systems, none on binds.
    pub fn new(destination: impl Into<PathBuf>, kind: MountKind) -> Self {
        let tmpfs = matches!(kind, MountKind::Tmpfs { .. });
        let strict = !tmpfs && !matches!(kind, MountKind::Bind { .. } | MountKind::Dev);
        let readonly = matches!(kind, MountKind::Sysfs | MountKind::Cgroup);
        Mount {
            destination: destination.into(),
            kind,
            readonly,
            nosuid: strict || tmpfs,
            nodev: strict || tmpfs,
            noexec: strict,
        }
    }
}

/// The five capability sets of capabilities(7), bit n being capability n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What no execve(2) can gain beyond.
    pub bounding: u64,
    /// What the kernel checks.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What file capabilities may add across execve(2).
    pub inheritable: u64,
    /// What survives execve(2) of an ordinary program.
    pub ambient: u64,
}

impl Capabilities {
    /// What containers have by custom: enough to install packages and serve low ports,
    /// nothing that reaches the host. Empty inheritable and ambient sets.
    pub const CONTAINER: Capabilities = {
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
        // NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP
        let set = 1 << 0
            | 1 << 1
            | 1 << 3
            | 1 << 4
            | 1 << 5
            | 1 << 6
            | 1 << 7
            | 1 << 8
            | 1 << 10
            | 1 << 13
            | 1 << 18
            | 1 << 27
            | 1 << 29
            | 1 << 31;
        Capabilities { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 }
    };

    /// None at all.
    pub const NONE: Capabilities =
        Capabilities { bounding: 0, effective: 0, permitted: 0, inheritable: 0, ambient: 0 };

    /// The same bits in the bounding, effective and permitted sets.
    pub fn of(set: u64) -> Self {
        Capabilities { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 }
    }

    /// The bit of a capability: `CAP_SYS_ADMIN`, in any case, with or without `CAP_`.
    pub fn bit(name: &str) -> Option<u64> {
        let name = name.to_ascii_uppercase();
        let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
        let capability: caps::Capability = name.parse().ok()?;
        Some(1 << capability.index())
    }
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` or `nofile`.
    pub name: String,
    /// What the kernel enforces; `u64::MAX` is no limit.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

const RLIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

impl Rlimit {
    /// The number of the resource.
    pub fn resource(&self) -> Option<u32> {
        let name = self.name.to_ascii_lowercase();
        let name = name.strip_prefix("rlimit_").unwrap_or(&name);
        RLIMITS.iter().position(|n| *n == name).map(|i| i as u32)
    }
}

pub(crate) fn rlimit_name(resource: u32) -> &'static str {
    RLIMITS.get(resource as usize).copied().unwrap_or("?")
}

/// The system-call filter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// The library's own, [`Profile::standard`].
    Standard,
    /// The caller's.
    Profile(Box<Profile>),
}

impl Default for Process {
    fn default() -> Self {
        Process {
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            user: None,
            umask: None,
            capabilities: None,
            no_new_privs: false,
            seccomp: Seccomp::Unconfined,
            rlimits: Vec::new(),
            oom_score_adj: None,
            terminal: None,
            new_session: false,
        }
    }
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
            mounts: Vec::new(),
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            hostname: None,
            domainname: None,
            sysctls: BTreeMap::new(),
            loopback: false,
            init: false,
            limits: Limits::default(),
            devices: None,
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
    /// standard system-call filter; `lo` up.
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
        spec
    }
}

/// Strings of the operating system in JSON: text where they are UTF-8, else bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Os {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&OsString> for Os {
    fn from(s: &OsString) -> Os {
        use std::os::unix::ffi::OsStrExt;
        match s.to_str() {
            Some(text) => Os::Text(text.into()),
            None => Os::Bytes(s.as_bytes().into()),
        }
    }
}

impl From<Os> for OsString {
    fn from(os: Os) -> OsString {
        use std::os::unix::ffi::OsStringExt;
        match os {
            Os::Text(text) => text.into(),
            Os::Bytes(bytes) => OsString::from_vec(bytes),
        }
    }
}

mod os_strings {
    use super::{Deserialize, Os, OsString, Serialize};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(all: &[OsString], s: S) -> Result<S::Ok, S::Error> {
        all.iter().map(Os::from).collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<OsString>, D::Error> {
        Ok(Vec::<Os>::deserialize(d)?.into_iter().map(OsString::from).collect())
    }
}

mod os_pairs {
    use super::{Deserialize, Os, OsString, Serialize};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(all: &[(OsString, OsString)], s: S) -> Result<S::Ok, S::Error> {
        all.iter().map(|(k, v)| (Os::from(k), Os::from(v))).collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let pairs = Vec::<(Os, Os)>::deserialize(d)?;
        Ok(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}
