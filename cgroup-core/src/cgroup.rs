//! The handle of a cgroup: an open directory, and the files in it.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, Uid, UnlinkatFlags, faccessat, unlinkat};

use crate::cause::cause;
use crate::controller::Controllers;
use crate::error::{Error, ErrorKind, Result};
use crate::parse;

/// A cgroup: its open directory, and its path for messages.
///
/// The handle refers to the cgroup that it was opened on. If that cgroup is removed and another is
/// created with the same path, calls fail with `ENODEV` or `ENOENT` and do not reach the other one.
/// The descriptor ([`AsFd`]) can be passed to `clone3` with `CLONE_INTO_CGROUP` (since Linux 5.7).
/// Dropping the handle closes the directory and keeps the cgroup.
///
/// The handle opens files with
/// [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html), so most methods require Linux
/// 5.6. The version at a method is the first that has the file.
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
    /// Whether the handle was opened through its parent. If so, the cgroup is not the top of the mount.
    below: bool,
}

const DIR_FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The path at which the cgroup was opened, for functions that open it again.
impl From<&Cgroup> for PathBuf {
    fn from(cgroup: &Cgroup) -> PathBuf {
        cgroup.path.clone()
    }
}

/// The same path.
impl AsRef<Path> for Cgroup {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Cgroup {
    /// Opens the cgroup at a path of the file system, such as `/sys/fs/cgroup/user.slice`.
    ///
    /// Since Linux 4.5. Section "Mounting".
    ///
    /// # Errors
    /// - `NotCgroup2`: the directory is on another file system, such as one of cgroup v1.
    /// - `NotFound` (`ENOENT`), `PermissionDenied` (`EACCES`), `Os` (`ENOTDIR`, `EMFILE`,
    ///   `ENFILE`).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let dir = nix::fcntl::open(path, DIR_FLAGS, Mode::empty()).map_err(|errno| {
            Error::os(format!("open cgroup {}", path.display()), "open", errno, None).on(path)
        })?;
        match fstatfs(&dir) {
            Ok(stat) if stat.filesystem_type() == CGROUP2_SUPER_MAGIC => {
                Ok(Self { dir, path: path.to_owned(), below: false })
            }
            Ok(_) => Err(Error::not_cgroup2(path)),
            Err(errno) => {
                Err(Error::os(format!("inspect {}", path.display()), "fstatfs", errno, None).on(path))
            }
        }
    }

    /// Returns another handle of the same cgroup.
    ///
    /// [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), `F_DUPFD_CLOEXEC`.
    ///
    /// # Errors
    /// `Os` (`EMFILE`): no descriptor is free.
    pub fn try_clone(&self) -> Result<Self> {
        let dir = self.dir.try_clone().map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(0));
            Error::os(format!("duplicate the handle of cgroup {}", self.path.display()), "fcntl", errno, None)
                .on(&self.path)
        })?;
        Ok(Self { dir, path: self.path.clone(), below: self.below })
    }

    /// Returns the path at which the cgroup was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the last component of the path, or `/` if there is none.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or(OsStr::new("/"))
    }

    /// Opens the child with this name.
    ///
    /// Since Linux 5.6. [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html).
    ///
    /// # Errors
    /// - `InvalidName`: the name is not one path component.
    /// - `NotFound` (`ENOENT`): the child does not exist, or this cgroup was removed.
    /// - `PermissionDenied` (`EACCES`); `Os` (`ENOTDIR`): the name is that of a file; (`EMFILE`,
    ///   `ENFILE`): no descriptor is free.
    pub fn child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = valid(name.as_ref())?;
        let path = self.path.join(name);
        match self.open_beneath(name, DIR_FLAGS) {
            Ok(dir) => Ok(Self { dir, path, below: true }),
            Err(errno) => {
                Err(Error::os(format!("open cgroup {}", path.display()), "openat2", errno, None).on(&path))
            }
        }
    }

    /// Creates a child with this name and opens it.
    ///
    /// Since Linux 4.5. Section "Organizing Processes and Threads".
    ///
    /// # Errors
    /// - `InvalidName`: the name is not one path component.
    /// - `AlreadyExists` (`EEXIST`): a cgroup or a file has this name.
    /// - `PermissionDenied` (`EACCES`, `EPERM`): this cgroup is not delegated to the caller;
    ///   (`EROFS`): cgroup2 is mounted read-only.
    /// - `Os` (`EAGAIN`): `cgroup.max.depth` or `cgroup.max.descendants` of an ancestor is reached.
    /// - `NotFound` (`ENOENT`): this cgroup was removed.
    pub fn create_child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = valid(name.as_ref())?;
        match mkdirat(&self.dir, name, Mode::from_bits_truncate(0o755)) {
            // The caller cannot remove a cgroup that it cannot open.
            Ok(()) => self.child(name).inspect_err(|_| {
                let _ = unlinkat(&self.dir, name, UnlinkatFlags::RemoveDir);
            }),
            Err(errno) => {
                let cause = match errno {
                    Errno::EACCES | Errno::EPERM if Uid::effective().is_root() => {
                        Some("this cgroup is not delegated to root here: use a delegated cgroup")
                    }
                    Errno::EACCES | Errno::EPERM => Some(
                        "this cgroup is not delegated to the caller: run as root, or use a delegated cgroup",
                    ),
                    Errno::EROFS => Some("cgroup2 is mounted read-only here"),
                    Errno::EAGAIN => {
                        Some("cgroup.max.depth or cgroup.max.descendants of an ancestor is reached")
                    }
                    _ => None,
                };
                let path = self.path.join(name);
                let step = format!("create cgroup {}", path.display());
                Err(Error::os(step, "mkdirat", errno, cause).on(&path))
            }
        }
    }

    /// Opens the child with this name, and creates it if it does not exist.
    pub(crate) fn open_or_create_child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        self.open_or_make(name.as_ref()).map(|(child, _)| child)
    }

    /// Opens or creates the child, and returns whether it was created. Another program can remove the child
    /// between the calls, because it is empty. Then it is created again.
    pub(crate) fn open_or_make(&self, name: &OsStr) -> Result<(Self, bool)> {
        let attempt = || -> Result<(Self, bool)> {
            match self.create_child(name) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((self.child(name)?, false)),
                made => Ok((made?, true)),
            }
        };
        for _ in 0..100 {
            match attempt() {
                Err(error) if error.kind() == ErrorKind::NotFound => std::thread::yield_now(),
                other => return other,
            }
        }
        attempt()
    }

    /// Opens the parent. Returns `None` for the top of the mount.
    ///
    /// Since Linux 4.5. [openat(2)](https://man7.org/linux/man-pages/man2/openat.2.html).
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`): this cgroup was removed.
    /// - `PermissionDenied` (`EACCES`), `Os` (`EMFILE`, `ENFILE`).
    pub fn parent(&self) -> Result<Option<Self>> {
        let fail = |call, errno| {
            let step = format!("open the parent of cgroup {}", self.path.display());
            Error::os(step, call, errno, None).on(&self.path)
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
            return Ok(None); // The mount is the root directory of this process.
        }
        let path = match self.path.parent() {
            Some(parent) if self.path.file_name().is_some() => parent.to_owned(),
            _ => self.path.join(".."),
        };
        Ok(Some(Self { dir, path, below: false }))
    }

    /// Removes the cgroup if it is empty. Returns whether it was removed.
    pub(crate) fn remove_at_once(&self) -> bool {
        let remove = |dir: &OwnedFd, name: &Path| unlinkat(dir, name, UnlinkatFlags::RemoveDir).is_ok();
        match self.below {
            // If this cgroup was removed, another cgroup may have its name.
            true => {
                faccessat(&self.dir, "cgroup.procs", AccessFlags::F_OK, AtFlags::empty()).is_ok()
                    && remove(&self.dir, &Path::new("..").join(self.name()))
            }
            false => self
                .parent()
                .is_ok_and(|parent| parent.is_some_and(|parent| remove(&parent.dir, Path::new(self.name())))),
        }
    }

    /// Opens all children, in no particular order. Leaves out children that are removed meanwhile.
    ///
    /// Since Linux 5.6. [getdents(2)](https://man7.org/linux/man-pages/man2/getdents.2.html).
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`): this cgroup was removed.
    /// - `PermissionDenied` (`EACCES`), `Os` (`EMFILE`, `ENFILE`). Each child requires a descriptor:
    ///   [`each_child`](Self::each_child) opens one at a time.
    pub fn children(&self) -> Result<Vec<Self>> {
        self.each_child()?.collect()
    }

    /// Lists the children, and opens each when the iterator reaches it. Leaves out children that are
    /// removed meanwhile.
    ///
    /// Since Linux 5.6. [getdents(2)](https://man7.org/linux/man-pages/man2/getdents.2.html).
    ///
    /// # Errors
    /// As [`children`](Self::children), also for each child.
    pub fn each_child(&self) -> Result<impl Iterator<Item = Result<Self>>> {
        let names = self.child_names()?;
        Ok(names.into_iter().filter_map(|name| match self.child(name) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => None,
            opened => Some(opened),
        }))
    }

    /// Returns the names of the children, in no particular order.
    pub(crate) fn child_names(&self) -> Result<Vec<OsString>> {
        let fail = |call, errno| {
            Error::os(format!("list cgroup {}", self.path.display()), call, errno, None).on(&self.path)
        };
        let mut dir = Dir::openat(&self.dir, ".", DIR_FLAGS, Mode::empty()).map_err(|e| fail("openat", e))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| fail("getdents64", errno))?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == Some(Type::Directory) && name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Returns the controllers that the parent enables for this cgroup: `cgroup.controllers`.
    ///
    /// Since Linux 4.5. Section "Core Interface Files".
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn available(&self) -> Result<Controllers> {
        Ok(parse::controllers(&self.read("cgroup.controllers")?))
    }

    /// Returns the controllers that this cgroup enables for its children: `cgroup.subtree_control`.
    ///
    /// Since Linux 4.5. Section "Core Interface Files".
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn enabled(&self) -> Result<Controllers> {
        Ok(parse::controllers(&self.read("cgroup.subtree_control")?))
    }

    /// Reads a file of the cgroup.
    ///
    /// Since Linux 5.6. Section "Core Interface Files", and "Controllers" for the files of each
    /// controller.
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`): the file does not exist, because a controller is not enabled or the
    ///   kernel is too old; or (`ENODEV`) the cgroup was removed.
    /// - `Unsupported` (`EOPNOTSUPP`): the file cannot be read here, such as `cgroup.procs` in a
    ///   threaded cgroup.
    /// - `PermissionDenied` (`EACCES`); `Os` (`EXDEV`): the name leads out of the cgroup.
    pub fn read(&self, file: &str) -> Result<String> {
        let fail = |call, errno| {
            self.fail(format_args!("read {}", self.path.join(file).display()), call, file, errno)
        };
        let fd = self.open_file(file, OFlag::O_RDONLY).map_err(|errno| fail("openat2", errno))?;
        read_all(&fd).map_err(|errno| fail("read", errno))
    }

    /// Reads a file of the cgroup, like [`read`](Self::read). Returns `None` if the file does not
    /// exist (`ENOENT`) or cannot be read in this cgroup (`EOPNOTSUPP`).
    ///
    /// Since Linux 5.6. Section "Interface Files".
    ///
    /// # Errors
    /// As [`read`](Self::read), without `ENOENT` and `EOPNOTSUPP`.
    pub fn read_if_there(&self, file: &str) -> Result<Option<String>> {
        match self.read(file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a value to a file of the cgroup, with one write.
    ///
    /// Since Linux 5.6. Section "Interface Files".
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`, `ENODEV`): as for [`read`](Self::read); (`ESRCH`): the
    ///   process does not exist.
    /// - `Os` (`EINVAL`, `ERANGE`): the kernel rejects the value.
    /// - `Busy` (`EBUSY`); `PermissionDenied` (`EACCES`, `EPERM`, `EROFS`).
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

    /// Opens a file below the directory. The kernel rejects names that lead out of it, by `..` or
    /// by a symbolic link.
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

/// Checks that a name is one path component, and can be shown in a line of /proc.
pub(crate) fn valid(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_bytes();
    let why = match bytes {
        b"" => "it is empty",
        b"." | b".." => "it refers to another directory",
        _ if bytes.contains(&b'/') => {
            "it contains a slash: create one cgroup after the other, or use create_path"
        }
        _ if bytes.contains(&b'\n') => "it contains a newline, which /proc/PID/cgroup cannot show",
        _ if bytes.contains(&0) => "it contains NUL",
        _ if bytes.len() > 255 => "it is longer than 255 bytes",
        _ => return Ok(name),
    };
    Err(Error::name(bytes, why))
}

/// Reads a small file from its start, and does not use its offset.
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
