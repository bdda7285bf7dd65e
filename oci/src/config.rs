//! OCI's `config.json` as a [`Spec`]: read, checked, and translated, with nothing done yet.
//!
//! What a configuration asks and this runtime or cgroup v2 cannot do is refused, by the field's
//! JSON path; an unknown field is passed over, as the specification wants it.
//!
//! Source: <https://github.com/opencontainers/runtime-spec/blob/main/config.md>

mod example;
mod json;
mod linux;
mod mounts;
mod process;
mod resources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ns_core::Kind;
use oci_spec::runtime;
use serde_json::Value;

pub use example::example;
pub use process::process;
pub use resources::resources;

use crate::Error;
use nspod_sandbox::seccomp::{Action, Profile};
use nspod_sandbox::spec::{self, Hook, IdMaps, Namespace, Root, Spec};

/// A configuration that has been read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    spec: runtime::Spec,
    seccomp: Option<Profile>,
    warnings: Vec<String>,
}

/// What a configuration does not say of its container.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The directory of the bundle, an absolute path: relative paths are below it.
    pub bundle: &'a Path,
    /// The container's id.
    pub id: &'a str,
    /// systemd makes the cgroup, and `linux.cgroupsPath` is of its form.
    pub systemd_cgroup: bool,
    /// The runtime is not the host's root: it can put no filter of devices on the cgroup.
    pub rootless: bool,
    /// The container's processes keep the session keyring that the runtime has.
    pub no_new_keyring: bool,
    /// The root is entered by chroot(2): [`Spec::no_pivot`].
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

/// A container as a configuration describes it: its spec, and what the runtime sees to itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// What is planned and spawned.
    pub spec: Spec,
    /// Where its cgroup shall be.
    pub cgroup: CgroupsPath,
    /// Programs that are run in the runtime's own namespaces.
    pub hooks: Hooks,
    /// What clients keep with it.
    pub annotations: BTreeMap<String, String>,
    /// Network devices that are moved into it: the name on the host, and the new one.
    pub net_devices: Vec<(String, Option<String>)>,
    /// Its group in `/sys/fs/resctrl`.
    pub intel_rdt: Option<IntelRdt>,
    /// Who gets the descriptor of a filter that notifies.
    pub seccomp_listener: Option<SeccompListener>,
    /// Rows and columns of its terminal.
    pub console_size: Option<(u16, u16)>,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

/// `linux.cgroupsPath`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// The runtime chooses.
    Default,
    /// Below the hierarchy's root.
    Absolute(PathBuf),
    /// Below a place that the runtime chooses.
    Relative(PathBuf),
    /// A scope of systemd's.
    Systemd {
        /// The slice that it is in; empty for the default one.
        slice: String,
        /// What its name begins with, before a `-`.
        prefix: String,
        /// The rest of its name; with an ending `.slice` it is a slice.
        name: String,
    },
}

/// Programs that are run in the runtime's own namespaces, each with the container's state on
/// standard input. One without an environment gets the runtime's. The others are the
/// [spec's](spec::Hooks).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// When the namespaces are there, before `create_runtime`.
    pub prestart: Vec<Hook>,
    /// When the namespaces are there and before `/` is the container's.
    pub create_runtime: Vec<Hook>,
    /// When its program has started.
    pub poststart: Vec<Hook>,
    /// When it has been deleted.
    pub poststop: Vec<Hook>,
}

/// `linux.intelRdt`: [resctrl](https://docs.kernel.org/filesystems/resctrl.html).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntelRdt {
    /// The group's directory; without one it is the container's id.
    pub clos_id: Option<String>,
    /// Lines for its file `schemata`.
    pub schemata: Vec<String>,
    /// The same, of the L3 cache.
    pub l3_cache_schema: Option<String>,
    /// The same, of memory bandwidth.
    pub mem_bw_schema: Option<String>,
    /// A monitoring group for the container.
    pub monitoring: bool,
}

/// Who gets the descriptor of a filter that notifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompListener {
    /// A socket.
    pub path: PathBuf,
    /// Text for whoever listens there.
    pub metadata: Option<String>,
}

