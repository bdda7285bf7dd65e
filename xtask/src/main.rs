//! Project chores: `cargo xtask`.

mod aarch64;
mod cpio;
mod cycles;
mod demux;
mod dependencies;
mod fuzz;
mod guest;
mod install;
mod kernel;
mod peers;
mod qemu;
mod references;
mod sh;
mod tally;
mod test;
mod troubles;
mod uml;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Project chores.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    BenchPeers(peers::Args),
    Cycles(cycles::Args),
    Fuzz(fuzz::Args),
    Guest(guest::Args),
    Test(test::Args),
    Troubles(troubles::Args),
}

fn main() -> ExitCode {
    let Cli { chore } = Cli::parse();
    let result = match chore {
        Chore::BenchPeers(args) => peers::run(&args),
        Chore::Cycles(args) => cycles::run(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Guest(args) => guest::run(&args),
        Chore::Test(args) => test::run(&args),
        Chore::Troubles(args) => troubles::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(guest::BOOT_FAILED)
    })
}
