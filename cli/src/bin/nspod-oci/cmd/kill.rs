//! `kill`: sends a signal.

use clap::Args;
use nspod_cli::error::Result;
use nspod_cli::value;

use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Send the signal to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Signal, by name or number
    #[arg(value_name = "SIGNAL", value_parser = value::signal, default_value = "TERM")]
    signal: i32,
}

pub(crate) fn kill(global: &Global, args: &KillArgs) -> Result<()> {
    Ok(global.container(&args.id).kill(args.signal, args.all)?)
}
