//! `linux`: namespaces, id mappings, time offsets, devices, cgroupsPath, netDevices and intelRdt.

use std::path::{Component, Path, PathBuf};

use ns_core::{Extent, IdMap, Kind, TimeOffset, TimeOffsets};
use oci_spec::runtime::{self, LinuxDeviceType, LinuxNamespaceType};

use super::paths::absolute;
use super::types::{CgroupsPath, Context, IntelRdt};
use crate::Error;
use crate::net::check_name;
use nspod_sandbox::spec::{DEVICES, IdMaps, Join, LINKS, Link, NamespaceMode, Namespaces, Node, NodeKind};

pub(super) fn namespaces(linux: &runtime::Linux, context: &Context<'_>) -> Result<Namespaces, Error> {
    let mut all = Namespaces::default();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let path = format!("linux.namespaces[{index}]");
        let kind = match namespace.typ() {
            LinuxNamespaceType::Mount => Kind::Mnt,
            LinuxNamespaceType::Network => Kind::Net,
            LinuxNamespaceType::Pid => Kind::Pid,
            LinuxNamespaceType::User => Kind::User,
            LinuxNamespaceType::Uts => Kind::Uts,
            LinuxNamespaceType::Ipc => Kind::Ipc,
            LinuxNamespaceType::Cgroup => Kind::Cgroup,
            LinuxNamespaceType::Time => Kind::Time,
        };
        if *all.get(kind) != NamespaceMode::Host {
            return Err(Error::invalid(&path, format!("a {kind} namespace is given twice")));
        }
        let file = namespace.path().as_deref().filter(|file| !file.as_os_str().is_empty());
        *all.get_mut(kind) = match file {
            None => NamespaceMode::New,
            Some(file) if file.is_absolute() => NamespaceMode::Join(Join::Path(file.into())),
            Some(file) => NamespaceMode::Join(Join::Path(context.bundle.join(file))),
        };
    }
    Ok(all)
}

/// Converts id mappings, and applies the kernel's checks.
pub(super) fn id_map(path: &str, mappings: &[runtime::LinuxIdMapping]) -> Result<IdMap, Error> {
    let extent = |m: &runtime::LinuxIdMapping| Extent {
        inside: m.container_id(),
        outside: m.host_id(),
        count: m.size(),
    };
    let map = IdMap::from(mappings.iter().map(extent).collect::<Vec<_>>());
    map.validate().map_err(|e| Error::invalid(path, e))?;
    Ok(map)
}

pub(super) fn id_maps(linux: &runtime::Linux, namespaces: &Namespaces) -> Result<IdMaps, Error> {
    let map = |name: &str, mappings: &Option<Vec<runtime::LinuxIdMapping>>| {
        let path = format!("linux.{name}");
        let mappings = mappings.as_deref().unwrap_or_default();
        match (mappings.is_empty(), &namespaces.user) {
            (true, NamespaceMode::New) => {
                Err(Error::invalid(&path, "a new user namespace requires mappings"))
            }
            (false, NamespaceMode::Host) => Err(Error::invalid(&path, "mappings require a user namespace")),
            (true, _) => Ok(None),
            (false, _) => id_map(&path, mappings).map(Some),
        }
    };
    let uid = map("uidMappings", linux.uid_mappings())?;
    let gid = map("gidMappings", linux.gid_mappings())?;
    Ok(match (&namespaces.user, uid, gid) {
        (NamespaceMode::New, Some(uid), Some(gid)) => IdMaps::Maps { uid, gid },
        // A joined user namespace has its maps already.
        _ => IdMaps::Auto,
    })
}

