//! `nspod run`: runs a command in a container.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroup_core::Limits;
use clap::{ArgAction, Args};
use ns_core::{Kind, Kinds, Pidfd, ProcessId};
use nspod_sandbox::log::{Log, LogLimit};
use nspod_sandbox::passwd;
use nspod_sandbox::spec::{Capabilities, Mount, MountKind, NamespaceMode, Root, Spec};
use nspod_sandbox::store::{EXIT, random_name};
use nspod_sandbox::{Command, Container, ContainerRecord, ErrorKind, Outcome, Plan, Pod, Prepared, Stdio};

use super::{attach, print_id};
use crate::error::{Error, Result};
use crate::flags::Facts;
use crate::flags::bounds::{BoundArgs, ended};
use crate::flags::files::FileArgs;
use crate::flags::limits::{LimitArgs, relax};
use crate::flags::namespaces::{NamespaceArgs, OwnIds};
use crate::flags::process::{CommonArgs, RightsArgs, separate_keys};
use crate::foreground::{self, Attended, Signals};
use crate::keys::Keys;
use crate::network::{self, Network};
use crate::report::End;
use crate::state::pods::{Entry as PodEntry, Pods};
use crate::state::{self, Entry, Lock, SavedContainer, Store, ids, logs, mount_points};
use crate::{image, output, terminal, value};

#[derive(Debug, Default, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Run in the background and print the id. Output goes to a file: see `nspod logs`
    #[arg(short, long)]
    detach: bool,
    /// Name of the container [default: a random id]
    #[arg(long, value_name = "NAME", value_parser = value::name)]
    name: Option<String>,
    /// Remove the container after it has exited. This is the default in the foreground; with -d
    /// the next nspod command removes it
    #[arg(long, conflicts_with = "keep")]
    rm: bool,
    /// Keep the state of a foreground container after it has exited, for `nspod inspect`
    #[arg(long)]
    keep: bool,
    /// Run a small init as pid 1, which starts the command, forwards signals, reaps orphans and
    /// records the exit status. This is the default in a new pid namespace. With --init=false the
    /// command is pid 1: the kernel drops signals that it sends to itself without a handler, and
    /// with -d the exit status is lost
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,
    /// Run the container in this pod, with its shared namespaces and its limits
    #[arg(long, value_name = "POD", value_parser = value::name)]
    pub(crate) pod: Option<String>,
    /// Write the id to a new file
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// Write the host pid of the first process to a file
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Kill the container when nspod ends, or the process that started nspod, also by SIGKILL. Without this
    /// flag, the container continues
    #[arg(long, visible_alias = "kill-child", conflicts_with = "detach")]
    die_with_parent: bool,
    /// With -it, keys that leave the container running, for `nspod attach`: characters, or ctrl- and a letter,
    /// separated by commas; or none. Without this flag they are ctrl-p,ctrl-q, or none if nspod must wait for the
    /// container (--timeout, --cpu-time, --report, --die-with-parent)
    #[arg(long, value_name = "KEYS", value_parser = Keys::parse, conflicts_with_all = [
        "detach", "timeout", "cpu_time", "report", "die_with_parent",
    ])]
    detach_keys: Option<Keys>,
    /// With -d, append the output to this file. Its size has no limit
    #[arg(long, value_name = "FILE", requires = "detach", conflicts_with_all = ["log_max_size", "log_max_files"])]
    log_file: Option<PathBuf>,
    /// With -d, maximum size of one file of the log; `none` or 0 for no log [default: 10m]
    #[arg(long, value_name = "SIZE", requires = "detach", value_parser = value::log_size)]
    log_max_size: Option<u64>,
    /// With -d, number of files of the log, 1 to 16. If the last one is full, the oldest one is overwritten
    /// [default: 3]
    #[arg(long, value_name = "COUNT", requires = "detach", value_parser = value::log_files)]
    log_max_files: Option<u32>,
    /// Signal that `nspod stop` sends
    #[arg(long, value_name = "SIGNAL", value_parser = value::signal, default_value = "TERM")]
    stop_signal: i32,
    /// If this host cannot enforce a limit, start without it and print a warning
    #[arg(long)]
    lax_limits: bool,
    /// Create only the namespaces, as unshare(1) does. The program has the caller's files, cgroup,
    /// capabilities, environment and standard input, and `nspod ps` does not list it
    #[arg(long, conflicts_with_all = [
        "detach", "name", "rm", "keep", "pod", "cidfile", "pidfile", "log_file", "log_max_size",
        "log_max_files", "lax_limits", "cpu_time", "detach_keys",
        "CommonArgs", "LimitArgs", "FileArgs", "RightsArgs",
    ])]
    bare: bool,
    /// With --bare, mount a procfs of the new pid namespace on /proc. Other containers always have one
    #[arg(long, requires = "bare")]
    mount_proc: bool,
    /// Print the steps without running them
    #[arg(long, conflicts_with = "report")]
    explain: bool,
    #[command(flatten)]
    process: CommonArgs,
    #[command(flatten)]
    bounds: BoundArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    namespaces: NamespaceArgs,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    rights: RightsArgs,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

