//! `nspod update`: changes the limits of running containers.

use cgroup_core::{Cgroup, Limits};
use clap::Args;

use super::{each, print_id};
use crate::error::{Error, Result};
use crate::flags::limits::LimitArgs;
use crate::state::{Locked, Store};

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    limits: LimitArgs,
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

pub(crate) fn update(args: &UpdateArgs, json: bool) -> Result<()> {
    let limits = changes(&args.limits)?;
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        entry.open()?;
        let gone = || Error::state("store", id, format!("the container {id} has just been removed"));
        // With the lock, each of two updates begins with the limits of the other.
        let Locked::Ours(entry, _lock) = store.lock(entry.id(), true)? else { return Err(gone()) };
        entry.open()?;
        let mut record = entry.record()?.clone();
        apply(&entry.need_cgroup()?, &args.limits, limits.clone(), &mut record.container.spec.limits)?;
        entry.write(&record)?;
        if json { print_id(entry.id(), json) } else { Ok(()) }
    })
}

/// Returns the limits to change.
pub(crate) fn changes(given: &LimitArgs) -> Result<Limits> {
    let limits = given.named()?;
    // The network limits are checked beside those that are in force.
    Limits { net: None, ..limits.clone() }.validate()?;
    if limits.is_empty() {
        return Err(Error::usage("OPTIONS", "name a limit to change, such as --memory 64m"));
    }
    Ok(limits)
}

/// Writes limits, and merges them into those of the record.
pub(crate) fn apply(cgroup: &Cgroup, given: &LimitArgs, limits: Limits, saved: &mut Limits) -> Result<()> {
    // The cgroup replaces its network limits as a whole.
    let limits = Limits { net: given.net(saved.net.as_ref()), ..limits };
    let enabled = cgroup.enable_path(limits.controllers());
    // If a controller is missing, this error names each limit with the reason.
    cgroup.apply(&limits)?;
    saved.merge(&limits);
    Ok(enabled?)
}
