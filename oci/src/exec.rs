//! `exec`: starts another process in a container.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ns_core::Pidfd;
use nspod_sandbox::spec::{Capabilities, Process, Terminal, User};
use nspod_sandbox::{Command, Container as SandboxContainer, Exec};
use oci_spec::runtime;

use crate::config::{self, Config, Context};
use crate::container::Container;
use crate::error::{Error, ErrorKind, Result};
use crate::inherit::InheritedFds;
use crate::record::{OciRecord, Status};
use crate::state::Entry;
use crate::{pid_file, program, socket};

/// Options of [`Container::exec`].
///
/// ```
/// use nspod_oci_runtime::ExecOptions;
/// let options = ExecOptions { args: vec!["ls".into(), "-l".into()], ..ExecOptions::default() };
/// ```
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// The process, in the form of `process` in the configuration; [`config::parse_process`] parses it. By
    /// default, the process of the container, without its terminal.
    pub process: Option<runtime::Process>,
    /// Program and arguments; if empty, those of `process`. Required without `process`.
    pub args: Vec<OsString>,
    /// Whether the process gets a terminal even if `process` has none.
    pub terminal: bool,
    /// Size of the terminal, unless `process` specifies it.
    pub terminal_size: Terminal,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Additional variables of the environment.
    pub env: Vec<(OsString, OsString)>,
    /// Uid and gid. By default, the gid is that of `process`.
    pub user: Option<(u32, Option<u32>)>,
    /// Additional groups.
    pub additional_gids: Vec<u32>,
    /// Additional capabilities, such as `CAP_NET_ADMIN`.
    pub capabilities: Vec<String>,
    /// Whether `no_new_privs` is set even if `process` does not set it.
    pub no_new_privs: bool,
    /// AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// SELinux label.
    pub selinux_label: Option<String>,
    /// Cgroup of the process, as a path below the container's cgroup.
    pub cgroup: Option<PathBuf>,
    /// Whether the process may start in a paused container. `exec` then blocks until the container is
    /// resumed.
    pub ignore_paused: bool,
    /// Whether the caller does not wait for the process. A terminal then requires `console_socket`.
    pub detach: bool,
    /// Socket that receives the master end of the terminal, as a descriptor in a message.
    pub console_socket: Option<PathBuf>,
    /// Socket that receives a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// File to which the pid of the process is written.
    pub pid_file: Option<PathBuf>,
    /// Descriptors that the process inherits.
    pub inherited: InheritedFds,
}

impl Container {
    /// Starts another process in the container. Returns when the program has been executed.
    ///
    /// The handle has the master end of the terminal, unless it was sent to the console socket.
    /// Dropping the handle kills this process and no other one: [wait](nspod_sandbox::Container::wait) for the
    /// process, or [detach](nspod_sandbox::Container::detach) the handle.
    ///
    /// Linux 5.14 or later. The fields of a process are those of the
    /// [specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#process).
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is stopped, paused or being created.
    /// - [`ErrorKind::InvalidConfig`], [`ErrorKind::InvalidInput`]: the process is invalid.
    /// - [`ErrorKind::ProgramNotFound`]: the program does not exist in the container.
    /// - Otherwise a step of the start failed, or a descriptor could not be sent: the kind is that of the
    ///   errno.
    pub fn exec(&self, options: ExecOptions) -> Result<SandboxContainer> {
        let entry = self.entry()?;
        let (status, pidfd) = entry.look()?;
        let problem = match status {
            Status::Stopped => "cannot exec in a stopped container",
            // The root of the process is still the host's.
            Status::Creating => "cannot exec in a container that is being created",
            Status::Paused if !options.ignore_paused => {
                "cannot exec in a paused container (use --ignore-paused to override)"
            }
            _ => "",
        };
        if !problem.is_empty() {
            return Err(Error::state(&self.id, "exec", problem));
        }
        let stopped = || Error::state(&self.id, "exec", "cannot exec in a stopped container");
        let pidfd = pidfd.ok_or_else(stopped)?;
        let record = entry.record()?;
        // A container that is ending makes any step fail.
        self.enter(options, &entry, status, &pidfd).map_err(|e| {
            match record.process().is_ending().unwrap_or(false) {
                true => {
                    let problem =
                        format!("cannot exec in a stopped container: {} has just ended ({e})", self.id);
                    Error::state(&self.id, "exec", problem).with_source(e)
                }
                false => e,
            }
        })
    }

