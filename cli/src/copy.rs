//! Copies of files and directories between the host and a container.
//!
//! The processes of the container can change its files meanwhile. So each file is opened relative to the descriptor
//! of its directory, no link in a directory is followed, and the path that the caller names is resolved in the root of
//! the container (`RESOLVE_IN_ROOT` of openat2(2)). A link of the container cannot lead out of it.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use caps::CapSet;
use nix::unistd::{geteuid, setfsgid, setfsuid};
use ns_core::{IdMap, Ids};
use nspod_sandbox::ErrorKind;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, chownat,
    fchmod, fchown, fstat, fstatfs, futimens, mkdirat, openat, openat2, readlinkat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::output;

const STEP: &str = "cp";
const PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;
/// Magic numbers of statfs(2) of the kernel's own file systems: proc, sysfs, cgroup2, devpts, mqueue, tracefs,
/// debugfs, securityfs and bpf.
const OF_KERNEL: [i64; 9] = [
    0x9fa0,
    0x6265_6572,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x7472_6163,
    0x6462_6720,
    0x7363_6673,
    0xcafe_4a11,
];

/// The files of the host or of a container.
#[derive(Debug)]
pub(crate) struct Side {
    container: Option<Inside>,
}

/// The files of a container.
#[derive(Debug)]
struct Inside {
    id: String,
    root: OwnedFd,
    uids: IdMap,
    gids: IdMap,
}

impl Side {
    /// Returns the files of the host.
    pub(crate) fn host() -> Side {
        Side { container: None }
    }

    /// Opens the files that a process sees.
    pub(crate) fn container(id: &str, pid: i32) -> Result<Side> {
        let path = format!("/proc/{pid}/root");
        let root = openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open the root of the container", Path::new(&path), e))?;
        let (uids, gids) = (IdMap::of_pid(pid, Ids::Uid)?, IdMap::of_pid(pid, Ids::Gid)?);
        Ok(Side { container: Some(Inside { id: id.into(), root, uids, gids }) })
    }

    /// Opens a path that the caller names.
    fn open(&self, path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let Some(inside) = &self.container else { return openat(CWD, path, flags, Mode::empty()) };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0;
        loop {
            match openat2(&inside.root, path, flags, Mode::empty(), resolve) {
                // A directory of the path was moved.
                Err(Errno::AGAIN) if attempts < 100 => attempts += 1,
                opened => return opened,
            }
        }
    }

    /// Returns a path as the caller names it.
    fn shown(&self, path: &Path) -> PathBuf {
        match &self.container {
            Some(inside) => format!("{}:{}", inside.id, path.display()).into(),
            None => path.into(),
        }
    }

    /// Checks that a place in a container is in no file system of the kernel: a link of the container could lead to
    /// a kernel parameter, which the caller may write to.
    fn check_system(&self, fd: &OwnedFd, shown: &Path) -> Result<()> {
        match self.container.is_some() && is_of_kernel(fd, shown)? {
            true => Err(refused(format!("{} is in a file system of the kernel", shown.display()))),
            false => Ok(()),
        }
    }

    /// Lets this process make files as root of the container does. In a file system that the container mounted,
    /// only its own users can own a file, and a new file belongs to the file system user.
    fn act_as_root(&self) -> Result<()> {
        let Some(inside) = &self.container else { return Ok(()) };
        let (Some(uid), Some(gid)) = (inside.uids.to_outside(0), inside.gids.to_outside(0)) else {
            return Ok(());
        };
        if uid == 0 || !geteuid().is_root() {
            return Ok(());
        }
        let wrong = |e: caps::errors::CapsError| {
            Error::new(ErrorKind::PermissionDenied, STEP, format!("cannot keep the capabilities: {e}"))
        };
        let effective = caps::read(None, CapSet::Effective).map_err(wrong)?;
        setfsgid(gid.into());
        // This removes the capabilities for files from the effective set.
        setfsuid(uid.into());
        caps::set(None, CapSet::Effective, &effective).map_err(wrong)
    }
}

/// Makes the error of a path. Errors with a known reason say what to do.
fn failed(what: &str, path: &Path, errno: Errno) -> Error {
    let error = Error::path(STEP, what, path, nix::errno::Errno::from_raw(errno.raw_os_error()));
    match errno {
        Errno::ROFS => {
            error.hint("the files are read-only there: /tmp is not, nor a container with --overlay or -v")
        }
        _ => error,
    }
}