/// Reads and checks a configuration.
///
/// # Errors
/// `InvalidConfig`, with the JSON path of the field.
pub fn parse(json: &[u8]) -> Result<Config, Error> {
    let mut document = json::document(json)?;
    if let Some(rules) = document.pointer_mut("/linux/seccomp/syscalls") {
        json::fit_seccomp(rules);
    }
    json::check_required(&document, "")?;
    let mut warnings = Vec::new();
    if let Some(process) = document.get_mut("process") {
        json::fit_process(process, &mut warnings)?;
    }
    if let Some(resources) = document.pointer_mut("/linux/resources") {
        json::fit_resources(resources);
    }
    for platform in ["solaris", "windows", "vm", "zos", "freebsd"] {
        let asks = |section: &Value| section.as_object().is_none_or(|fields| !fields.is_empty());
        if document.get(platform).is_some_and(asks) {
            return Err(Error::invalid(platform, "this runtime runs containers of Linux alone"));
        }
    }
    let seccomp = document.pointer("/linux/seccomp").cloned();
    let seccomp: Option<Profile> =
        seccomp.map(|profile| json::typed(profile, "linux.seccomp")).transpose()?;
    if let Some(profile) = &seccomp {
        goes_with("defaultErrnoRet", profile.default_errno_ret, profile.default_action)?;
        for (index, rule) in profile.syscalls.iter().enumerate() {
            goes_with(&format!("syscalls[{index}].errnoRet"), rule.errno_ret, rule.action)?;
        }
    }
    let spec: runtime::Spec = json::typed(document, "")?;
    check(&spec)?;
    Ok(Config { spec, seccomp, warnings })
}

/// Whether the action has a number.
fn goes_with(field: &str, errno: Option<u16>, action: Action) -> Result<(), Error> {
    if errno.is_some_and(|errno| errno != 0) && !matches!(action, Action::Errno | Action::Trace) {
        let problem = "a number goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE alone";
        return Err(Error::invalid(&format!("linux.seccomp.{field}"), problem));
    }
    Ok(())
}

/// What the schema demands beyond the types, and needs no more than the configuration.
fn check(spec: &runtime::Spec) -> Result<(), Error> {
    runtime_hooks(spec)?;
    container_hooks(spec)?;
    let priority = spec.process().as_ref().and_then(|process| process.io_priority().as_ref());
    if priority.is_some_and(|given| i32::try_from(given.priority()).is_err()) {
        return Err(Error::invalid("process.ioPriority.priority", "this has more than 32 bits"));
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    linux::nodes(linux)?;
    linux::intel_rdt(linux)?;
    mounts::root_propagation(linux)?;
    let rules = linux.seccomp().iter().flat_map(|seccomp| seccomp.syscalls()).flatten();
    if let Some(index) = rules.into_iter().position(|rule| rule.names().is_empty()) {
        return Err(Error::invalid(&format!("linux.seccomp.syscalls[{index}].names"), "name a call"));
    }
    if let Some(seccomp) = linux.seccomp() {
        let has = |text: &str| !text.is_empty();
        let path = seccomp.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        if !path && seccomp.listener_metadata().as_deref().is_some_and(has) {
            let problem = "this is sent to listenerPath, which is not set";
            return Err(Error::invalid("linux.seccomp.listenerMetadata", problem));
        }
    }
    linux.resources().as_ref().map_or(Ok(()), resources::check)
}

/// Reads the process of an `exec`, and what is left out of it.
///
/// # Errors
/// As [`parse`]'s.
pub fn parse_process(json: &[u8]) -> Result<(runtime::Process, Vec<String>), Error> {
    let mut warnings = Vec::new();
    let mut document = serde_json::json!({ "process": json::document(json)? });
    json::check_required(&document, "process")?;
    json::fit_process(&mut document["process"], &mut warnings)?;
    Ok((json::typed(document["process"].take(), "process")?, warnings))
}

/// Reads the resources of an `update`.
///
/// # Errors
/// As [`parse`]'s.
pub fn parse_resources(json: &[u8]) -> Result<runtime::LinuxResources, Error> {
    let mut document = serde_json::json!({ "linux": { "resources": json::document(json)? } });
    json::check_required(&document, "linux.resources")?;
    let resources = &mut document["linux"]["resources"];
    json::fit_resources(resources);
    let resources = json::typed(resources.take(), "linux.resources")?;
    resources::check(&resources)?;
    Ok(resources)
}

/// The version of the runtime specification that is implemented.
pub const VERSION: &str = "1.3.0";

/// Major and minor number of [`VERSION`].
const IMPLEMENTED: (u32, u32) = (1, 3);

/// Major and minor number of a version that is understood: from 1.0 on. A later minor one adds what
/// is not known here, and takes nothing away.
fn version(text: &str) -> Result<(u32, u32), Error> {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u32>> = numbers.split('.').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[1, minor, _]) => Ok((1, minor)),
        _ => Err(Error::invalid("ociVersion", format!("{text:?} is not a version 1.x.y"))),
    }
}

