//! `run`: creates a container, runs its program, and waits for it.

use clap::Args;
use nspod_cli::error::Result;
use nspod_cli::foreground::{self, Signals};
use nspod_cli::terminal::Relay;
use nspod_oci_runtime::Container;

use crate::bundle::BundleArgs;
use crate::global::Global;
use crate::log;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Do not wait for the container
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container when it has ended
    #[arg(long)]
    keep: bool,
    /// No effect: in the foreground this program is never a subreaper
    #[arg(long)]
    no_subreaper: bool,
    #[command(flatten)]
    bundle: BundleArgs,
}

pub(crate) fn run(global: &Global, args: &RunArgs) -> Result<i32> {
    let inherited = args.bundle.inherited()?;
    let (runtime, id) = (global.runtime(), &args.bundle.id);
    if args.detach {
        Container::run(&runtime, id, &args.bundle.open()?, args.bundle.options(inherited))?;
        return Ok(0);
    }
    let signals = Signals::hold()?;
    let options = args.bundle.options(inherited);
    let mut container = Container::run_foreground(&runtime, id, &args.bundle.open()?, options)?;
    let relay = container.terminal.take().map(|master| Relay::new(master, true)).transpose()?;
    let outcome = foreground::attend(&mut container.process, &signals, relay)?;
    log::debug(&format_args!("the container's process {} {}", container.process.pid(), outcome.status));
    match args.keep {
        true => container.keep(),
        false => container.delete(|| signals.release())?,
    }
    Ok(outcome.status.shell_code())
}
