//! The system calls of the child, one function for each, with arguments of the types that the
//! kernel reads. This is the only file of the child with unsafe code.
//!
//! The functions allocate nothing, acquire no lock and do not panic. They call the kernel through
//! syscall(2), because functions of the C library may assume threads that do not exist in this
//! process. A function closes or replaces only descriptors of the calling process, which has its
//! own descriptor table.

#![allow(unsafe_code)]

use ::core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use ::core::iter::Iterator;
use ::core::mem::{MaybeUninit, size_of, size_of_val};
use ::core::option::Option::{self, Some};
use ::core::ptr::{null, null_mut};
use ::core::result::Result::{self, Err, Ok};
use ::libc;
use ::ns_core::raw;
use ::std::os::fd::{FromRawFd, OwnedFd};
use ::std::os::unix::process::CommandExt;

use crate::step::{CStrings, Call};

/// A system call that failed.
pub(crate) struct Fault {
    /// The call.
    pub(crate) call: Call,
    /// Its errno.
    pub(crate) errno: c_int,
}

/// The result of a system call without a useful return value.
pub(crate) type Done = Result<(), Fault>;

/// Returns the result of a system call, or its name with its errno.
fn result(call: Call, returned: c_long) -> Result<c_int, Fault> {
    match returned {
        // SAFETY: the address of this thread's errno is always valid. With shared memory it is the
        // errno of the parent's suspended thread, which reads errno only after its own calls.
        -1 => Err(Fault { call, errno: unsafe { *libc::__errno_location() } }),
        returned => Ok(returned as c_int),
    }
}

/// Returns the same as [`result`], for a call whose result is not used.
fn done(call: Call, returned: c_long) -> Done {
    result(call, returned).map(|_| ())
}

// Processes

/// Code of a new process. It must obey the rules of [`child`](crate::child).
pub(crate) trait Run {
    /// Runs until the process ends or executes a program.
    fn run(&mut self) -> !;
}

/// The first function on a new process's stack.
///
/// # Safety
/// `process` points to an `R` that nothing else accesses until the process has ended or executed a
/// program.
pub(crate) unsafe extern "C" fn enter<R: Run>(process: *mut c_void) -> ! {
    // SAFETY: the caller's promise.
    unsafe { &mut *process.cast::<R>() }.run()
}

/// A process that ends at once.
pub(crate) struct End;

impl Run for End {
    fn run(&mut self) -> ! {
        exit(0)
    }
}

/// The stack of a process that the child may clone.
pub(crate) struct SecondStack {
    lowest: *mut u8,
    size: usize,
}

impl SecondStack {
    /// Makes a value for a stack, from its lowest address and its size in bytes.
    ///
    /// # Safety
    /// The range is mapped and writable, and nothing else uses it until the process that runs on it
    /// has ended or executed a program.
    pub(crate) unsafe fn new(lowest: *mut u8, size: usize) -> Self {
        SecondStack { lowest, size }
    }
}

/// How a process gets its memory from the process that clones it.
#[derive(::core::clone::Clone, ::core::marker::Copy)]
pub(super) enum CloneMemory {
    /// Shared memory. The cloning thread is suspended until the process has its own memory.
    Shared,
    /// Copied memory.
    Copied,
}

