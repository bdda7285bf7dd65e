//! For each kind of namespace: a new one, the caller's own, or somebody's.

use std::path::PathBuf;

use ns_core::{IdMap, Kind, Kinds};
use serde::{Deserialize, Serialize};

use super::text;

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
    Path(#[serde(with = "text")] PathBuf),
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
