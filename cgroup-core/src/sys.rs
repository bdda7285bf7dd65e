//! The system calls that neither std nor nix wraps.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `pidfd_open(2)`: a handle on the process, immune to reuse of its pid. Since Linux 5.3.
pub(crate) fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `pidfd_send_signal(2)`. Since Linux 5.1.
pub(crate) fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> nix::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: `pidfd` is open for the call; a null siginfo is what kill(2) would send.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    Errno::result(done).map(drop)
}

/// Whether an extended attribute of the directory has this value; `false` where it cannot be read.
pub(crate) fn xattr_is(fd: impl AsFd, name: &CStr, expected: &[u8]) -> bool {
    let mut value = [0_u8; 16];
    // SAFETY: `name` is a C string and `value` has room for the length given, both alive for the call.
    let length = unsafe {
        libc::fgetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    usize::try_from(length).is_ok_and(|length| value.get(..length) == Some(expected))
}
