//! `nspod pause` and `nspod unpause`.

use clap::Args;

use super::{each, print_id};
use crate::error::Result;
use crate::state::Store;

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

pub(crate) fn pause(args: &PauseArgs, freeze: bool, json: bool) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        let container = entry.open()?;
        match freeze {
            true => container.freeze()?,
            false => container.thaw()?,
        }
        if json { print_id(entry.id(), json) } else { Ok(()) }
    })
}
