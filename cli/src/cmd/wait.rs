//! `nspod wait`: until containers end.

use clap::Args;
use ns_core::ExitStatus;
use nspod_sandbox::Status;
use serde::Serialize;

use super::each;
use crate::error::{Error, Result};
use crate::output;
use crate::state::{Entry, Store};

/// Wait for containers to end, and print their exit codes
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    exit_code: i32,
    status: Status,
}

pub(crate) fn wait(args: &WaitArgs, json: bool) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        let status = ended(&entry)?;
        match json {
            true => output::json_line(&Row { id: &entry.id, exit_code: status.code(), status }),
            false => output::line(status.code()),
        }
    })
}

/// Waits, and says how it ended.
fn ended(entry: &Entry) -> Result<Status> {
    let mut seen = None;
    if let Ok((_, pidfd)) = entry.running() {
        pidfd.poll(None)?;
        // Since Linux 6.15 the kernel tells anyone who was watching.
        seen = pidfd.exit_info().ok().flatten().map(|exit| match exit {
            ExitStatus::Code(code) => Status::Exited(code),
            ExitStatus::Signal { signal, core_dumped: core } => Status::Signaled { signal, core },
        });
    } else {
        entry.record()?;
    }
    if let Some(status) = entry.status()?.or(seen) {
        return Ok(status);
    }
    Err(Error::new(format!("how the container {} ended is not known", entry.id)).hint(
        "its init notes that unless it is killed itself; run it without --init=false and in a pid namespace of its own",
    ))
}
