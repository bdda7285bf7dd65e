//! `pause` and `resume`.

use clap::Args;
use nspod_cli::error::Result;

use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn pause(global: &Global, args: &PauseArgs) -> Result<()> {
    Ok(global.container(&args.id).pause()?)
}

pub(crate) fn resume(global: &Global, args: &PauseArgs) -> Result<()> {
    Ok(global.container(&args.id).resume()?)
}
