//! The options of a mount, as in mount(8). [`OPTIONS`] has each option, its flag, and the system call that
//! applies it.

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
};
use ns_core::{Extent, IdMap};
use nspod_sandbox::spec::PropagationKind::{Private, Shared, Slave, Unbindable};
use nspod_sandbox::spec::{Attributes, IdMaps, Propagation, PropagationKind};

use Effect::{Bind, Cancel, Clear, CopyUp, FileSystem, MapIds, Nothing, Propagate, Remount, Set};

use crate::Error;

/// The effect of an option, and the system call that applies it. The functions are in
/// `sandbox/src/child/mount.rs`, unless the path says otherwise.
#[derive(Clone, Copy)]
enum Effect {
    /// A default, or without effect: fsconfig(2) never writes to the kernel's log.
    Nothing,
    /// Sets an attribute: mount_setattr(2) in `set_attributes`, or fsmount(2) in `new_mount` for a new mount.
    /// With an `r` before the option, also for all mounts below (`AT_RECURSIVE`).
    Set(u64),
    /// Clears an attribute: the same calls as [`Set`].
    Clear(u64),
    /// Sets the propagation type: mount_setattr(2) in `settle`. With an `r` before the option, also for all
    /// mounts below.
    Propagate(PropagationKind),
    /// Binds the source, recursively if `true`: open_tree(2) in `sandbox/src/spawn/trees.rs` if
    /// the parent opens the source, otherwise in `bind`; then move_mount(2) in `settle`.
    Bind(bool),
    /// Changes the mount at the destination: mount_setattr(2) in `set_attributes`.
    Remount,
    /// Maps the ids of a bind, recursively if `true`: mount_setattr(2) with `MOUNT_ATTR_IDMAP` in
    /// `sandbox/src/spawn/trees.rs`.
    MapIds(bool),
    /// Starts a tmpfs with a copy of the directory that it covers: `sandbox/src/child/copy.rs`.
    CopyUp,
    /// A flag of the file system: fsconfig(2) in `configure`, or mount(2) in `mount_long` for `iversion` and
    /// options that fsconfig(2) does not accept, because they are longer than 255 bytes. All options that are not in the table are options
    /// of the file system too.
    FileSystem,
    /// Cancels an earlier option of the file system.
    Cancel(&'static str),
}

/// The options that do not depend on the file system.
///
/// Specification: [Linux mount options](https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-mount-options).
const OPTIONS: &[(&str, Effect)] = &[
    ("", Nothing),
    ("async", Cancel("sync")),
    ("atime", Clear(MOUNT_ATTR_NOATIME)),
    ("bind", Bind(false)),
    ("defaults", Nothing),
    ("dev", Clear(MOUNT_ATTR_NODEV)),
    ("diratime", Clear(MOUNT_ATTR_NODIRATIME)),
    ("dirsync", FileSystem),
    ("exec", Clear(MOUNT_ATTR_NOEXEC)),
    ("idmap", MapIds(false)),
    ("iversion", FileSystem),
    ("lazytime", FileSystem),
    ("loud", Nothing),
    ("mand", FileSystem),
    ("noatime", Set(MOUNT_ATTR_NOATIME)),
    ("nodev", Set(MOUNT_ATTR_NODEV)),
    ("nodiratime", Set(MOUNT_ATTR_NODIRATIME)),
    ("noexec", Set(MOUNT_ATTR_NOEXEC)),
    ("noiversion", Cancel("iversion")),
    ("nolazytime", Cancel("lazytime")),
    ("nomand", Cancel("mand")),
    ("norelatime", Clear(MOUNT_ATTR_RELATIME)),
    ("nostrictatime", Clear(MOUNT_ATTR_STRICTATIME)),
    ("nosuid", Set(MOUNT_ATTR_NOSUID)),
    ("nosymfollow", Set(MOUNT_ATTR_NOSYMFOLLOW)),
    ("private", Propagate(Private)),
    ("rbind", Bind(true)),
    ("relatime", Set(MOUNT_ATTR_RELATIME)),
    ("remount", Remount),
    ("ridmap", MapIds(true)),
    ("ro", Set(MOUNT_ATTR_RDONLY)),
    ("rw", Clear(MOUNT_ATTR_RDONLY)),
    ("shared", Propagate(Shared)),
    ("silent", Nothing),
    ("slave", Propagate(Slave)),
    ("strictatime", Set(MOUNT_ATTR_STRICTATIME)),
    ("suid", Clear(MOUNT_ATTR_NOSUID)),
    ("symfollow", Clear(MOUNT_ATTR_NOSYMFOLLOW)),
    ("sync", FileSystem),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagate(Unbindable)),
];

