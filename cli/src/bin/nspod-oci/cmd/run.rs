//! `run`: makes a container, runs its program, and waits for it.

use clap::Args;
use nspod_cli::error::Result;
use nspod_cli::foreground::{self, Signals};
use nspod_cli::terminal::Relay;

use super::delete::finish;
use crate::args::Global;
use crate::launch::{BundleArgs, Claimed, How, Launched, launch};
use crate::{driver, hooks, log};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// Do not delete it when it has ended
    #[arg(long)]
    keep: bool,
    /// Accepted, and of no effect: who runs it in the foreground is no subreaper
    #[arg(long)]
    no_subreaper: bool,
    #[command(flatten)]
    bundle: BundleArgs,
}

pub(crate) fn run(global: &Global, args: &RunArgs) -> Result<i32> {
    let handed_on = args.bundle.handed_on()?;
    let signals = if args.detach { None } else { Some(Signals::hold()?) };
    let how = if args.detach { How::Detached } else { How::Attended };
    let Launched { mut container, terminal, claimed } = launch(global, &args.bundle, how, handed_on)?;
    if let Err(e) = hooks::poststart(&claimed.entry, &claimed.record) {
        let deleted = container.delete();
        return Err(deleted.map_or_else(Into::into, |()| claimed.give_up_started(e)));
    }
    let Claimed { entry, record, store, lock, .. } = claimed;
    let Some(signals) = signals else {
        container.detach();
        return Ok(0);
    };
    drop(lock);
    let relay = terminal.map(|master| Relay::new(master, true)).transpose()?;
    let outcome = foreground::attend(&mut container, &signals, relay)?;
    log::debug(&format_args!("the container's process {} {}", container.pid(), outcome.status));
    if args.keep {
        container.detach();
        return Ok(outcome.status.shell_code());
    }
    let lock = store.lock_again(&entry)?;
    let mut deleted = container.delete().map_err(Into::into);
    if let Some(lock) = lock {
        if deleted.is_ok() && record.has_own_end() {
            deleted = driver::remove(&record);
        }
        finish(&store, &entry, &record, &lock, Some(signals))?;
    }
    deleted?;
    Ok(outcome.status.shell_code())
}