/// Starts a sibling of this process that runs `process` on this stack, in new namespaces
/// (`CLONE_NEW*`) and in this cgroup. Returns its pid.
pub(super) fn clone_sibling<R: Run>(
    namespaces: u64,
    memory: CloneMemory,
    cgroup: Option<c_int>,
    stack: SecondStack,
    process: &mut R,
) -> Result<c_int, Fault> {
    let mut args = raw::clone_args();
    args.flags = namespaces | libc::CLONE_PARENT as u64;
    if let CloneMemory::Shared = memory {
        args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= raw::CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    clone_on(args, stack, process)
}

/// Starts a child that shares this process's memory and runs `process` on this stack. Its end sends no
/// signal. Returns its pid when the child has executed a program or has ended.
pub(super) fn clone_child<R: Run>(stack: SecondStack, process: &mut R) -> Result<c_int, Fault> {
    let mut args = raw::clone_args();
    args.flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    clone_on(args, stack, process)
}

fn clone_on<R: Run>(mut args: raw::CloneArgs, stack: SecondStack, process: &mut R) -> Result<c_int, Fault> {
    let process: *mut R = process;
    // SAFETY: by the contract of `SecondStack::new` nothing else uses the stack. With shared memory
    // this process is suspended until the new one has ended or executed a program, so that only the
    // new process uses `process`. With copied memory the new process has its own copy.
    let pid = unsafe {
        raw::clone3_on_stack(&mut args, stack.lowest, stack.size, enter::<R>, process.cast::<c_void>())
    };
    pid.map_err(|errno| Fault { call: Call::Clone3, errno: errno as c_int })
}

/// Copies this process by clone(2), because some filters allow it and forbid clone3(2). Returns the
/// pid and the pidfd of the copy, and a pid of 0 in the copy.
pub(super) fn clone_copy() -> Result<(c_int, c_int), Fault> {
    let mut pidfd: c_int = -1;
    let flags = (libc::CLONE_PIDFD | libc::SIGCHLD) as c_ulong;
    let (stack, tls) = (null_mut::<c_void>(), 0 as c_ulong);
    // SAFETY: without CLONE_VM the copy has its own memory and stack. The kernel writes an int at
    // `pidfd`; it reads neither the child's tid nor TLS, whose order differs between architectures.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, flags, stack, &raw mut pidfd, null_mut::<c_int>(), tls) };
    result(Call::Clone, pid).map(|pid| (pid, pidfd))
}

/// Waits until a descriptor is readable. Returns `false` after this number of seconds, if it is
/// set.
pub(super) fn wait_readable(fd: c_int, seconds: Option<u32>) -> Result<bool, Fault> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let limit = seconds.map(|tv_sec| libc::timespec { tv_sec: tv_sec as libc::time_t, tv_nsec: 0 });
    let limit = limit.as_ref().map_or(null(), |limit| limit as *const libc::timespec);
    let (mask, size) = (null::<u64>(), size_of::<u64>());
    // SAFETY: the kernel reads and writes one pollfd, and reads a timespec or nothing.
    let ready = unsafe { libc::syscall(libc::SYS_ppoll, &raw mut poll, 1 as c_uint, limit, mask, size) };
    result(Call::Ppoll, ready).map(|ready| ready > 0)
}

/// Waits for a child to end. Returns its wait status.
pub(super) fn wait4(pid: c_int) -> Result<c_int, Fault> {
    let mut status: c_int = 0;
    let usage = null_mut::<libc::rusage>();
    // SAFETY: the kernel writes an int at `status`, and no usage.
    let waited = unsafe { libc::syscall(libc::SYS_wait4, pid, &raw mut status, 0 as c_int, usage) };
    result(Call::Wait4, waited).map(|_| status)
}

/// Sends a signal to a child of this process.
pub(super) fn kill(pid: c_int, signal: c_int) -> Done {
    // SAFETY: the arguments are integers.
    done(Call::Kill, unsafe { libc::syscall(libc::SYS_kill, pid, signal) })
}

/// Ends this process. A filter can reject both calls, but not the trap.
pub(super) fn exit(status: c_int) -> ! {
    // SAFETY: the calls end this process at once and run no handler of the host program. The trap
    // raises a signal with its default action, which ends even an init.
    unsafe {
        libc::syscall(libc::SYS_exit_group, status);
        libc::syscall(libc::SYS_exit, status);
        crate::arch::trap!()
    }
}

/// Executes the program at a path.
pub(super) fn execve(path: &CStr, argv: &CStrings, envp: &CStrings) -> Done {
    // SAFETY: the arguments are a string and two NULL-terminated arrays of strings.
    done(Call::Execve, unsafe {
        libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr())
    })
}

/// Executes the program that a descriptor refers to.
pub(super) fn fexecve(file: c_int, argv: &CStrings, envp: &CStrings) -> Done {
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the arguments are a string and two NULL-terminated arrays of strings.
    done(Call::Execveat, unsafe {
        libc::syscall(libc::SYS_execveat, file, path, argv.as_ptr(), envp.as_ptr(), flags)
    })
}

// Signals

/// Resets the action of a signal to its default.
pub(crate) fn default_signal(signal: c_int) {
    let default = [0u64; 4];
    let old = null_mut::<u64>();
    // SAFETY: the kernel reads a struct sigaction of four words: SIG_DFL, no flags, an empty mask.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, size_of::<u64>()) };
}

/// Resets the actions of all signals to their defaults: otherwise a program would inherit the
/// ignored signals of the caller. In the child all signals are blocked meanwhile, so that none
/// takes effect.
pub(super) fn default_signals() {
    const LAST: c_int = 64;
    // The kernel rejects SIGKILL and SIGSTOP, which cannot be ignored.
    for signal in 1..=LAST {
        default_signal(signal);
    }
}

