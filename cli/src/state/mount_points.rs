//! Mount points that a container needs in a directory of the host.
//!
//! `-v DIR:DIR -v /dev/null:DIR/.env` requires a file in DIR. `nspod run` makes it before the start, and removes
//! it with the container. A file in the entry of the container lists what was made, so another command can remove
//! it after a crash. Containers share a mount point: the last one removes it, because a mount ends when its mount
//! point is removed. A lock on a file of the store lets one process make or remove mount points at a time.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nspod_cli::runtime_dir;
use nspod_sandbox::spec::{MountKind, Spec};
use nspod_sandbox::store::{Dir, random_name};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, StatxFlags, mkdirat, openat, renameat_with, statx,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::umask;
use serde::{Deserialize, Serialize};

use super::base::{base, lock_file};
use crate::error::{Error, Result};

/// File of an entry with a list of [`Point`].
const FILE: &str = "mount-points.json";
const LOCK: &str = "mount-points.lock";
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A file or directory that a start has made, or another one that it shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Point {
    /// Directory of the host that is a volume of the container.
    volume: PathBuf,
    /// Path in the volume.
    path: PathBuf,
    /// Name in the same directory until the start gives it its own. No other file has this name.
    temporary: String,
    /// `None` until it is made.
    id: Option<Id>,
}

/// Identity of a file. A later file can have the same inode, but not the same time of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    device: (u32, u32),
    inode: u64,
    /// Seconds and nanoseconds since 1970; 0 if the file system does not have it.
    created: (i64, u32),
}

/// A mount of the spec with its mount point in a volume.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    volume: PathBuf,
    path: PathBuf,
    file: bool,
}

/// Makes the mount points that the volumes of a container lack. Returns whether the entry has mount points to
/// remove. The caller holds the entry's lock. What cannot be made here is left to the start, which reports why.
///
/// # Errors
/// The errno of a failed call on the store.
pub(crate) fn make(entry: &Dir, spec: &Spec) -> Result<bool> {
    let wanted = wanted(spec);
    if wanted.is_empty() {
        return Ok(false);
    }
    let dir = Dir::private(&base(), runtime_dir::BY_VARIABLE)?;
    let _lock = lock_file(&dir, LOCK, "mount")?;
    let others = listed(&dir, entry.path())?;
    let mut own = Own { entry, points: Vec::new() };
    // All users of the container can enter the directories.
    let before = umask(Mode::empty());
    let made = wanted.iter().try_for_each(|wanted| own.make(wanted, &others));
    umask(before);
    made.map(|()| !own.points.is_empty())
}

/// Removes the mount points that an entry lists and that no other container uses. A directory that is not empty
/// and a file with content stay.
///
/// # Errors
/// The errno of a failed call on the store.
pub(crate) fn remove(entry: &Dir) -> Result<()> {
    let Some(text) = entry.read(FILE)? else { return Ok(()) };
    let points = parse(&text);
    let dir = Dir::private(&base(), runtime_dir::BY_VARIABLE)?;
    let _lock = lock_file(&dir, LOCK, "mount")?;
    let others = listed(&dir, entry.path())?;
    for point in points.iter().rev() {
        if point.id.is_none() || !others.iter().any(|other| other.id == point.id) {
            point.remove();
        }
    }
    // From now on another container may remove them.
    Ok(entry.replace(FILE, b"[]")?)
}

/// Returns the mounts that have their mount point in a writable volume.
fn wanted(spec: &Spec) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (mount, index) in spec.mounts.iter().zip(0..) {
        let holds = |other: &&nspod_sandbox::spec::Mount| {
            mount.destination != other.destination && mount.destination.starts_with(&other.destination)
        };
        let Some(volume) = spec.mounts.iter().take(index).rev().find(holds) else { continue };
        let (MountKind::Bind { source, .. }, false) = (&volume.kind, volume.readonly) else { continue };
        let Ok(path) = mount.destination.strip_prefix(&volume.destination) else { continue };
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if mount.kind == MountKind::Remount || !plain || path.to_str().is_none() || source.to_str().is_none()
        {
            continue;
        }
        let file = match &mount.kind {
            MountKind::Bind { source, .. } => source.metadata().is_ok_and(|found| !found.is_dir()),
            _ => false,
        };
        wanted.push(Wanted { volume: source.clone(), path: path.into(), file });
    }
    wanted
}

/// Returns the mount points of all containers except one.
fn listed(dir: &Dir, except: &Path) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    let Some(entries) = dir.sub("containers")? else { return Ok(points) };
    for name in entries.names()? {
        let Some(entry) = entries.sub(&name)?.filter(|entry| entry.path() != except) else { continue };
        points.extend(entry.read(FILE)?.iter().flat_map(|text| parse(text)));
    }
    Ok(points)
}

