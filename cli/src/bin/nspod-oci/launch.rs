//! From a bundle to a container: what `create` and `run` have in common.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cgroup_core::{Cgroup, Limits};
use clap::Args;
use ns_core::{Kind, Namespace, Pidfd, ProcessId};
use nspod_cli::error::{Error, Result};
use nspod_cli::passwd;
use nspod_oci_runtime::config::{self, Context};
use nspod_oci_runtime::move_net_device;
use nspod_oci_runtime::resctrl::Resctrl;
use nspod_sandbox::spec::{Mount, MountKind, Root, Spec};
use nspod_sandbox::store::{Lock, read_small};
use nspod_sandbox::{Command, Container, Host, Prepared};

use crate::args::{Global, MaybePath};
use crate::cmd::delete::finish;
use crate::console::PidfdSocket;
use crate::driver::{self, Place};
use crate::state::{Entry, Record, Status, Store};
use crate::{console, hooks, log, program, state};

// What a new container is made from.
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: MaybePath,
    /// Send the terminal's other end to this socket
    #[arg(long, value_name = "SOCKET", default_value = "", hide_default_value = true)]
    console_socket: MaybePath,
    #[command(flatten)]
    pub(crate) pidfd_socket: PidfdSocket,
    /// Write the pid of the container's first process to a file
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pid_file: MaybePath,
    /// Enter the root by chroot, where the host's is an initramfs, which pivot_root cannot leave
    #[arg(long)]
    no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Hand on so many descriptors more, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u16,
    /// The container's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

impl BundleArgs {
    /// See [`HandedOn::take`].
    pub(crate) fn handed_on(&self) -> Result<HandedOn> {
        HandedOn::take(self.preserve_fds)
    }

    /// Connects to the console socket, if one is needed.
    pub(crate) fn socket(&self, terminal: bool, how: How) -> Result<Option<UnixStream>> {
        match (self.console_socket.get(), terminal) {
            (None, true) if how != How::Attended => Err(Error::new(
                "cannot allocate tty if nspod-oci will detach without setting console socket: give --console-socket, or set process.terminal to false",
            )),
            (Some(_), false) => Err(Error::new(
                "cannot use console socket if nspod-oci will not detach or allocate tty: leave --console-socket out, or set process.terminal",
            )),
            (path, _) => path.map(console::connect).transpose(),
        }
    }

    pub(crate) fn write_pid(&self, pid: i32) -> Result<()> {
        self.pid_file.get().map_or(Ok(()), |path| write_pid(path, pid))
    }
}

/// Who is there when the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It waits for `start`, by another call.
    Held,
    /// It runs on alone.
    Detached,
    /// This process waits for it.
    Attended,
}

/// An id that was taken for a bundle, with the lock on its directory.
pub(crate) struct Claimed {
    pub(crate) wanted: config::ContainerSpec,
    /// Where it is started.
    place: Place,
    pub(crate) entry: Arc<Entry>,
    pub(crate) record: Record,
    pub(crate) store: Store,
    pub(crate) lock: Lock,
}

/// A container that was made.
pub(crate) struct Launched {
    pub(crate) container: Container,
    /// The other end of its terminal, if this process is to serve it.
    pub(crate) terminal: Option<File>,
    pub(crate) claimed: Claimed,
}

/// A file system is mounted with a label only where SELinux gives them.
fn labels_can_be(config: &config::Config) -> Result<()> {
    let label = config.spec().linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(()) };
    match Host::has_selinux() {
        true => Ok(()),
        false => Err(Error::new(format!(
            "linux.mountLabel: {label:?} cannot be set, for SELinux is not in force in this kernel: leave it out"
        ))),
    }
}

/// What shall be the root is a directory, or out of the caller's sight.
fn root_is_there(root: &Root) -> Result<()> {
    let Root::Dir { path, .. } = root else { return Ok(()) };
    let problem = match path.metadata() {
        Ok(there) if there.is_dir() => return Ok(()),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return Ok(()),
        Ok(_) => Error::new(format!("{} is not a directory", path.display())),
        Err(e) => Error::io("find", path, &e),
    };
    let cure = "name the directory that holds the container's root file system";
    Err(Error::new(format!("root.path: {problem}: {cure}")))
}

