//! Flags that commands share: as typed, and how they change a spec.

pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod process;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::Result;

/// What resolving needs to know of the caller.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Has CAP_SYS_ADMIN: needs no user namespace.
    pub(crate) privileged: bool,
    /// Its working directory, which relative paths start from.
    pub(crate) cwd: PathBuf,
    /// `TERM`, for a terminal.
    pub(crate) term: Option<OsString>,
}

impl Facts {
    pub(crate) fn detect() -> Result<Facts> {
        let host = nspod_sandbox::Host::detect(&Default::default())?;
        // One that was removed is no obstacle to who names nothing relative to it.
        let cwd = std::env::current_dir().unwrap_or_default();
        Ok(Facts { privileged: host.privileged(), cwd, term: std::env::var_os("TERM") })
    }
}

#[cfg(test)]
impl Facts {
    pub(crate) fn root() -> Facts {
        Facts { privileged: true, cwd: "/work".into(), term: Some("xterm".into()) }
    }

    pub(crate) fn user() -> Facts {
        Facts { privileged: false, ..Facts::root() }
    }
}
