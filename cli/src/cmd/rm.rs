//! `nspod rm` and `nspod prune`: remove containers.

use clap::Args;

use super::each;
use crate::error::{Error, Result};
use crate::output;
use crate::state::pods::Pods;
use crate::state::{Locked, State, Store};

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Kill running containers first. A container that does not exist is not an error
    #[arg(short, long)]
    force: bool,
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Do not ask. nspod never asks; scripts for docker use this flag
    #[arg(short = 'f', long = "force")]
    _force: bool,
}

pub(crate) fn rm(args: &RmArgs) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let found = if args.force { store.get(id)? } else { Some(store.find(id)?) };
        let Some(entry) = found else { return Ok(()) };
        if entry.state()? == State::Creating {
            let problem = format!("another command is starting or removing the container {}", entry.id());
            return Err(Error::state("rm", entry.id(), problem));
        }
        let Locked::Ours(entry, lock) = store.lock(entry.id(), true)? else {
            // Another invocation has just removed it.
            return output::line(entry.id());
        };
        if args.force {
            entry.end()?;
        } else if entry.lives()? {
            return Err(Error::state("rm", entry.id(), format!("the container {} is running", entry.id()))
                .hint(format!(
                    "`nspod stop {0}` ends it, `nspod rm -f {0}` ends and removes it",
                    entry.id()
                )));
        }
        store.remove(&entry, &lock)?;
        output::line(entry.id())
    })
}

pub(crate) fn prune(_: &PruneArgs) -> Result<()> {
    let store = Store::open()?;
    let pods = Pods::open()?;
    let pruned = each(&pods.names()?, |name| match pods.prune(name)? {
        true => output::line(name),
        false => Ok(()),
    });
    each(&store.all()?, |entry| match store.lock(entry.id(), false)? {
        Locked::Ours(entry, lock) if !entry.lives()? => {
            store.remove(&entry, &lock)?;
            output::line(entry.id())
        }
        _ => Ok(()),
    })?;
    // These containers belong to other programs, so the output does not list them.
    nspod_sandbox::reap_stale()?;
    for log in store.prune_logs()? {
        output::line(log.display())?;
    }
    pruned
}
