//! The program, who runs it, and what it may do.

use std::ffi::OsString;
use std::path::PathBuf;

use cgroup_core::CpuList;
use serde::{Deserialize, Serialize};

use super::text;
use crate::seccomp::Profile;

/// The program and what it is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// Program and arguments. A program without a slash is looked up in the container's
    /// `PATH`.
    #[serde(with = "text")]
    pub args: Vec<OsString>,
    /// Environment: nothing else is handed on. The last variable of a name counts.
    #[serde(with = "text")]
    pub env: Vec<(OsString, OsString)>,
    /// Working directory within the container; `None` stays where the caller is, or at
    /// `/` of a new root.
    #[serde(with = "text")]
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
    /// Make the working directory where it is missing.
    pub create_cwd: bool,
    /// Which standard streams belong to [`user`](Self::user).
    pub streams: StreamOwner,
    /// Scheduling policy, of sched_setattr(2).
    pub scheduler: Option<Scheduler>,
    /// Class and level of ioprio_set(2).
    pub io_priority: Option<IoPriority>,
    /// Processors that it may run on, of sched_setaffinity(2).
    pub affinity: Option<CpuList>,
    /// AppArmor's profile for it.
    pub apparmor_profile: Option<String>,
    /// SELinux's label for it.
    pub selinux_label: Option<String>,
    /// The execution domain, of personality(2).
    pub personality: Option<u32>,
    /// Where its memory lies, of set_mempolicy(2).
    pub memory_policy: Option<MemoryPolicy>,
    /// A session keyring of its own, of this name (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
    pub keyring: Option<String>,
}

/// A scheduling policy, as sched_setattr(2) takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_OTHER` 0, `SCHED_FIFO` 1, `SCHED_RR` 2, `SCHED_BATCH` 3, `SCHED_IDLE` 5,
    /// `SCHED_DEADLINE` 6.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Of the ordinary policies: -20 to 19.
    pub nice: i32,
    /// Of the real-time policies: 1 to 99.
    pub priority: u32,
    /// Of `SCHED_DEADLINE`, in nanoseconds.
    pub runtime: u64,
    /// Of `SCHED_DEADLINE`, in nanoseconds.
    pub deadline: u64,
    /// Of `SCHED_DEADLINE`, in nanoseconds.
    pub period: u64,
}

/// Class and level of ioprio_set(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT` 1, `IOPRIO_CLASS_BE` 2, `IOPRIO_CLASS_IDLE` 3.
    pub class: u8,
    /// 0 (first) to 7.
    pub level: u8,
}

/// Where memory lies on a machine of several nodes, as set_mempolicy(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_*`, with `MPOL_F_*`.
    pub mode: u32,
    /// The nodes.
    pub nodes: CpuList,
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

/// Which standard streams belong to the program's user.
///
/// A program that opens `/dev/stdout` opens the file behind its standard output once more, and
/// the kernel checks the owner and the mode of that file: a pipe of root's has mode 0600. So the
/// streams are given to the user by fchown(2), with their group unchanged. Devices keep their
/// owner: `/dev/null` and a terminal of the caller's belong to others as well, and a terminal of
/// the container's own belongs to its user anyway. A stream whose owner the container's user
/// namespace cannot change keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamOwner {
    /// None: they stay the caller's.
    #[default]
    Caller,
    /// Pipes, sockets, and files that are open for writing, unless the user is root with
    /// `CAP_DAC_OVERRIDE`, who opens them anyway. A file that is open only for reading stays the
    /// caller's, because its owner could write to it.
    Needed,
    /// All, as other OCI runtimes do.
    User,
}

/// Size of a new terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Rows; 0 leaves the kernel's default.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
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
            create_cwd: false,
            streams: StreamOwner::Caller,
            scheduler: None,
            io_priority: None,
            affinity: None,
            apparmor_profile: None,
            selinux_label: None,
            personality: None,
            memory_policy: None,
            keyring: None,
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
    /// What containers have by custom, but for `CAP_MKNOD`: enough to install packages and
    /// serve low ports, nothing that reaches the host's devices. Whoever adds `CAP_MKNOD`
    /// should set [`Spec::devices`](crate::spec::Spec::devices) as well. Empty inheritable and
    /// ambient sets.
    pub const CONTAINER: Capabilities = {
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
        // NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, AUDIT_WRITE, SETFCAP
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
