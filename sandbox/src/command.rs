//! [`Command`]: the builder of a container, modelled on [`std::process::Command`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Seek;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cgroup_core::{Hierarchy, Limits};
use ns_core::{Kind, Kinds, Pidfd};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::bounds::{Bounds, OutputBound, Overflow};
use crate::cgroups::CgroupUse;
use crate::container::Container;
use crate::error::{Error, ErrorKind};
use crate::fd::duplicate;
use crate::launch::{Launcher, OnPrepared, StartOptions};
use crate::log::Log;
use crate::outcome::Outcome;
use crate::parent;
use crate::plan::{Handles, Hold, Plan};
use crate::pool::{Pool, Shared};
use crate::reap::ReapList;
use crate::spawn::Prepared;
use crate::spec::{Join, Mount, NamespaceMode, Namespaces, Root, Spec, User};
use crate::stdio::{Stdio, Streams};
use crate::store::Dir;
use crate::watch::Dies;

/// Builds and starts a container, as [`std::process::Command`] builds and starts a process.
///
/// Methods with the same name behave in the same way: [`spawn`](Self::spawn) can be called again
/// and starts a container with the same streams. A descriptor that was passed as a stream stays
/// open in this process until the command is dropped or the stream is replaced. One default
/// differs: dropping a [`Container`] kills it, unless [`kill_on_drop(false)`](Self::kill_on_drop)
/// was called.
///
/// ```
/// use nspod_sandbox::{Command, Stdio};
/// use std::io::Read;
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
///
/// let mut container = Command::new("uname").arg("-n").hostname("box").stdout(Stdio::Piped).spawn()?;
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
    /// Launcher of the plan. `None` after the spec or a handle was changed.
    launcher: Option<Arc<Launcher>>,
    stdio: [Arc<Stdio>; 3],
    name: Option<String>,
    cgroup: CgroupUse,
    pod: Option<PathBuf>,
    exit_file: Option<Arc<File>>,
    entry: Option<PathBuf>,
    /// Whether a container was started with the exit file.
    exit_file_used: bool,
    reaped_by: Vec<ReapList>,
    prepared: Option<OnPrepared>,
    pool: Option<Arc<Shared>>,
    kill_on_drop: bool,
    dies: Dies,
    /// Whether this type and not its user holds the container, until it is tied to this program.
    held_to_tie: bool,
    bounds: Bounds,
    output: OutputBound,
}

