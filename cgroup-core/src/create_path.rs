//! Creating a cgroup with its parents.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;

use crate::cgroup::{Cgroup, valid};
use crate::controller::Controllers;
use crate::error::{Error, Result};

/// Maximum number of cgroups on a path. The kernel needs more time for each level: several minutes for some
/// thousand of them.
const MAX_DEPTH: usize = 128;

impl Cgroup {
    /// Creates the cgroup at this path below this one, with its parents, for new processes. An
    /// existing cgroup is used if it is not frozen and neither it nor a cgroup below it has a
    /// process.
    ///
    /// A leading slash is ignored, so the path `/kubepods/pod1/c` of an OCI configuration is below
    /// [`Hierarchy::root`](crate::Hierarchy::root).
    ///
    /// Each cgroup on the path enables those of `controllers` that it can. A missing controller is
    /// not an error here; [`enable_path`](Self::enable_path) reports it.
    ///
    /// Since Linux 5.2. Section "Organizing Processes and Threads".
    ///
    /// ```no_run
    /// use cgroup_core::{Controllers, Hierarchy};
    /// let top = Hierarchy::detect()?.root()?;
    /// let group = top.create_path("/kubepods/burstable/pod1/c", Controllers::all())?;
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// - `AlreadyExists` (`EEXIST`): the cgroup has processes, or is frozen.
    /// - `InvalidName`: the path contains `..`, has more than 128 parts, or names no cgroup below this
    ///   one.
    /// - As [`create_child`](Self::create_child). The cgroups that this call created are then
    ///   removed.
    pub fn create_path(&self, path: impl AsRef<Path>, controllers: Controllers) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |why| Error::name(path.as_os_str().as_bytes(), why);
        let mut names = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => names.push(valid(name)?),
                Component::ParentDir => return Err(wrong("it contains `..`")),
                _ => {}
            }
        }
        if names.is_empty() {
            return Err(wrong("it names no cgroup"));
        }
        if names.len() > MAX_DEPTH {
            return Err(wrong("it has more than 128 parts"));
        }
        let mut way = Vec::new();
        match self.open_path(&names, controllers, &mut way) {
            Ok(()) => way.pop().map(|(last, _)| last).ok_or_else(|| wrong("it names no cgroup")),
            Err(e) => {
                for (cgroup, _) in way.iter().rev().filter(|(_, made)| *made) {
                    cgroup.remove_at_once();
                }
                Err(e)
            }
        }
    }

    /// Opens or creates the cgroups, one below the other, and records which of them were created.
    fn open_path(
        &self,
        names: &[&OsStr],
        controllers: Controllers,
        way: &mut Vec<(Self, bool)>,
    ) -> Result<()> {
        for name in names {
            let above = way.last().map_or(self, |(cgroup, _)| cgroup);
            let wanted = controllers & above.available()?;
            if above.hand_down(wanted).is_err() {
                wanted.members().for_each(|one| drop(above.hand_down(one.into())));
            }
            way.push(above.open_or_make(name)?);
        }
        way.last().map_or(Ok(()), |(last, _)| last.is_free())
    }

    /// Checks that the cgroup has no process and is not frozen.
    fn is_free(&self) -> Result<()> {
        let events = self.events()?;
        if !events.populated && !events.frozen {
            return Ok(());
        }
        let (what, cause) = match self.procs_recursive() {
            Ok(pids) if events.populated => {
                (format!("which holds the processes {pids:?}"), "end them first, or choose another path")
            }
            _ => (
                "which is frozen".to_owned(),
                "thaw it (write 0 to its cgroup.freeze), or choose another path",
            ),
        };
        let step = format!("create cgroup {}, {what}", self.path().display());
        Err(Error::os(step, "mkdirat", Errno::EEXIST, Some(cause)).on(self.path()))
    }
}
