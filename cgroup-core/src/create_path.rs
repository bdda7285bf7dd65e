//! Creating a cgroup with its parents.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;

use crate::cgroup::{Cgroup, valid};
use crate::controller::Controllers;
use crate::error::{Error, Result};

impl Cgroup {
    /// Makes the cgroup of this path below this one, and those on the way to it that do not exist,
    /// for processes to be started in. One that exists is taken if nothing is in it or below.
    ///
    /// A slash at the start means nothing: the path `/kubepods/pod1/c` of an OCI configuration is
    /// one below [`Hierarchy::root`].
    ///
    /// Of the controllers each cgroup on the way hands down what it can. What is then lacking is no
    /// error here: [`enable_path`](Self::enable_path) says what is in the way of a limit.
    ///
    /// ```no_run
    /// use cgroup_core::{Controllers, Hierarchy};
    /// let top = Hierarchy::detect()?.root()?;
    /// let group = top.create_path("/kubepods/burstable/pod1/c", Controllers::all())?;
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AlreadyExists` where the cgroup holds processes, or is frozen; `InvalidName` where the path
    /// has `..` in it or names no cgroup; and as [`create_child`](Self::create_child).
    pub fn create_path(&self, path: impl AsRef<Path>, controllers: Controllers) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |why| Error::name(path.as_os_str().as_bytes(), why);
        let mut names = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => names.push(valid(name)?),
                Component::ParentDir => return Err(wrong("it has `..` in it")),
                _ => {}
            }
        }
        if names.is_empty() {
            return Err(wrong("it names no cgroup below the top"));
        }
        let mut way = Vec::new();
        match self.make_way(&names, controllers, &mut way) {
            Ok(()) => way.pop().map(|(last, _)| last).ok_or_else(|| wrong("it names no cgroup")),
            Err(e) => {
                for (cgroup, _) in way.iter().rev().filter(|(_, made)| *made) {
                    cgroup.remove_at_once();
                }
                Err(e)
            }
        }
    }

    /// Opens these, one below the other, and says which of them were made.
    fn make_way(
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

    /// Whether processes can be started in it as in a new one.
    fn is_free(&self) -> Result<()> {
        let events = self.events()?;
        if !events.populated && !events.frozen {
            return Ok(());
        }
        let (what, cure) = match self.procs_recursive() {
            Ok(pids) if events.populated => {
                (format!("which holds the processes {pids:?}"), "end them first, or choose another path")
            }
            _ => ("which is frozen".to_owned(), "thaw it (0 to its cgroup.freeze), or choose another path"),
        };
        Err(Error::os(
            format!("create cgroup {}, {what}", self.path().display()),
            "mkdirat",
            Errno::EEXIST,
            Some(cure),
        ))
    }
}
