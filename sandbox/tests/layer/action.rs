//! Random changes of a directory tree.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, mknod};
use nspod_sandbox::layer::Marks;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, utimensat};

#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Makes a file, or appends to one.
    Write(PathBuf, u32),
    Truncate(PathBuf),
    Mkdir(PathBuf),
    Symlink(PathBuf, PathBuf),
    Fifo(PathBuf),
    Device(PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    /// Removes a directory and makes an empty one, which is opaque in an overlay.
    Renew(PathBuf),
    /// Renames a path, or copies and removes it if the file system requires that.
    Rename(PathBuf, PathBuf),
    Chmod(PathBuf, u32),
    Chown(PathBuf, u32),
    SetXattr(PathBuf, &'static str, u8),
    RemoveXattr(PathBuf, &'static str),
    Touch(PathBuf),
}

fn path() -> impl Strategy<Value = PathBuf> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    proptest::collection::vec(name, 1..4).prop_map(|names| names.iter().collect())
}

/// Returns a strategy for up to this number of actions.
pub(crate) fn actions(most: usize) -> impl Strategy<Value = Vec<Action>> {
    let xattr = prop_oneof![
        Just("user.a"),
        Just("user.b"),
        Just("trusted.a"),
        Just("security.a"),
        Just("user.overlay.opaque"),
        Just("trusted.overlay.opaque"),
    ];
    let one = prop_oneof![
        4 => (path(), 0u32..3).prop_map(|(path, size)| Action::Write(path, size)),
        1 => path().prop_map(Action::Truncate),
        5 => path().prop_map(Action::Mkdir),
        1 => (path(), path()).prop_map(|(path, target)| Action::Symlink(path, target)),
        1 => path().prop_map(Action::Fifo),
        1 => path().prop_map(Action::Device),
        3 => (path(), path()).prop_map(|(from, to)| Action::Link(from, to)),
        2 => path().prop_map(Action::Remove),
        3 => path().prop_map(Action::Renew),
        3 => (path(), path()).prop_map(|(from, to)| Action::Rename(from, to)),
        1 => (path(), 0u32..0o10000).prop_map(|(path, mode)| Action::Chmod(path, mode)),
        1 => (path(), 0u32..3).prop_map(|(path, uid)| Action::Chown(path, uid)),
        2 => (path(), xattr.clone(), any::<u8>()).prop_map(|(path, name, value)| Action::SetXattr(path, name, value)),
        1 => (path(), xattr).prop_map(|(path, name)| Action::RemoveXattr(path, name)),
        1 => path().prop_map(Action::Touch),
    ];
    proptest::collection::vec(one, 0..most)
}

impl Action {
    /// Makes the change below a root. The time of each changed file and directory depends only on `number`.
    pub(crate) fn run(&self, root: &Path, number: usize) -> io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        match self {
            Action::Write(path, size) => write(&at(path), *size, number)?,
            Action::Truncate(path) => open(&at(path), false)?.set_len(3)?,
            Action::Mkdir(path) => fs::create_dir(at(path))?,
            Action::Symlink(path, target) => symlink(target, at(path))?,
            Action::Fifo(path) => nix::unistd::mkfifo(&at(path), Mode::S_IRUSR)?,
            Action::Device(path) => {
                mknod(&at(path), SFlag::S_IFCHR, Mode::S_IRUSR, nix::sys::stat::makedev(1, 3))?;
            }
            Action::Link(from, to) => fs::hard_link(at(from), at(to))?,
            Action::Remove(path) => remove(&at(path))?,
            Action::Renew(path) => {
                fs::remove_dir_all(at(path))?;
                fs::create_dir(at(path))?;
            }
            Action::Rename(from, to) => rename(&at(from), &at(to))?,
            Action::Chmod(path, mode) => {
                not_a_symlink(&at(path))?;
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
            }
            Action::Chown(path, uid) => std::os::unix::fs::lchown(at(path), Some(*uid), Some(*uid + 1))?,
            Action::SetXattr(path, name, value) => {
                rustix::fs::lsetxattr(at(path), *name, &[*value], XattrFlags::empty())?;
            }
            Action::RemoveXattr(path, name) => rustix::fs::lremovexattr(at(path), *name)?,
            Action::Touch(path) => _ = at(path).symlink_metadata()?,
        }
        if let Some(path) = self.changed() {
            set_time(&root.join(path), number, AtFlags::SYMLINK_NOFOLLOW);
        }
        for path in self.entries() {
            set_time(root.join(path).parent().unwrap(), number, AtFlags::empty());
        }
        Ok(())
    }

    /// Returns the file whose own time changes.
    fn changed(&self) -> Option<&PathBuf> {
        match self {
            Action::Remove(_) | Action::Rename(..) | Action::Link(..) => None,
            Action::Write(path, _)
            | Action::Truncate(path)
            | Action::Mkdir(path)
            | Action::Symlink(path, _)
            | Action::Fifo(path)
            | Action::Device(path)
            | Action::Renew(path)
            | Action::Chmod(path, _)
            | Action::Chown(path, _)
            | Action::SetXattr(path, ..)
            | Action::RemoveXattr(path, _)
            | Action::Touch(path) => Some(path),
        }
    }

    /// Returns the paths that are added to or removed from a directory.
    fn entries(&self) -> Vec<&PathBuf> {
        match self {
            Action::Rename(from, to) => vec![from, to],
            Action::Link(_, to) => vec![to],
            Action::Remove(path)
            | Action::Renew(path)
            | Action::Write(path, _)
            | Action::Mkdir(path)
            | Action::Symlink(path, _)
            | Action::Fifo(path)
            | Action::Device(path) => vec![path],
            _ => Vec::new(),
        }
    }

    /// Returns whether the action makes a mark of overlayfs, which a lower directory cannot have.
    pub(crate) fn marks(&self, marks: Marks) -> bool {
        let prefix = if marks == Marks::User { "user.overlay." } else { "trusted.overlay." };
        matches!(self, Action::SetXattr(_, name, _) if name.starts_with(prefix))
    }

    /// Returns whether the action adds a name to a file that has several names in the lower directory.
    pub(crate) fn links_to(&self, copy: &Path, linked: &Linked) -> bool {
        matches!(self, Action::Link(from, _) if linked.contains(&copy.join(from)))
    }

    /// Does what an overlay does before a change of a file that has several names in the lower directory: it
    /// changes only the one name.
    pub(crate) fn break_links(&self, copy: &Path, linked: &Linked) {
        let path = match self {
            Action::Rename(from, _) => Some(from),
            _ => self.changed(),
        };
        let Some(path) = path.map(|path| copy.join(path)).filter(|path| linked.contains(path)) else {
            return;
        };
        let parent = path.parent().unwrap();
        let before = parent.metadata().unwrap();
        let temporary = parent.join("temporary");
        cp(&path, &temporary).unwrap();
        fs::rename(&temporary, &path).unwrap();
        let time = Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, parent, &times, AtFlags::empty()).unwrap();
    }
}