/// Reads a file, and waits for nobody who might write to what is none.
fn read_config(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("this is not a file"));
    }
    read_small(file)
}

/// Reads the bundle, and takes the id.
pub(crate) fn prepare(global: &Global, args: &BundleArgs) -> Result<Claimed> {
    let bundle = args.bundle.get().unwrap_or(Path::new("."));
    let bundle = bundle.canonicalize().map_err(|e| Error::io("enter the bundle", bundle, &e))?;
    let path = bundle.join("config.json");
    let json = read_config(&path).map_err(|e| Error::io("read the configuration", &path, &e))?;
    let context = Context {
        no_new_keyring: args.no_new_keyring,
        no_pivot: args.no_pivot,
        ..state::context(global, &bundle, &args.id)
    };
    let config = config::parse(&json)?;
    let mut wanted = config.container_spec(&context)?;
    wanted.warnings.iter().for_each(log::warn);
    log::debug(&format_args!(
        "container {}: bundle {}, root {:?}",
        args.id,
        bundle.display(),
        wanted.spec.root
    ));
    labels_can_be(&config)?;
    root_is_there(&wanted.spec.root)?;
    let store = global.store()?;
    let (entry, lock) = store.create(&args.id)?;
    let mut record = Record::new(&args.id, bundle.clone());
    record.rootless = global.rootless();
    record.owner = owner();
    record.annotations = std::mem::take(&mut wanted.annotations);
    record.poststart = std::mem::take(&mut wanted.hooks.poststart);
    record.poststop = std::mem::take(&mut wanted.hooks.poststop);
    record.set_root(&wanted.spec.root);
    if wanted.spec.mounts_stay && wanted.spec.namespaces.mnt == nspod_sandbox::spec::Namespace::Host {
        record.root_mount = Some((driver::mount_id(&record.rootfs)?, None));
    }
    let mut claimed = Claimed { wanted, place: Place::Here, entry: Arc::new(entry), record, store, lock };
    let ready = driver::place(global, &claimed.wanted, &args.id, &mut claimed.record)
        // With what it takes to clean up after a crash.
        .and_then(|place| {
            log::debug(&place);
            claimed.place = place;
            claimed.entry.write(&claimed.record)
        })
        .and_then(|()| claimed.entry.write_config(&json));
    match ready {
        Ok(()) => Ok(claimed),
        Err(e) => Err(claimed.give_up(e)),
    }
}

impl Claimed {
    /// Makes its cgroup, for what is put there by other means than this program's.
    pub(crate) fn cgroup(&mut self) -> Result<Option<Cgroup>> {
        let made = self.place.make(&self.wanted.spec)?;
        if let Some(cgroup) = &made {
            self.record.cgroup_paths.insert(String::new(), cgroup.path().to_owned());
        }
        Ok(made)
    }

    /// The container is in its place, by other means than this program's.
    pub(crate) fn settled(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.place, Place::Here) {
            Place::Scope(scope) => scope.release(),
            _ => Ok(()),
        }
    }

    /// The same of one that has been started and killed: the hooks of its end are due.
    pub(crate) fn give_up_started(&self, why: Error) -> Error {
        self.entry.hooked.store(true, Ordering::Relaxed);
        self.give_up(why)
    }

    /// Leaves nothing of a container that could not be made, for this reason.
    pub(crate) fn give_up(&self, why: Error) -> Error {
        let begun = self.entry.hooked.load(Ordering::Relaxed);
        let removed = if self.record.has_own_end() { driver::remove(&self.record) } else { Ok(()) };
        let forgotten = removed.and_then(|()| match begun {
            true => finish(&self.store, &self.entry, &self.record, &self.lock, None),
            false => self.store.remove(&self.entry, &self.lock),
        });
        if let Err(e) = forgotten {
            log::warn(&e);
        }
        why
    }
}

