//! The cgroup driver: the path, creation and removal of a container's cgroup.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use cgroup_core::systemd::{self, Held, Manager, Property};
use cgroup_core::{Cgroup, Controllers, Hierarchy, Limits};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use nspod_sandbox::spec::Spec;
use nspod_sandbox::store::read_small;

use crate::config::{CgroupsPath, ContainerSpec};
use crate::error::{Error, Result};
use crate::record::OciRecord;
use crate::runtime::{CgroupDriver, Runtime};

/// The cgroup in which a container starts.
pub(crate) enum CgroupPlace {
    /// The caller's cgroup.
    Caller,
    /// A separate cgroup, as a path from the top of the hierarchy.
    At(PathBuf),
    /// A scope that systemd has created.
    Scope(Box<HeldScope>),
}

impl fmt::Display for CgroupPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CgroupPlace::Caller => f.write_str("no cgroup of its own"),
            CgroupPlace::At(path) => write!(f, "cgroup {}", path.display()),
            CgroupPlace::Scope(scope) => {
                write!(f, "cgroup {}, made by systemd as {}", scope.path().display(), scope.unit)
            }
        }
    }
}

impl CgroupPlace {
    /// Creates the cgroup and applies limits and device rules, for processes that the sandbox does not start.
    pub(crate) fn make(&self, spec: &Spec) -> Result<Option<Cgroup>> {
        let path = match self {
            CgroupPlace::Caller => return Ok(None),
            CgroupPlace::Scope(scope) => return Ok(Some(Cgroup::open(scope.path())?)),
            CgroupPlace::At(path) => path,
        };
        let cgroup = Hierarchy::detect()?.root()?.create_path(path, Controllers::all())?;
        limit(&cgroup, &spec.limits)?;
        if let Some(rules) = &spec.devices {
            cgroup.attach_devices(rules)?;
        }
        Ok(Some(cgroup))
    }
}

/// A scope that waits for the container's first process.
pub(crate) struct HeldScope {
    manager: Manager,
    unit: String,
    held: Held,
    limits: Limits,
}

impl HeldScope {
    pub(crate) fn path(&self) -> &Path {
        self.held.cgroup().path()
    }

    /// Ends the placeholder of the scope, after the container has started in it. Then sets the limit on
    /// processes, because the placeholder counted against it.
    pub(crate) fn release(mut self) -> Result<()> {
        let cgroup = self.held.release();
        let processes = self.limits.clone().remove("pids.max");
        if processes.is_empty() {
            return Ok(());
        }
        self.manager.set_properties(&self.unit, &Property::of_limits(&processes)?)?;
        // Write all limits, since systemd has overwritten those that it knows.
        limit(&cgroup, &self.limits)
    }
}

/// Chooses the cgroup of a container, and sets the network limits of its pod.
pub(crate) fn place(
    runtime: &Runtime,
    wanted: &ContainerSpec,
    id: &str,
    record: &mut OciRecord,
) -> Result<CgroupPlace> {
    let place = choose(runtime, wanted, id, record)?;
    if let Some(limits) = &wanted.pod_net {
        limit_pod(&place, limits)?;
    }
    if matches!(place, CgroupPlace::Caller) && wanted.spec.limits.net.is_some() {
        return Err(Error::invalid("annotations", "network limits require a cgroup for the container"));
    }
    Ok(place)
}

/// Sets the network limits of the pod in the parent of its sandbox's cgroup.
fn limit_pod(place: &CgroupPlace, limits: &cgroup_core::net::Limits) -> Result<()> {
    let sandbox = match place {
        CgroupPlace::Caller => None,
        CgroupPlace::Scope(scope) => Some(scope.path().to_owned()),
        CgroupPlace::At(path) => Some(top()?.join(path.strip_prefix("/").unwrap_or(path))),
    };
    let is_pod = |path: &&Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("pod") || name.contains("-pod")
    };
    let Some(pod) = sandbox.as_deref().and_then(Path::parent).filter(is_pod) else {
        return Err(Error::invalid(
            "linux.cgroupsPath",
            "the bandwidth of a pod requires that its sandbox is in a cgroup of the pod, which is named pod… or …-pod… as by the kubelet",
        ));
    };
    let cgroup = match Cgroup::open(pod) {
        Err(e) if is_gone(&e) => {
            let path = pod.strip_prefix(top()?).unwrap_or(pod);
            Hierarchy::detect()?.root()?.create_path(path, Controllers::all())?
        }
        cgroup => cgroup?,
    };
    Ok(cgroup.limit_net(limits)?)
}

/// Chooses the cgroup of a container and notes it in the record. systemd creates a scope immediately. The
/// sandbox creates any other cgroup during the start.
fn choose(
    runtime: &Runtime,
    wanted: &ContainerSpec,
    id: &str,
    record: &mut OciRecord,
) -> Result<CgroupPlace> {
    match runtime.driver() {
        CgroupDriver::Disabled => return Ok(CgroupPlace::Caller),
        CgroupDriver::Systemd => {
            return scope(runtime, wanted, id, record).map(|scope| CgroupPlace::Scope(scope.into()));
        }
        CgroupDriver::Cgroupfs => {}
    }
    let required = !wanted.spec.limits.is_empty() || wanted.spec.devices.is_some();
    let place = top().and_then(|top| Ok((top, path(&wanted.cgroup, id)?)));
    match place {
        Ok((root, path)) => {
            let full = root.join(path.strip_prefix("/").unwrap_or(&path));
            if required || !runtime.is_rootless() || can_make(&full) {
                // An existing cgroup may belong to another container, and must not be removed after a crash.
                // So the cgroup is noted only after the start has found it unused.
                if matches!(full.try_exists(), Ok(false)) {
                    record.set_cgroup_path(&full);
                }
                return Ok(CgroupPlace::At(path));
            }
            log::debug!("no cgroup: the caller cannot make {}", full.display());
        }
        Err(e) if required => return Err(e),
        Err(e) => log::debug!("no cgroup: {e}"),
    }
    Ok(CgroupPlace::Caller)
}

