//! `state`: what the specification tells of a container.

use clap::Args;
use nspod_cli::error::Result;
use nspod_cli::output;

use crate::args::Global;

#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn state(global: &Global, args: &StateArgs) -> Result<()> {
    let entry = global.store()?.find(&args.id)?;
    output::json(&entry.record()?.state(entry.status()?))
}