/// Makes the error of a path without a failed call.
fn refused(problem: String) -> Error {
    Error::new(ErrorKind::InvalidInput, STEP, problem)
}

/// A file that is copied: a descriptor that is not open for reading, and its path as the caller names it.
struct Node {
    fd: OwnedFd,
    stat: Stat,
    shown: PathBuf,
}

impl Node {
    fn of(fd: OwnedFd, shown: PathBuf) -> Result<Node> {
        let stat = fstat(&fd).map_err(|e| failed("inspect", &shown, e))?;
        Ok(Node { fd, stat, shown })
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn identity(&self) -> (u64, u64) {
        identity(&self.stat)
    }

    /// Opens a file by its descriptor. Only a file of a known type is opened, because opening a pipe or a device has
    /// effects.
    fn reopen(&self, flags: OFlags) -> Result<File> {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let opened = openat(CWD, link, flags | OFlags::CLOEXEC, Mode::empty());
        opened.map(File::from).map_err(|e| failed("open", &self.shown, e))
    }
}

/// Returns whether a file is in one of the kernel's own file systems.
fn is_of_kernel(fd: &OwnedFd, shown: &Path) -> Result<bool> {
    let system = fstatfs(fd).map_err(|e| failed("inspect", shown, e))?;
    Ok(OF_KERNEL.contains(&system.f_type))
}

/// Opens a directory by its name in another one. A process of the container can have put another file there since it was
/// made: a `new` directory is on no other mount.
fn open_made(dir: BorrowedFd<'_>, name: &OsStr, new: bool) -> std::result::Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    resolve.set(ResolveFlags::NO_XDEV, new);
    openat2(dir, name, DIRECTORY, Mode::empty(), resolve)
}

/// Returns the name of files of a type that is not copied.
fn not_copied(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile | FileType::Directory | FileType::Symlink => None,
        FileType::Fifo => Some("pipes"),
        FileType::Socket => Some("sockets"),
        _ => Some("devices"),
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Copies a file or a directory. `follow` follows a link that the source names.
///
/// # Errors
/// A path does not exist, or a system call failed. What was copied before stays.
pub(crate) fn copy(source: (&Side, &Path), destination: (&Side, &Path), follow: bool) -> Result<()> {
    let (side, path) = source;
    let shown = side.shown(path);
    let flags = if follow { OFlags::PATH } else { PATH };
    let opened = side.open(path, flags).map_err(|e| failed("open", &shown, e))?;
    let node = Node::of(opened, shown)?;
    if let Some(what) = not_copied(node.kind()) {
        return Err(refused(format!(
            "{} cannot be copied: {what} have no content of their own",
            node.shown.display()
        )));
    }
    // `DIR/.` and the root have no name that the copy could get.
    let has_name = path.file_name().is_some() && !path.as_os_str().as_bytes().ends_with(b"/.");
    let name = path.file_name().filter(|_| has_name);
    let (to, at) = destination;
    to.act_as_root()?;
    let copier = Copier { from: side, to, made: None };
    match to.open(at, OFlags::PATH) {
        Ok(found) => copier.over(&node, name, Node::of(found, to.shown(at))?),
        Err(Errno::NOENT) => copier.beside(&node, at),
        Err(e) => Err(failed("open", &to.shown(at), e)),
    }
}

/// One copy.
struct Copier<'a> {
    from: &'a Side,
    to: &'a Side,
    /// The new directory at the top, which is not copied into itself.
    made: Option<(u64, u64)>,
}

impl Copier<'_> {
    /// Copies to a place that exists. `name` is the name of the copy in a directory; without one, the files in the
    /// source are copied to the directory.
    fn over(mut self, node: &Node, name: Option<&OsStr>, found: Node) -> Result<()> {
        self.to.check_system(&found.fd, &found.shown)?;
        match (node.kind(), found.kind()) {
            (_, FileType::Directory) => {
                let dir: OwnedFd = found.reopen(OFlags::RDONLY | OFlags::DIRECTORY)?.into();
                match name {
                    Some(name) => self.node(node, dir.as_fd(), name, &found.shown.join(name)),
                    None if node.kind() == FileType::Directory => {
                        self.made = Some(found.identity());
                        self.children(node, dir.as_fd(), &found.shown)
                    }
                    None => Err(refused(format!("{} is not a directory", node.shown.display()))),
                }
            }
            (FileType::Symlink, _) => {
                let (node, shown) = (node.shown.display(), found.shown.display());
                Err(refused(format!(
                    "{shown} exists, and {node} is a symbolic link: -L copies the file that it names"
                )))
            }
            (FileType::Directory, _) => {
                let shown = found.shown.display();
                Err(refused(format!("{} is a directory, and {shown} is not", node.shown.display())))
            }
            (FileType::RegularFile, FileType::RegularFile) => {
                // A volume shows a file of the host.
                if node.identity() == found.identity() {
                    let (node, shown) = (node.shown.display(), found.shown.display());
                    return Err(refused(format!("{node} and {shown} are the same file")));
                }
                let source = node.reopen(OFlags::RDONLY)?;
                let target = found.reopen(OFlags::WRONLY)?;
                // An overlay can show the target as the source. So it is not emptied before it is read.
                let length = content(node, source, &target, &found.shown)?;
                target.set_len(length).map_err(|e| Error::io(STEP, "truncate", &found.shown, &e))?;
                self.attributes(node, target.as_fd(), &found.shown)
            }
            // Such as /dev/stdout.
            (FileType::RegularFile, _) if self.to.container.is_none() => {
                content(node, node.reopen(OFlags::RDONLY)?, &found.reopen(OFlags::WRONLY)?, &found.shown)
                    .map(drop)
            }
            _ => Err(refused(format!("{} exists and is not a regular file", found.shown.display()))),
        }
    }

