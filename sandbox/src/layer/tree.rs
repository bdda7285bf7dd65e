//! A directory tree that is accessed only beneath its root: no symlink and no mount leads out of it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, ErrorKind};

/// The extended attributes of a file, by name.
pub(super) type Xattrs = BTreeMap<CString, Vec<u8>>;

/// A directory, and the files beneath it.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    path: PathBuf,
}

impl Tree {
    /// Opens a directory.
    pub(super) fn open(path: &Path) -> Result<Tree, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty());
        let root = root.map_err(|e| failed("open", path, "open", e))?;
        Ok(Tree { root: root.into(), path: path.into() })
    }

    /// Opens a directory without the mounts below it, as the lower layer of an overlay shows it. A caller
    /// that cannot copy mounts gets an error at a mount point.
    pub(super) fn open_without_mounts(path: &Path) -> Result<Tree, Error> {
        let mut tree = Tree::open(path)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if let Ok(copy) = open_tree(CWD, path, flags) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(&copy, c".", flags, Mode::empty());
            tree.root = root.map_err(|e| failed("open", path, "openat", e))?.into();
        }
        Ok(tree)
    }

    /// Returns the descriptor of the root.
    pub(super) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Returns the path with which the tree was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file, for messages.
    pub(super) fn full(&self, at: &Path) -> PathBuf {
        if at.as_os_str().is_empty() { self.path.clone() } else { self.path.join(at) }
    }

    /// Returns the error of a call on a file of the tree.
    pub(super) fn failed(&self, what: &str, at: &Path, call: &'static str, errno: Errno) -> Error {
        failed(what, &self.full(at), call, errno)
    }

    fn open_at(&self, at: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let at = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        // With O_PATH and O_NOFOLLOW, a symlink as the last component is opened itself.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, at, flags, Mode::empty(), resolve)
    }

    /// Opens a directory for reading.
    pub(super) fn dir(&self, at: &Path) -> Result<OwnedFd, Error> {
        let dir = self.open_at(at, OFlags::RDONLY | OFlags::DIRECTORY);
        dir.map_err(|e| self.failed("open", at, "openat2", e))
    }

    /// Opens the directory that contains an entry, and returns the name of the entry in it.
    pub(super) fn parent<'a>(&self, at: &'a Path) -> Result<(OwnedFd, &'a OsStr), Error> {
        let (parent, name) =
            (at.parent().unwrap_or(Path::new("")), at.file_name().unwrap_or(OsStr::new(".")));
        let dir = self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY);
        Ok((dir.map_err(|e| self.failed("open", parent, "openat2", e))?, name))
    }

    /// Returns a file; `None` if it does not exist, or a component of its path is not a directory.
    pub(super) fn node(&self, at: &Path) -> Result<Option<Node>, Error> {
        match self.open_at(at, OFlags::PATH) {
            Ok(fd) => Ok(Some(Node::new(fd, self.full(at))?)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(self.failed("open", at, "openat2", e)),
        }
    }

    /// Returns the names in a directory, sorted.
    pub(super) fn names(&self, at: &Path) -> Result<Vec<OsString>, Error> {
        let failed = |e| self.failed("read", at, "getdents64", e);
        let mut names = Vec::new();
        for entry in Dir::read_from(self.dir(at)?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.into()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes everything in a directory.
    pub(super) fn clear(&self, at: &Path) -> Result<(), Error> {
        let mut dirs = vec![at.to_owned()];
        while let Some(dir) = dirs.last().cloned() {
            self.make_accessible(&dir)?;
            let fd = self.dir(&dir)?;
            let before = dirs.len();
            for name in self.names(&dir)? {
                match rustix::fs::unlinkat(&fd, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR) => dirs.push(dir.join(name)),
                    Err(e) => return Err(self.failed("remove", &dir.join(name), "unlinkat", e)),
                }
            }
            if dirs.len() == before {
                dirs.pop();
                if dir != at {
                    let (parent, name) = self.parent(&dir)?;
                    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
                        .map_err(|e| self.failed("remove", &dir, "unlinkat", e))?;
                }
            }
        }
        Ok(())
    }

    /// Gives the owner all rights in a directory, if the caller is subject to them.
    pub(super) fn make_accessible(&self, at: &Path) -> Result<(), Error> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        match self.node(at)? {
            Some(node) if node.is_dir() && node.stat.st_mode & 0o700 != 0o700 => {
                node.chmod(node.stat.st_mode & 0o7777 | 0o700)
            }
            _ => Ok(()),
        }
    }
}

/// A file, opened without an effect on it (`O_PATH`).
#[derive(Debug)]
pub(super) struct Node {
    fd: OwnedFd,
    path: PathBuf,
    pub(super) stat: Stat,
}