pub(crate) fn run(args: &RunArgs, json: bool) -> Result<i32> {
    args.bounds.reported(json, |end| start(args, json, end))
}

/// Runs the container, and stores its end in `end`.
fn start(args: &RunArgs, json: bool, end: &mut End) -> Result<i32> {
    if args.detach && (args.process.tty || args.process.interactive) {
        return Err(Error::usage(
            "--detach",
            "-d conflicts with -t and -i: start the container with -d alone, then use `nspod exec -it`",
        ));
    }
    // Early, because the parent can end meanwhile.
    let parent = args.parent()?;
    let facts = Facts::detect()?;
    let wanted = args.namespaces.network()?;
    if args.bare {
        if wanted.is_some() {
            let problem = "--bare has no network of its own: remove it, or `--network`";
            return Err(Error::usage("--bare", problem));
        }
        return bare(args, &facts, parent, json, end);
    }
    let in_pod = args.pod.as_deref().map(|name| Pods::open()?.find(name)).transpose()?;
    let pod = in_pod.as_ref().map(PodEntry::open).transpose()?;
    let id = args.name.clone().unwrap_or_else(random_name);
    end.id = Some(id.clone());
    let shared = pod.as_ref().map(|pod| pod.spec().share);
    let mut spec = args.check_log(args.resolve(&facts, shared, &id, &pid_of)?)?;
    if args.explain {
        if let Some(own) = args.namespaces.own_ids() {
            OwnIds::apply(ids::next(own.size)?, &facts, &mut spec.id_maps, &mut spec.sysctls);
        }
        return explain(args, &spec, pod.as_ref(), json);
    }
    if args.lax_limits {
        relax(&mut spec.limits)?.iter().for_each(output::note);
    }
    let network = wanted.map(|wanted| Network::new(&wanted, &id, facts.privileged)).transpose()?;
    FileArgs::make_directories(&spec)?;
    let store = Store::open()?;
    let mut claim = Claim::new(&store, &id, args.detach)?;
    if let Some(own) = args.namespaces.own_ids() {
        let range = ids::reserve(claim.entry.dir(), own.size)?;
        OwnIds::apply(range, &facts, &mut spec.id_maps, &mut spec.sysctls);
    }
    if network.is_some() || in_pod.is_some() {
        claim.mount_names(network, in_pod.as_ref(), &mut spec, facts.privileged)?;
    }
    claim.make_mount_points(&spec)?;
    let signals = if args.detach { None } else { Some(Signals::hold()?) };
    let cidfile = args.cidfile.as_deref().map(|path| CidFile::new(path, &id)).transpose()?;
    let mut container = args.spawn(&mut spec, pod.as_ref(), &mut claim, facts.privileged)?;
    foreground::die_with(parent, &container)?;
    claim.entry.write(&args.saved(&claim, container.record()?, &spec)?)?;
    args.write_pid(container.pid())?;
    if let Some(file) = cidfile {
        file.keep();
    }
    let Some(signals) = signals else {
        container.detach();
        claim.leave();
        print_id(&id, json)?;
        return Ok(0);
    };
    claim.unlock();
    let Some(outcome) = args.attend(&mut container, &claim.entry, signals)? else {
        container.detach();
        claim.leave();
        return Ok(0);
    };
    let outcome = end.outcome.insert(outcome);
    if let Some(oom) = &outcome.oom {
        output::note(oom);
    }
    let code = ended("the container", outcome);
    if args.keep {
        claim.entry.note_outcome(outcome)?;
        claim.keep();
    }
    claim.finish(container)?;
    Ok(code)
}

