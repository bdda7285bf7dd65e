//! `exec`: a further process in a container.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ns_core::Pidfd;
use nspod_cli::error::{Error, Result};
use nspod_cli::foreground::{self, Signals};
use nspod_cli::terminal::{self, Relay};
use nspod_oci_runtime::config::{self, Context};
use nspod_sandbox::spec::{Capabilities, Process, Terminal, User};

use crate::args::{Global, MaybePath};
use crate::console::PidfdSocket;
use crate::launch::{HandedOn, set_home, write_pid};
use crate::state::{Entry, Record, Status};
use crate::{console, log, program};

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// A file with the process, as in config.json
    #[arg(short, long, value_name = "FILE", default_value = "", hide_default_value = true)]
    process: MaybePath,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Whom to run as
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    user: Option<(u32, Option<u32>)>,
    /// Further groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// The working directory
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    cwd: MaybePath,
    /// Set a variable of the environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// Add a capability
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// Write its pid to a file
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pid_file: MaybePath,
    /// Send the terminal's other end to this socket
    #[arg(long, value_name = "SOCKET", default_value = "", hide_default_value = true)]
    console_socket: MaybePath,
    #[command(flatten)]
    pidfd_socket: PidfdSocket,
    /// Hand on so many descriptors more, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u16,
    /// Start it in this cgroup within the container's
    #[arg(long, value_name = "CGROUP")]
    cgroup: Vec<String>,
    /// AppArmor's profile for it
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux's label for it
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// No program gains privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Start it in a paused container, and so wait until that goes on
    #[arg(long)]
    ignore_paused: bool,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

