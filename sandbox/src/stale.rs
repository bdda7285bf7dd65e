//! Finds and removes the cgroups that a killed program left behind.
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
use ns_core::ProcessId;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use crate::ended::has_ended;
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
        Some(self.namespace) == own_namespace() && has_ended(&self.process)
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

/// Mark of a cgroup that outlives its program. Requires CAP_SYS_ADMIN in the initial user namespace, so that
/// a process in a container cannot set it.
const TRUSTED: &str = "trusted.nspod.kept";
/// The mark of a program without that capability. Since Linux 5.7. A container can set it if it has the uid of
/// the program and can write to its cgroup.
const USER: &str = "user.nspod.kept";

/// Marks a cgroup that outlives its program. Without the mark, [`reap_stale`] would remove it.
pub(crate) fn keep(cgroup: &Cgroup) {
    if cgroup.name().to_str().and_then(owner_of).is_some()
        && fsetxattr(cgroup, TRUSTED, b"1", XattrFlags::empty()).is_err()
    {
        let _ = fsetxattr(cgroup, USER, b"1", XattrFlags::empty());
    }
}

/// Returns whether a cgroup has the mark that the caller would set, or whether that is in doubt.
fn is_kept(cgroup: &Cgroup) -> bool {
    // The call replaces the mark by the same mark. Unlike fgetxattr(2), its error shows whether the caller
    // could have set it.
    match fsetxattr(cgroup, TRUSTED, b"1", XattrFlags::REPLACE) {
        Err(Errno::NODATA) => false,
        Err(Errno::PERM) => {
            !matches!(fgetxattr(cgroup, USER, &mut [0u8; 8]), Err(Errno::NODATA | Errno::OPNOTSUPP))
        }
        _ => true,
    }
}

/// Removes what programs of this user left behind when they were killed: the containers in cgroups with random
/// names, the calls in other containers, the empty cgroups of their pools and watchers, and their claims of
/// project quotas. The processes in these cgroups are killed. Returns the removed cgroups.
///
/// This looks in the library's parent of cgroups, and in the pods and containers in it. It removes nothing of a
/// program that runs or has another pid namespace, or whose end is in doubt, and nothing that was
/// [detached](crate::Container::detach). Detaching marks the cgroup with an extended attribute:
/// `trusted.nspod.kept`, or `user.nspod.kept` without CAP_SYS_ADMIN in the initial user namespace. A caller with
/// that capability ignores the mark `user.nspod.kept`, because a container that can write to its cgroup can set
/// it. Without the capability, such a container can keep itself alive. Containers with a [name](crate::Command::name) belong to the records
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
    let result = match parent::find_as_it_is()? {
        Some(parent) => reap_below(&parent.0, LEVELS, &mut removed),
        None => Ok(()),
    };
    result.and(prune_quotas()).map(|()| removed)
}

/// Number of levels below the library's parent at which cgroups have owners: a pod, a container in it, and a
/// call in that.
const LEVELS: usize = 3;

/// Removes what was left behind in a cgroup that stays.
fn reap_below(cgroup: &Cgroup, levels: usize, removed: &mut Vec<PathBuf>) -> Result<(), Error> {
    let mut result = Ok(());
    // The cgroup can be gone, or belong to another user.
    for child in cgroup.each_child().into_iter().flatten().flatten() {
        let owner = child.name().to_str().and_then(owner_of);
        if owner.is_some_and(|owner| owner.is_dead()) && !is_kept(&child) {
            result = result.and(reap(&child, removed));
        } else if levels > 1 {
            result = result.and(reap_below(&child, levels - 1, removed));
        }
    }
    result
}

fn reap(cgroup: &Cgroup, removed: &mut Vec<PathBuf>) -> Result<(), Error> {
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
