//! `checkpoint` and `restore`, implemented by the program [criu](https://criu.org).

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cgroup_core::{Cgroup, Hierarchy};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup};
use ns_core::{Kind, Pidfd, ProcessId};
use nspod_sandbox::spec::{Join, MountKind, NamespaceMode, Spec};
use rustix::mount::mount_bind_recursive;

mod rpc;

use self::rpc::{Action, Field, Message, Options};
use crate::bundle::{Bundle, read_file};
use crate::container::Container;
use crate::error::{Error, ErrorKind, Result};
use crate::launch::{self, Claimed, CreateOptions, RunMode};
use crate::record::{OciRecord, Status};
use crate::runtime::Runtime;
use crate::state::{Entry, Store};
use crate::{cleanup, hooks, pid_file, socket, streams};

/// The file in the image directory with the names of the standard streams, in runc's format.
const DESCRIPTORS: &str = "descriptors.json";

/// Common options of [`Container::checkpoint`] and [`Container::restore`]. They are named after criu's
/// options: [criu(8)](https://man7.org/linux/man-pages/man8/criu.8.html).
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// Directory of the images.
    pub images: PathBuf,
    /// Directory in which criu works and logs; by default, the directory of the images.
    pub work: Option<PathBuf>,
    /// Whether open TCP connections are permitted.
    pub tcp_established: bool,
    /// Whether unix sockets may be connected to a process outside the container.
    pub ext_unix_sk: bool,
    /// Whether the leader of a session may be outside the container.
    pub shell_job: bool,
    /// Whether file locks are dumped and restored.
    pub file_locks: bool,
    /// Whether memory is removed from the images when it is restored.
    pub auto_dedup: bool,
    /// Treatment of the cgroups in the container's cgroup.
    pub manage_cgroups: ManageCgroups,
    /// Whether the network namespace is restored empty.
    pub empty_net: bool,
    /// Whether memory is transferred on demand.
    pub lazy_pages: bool,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions {
            images: "checkpoint".into(),
            work: None,
            tcp_established: false,
            ext_unix_sk: false,
            shell_job: false,
            file_locks: false,
            auto_dedup: false,
            manage_cgroups: ManageCgroups::Soft,
            empty_net: false,
            lazy_pages: false,
        }
    }
}

/// Treatment of cgroups and their properties by criu: `--manage-cgroups` of
/// [criu(8)](https://man7.org/linux/man-pages/man8/criu.8.html). The numbers are those of criu's
/// `criu_cg_mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ManageCgroups {
    /// Neither dump nor restore them.
    Ignore = 0,
    /// Restore only cgroups that criu itself has created.
    #[default]
    Soft = 3,
    /// Restore all cgroups; existing ones are permitted.
    Full = 4,
    /// Restore all cgroups; existing ones are an error.
    Strict = 5,
}

/// Options of [`Container::checkpoint`]. See
/// [criu(8)](https://man7.org/linux/man-pages/man8/criu.8.html).
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions {
    /// Images, and options of criu.
    pub images: ImageOptions,
    /// Directory of an earlier pre-dump, relative to the images.
    pub parent: Option<PathBuf>,
    /// Whether TCP connections that are being established are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether open files that were removed get a temporary name until they are restored.
    pub link_remap: bool,
    /// Whether the container continues after the dump.
    pub leave_running: bool,
    /// Whether only memory is written. The container then continues.
    pub pre_dump: bool,
    /// Server that memory is sent to: address and port.
    pub page_server: Option<(String, u16)>,
    /// Descriptor on which criu reports that it is ready for `lazy_pages`.
    pub status_fd: Option<u32>,
}

/// Options of [`Container::restore`]. See
/// [criu(8)](https://man7.org/linux/man-pages/man8/criu.8.html).
#[derive(Debug, Default)]
pub struct RestoreOptions {
    /// Images, and options of criu.
    pub images: ImageOptions,
    /// Options of the new container.
    pub create: CreateOptions,
    /// Whether the caller does not wait for the container. A terminal then requires a console socket.
    pub detach: bool,
    /// AppArmor or SELinux profile: `apparmor:NAME` or `selinux:LABEL`.
    pub lsm_profile: Option<String>,
    /// SELinux context of the mounts.
    pub lsm_mount_context: Option<String>,
}

