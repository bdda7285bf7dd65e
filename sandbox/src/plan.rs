//! From what is wanted to what will be done: everything is decided, checked and made
//! ready here, and nothing of the kernel's state is changed.
//!
//! The order of the steps is the order of this file and its parts:
//! `namespaces` (join, make, map), `files` (root, mounts, masks), then `identity`
//! (descriptors, ids, capabilities, filter) and last the program.

mod files;
mod host_root;
mod identity;
mod namespaces;
mod stage;

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ns_core::{IdMap, Kind, Kinds};

use crate::error::{Error, ErrorKind};
use crate::fd::duplicate;
use crate::host::Host;
use crate::spec::{Namespace, Root, Spec};
use crate::step::{CStrings, Exec, Hook, Param, Step};

/// A container made ready: it can be spawned, any number of times.
///
/// ```
/// use nspod_sandbox::{Plan, spec::Spec};
/// let plan = Plan::new(&Spec::new("/bin/true"), Default::default())?;
/// println!("{plan}");
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
#[derive(Debug)]
pub struct Plan {
    /// What the child does, in order.
    pub(crate) steps: Vec<Step>,
    /// Namespaces that the first clone makes.
    pub(crate) kinds: Kinds,
    /// The child borrows the parent's memory until it has become the program.
    pub(crate) shared_memory: bool,
    /// Maps that the parent writes while the child waits.
    pub(crate) maps: Option<Maps>,
    /// Mount trees that the parent opens before the clone.
    pub(crate) trees: Vec<Tree>,
    /// Whether a clone of the child's, and not the first, enters the cgroup.
    pub(crate) cgroup_at_second: bool,
    /// Descriptors of the caller's that the program gets: from, to.
    pub(crate) inherited: Vec<(OwnedFd, i32)>,
    /// The steps that a process without any of the caller's memory performs, if there are any.
    pub(crate) stage: Option<Stage>,
    /// How the child is held before it becomes the program.
    pub(crate) held: Option<Hold>,
    /// The program's file, where its first argument is not the path.
    file: Option<PathBuf>,
    /// The caller of the library has something to do when namespaces and mounts are made.
    pub(crate) ready: bool,
    /// The steps that make the standard `/dev` and need not to be the container's own.
    pub(crate) dev: Option<Range<usize>>,
    /// The spec that this came from.
    pub(crate) spec: Spec,
}

/// The last steps of a start, for the stage: see [`stage`].
pub(crate) struct Stage {
    /// What the stage maps: the steps after [`Step::Stage`], encoded.
    pub(crate) blob: Vec<u8>,
    /// The process is born into a pid namespace that other processes are in already.
    pub(crate) enters: bool,
    /// The createContainer hooks, which the parent runs in the container's other namespaces: a
    /// process that the child made would be seen, with the caller's memory.
    pub(crate) hooks: Vec<crate::spec::Hook>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stage { blob, enters, hooks } = self;
        let bytes = blob.len();
        f.debug_struct("Stage").field("bytes", &bytes).field("enters", enters).field("hooks", hooks).finish()
    }
}

impl Stage {
    /// Decides whether the last steps need a process that has nothing of the caller's:
    /// - other processes are in the pid namespace that is joined;
    /// - a hook of the image runs before the program does;
    /// - the container is held, and others may enter it meanwhile;
    /// - the program is an image's, which can name `/proc/self/exe` as its interpreter. The
    ///   embedded init serves for this as well.
    fn of(spec: &Spec, held: bool, entered: bool) -> Option<Stage> {
        let foreign = entered
            || !matches!(spec.root, Root::Host | Root::HostReadOnly)
            || matches!(spec.namespaces.mnt, Namespace::Join(_));
        let enters = matches!(spec.namespaces.pid, Namespace::Join(_));
        let needed = enters || held || !spec.hooks.start_container.is_empty() || foreign && !spec.init;
        needed.then(|| Stage { blob: Vec::new(), enters, hooks: Vec::new() })
    }
}

/// Id maps that the parent writes.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) uid: IdMap,
    pub(crate) gid: IdMap,
    /// By newuidmap and newgidmap.
    pub(crate) helpers: bool,
}

