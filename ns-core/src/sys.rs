//! The system calls that neither std nor nix wraps, made safe.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, pid_t};
use nix::errno::Errno;

fn fd(raw: c_long) -> Result<OwnedFd, Errno> {
    let raw = Errno::result(raw)? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// An ioctl of nsfs or of a pidfd that returns a new descriptor.
///
/// Only for requests that take no argument: the third is zero.
pub(crate) fn ioctl_fd(on: BorrowedFd<'_>, request: u32) -> Result<OwnedFd, Errno> {
    fd(ioctl(on, request)?.into())
}

/// An ioctl without an argument.
pub(crate) fn ioctl(on: BorrowedFd<'_>, request: u32) -> Result<c_int, Errno> {
    // SAFETY: the requests used here (nsfs and pidfd, `_IO`) take no argument.
    Errno::result(unsafe { libc::ioctl(on.as_raw_fd(), request as _, 0) })
}

/// `NS_GET_OWNER_UID`.
pub(crate) fn ns_owner_uid(on: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: this request writes one uid_t.
    Errno::result(unsafe { libc::ioctl(on.as_raw_fd(), libc::NS_GET_OWNER_UID as _, &raw mut uid) })?;
    Ok(uid)
}

pub(crate) fn pidfd_open(pid: pid_t) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub(crate) fn pidfd_getfd(on: BorrowedFd<'_>, remote: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, on.as_raw_fd(), remote, 0) })
}

pub(crate) fn pidfd_send_signal(on: BorrowedFd<'_>, signal: c_int) -> Result<(), Errno> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, on.as_raw_fd(), signal, none, 0) };
    Errno::result(ret).map(drop)
}

/// `struct pidfd_info`, as of its first version (64 bytes).
#[repr(C)]
#[derive(Default)]
pub(crate) struct PidfdInfo {
    pub(crate) mask: u64,
    pub(crate) cgroupid: u64,
    pub(crate) pid: u32,
    pub(crate) tgid: u32,
    pub(crate) ppid: u32,
    pub(crate) ids: [u32; 8],
    pub(crate) exit_code: i32,
}

pub(crate) const PIDFD_INFO_PID: u64 = 1 << 0;
pub(crate) const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// `PIDFD_GET_INFO` (since Linux 6.13); in `mask` the kernel answers what it filled in.
pub(crate) fn pidfd_info(on: BorrowedFd<'_>, mask: u64) -> Result<PidfdInfo, Errno> {
    const _: () = assert!(size_of::<PidfdInfo>() == 64);
    const PIDFD_GET_INFO: u32 = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
    let mut info = PidfdInfo { mask, ..PidfdInfo::default() };
    // SAFETY: the request carries the size of what it may write, which is the struct's.
    Errno::result(unsafe { libc::ioctl(on.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) })?;
    Ok(info)
}

/// What `waitid` says of an ended child.
pub(crate) struct Waited {
    pub(crate) code: c_int,
    pub(crate) status: c_int,
    pub(crate) usage: libc::rusage,
}

/// The raw `waitid(P_PIDFD)`, which unlike libc's also tells the resource usage; `None`
/// with `WNOHANG` while the child runs.
pub(crate) fn waitid(on: BorrowedFd<'_>, options: c_int) -> Result<Option<Waited>, Errno> {
    // SAFETY: all zeroes is a valid siginfo_t and a valid rusage.
    let (mut info, mut usage) =
        unsafe { (std::mem::zeroed::<libc::siginfo_t>(), std::mem::zeroed::<libc::rusage>()) };
    // SAFETY: both pointers are valid for what the kernel writes.
    let ret = unsafe {
        let (info, usage) = (&raw mut info, &raw mut usage);
        libc::syscall(libc::SYS_waitid, libc::P_PIDFD, on.as_raw_fd(), info, options, usage)
    };
    Errno::result(ret)?;
    // SAFETY: waitid filled in the SIGCHLD fields, or left all zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some(Waited { code: info.si_code, status, usage }))
}
