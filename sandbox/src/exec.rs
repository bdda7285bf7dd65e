//! A further process in a running container.

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
    /// Returns a command for a further process in this container: it has the container's
    /// namespaces, root, cgroup, ids, capabilities and system-call filter.
    ///
    /// The command's `spawn` must not run at the same time as [`freeze`](Self::freeze), which says
    /// why.
    ///
    /// # Errors
    /// The container has ended.
    pub fn exec(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        let mut command = exec(self.pidfd(), self.pid(), self.spec(), self.cgroup_path(), program)?;
        for list in self.reaped_by.iter().chain([&self.reaps]) {
            command.reaped_by(list);
        }
        Ok(command)
    }
}

/// Returns a command for a further process in the container of `pid`, with the container's spec and
/// cgroup. If that cgroup is gone or cannot hold processes, the command starts in the cgroup that
/// `pid` is in by then.
///
/// # Errors
/// The process has ended.
pub fn exec(
    pidfd: &Pidfd,
    pid: i32,
    container: &Spec,
    cgroup: Option<&Path>,
    program: impl AsRef<OsStr>,
) -> Result<Command, Error> {
    let namespaces = join::namespaces_of(pid, pidfd)?;
    let mut process = container.process.clone();
    process.args = vec![program.as_ref().into()];
    process.terminal = None;
    let spec = Spec { process, namespaces, root: Root::Host, ..Spec::default() };
    let mut command = Command::from_spec(spec);
    command.joins_process(pid, pidfd)?;
    if container.mounts_stay {
        let path = format!("/proc/{pid}/root");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path.as_str(), flags, Mode::empty())
            .map_err(|e| Error::call("process", "open the root of the container", "open", e as i32))?;
        // If the process still exists, the pid was not reused before the open.
        pidfd.send_signal(0)?;
        command.enters_root(root);
    }
    command.cgroup_use(match cgroup {
        Some(path) => CgroupUse::Inside { path: path.into(), of: Some(pid), even_frozen: false },
        None => CgroupUse::None,
    });
    Ok(command)
}
