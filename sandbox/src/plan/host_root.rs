//! The host's files as a read-only root without the host's sockets and named pipes.
//!
//! A read-only mount does not prevent a process from connecting to a socket or writing to a named
//! pipe. A bound socket and the content of a pipe belong to the inode of the file. In an overlay
//! each file has another inode: connect(2) fails, and the pipe is a different one.
//!
//! An overlay shows one mount without its submounts, so each mount of the host gets an overlay. In
//! the mount namespace of a user namespace the mounts are locked together, and the kernel rejects
//! an overlay of a directory with a mount below it. In that case the root is a tmpfs, with an
//! overlay for each directory that has no mounts below it.
//!
//! A mount point that the host lacks is in a layer above the host's: see `mount_points`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, DirEntry, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use crate::error::Error;
use crate::host::{Host, HostMount};
use crate::plan::builder::FileSteps;
use crate::plan::file_systems::{FSCONFIG_MAX, RDONLY, mount_step, new_fs, to_set};
use crate::plan::id_maps::new_maps;
use crate::plan::mount_points::{self, Entry};
use crate::plan::paths::{below, dest, escape};
use crate::plan::text::c_string;
use crate::spec::{MountKind, Spec};
use crate::step::{Create, Dest, MountStep, Place, Slot, Step, What};

/// File systems that contain no sockets and named pipes. overlayfs rejects some of them.
const PLAIN: [&str; 23] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "exfat",
    "fusectl",
    "mqueue",
    "msdos",
    "nsfs",
    "ntfs3",
    "proc",
    "pstore",
    "resctrl",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
    "vfat",
];
/// An empty directory, used as the second layer that overlayfs requires. It is in a tmpfs over `/`,
/// which no other path reaches.
const NONE: &[u8] = b"/../none";
/// The directory with the layers of missing mount points, in that tmpfs.
const POINTS: &[u8] = b"/../points";

struct View<'a> {
    /// The visible mounts of the host, sorted by path.
    mounts: Vec<&'a HostMount>,
    /// All mounts of the host, including hidden ones.
    all: &'a [HostMount],
    spec: &'a Spec,
    nodev: u64,
    /// Whether the mounts are locked together.
    locked: bool,
    /// Whether the child has fewer permissions than the caller.
    lesser: bool,
    /// Directories whose overlay has a layer of missing mount points.
    layered: BTreeSet<PathBuf>,
}

/// Returns whether the root of the container is a tmpfs with parts of the host's files.
pub(super) fn is_in_parts(host: &Host, foreign: bool) -> bool {
    let locked = foreign || host.nested || !host.privileged();
    locked && host.mounts.iter().any(|mount| mount.path != Path::new("/"))
}

