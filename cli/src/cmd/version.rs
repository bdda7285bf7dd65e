//! `nspod version`: prints the versions of nspod and of the kernel.

use clap::Args;
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    kernel: String,
    /// Machine, as `uname -m` prints it.
    arch: String,
}

pub(crate) fn version(_: &VersionArgs, json: bool) -> Result<()> {
    let kernel = uname().map_err(|e| Error::call("version", "read the version of the kernel", "uname", e))?;
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        kernel: kernel.release().to_string_lossy().into_owned(),
        arch: kernel.machine().to_string_lossy().into_owned(),
    };
    match json {
        true => output::json(&version),
        false => {
            output::print(format!("nspod {}\nkernel {} {}\n", version.version, version.kernel, version.arch))
        }
    }
}
