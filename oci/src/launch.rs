//! `create` and `run`: create a container from a bundle.

use std::fs::File;
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cgroup_core::{Cgroup, Limits};
use ns_core::{ExitStatus, ProcessId};
use nspod_sandbox::spec::{Mount, MountKind, NamespaceMode, Spec};
use nspod_sandbox::store::Lock;
use nspod_sandbox::{Command, Container as SandboxContainer};

use crate::bundle::{Bundle, check_root};
use crate::cgroup::{self, CgroupPlace};
use crate::config::ContainerSpec;
use crate::container::Container;
use crate::error::{Error, ErrorKind, Result};
use crate::inherit::InheritedFds;
use crate::prestart::{PreStart, PreStartOutcome};
use crate::record::{OciRecord, Status};
use crate::runtime::Runtime;
use crate::state::{Entry, Store};
use crate::{cleanup, hooks, pid_file, program, socket, streams};

/// Options of [`Container::create`] and [`Container::run`].
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#create).
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// Socket that receives the master end of the terminal, as a descriptor in a message. Required by
    /// `create` and a detached `run` if `process.terminal` is true, and not permitted otherwise.
    pub console_socket: Option<PathBuf>,
    /// Socket that receives a pidfd of the first process.
    pub pidfd_socket: Option<PathBuf>,
    /// File to which the pid of the first process is written.
    pub pid_file: Option<PathBuf>,
    /// Whether the container enters its root by chroot(2). By default it does by pivot_root(2), which
    /// cannot leave an initramfs.
    pub no_pivot: bool,
    /// Whether the container stays in the caller's session keyring; see
    /// [session-keyring(7)](https://man7.org/linux/man-pages/man7/session-keyring.7.html).
    pub no_new_keyring: bool,
    /// Descriptors that the container inherits.
    pub inherited: InheritedFds,
    /// Socket of a service manager to bind-mount into the container at the same path: `NOTIFY_SOCKET` of
    /// [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html). A relative path has no
    /// effect.
    pub notify_socket: Option<PathBuf>,
}

/// Whether the program waits for `start`, and whether the caller waits for the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunMode {
    /// The program waits for `start`, by this process or another.
    Held,
    /// The program runs, and the caller does not wait for it.
    Detached,
    /// The program runs, and the caller waits for it.
    Foreground,
}

impl Container {
    /// Creates a container from a bundle. Its program waits for [`start`](Self::start). Any process can call
    /// `start`, so the caller may exit.
    ///
    /// Linux 5.14 or later.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#create).
    ///
    /// # Errors
    /// In each case nothing of the container is left.
    /// - [`ErrorKind::AlreadyExists`]: a container with this id exists. [`ErrorKind::InvalidInput`]: the id is not
    ///   valid.
    /// - [`ErrorKind::InvalidConfig`]: the configuration has an unsupported field.
    /// - [`ErrorKind::ProgramNotFound`], [`ErrorKind::ProgramNotExecutable`]: the program cannot be
    ///   executed.
    /// - [`ErrorKind::HookFailed`]: a hook failed or ran into its timeout.
    /// - [`ErrorKind::Killed`]: the first process was killed before it executed the program.
    /// - Otherwise a step of the start failed, or the kernel rejects a limit or a device: the kind is that
    ///   of the errno, and [`Error::report`] has the step.
    pub fn create(runtime: &Runtime, id: &str, bundle: &Bundle, options: CreateOptions) -> Result<Container> {
        let launched = Launched::new(runtime, id, bundle, options, RunMode::Held)?;
        launched.process.detach();
        Ok(Container::new(runtime, id))
    }

    /// Creates a container from a bundle and starts its program. The container outlives the caller.
    ///
    /// Linux 5.14 or later.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#lifecycle).
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`start`](Self::start).
    pub fn run(runtime: &Runtime, id: &str, bundle: &Bundle, options: CreateOptions) -> Result<Container> {
        let launched = Launched::new(runtime, id, bundle, options, RunMode::Detached)?;
        launched.poststart()?.process.detach();
        Ok(Container::new(runtime, id))
    }

    /// Creates a container from a bundle and starts its program, for a caller that waits for its end.
    ///
    /// ```no_run
    /// use nspod_oci_runtime::{Bundle, Container, CreateOptions, Runtime};
    /// let (runtime, bundle) = (Runtime::new("/run/my-shim"), Bundle::open("/bundles/web")?);
    /// let mut web = Container::run_foreground(&runtime, "web", &bundle, CreateOptions::default())?;
    /// println!("{}", web.process.wait()?.status);
    /// web.delete(|| {})?;
    /// # Ok::<(), nspod_oci_runtime::Error>(())
    /// ```
    ///
    /// Linux 5.14 or later.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#lifecycle).
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`start`](Self::start).
    pub fn run_foreground(
        runtime: &Runtime,
        id: &str,
        bundle: &Bundle,
        options: CreateOptions,
    ) -> Result<Foreground> {
        let launched = Launched::new(runtime, id, bundle, options, RunMode::Foreground)?;
        let Launched { process, terminal, claimed } = launched.poststart()?;
        let Claimed { entry, record, store, .. } = claimed;
        Ok(Foreground { process, terminal, entry, record, store })
    }
}

