//! `nspod update`: changes the limits of running containers.

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
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

pub(crate) fn update(args: &UpdateArgs) -> Result<()> {
    let limits = args.limits.resolve()?;
    if limits.is_empty() {
        return Err(Error::usage("OPTIONS", "name a limit to change, such as --memory 64m"));
    }
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        entry.open()?;
        let mut record = entry.record()?.clone();
        // The cgroup replaces its network limits as a whole.
        let net = args.limits.net(record.container.spec.limits.net.as_ref());
        let limits = Limits { net, ..limits.clone() };
        apply(&entry.need_cgroup()?, &limits)?;
        record.container.spec.limits.merge(&limits);
        entry.write(&record)
    })
}

/// Enables the required controllers in the ancestors, and writes the limits.
pub(crate) fn apply(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    let enabled = cgroup.enable_path(limits.controllers());
    // If a controller is missing, this error names each limit with the reason.
    cgroup.apply(limits)?;
    Ok(enabled?)
}