/// Returns the options that do not depend on the file system, sorted. `features` prints them.
///
/// Specification: [features](https://github.com/opencontainers/runtime-spec/blob/main/features.md#mount-options).
///
/// ```
/// let options = nspod_oci_runtime::config::mount_options();
/// assert!(options.iter().any(|option| option == "rnosymfollow"));
/// ```
pub fn mount_options() -> Vec<String> {
    let mut all = Vec::new();
    for (option, effect) in OPTIONS.iter().filter(|(option, _)| !option.is_empty()) {
        all.push((*option).to_owned());
        if matches!(effect, Set(_) | Clear(_) | Propagate(_)) {
            all.push(format!("r{option}"));
        }
    }
    all.sort();
    all
}

/// Returns the effect of an option, and whether it also applies to the mounts below.
fn effect(option: &str) -> Option<(Effect, bool)> {
    let find = |name: &str| OPTIONS.iter().find(|(option, _)| *option == name).map(|(_, effect)| *effect);
    if let Some(effect) = find(option) {
        return Some((effect, false));
    }
    let effect = find(option.strip_prefix('r')?)?;
    matches!(effect, Set(_) | Clear(_) | Propagate(_)).then_some((effect, true))
}

/// Parses a propagation type, with an `r` before it for all mounts below.
pub(super) fn propagation(option: &str) -> Option<Propagation> {
    match effect(option)? {
        (Propagate(kind), recursive) => Some(Propagation { kind, recursive }),
        _ => None,
    }
}

/// The parsed options of a mount.
#[derive(Default)]
pub(super) struct Options {
    pub(super) own: Attributes,
    pub(super) recursive: Attributes,
    pub(super) propagation: Vec<Propagation>,
    /// Whether the mount is a bind, and whether it is recursive.
    pub(super) bind: Option<bool>,
    pub(super) remount: bool,
    pub(super) id_map: Option<bool>,
    /// Mappings of the option `idmap=`.
    pub(super) own_maps: Option<(IdMap, IdMap)>,
    pub(super) copy_up: bool,
    /// Options of the file system, and the JSON path of the first.
    pub(super) data: Vec<(String, Option<String>)>,
    pub(super) first_data: Option<String>,
}

impl Options {
    /// Adds an option; `path` is its JSON path.
    pub(super) fn add(&mut self, path: &str, option: &str, id_maps: &IdMaps) -> Result<(), Error> {
        if option.contains('\0') {
            return Err(Error::invalid(path, "must not contain a NUL byte"));
        }
        if let Some((name @ ("idmap" | "ridmap"), maps)) = option.split_once('=') {
            self.id_map = Some(name == "ridmap");
            self.own_maps = Some(own_maps(path, maps, id_maps)?);
            return Ok(());
        }
        let (effect, recursive) = effect(option).unwrap_or((FileSystem, false));
        let attributes = if recursive { &mut self.recursive } else { &mut self.own };
        match effect {
            Nothing => {}
            Set(attribute) => change(attributes, attribute, true),
            Clear(attribute) => change(attributes, attribute, false),
            Propagate(kind) => self.propagation.push(Propagation { kind, recursive }),
            Bind(recursive) => self.bind = Some(recursive || self.bind == Some(true)),
            Remount => self.remount = true,
            MapIds(recursive) => self.id_map = Some(recursive),
            CopyUp => self.copy_up = true,
            FileSystem => {
                self.first_data.get_or_insert_with(|| path.to_owned());
                self.data.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.to_owned(), None),
                });
            }
            Cancel(other) => self.data.retain(|(key, _)| key != other),
        }
        Ok(())
    }
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
