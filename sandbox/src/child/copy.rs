//! A copy of a directory tree, for a file system that begins with what it covers.

use ::core::cmp::Ord;
use ::core::ffi::{CStr, c_int};
use ::core::iter::Iterator;
use ::core::option::Option::{self, None, Some};
use ::core::ptr;
use ::core::result::Result::{Err, Ok};
use ::libc;

use super::sys::{Done, Fault, call, close, drop, fstat, openat, own_fd};
use crate::step::{Call, CopyUp};

/// How deep a tree may be.
const DEPTH: usize = 128;

/// Copies what the directory `from` holds, of its own file system alone, into `to`: files,
/// links, devices and pipes with owner, mode and times. Hard links become files.
///
/// There is one buffer for all directories: where one is left for another below it, its own
/// descriptor keeps the place to go on from.
pub(super) fn copy(from: c_int, to: c_int, what: CopyUp) -> Done {
    let directory = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut open = [(-1, -1); DEPTH];
    let mut depth = 0usize;
    let (mut source, mut target) = (openat(from, c".", directory, 0)?, openat(to, c".", directory, 0)?);
    let device = fstat(source)?.st_dev;
    let mut buffer = Buffer([0; SIZE]);
    loop {
        let n = call!(Getdents, libc::SYS_getdents64, source, buffer.0.as_mut_ptr(), SIZE)?;
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
                    call!(Mkdirat, libc::SYS_mkdirat, target, name.as_ptr(), 0o700)?;
                    if stat.st_dev == device {
                        close(at);
                        let pair = (openat(source, name, directory, 0)?, openat(target, name, directory, 0)?);
                        call!(Lseek, libc::SYS_lseek, source, entry.next, libc::SEEK_SET)?;
                        below = Some(pair);
                        break;
                    }
                }
                libc::S_IFREG => copy_file(at, target, name)?,
                libc::S_IFLNK => copy_link(source, target, name)?,
                kind => {
                    let mode = kind | 0o600;
                    call!(Mknodat, libc::SYS_mknodat, target, name.as_ptr(), mode, stat.st_rdev as u32)?;
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
            // After its last entry, since each one changes its times.
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

/// What getdents64(2) fills.
#[repr(align(8))]
struct Buffer([u8; SIZE]);

/// An entry of a directory.
struct Entry<'a> {
    name: &'a CStr,
    /// Where the entry after it is.
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

    /// By the layout of `struct linux_dirent64`: inode number, offset of the next entry,
    /// length of this one, type, name.
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

/// The file is opened by the descriptor that its type was read from: the name may be another
/// file's by now, which opening could act on.
fn copy_file(at: c_int, target: c_int, name: &CStr) -> Done {
    let from =
        openat(libc::AT_FDCWD, own_fd(at).path(), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC, 0)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let to = openat(target, name, flags, 0o600)?;
    while call!(Sendfile, libc::SYS_sendfile, to, from, ptr::null_mut::<i64>(), 1 << 24)? > 0 {}
    close(from);
    close(to);
    Ok(())
}

fn copy_link(source: c_int, target: c_int, name: &CStr) -> Done {
    let mut text = [0u8; libc::PATH_MAX as usize];
    // One byte stays zero, to end the text.
    let room = text.len().saturating_sub(1);
    call!(Readlinkat, libc::SYS_readlinkat, source, name.as_ptr(), text.as_mut_ptr(), room)?;
    call!(Symlinkat, libc::SYS_symlinkat, text.as_ptr(), target, name.as_ptr()).map(drop)
}

/// Owner, mode and times. The copy is this process's alone still, so nobody can have put a
/// link in the place of a file.
fn copy_attributes(target: c_int, name: &CStr, stat: &libc::stat) -> Done {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    call!(Fchownat, libc::SYS_fchownat, target, name.as_ptr(), stat.st_uid, stat.st_gid, flags)?;
    let mode = stat.st_mode & 0o7777;
    if name.is_empty() {
        call!(Fchmodat, libc::SYS_fchmod, target, mode)?;
    } else if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
        call!(Fchmodat, libc::SYS_fchmodat, target, name.as_ptr(), mode)?;
    }
    let times = [stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec];
    call!(Utimensat, libc::SYS_utimensat, target, name.as_ptr(), times.as_ptr(), flags).map(drop)
}
