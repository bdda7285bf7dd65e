//! `nspod update`: other limits for a running container.

use cgroup_core::{Cgroup, Limits};
use clap::Args;

use super::each;
use crate::error::{Error, Result};
use crate::flags::limits::LimitArgs;
use crate::state::Store;

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    limits: LimitArgs,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

pub(crate) fn update(args: &UpdateArgs) -> Result<()> {
    let limits = args.limits.resolve()?;
    if limits.is_empty() {
        return Err(Error::new("name a limit to change, such as --memory 64m"));
    }
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        entry.running()?;
        apply(&entry.need_cgroup()?, &limits)?;
        let mut record = entry.record()?.clone();
        record.spec.limits.merge(&limits);
        entry.write(&record)
    })
}

/// Sets limits, after what it takes from the cgroups above.
pub(crate) fn apply(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    let enabled = cgroup.enable_path(limits.controllers());
    // Where a controller is missing this says of each limit why it cannot be had.
    cgroup.apply(limits)?;
    Ok(enabled?)
}
