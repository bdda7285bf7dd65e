//! The subcommands, a file each.

pub(crate) mod census;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod pod;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

use crate::error::{Error, Result};

/// Does the same for each, and goes on where one fails: what failed is said at once.
pub(crate) fn each<T>(all: &[T], mut act: impl FnMut(&T) -> Result<()>) -> Result<()> {
    let mut failed = Vec::new();
    for one in all {
        if let Err(e) = act(one) {
            failed.push(e.to_string());
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::new(failed.join("\nnspod: "))),
    }
}
