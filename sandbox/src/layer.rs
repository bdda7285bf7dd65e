//! The changes in an overlay: what a container added, changed and deleted.
//!
//! A container whose root is [`Root::Overlay`] with [`Writes::Dir`] leaves its changes in the upper directory
//! of the overlay. A [`Layer`] lists them, applies them to the lower directory or to a copy of it, or removes
//! them.
//!
//! After [`commit`](Layer::commit) the target has the files that the container saw: content with its holes,
//! type, mode, owner, time of modification, extended attributes and hard links. A container that ran on a
//! copy would have left the same files, with one exception: if the lower directory has a file with several
//! names, a change through one name in an overlay does not affect the other names. A file that the container
//! copied up and did not change keeps its other names. Inode flags (chattr(1)) and project ids are not
//! applied.
//!
//! The upper directory is not trusted. Every file is opened beneath the root of its directory, without
//! following symlinks and without crossing mounts (openat2(2), since Linux 5.6). Named pipes and devices are
//! not opened.

mod change;
mod commit;
mod compare;
mod marks;
mod scan;
mod tree;

use std::path::Path;

use rustix::io::Errno;

pub use change::{Change, ChangeKind, Facts, FileType, Part};
pub use marks::Marks;

use crate::error::{Error, ErrorKind};
use crate::spec::{Root, Spec, Writes};
use tree::Tree;

/// The upper directory of an overlay, and the lower directory that it changes.
#[derive(Debug)]
pub struct Layer {
    upper: Tree,
    lower: Tree,
    marks: Marks,
}

impl Layer {
    /// Opens the directories of an overlay. `marks` must be those with which the overlay was mounted.
    /// Since Linux 5.6; see [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html).
    ///
    /// ```no_run
    /// use nspod_sandbox::layer::{Layer, Marks};
    ///
    /// let layer = Layer::open("/build/upper".as_ref(), "/images/debian".as_ref(), Marks::Trusted)?;
    /// for change in layer.changes()? {
    ///     println!("{:?} {}", change.kind, change.path.display());
    /// }
    /// layer.commit("/images/debian".as_ref(), &mut |_, _| Ok(()))?;
    /// layer.discard()?;
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - `ENOENT`, `ENOTDIR`: one of the paths is not a directory.
    /// - `EACCES`: the caller cannot read one of them.
    pub fn open(upper: &Path, lower: &Path, marks: Marks) -> Result<Layer, Error> {
        Ok(Layer { upper: Tree::open(upper)?, lower: Tree::open_without_mounts(lower)?, marks })
    }