/// A running container for which the caller waits. Dropping the handle kills the container.
#[derive(Debug)]
pub struct Foreground {
    /// The first process.
    pub process: SandboxContainer,
    /// Master end of the terminal, if the container has one and no console socket was given.
    pub terminal: Option<File>,
    entry: Arc<Entry>,
    record: OciRecord,
    store: Store,
}

impl Foreground {
    /// Drops the handle without killing the container. The container keeps its state.
    pub fn keep(self) {
        self.process.detach();
    }

    /// Deletes the container and runs its poststop hooks. Calls `before_hooks` before the hooks, because
    /// hooks can run for a long time.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#delete).
    ///
    /// # Errors
    /// As [`Container::delete`].
    pub fn delete(self, before_hooks: impl FnOnce()) -> Result<()> {
        let Foreground { process, entry, record, store, .. } = self;
        let lock = store.lock_again(&entry)?;
        let mut deleted = process.delete().map_err(Into::into);
        if let Some(lock) = lock {
            if deleted.is_ok() && record.needs_cleanup() {
                deleted = cleanup::remove(&record);
            }
            cleanup::forget(&store, &entry, &record, &lock, before_hooks)?;
        }
        deleted
    }
}

/// A claimed id for a bundle, with the lock of its entry.
pub(crate) struct Claimed {
    pub(crate) wanted: ContainerSpec,
    place: CgroupPlace,
    pub(crate) entry: Arc<Entry>,
    pub(crate) record: OciRecord,
    pub(crate) store: Store,
    pub(crate) lock: Lock,
}

impl Claimed {
    /// Converts the configuration, claims the id, and writes the record.
    pub(crate) fn new(
        runtime: &Runtime,
        id: &str,
        bundle: &Bundle,
        options: &CreateOptions,
    ) -> Result<Claimed> {
        let (no_new_keyring, no_pivot) = (options.no_new_keyring, options.no_pivot);
        let context = runtime.context(bundle.path(), id);
        let context = crate::config::Context { no_new_keyring, no_pivot, ..context };
        let mut wanted = bundle.config().container_spec(&context)?;
        wanted.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        log::debug!("container {id}: bundle {}, root {:?}", bundle.path().display(), wanted.spec.root);
        bundle.check_mount_label()?;
        check_root(&wanted.spec.root)?;
        let store = runtime.store()?;
        let (entry, lock) = store.create(id)?;
        let mut record = OciRecord::new(id, bundle.path().to_owned());
        record.rootless = context.rootless;
        record.owner = owner();
        record.annotations = mem::take(&mut wanted.annotations);
        record.poststart = mem::take(&mut wanted.hooks.poststart);
        record.poststop = mem::take(&mut wanted.hooks.poststop);
        record.set_root(&wanted.spec.root);
        if wanted.spec.mounts_stay && wanted.spec.namespaces.mnt == NamespaceMode::Host {
            record.root_mount = Some((cleanup::mount_id(&record.rootfs)?, None));
        }
        let place = CgroupPlace::Caller;
        let mut claimed = Claimed { wanted, place, entry: Arc::new(entry), record, store, lock };
        match claimed.write(runtime, id, bundle) {
            Ok(()) => Ok(claimed),
            Err(e) => Err(claimed.give_up(e)),
        }
    }

    /// Chooses the cgroup, and writes the record, which must list what to remove after a crash.
    fn write(&mut self, runtime: &Runtime, id: &str, bundle: &Bundle) -> Result<()> {
        self.place = cgroup::place(runtime, &self.wanted, id, &mut self.record)?;
        log::debug!("{}", self.place);
        // A reader that finds the record also reads the configuration.
        self.entry.write_config(bundle.json())?;
        self.entry.write(&self.record)
    }

    /// Creates the cgroup, for processes that the sandbox does not start.
    pub(crate) fn make_cgroup(&mut self) -> Result<Option<Cgroup>> {
        let made = self.place.make(&self.wanted.spec)?;
        if let Some(cgroup) = &made {
            self.record.set_cgroup_path(cgroup.path());
        }
        Ok(made)
    }

