//! `nspod wait`: waits until containers have exited.

use std::time::Duration;

use clap::Args;
use ns_core::{ExitStatus, Kind};
use serde::Serialize;

use super::each;
use crate::error::{Error, Result};
use crate::output;
use crate::state::{Entry, SavedContainer, Store};

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Names or ids of the containers
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
        store.disconnect(&entry)?;
        match json {
            true => output::json_line(&Row { id: entry.id(), exit_code: status.shell_code(), status }),
            false => output::line(status.shell_code()),
        }
    })
}

/// Waits for the end of a container and returns its exit status.
fn ended(entry: &Entry) -> Result<ExitStatus> {
    match entry.open() {
        Ok(mut container) => return Ok(container.wait()?.status),
        Err(e) if entry.saved().is_none() || entry.lives()? => return Err(e),
        Err(_ended) => {}
    }
    // Another process can record the exit status shortly after the end.
    for _ in 0..25 {
        if let Some(status) = entry.status()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(unknown_status(entry.record()?))
}

/// Makes the error of a container whose exit status nothing has recorded.
pub(super) fn unknown_status(saved: &SavedContainer) -> Error {
    let problem = format!("the exit status of the container {} is not known", saved.id);
    Error::state("wait", &saved.id, problem).hint(why_unknown(saved))
}

/// Returns why nothing has recorded the exit status of a container that has ended.
fn why_unknown(saved: &SavedContainer) -> &'static str {
    let spec = &saved.container.spec;
    if saved.runner.is_some() {
        "`nspod run` without -d records it, and was killed before"
    } else if spec.has_init() {
        "the init of the container records it, and was killed"
    } else if spec.namespaces.is_new(Kind::Pid) {
        "the init of a container records it, and this one was started with --init=false"
    } else {
        "the init of a container records it, and only a container with its own pid namespace has one"
    }
}