    /// Copies to a place that does not exist.
    fn beside(mut self, node: &Node, at: &Path) -> Result<()> {
        let shown = self.to.shown(at);
        let ends_with_slash = at.as_os_str().as_bytes().ends_with(b"/");
        let (Some(name), false) = (at.file_name(), ends_with_slash && node.kind() != FileType::Directory)
        else {
            return Err(failed("open the directory", &shown, Errno::NOENT));
        };
        let parent = match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let dir = self.to.open(parent, OFlags::RDONLY | OFlags::DIRECTORY);
        let dir = dir.map_err(|e| failed("open the directory", &self.to.shown(parent), e))?;
        self.to.check_system(&dir, &shown)?;
        self.node(node, dir.as_fd(), name, &shown)
    }

    /// Copies a file of any type to a name in a directory.
    fn node(&mut self, node: &Node, dir: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<()> {
        match node.kind() {
            FileType::Directory => self.directory(node, dir, name, shown),
            FileType::RegularFile => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let make = || openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
                let source = node.reopen(OFlags::RDONLY)?;
                let target = File::from(replacing(dir, name, shown, make)?);
                content(node, source, &target, shown)?;
                self.attributes(node, target.as_fd(), shown)
            }
            FileType::Symlink => {
                let link =
                    readlinkat(&node.fd, c"", Vec::new()).map_err(|e| failed("read", &node.shown, e))?;
                replacing(dir, name, shown, || symlinkat(&*link, dir, name))?;
                let made = openat(dir, name, PATH, Mode::empty()).map_err(|e| failed("open", shown, e))?;
                self.link_attributes(node, &Node::of(made, shown.into())?)
            }
            other => {
                let what = not_copied(other).unwrap_or_default();
                output::note(format_args!("{} was left out: {what} are not copied", node.shown.display()));
                Ok(())
            }
        }
    }

    fn directory(&mut self, node: &Node, dir: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<()> {
        let new = match mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(failed("make the directory", shown, e)),
        };
        let target = open_made(dir, name, new).map_err(|e| failed("open the directory", shown, e))?;
        // The container can have mounted something there.
        self.to.check_system(&target, shown)?;
        if self.made.is_none() {
            self.made = Some(identity(&fstat(&target).map_err(|e| failed("inspect", shown, e))?));
        }
        self.children(node, target.as_fd(), shown)?;
        match new {
            true => self.attributes(node, target.as_fd(), shown),
            false => Ok(()),
        }
    }

