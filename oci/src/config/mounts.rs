//! `mounts`: converts the options of mount(8) to mount attributes, propagation, and options of the file
//! system. The sandbox makes the system calls: `nspod_sandbox::spec::Mount`.

use std::path::{Path, PathBuf};

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
};
use ns_core::{Extent, IdMap};
use oci_spec::runtime;

use super::linux::id_map;
use super::paths::absolute;
use super::types::Context;
use crate::Error;
use nspod_sandbox::spec::{Attributes, IdMaps, Mount, MountIdMaps, MountKind, Propagation, PropagationKind};

/// Converts a mount; `path` is its JSON path.
pub(super) fn mount(
    path: &str,
    mount: &runtime::Mount,
    label: Option<&str>,
    id_maps: &IdMaps,
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Result<Mount, Error> {
    let destination = absolute(&format!("{path}.destination"), mount.destination(), warnings)?;
    let mut options = Options::default();
    for (index, option) in mount.options().iter().flatten().enumerate() {
        options.add(&format!("{path}.options[{index}]"), option, id_maps)?;
    }
    let typ = mount.typ().as_deref().unwrap_or_default();
    if typ == "bind" {
        options.bind.get_or_insert(false);
    }
    let source = mount.source().as_deref().filter(|source| !source.as_os_str().is_empty());
    let kind = options.kind(path, typ, source, label, context, warnings)?;
    let id_maps = self::id_maps(path, mount, &mut options)?;
    // The four named attributes of the spec apply to the whole tree of a recursive bind.
    let recursive_bind = options.bind == Some(true) && matches!(kind, MountKind::Bind { .. });
    let mut take = |attribute: u64| {
        let plain = !recursive_bind && options.own.set & attribute != 0;
        if plain {
            options.own.set &= !attribute;
        }
        plain
    };
    let (readonly, nosuid) = (take(MOUNT_ATTR_RDONLY), take(MOUNT_ATTR_NOSUID));
    let (nodev, noexec) = (take(MOUNT_ATTR_NODEV), take(MOUNT_ATTR_NOEXEC));
    Ok(Mount {
        readonly,
        nosuid,
        nodev,
        noexec,
        attributes: options.own,
        recursive_attributes: options.recursive,
        propagation: options.propagation,
        id_maps,
        copy_up: options.copy_up,
        ..Mount::new(destination, kind)
    })
}

fn id_maps(path: &str, mount: &runtime::Mount, options: &mut Options) -> Result<Option<MountIdMaps>, Error> {
    let map = |name: &str, mappings: &Option<Vec<runtime::LinuxIdMapping>>| {
        let mappings = mappings.as_deref().filter(|mappings| !mappings.is_empty());
        mappings.map(|mappings| id_map(&format!("{path}.{name}"), mappings)).transpose()
    };
    let uid = map("uidMappings", mount.uid_mappings())?;
    let gid = map("gidMappings", mount.gid_mappings())?;
    let given = uid.is_some() || gid.is_some();
    let (uid, gid) = match options.own_maps.take() {
        Some(_) if given => {
            let problem = "conflicts with the mappings in the options";
            return Err(Error::invalid(&format!("{path}.uidMappings"), problem));
        }
        Some((uid, gid)) => (Some(uid), Some(gid)),
        None => (uid, gid),
    };
    let recursive = options.id_map.or(given.then_some(false));
    Ok(recursive.map(|recursive| MountIdMaps { uid, gid, recursive }))
}

/// Parses the mappings of the option `idmap=uids=0-7-1#10-20-5;gids=0-8-1`, a crun extension that podman
/// uses: first id on disk, first id in the mount, count. With a leading `@`, the ids in the mount are ids of
/// the container's user namespace.
fn own_maps(path: &str, text: &str, id_maps: &IdMaps) -> Result<(IdMap, IdMap), Error> {
    let invalid = |problem: String| Error::invalid(path, problem);
    let (mut uid, mut gid) = (None, None);
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (map, list, users) = match part.split_once('=') {
            Some(("uids", list)) => (&mut uid, list, true),
            Some(("gids", list)) => (&mut gid, list, false),
            _ => return Err(invalid(format!("{part:?} is neither uids=… nor gids=…"))),
        };
        let of = |extent: &str| {
            let form = || invalid(format!("{extent:?} is not of the form STORED-SEEN-COUNT"));
            let (relative, numbers) = match extent.strip_prefix('@') {
                Some(numbers) => (true, numbers),
                None => (false, extent),
            };
            let numbers: Result<Vec<u32>, _> = numbers.split('-').map(str::parse).collect();
            let Ok([inside, seen, count]) = numbers.as_deref() else { return Err(form()) };
            let (inside, seen, count) = (*inside, *seen, *count);
            let outside = match (relative, id_maps) {
                (true, IdMaps::Maps { uid, gid }) => {
                    let map = if users { uid } else { gid };
                    let last = seen.checked_add(count.saturating_sub(1)).ok_or_else(form)?;
                    let ends = (map.to_outside(seen), map.to_outside(last));
                    match ends {
                        (Some(first), Some(end)) if end.wrapping_sub(first) == last - seen => first,
                        _ => {
                            let problem = "the user namespace does not map these ids to one range";
                            return Err(invalid(format!("{extent:?}: {problem}")));
                        }
                    }
                }
                (true, _) => {
                    return Err(invalid(format!("{extent:?} requires mappings of a user namespace")));
                }
                (false, _) => seen,
            };
            Ok(Extent { inside, outside, count })
        };
        let extents = list.split('#').map(of).collect::<Result<Vec<_>, _>>()?;
        let made = IdMap::from(extents);
        made.validate().map_err(|e| Error::invalid(path, e))?;
        *map = Some(made);
    }
    match (uid, gid) {
        (Some(uid), Some(gid)) => Ok((uid, gid)),
        _ => Err(invalid("requires both uids= and gids=".into())),
    }
}

