//! Additional processes in a running container.

use std::ffi::OsStr;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use ns_core::Pidfd;

use crate::cgroups::{CgroupUse, ContainerCgroup};
use crate::command::Command;
use crate::container::Container;
use crate::error::Error;
use crate::join;
use crate::spec::{Root, Spec};

impl Container {
    /// Returns a command for an additional process in this container. The process has the
    /// container's namespaces, root, cgroup, ids, capabilities and system-call filter. It joins the
    /// namespaces with [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html). It shares the
    /// container's limits, and its handle kills only the process itself; [`call`](Self::call) makes a
    /// cgroup for it.
    ///
    /// The command's `spawn` must not run at the same time as [`freeze`](Self::freeze). In a cgroup
    /// that is frozen between the check and the exec, the calling thread waits in a sleep that only
    /// SIGKILL and [`thaw`](Self::thaw) end.
    ///
    /// ```
    /// use nspod_sandbox::Command;
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let container = Command::new("sleep").arg("60").spawn()?;
    /// assert!(container.exec("true")?.status()?.status.success());
    /// container.delete()?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - `ESRCH` ([`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded)): the container has
    ///   ended.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        let mut exec = Exec::new(self.pid(), self.pidfd(), self.spec());
        exec.cgroup = self.cgroup_path();
        let mut command = exec.command(program)?;
        for list in self.reaped_by.iter().chain([&self.reaps]) {
            command.reaped_by(list);
        }
        Ok(command)
    }

    /// Returns a command for a call: an additional process tree in this container, with a cgroup of
    /// its own in the container's cgroup. The process joins the container like that of
    /// [`exec`](Self::exec). Its [`Container`] handle is about the call alone:
    ///
    /// - [`limits`](Command::limits), [`cpu_time_max`](Command::cpu_time_max) and
    ///   [`timeout`](Command::timeout) limit the call. The container's limits apply to the container's
    ///   own processes and all calls together.
    /// - The [`Outcome`](crate::Outcome) and [`usage`](Self::usage) count the call's processes.
    ///   [`OomLevel`](crate::OomLevel) tells the limit of the call from that of the container. The
    ///   container's outcome includes the CPU time and the peak memory of its calls.
    /// - [`kill`](Self::kill), [`freeze`](Self::freeze), [`delete`](Self::delete) and dropping the handle
    ///   apply to every process of the call, also in other sessions and process groups
    ///   ([setsid(2)](https://man7.org/linux/man-pages/man2/setsid.2.html)), and to no other process of
    ///   the container.
    /// - The call ends with this program: see [`Command::die_with_parent`]. After
    ///   [`detach`](Self::detach) it continues, and the next call removes its cgroup when it has ended.
    ///
    /// A call ends when the container's first process ends, if the container has its own pid
    /// namespace. A call that only needs separate limits, not the container's files and processes,
    /// can be a container of a [`Pod`](crate::Pod): it starts without the conditions below.
    ///
    /// Processes whose parent has ended become children of the container's pid 1. With an init
    /// ([`Spec::init`](crate::spec::Spec::init)) they are reaped. Without one they can stay as zombies, which
    /// count for `pids_max` of the container.
    ///
    /// The first call moves the container's processes from its cgroup to the child `nspod-main`,
    /// because a cgroup cannot have both processes and children with controllers. In the container,
    /// `/proc/PID/cgroup` then shows that name. The cgroup of a call is `nspod-call-NAME`, with the
    /// [`name`](Command::name) of the command or a random name. A program in the container that may write
    /// to its cgroups can leave the call's: mount cgroup2 read-only, or not at all.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nspod_sandbox::{Command, EndedBy};
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let session = Command::new("sleep").arg("1000").spawn()?;
    /// for (script, end) in [("setsid sleep 1000 & wait", EndedBy::WallTime), ("exit 0", EndedBy::Exit)] {
    ///     let mut call = session.call("sh")?;
    ///     call.args(["-c", script]).timeout(Duration::from_millis(500));
    ///     assert_eq!(call.output()?.outcome.ended_by, end);
    /// }
    /// session.delete()?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::State`](crate::ErrorKind::State): the container does not have its own cgroup.
    /// - As [`exec`](Self::exec).
    ///
    /// Errors of [`Command::spawn`] for a call:
    /// - [`ErrorKind::Unenforceable`](crate::ErrorKind::Unenforceable): this host cannot enforce a limit.
    /// - `EOPNOTSUPP` ([`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)): the container's cgroup is
    ///   threaded.
    /// - `EBUSY` ([`ErrorKind::Busy`](crate::ErrorKind::Busy)): a process of the container could not be
    ///   moved in 10 s, because it is in an uninterruptible system call while it ends.
    pub fn call(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        let container = self.need_cgroup("start a call with limits of its own")?.path().to_owned();
        let pod = self.cgroup.as_ref().and_then(ContainerCgroup::pod).map(Into::into);
        let mut command = self.exec(program)?;
        command.calls(container, pod);
        Ok(command)
    }
}

