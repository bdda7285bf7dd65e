//! The state of the plan while it adds the steps of the file system.

use std::path::{Path, PathBuf};

use ns_core::Kind;

use crate::error::Error;
use crate::host::Host;
use crate::plan::data::Plan;
use crate::plan::file_systems::{RDONLY, mount_step, to_set};
use crate::plan::id_maps::Ids;
use crate::plan::paths::dest;
use crate::spec::{Mount, MountKind, NamespaceMode, Propagation, PropagationKind, Root, Spec};
use crate::step::{Create, Dest, MountStep, OverProc, Place, Slot, Step, What};

/// Flags that make each mount private: mount events pass in neither direction.
pub(super) const PRIVATE: u64 = libc::MS_REC | libc::MS_PRIVATE;

pub(super) struct FileSteps<'a> {
    pub(super) plan: &'a mut Plan,
    /// Whether the parent opens the sources of binds, because the child's mapped ids may lack the
    /// permission.
    pub(super) parent_opens: bool,
    /// Whether the caller has CAP_SYS_ADMIN.
    pub(super) privileged: bool,
    /// Whether the container's user namespace differs from the caller's.
    pub(super) foreign: bool,
    /// Whether the plan makes the container's user namespace.
    new_user: bool,
    /// Whether devices are binds of the host's devices, because the child cannot make nodes.
    pub(super) bind_devices: bool,
    /// Whether the ipc namespace is the caller's.
    pub(super) host_ipc: bool,
    /// The caller's cgroup2 mount, if the container stays in the caller's cgroup namespace.
    pub(super) cgroup2: Option<PathBuf>,
    /// Whether terminals belong to gid 5.
    pub(super) tty_group: bool,
    /// Whether missing destinations can be made in the root.
    pub(super) creates: bool,
    /// Destinations that the host's files lack and that can be made in the root nevertheless.
    pub(super) makes: Vec<PathBuf>,
    /// The destinations of all mounts.
    destinations: Vec<PathBuf>,
    /// Propagation of mount events while the container is set up, as flags of mount(2).
    pub(super) propagation: u64,
    /// The directory of the host that becomes the root.
    pub(super) root: Option<PathBuf>,
    /// The destinations of the mounts so far.
    pub(super) mounted: Vec<PathBuf>,
    /// Mounts that become read-only after everything in them exists.
    read_only_last: Vec<(PathBuf, Dest)>,
    /// The destinations of the container's `/proc`, `/sys` and `/dev`, if they are mounted.
    pub(super) proc: Option<PathBuf>,
    pub(super) sys: Option<PathBuf>,
    pub(super) dev: Option<PathBuf>,
}

impl<'a> FileSteps<'a> {
    pub(super) fn new(plan: &'a mut Plan, spec: &Spec, host: &Host, ids: &Ids) -> FileSteps<'a> {
        FileSteps {
            plan,
            // If root makes a user namespace, the namespace's root has an id with fewer
            // permissions.
            parent_opens: ids.foreign && host.privileged(),
            privileged: host.privileged(),
            foreign: ids.foreign,
            new_user: ids.new,
            bind_devices: ids.foreign || !host.mknod(),
            host_ipc: spec.namespaces.ipc == NamespaceMode::Host,
            cgroup2: host.cgroup2.clone(),
            tty_group: ids.tty_group,
            creates: spec.root != Root::Host && spec.root != Root::HostReadOnly,
            makes: Vec::new(),
            destinations: spec.mounts.iter().map(|mount| mount.destination.clone()).collect(),
            propagation: propagation(spec),
            root: match &spec.root {
                Root::Dir { path, .. } if path != Path::new("/") => Some(path.clone()),
                _ => None,
            },
            mounted: Vec::new(),
            read_only_last: Vec::new(),
            proc: None,
            sys: None,
            dev: None,
        }
    }

    /// Returns whether the container's user namespace owns its namespace of this kind.
    pub(super) fn owns(&self, kind: Kind) -> bool {
        !self.new_user || self.plan.spec.namespaces.is_new(kind)
    }

    /// Returns whether the destination is in a mount of the list, so that it can be made.
    pub(super) fn within_mount(&self, destination: &Path) -> bool {
        self.destinations
            .iter()
            .any(|other| other != destination && destination.starts_with(other) && other != Path::new("/"))
    }

    /// Returns a path within the root. If the path is in `/proc`, `/sys` or `/dev` and that mount
    /// is held, the path is relative to the mount.
    pub(super) fn held(&self, field: &str, path: &Path, create: Create) -> Result<Dest, Error> {
        for (mounted, base) in [(&self.proc, Slot::Proc), (&self.sys, Slot::Sys), (&self.dev, Slot::Dev)] {
            if let Some(rest) = mounted.as_ref().and_then(|mounted| path.strip_prefix(mounted).ok()) {
                let dest = dest(field, &Path::new("/").join(rest), create)?;
                return Ok(Dest { base, ..dest });
            }
        }
        dest(field, path, create)
    }

    /// Returns the paths of a list without duplicates.
    pub(super) fn each_once(&self, field: &str, paths: &[PathBuf]) -> Result<Vec<Dest>, Error> {
        let mut all: Vec<Dest> = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let dest = self.held(&format!("{field}[{index}]"), path, Create::No)?;
            if !all.iter().any(|other| other.base == dest.base && other.path == dest.path) {
                all.push(dest);
            }
        }
        Ok(all)
    }

