//! Which cgroup a container gets, and who makes it.

use std::fs::File;
use std::path::{Path, PathBuf};

use cgroup_core::systemd::{self, Held, Manager, Property};
use cgroup_core::{Cgroup, Controllers, Hierarchy, Limits};
use nix::errno::Errno;
use nspod_cli::error::{Error, Result};
use nspod_oci_runtime::config::{self, CgroupsPath};
use nspod_oci_runtime::resctrl;
use nspod_sandbox::spec::Spec;
use nspod_sandbox::store::read_small;

use crate::args::{CgroupManager, Global};
use crate::log;
use crate::state::Record;

pub(crate) fn is_systemd(global: &Global) -> bool {
    global.systemd_cgroup || global.cgroup_manager == Some(CgroupManager::Systemd)
}

/// Where a container is started.
pub(crate) enum Place {
    /// In the caller's cgroup.
    Here,
    /// In a cgroup of its own, counted from the top of the hierarchy.
    At(PathBuf),
    /// In a scope that systemd has made.
    Scope(Box<Scope>),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Here => f.write_str("no cgroup of its own"),
            Place::At(path) => write!(f, "cgroup {}", path.display()),
            Place::Scope(scope) => {
                write!(f, "cgroup {}, made by systemd as {}", scope.path().display(), scope.unit)
            }
        }
    }
}

