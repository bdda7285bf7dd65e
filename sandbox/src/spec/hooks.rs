//! Programs that are run in the container on its way to its own program.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::text;

/// Programs that are run in the container's namespaces, each with the container's state on
/// standard input. One that fails ends the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// When its file system is mounted and `/` is still the caller's.
    pub create_container: Vec<Hook>,
    /// When everything is ready and it is about to become its program.
    pub start_container: Vec<Hook>,
}

impl Hooks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Hooks::default()
    }
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its file, an absolute path.
    #[serde(with = "text")]
    pub path: PathBuf,
    /// Its arguments, the name that it is called by first.
    #[serde(with = "text")]
    pub args: Vec<OsString>,
    /// Its environment. `None` stands for the environment of the container's program, or, for a hook that
    /// the runtime runs outside of the container, for that of the runtime.
    #[serde(default, with = "text")]
    pub env: Option<Vec<(OsString, OsString)>>,
    /// How many seconds it has, after which it is killed and has failed.
    pub timeout: Option<u32>,
}
