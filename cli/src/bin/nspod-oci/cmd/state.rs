//! `state`: prints the state of a container, as the specification defines it.

use clap::Args;
use nspod_cli::error::Result;
use nspod_cli::output;

use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn state(global: &Global, args: &StateArgs) -> Result<()> {
    output::json(&global.container(&args.id).state()?)
}