    /// Opens the overlay that is the root of a container with this spec.
    /// Since Linux 5.6; see [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html).
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`]: the root is not an overlay that writes to a directory, or it has
    ///   several lower directories.
    /// - The same as [`open`](Self::open).
    pub fn of_spec(spec: &Spec) -> Result<Layer, Error> {
        let invalid = |sentence: &str| Err(Error::new(ErrorKind::InvalidInput, "layer", sentence));
        match &spec.root {
            Root::Overlay { lower, writes: Writes::Dir { upper, .. }, .. } => match &lower[..] {
                [lower] => Layer::open(upper, lower, Marks::of_spec(spec)),
                _ => invalid("cannot list the changes of an overlay with several lower directories"),
            },
            Root::Overlay { .. } => invalid(
                "the changes of this container are in memory and cannot be reached: start it with --overlay=DIR \
                 to keep them in a directory",
            ),
            _ => invalid("this container does not have an overlay: start it with --overlay=DIR"),
        }
    }

    /// Makes the upper directory of an overlay, with the mode, owner, extended attributes and times of the
    /// lower one, which the container sees as those of its root. Does nothing if it exists. An owner or
    /// attribute that the caller cannot set is left out. See
    /// [mkdir(2)](https://man7.org/linux/man-pages/man2/mkdir.2.html).
    ///
    /// # Errors
    /// `EACCES`, `ENOENT`, `ENOSPC`: the directory cannot be made.
    pub fn prepare(upper: &Path, lower: &Path) -> Result<(), Error> {
        match std::fs::create_dir(upper) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            made => made.map_err(|e| Error::path("make", "make", upper, &e))?,
        }
        copy_root(&Tree::open_without_mounts(lower)?, &Tree::open(upper)?)
    }

    /// Returns the path of the upper directory; see
    /// [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html#upper-and-lower).
    pub fn upper(&self) -> &Path {
        self.upper.path()
    }

    /// Returns the path of the lower directory; see
    /// [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html#upper-and-lower).
    pub fn lower(&self) -> &Path {
        self.lower.path()
    }

    /// Returns the changes, each directory before its entries. A file that the container copied up without
    /// changing it is not a change. The directories are read while the container may run: freeze it for a
    /// consistent result. See
    /// [overlayfs](https://docs.kernel.org/filesystems/overlayfs.html).
    ///
    /// # Errors
    /// - [`ErrorKind::Unsupported`]: the upper directory refers to content elsewhere (`redirect_dir`,
    ///   `metacopy`).
    /// - `EACCES`, `EPERM`: the caller cannot read a file.
    /// - `EXDEV`: another file system is mounted in one of the directories.
    /// - `ENAMETOOLONG`: a path has more than 4095 bytes.
    pub fn changes(&self) -> Result<Vec<Change>, Error> {
        let scan = scan::scan(&self.upper, self.marks)?;
        let compared = compare::compare(&scan, &self.upper, &self.lower, self.marks)?;
        Ok(compared.differences.into_iter().map(|difference| difference.change).collect())
    }

    /// Applies the changes to a directory: the lower one, or a copy of it. Returns how many paths changed.
    /// No container may write to the upper directory meanwhile, and none may use the target.
    ///
    /// `progress` is called with the number of applied changes and of all changes. If it returns an error, the
    /// commit stops with that error.
    ///
    /// The operation can be repeated after an interruption (`SIGKILL`, `ENOSPC`): each file is made in a
    /// directory `.nspod-commit` of the target and renamed to its place, and the next commit applies only
    /// what is missing. At the end everything is written to the disk
    /// ([syncfs(2)](https://man7.org/linux/man-pages/man2/syncfs.2.html)).
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`]: the target is not a copy of the lower directory, or it is the upper
    ///   directory. Nothing was changed.
    /// - [`ErrorKind::Busy`]: another commit to the target is in progress.
    /// - `ENOSPC`, `EDQUOT`: the file system is full.
    /// - `EPERM`: the caller cannot make a device, or set an owner or an extended attribute.
    /// - `EOPNOTSUPP`: the file system of the target does not support extended attributes.
    /// - The same as [`changes`](Self::changes).
    pub fn commit(
        &self,
        target: &Path,
        progress: &mut dyn FnMut(u64, u64) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let target = Tree::open(target)?;
        let scan = scan::scan(&self.upper, self.marks)?;
        self.check(&scan, &target)?;
        commit::commit(&scan, &self.upper, &target, self.marks, progress)
    }

    /// Removes all changes. The container must not run. See
    /// [unlink(2)](https://man7.org/linux/man-pages/man2/unlink.2.html).
    ///
    /// # Errors
    /// `EACCES`, `EPERM`: the caller cannot remove a file.
    pub fn discard(&self) -> Result<(), Error> {
        self.upper.clear(Path::new(""))?;
        copy_root(&self.lower, &self.upper)
    }

    /// Checks that a directory is the lower one or a copy of it: each path that the container used has the
    /// type that it has in the lower directory, or already the type that the container left.
    fn check(&self, scan: &scan::Scan, target: &Tree) -> Result<(), Error> {
        let root = Path::new("");
        let id = |tree: &Tree| Ok::<_, Error>(tree.node(root)?.map(|node| node.id()));
        let found = id(target)?;
        let invalid = |path: &Path, sentence: String| {
            Err(Error::new(ErrorKind::InvalidInput, "layer", sentence).on(path.display().to_string()))
        };
        if found == id(&self.upper)? {
            let path = self.upper();
            return invalid(path, format!("{} contains the changes: name another directory", path.display()));
        }
        if found == id(&self.lower)? {
            return Ok(());
        }
        for entry in &scan.entries {
            let type_in = |tree: &Tree| Ok::<_, Error>(tree.node(&entry.path)?.map(|node| node.file_type()));
            let left = (entry.what != scan::What::Whiteout).then(|| entry.file_type());
            let now = type_in(target)?;
            if now != left && now != type_in(&self.lower)? {
                let path = target.full(&entry.path);
                let sentence = format!(
                    "{} is not a copy of {}: {} differs in type",
                    target.path().display(),
                    self.lower().display(),
                    path.display()
                );
                return invalid(&path, sentence);
            }
        }
        Ok(())
    }
}

/// Gives the root of a directory tree the attributes of another root, as far as the caller can set them.
fn copy_root(from: &Tree, to: &Tree) -> Result<(), Error> {
    let root = Path::new("");
    let (Some(from), Some(to)) = (from.node(root)?, to.node(root)?) else { return Ok(()) };
    let forbidden = |e: &Error| {
        let errno = e.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP))
    };
    let mut set = vec![to.chown(from.stat.st_uid, from.stat.st_gid)];
    let xattrs = from.xattrs()?;
    let is_own = |name: &std::ffi::CStr| [Marks::Trusted, Marks::User].iter().any(|marks| marks.is_own(name));
    let ordinary = xattrs.iter().filter(|(name, _)| !is_own(name));
    set.extend(ordinary.map(|(name, value)| to.set_xattr(name, value)));
    set.push(to.chmod(from.stat.st_mode & 0o7777));
    set.push(to.set_times(&from.stat));
    set.into_iter().filter(|result| !result.as_ref().is_err_and(forbidden)).collect()
}