/// A mount tree that the parent opens.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) source: CString,
    pub(crate) recursive: bool,
    /// `MS_PRIVATE`, or `MS_SLAVE` where mounts of the host shall be seen.
    pub(crate) propagation: u64,
    pub(crate) id_maps: Option<TreeMaps>,
    /// The device that the source shall be. It is made where the source is none or another.
    pub(crate) device: Option<TreeDevice>,
    /// It is no tree of the source's, but a procfs of a pid namespace that is joined.
    pub(crate) procfs: Option<ProcfsOf>,
}

/// A device that the parent makes, for the container's ids may not.
#[derive(Debug)]
pub(crate) struct TreeDevice {
    /// Mode with the type.
    pub(crate) mode: u32,
    pub(crate) number: u64,
    /// User and group on the host.
    pub(crate) owner: (u32, u32),
}

/// A procfs that is made from outside of its pid namespace.
#[derive(Debug)]
pub(crate) struct ProcfsOf {
    pub(crate) namespace: OwnedFd,
    /// The user namespace that has the right to, where the caller has none.
    pub(crate) user: Option<OwnedFd>,
    pub(crate) params: Vec<Param>,
}

/// Whose the files of a tree are seen to be.
#[derive(Debug)]
pub(crate) struct TreeMaps {
    pub(crate) of: MapsOf,
    pub(crate) recursive: bool,
}

/// Where a tree's id maps come from: mount_setattr(2) takes a user namespace that has them.
#[derive(Debug)]
pub(crate) enum MapsOf {
    /// One that has to be made for it.
    Given { uid: IdMap, gid: IdMap },
    /// One that the container joins.
    Namespace(OwnedFd),
}

/// How a container is held before its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Until [`Container::start`](crate::Container::start), while this program lives.
    Here,
    /// Until [`start_held`](crate::start_held) with this directory, in this program or another.
    At(PathBuf),
}

/// Descriptors and other handles that belong to a spec.
#[derive(Debug, Default)]
pub struct Handles {
    /// Namespaces to join, for the kinds that the spec has as `Join(Handle)`.
    pub namespaces: Vec<ns_core::Namespace>,
    /// The process that the spec joins by this pid. It pins the pid to the pidfd, so that a reused
    /// pid is not joined.
    pub process: Option<(i32, OwnedFd)>,
    /// Descriptors that the program inherits: from, to (3 or more).
    pub inherited: Vec<(OwnedFd, i32)>,
    /// Hold the container before its program, until it is started.
    pub hold: Option<Hold>,
    /// Stop when the namespaces and mounts exist, for [`Command::prepared`].
    ///
    /// [`Command::prepared`]: crate::Command::prepared
    pub ready: bool,
    /// The program's file, if it differs from the first argument.
    pub(crate) file: Option<PathBuf>,
    /// The directory that becomes `/`: the root of a process whose mount namespace has another root.
    pub root: Option<OwnedFd>,
}

impl Handles {
    /// Copies the handles, so that a plan can be made again.
    pub(crate) fn try_clone(&self) -> Result<Handles, Error> {
        let inherited = self.inherited.iter().map(|(fd, to)| Ok((duplicate(fd)?, *to)));
        let namespaces = self.namespaces.iter().map(|namespace| Ok(namespace.try_clone()?));
        let process = self.process.as_ref().map(|(pid, fd)| Ok::<_, Error>((*pid, duplicate(fd)?)));
        Ok(Handles {
            namespaces: namespaces.collect::<Result<_, Error>>()?,
            inherited: inherited.collect::<Result<_, Error>>()?,
            process: process.transpose()?,
            hold: self.hold.clone(),
            root: self.root.as_ref().map(duplicate).transpose()?,
            ready: self.ready,
            file: self.file.clone(),
        })
    }
}