/// Unblocks all signals.
pub(super) fn unblock_signals() -> Done {
    let (none, old) = (0u64, null_mut::<u64>());
    // SAFETY: the kernel reads one word.
    done(Call::Sigprocmask, unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, old, size_of::<u64>())
    })
}

/// Makes a command start with only its standard streams, and with all signals unblocked and at
/// their default actions.
pub(crate) fn inherit_nothing(command: &mut ::std::process::Command) {
    let before_exec = || {
        let marked = close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        default_signals();
        match marked.and_then(|()| unblock_signals()) {
            Ok(()) => Ok(()),
            Err(fault) => Err(::std::io::Error::from_raw_os_error(fault.errno)),
        }
    };
    // SAFETY: the closure only makes system calls with its own memory.
    unsafe { CommandExt::pre_exec(command, before_exec) };
}

// Namespaces and ids

/// Joins namespaces of these kinds (`CLONE_NEW*`). The descriptor is a namespace, or the pidfd of a
/// process in the namespaces.
pub(super) fn setns(fd: c_int, kinds: c_int) -> Done {
    // SAFETY: the arguments are integers. This process has one thread.
    done(Call::Setns, unsafe { libc::syscall(libc::SYS_setns, fd, kinds) })
}

/// Moves this process into new namespaces of these kinds (`CLONE_NEW*`).
pub(super) fn unshare(kinds: c_ulong) -> Done {
    // SAFETY: the argument is an integer. This process has one thread.
    done(Call::Unshare, unsafe { libc::syscall(libc::SYS_unshare, kinds) })
}

/// Makes this process the leader of a new session.
pub(super) fn setsid() -> Done {
    // SAFETY: the call has no arguments.
    done(Call::Setsid, unsafe { libc::syscall(libc::SYS_setsid) })
}

/// Sets all user ids and group ids.
pub(super) fn set_ids(uid: libc::uid_t, gid: libc::gid_t) -> Done {
    // SAFETY: the arguments are integers.
    done(Call::Setresgid, unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: the arguments are integers.
    done(Call::Setresuid, unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Sets the effective user id.
pub(super) fn set_effective_uid(uid: libc::uid_t) -> Done {
    let same = libc::uid_t::MAX;
    // SAFETY: the arguments are integers.
    done(Call::Setresuid, unsafe { libc::syscall(libc::SYS_setresuid, same, uid, same) })
}

/// Sets the supplementary groups.
pub(super) fn setgroups(groups: &[libc::gid_t]) -> Done {
    let length = groups.len() as c_int;
    // SAFETY: the kernel reads `length` ids.
    done(Call::Setgroups, unsafe { libc::syscall(libc::SYS_setgroups, length, groups.as_ptr()) })
}

/// Sets the capability sets: the header and the sets in the layout of version 3.
pub(super) fn capset(header: &[u32; 2], sets: &[u32; 6]) -> Done {
    // SAFETY: the kernel reads two words of the header, and six of the sets for this version.
    done(Call::Capset, unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// Calls prctl(2) with integer arguments.
///
/// # Safety
/// The option reads and writes no memory through its arguments.
unsafe fn prctl(option: c_int, first: c_ulong, second: c_ulong) -> Done {
    let zero: c_ulong = 0;
    // SAFETY: the caller's promise.
    done(Call::Prctl, unsafe { libc::syscall(libc::SYS_prctl, option, first, second, zero, zero) })
}

/// Removes a capability from the bounding set.
pub(super) fn drop_bounding(capability: c_ulong) -> Done {
    // SAFETY: the argument is a capability.
    unsafe { prctl(libc::PR_CAPBSET_DROP, capability, 0) }
}

/// Removes all capabilities from the ambient set.
pub(super) fn clear_ambient() -> Done {
    // SAFETY: the argument is an operation.
    unsafe { prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0) }
}

/// Adds a capability to the ambient set.
pub(super) fn raise_ambient(capability: c_ulong) -> Done {
    // SAFETY: the arguments are an operation and a capability.
    unsafe { prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as c_ulong, capability) }
}

/// Keeps the permitted capabilities when the user ids change from 0.
pub(super) fn keep_capabilities() -> Done {
    // SAFETY: the argument is a boolean.
    unsafe { prctl(libc::PR_SET_KEEPCAPS, 1, 0) }
}

/// Keeps all capabilities when the user ids change from or to 0.
pub(super) fn keep_capabilities_of_any_user() -> Done {
    // SAFETY: the argument is a set of bits.
    unsafe { prctl(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP as c_ulong, 0) }
}

/// Makes this process's memory dumpable.
pub(super) fn set_dumpable() -> Done {
    // SAFETY: the argument is a boolean.
    unsafe { prctl(libc::PR_SET_DUMPABLE, 1, 0) }
}

/// Makes this process's memory undumpable.
pub(super) fn set_undumpable() -> Done {
    // SAFETY: the argument is a boolean.
    unsafe { prctl(libc::PR_SET_DUMPABLE, 0, 0) }
}

/// Prevents execve(2) from granting privileges.
pub(super) fn no_new_privileges() -> Done {
    // SAFETY: the argument is a boolean.
    unsafe { prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0) }
}

/// Loads a filter of system calls with these `SECCOMP_FILTER_FLAG_*`.
pub(super) fn seccomp(filter: &[libc::sock_filter], flags: c_uint) -> Done {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel reads the program and its `len` instructions, and writes nothing.
    done(Call::Seccomp, unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })
}

/// Joins or makes the session keyring of this name. Returns its number.
pub(super) fn join_session_keyring(name: &CStr) -> Result<c_int, Fault> {
    const JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the kernel reads a string.
    let id = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    result(Call::Keyctl, id)
}

/// Sets the permissions of a key or keyring.
pub(super) fn set_key_permissions(id: c_int, permissions: u32) -> Done {
    const SETPERM: c_int = 5;
    // SAFETY: the arguments are integers.
    done(Call::Keyctl, unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, id, permissions) })
}