impl Config {
    /// The configuration.
    pub fn spec(&self) -> &runtime::Spec {
        &self.spec
    }

    /// Whether a poststart hook that fails stops the container: from 1.3 of the specification on.
    /// Before, a warning is due.
    ///
    /// # Errors
    /// `InvalidConfig` if `ociVersion` is no version from 1.0.0 on.
    pub fn poststart_stops(&self) -> Result<bool, Error> {
        Ok(version(self.spec.version())? >= (1, 3))
    }

    /// The container that it describes.
    ///
    /// # Errors
    /// `InvalidConfig`, with the JSON path of the field.
    pub fn container_spec(&self, context: &Context<'_>) -> Result<ContainerSpec, Error> {
        let version = version(self.spec.version())?;
        let missing = |field: &str| Error::invalid(field, "a container takes one");
        let process = self.spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let root = self.spec.root().as_ref().ok_or_else(|| missing("root"))?;
        let none = serde_json::json!({});
        let linux = match self.spec.linux() {
            Some(linux) => linux.clone(),
            None => json::typed(none, "linux")?,
        };
        let mut warnings = self.warnings.clone();
        if version > IMPLEMENTED {
            let text = self.spec.version();
            warnings.push(format!("ociVersion: what {text:?} has added to {VERSION} is passed over"));
        }
        let namespaces = linux::namespaces(&linux, context)?;
        let id_maps = linux::id_maps(&linux, &namespaces)?;
        let label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
        let mut mounts = Vec::new();
        for (index, mount) in self.spec.mounts().iter().flatten().enumerate() {
            let path = format!("mounts[{index}]");
            mounts.push(mounts::mount(&path, mount, label, &id_maps, context, &mut warnings)?);
            if namespaces.user == Namespace::Host
                && mounts.last().and_then(|m| m.id_maps.as_ref()).is_some_and(|maps| maps.uid.is_none())
            {
                let problem = "without mappings of its own this takes a user namespace, whose they would be";
                return Err(Error::invalid(&format!("{path}.options"), problem));
            }
        }
        let dev_is_bound = |m: &spec::Mount| {
            m.destination == Path::new("/dev") && matches!(m.kind, spec::MountKind::Bind { .. })
        };
        let masked_paths = linux::paths("maskedPaths", linux.masked_paths(), &mut warnings)?;
        let readonly_paths = linux::paths("readonlyPaths", linux.readonly_paths(), &mut warnings)?;
        // A mount namespace that is not new has its files already, and what is mounted in it stays.
        let changes = mounts.len() + masked_paths.len() + readonly_paths.len();
        let changes = changes + linux.devices().iter().flatten().count();
        let new = namespaces.is_new(Kind::Mnt);
        let shares_files = !new && root.path() == Path::new("/");
        if shares_files && (root.readonly() == Some(true) || changes > 0) {
            let problem = "this is the root of a mount namespace that is not the container's own: name another \
                           directory, or leave out mounts, devices, masked and read-only paths";
            return Err(Error::invalid("root.path", problem));
        }
        let (nodes, links) = match shares_files || mounts.iter().any(dev_is_bound) {
            true => (Vec::new(), Vec::new()),
            false => (linux::nodes(&linux)?, linux::links()),
        };
        let (limits, devices) = match linux.resources() {
            Some(given) => resources(given)?,
            None => Default::default(),
        };
        let devices =
            (!context.rootless).then(|| devices.unwrap_or_else(|| cgroup_core::device::DEFAULT.into()));
        let name = |field: &str, name: &Option<String>| -> Result<Option<String>, Error> {
            let Some(name) = name.clone().filter(|name| !name.is_empty()) else { return Ok(None) };
            let problem = match () {
                () if namespaces.uts == Namespace::Host => "this takes a uts namespace",
                () if name.len() > 64 => "a name has at most 64 bytes",
                () if name.contains('\0') => "this holds a NUL byte",
                () => return Ok(Some(name)),
            };
            Err(Error::invalid(field, problem))
        };
        let translated = process::translate(process, self, context)?;
        if let (IdMaps::Maps { uid, gid }, Some(user)) = (&id_maps, &translated.user) {
            let groups = user.groups.iter().enumerate();
            let groups = groups.map(|(index, id)| (format!("additionalGids[{index}]"), *id, gid));
            let ids = [("uid".to_owned(), user.uid, uid), ("gid".to_owned(), user.gid, gid)];
            for (name, id, map) in ids.into_iter().chain(groups) {
                if map.to_outside(id).is_none() {
                    let problem = format!("the mappings of the user namespace have no {id}");
                    return Err(Error::invalid(&format!("process.user.{name}"), problem));
                }
            }
        }
        let seccomp = linux.seccomp().as_ref();
        let spec = Spec {
            process: translated,
            id_maps,
            time_offsets: linux::time_offsets(&linux, &namespaces)?,
            root: match shares_files {
                true => Root::Host,
                false => Root::Dir {
                    path: directory("root.path", context.bundle, root.path())?,
                    readonly: root.readonly().unwrap_or(false),
                },
            },
            root_nodev: false,
            root_sockets: false,
            no_pivot: context.no_pivot && new,
            mounts_stay: !new && !shares_files,
            mounts,
            nodes,
            links,
            propagation: mounts::root_propagation(&linux)?,
            masked_paths,
            readonly_paths,
            hostname: name("hostname", self.spec.hostname())?,
            domainname: name("domainname", self.spec.domainname())?,
            sysctls: linux.sysctl().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            loopback: namespaces.is_new(Kind::Net),
            init: false,
            limits,
            devices,
            hooks: container_hooks(&self.spec)?,
            namespaces,
        };
        Ok(ContainerSpec {
            cgroup: linux::cgroups_path(&linux, context)?,
            hooks: runtime_hooks(&self.spec)?,
            annotations: self
                .spec
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            net_devices: linux::net_devices(&linux, &spec.namespaces)?,
            intel_rdt: linux::intel_rdt(&linux)?,
            seccomp_listener: seccomp.and_then(|seccomp| {
                let path = seccomp.listener_path().clone().filter(|path| !path.as_os_str().is_empty())?;
                Some(SeccompListener { path, metadata: seccomp.listener_metadata().clone() })
            }),
            console_size: process::console_size(process)?,
            spec,
            warnings,
        })
    }
}