impl Container {
    /// Writes the processes of a running container to images. Then ends and deletes the container, unless
    /// [`leave_running`](CheckpointOptions::leave_running) or
    /// [`pre_dump`](CheckpointOptions::pre_dump) is set. criu requires root; see
    /// [criu(8)](https://man7.org/linux/man-pages/man8/criu.8.html).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is neither running nor paused.
    /// - [`ErrorKind::Unsupported`]: criu is not installed.
    /// - [`ErrorKind::HelperFailed`]: criu failed; the sentence has the last error of its log.
    /// - [`ErrorKind::InvalidInput`], [`ErrorKind::NotFound`]: the parent is not a directory relative to the
    ///   images.
    pub fn checkpoint(&self, args: &CheckpointOptions) -> Result<()> {
        let store = self.runtime.store()?;
        let (entry, lock) = store.lock(&self.id)?;
        let status = entry.status()?;
        if !matches!(status, Status::Running | Status::Paused) {
            let problem = format!("container cannot be checkpointed in {status} state");
            return Err(Error::state(&self.id, "criu", problem));
        }
        let record = entry.record()?;
        let images = &args.images;
        images.make()?;
        let parent = args.parent()?;
        let criu = criu()?;
        let context = self.runtime.context(&record.bundle, &self.id);
        let spec = entry.config()?.container_spec(&context)?.spec;
        let pid = record.init_process_pid;
        let action = if args.pre_dump { Action::PreDump } else { Action::Dump };
        let (mut options, _dirs) = images.options(action)?;
        options.number(Field::Pid, pid as u64);
        options.text(Field::Root, &record.rootfs);
        add_external(&mut options, &spec, &record.rootfs, pid)?;
        for file in outside(&record.streams, pid)? {
            options.text(Field::External, file);
        }
        if let Some(path) = record.cgroup_path() {
            options.text(Field::FreezeCgroup, path);
        }
        if let Some(path) = parent {
            options.text(Field::ParentImages, path);
        }
        args.add_to(&mut options);
        rpc::call(&criu, action, options, |command| inside(None, command)).map_err(images.reason(action))?;
        log::debug!("criu has written process {pid} to {}", images.images.display());
        if args.pre_dump {
            return Ok(());
        }
        write_streams(&images.images, &record.streams)?;
        if args.leave_running {
            return Ok(());
        }
        cleanup::remove(record)?;
        cleanup::forget(&store, &entry, record, &lock, || {})
    }

    /// Creates a container from a bundle and images. Calls `restored` when the processes run, before the
    /// poststart hooks. Does not run the hooks prestart and createRuntime again. criu requires root; see
    /// [criu(8)](https://man7.org/linux/man-pages/man8/criu.8.html).
    ///
    /// # Errors
    /// In each case nothing of the container is left.
    /// - [`ErrorKind::AlreadyExists`]: a container with this id exists.
    /// - [`ErrorKind::InvalidConfig`]: the configuration has an unsupported field.
    /// - [`ErrorKind::Unsupported`]: criu is not installed.
    /// - [`ErrorKind::HelperFailed`]: criu failed; the sentence has the last error of its log.
    /// - [`ErrorKind::HookFailed`]: a poststart hook failed.
    pub fn restore(
        runtime: &Runtime,
        id: &str,
        bundle: &Bundle,
        args: RestoreOptions,
        restored: impl FnOnce(),
    ) -> Result<Restored> {
        let pidfd_socket = socket::connect_pidfd(args.create.pidfd_socket.as_deref())?;
        let mut claimed = Claimed::new(runtime, id, bundle, &args.create)?;
        let (by_criu, console) = match restore_into(&args, &mut claimed) {
            Ok(done) => done,
            Err(e) => {
                // criu may have restored processes before the failure.
                if let Err(e) = cleanup::remove(&claimed.record) {
                    log::warn!("{e}");
                }
                return Err(claimed.give_up(e));
            }
        };
        let pid = by_criu.pid;
        let finish = || -> Result<_> {
            let terminal = record_restored(&mut claimed, by_criu, console)?;
            log::debug!("criu has restored process {pid}");
            restored();
            let pidfd = Pidfd::open(pid)?;
            socket::send_pidfd(pidfd_socket, "standard", pidfd.as_fd())?;
            if let Some(path) = &args.create.pid_file {
                pid_file::write(path, pid)?;
            }
            hooks::poststart(&claimed.entry, &claimed.record)?;
            Ok((pidfd, terminal))
        };
        match finish() {
            Ok((pidfd, terminal)) => {
                let Claimed { entry, record, store, .. } = claimed;
                Ok(Restored { pid, pidfd, terminal, entry, record, store })
            }
            Err(e) => Err(give_up_restored(&claimed, pid, e)),
        }
    }
}

