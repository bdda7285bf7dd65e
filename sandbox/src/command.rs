//! The builder, in the manner of [`std::process::Command`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use cgroup_core::{Hierarchy, Limits};
use ns_core::{Kind, Kinds, Pidfd};

use crate::cgroups::CgroupUse;
use crate::container::Container;
use crate::error::Error;
use crate::fd::duplicate;
use crate::launch::{Launcher, OnPrepared, StartOptions};
use crate::outcome::Outcome;
use crate::plan::{Handles, Hold, Plan};
use crate::pool::{Pool, Shared};
use crate::reap::ReapList;
use crate::spawn::Prepared;
use crate::spec::{Join, Mount, Namespace, Namespaces, Root, Spec, User};
use crate::stdio::{Stdio, Streams};

/// A container to be.
///
/// ```no_run
/// use nspod_sandbox::{Command, Stdio};
/// use std::io::Read;
///
/// let mut container = Command::new("hostname").hostname("box").stdout(Stdio::Piped).spawn()?;
/// let mut name = String::new();
/// container.stdout.take().unwrap().read_to_string(&mut name).unwrap();
/// assert_eq!(name, "box\n");
/// assert!(container.wait()?.status.success());
/// container.delete()?;
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
#[derive(Debug)]
pub struct Command {
    spec: Spec,
    handles: Handles,
    /// Starts the plan for these; `None` after one of them was changed.
    launcher: Option<Arc<Launcher>>,
    stdio: [Stdio; 3],
    name: Option<String>,
    cgroup: CgroupUse,
    pod: Option<PathBuf>,
    exit_file: Option<File>,
    reaped_by: Vec<ReapList>,
    prepared: Option<OnPrepared>,
    pool: Option<Arc<Shared>>,
}