impl Node {
    fn new(fd: OwnedFd, path: PathBuf) -> Result<Node, Error> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("inspect", &path, "fstat", e))?;
        Ok(Node { fd, path, stat })
    }

    /// Opens an entry of a directory that no other program changes.
    pub(super) fn within(dir: &OwnedFd, name: &OsStr, path: PathBuf) -> Result<Node, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty());
        Node::new(fd.map_err(|e| failed("open", &path, "openat", e))?, path)
    }

    /// Returns the path of the descriptor in procfs. It leads to the file itself, also to a symlink.
    fn magic_link(&self) -> String {
        format!("/proc/thread-self/fd/{}", self.fd.as_raw_fd())
    }

    fn failed(&self, what: &str, call: &'static str, errno: Errno) -> Error {
        failed(what, &self.path, call, errno)
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Returns device and inode number.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Opens a regular file for reading. Opening another file could block, or have an effect on the host.
    pub(super) fn read(&self) -> Result<File, Error> {
        if self.file_type() != FileType::RegularFile {
            let sentence = format!("cannot read {}: it is not a regular file", self.path.display());
            return Err(Error::new(ErrorKind::InvalidInput, "layer", sentence));
        }
        let opened = rustix::fs::open(self.magic_link(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(opened.map_err(|e| self.failed("read", "open", e))?.into())
    }

    /// Returns the target of a symlink.
    pub(super) fn target(&self) -> Result<CString, Error> {
        rustix::fs::readlinkat(&self.fd, c"", Vec::new()).map_err(|e| self.failed("read", "readlinkat", e))
    }

    /// Returns the extended attributes that the caller can read.
    pub(super) fn xattrs(&self) -> Result<Xattrs, Error> {
        let path = self.magic_link();
        let list = whole(|buffer| rustix::fs::listxattr(&*path, buffer));
        let list = match list {
            Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
            list => list.map_err(|e| self.failed("list the extended attributes of", "listxattr", e))?,
        };
        let mut found = Xattrs::new();
        for name in list.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            match whole(|buffer| rustix::fs::getxattr(&*path, name, buffer)) {
                Ok(value) => _ = found.insert(name.into(), value),
                // It was removed meanwhile, or the file system lists it and does not have it.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(e) => {
                    let what = format!("read the extended attribute {} of", name.to_string_lossy());
                    return Err(self.failed(&what, "getxattr", e));
                }
            }
        }
        Ok(found)
    }

    pub(super) fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<(), Error> {
        rustix::fs::setxattr(self.magic_link(), name, value, rustix::fs::XattrFlags::empty()).map_err(|e| {
            let what = format!("set the extended attribute {} of", name.to_string_lossy());
            self.failed(&what, "setxattr", e)
        })
    }

    pub(super) fn remove_xattr(&self, name: &CStr) -> Result<(), Error> {
        rustix::fs::removexattr(self.magic_link(), name).map_err(|e| {
            let what = format!("remove the extended attribute {} of", name.to_string_lossy());
            self.failed(&what, "removexattr", e)
        })
    }

    pub(super) fn chmod(&self, mode: u32) -> Result<(), Error> {
        let set = rustix::fs::chmod(self.magic_link(), Mode::from_raw_mode(mode));
        set.map_err(|e| self.failed("change the mode of", "chmod", e))
    }

    pub(super) fn chown(&self, uid: u32, gid: u32) -> Result<(), Error> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&self.fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(|e| self.failed("change the owner of", "fchownat", e))
    }

    /// Sets the times of access and modification to those of another file.
    pub(super) fn set_times(&self, of: &Stat) -> Result<(), Error> {
        let time = |seconds: i64, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps {
            last_access: time(of.st_atime as _, of.st_atime_nsec as _),
            last_modification: time(of.st_mtime as _, of.st_mtime_nsec as _),
        };
        rustix::fs::utimensat(CWD, self.magic_link(), &times, AtFlags::empty())
            .map_err(|e| self.failed("set the times of", "utimensat", e))
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Calls a function with growing buffers until the whole result fits.
fn whole(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(size) => {
                buffer.truncate(size);
                return Ok(buffer);
            }
            // The kernel's maximum is 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 16, 0),
            Err(e) => return Err(e),
        }
    }
}

/// Returns the error of a call on a path.
fn failed(what: &str, path: &Path, call: &'static str, errno: Errno) -> Error {
    let path = String::from_utf8_lossy(path.as_os_str().as_bytes()).escape_debug().to_string();
    let error = Error::call("layer", format!("{what} {path}"), call, errno.raw_os_error()).on(path);
    match errno {
        Errno::XDEV | Errno::BUSY => error.and_hint("a file system is mounted there"),
        Errno::NOSPC | Errno::DQUOT => error.and_hint("free space, and repeat the command"),
        _ => error,
    }
}
