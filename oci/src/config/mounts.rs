//! `mounts`: converts each mount. `mount_options.rs` has the options.

use std::path::{Path, PathBuf};

use libc::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use oci_spec::runtime;

use super::linux::id_map;
use super::mount_options::{Options, propagation};
use super::paths::absolute;
use super::types::Context;
use crate::Error;
use nspod_sandbox::spec::{IdMaps, Mount, MountIdMaps, MountKind, Propagation};

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

impl Options {
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

/// Converts `linux.rootfsPropagation`.
pub(super) fn root_propagation(linux: &runtime::Linux) -> Result<Option<Propagation>, Error> {
    let Some(text) = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let problem = "must be private, shared, slave or unbindable, or one of these with an r before it";
    propagation(text).map(Some).ok_or_else(|| Error::invalid("linux.rootfsPropagation", problem))
}
