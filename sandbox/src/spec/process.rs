//! The program of a container: arguments, user, capabilities and limits.

use std::ffi::OsString;
use std::path::PathBuf;

use cgroup_core::CpuList;
use serde::{Deserialize, Serialize};

use super::text;
use crate::seccomp::Profile;

/// The program of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// Program and arguments. A name without a slash is searched for in the container's `PATH`.
    #[serde(with = "text")]
    pub args: Vec<OsString>,
    /// Environment. Variables of the caller are not added. If a name occurs several times, the last
    /// value applies.
    #[serde(with = "text")]
    pub env: Vec<(OsString, OsString)>,
    /// Working directory within the container. `None` means the caller's, or `/` if the root is
    /// new.
    #[serde(with = "text")]
    pub cwd: Option<PathBuf>,
    /// User to run as. `None` means the caller, or uid 0 of a new user namespace.
    pub user: Option<User>,
    /// File mode creation mask (umask(2)).
    pub umask: Option<u32>,
    /// Capability sets. `None` leaves them unchanged.
    pub capabilities: Option<Capabilities>,
    /// Whether to prevent execve(2) from granting privileges (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// Resource limits of setrlimit(2).
    pub rlimits: Vec<Rlimit>,
    /// `/proc/PID/oom_score_adj`: -1000 (never killed) to 1000 (killed first).
    pub oom_score_adj: Option<i32>,
    /// A new terminal as standard input, output and error.
    pub terminal: Option<Terminal>,
    /// Whether to deny the calls that change the project id and the flags of a file, so that the
    /// program cannot evade a [`StorageLimit`](crate::spec::StorageLimit) of a directory:
    /// `FS_IOC_FSSETXATTR`, `FS_IOC_SETFLAGS` and file_setattr(2) fail with `EPERM`. Such a limit
    /// in the same spec has this effect too. Outside of a new user namespace, CAP_SYS_ADMIN and
    /// CAP_SYS_RESOURCE are then refused.
    pub keep_projects: bool,
    /// Whether to deny new user namespaces to the program and all its children, also as root with all
    /// capabilities, and in the user namespaces that it has: clone(2) and unshare(2) with
    /// `CLONE_NEWUSER` fail with `EPERM`, and clone3(2) with `ENOSYS`, so that the C library calls
    /// clone(2). The rules precede those of [`seccomp`](Self::seccomp).
    pub no_user_namespaces: bool,
    /// Whether to start in a new session (setsid(2)).
    pub new_session: bool,
    /// Whether to make the working directory if it is missing.
    pub create_cwd: bool,
    /// Standard streams that [`user`](Self::user) becomes the owner of.
    pub streams: StreamOwner,
    /// Scheduling policy (sched_setattr(2)).
    pub scheduler: Option<Scheduler>,
    /// I/O class and level (ioprio_set(2)).
    pub io_priority: Option<IoPriority>,
    /// Processors that the program may run on (sched_setaffinity(2)).
    pub affinity: Option<CpuList>,
    /// AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// SELinux label.
    pub selinux_label: Option<String>,
    /// Execution domain (personality(2)).
    pub personality: Option<u32>,
    /// NUMA memory policy (set_mempolicy(2)).
    pub memory_policy: Option<MemoryPolicy>,
    /// Name of a new session keyring (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
    pub keyring: Option<String>,
}

/// Scheduling policy and parameters of
/// [sched_setattr(2)](https://man7.org/linux/man-pages/man2/sched_setattr.2.html).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_OTHER` 0, `SCHED_FIFO` 1, `SCHED_RR` 2, `SCHED_BATCH` 3, `SCHED_IDLE` 5,
    /// `SCHED_DEADLINE` 6.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value of the ordinary policies: -20 to 19.
    pub nice: i32,
    /// Priority of the real-time policies: 1 to 99.
    pub priority: u32,
    /// Runtime for `SCHED_DEADLINE` in nanoseconds, at least 1,024.
    pub runtime: u64,
    /// Deadline for `SCHED_DEADLINE` in nanoseconds, at least the runtime.
    pub deadline: u64,
    /// Period for `SCHED_DEADLINE` in nanoseconds, at least the deadline. 0 means the deadline.
    pub period: u64,
}

