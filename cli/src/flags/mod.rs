//! Flags that several commands share, and their conversion to a spec.

pub(crate) mod bounds;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod namespaces;
mod net;
pub(crate) mod network;
pub(crate) mod process;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::Result;

/// Facts about the caller that the flags depend on.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Whether the caller has CAP_SYS_ADMIN, so that no user namespace is required.
    pub(crate) privileged: bool,
    /// Working directory, the base of relative paths.
    pub(crate) cwd: PathBuf,
    /// `TERM`, for a terminal.
    pub(crate) term: Option<OsString>,
}

impl Facts {
    pub(crate) fn detect() -> Result<Facts> {
        let host = nspod_sandbox::Host::detect(&Default::default())?;
        // A removed working directory matters only if a path is relative.
        let cwd = std::env::current_dir().unwrap_or_default();
        Ok(Facts { privileged: host.privileged(), cwd, term: std::env::var_os("TERM") })
    }
}

/// Parses the flags of one group, for tests.
#[cfg(test)]
pub(crate) fn parse<A: clap::Args>(
    flags: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<A> {
    let command = clap::Command::new("test").no_binary_name(true).disable_help_flag(true);
    let matches = A::augment_args(command).try_get_matches_from(flags);
    let args = matches.and_then(|matches| A::from_arg_matches(&matches));
    args.map_err(|e| crate::error::Error::usage("", e.to_string()))
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
