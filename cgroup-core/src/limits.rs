//! Limits as plain data: nothing here calls the kernel.
//!
//! To add a limit, add one entry to [`table`].

mod setting;
pub(crate) mod table;
pub mod v1;
mod values;

pub use table::Limits;
pub use values::{CpuMax, IoMax, Max, RdmaMax};

use crate::controller::{Controller, Controllers};
use crate::error::{Error, Result};
use table::TABLE;

impl Limits {
    /// Returns whether no limit is set.
    pub fn is_empty(&self) -> bool {
        self.writes().is_empty() && self.net.is_none()
    }

    /// Returns the controllers that the limits need. A file in [`unified`](Self::unified) belongs to
    /// the controller before its first dot. The files `cgroup.*` need no controller.
    pub fn controllers(&self) -> Controllers {
        self.writes().iter().filter_map(|(file, _)| Controller::of_file(file)).collect()
    }

    /// Returns the files and values to write, in the order of the writes. The order matters: for
    /// example `memory.swap.max` must be in force when `memory.max` begins to reclaim.
    pub fn writes(&self) -> Vec<(String, String)> {
        let mut writes = Vec::new();
        if self.cpu_max.is_some() && self.cpu_max_burst.is_some() {
            // The kernel rejects a quota below the burst that is in force.
            writes.push(("cpu.max.burst".to_owned(), "0".to_owned()));
        }
        TABLE.iter().for_each(|limit| limit.write(self, &mut writes));
        writes.extend(self.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
        writes
    }

    /// Checks all values against the ranges that [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html)
    /// documents. Makes no system call.
    ///
    /// # Errors
    /// `InvalidLimit` for the first invalid value; [`Error::field`] is its file.
    pub fn validate(&self) -> Result<()> {
        for limit in TABLE {
            limit.check(self).map_err(|(value, why)| Error::limit(limit.file(), value, why))?;
        }
        self.unified.iter().try_for_each(|(file, value)| unified(file, value))?;
        self.net.as_ref().map_or(Ok(()), |net| net.validate())
    }

    /// Overwrites these limits with those that `new` sets, and keeps the others. Limits of devices,
    /// page sizes and files are merged one by one, and the network limits are replaced as a whole.
    ///
    /// ```
    /// use cgroup_core::{Limits, Max};
    /// let max = |value| Some(Max::Value(value));
    /// let mut limits = Limits { memory_max: max(4096), pids_max: max(5), ..Limits::default() };
    /// limits.merge(&Limits { memory_max: max(8192), ..Limits::default() });
    /// assert_eq!(limits, Limits { memory_max: max(8192), pids_max: max(5), ..Limits::default() });
    /// ```
    pub fn merge(&mut self, new: &Self) {
        TABLE.iter().for_each(|limit| limit.merge(self, new));
        self.unified.extend(new.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
        self.net = new.net.clone().or(self.net.take());
    }

    /// Removes the limits that are written to `file`, and returns them.
    ///
    /// ```
    /// use cgroup_core::{Limits, Max};
    /// let max = |value| Some(Max::Value(value));
    /// let mut limits = Limits { memory_max: max(4096), pids_max: max(5), ..Limits::default() };
    /// let removed = limits.remove("pids.max");
    /// assert_eq!(removed, Limits { pids_max: max(5), ..Limits::default() });
    /// assert_eq!(limits, Limits { memory_max: max(4096), ..Limits::default() });
    /// ```
    pub fn remove(&mut self, file: &str) -> Self {
        let mut removed = Self::default();
        TABLE.iter().for_each(|limit| limit.take(self, &mut removed, file));
        removed.unified.extend(self.unified.remove_entry(file));
        removed
    }
}

/// Checks that a file of [`Limits::unified`] is a limit.
fn unified(file: &str, value: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let wrong = |why| Err(Error::limit(file, value, why));
    match file {
        "cgroup.procs" | "cgroup.threads" | "cgroup.kill" | "cgroup.freeze" | "cgroup.type" => {
            wrong("this file acts on processes and is not a limit")
        }
        _ if !file.bytes().all(plain) || !file.contains('.') || file.starts_with('.') => {
            wrong("the name of the file is not of the form CONTROLLER.NAME")
        }
        _ if value.contains('\0') => wrong("a value must not contain NUL"),
        _ => Ok(()),
    }
}
