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
//! An overlay of the host's root with writes has the same parts in that case. Each part has directories for
//! its writes in one tmpfs.
//!
//! A mount point that the host lacks is in a layer above the host's: see `mount_points`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::{self, DirEntry, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use crate::error::Error;
use crate::host::{Host, HostMount};
use crate::plan::builder::FileSteps;
use crate::plan::file_systems::{FSCONFIG_MAX, RDONLY, mount_step, new_fs, tmpfs_params, to_set};
use crate::plan::id_maps::new_maps;
use crate::plan::mount_points::{self, Entry};
use crate::plan::paths::{below, dest, escape};
use crate::plan::text::c_string;
use crate::spec::{MountKind, Root, Spec, StorageLimit, Writes};
use crate::step::{Create, Dest, MountStep, Param, Place, Slot, Step, What};

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
    /// Whether the overlays have directories for writes.
    writable: bool,
    /// The working directory without links, if the overlays have directories for writes.
    cwd: Option<PathBuf>,
    /// Whether overlayfs uses the attributes `user.*` for its own data.
    userxattr: bool,
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
            writable: spec.overlays_host(),
            cwd: spec
                .process
                .cwd
                .as_ref()
                .filter(|_| spec.overlays_host())
                .and_then(|cwd| fs::canonicalize(cwd).ok()),
            userxattr: self.foreign || host.nested,
            layered: BTreeSet::new(),
        };
        if let Root::Overlay { writes, limit, .. } = &spec.root {
            return self.writable_parts(&view, writes, *limit);
        }
        let layer = self.lacking(&mut view);
        let tmpfs = |place| tmpfs(place, vec![(c"mode".into(), Some(c"755".into()))]);
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
        let root = MountStep { keep: Some(Slot::Root), ..overlay(Path::new("/"), &view, place, None)? };
        self.plan.push(Step::Mount(root));
        for mount in &view.mounts {
            if mount.path != Path::new("/") && !view.covers(&mount.path) {
                self.part(&view, &mount.path)?;
            }
        }
        Ok(())
    }

    /// Adds the parts of the host's files with a place for writes: one tmpfs for the root and all overlays,
    /// so that one limit holds for all.
    fn writable_parts(&mut self, view: &View<'_>, writes: &Writes, limit: StorageLimit) -> Result<(), Error> {
        if *writes != Writes::Tmpfs {
            let problem = "in a user namespace, an overlay of the host's root cannot keep its writes in a \
                           directory, because the host's mounts are locked together: use an overlay in memory \
                           (--overlay without DIR), another root (--rootfs), or run as root without a user namespace";
            return Err(Error::invalid("root.writes", problem));
        }
        self.plan.push(Step::Mount(tmpfs(Place::NewRoot, tmpfs_params(limit, Some(0o755))?)));
        for name in [c"root", c"upper", c"work"] {
            self.plan.push(Step::Mkdir { slot: Slot::Root, name: name.into(), mode: 0o755, owner: None });
        }
        let what = What::Inside { source: c"root".into(), recursive: false };
        let place = Place::Within(Slot::Root, c"root".into());
        self.plan.push(Step::Mount(MountStep { keep: Some(Slot::Root), ..mount_step(what, place) }));
        self.parts(view, Path::new("/"))
    }

    /// Makes the directories for the writes to the overlay of a directory. Returns their name, a number.
    ///
    /// For a write, the kernel copies the file and the directories above it to the upper directory. That fails
    /// if an owner has no id in the container. So the upper directory has the way to the working directory.
    fn writes(&mut self, view: &View<'_>, part: &Path) -> Result<usize, Error> {
        // No other part has this number.
        let (slot, number) = (Slot::Root, self.plan.steps.len());
        let way = view.cwd.iter().flat_map(|cwd| cwd.ancestors()).filter(|path| path.starts_with(part));
        let mut directories: BTreeSet<&Path> = way.collect();
        directories.insert(part);
        for path in directories {
            let Some(meta) = seen("look at", path, path.metadata())? else { break };
            // `..` leads from the root to its tmpfs.
            let mut name = PathBuf::from(format!("../upper/{number}"));
            name.extend(path.strip_prefix(part));
            let (name, mode, owner) = (c_string("root", name)?, meta.mode() & 0o7777, self.owner(&meta));
            self.plan.push(Step::Mkdir { slot, name, mode, owner });
        }
        let name = c_string("root", format!("../work/{number}"))?;
        self.plan.push(Step::Mkdir { slot, name, mode: 0o755, owner: None });
        Ok(number)
    }

    /// Returns the owner of a file of the host, unless it is the container's root or has no id in the
    /// container.
    fn owner(&self, meta: &Metadata) -> Option<(u32, u32)> {
        let (uid, gid) = (meta.uid(), meta.gid());
        let owner = match new_maps(self.plan) {
            Some((uids, gids)) => uids.to_inside(uid).zip(gids.to_inside(gid)),
            None => Some((uid, gid)),
        };
        owner.filter(|owner| *owner != (0, 0))
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
        for (path, entry) in layer {
            let mut name = PathBuf::from("points");
            name.extend(path.strip_prefix("/").ok().filter(|path| !path.as_os_str().is_empty()));
            let (slot, name) = (Slot::Root, c_string("root", name)?);
            let step = match entry {
                Entry::Existing => {
                    let Some(meta) = seen("look at", path, path.metadata())? else { continue };
                    Step::Mkdir { slot, name, mode: meta.mode() & 0o7777, owner: self.owner(&meta) }
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
            let writes = if view.writable { Some(self.writes(view, path)?) } else { None };
            overlay(path, view, at, writes)?
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

/// Returns the step of a tmpfs that becomes the root.
fn tmpfs(place: Place, params: Vec<Param>) -> MountStep {
    MountStep {
        attributes: to_set(libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID),
        keep: Some(Slot::Root),
        ..mount_step(new_fs(c"tmpfs", params), place)
    }
}

/// Returns an overlay of a directory without the mounts below it. `writes` is the name of the directories for
/// its writes.
fn overlay(path: &Path, view: &View<'_>, place: Place, writes: Option<usize>) -> Result<MountStep, Error> {
    let mut layers = Vec::new();
    let layered = view.layered.contains(path);
    if layered {
        layers.extend(POINTS);
        if path != Path::new("/") {
            escape(&mut layers, path, b":\\,");
        }
        layers.push(b':');
    }
    escape(&mut layers, path, b":\\,");
    if !layered && writes.is_none() {
        layers.push(b':');
        layers.extend(NONE);
    }
    // fsconfig(2) accepts neither a comma nor a longer value here.
    let long = layers.len() > FSCONFIG_MAX || layers.contains(&b',');
    let mut params: Vec<Param> =
        vec![(c"lowerdir".into(), Some(c_string("root", OsStr::from_bytes(&layers))?))];
    if let Some(number) = writes {
        for (key, name) in [(c"upperdir", "upper"), (c"workdir", "work")] {
            params.push((key.into(), Some(c_string("root", format!("/../{name}/{number}"))?)));
        }
        if view.userxattr {
            params.push((c"userxattr".into(), None));
        }
    }
    let fstype = CString::from(c"overlay");
    let what = if long {
        let options = c_string("root", OsStr::from_bytes(&joined(&params)))?;
        What::Long { source: fstype.clone(), fstype, options, flags: 0 }
    } else {
        What::New { fstype, params }
    };
    let own = view.mount(path).map_or(0, |mount| mount.attributes);
    let readonly = if writes.is_some() { 0 } else { RDONLY };
    Ok(MountStep { attributes: to_set(readonly | view.nodev | own), ..mount_step(what, place) })
}

/// Returns parameters as the options of mount(2).
fn joined(params: &[Param]) -> Vec<u8> {
    let mut options = Vec::new();
    for (key, value) in params {
        if !options.is_empty() {
            options.push(b',');
        }
        options.extend(key.as_bytes());
        if let Some(value) = value {
            options.push(b'=');
            options.extend(value.as_bytes());
        }
    }
    options
}