/// The descriptors that the stage and the embedded init find in place, counted from the highest
/// that is placed for the program.
pub(crate) mod numbers {
    // Apart from the numbers that the caller's own next descriptors likely have: one that has its
    // number already would be placed by one call and not by two.
    /// The socket to the parent.
    pub(crate) const REPORT: i32 = 21;
    /// Where a held container reports from its start on.
    pub(crate) const LATE: i32 = 22;
    /// The file that the init writes the program's end to.
    pub(crate) const EXIT: i32 = 23;
    /// The encoded steps. This and what follows is the stage's alone.
    pub(crate) const BLOB: i32 = 24;
    /// The root of a procfs.
    pub(crate) const PROC: i32 = 25;
    /// Where a held container waits to be started.
    pub(crate) const GO: i32 = 26;
    /// What hooks get as standard input.
    pub(crate) const STATE: i32 = 27;
    /// The file of the embedded init.
    pub(crate) const IMAGE: i32 = 28;
    /// Above all of these.
    pub(crate) const ABOVE: i32 = 29;
}

impl Plan {
    /// Makes a plan for the calling process on this host.
    ///
    /// # Errors
    /// `InvalidSpec` names the field and what is wrong with it; `Namespace` where one to join cannot be opened.
    pub fn new(spec: &Spec, handles: Handles) -> Result<Plan, Error> {
        Plan::on(spec, &Host::detect(spec)?, handles)
    }

    /// Makes a plan from a spec and facts about a host.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn on(spec: &Spec, host: &Host, handles: Handles) -> Result<Plan, Error> {
        check(spec)?;
        let Handles { namespaces, process, inherited, hold, ready, file, root } = handles;
        check_descriptors(&inherited)?;
        let mut plan = Plan {
            steps: Vec::with_capacity(64),
            kinds: Kinds::empty(),
            // A child that waits for this program cannot have its memory meanwhile.
            shared_memory: !ready,
            maps: None,
            trees: Vec::new(),
            cgroup_at_second: false,
            inherited,
            stage: Stage::of(spec, hold.is_some(), root.is_some()),
            held: hold,
            file,
            ready,
            dev: None,
            spec: spec.clone(),
        };
        let ids = namespaces::add(&mut plan, host, (namespaces, process))?;
        files::add(&mut plan, host, &ids)?;
        plan.steps.extend(root.map(Step::EnterRoot));
        identity::add(&mut plan, host, &ids)?;
        plan.encode_stage()?;
        if plan.steps.len() > usize::from(u16::MAX) {
            return Err(Error::invalid("mounts", "there are more than a plan can hold"));
        }
        Ok(plan)
    }

    /// What the child will do, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The spec that this came from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Above every descriptor that the program gets.
    pub(crate) fn highest_fd(&self) -> i32 {
        self.inherited.iter().map(|(_, to)| *to).max().unwrap_or(2).max(2)
    }

    /// The program's name, for messages.
    pub(crate) fn program(&self) -> std::borrow::Cow<'_, str> {
        self.spec.process.args.first().map_or("the init".into(), |name| name.to_string_lossy())
    }

    /// The process is born into a pid namespace that other processes are in already.
    pub(crate) fn enters(&self) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.enters)
    }

    /// A step goes on in a sibling.
    pub(crate) fn clones(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Clone(_)))
    }

    /// Above every descriptor that is placed, for the program and for what is executed before it.
    pub(crate) fn above(&self) -> i32 {
        let placed = self.stage.is_some() || self.spec.init;
        self.highest_fd() + if placed { numbers::ABOVE } else { 1 }
    }

    /// Encodes what follows the step that executes the stage.
    fn encode_stage(&mut self) -> Result<(), Error> {
        let Some(at) = self.steps.iter().position(|step| matches!(step, Step::Stage(_))) else {
            return Ok(());
        };
        let blob = stage::encode(self, at + 1)?;
        let (high, above) = (self.highest_fd(), self.above());
        let (fd, report) = (high + numbers::BLOB, high + numbers::REPORT);
        let contract = c_string("process.args", format!("{fd}:{}:{report}", blob.len()))?;
        self.steps[at] = Step::Stage(Exec {
            name: "the stage".into(),
            candidates: Vec::new(),
            file: Some(crate::init::image(above)?),
            argv: CStrings::new(vec![c"nspod-stage".to_owned(), contract]),
            envp: CStrings::new(Vec::new()),
        });
        if let Some(stage) = &mut self.stage {
            stage.blob = blob;
        }
        Ok(())
    }

    fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// When namespaces and mounts are made and `/` is still the caller's.
    fn push_ready(&mut self) -> Result<(), Error> {
        let mut hooks = self.spec.hooks.create_container.clone();
        let outside = self.enters() && !hooks.is_empty();
        if outside {
            self.ready = true;
            self.shared_memory = false;
        }
        if self.ready {
            self.push(Step::Ready);
        }
        if let Some(stage) = self.stage.as_mut().filter(|_| outside) {
            for (index, hook) in hooks.iter_mut().enumerate() {
                check_hook(&format!("hooks.createContainer[{index}]"), hook)?;
                hook.env.get_or_insert_with(|| self.spec.process.env.clone());
            }
            stage.hooks = hooks;
            return Ok(());
        }
        self.push_hooks("createContainer", &hooks)
    }

    fn push_hooks(&mut self, when: &'static str, hooks: &[crate::spec::Hook]) -> Result<(), Error> {
        for (index, hook) in hooks.iter().enumerate() {
            let field = format!("hooks.{when}[{index}]");
            check_hook(&field, hook)?;
            let argv = hook.args.iter().map(|arg| c_string(&field, arg)).collect::<Result<_, _>>()?;
            self.push(Step::Hook(Hook {
                when,
                path: c_string(&field, &hook.path)?,
                argv: CStrings::new(argv),
                envp: environment(&field, hook.env.as_ref().unwrap_or(&self.spec.process.env))?,
                timeout: hook.timeout,
            }));
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    /// The plan for people: a line each for what the parent does, numbered lines for the
    /// steps of the child.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.kinds.kinds().map(|k| k.name()).collect();
        if !self.spec.limits.is_empty() {
            writeln!(f, "limit its cgroup:")?;
            for (file, value) in self.spec.limits.writes() {
                writeln!(f, "      {file} = {value}")?;
            }
        }
        for tree in &self.trees {
            write!(f, "open the tree {}", tree.source.to_string_lossy())?;
            match tree.id_maps {
                Some(_) => writeln!(f, " with mapped ids")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "clone3 into its cgroup")?;
        match names.is_empty() {
            true => write!(f, ", no new namespaces")?,
            false => write!(f, ", new {} namespaces", names.join(", "))?,
        }
        writeln!(f, ", memory {}", if self.shared_memory { "shared until exec" } else { "copied" })?;
        if let Some(maps) = &self.maps {
            let by = if maps.helpers { " by newuidmap and newgidmap" } else { "" };
            writeln!(f, "write the id maps{by}:")?;
            for (name, map) in [("uid_map", &maps.uid), ("gid_map", &maps.gid)] {
                for line in map.to_string().lines() {
                    writeln!(f, "      {name} {}", line.trim())?;
                }
            }
        }
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:4}  {step}")?;
        }
        Ok(())
    }
}