    fn enter(
        &self,
        options: ExecOptions,
        entry: &Entry,
        status: Status,
        pidfd: &Pidfd,
    ) -> Result<SandboxContainer> {
        let record = entry.record()?;
        let config = entry.config()?;
        let context = self.runtime.context(&record.bundle, &self.id);
        let wanted = config.container_spec(&context)?;
        let mut process = options.process(&config, &context)?;
        socket::check_listener(&process, wanted.seccomp_listener.as_ref())?;
        let pid = record.init_process_pid;
        program::set_home(&mut process, &Path::new("/proc").join(pid.to_string()).join("root"));
        let console = options.console(process.terminal.is_some())?;
        let pidfd_socket = socket::connect_pidfd(options.pidfd_socket.as_deref())?;
        let name = process.args.first().cloned().unwrap_or_default();
        let mut exec = Exec::new(pid, pidfd, &wanted.spec);
        if let Some(cgroup) = record.cgroup_path() {
            exec = exec.cgroup(cgroup);
        }
        let mut command = exec.command(&name)?;
        command.spec_mut().process = process;
        options.apply(&mut command, record)?;
        options.inherited.give(&mut command);
        let listener = wanted.seccomp_listener.as_ref();
        // The agent of a filter must have the listener before the program runs.
        if listener.is_some() {
            command.hold();
        }
        program::log_plan(&mut command);
        let mut process = command.spawn().map_err(program::failed(&name))?;
        log::debug!("the process {} runs in the container {}", process.pid(), self.id);
        let started = listener.map_or(Ok(()), |listener| {
            if let Some(fd) = process.seccomp_listener.take() {
                socket::send_listener(listener, fd, process.pid(), record, status)?;
            }
            process.start().map_err(program::failed(&name))
        });
        let announced =
            started.and_then(|()| announce(&mut process, pidfd_socket, console, options.pid_file.as_deref()));
        match announced {
            Ok(()) => Ok(process),
            Err(e) => {
                abandon(process);
                Err(e)
            }
        }
    }
}

/// Sends the pidfd and the terminal, and writes the pid file.
fn announce(
    process: &mut SandboxContainer,
    pidfd_socket: Option<UnixStream>,
    console: Option<UnixStream>,
    file: Option<&Path>,
) -> Result<()> {
    socket::send_pidfd(pidfd_socket, "setns", process.pidfd().as_fd())?;
    process.terminal = socket::hand_over(process.terminal.take(), console)?;
    file.map_or(Ok(()), |file| pid_file::write(file, process.pid()))
}

/// Kills a process of `exec` and waits for its end.
fn abandon(mut process: SandboxContainer) {
    let _ = process.signal(libc::SIGKILL);
    let _ = process.wait();
}

impl ExecOptions {
    /// Returns the given process or the container's, with the changes of the options.
    fn process(&self, config: &Config, context: &Context<'_>) -> Result<Process> {
        let mut given = match &self.process {
            Some(process) => process.clone(),
            None if self.args.is_empty() => {
                let problem = "process args cannot be empty: name a program, or give --process";
                return Err(Error::new(ErrorKind::InvalidInput, "options", problem));
            }
            None => {
                let first = config.spec().process().clone();
                first.ok_or_else(|| Error::invalid("process", "required field is missing"))?
            }
        };
        if self.process.is_none() || self.terminal {
            given.set_terminal(Some(self.terminal));
        }
        let mut process = config::process(&given, config, context)?;
        if !self.args.is_empty() {
            process.args.clone_from(&self.args);
        }
        if process.terminal == Some(Terminal::default()) {
            process.terminal = Some(self.terminal_size);
        }
        if let Some(cwd) = &self.cwd {
            process.cwd = Some(cwd.clone());
        }
        process.env.extend(self.env.iter().cloned());
        if let Some((uid, gid)) = self.user {
            let before = process.user.unwrap_or_default();
            process.user = Some(User { uid, gid: gid.unwrap_or(before.gid), groups: before.groups });
        }
        if !self.additional_gids.is_empty() {
            process.user.get_or_insert_default().groups.extend(&self.additional_gids);
        }
        for name in &self.capabilities {
            let unknown = || Error::option("--cap", format!("{name:?} is not a capability")).on(name);
            let bit = Capabilities::bit(name).ok_or_else(unknown)?;
            let sets = process.capabilities.get_or_insert(Capabilities::NONE);
            sets.bounding |= bit;
            sets.effective |= bit;
            sets.permitted |= bit;
            // runc does the same. The kernel permits only inheritable capabilities in this set.
            sets.ambient |= bit & sets.inheritable;
        }
        process.no_new_privs |= self.no_new_privs;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        process.apparmor_profile = given(&self.apparmor_profile).or(process.apparmor_profile);
        process.selinux_label = given(&self.selinux_label).or(process.selinux_label);
        Ok(process)
    }

    /// Connects to the console socket if one is given and the process has a terminal.
    fn console(&self, has_terminal: bool) -> Result<Option<UnixStream>> {
        let problem = match (&self.console_socket, has_terminal) {
            (None, true) if self.detach => {
                "cannot allocate tty if nspod-oci will detach without setting console socket"
            }
            (Some(_), false) => "cannot use console socket without a terminal: give -t",
            (path, _) => return path.as_deref().map(socket::connect_console).transpose(),
        };
        Err(Error::new(ErrorKind::InvalidInput, "options", problem))
    }

    /// Sets the cgroup, and whether the container may be paused.
    fn apply(&self, command: &mut Command, record: &OciRecord) -> Result<()> {
        if let Some(path) = &self.cgroup {
            let below = path.strip_prefix("/").unwrap_or(path);
            if below.components().any(|part| part.as_os_str() == "..") {
                let problem = format!("{path:?} is not a sub cgroup path: it has `..` in it");
                return Err(Error::option("--cgroup", problem).on(path.display().to_string()));
            }
            command.cgroup_inside(record.cgroup()?.path().join(below));
        }
        if self.ignore_paused {
            command.even_frozen();
        }
        Ok(())
    }
}