pub(super) fn time_offsets(linux: &runtime::Linux) -> Result<Option<TimeOffsets>, Error> {
    let Some(given) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else {
        return Ok(None);
    };
    let mut offsets = TimeOffsets::default();
    for (clock, offset) in given {
        let path = format!("linux.timeOffsets.{clock}");
        let nanos = offset.nanosecs().unwrap_or(0);
        if nanos > 999_999_999 {
            return Err(Error::invalid(&format!("{path}.nanosecs"), "must be at most 999999999"));
        }
        let offset = TimeOffset { secs: offset.secs().unwrap_or(0), nanos };
        match clock.as_str() {
            "monotonic" => offsets.monotonic = offset,
            "boottime" => offsets.boottime = offset,
            _ => return Err(Error::invalid(&path, "must be monotonic or boottime")),
        }
    }
    Ok(Some(offsets))
}

/// Returns the links of `/dev`: the sandbox's default links, and `/dev/core`.
pub(super) fn links() -> Vec<Link> {
    let links = LINKS.iter().chain(&[("/dev/core", "/proc/kcore")]);
    links.map(|(path, target)| Link { path: path.into(), target: target.into() }).collect()
}

/// Returns the devices of the configuration, and the default devices that are missing there.
pub(super) fn nodes(linux: &runtime::Linux) -> Result<Vec<Node>, Error> {
    let mut nodes = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        // `/dev/ptmx` is a link into the container's devpts.
        if device.path() != Path::new("/dev/ptmx") {
            nodes.push(node(&format!("linux.devices[{index}]"), device)?);
        }
    }
    for (path, major, minor) in DEVICES {
        if !nodes.iter().any(|node| node.path == Path::new(path)) {
            let kind = NodeKind::Char(*major, *minor);
            nodes.push(Node { path: path.into(), kind, mode: 0o666, uid: 0, gid: 0 });
        }
    }
    Ok(nodes)
}

fn node(path: &str, device: &runtime::LinuxDevice) -> Result<Node, Error> {
    within(&format!("{path}.path"), device.path())?;
    if device.path().file_name().is_none() {
        return Err(Error::invalid(&format!("{path}.path"), "must name a file, not a directory"));
    }
    let number = |name: &str, number: i64, bits: u32| match u32::try_from(number) {
        Ok(number) if number >> bits == 0 => Ok(number),
        _ => Err(Error::invalid(
            &format!("{path}.{name}"),
            format!("{number} is not between 0 and {}", (1u64 << bits) - 1),
        )),
    };
    let major = || number("major", device.major(), 12);
    let minor = || number("minor", device.minor(), 20);
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Char(major()?, minor()?),
        LinuxDeviceType::B => NodeKind::Block(major()?, minor()?),
        LinuxDeviceType::P => NodeKind::Fifo,
        LinuxDeviceType::A => {
            return Err(Error::invalid(&format!("{path}.type"), "must be c, b, u or p"));
        }
    };
    // Some clients include the file type.
    let mode = device.file_mode().unwrap_or(0o666) & !libc::S_IFMT;
    if mode > 0o7777 {
        let problem = format!("{mode:#o} has bits that are not permission bits");
        return Err(Error::invalid(&format!("{path}.fileMode"), problem));
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    Ok(Node { path: device.path().clone(), kind, mode, uid, gid })
}

/// Checks that the path of a device is absolute and has no `..`. The plan checks it too, but its list of
/// devices has other indices.
fn within(field: &str, path: &Path) -> Result<(), Error> {
    if !path.is_absolute() {
        return Err(Error::invalid(field, format!("{} is not an absolute path", path.display())));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::invalid(field, format!("{path:?} contains a NUL byte")));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(field, format!("{} contains ..", path.display())));
    }
    Ok(())
}

