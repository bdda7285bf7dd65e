//! The system calls that several steps make.

use ::core::ffi::{CStr, c_int, c_long, c_void};
use ::core::iter::Iterator;
use ::core::mem::{MaybeUninit, size_of_val};
use ::core::option::Option::{self, Some};
use ::core::ptr;
use ::core::result::Result::{self, Err, Ok};
use ::libc;
use ::std::os::fd::{FromRawFd, OwnedFd};
use ::std::os::unix::process::CommandExt;

use crate::step::Call;

/// A call that failed, and how.
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) errno: c_int,
}

pub(crate) type Done = Result<(), Fault>;

/// A raw system call: `call!(Setns, libc::SYS_setns, fd, kinds)`.
macro_rules! call {
    ($name:ident, $($argument:expr),+) => {
        // SAFETY: everywhere in this file each argument is what the call's manual page asks
        // for: a pointer is made from a reference that lives across the call, with the
        // length of what it refers to, and to something mutable where the kernel writes.
        // Descriptors and ids are this process's own to use.
        $crate::child::sys::result($crate::step::Call::$name, unsafe { ::libc::syscall($($argument),+) })
    };
}

pub(super) use call;

/// What a system call returned, or its name with its errno.
pub(super) fn result(name: Call, returned: c_long) -> Result<c_int, Fault> {
    match returned {
        // SAFETY: the address of this thread's errno is always valid; where memory is
        // shared it is the waiting parent thread's, which reads it only after its own calls.
        -1 => Err(Fault { call: name, errno: unsafe { *libc::__errno_location() } }),
        n => Ok(n as c_int),
    }
}

/// What a new process runs. It must keep to the rules of [`child`](crate::child).
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
    /// Names a stack by its lowest address and its size in bytes.
    ///
    /// # Safety
    /// The range is mapped, writable, and used by nothing else until the process that runs on it
    /// has ended or executed a program.
    pub(crate) unsafe fn new(lowest: *mut u8, size: usize) -> Self {
        SecondStack { lowest, size }
    }
}

