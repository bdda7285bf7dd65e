//! `nspod pause` and `nspod unpause`.

use clap::Args;

use super::each;
use crate::error::Result;
use crate::state::Store;

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

pub(crate) fn pause(args: &PauseArgs, freeze: bool) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let container = store.find(id)?.open()?;
        match freeze {
            true => Ok(container.freeze()?),
            false => Ok(container.thaw()?),
        }
    })
}