/// The files of a tree that have several names. They stay open, so that no other file gets their inode.
pub(crate) struct Linked(HashMap<u64, rustix::fd::OwnedFd>);

impl Linked {
    fn contains(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|meta| meta.nlink() > 1 && self.0.contains_key(&meta.ino()))
    }
}

pub(crate) fn linked(root: &Path) -> Linked {
    let mut found = HashMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.nlink() > 1 {
            use rustix::fs::{Mode, OFlags, open};
            let fd = open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap();
            found.insert(meta.ino(), fd);
        }
    }
    Linked(found)
}

fn set_time(path: &Path, number: usize, flags: AtFlags) {
    let time = Timespec { tv_sec: 1_000_000 + number as i64, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    // A removed path has no time.
    let _ = utimensat(CWD, path, &times, flags);
}

fn not_a_symlink(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_symlink() {
        true => Err(io::ErrorKind::InvalidInput.into()),
        false => Ok(()),
    }
}

/// Opens a regular file, or makes one if `create` is set.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let other = |t: fs::FileType| t.is_fifo() || t.is_char_device() || t.is_dir();
    if path.symlink_metadata().is_ok_and(|meta| other(meta.file_type())) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    File::options().create(create).append(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn write(path: &Path, size: u32, number: usize) -> io::Result<()> {
    let mut file = open(path, true)?;
    match size {
        0 => writeln!(file, "{number}"),
        1 => file.write_all(&vec![number as u8; 5000]),
        _ => {
            // A hole, and data behind it.
            file.set_len(file.metadata()?.len() + (1 << 17))?;
            writeln!(file, "{number}")
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn cp(from: &Path, to: &Path) -> io::Result<()> {
    match Command::new("cp")
        .arg("-aT")
        .arg(from)
        .arg(to)
        .stderr(std::process::Stdio::null())
        .status()?
        .success()
    {
        true => Ok(()),
        false => Err(io::ErrorKind::Other.into()),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.raw_os_error() == Some(libc::EXDEV) && !to.starts_with(from) => {
            // An existing directory is replaced only if it is empty.
            if to.symlink_metadata().is_ok() {
                fs::remove_dir(to)?;
            }
            cp(from, to)?;
            remove(from)
        }
        other => other,
    }
}
