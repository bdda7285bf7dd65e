//! `nspod` runs isolated processes, containers and pods, and shows which processes of the host are
//! isolated from which.
//!
//! Each subcommand is a file of [`cmd`]. Arguments are parsed by [`args`] and [`flags`] and then
//! applied to the library's spec.

#![forbid(unsafe_code)]

mod args;
mod cmd;
mod complete;
mod copy;
mod flags;
mod image;
mod network;
mod pages;
mod private_mount;
mod report;
mod state;
mod template;
#[cfg(test)]
mod test_commands;

use std::process::ExitCode;

use clap::error::ErrorKind;
use nspod_cli::error::{Error, OURS};
use nspod_cli::{error, foreground, keys, output, terminal, value};

fn main() -> ExitCode {
    nspod_sandbox::notice_children();
    complete::answer(args::program);
    let code = match args::Cli::parse_own() {
        Ok(cli) => {
            let json = cli.json;
            if json {
                output::notes_are_json();
            }
            cli.run().unwrap_or_else(|e| fail(&e, json))
        }
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            0
        }
        // Arguments after `--` belong to the program.
        Err(e) => {
            let mut own = std::env::args_os().take_while(|arg| arg != "--");
            match own.any(|arg| arg == "--json") {
                false if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    let _ = e.print();
                    OURS
                }
                json => fail(&Error::parse(e, args::instead_of), json),
            }
        }
    };
    ExitCode::from(code as u8)
}

/// Prints an error and returns its exit code.
fn fail(error: &Error, json: bool) -> i32 {
    if json {
        output::note_json(error)
    } else {
        output::note(error)
    }
    error.code
}