// Attributes of the process

/// Sets a resource limit: soft and hard.
pub(super) fn prlimit(resource: c_uint, limits: &[u64; 2]) -> Done {
    let old = null_mut::<u64>();
    // SAFETY: the kernel reads two words, and writes none.
    done(Call::Prlimit, unsafe {
        libc::syscall(libc::SYS_prlimit64, 0 as c_int, resource, limits.as_ptr(), old)
    })
}

/// Sets the scheduling policy.
pub(super) fn sched_setattr(attributes: &libc::sched_attr) -> Done {
    // The kernel reads `size` bytes.
    let attributes = libc::sched_attr { size: size_of::<libc::sched_attr>() as u32, ..*attributes };
    // SAFETY: the kernel reads `size` bytes.
    done(Call::SchedSetattr, unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0 as c_int, &raw const attributes, 0 as c_uint)
    })
}

/// Sets the I/O priority.
pub(super) fn ioprio_set(priority: c_int) -> Done {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: the arguments are integers.
    done(Call::IoprioSet, unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0 as c_int, priority)
    })
}

/// Sets the processors that this process may run on, one bit for each.
pub(super) fn sched_setaffinity(mask: &[c_ulong]) -> Done {
    let size = size_of_val(mask) as c_uint;
    // SAFETY: the kernel reads `size` bytes.
    done(Call::SchedSetaffinity, unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, 0 as c_int, size, mask.as_ptr())
    })
}

/// Sets the execution domain.
pub(super) fn personality(domain: c_uint) -> Done {
    // SAFETY: the argument is an integer.
    done(Call::Personality, unsafe { libc::syscall(libc::SYS_personality, domain) })
}

/// Sets the memory policy for these nodes, one bit for each.
pub(super) fn set_mempolicy(mode: c_int, nodes: &[c_ulong]) -> Done {
    // The kernel reads one bit less than this number.
    let bits = size_of_val(nodes).saturating_mul(8).saturating_add(1) as c_ulong;
    // SAFETY: the kernel reads `bits - 1` bits, rounded up to whole words: all of `nodes`.
    done(Call::SetMempolicy, unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.as_ptr(), bits) })
}

/// Sets the file mode creation mask. Returns the previous one.
pub(super) fn umask(mask: c_int) -> c_int {
    // SAFETY: the argument is an integer. This process has its own umask.
    unsafe { libc::syscall(libc::SYS_umask, mask) as c_int }
}

/// Sets the host name.
pub(super) fn sethostname(name: &CStr) -> Done {
    let bytes = name.to_bytes();
    // SAFETY: the kernel reads as many bytes as `bytes` has.
    done(Call::Sethostname, unsafe {
        libc::syscall(libc::SYS_sethostname, bytes.as_ptr(), bytes.len() as c_int)
    })
}