impl FileSteps<'_> {
    /// Adds the mount that becomes the root, and the mounts in it.
    pub(super) fn host_root(&mut self, host: &Host, spec: &Spec, nodev: u64) -> Result<(), Error> {
        let in_parts = is_in_parts(host, self.foreign);
        let mut view = View {
            mounts: HostMount::visible(&host.mounts),
            all: &host.mounts,
            spec,
            nodev,
            locked: in_parts,
            lesser: self.parent_opens,
            layered: BTreeSet::new(),
        };
        let layer = self.lacking(&mut view);
        let tmpfs = |place| MountStep {
            attributes: to_set(libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID),
            keep: Some(Slot::Root),
            ..mount_step(new_fs(c"tmpfs", vec![(c"mode".into(), Some(c"755".into()))]), place)
        };
        self.plan.push(Step::Mount(tmpfs(Place::NewRoot)));
        for name in [c"none", c"root"] {
            self.plan.push(Step::Mkdir { slot: Slot::Root, name: name.into(), mode: 0o755, owner: None });
        }
        self.layer(&layer)?;
        let place = Place::Within(Slot::Root, c"root".into());
        if in_parts {
            self.plan.push(Step::Mount(tmpfs(place)));
            return self.parts(&view, Path::new("/"));
        }
        let root = MountStep { keep: Some(Slot::Root), ..overlay(Path::new("/"), &view, place)? };
        self.plan.push(Step::Mount(root));
        for mount in &view.mounts {
            if mount.path != Path::new("/") && !view.covers(&mount.path) {
                self.part(&view, &mount.path)?;
            }
        }
        Ok(())
    }

    /// Returns the layer of mount points and links that the host's files lack.
    fn lacking(&mut self, view: &mut View<'_>) -> BTreeMap<PathBuf, Entry> {
        let mut layer = BTreeMap::new();
        for missing in mount_points::missing(view.spec) {
            match view.part_of(&missing.within) {
                _ if view.covers(&missing.within) => {}
                // A directory of the root's tmpfs.
                None => self.makes.push(missing.destination),
                Some(part) if view.is_plain(&part) && part != Path::new("/") => {}
                Some(_) if missing.is_below_acl() => {}
                Some(part) => {
                    view.layered.insert(part);
                    missing.add_to(&mut layer);
                }
            }
        }
        layer
    }

    /// Adds the entries of the layer of missing mount points.
    fn layer(&mut self, layer: &BTreeMap<PathBuf, Entry>) -> Result<(), Error> {
        let maps = new_maps(self.plan);
        for (path, entry) in layer {
            let mut name = PathBuf::from("points");
            name.extend(path.strip_prefix("/").ok().filter(|path| !path.as_os_str().is_empty()));
            let (slot, name) = (Slot::Root, c_string("root", name)?);
            let step = match entry {
                Entry::Existing => {
                    let Some(meta) = seen("look at", path, path.metadata())? else { continue };
                    let owner = match &maps {
                        Some((uid, gid)) => uid.to_inside(meta.uid()).zip(gid.to_inside(meta.gid())),
                        None => Some((meta.uid(), meta.gid())),
                    };
                    let owner = owner.filter(|owner| *owner != (0, 0));
                    Step::Mkdir { slot, name, mode: meta.mode() & 0o7777, owner }
                }
                Entry::Directory => Step::Mkdir { slot, name, mode: 0o755, owner: None },
                Entry::File => Step::File { slot, name },
                Entry::Link(target) => {
                    Step::Symlink { dest: below(slot, &name), target: c_string("links", target)? }
                }
            };
            self.plan.push(step);
        }
        Ok(())
    }

    /// Adds the entries of a directory that has mounts below it.
    fn parts(&mut self, view: &View<'_>, directory: &Path) -> Result<(), Error> {
        let Some(entries) = seen("list", directory, fs::read_dir(directory))? else { return Ok(()) };
        let mut entries: Vec<DirEntry> = match seen("list", directory, entries.collect())? {
            Some(entries) => entries,
            None => return Ok(()),
        };
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let Some(kind) = seen("look at", &path, entry.file_type())? else { continue };
            if kind.is_symlink() {
                let Some(target) = seen("read", &path, fs::read_link(&path))? else { continue };
                let target = c_string("root", target)?;
                self.plan.push(Step::Symlink { dest: place(&path, Create::No)?, target });
                continue;
            }
            let covered = view.covers(&path);
            let parted = view.locked && view.has_below(&path);
            if kind.is_dir() && (covered || parted) {
                let meta = seen("look at", &path, path.metadata())?;
                let mode = meta.as_ref().map_or(0o755, |meta| meta.mode() & 0o7777);
                let name = c_string("root", path.strip_prefix("/").unwrap_or(&path))?;
                self.plan.push(Step::Mkdir { slot: Slot::Root, name, mode, owner: None });
                if !covered && meta.is_some_and(|meta| view.reaches(&path, &meta)) {
                    self.parts(view, &path)?;
                }
                continue;
            }
            self.part(view, &path)?;
        }
        Ok(())
    }

    /// Adds a file, or a directory with the content of its own mount.
    fn part(&mut self, view: &View<'_>, path: &Path) -> Result<(), Error> {
        // The container has no more permissions than the caller.
        let Some(meta) = seen("look at", path, path.metadata())? else { return Ok(()) };
        let create = match (view.locked, meta.is_dir()) {
            // The host can unmount it between the plan and the start.
            (false, _) => Create::LeaveOut,
            (true, true) => Create::Dir,
            (true, false) => Create::File,
        };
        let at = Place::In(place(path, create)?);
        let step = if meta.is_file() || view.is_plain(path) {
            MountStep {
                attributes: to_set(RDONLY | view.nodev),
                ..mount_step(self.bind("root", path, false, None)?, at)
            }
        } else if meta.is_dir() {
            overlay(path, view, at)?
        } else {
            return Ok(());
        };
        self.plan.push(Step::Mount(step));
        Ok(())
    }
}