fn bare(args: &RunArgs, facts: &Facts, parent: Option<Pidfd>, json: bool, end: &mut End) -> Result<i32> {
    let (program, rest) =
        args.command.split_first().ok_or_else(|| Error::usage("COMMAND", "a program is required"))?;
    let mut command = Command::bare(program);
    if args.namespaces.own_ids().is_some() {
        let problem =
            "--bare saves nothing, so it cannot reserve ids for `--userns auto`: use `--userns new`";
        return Err(Error::usage("--userns", problem));
    }
    command.args(rest).isolate(Kinds::FIVE);
    args.bounds.apply(&mut command);
    command.die_with_parent(args.die_with_parent);
    args.namespaces.apply(command.spec_mut(), facts, None, &pid_of)?;
    command.spec_mut().init = args.init;
    if args.mount_proc {
        mount_proc(command.spec_mut())?;
    }
    let in_words = |e| args.in_words(e, &[]);
    if args.explain {
        let plan = command.plan().map_err(in_words)?;
        return print_plan(&plan, json);
    }
    let signals = Signals::hold()?.shared();
    let mut container = command.spawn().map_err(in_words)?;
    foreground::die_with(parent, &container)?;
    let outcome = end.outcome.insert(foreground::attend(&mut container, &signals, None)?);
    let code = ended("the container", outcome);
    container.delete()?;
    Ok(code)
}

/// Adds a mount of `/proc` for `--bare`.
fn mount_proc(spec: &mut Spec) -> Result<()> {
    if spec.namespaces.mnt != NamespaceMode::New || spec.namespaces.pid == NamespaceMode::Host {
        let problem = "--mount-proc requires a new mnt namespace and a pid namespace of the container: remove \
                       `--ns mnt=…` and `--pid host`, or `--mount-proc`";
        return Err(Error::usage("--mount-proc", problem));
    }
    spec.mounts.push(Mount::new("/proc", MountKind::Proc));
    Ok(())
}

fn pid_of(id: &str) -> Result<i32> {
    Ok(Store::open()?.find(id)?.open()?.pid())
}

impl RunArgs {
    fn resolve(
        &self,
        facts: &Facts,
        shared: Option<Kinds>,
        id: &str,
        pid_of: &dyn Fn(&str) -> Result<i32>,
    ) -> Result<Spec> {
        let mut spec = Spec::new("");
        spec.process.args = self.command.clone();
        spec.limits = self.limits.resolve()?;
        self.namespaces.apply(&mut spec, facts, shared, pid_of)?;
        if shared.is_some_and(|s| s.contains_kind(Kind::Mnt)) && !self.files.is_empty() {
            return Err(Error::usage(
                "--pod",
                "the pod shares its mnt namespace: set the root and mounts with `nspod pod create`",
            ));
        }
        self.files.apply(&mut spec, facts)?;
        let roots = passwd::roots(&spec.root);
        self.process.apply(&mut spec, facts, &roots)?;
        self.rights.apply(&mut spec, self.process.privileged)?;
        separate_keys(&mut spec.process, id, None);
        if self.process.tty {
            spec.process.terminal = Some(terminal::size());
        }
        let own = |kind| spec.namespaces.is_new(kind) && !shared.is_some_and(|s| s.contains_kind(kind));
        if own(Kind::Uts) && spec.hostname.is_none() {
            spec.hostname = Some(id.into());
        }
        // If the pod shares its pid namespace, the pod's own init is pid 1.
        spec.init = self.init.or_else(|| (!own(Kind::Pid)).then_some(false));
        if facts.privileged && !self.process.privileged {
            guard_devices(&mut spec, self.rights.adds(MKNOD));
        }
        Ok(spec)
    }

