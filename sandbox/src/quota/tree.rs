//! Sets the project id of all files in a directory.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::sys::{self, Project};

/// The call that failed, its path below the directory, and its errno.
pub(super) type Fault = (&'static str, PathBuf, Errno);

/// Calls a function for each regular file and directory below a directory, and for itself first.
/// Symbolic links are not followed, and mounts are not entered. If the function returns an error,
/// or a file cannot be opened, `skip` decides whether to continue.
///
/// Other files have no project id that a program can set before Linux 6.17.
pub(super) fn each(
    top: &OwnedFd,
    mut act: impl FnMut(&OwnedFd, bool) -> Result<(), Errno>,
    mut skip: impl FnMut(Fault) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut left = VecDeque::from([PathBuf::from(".")]);
    while let Some(path) = left.pop_front() {
        let failed = |call: &'static str, e| (call, path.clone(), e);
        let (file, is_dir) = match open(top, &path) {
            Ok(Some(opened)) => opened,
            Ok(None) => continue,
            Err(e) => {
                skip(failed("openat2", e))?;
                continue;
            }
        };
        act(&file, is_dir).map_err(|e| failed("ioctl", e)).or_else(&mut skip)?;
        if is_dir {
            list(&file, &path, &mut left).map_err(|e| failed("getdents64", e)).or_else(&mut skip)?;
        }
    }
    Ok(())
}

/// Opens a regular file or a directory for reading, and never a pipe or a device. Returns `None`
/// for other files, and if the file has been removed.
fn open(top: &OwnedFd, path: &Path) -> Result<Option<(OwnedFd, bool)>, Errno> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat2(top, path, flags, Mode::empty(), within) {
        Ok(found) => found,
        // It was removed or is a symbolic link, or something is mounted there.
        Err(Errno::NOENT | Errno::LOOP | Errno::XDEV) => return Ok(None),
        Err(e) => return Err(e),
    };
    let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(None);
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC;
    Ok(Some((openat(CWD, again, flags, Mode::empty())?, kind == FileType::Directory)))
}

/// Adds the regular files and directories of a directory to a list.
fn list(dir: &OwnedFd, path: &Path, into: &mut VecDeque<PathBuf>) -> Result<(), Errno> {
    let mut space = vec![MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(dir, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let wanted =
            matches!(entry.file_type(), FileType::RegularFile | FileType::Directory | FileType::Unknown);
        if wanted && name != b"." && name != b".." {
            into.push_back(path.join(OsStr::from_bytes(name)));
        }
    }
    Ok(())
}

/// Gives an id to the files of a directory. A file with another id is an error, unless `replaces`
/// accepts the id.
pub(super) fn assign(top: &OwnedFd, id: u32, replaces: impl Fn(u32) -> bool) -> Result<(), Fault> {
    let act = |file: &OwnedFd, is_dir| {
        let (now, wanted) = (sys::project(file)?, Project { id, inherited: is_dir });
        match now {
            _ if now == wanted => Ok(()),
            _ if now.id == 0 || now.id == id || replaces(now.id) => sys::set_project(file, wanted),
            _ => Err(Errno::EXIST),
        }
    };
    each(top, act, Err)
}

/// Removes an id from the files of a directory. Files that cannot be opened keep it.
pub(super) fn clear(top: &OwnedFd, id: u32) {
    let act = |file: &OwnedFd, _| match sys::project(file)? {
        Project { id: has, .. } if has == id => sys::set_project(file, Project { id: 0, inherited: false }),
        _ => Ok(()),
    };
    let _ = each(top, act, |_| Ok(()));
}
