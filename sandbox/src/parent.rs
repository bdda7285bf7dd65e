//! The cgroup in which the library makes the cgroups of containers.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use cgroup_core::delegate::{self, Move};
use cgroup_core::{Cgroup, Controllers};

use crate::error::Error;

/// Name of the cgroup.
pub(crate) const PARENT: &str = "nspod";

/// Prefix for the names of the cgroups of watchers.
pub(crate) const WATCH: &str = "watch-";

/// Controllers to enable for containers, if the host has them.
pub(crate) const WANTED: Controllers = Controllers::all();

/// The library's parent of container cgroups: `nspod` in the root of the hierarchy for root, and in
/// the delegated cgroup for other users. The last user of the parent removes it, in any program.
#[derive(Debug)]
pub(crate) struct CgroupParent(pub(crate) Cgroup);

impl CgroupParent {
    /// Finds or makes the parent, and enables those of the controllers that the host allows.
    pub(crate) fn find(wanted: Controllers) -> Result<CgroupParent, Error> {
        let found = delegate::find(PARENT, Move::Nothing)?;
        let parent = CgroupParent(found.base);
        // If a limit requires a controller that cannot be enabled, `limit` reports it.
        let _ = parent.hand_down(wanted & found.controllers);
        Ok(parent)
    }

    pub(crate) fn hand_down(&self, wanted: Controllers) -> cgroup_core::Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut has = self.0.available()?;
        if !has.contains(wanted) {
            self.0.enable_path(wanted)?;
            has = self.0.available()?;
        }
        self.0.enable(has & WANTED)
    }
}

impl Drop for CgroupParent {
    fn drop(&mut self) {
        // This fails with EBUSY while the parent contains another container.
        let _ = std::fs::remove_dir(self.0.path());
    }
}

/// Makes a cgroup in the library's parent, with the wanted controllers if the host allows them. `known` caches
/// the parent between calls. Another program can remove the parent at any time; then it is made again.
pub(crate) fn create_in_parent(
    name: &str,
    wanted: Controllers,
    known: &mut Option<Arc<CgroupParent>>,
) -> Result<(Arc<CgroupParent>, Cgroup), Error> {
    let gone = |e: &Error| matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV));
    let mut attempt = || {
        let parent = match known.take() {
            Some(parent) => parent,
            None => Arc::new(CgroupParent::find(wanted)?),
        };
        let cgroup = parent.0.create_child(name)?;
        *known = Some(parent.clone());
        Ok((parent, cgroup))
    };
    for _ in 0..100 {
        match attempt() {
            Err(e) if gone(&e) => std::thread::yield_now(),
            other => return other,
        }
    }
    attempt()
}

/// Returns whether the caller may make cgroups in the library's parent.
pub(crate) fn may_make() -> Result<bool, Error> {
    Ok(find_as_it_is()?.is_some())
}

/// Returns the library's parent with the controllers that it has, `None` if the caller may not make it.
/// Dropping the parent removes it if it is empty.
pub(crate) fn find_as_it_is() -> Result<Option<CgroupParent>, Error> {
    match CgroupParent::find(Controllers::empty()) {
        Ok(parent) => Ok(Some(parent)),
        Err(e) if is_not_allowed(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Returns whether an error means that the caller cannot make any cgroup on this host: there is no
/// cgroup2 hierarchy, or the caller lacks the permission. Returns `false` for other failures (a
/// name in use, a limit on the number of cgroups, too many open files).
pub(crate) fn is_not_allowed(e: &Error) -> bool {
    let refused = matches!(e.raw_os_error(), None | Some(libc::EACCES | libc::EPERM | libc::EROFS));
    e.step() == "cgroup" && refused
}

/// Returns whether a cgroup has the name of a watcher's.
pub(crate) fn is_of_watcher(cgroup: &Cgroup) -> bool {
    cgroup.name().as_bytes().starts_with(WATCH.as_bytes())
}