    /// Copies the files in a directory to another one.
    fn children(&mut self, node: &Node, target: BorrowedFd<'_>, shown: &Path) -> Result<()> {
        let unread = |e| failed("read the directory", &node.shown, e);
        let source = openat(&node.fd, c".", DIRECTORY, Mode::empty()).map_err(unread)?;
        for entry in Dir::read_from(&source).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            if [c".", c".."].contains(&entry.file_name()) {
                continue;
            }
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let Some(child) = self.child(node, source.as_fd(), entry.file_name())? else { continue };
            if self.made == Some(child.identity()) {
                let (child, to) = (child.shown.display(), shown.display());
                return Err(refused(format!(
                    "{to} is in the directory {child}, which cannot be copied into itself"
                )));
            }
            self.node(&child, target, name, &shown.join(name))?;
        }
        Ok(())
    }

    /// Opens a file in a directory. Returns `None` if it has been removed, or if it is the root of one of the
    /// kernel's own file systems.
    fn child(&self, node: &Node, source: BorrowedFd<'_>, name: &CStr) -> Result<Option<Node>> {
        let shown = node.shown.join(OsStr::from_bytes(name.to_bytes()));
        let fd = match openat(source, name, PATH, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|e| failed("open", &shown, e))?,
        };
        let child = Node::of(fd, shown)?;
        let enters = child.kind() == FileType::Directory && child.stat.st_dev != node.stat.st_dev;
        let left_out = enters && is_of_kernel(&child.fd, &child.shown)?;
        Ok(Some(child).filter(|_| !left_out))
    }

    /// Sets owner, mode and times.
    fn attributes(&self, node: &Node, target: BorrowedFd<'_>, shown: &Path) -> Result<()> {
        let (uid, gid) = self.owner(&node.stat);
        let owned = fchown(target, Some(uid), Some(gid));
        let mut mode = node.stat.st_mode & 0o7777;
        // A program of a container never becomes one that gives rights on the host.
        if self.to.container.is_none() && node.kind() != FileType::Directory || owned.is_err() {
            mode &= !SET_ID;
        }
        kept(owned).map_err(|e| failed("change the owner of", shown, e))?;
        fchmod(target, Mode::from_raw_mode(mode)).map_err(|e| failed("change the mode of", shown, e))?;
        futimens(target, &times(&node.stat)).map_err(|e| failed("set the times of", shown, e))
    }

    /// Sets owner and times of a new link. The container can have put another file in its place, whose owner stays.
    fn link_attributes(&self, node: &Node, made: &Node) -> Result<()> {
        if made.kind() != FileType::Symlink {
            return Err(refused(format!("{} was replaced during the copy", made.shown.display())));
        }
        let (uid, gid) = self.owner(&node.stat);
        kept(chownat(&made.fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH))
            .map_err(|e| failed("change the owner of", &made.shown, e))?;
        utimensat(&made.fd, c"", &times(&node.stat), AtFlags::EMPTY_PATH)
            .map_err(|e| failed("set the times of", &made.shown, e))
    }

    /// Returns the owner of a copy: the user and group with the same ids as seen in the container. Ids that a
    /// container does not have become its root.
    fn owner(&self, stat: &Stat) -> (Uid, Gid) {
        let id = |map: fn(&Inside) -> &IdMap, id| match (&self.from.container, &self.to.container) {
            (Some(inside), None) => map(inside).to_inside(id).unwrap_or(id),
            (_, Some(inside)) => {
                let map = map(inside);
                map.to_outside(id).or_else(|| map.to_outside(0)).unwrap_or(id)
            }
            (None, None) => id,
        };
        (Uid::from_raw(id(|i| &i.uids, stat.st_uid)), Gid::from_raw(id(|i| &i.gids, stat.st_gid)))
    }
}

/// Copies the content of a file, and returns its length.
fn content(node: &Node, mut source: File, mut target: &File, shown: &Path) -> Result<u64> {
    io::copy(&mut source, &mut target).map_err(|e| {
        let what = format!("copy {} to", node.shown.display());
        Error::io(STEP, &what, shown, &e)
    })
}

/// Makes a file at a name. A regular file or a link that is there is removed first.
fn replacing<T>(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
    make: impl Fn() -> std::result::Result<T, Errno>,
) -> Result<T> {
    let made = match make() {
        Err(Errno::EXIST) => {
            let there =
                statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("inspect", shown, e))?;
            let kind = FileType::from_raw_mode(there.st_mode);
            if !matches!(kind, FileType::RegularFile | FileType::Symlink) {
                return Err(refused(format!("{} exists and is not a regular file", shown.display())));
            }
            unlinkat(dir, name, AtFlags::empty()).map_err(|e| failed("replace", shown, e))?;
            make()
        }
        made => made,
    };
    made.map_err(|e| failed("make", shown, e))
}

/// Allows that an owner cannot be set: an ordinary user has one id, and some file systems have no owners.
fn kept(owned: std::result::Result<(), Errno>) -> std::result::Result<(), Errno> {
    match owned {
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        owned => owned,
    }
}

fn times(of: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(of.st_atime as _, of.st_atime_nsec as _),
        last_modification: time(of.st_mtime as _, of.st_mtime_nsec as _),
    }
}