impl Scheduler {
    /// Returns whether a child of the process has the same policy.
    pub(crate) fn is_inherited(&self) -> bool {
        self.policy != libc::SCHED_DEADLINE as u32 && self.flags & libc::SCHED_FLAG_RESET_ON_FORK as u64 == 0
    }
}

/// I/O class and level of [ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT` 1, `IOPRIO_CLASS_BE` 2, `IOPRIO_CLASS_IDLE` 3.
    pub class: u8,
    /// Level from 0 (highest priority) to 7.
    pub level: u8,
}

/// NUMA memory policy of
/// [set_mempolicy(2)](https://man7.org/linux/man-pages/man2/set_mempolicy.2.html).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_*`, without flags.
    pub mode: u32,
    /// `MPOL_F_*`.
    #[serde(default)]
    pub flags: u32,
    /// NUMA nodes.
    pub nodes: CpuList,
}

/// User and groups, as ids in the container.
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

/// Standard streams that the program's user becomes the owner of.
///
/// If a program opens `/dev/stdout`, it opens the file of its standard output again. The kernel
/// then checks owner and mode of that file, and a pipe of root has mode 0600. Therefore fchown(2)
/// makes the user the owner; the group does not change. Devices keep their owner: other processes
/// use `/dev/null` and the caller's terminal too, and the container's own terminal already belongs
/// to the user. A stream keeps its owner if the container's user namespace cannot change it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamOwner {
    /// No stream.
    #[default]
    Caller,
    /// Pipes, sockets, and files that are open for writing. Root with `CAP_DAC_OVERRIDE` can open
    /// them anyway, and becomes the owner of none. A file that is open only for reading keeps its
    /// owner, because its owner could write to it.
    Needed,
    /// All streams, as in other OCI runtimes.
    User,
}

/// Size of a new terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Number of rows. 0 means the kernel's default.
    pub rows: u16,
    /// Number of columns.
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
            keep_projects: false,
            no_user_namespaces: false,
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

/// The five capability sets of
/// [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html). Bit n is capability n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// The bounding set: the limit of what execve(2) can grant.
    pub bounding: u64,
    /// The effective set, which the kernel checks.
    pub effective: u64,
    /// The permitted set: the capabilities that can become effective.
    pub permitted: u64,
    /// The inheritable set, which file capabilities can grant at execve(2).
    pub inheritable: u64,
    /// The ambient set, which execve(2) of an ordinary program keeps.
    pub ambient: u64,
}

impl Capabilities {
    /// The default set of container engines without `CAP_MKNOD`. A container can install packages
    /// and listen on low ports, but cannot reach the host's devices. If you add `CAP_MKNOD`, also
    /// set [`Spec::devices`](crate::spec::Spec::devices). The inheritable and ambient sets are
    /// empty.
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

    /// No capabilities.
    pub const NONE: Capabilities =
        Capabilities { bounding: 0, effective: 0, permitted: 0, inheritable: 0, ambient: 0 };

    /// Returns sets with the same bits in the bounding, effective and permitted set.
    pub fn of(set: u64) -> Self {
        Capabilities { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 }
    }

    /// Returns the bit of a capability: `CAP_SYS_ADMIN`, in upper or lower case, with or without
    /// `CAP_`.
    pub fn bit(name: &str) -> Option<u64> {
        let name = name.to_ascii_uppercase();
        let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
        let capability: caps::Capability = name.parse().ok()?;
        Some(1 << capability.index())
    }
}

/// A resource limit of [setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html). Its unit
/// depends on the resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Name of the resource: `RLIMIT_NOFILE` or `nofile`.
    pub name: String,
    /// Soft limit, which the kernel enforces. `u64::MAX` means unlimited.
    pub soft: u64,
    /// Hard limit: the maximum to which the process may raise the soft limit.
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
    /// Returns the number of the resource, or `None` for an unknown name.
    pub fn resource(&self) -> Option<u32> {
        let name = self.name.to_ascii_lowercase();
        let name = name.strip_prefix("rlimit_").unwrap_or(&name);
        RLIMITS.iter().position(|n| *n == name).map(|i| i as u32)
    }
}

pub(crate) fn rlimit_name(resource: u32) -> &'static str {
    RLIMITS.get(resource as usize).copied().unwrap_or("?")
}

/// The system-call filter ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// No filter.
    #[default]
    Unconfined,
    /// The library's filter, [`Profile::standard`].
    Standard,
    /// This profile.
    Profile(Box<Profile>),
}
