//! `start`: runs the program of a created container.

use clap::Args;
use nspod_cli::error::Result;

use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn start(global: &Global, args: &StartArgs) -> Result<()> {
    Ok(global.container(&args.id).start()?)
}
