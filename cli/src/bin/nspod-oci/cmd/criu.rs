//! `checkpoint` and `restore`, by the program criu.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
use nspod_cli::process::Process;
use nspod_sandbox::spec::{Join, MountKind, Namespace, Spec};

use super::delete::{finish, stop};
use crate::args::{Global, MaybePath};
use crate::launch::{self, BundleArgs, Claimed};
use crate::state::Status;
use crate::{console, driver, hooks, log};

/// Where it is written what the standard streams were, as runc does.
const DESCRIPTORS: &str = "descriptors.json";

// What both take.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Where the images are
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: PathBuf,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cgroups {
    Soft,
    Full,
    Strict,
    Ignore,
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
    status_fd: Option<i32>,
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
    let mut command = images.command(if args.pre_dump { "pre-dump" } else { "dump" })?;
    let spec = entry.config()?.container(&entry.context(global)?)?.spec;
    no_terminal(&spec)?;
    images.make()?;
    let pid = record.init_process_pid;
    command.arg("--tree").arg(pid.to_string()).arg("--root").arg(&record.rootfs);
    let inside = Path::new("/proc").join(pid.to_string()).join("root");
    // A directory is masked with a file system of its own, which criu finds out.
    let is_own = |place: &Path| {
        let there = inside.join(place.strip_prefix("/").unwrap_or(place));
        spec.masked_paths.iter().any(|path| path == place)
            && fs::symlink_metadata(there).is_ok_and(|there| there.is_dir())
    };
    for (place, _) in external(&spec, &record.rootfs)?.into_iter().filter(|(place, _)| !is_own(place)) {
        command.arg("--external").arg(format!("mnt[{0}]:{0}", place.display()));
    }
    for (kind, path) in joined(&spec) {
        let inode = fs::metadata(path).map_err(|e| Error::io("look at", path, &e))?.ino();
        command.arg("--external").arg(format!("{kind}[{inode}]:{}", label(kind)));
    }
    let streams = Streams::of(pid)?;
    for file in streams.0.iter().filter(|name| name.starts_with("file[")) {
        command.arg("--external").arg(file);
    }
    if let Some(path) = record.cgroup_path() {
        command.arg("--freeze-cgroup").arg(path);
    }
    if let Some(path) = args.parent_path.get() {
        command.arg("--prev-images-dir").arg(path).arg("--track-mem");
    }
    if let Some(server) = &args.page_server {
        let (address, port) = server.rsplit_once(':').ok_or_else(|| {
            Error::new(format!("--page-server: {server:?} is not of the form ADDRESS:PORT"))
        })?;
        command.args(["--page-server", "--address", address, "--port", port]);
    }
    if let Some(fd) = args.status_fd {
        command.arg("--status-fd").arg(fd.to_string());
    }
    if args.leave_running {
        command.arg("--leave-running");
    }
    if args.pre_dump {
        command.arg("--track-mem");
    }
    done(command.spawn(), &images.log(&command))?;
    if args.pre_dump {
        return Ok(());
    }
    streams.write(&images.image_path)?;
    if args.leave_running {
        return Ok(());
    }
    driver::remove(record)?;
    finish(&store, &entry, record, &lock, None)
}

pub(crate) fn restore(global: &Global, args: &RestoreArgs) -> Result<i32> {
    let mut command = args.images.command("restore")?;
    let pidfd_socket = args.bundle.pidfd_socket.connect()?;
    let mut restored = launch::prepare(global, &args.bundle)?;
    let pid = match restore_into(args, &mut command, &mut restored) {
        Ok(pid) => pid,
        Err(e) => {
            // What criu has restored before something failed, and the cgroup it was put in.
            if let Err(e) = driver::remove(&restored.record) {
                log::warn(&e);
            }
            return Err(restored.give_up(e));
        }
    };
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
    let fatal = foreground::until_end(pid, &pidfd, &signals, &mut None, kill)?;
    let code = wait(pid)?;
    let code = fatal.map_or(code, |signal| 128 + signal);
    if let Some(lock) = store.lock_again(&entry)? {
        driver::remove(&record)?;
        finish(&store, &entry, &record, &lock, Some(signals))?;
    }
    Ok(code)
}

