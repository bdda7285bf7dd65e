//! The options before the command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use nspod_cli::runtime_dir;
use nspod_oci_runtime::{CgroupDriver, Container, Runtime};

use crate::log::Format;

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory of the state of containers [default: /run/nspod-oci, or
    /// $XDG_RUNTIME_DIR/nspod-oci for a user other than root, or root in a user namespace]
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub(crate) root: MaybePath,
    /// Write the log to a file instead of standard error
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub(crate) log: MaybePath,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: Format,
    /// Log debug messages too
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) debug: bool,
    /// Let systemd make the cgroups: cgroupsPath is then SLICE:PREFIX:NAME
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) systemd_cgroup: bool,
    /// Program that makes the cgroups
    #[arg(long, value_name = "MANAGER", value_enum)]
    pub(crate) cgroup_manager: Option<CgroupManager>,
    /// Continue without a cgroup if none can be made and no limit is set
    #[arg(long, value_name = "WHETHER", value_enum, default_value = "auto")]
    pub(crate) rootless: Rootless,
    #[arg(long, hide = true, value_name = "FILE", default_value = "", hide_default_value = true)]
    criu: MaybePath,
    /// Print the version
    #[arg(short, long)]
    pub(crate) version: bool,
}

/// A path that may be missing or empty. runc treats both in the same way.
#[derive(Debug, Clone)]
pub(crate) struct MaybePath(PathBuf);

impl From<OsString> for MaybePath {
    fn from(text: OsString) -> Self {
        MaybePath(text.into())
    }
}

impl MaybePath {
    pub(crate) fn get(&self) -> Option<&Path> {
        (!self.0.as_os_str().is_empty()).then_some(&self.0)
    }

    pub(crate) fn owned(&self) -> Option<PathBuf> {
        self.get().map(Path::to_owned)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    True,
    False,
    Auto,
}

impl Global {
    pub(crate) fn runtime(&self) -> Runtime {
        let own = || runtime_dir::of_user().unwrap_or_else(|| "/run".into()).join("nspod-oci");
        let root = self.root.get().map_or_else(own, Path::to_owned);
        let driver = match self.cgroup_manager {
            Some(CgroupManager::Disabled) => CgroupDriver::Disabled,
            Some(CgroupManager::Systemd) => CgroupDriver::Systemd,
            _ if self.systemd_cgroup => CgroupDriver::Systemd,
            _ => CgroupDriver::Cgroupfs,
        };
        let runtime = Runtime::new(root).cgroup_driver(driver).root_hint(runtime_dir::BY_ROOT);
        match self.rootless {
            Rootless::True => runtime.rootless(true),
            Rootless::False => runtime.rootless(false),
            Rootless::Auto => runtime,
        }
    }

    /// Returns a container by its id.
    pub(crate) fn container(&self, id: &str) -> Container {
        Container::new(&self.runtime(), id)
    }
}
