//! `nspod-oci`: an OCI runtime, compatible with runc on the command line, in its JSON, its
//! exit codes and its files.
//!
//! A config.json becomes a spec ([`nspod_sandbox::oci`]), the spec a container; what is here is
//! the face: a verb is a file of [`cmd`], [`state`] is what is known from one call to the next.

#![forbid(unsafe_code)]

mod args;
mod cmd;
mod console;
mod driver;
mod hooks;
mod launch;
mod log;
mod program;
mod state;

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use nspod_cli::error::{Error, Result};

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            let text = e.render().to_string();
            log::error(&text.strip_prefix("error: ").unwrap_or(&text).trim_end());
            return ExitCode::FAILURE;
        }
    };
    log::set_up(cli.global.log.as_deref(), cli.global.log_format, cli.global.debug);
    // Any other code of exec's is the program's.
    let failure = if matches!(cli.command, Some(args::Command::Exec(_))) { 255 } else { 1 };
    if matches!(cli.command, Some(args::Command::Create(_) | args::Command::Run(_) | args::Command::Exec(_)))
        && let Err(e) = harmless()
    {
        log::warn(&e);
    }
    let done = match cli.command {
        _ if cli.global.version => cmd::features::version().map(|()| 0),
        Some(command) => command.run(&cli.global),
        None => nspod_cli::output::print(args::Cli::command().render_help().to_string()).map(|()| 0),
    };
    let code = done.unwrap_or_else(|e| {
        log::error(&e);
        failure
    });
    ExitCode::from(code as u8)
}

/// Goes on as this same program on a mount that cannot be written through, if it is not there
/// already: a process in the container that may trace opens `/proc/PID/exe` of one that enters.
/// Without privileges there is no such mount, and nobody in the container whom the file is owned
/// by may trace.
fn harmless() -> Result<()> {
    let there = |e| Error::path("look at", Path::new("/proc/self/exe"), e);
    let flags = nix::sys::statvfs::statvfs("/proc/self/exe").map_err(there)?.flags();
    if flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY) || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let file = nspod_sandbox::read_only_self()?;
    let c_string = |bytes: &OsStr| CString::new(bytes.as_bytes()).unwrap_or_default();
    let args: Vec<CString> = std::env::args_os().map(|arg| c_string(&arg)).collect();
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        c_string(&name)
    };
    let env: Vec<CString> = std::env::vars_os().map(variable).collect();
    let done = nix::unistd::execveat(&file, c"", &args, &env, nix::fcntl::AtFlags::AT_EMPTY_PATH);
    done.map(drop).map_err(|e| Error::call("execute this program again", "execveat", e))
}