/// Sets the NIS domain name.
pub(super) fn setdomainname(name: &CStr) -> Done {
    let bytes = name.to_bytes();
    // SAFETY: the kernel reads as many bytes as `bytes` has.
    done(Call::Setdomainname, unsafe {
        libc::syscall(libc::SYS_setdomainname, bytes.as_ptr(), bytes.len() as c_int)
    })
}

// Descriptors

/// Closes a descriptor. Does nothing for -1.
pub(super) fn close(fd: c_int) {
    // SAFETY: the argument is an integer; see the head of this file.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// Closes a range of descriptors, or marks them with `CLOSE_RANGE_CLOEXEC`.
pub(super) fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> Done {
    // SAFETY: the arguments are integers; see the head of this file.
    done(Call::CloseRange, unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

/// Copies a descriptor to this number. The copy stays open across exec.
pub(super) fn dup3(from: c_int, to: c_int) -> Done {
    // SAFETY: the arguments are integers; see the head of this file.
    done(Call::Dup3, unsafe { libc::syscall(libc::SYS_dup3, from, to, 0 as c_int) })
}

/// Copies a descriptor to the first free number that is at least `minimum`. The copy is closed on
/// exec.
pub(super) fn dup_above(fd: c_int, minimum: c_int) -> Result<c_int, Fault> {
    // SAFETY: the arguments are integers.
    result(Call::Fcntl, unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, minimum) })
}

/// Keeps a descriptor open across exec.
pub(super) fn keep_on_exec(fd: c_int) -> Done {
    // SAFETY: the arguments are integers.
    done(Call::Fcntl, unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, 0 as c_int) })
}

/// Returns the `O_*` flags of an open file.
pub(super) fn open_flags(fd: c_int) -> Result<c_int, Fault> {
    // SAFETY: the arguments are integers.
    result(Call::Fcntl, unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFL) })
}

/// Reads one byte. Returns `false` at the end of file.
pub(super) fn read_byte(fd: c_int) -> Result<bool, Fault> {
    let mut byte = 0u8;
    // SAFETY: the kernel writes one byte.
    let n = unsafe { libc::syscall(libc::SYS_read, fd, &raw mut byte, 1usize) };
    result(Call::Read, n).map(|n| n == 1)
}

/// Writes bytes in one call.
pub(super) fn write(fd: c_int, bytes: &[u8]) -> Done {
    // SAFETY: the kernel reads as many bytes as `bytes` has.
    done(Call::Write, unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) })
}

/// Sends bytes and a descriptor through a socket.
pub(super) fn send_descriptor(socket: c_int, bytes: &[u8], fd: c_int) -> Done {
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // A cmsghdr and one int, with the alignment of a cmsghdr.
    let mut control = [0u64; 3];
    // SAFETY: all zeroes is a valid msghdr: null pointers with lengths of 0.
    let mut header: libc::msghdr = unsafe { ::core::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the control buffer is aligned and has room for a header and an int. The kernel reads
    // the memory that the header points to, all of which is in this function.
    done(Call::Sendmsg, unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as _;
        libc::CMSG_DATA(first).cast::<c_int>().write_unaligned(fd);
        libc::syscall(libc::SYS_sendmsg, socket, &raw const header, libc::MSG_NOSIGNAL)
    })
}

/// Sets the offset of an open file, from its start.
pub(super) fn seek(fd: c_int, offset: i64) -> Done {
    // SAFETY: the arguments are integers.
    done(Call::Lseek, unsafe { libc::syscall(libc::SYS_lseek, fd, offset, libc::SEEK_SET) })
}

/// Copies at most `count` bytes between the current offsets of two files. Returns the number of
/// bytes.
pub(super) fn sendfile(to: c_int, from: c_int, count: usize) -> Result<c_int, Fault> {
    let offset = null_mut::<i64>();
    // SAFETY: the kernel accesses no memory of this process.
    result(Call::Sendfile, unsafe { libc::syscall(libc::SYS_sendfile, to, from, offset, count) })
}

// Terminals and the loopback interface

/// Makes a socket for configuring network interfaces.
pub(super) fn inet_socket() -> Result<c_int, Fault> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the arguments are integers.
    result(Call::Socket, unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, kind, 0 as c_int) })
}