impl Place {
    /// The cgroup, made and limited as is wanted.
    pub(crate) fn make(&self, spec: &Spec) -> Result<Option<Cgroup>> {
        let path = match self {
            Place::Here => return Ok(None),
            Place::Scope(scope) => return Ok(Some(Cgroup::open(scope.path())?)),
            Place::At(path) => path,
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
pub(crate) struct Scope {
    manager: Manager,
    unit: String,
    held: Held,
    limits: Limits,
}

impl Scope {
    pub(crate) fn path(&self) -> &Path {
        self.held.cgroup().path()
    }

    /// Leaves it to the container, which is in it. What held it has counted as a process, so it is
    /// now that these are limited.
    pub(crate) fn release(mut self) -> Result<()> {
        let cgroup = self.held.release();
        let (_, processes) = apart(self.limits.clone());
        if processes.is_empty() {
            return Ok(());
        }
        self.manager.set_properties(&self.unit, &Property::of_limits(&processes)?)?;
        // All of them, since systemd has written what it knows of them again.
        limit(&cgroup, &self.limits)
    }
}

/// Limits without that of processes, and that.
fn apart(mut limits: Limits) -> (Limits, Limits) {
    let processes = Limits {
        pids_max: limits.pids_max.take(),
        unified: limits.unified.remove_entry("pids.max").into_iter().collect(),
        ..Limits::default()
    };
    (limits, processes)
}

/// Finds or makes the place for a container, and notes it in the record.
pub(crate) fn place(
    global: &Global,
    wanted: &config::ContainerSpec,
    id: &str,
    record: &mut Record,
) -> Result<Place> {
    if global.cgroup_manager == Some(CgroupManager::Disabled) {
        return Ok(Place::Here);
    }
    if is_systemd(global) {
        return scope(global, wanted, id, record).map(|scope| Place::Scope(scope.into()));
    }
    let owed = !wanted.spec.limits.is_empty() || wanted.spec.devices.is_some();
    let place = top().and_then(|top| Ok((top, path(&wanted.cgroup, id)?)));
    match place {
        Ok((root, path)) => {
            let full = root.join(path.strip_prefix("/").unwrap_or(&path));
            if owed || !global.rootless() || can_make(&full) {
                // One that is there already may be another's, and is not to be removed after a
                // crash: it is noted when it turned out to be free.
                if matches!(full.try_exists(), Ok(false)) {
                    record.cgroup_paths.insert(String::new(), full);
                }
                return Ok(Place::At(path));
            }
            log::debug(&format_args!("no cgroup: {} is not the caller's to make", full.display()));
        }
        Err(e) if owed => return Err(e),
        Err(e) => log::debug(&format_args!("no cgroup: {e}")),
    }
    Ok(Place::Here)
}

fn scope(global: &Global, wanted: &config::ContainerSpec, id: &str, record: &mut Record) -> Result<Scope> {
    let (slice, prefix, name) = match &wanted.cgroup {
        CgroupsPath::Systemd { slice, prefix, name } => (slice.as_str(), prefix.as_str(), name.as_str()),
        _ => ("", "nspod", id),
    };
    // As runc has it.
    let slice = match slice {
        "" if global.rootless() => "user.slice",
        "" => "system.slice",
        slice => slice,
    };
    let named = systemd::Scope::of_parts(slice, prefix, name)
        .map_err(|e| Error::new(format!("linux.cgroupsPath: {e}")))?;
    let limits = wanted.spec.limits.clone();
    let (early, _) = apart(limits.clone());
    let mut properties = Property::of_limits(&early)?;
    for (key, text) in &record.annotations {
        let property = Property::of_annotation(key, text);
        properties.extend(property.map_err(|e| Error::new(format!("annotations.{key}: {e}")))?);
    }
    let description = format!("nspod-oci container {id}");
    let unit = named.name.clone();
    let mut manager = Manager::connect()?;
    let held = manager.hold_scope(&systemd::Scope { description, properties, ..named })?;
    record.cgroup_paths.insert(String::new(), held.cgroup().path().to_owned());
    record.unit = Some(unit.clone());
    // And what systemd has no property for.
    limit(held.cgroup(), &early)?;
    if let Some(rules) = &wanted.spec.devices {
        held.cgroup().attach_devices(rules)?;
    }
    Ok(Scope { manager, unit, held, limits })
}

fn limit(cgroup: &Cgroup, limits: &Limits) -> Result<()> {
    cgroup.enable_path(limits.controllers())?;
    cgroup.apply(limits)?;
    Ok(())
}

/// Changes a container's limits; those not named stay.
pub(crate) fn update(record: &Record, limits: &Limits) -> Result<()> {
    let cgroup = record.cgroup()?;
    let Some(unit) = &record.unit else { return limit(&cgroup, limits) };
    // systemd will have rounded it up.
    let exact = cgroup.read_if_there("cpu.max")?.map(|text| text.parse()).transpose()?;
    Manager::connect()?.set_properties(unit, &Property::of_limits(limits)?)?;
    limit(&cgroup, &Limits { cpu_max: limits.cpu_max.or(exact), ..limits.clone() })
}

/// As runc has it: a path that is not absolute lies beside the cgroup of the caller.
fn path(wanted: &CgroupsPath, id: &str) -> Result<PathBuf> {
    let relative = match wanted {
        CgroupsPath::Absolute(path) => return Ok(path.clone()),
        CgroupsPath::Relative(path) => path,
        CgroupsPath::Default | CgroupsPath::Systemd { .. } => Path::new(id),
    };
    let file = Path::new("/proc/self/cgroup");
    let text = File::open(file).and_then(read_small).map_err(|e| Error::io("read", file, &e))?;
    let text = String::from_utf8_lossy(&text);
    let own = Path::new(cgroup_core::parse::proc_self_cgroup(&text).unwrap_or("/"));
    Ok(own.parent().unwrap_or(own).join(relative))
}

/// Where cgroup2 is mounted.
fn top() -> Result<PathBuf> {
    Ok(Cgroup::top()?.path().to_owned())
}

/// Whether the caller may make a cgroup here: its nearest ancestor is a directory to write in.
fn can_make(path: &Path) -> bool {
    let there = path.ancestors().skip(1).find(|dir| dir.exists());
    let writable = |dir: &Path| {
        let flags = nix::unistd::AccessFlags::W_OK;
        let procs = dir.join("cgroup.procs");
        nix::unistd::access(dir, flags).is_ok() && nix::unistd::access(&procs, flags) != Err(Errno::EACCES)
    };
    there.is_some_and(writable)
}

/// The id of the mount that a path leads to.
pub(crate) fn mount_id(path: &Path) -> Result<u64> {
    let wanted = rustix::fs::StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), wanted);
    let stat = stat.map_err(|e| Error::path("look at", path, Errno::from_raw(e.raw_os_error())))?;
    Ok(stat.stx_mnt_id)
}

/// Takes the root away that was mounted in the caller's mount namespace, with all that is in it. What
/// somebody else has mounted over it since stays, and the root below that.
fn unmount(record: &Record) -> Result<()> {
    let Some((before, made)) = record.root_mount else { return Ok(()) };
    let rebooted = !record.boot_id.is_empty() && record.boot_id != ns_core::boot_id()?;
    if rebooted || !record.rootfs.exists() {
        return Ok(());
    }
    let now = mount_id(&record.rootfs)?;
    if made.map_or(now == before, |made| now != made) {
        return Ok(());
    }
    let flags = rustix::mount::UnmountFlags::DETACH;
    rustix::mount::unmount(&record.rootfs, flags)
        .map_err(|e| Error::path("unmount", &record.rootfs, Errno::from_raw(e.raw_os_error())))
}

/// Removes a container's cgroup with all that is in it, and its group of Intel RDT's; what is
/// gone is fine.
pub(crate) fn remove(record: &Record) -> Result<()> {
    resctrl::remove(&record.rdt_made)?;
    unmount(record)?;
    let Some(path) = record.cgroup_path() else { return Ok(()) };
    let gone = |e: &cgroup_core::Error| e.kind() == cgroup_core::ErrorKind::NotFound;
    let removed = Cgroup::open(path).and_then(|cgroup| match &record.unit {
        // It is systemd's to remove.
        Some(_) => cgroup.kill(),
        None => cgroup.destroy(),
    });
    match removed {
        Err(e) if !gone(&e) => return Err(e.into()),
        _ => {}
    }
    match &record.unit {
        Some(unit) => Ok(Manager::connect()?.stop(unit)?),
        None => Ok(()),
    }
}