/// The parsed options of a mount.
#[derive(Default)]
struct Options {
    own: Attributes,
    recursive: Attributes,
    propagation: Vec<Propagation>,
    /// Whether the mount is a bind, and whether it is recursive.
    bind: Option<bool>,
    remount: bool,
    id_map: Option<bool>,
    /// Mappings of the option `idmap=`.
    own_maps: Option<(IdMap, IdMap)>,
    copy_up: bool,
    /// Options of the file system, and the JSON path of the first.
    data: Vec<(String, Option<String>)>,
    first_data: Option<String>,
}

impl Options {
    fn add(&mut self, path: &str, option: &str, id_maps: &IdMaps) -> Result<(), Error> {
        if option.contains('\0') {
            return Err(Error::invalid(path, "must not contain a NUL byte"));
        }
        match option {
            "defaults" | "" => {}
            // These are the defaults. They cancel an earlier option.
            "async" => self.data.retain(|(key, _)| key != "sync"),
            "nomand" | "nolazytime" | "noiversion" => self.data.retain(|(key, _)| *key != option[2..]),
            // These have no effect: fsconfig(2) never writes to the kernel's log.
            "silent" | "loud" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "idmap" => self.id_map = Some(false),
            "ridmap" => self.id_map = Some(true),
            "tmpcopyup" => self.copy_up = true,
            _ => {
                let with_maps = |name| option.strip_prefix(name).map(|maps| own_maps(path, maps, id_maps));
                if let Some(maps) = with_maps("idmap=").or_else(|| with_maps("ridmap=")) {
                    self.id_map = Some(option.starts_with('r'));
                    self.own_maps = Some(maps?);
                } else if let Some(propagation) = propagation(option) {
                    self.propagation.push(propagation);
                } else if let Some((attribute, set)) = attribute(option) {
                    change(&mut self.own, attribute, set);
                } else if let Some((attribute, set)) = option.strip_prefix('r').and_then(attribute) {
                    change(&mut self.recursive, attribute, set);
                } else {
                    self.first_data.get_or_insert_with(|| path.to_owned());
                    self.data.push(match option.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (option.to_owned(), None),
                    });
                }
            }
        }
        Ok(())
    }

    fn kind(
        &mut self,
        path: &str,
        typ: &str,
        source: Option<&Path>,
        label: Option<&str>,
        context: &Context<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<MountKind, Error> {
        let no_data = |what: &str, options: &Options| match &options.first_data {
            Some(at) => Err(Error::invalid(at, format!("{what} has no options of a file system"))),
            None => Ok(()),
        };
        // A bind mount uses an existing file system. Other runtimes ignore its options too.
        if self.bind.is_some()
            && let Some(at) = self.first_data.take()
        {
            let words = self.data.iter().map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            });
            let words = words.collect::<Vec<_>>().join(",");
            warnings.push(format!("{at}: {words} has no effect on a bind mount"));
            self.data.clear();
        }
        if self.remount {
            no_data("a remount", self)?;
            return Ok(MountKind::Remount);
        }
        if let Some(recursive) = self.bind {
            let field = format!("{path}.source");
            let source = source.ok_or_else(|| Error::invalid(&field, "a bind mount requires a source"))?;
            return Ok(MountKind::Bind { source: context.bundle.join(source), recursive });
        }
        match typ {
            "" | "none" => {
                let problem = "must be a file system, unless the options have bind or remount";
                Err(Error::invalid(&format!("{path}.type"), problem))
            }
            "cgroup" | "cgroup2" => {
                no_data("the cgroup hierarchy", self)?;
                Ok(MountKind::Cgroup)
            }
            "proc" if self.data.is_empty() => Ok(MountKind::Proc),
            "sysfs" if self.data.is_empty() => Ok(MountKind::Sysfs),
            "mqueue" if self.data.is_empty() && label.is_none() => Ok(MountKind::Mqueue),
            _ => {
                if let Some(label) = label
                    && !matches!(typ, "proc" | "sysfs")
                    && !self.data.iter().any(|(key, _)| key == "context")
                {
                    self.data.push(("context".to_owned(), Some(label.to_owned())));
                }
                Ok(MountKind::FileSystem {
                    fstype: typ.to_owned(),
                    source: source.map_or_else(|| PathBuf::from(typ), PathBuf::from),
                    options: std::mem::take(&mut self.data),
                })
            }
        }
    }
}