/// The ids that a container's files and processes have, as its user namespace sees them.
pub(crate) struct Ids {
    /// The container has a user namespace that is not the caller's.
    pub(crate) foreign: bool,
    /// ... which this plan makes.
    pub(crate) new: bool,
    /// setgroups(2) works there.
    pub(crate) setgroups: bool,
    /// Gid 5, of terminals, is mapped.
    pub(crate) tty_group: bool,
}

/// What can be said of a spec without looking at the host.
fn check(spec: &Spec) -> Result<(), Error> {
    let ns = &spec.namespaces;
    // An init without a program holds a pod's namespaces.
    let nameless = spec.process.args.first().is_none_or(|a| a.is_empty());
    if nameless && !(spec.init && spec.process.args.is_empty()) {
        return Err(Error::invalid("process.args", "name a program"));
    }
    if spec.mounts_stay {
        let problem = match &spec.root {
            _ if ns.is_new(Kind::Mnt) => "the mounts of a new mnt namespace end with it",
            Root::Dir { path, .. } if path != Path::new("/") => "",
            _ => "the root is a directory other than /",
        };
        if !problem.is_empty() {
            return Err(Error::invalid("mounts_stay", problem));
        }
    } else if !ns.is_new(Kind::Mnt) {
        let host_mounts = [
            ("mounts", spec.mounts.is_empty()),
            ("nodes", spec.nodes.is_empty()),
            ("links", spec.links.is_empty()),
            ("propagation", spec.propagation.is_none()),
            ("masked_paths", spec.masked_paths.is_empty()),
            ("readonly_paths", spec.readonly_paths.is_empty()),
        ];
        for (field, empty) in host_mounts {
            if !empty {
                return Err(Error::invalid(
                    field,
                    "this takes a new mnt namespace, or the host would be changed",
                ));
            }
        }
        if spec.root != Root::Host {
            return Err(Error::invalid("root", "a root of its own takes a new mnt namespace"));
        }
    }
    for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        if let Some(name) = name {
            if *ns.get(Kind::Uts) == Namespace::Host {
                return Err(Error::invalid(
                    field,
                    "this takes a uts namespace of its own, or the host would be renamed",
                ));
            }
            if name.len() > 64 {
                return Err(Error::invalid(field, "a name has at most 64 bytes"));
            }
        }
    }
    if spec.init && !ns.is_new(Kind::Pid) {
        return Err(Error::invalid("init", "an init takes a new pid namespace, whose pid 1 it is"));
    }
    if spec.time_offsets.is_some() && !ns.is_new(Kind::Time) {
        return Err(Error::invalid("time_offsets", "clock offsets take a new time namespace"));
    }
    if spec.id_maps != crate::spec::IdMaps::Auto && !ns.is_new(Kind::User) {
        return Err(Error::invalid("id_maps", "id maps take a new user namespace"));
    }
    if let Some(value) = spec.process.oom_score_adj
        && !(-1000..=1000).contains(&value)
    {
        return Err(Error::invalid(
            "process.oom_score_adj",
            format!("{value} is not between -1000 and 1000"),
        ));
    }
    for (name, value) in &spec.sysctls {
        check_sysctl("sysctls", name, ns)?;
        check_name("sysctls", name, value, spec.domainname.as_deref())?;
    }
    spec.limits.validate()?;
    Ok(())
}