impl Command {
    /// Returns a command for a program in a container with the defaults of [`Spec::new`]. `program` is a
    /// path in the container, or a name that is searched in the container's `PATH`.
    ///
    /// - **Rights.** Root (CAP_SYS_ADMIN) needs nothing else. Another user needs a new user namespace:
    ///   `namespace(Kind::User, NamespaceMode::New)`. Limits also need a cgroup that the caller may
    ///   write to.
    /// - **Files.** The container sees the host's files read-only. `/proc`, `/sys` and `/dev` are its own;
    ///   `/tmp`, `/run` and `/dev/shm` are empty and writable, in memory. The working directory is `/`.
    /// - **Pid 1** is the embedded init, and the program is its child: see [`init`](Self::init).
    ///   [`Container::pid`] is the pid of the init. The [`Outcome::status`] is that of the program:
    ///   after `abort()`, [`Signaled`](crate::ExitStatus::Signaled) with SIGABRT. When the program
    ///   ends, the other processes of the container are killed.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command::from_spec(Spec::new(program))
    }

    /// Returns a command for a program without isolation: it has the caller's namespaces, root,
    /// ids, environment and cgroup. `program` is a path, or a name that is searched in `PATH`. With a new
    /// pid namespace, it has an [`init`](Self::init).
    pub fn bare(program: impl AsRef<OsStr>) -> Command {
        let mut spec = Spec::bare(program);
        spec.process.env = std::env::vars_os().collect();
        let mut command = Command::from_spec(spec);
        command.cgroup = CgroupUse::None;
        command
    }

    /// Returns a command for a container with this spec.
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
            entry: None,
            exit_file_used: false,
            reaped_by: Vec::new(),
            prepared: None,
            pool: None,
            kill_on_drop: true,
            dies: Dies::Auto,
            held_to_tie: false,
            bounds: Bounds::default(),
            output: OutputBound::default(),
        }
    }

    /// Returns the spec so far.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Returns a mutable reference to the spec, for settings without a method of this type.
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

    /// Sets a variable of the environment. The program does not inherit the caller's environment: see
    /// [`Spec::new`].
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let (key, value): (OsString, OsString) = (key.as_ref().into(), value.as_ref().into());
        let env = &mut self.spec_mut().process.env;
        match env.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => env.push((key, value)),
        }
        self
    }

    /// Sets variables of the environment.
    pub fn envs(
        &mut self,
        variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> &mut Self {
        for (key, value) in variables {
            self.env(key, value);
        }
        self
    }

    /// Removes a variable from the environment.
    pub fn env_remove(&mut self, key: impl AsRef<OsStr>) -> &mut Self {
        self.spec_mut().process.env.retain(|(name, _)| name != key.as_ref());
        self
    }

    /// Removes every variable from the environment.
    pub fn env_clear(&mut self) -> &mut Self {
        self.spec_mut().process.env.clear();
        self
    }

    /// Sets the working directory, an absolute path in the container. It is created if
    /// [`Process::create_cwd`](crate::spec::Process::create_cwd) is set.
    pub fn current_dir(&mut self, dir: impl Into<PathBuf>) -> &mut Self {
        self.spec_mut().process.cwd = Some(dir.into());
        self
    }

    /// Sets the user id and group id in the container, without supplementary groups. See
    /// [credentials(7)](https://man7.org/linux/man-pages/man7/credentials.7.html).
    pub fn user(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.spec_mut().process.user = Some(User { uid, gid, groups: Vec::new() });
        self
    }

    /// Sets the root, which the container sees as `/`; see
    /// [pivot_root(2)](https://man7.org/linux/man-pages/man2/pivot_root.2.html). Requires a new mount
    /// namespace.
    pub fn root(&mut self, root: Root) -> &mut Self {
        self.spec_mut().root = root;
        self
    }

    /// Adds a mount. Mounts are made in the order in which they were added. Requires a new mount
    /// namespace.
    pub fn mount(&mut self, mount: Mount) -> &mut Self {
        self.spec_mut().mounts.push(mount);
        self
    }

    /// Sets the host name, at most 64 bytes; see
    /// [sethostname(2)](https://man7.org/linux/man-pages/man2/sethostname.2.html). Requires a new or joined uts
    /// namespace.
    pub fn hostname(&mut self, name: impl Into<String>) -> &mut Self {
        self.spec_mut().hostname = Some(name.into());
        self
    }

    /// Sets whether the embedded init is pid 1 of the container, and starts the program as its child.
    /// By default it is if the pid namespace is new; other containers cannot have an init.
    ///
    /// Without an init, the program is pid 1 itself, and signals do not work as usual
    /// ([pid_namespaces(7)](https://man7.org/linux/man-pages/man7/pid_namespaces.7.html)). The kernel
    /// drops each signal for which pid 1 has no handler, and SIGKILL, if a process of the container
    /// sends it: `abort()` ends with SIGSEGV or another status instead of SIGABRT,
    /// `raise(SIGTERM)` does nothing, and SIGXCPU of `RLIMIT_CPU` is lost. Orphans become zombies,
    /// unless the program reaps them. Use `false` for a program that is an init itself (systemd), or
    /// that must be pid 1.
    ///
    /// The init forwards the signals that it gets. It is one process in
    /// [`pids_max`](Limits::pids_max), and [`Container::pid`] is its pid.
    pub fn init(&mut self, init: bool) -> &mut Self {
        self.spec_mut().init = Some(init);
        self
    }

    /// Sets the resource limits of the container's cgroup. The fields of [`Limits`] have the units
    /// and the kernel versions. [`spawn`](Self::spawn) rejects limits if
    /// the container does not have its own cgroup: after [`no_cgroup`](Self::no_cgroup),
    /// [`cgroup_inside`](Self::cgroup_inside), [`Command::bare`] and
    /// [`Container::exec`](crate::Container::exec).
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.spec_mut().limits = limits;
        self
    }

    /// Sets the namespace of one kind; see
    /// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    pub fn namespace(&mut self, kind: Kind, namespace: NamespaceMode) -> &mut Self {
        *self.spec_mut().namespaces.get_mut(kind) = namespace;
        self
    }

    /// Makes new namespaces of exactly these kinds. The container stays in the caller's namespaces
    /// of all other kinds.
    pub fn isolate(&mut self, kinds: Kinds) -> &mut Self {
        self.spec_mut().namespaces = Namespaces::new(kinds);
        self
    }

    /// Joins a namespace by its open handle; see
    /// [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
    pub fn join(&mut self, namespace: ns_core::Namespace) -> &mut Self {
        *self.spec_mut().namespaces.get_mut(namespace.kind()) = NamespaceMode::Join(Join::Handle);
        self.handles_mut().namespaces.push(namespace);
        self
    }

    /// Joins namespaces of a process. Since Linux 5.3.
    /// Since Linux 5.3; see [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
    ///
    /// # Errors
    /// - `ESRCH`, `ENOENT` ([`ErrorKind::ProcessEnded`]): the process has ended.
    /// - `EACCES` ([`ErrorKind::PermissionDenied`]): the caller may not inspect the process.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn join_pidfd(&mut self, kinds: Kinds, process: &Pidfd) -> Result<&mut Self, Error> {
        for kind in kinds.kinds() {
            self.join(ns_core::Namespace::of_pidfd(process, kind)?);
        }
        Ok(self)
    }

    /// Passes a descriptor to the program, with the number `to`: 3 to 1,048,575, and each number once.
    /// The program inherits no other descriptors except the standard streams.
    pub fn fd(&mut self, fd: impl Into<OwnedFd>, to: RawFd) -> &mut Self {
        self.handles_mut().inherited.push((fd.into(), to));
        self
    }

    /// Sets the standard input.
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[0] = Arc::new(stdio.into());
        self
    }

    /// Sets the standard output.
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[1] = Arc::new(stdio.into());
        self
    }

    /// Sets the standard error.
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[2] = Arc::new(stdio.into());
        self
    }

    /// Sets up the container and holds it before its program until [`Container::start`]. See the
    /// example there.
    pub fn hold(&mut self) -> &mut Self {
        self.held_to_tie = false;
        self.handles_mut().hold = Some(Hold::Here);
        self
    }

    /// Sets up the container and holds it before its program until any program calls
    /// [`start_held`](crate::start_held) with this directory of the host. This program may end earlier, after
    /// [`Container::detach`].
    pub fn hold_at(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.held_to_tie = false;
        self.handles_mut().hold = Some(Hold::At(directory.into()));
        self
    }

    /// Calls a function when the namespaces and mounts exist and `/` is still the caller's. The
    /// spec's hooks get its result on standard input. An error ([`Error::caller`]) ends the start.
    ///
    /// The function is called once. A second [`spawn`](Self::spawn) fails with
    /// [`ErrorKind::State`](crate::ErrorKind::State), unless this method was called again.
    ///
    /// ```
    /// # use nspod_sandbox::Command;
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    /// let mut command = Command::new("true");
    /// command.prepared(|container| {
    ///     println!("process {} has its namespaces and mounts", container.pid);
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

    /// Sets the name of the container's cgroup, at most 255 bytes without `/`. The default is a random
    /// name, with the identity of this process for [`reap_stale`](crate::reap_stale). A second [`spawn`](Self::spawn) fails with `EEXIST` while the first container exists.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.name = Some(name.into());
        self
    }

    /// Creates the container's cgroup in this one. `path` is an absolute path on the host, in a cgroup2
    /// file system: `/sys/fs/cgroup/jobs`.
    pub fn cgroup_parent(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.cgroup = CgroupUse::Under(path.into());
        self
    }

    /// Creates the container's cgroup at this path, with its missing parents. `path` is relative to the
    /// root of the hierarchy, and not to a directory: `/kubepods/burstable/pod1/c`.
    pub fn cgroup_at(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.cgroup = CgroupUse::At(path.into());
        self
    }

    /// Starts the program in this existing cgroup, which is not removed afterwards. `path` is an absolute
    /// path on the host, in a cgroup2 file system. Limits and
    /// device rules in the spec are then rejected, because they would also apply to the processes
    /// that are already in the cgroup. A frozen cgroup is an error, see
    /// [`even_frozen`](Self::even_frozen).
    pub fn cgroup_inside(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.cgroup = CgroupUse::Inside { path: path.into(), of: None, even_frozen: false };
        self
    }

    /// Allows the start of an additional process in a frozen cgroup. [`spawn`](Self::spawn) then
    /// returns when the cgroup is thawed; until then only SIGKILL ends the calling thread. By default
    /// a frozen cgroup is an error ([`ErrorKind::State`](crate::ErrorKind::State)).
    pub fn even_frozen(&mut self) -> &mut Self {
        if let CgroupUse::Inside { even_frozen, .. } | CgroupUse::Call { even_frozen, .. } = &mut self.cgroup
        {
            *even_frozen = true;
        }
        self
    }

    /// Starts the program in the caller's cgroup. Limits and device rules in the spec are then
    /// rejected.
    pub fn no_cgroup(&mut self) -> &mut Self {
        self.cgroup = CgroupUse::None;
        self
    }

    /// Uses the namespaces and the cgroup that a pool has made in advance, and makes the others.
    pub fn pool(&mut self, pool: &Pool) -> &mut Self {
        self.launcher = None;
        self.pool = Some(pool.shared());
        self
    }

    /// Sets the file in which the embedded init records the exit status. Other programs can read it
    /// later with [`init::read_exit`](crate::init::read_exit). By default only the [`Container`]
    /// has the record. A second [`spawn`](Self::spawn) empties the file.
    pub fn exit_file(&mut self, file: File) -> &mut Self {
        self.exit_file = Some(Arc::new(file));
        self.exit_file_used = false;
        self
    }

    /// Sets the container's entry in a store. The [storage limits](crate::spec::StorageLimit) of
    /// directories last as long as the entry: any program can end them with
    /// [`release_quotas`](crate::release_quotas), also if this program is killed during the start. By
    /// default they end with [`Container::delete`].
    pub fn entry(&mut self, dir: &Dir) -> &mut Self {
        self.entry = Some(dir.path().into());
        self
    }

    /// Sets the log: the embedded init copies the standard output and the standard error of the program to it,
    /// in the order in which they were written. Requires an [`init`](Self::init). A log is for one container:
    /// before a second [`spawn`](Self::spawn), set another.
    pub fn log(&mut self, log: Log) -> &mut Self {
        self.handles_mut().log = Some(Arc::new(log));
        self
    }

    /// Lets the embedded init kill the container's cgroup when the program has ended and its status is recorded.
    /// So processes of the caller in this cgroup ([`cgroup_inside`](Self::cgroup_inside)) end with the
    /// container. Without an init or a cgroup, this has no effect. Since Linux 5.14: `cgroup.kill` of
    /// [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files).
    pub fn kill_cgroup_at_end(&mut self) -> &mut Self {
        self.handles_mut().kills_cgroup = true;
        self
    }

    /// Sets whether dropping the [`Container`] kills its processes and removes its cgroup. The
    /// default is `true`. With `false`, dropping it is the same as [`Container::detach`]: the
    /// processes continue, like those of a dropped [`std::process::Child`].
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Self {
        self.kill_on_drop = kill;
        self
    }

    /// Sets whether the container ends with this process, in any way that it ends: by an exit, a panic or
    /// SIGKILL. Every process in the container is then killed, and its cgroup is removed with all cgroups
    /// below. The container is tied to the process and not to the thread that starts it.
    ///
    /// The default is `true` for a container with a cgroup of its own, unless
    /// [`kill_on_drop`](Self::kill_on_drop) is `false`: dropping the handle kills such a container, and a
    /// program that is killed drops nothing. [`Container::detach`] unties the container.
    ///
    /// The first such start of this process also starts the *watcher*, a process of about 100 KiB in a cgroup
    /// of its own. It executes the embedded init, polls a pidfd of this process, and ends with it. It is not a
    /// child of this process, except if this process is a subreaper; the default in a subreaper is therefore
    /// `false`. If this process is process 1 of its pid namespace, the kernel kills all others in it, and
    /// there is no watcher: the empty cgroups remain, and [`reap_stale`](crate::reap_stale) in another pid
    /// namespace leaves them alone. If the watcher was killed, the next start replaces it. A start costs three
    /// more calls.
    ///
    /// The watcher opens the paths of the cgroups in the root directory and the mount namespace that this
    /// process had when it started the watcher. If this process changes its root afterwards, the watcher does
    /// not find the cgroups of later containers.
    ///
    /// Without a cgroup of its own, the container must have a new pid namespace. It is then held until it is
    /// tied, so its last steps run in the stage. Since Linux 5.14; see
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// With `true`, [`spawn`](Self::spawn) also fails with:
    /// - [`ErrorKind::InvalidSpec`]: the container has neither a cgroup of its own nor a new pid namespace.
    /// - [`ErrorKind::InvalidInput`]: the path of the cgroup has 1008 bytes or more.
    /// - [`ErrorKind::LimitReached`]: this process has 16383 such containers, or as many KiB less one as a file
    ///   of it may have (`RLIMIT_FSIZE`, setrlimit(2)), at least three.
    ///
    /// By default such a container is not tied. With `true` and by default, `spawn` also fails with the errors
    /// of clone3(2), memfd_create(2), ftruncate(2) and mmap(2) for the watcher, such as `EMFILE` and `EAGAIN`.
    /// They do not occur if the watcher runs already.
    pub fn die_with_parent(&mut self, dies: bool) -> &mut Self {
        self.launcher = None;
        self.dies = if dies { Dies::Yes } else { Dies::No };
        self
    }

    /// Kills every process in the container when this time has passed since the start
    /// ([`EndedBy::WallTime`](crate::EndedBy::WallTime)). This process enforces it while it waits: in
    /// [`output`](Self::output), [`status`](Self::status), [`Container::wait`],
    /// [`Container::wait_timeout`] and [`Container::enforce`].
    pub fn timeout(&mut self, wall: Duration) -> &mut Self {
        self.bounds.wall = Some(wall);
        self
    }

    /// Kills every process in the container when all of them together have used this CPU time, in user
    /// and kernel mode ([`EndedBy::CpuTime`](crate::EndedBy::CpuTime)). This process enforces it while it
    /// waits, like [`timeout`](Self::timeout), from `cpu.stat` of the container's cgroup. The time can
    /// exceed the limit by 5 ms on each processor. [`spawn`](Self::spawn) rejects it if the container
    /// does not have its own cgroup. For a limit on each process, see
    /// [`Process::rlimits`](crate::spec::Process::rlimits).
    pub fn cpu_time_max(&mut self, cpu: Duration) -> &mut Self {
        self.bounds.cpu = Some(cpu);
        self
    }

    /// Sets how many bytes of each stream [`output`](Self::output) keeps, and whether a container that
    /// writes more is killed. The default is 64 MiB, and the rest is discarded.
    pub fn output_max(&mut self, bytes: usize, overflow: Overflow) -> &mut Self {
        self.output = OutputBound { most: bytes, overflow };
        self
    }

    /// Adds the process to a list of processes that must be reaped before a container or pod can
    /// end.
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

    /// Makes the process a call in the container with this cgroup, which is in a pod with that cgroup.
    pub(crate) fn calls(&mut self, container: PathBuf, pod: Option<PathBuf>) {
        self.pod = pod;
        self.cgroup = CgroupUse::Call { container, even_frozen: false };
    }

    pub(crate) fn in_pod(&mut self, cgroup: PathBuf) -> &mut Self {
        self.pod = Some(cgroup.clone());
        self.cgroup = CgroupUse::Under(cgroup);
        self
    }

    /// Returns the plan of a start, without starting anything. The plan is made once: each
    /// [`spawn`](Self::spawn) uses it until the command is changed.
    /// See [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// ```
    /// let plan = nspod_sandbox::Command::new("true").plan()?;
    /// assert!(plan.to_string().contains("execute true"));
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - The same as [`Plan::new`].
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn plan(&mut self) -> Result<Arc<Plan>, Error> {
        Ok(self.launcher()?.plan().clone())
    }

    /// Returns a launcher, which starts this command's plan any number of times, from any thread.
    /// The standard streams, the name and the place of the cgroup are not part of a plan.
    /// See [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// # Errors
    /// The same as [`plan`](Self::plan).
    pub fn launcher(&mut self) -> Result<Arc<Launcher>, Error> {
        if let Some(launcher) = &self.launcher {
            return Ok(launcher.clone());
        }
        let plan = Plan::new(&self.spec, self.handles.try_clone()?)?;
        let launcher = Arc::new(Launcher::new(plan).with_shared_pool(self.pool.clone()).with_dies(self.dies));
        self.launcher = Some(launcher.clone());
        Ok(launcher)
    }

    /// Starts the container. Another call starts another container with the same plan, streams,
    /// exit file and pod.
    ///
    /// This is sound in any thread of any program. It changes no state of the caller's process. While
    /// it runs, use [`make_undumpable`](crate::make_undumpable) in place of `PR_SET_DUMPABLE`. Since
    /// Linux 5.14; see [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// # Errors
    /// Nothing is left behind.
    /// - [`ErrorKind::InvalidSpec`]: a field of the spec is invalid ([`Error::field`]).
    /// - [`ErrorKind::Unenforceable`]: this host cannot enforce a limit.
    /// - [`ErrorKind::State`]: the cgroup is frozen, or the function of
    ///   [`prepared`](Self::prepared) was used already.
    /// - [`ErrorKind::ProgramNotFound`] (`ENOENT`), [`ErrorKind::ProgramNotExecutable`] (`EACCES`,
    ///   `ENOEXEC`): see [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html).
    /// - [`ErrorKind::PermissionDenied`] (`EPERM`, `EACCES`): the caller lacks a capability, or user
    ///   namespaces are disabled.
    /// - [`ErrorKind::LimitReached`] (`EAGAIN`, `ENOSPC`, `EUSERS`, `EMFILE`, `ENOMEM`): a limit on
    ///   processes, namespaces, descriptors or memory is reached.
    /// - [`ErrorKind::Killed`]: the process was killed before it executed the program.
    /// - Another step failed: [`Error::step`], [`Error::failed_call`] and [`Error::raw_os_error`].
    pub fn spawn(&mut self) -> Result<Container, Error> {
        self.spawn_with(false)
    }

    /// Starts the container. With `capture`, the output goes to pipes in place of the caller's streams.
    pub(crate) fn spawn_with(&mut self, capture: bool) -> Result<Container, Error> {
        let mut start = self.start(capture)?;
        let started = start.perform();
        self.started(start);
        started
    }

    /// Takes back what a start did not use.
    pub(crate) fn started(&mut self, start: CommandStart) {
        self.prepared = start.prepared;
    }

    pub(crate) fn output_bound(&self) -> OutputBound {
        self.output
    }

    /// Returns the next start.
    pub(crate) fn start(&mut self, capture: bool) -> Result<CommandStart, Error> {
        self.hold_to_tie()?;
        let launcher = self.launcher()?;
        if self.handles.ready && self.prepared.is_none() {
            let what = "cannot start a second container: the function of `prepared` is called once";
            return Err(Error::new(ErrorKind::State, "prepared", what));
        }
        Ok(CommandStart {
            launcher,
            stdio: self.stdio.clone(),
            capture,
            name: self.name.clone(),
            cgroup: self.cgroup.clone(),
            pod: self.pod.clone(),
            exit_file: self.exit_file.clone(),
            empties_exit_file: self.exit_file.is_some() && std::mem::replace(&mut self.exit_file_used, true),
            entry: self.entry.clone(),
            reaped_by: self.reaped_by.clone(),
            prepared: self.prepared.take(),
            kill_on_drop: self.kill_on_drop,
            bounds: self.bounds,
            dies: self.dies,
            starts_held: self.held_to_tie,
        })
    }

    /// Holds a container that its first process alone ties to this program. Otherwise this program could be
    /// killed after the start of the container's program and before the process is known.
    fn hold_to_tie(&mut self) -> Result<(), Error> {
        if self.dies != Dies::Yes || self.handles.hold.is_some() || !self.spec.namespaces.is_new(Kind::Pid) {
            return Ok(());
        }
        let makes_cgroup = match &self.cgroup {
            CgroupUse::None => false,
            CgroupUse::Auto => parent::may_make()?,
            _ => true,
        };
        if !makes_cgroup {
            self.hold();
            self.held_to_tie = true;
        }
        Ok(())
    }

    /// Starts the container, waits for its end, and deletes it.
    /// Linux 5.14 or later; see [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// ```
    /// use nspod_sandbox::Command;
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let outcome = Command::new("sh").args(["-c", "exit 3"]).status()?;
    /// assert_eq!(outcome.status.code(), Some(3));
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// The same as [`spawn`](Self::spawn), [`Container::wait`] and [`Container::delete`].
    pub fn status(&mut self) -> Result<Outcome, Error> {
        let mut container = self.spawn()?;
        let outcome = container.wait()?;
        container.delete()?;
        Ok(outcome)
    }
}