/// Sets the flags (`IFF_*`) of the interface `lo`.
pub(super) fn set_loopback_flags(socket: c_int, flags: c_int) -> Done {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { ::core::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the kernel reads an ifreq.
    done(Call::Ioctl, unsafe {
        libc::syscall(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS as c_uint, &raw const request)
    })
}

/// Unlocks the other side of a terminal, so that it can be opened.
pub(super) fn unlock_terminal(main: c_int) -> Done {
    let unlock: c_int = 0;
    // SAFETY: the kernel reads an int.
    done(Call::Ioctl, unsafe {
        libc::syscall(libc::SYS_ioctl, main, libc::TIOCSPTLCK as c_uint, &raw const unlock)
    })
}

/// Opens the other side of a terminal with these `O_*` flags.
pub(super) fn open_terminal_peer(main: c_int, flags: c_int) -> Result<c_int, Fault> {
    let flags = flags as c_ulong;
    // SAFETY: the arguments are integers.
    result(Call::Ioctl, unsafe { libc::syscall(libc::SYS_ioctl, main, libc::TIOCGPTPEER as c_uint, flags) })
}

/// Sets the size of a terminal in characters.
pub(super) fn set_terminal_size(terminal: c_int, rows: u16, columns: u16) -> Done {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads a winsize.
    done(Call::Ioctl, unsafe {
        libc::syscall(libc::SYS_ioctl, terminal, libc::TIOCSWINSZ as c_uint, &raw const size)
    })
}

/// Makes a terminal the controlling terminal of this session.
pub(super) fn set_controlling_terminal(terminal: c_int) -> Done {
    let steal: c_ulong = 0;
    // SAFETY: the arguments are integers.
    done(Call::Ioctl, unsafe { libc::syscall(libc::SYS_ioctl, terminal, libc::TIOCSCTTY as c_uint, steal) })
}

// Files

/// Opens a file.
pub(super) fn openat(dir: c_int, path: &CStr, flags: c_int, mode: libc::mode_t) -> Result<c_int, Fault> {
    // SAFETY: the kernel reads a string.
    result(Call::Open, unsafe { libc::syscall(libc::SYS_openat, dir, path.as_ptr(), flags, mode) })
}

/// Opens a file, and resolves the path with these `RESOLVE_*`.
pub(super) fn openat2(dir: c_int, path: &CStr, flags: c_int, resolve: u64) -> Result<c_int, Fault> {
    // A struct open_how: flags, mode, resolve.
    let how = [flags as u64, 0, resolve];
    let mut attempts = 10_000u32;
    loop {
        // SAFETY: the kernel reads a string and as many bytes as `how` has.
        let fd =
            unsafe { libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), how.as_ptr(), size_of_val(&how)) };
        match result(Call::Openat2, fd) {
            // A file was renamed or mounted meanwhile, and the kernel could not ensure that the
            // path stays within its root.
            Err(fault) if fault.errno == libc::EAGAIN && attempts > 0 => attempts = attempts.wrapping_sub(1),
            other => return other,
        }
    }
}

