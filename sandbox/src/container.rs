//! A running container: the handle of its process and its cgroup.

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
/// Dropping it kills every process in it and removes its cgroup; [`detach`](Self::detach) keeps it.
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
    /// The listener of its filter, if the filter has `SCMP_ACT_NOTIFY`
    /// ([seccomp_unotify(2)](https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html)).
    /// Hand it to the supervisor before [`start`](Container::start).
    pub seccomp_listener: Option<OwnedFd>,
}

impl Container {
    /// Returns the pid of its first process in the caller's pid namespace.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Returns its first process.
    pub fn pidfd(&self) -> &Pidfd {
        &self.process.pidfd
    }

    /// Returns its cgroup, if it has one of its own. A further process in a container has none.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref().filter(|cgroup| !cgroup.is_borrowed()).map(ContainerCgroup::cgroup)
    }

    /// Returns its spec.
    pub fn spec(&self) -> &Spec {
        self.plan.spec()
    }

    /// Returns its eight namespaces.
    ///
    /// # Errors
    /// `ESRCH`: its first process has ended.
    pub fn namespaces(&self) -> Result<NamespaceSet, Error> {
        Ok(NamespaceSet::of_pidfd(&self.process.pidfd)?)
    }

    /// Starts the program of a held container.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: it is not held. Otherwise the step that failed.
    pub fn start(&mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else {
            return Err(Error::new(ErrorKind::State, "the container has been started already"));
        };
        let exit_file = self.exit_file.as_ref().filter(|_| self.plan.spec.init);
        held.start(&self.plan, self.pidfd(), exit_file).map_err(|e| explain(e, self.cgroup.as_ref()))
    }

    /// Waits for its first process to end, and returns how and why it ended.
    ///
    /// # Errors
    /// `ECHILD`: another part of this program has reaped it.
    pub fn wait(&mut self) -> Result<Outcome, Error> {
        loop {
            if let Some(outcome) = self.wait_for(None)? {
                return Ok(outcome);
            }
        }
    }

    /// As [`wait`](Self::wait), for at most `timeout`. Returns `None` if it still runs.
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
        // A signal that ended the program cannot end the init, so the init notes the status in a file.
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

    /// Sends a signal to its first process
    /// ([pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)).
    ///
    /// # Errors
    /// `ESRCH`: it has ended. `EINVAL`: there is no such signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        Ok(self.process.pidfd.send_signal(signal)?)
    }

    /// Kills every process in it. A further process in another container is killed alone.
    ///
    /// # Errors
    /// A process cannot be killed.
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

    /// Stops every process in it. They cannot detect it.
    ///
    /// Do not freeze while [`exec`](Self::exec) starts a process in this container. A process that is
    /// born into a frozen cgroup stops before it executes its program, and the thread that starts it
    /// waits for that, if they share memory, in a sleep that only SIGKILL interrupts, until
    /// [`thaw`](Self::thaw). `exec` refuses a container that is frozen, but cannot see a freeze
    /// between its check and the clone.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: it has no cgroup of its own.
    pub fn freeze(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("freeze it")?.freeze()?)
    }

    /// Lets its processes continue.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("thaw it")?.thaw()?)
    }

    /// Changes its limits. Limits that are `None` stay.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze); a limit that this host cannot enforce, or the kernel refuses.
    pub fn update(&self, limits: &Limits) -> Result<(), Error> {
        crate::cgroups::limit(self.need_cgroup("limit it")?, limits)
    }

    /// Returns what it uses.
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
                format!("cannot {what}: the container has no cgroup of its own; run as root, or have a cgroup delegated"),
            )
        })
    }

    /// Kills every process in it and removes its cgroup.
    ///
    /// # Errors
    /// A process cannot be killed, or the cgroup cannot be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Drops the handle and keeps the container. A held one stays held while this program lives.
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
                // If the pod was deleted, the cgroup is gone and the process is dead but not reaped.
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