/// Makes the container.
pub(crate) fn launch(global: &Global, args: &BundleArgs, how: How, handed_on: HandedOn) -> Result<Launched> {
    let mut claimed = prepare(global, args)?;
    match make(args, how, handed_on, &mut claimed) {
        Ok((container, terminal)) => Ok(Launched { container, terminal, claimed }),
        Err(e) => Err(claimed.give_up(e)),
    }
}

fn make(
    args: &BundleArgs,
    how: How,
    handed_on: HandedOn,
    claimed: &mut Claimed,
) -> Result<(Container, Option<File>)> {
    let Claimed { wanted, place, entry, record, .. } = claimed;
    let mut spec = std::mem::take(&mut wanted.spec);
    let socket = args.socket(spec.process.terminal.is_some(), how)?;
    let pidfd_socket = args.pidfd_socket.connect()?;
    console::check_listener(&spec.process, wanted.seccomp_listener.as_ref())?;
    set_home(&mut spec.process, &record.rootfs);
    notify_socket(&mut spec);
    // The hooks at the start are told another state than those before.
    let two_states = !spec.hooks.create_container.is_empty() && !spec.hooks.start_container.is_empty();
    // Who answers for a filter must have its listener before the program runs.
    let held_here = how != How::Held && (two_states || wanted.seccomp_listener.is_some());
    let early = Early {
        status: if spec.hooks.create_container.is_empty() { Status::Created } else { Status::Creating },
        inside: !spec.hooks.is_empty(),
        hooks: std::mem::take(&mut wanted.hooks),
        net_devices: std::mem::take(&mut wanted.net_devices),
        rdt: wanted.intel_rdt.take(),
    };
    if matches!(place, Place::Here) {
        // Nothing can hold it to these. Limits are asked for in vain only where cgroups are disabled.
        if !spec.limits.is_empty() {
            log::warn(&"linux.resources has no effect, as the cgroup manager is disabled");
        }
    }
    if !matches!(place, Place::At(_)) {
        // A scope has them already.
        spec.devices = None;
        spec.limits = Limits::default();
    }
    let mut command = Command::from_spec(spec);
    let unmarked = matches!(place, Place::Here);
    let mut scope = None;
    match std::mem::replace(place, Place::Here) {
        Place::At(path) => command.cgroup_at(path),
        Place::Scope(made) => command.cgroup_inside(scope.insert(made).path()),
        Place::Here => command.no_cgroup(),
    };
    handed_on.give(&mut command);
    if how == How::Held {
        command.hold_at(entry.dir().path());
    } else if held_here {
        command.hold();
    }
    let met = Arc::new(Met::default());
    // Of one without a cgroup a crash would leave no trace but the process, so that is noted
    // before it can outlive this one.
    let noted = !early.is_empty() || unmarked;
    if noted || scope.is_some() {
        let (entry, mut record, met) = (entry.clone(), record.clone(), met.clone());
        command.prepared(move |made| {
            scope.map_or(Ok(()), |scope| scope.release()).map_err(caller)?;
            match noted {
                true => early.happen(made, &entry, &mut record, &met).map_err(caller),
                false => Ok(Vec::new()),
            }
        });
    }
    let name = command.spec().process.args.first().cloned().unwrap_or_default();
    program::tell(&mut command);
    let spawned = command.spawn();
    if let Some((path, made)) = met.rdt.get().cloned() {
        (record.intel_rdt_path, record.rdt_made) = (Some(path), made);
    }
    let mut container = spawned.map_err(program::failed(&name))?;
    record.set_process(ProcessId::of(container.pid())?);
    let state = if how == How::Held || held_here { "is held" } else { "runs" };
    log::debug(&format_args!("the container's process {} {state}", record.init_process_pid));
    console::send_pidfd(pidfd_socket, "standard", container.pidfd().as_fd())?;
    if let Some(file) = met.state.get().filter(|_| two_states) {
        let state = record.state_json(Status::Created)?;
        let written = file.set_len(0).and_then(|()| file.write_all_at(&state, 0));
        written.map_err(|e| Error::new(format!("cannot tell the hooks of the start the state: {e}")))?;
    }
    if let (Some(fd), Some(listener)) = (container.seccomp_listener.take(), &wanted.seccomp_listener) {
        console::send_listener(listener, fd, container.pid(), record, Status::Creating)?;
    }
    if how == How::Held {
        let checked = program::check(container.pid(), &container.spec().process);
        checked.map_err(|e| died(&mut container).unwrap_or(e))?;
    } else if held_here {
        container.start().map_err(program::failed(&name))?;
    }
    let terminal = match (container.terminal.take(), socket) {
        (Some(master), Some(socket)) => {
            console::send_terminal(&socket, &master)?;
            None
        }
        (master, _) => master,
    };
    record.creating = false;
    if let Some((_, made)) = &mut record.root_mount {
        *made = Some(driver::mount_id(&record.rootfs)?);
    }
    if let Some(cgroup) = container.cgroup() {
        record.cgroup_paths.insert(String::new(), cgroup.path().to_owned());
    }
    entry.write(record)?;
    args.write_pid(container.pid())?;
    Ok((container, terminal))
}

