//! Containers by id, and the operations that do not start a process.

use cgroup_core::{CpuMax, Limits, Max, Usage};
use ns_core::Kind;
use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::config;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{OciRecord, State, Status};
use crate::runtime::Runtime;
use crate::state::{self, Entry};
use crate::{cgroup, cleanup, hooks};

/// A container of a runtime, identified by its id.
///
/// A [`nspod_sandbox::Container`] owns the process and the cgroup of a container; this type only names an entry in
/// the state directory.
/// The handle has no open descriptor and can be cloned. Each method reads the state from the state directory.
/// Methods that change the container lock it during the change. Dropping the handle has no effect on the
/// container.
///
/// Linux 5.14 or later.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md).
#[derive(Debug, Clone)]
pub struct Container {
    pub(crate) runtime: Runtime,
    pub(crate) id: String,
}

/// Changes to the limits of a container, for [`Container::update`].
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups).
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// Limits to change, as in `linux.resources`; [`config::parse_resources`] parses them. A limit
    /// that is not set here stays as it is.
    pub resources: LinuxResources,
    /// Line for `schemata` with the shares of the L3 cache, such as `L3:0=f`. The configuration must have
    /// `linux.intelRdt`.
    pub l3_cache_schema: Option<String>,
    /// Line for `schemata` with the shares of memory bandwidth, such as `MB:0=50`. The configuration
    /// must have `linux.intelRdt`.
    pub mem_bw_schema: Option<String>,
}

impl Container {
    /// Returns a handle of the container with this id. It does not check that the container exists:
    /// the methods return [`ErrorKind::NotFound`] if it does not.
    pub fn new(runtime: &Runtime, id: impl Into<String>) -> Container {
        Container { runtime: runtime.clone(), id: id.into() }
    }

    /// Returns the states of all containers of a runtime, sorted by id. Logs and leaves out a container
    /// with an unreadable record.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state).
    ///
    /// ```
    /// use nspod_oci_runtime::{Container, Runtime};
    /// let dir = tempfile::tempdir().unwrap();
    /// assert!(Container::list(&Runtime::new(dir.path().join("state")))?.is_empty());
    /// # Ok::<(), nspod_oci_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::PermissionDenied`] (`EACCES`): the state directory cannot be read or created.
    /// - `EMFILE`, `EACCES`: a status cannot be determined.
    pub fn list(runtime: &Runtime) -> Result<Vec<State>> {
        runtime.store()?.all()?.iter().map(|entry| Ok(entry.record()?.state(entry.status()?))).collect()
    }

