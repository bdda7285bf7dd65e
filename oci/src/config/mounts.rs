//! `mounts`: the options of mount(8) as the attributes, kinds and options of ours.

use std::path::{Component, Path, PathBuf};

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
};
use ns_core::{Extent, IdMap};
use oci_spec::runtime;

use super::Context;
use super::linux::id_map;
use crate::Error;
use nspod_sandbox::spec::{Attributes, IdMaps, Mount, MountIdMaps, MountKind, Propagation, PropagationKind};

/// One mount, at `path` in the configuration.
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
    let bind = matches!(kind, MountKind::Bind { .. });
    if options.copy_up && typ != "tmpfs" {
        let problem = "tmpcopyup is an option of a tmpfs";
        return Err(Error::invalid(&format!("{path}.options"), problem));
    }
    let id_maps = self::id_maps(path, mount, &mut options)?;
    if id_maps.is_some() && !bind {
        let problem = "only a bind mount can show other owners than are stored";
        return Err(Error::invalid(&format!("{path}.options"), problem));
    }
    // Ours say the four commonest of a bind for all that is below as well.
    let recursive_bind = options.bind == Some(true) && bind;
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

/// A path of the container's. One that is not absolute is taken as below `/`, as other runtimes do.
pub(super) fn absolute(field: &str, path: &Path, warnings: &mut Vec<String>) -> Result<PathBuf, Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(field, "this is empty"));
    }
    let whole = Path::new("/").join(path);
    within(field, &whole)?;
    if !path.is_absolute() {
        warnings.push(format!("{field}: {} is not absolute, taken as below /", path.display()));
    }
    Ok(whole)
}

/// Whether a path of the container's is one, and does not go back.
pub(super) fn within(field: &str, path: &Path) -> Result<(), Error> {
    if !path.is_absolute() {
        return Err(Error::invalid(field, format!("{} is not an absolute path", path.display())));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::invalid(field, format!("{path:?} holds a NUL byte")));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(field, format!("{} goes back with ..", path.display())));
    }
    Ok(())
}

fn id_maps(path: &str, mount: &runtime::Mount, options: &mut Options) -> Result<Option<MountIdMaps>, Error> {
    let map = |name: &str, mappings: &Option<Vec<runtime::LinuxIdMapping>>| {
        let mappings = mappings.as_deref().filter(|mappings| !mappings.is_empty());
        mappings.map(|mappings| id_map(&format!("{path}.{name}"), mappings)).transpose()
    };
    let uid = map("uidMappings", mount.uid_mappings())?;
    let gid = map("gidMappings", mount.gid_mappings())?;
    if uid.is_some() != gid.is_some() {
        let missing = if uid.is_some() { "gidMappings" } else { "uidMappings" };
        return Err(Error::invalid(&format!("{path}.{missing}"), "users and groups are mapped together"));
    }
    let (uid, gid) = match (uid, options.own_maps.take()) {
        (Some(_), Some(_)) => {
            let problem = "the options have mappings as well: leave one of them out";
            return Err(Error::invalid(&format!("{path}.uidMappings"), problem));
        }
        (None, Some((uid, gid))) => (Some(uid), Some(gid)),
        (uid, None) => (uid, gid),
    };
    let recursive = options.id_map.or(uid.is_some().then_some(false));
    Ok(recursive.map(|recursive| MountIdMaps { uid, gid, recursive }))
}

/// The mappings in an option `idmap=uids=0-7-1#10-20-5;gids=0-8-1`, as crun has it and podman sends
/// it: the first id that is stored, the first that is seen, and how many. After an `@` the ids that
/// are seen are those of the container's user namespace.
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
                            let problem = "the user namespace does not map these ids in one range";
                            return Err(invalid(format!("{extent:?}: {problem}")));
                        }
                    }
                }
                (true, _) => return Err(invalid(format!("{extent:?} takes mappings of a user namespace"))),
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
        _ => Err(invalid("users and groups are mapped together: give both uids= and gids=".into())),
    }
}

/// What the options of a mount come to.
#[derive(Default)]
struct Options {
    own: Attributes,
    recursive: Attributes,
    propagation: Vec<Propagation>,
    /// A bind, with everything below it or without.
    bind: Option<bool>,
    remount: bool,
    id_map: Option<bool>,
    /// The mappings of that option.
    own_maps: Option<(IdMap, IdMap)>,
    copy_up: bool,
    /// Those of the file system, and where they stand.
    data: Vec<(String, Option<String>)>,
    first_data: Option<String>,
}

impl Options {
    fn add(&mut self, path: &str, option: &str, id_maps: &IdMaps) -> Result<(), Error> {
        if option.contains('\0') {
            return Err(Error::invalid(path, "this holds a NUL byte"));
        }
        match option {
            "defaults" | "" => {}
            // What is so without being asked for, and takes back what was.
            "async" => self.data.retain(|(key, _)| key != "sync"),
            "nomand" | "nolazytime" | "noiversion" => self.data.retain(|(key, _)| *key != option[2..]),
            // These are about messages in the kernel's log, which a mount by descriptor never writes.
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
            Some(at) => Err(Error::invalid(at, format!("{what} takes no options of a file system"))),
            None => Ok(()),
        };
        // Of a bind the file system is there already. Other runtimes pass its options over.
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
            no_data("a mount that is changed", self)?;
            return Ok(MountKind::Remount);
        }
        if let Some(recursive) = self.bind {
            let field = format!("{path}.source");
            let source = source.ok_or_else(|| Error::invalid(&field, "a bind mount has a source"))?;
            return Ok(MountKind::Bind { source: context.bundle.join(source), recursive });
        }
        match typ {
            "" | "none" => {
                let problem = "name a file system, or bind or remount among the options";
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

/// `linux.rootfsPropagation`.
pub(super) fn root_propagation(linux: &runtime::Linux) -> Result<Option<Propagation>, Error> {
    let Some(text) = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let problem = "it is private, shared, slave or unbindable, or one of these with an r before it";
    propagation(text).map(Some).ok_or_else(|| Error::invalid("linux.rootfsPropagation", problem))
}

/// The attribute that an option is about, and whether it sets it.
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

/// A later option overrides an earlier one. Of the access times one is always in force, relatime
/// where none is asked for.
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
