//! `start`: lets a container that was created become its program.

use clap::Args;
use nspod_cli::error::{Error, Result};

use super::delete::stop;
use crate::args::Global;
use crate::state::Status;
use crate::{hooks, log};

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn start(global: &Global, args: &StartArgs) -> Result<()> {
    let (entry, _lock) = global.store()?.lock(&args.id)?;
    let record = entry.record()?;
    match entry.status()? {
        Status::Created => {}
        Status::Stopped => return Err(Error::new("cannot start a container that has stopped")),
        Status::Running => return Err(Error::new("cannot start an already running container")),
        status => return Err(Error::new(format!("cannot start a container in the {status} state"))),
    }
    nspod_sandbox::start_held(entry.dir().path())?;
    log::debug(&format_args!("the container's process {} runs", record.init_process_pid));
    hooks::poststart(&entry, record).map_err(|e| match stop(record) {
        Ok(()) => e,
        Err(alive) => Error::new(format!("{e}; and the container could not be stopped: {alive}")),
    })
}