fn check_hook(field: &str, hook: &crate::spec::Hook) -> Result<(), Error> {
    match hook.path.is_absolute() {
        true => Ok(()),
        false => {
            let problem = format!("{} is not an absolute path", hook.path.display());
            Err(Error::invalid(&format!("{field}.path"), problem))
        }
    }
}

fn check_descriptors(inherited: &[(OwnedFd, i32)]) -> Result<(), Error> {
    // The kernel's own default for fs.nr_open.
    const END: i32 = 1 << 20;
    for (at, (_, to)) in inherited.iter().enumerate() {
        if !(3..END).contains(to) {
            return Err(Error::invalid("descriptors", format!("{to} is not between 3 and {}", END - 1)));
        }
        if inherited[..at].iter().any(|(_, other)| other == to) {
            return Err(Error::invalid("descriptors", format!("two are to be number {to}")));
        }
    }
    Ok(())
}

/// Checks that a parameter belongs to a kind of namespace (namespaces(7), user_namespaces(7)) and
/// is set in one that is not the caller's: any other would change the host. Returns the kind.
pub(crate) fn check_sysctl(field: &str, name: &str, ns: &crate::spec::Namespaces) -> Result<Kind, Error> {
    let path = name.replace('.', "/");
    let field = format!("{field}.{name}");
    let kind = match path.split('/').collect::<Vec<_>>().as_slice() {
        parts if parts.iter().any(|p| p.is_empty() || *p == "..") => {
            return Err(Error::invalid(&field, "this is not the name of a kernel parameter"));
        }
        ["net", ..] => Kind::Net,
        ["fs", "mqueue", ..] => Kind::Ipc,
        ["kernel", p] if p.starts_with("msg") || p.starts_with("shm") => Kind::Ipc,
        ["kernel", "sem" | "sem_next_id" | "auto_msgmni"] => Kind::Ipc,
        ["kernel", "hostname" | "domainname"] => Kind::Uts,
        ["user", _] => Kind::User,
        _ => {
            return Err(Error::invalid(
                &field,
                "it belongs to no namespace, and setting it would change the host",
            ));
        }
    };
    match ns.get(kind) {
        Namespace::Host => Err(Error::invalid(
            &field,
            format!("this takes a {} namespace of its own, or the host would be changed", kind.name()),
        )),
        _ => Ok(kind),
    }
}

