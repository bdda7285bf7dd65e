//! `checkpoint` and `restore`, by the program criu.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cgroup_core::{Cgroup, Hierarchy};
use clap::{Args, ValueEnum};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use ns_core::{Kind, Pidfd};
use nspod_cli::error::{Error, Result};
use nspod_cli::foreground::{self, Signals};
use nspod_cli::terminal::Relay;
use nspod_sandbox::spec::{Join, MountKind, Namespace, Spec};

mod rpc;

use self::rpc::{Action, Field, Message, Options};
use super::delete::{finish, stop};
use crate::args::{Global, MaybePath};
use crate::launch::{self, BundleArgs, Claimed, How};
use crate::state::Status;
use crate::{console, driver, hooks, log};

/// Where it is written what the standard streams were, as runc does.
const DESCRIPTORS: &str = "descriptors.json";

// What both take.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Where the images are
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: MaybePath,
    /// Where criu works and logs
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    work_path: MaybePath,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets to the outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session that was begun outside of the container
    #[arg(long)]
    shell_job: bool,
    /// Handle file locks
    #[arg(long)]
    file_locks: bool,
    /// Leave no copies of memory in the images that are restored
    #[arg(long)]
    auto_dedup: bool,
    /// What becomes of the cgroups in the container's, and their limits
    #[arg(long, value_name = "MODE", value_enum, default_value = "soft")]
    manage_cgroups_mode: Cgroups,
    /// Make a namespace and restore nothing in it
    #[arg(long, value_name = "KIND", value_enum)]
    empty_ns: Vec<EmptyNs>,
    /// Transfer memory as it is needed
    #[arg(long)]
    lazy_pages: bool,
}

// With the numbers of criu's criu_cg_mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cgroups {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EmptyNs {
    Network,
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// The images of a --pre-dump before, relative to --image-path
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    parent_path: MaybePath,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Link files that are open and removed to a name, for the time until they are restored
    #[arg(long)]
    link_remap: bool,
    /// Let it run on
    #[arg(long)]
    leave_running: bool,
    /// Write its memory alone, and let it run on
    #[arg(long)]
    pre_dump: bool,
    /// Send memory to this server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Where criu tells that it is ready for --lazy-pages
    #[arg(long, value_name = "FD")]
    status_fd: Option<u32>,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// AppArmor's or SELinux's profile for it
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// SELinux's context for its mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    #[command(flatten)]
    bundle: BundleArgs,
}

pub(crate) fn checkpoint(global: &Global, args: &CheckpointArgs) -> Result<()> {
    let store = global.store()?;
    let (entry, lock) = store.lock(&args.id)?;
    let status = entry.status()?;
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(Error::new(format!("container cannot be checkpointed in {status} state")));
    }
    let record = entry.record()?;
    let images = &args.images;
    images.make()?;
    let parent = args.parent()?;
    let criu = criu()?;
    let spec = entry.config()?.container_spec(&entry.context(global)?)?.spec;
    let pid = record.init_process_pid;
    let action = if args.pre_dump { Action::PreDump } else { Action::Dump };
    let (mut options, _dirs) = images.options(action)?;
    options.number(Field::Pid, pid as u64);
    options.text(Field::Root, &record.rootfs);
    let inside = Path::new("/proc").join(pid.to_string()).join("root");
    // A directory is masked with a file system of its own, which criu finds out.
    let is_own = |place: &Path| {
        let there = inside.join(place.strip_prefix("/").unwrap_or(place));
        spec.masked_paths.iter().any(|path| path == place)
            && fs::symlink_metadata(there).is_ok_and(|there| there.is_dir())
    };
    for (place, _) in external(&spec, &record.rootfs)?.into_iter().filter(|(place, _)| !is_own(place)) {
        options.text(Field::External, format!("mnt[{0}]:{0}", place.display()));
    }
    for (kind, path) in joined(&spec) {
        let inode = fs::metadata(path).map_err(|e| Error::io("look at", path, &e))?.ino();
        options.text(Field::External, format!("{kind}[{inode}]:{}", label(kind)));
    }
    let streams = Streams::of(pid)?;
    for file in streams.0.iter().filter(|name| name.starts_with("file[")) {
        options.text(Field::External, file);
    }
    if let Some(path) = record.cgroup_path() {
        options.text(Field::FreezeCgroup, path);
    }
    if let Some(path) = parent {
        options.text(Field::ParentImages, path);
    }
    if let Some(server) = &args.page_server {
        let (address, port) = server
            .rsplit_once(':')
            .and_then(|(address, port)| Some((address, port.parse::<u16>().ok()?)))
            .ok_or_else(|| {
                Error::new(format!("--page-server: {server:?} is not of the form ADDRESS:PORT"))
            })?;
        let mut given = Message::default();
        given.bytes(1, address.as_bytes()).number(2, port.into());
        options.message(Field::PageServer, &given);
    }
    if let Some(fd) = args.status_fd {
        options.number(Field::StatusFd, fd.into());
    }
    for (wanted, field) in [
        (args.leave_running, Field::LeaveRunning),
        (args.pre_dump || parent.is_some(), Field::TrackMem),
        (args.tcp_skip_in_flight, Field::TcpSkipInFlight),
        (args.link_remap, Field::LinkRemap),
    ] {
        if wanted {
            options.flag(field);
        }
    }
    rpc::call(&criu, action, options, Command::spawn).map_err(images.reason(action))?;
    log::debug(&format_args!("criu has written process {pid} to {}", images.images().display()));
    if args.pre_dump {
        return Ok(());
    }
    streams.write(images.images())?;
    if args.leave_running {
        return Ok(());
    }
    driver::remove(record)?;
    finish(&store, &entry, record, &lock, None)
}