pub(super) fn cgroups_path(linux: &runtime::Linux, context: &Context<'_>) -> Result<CgroupsPath, Error> {
    let bad = |problem: &str| Err(Error::invalid("linux.cgroupsPath", problem));
    let Some(path) = linux.cgroups_path().as_deref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(CgroupsPath::Default);
    };
    let Some(text) = path.to_str() else { return bad("must be UTF-8") };
    if text.contains(['\n', '\0']) {
        return bad("must not contain a newline or a NUL byte");
    }
    if context.systemd_cgroup {
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return bad("for systemd, must be of the form SLICE:PREFIX:NAME");
        };
        if name.is_empty() || text.contains('/') {
            return bad("for systemd, must be of the form SLICE:PREFIX:NAME, with a name and without /");
        }
        let (slice, prefix, name) = (slice.into(), prefix.into(), name.into());
        return Ok(CgroupsPath::Systemd { slice, prefix, name });
    }
    if text.split('/').any(|part| part == "..") {
        return bad("must not contain ..");
    }
    let clean: PathBuf = path.components().collect();
    Ok(match clean.is_absolute() {
        true => CgroupsPath::Absolute(clean),
        false => CgroupsPath::Relative(clean),
    })
}

/// Converts `linux.maskedPaths` or `linux.readonlyPaths`.
pub(super) fn paths(
    name: &str,
    paths: &Option<Vec<String>>,
    warnings: &mut Vec<String>,
) -> Result<Vec<PathBuf>, Error> {
    let paths = paths.iter().flatten().enumerate();
    let path = |(index, path): (usize, &String)| {
        absolute(&format!("linux.{name}[{index}]"), Path::new(path), warnings)
    };
    paths.map(path).collect()
}

pub(super) fn net_devices(
    linux: &runtime::Linux,
    namespaces: &Namespaces,
) -> Result<Vec<(String, Option<String>)>, Error> {
    let mut devices = Vec::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let path = format!("linux.netDevices.{name}");
        check_name(&path, name)?;
        let new = device.name().clone().filter(|new| !new.is_empty());
        if let Some(new) = &new {
            check_name(&format!("{path}.name"), new)?;
        }
        devices.push((name.clone(), new));
    }
    devices.sort();
    if !devices.is_empty() && namespaces.net == NamespaceMode::Host {
        let problem = "requires a network namespace of the container's own";
        return Err(Error::invalid("linux.netDevices", problem));
    }
    Ok(devices)
}

#[allow(deprecated)] // Configurations before 1.3 have two older fields for monitoring.
pub(super) fn intel_rdt(linux: &runtime::Linux) -> Result<Option<IntelRdt>, Error> {
    let Some(given) = linux.intel_rdt() else { return Ok(None) };
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let rdt = IntelRdt {
        clos_id: text(given.clos_id()),
        schemata: given.schemata().clone().unwrap_or_default(),
        l3_cache_schema: text(given.l3_cache_schema()),
        mem_bw_schema: text(given.mem_bw_schema()),
        monitoring: [given.enable_monitoring(), given.enable_cmt(), given.enable_mbm()]
            .contains(&&Some(true)),
    };
    if let Some(id) = &rdt.clos_id
        && (matches!(id.as_str(), "." | "..") || id.contains(['/', '\n', '\0']))
    {
        return Err(Error::invalid("linux.intelRdt.closID", format!("{id:?} is not a name of a directory")));
    }
    let memory = rdt.mem_bw_schema.iter().map(|line| ("memBwSchema".to_owned(), line, "MB:"));
    let cache = rdt.l3_cache_schema.iter().map(|line| ("l3CacheSchema".to_owned(), line, ""));
    let schemata = rdt.schemata.iter().enumerate();
    let schemata = schemata.map(|(index, line)| (format!("schemata[{index}]"), line, ""));
    for (name, line, start) in memory.chain(cache).chain(schemata) {
        let path = format!("linux.intelRdt.{name}");
        if !line.starts_with(start) {
            return Err(Error::invalid(&path, format!("{line:?} does not begin with {start}")));
        }
        if line.contains('\0') || line.contains('\n') && name != "l3CacheSchema" {
            return Err(Error::invalid(&path, "must be a single line"));
        }
    }
    Ok(Some(rdt))
}