pub(crate) fn exec(global: &Global, args: &ExecArgs) -> Result<i32> {
    let handed_on = HandedOn::take(args.preserve_fds)?;
    let entry = global.store()?.find(&args.id)?;
    let (status, pidfd) = entry.look()?;
    match status {
        Status::Stopped => return Err(Error::new("cannot exec in a stopped container")),
        // Its `/` is the host's still.
        Status::Creating => return Err(Error::new("cannot exec in a container that is being created")),
        Status::Paused if !args.ignore_paused => {
            return Err(Error::new("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        _ => {}
    }
    let record = entry.record()?;
    let pidfd = pidfd.ok_or_else(|| Error::new("cannot exec in a stopped container"))?;
    // Whatever it was that failed in one that is just ending, that is why.
    enter(global, args, handed_on, &entry, (status, &pidfd)).map_err(|e| {
        match record.process().is_ending().unwrap_or(false) {
            true => {
                Error::new(format!("cannot exec in a stopped container: {} has just ended ({e})", args.id))
            }
            false => e,
        }
    })
}

fn enter(
    global: &Global,
    args: &ExecArgs,
    handed_on: HandedOn,
    entry: &Entry,
    (status, pidfd): (Status, &Pidfd),
) -> Result<i32> {
    let record = entry.record()?;
    let config = entry.config()?;
    let context = entry.context(global)?;
    let config::ContainerSpec { spec: container, seccomp_listener: listener, .. } =
        config.container_spec(&context)?;
    let mut process = args.process(&config, &context)?;
    console::check_listener(&process, listener.as_ref())?;
    let root = Path::new("/proc").join(record.init_process_pid.to_string()).join("root");
    set_home(&mut process, &root);
    let terminal = process.terminal.is_some();
    let socket = match (args.console_socket.get(), terminal) {
        (None, true) if args.detach => {
            return Err(Error::new(
                "cannot allocate tty if nspod-oci will detach without setting console socket",
            ));
        }
        (Some(_), false) => return Err(Error::new("cannot use console socket without a terminal: give -t")),
        (path, _) => path.map(console::connect).transpose()?,
    };
    let pidfd_socket = args.pidfd_socket.connect()?;
    let name = process.args.first().cloned().unwrap_or_default();
    let pid = record.init_process_pid;
    let mut command = nspod_sandbox::exec(pidfd, pid, &container, record.cgroup_path(), &name)?;
    command.spec_mut().process = process;
    if let Some(path) = args.cgroup(record)? {
        command.cgroup_inside(path);
    }
    if args.ignore_paused {
        command.even_frozen();
    }
    handed_on.give(&mut command);
    // What answers for its filter must have the listener before the program runs.
    if listener.is_some() {
        command.hold();
    }
    let signals = if args.detach { None } else { Some(Signals::hold()?) };
    program::tell(&mut command);
    let mut process = command.spawn().map_err(program::failed(&name))?;
    log::debug(&format_args!("the process {} runs in the container {}", process.pid(), args.id));
    let attended = || -> Result<i32> {
        if let Some(listener) = &listener {
            if let Some(fd) = process.seccomp_listener.take() {
                console::send_listener(listener, fd, process.pid(), record, status)?;
            }
            process.start().map_err(program::failed(&name))?;
        }
        console::send_pidfd(pidfd_socket, "setns", process.pidfd().as_fd())?;
        let terminal = match (process.terminal.take(), socket) {
            (Some(master), Some(socket)) => {
                console::send_terminal(&socket, &master)?;
                None
            }
            (master, _) => master,
        };
        if let Some(path) = args.pid_file.get() {
            write_pid(path, process.pid())?;
        }
        let Some(signals) = &signals else { return Ok(0) };
        let relay = terminal.map(|master| Relay::new(master, true)).transpose()?;
        let outcome = foreground::attend(&mut process, signals, relay)?;
        log::debug(&format_args!("the process {} {}", process.pid(), outcome.status));
        Ok(outcome.status.shell_code())
    };
    let attended = { attended }();
    match (&attended, args.detach) {
        (Ok(_), true) => process.detach(),
        (Ok(_), false) => {}
        // This process alone: dropping the handle would kill all that shares its cgroup.
        (Err(_), _) => {
            let _ = process.signal(nix::libc::SIGKILL);
            let _ = process.wait();
        }
    }
    attended
}

impl ExecArgs {
    /// The process: the file's, or the container's own with what the flags say.
    fn process(&self, config: &config::Config, context: &Context<'_>) -> Result<Process> {
        let mut given = match self.process.get() {
            Some(_) if !self.command.is_empty() => {
                return Err(Error::new("--process names the program already: leave the command out"));
            }
            Some(path) => {
                let json = std::fs::read(path).map_err(|e| Error::io("read the process", path, &e))?;
                let (given, warnings) = config::parse_process(&json)?;
                warnings.iter().for_each(log::warn);
                given
            }
            None if self.command.is_empty() => {
                return Err(Error::new("process args cannot be empty: name a program, or give --process"));
            }
            None => {
                let first = config.spec().process().as_ref();
                first.ok_or_else(|| Error::new("process: the configuration has none"))?.clone()
            }
        };
        if self.process.get().is_none() || self.tty {
            given.set_terminal(Some(self.tty));
        }
        let mut process = config::process(&given, config, context)?;
        if self.process.get().is_none() {
            process.args.clone_from(&self.command);
        }
        // What names no size gets that of the caller's terminal.
        if process.terminal == Some(Terminal::default()) {
            process.terminal = Some(terminal::size());
        }
        if let Some(cwd) = self.cwd.get() {
            process.cwd = Some(cwd.to_owned());
        }
        for pair in &self.env {
            process.env.push(variable(pair)?);
        }
        if let Some((uid, gid)) = self.user {
            let before = process.user.unwrap_or_default();
            process.user = Some(User { uid, gid: gid.unwrap_or(before.gid), groups: before.groups });
        }
        if !self.additional_gids.is_empty() {
            process.user.get_or_insert_default().groups.extend(&self.additional_gids);
        }
        for name in &self.cap {
            let bit = Capabilities::bit(name)
                .ok_or_else(|| Error::new(format!("--cap: {name:?} is no capability")))?;
            let sets = process.capabilities.get_or_insert(Capabilities::NONE);
            sets.bounding |= bit;
            sets.effective |= bit;
            sets.permitted |= bit;
            // As runc does. The kernel allows it of what is inheritable alone.
            sets.ambient |= bit & sets.inheritable;
        }
        process.no_new_privs |= self.no_new_privs;
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        process.apparmor_profile = given(&self.apparmor).or(process.apparmor_profile);
        process.selinux_label = given(&self.process_label).or(process.selinux_label);
        Ok(process)
    }

    /// The cgroup that `--cgroup` names within the container's.
    fn cgroup(&self, record: &Record) -> Result<Option<PathBuf>> {
        let Some(name) = self.cgroup.last() else { return Ok(None) };
        // CONTROLLER:CGROUP is of v1.
        let name = name.rsplit(':').next().unwrap_or(name);
        let own = record.cgroup()?;
        let path = Path::new(name.trim_start_matches('/'));
        if path.components().any(|part| part.as_os_str() == "..") {
            return Err(Error::new(format!(
                "--cgroup: {name:?} is not a sub cgroup path: it has `..` in it"
            )));
        }
        Ok(Some(own.path().join(path)))
    }
}

fn variable(pair: &OsString) -> Result<(OsString, OsString)> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(|| {
        Error::new(format!("--env: {:?} is not of the form NAME=VALUE", pair.to_string_lossy()))
    })?;
    let part = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
}

fn user(text: &str) -> std::result::Result<(u32, Option<u32>), String> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a numeric id"));
    Ok((number(uid)?, gid.map(number).transpose()?))
}
