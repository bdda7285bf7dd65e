//! The container's root: its mount, and the step that makes it `/`.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::host::{Host, HostMount};
use crate::plan::builder::{FileSteps, PRIVATE};
use crate::plan::data::{MapsOf, TreeMaps};
use crate::plan::file_systems::{
    NODEV, NOEXEC, NOSUID, OPTIONS_MAX, RDONLY, mount_step, new_fs, tmpfs_params, to_set,
};
use crate::plan::host_root;
use crate::plan::paths::escape;
use crate::plan::text::{absolute, c_string};
use crate::spec::{IdMaps, PropagationKind, Root, Spec, StorageLimit, Writes};
use crate::step::{MountStep, Place, Slot, Step, What};

impl FileSteps<'_> {
    /// Adds the mount that becomes `/`.
    pub(super) fn root(&mut self, spec: &Spec, host: &Host) -> Result<(), Error> {
        let nodev = if spec.root_nodev { NODEV } else { 0 };
        let place = match &spec.root {
            // Hooks find the root at this path, and their own files below `/`.
            Root::Dir { path, .. } if !spec.hooks.is_empty() || spec.mounts_stay => {
                Place::At(c_string("root.path", path)?)
            }
            _ => Place::NewRoot,
        };
        // Neither the root nor mounts in it may appear on the host.
        let apart = self.propagation == PRIVATE || spec.root == Root::Host;
        // A slave receives mount events of the host, and sends none to the host.
        let slave = spec.propagation.is_some_and(|p| p.kind == PropagationKind::Slave);
        match &place {
            _ if spec.mounts_stay => {}
            Place::At(path) if !apart => self.plan.push(Step::Private(path.clone())),
            _ if !apart && !slave => self.plan.push(Step::Private(c"/".into())),
            _ => {}
        }
        if spec.hides_sockets() || spec.overlays_host() && host_root::is_in_parts(host, self.foreign) {
            return self.host_root(host, spec, nodev);
        }
        let mut root = match &spec.root {
            Root::Host => mount_step(What::Here, Place::Detached),
            Root::HostReadOnly => MountStep {
                recursive: to_set(RDONLY | nodev),
                ..mount_step(self.bind("root", Path::new("/"), true, None)?, place)
            },
            Root::Dir { path, .. } => {
                let path = absolute("root.path", path)?;
                let bind = self.bind("root.path", path, true, None)?;
                if let (IdMaps::Own { uid, gid }, Some(tree)) = (&spec.id_maps, self.plan.trees.last_mut()) {
                    let of = MapsOf::Given { uid: uid.clone(), gid: gid.clone() };
                    // Mounts below the root can be file systems that cannot map ids.
                    tree.id_maps = Some(TreeMaps { of, recursive: false });
                }
                MountStep { recursive: to_set(nodev), ..mount_step(bind, place) }
            }
            // It becomes read-only after everything in it exists.
            Root::Empty => MountStep {
                attributes: to_set(NODEV | NOSUID | NOEXEC),
                ..mount_step(new_fs(c"tmpfs", tmpfs_params(StorageLimit::default(), Some(0o755))?), place)
            },
            Root::Overlay { lower, writes, limit } => {
                let overlay = self.overlay(lower, writes, *limit)?;
                MountStep { attributes: to_set(nodev), ..mount_step(overlay, place) }
            }
        };
        if !apart {
            // Mounts below the root get the propagation of the spec.
            let below = if spec.propagation.is_some_and(|p| p.recursive) { 0 } else { libc::MS_REC };
            root.propagation.push(if slave { libc::MS_SLAVE } else { libc::MS_PRIVATE } | below);
        }
        root.keep = Some(Slot::Root);
        self.plan.push(Step::Mount(root));
        Ok(())
    }

    /// Returns an overlay of these layers.
    fn overlay(&mut self, lower: &[PathBuf], writes: &Writes, limit: StorageLimit) -> Result<What, Error> {
        if lower.is_empty() {
            return Err(Error::invalid("root.lower", "an overlay requires at least one layer"));
        }
        let mut options = b"lowerdir=".to_vec();
        for (index, layer) in lower.iter().enumerate() {
            if index > 0 {
                options.push(b':');
            }
            escape(&mut options, absolute("root.lower", layer)?, b":\\,");
        }
        match writes {
            Writes::Tmpfs => {
                // The tmpfs covers `/`, and `/..` reaches it. The overlay is mounted on top of it.
                let params = tmpfs_params(limit, Some(0o755))?;
                let tmpfs = MountStep {
                    keep: Some(Slot::Root),
                    ..mount_step(new_fs(c"tmpfs", params), Place::NewRoot)
                };
                self.plan.push(Step::Mount(tmpfs));
                for name in [c"upper", c"work"] {
                    let (slot, name) = (Slot::Root, name.into());
                    self.plan.push(Step::Mkdir { slot, name, mode: 0o755, owner: None });
                }
                options.extend(b",upperdir=/../upper,workdir=/../work");
            }
            Writes::Dir { upper, work } => {
                options.extend(b",upperdir=");
                escape(&mut options, absolute("root.writes.upper", upper)?, b"\\,");
                options.extend(b",workdir=");
                escape(&mut options, absolute("root.writes.work", work)?, b"\\,");
                // The upper directory contains all changes. The defaults of these options depend on the kernel.
                options.extend(b",index=off");
                if !self.foreign {
                    // `userxattr` implies them.
                    options.extend(b",redirect_dir=off,metacopy=off");
                }
            }
        }
        if self.foreign {
            // Without CAP_SYS_ADMIN in the initial user namespace overlayfs uses user.* attributes.
            options.extend(b",userxattr");
        }
        if options.len() > OPTIONS_MAX {
            return Err(Error::invalid(
                "root.lower",
                "the layers' paths are longer than a page, which the kernel does not allow: use shorter ones",
            ));
        }
        let options =
            CString::new(options).map_err(|_| Error::invalid("root", "a path contains a NUL byte"))?;
        Ok(What::Long { fstype: c"overlay".into(), source: c"overlay".into(), options, flags: 0 })
    }

    /// Adds the step that makes the root `/`.
    pub(super) fn enter_root(&mut self, spec: &Spec, host: &Host) -> Result<(), Error> {
        let readonly = match spec.root {
            Root::Dir { readonly, .. } => readonly,
            Root::Empty => true,
            _ => spec.hides_sockets() && host_root::is_in_parts(host, self.foreign),
        };
        let apart = self.propagation & libc::MS_REC != 0 && self.propagation & libc::MS_SHARED == 0;
        self.plan.push(match spec.no_pivot || spec.mounts_stay {
            // Other processes in the namespace keep their root and their kernel file systems.
            true if spec.mounts_stay => Step::ChangeRoot { over: false, readonly, hide: Vec::new() },
            true if !apart => {
                let problem =
                    "without pivot_root(2) the root must be private or a slave, with all mounts below it";
                return Err(Error::invalid("propagation", problem));
            }
            true => {
                let over = matches!(spec.root, Root::Dir { .. }) && !spec.hooks.is_empty();
                Step::ChangeRoot { over, readonly, hide: kernel_file_systems()? }
            }
            false => Step::PivotRoot { readonly, shared: !apart },
        });
        if let Some(propagation) = spec.propagation {
            self.plan.push(Step::Propagation(propagation.flags()));
        }
        Ok(())
    }
}

/// Returns the mount points of procfs and sysfs in the caller's mount namespace.
fn kernel_file_systems() -> Result<Vec<CString>, Error> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let text = std::fs::read(MOUNTS).map_err(|e| Error::path("proc", "read", MOUNTS.as_ref(), &e))?;
    let mounts = HostMount::parse(&text);
    let wanted = mounts.iter().filter(|mount| matches!(mount.fstype.as_str(), "proc" | "sysfs"));
    wanted.map(|mount| c_string("mountinfo", &mount.path)).collect()
}