/// Returns the attributes of an open file.
pub(super) fn fstat(fd: c_int) -> Result<libc::stat, Fault> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes a stat, or fails.
    done(Call::Fstat, unsafe { libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded.
    Ok(unsafe { stat.assume_init() })
}

/// Returns the magic number of the file system of an open file.
pub(super) fn file_system_of(fd: c_int) -> Result<c_long, Fault> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel writes a statfs, or fails.
    done(Call::Fstatfs, unsafe { libc::syscall(libc::SYS_fstatfs, fd, stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded.
    Ok(unsafe { stat.assume_init() }.f_type as c_long)
}

/// Changes the working directory.
pub(super) fn chdir(path: &CStr) -> Done {
    // SAFETY: the kernel reads a string.
    done(Call::Chdir, unsafe { libc::syscall(libc::SYS_chdir, path.as_ptr()) })
}

/// Changes the working directory to an open directory.
pub(super) fn fchdir(fd: c_int) -> Done {
    // SAFETY: the argument is an integer.
    done(Call::Fchdir, unsafe { libc::syscall(libc::SYS_fchdir, fd) })
}

/// Writes the path of the working directory and a NUL into the buffer.
pub(super) fn getcwd(buffer: &mut [u8]) -> Done {
    // SAFETY: the kernel writes at most as many bytes as the buffer has.
    done(Call::Getcwd, unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })
}

/// Makes a directory.
pub(super) fn mkdirat(dir: c_int, path: &CStr, mode: libc::mode_t) -> Done {
    // SAFETY: the kernel reads a string.
    done(Call::Mkdirat, unsafe { libc::syscall(libc::SYS_mkdirat, dir, path.as_ptr(), mode) })
}

/// Makes a device node or a named pipe.
pub(super) fn mknodat(dir: c_int, path: &CStr, mode: libc::mode_t, device: c_uint) -> Done {
    // SAFETY: the kernel reads a string.
    done(Call::Mknodat, unsafe { libc::syscall(libc::SYS_mknodat, dir, path.as_ptr(), mode, device) })
}

/// Makes a symbolic link.
pub(super) fn symlinkat(target: &CStr, dir: c_int, path: &CStr) -> Done {
    // SAFETY: the kernel reads two strings.
    done(Call::Symlinkat, unsafe { libc::syscall(libc::SYS_symlinkat, target.as_ptr(), dir, path.as_ptr()) })
}

/// Reads the target of a symbolic link into the buffer, without a NUL.
pub(super) fn readlinkat(dir: c_int, path: &CStr, buffer: &mut [u8]) -> Done {
    let size = buffer.len() as c_int;
    // SAFETY: the kernel reads a string, and writes at most `size` bytes.
    done(Call::Readlinkat, unsafe {
        libc::syscall(libc::SYS_readlinkat, dir, path.as_ptr(), buffer.as_mut_ptr(), size)
    })
}

/// Reads directory entries (`struct linux_dirent64`) into the buffer. Returns the number of bytes.
pub(super) fn getdents64(dir: c_int, buffer: &mut [u8]) -> Result<c_int, Fault> {
    let size = buffer.len() as c_uint;
    // SAFETY: the kernel writes at most `size` bytes.
    result(Call::Getdents, unsafe { libc::syscall(libc::SYS_getdents64, dir, buffer.as_mut_ptr(), size) })
}

/// Sets the mode of an open file.
pub(super) fn fchmod(fd: c_int, mode: libc::mode_t) -> Done {
    // SAFETY: the arguments are integers.
    done(Call::Fchmodat, unsafe { libc::syscall(libc::SYS_fchmod, fd, mode) })
}

/// Sets the mode of a file. Follows links.
pub(super) fn fchmodat(dir: c_int, path: &CStr, mode: libc::mode_t) -> Done {
    // SAFETY: the kernel reads a string.
    done(Call::Fchmodat, unsafe { libc::syscall(libc::SYS_fchmodat, dir, path.as_ptr(), mode) })
}

/// Sets the user of an open file.
pub(super) fn chown_user(fd: c_int, uid: libc::uid_t) -> Done {
    let unchanged = libc::gid_t::MAX;
    // SAFETY: the arguments are integers.
    done(Call::Fchown, unsafe { libc::syscall(libc::SYS_fchown, fd, uid, unchanged) })
}

/// Sets user and group of a file, with these `AT_*` flags.
pub(super) fn fchownat(dir: c_int, path: &CStr, uid: libc::uid_t, gid: libc::gid_t, flags: c_int) -> Done {
    // SAFETY: the kernel reads a string.
    done(Call::Fchownat, unsafe { libc::syscall(libc::SYS_fchownat, dir, path.as_ptr(), uid, gid, flags) })
}

/// Sets the times of access and of modification, each in seconds and nanoseconds.
pub(super) fn utimensat(dir: c_int, path: &CStr, times: &[i64; 4], flags: c_int) -> Done {
    // SAFETY: the kernel reads a string and two timespecs, of two words each.
    done(Call::Utimensat, unsafe {
        libc::syscall(libc::SYS_utimensat, dir, path.as_ptr(), times.as_ptr(), flags)
    })
}

// Mounts

/// Calls mount(2).
pub(super) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: c_ulong,
    options: Option<&CStr>,
) -> Done {
    let pointer = |text: Option<&CStr>| text.map_or(null(), CStr::as_ptr);
    let (source, fstype, options) = (pointer(source), pointer(fstype), pointer(options));
    // SAFETY: the kernel reads strings, or nothing.
    done(Call::Mount, unsafe {
        libc::syscall(libc::SYS_mount, source, target.as_ptr(), fstype, flags, options)
    })
}

/// Unmounts, with these `MNT_*` flags.
pub(super) fn umount2(path: &CStr, flags: c_int) -> Done {
    // SAFETY: the kernel reads a string.
    done(Call::Umount2, unsafe { libc::syscall(libc::SYS_umount2, path.as_ptr(), flags) })
}

/// Makes the working directory the root of the mount namespace, and mounts the old root over it.
pub(super) fn pivot_root_here() -> Done {
    let here = c".".as_ptr();
    // SAFETY: the kernel reads two strings.
    done(Call::PivotRoot, unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })
}

