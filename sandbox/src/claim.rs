//! Cgroups that a handle owns, and those that nothing owns any more.
//!
//! The owner holds a shared lock of the cgroup's directory
//! ([flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html)) as long as its descriptor is open. So nothing
//! owns a cgroup that can be locked exclusively. A container that sees the directory in `/sys/fs/cgroup` can lock
//! it too. Therefore no call here waits for a lock: a container can refuse its own cgroups to the caller, but it
//! cannot stop the caller.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use cgroup_core::Cgroup;
use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, ErrorKind};

/// Makes a cgroup with `create` and locks it. Each attempt calls `name`. `create` returns `None` if another
/// program removed the cgroup before it was opened.
pub(crate) fn create_owned<T>(
    name: impl Fn() -> String,
    mut create: impl FnMut(&str) -> Result<Option<(Cgroup, T)>, Error>,
) -> Result<(Cgroup, T), Error> {
    const ATTEMPTS: u32 = 100;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        last = name();
        let Some((cgroup, more)) = create(&last)? else { continue };
        let locked = flock(&cgroup, FlockOperation::NonBlockingLockShared).is_ok();
        // Another program may have removed the cgroup before it was locked.
        if cgroup.events().is_ok() {
            if locked {
                return Ok((cgroup, more));
            }
            let _ = cgroup.remove_within(Duration::ZERO);
        }
    }
    let what = format!("cannot make the cgroup {last}: another program removed or locked it each time");
    Err(Error::new(ErrorKind::Busy, "cgroup", what).on(last))
}

/// Removes the empty children that nothing owns and whose names begin with `prefix`.
pub(crate) fn remove_abandoned(parent: &Cgroup, prefix: &str) -> Result<(), Error> {
    for child in parent.each_child()? {
        let child = child?;
        if child.name().as_bytes().starts_with(prefix.as_bytes())
            && flock(&child, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            // A cgroup with processes stays.
            let _ = child.remove_within(Duration::ZERO);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::fs::File;

    use super::*;
    use cgroup_core::Hierarchy;

    struct Parent(Cgroup);

    impl Parent {
        fn new(name: &str) -> Option<Parent> {
            let root = Hierarchy::detect().ok()?.root().ok()?;
            nspod_testkit::root().then(|| Parent(root.create_child(nspod_testkit::unique(name)).unwrap()))
        }
    }

    impl Drop for Parent {
        fn drop(&mut self) {
            let _ = self.0.remove_recursive();
        }
    }

    /// Locks a cgroup as a process of a container can.
    fn lock(cgroup: &Cgroup) -> File {
        let file = File::open(cgroup.path()).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        file
    }

    #[test]
    fn a_lock_of_another_process_does_not_stop_the_caller() {
        // The processes that another test starts inherit the locks until they execute their programs.
        if nspod_testkit::in_own_process("claim::tests::a_lock_of_another_process_does_not_stop_the_caller") {
            return;
        }
        let Some(parent) = Parent::new("nspod-test-claim") else { return };
        let (count, locks) = (Cell::new(0), RefCell::new(Vec::new()));
        let attempt = |locked: u32| {
            let name = || {
                count.set(count.get() + 1);
                format!("call-{}", count.get())
            };
            create_owned(name, |name| {
                let cgroup = parent.0.create_child(name)?;
                if count.get() <= locked {
                    locks.borrow_mut().push(lock(&cgroup));
                }
                Ok(Some((cgroup, ())))
            })
        };
        let (owned, ()) = attempt(3).unwrap();
        assert_eq!(owned.name(), "call-4");
        remove_abandoned(&parent.0, "call-").unwrap();
        assert_eq!(parent.0.children().unwrap().len(), 1);
        let error = attempt(u32::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert_eq!(parent.0.children().unwrap().len(), 1);
        drop(owned);
        parent.0.create_child("other").unwrap();
        remove_abandoned(&parent.0, "call-").unwrap();
        let left: Vec<_> = parent.0.children().unwrap().iter().map(|child| child.name().to_owned()).collect();
        assert_eq!(left, ["other"]);
    }

    #[test]
    fn abandoned_cgroups_are_opened_one_at_a_time() {
        if nspod_testkit::in_own_process("claim::tests::abandoned_cgroups_are_opened_one_at_a_time") {
            return;
        }
        let Some(parent) = Parent::new("nspod-test-many") else { return };
        (0..100).for_each(|n| drop(parent.0.create_child(format!("call-{n}")).unwrap()));
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 40, 40).unwrap();
        remove_abandoned(&parent.0, "call-").unwrap();
        assert_eq!(parent.0.children().unwrap().len(), 0);
    }
}
