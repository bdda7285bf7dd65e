//! From a bundle to a container: what `create` and `run` have in common.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use ns_core::Pidfd;
use nspod_cli::dir::Lock;
use nspod_cli::error::{Error, Result};
use nspod_cli::process::Process;
use nspod_sandbox::oci::{self, Context};
use nspod_sandbox::spec::{Mount, MountKind, Spec};
use nspod_sandbox::{Command, Container};

use crate::args::Global;
use crate::cmd::delete::finish;
use crate::state::{Entry, Record, Status, Store};
use crate::{console, driver, hooks, log, program, state};

/// What a new container is made from.
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Send the terminal's other end to this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Write the pid of the container's first process to a file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Accepted, and of no effect: the root is always entered by pivot_root
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
    pub(crate) fn write_pid(&self, pid: i32) -> Result<()> {
        self.pid_file.as_ref().map_or(Ok(()), |path| write_pid(path, pid))
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
    pub(crate) wanted: oci::Container,
    /// Where its cgroup is to be, counted from the top of the hierarchy.
    cgroup: Option<PathBuf>,
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

/// Reads the bundle, and takes the id.
pub(crate) fn prepare(global: &Global, args: &BundleArgs) -> Result<Claimed> {
    let bundle = &args.bundle;
    let bundle = bundle.canonicalize().map_err(|e| Error::io("enter the bundle", bundle, &e))?;
    let path = bundle.join("config.json");
    let json = std::fs::read(&path).map_err(|e| Error::io("read the configuration", &path, &e))?;
    let context =
        Context { no_new_keyring: args.no_new_keyring, ..state::context(global, &bundle, &args.id) };
    let mut wanted = oci::parse(&json)?.container(&context)?;
    wanted.warnings.iter().for_each(log::warn);
    if args.no_pivot {
        log::warn(&"--no-pivot has no effect: the root is entered by pivot_root");
    }
    let store = global.store()?;
    let (entry, lock) = store.create(&args.id)?;
    let mut record = Record::new(&args.id, bundle.clone());
    record.rootless = global.rootless();
    record.owner = owner();
    record.annotations = std::mem::take(&mut wanted.annotations);
    record.poststart = std::mem::take(&mut wanted.hooks.poststart);
    record.poststop = std::mem::take(&mut wanted.hooks.poststop);
    record.set_root(&wanted.spec.root);
    let mut claimed = Claimed { wanted, cgroup: None, entry: Arc::new(entry), record, store, lock };
    let ready = driver::place(global, &claimed.wanted, &args.id, &mut claimed.record)
        // With what it takes to clean up after a crash.
        .and_then(|place| {
            claimed.cgroup = place;
            claimed.entry.write(&claimed.record)
        })
        .and_then(|()| claimed.entry.write_config(&json));
    match ready {
        Ok(()) => Ok(claimed),
        Err(e) => Err(claimed.give_up(e)),
    }
}

impl Claimed {
    /// Leaves nothing of a container that could not be made, for this reason.
    pub(crate) fn give_up(&self, why: Error) -> Error {
        let begun = self.entry.hooked.load(Ordering::Relaxed);
        let forgotten = match begun {
            true => finish(&self.store, &self.entry, &self.record, &self.lock),
            false => self.store.remove(&self.entry, &self.lock),
        };
        if let Err(e) = forgotten {
            log::warn(&e);
        }
        why
    }
}

/// Makes the container.
pub(crate) fn launch(global: &Global, args: &BundleArgs, how: How) -> Result<Launched> {
    let mut claimed = prepare(global, args)?;
    match make(args, how, &mut claimed) {
        Ok((container, terminal)) => Ok(Launched { container, terminal, claimed }),
        Err(e) => Err(claimed.give_up(e)),
    }
}

fn socket(path: Option<&Path>, terminal: bool, how: How) -> Result<Option<UnixStream>> {
    match (path, terminal) {
        (None, true) if how != How::Attended => Err(Error::new(
            "cannot allocate tty if nspod-oci will detach without setting console socket: give --console-socket, or set process.terminal to false",
        )),
        (Some(_), false) => Err(Error::new(
            "cannot use console socket if nspod-oci will not detach or allocate tty: leave --console-socket out, or set process.terminal",
        )),
        _ => path.map(console::connect).transpose(),
    }
}

fn make(args: &BundleArgs, how: How, claimed: &mut Claimed) -> Result<(Container, Option<File>)> {
    let Claimed { wanted, cgroup, entry, record, .. } = claimed;
    let mut spec = std::mem::take(&mut wanted.spec);
    let socket = socket(args.console_socket.as_deref(), spec.process.terminal.is_some(), how)?;
    refuse(wanted)?;
    notify_socket(&mut spec);
    let handed_on = handed_on(&mut spec, args.preserve_fds)?;
    let early = Early {
        status: if spec.hooks.create_container.is_empty() { Status::Created } else { Status::Creating },
        inside: !spec.hooks.is_empty(),
        hooks: std::mem::take(&mut wanted.hooks),
        net_devices: std::mem::take(&mut wanted.net_devices),
    };
    let mut command = Command::from_spec(spec);
    match cgroup {
        Some(path) => command.cgroup_at(&*path),
        None => command.no_cgroup(),
    };
    for (fd, to) in handed_on.into_iter().zip(3..) {
        command.fd(fd, to);
    }
    if how == How::Held {
        command.hold_at(entry.dir.path());
    }
    if !early.is_empty() {
        let (entry, mut record) = (entry.clone(), record.clone());
        command.prepared(move |made| {
            record.set_process(process(made.pid).map_err(caller)?);
            early.happen(&entry, &record).map_err(caller)
        });
    }
    let name = command.spec().process.args.first().cloned().unwrap_or_default();
    let mut container = command.spawn().map_err(program::failed(&name))?;
    if how == How::Held {
        program::check(container.pid(), &container.spec().process)?;
    }
    let terminal = match (container.terminal.take(), socket) {
        (Some(master), Some(socket)) => {
            console::send_terminal(&socket, &master)?;
            None
        }
        (master, _) => master,
    };
    record.set_process(process(container.pid())?);
    record.creating = false;
    if let Some(cgroup) = container.cgroup() {
        record.cgroup_paths.insert(String::new(), cgroup.path().to_owned());
    }
    entry.write(record)?;
    args.write_pid(container.pid())?;
    Ok((container, terminal))
}

/// What no step makes yet.
fn refuse(wanted: &oci::Container) -> Result<()> {
    let asked = [
        ("linux.netDevices", !wanted.net_devices.is_empty()),
        ("linux.intelRdt", wanted.intel_rdt.is_some()),
        ("linux.seccomp.listenerPath", wanted.seccomp_listener.is_some()),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Error::new(format!("{field}: this is not supported"))),
        None => Ok(()),
    }
}

