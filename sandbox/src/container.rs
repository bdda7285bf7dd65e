//! A running container: its process and its cgroup, held by descriptors.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Limits, Usage};
use ns_core::{NamespaceSet, Pidfd};

use crate::cgroups::{ContainerCgroup, explain};
use crate::error::{Error, ErrorKind};
use crate::init;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::reap::{self, ChildProcess, ReapList};
use crate::spawn::Held;
use crate::spec::Spec;

/// A running container.
///
/// Dropping it kills what is in it and removes its cgroup; [`detach`](Self::detach) lets
/// it live on.
#[derive(Debug)]
pub struct Container {
    pub(crate) process: Arc<ChildProcess>,
    /// The further processes in it that this program starts.
    pub(crate) reaps: ReapList,
    /// The lists of the container or pod that this process was added to.
    pub(crate) reaped_by: Vec<ReapList>,
    pub(crate) cgroup: Option<ContainerCgroup>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) exit_file: Option<File>,
    pub(crate) held: Option<Held>,
    /// Set by [`kill`](Container::kill); `delete` need not kill again.
    pub(crate) killed: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) outcome: Option<Outcome>,
    /// Its standard input, if it was piped.
    pub stdin: Option<File>,
    /// Its standard output, if it was piped.
    pub stdout: Option<File>,
    /// Its standard error, if it was piped.
    pub stderr: Option<File>,
    /// The other end of its terminal, if it has one.
    pub terminal: Option<File>,
    /// Where the kernel asks about calls, if its filter has `SCMP_ACT_NOTIFY`
    /// ([seccomp_unotify(2)](https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html)).
    /// Hand it to the supervisor before [`start`](Container::start).
    pub seccomp_listener: Option<OwnedFd>,
}

impl Container {
    /// The pid of its first process, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Its first process.
    pub fn pidfd(&self) -> &Pidfd {
        &self.process.pidfd
    }

    /// Its cgroup, if it has one of its own; a further process in a container has none.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref().filter(|cgroup| !cgroup.is_borrowed()).map(ContainerCgroup::cgroup)
    }

    /// The spec that it was made from.
    pub fn spec(&self) -> &Spec {
        self.plan.spec()
    }

    /// Its eight namespaces.
    ///
    /// # Errors
    /// If its first process has ended.
    pub fn namespaces(&self) -> Result<NamespaceSet, Error> {
        Ok(NamespaceSet::of_pidfd(&self.process.pidfd)?)
    }

    /// Lets a held container become its program.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it is not held; what keeps it from executing the program.
    pub fn start(&mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else {
            return Err(Error::new(ErrorKind::State, "the container has been started already"));
        };
        let exit_file = self.exit_file.as_ref().filter(|_| self.plan.spec.init);
        held.start(&self.plan, self.pidfd(), exit_file).map_err(|e| explain(e, self.cgroup.as_ref()))
    }

    /// Waits for its first process to end, and says how and why it did.
    ///
    /// # Errors
    /// If somebody else has reaped it.
    pub fn wait(&mut self) -> Result<Outcome, Error> {
        loop {
            if let Some(outcome) = self.wait_for(None)? {
                return Ok(outcome);
            }
        }
    }

    /// As [`wait`](Self::wait), for so long at most; `None` if it runs still.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome>, Error> {
        self.wait_for(Some(timeout))
    }

    fn wait_for(&mut self, timeout: Option<Duration>) -> Result<Option<Outcome>, Error> {
        if self.outcome.is_none()
            && let Some(exit) = self.process.wait(&self.reaps, timeout)?
        {
            self.outcome = Some(self.conclude(exit));
        }
        Ok(self.outcome.clone())
    }

    fn conclude(&mut self, exit: ns_core::Exit) -> Outcome {
        let wall_time = self.started.elapsed();
        // The init cannot die of its program's signal, so it writes it down.
        let status = self.exit_file.as_mut().and_then(init::read_exit).unwrap_or(exit.status);
        let cpu = self.cgroup().and_then(|c| c.cpu_stat().ok());
        let peak = self.cgroup().and_then(|c| c.number("memory.peak").ok().flatten());
        let of_process = exit.usage.user + exit.usage.system;
        Outcome {
            status,
            oom: self.cgroup.as_ref().and_then(ContainerCgroup::oom),
            peak_memory: peak.or(Some(exit.usage.max_rss)),
            cpu_time: cpu.as_ref().and_then(|c| c.usage_usec).map_or(of_process, Duration::from_micros),
            throttled_time: Duration::from_micros(cpu.as_ref().and_then(|c| c.throttled_usec).unwrap_or(0)),
            wall_time,
        }
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// `ESRCH` if it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        Ok(self.process.pidfd.send_signal(signal)?)
    }

    /// Kills everything in it; of a further process in another container, that process alone.
    ///
    /// # Errors
    /// If a process cannot be killed.
    pub fn kill(&self) -> Result<(), Error> {
        match self.cgroup() {
            Some(cgroup) => cgroup.kill()?,
            None => self.kill_first()?,
        }
        self.killed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn kill_first(&self) -> Result<(), Error> {
        match self.process.pidfd.send_signal(libc::SIGKILL) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Stops everything in it, unseen by itself.
    ///
    /// Do not freeze while [`exec`](Self::exec) starts a process in this container. A process that is
    /// born into a frozen cgroup stops before it executes its program, and the thread that starts it
    /// waits for that, if they share memory, in a sleep that only SIGKILL interrupts, until
    /// [`thaw`](Self::thaw). `exec` refuses a container that is frozen, but cannot see a freeze
    /// between its check and the clone.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it has no cgroup of its own.
    pub fn freeze(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("freeze it")?.freeze()?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("thaw it")?.thaw()?)
    }

    /// Changes its limits; those not named stay.
    ///
    /// # Errors
    /// What this host cannot enforce, and what the kernel refuses.
    pub fn update(&self, limits: &Limits) -> Result<(), Error> {
        crate::cgroups::limit(self.need_cgroup("limit it")?, limits)
    }

    /// What it uses.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn usage(&self) -> Result<Usage, Error> {
        Ok(self.need_cgroup("measure it")?.usage()?)
    }

    fn need_cgroup(&self, what: &str) -> Result<&Cgroup, Error> {
        self.cgroup().ok_or_else(|| {
            Error::new(
                ErrorKind::State,
                format!("the container has no cgroup of its own, which it takes to {what}: run as root, or have a cgroup delegated"),
            )
        })
    }

    /// Kills what is left in it and removes its cgroup.
    ///
    /// # Errors
    /// If a process cannot be killed, or the cgroup not be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Lets it live on without this handle. One that is held stays held as long as this
    /// program lives.
    pub fn detach(mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.leave();
        }
        if let Some(held) = self.held.take() {
            std::mem::forget(held);
        }
        self.outcome.get_or_insert(Outcome::unknown());
    }

    fn clear(&mut self) -> Result<(), Error> {
        self.held = None;
        let mut result = Ok(());
        if self.outcome.is_none() {
            if !*self.killed.get_mut() {
                // Its cgroup may be gone, with its pod's. Then it is dead, and yet to be reaped.
                result = self.kill().or_else(|_| self.kill_first());
            }
            reap::reap(self.process.clone(), &self.reaps);
            self.outcome = Some(Outcome::unknown());
        }
        match self.cgroup.take() {
            Some(cgroup) => result.and(cgroup.remove()),
            None => result,
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}
