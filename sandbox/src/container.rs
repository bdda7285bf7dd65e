//! A running container: a handle of its process and its cgroup.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Limits, Usage};
use ns_core::{ExitStatus, NamespaceSet, Pidfd, ProcessId, Usage as ProcessUsage};
use serde::{Deserialize, Serialize};

use crate::bounds::{Bounds, Kill, Killer};
use crate::cgroups::{ContainerCgroup, explain};
use crate::error::{Error, ErrorKind};
use crate::init;
use crate::outcome::{EndedBy, Outcome, StorageUsage};
use crate::plan::Plan;
use crate::quota::{self, Quotas};
use crate::reap::{self, ChildProcess, End, ReapList};
use crate::spawn::Held;
use crate::spec::Spec;
use crate::store::{self, Dir};
use crate::watch::Watched;

/// Time between attempts to learn the exit status of a process that another process reaps.
const STATUS_PAUSE: Duration = Duration::from_millis(20);

/// A running container.
///
/// The handle owns the first process and the cgroup. A container of the OCI runtime, which is only an id in a
/// state directory, is the type `Container` of the crate nspod-oci-runtime.
///
/// Dropping the handle kills every process in the container and removes its cgroup, unless
/// [`Command::kill_on_drop`](crate::Command::kill_on_drop) was set to `false`. If the first process
/// needs more than 200 ms to end, or the others do, a thread completes the removal: a drop lasts at most
/// 0.4 s, also in a thread of an async runtime. If no thread can start, the cgroup is removed with the end
/// of this program, as if the program were killed ([`Command::die_with_parent`](crate::Command::die_with_parent)). [`detach`](Self::detach) keeps the
/// container.
#[derive(Debug)]
pub struct Container {
    pub(crate) process: Arc<ChildProcess>,
    /// The additional processes that this program starts in the container.
    pub(crate) reaps: ReapList,
    /// The lists of the container or pod that this process was added to.
    pub(crate) reaped_by: Vec<ReapList>,
    pub(crate) cgroup: Option<ContainerCgroup>,
    pub(crate) quotas: Quotas,
    pub(crate) origin: Origin,
    pub(crate) exit_file: Option<Arc<File>>,
    pub(crate) held: Option<Held>,
    /// Set if the container has no cgroup of its own and ends with this program.
    pub(crate) watched: Option<Watched>,
    /// Set by a kill; `delete` need not kill again.
    pub(crate) kill: Kill,
    pub(crate) bounds: Bounds,
    /// Whether the network counters belong to the outcome: the spec or [`update`](Container::update) set
    /// a network limit.
    pub(crate) counts_net: AtomicBool,
    pub(crate) kill_on_drop: bool,
    pub(crate) started: Instant,
    pub(crate) outcome: Option<Outcome>,
    /// The container's standard input, if it is a pipe.
    pub stdin: Option<File>,
    /// The container's standard output, if it is a pipe.
    pub stdout: Option<File>,
    /// The container's standard error, if it is a pipe.
    pub stderr: Option<File>,
    /// The other side of the container's terminal, if it has one.
    pub terminal: Option<File>,
    /// The listener of the container's filter, if the filter has `SCMP_ACT_NOTIFY`
    /// ([seccomp_unotify(2)](https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html)). Hand
    /// it to the supervisor before [`start`](Container::start).
    pub seccomp_listener: Option<OwnedFd>,
}

/// How this program got the handle of a container.
#[derive(Debug)]
pub(crate) enum Origin {
    /// This program started the container with this plan.
    Plan(Arc<Plan>),
    /// This program opened the container by its record. Dropping the handle keeps the container.
    Record {
        /// The record of the container.
        record: Box<ContainerRecord>,
        /// The entry's directory, which can hold the exit file.
        dir: Dir,
    },
}