/// What happens on the host when the container's namespaces are there.
struct Early {
    hooks: oci::Hooks,
    net_devices: Vec<(String, Option<String>)>,
    /// There are hooks in the container, that want its state.
    inside: bool,
    /// What it is at when they are run.
    status: Status,
}

impl Early {
    fn is_empty(&self) -> bool {
        let Early { hooks, net_devices, inside, .. } = self;
        hooks.prestart.is_empty() && hooks.create_runtime.is_empty() && net_devices.is_empty() && !inside
    }

    /// Returns the state for the hooks in the container.
    fn happen(self, entry: &Entry, record: &Record) -> Result<Vec<u8>> {
        entry.write(record)?;
        entry.hooked.store(true, Ordering::Relaxed);
        let state = record.state_json(Status::Creating)?;
        hooks::run("prestart", &self.hooks.prestart, &state)?;
        hooks::run("createRuntime", &self.hooks.create_runtime, &state)?;
        record.state_json(self.status)
    }
}

fn caller(e: Error) -> nspod_sandbox::Error {
    nspod_sandbox::Error::caller(e.to_string())
}

fn process(pid: i32) -> Result<Process> {
    Process::of(pid).ok_or_else(|| Error::new(format!("process {pid} is not in /proc: mount it")))
}

/// Descriptors of this process that the container gets: those of socket activation first.
fn handed_on(spec: &mut Spec, preserved: u16) -> Result<Vec<OwnedFd>> {
    let ours = |pid: &str| pid.is_empty() || pid.parse() == Ok(std::process::id());
    let listening = match std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u16>().ok()) {
        Some(n) if ours(&std::env::var("LISTEN_PID").unwrap_or_default()) => n,
        _ => 0,
    };
    if listening > 0 {
        spec.process.env.push(("LISTEN_FDS".into(), listening.to_string().into()));
        spec.process.env.push(("LISTEN_PID".into(), "1".into()));
    }
    inherited(listening, preserved)
}

/// Descriptors 3 and up of this process.
pub(crate) fn inherited(listening: u16, preserved: u16) -> Result<Vec<OwnedFd>> {
    let count = i32::from(listening) + i32::from(preserved);
    if count == 0 {
        return Ok(Vec::new());
    }
    let own = Pidfd::open(std::process::id() as i32)?;
    let copy = |fd| {
        own.get_fd(fd).map_err(|e| {
            Error::new(format!("cannot hand on descriptor {fd}, of --preserve-fds or LISTEN_FDS: {e}"))
        })
    };
    (3..3 + count).map(copy).collect()
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

/// Whoever sees the file sees a whole number in it.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}"));
    std::fs::write(&fresh, pid.to_string())
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| Error::io("write the pid to", path, &e))
}

fn owner() -> String {
    let uid = nix::unistd::getuid().as_raw();
    if uid == 0 {
        return "root".into();
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    ns_core::parse::user_name(&passwd, uid).map_or_else(String::new, Into::into)
}