impl View<'_> {
    /// Returns whether a mount of the container covers the path.
    fn covers(&self, path: &Path) -> bool {
        let mounts = self.spec.mounts.iter().filter(|mount| mount.kind != MountKind::Remount);
        mounts.map(|mount| &mount.destination).any(|other| other != Path::new("/") && path.starts_with(other))
    }

    /// Returns the mount that contains a path.
    fn mount(&self, path: &Path) -> Option<&HostMount> {
        path.ancestors().find_map(|path| {
            let found = self.mounts.binary_search_by(|mount| mount.path.as_path().cmp(path));
            found.ok().and_then(|at| self.mounts.get(at).copied())
        })
    }

    /// Returns whether the path is a mount of a file system without sockets and named pipes.
    fn is_plain(&self, path: &Path) -> bool {
        let mount = self.mount(path).filter(|mount| mount.path == path);
        mount.is_some_and(|mount| PLAIN.contains(&mount.fstype.as_str()))
    }

    /// Returns the directory whose overlay shows a directory of the host. Returns `None` for a directory of
    /// the tmpfs.
    fn part_of(&self, directory: &Path) -> Option<PathBuf> {
        if !self.locked {
            return self.mount(directory).map(|mount| mount.path.clone());
        }
        let all: Vec<&Path> = directory.ancestors().collect();
        all.into_iter().rev().find(|path| !self.has_below(path)).map(Path::to_owned)
    }

    fn has_below(&self, path: &Path) -> bool {
        self.all.iter().any(|mount| mount.path != path && mount.path.starts_with(path))
    }

    /// Returns whether the container can reach the entries of a directory.
    fn reaches(&self, path: &Path, meta: &Metadata) -> bool {
        match self.lesser {
            true => meta.mode() & 0o001 != 0,
            false => nix::unistd::eaccess(path, AccessFlags::X_OK).is_ok(),
        }
    }
}

/// Returns the result of reading the host's files, or `None` if the file is missing, the caller
/// lacks the permission, or the server of the file system is unreachable.
fn seen<T>(what: &str, path: &Path, found: std::io::Result<T>) -> Result<Option<T>, Error> {
    const PASSED_OVER: [i32; 6] =
        [libc::ENOENT, libc::ENOTDIR, libc::EACCES, libc::EPERM, libc::ENOTCONN, libc::ESTALE];
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.raw_os_error().is_some_and(|errno| PASSED_OVER.contains(&errno)) => Ok(None),
        Err(e) => {
            let what = format!("{what} {} of the host, which the container would see", path.display());
            let call = match what.split(' ').next() {
                Some("list") => "getdents64",
                Some("read") => "readlink",
                _ => "statx",
            };
            let cure = "cover it with a mount of the container's own, or name another root";
            Err(Error::io("setup", what, call, &e).with_hint(Some(cure.into())))
        }
    }
}

fn place(path: &Path, create: Create) -> Result<Dest, Error> {
    Ok(Dest { no_links: true, ..dest("root", path, create)? })
}

/// Returns an overlay of a directory without the mounts below it.
fn overlay(path: &Path, view: &View<'_>, place: Place) -> Result<MountStep, Error> {
    let mut layers = Vec::new();
    if view.layered.contains(path) {
        layers.extend(POINTS);
        if path != Path::new("/") {
            escape(&mut layers, path, b":\\,");
        }
        layers.push(b':');
    }
    escape(&mut layers, path, b":\\,");
    if !view.layered.contains(path) {
        layers.push(b':');
        layers.extend(NONE);
    }
    // fsconfig(2) accepts neither a comma nor a longer value here.
    let long = layers.len() > FSCONFIG_MAX || layers.contains(&b',');
    let layers = OsStr::from_bytes(&layers);
    let what = if long {
        let mut options = OsString::from("lowerdir=");
        options.push(layers);
        let (fstype, options) = (CString::from(c"overlay"), c_string("root", options)?);
        What::Long { source: fstype.clone(), fstype, options, flags: 0 }
    } else {
        What::New {
            fstype: c"overlay".into(),
            params: vec![(c"lowerdir".into(), Some(c_string("root", layers)?))],
        }
    };
    let own = view.mount(path).map_or(0, |mount| mount.attributes);
    Ok(MountStep { attributes: to_set(RDONLY | view.nodev | own), ..mount_step(what, place) })
}
