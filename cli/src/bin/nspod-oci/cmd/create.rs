//! `create`: creates a container that waits for `start`.

use clap::Args;
use nspod_cli::error::Result;
use nspod_oci_runtime::Container;

use crate::bundle::BundleArgs;
use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    bundle: BundleArgs,
}

pub(crate) fn create(global: &Global, args: &CreateArgs) -> Result<()> {
    let args = &args.bundle;
    let inherited = args.inherited()?;
    Container::create(&global.runtime(), &args.id, &args.open()?, args.options(inherited))?;
    Ok(())
}
