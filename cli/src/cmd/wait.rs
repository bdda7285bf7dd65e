//! `nspod wait`: until containers end.

use std::time::Duration;

use clap::Args;
use ns_core::ExitStatus;
use serde::Serialize;

use super::each;
use crate::error::{Error, Result};
use crate::output;
use crate::state::{Entry, Store};

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
    status: ExitStatus,
}

pub(crate) fn wait(args: &WaitArgs, json: bool) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        let status = ended(&entry)?;
        match json {
            true => output::json_line(&Row { id: entry.id(), exit_code: status.shell_code(), status }),
            false => output::line(status.shell_code()),
        }
    })
}

/// Waits, and says how it ended.
fn ended(entry: &Entry) -> Result<ExitStatus> {
    let watched = entry.running().ok().map(|(_, pidfd)| pidfd);
    match &watched {
        Some(pidfd) => _ = pidfd.poll(None)?,
        None => _ = entry.record()?,
    }
    // Since Linux 6.15 the kernel tells anyone who was watching, once it has been reaped.
    let seen = || watched.as_ref()?.exit_info().ok()?;
    // Who killed it notes that after its end.
    for attempt in 0..100 {
        if let Some(status) = entry.status()?.or_else(seen) {
            return Ok(status);
        }
        if watched.is_none() && attempt == 25 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Error::new(format!("how the container {} ended is not known", entry.id())).hint(
        "its init notes that unless it is killed itself; run it without --init=false and in a pid namespace of its own",
    ))
}