impl CheckpointArgs {
    /// `--parent-path`, which criu reads as a path relative to the images.
    fn parent(&self) -> Result<Option<&Path>> {
        let Some(path) = self.parent_path.get() else { return Ok(None) };
        if path.is_absolute() {
            let problem = format!(
                "{} is not relative to --image-path: name it as it is seen from there",
                path.display()
            );
            return Err(Error::new(format!("--parent-path: {problem}")));
        }
        let there = self.images.images().join(path);
        match fs::metadata(&there) {
            Ok(found) if found.is_dir() => Ok(Some(path)),
            Ok(_) => Err(Error::new(format!("--parent-path: {} is not a directory", there.display()))),
            Err(e) => {
                let problem = Error::io("find the images of the --pre-dump before at", &there, &e);
                Err(Error::new(format!("--parent-path: {problem}")))
            }
        }
    }
}

pub(crate) fn restore(global: &Global, args: &RestoreArgs) -> Result<i32> {
    let pidfd_socket = args.bundle.pidfd_socket.connect()?;
    let mut restored = launch::prepare(global, &args.bundle)?;
    let (pid, terminal) = match restore_into(args, &mut restored) {
        Ok(done) => done,
        Err(e) => {
            // What criu has restored before something failed, and the cgroup it was put in.
            if let Err(e) = driver::remove(&restored.record) {
                log::warn(&e);
            }
            return Err(restored.give_up(e));
        }
    };
    log::debug(&format_args!("criu has restored process {pid}"));
    // Until here they end criu as well.
    let signals = if args.detach { None } else { Some(Signals::hold()?) };
    let pidfd = Pidfd::open(pid)?;
    console::send_pidfd(pidfd_socket, "standard", pidfd.as_fd())?;
    args.bundle.write_pid(pid)?;
    if let Err(e) = hooks::poststart(&restored.entry, &restored.record) {
        let record = &restored.record;
        if let Err(e) = stop(record).and_then(|()| driver::remove(record)) {
            log::warn(&e);
        }
        return Err(restored.give_up_started(e));
    }
    let Claimed { entry, record, store, lock, .. } = restored;
    let Some(signals) = signals else { return Ok(0) };
    drop(lock);
    let kill = || Ok(pidfd.send_signal(nix::libc::SIGKILL)?);
    let mut relay = terminal.map(|master| Relay::new(master, true)).transpose()?;
    let fatal = foreground::until_end(pid, &pidfd, &signals, &mut relay, kill)?;
    let code = wait(pid)?;
    if let Some(relay) = relay {
        relay.finish()?;
    }
    let code = fatal.map_or(code, |signal| 128 + signal);
    if let Some(lock) = store.lock_again(&entry)? {
        driver::remove(&record)?;
        finish(&store, &entry, &record, &lock, Some(signals))?;
    }
    Ok(code)
}

