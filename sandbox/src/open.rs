//! Opens a container that another process started.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cgroup_core::Cgroup;
use ns_core::ProcessId;

use crate::bounds::{Bounds, Kill};
use crate::cgroups::ContainerCgroup;
use crate::container::{Container, ContainerRecord, Origin};
use crate::error::{Error, ErrorKind};
use crate::quota::Quotas;
use crate::reap::{ChildProcess, ReapList};
use crate::store::{Entry, Record, Store};

impl Container {
    /// Opens a running container that another process started, by its entry in a store.
    /// Since Linux 5.3; see [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// The handle can wait, signal, freeze, set limits, measure, and start additional processes
    /// with [`exec`](Self::exec). Dropping the handle keeps the container. [`delete`](Self::delete)
    /// kills the container and removes its cgroup; the caller removes the entry. If another process
    /// has the pid of the first process now, that process is not mistaken for it.
    ///
    /// [`wait`](Self::wait) measures the wall time from this call on. It reads the exit status from
    /// the entry's [exit file](crate::store::EXIT), or from the kernel (since Linux 6.15).
    ///
    /// ```no_run
    /// use nspod_sandbox::store::{EXIT, Store};
    /// use nspod_sandbox::{Command, Container, ContainerRecord, Error};
    ///
    /// // One process starts a container and ends.
    /// let store = Store::<ContainerRecord>::open("/run/jobs".as_ref())?;
    /// let (entry, lock) = store.create("web", |_, _| Ok::<_, Error>(false))?.expect("a free name");
    /// let mut command = Command::new("sleep");
    /// command.args(["60"]).exit_file(entry.dir().create(EXIT)?);
    /// command.init(true);
    /// let container = command.spawn()?;
    /// entry.write(&container.record()?)?;
    /// container.detach();
    /// drop(lock);
    ///
    /// // Another process opens it.
    /// let mut container = Container::open(&store, "web")?;
    /// container.signal(libc::SIGTERM)?;
    /// println!("{:?}", container.wait()?.status);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`]: the store has no such container.
    /// - [`ErrorKind::State`]: the container has not been started.
    /// - [`ErrorKind::ProcessEnded`]: the first process has ended.
    /// - [`ErrorKind::InvalidInput`]: the record is not valid.
    pub fn open<R>(store: &Store<R>, name: &str) -> Result<Container, Error>
    where
        R: Record + AsRef<ContainerRecord>,
    {
        let missing =
            || Error::new(ErrorKind::NotFound, "store", format!("there is no container {name}")).on(name);
        Container::of_entry(&store.find(name)?.ok_or_else(missing)?)
    }

    /// Opens a running container by its entry, like [`open`](Self::open).
    /// Since Linux 5.3; see [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub fn of_entry<R>(entry: &Entry<R>) -> Result<Container, Error>
    where
        R: Record + AsRef<ContainerRecord>,
    {
        let name = entry.name();
        let not = |kind, what| Error::new(kind, "open", format!("the container {name} {what}")).on(name);
        let ended = || not(ErrorKind::ProcessEnded, "is not running");
        let complete = entry.record().filter(|record| record.is_complete());
        let record = complete.ok_or_else(|| not(ErrorKind::State, "has not been started"))?.as_ref();
        let pidfd = record.process.open()?.ok_or_else(ended)?;
        let cgroup = match record.cgroup.as_deref().map(Cgroup::open) {
            // The process has moved to another cgroup, or has just ended.
            Some(Err(e)) if e.kind() == cgroup_core::ErrorKind::NotFound => None,
            opened => opened.transpose()?,
        };
        // If the process has not ended, the cgroup does not belong to a later container.
        if pidfd.poll(Some(Duration::ZERO))? {
            return Err(ended());
        }
        let cgroup = cgroup.map(|cgroup| ContainerCgroup::of_running(cgroup, record.pod_cgroup.clone()));
        Ok(Container {
            process: ChildProcess::foreign(record.process.pid, pidfd),
            reaps: ReapList::default(),
            reaped_by: Vec::new(),
            cgroup,
            quotas: Quotas::default(),
            origin: Origin::Record { record: Box::new(record.clone()), dir: entry.dir().clone() },
            exit_file: None,
            held: None,
            watched: None,
            kill: Kill::default(),
            bounds: Bounds::default(),
            counts_net: AtomicBool::new(record.spec.limits.net.is_some()),
            kill_on_drop: true,
            started: Instant::now(),
            outcome: None,
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
            seccomp_listener: None,
        })
    }

    /// Returns the data with which another process can [`open`](Self::open) the container.
    /// See [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
    ///
    /// # Errors
    /// - [`ErrorKind::ProcessEnded`] (`ESRCH`, `ENOENT`): the container has ended and been reaped.
    /// - `EACCES`: `/proc` is mounted with `hidepid` and hides the process.
    pub fn record(&self) -> Result<ContainerRecord, Error> {
        if let Origin::Record { record, .. } = &self.origin {
            return Ok(ContainerRecord::clone(record));
        }
        let process = ProcessId::of(self.pid())?;
        if self.process.known().is_some() {
            // Another process can have the pid.
            let what = "the container cannot be recorded: it has ended and been reaped";
            return Err(Error::new(ErrorKind::ProcessEnded, "record", what).on(self.pid().to_string()));
        }
        Ok(ContainerRecord {
            process,
            cgroup: self.cgroup().map(|cgroup| cgroup.path().to_owned()),
            pod_cgroup: self.cgroup.as_ref().and_then(ContainerCgroup::pod).map(Into::into),
            spec: self.spec().clone(),
        })
    }
}