    /// Keeps the cgroup for the processes that have been moved into it.
    pub(crate) fn release_cgroup(&mut self) -> Result<()> {
        match mem::replace(&mut self.place, CgroupPlace::Caller) {
            CgroupPlace::Scope(scope) => scope.release(),
            _ => Ok(()),
        }
    }

    /// Removes a container that has been started and killed, and runs its poststop hooks. Returns
    /// `why`.
    pub(crate) fn give_up_started(&self, why: Error) -> Error {
        self.entry.hooked.store(true, Ordering::Relaxed);
        self.give_up(why)
    }

    /// Removes a container that could not be created. Returns `why`.
    pub(crate) fn give_up(&self, why: Error) -> Error {
        let hooked = self.entry.hooked.load(Ordering::Relaxed);
        let removed = if self.record.needs_cleanup() { cleanup::remove(&self.record) } else { Ok(()) };
        let forgotten = removed.and_then(|()| match hooked {
            true => cleanup::forget(&self.store, &self.entry, &self.record, &self.lock, || {}),
            false => self.store.remove(&self.entry, &self.lock),
        });
        if let Err(e) = forgotten {
            log::warn!("{e}");
        }
        why
    }
}

/// A container that has been started or is held.
struct Launched {
    process: SandboxContainer,
    /// Master end of the terminal, unless it was sent to a socket.
    terminal: Option<File>,
    claimed: Claimed,
}

impl Launched {
    fn new(
        runtime: &Runtime,
        id: &str,
        bundle: &Bundle,
        options: CreateOptions,
        mode: RunMode,
    ) -> Result<Launched> {
        let mut claimed = Claimed::new(runtime, id, bundle, &options)?;
        match launch(options, mode, &mut claimed) {
            Ok((process, terminal)) => Ok(Launched { process, terminal, claimed }),
            Err(e) => Err(claimed.give_up(e)),
        }
    }

    /// Runs the poststart hooks. If one fails, removes the container.
    fn poststart(self) -> Result<Launched> {
        match hooks::poststart(&self.claimed.entry, &self.claimed.record) {
            Ok(()) => Ok(self),
            Err(e) => {
                if let Err(e) = self.process.delete() {
                    log::warn!("{e}");
                }
                Err(self.claimed.give_up_started(e))
            }
        }
    }
}

/// Connects to the console socket if one is given and the container has a terminal.
pub(crate) fn console(
    options: &CreateOptions,
    has_terminal: bool,
    mode: RunMode,
) -> Result<Option<UnixStream>> {
    let problem = match (&options.console_socket, has_terminal) {
        (None, true) if mode != RunMode::Foreground => {
            "cannot allocate tty if nspod-oci will detach without setting console socket: give \
             --console-socket, or set process.terminal to false"
        }
        (Some(_), false) => {
            "cannot use console socket if nspod-oci will not detach or allocate tty: leave \
             --console-socket out, or set process.terminal"
        }
        (path, _) => return path.as_deref().map(socket::connect_console).transpose(),
    };
    Err(Error::new(ErrorKind::InvalidInput, "options", problem))
}

/// Starts the container, or holds it before its program.
fn launch(
    options: CreateOptions,
    mode: RunMode,
    claimed: &mut Claimed,
) -> Result<(SandboxContainer, Option<File>)> {
    let Claimed { wanted, place, entry, record, .. } = claimed;
    let console = console(&options, wanted.spec.process.terminal.is_some(), mode)?;
    if wanted.spec.process.terminal.is_none() {
        record.streams = streams::names();
    }
    let pidfd_socket = socket::connect_pidfd(options.pidfd_socket.as_deref())?;
    let listener = wanted.seccomp_listener.take();
    socket::check_listener(&wanted.spec.process, listener.as_ref())?;
    program::set_home(&mut wanted.spec.process, &record.rootfs);
    if let Some(socket) = options.notify_socket {
        mount_notify_socket(&mut wanted.spec, socket);
    }
    let inside = &wanted.spec.hooks;
    // startContainer hooks read another status than createContainer hooks.
    let two_states = !inside.create_container.is_empty() && !inside.start_container.is_empty();
    // The agent of a filter must have the listener before the container's program runs.
    let held_here = mode != RunMode::Held && (two_states || listener.is_some());
    let prestart = PreStart::take(wanted);
    let outcome = Arc::new(PreStartOutcome::default());
    let place = mem::replace(place, CgroupPlace::Caller);
    let mut command = command(mem::take(&mut wanted.spec), place, prestart, entry, record, &outcome);
    options.inherited.give(&mut command);
    if mode == RunMode::Held {
        command.hold_at(entry.dir().path());
    } else if held_here {
        command.hold();
    }
    let name = command.spec().process.args.first().cloned().unwrap_or_default();
    program::log_plan(&mut command);
    let spawned = command.spawn();
    outcome.note(record);
    let mut process = spawned.map_err(program::failed(&name))?;
    record.set_process(ProcessId::of(process.pid())?);
    let state = if mode == RunMode::Held || held_here { "is held" } else { "runs" };
    log::debug!("the container's process {} {state}", record.init_process_pid);
    socket::send_pidfd(pidfd_socket, "standard", process.pidfd().as_fd())?;
    if two_states {
        outcome.tell_created(record)?;
    }
    if let (Some(fd), Some(listener)) = (process.seccomp_listener.take(), &listener) {
        socket::send_listener(listener, fd, process.pid(), record, Status::Creating)?;
    }
    if mode == RunMode::Held {
        let checked = program::check(process.pid(), &process.spec().process);
        checked.map_err(|e| died(&mut process).unwrap_or(e))?;
    } else if held_here {
        process.start().map_err(program::failed(&name))?;
    }
    let terminal = socket::hand_over(process.terminal.take(), console)?;
    record.creating = false;
    if let Some((_, made)) = &mut record.root_mount {
        *made = Some(cleanup::mount_id(&record.rootfs)?);
    }
    if let Some(cgroup) = process.cgroup() {
        record.set_cgroup_path(cgroup.path());
    }
    entry.write(record)?;
    if let Some(path) = &options.pid_file {
        pid_file::write(path, process.pid())?;
    }
    Ok((process, terminal))
}