/// Makes the working directory the root of this process.
pub(super) fn chroot_here() -> Done {
    // SAFETY: the kernel reads a string.
    done(Call::Chroot, unsafe { libc::syscall(libc::SYS_chroot, c".".as_ptr()) })
}

/// Opens a context for a mount of this file system type.
pub(super) fn fsopen(fstype: &CStr) -> Result<c_int, Fault> {
    const FSOPEN_CLOEXEC: c_uint = 1;
    // SAFETY: the kernel reads a string.
    result(Call::Fsopen, unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) })
}

/// A parameter of a file system context.
pub(super) enum Config<'a> {
    /// A key without a value.
    Flag(&'a CStr),
    /// A key and a string.
    Text(&'a CStr, &'a CStr),
    /// A key and a descriptor.
    Descriptor(&'a CStr, c_int),
    /// The command that makes the superblock.
    Create,
}

/// Sets a parameter of a file system context.
pub(super) fn fsconfig(context: c_int, config: Config<'_>) -> Done {
    const SET_FLAG: c_uint = 0;
    const SET_STRING: c_uint = 1;
    const SET_FD: c_uint = 5;
    const CMD_CREATE: c_uint = 6;
    let none = null::<c_char>();
    let (command, key, value, number): (c_uint, *const c_char, *const c_char, c_int) = match config {
        Config::Flag(key) => (SET_FLAG, key.as_ptr(), none, 0),
        Config::Text(key, value) => (SET_STRING, key.as_ptr(), value.as_ptr(), 0),
        Config::Descriptor(key, fd) => (SET_FD, key.as_ptr(), none, fd),
        Config::Create => (CMD_CREATE, none, none, 0),
    };
    // SAFETY: the kernel reads strings, or nothing, as the command requires.
    done(Call::Fsconfig, unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, number) })
}

/// Makes a detached mount from a file system context.
pub(super) fn fsmount(context: c_int, attributes: c_uint) -> Result<OwnedFd, Fault> {
    const FSMOUNT_CLOEXEC: c_uint = 1;
    // SAFETY: the arguments are integers.
    let fd = unsafe { libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes) };
    // SAFETY: the descriptor is new, and nothing else owns it.
    result(Call::Fsmount, fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Copies a mount, or the tree of mounts at a path. The copy is detached. An empty path refers to
/// `dir`.
pub(super) fn open_tree(dir: c_int, path: &CStr, recursive: bool) -> Result<OwnedFd, Fault> {
    const OPEN_TREE_CLONE: c_uint = 1;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as c_uint;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as c_uint;
    }
    // SAFETY: the kernel reads a string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) };
    // SAFETY: the descriptor is new, and nothing else owns it.
    result(Call::OpenTree, fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

const AT_RECURSIVE: c_uint = 0x8000;

/// Attaches a mount at a path. An empty path refers to `dir`.
pub(super) fn move_mount(fd: c_int, dir: c_int, path: &CStr) -> Done {
    const F_EMPTY_PATH: c_uint = 0x04;
    const T_EMPTY_PATH: c_uint = 0x40;
    let flags = if path.is_empty() { F_EMPTY_PATH | T_EMPTY_PATH } else { F_EMPTY_PATH };
    // SAFETY: the kernel reads two strings.
    done(Call::MoveMount, unsafe {
        libc::syscall(libc::SYS_move_mount, fd, c"".as_ptr(), dir, path.as_ptr(), flags)
    })
}

/// Changes a mount, or the mount and all mounts below it. The words are those of a `struct
/// mount_attr`: attributes to set, attributes to clear, propagation, and a user namespace for id
/// maps.
pub(crate) fn mount_setattr(fd: c_int, attributes: &[u64; 4], recursive: bool) -> Done {
    let flags = libc::AT_EMPTY_PATH as c_uint | if recursive { AT_RECURSIVE } else { 0 };
    let (path, size) = (c"".as_ptr(), size_of_val(attributes));
    // SAFETY: the kernel reads a string and `size` bytes of attributes.
    done(Call::MountSetattr, unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, path, flags, attributes.as_ptr(), size)
    })
}