/// Returns the first process, and its terminal's other end if this process is to serve it.
fn restore_into(args: &RestoreArgs, restored: &mut Claimed) -> Result<(i32, Option<File>)> {
    let images = &args.images;
    let criu = criu()?;
    let unheard = [
        ("prestart", restored.wanted.hooks.prestart.is_empty()),
        ("createRuntime", restored.wanted.hooks.create_runtime.is_empty()),
    ];
    for (kind, _) in unheard.iter().filter(|(_, none)| !none) {
        log::warn(&format_args!("hooks.{kind}: these are not run again for what is restored"));
    }
    let has_terminal = restored.wanted.spec.process.terminal.is_some();
    let socket = args.bundle.socket(has_terminal, if args.detach { How::Detached } else { How::Attended })?;
    let cgroup = restored.cgroup()?;
    let (entry, record, spec) = (&restored.entry, &mut restored.record, &restored.wanted.spec);
    let (mut options, _dirs) = images.options(Action::Restore)?;
    options.flag(Field::RestoreSibling);
    for (place, source) in external(spec, &record.rootfs)? {
        options.text(Field::External, format!("mnt[{}]:{}", place.display(), source.display()));
    }
    for (kind, path) in joined(spec) {
        let fd = nix::fcntl::open(path, OFlag::O_RDONLY, Mode::empty());
        options.inherit(fd.map_err(|e| Error::path("open", path, e))?, label(kind));
    }
    for (number, name) in Streams::read(images.images())?.0.iter().enumerate() {
        if name.starts_with("pipe:") || name.starts_with("file[") {
            options.inherit(stream(number)?, name);
        }
    }
    if let (Some(path), true) = (record.cgroup_path(), images.manage_cgroups_mode != Cgroups::Ignore) {
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
    // criu takes a root that is a mount point.
    let root = entry.dir().make_sub("criu-root")?;
    mount(Some(&record.rootfs), root.path(), None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| Error::path("mount the root at", root.path(), e))?;
    options.text(Field::Root, root.path());
    let by_criu = rpc::call(&criu, Action::Restore, options, |command| inside(cgroup.as_ref(), command));
    let _ = umount2(root.path(), MntFlags::MNT_DETACH);
    let rpc::Done { pid, mut terminal } = by_criu.map_err(images.reason(Action::Restore))?;
    record.set_process(ns_core::ProcessId::of(pid)?);
    record.creating = false;
    entry.write(record)?;
    restored.settled()?;
    if has_terminal && terminal.is_none() {
        return Err(Error::new("process.terminal: what is restored had no terminal: set it to false"));
    }
    if let Some(socket) = socket
        && let Some(master) = terminal.take()
    {
        console::send_terminal(&socket, &master)?;
    }
    Ok((pid, terminal))
}

/// Starts a program in a cgroup, by entering that for the moment.
fn inside(cgroup: Option<&Cgroup>, command: &mut Command) -> std::io::Result<std::process::Child> {
    let other = |e: cgroup_core::Error| std::io::Error::other(e.to_string());
    let Some(cgroup) = cgroup else { return command.spawn() };
    let own = std::process::id() as i32;
    let before = Hierarchy::detect().and_then(|host| host.own()).map_err(other)?;
    cgroup.attach(own).map_err(other)?;
    let child = command.spawn();
    before.attach(own).map_err(other)?;
    child
}

/// What is mounted from outside, and from where: criu knows it by its place in the container.
fn external(spec: &Spec, rootfs: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let bound = spec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Bind { source, .. } => Some((&mount.destination, source.as_path())),
        _ => None,
    });
    let masked = spec.masked_paths.iter().map(|path| (path, Path::new("/dev/null")));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(rootfs, flags, Mode::empty()).map_err(|e| Error::path("open", rootfs, e))?;
    let root_path = rootfs.canonicalize().map_err(|e| Error::io("look at", rootfs, &e))?;
    let place = |path: &PathBuf| {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        // What lies on another mount of the container's is not to be seen from here.
        let Ok(found) = openat2(&root, path, how) else { return path.clone() };
        let found = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap_or_default();
        found.strip_prefix(&root_path).map_or_else(|_| path.clone(), |inner| Path::new("/").join(inner))
    };
    Ok(bound.chain(masked).map(|(path, source)| (place(path), source.to_owned())).collect())
}

/// Namespaces that are others', of the kinds that criu can leave alone.
fn joined(spec: &Spec) -> impl Iterator<Item = (Kind, &Path)> {
    [Kind::Net, Kind::Pid].into_iter().filter_map(|kind| match spec.namespaces.get(kind) {
        Namespace::Join(Join::Path(path)) => Some((kind, path.as_path())),
        _ => None,
    })
}

/// runc's name for one of them in images.
fn label(kind: Kind) -> &'static str {
    if kind == Kind::Net { "extRootNetNS" } else { "extRootPidNS" }
}

/// By which names criu knows what a container's standard streams were.
struct Streams(Vec<String>);

