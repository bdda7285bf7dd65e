//! clone3(2) without allocation, and other system calls that nix does not wrap.
//!
//! The functions are async-signal-safe: they allocate nothing, take no lock and never panic. A caller
//! may use them between a raw clone and execve(2), and in a child that shares the memory of its parent.
//! Their errors are errno values, which [`Clone3`](crate::Clone3) converts to sentences.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_long, pid_t};
use nix::errno::Errno;

/// Arguments of [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html): `struct clone_args` of
/// the kernel. Since Linux 5.3.
pub type CloneArgs = libc::clone_args;

/// Flag that creates the child in the cgroup that `CloneArgs::cgroup` refers to (since Linux 5.7). See
/// [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
///
/// The constant in `libc` 0.2 is a C `int`, which is too small for the bit: it is 0 there.
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Flag that resets signal handlers to their defaults in the child (since Linux 5.5). See
/// [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
///
/// The constant in `libc` 0.2 is 0, see [`CLONE_INTO_CGROUP`].
pub const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Returns arguments in which every field is zero: no flags, no exit signal, copied memory.
pub const fn clone_args() -> CloneArgs {
    CloneArgs {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    }
}

/// Creates a process with copied memory by
/// [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html). Returns the child's pid in the
/// parent and 0 in the child. Since Linux 5.3.
///
/// # Errors
/// - `EINVAL`: `args` shares memory (`CLONE_VM`) or contains a stack, which requires
///   [`clone3_on_stack`].
/// - The kernel's errno, see [`Clone3::spawn`](crate::Clone3::spawn).
///
/// # Safety
/// - The pointers in `args` (pidfd, tids, set_tid) are null or valid for the kernel.
/// - In the child only the calling thread continues, and libc does not know about it: until
///   execve(2) or `_exit` the child calls async-signal-safe functions only.
/// - With `CLONE_FILES` the caller upholds I/O safety for both processes.
pub unsafe fn clone3(args: &mut CloneArgs) -> Result<pid_t, Errno> {
    if args.flags & libc::CLONE_VM as u64 != 0 || args.stack != 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the structure is valid for its size, and the caller vouches for its pointers. The child
    // has a copy of this stack, so that returning twice is sound.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args as *mut CloneArgs, size_of::<CloneArgs>()) };
    Errno::result(pid as pid_t)
}

/// Creates a process by [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html) that starts on
/// its own stack and calls `f(arg)`. Returns the child's pid in the parent, and does not return in the
/// child. Since Linux 5.3, on x86_64 and aarch64.
///
/// With `CLONE_VM | CLONE_VFORK` in `args` the child shares the caller's memory, and the kernel
/// suspends the calling thread until the child calls execve(2) or ends. The time of a start then does
/// not depend on the size of the parent. Without `CLONE_VM` the memory is copied.
///
/// The upper end of the stack is rounded down to 16 bytes. `args.stack` and `args.stack_size` are
/// overwritten.
///
/// # Errors
/// - `EINVAL`: the stack contains no 16 byte boundary above its lower end.
/// - `ENOSYS`: the architecture is another one.
/// - The kernel's errno, see [`Clone3::spawn`](crate::Clone3::spawn).
///
/// # Safety
/// - The pointers in `args` (pidfd, tids, set_tid) are null or valid for the kernel.
/// - `stack..stack + size` is writable, large enough for `f`, and not used otherwise until the child
///   calls execve(2) or ends.
/// - `f` and the functions that it calls are async-signal-safe. With `CLONE_VM` it uses the thread-local
///   storage of the caller and must not leave a lock or a half-written value there. With `CLONE_VM` and
///   without `CLONE_VFORK` both processes run at the same time, so `f` must not use thread-local
///   storage, such as `errno`.
/// - With `CLONE_VM` no signal handler may run in the child: block all signals, or pass
///   [`CLONE_CLEAR_SIGHAND`].
pub unsafe fn clone3_on_stack(
    args: &mut CloneArgs,
    stack: *mut u8,
    size: usize,
    f: unsafe extern "C" fn(*mut c_void) -> !,
    arg: *mut c_void,
) -> Result<pid_t, Errno> {
    let base = stack.addr();
    let top = base.wrapping_add(size) & !15;
    if top <= base {
        return Err(Errno::EINVAL);
    }
    // The kernel writes through this address, so the provenance of the pointer is exposed.
    args.stack = stack.expose_provenance() as u64;
    args.stack_size = (top - base) as u64;
    let ret: isize;
    // In the parent only the register of the result changes. The child's stack is empty at the call.
    // The asm is not `nomem`: it may read and write all memory, because a child that shares the memory
    // does.
    // SAFETY: the caller vouches for the stack, for `f` and for the pointers in `args`.
    unsafe { crate::arch::clone3_call!(args, f, arg => ret) };
    match ret {
        0.. => Ok(ret as pid_t),
        _ => Err(Errno::from_raw(-ret as i32)),
    }
}