/// Sets `HOME`, if nobody has. What the image has in the place of `/etc/passwd` keeps no process
/// from starting.
pub(crate) fn set_home(process: &mut nspod_sandbox::spec::Process, root: &Path) {
    if let Err(e) = passwd::set_home(process, &[root.to_owned()]) {
        log::warn(&format!("HOME is set to /: {e}"));
    }
}

/// What happens on the host when the container's namespaces are there.
struct Early {
    hooks: config::Hooks,
    net_devices: Vec<(String, Option<String>)>,
    rdt: Option<config::IntelRdt>,
    /// There are hooks in the container, that want its state.
    inside: bool,
    /// What it is at when they are run.
    status: Status,
}

impl Early {
    fn is_empty(&self) -> bool {
        let Early { hooks, net_devices, rdt, inside, .. } = self;
        let without_hooks = hooks.prestart.is_empty() && hooks.create_runtime.is_empty() && !inside;
        without_hooks && net_devices.is_empty() && rdt.is_none()
    }

    /// Returns the state for the hooks in the container.
    fn happen(self, made: &Prepared<'_>, entry: &Entry, record: &mut Record, met: &Met) -> Result<Vec<u8>> {
        record.set_process(ProcessId::of(made.pid)?);
        if let Some(file) = made.state.and_then(|file| file.try_clone().ok()) {
            let _ = met.state.set(file);
        }
        if let Some(rdt) = self.rdt {
            let class = rdt.clos_id.clone().unwrap_or_else(|| record.id.clone());
            let lines = rdt.l3_cache_schema.into_iter().chain(rdt.mem_bw_schema).chain(rdt.schemata);
            let wanted = Resctrl {
                clos_id: rdt.clos_id,
                schemata: lines.collect(),
                enable_monitoring: rdt.monitoring,
            };
            let applied = wanted.apply(&record.id, made.pid);
            record.rdt_made = applied.map_err(|e| Error::new(format!("linux.intelRdt: {e}")))?;
            record.intel_rdt_path = Some(Path::new("/sys/fs/resctrl").join(class));
            let _ = met.rdt.set((record.intel_rdt_path.clone().unwrap_or_default(), record.rdt_made.clone()));
        }
        entry.write(record)?;
        entry.hooked.store(true, Ordering::Relaxed);
        if !self.net_devices.is_empty() {
            let there = Namespace::of_pidfd(made.pidfd, Kind::Net)?;
            for (name, new) in &self.net_devices {
                move_net_device(name, new.as_deref(), there.as_fd())
                    .map_err(|e| Error::new(format!("linux.netDevices.{name}: {e}")))?;
            }
        }
        let state = record.state_json(Status::Creating)?;
        hooks::run("prestart", &self.hooks.prestart, &state)?;
        hooks::run("createRuntime", &self.hooks.create_runtime, &state)?;
        record.state_json(self.status)
    }
}

