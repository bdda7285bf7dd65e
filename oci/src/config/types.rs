//! Types of a configuration and of its conversion.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nspod_sandbox::seccomp::Profile;
use nspod_sandbox::spec::{Hook, Spec};
use oci_spec::runtime;

use crate::Error;

/// A configuration that has been parsed and checked.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub(super) spec: runtime::Spec,
    pub(super) seccomp: Option<Profile>,
    pub(super) warnings: Vec<String>,
}

/// Settings of the runtime that the conversion of a configuration depends on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Absolute path of the bundle. Relative paths in the configuration are resolved against it.
    pub bundle: &'a Path,
    /// Id of the container.
    pub id: &'a str,
    /// Whether systemd makes the cgroup: `linux.cgroupsPath` is then `SLICE:PREFIX:NAME`.
    pub systemd_cgroup: bool,
    /// Whether the runtime is not the host's root, and so cannot attach a device filter to the cgroup.
    pub rootless: bool,
    /// Whether the container's processes keep the session keyring of the runtime.
    pub no_new_keyring: bool,
    /// Whether the container enters its root by chroot(2): [`Spec::no_pivot`].
    pub no_pivot: bool,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Context {
            bundle: Path::new("/"),
            id: "",
            systemd_cgroup: false,
            rootless: false,
            no_new_keyring: false,
            no_pivot: false,
        }
    }
}

/// A converted configuration: the spec, and the settings that the runtime applies itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Spec of the container.
    pub spec: Spec,
    /// Path of the cgroup.
    pub cgroup: CgroupsPath,
    /// Hooks that run in the runtime's namespaces.
    pub hooks: Hooks,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Network limits of the pod whose sandbox this container is.
    pub pod_net: Option<cgroup_core::net::Limits>,
    /// Network devices to move into the container: name on the host, and new name.
    pub net_devices: Vec<(String, Option<String>)>,
    /// Group in `/sys/fs/resctrl`.
    pub intel_rdt: Option<IntelRdt>,
    /// Socket that gets the listener of the seccomp filter.
    pub seccomp_listener: Option<SeccompListener>,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// Settings that were ignored, and why.
    pub warnings: Vec<String>,
}

/// `linux.cgroupsPath`.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#cgroups-path).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// Chosen by the runtime.
    Default,
    /// Path from the root of the hierarchy.
    Absolute(PathBuf),
    /// Path from a cgroup that the runtime chooses.
    Relative(PathBuf),
    /// Unit of systemd.
    Systemd {
        /// Slice of the unit; empty for the default.
        slice: String,
        /// First part of the name, before a `-`.
        prefix: String,
        /// Second part of the name. The unit is a slice if it ends in `.slice`, and a scope otherwise.
        name: String,
    },
}

/// Hooks that run in the runtime's namespaces, with the container's state on standard input. A hook
/// without an environment inherits the runtime's. The [spec](nspod_sandbox::spec::Hooks) has the hooks
/// that run in the container.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Run when the namespaces exist, before `create_runtime`. Deprecated by the specification.
    pub prestart: Vec<Hook>,
    /// Run when the namespaces exist, before the root is entered.
    pub create_runtime: Vec<Hook>,
    /// Run when the program has started.
    pub poststart: Vec<Hook>,
    /// Run when the container has been deleted.
    pub poststop: Vec<Hook>,
}

/// `linux.intelRdt`: [resctrl](https://docs.kernel.org/filesystems/resctrl.html), since Linux 4.10.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#intelrdt).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntelRdt {
    /// Directory of the group; by default, the id of the container.
    pub clos_id: Option<String>,
    /// Lines for the file `schemata`.
    pub schemata: Vec<String>,
    /// Lines for the L3 cache.
    pub l3_cache_schema: Option<String>,
    /// Line for memory bandwidth.
    pub mem_bw_schema: Option<String>,
    /// Whether the container gets a monitoring group.
    pub monitoring: bool,
}

/// Socket that gets the listener of a seccomp filter with `SCMP_ACT_NOTIFY`. The kernel has listeners
/// since Linux 5.0; see [seccomp_unotify(2)](https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html).
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompListener {
    /// Path of the unix socket: `linux.seccomp.listenerPath`.
    pub path: PathBuf,
    /// Text that is sent along: `linux.seccomp.listenerMetadata`.
    pub metadata: Option<String>,
}

/// Version of the
/// [specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#specification-version)
/// that this crate implements.
pub const VERSION: &str = "1.3.0";

/// Major and minor number of [`VERSION`].
pub(super) const IMPLEMENTED: (u32, u32) = (1, 3);

/// Returns the major and minor number of a version 1.x. A later minor version only adds settings.
pub(super) fn version(text: &str) -> Result<(u32, u32), Error> {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u32>> = numbers.split('.').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[1, minor, _]) => Ok((1, minor)),
        _ => Err(Error::invalid("ociVersion", format!("{text:?} is not a version 1.x.y"))),
    }
}

impl Config {
    /// Returns the configuration.
    pub fn spec(&self) -> &runtime::Spec {
        &self.spec
    }

    /// Returns whether a failing poststart hook stops the container: since version 1.3 of the
    /// specification it does; before, the runtime logs the failure.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#lifecycle).
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): `ociVersion` is not a version 1.x.y.
    pub fn poststart_stops(&self) -> Result<bool, Error> {
        Ok(version(self.spec.version())? >= (1, 3))
    }
}