impl Command {
    /// A program in a container as one expects it: see [`Spec::new`].
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command::from_spec(Spec::new(program))
    }

    /// A program with nothing isolated, the ground to build on: it has the caller's
    /// namespaces, root, ids and environment, and no cgroup of its own.
    pub fn bare(program: impl AsRef<OsStr>) -> Command {
        let mut spec = Spec::bare(program);
        spec.process.env = std::env::vars_os().collect();
        let mut command = Command::from_spec(spec);
        command.cgroup = CgroupUse::None;
        command
    }

    /// A container as a spec describes it.
    pub fn from_spec(spec: Spec) -> Command {
        Command {
            spec,
            handles: Handles::default(),
            launcher: None,
            stdio: Default::default(),
            name: None,
            cgroup: CgroupUse::Auto,
            pod: None,
            exit_file: None,
            reaped_by: Vec::new(),
            prepared: None,
            pool: None,
        }
    }

    /// The spec so far.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The spec, to change anything that has no method here.
    pub fn spec_mut(&mut self) -> &mut Spec {
        self.launcher = None;
        &mut self.spec
    }

    fn handles_mut(&mut self) -> &mut Handles {
        self.launcher = None;
        &mut self.handles
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.spec_mut().process.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.spec_mut().process.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let (key, value): (OsString, OsString) = (key.as_ref().into(), value.as_ref().into());
        let env = &mut self.spec_mut().process.env;
        match env.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => env.push((key, value)),
        }
        self
    }

    /// Empties the environment.
    pub fn env_clear(&mut self) -> &mut Self {
        self.spec_mut().process.env.clear();
        self
    }

    /// The working directory within the container.
    pub fn current_dir(&mut self, dir: impl Into<PathBuf>) -> &mut Self {
        self.spec_mut().process.cwd = Some(dir.into());
        self
    }

    /// Whom to run as.
    pub fn user(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.spec_mut().process.user = Some(User { uid, gid, groups: Vec::new() });
        self
    }

    /// What the container sees as `/`.
    pub fn root(&mut self, root: Root) -> &mut Self {
        self.spec_mut().root = root;
        self
    }

    /// Adds a mount.
    pub fn mount(&mut self, mount: Mount) -> &mut Self {
        self.spec_mut().mounts.push(mount);
        self
    }

    /// The host name.
    pub fn hostname(&mut self, name: impl Into<String>) -> &mut Self {
        self.spec_mut().hostname = Some(name.into());
        self
    }

    /// Resource limits of the container's cgroup. [`spawn`](Self::spawn) refuses them where the
    /// container has no cgroup of its own: after [`no_cgroup`](Self::no_cgroup),
    /// [`cgroup_inside`](Self::cgroup_inside), [`Command::bare`] and [`exec`](crate::exec).
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.spec_mut().limits = limits;
        self
    }

    /// Decides for one kind of namespace.
    pub fn namespace(&mut self, kind: Kind, namespace: Namespace) -> &mut Self {
        *self.spec_mut().namespaces.get_mut(kind) = namespace;
        self
    }

    /// New namespaces of exactly these kinds; the caller's own of the others.
    pub fn isolate(&mut self, kinds: Kinds) -> &mut Self {
        self.spec_mut().namespaces = Namespaces::new(kinds);
        self
    }

    /// Joins a namespace that is held open.
    pub fn join(&mut self, namespace: ns_core::Namespace) -> &mut Self {
        *self.spec_mut().namespaces.get_mut(namespace.kind()) = Namespace::Join(Join::Handle);
        self.handles_mut().namespaces.push(namespace);
        self
    }

    /// Joins namespaces of a process.
    ///
    /// # Errors
    /// If one of them cannot be opened, for one because the process has ended.
    pub fn join_pidfd(&mut self, kinds: Kinds, process: &Pidfd) -> Result<&mut Self, Error> {
        for kind in kinds.kinds() {
            self.join(ns_core::Namespace::of_pidfd(process, kind)?);
        }
        Ok(self)
    }

    /// Hands a descriptor on, as number `to` (3 or more).
    pub fn fd(&mut self, fd: impl Into<OwnedFd>, to: RawFd) -> &mut Self {
        self.handles_mut().inherited.push((fd.into(), to));
        self
    }

    /// Standard input.
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[0] = stdio.into();
        self
    }

    /// Standard output.
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[1] = stdio.into();
        self
    }

    /// Standard error.
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[2] = stdio.into();
        self
    }

    /// Holds the container, all set up, until [`Container::start`].
    pub fn hold(&mut self) -> &mut Self {
        self.handles_mut().hold = Some(Hold::Here);
        self
    }

    /// Holds the container, all set up, until [`start_held`](crate::start_held) with this
    /// directory, by whichever program: this one may end ([`Container::detach`]).
    pub fn hold_at(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.handles_mut().hold = Some(Hold::At(directory.into()));
        self
    }

    /// Calls a function when the namespaces and mounts are made and `/` is still the
    /// caller's. What it returns is what the spec's hooks get on standard input. An error
    /// ([`Error::caller`]) ends the start.
    ///
    /// ```no_run
    /// # use nspod_sandbox::Command;
    /// let mut command = Command::new("true");
    /// command.prepared(|container| {
    ///     println!("process {} is on its way", container.pid);
    ///     Ok(Vec::new())
    /// });
    /// # command.status()?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    pub fn prepared(
        &mut self,
        then: impl FnOnce(&Prepared<'_>) -> Result<Vec<u8>, Error> + Send + 'static,
    ) -> &mut Self {
        self.prepared = Some(OnPrepared(Box::new(then)));
        self.handles_mut().ready = true;
        self
    }

    /// The name of the container's cgroup; else a random one.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.name = Some(name.into());
        self
    }

    /// Makes the container's cgroup under this one (an absolute path of a cgroup2 file
    /// system) and not where the library would.
    pub fn cgroup_parent(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.cgroup = CgroupUse::Under(path.into());
        self
    }

    /// Makes the container's cgroup here exactly, with the parents that are missing: a path
    /// counted from the top of the hierarchy, as in `/kubepods/burstable/pod1/c`.
    pub fn cgroup_at(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.cgroup = CgroupUse::At(path.into());
        self
    }

    /// Starts the program in this cgroup, which is there already and stays afterwards: a
    /// further process of a container. Limits and device rules in the spec are then refused, as
    /// they would concern the processes that are there too.
    pub fn cgroup_inside(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.cgroup = CgroupUse::Inside { path: path.into(), of: None, even_frozen: false };
        self
    }

    /// Starts a further process of a container also where its cgroup is frozen.
    /// [`spawn`](Self::spawn) returns when the cgroup is thawed. Without it that is an error
    /// ([`ErrorKind::State`](crate::ErrorKind::State)).
    pub fn even_frozen(&mut self) -> &mut Self {
        if let CgroupUse::Inside { even_frozen, .. } = &mut self.cgroup {
            *even_frozen = true;
        }
        self
    }

    /// Makes no cgroup: the container stays in the caller's. Limits and device rules in the spec
    /// are then refused.
    pub fn no_cgroup(&mut self) -> &mut Self {
        self.cgroup = CgroupUse::None;
        self
    }

    /// Takes what is ready in a pool, and makes the rest.
    pub fn pool(&mut self, pool: &Pool) -> &mut Self {
        self.launcher = None;
        self.pool = Some(pool.shared());
        self
    }

    /// Where the embedded init notes how the program ended, for whoever comes later: see
    /// [`init::read_exit`](crate::init::read_exit). Without it the note is the handle's alone.
    pub fn exit_file(&mut self, file: File) -> &mut Self {
        self.exit_file = Some(file);
        self
    }

    /// The process must be reaped for a container or pod of this program to end.
    pub(crate) fn reaped_by(&mut self, list: &ReapList) {
        self.reaped_by.push(list.clone());
    }

    /// Pins a pid that the spec joins to this pidfd, so that a reused pid is not joined.
    pub(crate) fn joins_process(&mut self, pid: i32, pidfd: &Pidfd) -> Result<(), Error> {
        self.handles_mut().process = Some((pid, duplicate(pidfd)?));
        Ok(())
    }

    /// Makes this directory the program's `/`.
    pub(crate) fn enters_root(&mut self, root: OwnedFd) {
        self.handles_mut().root = Some(root);
    }

    pub(crate) fn cgroup_use(&mut self, cgroup: CgroupUse) -> &mut Self {
        self.cgroup = cgroup;
        self
    }

    pub(crate) fn in_pod(&mut self, cgroup: PathBuf) -> &mut Self {
        self.pod = Some(cgroup.clone());
        self.cgroup = CgroupUse::Under(cgroup);
        self
    }

    /// Returns what a start would do, without doing it. The plan is made once: each
    /// [`spawn`](Self::spawn) follows it until the command is changed.
    ///
    /// # Errors
    /// As [`Plan::new`], and if this process has too many open files (`EMFILE`).
    pub fn plan(&mut self) -> Result<Arc<Plan>, Error> {
        Ok(self.launcher()?.plan().clone())
    }

    /// Returns what starts this command's plan any number of times, from any thread. The standard
    /// streams, the name and the place of the cgroup are not part of a plan.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn launcher(&mut self) -> Result<Arc<Launcher>, Error> {
        if let Some(launcher) = &self.launcher {
            return Ok(launcher.clone());
        }
        let plan = Plan::new(&self.spec, self.handles.try_clone()?)?;
        let launcher = Arc::new(Launcher::new(plan).with_shared_pool(self.pool.clone()));
        self.launcher = Some(launcher.clone());
        Ok(launcher)
    }

    /// Starts the container. A further call starts another one, by the same plan.
    ///
    /// This is sound from any thread of any program. It changes nothing of the caller's process.
    ///
    /// # Errors
    /// The field of the spec that is invalid, the limit that this host cannot enforce, or the step that
    /// failed. Nothing is then left behind.
    pub fn spawn(&mut self) -> Result<Container, Error> {
        let launcher = self.launcher()?;
        let mut streams = Streams::open(std::mem::take(&mut self.stdio))?;
        let pod = self.pod.take();
        let mut start = |cgroup: &CgroupUse| {
            launcher.start(StartOptions {
                streams: &mut streams,
                cgroup,
                name: self.name.as_deref(),
                pod: pod.clone(),
                exit_file: self.exit_file.take(),
                reaped_by: self.reaped_by.clone(),
                prepared: self.prepared.take(),
            })
        };
        match (start(&self.cgroup), &self.cgroup) {
            (Err(e), CgroupUse::Inside { of: Some(pid), even_frozen, .. }) if holds_no_process(&e) => {
                let path = Hierarchy::detect()?.of(*pid)?.path().to_owned();
                start(&CgroupUse::Inside { path, of: None, even_frozen: *even_frozen })
            }
            (started, _) => started,
        }
    }

    /// Starts the container, waits for its end, and deletes it.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), and if it cannot be deleted.
    pub fn status(&mut self) -> Result<Outcome, Error> {
        let mut container = self.spawn()?;
        let outcome = container.wait()?;
        container.delete()?;
        Ok(outcome)
    }
}

/// Whether the start failed because the cgroup is gone or has controllers enabled for its children, and
/// so cannot hold processes.
fn holds_no_process(e: &Error) -> bool {
    let errno = e.raw_os_error();
    // The clone3 of this process, or a second one of the child.
    let of_clone = e.step() == Some("clone") || e.failed_call() == Some("clone3");
    of_clone && matches!(errno, Some(libc::ENODEV | libc::EBUSY))
        || e.step() == Some("cgroup") && matches!(errno, Some(libc::ENOENT | libc::ENODEV))
}
