//! Conversion of a configuration to a spec.

use std::path::Path;

use cgroup_core::Limits;
use cgroup_core::device::{self, Rule};
use ns_core::Kind;
use nspod_sandbox::spec::{IdMaps, Link, Mount, MountKind, Node, Process, Root, Spec};
use oci_spec::runtime;

use super::resources::resources;
use super::types::{Config, ContainerSpec, Context, IMPLEMENTED, SeccompListener, VERSION, version};
use super::{hooks, json, linux, mounts, network, process};
use crate::Error;

impl Config {
    /// Converts the configuration to a spec. Makes no system call.
    /// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md).
    ///
    /// Most values are checked by the [`Plan`](nspod_sandbox::Plan) of the spec. The conversion of its errors
    /// to [`Error`] replaces the field of the spec with the JSON path.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), with the JSON path of the field: `process` or
    /// `root` is missing, or this runtime or cgroup v2 cannot apply a setting.
    pub fn container_spec(&self, context: &Context<'_>) -> Result<ContainerSpec, Error> {
        let mut warnings = self.warnings.clone();
        if version(self.spec.version())? > IMPLEMENTED {
            let text = self.spec.version();
            warnings.push(format!("ociVersion: settings that {text:?} has added to {VERSION} are ignored"));
        }
        let missing = |field: &str| Error::invalid(field, "required field is missing");
        let process = self.spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let root = self.spec.root().as_ref().ok_or_else(|| missing("root"))?;
        let linux = match self.spec.linux() {
            Some(linux) => linux.clone(),
            None => json::typed(serde_json::json!({}), "linux")?,
        };
        let mut spec = self.convert(process, root, &linux, context, &mut warnings)?;
        let annotations = entries(self.spec.annotations());
        let network = network::limits(&annotations)?;
        spec.limits.net = network.container;
        Ok(ContainerSpec {
            cgroup: linux::cgroups_path(&linux, context)?,
            hooks: hooks::of_runtime(&self.spec)?,
            annotations,
            pod_net: network.pod,
            net_devices: linux::net_devices(&linux, &spec.namespaces)?,
            intel_rdt: linux::intel_rdt(&linux)?,
            seccomp_listener: listener(&linux),
            console_size: process::console_size(process)?,
            spec,
            warnings,
        })
    }