    fn spawn(
        &self,
        spec: &mut Spec,
        pod: Option<&Pod>,
        claim: &mut Claim<'_>,
        privileged: bool,
    ) -> Result<Container> {
        let mut cgroup = claim.entry.id().to_owned();
        let mut tries = 10;
        loop {
            let mut command = self.command(spec, pod, claim.store, &claim.entry)?;
            command.name(&cgroup);
            let network = claim.network.clone();
            // If nspod is killed, only the record leads to a container without a cgroup.
            let note = if privileged { None } else { Some(self.note(claim, spec)?) };
            if network.is_some() && self.detach {
                // pasta is in the container's cgroup, and no nspod waits for the end of the container.
                command.kill_cgroup_at_end();
            }
            if network.is_some() || note.is_some() {
                let dir = claim.entry.dir().path().to_owned();
                command.prepared(move |process| {
                    note.map_or(Ok(()), |note| note(process))?;
                    network.map_or(Ok(()), |(network, privileged)| {
                        network.connect_process(&dir, process, privileged)
                    })?;
                    Ok(Vec::new())
                });
            }
            claim.remove = Store::remove;
            match command.spawn() {
                Ok(container) => return Ok(container),
                Err(e) if self.lax_limits && lacks_files(&e, spec) => {
                    output::note(format_args!("no limit in a file of the cgroup is enforced: {e}"));
                    // The network limits need no file.
                    spec.limits = Limits { net: spec.limits.net.take(), ..Limits::default() };
                }
                Err(e) if self.lax_limits && spec.limits.net.is_some() && refuses_net(&e) => {
                    output::note(format_args!("no network limit is enforced: {e}"));
                    spec.limits.net = None;
                }
                Err(e) if unenforceable(&e) || lacks_files(&e, spec) => {
                    return Err(Error::from(e).hint("or use --lax-limits to start without it"));
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists && e.step() == "cgroup" => {
                    // A container in another store can have a cgroup of this name: keep it.
                    claim.remove = Store::forget;
                    if cgroup != claim.entry.id() || !claim.store.is_in_use(&cgroup)? {
                        if tries == 0 {
                            return Err(e.into());
                        }
                        // A container that is renamed or removed at this moment had the name.
                        tries -= 1;
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                    cgroup = state::other_cgroup(claim.entry.id());
                }
                Err(e) => {
                    let hint = match e.kind() {
                        ErrorKind::ProgramNotFound => image::hint(&self.command),
                        _ => None,
                    };
                    let error = self.in_words(e, &spec.mounts);
                    return Err(match hint {
                        Some(hint) => error.hint(hint),
                        None => error,
                    });
                }
            }
        }
    }

    /// Returns whether the caller can leave the container. Otherwise nspod must wait for its end.
    fn can_leave(&self) -> bool {
        let waits = self.die_with_parent || self.bounds.limits_time() || self.bounds.reports();
        self.process.tty && self.process.interactive && !waits
    }

    /// Waits until the container has ended. Returns `None` if the caller has left it.
    fn attend(
        &self,
        container: &mut Container,
        entry: &Entry,
        mut signals: Signals,
    ) -> Result<Option<Outcome>> {
        let mut terminal = container.terminal.take();
        loop {
            let relay = terminal.take().map(|master| self.relay(master)).transpose()?;
            let master = match foreground::attend_or_leave(container, &signals, relay)? {
                Attended::Ended(outcome) => return Ok(Some(*outcome)),
                Attended::Left(master) => master,
            };
            signals.release();
            match attach::leave(entry, &master) {
                Ok(()) => return Ok(None),
                // The program must not lose its terminal.
                Err(e) => output::note(e),
            }
            (signals, terminal) = (Signals::hold()?, Some(master));
        }
    }

    /// Returns a relay to the terminal of the container.
    fn relay(&self, master: File) -> Result<terminal::Relay> {
        let relay = terminal::Relay::new(master, self.process.interactive)?;
        Ok(match self.can_leave() {
            true => relay.leave_by(self.detach_keys.clone().unwrap_or_default()),
            false => relay,
        })
    }

    /// Makes the error of a start with these mounts. It names the flag that the user typed, not the field of the
    /// spec.
    fn in_words(&self, e: nspod_sandbox::Error, mounts: &[Mount]) -> Error {
        let typed = |field| self.files.words(field, mounts).or_else(|| self.namespaces.words(field));
        match e.field().and_then(typed) {
            Some(words) => Error::in_words(e, &words),
            None => e.into(),
        }
    }

    /// Returns the process that started nspod, if the container ends with it.
    fn parent(&self) -> Result<Option<Pidfd>> {
        self.die_with_parent.then(foreground::parent).transpose()
    }

    fn command(&self, spec: &Spec, pod: Option<&Pod>, store: &Store, entry: &Entry) -> Result<Command> {
        let mut command = Command::from_spec(spec.clone());
        command.entry(entry.dir()).die_with_parent(self.die_with_parent);
        self.bounds.apply(&mut command);
        if let Some(pod) = pod {
            pod.join(&mut command)?;
        }
        if self.detach {
            command.stdin(Stdio::Null);
            self.log(store, entry, &mut command)?;
        } else if !self.process.interactive && !self.process.tty {
            command.stdin(Stdio::Null);
        }
        if self.detach || self.can_leave() {
            command.exit_file(entry.dir().create(EXIT)?);
        }
        Ok(command)
    }

    /// Sets the standard output and error of a detached container.
    fn log(&self, store: &Store, entry: &Entry, command: &mut Command) -> Result<()> {
        if let Some(path) = &self.log_file {
            let log = File::options().create(true).append(true).open(path);
            let log = log.map_err(|e| Error::io("open", "open the log", path, &e))?;
            let copy =
                log.try_clone().map_err(|e| Error::io_call("log", "duplicate the log", "fcntl", &e))?;
            command.stdout(log).stderr(copy);
        } else if let Some(limit) = self.log_limit() {
            command.log(Log::create(&logs::create(store.path(), entry)?, limit)?);
        } else {
            command.stdout(Stdio::Null).stderr(Stdio::Null);
        }
        Ok(())
    }

    /// Returns the bounds of the log; `None` without a log.
    fn log_limit(&self) -> Option<LogLimit> {
        let size = self.log_max_size.unwrap_or(10 << 20);
        (size > 0).then_some(LogLimit { size, files: self.log_max_files.unwrap_or(3) })
    }

    /// Returns the spec, unless nothing could limit the size of the container's log.
    fn check_log(&self, spec: Spec) -> Result<Spec> {
        if !self.detach || spec.has_init() || self.log_file.is_some() || self.log_limit().is_none() {
            return Ok(spec);
        }
        Err(Error::usage(
            "--log-max-size",
            "the size of the log cannot be limited, because the container has no init: use --log-max-size none \
             for no log, or --log-file FILE for a log without a limit",
        ))
    }

    /// Returns a function that writes the record before the program starts, if the container is without a cgroup.
    fn note(
        &self,
        claim: &Claim<'_>,
        spec: &Spec,
    ) -> Result<impl FnOnce(&Prepared<'_>) -> std::result::Result<(), nspod_sandbox::Error> + Send + use<>>
    {
        // The process is known when it exists.
        let container = ContainerRecord {
            process: ProcessId::current()?,
            cgroup: None,
            pod_cgroup: None,
            spec: spec.clone(),
        };
        let mut saved = SavedContainer { starting: true, ..self.saved(claim, container, spec)? };
        let writer = claim.entry.writer();
        Ok(move |process: &Prepared<'_>| {
            if process.has_cgroup {
                return Ok(());
            }
            saved.container.process = ProcessId::of(process.pid)?;
            writer.write(&saved)
        })
    }

    fn saved(
        &self,
        claim: &Claim<'_>,
        mut container: ContainerRecord,
        spec: &Spec,
    ) -> Result<SavedContainer> {
        let log = self.log_file.as_ref().map(std::path::absolute).transpose();
        // The pod changes other parts of the spec.
        container.spec.process = spec.process.clone();
        Ok(SavedContainer {
            id: claim.entry.id().into(),
            container,
            pod: self.pod.clone(),
            created: state::now(),
            runner: if self.detach { None } else { Some(ProcessId::current()?) },
            kept: false,
            remove: self.rm || !(self.detach || self.keep),
            log: log.map_err(|e| Error::io_call("log", "resolve the path of the log", "getcwd", &e))?,
            stop_signal: self.stop_signal,
            network: claim.network.is_some(),
            mount_points: claim.mount_points,
            starting: false,
        })
    }

    fn write_pid(&self, pid: i32) -> Result<()> {
        if let Some(path) = &self.pidfile {
            std::fs::write(path, format!("{pid}\n"))
                .map_err(|e| Error::io("write", "write the pid to", path, &e))?;
        }
        Ok(())
    }
}

/// Returns whether the host cannot enforce a limit that `--lax-limits` leaves out. Limits of directories are not
/// left out.
fn unenforceable(error: &nspod_sandbox::Error) -> bool {
    error.kind() == ErrorKind::Unenforceable && error.step() != "quota"
}

/// Returns whether the host cannot enforce limits in files of the cgroup, or whether the container cannot have a
/// cgroup for them.
fn lacks_files(error: &nspod_sandbox::Error, spec: &Spec) -> bool {
    let is_denied = error.kind() == ErrorKind::PermissionDenied && error.step() == "cgroup";
    !spec.limits.writes().is_empty() && (unenforceable(error) || is_denied && error.field().is_none())
}

/// Returns whether the kernel or the caller's rights refuse the network limits, or whether the container
/// cannot have a cgroup for them.
fn refuses_net(error: &nspod_sandbox::Error) -> bool {
    let refused = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported);
    let of_net = |field: &str| field == "net" || field.starts_with("limits.net.");
    error.field().map_or(refused && error.step() == "cgroup", of_net)
}

/// Mounts the files for name lookup, unless the container has the caller's mounts.
fn mount_files(dir: &Path, spec: &mut Spec) {
    if spec.namespaces.mnt == NamespaceMode::New {
        network::mount_files(dir, &spec.root, &mut spec.mounts);
    }
}

const MKNOD: u64 = 1 << 27;

/// Keeps root in a container from the host's disks. Root could make a device node, or find one in
/// its root file system. In both cases a device filter denies all but the standard devices.
/// Otherwise the container loses CAP_MKNOD instead, because loading the filter costs time.
fn guard_devices(spec: &mut Spec, mknod: bool) {
    if spec.namespaces.user != NamespaceMode::Host {
        return;
    }
    let foreign_root = match &spec.root {
        Root::Dir { .. } => true,
        Root::Overlay { lower, .. } => lower.iter().any(|dir| dir != Path::new("/")),
        Root::Host | Root::HostReadOnly | Root::Empty => false,
    };
    if mknod || foreign_root || spec.devices.is_some() {
        spec.devices.get_or_insert_with(|| cgroup_core::device::DEFAULT.to_vec());
    } else if let Some(sets) = &mut spec.process.capabilities {
        *sets = Capabilities::of(sets.bounding & !MKNOD);
    }
}

fn explain(args: &RunArgs, spec: &Spec, pod: Option<&Pod>, json: bool) -> Result<i32> {
    let mut command = Command::from_spec(spec.clone());
    if let Some(pod) = pod {
        pod.join(&mut command)?;
    }
    let plan = command.plan().map_err(|e| args.in_words(e, &spec.mounts))?;
    print_plan(&plan, json)
}

fn print_plan(plan: &Plan, json: bool) -> Result<i32> {
    if json {
        let steps: Vec<String> = plan.steps().map(|step| step.to_string()).collect();
        output::json(&serde_json::json!({ "spec": plan.spec(), "steps": steps }))?;
    } else {
        output::print(output::plain_lines(&plan.to_string()))?;
    }
    Ok(0)
}

/// The file of `--cidfile`. It is created before the container, so that a file that exists already
/// prevents the start. Dropping removes it, unless it was kept.
struct CidFile<'a>(Option<&'a Path>);

