//! Hooks: programs that run in a container before its own program.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::text;
use crate::Error;

/// Programs that run in the container's namespaces before its own program. The standard input of each is
/// the container's state. If a hook fails, the start fails.
///
/// Specification: [OCI runtime, POSIX-platform hooks](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Hooks that run when the file system is mounted and `/` is still the caller's.
    pub create_container: Vec<Hook>,
    /// Hooks that run immediately before the program.
    pub start_container: Vec<Hook>,
}

impl Hooks {
    /// Returns whether there are no hooks.
    pub fn is_empty(&self) -> bool {
        *self == Hooks::default()
    }
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path of the hook's file.
    #[serde(with = "text")]
    pub path: PathBuf,
    /// Arguments, including argument 0.
    #[serde(with = "text")]
    pub args: Vec<OsString>,
    /// Environment. `None` means the environment of the container's program, or of the runtime if
    /// the runtime runs the hook outside the container.
    #[serde(default, with = "text")]
    pub env: Option<Vec<(OsString, OsString)>>,
    /// Timeout in seconds, at least 1. A hook that exceeds it is killed and counts as failed.
    pub timeout: Option<u32>,
}

impl Hook {
    /// Checks the path and the timeout; `field` is the path of this hook in a configuration. A plan
    /// checks the hooks of its spec. This method is for hooks that the caller runs.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks).
    ///
    /// # Errors
    /// [`InvalidSpec`](crate::ErrorKind::InvalidSpec).
    ///
    /// # Examples
    /// ```
    /// use nspod_sandbox::spec::Hook;
    ///
    /// let hook = Hook { path: "bin/hook".into(), args: vec!["hook".into()], env: None, timeout: None };
    /// let error = hook.validate("hooks.poststop[0]").unwrap_err();
    /// assert_eq!(error.to_string(), "hooks.poststop[0].path: bin/hook is not an absolute path");
    /// ```
    pub fn validate(&self, field: &str) -> Result<(), Error> {
        if !self.path.is_absolute() {
            let problem = format!("{} is not an absolute path", self.path.display());
            return Err(Error::invalid(format!("{field}.path"), problem));
        }
        match self.timeout {
            Some(0) => Err(Error::invalid(format!("{field}.timeout"), "must be at least one second")),
            _ => Ok(()),
        }
    }
}
