//! Devices and links: the standard `/dev`, and the entries of the spec.

use std::ffi::{CStr, CString};
use std::path::Path;

use ns_core::Kind;

use crate::error::Error;
use crate::plan::builder::FileSteps;
use crate::plan::data::TreeDevice;
use crate::plan::file_systems::{
    NODEV, NOEXEC, NOSUID, devpts_params, mount_step, new_fs, tmpfs_params, to_set,
};
use crate::plan::id_maps::new_maps;
use crate::plan::paths::{below, dest, in_proc};
use crate::plan::text::c_string;
use crate::spec::{DEVICES, LINKS, Link, Mount, Node, NodeKind, StorageLimit};
use crate::step::{Create, Dest, MountStep, Place, Slot, Step, What};

impl FileSteps<'_> {
    /// Adds the standard `/dev`: a tmpfs with devices, links, terminals, shared memory and message
    /// queues.
    pub(super) fn dev(&mut self, field: &str, mount: &Mount, create: Create) -> Result<(), Error> {
        let params = tmpfs_params(StorageLimit::of_size(64 << 10), Some(0o755))?;
        let place = Place::In(Dest { no_links: true, ..dest(field, &mount.destination, create)? });
        let attributes = to_set(NOSUID | NOEXEC);
        let keep = Some(Slot::Dev);
        let dev = MountStep { attributes, keep, ..mount_step(new_fs(c"tmpfs", params), place) };
        let first = self.plan.steps.len();
        self.plan.push(Step::Mount(dev));
        self.keep(mount, false);
        self.covers(mount, false);
        self.dev = Some(mount.destination.clone());
        if mount.readonly {
            self.read_only_at_last(field, mount)?;
        }
        for (path, major, minor) in DEVICES {
            self.dev_node(field, path, libc::makedev(*major, *minor))?;
        }
        for (path, target) in LINKS {
            let dest = below(Slot::Dev, &in_dev(path)?);
            self.plan.push(Step::Symlink { dest, target: c_string("links", target)? });
        }
        let pts = new_fs(c"devpts", devpts_params(self.tty_group));
        self.within_dev(c"pts", 0o755, pts, NOSUID | NOEXEC, Some(Slot::Pts));
        self.dev_ipc(field)?;
        let ordinary = !self.bind_devices && !self.foreign && self.plan.spec.namespaces.is_new(Kind::Ipc);
        if ordinary && self.plan.dev.is_none() {
            self.plan.dev = Some(first..self.plan.steps.len());
        }
        Ok(())
    }

    /// Adds a device of the standard `/dev`.
    fn dev_node(&mut self, field: &str, path: &str, device: u64) -> Result<(), Error> {
        let (slot, name) = (Slot::Dev, in_dev(path)?);
        if !self.bind_devices {
            let (dest, mode) = (below(slot, &name), libc::S_IFCHR | 0o666);
            self.plan.push(Step::Node { dest, mode, device, owner: None });
            return Ok(());
        }
        self.plan.push(Step::File { slot, name: name.clone() });
        let what = self.bind(field, Path::new(path), false, Some((libc::S_IFCHR, device)))?;
        self.push_mount(mount_step(what, Place::Within(slot, name)));
        Ok(())
    }

    /// Adds the shared memory and the message queues of the standard `/dev`.
    fn dev_ipc(&mut self, field: &str) -> Result<(), Error> {
        let strict = NOSUID | NODEV | NOEXEC;
        if self.host_ipc {
            // A container in the host's ipc namespace shares the host's POSIX shared memory too.
            self.plan.push(Step::Mkdir { slot: Slot::Dev, name: c"mqueue".into(), mode: 0o755, owner: None });
            let shm = self.bind(field, Path::new("/dev/shm"), true, None)?;
            self.within_dev(c"shm", 0o1777, shm, 0, None);
            return Ok(());
        }
        let shm = new_fs(c"tmpfs", tmpfs_params(StorageLimit::of_size(64 << 20), Some(0o1777))?);
        self.within_dev(c"shm", 0o1777, shm, strict, None);
        if self.owns(Kind::Ipc) {
            self.within_dev(c"mqueue", 0o755, new_fs(c"mqueue", Vec::new()), strict, None);
        }
        Ok(())
    }

    /// Adds a directory in `/dev`, and a mount on it.
    fn within_dev(&mut self, name: &CStr, mode: u32, what: What, set: u64, keep: Option<Slot>) {
        self.plan.push(Step::Mkdir { slot: Slot::Dev, name: name.into(), mode, owner: None });
        let place = Place::Within(Slot::Dev, name.into());
        self.push_mount(MountStep { attributes: to_set(set), keep, ..mount_step(what, place) });
    }

    /// Adds a device or a FIFO.
    pub(super) fn node(&mut self, field: &str, node: &Node) -> Result<(), Error> {
        let path_field = format!("{field}.path");
        let (kind, (major, minor)) = match node.kind {
            NodeKind::Char(major, minor) => (libc::S_IFCHR, (major, minor)),
            NodeKind::Block(major, minor) => (libc::S_IFBLK, (major, minor)),
            NodeKind::Fifo => (libc::S_IFIFO, (0, 0)),
        };
        if major >= 1 << 12 || minor >= 1 << 20 {
            let problem = format!(
                "{major}:{minor} is not a device number: Linux has 12 bits for the major and 20 for the minor number"
            );
            return Err(Error::invalid(format!("{field}.kind"), problem));
        }
        let device = libc::makedev(major, minor);
        let dest = self.entry(&path_field, &node.path)?;
        if self.bind_devices && kind != libc::S_IFIFO {
            in_proc(&path_field, &node.path)?;
            let dest = Dest { no_links: true, create: Create::File, ..dest };
            let what = self.bind(&path_field, &node.path, false, Some((kind, device)))?;
            let maps = new_maps(self.plan);
            if let (What::Bind { tree: Some(_), .. }, Some(tree)) = (&what, self.plan.trees.last_mut()) {
                let owner =
                    maps.and_then(|(uid, gid)| Some((uid.to_outside(node.uid)?, gid.to_outside(node.gid)?)));
                let mode = kind | (node.mode & 0o7777);
                tree.device = Some(TreeDevice { mode, number: device, owner: owner.unwrap_or((0, 0)) });
            }
            self.push_mount(mount_step(what, Place::In(dest)));
            return Ok(());
        }
        let owner = ((node.uid, node.gid) != (0, 0)).then_some((node.uid, node.gid));
        self.plan.push(Step::Node { dest, mode: kind | (node.mode & 0o7777), device, owner });
        Ok(())
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, field: &str, link: &Link) -> Result<(), Error> {
        let dest = self.entry(&format!("{field}.path"), &link.path)?;
        let target = c_string(&format!("{field}.target"), &link.target)?;
        self.plan.push(Step::Symlink { dest, target });
        Ok(())
    }

    /// Returns the destination of a node or a link.
    fn entry(&self, field: &str, path: &Path) -> Result<Dest, Error> {
        let dest = self.held(field, path, Create::No)?;
        match dest.last {
            None => Err(Error::invalid(field, format!("{} cannot be made", path.display()))),
            Some(_) => Ok(dest),
        }
    }
}

/// Returns the name of a file of the standard `/dev`.
fn in_dev(path: &str) -> Result<CString, Error> {
    c_string("nodes", path.strip_prefix("/dev/").unwrap_or(path))
}
