//! `exec`: runs another process in a container.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_cli::foreground::{self, Signals};
use nspod_cli::terminal::{self, Relay};
use nspod_oci_runtime::nspod_sandbox::Container as SandboxContainer;
use nspod_oci_runtime::nspod_sandbox::store::read_bounded;
use nspod_oci_runtime::{ExecOptions, InheritedFds, config};

use crate::global::{Global, MaybePath};
use crate::log;

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// File with the process, as in config.json
    #[arg(short, long, value_name = "FILE", default_value = "", hide_default_value = true)]
    process: MaybePath,
    /// Allocate a terminal for the process
    #[arg(short, long)]
    tty: bool,
    /// User and group of the process
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    user: Option<(u32, Option<u32>)>,
    /// Additional groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Working directory
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    cwd: MaybePath,
    /// Set a variable of the environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// Add a capability
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Do not wait for the process
    #[arg(short, long)]
    detach: bool,
    /// Write the pid of the process to a file
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pid_file: MaybePath,
    /// Send the master end of the terminal to this socket
    #[arg(long, value_name = "SOCKET", default_value = "", hide_default_value = true)]
    console_socket: MaybePath,
    /// Send a pidfd of the process to this socket
    #[arg(long, value_name = "SOCKET", default_value = "", hide_default_value = true)]
    pidfd_socket: MaybePath,
    /// Pass this many additional descriptors to the process, starting at 3
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u16,
    /// Start the process in this cgroup, a path below the container's cgroup
    #[arg(long, value_name = "CGROUP")]
    cgroup: Vec<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Set no_new_privs
    #[arg(long)]
    no_new_privs: bool,
    /// Start the process in a paused container, and wait until the container is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Program and arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

pub(crate) fn exec(global: &Global, args: ExecArgs) -> Result<i32> {
    let inherited = InheritedFds::take(args.preserve_fds)?;
    let (id, detach) = (args.id.clone(), args.detach);
    let options = args.options(inherited)?;
    let signals = if detach { None } else { Some(Signals::hold()?) };
    let mut process = global.container(&id).exec(options)?;
    let Some(signals) = signals else {
        process.detach();
        return Ok(0);
    };
    let waited = wait(&mut process, &signals);
    if waited.is_err() {
        let _ = process.signal(nix::libc::SIGKILL);
        let _ = process.wait();
    }
    waited
}

fn wait(process: &mut SandboxContainer, signals: &Signals) -> Result<i32> {
    let relay = process.terminal.take().map(|master| Relay::new(master, true)).transpose()?;
    let outcome = foreground::attend(process, signals, relay)?;
    log::debug(&format_args!("the process {} {}", process.pid(), outcome.status));
    Ok(outcome.status.shell_code())
}

impl ExecArgs {
    fn options(self, inherited: InheritedFds) -> Result<ExecOptions> {
        let process = match self.process.get() {
            Some(_) if !self.command.is_empty() => {
                return Err(Error::usage("COMMAND", "--process names the program already: omit the command"));
            }
            Some(path) => {
                let json = File::open(path).and_then(read_bounded);
                let json = json.map_err(|e| Error::io("read", "read the process", path, &e))?;
                let (given, warnings) = config::parse_process(&json)?;
                warnings.iter().for_each(log::warn);
                Some(given)
            }
            None => None,
        };
        let has_terminal = self.tty || process.as_ref().is_some_and(|p| p.terminal() == Some(true));
        // CONTROLLER:CGROUP is the form of cgroup v1.
        let cgroup = self.cgroup.last().map(|name| PathBuf::from(name.rsplit(':').next().unwrap_or(name)));
        Ok(ExecOptions {
            process,
            args: self.command,
            terminal: self.tty,
            terminal_size: if has_terminal { terminal::size() } else { Default::default() },
            cwd: self.cwd.owned(),
            env: self.env.iter().map(variable).collect::<Result<_>>()?,
            user: self.user,
            additional_gids: self.additional_gids,
            capabilities: self.cap,
            no_new_privs: self.no_new_privs,
            apparmor_profile: self.apparmor,
            selinux_label: self.process_label,
            cgroup,
            ignore_paused: self.ignore_paused,
            detach: self.detach,
            console_socket: self.console_socket.owned(),
            pidfd_socket: self.pidfd_socket.owned(),
            pid_file: self.pid_file.owned(),
            inherited,
        })
    }
}

fn variable(pair: &OsString) -> Result<(OsString, OsString)> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(|| {
        Error::usage("--env", format!("--env: {:?} is not of the form NAME=VALUE", pair.to_string_lossy()))
    })?;
    let part = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
}

fn user(text: &str) -> std::result::Result<(u32, Option<u32>), String> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a numeric id"));
    Ok((number(uid)?, gid.map(number).transpose()?))
}
