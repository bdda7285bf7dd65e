//! `nspod rm` and `nspod prune`.

use clap::Args;

use super::each;
use crate::error::{Error, Result};
use crate::output;
use crate::state::{State, Store};

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// End them first, where they run
    #[arg(short, long)]
    force: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {}

pub(crate) fn rm(args: &RmArgs) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        let state = entry.state()?;
        if state == State::Creating {
            return Err(Error::new(format!(
                "the container {} is being started or removed just now",
                entry.id
            )));
        }
        if matches!(state, State::Running | State::Paused) {
            if !args.force {
                return Err(Error::new(format!("the container {} is running", entry.id)).hint(format!(
                    "`nspod stop {0}` ends it, `nspod rm -f {0}` ends and removes it",
                    entry.id
                )));
            }
            store.kill(&entry)?;
        }
        if let Some(lock) = entry.lock(true)? {
            store.remove(&entry, &lock)?;
        }
        output::line(&entry.id)
    })
}

pub(crate) fn prune(_: &PruneArgs) -> Result<()> {
    let store = Store::open()?;
    each(&store.all()?, |entry| {
        if !matches!(entry.state()?, State::Exited | State::Dead) {
            return Ok(());
        }
        if let Some(lock) = entry.lock(false)? {
            store.remove(entry, &lock)?;
            output::line(&entry.id)?;
        }
        Ok(())
    })
}