/// What is known only when the namespaces are there.
#[derive(Default)]
struct Met {
    /// The file that hooks in the container get.
    state: OnceLock<File>,
    /// The group of Intel RDT's, and what was made for it.
    rdt: OnceLock<(PathBuf, Vec<PathBuf>)>,
}

fn caller(e: Error) -> nspod_sandbox::Error {
    nspod_sandbox::Error::caller(e.to_string())
}

/// What to say of a container that should wait to be started, if its first process has ended.
fn died(container: &mut Container) -> Option<Error> {
    let outcome = container.wait_timeout(Duration::ZERO).ok().flatten()?;
    let error = Error::new(format!("the container's first process was {} before its start", outcome.status));
    Some(match outcome.oom {
        Some(oom) => error.hint(format!("{oom}: the memory limit may be too low")),
        None => error.hint("a process outside sent it the signal"),
    })
}

/// Descriptors of the caller's that the container gets: those of socket activation first.
pub(crate) struct HandedOn {
    fds: Vec<OwnedFd>,
    listening: u16,
}

impl HandedOn {
    /// To be called before this process opens any descriptor that stays open: the first number
    /// that is free is the first that the caller has not handed over.
    pub(crate) fn take(preserved: u16) -> Result<HandedOn> {
        let ours = |pid: &str| pid.is_empty() || pid.parse() == Ok(std::process::id());
        let listening = match std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u16>().ok()) {
            Some(n) if ours(&std::env::var("LISTEN_PID").unwrap_or_default()) => n,
            _ => 0,
        };
        let count = i32::from(listening) + i32::from(preserved);
        if count == 0 {
            return Ok(HandedOn { fds: Vec::new(), listening });
        }
        let own = Pidfd::open(std::process::id() as i32)?;
        let first_free = own.as_fd().as_raw_fd();
        let copy = |fd| match fd < first_free {
            true => Ok(own.get_fd(fd)?),
            false => Err(Error::new(format!(
                "cannot hand on descriptor {fd}, of --preserve-fds or LISTEN_FDS: it is not open"
            ))),
        };
        Ok(HandedOn { fds: (3..3 + count).map(copy).collect::<Result<_>>()?, listening })
    }

    /// Gives them to the container.
    pub(crate) fn give(self, command: &mut Command) {
        if self.listening > 0 {
            command.env("LISTEN_FDS", self.listening.to_string()).env("LISTEN_PID", "1");
        }
        for (fd, to) in self.fds.into_iter().zip(3..) {
            command.fd(fd, to);
        }
    }
}

/// What tells systemd that the service is ready is to be had within.
fn notify_socket(spec: &mut Spec) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from) else { return };
    if !socket.is_absolute() {
        return;
    }
    let mount = Mount::new(&socket, MountKind::Bind { source: socket.clone(), recursive: false });
    spec.mounts.push(mount);
    spec.process.env.push(("NOTIFY_SOCKET".into(), socket.into()));
}

/// Whoever sees the file sees a whole number in it. What lies where it is written first is
/// removed and not written through: it may be a link of somebody else's.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}"));
    let _ = std::fs::remove_file(&fresh);
    File::create_new(&fresh)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| {
            let _ = std::fs::remove_file(&fresh);
            Error::io("write the pid to", path, &e)
        })
}

fn owner() -> String {
    let uid = nix::unistd::getuid().as_raw();
    if uid == 0 {
        return "root".into();
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    ns_core::user_name(&passwd, uid).map_or_else(String::new, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_not_written_through_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let (victim, file) = (temp.path().join("victim"), temp.path().join("pid"));
        std::fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, temp.path().join(".pid")).unwrap();
        std::os::unix::fs::symlink(&victim, &file).unwrap();
        write_pid(&file, 42).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "42");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
    }

    #[test]
    fn of_a_pid_that_cannot_be_written_nothing_is_left() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("pid")).unwrap();
        let error = write_pid(&temp.path().join("pid"), 42).unwrap_err().to_string();
        assert!(error.contains("cannot write the pid to"), "{error}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