/// Builds a command for an additional process in a container that another program started. For a
/// [`Container`] of this program use [`Container::exec`].
///
/// ```
/// use nspod_sandbox::{Command, Exec, ns_core::Pidfd};
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
///
/// // Another program would read the pid and the spec from a record.
/// let container = Command::new("sleep").arg("60").spawn()?;
/// let (pid, spec) = (container.pid(), container.spec());
///
/// let process = Pidfd::open(pid)?;
/// let mut exec = Exec::new(pid, &process, spec);
/// if let Some(cgroup) = container.cgroup() {
///     exec = exec.cgroup(cgroup);
/// }
/// assert!(exec.command("true")?.status()?.status.success());
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Exec<'a> {
    pid: i32,
    process: &'a Pidfd,
    container: &'a Spec,
    cgroup: Option<&'a Path>,
}

impl<'a> Exec<'a> {
    /// Makes a builder for the container of this process, from the pid and pidfd of the process and
    /// the container's spec. The additional process gets the spec's user, environment, capabilities
    /// and system-call filter.
    pub fn new(pid: i32, process: &'a Pidfd, container: &'a Spec) -> Exec<'a> {
        Exec { pid, process, container, cgroup: None }
    }

    /// Starts the process in this cgroup, a [`Cgroup`](cgroup_core::Cgroup) or its directory. If the cgroup is
    /// gone or cannot hold processes, the process starts in the current cgroup of the container's
    /// first process. By default the process starts in the caller's cgroup.
    ///
    /// Do not freeze the cgroup while the command's `spawn` runs: see
    /// [`Container::freeze`](crate::Container::freeze).
    #[must_use]
    pub fn cgroup(mut self, cgroup: &'a (impl AsRef<Path> + ?Sized)) -> Exec<'a> {
        self.cgroup = Some(cgroup.as_ref());
        self
    }

    /// Returns the command. `program` is a path in the container, or a name that is searched in its `PATH`.
    /// Since Linux 5.8; see [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
    ///
    /// # Errors
    /// - `ESRCH` ([`ErrorKind::ProcessEnded`](crate::ErrorKind::ProcessEnded)): the process has ended.
    /// - `EACCES`: the caller may not inspect the process.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn command(self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        exec(self, program.as_ref())
    }
}

fn exec(
    Exec { pid, process: pidfd, container, cgroup }: Exec<'_>,
    program: &OsStr,
) -> Result<Command, Error> {
    let namespaces = join::namespaces_of(pid, pidfd)?;
    let mut process = container.process.clone();
    process.args = vec![program.into()];
    process.terminal = None;
    process.keep_projects |= container.limits_directories();
    let spec = Spec { process, namespaces, root: Root::Host, ..Spec::default() };
    let mut command = Command::from_spec(spec);
    command.joins_process(pid, pidfd)?;
    if container.mounts_stay {
        let path = format!("/proc/{pid}/root");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path.as_str(), flags, Mode::empty()).map_err(|e| {
            Error::call("process", "open the root of the container", "open", e as i32).on(path.as_str())
        })?;
        // If the process still exists, its pid was not reused before the open.
        pidfd.send_signal(0)?;
        command.enters_root(root);
    }
    command.cgroup_use(match cgroup {
        Some(path) => CgroupUse::Inside { path: path.into(), of: Some(pid), even_frozen: false },
        None => CgroupUse::None,
    });
    Ok(command)
}