/// Returns the points of a file. A start that was killed can leave an empty file.
fn parse(text: &str) -> Vec<Point> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The mount points of the container that starts.
struct Own<'a> {
    entry: &'a Dir,
    points: Vec<Point>,
}

impl Own<'_> {
    /// Makes a mount point, and the directories above it in the volume. No link is followed: the container
    /// resolves it in another root.
    fn make(&mut self, wanted: &Wanted, others: &[Point]) -> Result<()> {
        let Ok(mut parent) = openat(CWD, &wanted.volume, DIRECTORY, Mode::empty()) else { return Ok(()) };
        let (mut path, count) = (PathBuf::new(), wanted.path.components().count());
        for (part, number) in wanted.path.iter().zip(1..) {
            path.push(part);
            let is_last = number == count;
            match Id::of(&parent, part) {
                Ok(id) => {
                    if let Some(other) = others.iter().find(|other| other.id == Some(id)) {
                        self.points.push(other.clone());
                        self.save()?;
                    }
                }
                Err(Errno::NOENT) => {
                    let point = Point {
                        volume: wanted.volume.clone(),
                        path: path.clone(),
                        temporary: format!(".nspod-{}", random_name()),
                        id: None,
                    };
                    if !self.make_one(point, &parent, part, is_last && wanted.file)? {
                        return Ok(());
                    }
                }
                Err(_) => return Ok(()),
            }
            if !is_last {
                match openat(&parent, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(next) => parent = next,
                    Err(_) => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Makes a file or directory. It gets its name when the entry has its identity, so that it can be removed
    /// after a crash and is not confused with a file of the same name. Returns false if it cannot be made.
    fn make_one(&mut self, point: Point, parent: &OwnedFd, name: &OsStr, file: bool) -> Result<bool> {
        let temporary = point.temporary.clone();
        self.points.push(point);
        self.save()?;
        let made = if file {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, &*temporary, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            mkdirat(parent, &*temporary, Mode::from_raw_mode(0o755))
        };
        let id = made.and_then(|()| Id::of(parent, OsStr::new(&temporary)));
        if let (Ok(id), Some(point)) = (id, self.points.last_mut()) {
            point.id = Some(id);
            self.save()?;
            if renameat_with(parent, &*temporary, parent, name, RenameFlags::NOREPLACE).is_ok() {
                return Ok(true);
            }
        }
        discard(parent, &temporary);
        self.points.pop();
        self.save()?;
        // Another process may have made it.
        Ok(Id::of(parent, name).is_ok())
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.points)
            .map_err(|e| Error::new(nspod_sandbox::ErrorKind::InvalidInput, "mount", e.to_string()))?;
        Ok(self.entry.replace(FILE, &text)?)
    }
}

impl Id {
    fn of(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<Id> {
        let flags = StatxFlags::INO | StatxFlags::BTIME;
        let found = statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, flags)?;
        Ok(Id {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            created: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        })
    }
}

impl Point {
    /// Removes it, if it is empty and still the same.
    fn remove(&self) {
        let (Some(above), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let Ok(mut parent) = openat(CWD, &self.volume, DIRECTORY, Mode::empty()) else { return };
        for part in above {
            match openat(&parent, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(next) => parent = next,
                Err(_) => return,
            }
        }
        discard(&parent, &self.temporary);
        if self.id.is_some() && Id::of(&parent, name).ok() == self.id {
            discard(&parent, name);
        }
    }
}

/// Removes an empty file or directory.
fn discard(parent: &OwnedFd, name: impl AsRef<OsStr>) {
    let name = name.as_ref();
    let Ok(found) = statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE | StatxFlags::SIZE)
    else {
        return;
    };
    let _ = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::Directory => unlinkat(parent, name, AtFlags::REMOVEDIR),
        FileType::RegularFile if found.stx_size == 0 => unlinkat(parent, name, AtFlags::empty()),
        _ => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use nspod_sandbox::spec::Mount;

    use super::*;

    #[test]
    fn only_mount_points_in_writable_volumes_are_wanted() {
        let mut spec = Spec::new("true");
        spec.mounts.extend([
            Mount::bind("/src", "/work"),
            Mount::bind("/dev/null", "/work/a/.env"),
            Mount::new("/work/cache", MountKind::Tmpfs { mode: None }),
            Mount::bind("/usr", "/work/cache/usr"),
            Mount::bind("/usr", "/tmp/usr"),
            Mount::bind_ro("/src", "/fixed"),
            Mount::bind("/usr", "/fixed/usr"),
            Mount::bind("/usr", "/work/../x"),
            Mount::bind("/usr", "/workshop"),
        ]);
        let want = |path: &str, file| Wanted { volume: "/src".into(), path: path.into(), file };
        assert_eq!(wanted(&spec), [want("a/.env", true), want("cache", false)]);
        assert_eq!(wanted(&Spec::new("true")), []);
    }
}
