//! The namespaces of a container: a new one, the caller's, or another process's for each kind.

use std::path::PathBuf;

use ns_core::{IdMap, Kind, Kinds};
use serde::{Deserialize, Serialize};

use super::text;

/// Choice of the container's namespace of one kind. For a handle on an existing namespace, see
/// [`ns_core::Namespace`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// A new namespace.
    New,
    /// The caller's namespace.
    #[default]
    Host,
    /// An existing namespace.
    Join(Join),
}

/// The existing namespace that a container joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    /// The namespace of a process with this pid in the caller's pid namespace.
    Pid(i32),
    /// The namespace of a file on the host: a pin, or `/proc/PID/ns/KIND`.
    Path(#[serde(with = "text")] PathBuf),
    /// A namespace in [`Handles::namespaces`](crate::Handles::namespaces).
    Handle,
}

/// The namespaces of a container, one of each of the eight kinds
/// ([namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html)). Time namespaces exist since
/// Linux 5.6.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Namespaces {
    pub mnt: NamespaceMode,
    pub net: NamespaceMode,
    pub pid: NamespaceMode,
    pub user: NamespaceMode,
    pub uts: NamespaceMode,
    pub ipc: NamespaceMode,
    pub cgroup: NamespaceMode,
    pub time: NamespaceMode,
}

impl Namespaces {
    /// Returns new namespaces of the given kinds, and the caller's namespaces of all other kinds.
    pub fn new(kinds: Kinds) -> Self {
        let mut all = Namespaces::default();
        for kind in kinds.kinds() {
            *all.get_mut(kind) = NamespaceMode::New;
        }
        all
    }

    /// Returns the choice for a kind.
    pub fn get(&self, kind: Kind) -> &NamespaceMode {
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

    /// Returns a mutable reference to the choice for a kind.
    pub fn get_mut(&mut self, kind: Kind) -> &mut NamespaceMode {
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

    /// Returns the kinds with a new namespace.
    pub fn new_kinds(&self) -> Kinds {
        Kind::ALL.into_iter().filter(|k| self.is_new(*k)).collect()
    }

    /// Returns the kinds whose namespace is joined.
    pub fn joined_kinds(&self) -> Kinds {
        Kind::ALL.into_iter().filter(|k| matches!(self.get(*k), NamespaceMode::Join(_))).collect()
    }

    /// Returns whether the namespace of a kind is new.
    pub fn is_new(&self, kind: Kind) -> bool {
        *self.get(kind) == NamespaceMode::New
    }
}

/// The id maps of a new user namespace
/// ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdMaps {
    /// For root: 65,536 ids from root's ranges in `/etc/subuid` and `/etc/subgid`. Without such
    /// ranges: the last block that systemd reserves for containers (0x6FFF0000; see UIDS-GIDS in
    /// its documentation).
    ///
    /// For other users: the caller as id 0, followed by the ranges of `/etc/subuid` and
    /// `/etc/subgid`. Without ranges, or without newuidmap and newgidmap, the same as
    /// [`IdMaps::Single`].
    #[default]
    Auto,
    /// Only the caller's uid and gid, as uid 0 and gid 0.
    Single,
    /// These maps.
    Maps {
        /// Content of `uid_map`.
        uid: IdMap,
        /// Content of `gid_map`.
        gid: IdMap,
    },
    /// These maps, of ids that no other container has. Requires CAP_SYS_ADMIN, CAP_SETUID and
    /// CAP_SETPCAP outside.
    ///
    /// The user that the map gives to uid 0 (otherwise, to its first id) owns the namespace. The
    /// kernel charges objects that it counts per user also to the owner of the user namespace, so
    /// the container does not share these limits with containers and users outside. A
    /// [`Root::Dir`](super::Root::Dir) shows its files with their ids on the disk: the mount of the
    /// root has the same maps (Linux 5.12 and a file system that can map ids). If the user namespace is
    /// joined, these are its maps, for the root.
    Own {
        /// Content of `uid_map`.
        uid: IdMap,
        /// Content of `gid_map`.
        gid: IdMap,
    },
}