/// One start of a [`Command`]. It does not borrow from the command, so any thread can perform it.
pub(crate) struct CommandStart {
    launcher: Arc<Launcher>,
    stdio: [Arc<Stdio>; 3],
    capture: bool,
    name: Option<String>,
    cgroup: CgroupUse,
    pod: Option<PathBuf>,
    exit_file: Option<Arc<File>>,
    empties_exit_file: bool,
    entry: Option<PathBuf>,
    reaped_by: Vec<ReapList>,
    /// `None` after it was called.
    prepared: Option<OnPrepared>,
    kill_on_drop: bool,
    bounds: Bounds,
    dies: Dies,
    /// Whether the container is held until it is tied to this program, and then started.
    starts_held: bool,
}

impl CommandStart {
    pub(crate) fn perform(&mut self) -> Result<Container, Error> {
        let mut streams = Streams::open(&self.stdio, self.capture)?;
        if let Some(mut file) = self.exit_file.as_deref() {
            if self.empties_exit_file {
                let emptied = file.set_len(0).and_then(|()| file.rewind());
                emptied.map_err(|e| Error::io("process", "empty the exit file", "ftruncate", &e))?;
            }
            reserve(file)?;
        }
        let mut start = |cgroup: &CgroupUse| {
            self.launcher.start(StartOptions {
                streams: &mut streams,
                cgroup,
                name: self.name.as_deref(),
                pod: self.pod.clone(),
                exit_file: self.exit_file.clone(),
                entry: self.entry.clone(),
                reaped_by: self.reaped_by.clone(),
                prepared: &mut self.prepared,
                kill_on_drop: self.kill_on_drop,
                bounds: self.bounds,
                dies: self.dies,
            })
        };
        let started = match (start(&self.cgroup), &self.cgroup) {
            (Err(e), CgroupUse::Inside { of: Some(pid), even_frozen, .. }) if holds_no_process(&e) => {
                let path = Hierarchy::detect()?.of(*pid)?.path().to_owned();
                start(&CgroupUse::Inside { path, of: None, even_frozen: *even_frozen })
            }
            (started, _) => started,
        };
        let mut container = started?;
        if self.starts_held {
            container.start()?;
        }
        Ok(container)
    }
}

/// Reserves the space for the exit status, so that it can be written if the file system is full at the end.
fn reserve(exit_file: &File) -> Result<(), Error> {
    match fallocate(exit_file, FallocateFlags::KEEP_SIZE, 0, 64) {
        // This file system cannot reserve space.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => {
            let step = "reserve space for the exit status";
            let error = Error::call("process", step, "fallocate", e.raw_os_error());
            let full = matches!(e, Errno::NOSPC | Errno::DQUOT);
            Err(error.with_hint(full.then(|| "the file system is full: remove files from it".into())))
        }
    }
}

/// Returns whether the start failed because the cgroup is gone, or cannot hold processes because it
/// enables controllers for its children.
fn holds_no_process(e: &Error) -> bool {
    let errno = e.raw_os_error();
    // This is the clone3 of this process, or the second clone3 in the child.
    let of_clone = e.step() == "clone" || e.failed_call() == Some("clone3");
    of_clone && matches!(errno, Some(libc::ENODEV | libc::EBUSY))
        || e.step() == "cgroup" && matches!(errno, Some(libc::ENOENT | libc::ENODEV))
}
