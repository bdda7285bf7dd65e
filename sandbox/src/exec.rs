//! Additional processes in a running container.

use std::ffi::OsStr;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use ns_core::Pidfd;

use crate::cgroups::CgroupUse;
use crate::command::Command;
use crate::container::Container;
use crate::error::Error;
use crate::join;
use crate::spec::{Root, Spec};

impl Container {
    /// Returns a command for an additional process in this container. The process has the
    /// container's namespaces, root, cgroup, ids, capabilities and system-call filter. It joins the
    /// namespaces with [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
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
