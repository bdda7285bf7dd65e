//! A running container: the handle of its process and its cgroup.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Limits, Usage};
use ns_core::{ExitStatus, NamespaceSet, Pidfd, ProcessId};
use serde::{Deserialize, Serialize};

use crate::cgroups::{ContainerCgroup, explain};
use crate::error::{Error, ErrorKind};
use crate::init;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::reap::{self, ChildProcess, End, ReapList};
use crate::spawn::Held;
use crate::spec::Spec;
use crate::store::{self, Dir};

/// A running container.
///
/// Dropping it kills every process in it and removes its cgroup, unless
/// [`Command::kill_on_drop`](crate::Command::kill_on_drop) was set to `false`. If the processes take
/// longer than 200 ms to end, a thread completes the removal. [`detach`](Self::detach) keeps it.
#[derive(Debug)]
pub struct Container {
    pub(crate) process: Arc<ChildProcess>,
    /// The further processes in it that this program starts.
    pub(crate) reaps: ReapList,
    /// The lists of the container or pod that this process was added to.
    pub(crate) reaped_by: Vec<ReapList>,
    pub(crate) cgroup: Option<ContainerCgroup>,
    pub(crate) origin: Origin,
    pub(crate) exit_file: Option<Arc<File>>,
    pub(crate) held: Option<Held>,
    /// Set by [`kill`](Container::kill); `delete` need not kill again.
    pub(crate) killed: AtomicBool,
    pub(crate) kill_on_drop: bool,
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

/// Who started a container.
#[derive(Debug)]
pub(crate) enum Origin {
    /// This program, with this plan.
    Plan(Arc<Plan>),
    /// Any process. Dropping the handle lets the container live on.
    Record {
        /// The record that the container was opened by.
        record: Box<ContainerRecord>,
        /// The entry's directory, which can hold the exit file.
        dir: Dir,
    },
}

/// The data by which [`Container::open`] finds a container that another process started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Identity of the first process.
    pub process: ProcessId,
    /// Path of the container's own cgroup, if it has one.
    pub cgroup: Option<PathBuf>,
    /// Path of the pod's cgroup, if the container is in a pod.
    pub pod_cgroup: Option<PathBuf>,
    /// The spec that the container was started from, with the changes by its pod.
    pub spec: Spec,
}

impl AsRef<ContainerRecord> for ContainerRecord {
    fn as_ref(&self) -> &ContainerRecord {
        self
    }
}

impl store::Record for ContainerRecord {
    const FILES: &'static [&'static str] = &[store::RECORD, store::EXIT];
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
        match &self.origin {
            Origin::Plan(plan) => plan.spec(),
            Origin::Record { record, .. } => &record.spec,
        }
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
        let Origin::Plan(plan) = &self.origin else {
            return Err(Error::new(ErrorKind::State, "the container was opened, so it has been started"));
        };
        let exit_file = self.exit_file.as_deref().filter(|_| plan.spec.init);
        held.start(plan, self.pidfd(), exit_file).map_err(|e| explain(e, self.cgroup.as_ref()))
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
            && let Some(end) = self.process.wait(&self.reaps, timeout)?
        {
            self.outcome = Some(self.conclude(end)?);
        }
        Ok(self.outcome.clone())
    }

    fn conclude(&mut self, end: End) -> Result<Outcome, Error> {
        let wall_time = self.started.elapsed();
        let (status, usage) = match end {
            // A signal that ended the program cannot end the init, so the init notes the status in a file.
            End::Reaped(exit) => {
                let noted = self.exit_file.as_deref().and_then(init::read_exit);
                (noted.unwrap_or(exit.status), Some(exit.usage))
            }
            End::Foreign => (self.foreign_status()?, None),
        };
        let cpu = self.cgroup().and_then(|c| c.cpu_stat().ok());
        let peak = self.cgroup().and_then(|c| c.number("memory.peak").ok().flatten());
        let of_process = usage.map_or(Duration::ZERO, |usage| usage.user + usage.system);
        Ok(Outcome {
            status,
            oom: self.cgroup.as_ref().and_then(ContainerCgroup::oom),
            peak_memory: peak.or(usage.map(|usage| usage.max_rss)),
            cpu_time: cpu.as_ref().and_then(|c| c.usage_usec).map_or(of_process, Duration::from_micros),
            throttled_time: Duration::from_micros(cpu.as_ref().and_then(|c| c.throttled_usec).unwrap_or(0)),
            wall_time,
        })
    }

    /// Returns the exit status of a process that this program cannot reap: from the exit file, from
    /// the kernel (since Linux 6.15, after another process has reaped it), or from the OOM counter.
    fn foreign_status(&self) -> Result<ExitStatus, Error> {
        let killed = ExitStatus::Signaled { signal: libc::SIGKILL, core_dumped: false };
        let noted = || match &self.origin {
            Origin::Record { dir, .. } => Ok(dir.read(store::EXIT)?.as_deref().and_then(init::parse_exit)),
            Origin::Plan(_) => Ok::<_, Error>(None),
        };
        // The OOM killer can have killed the init together with the program.
        let by_oom = || self.cgroup.as_ref()?.oom().map(|_| killed);
        // Another process can write the exit file, or reap the process, shortly after the end.
        for _ in 0..100 {
            let status = noted()?.or_else(|| self.process.pidfd.exit_info().ok().flatten());
            if let Some(status) = status.or_else(by_oom) {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Error::new(
            ErrorKind::State,
            "the container has ended, and its exit status is not known: it had no init with an exit file",
        ))
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
        self.release();
    }

    fn release(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.leave();
        }
        if let Some(held) = self.held.take() {
            std::mem::forget(held);
        }
        self.outcome.get_or_insert(Outcome::unknown());
    }

    /// The path of the container's cgroup, which can be gone.
    pub(crate) fn cgroup_path(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Plan(_) => self.cgroup.as_ref().map(|cgroup| cgroup.cgroup().path()),
            Origin::Record { record, .. } => record.cgroup.as_deref(),
        }
    }

    fn clear(&mut self) -> Result<(), Error> {
        let ended = self.end();
        match self.cgroup.take() {
            Some(cgroup) => ended.and(cgroup.remove()),
            None => ended,
        }
    }

    /// Kills the container's processes and reaps the first.
    fn end(&mut self) -> Result<(), Error> {
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
        result
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        match self.origin {
            Origin::Plan(_) if self.kill_on_drop => {
                let _ = self.end();
                if let Some(cgroup) = self.cgroup.take() {
                    cgroup.remove_soon();
                }
            }
            Origin::Plan(_) => self.release(),
            Origin::Record { .. } => self.cgroup.take().map_or((), ContainerCgroup::leave),
        }
    }
}
