//! `delete`: deletes a container.

use clap::Args;
use nspod_cli::error::Result;

use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kill the container first; do not fail if it does not exist
    #[arg(short, long)]
    force: bool,
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn delete(global: &Global, args: &DeleteArgs) -> Result<()> {
    Ok(global.container(&args.id).delete(args.force)?)
}