    /// Records that a mount covers its destination: what is below the destination is unreachable
    /// now.
    pub(super) fn covers(&mut self, mount: &Mount, writable: bool) {
        let there = mount.kind == MountKind::Remount;
        self.read_only_last.retain(|(path, _)| match there {
            true => !(writable && *path == mount.destination),
            false => !path.starts_with(&mount.destination),
        });
        self.mounted.push(mount.destination.clone());
    }

    /// Makes the mount read-only after everything in it exists: mount points, devices and links.
    pub(super) fn read_only_at_last(&mut self, field: &str, mount: &Mount) -> Result<(), Error> {
        let dest = self.held(field, &mount.destination, Create::No)?;
        self.read_only_last.push((mount.destination.clone(), dest));
        Ok(())
    }

    /// Adds the steps of [`read_only_at_last`](Self::read_only_at_last).
    pub(super) fn push_read_only_mounts(&mut self) {
        for (_, dest) in std::mem::take(&mut self.read_only_last) {
            let (attributes, over_proc) = (to_set(RDONLY), OverProc::Yes);
            let there = mount_step(What::There, Place::In(dest));
            self.plan.push(Step::Mount(MountStep { attributes, over_proc, ..there }));
        }
    }

    /// Adds a mount. If the namespace is not private and a bind has no propagation, the bind
    /// becomes private.
    pub(super) fn push_mount(&mut self, mut step: MountStep) {
        let silent = step.propagation.is_empty() && self.plan.spec.propagation.is_none();
        let bind = matches!(step.what, What::Bind { .. } | What::Inside { .. });
        if silent && self.propagation != PRIVATE && bind {
            step.propagation.push(PRIVATE);
        }
        self.plan.push(Step::Mount(step));
    }
}

/// Returns the propagation of mount events while the container is set up, as flags of mount(2).
fn propagation(spec: &Spec) -> u64 {
    match spec.propagation {
        // The propagation of a joined namespace stays as it is; each mount is made private.
        _ if spec.mounts_stay => 0,
        // An unbindable mount cannot be bound, so it becomes unbindable in the last step.
        Some(Propagation { kind: PropagationKind::Unbindable, recursive }) => {
            Propagation { kind: PropagationKind::Private, recursive }.flags()
        }
        Some(propagation) => propagation.flags(),
        None if spec.mounts.iter().any(receives) => libc::MS_REC | libc::MS_SLAVE,
        None => PRIVATE,
    }
}

/// Returns whether later mounts of the host appear on the mount.
pub(super) fn receives(mount: &Mount) -> bool {
    mount.propagation.iter().any(|p| matches!(p.kind, PropagationKind::Shared | PropagationKind::Slave))
}
