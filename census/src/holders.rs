//! Objects that keep a namespace alive: processes in it, descriptors, bind mounts, and other
//! namespaces of which it is the parent or the owner.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ns_core::{Kind, NamespaceId, NamespaceSet, proc};

use crate::record::{Holder, NamespaceInfo};
use crate::scan::{Found, Root};

/// Namespaces by kind and identity.
pub(super) type Index = BTreeMap<(Kind, NamespaceId), NamespaceInfo>;

fn entry(index: &mut Index, kind: Kind, id: NamespaceId) -> &mut NamespaceInfo {
    index.entry((kind, id)).or_insert_with(|| NamespaceInfo {
        kind,
        id,
        processes: Vec::new(),
        holders: Vec::new(),
        owner: None,
        parent: None,
        creator_uid: None,
    })
}

/// Returns the namespaces of processes, threads, zombies and open descriptors.
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
    for fd in &found.fds {
        entry(&mut index, fd.kind, fd.id).holders.push(Holder::Fd { pid: fd.pid, fd: fd.fd });
    }
    index
}

/// Adds the bind-mounted namespaces, from `mountinfo` of one process of each mount namespace.
pub(super) fn add_mounts(index: &mut Index, root: &Root) {
    // Large enough for most files: read_to_end starts with few bytes in an empty vector.
    let mut text = Vec::with_capacity(64 << 10);
    let mut mounts = Vec::new();
    for namespace in index.values().filter(|namespace| namespace.kind == Kind::Mnt) {
        // The first process may have ended. All of them see the same mounts, except in a chroot.
        let read = namespace.processes.iter().any(|pid| {
            text.clear();
            let file = File::open(root.path.join(format!("{pid}/mountinfo")));
            file.and_then(|mut file| file.read_to_end(&mut text)).is_ok()
        });
        if read {
            mounts.extend(namespace_mounts(&text).map(|(kind, id, path)| (kind, id, path, namespace.id)));
        }
    }
    for (kind, id, path, mnt_ns) in mounts {
        entry(index, kind, id).holders.push(Holder::Mount { path, mnt_ns });
    }
}

/// Returns the bind-mounted namespaces of a mountinfo and their mount points.
pub(super) fn namespace_mounts(mountinfo: &[u8]) -> impl Iterator<Item = (Kind, NamespaceId, PathBuf)> {
    proc::mounts(mountinfo).filter(|mount| mount.fstype == b"nsfs").filter_map(|mount| {
        let (kind, ino) = proc::ns_link(mount.root().as_os_str().as_bytes())?;
        Some((kind, NamespaceId { dev: mount.device, ino }, mount.point().into_owned()))
    })
}

/// Adds owners, parents and creators to the namespaces, and adds the owners and parents to the index.
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

/// Opens a namespace by one of the objects that keep it alive, and checks its identity.
fn representative(index: &Index, root: &Root, key: (Kind, NamespaceId)) -> Option<ns_core::Namespace> {
    let namespace = index.get(&key)?;
    // These links refer to namespaces only, so they can be opened without O_PATH.
    let links = namespace.processes.iter().filter_map(|pid| {
        let link = File::open(root.path.join(format!("{pid}/ns/{}", key.0))).ok()?;
        ns_core::Namespace::from_owned_fd(link.into()).ok()
    });
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
    links
        .chain(others.filter_map(|path| ns_core::Namespace::open(root.path.join(path)).ok()))
        .find(|open| (open.kind(), open.id()) == key)
}
