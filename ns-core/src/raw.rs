//! The four system calls that make and enter namespaces, as thin as they get.
//!
//! Everything here is async-signal-safe: it allocates nothing, takes no lock and never
//! panics, so it may be called between a raw clone and exec, and in a child that shares
//! its parent's memory. Errors are plain errno values; the layer above
//! ([`Clone3`](crate::Clone3), [`unshare`](crate::unshare()), [`setns`](crate::setns()))
//! turns them into sentences.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::pid_t;
use nix::errno::Errno;

/// The argument block of `clone3`, as the kernel defines it (`struct clone_args`).
pub type CloneArgs = libc::clone_args;

/// Creates the child in the cgroup that `CloneArgs::cgroup` refers to (since Linux 5.7).
///
/// The constant of the same name in `libc` 0.2 is typed as a C `int`, in which the bit
/// does not fit: it is 0 there.
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Resets signal handlers to their defaults in the child (since Linux 5.5).
///
/// The constant of the same name in `libc` 0.2 is 0, see [`CLONE_INTO_CGROUP`].
pub const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// A `CloneArgs` with every field zero: no flags, no exit signal, memory copied.
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

/// [`clone3(2)`](https://man7.org/linux/man-pages/man2/clone.2.html) with copied memory,
/// like `fork`: returns the child's pid in the parent and 0 in the child.
///
/// Since Linux 5.3.
///
/// # Errors
/// The kernel's errno, and `EINVAL` where `args` shares memory (`CLONE_VM`) or names a
/// stack: that is what [`clone3_on_stack`] is for.
///
/// # Safety
/// - The pointers in `args` (pidfd, tids, set_tid) are null or valid for the kernel.
/// - In the child only the calling thread goes on, and libc does not know of it: until
///   exec or `_exit` the child calls async-signal-safe functions only.
/// - With `CLONE_FILES` the caller upholds I/O safety for both processes.
pub unsafe fn clone3(args: &mut CloneArgs) -> Result<pid_t, Errno> {
    if args.flags & libc::CLONE_VM as u64 != 0 || args.stack != 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the block is valid for its size and the caller vouches for its pointers; the
    // child has a copy of this stack, so returning twice is sound.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args as *mut CloneArgs, size_of::<CloneArgs>()) };
    Errno::result(pid as pid_t)
}

/// `clone3` where the child starts on a stack of its own, calls `f(arg)` and never comes
/// back here. Returns the child's pid in the parent.
///
/// With `CLONE_VM | CLONE_VFORK` in `args` the child shares the caller's memory, and the
/// calling thread sleeps until the child has exec'd or ended: the start then costs the same
/// from a parent of any size. Without `CLONE_VM` the memory is copied and only the stack
/// changes.
///
/// The upper end of the stack is rounded down to 16 bytes; `args.stack` and
/// `args.stack_size` are overwritten. Since Linux 5.3, on x86_64 and aarch64.
///
/// # Errors
/// The kernel's errno; `ENOSYS` on other architectures; `EINVAL` if the stack has no
/// 16 byte boundary to start from.
///
/// # Safety
/// - The pointers in `args` (pidfd, tids, set_tid) are null or valid for the kernel.
/// - `stack..stack + size` is writable, used by nothing else until the child has exec'd or
///   ended, and large enough for `f`.
/// - `f` and what it calls are async-signal-safe. With `CLONE_VM` it runs on the thread
///   local storage of the caller and leaves no lock or half-written value behind; without
///   `CLONE_VFORK` the two then also run at the same time, so it may touch no thread local
///   at all (`errno` is one).
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
    // The kernel writes through this address, so the pointer's provenance is exposed.
    args.stack = stack.expose_provenance() as u64;
    args.stack_size = (top - base) as u64;
    // SAFETY: the caller vouches for the stack, for `f` and for the block's pointers.
    let ret = unsafe { start(args, f, arg) };
    match ret {
        0.. => Ok(ret as pid_t),
        _ => Err(Errno::from_raw(-ret as i32)),
    }
}

/// The system call, and in the child the jump to `f`. Returns the raw result.
///
/// No register but the result changes in the parent. The child's stack is empty at the
/// call, so the frame pointer is zeroed to end a backtrace there. The asm is not `nomem`:
/// for the compiler it reads and writes all memory, as a child that shares it may do.
///
/// # Safety
/// See [`clone3_on_stack`]; `args.stack + args.stack_size` is a multiple of 16.
#[cfg(target_arch = "x86_64")]
unsafe fn start(args: &mut CloneArgs, f: unsafe extern "C" fn(*mut c_void) -> !, arg: *mut c_void) -> isize {
    let ret: isize;
    // SAFETY: by the contract above; rcx and r11 are what `syscall` itself overwrites, r8
    // and r9 keep their values across it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => ret,
            in("rdi") args as *mut CloneArgs,
            in("rsi") size_of::<CloneArgs>(),
            in("r8") f,
            in("r9") arg,
            out("rcx") _,
            out("r11") _,
        );
    }
    ret
}

/// See the x86_64 version.
///
/// # Safety
/// See [`clone3_on_stack`]; `args.stack + args.stack_size` is a multiple of 16.
#[cfg(target_arch = "aarch64")]
unsafe fn start(args: &mut CloneArgs, f: unsafe extern "C" fn(*mut c_void) -> !, arg: *mut c_void) -> isize {
    let ret: isize;
    // SAFETY: by the contract above; `svc` keeps every register but x0.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x10",
            "blr x9",
            "brk #1",
            "2:",
            inlateout("x0") args as *mut CloneArgs => ret,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x9") f,
            in("x10") arg,
        );
    }
    ret
}

/// Not written for this architecture.
///
/// # Safety
/// None needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn start(_: &mut CloneArgs, _: unsafe extern "C" fn(*mut c_void) -> !, _: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}

/// [`setns(2)`](https://man7.org/linux/man-pages/man2/setns.2.html): moves the calling
/// thread into the namespace that `fd` refers to, or, if `fd` is a pidfd, into those of
/// that process that `nstype` names (since Linux 5.8).
///
/// # Errors
/// The kernel's errno, see [`setns`](crate::setns()).
pub fn setns(fd: BorrowedFd<'_>, nstype: c_int) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::setns(fd.as_raw_fd(), nstype) }).map(drop)
}

/// [`unshare(2)`](https://man7.org/linux/man-pages/man2/unshare.2.html) with any flags.
///
/// # Errors
/// The kernel's errno, see [`unshare`](crate::unshare()).
///
/// # Safety
/// With `CLONE_FILES` the calling thread gets a copy of the descriptor table, so that a
/// descriptor no longer means the same file in every thread: the caller upholds I/O
/// safety. `CLONE_NEW*` flags alone are safe.
pub unsafe fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: no memory is passed; the caller vouches for the descriptors.
    Errno::result(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}