fn directory(field: &str, bundle: &Path, path: &Path) -> Result<PathBuf, Error> {
    match path.as_os_str().is_empty() {
        true => Err(Error::invalid(field, "this is empty")),
        false => Ok(bundle.join(path)),
    }
}

#[allow(deprecated)] // prestart, by the specification; it is still in use.
fn runtime_hooks(spec: &runtime::Spec) -> Result<Hooks, Error> {
    let Some(given) = spec.hooks() else { return Ok(Hooks::default()) };
    Ok(Hooks {
        prestart: hooks("prestart", given.prestart())?,
        create_runtime: hooks("createRuntime", given.create_runtime())?,
        poststart: hooks("poststart", given.poststart())?,
        poststop: hooks("poststop", given.poststop())?,
    })
}

fn container_hooks(spec: &runtime::Spec) -> Result<spec::Hooks, Error> {
    let Some(given) = spec.hooks() else { return Ok(spec::Hooks::default()) };
    Ok(spec::Hooks {
        create_container: hooks("createContainer", given.create_container())?,
        start_container: hooks("startContainer", given.start_container())?,
    })
}

fn hooks(name: &str, given: &Option<Vec<runtime::Hook>>) -> Result<Vec<Hook>, Error> {
    let given = given.iter().flatten().enumerate();
    given.map(|(index, given)| hook(&format!("hooks.{name}[{index}]"), given)).collect()
}

fn hook(path: &str, given: &runtime::Hook) -> Result<Hook, Error> {
    if !given.path().is_absolute() {
        return Err(Error::invalid(&format!("{path}.path"), "this is not an absolute path"));
    }
    let args = given.args().clone().filter(|args| !args.is_empty());
    let args = match args {
        Some(args) => args.into_iter().map(Into::into).collect(),
        None => vec![given.path().clone().into()],
    };
    let timeout = match given.timeout().map(u32::try_from) {
        None => None,
        Some(Ok(seconds)) if seconds > 0 => Some(seconds),
        _ => {
            return Err(Error::invalid(
                &format!("{path}.timeout"),
                "this is not a number of seconds above 0",
            ));
        }
    };
    Ok(Hook {
        path: given.path().clone(),
        args,
        env: match given.env() {
            Some(_) => Some(process::env(&format!("{path}.env"), given.env())?),
            None => None,
        },
        timeout,
    })
}
