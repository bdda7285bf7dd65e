//! The directory of the store, and locks on files in it.

use std::fs::File;
use std::path::PathBuf;

use nix::unistd::geteuid;
use nspod_cli::runtime_dir;
use nspod_sandbox::store::Dir;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use crate::error::{Error, Result};

/// Returns `/run/nspod` for root, and a private directory for another user.
pub(super) fn base() -> PathBuf {
    let uid = geteuid();
    match runtime_dir::of_user() {
        Some(dir) => dir.join("nspod"),
        None if uid.is_root() => "/run/nspod".into(),
        None => format!("/tmp/nspod-{uid}").into(),
    }
}

/// Locks a file of the store. The lock ends when the file is closed. `step` is the name of the step, for errors.
pub(super) fn lock_file(dir: &Dir, name: &str, step: &'static str) -> Result<File> {
    let lock = dir.create(name)?;
    retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive)).map_err(|e| {
        Error::path(step, "lock", &dir.at(name), nix::errno::Errno::from_raw(e.raw_os_error()))
    })?;
    Ok(lock)
}
