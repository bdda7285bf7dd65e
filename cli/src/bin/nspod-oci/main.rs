//! `nspod-oci`: an OCI runtime, compatible with runc on the command line, in its JSON, its
//! exit codes and its files.
//!
//! The library [`nspod_oci_runtime`] does the work. This program parses arguments ([`args`], [`cmd`]),
//! prints, and logs.

#![forbid(unsafe_code)]

mod args;
mod bundle;
mod cmd;
mod global;
mod log;
#[cfg(test)]
#[path = "../../test_commands.rs"]
mod test_commands;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    nspod_sandbox::notice_children();
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => {
            log::usage(e);
            return ExitCode::FAILURE;
        }
        Err(e) => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
    };
    if let Err(e) = log::set_up(cli.global.log.get(), cli.global.log_format, cli.global.debug) {
        log::error(&e);
        return ExitCode::FAILURE;
    }
    if let Some(command) = &cli.command
        && log::is_debug()
    {
        // Only the verb: arguments may contain secrets.
        let verb = format!("{command:?}").split('(').next().unwrap_or_default().to_lowercase();
        log::debug(&format_args!("nspod-oci {}: {verb}", env!("CARGO_PKG_VERSION")));
    }
    // Any other exit code of exec is the program's.
    let failure = if matches!(cli.command, Some(cmd::Command::Exec(_))) { 255 } else { 1 };
    let done = match cli.command {
        _ if cli.global.version => cmd::version().map(|()| 0),
        Some(command) => command.run(&cli.global, args::Cli::command),
        None => nspod_cli::output::print(args::Cli::command().render_help().to_string()).map(|()| 0),
    };
    let code = done.unwrap_or_else(|e| {
        log::error(&e);
        failure
    });
    ExitCode::from(code as u8)
}
