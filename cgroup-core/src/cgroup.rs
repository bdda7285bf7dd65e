//! The handle: an open directory, and its files.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use crate::{Controllers, Error, ErrorKind, Hierarchy, Missing, Result, parse};

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

    /// Opens the top of the cgroup2 mount: where it is on almost every machine, and otherwise
    /// where [`Hierarchy::detect`] finds it, which reads more of `/proc`.
    ///
    /// ```no_run
    /// let top = cgroup_core::Cgroup::top()?;
    /// println!("{} has {}", top.path().display(), top.available()?);
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NoHierarchy` where none is mounted; else as [`open`](Self::open).
    pub fn top() -> Result<Self> {
        for usual in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            if let Ok(top) = Self::open(usual) {
                return Ok(top);
            }
        }
        Hierarchy::detect()?.root()
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
    fn open_or_make(&self, name: &OsStr) -> Result<(Self, bool)> {
        match self.create_child(name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((self.child(name)?, false)),
            made => Ok((made?, true)),
        }
    }

    /// Makes the cgroup of this path below this one, and those on the way to it that do not exist,
    /// for processes to be started in. One that exists is taken if nothing is in it or below.
    ///
    /// A slash at the start means nothing: the path `/kubepods/pod1/c` of an OCI configuration is
    /// one below [`Hierarchy::root`].
    ///
    /// Of the controllers each cgroup on the way hands down what it can. What is then lacking is no
    /// error here: [`enable_path`](Self::enable_path) says what is in the way of a limit.
    ///
    /// ```no_run
    /// use cgroup_core::{Controllers, Hierarchy};
    /// let top = Hierarchy::detect()?.root()?;
    /// let group = top.create_path("/kubepods/burstable/pod1/c", Controllers::all())?;
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AlreadyExists` where the cgroup holds processes, or is frozen; `InvalidName` where the path
    /// has `..` in it or names no cgroup; and as [`create_child`](Self::create_child).
    pub fn create_path(&self, path: impl AsRef<Path>, controllers: Controllers) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |why| Error::name(path.as_os_str().as_bytes(), why);
        let mut names = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => names.push(valid(name)?),
                Component::ParentDir => return Err(wrong("it has `..` in it")),
                _ => {}
            }
        }
        if names.is_empty() {
            return Err(wrong("it names no cgroup below the top"));
        }
        let mut way = Vec::new();
        match self.make_way(&names, controllers, &mut way) {
            Ok(()) => way.pop().map(|(last, _)| last).ok_or_else(|| wrong("it names no cgroup")),
            Err(e) => {
                for (cgroup, _) in way.iter().rev().filter(|(_, made)| *made) {
                    cgroup.remove_at_once();
                }
                Err(e)
            }
        }
    }

    /// Opens these, one below the other, and says which of them were made.
    fn make_way(
        &self,
        names: &[&OsStr],
        controllers: Controllers,
        way: &mut Vec<(Self, bool)>,
    ) -> Result<()> {
        for name in names {
            let above = way.last().map_or(self, |(cgroup, _)| cgroup);
            let wanted = controllers & above.available()?;
            if above.hand_down(wanted).is_err() {
                wanted.members().for_each(|one| drop(above.hand_down(one.into())));
            }
            way.push(above.open_or_make(name)?);
        }
        way.last().map_or(Ok(()), |(last, _)| last.is_free())
    }

    /// Whether processes can be started in it as in a new one.
    fn is_free(&self) -> Result<()> {
        let events = self.events()?;
        if !events.populated && !events.frozen {
            return Ok(());
        }
        let (what, cure) = match self.procs_recursive() {
            Ok(pids) if events.populated => {
                (format!("which holds the processes {pids:?}"), "end them first, or choose another path")
            }
            _ => ("which is frozen".to_owned(), "thaw it (0 to its cgroup.freeze), or choose another path"),
        };
        Err(Error::os(
            format!("create cgroup {}, {what}", self.path.display()),
            "mkdirat",
            Errno::EEXIST,
            Some(cure),
        ))
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

    /// Hands these controllers down to the children, in one write and only those that are not yet.
    ///
    /// Beside processes of its own the kernel lets only `cpu`, `cpuset` and `pids` in, and the
    /// children are then for threads alone ([`set_type_threaded`](Self::set_type_threaded)): no
    /// process can be attached to them.
    ///
    /// # Errors
    /// `NotFound` (`ENOENT`) where a controller is not [`available`](Self::available) here; `Busy`
    /// (`EBUSY`) where the cgroup holds processes (the no-internal-processes rule: a cgroup other
    /// than the root has either processes or controllers for its children); `Unsupported`
    /// (`EOPNOTSUPP`) for a domain controller in a threaded subtree.
    pub fn enable(&self, controllers: Controllers) -> Result<()> {
        if controllers.is_empty() {
            return Ok(());
        }
        let missing = controllers - self.enabled()?;
        if missing.is_empty() {
            return Ok(());
        }
        self.write("cgroup.subtree_control", &signed('+', missing))
    }

    /// Takes these controllers from the children.
    ///
    /// # Errors
    /// `Busy` (`EBUSY`) where a child hands them down in turn.
    pub fn disable(&self, controllers: Controllers) -> Result<()> {
        let present = controllers & self.enabled()?;
        if present.is_empty() { Ok(()) } else { self.write("cgroup.subtree_control", &signed('-', present)) }
    }

    /// Makes these controllers available in this cgroup, by enabling them in each ancestor from
    /// the topmost that lacks them down to the parent. What is available already costs one read.
    ///
    /// # Errors
    /// `Unenforceable`, with the reason for each, where even the top of the mount lacks a
    /// controller; `Busy` where an ancestor holds processes, which are named, even for the
    /// controllers that could be enabled beside them; and all of [`enable`](Self::enable)'s.
    pub fn enable_path(&self, controllers: Controllers) -> Result<()> {
        let missing = controllers - self.available()?;
        if missing.is_empty() {
            return Ok(());
        }
        match self.parent()? {
            Some(parent) => {
                parent.enable_path(missing)?;
                parent.hand_down(missing)
            }
            None => {
                let host = Hierarchy::detect()?;
                let why = |controller| {
                    let at = self.path.clone();
                    let missing =
                        host.why_missing(controller).unwrap_or(Missing::NotDelegated { controller, at });
                    (controller.to_string(), missing)
                };
                Err(Error::cannot_enforce(missing.members().map(why).collect()))
            }
        }
    }

    /// As [`enable`](Self::enable), for children that shall hold processes: of the controllers that
    /// can be enabled beside processes none is.
    fn hand_down(&self, controllers: Controllers) -> Result<()> {
        // Of another type is the root, which may, and what is for threads already.
        if !(controllers - self.enabled()?).is_empty()
            && self.read_if_there("cgroup.type")?.as_deref() == Some("domain\n")
        {
            let pids = self.procs()?;
            if !pids.is_empty() {
                return Err(self.fail(
                    format_args!(
                        "enable {controllers} in {}, which holds the processes {pids:?}",
                        self.path.display()
                    ),
                    "write",
                    "cgroup.subtree_control",
                    Errno::EBUSY,
                ));
            }
        }
        self.enable(controllers)
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
        Error::os(step.to_string(), call, errno, cure(file, errno))
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

/// What to do about an errno of one of a cgroup's files.
fn cure(file: &str, errno: Errno) -> Option<&'static str> {
    Some(match (file, errno) {
        ("io.max" | "io.weight" | "io.latency", Errno::ENODEV | Errno::ENXIO) => {
            "there is no such disk: name a whole disk as MAJOR:MINOR, not a partition"
        }
        (_, Errno::ENODEV) => "the cgroup was removed",
        ("cgroup.subtree_control", Errno::EBUSY) => {
            "a cgroup either holds processes or hands controllers down, not both: move them to a child first; or a child still hands down what is to be disabled"
        }
        ("cgroup.subtree_control", Errno::ENOENT) => {
            "a controller is not in this cgroup's cgroup.controllers: enable it in the parent first"
        }
        ("cgroup.subtree_control", Errno::EOPNOTSUPP) => {
            "in a threaded subtree only threaded controllers can be enabled (cpu, cpuset, pids)"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EBUSY) => {
            "this cgroup hands controllers down to children, so no process may sit in it: use a child"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EOPNOTSUPP) => {
            "the cgroup is threaded or invalid (see cgroup.type): use cgroup.threads within one threaded subtree"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EACCES | Errno::EPERM) => {
            "moving takes write access to cgroup.procs here and in the common ancestor"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::ESRCH) => "the process has ended",
        ("cgroup.procs" | "cgroup.threads", Errno::EINVAL) => {
            "kernel threads bound to a processor cannot be moved, nor pid 0 of another pid namespace"
        }
        ("cgroup.type", Errno::EOPNOTSUPP) => {
            "the parent is an invalid domain, or this cgroup has processes or controllers enabled"
        }
        ("cpu.max", Errno::EINVAL) => {
            "the quota is below cpu.max.burst, or period and quota are out of range, or an ancestor has a tighter realtime budget"
        }
        ("cpu.weight", Errno::EINVAL) => {
            "the cgroup is idle (cpu.idle is 1), or the weight is not from 1 to 10000"
        }
        ("cpuset.cpus" | "cpuset.mems", Errno::EINVAL | Errno::ERANGE) => {
            "the list names what this machine does not have"
        }
        ("cpuset.cpus" | "cpuset.mems", Errno::ENOSPC) => {
            "the list would leave the cgroup's processes with nothing"
        }
        ("io.weight" | "io.bfq.weight", Errno::EOPNOTSUPP) => {
            "the disk does not share by this weight: write bfq to its queue/scheduler for io.bfq.weight, or enable it in the root's io.cost.qos for io.weight"
        }
        ("cgroup.kill", Errno::ENOENT) => "the kernel is older than 5.14, or this is the root",
        ("cgroup.freeze", Errno::ENOENT) => "the root cannot be frozen",
        (_, Errno::EACCES | Errno::EPERM) => "the file is not delegated to the caller",
        (_, Errno::EROFS) => "cgroup2 is mounted read-only here",
        (_, Errno::ENOENT) => {
            "the cgroup was removed, its controller is not enabled here, or the kernel does not know the file"
        }
        (_, Errno::EINVAL | Errno::ERANGE) => "the kernel does not take this value for this file",
        _ => return None,
    })
}

/// `+cpu +memory`
fn signed(sign: char, controllers: Controllers) -> String {
    let mut text = String::with_capacity(64);
    for controller in controllers.members() {
        text.push(sign);
        text.push_str(controller.name());
        text.push(' ');
    }
    text.pop();
    text
}

/// A name that is exactly one component and fit to be printed in a line.
fn valid(name: &OsStr) -> Result<&OsStr> {
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
