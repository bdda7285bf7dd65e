//! What a program leaves behind if it is killed: finding it and removing it.
//!
//! The name of a cgroup that a handle owns contains the identity of the program: the pid namespace, the pid and
//! the start time. So recording the owner costs no call, and another process that has the pid now is not
//! mistaken for the owner. A cgroup that outlives its program on purpose is marked when it is
//! [detached](crate::Container::detach), or has another name.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use cgroup_core::Cgroup;
use nix::unistd::geteuid;
use ns_core::ProcessId;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

use crate::error::Error;
use crate::parent;
use crate::quota::prune_quotas;
use crate::store::{is_random_name, random_name};

/// The owner of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    /// Inode of the pid namespace.
    namespace: u64,
    process: ProcessId,
}

/// This program, and its pid when the identity was read. A forked copy has another pid.
static SELF: Mutex<Option<(u32, Owner)>> = Mutex::new(None);

impl Owner {
    fn current() -> Option<Owner> {
        let pid = std::process::id();
        let mut known = SELF.lock().unwrap_or_else(|e| e.into_inner());
        if known.as_ref().is_none_or(|(of, _)| *of != pid) {
            *known = Some((pid, Owner { namespace: own_namespace()?, process: ProcessId::current().ok()? }));
        }
        known.as_ref().map(|(_, owner)| owner.clone())
    }

    fn is_dead(&self) -> bool {
        Some(self.namespace) == own_namespace() && self.process.is_alive().is_ok_and(|alive| !alive)
    }
}

fn own_namespace() -> Option<u64> {
    Some(std::fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

/// Returns a random name that contains the identity of this program.
pub(crate) fn owned_name() -> String {
    let mut name = random_name();
    if let Some(Owner { namespace, process: ProcessId { pid, start, .. } }) = Owner::current() {
        // Writing to a string does not fail.
        let _ = write!(name, "-{namespace}-{pid}-{start}");
    }
    name
}

/// Returns the owner in a name, which can have a prefix.
fn owner_of(name: &str) -> Option<Owner> {
    let mut parts = name.rsplitn(4, '-');
    let start = parts.next()?.parse().ok()?;
    let pid = parts.next()?.parse().ok()?;
    let namespace = parts.next()?.parse().ok()?;
    let random = parts.next()?.rsplit('-').next()?;
    let process = ProcessId { pid, start, boot: String::new() };
    is_random_name(random).then_some(Owner { namespace, process })
}

/// Name of the mark of a cgroup that outlives its program. A process in a container of root cannot set it.
fn mark() -> &'static str {
    if geteuid().is_root() { "trusted.nspod.kept" } else { "user.nspod.kept" }
}

/// Marks a cgroup that outlives its program. Without the mark, [`reap_stale`] would remove it.
pub(crate) fn keep(cgroup: &Cgroup) {
    if cgroup.name().to_str().and_then(owner_of).is_some() {
        let _ = fsetxattr(cgroup, mark(), b"1", XattrFlags::empty());
    }
}

fn is_kept(cgroup: &Cgroup) -> bool {
    fgetxattr(cgroup, mark(), &mut [0u8; 8]).is_ok()
}

/// Removes what programs of this user left behind when they were killed: the containers in cgroups with random
/// names, the empty cgroups of their pools and watchers, and their claims of project quotas. The processes in
/// these containers are killed. Returns the removed cgroups.
///
/// This looks in the library's parent of cgroups and in the pods in it. It removes nothing of a program that
/// runs, has another pid namespace, or is hidden from the caller, and nothing that was
/// [detached](crate::Container::detach). Containers with a [name](crate::Command::name) belong to the records
/// of their program, and so do pods. A program that starts untrusted programs can call this at its start, for
/// the case that its [watcher](crate::Command::die_with_parent) was killed with it.
///
/// Since Linux 5.14; see
/// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
///
/// ```
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
/// for cgroup in nspod_sandbox::reap_stale()? {
///     println!("{} was left behind", cgroup.display());
/// }
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
///
/// # Errors
/// An error does not prevent the removal of the others. The first one is returned.
/// - `EBUSY` ([`ErrorKind::Busy`](crate::ErrorKind::Busy)): a process did not end in 5 s.
/// - The errors of [`prune_quotas`].
pub fn reap_stale() -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    let mut result = Ok(());
    for cgroup in parent::in_parent()? {
        match cgroup.name().to_str().and_then(owner_of) {
            Some(owner) => result = result.and(reap(&cgroup, &owner, &mut removed)),
            None => {
                for inner in cgroup.children().unwrap_or_default() {
                    if let Some(owner) = inner.name().to_str().and_then(owner_of) {
                        result = result.and(reap(&inner, &owner, &mut removed));
                    }
                }
            }
        }
    }
    result.and(prune_quotas()).map(|()| removed)
}

fn reap(cgroup: &Cgroup, owner: &Owner, removed: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !owner.is_dead() || is_kept(cgroup) {
        return Ok(());
    }
    if parent::is_of_watcher(cgroup) {
        // The watcher ends after its program, and then removes the cgroup itself.
        let _ = cgroup.remove_within(Duration::ZERO);
        return Ok(());
    }
    cgroup.destroy()?;
    removed.push(cgroup.path().to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_contains_its_owner() {
        let me = Owner::current().unwrap();
        let name = owned_name();
        let found = owner_of(&name).unwrap();
        assert_eq!(
            (found.namespace, found.process.pid, found.process.start),
            (me.namespace, me.process.pid, me.process.start)
        );
        assert!(!found.is_dead());
        assert_eq!(owner_of(&format!("pool-{name}")), Some(found.clone()));
        // Another process has the pid now.
        let earlier =
            Owner { process: ProcessId { start: found.process.start - 1, ..found.process.clone() }, ..found };
        assert!(earlier.is_dead());
        assert!(!Owner { namespace: earlier.namespace + 1, ..earlier }.is_dead());
        for other in ["web", "pod:a-1-2-3", "0123456789ab", "build-4026531836-1-2", "0123456789ab-x-1-2"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }
}
