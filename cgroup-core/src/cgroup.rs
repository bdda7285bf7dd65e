//! The handle: an open directory, and its files.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use crate::cause::cause;
use crate::controller::Controllers;
use crate::error::{Error, ErrorKind, Result};
use crate::parse;

/// A cgroup: its open directory, with its path for messages.
///
/// The handle stays with the cgroup it was opened on: if that is removed and another made under
/// the same path, calls fail with `ENODEV` or `ENOENT` rather than reach the other one. As a file
/// descriptor ([`AsFd`]) it is what `clone3`'s `CLONE_INTO_CGROUP` takes. Dropping it closes the
/// directory and leaves the cgroup.
///
/// ```no_run
/// use cgroup_core::{Hierarchy, Limits, Max};
/// let group = Hierarchy::detect()?.root()?.create_child("job")?;
/// group.apply(&Limits { pids_max: Some(Max::Value(64)), ..Limits::default() })?;
/// group.attach(0)?; // this process
/// println!("{:?}", group.usage()?);
/// # Ok::<(), cgroup_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Cgroup {
    dir: OwnedFd,
    path: PathBuf,
    /// It was found in its parent, so that there is one.
    below: bool,
}

const DIR_FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Cgroup {
    /// Opens the cgroup at a path of the file system, such as `/sys/fs/cgroup/user.slice`.
    ///
    /// # Errors
    /// `NotCgroup2` where the directory is of another file system (as all of v1's are);
    /// `NotFound` (`ENOENT`), `PermissionDenied` (`EACCES`).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let dir = nix::fcntl::open(path, DIR_FLAGS, Mode::empty())
            .map_err(|errno| Error::os(format!("open cgroup {}", path.display()), "open", errno, None))?;
        match fstatfs(&dir) {
            Ok(stat) if stat.filesystem_type() == CGROUP2_SUPER_MAGIC => {
                Ok(Self { dir, path: path.to_owned(), below: false })
            }
            Ok(_) => Err(Error::not_cgroup2(path)),
            Err(errno) => Err(Error::os(format!("inspect {}", path.display()), "fstatfs", errno, None)),
        }
    }

    /// Its path at the time it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of its path.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or(OsStr::new("/"))
    }

    /// Opens the child of this name.
    ///
    /// # Errors
    /// `InvalidName`, `NotFound` (`ENOENT`; `ENOTDIR` where the name is a file's).
    pub fn child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = valid(name.as_ref())?;
        let path = self.path.join(name);
        match self.open_beneath(name, DIR_FLAGS) {
            Ok(dir) => Ok(Self { dir, path, below: true }),
            Err(errno) => Err(Error::os(format!("open cgroup {}", path.display()), "openat2", errno, None)),
        }
    }

    /// Makes a child of this name and opens it.
    ///
    /// # Errors
    /// `InvalidName`; `AlreadyExists` (`EEXIST`); `PermissionDenied` where this cgroup is not
    /// delegated to the caller; `Os` with `EAGAIN` where an ancestor's `cgroup.max.depth` or
    /// `cgroup.max.descendants` is reached; `NotFound` where this cgroup was removed.
    pub fn create_child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = valid(name.as_ref())?;
        match mkdirat(&self.dir, name, Mode::from_bits_truncate(0o755)) {
            // Nobody would know of one that cannot be opened.
            Ok(()) => self.child(name).inspect_err(|_| {
                let _ = unlinkat(&self.dir, name, UnlinkatFlags::RemoveDir);
            }),
            Err(errno) => {
                let cure = match errno {
                    Errno::EACCES | Errno::EPERM => {
                        Some("this cgroup is not delegated to the caller: be root, or use a delegated one")
                    }
                    Errno::EROFS => Some("cgroup2 is mounted read-only here"),
                    Errno::EAGAIN => {
                        Some("cgroup.max.depth or cgroup.max.descendants of an ancestor is reached")
                    }
                    _ => None,
                };
                Err(Error::os(
                    format!("create cgroup {}", self.path.join(name).display()),
                    "mkdirat",
                    errno,
                    cure,
                ))
            }
        }
    }

    /// Opens the child of this name, and makes it where it does not exist.
    pub(crate) fn open_or_create_child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        self.open_or_make(name.as_ref()).map(|(child, _)| child)
    }

    /// The same, and whether it was made.
    pub(crate) fn open_or_make(&self, name: &OsStr) -> Result<(Self, bool)> {
        match self.create_child(name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((self.child(name)?, false)),
            made => Ok((made?, true)),
        }
    }

    /// The parent; `None` where this is the top of the mount.
    ///
    /// # Errors
    /// `NotFound` where this cgroup was removed, `PermissionDenied`.
    pub fn parent(&self) -> Result<Option<Self>> {
        let fail = |call, errno| {
            Error::os(format!("open the parent of cgroup {}", self.path.display()), call, errno, None)
        };
        let dir = openat(&self.dir, "..", DIR_FLAGS, Mode::empty()).map_err(|errno| fail("openat", errno))?;
        let stat = fstatfs(&dir).map_err(|errno| fail("fstatfs", errno))?;
        if stat.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Ok(None);
        }
        let id = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        if id(&dir).map_err(|errno| fail("fstat", errno))?
            == id(&self.dir).map_err(|errno| fail("fstat", errno))?
        {
            return Ok(None); // The mount is this process's root directory.
        }
        let path = match self.path.parent() {
            Some(parent) if self.path.file_name().is_some() => parent.to_owned(),
            _ => self.path.join(".."),
        };
        Ok(Some(Self { dir, path, below: false }))
    }

    /// Removes it where nothing is in it.
    pub(crate) fn remove_at_once(&self) -> bool {
        let remove = |dir: &OwnedFd, name: &Path| unlinkat(dir, name, UnlinkatFlags::RemoveDir).is_ok();
        match self.below {
            // Of one that was removed the name may be another's by now.
            true => {
                faccessat(&self.dir, "cgroup.procs", AccessFlags::F_OK, AtFlags::empty()).is_ok()
                    && remove(&self.dir, &Path::new("..").join(self.name()))
            }
            false => self
                .parent()
                .is_ok_and(|parent| parent.is_some_and(|parent| remove(&parent.dir, Path::new(self.name())))),
        }
    }

    /// The children, in no order. Those that vanish meanwhile are left out.
    ///
    /// # Errors
    /// `NotFound` where this cgroup was removed, `PermissionDenied`.
    pub fn children(&self) -> Result<Vec<Self>> {
        let fail = |call, errno| Error::os(format!("list cgroup {}", self.path.display()), call, errno, None);
        let mut dir = Dir::openat(&self.dir, ".", DIR_FLAGS, Mode::empty()).map_err(|e| fail("openat", e))?;
        let mut children = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| fail("getdents64", errno))?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() != Some(Type::Directory) || name == b"." || name == b".." {
                continue;
            }
            match self.child(OsStr::from_bytes(name)) {
                Ok(child) => children.push(child),
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }

    /// The controllers that its parent hands down: `cgroup.controllers`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn available(&self) -> Result<Controllers> {
        Ok(parse::controllers(&self.read("cgroup.controllers")?))
    }

    /// The controllers that it hands down to its children: `cgroup.subtree_control`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn enabled(&self) -> Result<Controllers> {
        Ok(parse::controllers(&self.read("cgroup.subtree_control")?))
    }

    /// The whole text of one of its files.
    ///
    /// # Errors
    /// `NotFound` (`ENOENT`) where there is no such file, for want of a controller or of a newer
    /// kernel, or (`ENODEV`) the cgroup was removed; `Unsupported` (`EOPNOTSUPP`) for
    /// `cgroup.procs` in a threaded cgroup.
    pub fn read(&self, file: &str) -> Result<String> {
        let fail = |call, errno| {
            self.fail(format_args!("read {}", self.path.join(file).display()), call, file, errno)
        };
        let fd = self.open_file(file, OFlag::O_RDONLY).map_err(|errno| fail("openat2", errno))?;
        read_all(&fd).map_err(|errno| fail("read", errno))
    }

    /// As [`read`](Self::read), with `None` where there is no such file.
    ///
    /// # Errors
    /// As [`read`](Self::read), without `ENOENT`.
    pub fn read_if_there(&self, file: &str) -> Result<Option<String>> {
        match self.read(file) {
            Ok(text) => Ok(Some(text)),
            // Some files exist everywhere and refuse to be read where they mean nothing.
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a value to one of its files, in one write.
    ///
    /// # Errors
    /// `NotFound` (`ENOENT`, `ENODEV`) as [`read`](Self::read), or (`ESRCH`) no such process;
    /// `Os` with `EINVAL` or `ERANGE` for a value that the kernel refuses; `Busy` (`EBUSY`);
    /// `PermissionDenied`.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        let fd = self.open_for_write(file, value)?;
        self.write_to(&fd, file, value)
    }

    pub(crate) fn open_for_write(&self, file: &str, value: &str) -> Result<OwnedFd> {
        self.open_file(file, OFlag::O_WRONLY).map_err(|errno| self.fail_write("openat2", file, value, errno))
    }

    pub(crate) fn write_to(&self, fd: &OwnedFd, file: &str, value: &str) -> Result<()> {
        match nix::unistd::write(fd, value.as_bytes()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(self.fail_write("write", file, value, errno)),
        }
    }

    pub(crate) fn open_file(&self, file: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        self.open_beneath(OsStr::new(file), flags | OFlag::O_CLOEXEC)
    }

    /// Resolved by the kernel so that neither `..` nor a symlink leads out of the directory.
    fn open_beneath(&self, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
        let beneath = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(&self.dir, name, OpenHow::new().flags(flags).resolve(beneath))
    }

    fn fail_write(&self, call: &'static str, file: &str, value: &str, errno: Errno) -> Error {
        self.fail(format_args!("write {value:?} to {}", self.path.join(file).display()), call, file, errno)
    }

    pub(crate) fn fail(
        &self,
        step: impl std::fmt::Display,
        call: &'static str,
        file: &str,
        errno: Errno,
    ) -> Error {
        let error = Error::os(step.to_string(), call, errno, cause(file, errno)).on(&self.path);
        if file.is_empty() { error } else { error.with_field(file) }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl AsRawFd for Cgroup {
    fn as_raw_fd(&self) -> i32 {
        self.dir.as_raw_fd()
    }
}

/// A name that is exactly one component and fit to be printed in a line.
pub(crate) fn valid(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_bytes();
    let why = match bytes {
        b"" => "it is empty",
        b"." | b".." => "it means another directory",
        _ if bytes.contains(&b'/') => "it has a slash: make one cgroup after the other",
        _ if bytes.contains(&b'\n') => "it has a newline, which /proc/PID/cgroup cannot show",
        _ if bytes.contains(&0) => "it has a NUL",
        _ if bytes.len() > 255 => "it is longer than 255 bytes",
        _ => return Ok(name),
    };
    Err(Error::name(bytes, why))
}

/// The whole of a small file from its start, wherever its offset is.
pub(crate) fn read_all(fd: &OwnedFd) -> nix::Result<String> {
    let mut bytes = vec![0; 4096];
    let mut filled = 0;
    loop {
        match nix::sys::uio::pread(fd, &mut bytes[filled..], filled as i64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        if filled == bytes.len() {
            bytes.resize(filled * 2, 0);
        }
    }
    bytes.truncate(filled);
    Ok(match String::from_utf8_lossy(&bytes) {
        Cow::Owned(text) => text,
        Cow::Borrowed(_) => String::from_utf8(bytes).unwrap_or_default(),
    })
}
