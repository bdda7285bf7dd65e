//! `create`: a container that waits to be started.

use clap::Args;
use nspod_cli::error::Result;

use crate::args::Global;
use crate::launch::{BundleArgs, How, launch};

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    bundle: BundleArgs,
}

pub(crate) fn create(global: &Global, args: &CreateArgs) -> Result<()> {
    let launched = launch(global, &args.bundle, How::Held, args.bundle.handed_on()?)?;
    launched.container.detach();
    Ok(())
}
