//! Copies a directory tree, for a new file system that starts with the files that it covers.

use ::core::cmp::Ord;
use ::core::ffi::{CStr, c_int};
use ::core::iter::Iterator;
use ::core::option::Option::{self, None, Some};
use ::core::result::Result::{Err, Ok};
use ::libc;

use super::file::own_fd;
use super::sys::{
    Done, Fault, close, fchmod, fchmodat, fchownat, fstat, getdents64, mkdirat, mknodat, openat, readlinkat,
    seek, sendfile, symlinkat, utimensat,
};
use crate::step::{Call, CopyUp};

/// Maximum depth of a tree.
const DEPTH: usize = 128;

/// Copies the contents of the directory `from` into `to`: files, links, devices and pipes, with
/// owner, mode and times. A hard link becomes a separate file. Other file systems that are mounted
/// below are not copied.
///
/// All directories share one buffer. When the loop enters a directory, the descriptor of the parent
/// directory keeps the offset at which to continue.
pub(super) fn copy(from: c_int, to: c_int, what: CopyUp) -> Done {
    let directory = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut open = [(-1, -1); DEPTH];
    let mut depth = 0usize;
    let (mut source, mut target) = (openat(from, c".", directory, 0)?, openat(to, c".", directory, 0)?);
    let device = fstat(source)?.st_dev;
    let mut buffer = Buffer([0; SIZE]);
    loop {
        let n = getdents64(source, &mut buffer.0)?;
        let mut below = None;
        for entry in buffer.entries(n as usize) {
            let name = entry.name;
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let path = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
            let at = openat(source, name, path, 0)?;
            let stat = fstat(at)?;
            match stat.st_mode & libc::S_IFMT {
                libc::S_IFDIR => {
                    mkdirat(target, name, 0o700)?;
                    if stat.st_dev == device {
                        close(at);
                        let pair = (openat(source, name, directory, 0)?, openat(target, name, directory, 0)?);
                        seek(source, entry.next)?;
                        below = Some(pair);
                        break;
                    }
                }
                libc::S_IFREG => copy_file(at, target, name)?,
                libc::S_IFLNK => copy_link(source, target, name)?,
                kind => {
                    mknodat(target, name, kind | 0o600, stat.st_rdev as u32)?;
                }
            }
            copy_attributes(target, name, &stat)?;
            close(at);
        }
        if let Some(pair) = below {
            let Some(place) = open.get_mut(depth) else {
                return Err(Fault { call: Call::Open, errno: libc::ELOOP });
            };
            *place = (source, target);
            (source, target) = pair;
            depth = depth.saturating_add(1);
        } else if n == 0 {
            // Set the times last, because each new entry changes them.
            if depth > 0 || what as u8 == CopyUp::All as u8 {
                copy_attributes(target, c"", &fstat(source)?)?;
            }
            close(source);
            close(target);
            depth = match depth.checked_sub(1) {
                Some(depth) => depth,
                None => return Ok(()),
            };
            match open.get(depth) {
                Some(pair) => (source, target) = *pair,
                None => return Ok(()),
            }
        }
    }
}

const SIZE: usize = 8192;

/// Buffer for getdents64(2).
#[repr(align(8))]
struct Buffer([u8; SIZE]);

/// An entry of a directory.
struct Entry<'a> {
    name: &'a CStr,
    /// Offset of the next entry.
    next: i64,
}

impl Buffer {
    fn entries(&self, filled: usize) -> Entries<'_> {
        Entries(self.0.get(..filled.min(SIZE)).unwrap_or(&[]))
    }
}

struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    /// Decodes a `struct linux_dirent64`: inode number, offset of the next entry, length of this
    /// entry, type, name.
    fn next(&mut self) -> Option<Entry<'a>> {
        let next = i64::from_ne_bytes(*self.0.get(8..)?.first_chunk()?);
        let length = u16::from_ne_bytes(*self.0.get(16..)?.first_chunk()?);
        let (entry, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        match CStr::from_bytes_until_nul(entry.get(19..)?) {
            Ok(name) => Some(Entry { name, next }),
            Err(_) => None,
        }
    }
}

/// Copies the contents of a file. The file is opened through the descriptor whose type was checked:
/// another file may have the name now, and opening that file could have side effects.
fn copy_file(at: c_int, target: c_int, name: &CStr) -> Done {
    let from =
        openat(libc::AT_FDCWD, own_fd(at).path(), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC, 0)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let to = openat(target, name, flags, 0o600)?;
    while sendfile(to, from, 1 << 24)? > 0 {}
    close(from);
    close(to);
    Ok(())
}

fn copy_link(source: c_int, target: c_int, name: &CStr) -> Done {
    let mut text = [0u8; libc::PATH_MAX as usize];
    // The last byte stays NUL.
    let room = text.len().saturating_sub(1);
    readlinkat(source, name, text.get_mut(..room).unwrap_or_default())?;
    symlinkat(CStr::from_bytes_until_nul(&text).unwrap_or(c""), target, name)
}

/// Copies owner, mode and times. No other process can reach the copy yet, so no process can have
/// replaced a file with a link.
fn copy_attributes(target: c_int, name: &CStr, stat: &libc::stat) -> Done {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    fchownat(target, name, stat.st_uid, stat.st_gid, flags)?;
    let mode = stat.st_mode & 0o7777;
    if name.is_empty() {
        fchmod(target, mode)?;
    } else if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
        fchmodat(target, name, mode)?;
    }
    let times = [stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec];
    utimensat(target, name, &times, flags)
}