impl Streams {
    fn of(pid: i32) -> Result<Streams> {
        let proc = Path::new("/proc").join(pid.to_string());
        let read = |path: &Path| fs::read(path).map_err(|e| Error::io("read", path, &e));
        let mounts = read(&proc.join("mountinfo"))?;
        let name = |number: u32| {
            let path = proc.join("fd").join(number.to_string());
            let target = match fs::read_link(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
                target => target.map_err(|e| Error::io("look at", &path, &e))?.display().to_string(),
            };
            let stat = fs::metadata(&path).map_err(|e| Error::io("look at", &path, &e))?;
            let info = read(&proc.join("fdinfo").join(number.to_string()))?;
            let mount = ns_core::proc::number::<u64>(&info, "mnt_id");
            let has_path = !stat.file_type().is_fifo() && !stat.file_type().is_socket();
            let known = ns_core::proc::mounts(&mounts).any(|known| Some(known.id) == mount);
            Ok(match mount {
                Some(id) if has_path && !known => format!("file[{id:x}:{:x}]", stat.ino()),
                _ => target,
            })
        };
        Ok(Streams((0..3).map(name).collect::<Result<_>>()?))
    }

    fn write(&self, images: &Path) -> Result<()> {
        let path = images.join(DESCRIPTORS);
        fs::write(&path, serde_json::json!(self.0).to_string()).map_err(|e| Error::io("write", &path, &e))
    }

    fn read(images: &Path) -> Result<Streams> {
        let path = images.join(DESCRIPTORS);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map(Streams).map_err(|e| {
                Error::new(format!("{} is no list of what the standard streams were: {e}", path.display()))
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Streams(Vec::new())),
            Err(e) => Err(Error::io("read", &path, &e)),
        }
    }
}

/// A copy of a standard stream of this program's.
fn stream(number: usize) -> Result<OwnedFd> {
    let copy = match number {
        0 => rustix::io::dup(std::io::stdin()),
        1 => rustix::io::dup(std::io::stdout()),
        _ => rustix::io::dup(std::io::stderr()),
    };
    copy.map_err(|e| Error::call("copy a standard stream", "dup", Errno::from_raw(e.raw_os_error())))
}

/// The exit code of a child.
fn wait(pid: i32) -> Result<i32> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::call("wait for the container", "waitpid", e)),
        }
    }
}

fn criu() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let criu = std::env::split_paths(&path).map(|dir| dir.join("criu")).find(|file| file.is_file());
    criu.ok_or_else(|| {
        Error::new(
            "criu is not installed, and checkpoint and restore are its work: install it, or put it in PATH",
        )
    })
}

impl ImageArgs {
    /// Returns the options of every action, with the directories, which stay open until criu has ended.
    fn options(&self, action: Action) -> Result<(Options, [File; 2])> {
        let mut options = Options::default();
        let open = |path: &Path| File::open(path).map_err(|e| Error::io("open", path, &e));
        let [images, work] = [open(self.images())?, open(self.work())?];
        options.number(Field::ImagesDirFd, images.as_raw_fd() as u64);
        options.number(Field::WorkDirFd, work.as_raw_fd() as u64);
        options.text(Field::LogFile, log_file(action));
        options.number(Field::LogLevel, 4);
        // criu tells of each step by this, and hands a terminal over.
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
        if self.empty_ns.contains(&EmptyNs::Network) {
            options.number(Field::EmptyNs, nix::libc::CLONE_NEWNET as u64);
        }
        options.number(Field::ManageCgroupsMode, self.manage_cgroups_mode as u64);
        Ok((options, [images, work]))
    }

    /// Directories for what is in a process's memory, and so for the caller alone.
    fn make(&self) -> Result<()> {
        for dir in [self.images(), self.work()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|e| Error::io("make", dir, &e))?;
        }
        Ok(())
    }

    fn images(&self) -> &Path {
        self.image_path.get().unwrap_or(Path::new("checkpoint"))
    }

    fn work(&self) -> &Path {
        self.work_path.get().unwrap_or(self.images())
    }

    /// Adds the last error of criu's log to a failure.
    fn reason(&self, action: Action) -> impl Fn(Error) -> Error {
        let log = self.work().join(log_file(action));
        move |e| {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            // The first may be of something that it can do without.
            let is_reason = |line: &&str| line.contains("Error (") && !line.ends_with("FAILED.");
            let complaint = text.lines().rfind(is_reason).unwrap_or("it does not say why");
            Error::new(format!("{e}: {}: see {}", complaint.trim(), log.display()))
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
