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

/// libc's own is of a type that is too small for it on some targets.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// A child that holds its place among the processes and does nothing else: its pid and its pidfd.
/// It has no descriptor but `alive`, a pipe's end to read, and ends when nobody can write to that
/// any more. Its end is no SIGCHLD to the caller: [`reap`] awaits it.
pub(crate) fn idle_child(alive: &OwnedFd) -> nix::Result<(i32, OwnedFd)> {
    let alive = alive.as_raw_fd();
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all of its fields are integers, for which 0 is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // The caller's handlers would run in the child on its copy of the memory.
    args.flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: `args` and what it points to live for the call. Without CLONE_VM and without a stack
    // the child goes on with a copy of this one's memory, as after fork(2). Other threads may have
    // held locks at this moment, and so it makes nothing but system calls.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) })?;
    if pid == 0 {
        let mut byte = 0_u8;
        // SAFETY: in the child. The calls take integers, but for `read`, which writes one byte to
        // `byte`; nothing is done with the descriptors closed, for the child never returns.
        unsafe {
            if alive > 0 {
                libc::syscall(libc::SYS_close_range, 0, alive - 1, 0);
            }
            libc::syscall(libc::SYS_close_range, alive + 1, libc::c_int::MAX, 0);
            while match libc::syscall(libc::SYS_read, alive, &raw mut byte, 1) {
                -1 => Errno::last() == Errno::EINTR,
                read => read > 0,
            } {}
            loop {
                libc::syscall(libc::SYS_exit_group, 0);
            }
        }
    }
    // SAFETY: the call succeeded, so `pidfd` is a new descriptor that nobody else owns.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Waits for a child of [`idle_child`] to end.
pub(crate) fn reap(pidfd: &OwnedFd) {
    let options = libc::WEXITED | libc::__WALL;
    // SAFETY: takes integers; with a null pointer it reports nothing.
    let wait = || unsafe {
        libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, std::ptr::null_mut(), options)
    };
    while Errno::result(wait()) == Err(Errno::EINTR) {}
}