fn scope(runtime: &Runtime, wanted: &ContainerSpec, id: &str, record: &mut OciRecord) -> Result<HeldScope> {
    let (slice, prefix, name) = match &wanted.cgroup {
        CgroupsPath::Systemd { slice, prefix, name } => (slice.as_str(), prefix.as_str(), name.as_str()),
        _ => ("", "nspod", id),
    };
    // The defaults of runc.
    let slice = match slice {
        "" if runtime.is_rootless() => "user.slice",
        "" => "system.slice",
        slice => slice,
    };
    let named =
        systemd::Scope::of_parts(slice, prefix, name).map_err(|e| Error::invalid("linux.cgroupsPath", e))?;
    let limits = wanted.spec.limits.clone();
    let mut early = limits.clone();
    early.remove("pids.max");
    let mut properties = Property::of_limits(&early)?;
    for (key, text) in &record.annotations {
        let property = Property::of_annotation(key, text);
        properties.extend(property.map_err(|e| Error::invalid(&format!("annotations.{key}"), e))?);
    }
    let description = format!("nspod-oci container {id}");
    let unit = named.name.clone();
    let mut manager = Manager::connect()?;
    let held = manager.hold_scope(&systemd::Scope { description, properties, ..named })?;
    record.set_cgroup_path(held.cgroup().path());
    record.unit = Some(unit.clone());
    // This includes limits for which systemd has no property.
    limit(held.cgroup(), &early)?;
    if let Some(rules) = &wanted.spec.devices {
        held.cgroup().attach_devices(rules)?;
    }
    Ok(HeldScope { manager, unit, held, limits })
}

fn limit(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    cgroup.enable_path(limits.controllers())?;
    cgroup.apply(limits)?;
    Ok(())
}

/// Changes the limits of a container that are set in `limits`.
pub(crate) fn update(record: &OciRecord, limits: &Limits) -> Result<()> {
    let cgroup = record.cgroup()?;
    let Some(unit) = &record.unit else { return limit(&cgroup, limits) };
    // systemd rounds the quota up, so the exact quota is written after the call.
    let exact = cgroup.read_if_there("cpu.max")?.map(|text| text.parse()).transpose()?;
    Manager::connect()?.set_properties(unit, &Property::of_limits(limits)?)?;
    limit(&cgroup, &Limits { cpu_max: limits.cpu_max.or(exact), ..limits.clone() })
}

/// Removes a container's cgroup and kills the processes in it. Does nothing if the cgroup does not exist.
pub(crate) fn remove(record: &OciRecord) -> Result<()> {
    let Some(path) = record.cgroup_path() else { return Ok(()) };
    let removed = Cgroup::open(path).and_then(|cgroup| match &record.unit {
        // systemd removes it.
        Some(_) => cgroup.kill(),
        None => cgroup.destroy(),
    });
    match removed {
        Err(e) if !is_gone(&e) => return Err(e.into()),
        _ => {}
    }
    match &record.unit {
        Some(unit) => Ok(Manager::connect()?.stop(unit)?),
        None => Ok(()),
    }
}

/// Returns whether an error says that the cgroup does not exist.
pub(crate) fn is_gone(e: &cgroup_core::Error) -> bool {
    e.kind() == cgroup_core::ErrorKind::NotFound
}

/// Returns the path of the container's cgroup from the top of the hierarchy. As with runc, a relative
/// path is beside the caller's cgroup.
fn path(wanted: &CgroupsPath, id: &str) -> Result<PathBuf> {
    let relative = match wanted {
        CgroupsPath::Absolute(path) => return Ok(path.clone()),
        CgroupsPath::Relative(path) => path,
        CgroupsPath::Default | CgroupsPath::Systemd { .. } => Path::new(id),
    };
    let file = Path::new("/proc/self/cgroup");
    let text = File::open(file).and_then(read_small).map_err(|e| Error::io("cgroup", "read", file, &e))?;
    let text = String::from_utf8_lossy(&text);
    let own = Path::new(cgroup_core::parse::proc_self_cgroup(&text).unwrap_or("/"));
    Ok(own.parent().unwrap_or(own).join(relative))
}

/// Returns the mount point of cgroup2.
fn top() -> Result<PathBuf> {
    Ok(Cgroup::top()?.path().to_owned())
}

/// Returns whether the caller can make a cgroup here: whether it can write to the nearest ancestor.
fn can_make(path: &Path) -> bool {
    let ancestor = path.ancestors().skip(1).find(|dir| dir.exists());
    let writable = |dir: &Path| {
        let procs = dir.join("cgroup.procs");
        access(dir, AccessFlags::W_OK).is_ok() && access(&procs, AccessFlags::W_OK) != Err(Errno::EACCES)
    };
    ancestor.is_some_and(writable)
}
