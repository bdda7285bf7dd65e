//! `nspod`: run isolated processes, containers and pods, and see what on this host is
//! isolated from what.
//!
//! A subcommand is a file of [`cmd`]. What it is given goes through two stages: as typed
//! ([`args`], [`flags`]), then resolved to the library's spec.

#![forbid(unsafe_code)]

mod args;
mod cmd;
mod flags;
mod state;

use std::process::ExitCode;

use clap::Parser;
use nspod_cli::{error, foreground, output, passwd, terminal, value};

fn main() -> ExitCode {
    nspod_sandbox::notice_children();
    let code = match args::Cli::try_parse() {
        Ok(cli) => cli.run().unwrap_or_else(|e| {
            output::note(&e);
            e.code
        }),
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            0
        }
        Err(e) => {
            let text = e.render().to_string();
            output::note(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
            error::OURS
        }
    };
    ExitCode::from(code as u8)
}
