//! Removing cgroups, with a time limit for processes that are ending.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};

/// Time limit of [`Cgroup::remove`].
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Removes the cgroup. Waits up to 5 s for processes that are ending. Does not remove children.
    /// Succeeds if the cgroup has been removed already.
    ///
    /// Since Linux 4.5. Section "Organizing Processes and Threads".
    ///
    /// # Errors
    /// - `Busy` (`EBUSY`): the cgroup has children or processes that do not end. The message lists
    ///   them.
    /// - `PermissionDenied` (`EACCES`, `EPERM`): the caller cannot write to the parent.
    pub fn remove(&self) -> Result<()> {
        self.remove_within(PATIENCE)
    }

    /// Removes the cgroup like [`remove`](Self::remove), with another time limit.
    ///
    /// Since Linux 4.5. Section "Organizing Processes and Threads".
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn remove_within(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let step = || format!("remove cgroup {}", self.path().display());
        let parent = match self.parent() {
            Ok(Some(parent)) => parent,
            Ok(None) => {
                let cause = Some("it is the top of the mount");
                return Err(Error::os(step(), "unlinkat", Errno::EBUSY, cause).on(self.path()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut pause = Duration::from_micros(100);
        loop {
            match unlinkat(&parent, self.name(), UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
                Err(Errno::EBUSY) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.child_names()?.is_empty() {
                        return Err(self.occupied(step()));
                    }
                    match self.await_empty(left) {
                        Ok(()) => {}
                        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                        Err(error) if error.kind() == ErrorKind::TimedOut => {
                            return Err(self.occupied(step()));
                        }
                        Err(error) => return Err(error),
                    }
                    // The cgroup was busy although it is empty: the kernel is still cleaning up.
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(errno) => return Err(Error::os(step(), "unlinkat", errno, None).on(self.path())),
            }
        }
    }

    /// Removes the cgroups below this one, the deepest first, and then this one; each like
    /// [`remove`](Self::remove). Kills no process.
    ///
    /// Since Linux 5.6. Section "Organizing Processes and Threads".
    ///
    /// # Errors
    /// As [`remove`](Self::remove), for the first cgroup that cannot be removed.
    pub fn remove_recursive(&self) -> Result<()> {
        match self.each_child() {
            Ok(mut children) => children.try_for_each(|child| child?.remove_recursive())?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.remove()
    }

    /// Kills all processes in this cgroup and below, and removes it with all cgroups below.
    /// Succeeds if the cgroup has been removed already.
    ///
    /// Since Linux 5.6; [`kill`](Self::kill) describes the kernels before 5.14. Section "Core
    /// Interface Files", `cgroup.kill`.
    ///
    /// # Errors
    /// As [`kill`](Self::kill) and [`remove`](Self::remove).
    pub fn destroy(&self) -> Result<()> {
        // Usually the cgroup is empty, and one call suffices.
        if self.remove_at_once() {
            return Ok(());
        }
        match self.kill() {
            Err(error) if error.kind() == ErrorKind::NotFound && self.events().is_err() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.remove_recursive(),
        }
    }

    /// Returns the error that lists the children or the processes.
    fn occupied(&self, step: String) -> Error {
        let names = self.child_names().unwrap_or_default();
        let pids = self.procs_recursive().unwrap_or_default();
        let what = match (names.is_empty(), pids.is_empty()) {
            (false, _) => format!("{step}, which has the children {names:?}"),
            (true, false) => format!("{step}, which holds the processes {pids:?}"),
            (true, true) => step,
        };
        let cause = Some("remove its children and end its processes first");
        Error::os(what, "unlinkat", Errno::EBUSY, cause).on(self.path())
    }
}