impl<'a> CidFile<'a> {
    fn new(path: &'a Path, id: &str) -> Result<CidFile<'a>> {
        let failed = |e| Error::io("write", "write the id to", path, &e);
        let mut file = File::create_new(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => failed(e).hint("remove it, or name another file"),
            _ => failed(e),
        })?;
        let made = CidFile(Some(path));
        std::io::Write::write_all(&mut file, id.as_bytes()).map_err(failed)?;
        Ok(made)
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        self.0.map(std::fs::remove_file);
    }
}

/// A reserved name. Dropping releases it, unless the container stays.
struct Claim<'a> {
    store: &'a Store,
    entry: Entry,
    lock: Option<Lock>,
    /// Whether the container may have a log.
    logs: bool,
    /// Whether the entry lists mount points.
    mount_points: bool,
    /// The container's network, and whether the caller can pin its namespace.
    network: Option<(Network, bool)>,
    /// Releases the name, and removes the cgroup if it may exist.
    remove: fn(&Store, &Entry, &Lock) -> Result<()>,
    kept: bool,
    /// Dropped last, when the container has been removed.
    named: Option<Named<'a>>,
}

/// The name of a container in `/etc/hosts` of its pod. Dropping removes it if the container has ended.
struct Named<'a> {
    store: &'a Store,
    pod: Option<String>,
}

