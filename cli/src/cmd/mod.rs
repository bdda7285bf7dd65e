//! The subcommands: one file each.

pub(crate) mod attach;
pub(crate) mod census;
pub(crate) mod cp;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod layer;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod pod;
pub(crate) mod ps;
pub(crate) mod rename;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod wait;

use serde_json::json;

use crate::error::{Error, Result};
use crate::output;

/// Prints the id of a container that a command has started or changed, or a line of JSON with it.
pub(crate) fn print_id(id: &str, json: bool) -> Result<()> {
    match json {
        true => output::json_line(&json!({ "id": id })),
        false => output::line(id),
    }
}

/// Prints the name of a pod that a command has made or changed, or a line of JSON with it.
pub(crate) fn print_pod(name: &str, json: bool) -> Result<()> {
    match json {
        true => output::json_line(&json!({ "name": name })),
        false => output::line(name),
    }
}

/// Calls a function for each item, and continues after a failure. The error contains all failures.
pub(crate) fn each<T>(all: &[T], mut act: impl FnMut(&T) -> Result<()>) -> Result<()> {
    let failed = all.iter().filter_map(|one| act(one).err()).collect();
    Error::all(failed).map_or(Ok(()), Err)
}
