//! `delete`: removes a container and everything of it.

use std::time::Duration;

use clap::Args;
use ns_core::Pidfd;
use nspod_cli::error::{Error, Result};
use nspod_cli::foreground::Signals;
use nspod_sandbox::store::Lock;

use crate::args::Global;
use crate::state::{Entry, Record, Status, Store};
use crate::{driver, hooks, log};

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kill it first if it runs; one that does not exist is fine
    #[arg(short, long)]
    force: bool,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

/// How long the end of what was killed may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn delete(global: &Global, args: &DeleteArgs) -> Result<()> {
    let store = global.store()?;
    let (entry, lock) = match store.lock(&args.id) {
        // Be it that somebody else has just deleted it.
        Err(_) if args.force && store.look(&args.id)?.is_none() => return Ok(()),
        locked => locked?,
    };
    let (status, process) = entry.look()?;
    let Ok(record) = entry.record() else {
        // The rest of a crash, before there was anything but the directory.
        return store.remove(&entry, &lock);
    };
    let may = matches!(status, Status::Stopped | Status::Created | Status::Creating);
    if !may && !args.force {
        return Err(Error::new(format!("cannot delete container {} that is not stopped: {status}", args.id)));
    }
    log::debug(&format_args!("delete the container {}, which is {status}", args.id));
    if let Some(process) = process {
        end(record, &process)?;
    }
    driver::remove(record)?;
    finish(&store, &entry, record, &lock, None)
}

/// Kills the first process, and waits for its end.
fn end(record: &Record, process: &Pidfd) -> Result<()> {
    match process.send_signal(nix::libc::SIGKILL) {
        Err(e) if e.raw_os_error() != Some(nix::libc::ESRCH) => return Err(e.into()),
        _ => {}
    }
    match process.poll(Some(PATIENCE))? {
        true => Ok(()),
        false => Err(Error::new(format!("process {} was killed and does not end", record.init_process_pid))),
    }
}

/// Kills all that runs of a container, and leaves it stopped.
pub(crate) fn stop(record: &Record) -> Result<()> {
    if record.cgroup_path().is_some() {
        record.cgroup()?.kill()?;
    }
    record.pidfd()?.map_or(Ok(()), |process| end(record, &process))
}

/// Forgets a container of which nothing runs any more. Who holds signals back does so until there
/// are but its hooks to wait for, which take what time they like.
pub(crate) fn finish(
    store: &Store,
    entry: &Entry,
    record: &Record,
    lock: &Lock,
    signals: Option<Signals>,
) -> Result<()> {
    store.remove(entry, lock)?;
    if let Some(signals) = signals {
        signals.release();
    }
    hooks::run_all("poststop", &record.poststop, &record.state_json(Status::Stopped)?);
    Ok(())
}
