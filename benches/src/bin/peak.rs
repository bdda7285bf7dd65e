//! Runs a program and prints the peak of its resident memory, in KiB.
use std::process::{Command, ExitCode, Stdio};

use nix::sys::resource::{UsageWho, getrusage};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else { return ExitCode::from(2) };
    match Command::new(program).args(args).stdin(Stdio::null()).status() {
        Ok(status) if status.success() => {}
        Ok(status) => {
            eprintln!("{status}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    let of = |who| getrusage(who).map_or(0, |usage| usage.max_rss());
    println!("{} {}", of(UsageWho::RUSAGE_CHILDREN), of(UsageWho::RUSAGE_SELF));
    ExitCode::SUCCESS
}
