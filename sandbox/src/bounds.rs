//! The bounds of a container that this process enforces while it waits: wall time, CPU time and the length of the
//! output.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cgroup_core::Cgroup;

use crate::error::Error;
use crate::outcome::EndedBy;
use crate::reap::ChildProcess;

/// Time bounds of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) wall: Option<Duration>,
    pub(crate) cpu: Option<Duration>,
}

impl Bounds {
    /// Returns the bound that is exceeded, or the time until the next check is necessary. `None` means that
    /// no other check is necessary.
    pub(crate) fn check(
        &self,
        started: Instant,
        cgroup: Option<&Cgroup>,
    ) -> Result<Result<Option<Duration>, EndedBy>, Error> {
        /// A program that sleeps just below its limit must not cost much.
        const SHORTEST: Duration = Duration::from_millis(5);
        let mut next = None;
        if let Some(wall) = self.wall {
            let left = wall.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Err(EndedBy::WallTime));
            }
            next = Some(left);
        }
        if let (Some(most), Some(cgroup)) = (self.cpu, cgroup) {
            let used = Duration::from_micros(cgroup.cpu_stat()?.usage_usec.unwrap_or(0));
            let left = most.saturating_sub(used);
            if left.is_zero() {
                return Ok(Err(EndedBy::CpuTime));
            }
            // The time cannot pass faster than on all processors at once.
            let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
            let soon = (left / processors).max(SHORTEST);
            next = Some(next.map_or(soon, |next| next.min(soon)));
        }
        Ok(Ok(next))
    }
}

/// What to do with a container that writes more than [`Command::output_max`](crate::Command::output_max).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Read and discard the rest.
    #[default]
    Discard,
    /// Kill the container ([`EndedBy::OutputLimit`]).
    Kill,
}

/// Bound of the output that [`Command::output`](crate::Command::output) keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputBound {
    pub(crate) most: usize,
    pub(crate) overflow: Overflow,
}

impl Default for OutputBound {
    fn default() -> Self {
        OutputBound { most: 64 << 20, overflow: Overflow::Discard }
    }
}

/// The kill of a container by this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kill(Arc<(OnceLock<EndedBy>, AtomicBool)>);

impl Kill {
    /// Kills the container for this reason. If it was killed before, the first reason stays.
    pub(crate) fn perform(
        &self,
        reason: EndedBy,
        kill: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        // A thread that waits for the container reads the reason as soon as the process has ended.
        let _ = self.0.0.set(reason);
        kill()?;
        self.0.1.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Returns whether all processes were killed.
    pub(crate) fn is_done(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }

    pub(crate) fn reason(&self) -> Option<EndedBy> {
        self.0.0.get().copied()
    }
}

/// Kills a container from any thread, while another thread waits for it. Clones act on the same
/// container.
///
/// ```
/// use nspod_sandbox::{Command, EndedBy};
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
///
/// let mut container = Command::new("sleep").arg("1000").spawn()?;
/// let killer = container.killer()?;
/// std::thread::spawn(move || killer.kill());
/// assert_eq!(container.wait()?.ended_by, EndedBy::Cancelled);
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Killer {
    pub(crate) process: Arc<ChildProcess>,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    pub(crate) kill: Kill,
}

impl Killer {
    /// Kills every process in the container like [`Container::kill`](crate::Container::kill). Does
    /// nothing if the container was deleted.
    ///
    /// # Errors
    /// `EPERM`, `EACCES`: the caller may not kill the processes. See
    /// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files),
    /// `cgroup.kill`.
    pub fn kill(&self) -> Result<(), Error> {
        self.kill.perform(EndedBy::Cancelled, || match self.cgroup.as_deref() {
            Some(cgroup) => match cgroup.kill() {
                Err(e) if e.kind() == cgroup_core::ErrorKind::NotFound => Ok(()),
                other => Ok(other?),
            },
            None => self.process.kill(),
        })
    }
}