fn restore_into(args: &RestoreArgs, command: &mut Command, restored: &mut Claimed) -> Result<i32> {
    let images = &args.images;
    let unheard = [
        ("prestart", restored.wanted.hooks.prestart.is_empty()),
        ("createRuntime", restored.wanted.hooks.create_runtime.is_empty()),
    ];
    for (kind, _) in unheard.iter().filter(|(_, none)| !none) {
        log::warn(&format_args!("hooks.{kind}: these are not run again for what is restored"));
    }
    no_terminal(&restored.wanted.spec)?;
    let cgroup = restored.cgroup()?;
    let (entry, record, spec) = (&restored.entry, &mut restored.record, &restored.wanted.spec);
    command.args(["--restore-detached", "--restore-sibling"]);
    let pid_file = entry.dir.at("criu.pid");
    command.arg("--pidfile").arg(&pid_file);
    for (place, source) in external(spec, &record.rootfs)? {
        command.arg("--external").arg(format!("mnt[{}]:{}", place.display(), source.display()));
    }
    // Without close-on-exec, for criu.
    let mut inherited: Vec<OwnedFd> = Vec::new();
    let mut inherit = |command: &mut Command, fd: OwnedFd, name: &str| {
        command.arg("--inherit-fd").arg(format!("fd[{}]:{name}", fd.as_raw_fd()));
        inherited.push(fd);
    };
    for (kind, path) in joined(spec) {
        let fd = nix::fcntl::open(path, OFlag::O_RDONLY, Mode::empty());
        inherit(command, fd.map_err(|e| Error::path("open", path, e))?, label(kind));
    }
    for (number, name) in Streams::read(&images.image_path)?.0.iter().enumerate() {
        if name.starts_with("pipe:") || name.starts_with("file[") {
            inherit(command, stream(number)?, name);
        }
    }
    if let (Some(path), true) = (record.cgroup_path(), images.manage_cgroups_mode != Cgroups::Ignore) {
        let from_top = path.strip_prefix(Cgroup::top()?.path()).unwrap_or(path);
        command.arg("--cgroup-root").arg(Path::new("/").join(from_top));
    }
    if let Some(profile) = &args.lsm_profile {
        command.arg("--lsm-profile").arg(profile);
    }
    if let Some(context) = &args.lsm_mount_context {
        command.arg("--lsm-mount-context").arg(context);
    }
    // criu takes a root that is a mount point.
    let root = entry.dir.make_sub("criu-root")?;
    mount(Some(&record.rootfs), root.path(), None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| Error::path("mount the root at", root.path(), e))?;
    command.arg("--root").arg(root.path());
    let by_criu = done(inside(cgroup.as_ref(), command), &images.log(command));
    let _ = umount2(root.path(), MntFlags::MNT_DETACH);
    by_criu?;
    let text = fs::read_to_string(&pid_file).map_err(|e| Error::io("read", &pid_file, &e))?;
    let pid = text
        .trim()
        .parse()
        .map_err(|_| Error::new(format!("criu noted no pid in {}", pid_file.display())))?;
    record.set_process(Process::of(pid)?);
    record.creating = false;
    entry.write(record)?;
    restored.settled()?;
    Ok(pid)
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
        let read = |path: &Path| fs::read_to_string(path).map_err(|e| Error::io("read", path, &e));
        let mounts = read(&proc.join("mountinfo"))?;
        let name = |number: u32| {
            let path = proc.join("fd").join(number.to_string());
            let target = match fs::read_link(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
                target => target.map_err(|e| Error::io("look at", &path, &e))?.display().to_string(),
            };
            let stat = fs::metadata(&path).map_err(|e| Error::io("look at", &path, &e))?;
            let info = read(&proc.join("fdinfo").join(number.to_string()))?;
            let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim();
            let has_path = !stat.file_type().is_fifo() && !stat.file_type().is_socket();
            let known = mounts.lines().any(|line| line.split(' ').next() == Some(mount));
            Ok(match mount.parse::<u32>() {
                Ok(id) if has_path && !known => format!("file[{id:x}:{:x}]", stat.ino()),
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

impl ImageArgs {
    fn command(&self, action: &str) -> Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let criu = std::env::split_paths(&path).map(|dir| dir.join("criu")).find(|file| file.is_file());
        let criu = criu.ok_or_else(|| {
            Error::new("criu is not installed, and checkpoint and restore are its work: install it, or put it in PATH")
        })?;
        let mut command = Command::new(criu);
        command.arg(action).arg("--images-dir").arg(&self.image_path);
        command.arg("--work-dir").arg(self.work()).args(["--log-file", &format!("{action}.log"), "-v4"]);
        for (wanted, flag) in [
            (self.tcp_established, "--tcp-established"),
            (self.ext_unix_sk, "--ext-unix-sk"),
            (self.shell_job, "--shell-job"),
            (self.file_locks, "--file-locks"),
            (self.auto_dedup, "--auto-dedup"),
            (self.lazy_pages, "--lazy-pages"),
            (self.empty_ns.contains(&EmptyNs::Network), "--empty-ns=net"),
        ] {
            if wanted {
                command.arg(flag);
            }
        }
        let mode = self.manage_cgroups_mode.to_possible_value();
        let mode = mode.as_ref().map_or("soft", |mode| mode.get_name());
        command.arg(format!("--manage-cgroups={mode}"));
        Ok(command)
    }

    /// Directories for what is in a process's memory, and so for the caller alone.
    fn make(&self) -> Result<()> {
        for dir in [&self.image_path, self.work()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|e| Error::io("make", dir, &e))?;
        }
        Ok(())
    }

    fn work(&self) -> &Path {
        self.work_path.get().unwrap_or(&self.image_path)
    }

    fn log(&self, command: &Command) -> PathBuf {
        let action = command.get_args().next().unwrap_or_default();
        self.work().join(action).with_extension("log")
    }
}

/// Of a terminal the other end is outside, and criu hands over a new one's only to who speaks
/// its protocol.
fn no_terminal(spec: &Spec) -> Result<()> {
    match spec.process.terminal {
        Some(_) => Err(Error::new(
            "process.terminal: a container with a terminal cannot be checkpointed or restored, for the program criu hands over no other end of one: set it to false",
        )),
        None => Ok(()),
    }
}

/// Waits for criu's success, or says what it complains of last.
fn done(criu: std::io::Result<std::process::Child>, log: &Path) -> Result<()> {
    let status = criu.and_then(|mut criu| criu.wait());
    let status = status.map_err(|e| Error::new(format!("cannot run criu: {e}")))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // The first may be of something that it can do without.
    let is_reason = |line: &&str| line.contains("Error (") && !line.ends_with("FAILED.");
    let complaint = text.lines().rfind(is_reason).unwrap_or("it does not say why");
    Err(Error::new(format!("criu failed: {status}: {}: see {}", complaint.trim(), log.display())))
}