fn propagation(option: &str) -> Option<Propagation> {
    let of = |name| match name {
        "shared" => Some(PropagationKind::Shared),
        "slave" => Some(PropagationKind::Slave),
        "private" => Some(PropagationKind::Private),
        "unbindable" => Some(PropagationKind::Unbindable),
        _ => None,
    };
    let recursive = || option.strip_prefix('r').and_then(of).map(|kind| (kind, true));
    let (kind, recursive) = of(option).map(|kind| (kind, false)).or_else(recursive)?;
    Some(Propagation { kind, recursive })
}

/// Converts `linux.rootfsPropagation`.
pub(super) fn root_propagation(linux: &runtime::Linux) -> Result<Option<Propagation>, Error> {
    let Some(text) = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let problem = "must be private, shared, slave or unbindable, or one of these with an r before it";
    propagation(text).map(Some).ok_or_else(|| Error::invalid("linux.rootfsPropagation", problem))
}

/// Returns the attribute that an option changes, and whether the option sets it.
fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (MOUNT_ATTR_RDONLY, true),
        "rw" => (MOUNT_ATTR_RDONLY, false),
        "nosuid" => (MOUNT_ATTR_NOSUID, true),
        "suid" => (MOUNT_ATTR_NOSUID, false),
        "nodev" => (MOUNT_ATTR_NODEV, true),
        "dev" => (MOUNT_ATTR_NODEV, false),
        "noexec" => (MOUNT_ATTR_NOEXEC, true),
        "exec" => (MOUNT_ATTR_NOEXEC, false),
        "nodiratime" => (MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (MOUNT_ATTR_NODIRATIME, false),
        "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, true),
        "symfollow" => (MOUNT_ATTR_NOSYMFOLLOW, false),
        "noatime" => (MOUNT_ATTR_NOATIME, true),
        "atime" => (MOUNT_ATTR_NOATIME, false),
        "strictatime" => (MOUNT_ATTR_STRICTATIME, true),
        "nostrictatime" => (MOUNT_ATTR_STRICTATIME, false),
        "relatime" => (MOUNT_ATTR_RELATIME, true),
        "norelatime" => (MOUNT_ATTR_RELATIME, false),
        _ => return None,
    })
}

/// Changes an attribute; a later option overrides an earlier one. One mode of access times is always
/// set; the default is relatime.
fn change(attributes: &mut Attributes, attribute: u64, set: bool) {
    let times = attribute & MOUNT_ATTR__ATIME == attribute;
    match (times, set) {
        (true, true) => {
            attributes.set = attributes.set & !MOUNT_ATTR__ATIME | attribute;
            attributes.clear |= MOUNT_ATTR__ATIME;
        }
        (true, false) => {
            if attributes.set & MOUNT_ATTR__ATIME == attribute {
                attributes.set &= !MOUNT_ATTR__ATIME;
            }
            attributes.clear |= MOUNT_ATTR__ATIME;
        }
        (false, true) => {
            attributes.set |= attribute;
            attributes.clear &= !attribute;
        }
        (false, false) => {
            attributes.set &= !attribute;
            attributes.clear |= attribute;
        }
    }
}
