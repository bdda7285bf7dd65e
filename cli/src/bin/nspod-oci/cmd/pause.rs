//! `pause` and `resume`.

use clap::Args;
use nspod_cli::error::{Error, Result};

use crate::args::Global;
use crate::state::Status;

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn pause(global: &Global, args: &PauseArgs) -> Result<()> {
    let (entry, _lock) = global.store()?.lock(&args.id)?;
    let record = entry.record()?;
    match entry.status()? {
        Status::Running | Status::Created => Ok(record.cgroup()?.freeze()?),
        status => Err(Error::new(format!("container not running or created: {status}"))),
    }
}

pub(crate) fn resume(global: &Global, args: &PauseArgs) -> Result<()> {
    let (entry, _lock) = global.store()?.lock(&args.id)?;
    match entry.status()? {
        Status::Paused => Ok(entry.record()?.cgroup()?.thaw()?),
        status => Err(Error::new(format!("container not paused: {status}"))),
    }
}