    /// Returns the ids of all containers of a runtime, sorted.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#scope-of-a-container).
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] (`EACCES`): the state directory cannot be read or created.
    pub fn ids(runtime: &Runtime) -> Result<Vec<String>> {
        Ok(runtime.store()?.all()?.iter().map(|entry| entry.id().to_owned()).collect())
    }

    /// Returns the id.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn entry(&self) -> Result<Entry> {
        self.runtime.store()?.find(&self.id)
    }

    /// Returns the state.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#query-state).
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`]: the container does not exist. [`ErrorKind::InvalidInput`]: the id is not
    ///   valid. All methods of a container return these two.
    /// - [`ErrorKind::PermissionDenied`] (`EACCES`), [`ErrorKind::InvalidInput`]: the record cannot be read.
    /// - `EMFILE`, `EACCES`: the status cannot be determined.
    pub fn state(&self) -> Result<State> {
        let entry = self.entry()?;
        Ok(entry.record()?.state(entry.status()?))
    }

    /// Starts the program of a created container, and runs the poststart hooks. Returns when the
    /// program has been executed.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#start).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is not in the status `Created`.
    /// - [`ErrorKind::ProgramNotFound`], [`ErrorKind::ProgramNotExecutable`]: the program cannot be
    ///   executed.
    /// - [`ErrorKind::HookFailed`]: a poststart hook failed, and the container has been stopped.
    pub fn start(&self) -> Result<()> {
        let (entry, _lock) = self.runtime.store()?.lock(&self.id)?;
        let record = entry.record()?;
        let problem = match entry.status()? {
            Status::Created => None,
            Status::Stopped => Some("cannot start a container that has stopped".to_owned()),
            Status::Running => Some("cannot start an already running container".to_owned()),
            status => Some(format!("cannot start a container in the {status} state")),
        };
        if let Some(problem) = problem {
            return Err(Error::state(&self.id, "start", problem));
        }
        nspod_sandbox::start_held(entry.dir().path())?;
        log::debug!("the container's process {} runs", record.init_process_pid);
        hooks::poststart(&entry, record).map_err(|e| match cleanup::stop(record) {
            Ok(()) => e,
            Err(alive) => e.with_hint(format_args!("and the container could not be stopped: {alive}")),
        })
    }

    /// Sends a signal to the first process; with `all`, to all processes of the container. Signals are the
    /// numbers of [signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html).
    ///
    /// If the container shares its pid namespace, SIGKILL always goes to all its processes, because they do
    /// not end with the first one.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#kill).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the first process has ended; with `all`, the container has no cgroup.
    /// - `EPERM`: the caller may not signal the process. `EINVAL`: the signal does not exist. With `all`,
    ///   the other processes have got the signal. See
    ///   [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html).
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let entry = self.entry()?;
        let record = entry.record()?;
        if all {
            return kill_all(record, signal);
        }
        if signal == libc::SIGKILL && record.cgroup_path().is_some() && self.shares_pid(&entry)? {
            return kill_all(record, signal);
        }
        let process = record.pidfd()?.ok_or_else(|| not_running(&self.id, "kill"))?;
        log::debug!("send signal {signal} to process {}", record.init_process_pid);
        match process.send_signal(signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(not_running(&self.id, "kill")),
            other => Ok(other?),
        }
    }

    /// Returns whether the container has no pid namespace of its own.
    fn shares_pid(&self, entry: &Entry) -> Result<bool> {
        let config = entry.config()?;
        let context = self.runtime.context(&entry.record()?.bundle, &self.id);
        Ok(!config.container_spec(&context)?.spec.namespaces.is_new(Kind::Pid))
    }

    /// Deletes the container: its cgroup, its state and all objects that the start has created. Then runs
    /// the poststop hooks. With `force`, kills its processes first, and succeeds if the container does not
    /// exist.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#delete).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container runs or is paused, and `force` is false.
    /// - [`ErrorKind::TimedOut`]: a killed process has not ended after 10 s.
    /// - [`ErrorKind::Busy`] (`EBUSY`): the cgroup cannot be removed. The errno of rmdir(2) or umount2(2):
    ///   the resctrl group or the mount of the root cannot be removed.
    pub fn delete(&self, force: bool) -> Result<()> {
        let store = self.runtime.store()?;
        let (entry, lock) = match store.lock(&self.id) {
            // Another process may have deleted it already.
            Err(e) if force && e.kind() == ErrorKind::NotFound => return Ok(()),
            locked => locked?,
        };
        let (status, process) = entry.look()?;
        let Ok(record) = entry.record() else {
            // A start crashed when only the directory existed, or one in another process has not locked it yet, and
            // makes it again.
            store.remove(&entry, &lock)?;
            return if force { Ok(()) } else { Err(state::missing(&self.id)) };
        };
        let may = matches!(status, Status::Stopped | Status::Created | Status::Creating);
        if !may && !force {
            let problem = format!("cannot delete container {} that is not stopped: {status}", self.id);
            return Err(Error::state(&self.id, "delete", problem));
        }
        log::debug!("delete the container {}, which is {status}", self.id);
        if let Some(process) = process {
            cleanup::kill_init(record, &process)?;
        }
        cleanup::remove(record)?;
        cleanup::forget(&store, &entry, record, &lock, || {})
    }

    /// Freezes all processes of the container. Returns when they are frozen.
    ///
    /// Since Linux 5.2: `cgroup.freeze` of
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is neither running nor created, or has no cgroup.
    /// - [`ErrorKind::TimedOut`]: the processes have not stopped after 10 s.
    pub fn pause(&self) -> Result<()> {
        let (entry, _lock) = self.runtime.store()?.lock(&self.id)?;
        let record = entry.record()?;
        match entry.status()? {
            Status::Running | Status::Created => Ok(record.cgroup()?.freeze()?),
            status => {
                let problem = format!("container not running or created: {status}");
                Err(Error::state(&self.id, "pause", problem))
            }
        }
    }

    /// Lets the processes of a paused container continue.
    ///
    /// Since Linux 5.2: `cgroup.freeze` of
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is not paused.
    /// - [`ErrorKind::TimedOut`]: an ancestor of the cgroup is frozen.
    pub fn resume(&self) -> Result<()> {
        let (entry, _lock) = self.runtime.store()?.lock(&self.id)?;
        match entry.status()? {
            Status::Paused => Ok(entry.record()?.cgroup()?.thaw()?),
            status => Err(Error::state(&self.id, "resume", format!("container not paused: {status}"))),
        }
    }

    /// Changes limits of the container. [`Limits`] documents the first kernel version of each.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is stopped, or has no resctrl group.
    /// - [`ErrorKind::InvalidConfig`]: cgroup v2 has no such limit, or `memory.checkBeforeUpdate` forbids
    ///   the new limit.
    /// - `EINVAL`, `ERANGE`, `EACCES`: the kernel rejects a limit, or a line of the resctrl group. [`Error::field`](crate::Error::field) names
    ///   the file of the limit.
    /// - [`ErrorKind::HelperFailed`]: systemd rejects a limit.
    pub fn update(&self, options: &UpdateOptions) -> Result<()> {
        let (entry, _lock) = self.runtime.store()?.lock(&self.id)?;
        if entry.status()? == Status::Stopped {
            return Err(not_running(&self.id, "update"));
        }
        let record = entry.record()?;
        let given = &options.resources;
        let (mut limits, devices) = config::resources(given)?;
        if let Some(cpu) = given.cpu() {
            keep_half(cpu, record, &mut limits)?;
        }
        if given.memory().is_some_and(|memory| memory.check_before_update() == Some(true)) {
            check_memory_in_use(record, limits.memory_max)?;
        }
        if options.l3_cache_schema.is_some() || options.mem_bw_schema.is_some() {
            write_schemata(options, record)?;
        }
        if !limits.is_empty() {
            cgroup::update(record, &limits)?;
        }
        if let Some(rules) = devices {
            record.cgroup()?.replace_devices(&rules)?;
        }
        Ok(())
    }

    /// Returns the pids of all processes of the container, in the caller's pid namespace. Empty if
    /// the cgroup has been removed. Reads `cgroup.procs`, since Linux 4.5; see
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    ///
    /// # Errors
    /// [`ErrorKind::State`]: the container has no cgroup of its own.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let entry = self.entry()?;
        match entry.record()?.cgroup()?.procs_recursive() {
            Ok(pids) => Ok(pids),
            Err(e) if cgroup::is_gone(&e) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    /// Returns the resources that the container uses. [`Usage`] documents units and the first kernel
    /// version of each value; see
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container has no cgroup of its own.
    /// - [`ErrorKind::NotFound`]: the cgroup has been removed.
    pub fn usage(&self) -> Result<Usage> {
        Ok(self.entry()?.record()?.cgroup()?.usage()?)
    }
}

fn not_running(id: &str, step: &'static str) -> Error {
    Error::new(ErrorKind::State, step, "container not running").on(id)
}

/// Sends a signal to all processes in the cgroup, even if the first process has ended.
fn kill_all(record: &OciRecord, signal: i32) -> Result<()> {
    log::debug!("send signal {signal} to all processes of the container");
    let cgroup = record.cgroup()?;
    let done = match signal {
        libc::SIGKILL => cgroup.kill(),
        _ => cgroup.signal(signal),
    };
    match done {
        Err(e) if cgroup::is_gone(&e) => Ok(()),
        other => Ok(other?),
    }
}

/// Keeps the period if only the quota is given, and the quota if only the period is.
fn keep_half(cpu: &LinuxCpu, record: &OciRecord, limits: &mut Limits) -> Result<()> {
    let Some(max) = &mut limits.cpu_max else { return Ok(()) };
    let Some(text) = record.cgroup()?.read_if_there("cpu.max")? else { return Ok(()) };
    let now: CpuMax = text.parse()?;
    if cpu.period().unwrap_or(0) == 0 {
        max.period = now.period;
    }
    if cpu.quota().unwrap_or(0) == 0 {
        max.quota = now.quota;
    }
    Ok(())
}

/// Checks that the new limit is above the memory in use: below it, the kernel would kill processes.
fn check_memory_in_use(record: &OciRecord, max: Option<Max>) -> Result<()> {
    let Some(Max::Value(max)) = max else { return Ok(()) };
    let used = record.cgroup()?.read_if_there("memory.current")?;
    match used.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(used) if max <= used => {
            let problem = format!(
                "{max} bytes are not more than the {used} bytes in use, as memory.checkBeforeUpdate \
                 requires: name a higher limit, or leave the check out"
            );
            Err(Error::invalid("memory.limit", problem))
        }
        _ => Ok(()),
    }
}

fn write_schemata(options: &UpdateOptions, record: &OciRecord) -> Result<()> {
    let group = record.intel_rdt_path.as_ref().ok_or_else(|| {
        let problem = "--l3-cache-schema, --mem-bw-schema: the container has no resctrl group: its \
                       configuration has no linux.intelRdt";
        Error::state(&record.id, "resctrl", problem)
    })?;
    let path = group.join("schemata");
    for line in [&options.l3_cache_schema, &options.mem_bw_schema].into_iter().flatten() {
        std::fs::write(&path, format!("{line}\n"))
            .map_err(|e| Error::io("resctrl", "write the schema to", &path, &e))?;
    }
    Ok(())
}