/// Starts a process that runs `process` on this stack. The flags contain `CLONE_VFORK` if they
/// contain `CLONE_VM`, and `cgroup` is the cgroup to start in. Returns the pid.
pub(super) fn clone_on_stack<R: Run>(
    flags: u64,
    cgroup: Option<c_int>,
    stack: SecondStack,
    process: &mut R,
) -> Result<c_int, Fault> {
    let mut args = ::ns_core::raw::clone_args();
    args.flags = flags;
    if let Some(cgroup) = cgroup {
        args.flags |= ::ns_core::raw::CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    let process: *mut R = process;
    // SAFETY: `SecondStack::new` was promised a stack of this process's own. Where memory is shared
    // this process sleeps until the new process has ended or executed a program, so that the new
    // process alone has the borrow; where memory is copied it has a copy.
    let pid = unsafe {
        ::ns_core::raw::clone3_on_stack(&mut args, stack.lowest, stack.size, enter::<R>, process.cast())
    };
    pid.map_err(|errno| Fault { call: Call::Clone3, errno: errno as c_int })
}

/// Lets a command start with its standard streams as its only descriptors, and with all signals
/// unblocked and at their default actions.
pub(crate) fn inherit_nothing(command: &mut ::std::process::Command) {
    let before_exec = || {
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        match close_range(3, u32::MAX, flags as c_int).and_then(|()| {
            default_signals();
            unblock_signals()
        }) {
            Ok(()) => Ok(()),
            Err(fault) => Err(::std::io::Error::from_raw_os_error(fault.errno)),
        }
    };
    // SAFETY: the closure makes system calls on memory of its own only, and allocates nothing.
    unsafe { CommandExt::pre_exec(command, before_exec) };
}

/// Resets the action of a signal to its default.
pub(crate) fn default_signal(signal: c_int) {
    let default = [0usize; 4];
    // SAFETY: the kernel reads a struct sigaction of four words: SIG_DFL, no flags, an empty mask.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null::<u8>(), 8usize) };
}

/// Resets the actions of all signals to their defaults. A program would inherit the signals that
/// the caller ignores. In the child all signals are blocked meanwhile, so that none takes effect.
pub(super) fn default_signals() {
    const LAST: c_int = 64;
    // The kernel refuses SIGKILL and SIGSTOP, which cannot be ignored.
    for signal in 1..=LAST {
        default_signal(signal);
    }
}

/// Unblocks all signals.
pub(super) fn unblock_signals() -> Done {
    let none = 0u64;
    call!(
        Sigprocmask,
        libc::SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        &raw const none,
        ptr::null_mut::<u64>(),
        8
    )
    .map(drop)
}

/// Closes a range of descriptors, or with `CLOSE_RANGE_CLOEXEC` marks them to be closed on exec.
pub(super) fn close_range(first: u32, last: u32, flags: c_int) -> Done {
    call!(CloseRange, libc::SYS_close_range, first, last, flags).map(drop)
}

/// Ends a value's use; `drop` of the prelude is not in scope.
pub(super) fn drop<T>(_: T) {}

/// Ends the process. A filter can refuse both calls; a trap cannot be refused.
pub(super) fn exit(status: c_int) -> ! {
    // SAFETY: ends the process at once; runs no handler of the host program. The instruction
    // raises a signal with its default action, which ends the process, and an init too.
    unsafe {
        libc::syscall(libc::SYS_exit_group, status);
        libc::syscall(libc::SYS_exit, status);
        #[cfg(target_arch = "x86_64")]
        ::core::arch::asm!("ud2", options(noreturn));
        #[cfg(target_arch = "aarch64")]
        ::core::arch::asm!("brk #1", options(noreturn));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    loop {}
}

/// Changes attributes and propagation of a mount: `attr_set`, `attr_clr`, `propagation` and
/// `userns_fd` of a `struct mount_attr`.
pub(crate) fn mount_setattr(fd: c_int, attributes: &[u64; 4], recursive: bool) -> Done {
    const AT_RECURSIVE: u32 = 0x8000;
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { AT_RECURSIVE } else { 0 };
    let size = size_of_val(attributes);
    call!(MountSetattr, libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attributes.as_ptr(), size).map(drop)
}

/// Copies a mount tree, attached nowhere.
pub(super) fn open_tree(dir: c_int, path: &CStr, flags: u32) -> Result<OwnedFd, Fault> {
    let fd = call!(OpenTree, libc::SYS_open_tree, dir, path.as_ptr(), flags)?;
    // SAFETY: the descriptor is new, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a mount, attached nowhere, of a file system context.
pub(super) fn fsmount(context: c_int, flags: u32, attributes: u32) -> Result<OwnedFd, Fault> {
    let fd = call!(Fsmount, libc::SYS_fsmount, context, flags, attributes)?;
    // SAFETY: as in `open_tree`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn close(fd: c_int) {
    // SAFETY: closes a descriptor that this process has opened; its table is its own.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

pub(super) fn setns(fd: c_int, kinds: u64) -> Done {
    call!(Setns, libc::SYS_setns, fd, kinds).map(drop)
}

/// By raw calls: glibc's would tell threads that do not exist in this process.
pub(super) fn set_ids(uid: u32, gid: u32) -> Done {
    call!(Setresgid, libc::SYS_setresgid, gid, gid, gid)?;
    call!(Setresuid, libc::SYS_setresuid, uid, uid, uid).map(drop)
}

pub(super) fn fchdir(fd: c_int) -> Done {
    call!(Fchdir, libc::SYS_fchdir, fd).map(drop)
}

pub(super) fn prctl(option: c_int, a: u64, b: u64) -> Done {
    call!(Prctl, libc::SYS_prctl, option, a, b, 0, 0).map(drop)
}

pub(super) fn openat(dir: c_int, path: &CStr, flags: c_int, mode: u32) -> Result<c_int, Fault> {
    call!(Open, libc::SYS_openat, dir, path.as_ptr(), flags, mode)
}

pub(super) fn openat2(dir: c_int, path: &CStr, flags: c_int, resolve: u64) -> Result<c_int, Fault> {
    let how = [flags as u64, 0, resolve];
    let mut patience = 10_000u32;
    loop {
        match call!(Openat2, libc::SYS_openat2, dir, path.as_ptr(), how.as_ptr(), size_of_val(&how)) {
            // Somewhere something was renamed or mounted meanwhile, and the kernel could not
            // be sure that the path stayed within.
            Err(fault) if fault.errno == libc::EAGAIN && patience > 0 => patience = patience.wrapping_sub(1),
            other => return other,
        }
    }
}

pub(super) fn write_all(fd: c_int, value: &CStr) -> Done {
    let bytes = value.to_bytes();
    call!(Write, libc::SYS_write, fd, bytes.as_ptr(), bytes.len()).map(drop)
}

pub(super) fn write_file(dir: c_int, path: &CStr, value: &CStr) -> Done {
    let fd = openat(dir, path, libc::O_WRONLY | libc::O_CLOEXEC, 0)?;
    let done = write_all(fd, value);
    close(fd);
    done
}

/// Writes a file of a procfs that this child mounted itself, crossing no link and no
/// mount, so that nothing can redirect the write.
pub(super) fn write_beneath(dir: c_int, path: &CStr, value: &CStr) -> Done {
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    let fd = openat2(dir, path, libc::O_WRONLY | libc::O_CLOEXEC, resolve)?;
    let done = write_all(fd, value);
    close(fd);
    done
}

pub(super) fn fstat(fd: c_int) -> Result<libc::stat, Fault> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    call!(Fstat, libc::SYS_fstat, fd, stat.as_mut_ptr())?;
    // SAFETY: fstat succeeded and has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// `/proc/self/fd/N`.
pub(super) struct OwnFd([u8; 32]);

impl OwnFd {
    pub(super) fn path(&self) -> &CStr {
        match CStr::from_bytes_until_nul(&self.0) {
            Ok(path) => path,
            Err(_) => c"",
        }
    }
}

/// The path of one of this process's descriptors, while `/` is the caller's: by it the file is
/// opened again that an `O_PATH` descriptor refers to.
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

/// Whether this lies on a procfs.
pub(super) fn is_procfs(fd: c_int) -> Result<bool, Fault> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    call!(Fstatfs, libc::SYS_fstatfs, fd, stat.as_mut_ptr())?;
    // SAFETY: fstatfs succeeded and has filled it.
    let magic = unsafe { stat.assume_init() }.f_type;
    Ok(magic as c_long == libc::PROC_SUPER_MAGIC as c_long)
}

/// Whether this is the root of a procfs.
pub(super) fn is_procfs_root(fd: c_int) -> Result<bool, Fault> {
    /// `PROC_ROOT_INO`.
    const ROOT: libc::ino_t = 1;
    Ok(is_procfs(fd)? && fstat(fd)?.st_ino == ROOT)
}
