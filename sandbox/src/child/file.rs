//! Writes to kernel files, and checks of open files.

use ::core::ffi::{CStr, c_int, c_long};
use ::core::iter::Iterator;
use ::core::result::Result::{self, Err, Ok};
use ::libc;

use super::sys::{Done, Fault, close, file_system_of, fstat, openat, openat2, write};
use crate::step::Call;

/// Writes a text to a file, by its path in the caller's file system.
pub(super) fn write_file(path: &CStr, text: &CStr) -> Done {
    let fd = openat(libc::AT_FDCWD, path, libc::O_WRONLY | libc::O_CLOEXEC, 0)?;
    write_and_close(fd, text)
}

/// Writes a text to a file of a procfs. The path may cross no mount, and `resolve` adds further
/// `RESOLVE_*`, so that nothing in the container can redirect the write.
pub(super) fn write_beneath(root: c_int, path: &CStr, text: &CStr, resolve: u64) -> Done {
    let resolve = resolve | libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV;
    let fd = openat2(root, path, libc::O_WRONLY | libc::O_CLOEXEC, resolve)?;
    write_and_close(fd, text)
}

fn write_and_close(fd: c_int, text: &CStr) -> Done {
    let written = write(fd, text.to_bytes());
    close(fd);
    written
}

/// Returns whether an open file is a directory.
pub(super) fn is_directory(fd: c_int) -> Result<bool, Fault> {
    Ok(fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Returns whether an open file is on a procfs.
pub(super) fn is_procfs(fd: c_int) -> Result<bool, Fault> {
    Ok(file_system_of(fd)? == libc::PROC_SUPER_MAGIC as c_long)
}

/// Returns whether an open file is the root of a procfs.
pub(super) fn is_procfs_root(fd: c_int) -> Result<bool, Fault> {
    /// `PROC_ROOT_INO`.
    const ROOT: libc::ino_t = 1;
    Ok(is_procfs(fd)? && fstat(fd)?.st_ino == ROOT)
}

/// Opens the root of the procfs that is mounted on `/proc`.
pub(super) fn proc_at_root() -> Result<c_int, Fault> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let fd = openat(libc::AT_FDCWD, c"/proc", flags, 0)?;
    if is_procfs_root(fd)? {
        return Ok(fd);
    }
    close(fd);
    Err(Fault { call: Call::Fstatfs, errno: libc::ENODEV })
}

/// Checks that an open file is this device: `S_IFCHR` or `S_IFBLK`, and the number.
pub(super) fn check_device(fd: c_int, kind: u32, number: u64) -> Done {
    let stat = fstat(fd)?;
    if stat.st_mode & libc::S_IFMT == kind && stat.st_rdev == number {
        return Ok(());
    }
    Err(Fault { call: Call::Fstat, errno: libc::ENODEV })
}

/// The path `/proc/self/fd/N`.
pub(super) struct OwnFd([u8; 32]);

impl OwnFd {
    pub(super) fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// Returns the path of one of this process's descriptors. While `/` is the caller's, opening the
/// path opens the file of an `O_PATH` descriptor again.
pub(super) fn own_fd(fd: c_int) -> OwnFd {
    const DIRECTORY: &[u8] = b"/proc/self/fd/";
    let mut path = [0u8; 32];
    let mut digits = [0u8; 10];
    let mut rest = fd.unsigned_abs();
    let mut written = 0usize;
    for digit in digits.iter_mut().rev() {
        *digit = b'0'.wrapping_add(rest.wrapping_rem(10) as u8);
        rest = rest.wrapping_div(10);
        written = written.wrapping_add(1);
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len().wrapping_sub(written)..).unwrap_or_default();
    for (to, from) in path.iter_mut().zip(DIRECTORY.iter().chain(digits)) {
        *to = *from;
    }
    OwnFd(path)
}
