//! Applies the changes of an overlay to a directory.
//!
//! A new file is made in a staging directory in the target, with its content and attributes, and then renamed
//! to its place. A removed tree is renamed into the staging directory, and then removed. So each path has
//! either its old or its new state at any time; it is missing for a moment if a directory replaces a file or
//! a file replaces a directory. A repeated commit compares the target again, and continues
//! where an interrupted one stopped.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, linkat, mkdirat,
    mknodat, openat, renameat, seek, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::change::{ChangeKind, FileType as ChangedType, Part};
use super::compare::{Difference, attributes, compare, xattrs};
use super::marks::Marks;
use super::scan::{Entry, Scan};
use super::tree::{Node, Tree};
use crate::error::{Error, ErrorKind};
use crate::store::Lock;

/// Applies the changes. Returns how many paths changed.
pub(super) fn commit(
    scan: &Scan,
    upper: &Tree,
    target: &Tree,
    marks: Marks,
    progress: &mut dyn FnMut(u64, u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    let _lock = lock(target)?;
    let staging = staging_name(scan);
    remove_staging(target, &staging)?;
    let compared = compare(scan, upper, target, marks)?;
    for entry in scan.entries.iter().filter(|entry| entry.is_dir()) {
        target.make_accessible(&entry.path)?;
    }
    if compared.differences.iter().any(needs_staging) {
        let dir = Staging::new(target, upper, marks, &staging, compared.linked)?;
        let applied = dir.apply(scan, &compared.differences, progress);
        // After a failure the next commit removes what cannot be removed now.
        let removed = remove_staging(target, &staging);
        applied.and(removed)?;
    }
    // The changes of their entries have changed the times of the directories.
    for entry in scan.entries.iter().rev().filter(|entry| entry.is_dir()) {
        if let Some(node) = target.node(&entry.path)?
            && !attributes(entry, &node, marks)?.is_empty()
        {
            set_attributes(entry, &node, marks)?;
        }
    }
    syncfs(target.root()).map_err(|e| target.failed("write", Path::new(""), "syncfs", e))?;
    Ok(compared.differences.len() as u64)
}

/// Locks the target.
fn lock(target: &Tree) -> Result<Lock, Error> {
    let locked = Lock::take(target.root().clone(), false);
    locked.map_err(|e| target.failed("lock", Path::new(""), "flock", e))?.ok_or_else(|| {
        let path = target.path().display().to_string();
        let sentence = format!("another commit to {path} is in progress");
        Error::new(ErrorKind::Busy, "layer", sentence).on(path)
    })
}

/// Returns whether a difference is more than that of the attributes of a directory.
fn needs_staging(difference: &Difference) -> bool {
    let change = &difference.change;
    let is_directory = change.after.as_ref().is_some_and(|facts| facts.file_type == ChangedType::Directory);
    change.kind != ChangeKind::Changed || change.parts.contains(&Part::Type) || !is_directory
}

/// Returns a name that the container did not use.
fn staging_name(scan: &Scan) -> OsString {
    let mut name = OsString::from(".nspod-commit");
    while scan.entries.iter().any(|entry| entry.path == Path::new(&name)) {
        name.push("-");
    }
    name
}

fn remove_staging(target: &Tree, name: &OsStr) -> Result<(), Error> {
    let path = Path::new(name);
    if !target.node(path)?.is_some_and(|node| node.is_dir()) {
        return Ok(());
    }
    target.clear(path)?;
    unlinkat(target.root(), name, AtFlags::REMOVEDIR)
        .map_err(|e| target.failed("remove", path, "unlinkat", e))
}

/// The directory in which files get their content and attributes. Only the caller can enter it.
struct Staging<'a> {
    target: &'a Tree,
    upper: &'a Tree,
    marks: Marks,
    dir: OwnedFd,
    path: PathBuf,
    /// For each file with several names: a path of the target that has it.
    linked: HashMap<(u64, u64), PathBuf>,
}

/// The names in the staging directory.
const NEW: &str = "new";
const OLD: &str = "old";