impl Named<'_> {
    /// Keeps the name of a container that continues. The container can have a lease on the file already.
    fn keep(mut self) {
        self.pod = None;
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if let Some(pod) = &self.pod {
            self.store.update_names(pod, None);
        }
    }
}

impl<'a> Claim<'a> {
    fn new(store: &'a Store, id: &str, logs: bool) -> Result<Claim<'a>> {
        let (entry, lock) = store.create(id)?;
        let (lock, remove) = (Some(lock), Store::forget);
        let mount_points = false;
        Ok(Claim { store, entry, lock, logs, mount_points, network: None, remove, kept: false, named: None })
    }

    /// Mounts the files for name lookup of a container with a network or in a pod.
    fn mount_names(
        &mut self,
        network: Option<Network>,
        pod: Option<&PodEntry>,
        spec: &mut Spec,
        privileged: bool,
    ) -> Result<()> {
        let shares = |kind| pod.is_some_and(|pod| pod.shares(kind));
        let dir = self.entry.dir().path().to_owned();
        if let Some(name) = spec.hostname.as_deref().filter(|_| !shares(Kind::Uts)) {
            network::make_hostname(&dir, name)?;
        }
        if let Some(network) = network {
            self.connects(network, spec, privileged)?;
        }
        mount_files(&dir, spec);
        let Some(pod) = pod else { return Ok(()) };
        mount_files(pod.dir(), spec);
        if shares(Kind::Net) {
            self.store.update_names(pod.name(), Some(self.entry.id()));
            self.named = Some(Named { store: self.store, pod: Some(pod.name().to_owned()) });
        }
        Ok(())
    }

    /// Connects the container to a network at its start.
    fn connects(&mut self, mut network: Network, spec: &mut Spec, privileged: bool) -> Result<()> {
        // A detached container that has ended can still have the ports.
        self.store.disconnect_ended(&self.store.all()?);
        let dir = self.entry.dir().path();
        network.hostname(spec.hostname.as_deref());
        network.make_files(dir)?;
        network.set_sysctls(&mut spec.sysctls);
        self.network = Some((network, privileged));
        Ok(())
    }

    /// Makes the mount points that the volumes lack.
    fn make_mount_points(&mut self, spec: &Spec) -> Result<()> {
        // Some can exist after an error.
        self.mount_points = true;
        self.mount_points = mount_points::make(self.entry.dir(), spec)?;
        Ok(())
    }

    fn keep(&mut self) {
        self.kept = true;
    }

    /// Keeps a container that continues, and its name in the pod.
    fn leave(&mut self) {
        self.keep();
        if let Some(named) = self.named.take() {
            named.keep();
        }
    }

    /// Lets other commands use the entry.
    fn unlock(&mut self) {
        self.lock = None;
    }

    /// Removes a container that has ended.
    fn finish(mut self, container: Container) -> Result<()> {
        let cgroup = container.cgroup().map(|cgroup| cgroup.path().to_owned());
        match container.delete() {
            // Another command has removed it.
            Err(_) if cgroup.is_some_and(|path| !path.exists()) => {}
            other => other?,
        }
        if self.network.is_some() {
            network::disconnect(self.entry.dir().path())?;
        }
        // The container's cgroup is removed already.
        self.remove = Store::forget;
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.kept, true) {
            return Ok(());
        }
        let lock = match self.lock.take() {
            Some(lock) => Some(lock),
            None => self.store.lock_again(&self.entry)?,
        };
        let Some(lock) = lock else { return Ok(()) };
        if self.logs {
            logs::remove(self.entry.dir())?;
        }
        if self.mount_points {
            mount_points::remove(self.entry.dir())?;
        }
        (self.remove)(self.store, &self.entry, &lock)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.clear().unwrap_or_else(output::note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;

    fn args(line: &str) -> RunArgs {
        parse(line.split(' ')).unwrap()
    }

    fn spec(line: &str, facts: &Facts, shared: Option<Kinds>) -> Result<Spec> {
        args(line).resolve(facts, shared, "0123456789ab", &|_| Ok(42))
    }

    fn root(line: &str) -> Spec {
        spec(line, &Facts::root(), None).unwrap()
    }

    #[test]
    fn the_default_is_the_librarys_container_with_a_name_and_without_mknod() {
        let mut expected = Spec::new("true");
        expected.hostname = Some("0123456789ab".into());
        expected.process.env.push(("HOME".into(), "/root".into()));
        let set = expected.process.capabilities.unwrap().bounding & !MKNOD;
        expected.process.capabilities = Some(Capabilities::of(set));
        assert_eq!(root("true"), expected);
    }

    #[test]
    fn a_container_that_can_create_or_bring_device_nodes_gets_a_device_filter() {
        for line in
            ["--cap-add MKNOD x", "--rootfs /img x", "--rootfs /img --overlay x", "--device /dev/null x"]
        {
            assert!(root(line).devices.is_some(), "{line}");
        }
        for line in ["x", "--privileged x", "--overlay x", "--userns auto --rootfs /img x"] {
            assert!(root(line).devices.is_none(), "{line}");
        }
        assert!(spec("--rootfs /img x", &Facts::user(), None).unwrap().devices.is_none());
    }

    #[test]
    fn a_container_has_an_init_where_possible() {
        for line in ["x", "-d x", "--init x", "-it x"] {
            assert!(root(line).has_init(), "{line}");
        }
        for line in ["--init=false x", "-d --init=false --log-max-size=none x", "--pid=host x"] {
            assert!(!root(line).has_init(), "{line}");
        }
        assert!(!spec("-d x", &Facts::root(), Some(Kinds::PID)).unwrap().has_init());
    }

    #[test]
    fn the_default_host_name_is_the_id() {
        assert_eq!(root("x").hostname.as_deref(), Some("0123456789ab"));
        assert_eq!(root("-h box x").hostname.as_deref(), Some("box"));
        assert_eq!(root("--uts host x").hostname, None);
        assert_eq!(spec("x", &Facts::root(), Some(Kinds::UTS)).unwrap().hostname, None);
    }

    #[test]
    fn a_pod_that_shares_mnt_refuses_volumes() {
        nspod_testkit::assert_refused(spec("-v /a:/b x", &Facts::root(), Some(Kinds::MNT)), "pod");
        assert!(spec("x", &Facts::root(), Some(Kinds::MNT)).is_ok());
    }

    #[test]
    fn a_detached_container_refuses_terminal_and_standard_input() {
        for line in ["-d -t x", "-d -i x"] {
            assert!(
                run(&args(line), false).unwrap_err().to_string().starts_with("-d conflicts with -t and -i")
            );
        }
    }
}