/// Returns the command that starts the container in its cgroup, with the work on the host.
fn command(
    mut spec: Spec,
    place: CgroupPlace,
    prestart: PreStart,
    entry: &Arc<Entry>,
    record: &OciRecord,
    outcome: &Arc<PreStartOutcome>,
) -> Command {
    if matches!(place, CgroupPlace::Caller) && !spec.limits.is_empty() {
        log::warn!("linux.resources has no effect, as the cgroup manager is disabled");
    }
    if !matches!(place, CgroupPlace::At(_)) {
        // A scope has the limits already; the caller's cgroup cannot have any.
        spec.devices = None;
        spec.limits = Limits::default();
    }
    let mut command = Command::from_spec(spec);
    command.die_with_parent(false);
    // After a crash, a container without a cgroup can be found only by its process. So its pid is written
    // before the process can outlive this one.
    let noted = !prestart.is_empty() || matches!(place, CgroupPlace::Caller);
    let mut scope = None;
    match place {
        CgroupPlace::At(path) => command.cgroup_at(path),
        CgroupPlace::Scope(made) => command.cgroup_inside(scope.insert(made).path()),
        CgroupPlace::Caller => command.no_cgroup(),
    };
    if noted || scope.is_some() {
        let (entry, mut record, outcome) = (entry.clone(), record.clone(), outcome.clone());
        command.prepared(move |made| {
            scope.map_or(Ok(()), |scope| scope.release()).map_err(Error::into_caller)?;
            match noted {
                true => prestart.run(made, &entry, &mut record, &outcome).map_err(Error::into_caller),
                false => Ok(Vec::new()),
            }
        });
    }
    command
}

/// Returns the error for a held container if its first process has ended; `None` if it is alive.
fn died(process: &mut SandboxContainer) -> Option<Error> {
    let outcome = process.wait_timeout(Duration::ZERO).ok().flatten()?;
    let is_signal = matches!(outcome.status, ExitStatus::Signaled { .. });
    let was = if is_signal { "was " } else { "" };
    let problem = format!("the container's first process {was}{} before its start", outcome.status);
    let error = Error::new(ErrorKind::Killed, "create", problem).on(process.pid().to_string());
    Some(match outcome.oom {
        Some(oom) => error.with_hint(format!("{oom}: the memory limit may be too low")),
        None if is_signal => error.with_hint("a process outside the container sent the signal"),
        None => error,
    })
}

/// Bind-mounts NOTIFY_SOCKET into the container.
fn mount_notify_socket(spec: &mut Spec, socket: PathBuf) {
    if !socket.is_absolute() {
        return;
    }
    let mount = Mount::new(&socket, MountKind::Bind { source: socket.clone(), recursive: false });
    spec.mounts.push(mount);
    spec.process.env.push(("NOTIFY_SOCKET".into(), socket.into()));
}

/// Returns the name of the calling user; empty if the user is not in the user database.
fn owner() -> String {
    let uid = nix::unistd::getuid().as_raw();
    if uid == 0 {
        return "root".into();
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    ns_core::user_name(&passwd, uid).map_or_else(String::new, Into::into)
}
