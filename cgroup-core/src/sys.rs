//! The system calls that neither std nor nix wraps. All unsafe code of this crate is here.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `pidfd_open(2)`: opens a process. The descriptor refers to this process even if its pid is
/// reused. Since Linux 5.3.
pub(crate) fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call has two integer arguments and accesses no memory of this process.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor with no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `pidfd_send_signal(2)`: sends a signal. Since Linux 5.1.
pub(crate) fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> nix::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: `pidfd` is open during the call. With a null pointer the kernel fills in the siginfo
    // itself, as for kill(2).
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    Errno::result(done).map(drop)
}

/// `fgetxattr(2)`: returns whether an extended attribute has this value; `false` if it cannot be
/// read.
pub(crate) fn xattr_is(fd: impl AsFd, name: &CStr, expected: &[u8]) -> bool {
    let mut value = [0_u8; 16];
    // SAFETY: `name` is a C string, `value` has room for the given length, and both live during the
    // call.
    let length = unsafe {
        libc::fgetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    usize::try_from(length).is_ok_and(|length| value.get(..length) == Some(expected))
}

/// The constant of libc has a type that is too small for the value on some targets.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// `clone3(2)`: starts a child that does nothing, and returns its pid and pidfd.
///
/// `alive` is the read end of a pipe, and the only descriptor that the child keeps. The child ends
/// when the last write end is closed. Its end sends no SIGCHLD; wait for it with `waitid` and
/// `__WALL`. Since Linux 5.5.
pub(crate) fn idle_child(alive: &OwnedFd) -> nix::Result<(i32, OwnedFd)> {
    let alive = alive.as_raw_fd();
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all fields are integers, for which 0 is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // Without this flag the handlers of the caller would run in the child.
    args.flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: `args` and `pidfd` live during the call. Without CLONE_VM and without a stack the
    // child continues with a copy of this memory, as after fork(2). Other threads may have held
    // locks at that moment, so the child makes only system calls.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) })?;
    if pid == 0 {
        let mut byte = 0_u8;
        // SAFETY: this is the child. The arguments of the calls are integers, except that `read`
        // writes one byte to `byte`. The closed descriptors are not used again, because the child
        // never returns.
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
    // SAFETY: the call succeeded, so `pidfd` is a new descriptor with no other owner.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Loads, attaches and lists the device programs of a cgroup with `bpf(2)`.
pub(crate) mod bpf {
    use super::{AsRawFd, BorrowedFd, Errno, FromRawFd, OwnedFd};

    // Commands, types and flags of linux/bpf.h.
    const PROG_LOAD: u32 = 5;
    const PROG_ATTACH: u32 = 8;
    const PROG_DETACH: u32 = 9;
    const PROG_GET_FD_BY_ID: u32 = 13;
    const PROG_QUERY: u32 = 16;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    const REPLACE: u32 = 4;
    /// BPF_CGROUP_MAX_PROGS of the kernel.
    const MAX_PROGRAMS: usize = 64;

    /// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }

    /// The same for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
        replaced: i32,
    }

    /// The same for `BPF_PROG_QUERY`.
    #[repr(C)]
    struct Query {
        target: i32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }

    /// The same for `BPF_PROG_GET_FD_BY_ID`.
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }

    /// `BPF_PROG_LOAD`: loads a device program. Each instruction is a `struct bpf_insn`.
    pub(crate) fn load(instructions: &[u64]) -> nix::Result<OwnedFd> {
        let mut attr = Load {
            kind: TYPE_CGROUP_DEVICE,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"nspod_devices\0\0\0",
        };
        // SAFETY: `instructions` and `license` point to `count` instructions and to a C string. Both
        // live during the call, and the kernel copies them.
        unsafe { bpf(PROG_LOAD, &mut attr) }.map(owned)
    }

    /// `BPF_PROG_ATTACH`: attaches a program to a cgroup, beside others or in place of `replaced`.
    pub(crate) fn attach(
        cgroup: BorrowedFd<'_>,
        program: &OwnedFd,
        replaced: Option<&OwnedFd>,
    ) -> nix::Result<()> {
        let mut attr = Attach {
            target: cgroup.as_raw_fd(),
            program: program.as_raw_fd(),
            kind: ATTACH_CGROUP_DEVICE,
            flags: if replaced.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
            replaced: replaced.map_or(0, AsRawFd::as_raw_fd),
        };
        // SAFETY: the attributes are integers; the descriptors are open during the call.
        unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
    }

    /// `BPF_PROG_DETACH`: detaches a program from a cgroup.
    pub(crate) fn detach(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> nix::Result<()> {
        let mut attr = Attach {
            target: cgroup.as_raw_fd(),
            program: program.as_raw_fd(),
            kind: ATTACH_CGROUP_DEVICE,
            flags: 0,
            replaced: 0,
        };
        // SAFETY: the attributes are integers; the descriptors are open during the call.
        unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
    }

    /// `BPF_PROG_QUERY` and `BPF_PROG_GET_FD_BY_ID`: opens the device programs that are attached to
    /// this cgroup itself.
    pub(crate) fn attached(cgroup: BorrowedFd<'_>) -> nix::Result<Vec<OwnedFd>> {
        let mut ids = [0_u32; MAX_PROGRAMS];
        let mut query = Query {
            target: cgroup.as_raw_fd(),
            kind: ATTACH_CGROUP_DEVICE,
            query_flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: ids.len() as u32,
            padding: 0,
        };
        // SAFETY: `ids` has room for `count` ids and lives during the call, which writes at most
        // that many.
        unsafe { bpf(PROG_QUERY, &mut query) }?;
        let by_id = |&id: &u32| {
            let mut attr = ById { id, next: 0, flags: 0 };
            // SAFETY: the attributes are integers.
            unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }.map(owned)
        };
        ids.iter().take(query.count as usize).map(by_id).collect()
    }

    fn owned(fd: i32) -> OwnedFd {
        // SAFETY: the callers pass the result of a successful bpf command that makes a descriptor.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    /// Makes one call.
    ///
    /// # Safety
    /// `attr` must begin as the kernel's `union bpf_attr` for `command`, without padding, and each
    /// pointer in it must be valid for what the command does with it.
    unsafe fn bpf<T>(command: u32, attr: &mut T) -> nix::Result<i32> {
        let size = std::mem::size_of::<T>();
        // SAFETY: the kernel accesses at most `size` bytes at `attr`. The caller guarantees the rest.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
        Errno::result(done).map(|fd| fd as i32)
    }
}