    fn convert(
        &self,
        process: &runtime::Process,
        root: &runtime::Root,
        linux: &runtime::Linux,
        context: &Context<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Spec, Error> {
        let namespaces = linux::namespaces(linux, context)?;
        let id_maps = linux::id_maps(linux, &namespaces)?;
        let mounts = self.mounts(linux, &id_maps, context, warnings)?;
        let masked_paths = linux::paths("maskedPaths", linux.masked_paths(), warnings)?;
        let readonly_paths = linux::paths("readonlyPaths", linux.readonly_paths(), warnings)?;
        let new_mnt = namespaces.is_new(Kind::Mnt);
        // A joined mount namespace has its files already, and mounts in it would persist.
        let shares_files = !new_mnt && root.path() == Path::new("/");
        let changes = mounts.len() + masked_paths.len() + readonly_paths.len();
        let changes = changes + linux.devices().iter().flatten().count();
        if shares_files && (root.readonly() == Some(true) || changes > 0) {
            let problem = "this is the root of a mount namespace that is not the container's own: name another \
                           directory, or leave out mounts, devices, masked and read-only paths";
            return Err(Error::invalid("root.path", problem));
        }
        let (nodes, links) = nodes_and_links(linux, &mounts, shares_files)?;
        let (limits, devices) = limits_and_devices(linux, context)?;
        let process = process::translate(process, self, context)?;
        check_ids_are_mapped(&process, &id_maps)?;
        Ok(Spec {
            process,
            id_maps,
            time_offsets: linux::time_offsets(linux)?,
            root: convert_root(root, shares_files, context)?,
            root_nodev: false,
            root_sockets: false,
            no_pivot: context.no_pivot && new_mnt,
            mounts_stay: !new_mnt && !shares_files,
            mounts,
            nodes,
            links,
            propagation: mounts::root_propagation(linux)?,
            masked_paths,
            readonly_paths,
            hostname: name(self.spec.hostname()),
            domainname: name(self.spec.domainname()),
            sysctls: entries(linux.sysctl()),
            loopback: namespaces.is_new(Kind::Net),
            init: Some(false),
            limits,
            devices,
            hooks: hooks::of_container(&self.spec)?,
            namespaces,
        })
    }

    fn mounts(
        &self,
        linux: &runtime::Linux,
        id_maps: &IdMaps,
        context: &Context<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Mount>, Error> {
        let label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
        let mut mounts = Vec::new();
        for (index, mount) in self.spec.mounts().iter().flatten().enumerate() {
            let path = format!("mounts[{index}]");
            mounts.push(mounts::mount(&path, mount, label, id_maps, context, warnings)?);
        }
        Ok(mounts)
    }
}

/// Returns the entries of a map that may be missing.
fn entries<M, T>(map: &Option<M>) -> T
where
    for<'a> &'a M: IntoIterator<Item = (&'a String, &'a String)>,
    T: FromIterator<(String, String)>,
{
    map.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Returns the device nodes and links in `/dev`. The result is empty if the container shares its files or has
/// a `/dev` of the host.
fn nodes_and_links(
    linux: &runtime::Linux,
    mounts: &[Mount],
    shares_files: bool,
) -> Result<(Vec<Node>, Vec<Link>), Error> {
    let is_dev = |mount: &Mount| {
        mount.destination == Path::new("/dev") && matches!(mount.kind, MountKind::Bind { .. })
    };
    match shares_files || mounts.iter().any(is_dev) {
        true => Ok((Vec::new(), Vec::new())),
        false => Ok((linux::nodes(linux)?, linux::links())),
    }
}

/// Returns the limits and the device rules. An unprivileged runtime cannot apply device rules.
fn limits_and_devices(
    linux: &runtime::Linux,
    context: &Context<'_>,
) -> Result<(Limits, Option<Vec<Rule>>), Error> {
    let (limits, devices) = match linux.resources() {
        Some(given) => resources(given)?,
        None => Default::default(),
    };
    let devices = (!context.rootless).then(|| devices.unwrap_or_else(|| device::DEFAULT.into()));
    Ok((limits, devices))
}

/// Checks that the user namespace maps the ids of the process.
fn check_ids_are_mapped(process: &Process, id_maps: &IdMaps) -> Result<(), Error> {
    let (IdMaps::Maps { uid, gid }, Some(user)) = (id_maps, &process.user) else { return Ok(()) };
    let groups = user.groups.iter().enumerate();
    let groups = groups.map(|(index, id)| (format!("additionalGids[{index}]"), *id, gid));
    let ids = [("uid".to_owned(), user.uid, uid), ("gid".to_owned(), user.gid, gid)];
    for (name, id, map) in ids.into_iter().chain(groups) {
        if map.to_outside(id).is_none() {
            let problem = format!("the user namespace does not map {id}");
            return Err(Error::invalid(&format!("process.user.{name}"), problem));
        }
    }
    Ok(())
}

fn convert_root(root: &runtime::Root, shares_files: bool, context: &Context<'_>) -> Result<Root, Error> {
    if shares_files {
        return Ok(Root::Host);
    }
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid("root.path", "must not be empty"));
    }
    let path = context.bundle.join(root.path());
    Ok(Root::Dir { path, readonly: root.readonly().unwrap_or(false) })
}

/// Returns the host name or the domain name. An empty name is none.
fn name(name: &Option<String>) -> Option<String> {
    name.clone().filter(|name| !name.is_empty())
}

fn listener(linux: &runtime::Linux) -> Option<SeccompListener> {
    let seccomp = linux.seccomp().as_ref()?;
    let path = seccomp.listener_path().clone().filter(|path| !path.as_os_str().is_empty())?;
    Some(SeccompListener { path, metadata: seccomp.listener_metadata().clone() })
}
