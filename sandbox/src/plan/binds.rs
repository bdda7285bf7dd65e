//! Binds of existing mounts, and mounts that the parent opens.

use std::path::{Path, PathBuf};

use ns_core::Kind;

use crate::error::Error;
use crate::plan::builder::{FileSteps, receives};
use crate::plan::data::{MapsOf, ProcfsOf, Tree, TreeMaps};
use crate::plan::file_systems::file_system;
use crate::plan::id_maps::new_maps;
use crate::plan::namespaces::joined;
use crate::plan::paths::dest;
use crate::plan::text::c_string;
use crate::spec::{Mount, MountIdMaps, MountKind, NamespaceMode};
use crate::step::{Create, What};

impl FileSteps<'_> {
    /// Returns a bind of a path of the host. The parent opens the source if the child may lack the
    /// permission.
    pub(super) fn bind(
        &mut self,
        field: &str,
        source: &Path,
        recursive: bool,
        device: Option<(u32, u64)>,
    ) -> Result<What, Error> {
        let source = c_string(field, source)?;
        let tree = self.parent_opens.then(|| {
            self.plan.trees.push(Tree::private(source.clone(), recursive));
            self.plan.trees.len() - 1
        });
        Ok(What::Bind { source, recursive, tree, device })
    }

    /// Returns a bind of the spec. If the bind has an id mapping, the parent opens it.
    pub(super) fn bind_mount(
        &mut self,
        field: &str,
        source: &Path,
        recursive: bool,
        mount: &Mount,
    ) -> Result<What, Error> {
        if let Some(inner) = self.provided(source) {
            if mount.id_maps.is_some() {
                let problem = "a source that an earlier mount provides cannot have an id mapping";
                return Err(Error::invalid(format!("{field}.id_maps"), problem));
            }
            let source = dest(&format!("{field}.kind.source"), &inner, Create::No)?.path;
            return Ok(What::Inside { source, recursive });
        }
        let id_maps = match &mount.id_maps {
            Some(maps) => Some(self.id_maps(&format!("{field}.id_maps"), maps)?),
            None => None,
        };
        let parent_opens = self.parent_opens;
        self.parent_opens |= id_maps.is_some();
        let what = self.bind(field, source, recursive, None);
        if let (true, Some(tree)) = (self.parent_opens, self.plan.trees.last_mut()) {
            tree.id_maps = id_maps;
            if receives(mount) {
                // Mounts of the container must not appear on the host: their ids may be ids of the
                // container.
                tree.propagation = libc::MS_SLAVE;
            }
        }
        self.parent_opens = parent_opens;
        what
    }

    /// Returns the path within the root if an earlier mount of the list provides the source. On the
    /// host, that path is missing or holds something else.
    fn provided(&self, source: &Path) -> Option<PathBuf> {
        let root = self.root.as_deref()?;
        let inner = source.strip_prefix(root).ok().map(Path::to_owned);
        let inner =
            inner.or_else(|| Some(source.strip_prefix(root.canonicalize().ok()?).ok()?.to_owned()))?;
        let inner = Path::new("/").join(inner);
        let provides = |mounted: &PathBuf| mounted != Path::new("/") && inner.starts_with(mounted);
        self.mounted.iter().any(provides).then_some(inner)
    }

    /// Returns the id mapping of a bind.
    fn id_maps(&self, field: &str, maps: &MountIdMaps) -> Result<TreeMaps, Error> {
        if maps.uid.is_some() != maps.gid.is_some() {
            let missing = if maps.uid.is_none() { "uid" } else { "gid" };
            let problem = "set the maps of both users and groups, or neither";
            return Err(Error::invalid(format!("{field}.{missing}"), problem));
        }
        if !self.privileged {
            let problem = format!(
                "mapping the ids of a mount requires CAP_SYS_ADMIN on the host: {}, or leave it out",
                nspod_errno::how_to_get_sys_admin()
            );
            return Err(Error::invalid(field, problem));
        }
        let of = match (&maps.uid, &maps.gid) {
            (Some(uid), Some(gid)) => {
                for (field, map) in [(format!("{field}.uid"), uid), (format!("{field}.gid"), gid)] {
                    map.validate().map_err(|e| Error::invalid(&field, e))?;
                    if map.is_empty() {
                        return Err(Error::invalid(&field, "map at least one id"));
                    }
                }
                MapsOf::Given { uid: uid.clone(), gid: gid.clone() }
            }
            _ => match joined(self.plan, Kind::User)? {
                Some(namespace) => MapsOf::Namespace(namespace),
                None => match new_maps(self.plan) {
                    Some((uid, gid)) => MapsOf::Given { uid, gid },
                    None => {
                        let problem = "the container has the caller's user namespace, which has no maps for the mount: set the maps";
                        return Err(Error::invalid(field, problem));
                    }
                },
            },
        };
        Ok(TreeMaps { of, recursive: maps.recursive })
    }

    /// Returns the procfs of the joined pid namespace. The parent makes it.
    pub(super) fn procfs(&mut self, field: &str, kind: &MountKind) -> Result<What, Error> {
        let params = match kind {
            MountKind::FileSystem { fstype, source, options } => {
                match file_system(&format!("{field}.kind"), fstype, source, options)? {
                    What::New { params, .. } => params,
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        let Some(namespace) = joined(self.plan, Kind::Pid)? else {
            return Err(Error::invalid(field, "the joined pid namespace is unknown"));
        };
        let user = if self.privileged { None } else { joined(self.plan, Kind::User)? };
        let source = c"the procfs of the joined pid namespace".to_owned();
        let procfs = Some(ProcfsOf { namespace, user, params });
        self.plan.trees.push(Tree { procfs, ..Tree::private(source.clone(), false) });
        Ok(What::Bind { source, recursive: false, tree: Some(self.plan.trees.len() - 1), device: None })
    }

    /// Returns a bind of the caller's file system that shows its own namespace of this kind.
    pub(super) fn bind_callers(&mut self, field: &str, kind: Kind, path: &str) -> Result<What, Error> {
        // The caller's file system does not show the joined namespace: it would show the host's
        // processes and message queues instead of the pod's. A read-only sysfs or cgroup2 shows
        // less, and there is no alternative.
        let joined = matches!(self.plan.spec.namespaces.get(kind), NamespaceMode::Join(_));
        if joined && matches!(kind, Kind::Pid | Kind::Ipc) {
            let problem = format!(
                "a new user namespace cannot mount {path} of a {kind} namespace that it joins: join its \
                 user namespace too, or have a new {kind} namespace"
            );
            return Err(Error::invalid(field, problem));
        }
        self.bind("mounts", Path::new(path), true, None)
    }
}