/// Checks that a parameter does not set a name that has a field of its own, as runc and crun do.
/// The domain name may be given both ways if it is the same: that field is younger than the custom
/// of engines to set the parameter.
pub(crate) fn check_name(
    field: &str,
    name: &str,
    value: &str,
    domainname: Option<&str>,
) -> Result<(), Error> {
    let conflict = match name.replace('.', "/").as_str() {
        "kernel/hostname" => "hostname",
        "kernel/domainname" if domainname.is_some_and(|domainname| domainname != value) => "domainname",
        _ => return Ok(()),
    };
    let problem = format!("this conflicts with the field {conflict}: set the name there");
    Err(Error::invalid(&format!("{field}.{name}"), problem))
}

/// The namespace of this kind that the plan joins, if it does.
fn joined(plan: &Plan, kind: Kind) -> Result<Option<OwnedFd>, Error> {
    for step in &plan.steps {
        match step {
            Step::JoinFd { kind: other, ns, .. } if *other == kind => {
                let copy = ns.try_clone();
                let copy = copy.map_err(|e| Error::io(ErrorKind::Process, "copy a descriptor", "fcntl", &e));
                return copy.map(Some);
            }
            Step::JoinPidfd { kinds, pidfd, .. } if kinds.contains(kind.into()) => {
                return Ok(Some(ns_core::Namespace::of_pidfd(pidfd, kind)?.into()));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn c_string(field: &str, text: impl AsRef<OsStr>) -> Result<CString, Error> {
    CString::new(text.as_ref().as_bytes())
        .map_err(|_| Error::invalid(field, format!("{:?} holds a NUL byte", text.as_ref())))
}

/// The program: what to execute and what to hand it.
fn program(plan: &Plan) -> Result<Step, Error> {
    let process = &plan.spec.process;
    let args = &process.args;
    let name = match args.first() {
        Some(program) => program.to_string_lossy().into_owned(),
        None => "the init alone".into(),
    };
    let argv = args.iter().map(|a| c_string("process.args", a)).collect::<Result<Vec<_>, _>>()?;
    let candidates = match (&plan.file, args.first()) {
        (Some(file), _) => vec![c_string("process.args", file)?],
        (None, Some(program)) => candidates(program, &process.env)?,
        (None, None) => Vec::new(),
    };
    let envp = environment("process.env", &process.env)?;
    if !plan.spec.init {
        return Ok(Step::Exec(Exec { name, candidates, file: None, argv: CStrings::new(argv), envp }));
    }
    let high = plan.highest_fd();
    let late = matches!(plan.held, Some(Hold::At(_)));
    let report = high + if late { numbers::LATE } else { numbers::REPORT };
    let (step, count) = (plan.steps.len(), candidates.len());
    let contract = format!("{report}:{}:{step}:{count}", high + numbers::EXIT);
    let mut init = vec![c"nspod-init".to_owned(), c_string("process.args", contract)?];
    init.extend(candidates);
    init.extend(argv);
    let file = crate::init::image(plan.above())?;
    Ok(Step::Exec(Exec { name, candidates: Vec::new(), file: Some(file), argv: CStrings::new(init), envp }))
}

fn environment(field: &str, variables: &[(OsString, OsString)]) -> Result<CStrings, Error> {
    let pair = |(key, value): &(OsString, OsString)| {
        if key.is_empty() || key.as_bytes().contains(&b'=') {
            return Err(Error::invalid(field, format!("{key:?} is not the name of a variable")));
        }
        let mut pair = key.clone();
        pair.push("=");
        pair.push(value);
        c_string(field, pair)
    };
    // getenv(3) finds the first of a name, so only the last is handed on.
    let mut names = HashSet::new();
    let mut last: Vec<_> = variables.iter().rev().filter(|(key, _)| names.insert(key)).collect();
    last.reverse();
    Ok(CStrings::new(last.into_iter().map(pair).collect::<Result<_, _>>()?))
}

/// As execvp(3) would look, in the `PATH` that the program itself gets.
fn candidates(program: &OsStr, env: &[(OsString, OsString)]) -> Result<Vec<CString>, Error> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string("process.args", program)?]);
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or(OsStr::new(crate::spec::PATH));
    path.as_bytes()
        .split(|b| *b == b':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| c_string("process.args", Path::new(OsStr::from_bytes(dir)).join(program)))
        .collect()
}
