//! The records of a census: processes, namespaces, and what holds these.

use std::path::PathBuf;

use ns_core::{Kind, NamespaceId, NamespaceSet};
use serde::Serialize;

/// A process: in exactly one namespace of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its pid, as the `/proc` that was read numbers it.
    pub pid: i32,
    /// Pid of its parent, 0 if the parent is outside that pid namespace.
    pub parent: i32,
    /// Its effective uid, in the reader's user namespace.
    pub uid: u32,
    /// Its command name (`comm`).
    pub name: String,
    /// Its pids from `pid` inwards: one for each pid namespace down to its own.
    pub inside: Vec<i32>,
    /// Its cgroup (v2), seen from the reader's cgroup namespace; `None` without a v2 hierarchy.
    pub cgroup: Option<String>,
    /// Its namespaces. Of a kind that this kernel lacks there is only one: inode 0.
    pub namespaces: NamespaceSet,
}

/// A thread that is not in all of the namespaces of its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Pid of its process.
    pub pid: i32,
    /// Its own id.
    pub tid: i32,
    /// Its namespaces.
    pub namespaces: NamespaceSet,
}

/// A process that has ended and is not yet waited for: it has left all namespaces but two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zombie {
    /// Its pid.
    pub pid: i32,
    /// Pid of its parent, who owes it a wait.
    pub parent: i32,
    /// Its command name.
    pub name: String,
    /// Its pid namespace, where the reader may see it.
    pub pid_ns: Option<NamespaceId>,
    /// Its user namespace, where the reader may see it.
    pub user_ns: Option<NamespaceId>,
}

/// A process whose namespaces the reader may not see; nothing is guessed about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its pid.
    pub pid: i32,
    /// Owner of `/proc/PID`: its effective uid, or root if it is not dumpable.
    pub uid: u32,
    /// Its command name; empty where `hidepid` hides it.
    pub name: String,
}

/// A namespace and all that is known to keep it alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Its kind.
    pub kind: Kind,
    /// Its identity.
    pub id: NamespaceId,
    /// The pids of the processes in it, ascending; the first is the one that `lsns` shows.
    pub processes: Vec<i32>,
    /// What else holds it.
    pub holders: Vec<Holder>,
    /// The user namespace that owns it; with [`Options::owners`], and unless it is out of the
    /// reader's sight.
    pub owner: Option<NamespaceId>,
    /// Of a pid or user namespace, the one above; as `owner`.
    pub parent: Option<NamespaceId>,
    /// Of a user namespace, the uid of who made it, in the reader's user namespace; as `owner`.
    pub creator_uid: Option<u32>,
}

/// What keeps a namespace alive beside the processes in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Holder {
    /// A single thread of a process that is in another; with [`Options::threads`].
    Thread {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// A process that is not yet waited for (pid and user namespaces).
    Zombie {
        /// The process.
        pid: i32,
    },
    /// An open descriptor; with [`Options::fds`].
    Fd {
        /// The process that has it.
        pid: i32,
        /// Its number there.
        fd: i32,
    },
    /// A bind mount, such as `ip netns` makes; with [`Options::mounts`].
    Mount {
        /// Where, as the processes of that mount namespace see it.
        path: PathBuf,
        /// The mount namespace that it is mounted in.
        mnt_ns: NamespaceId,
    },
    /// A namespace that this one is the parent or owner of, where no process is in this one;
    /// with [`Options::owners`].
    Namespace {
        /// Kind of the other.
        kind: Kind,
        /// The other.
        id: NamespaceId,
    },
}

/// Whose namespaces count as the host's: the first of these that the reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostFrom {
    /// Those of pid 1 of that `/proc`.
    Init,
    /// Those of the kernel's own pid 2, which are the initial ones.
    Kthreadd,
    /// The caller's own, as happens to an ordinary user.
    Caller,
}
