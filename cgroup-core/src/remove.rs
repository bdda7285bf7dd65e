//! Removal, which waits for what is on its way out and never for ever.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};

/// How long [`Cgroup::remove`] waits for processes that are ending.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Removes the cgroup. Processes that are ending (killed, not yet gone) are waited for, up to
    /// 5 s; children are not removed. That it is gone already is not an error.
    ///
    /// # Errors
    /// `Busy` (`EBUSY`) where it has children, or its processes live on: both are named.
    /// `PermissionDenied` without write access to the parent.
    pub fn remove(&self) -> Result<()> {
        self.remove_within(PATIENCE)
    }

    /// As [`remove`](Self::remove), waiting at most this long.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn remove_within(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let step = || format!("remove cgroup {}", self.path().display());
        let parent = match self.parent() {
            Ok(Some(parent)) => parent,
            Ok(None) => {
                return Err(Error::os(step(), "unlinkat", Errno::EBUSY, Some("it is the top of the mount")));
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
                    if left.is_zero() || !self.children()?.is_empty() {
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
                    // Empty, and yet busy a moment ago: the kernel is tidying up.
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(errno) => return Err(Error::os(step(), "unlinkat", errno, None)),
            }
        }
    }

    /// Removes the cgroups below it, deepest first, and then itself; each as
    /// [`remove`](Self::remove). It kills nothing.
    ///
    /// # Errors
    /// As [`remove`](Self::remove), of the first that cannot be removed.
    pub fn remove_recursive(&self) -> Result<()> {
        match self.children() {
            Ok(children) => children.iter().try_for_each(Self::remove_recursive)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.remove()
    }

    /// Kills every process in it and below, and removes it with all below. Gone already is fine.
    ///
    /// # Errors
    /// As [`kill`](Self::kill) and [`remove`](Self::remove).
    pub fn destroy(&self) -> Result<()> {
        // Mostly nothing is left in it, and that is seen by removing it.
        if self.remove_at_once() {
            return Ok(());
        }
        match self.kill() {
            Err(error) if error.kind() == ErrorKind::NotFound && self.events().is_err() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.remove_recursive(),
        }
    }

    /// The error that names who stands in the way.
    fn occupied(&self, step: String) -> Error {
        let names: Vec<_> = self.children().unwrap_or_default().iter().map(|c| c.name().to_owned()).collect();
        let pids = self.procs_recursive().unwrap_or_default();
        let what = match (names.is_empty(), pids.is_empty()) {
            (false, _) => format!("{step}, which has the children {names:?}"),
            (true, false) => format!("{step}, which holds the processes {pids:?}"),
            (true, true) => step,
        };
        Error::os(what, "unlinkat", Errno::EBUSY, Some("remove its children and end its processes first"))
    }
}
