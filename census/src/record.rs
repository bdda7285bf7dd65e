//! Records of a census: processes, namespaces, and the objects that keep namespaces alive.

use std::path::PathBuf;

use ns_core::{Kind, NamespaceId, NamespaceSet};
use serde::Serialize;

/// Process, which is in exactly one namespace of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessInfo {
    /// Pid in the pid namespace of the `/proc` that was read.
    pub pid: i32,
    /// Pid of the parent, 0 if the parent is outside that pid namespace.
    pub parent: i32,
    /// Effective uid, as the caller's user namespace maps it.
    pub uid: u32,
    /// Command name (`comm`), at most 15 bytes except for kernel threads.
    pub name: String,
    /// Pids from `pid` to the pid in the process's own pid namespace.
    pub inside: Vec<i32>,
    /// Cgroup (v2) as the caller's cgroup namespace shows it; `None` without a v2 hierarchy.
    pub cgroup: Option<String>,
    /// Namespaces. A kind that the kernel lacks has the id [`NamespaceId::NONE`].
    pub namespaces: NamespaceSet,
    /// Whether the process is a kernel thread: `kthreadd`, or a child of it without memory of its own. `false`
    /// in a procfs that is not of the initial pid namespace.
    pub kernel: bool,
}

/// Thread that is in other namespaces than its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Pid of the process.
    pub pid: i32,
    /// Id of the thread.
    pub tid: i32,
    /// Namespaces of the thread.
    pub namespaces: NamespaceSet,
}

/// Process that has ended and is not yet reaped. It is still in its pid and user namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zombie {
    /// Pid.
    pub pid: i32,
    /// Pid of the parent, which has not yet waited for the process.
    pub parent: i32,
    /// Command name.
    pub name: String,
    /// Pid namespace; `None` if the caller may not read it.
    pub pid_ns: Option<NamespaceId>,
    /// User namespace; `None` if the caller may not read it.
    pub user_ns: Option<NamespaceId>,
}

/// Process whose namespaces the caller may not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Pid.
    pub pid: i32,
    /// Owner of `/proc/PID`: the effective uid of the process, or root if it is not dumpable.
    pub uid: u32,
    /// Command name; empty if the mount option `hidepid` hides it.
    pub name: String,
}

/// Namespace, and the processes and objects that keep it alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespaceInfo {
    /// Kind.
    pub kind: Kind,
    /// Identity.
    pub id: NamespaceId,
    /// Pids of the processes in the namespace, ascending. `lsns` shows the first.
    pub processes: Vec<i32>,
    /// Other objects that keep the namespace alive.
    pub holders: Vec<Holder>,
    /// User namespace that owns this one. `None` without [`Options::owners`](crate::Options::owners),
    /// or if the owner is outside the caller's user namespace.
    pub owner: Option<NamespaceId>,
    /// Parent of a pid or user namespace. `None` as for `owner`.
    pub parent: Option<NamespaceId>,
    /// Uid of the creator of a user namespace, as the caller's user namespace maps it. `None` as for
    /// `owner`.
    pub creator_uid: Option<u32>,
}

/// Object that keeps a namespace alive, other than a process in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Holder {
    /// Thread of a process that is in another namespace; with
    /// [`Options::threads`](crate::Options::threads).
    Thread {
        /// Pid of the process.
        pid: i32,
        /// Id of the thread.
        tid: i32,
    },
    /// Process that is not yet reaped (pid and user namespaces).
    Zombie {
        /// Pid of the process.
        pid: i32,
    },
    /// Open descriptor; with [`Options::fds`](crate::Options::fds).
    Fd {
        /// Pid of the process that has the descriptor.
        pid: i32,
        /// Number of the descriptor.
        fd: i32,
    },
    /// Bind mount, such as `ip netns add` makes; with [`Options::mounts`](crate::Options::mounts).
    Mount {
        /// Mount point, as the processes of the mount namespace see it.
        path: PathBuf,
        /// Mount namespace that contains the mount.
        mnt_ns: NamespaceId,
    },
    /// Namespace whose parent or owner is this one, if no process is in this one; with
    /// [`Options::owners`](crate::Options::owners).
    Namespace {
        /// Kind of the other namespace.
        kind: Kind,
        /// Identity of the other namespace.
        id: NamespaceId,
    },
}

/// Process whose namespaces count as the host's: the first of these that the caller may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostFrom {
    /// Pid 1 of the `/proc` that was read.
    Init,
    /// Pid 2, `kthreadd`, which is in the initial namespaces.
    Kthreadd,
    /// The caller itself, if it is not root.
    Caller,
}
