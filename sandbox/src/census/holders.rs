//! What keeps a namespace alive beside the processes in it: descriptors, bind mounts, and
//! the namespaces below it or owned by it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::AsFd;

use ns_core::{Kind, NamespaceId, NamespaceSet};

use super::scan::{Found, Root, numbers};
use super::{Holder, Namespace, Process, read, sys};

/// Namespaces by kind and identity.
pub(super) type Index = BTreeMap<(Kind, NamespaceId), Namespace>;

fn entry(index: &mut Index, kind: Kind, id: NamespaceId) -> &mut Namespace {
    index.entry((kind, id)).or_insert_with(|| Namespace {
        kind,
        id,
        processes: Vec::new(),
        holders: Vec::new(),
        owner: None,
        parent: None,
        creator_uid: None,
    })
}

/// The namespaces that processes, threads and zombies are in.
pub(super) fn inhabited(root: &Root, found: &Found) -> Index {
    let mut index = Index::new();
    let kinds = || Kind::ALL.into_iter().filter(|kind| !root.absent.contains_kind(*kind));
    let mut sets: HashMap<NamespaceSet, Vec<i32>> = HashMap::new();
    for process in &found.processes {
        sets.entry(process.namespaces).or_default().push(process.pid);
    }
    for (set, pids) in &sets {
        for kind in kinds() {
            entry(&mut index, kind, set[kind]).processes.extend(pids);
        }
    }
    for namespace in index.values_mut() {
        namespace.processes.sort_unstable();
    }
    for thread in &found.threads {
        for kind in kinds() {
            let holders = &mut entry(&mut index, kind, thread.namespaces[kind]).holders;
            holders.push(Holder::Thread { pid: thread.pid, tid: thread.tid });
        }
    }
    for zombie in &found.zombies {
        for (kind, id) in [(Kind::Pid, zombie.pid_ns), (Kind::User, zombie.user_ns)] {
            if let Some(id) = id {
                entry(&mut index, kind, id).holders.push(Holder::Zombie { pid: zombie.pid });
            }
        }
    }
    index
}

/// Adds what is held open: `/proc/PID/fd` of every process that lets it be read.
pub(super) fn add_fds(index: &mut Index, root: &Root, processes: &[Process]) {
    let mut buf = [0; 40];
    for process in processes {
        let path = root.path.join(format!("{}/fd", process.pid));
        let (Ok(fds), Ok(dir)) = (numbers(&path), fs::File::open(&path)) else { continue };
        for fd in fds {
            let Ok(name) = std::ffi::CString::new(fd.to_string()) else { continue };
            let Ok(text) = sys::readlinkat(dir.as_fd(), &name, &mut buf) else { continue };
            if let Some((kind, ino)) = read::link(text) {
                let id = NamespaceId { dev: root.dev, ino };
                entry(index, kind, id).holders.push(Holder::Fd { pid: process.pid, fd });
            }
        }
    }
}

/// Adds what is bind-mounted: `mountinfo` of one process of each mount namespace.
pub(super) fn add_mounts(index: &mut Index, root: &Root) {
    let mounts: Vec<_> = index
        .values()
        .filter(|namespace| namespace.kind == Kind::Mnt)
        .filter_map(|namespace| {
            // The first may be gone by now; they all see the same mounts, but for a chroot.
            let file = |pid: &i32| fs::read(root.path.join(format!("{pid}/mountinfo"))).ok();
            let text = namespace.processes.iter().find_map(file)?;
            Some((namespace.id, text))
        })
        .collect();
    for (mnt_ns, text) in mounts {
        for mount in read::namespace_mounts(&text) {
            let id = NamespaceId { dev: mount.dev, ino: mount.ino };
            let holder = Holder::Mount { path: mount.path.into(), mnt_ns };
            entry(index, mount.kind, id).holders.push(holder);
        }
    }
}

/// Adds owners, parents and creators, and the namespaces that are found only so.
pub(super) fn add_owners(index: &mut Index, root: &Root) {
    let mut found: Vec<ns_core::Namespace> = Vec::new();
    for key in index.keys().copied().collect::<Vec<_>>() {
        found.extend(representative(index, root, key));
        while let Some(handle) = found.pop() {
            let (kind, id) = (handle.kind(), handle.id());
            let owner = handle.owner_user().ok();
            let parent = if kind == Kind::Pid { handle.parent().ok() } else { None };
            let namespace = entry(index, kind, id);
            namespace.owner = owner.as_ref().map(ns_core::Namespace::id);
            namespace.parent = parent.as_ref().map(ns_core::Namespace::id);
            if kind == Kind::User {
                namespace.parent = namespace.owner;
                namespace.creator_uid = handle.creator_uid().ok();
            }
            for above in owner.into_iter().chain(parent) {
                let is_new = !index.contains_key(&(above.kind(), above.id()));
                let namespace = entry(index, above.kind(), above.id());
                if namespace.processes.is_empty() {
                    namespace.holders.push(Holder::Namespace { kind, id });
                }
                if is_new {
                    found.push(above);
                }
            }
        }
    }
}

/// Opens a namespace by whatever holds it, and makes sure that it is still that one.
fn representative(index: &Index, root: &Root, key: (Kind, NamespaceId)) -> Option<ns_core::Namespace> {
    let namespace = index.get(&key)?;
    let processes = namespace.processes.iter().map(|pid| format!("{pid}/ns/{}", key.0));
    let others = namespace.holders.iter().filter_map(|holder| match holder {
        Holder::Thread { pid, tid } => Some(format!("{pid}/task/{tid}/ns/{}", key.0)),
        Holder::Zombie { pid } => Some(format!("{pid}/ns/{}", key.0)),
        Holder::Fd { pid, fd } => Some(format!("{pid}/fd/{fd}")),
        Holder::Mount { path, mnt_ns } => {
            let sees_it = index.get(&(Kind::Mnt, *mnt_ns))?.processes.first()?;
            Some(format!("{sees_it}/root{}", path.display()))
        }
        Holder::Namespace { .. } => None,
    });
    processes
        .chain(others)
        .filter_map(|path| ns_core::Namespace::open(root.path.join(path)).ok())
        .find(|open| (open.kind(), open.id()) == key)
}