/// The data with which [`Container::open`] finds a container that another process started.
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
    /// Returns the pid of the first process, which is the [`init`](crate::Command::init) if the container
    /// has one, in the caller's pid namespace; see
    /// [pid_namespaces(7)](https://man7.org/linux/man-pages/man7/pid_namespaces.7.html).
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Returns the pidfd of the first process. Since Linux 5.3; see
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    pub fn pidfd(&self) -> &Pidfd {
        &self.process.pidfd
    }

    /// Returns the container's own cgroup, if it has one. An additional process in a container has
    /// none. See [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref().filter(|cgroup| !cgroup.is_borrowed()).map(ContainerCgroup::cgroup)
    }

    /// Returns the container's spec.
    pub fn spec(&self) -> &Spec {
        match &self.origin {
            Origin::Plan(plan) => plan.spec(),
            Origin::Record { record, .. } => &record.spec,
        }
    }

    /// Returns the identities of the container's eight namespaces; see
    /// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// - `ESRCH`, `ENOENT`: the first process has ended.
    /// - `EACCES`: the caller may not inspect the process
    ///   ([ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html), access mode `PTRACE_MODE_READ_FSCREDS`).
    pub fn namespaces(&self) -> Result<NamespaceSet, Error> {
        Ok(NamespaceSet::of_pidfd(&self.process.pidfd)?)
    }

    /// Starts the program of a held container. Returns when the program is executed.
    /// See [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html).
    ///
    /// ```
    /// use nspod_sandbox::Command;
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let mut container = Command::new("true").hold().spawn()?;
    /// // The namespaces exist: here a caller can configure the network of `container.pid()`.
    /// container.start()?;
    /// assert!(container.wait()?.status.success());
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is not held.
    /// - [`ErrorKind::Killed`]: the held process was killed.
    /// - A step failed, with the errno of its call, for example `ENOENT`
    ///   ([`ErrorKind::ProgramNotFound`]).
    pub fn start(&mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else {
            return Err(self.state("start", "the container has been started already"));
        };
        let Origin::Plan(plan) = &self.origin else {
            return Err(self.state("start", "the container was opened, so it has been started"));
        };
        let exit_file = self.exit_file.as_deref().filter(|_| plan.spec.has_init());
        held.start(plan, self.pidfd(), exit_file).map_err(|e| explain(e, self.cgroup.as_ref()))
    }

    /// Waits for the first process to end, and returns how and why it ended. Another call returns the
    /// same outcome. Since Linux 5.4; see [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html),
    /// `P_PIDFD`.
    ///
    /// # Errors
    /// - `ECHILD`: another part of this program has reaped the process, or the program ignores
    ///   SIGCHLD.
    /// - [`ErrorKind::State`]: the container was [opened](Self::open), and its exit status was not
    ///   recorded.
    pub fn wait(&mut self) -> Result<Outcome, Error> {
        loop {
            if let Some(outcome) = self.wait_for(None)? {
                return Ok(outcome);
            }
        }
    }

    /// Waits like [`wait`](Self::wait), for at most `timeout`. Returns `None` if the process still
    /// runs. See [ppoll(2)](https://man7.org/linux/man-pages/man2/ppoll.2.html).
    ///
    /// ```
    /// use std::time::Duration;
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let mut container = nspod_sandbox::Command::new("sleep").arg("60").spawn()?;
    /// assert!(container.wait_timeout(Duration::from_millis(10))?.is_none());
    /// container.kill()?;
    /// assert_eq!(container.wait()?.status.signal(), Some(libc::SIGKILL));
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// The same as [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome>, Error> {
        self.wait_for(Some(timeout))
    }

    fn wait_for(&mut self, timeout: Option<Duration>) -> Result<Option<Outcome>, Error> {
        if self.outcome.is_none()
            && let Some(end) = self.wait_within_bounds(timeout)?
        {
            let mut attempt = 0;
            let status = loop {
                match self.status(end, attempt)? {
                    Some(status) => break status,
                    None => std::thread::sleep(STATUS_PAUSE),
                }
                attempt += 1;
            };
            self.outcome = Some(self.conclude(status));
        }
        Ok(self.outcome.clone())
    }

    /// Returns the outcome if the first process has ended, and otherwise the time after which the next call is
    /// necessary, if any is before the process ends. `attempt` counts the calls since the end.
    #[cfg(feature = "tokio")]
    pub(crate) fn try_wait(&mut self, attempt: &mut u32) -> Result<Result<Outcome, Option<Duration>>, Error> {
        if let Some(outcome) = &self.outcome {
            return Ok(Ok(outcome.clone()));
        }
        let next = self.enforce()?;
        let Some(end) = self.process.reap()? else {
            let others = self.reaps.next_look();
            return Ok(Err(next.into_iter().chain(others).min()));
        };
        let Some(status) = self.status(end, *attempt)? else {
            *attempt += 1;
            return Ok(Err(Some(STATUS_PAUSE)));
        };
        Ok(Ok(self.outcome.insert(self.conclude(status)).clone()))
    }

    fn wait_within_bounds(&self, timeout: Option<Duration>) -> Result<Option<End>, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let next = self.enforce()?;
            let patience = match (left, next) {
                (Some(left), Some(next)) => Some(left.min(next)),
                (left, next) => left.or(next),
            };
            let end = self.process.wait(&self.reaps, patience)?;
            if end.is_some() || next.is_none() || left == Some(Duration::ZERO) {
                return Ok(end);
            }
        }
    }

    /// Kills the container if it has exceeded [`Command::timeout`](crate::Command::timeout) or
    /// [`Command::cpu_time_max`](crate::Command::cpu_time_max). Returns the time until the next call
    /// is necessary, or `None` if no call is. [`wait`](Self::wait) and
    /// [`wait_timeout`](Self::wait_timeout) do this. A program that waits with its own event loop
    /// calls it.
    /// See `cpu.stat` of [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files).
    ///
    /// # Errors
    /// - As [`kill`](Self::kill).
    /// - `ENODEV`: the cgroup was removed.
    pub fn enforce(&self) -> Result<Option<Duration>, Error> {
        if self.bounds == Bounds::default() || self.kill.reason().is_some() {
            return Ok(None);
        }
        match self.bounds.check(self.started, self.cgroup())? {
            Ok(next) => Ok(next),
            Err(exceeded) => {
                self.kill_for(exceeded)?;
                Ok(None)
            }
        }
    }

    /// Returns the exit status, and the usage if it is known. Returns `None` if the status may be known after
    /// [`STATUS_PAUSE`].
    fn status(&self, end: End, attempt: u32) -> Result<Option<(ExitStatus, Option<ProcessUsage>)>, Error> {
        match end {
            // If a signal ended the program, the init cannot end with this signal. It ends with 128
            // and the signal, and writes the status to a file.
            End::Reaped(exit) => {
                let certain = matches!(exit.status, ExitStatus::Exited(..128));
                let noted = self.exit_file.as_deref().filter(|_| !certain).and_then(init::read_exit);
                Ok(Some((noted.unwrap_or(exit.status), Some(exit.usage))))
            }
            End::Foreign => Ok(self.foreign_status(attempt)?.map(|status| (status, None))),
        }
    }

    fn conclude(&self, (status, usage): (ExitStatus, Option<ProcessUsage>)) -> Outcome {
        let wall_time = self.started.elapsed();
        let cpu = self.cgroup().and_then(|c| c.cpu_stat().ok());
        let peak = self.cgroup().and_then(|c| c.number("memory.peak").ok().flatten());
        // The kernel locks all cgroups while it looks for programs.
        let net = self.cgroup().filter(|_| self.counts_net.load(Ordering::Relaxed));
        let net = net.and_then(|c| c.net_usage().ok().flatten());
        let of_process = usage.map_or(Duration::ZERO, |usage| usage.user + usage.system);
        let oom = self.cgroup.as_ref().and_then(ContainerCgroup::oom);
        let limits_pids = self.spec().limits.pids_max.is_some();
        let pids = self.cgroup().filter(|_| limits_pids).and_then(|c| c.pids_events().ok());
        Outcome {
            status,
            ended_by: self.ended_by(status, oom.is_some()),
            oom,
            pids_refused: pids.and_then(|events| events.max),
            peak_memory: peak.or(usage.map(|usage| usage.max_rss)),
            cpu_time: cpu.as_ref().and_then(|c| c.usage_usec).map_or(of_process, Duration::from_micros),
            throttled_time: Duration::from_micros(cpu.as_ref().and_then(|c| c.throttled_usec).unwrap_or(0)),
            wall_time,
            net,
            storage: self.disk_usage(),
        }
    }

    fn ended_by(&self, status: ExitStatus, oom: bool) -> EndedBy {
        match (status.signal(), self.kill.reason()) {
            (None, _) => EndedBy::Exit,
            (Some(libc::SIGKILL), Some(reason)) => reason,
            (Some(libc::SIGKILL), None) if oom => EndedBy::Oom,
            (Some(_), _) => EndedBy::Signal,
        }
    }

    /// Returns the exit status of a process that this program cannot reap: from the exit file, from
    /// the kernel (since Linux 6.15, after another process has reaped it), or from the OOM counter.
    fn foreign_status(&self, attempt: u32) -> Result<Option<ExitStatus>, Error> {
        let killed = ExitStatus::Signaled { signal: libc::SIGKILL, core_dumped: false };
        let noted = match &self.origin {
            Origin::Record { dir, .. } => dir.read(store::EXIT)?.as_deref().and_then(init::parse_exit),
            Origin::Plan(_) => None,
        };
        // The OOM killer may have killed the init together with the program.
        let by_oom = || self.cgroup.as_ref()?.oom().map(|_| killed);
        // Another process may write the exit file, or reap the process, shortly after the end. The
        // counter comes last: it also counts a process that the first one outlived.
        let status = noted.or_else(|| self.process.pidfd.exit_info().ok().flatten());
        let status = status.or_else(|| by_oom().filter(|_| attempt >= 10));
        if status.is_none() && attempt >= 100 {
            let what =
                "the container has ended, and its exit status is not known: it had no init with an exit file";
            return Err(self.state("process", what));
        }
        Ok(status)
    }

    /// Sends a signal to the first process. Since Linux 5.1; see
    /// [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html). An init
    /// forwards all signals to the program except SIGCHLD, SIGKILL, which ends the container, and SIGSTOP,
    /// which stops only the init: use [`freeze`](Self::freeze). Without an init, the first process of a pid
    /// namespace receives only signals that it handles, SIGKILL and SIGSTOP:
    /// [pid_namespaces(7)](https://man7.org/linux/man-pages/man7/pid_namespaces.7.html).
    ///
    /// # Errors
    /// - `ESRCH`: the process has ended and been reaped.
    /// - `EINVAL`: the signal does not exist.
    /// - `EPERM`: the process has another uid, and the caller lacks CAP_KILL in its user namespace.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        Ok(self.process.pidfd.send_signal(signal)?)
    }

    /// Kills every process in the container with SIGKILL, and does not wait for their end. For an
    /// additional process in another container, kills only this process.
    ///
    /// Uses `cgroup.kill` (since Linux 5.14;
    /// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files)). Without a
    /// cgroup, kills the first process; if it is process 1 of a pid namespace, the others end with
    /// it.
    ///
    /// # Errors
    /// - `EPERM`, `EACCES`: the caller may not kill the processes.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed.
    pub fn kill(&self) -> Result<(), Error> {
        self.kill_for(EndedBy::Cancelled)
    }

    pub(crate) fn kill_for(&self, reason: EndedBy) -> Result<(), Error> {
        self.kill.perform(reason, || match self.cgroup() {
            Some(cgroup) => Ok(cgroup.kill()?),
            None => self.process.kill(),
        })
    }

    /// Returns a handle with which another thread can kill the container.
    /// See [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), `F_DUPFD_CLOEXEC`.
    ///
    /// # Errors
    /// `EMFILE`: no descriptor is free.
    pub fn killer(&self) -> Result<Killer, Error> {
        let cgroup = self.cgroup().map(Cgroup::try_clone).transpose()?;
        Ok(Killer { process: self.process.clone(), cgroup: cgroup.map(Arc::new), kill: self.kill.clone() })
    }

    /// Stops every process in the container. The processes cannot detect it. Returns when all have
    /// stopped. Since Linux 5.2; see `cgroup.freeze` of
    /// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// Do not freeze while [`exec`](Self::exec) starts a process in this container. A process that
    /// starts in a frozen cgroup stops before it executes its program. If it shares memory with the
    /// thread that starts it, that thread is suspended until [`thaw`](Self::thaw), and only SIGKILL
    /// interrupts it. `exec` rejects a frozen container, but cannot detect a freeze between its
    /// check and the clone.
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container does not have its own cgroup.
    /// - [`ErrorKind::TimedOut`] after 10 s: a process is in an uninterruptible system call. It stops
    ///   when the call returns.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed.
    /// - `EACCES`: the caller may not write to the cgroup's file.
    pub fn freeze(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("freeze the container")?.freeze()?)
    }

    /// Lets the container's processes continue. Since Linux 5.2.
    /// Since Linux 5.2: `cgroup.freeze` of
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// # Errors
    /// The same as [`freeze`](Self::freeze). [`ErrorKind::TimedOut`] after 10 s: a cgroup above is
    /// frozen.
    pub fn thaw(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("thaw the container")?.thaw()?)
    }

    /// Changes the container's limits. Limits that are `None` stay unchanged. The fields of [`Limits`]
    /// have the units and the kernel versions. See
    /// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container does not have its own cgroup.
    /// - [`ErrorKind::Unenforceable`]: this host cannot enforce a limit; [`Error::field`] names it.
    /// - [`ErrorKind::InvalidInput`], `EINVAL`, `ERANGE`: a value is out of range.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed, or a block device does not exist.
    /// - `EACCES`: the caller may not write to a file of the cgroup.
    pub fn update(&self, limits: &Limits) -> Result<(), Error> {
        crate::cgroups::limit(self.need_cgroup("change the limits")?, limits)?;
        self.counts_net.fetch_or(limits.net.is_some(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns the container's resource usage. The fields of [`Usage`] have the units. See
    /// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container does not have its own cgroup.
    /// - `ENODEV`, `ENOENT`: the cgroup was removed.
    pub fn usage(&self) -> Result<Usage, Error> {
        Ok(self.need_cgroup("read the resource usage")?.usage()?)
    }

    /// Returns the usage of the root and the mounts that have a [`StorageLimit`]. Places in memory
    /// are left out after the first process has ended. See
    /// [quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html) and
    /// [statfs(2)](https://man7.org/linux/man-pages/man2/statfs.2.html).
    ///
    /// [`StorageLimit`]: crate::spec::StorageLimit
    pub fn storage(&self) -> Vec<StorageUsage> {
        let mut all = self.disk_usage();
        all.extend(quota::usage_in_memory(self.spec(), self.pid()));
        all
    }

    fn disk_usage(&self) -> Vec<StorageUsage> {
        match &self.origin {
            Origin::Plan(_) => self.quotas.usage(),
            Origin::Record { record, dir } if record.spec.limits_directories() => {
                quota::storage_of_ended(dir.path())
            }
            Origin::Record { .. } => Vec::new(),
        }
    }

    pub(crate) fn need_cgroup(&self, what: &str) -> Result<&Cgroup, Error> {
        self.cgroup().ok_or_else(|| {
            let why = match &self.cgroup {
                Some(_) => "the process was started in an existing cgroup, which other processes share: use the handle of the container that the cgroup belongs to".to_owned(),
                None => format!(
                    "the container does not have its own cgroup; {}",
                    nspod_errno::how_to_get_a_cgroup()
                ),
            };
            self.state("cgroup", format!("cannot {what}: {why}"))
        })
    }

    /// Makes the error of a container in a state that does not allow the step.
    fn state(&self, step: &'static str, sentence: impl Into<String>) -> Error {
        let object = match &self.origin {
            Origin::Plan(_) => self.pid().to_string(),
            Origin::Record { dir, .. } => dir.path().display().to_string(),
        };
        Error::new(ErrorKind::State, step, sentence).on(object)
    }

    /// Kills every process in the container, reaps the first process, and removes its cgroup with all
    /// cgroups below.
    /// See [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#organizing-processes-and-threads).
    ///
    /// # Errors
    /// - As [`kill`](Self::kill).
    /// - `EBUSY` ([`ErrorKind::Busy`]): a process did not end in 5 s, because
    ///   it is in an uninterruptible system call.
    pub fn delete(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Drops the handle and keeps the container, also after the end of this program. A held container stays
    /// held while this program lives.
    ///
    /// An extended attribute of the container's cgroup marks it for [`reap_stale`](crate::reap_stale). If the
    /// attribute cannot be set, `reap_stale` removes the container after the end of this program. Without
    /// CAP_SYS_ADMIN in the initial user namespace, a container that can write to its cgroup can cause this. A
    /// container that was started with [`kill_on_drop(false)`](crate::Command::kill_on_drop) needs no mark.
    pub fn detach(mut self) {
        self.release();
    }

    fn release(&mut self) {
        self.watched = None;
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.leave();
        }
        if let Some(held) = self.held.take() {
            std::mem::forget(held);
        }
        self.quotas.leave();
        self.outcome.get_or_insert(Outcome::unknown());
    }

    /// Returns the path of the container's cgroup, which may no longer exist.
    pub(crate) fn cgroup_path(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Plan(_) => self.cgroup.as_ref().map(|cgroup| cgroup.cgroup().path()),
            Origin::Record { record, .. } => record.cgroup.as_deref(),
        }
    }

    fn clear(&mut self) -> Result<(), Error> {
        let ended = self.end();
        let removed = match self.cgroup.take() {
            Some(cgroup) => ended.and(cgroup.remove()),
            None => ended,
        };
        removed.and(self.quotas.release())
    }

    /// Kills the container's processes and reaps the first process.
    fn end(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        if self.outcome.is_none() {
            result = self.begin_end();
            reap::reap(self.process.clone(), &self.reaps);
            self.outcome = Some(Outcome::unknown());
        }
        self.held = None;
        result
    }

    /// Kills the container's processes, unless they were killed or the first process was reaped.
    pub(crate) fn begin_end(&mut self) -> Result<(), Error> {
        self.held = None;
        if self.outcome.is_some() || self.kill.is_done() {
            return Ok(());
        }
        // If the pod was deleted, the cgroup is gone and the process is dead but not reaped.
        self.kill().or_else(|_| self.process.kill())
    }

    /// Kills all processes of the container.
    #[cfg(feature = "tokio")]
    pub(crate) fn begin_removal(&mut self) -> Result<(), Error> {
        let ended = self.outcome.is_some() && !self.kill.is_done();
        match self.cgroup().filter(|_| ended) {
            // The first process has ended, and others may remain.
            Some(cgroup) if cgroup.events().is_ok_and(|events| events.populated) => Ok(cgroup.kill()?),
            _ => self.begin_end(),
        }
    }

    /// Returns whether the first process was reaped and the container's cgroup has no process.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_gone(&mut self) -> Result<bool, Error> {
        if self.outcome.is_none() {
            self.reaps.next_look();
            match self.process.reap() {
                Ok(None) => return Ok(false),
                // Another part of this program, or the kernel for a program that ignores SIGCHLD, has reaped it.
                Err(e) if e.raw_os_error() != Some(libc::ECHILD) => return Err(e),
                _ => {}
            }
            self.outcome = Some(Outcome::unknown());
        }
        // The events of a cgroup that was removed cannot be read.
        Ok(self.cgroup().and_then(|cgroup| cgroup.events().ok()).is_none_or(|events| !events.populated))
    }

    /// Returns whether dropping the handle kills the container.
    #[cfg(feature = "tokio")]
    pub(crate) fn ends_on_drop(&self) -> bool {
        matches!(self.origin, Origin::Plan(_)) && self.kill_on_drop
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
            Origin::Plan(_) => {
                if let Some(watched) = self.watched.take() {
                    watched.keep();
                }
                if let Some(cgroup) = self.cgroup.take() {
                    cgroup.leave_tied();
                }
                self.release();
            }
            Origin::Record { .. } => self.cgroup.take().map_or((), ContainerCgroup::leave_tied),
        }
        self.reaped_by.iter().for_each(ReapList::forget_ended);
    }
}