impl<'a> Staging<'a> {
    fn new(
        target: &'a Tree,
        upper: &'a Tree,
        marks: Marks,
        name: &OsStr,
        linked: HashMap<(u64, u64), PathBuf>,
    ) -> Result<Staging<'a>, Error> {
        let path = PathBuf::from(name);
        mkdirat(target.root(), name, Mode::RWXU).map_err(|e| target.failed("make", &path, "mkdirat", e))?;
        Ok(Staging { target, upper, marks, dir: target.dir(&path)?, path, linked })
    }

    fn apply(
        mut self,
        scan: &Scan,
        differences: &[Difference],
        progress: &mut dyn FnMut(u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let total = differences.len() as u64;
        for (done, difference) in differences.iter().enumerate() {
            progress(done as u64, total)?;
            let path = difference.change.path.strip_prefix("/").unwrap_or(&difference.change.path);
            match difference.entry.map(|index| &scan.entries[index]) {
                _ if difference.change.kind == ChangeKind::Deleted => self.remove(path)?,
                Some(entry) if entry.is_dir() => self.dir(entry)?,
                Some(entry) => self.file(entry, scan.links.contains_key(&entry.id()))?,
                None => {}
            }
        }
        progress(total, total)
    }

    /// Removes a path of the target, with everything below it.
    fn remove(&self, path: &Path) -> Result<(), Error> {
        let Some(node) = self.target.node(path)? else { return Ok(()) };
        let (parent, name) = self.target.parent(path)?;
        let failed = |call| move |e| self.target.failed("remove", path, call, e);
        if !node.is_dir() {
            return unlinkat(&parent, name, AtFlags::empty()).map_err(failed("unlinkat"));
        }
        // The parent of a directory is an entry of it.
        self.target.make_accessible(path)?;
        renameat(&parent, name, &self.dir, OLD).map_err(failed("renameat"))?;
        self.target.clear(&self.path.join(OLD))?;
        unlinkat(&self.dir, OLD, AtFlags::REMOVEDIR).map_err(failed("unlinkat"))
    }

    /// Makes a directory, unless there is one. It gets its attributes after its entries.
    fn dir(&self, entry: &Entry) -> Result<(), Error> {
        if self.target.node(&entry.path)?.is_some_and(|node| node.is_dir()) {
            return Ok(());
        }
        self.remove(&entry.path)?;
        let (parent, name) = self.target.parent(&entry.path)?;
        mkdirat(&parent, name, Mode::RWXU).map_err(|e| self.target.failed("make", &entry.path, "mkdirat", e))
    }

    /// Makes a file, or another name of a file that the target has.
    fn file(&mut self, entry: &Entry, has_links: bool) -> Result<(), Error> {
        let target = self.target;
        let failed = |what, call| move |e| target.failed(what, &entry.path, call, e);
        match self.linked.get(&entry.id()) {
            Some(other) => {
                let (parent, name) = self.target.parent(other)?;
                linkat(&parent, name, &self.dir, NEW, AtFlags::empty()).map_err(failed("link", "linkat"))?;
            }
            None => self.make(entry)?,
        }
        if self.target.node(&entry.path)?.is_some_and(|node| node.is_dir()) {
            self.remove(&entry.path)?;
        }
        let (parent, name) = self.target.parent(&entry.path)?;
        renameat(&self.dir, NEW, &parent, name).map_err(failed("replace", "renameat"))?;
        if has_links {
            self.linked.entry(entry.id()).or_insert_with(|| entry.path.clone());
        }
        Ok(())
    }

    /// Makes a file in the staging directory, with its content and attributes.
    fn make(&self, entry: &Entry) -> Result<(), Error> {
        let failed = |call| move |e| self.target.failed("make", &entry.path, call, e);
        let Some(source) = self.upper.node(&entry.path)? else {
            return Err(self.upper.failed("read", &entry.path, "openat2", Errno::NOENT));
        };
        if source.file_type() != entry.file_type() {
            return Err(self.upper.failed("read", &entry.path, "openat2", Errno::STALE));
        }
        match entry.file_type() {
            FileType::RegularFile => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let to = openat(&self.dir, NEW, flags, Mode::RUSR | Mode::WUSR).map_err(failed("openat"))?;
                let size = u64::try_from(entry.stat.st_size).unwrap_or(0);
                copy(&source.read()?, &to.into(), size).map_err(failed("copy_file_range"))?;
            }
            FileType::Symlink => {
                symlinkat(source.target()?, &self.dir, NEW).map_err(failed("symlinkat"))?;
            }
            kind => {
                mknodat(&self.dir, NEW, kind, Mode::empty(), entry.stat.st_rdev)
                    .map_err(failed("mknodat"))?;
            }
        }
        let node = Node::within(&self.dir, OsStr::new(NEW), self.target.full(&entry.path))?;
        set_attributes(entry, &node, self.marks)
    }
}

/// Gives a file the owner, mode, extended attributes and times of an entry.
fn set_attributes(entry: &Entry, node: &Node, marks: Marks) -> Result<(), Error> {
    let (new, old) = (&entry.stat, &node.stat);
    // A change of the owner removes file capabilities and the set-user-ID bit, so it is the first.
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid) {
        node.chown(new.st_uid, new.st_gid)?;
    }
    let current = xattrs(entry, node, marks)?;
    for name in current.keys().filter(|name| !entry.xattrs.contains_key(*name)) {
        node.remove_xattr(name)?;
    }
    for (name, value) in entry.xattrs.iter().filter(|(name, value)| current.get(*name) != Some(value)) {
        node.set_xattr(name, value)?;
    }
    if entry.file_type() != FileType::Symlink {
        node.chmod(new.st_mode & 0o7777)?;
    }
    node.set_times(new)
}

/// Copies the content of a file, and keeps its holes.
fn copy(from: &File, to: &File, size: u64) -> Result<(), Errno> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut end = 0;
    while end < size {
        let start = match seek(from, SeekFrom::Data(end)) {
            Ok(start) => start,
            // The rest of the file is a hole.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e),
        };
        end = seek(from, SeekFrom::Hole(start))?;
        copy_range(from, to, start, end)?;
    }
    ftruncate(to, size)
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let most = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The file systems differ, or one of them does not support the call.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_bytes(from, to, read, end)
                    .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn copy_bytes(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let mut at = start;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let size = from.read_at(&mut buffer[..most], at)?;
        if size == 0 {
            break;
        }
        to.write_all_at(&buffer[..size], at)?;
        at += size as u64;
    }
    Ok(())
}
