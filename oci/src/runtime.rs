//! Settings that all containers of a runtime share.

use std::path::{Path, PathBuf};

use nspod_sandbox::Host;
use nspod_sandbox::store::Alternative;

use crate::config::Context;
use crate::error::Result;
use crate::state::Store;

/// The settings of a runtime: the directory of its state, and its cgroup driver.
///
/// ```
/// use nspod_oci_runtime::{CgroupDriver, Runtime};
/// let runtime = Runtime::new("/run/my-runtime").cgroup_driver(CgroupDriver::Systemd);
/// ```
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
    cgroup_driver: CgroupDriver,
    rootless: Option<bool>,
    root_hint: Alternative,
}

/// Program that creates the cgroups of containers.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#cgroups-path).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// This library, in the file system. `linux.cgroupsPath` is a path.
    #[default]
    Cgroupfs,
    /// systemd, on request over D-Bus. `linux.cgroupsPath` is `SLICE:PREFIX:NAME`.
    Systemd,
    /// None: containers stay in the cgroup of the caller, without limits.
    Disabled,
}

impl Runtime {
    /// Creates the settings of a runtime that keeps its state in this directory. The directory is created
    /// with the first container; missing parents are created with mode 700.
    ///
    /// The file system of the directory must support FIFOs. Use a directory below `/run`, because the
    /// state has no use after a reboot.
    pub fn new(root: impl Into<PathBuf>) -> Runtime {
        let (cgroup_driver, rootless) = (CgroupDriver::default(), None);
        Runtime { root: root.into(), cgroup_driver, rootless, root_hint: || None }
    }

    /// Sets which program creates cgroups.
    pub fn cgroup_driver(mut self, driver: CgroupDriver) -> Runtime {
        self.cgroup_driver = driver;
        self
    }

    /// Sets whether the caller counts as unprivileged. A container of an unprivileged caller has no
    /// device filter. It starts without a cgroup if the caller cannot create one and the configuration
    /// has no limits. By default, every user except root on the host is unprivileged.
    pub fn rootless(mut self, rootless: bool) -> Runtime {
        self.rootless = Some(rootless);
        self
    }

    /// Sets the advice in the error for a state directory that cannot be used, such as
    /// `name another directory with --root`.
    pub fn root_hint(mut self, hint: Alternative) -> Runtime {
        self.root_hint = hint;
        self
    }

    /// Opens the state directory, and creates it if it is missing.
    pub(crate) fn store(&self) -> Result<Store> {
        Store::open(&self.root, self.root_hint)
    }

    pub(crate) fn driver(&self) -> CgroupDriver {
        self.cgroup_driver
    }

    pub(crate) fn is_rootless(&self) -> bool {
        self.rootless.unwrap_or_else(|| !nix::unistd::geteuid().is_root() || Host::is_nested())
    }

    /// Returns the settings that the conversion of a container's configuration depends on.
    pub(crate) fn context<'a>(&self, bundle: &'a Path, id: &'a str) -> Context<'a> {
        Context {
            bundle,
            id,
            systemd_cgroup: self.cgroup_driver == CgroupDriver::Systemd,
            rootless: self.is_rootless(),
            ..Context::default()
        }
    }
}
