//! `nspod rename`: gives a container another name.

use clap::Args;

use super::print_id;
use crate::error::Result;
use crate::state::Store;
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Name or id of the container
    #[arg(value_name = "OLD")]
    old: String,
    /// New name
    #[arg(value_name = "NEW", value_parser = value::name)]
    new: String,
}

pub(crate) fn rename(args: &RenameArgs, json: bool) -> Result<()> {
    Store::open()?.rename(&args.old, &args.new)?;
    if json { print_id(&args.new, json) } else { Ok(()) }
}