/// Kills the restored processes, reaps the first one, and removes the container. Returns `why`.
fn give_up_restored(claimed: &Claimed, pid: i32, why: Error) -> Error {
    let record = &claimed.record;
    // The record may be missing, and no descriptor may be free. A child keeps its pid until it is reaped,
    // so kill(2) reaches the right process.
    if pid > 0 {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if let Err(e) = cleanup::stop(record).and_then(|()| cleanup::remove(record)) {
        log::warn!("{e}");
    }
    if pid > 0 {
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
    claimed.give_up_started(why)
}

/// A restored container. Its first process is a child of the caller. Dropping the handle has no effect on the
/// container.
#[derive(Debug)]
pub struct Restored {
    /// Pid of the first process.
    pub pid: i32,
    /// Pidfd of the first process.
    pub pidfd: Pidfd,
    /// Master end of the terminal, unless it was sent to a socket.
    pub terminal: Option<File>,
    entry: Arc<Entry>,
    record: OciRecord,
    store: Store,
}

impl Restored {
    /// Waits for the end of the first process. Returns its exit code, or 128 plus the signal that killed
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::Os`] (`ECHILD`): another part of the program has already waited for the process.
    /// See [waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html).
    pub fn wait(&self) -> Result<i32> {
        loop {
            match waitpid(Pid::from_raw(self.pid), None) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => {
                    let error = Error::call("process", "wait for the container", "waitpid", e as i32);
                    return Err(error.on(self.pid.to_string()));
                }
            }
        }
    }

    /// Deletes the container and runs its poststop hooks. Calls `before_hooks` before the hooks, because
    /// hooks can run for a long time. Does nothing if another process has deleted the container.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#delete).
    ///
    /// # Errors
    /// As [`Container::delete`].
    pub fn delete(self, before_hooks: impl FnOnce()) -> Result<()> {
        let Restored { entry, record, store, .. } = self;
        let Some(lock) = store.lock_again(&entry)? else { return Ok(()) };
        cleanup::remove(&record)?;
        cleanup::forget(&store, &entry, &record, &lock, before_hooks)
    }
}

impl CheckpointOptions {
    /// Checks and returns the directory of the earlier pre-dump. criu resolves it relative to the images.
    fn parent(&self) -> Result<Option<&Path>> {
        let Some(path) = &self.parent else { return Ok(None) };
        let invalid = |path: &Path, problem: &str| {
            let problem = format!("{} {problem}", path.display());
            Err(Error::option("--parent-path", problem).on(path.display().to_string()))
        };
        if path.is_absolute() {
            let cure = "give its path relative to that directory";
            return invalid(path, &format!("is not relative to --image-path: {cure}"));
        }
        let there = self.images.images.join(path);
        match fs::metadata(&there) {
            Ok(found) if found.is_dir() => Ok(Some(path)),
            Ok(_) => invalid(&there, "is not a directory"),
            Err(e) => {
                let what = "find the images of the earlier --pre-dump at";
                Err(Error::io("options", what, &there, &e).with_field("--parent-path"))
            }
        }
    }

    /// Adds the options that are specific to `checkpoint`.
    fn add_to(&self, options: &mut Options) {
        if let Some((address, port)) = &self.page_server {
            let mut given = Message::default();
            given.bytes(1, address.as_bytes()).number(2, (*port).into());
            options.message(Field::PageServer, &given);
        }
        if let Some(fd) = self.status_fd {
            options.number(Field::StatusFd, fd.into());
        }
        for (wanted, field) in [
            (self.leave_running, Field::LeaveRunning),
            (self.pre_dump || self.parent.is_some(), Field::TrackMem),
            (self.tcp_skip_in_flight, Field::TcpSkipInFlight),
            (self.link_remap, Field::LinkRemap),
        ] {
            if wanted {
                options.flag(field);
            }
        }
    }
}

/// Names the mounts and namespaces that come from outside the container for a dump.
fn add_external(options: &mut Options, spec: &Spec, rootfs: &Path, pid: i32) -> Result<()> {
    let inside = Path::new("/proc").join(pid.to_string()).join("root");
    // criu finds the file system of a masked directory by itself.
    let is_own = |place: &Path| {
        let there = inside.join(place.strip_prefix("/").unwrap_or(place));
        spec.masked_paths.iter().any(|path| path == place)
            && fs::symlink_metadata(there).is_ok_and(|there| there.is_dir())
    };
    for (place, _) in external(spec, rootfs)?.into_iter().filter(|(place, _)| !is_own(place)) {
        options.text(Field::External, format!("mnt[{0}]:{0}", place.display()));
    }
    for (kind, path) in joined(spec) {
        let inode = fs::metadata(path).map_err(|e| io("look at", path, &e))?.ino();
        options.text(Field::External, format!("{kind}[{inode}]:{}", label(kind)));
    }
    Ok(())
}

/// Returns the error for a file that criu needs.
fn io(what: &str, path: &Path, e: &std::io::Error) -> Error {
    Error::io("criu", what, path, e)
}

/// Restores the processes of a claimed container. Returns criu's answer and the console socket.
fn restore_into(args: &RestoreOptions, claimed: &mut Claimed) -> Result<(rpc::Done, Option<UnixStream>)> {
    let images = &args.images;
    let criu = criu()?;
    warn_of_hooks(claimed);
    let has_terminal = claimed.wanted.spec.process.terminal.is_some();
    let mode = if args.detach { RunMode::Detached } else { RunMode::Foreground };
    let console = launch::console(&args.create, has_terminal, mode)?;
    let cgroup = claimed.make_cgroup()?;
    let streams = read_streams(&images.images)?;
    let (mut options, _dirs) = restore_options(args, claimed, &streams)?;
    let (entry, record) = (&claimed.entry, &mut claimed.record);
    // The other streams are in the images.
    let own = streams::names().into_iter().zip(&streams);
    record.streams =
        own.map(|(own, name)| if streams::is_outside(name) { own } else { String::new() }).collect();
    // criu requires a root that is a mount point.
    let root = entry.dir().make_sub("criu-root")?;
    let root = record.criu_root.insert(root.path().to_owned()).clone();
    entry.write(record)?;
    mount_bind_recursive(&record.rootfs, &root)
        .map_err(|e| Error::path("criu", "mount the root at", &root, e.raw_os_error()))?;
    options.text(Field::Root, &root);
    let by_criu = rpc::call(&criu, Action::Restore, options, |command| inside(cgroup.as_ref(), command));
    let unmounted = cleanup::unmount_criu_root(record);
    let done = by_criu.map_err(images.reason(Action::Restore))?;
    unmounted?;
    record.criu_root = None;
    Ok((done, console))
}

/// Writes the record of a restored container. Returns the terminal if there is no console socket.
fn record_restored(
    claimed: &mut Claimed,
    by_criu: rpc::Done,
    console: Option<UnixStream>,
) -> Result<Option<File>> {
    let rpc::Done { pid, terminal } = by_criu;
    let record = &mut claimed.record;
    record.set_process(ProcessId::of(pid)?);
    record.creating = false;
    claimed.entry.write(record)?;
    claimed.release_cgroup()?;
    let has_terminal = claimed.wanted.spec.process.terminal.is_some();
    if has_terminal && terminal.is_none() {
        let problem = "the images have no terminal: set it to false";
        return Err(Error::invalid("process.terminal", problem));
    }
    socket::hand_over(terminal, console)
}

/// Logs that the hooks at the creation are not run.
fn warn_of_hooks(claimed: &Claimed) {
    let hooks = &claimed.wanted.hooks;
    for (kind, hooks) in [("prestart", &hooks.prestart), ("createRuntime", &hooks.create_runtime)] {
        if !hooks.is_empty() {
            log::warn!("hooks.{kind}: restore does not run these");
        }
    }
}

/// Returns the options of a restore, and the directories that must stay open until criu has ended.
fn restore_options(
    args: &RestoreOptions,
    claimed: &Claimed,
    streams: &[String],
) -> Result<(Options, [File; 2])> {
    let images = &args.images;
    let (record, spec) = (&claimed.record, &claimed.wanted.spec);
    let (mut options, dirs) = images.options(Action::Restore)?;
    options.flag(Field::RestoreSibling);
    for (place, source) in external(spec, &record.rootfs)? {
        options.text(Field::External, format!("mnt[{}]:{}", place.display(), source.display()));
    }
    for (kind, path) in joined(spec) {
        let fd = nix::fcntl::open(path, OFlag::O_RDONLY, Mode::empty());
        let failed = |e| Error::path("criu", "open", path, e as i32);
        options.inherit(fd.map_err(failed)?, label(kind));
    }
    for (number, name) in streams.iter().enumerate() {
        if streams::is_outside(name) {
            options.inherit(stream(number)?, name);
        }
    }
    if let (Some(path), true) = (record.cgroup_path(), images.manage_cgroups != ManageCgroups::Ignore) {
        let from_top = path.strip_prefix(Cgroup::top()?.path()).unwrap_or(path);
        let mut root = Message::default();
        root.bytes(2, Path::new("/").join(from_top).as_os_str().as_bytes());
        options.message(Field::CgroupRoot, &root);
    }
    if let Some(profile) = &args.lsm_profile {
        options.text(Field::LsmProfile, profile);
    }
    if let Some(context) = &args.lsm_mount_context {
        options.text(Field::LsmMountContext, context);
    }
    Ok((options, dirs))
}

/// Starts a program in a cgroup. The caller is in the cgroup during the call.
fn inside(cgroup: Option<&Cgroup>, command: &mut Command) -> Result<std::process::Child> {
    let program = command.get_program().to_owned();
    let failed = |e| io("run", program.as_ref(), &e);
    let other =
        |e: cgroup_core::Error| Error::from(e).context(format_args!("cannot run {}", program.display()));
    let Some(cgroup) = cgroup else { return command.spawn().map_err(failed) };
    let own = std::process::id() as i32;
    let before = Hierarchy::detect().and_then(|host| host.own()).map_err(other)?;
    cgroup.attach(own).map_err(other)?;
    let child = command.spawn();
    if let Err(e) = before.attach(own) {
        if let Ok(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
        return Err(other(e));
    }
    child.map_err(failed)
}

/// Returns the mounts that come from outside: the path in the container, which criu uses as the name, and the
/// source.
fn external(spec: &Spec, rootfs: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let bound = spec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Bind { source, .. } => Some((&mount.destination, source.as_path())),
        _ => None,
    });
    let masked = spec.masked_paths.iter().map(|path| (path, Path::new("/dev/null")));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(rootfs, flags, Mode::empty())
        .map_err(|e| Error::path("criu", "open", rootfs, e as i32))?;
    let root_path = rootfs.canonicalize().map_err(|e| io("look at", rootfs, &e))?;
    let place = |path: &PathBuf| {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        // A path on another mount of the container cannot be resolved here.
        let Ok(found) = openat2(&root, path, how) else { return path.clone() };
        let found = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap_or_default();
        found.strip_prefix(&root_path).map_or_else(|_| path.clone(), |inner| Path::new("/").join(inner))
    };
    Ok(bound.chain(masked).map(|(path, source)| (place(path), source.to_owned())).collect())
}

/// Returns the joined namespaces that criu can exclude from the images.
fn joined(spec: &Spec) -> impl Iterator<Item = (Kind, &Path)> {
    [Kind::Net, Kind::Pid].into_iter().filter_map(|kind| match spec.namespaces.get(kind) {
        NamespaceMode::Join(Join::Path(path)) => Some((kind, path.as_path())),
        _ => None,
    })
}

/// Returns runc's name for a joined namespace in images.
fn label(kind: Kind) -> &'static str {
    if kind == Kind::Net { "extRootNetNS" } else { "extRootPidNS" }
}

/// Returns the names of the standard streams that are files outside the container.
fn outside(streams: &[String], pid: i32) -> Result<Vec<&String>> {
    let path = Path::new("/proc").join(pid.to_string()).join("mountinfo");
    let mounts = fs::read(&path).map_err(|e| io("read", &path, &e))?;
    let is_outside = |name: &&String| {
        streams::mount_id(name).is_some_and(|id| ns_core::proc::mounts(&mounts).all(|mount| mount.id != id))
    };
    Ok(streams.iter().filter(is_outside).collect())
}

/// Writes the names of the standard streams next to the images.
fn write_streams(images: &Path, streams: &[String]) -> Result<()> {
    let path = images.join(DESCRIPTORS);
    fs::write(&path, serde_json::json!(streams).to_string()).map_err(|e| io("write", &path, &e))
}

/// Reads the names of the standard streams.
fn read_streams(images: &Path) -> Result<Vec<String>> {
    let path = images.join(DESCRIPTORS);
    match read_file(&path) {
        Ok(json) => serde_json::from_slice(&json).map_err(|e| {
            let problem = format!("{} is not a list of the standard streams: {e}", path.display());
            let error = Error::new(ErrorKind::InvalidInput, "criu", problem);
            error.on(path.display().to_string()).with_source(e)
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(io("read", &path, &e)),
    }
}

/// Duplicates a standard stream of this process.
fn stream(number: usize) -> Result<OwnedFd> {
    let copy = match number {
        0 => dup(std::io::stdin()),
        1 => dup(std::io::stdout()),
        _ => dup(std::io::stderr()),
    };
    copy.map_err(|e| Error::call("criu", "copy a standard stream", "dup", e as i32))
}

/// Finds the program criu in PATH.
fn criu() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let criu = std::env::split_paths(&path).map(|dir| dir.join("criu")).find(|file| file.is_file());
    criu.ok_or_else(|| {
        let problem = "criu is not installed, and checkpoint and restore require it: install it, or put it \
                       in PATH";
        Error::new(ErrorKind::Unsupported, "criu", problem).on("criu")
    })
}

impl ImageOptions {
    /// Returns the common options, and the directories that must stay open until criu has ended.
    fn options(&self, action: Action) -> Result<(Options, [File; 2])> {
        let mut options = Options::default();
        let open = |path: &Path| File::open(path).map_err(|e| io("open", path, &e));
        let [images, work] = [open(&self.images)?, open(self.work())?];
        options.number(Field::ImagesDirFd, images.as_raw_fd() as u64);
        options.number(Field::WorkDirFd, work.as_raw_fd() as u64);
        options.text(Field::LogFile, log_file(action));
        options.number(Field::LogLevel, 4);
        // With these options criu reports each step, and sends the terminal.
        options.flag(Field::NotifyScripts);
        options.flag(Field::OrphanPtsMaster);
        for (wanted, field) in [
            (self.tcp_established, Field::TcpEstablished),
            (self.ext_unix_sk, Field::ExtUnixSk),
            (self.shell_job, Field::ShellJob),
            (self.file_locks, Field::FileLocks),
            (self.auto_dedup, Field::AutoDedup),
            (self.lazy_pages, Field::LazyPages),
        ] {
            if wanted {
                options.flag(field);
            }
        }
        if self.empty_net {
            options.number(Field::EmptyNs, libc::CLONE_NEWNET as u64);
        }
        options.number(Field::ManageCgroupsMode, self.manage_cgroups as u64);
        Ok((options, [images, work]))
    }

    /// Creates the directories with mode 700, since the images contain the memory of processes.
    fn make(&self) -> Result<()> {
        for dir in [self.images.as_path(), self.work()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|e| io("make", dir, &e))?;
        }
        Ok(())
    }

    fn work(&self) -> &Path {
        self.work.as_deref().unwrap_or(&self.images)
    }

    /// Adds the last error of criu's log to a failure.
    fn reason(&self, action: Action) -> impl Fn(Error) -> Error {
        let log = self.work().join(log_file(action));
        move |e| {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            // The first errors in the log are often about optional features.
            let is_reason = |line: &&str| line.contains("Error (") && !line.ends_with("FAILED.");
            let complaint = text.lines().rfind(is_reason).unwrap_or("it does not say why");
            let sentence = format!("{e}: {}: see {}", complaint.trim(), log.display());
            e.rephrased(sentence).on(log.display().to_string())
        }
    }
}

fn log_file(action: Action) -> &'static str {
    match action {
        Action::Dump => "dump.log",
        Action::Restore => "restore.log",
        Action::PreDump => "pre-dump.log",
    }
}