/// Takes ownership of a new descriptor.
fn fd(raw: c_long) -> Result<OwnedFd, Errno> {
    let raw = Errno::result(raw)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes an ioctl of nsfs or of a pidfd that has no argument and returns a new descriptor.
pub(crate) fn ioctl_fd(on: BorrowedFd<'_>, request: u32) -> Result<OwnedFd, Errno> {
    fd(ioctl(on, request)?.into())
}

/// Makes an ioctl of nsfs or of a pidfd that has no argument.
pub(crate) fn ioctl(on: BorrowedFd<'_>, request: u32) -> Result<c_int, Errno> {
    // SAFETY: the requests of nsfs and of pidfds (`_IO`) have no argument, so the kernel ignores it.
    Errno::result(unsafe { libc::ioctl(on.as_raw_fd(), request as _, 0) })
}

/// Returns the uid of the creator of a user namespace (`NS_GET_OWNER_UID`).
pub(crate) fn ns_owner_uid(on: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one uid_t to the pointer.
    Errno::result(unsafe { libc::ioctl(on.as_raw_fd(), libc::NS_GET_OWNER_UID as _, &raw mut uid) })?;
    Ok(uid)
}

pub(crate) fn pidfd_open(pid: pid_t) -> Result<OwnedFd, Errno> {
    // SAFETY: the call accesses no memory.
    fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub(crate) fn pidfd_getfd(on: BorrowedFd<'_>, remote: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call accesses no memory.
    fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, on.as_raw_fd(), remote, 0) })
}

pub(crate) fn pidfd_send_signal(on: BorrowedFd<'_>, signal: c_int) -> Result<(), Errno> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the kernel accepts a null siginfo.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, on.as_raw_fd(), signal, none, 0) };
    Errno::result(ret).map(drop)
}

/// First version of `struct pidfd_info` (64 bytes).
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

/// Makes the ioctl `PIDFD_GET_INFO` (since Linux 6.13). The kernel sets in `mask` the fields that it
/// wrote.
pub(crate) fn pidfd_info(on: BorrowedFd<'_>, mask: u64) -> Result<PidfdInfo, Errno> {
    const _: () = assert!(size_of::<PidfdInfo>() == 64);
    const PIDFD_GET_INFO: u32 = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
    let mut info = PidfdInfo { mask, ..PidfdInfo::default() };
    // SAFETY: the request contains the size of the struct, and the kernel writes no more than that.
    Errno::result(unsafe { libc::ioctl(on.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) })?;
    Ok(info)
}

/// End of a child, as waitid(2) reports it.
pub(crate) struct Waited {
    pub(crate) code: c_int,
    pub(crate) status: c_int,
    pub(crate) usage: libc::rusage,
}

/// Calls the kernel's waitid(P_PIDFD), which returns the resource usage, unlike the function of libc.
/// Returns `None` with `WNOHANG` while the child runs.
pub(crate) fn waitid(on: BorrowedFd<'_>, options: c_int) -> Result<Option<Waited>, Errno> {
    // SAFETY: siginfo_t and rusage may be all zero.
    let (mut info, mut usage) =
        unsafe { (std::mem::zeroed::<libc::siginfo_t>(), std::mem::zeroed::<libc::rusage>()) };
    // SAFETY: the kernel writes one siginfo_t and one rusage.
    let ret = unsafe {
        let (info, usage) = (&raw mut info, &raw mut usage);
        libc::syscall(libc::SYS_waitid, libc::P_PIDFD, on.as_raw_fd(), info, options, usage)
    };
    Errno::result(ret)?;
    // SAFETY: waitid wrote the fields of SIGCHLD, or left the struct all zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some(Waited { code: info.si_code, status, usage }))
}
