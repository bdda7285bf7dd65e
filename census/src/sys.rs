//! The one system call that the census makes often enough to mind an allocation.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// [readlinkat(2)](https://man7.org/linux/man-pages/man2/readlinkat.2.html) into a buffer of
/// the caller's; a longer target is cut off.
pub(super) fn readlinkat<'b>(dir: BorrowedFd<'_>, path: &CStr, buf: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    // SAFETY: path ends with a NUL, and buf is ours to write for its whole length.
    let n = unsafe { libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    Errno::result(n).map(|n| &buf[..n as usize])
}
