//! The child's side: runs the steps in order, between clone3 and execve.
//!
//! What runs here may share its memory with a program that has any number of threads,
//! any of them inside malloc at the moment of the clone. So this file allocates nothing,
//! takes no lock, never panics, never returns and leaves only by execve or `_exit`. It
//! passes prepared data to the kernel. The lints below, the missing prelude and the tests
//! with a trapping allocator hold it to that.
//!
//! On failure it sends one record of eight bytes, [`Message`], and the parent, who owns
//! the plan, turns it into a sentence.

#![no_implicit_prelude]
#![allow(unsafe_code)]
#![deny(
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods
)]

use ::core::ffi::{CStr, c_char, c_int, c_long, c_void};
use ::core::iter::Iterator;
use ::core::mem::{MaybeUninit, size_of, size_of_val};
use ::core::ops::FnOnce;
use ::core::option::Option::{self, None, Some};
use ::core::ptr;
use ::core::result::Result::{self, Err, Ok};
use ::core::{clone::Clone, marker::Copy};
use ::libc;
use ::std::os::fd::AsRawFd;

use crate::step::{Call, Create, Dest, Exec, MountStep, Place, SLOTS, Slot, Step, What};

/// Exit status of a child that could not become the program; the parent has its message.
const EXIT_SETUP: c_int = 127;

/// What the parent lends the child: borrowed, prepared, and alive until it has become
/// the program or ended.
pub(crate) struct Loan<'a> {
    /// What to do.
    pub(crate) steps: &'a [Step],
    /// The child's end of the socket to the parent.
    pub(crate) report: c_int,
    /// Descriptors to place: from, to. The child changes `from`.
    pub(crate) fds: &'a mut [(c_int, c_int)],
    /// Ranges of descriptors to close.
    pub(crate) close: &'a [(u32, u32)],
    /// Above every descriptor that is placed.
    pub(crate) above: c_int,
    /// Mount trees that the parent has opened.
    pub(crate) trees: &'a [c_int],
    /// For a step that clones once more: where the next process's stack lies.
    pub(crate) stack: (*mut u8, usize),
    /// For a step that clones once more: the cgroup to start in, or -1.
    pub(crate) cgroup: c_int,
    /// The memory is the parent's own.
    pub(crate) shared: bool,
    /// Where to go on.
    pub(crate) next: usize,
    /// Descriptors that steps have made.
    pub(crate) slots: [c_int; SLOTS],
}

/// What the child tells the parent, in eight bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Message {
    /// One of the constants below.
    pub(crate) tag: u8,
    /// The [`Call`] that failed.
    pub(crate) call: u8,
    /// The index of the step.
    pub(crate) step: u16,
    /// An errno, or a pid for [`Message::CLONED`].
    pub(crate) value: i32,
}

impl Message {
    /// A step failed; the child ends.
    pub(crate) const FAILED: u8 = 1;
    /// A step cloned once more; the value is the new process's pid.
    pub(crate) const CLONED: u8 = 2;
    /// The child waits for the parent's word.
    pub(crate) const WAITING: u8 = 3;
    /// A terminal's other end comes with this message.
    pub(crate) const TERMINAL: u8 = 4;
}

/// A call that failed, and how.
struct Fault {
    call: Call,
    errno: c_int,
}

type Done = Result<(), Fault>;

/// The first function on the child's stack.
///
/// # Safety
/// `loan` points to a [`Loan`] that nobody else touches until this process has become
/// the program or ended.
pub(crate) unsafe extern "C" fn enter(loan: *mut c_void) -> ! {
    // SAFETY: the caller's promise.
    let loan = unsafe { &mut *loan.cast::<Loan<'_>>() };
    run(loan)
}

fn run(loan: &mut Loan<'_>) -> ! {
    let steps = loan.steps;
    let mut index = loan.next;
    while let Some(step) = steps.get(index) {
        index = index.wrapping_add(1);
        loan.next = index;
        if let Err(fault) = perform(step, loan) {
            let step = index.wrapping_sub(1) as u16;
            let message = Message { tag: Message::FAILED, call: fault.call as u8, step, value: fault.errno };
            let _ = send(loan.report, message, None);
            exit(EXIT_SETUP)
        }
    }
    exit(EXIT_SETUP)
}

fn perform(step: &Step, loan: &mut Loan<'_>) -> Done {
    match step {
        Step::JoinFd { kind, ns, .. } => setns(ns.as_raw_fd(), kind.clone_flag()),
        Step::JoinPidfd { kinds, pidfd, .. } => setns(pidfd.as_raw_fd(), kinds.bits()),
        Step::Unshare(kinds) => {
            call(Call::Unshare, || unsafe { libc::syscall(libc::SYS_unshare, kinds.bits()) }).map(drop)
        }
        Step::MapSelf { uid_map, gid_map } => {
            write_file(libc::AT_FDCWD, c"/proc/self/setgroups", c"deny")?;
            write_file(libc::AT_FDCWD, c"/proc/self/uid_map", uid_map)?;
            write_file(libc::AT_FDCWD, c"/proc/self/gid_map", gid_map)
        }
        Step::AwaitMaps | Step::Hold => wait(loan),
        Step::Become { uid, gid } => set_ids(*uid, *gid),
        Step::TimeOffsets(text) => write_file(libc::AT_FDCWD, c"/proc/self/timens_offsets", text),
        Step::Clone(kinds) => clone_again(kinds.bits(), loan),
        Step::Setsid => call(Call::Setsid, || unsafe { libc::syscall(libc::SYS_setsid) }).map(drop),
        Step::Propagation(flags) => call(Call::Mount, || unsafe {
            libc::syscall(
                libc::SYS_mount,
                ptr::null::<c_char>(),
                c"/".as_ptr(),
                ptr::null::<c_char>(),
                *flags,
                ptr::null::<c_char>(),
            )
        })
        .map(drop),
        Step::Mount(step) => mount(step, loan),
        Step::Node { slot, name, mode, device } => {
            let dir = slot_fd(loan, *slot);
            call(Call::Mknodat, || unsafe {
                libc::syscall(libc::SYS_mknodat, dir, name.as_ptr(), *mode, *device as u32)
            })?;
            // The umask of the caller's process had its say; this is what was asked for.
            call(Call::Mknodat, || unsafe {
                libc::syscall(libc::SYS_fchmodat, dir, name.as_ptr(), *mode & 0o7777)
            })
            .map(drop)
        }
        Step::File { slot, name } => {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
            let fd = openat(slot_fd(loan, *slot), name, flags, 0o666)?;
            close(fd);
            Ok(())
        }
        Step::Symlink { slot, name, target } => call(Call::Symlinkat, || unsafe {
            libc::syscall(libc::SYS_symlinkat, target.as_ptr(), slot_fd(loan, *slot), name.as_ptr())
        })
        .map(drop),
        Step::Mkdir { slot, name, mode } => {
            let dir = slot_fd(loan, *slot);
            call(Call::Mkdirat, || unsafe { libc::syscall(libc::SYS_mkdirat, dir, name.as_ptr(), *mode) })?;
            call(Call::Mkdirat, || unsafe { libc::syscall(libc::SYS_fchmodat, dir, name.as_ptr(), *mode) })
                .map(drop)
        }
        Step::Mask(dest) => mask(dest, loan),
        Step::ReadOnly(dest) => read_only(dest, loan),
        Step::Sysctl { path, value } => write_beneath(slot_fd(loan, Slot::Proc), path, value),
        Step::PivotRoot { readonly } => pivot_root(*readonly, loan),
        Step::Chroot => {
            fchdir(slot_fd(loan, Slot::Root))?;
            call(Call::Chroot, || unsafe { libc::syscall(libc::SYS_chroot, c".".as_ptr()) }).map(drop)
        }
        Step::Terminal { rows, columns } => terminal(*rows, *columns, loan),
        Step::Hostname(name) => call(Call::Sethostname, || unsafe {
            libc::syscall(libc::SYS_sethostname, name.as_ptr(), name.as_bytes().len())
        })
        .map(drop),
        Step::Domainname(name) => call(Call::Setdomainname, || unsafe {
            libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.as_bytes().len())
        })
        .map(drop),
        Step::Loopback => loopback(),
        Step::Rlimit(limit) => {
            let new = [limit.soft, limit.hard];
            call(Call::Prlimit, || unsafe {
                libc::syscall(libc::SYS_prlimit64, 0, limit.resource, new.as_ptr(), ptr::null_mut::<u64>())
            })
            .map(drop)
        }
        Step::OomScoreAdj(value) => write_file(libc::AT_FDCWD, c"/proc/self/oom_score_adj", value),
        Step::Descriptors => descriptors(loan),
        Step::Umask(mask) => {
            // SAFETY: plain system call; this process has a file-system context of its own.
            unsafe { libc::syscall(libc::SYS_umask, *mask) };
            Ok(())
        }
        Step::DropBounding(mask) => drop_bounding(*mask),
        Step::KeepCapabilities => prctl(libc::PR_SET_KEEPCAPS, 1, 0),
        Step::Credentials { uid, gid, groups } => {
            if let Some(groups) = groups {
                call(Call::Setgroups, || unsafe {
                    libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())
                })?;
            }
            set_ids(*uid, *gid)
        }
        Step::Chdir(path) => chdir(path),
        Step::Capabilities { effective, permitted, inheritable } => {
            capset(*effective, *permitted, *inheritable)
        }
        Step::Ambient(mask) => ambient(*mask),
        Step::NoNewPrivs => prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0),
        Step::Seccomp(filter) => {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            call(Call::Seccomp, || unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
            })
            .map(drop)
        }
        Step::Exec(exec) => execute(exec),
    }
}

// ---- system calls ---------------------------------------------------------------

/// Runs a raw system call and keeps its name with its errno.
fn call(name: Call, f: impl FnOnce() -> c_long) -> Result<c_int, Fault> {
    match f() {
        // SAFETY: the address of this thread's errno is always valid; where memory is
        // shared it is the waiting parent thread's, which reads it only after its own calls.
        -1 => Err(Fault { call: name, errno: unsafe { *libc::__errno_location() } }),
        n => Ok(n as c_int),
    }
}

/// Ends a value's use; `drop` of the prelude is not in scope.
fn drop<T>(_: T) {}

fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: ends the process at once; runs no handler of the host program.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

fn close(fd: c_int) {
    // SAFETY: closes a descriptor that this process has opened; its table is its own.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

fn setns(fd: c_int, kinds: u64) -> Done {
    call(Call::Setns, || unsafe { libc::syscall(libc::SYS_setns, fd, kinds) }).map(drop)
}

/// By raw calls: glibc's would tell threads that do not exist in this process.
fn set_ids(uid: u32, gid: u32) -> Done {
    call(Call::Setresgid, || unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    call(Call::Setresuid, || unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

fn fchdir(fd: c_int) -> Done {
    call(Call::Fchdir, || unsafe { libc::syscall(libc::SYS_fchdir, fd) }).map(drop)
}

fn prctl(option: c_int, a: u64, b: u64) -> Done {
    call(Call::Prctl, || unsafe { libc::syscall(libc::SYS_prctl, option, a, b, 0, 0) }).map(drop)
}

fn openat(dir: c_int, path: &CStr, flags: c_int, mode: u32) -> Result<c_int, Fault> {
    call(Call::Open, || unsafe { libc::syscall(libc::SYS_openat, dir, path.as_ptr(), flags, mode) })
}

fn openat2(dir: c_int, path: &CStr, flags: c_int, resolve: u64) -> Result<c_int, Fault> {
    let how = [flags as u64, 0, resolve];
    call(Call::Openat2, || unsafe {
        libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), how.as_ptr(), size_of_val(&how))
    })
}

fn write_all(fd: c_int, value: &CStr) -> Done {
    let bytes = value.to_bytes();
    call(Call::Write, || unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }).map(drop)
}

fn write_file(dir: c_int, path: &CStr, value: &CStr) -> Done {
    let fd = openat(dir, path, libc::O_WRONLY | libc::O_CLOEXEC, 0)?;
    let done = write_all(fd, value);
    close(fd);
    done
}

/// Writes a file of a procfs that this child mounted itself, crossing no link and no
/// mount, so that nothing can redirect the write.
fn write_beneath(dir: c_int, path: &CStr, value: &CStr) -> Done {
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    let fd = openat2(dir, path, libc::O_WRONLY | libc::O_CLOEXEC, resolve)?;
    let done = write_all(fd, value);
    close(fd);
    done
}

fn fstat(fd: c_int) -> Result<libc::stat, Fault> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    call(Call::Fstat, || unsafe { libc::fstat(fd, stat.as_mut_ptr()) as c_long })?;
    // SAFETY: fstat succeeded and has filled it.
    Ok(unsafe { stat.assume_init() })
}

// ---- talking with the parent ----------------------------------------------------

fn send(report: c_int, message: Message, fd: Option<c_int>) -> Done {
    let mut iov =
        libc::iovec { iov_base: (&raw const message).cast_mut().cast(), iov_len: size_of::<Message>() };
    // SAFETY: all zeroes is a valid msghdr: null pointers with lengths of 0.
    let mut header: libc::msghdr = unsafe { ::core::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    // A cmsghdr and one int, aligned as a cmsghdr must be.
    let mut control = [0u64; 3];
    if let Some(fd) = fd {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the control buffer has room for a header and an int, and is aligned.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as _;
            libc::CMSG_DATA(first).cast::<c_int>().write_unaligned(fd);
        }
    }
    call(Call::Sendmsg, || unsafe {
        libc::syscall(libc::SYS_sendmsg, report, &raw const header, libc::MSG_NOSIGNAL)
    })
    .map(drop)
}

/// Says that the child is waiting, and waits for a byte. The parent's end being closed
/// means that it gave up.
fn wait(loan: &Loan<'_>) -> Done {
    let step = loan.next.wrapping_sub(1) as u16;
    send(loan.report, Message { tag: Message::WAITING, call: 0, step, value: 0 }, None)?;
    let mut byte = 0u8;
    let n = call(Call::Read, || unsafe { libc::syscall(libc::SYS_read, loan.report, &raw mut byte, 1) })?;
    match n {
        1 => Ok(()),
        _ => exit(EXIT_SETUP),
    }
}

/// Goes on in a sibling, and ends this process.
fn clone_again(kinds: u64, loan: &mut Loan<'_>) -> Done {
    // SAFETY: all zeroes is a valid clone_args.
    let mut args: libc::clone_args = unsafe { ::core::mem::zeroed() };
    args.flags = kinds | libc::CLONE_PARENT as u64;
    if loan.shared {
        args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    }
    if loan.cgroup >= 0 {
        args.flags |= ::ns_core::raw::CLONE_INTO_CGROUP;
        args.cgroup = loan.cgroup as u64;
    }
    let (stack, size) = loan.stack;
    let report = loan.report;
    let step = loan.next.wrapping_sub(1) as u16;
    let next: *mut Loan<'_> = loan;
    // SAFETY: the stack is unused and lives as long as the loan; where memory is shared
    // this process waits until the next has become the program, and afterwards touches
    // nothing of the loan.
    let pid = unsafe { ::ns_core::raw::clone3_on_stack(&mut args, stack, size, enter, next.cast()) };
    match pid {
        Ok(pid) => {
            let _ = send(report, Message { tag: Message::CLONED, call: 0, step, value: pid }, None);
            exit(0)
        }
        Err(errno) => Err(Fault { call: Call::Clone3, errno: errno as c_int }),
    }
}

// ---- mounts ---------------------------------------------------------------------

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

fn slot_fd(loan: &Loan<'_>, slot: Slot) -> c_int {
    match loan.slots.get(slot as usize) {
        Some(fd) => *fd,
        None => -1,
    }
}

fn set_slot(loan: &mut Loan<'_>, slot: Slot, fd: c_int) {
    if let Some(place) = loan.slots.get_mut(slot as usize) {
        *place = fd;
    }
}

fn mount(step: &MountStep, loan: &mut Loan<'_>) -> Done {
    if let What::Overlay { options } = &step.what {
        return mount_overlay(options, step.set, loan);
    }
    let fd = match &step.what {
        What::New { fstype, params } => new_mount(fstype, params, step.set)?,
        What::Bind { source, recursive, tree, device } => {
            let opened = tree.and_then(|index| loan.trees.get(index).copied());
            let fd = match opened {
                Some(fd) => fd,
                None => open_tree(libc::AT_FDCWD, source, *recursive)?,
            };
            if let Some(device) = device {
                is_device(fd, *device)?;
            }
            fd
        }
        What::Overlay { .. } | What::Here => {
            openat(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC, 0)?
        }
    };
    let bind = match &step.what {
        What::Bind { .. } => step.set | step.clear,
        _ => step.clear,
    };
    if bind | step.propagation != 0 {
        mount_setattr(fd, step.set, step.clear, step.propagation, step.recursive)?;
    }
    match &step.place {
        Place::NewRoot => move_mount(fd, libc::AT_FDCWD, c"/", 0)?,
        Place::In(dest) => {
            let at = destination(dest, loan)?;
            let done = move_mount(fd, at, c"", MOVE_MOUNT_T_EMPTY_PATH);
            close(at);
            done?
        }
        Place::Within(slot, name) => move_mount(fd, slot_fd(loan, *slot), name, 0)?,
        Place::Detached => {}
    }
    match step.keep {
        Some(slot) => set_slot(loan, slot, fd),
        None => close(fd),
    }
    Ok(())
}

fn new_mount(
    fstype: &CStr,
    params: &[(::std::ffi::CString, Option<::std::ffi::CString>)],
    attributes: u64,
) -> Result<c_int, Fault> {
    let context =
        call(Call::Fsopen, || unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) })?;
    let config = |command: u32, key: *const c_char, value: *const c_char| {
        call(Call::Fsconfig, || unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0) })
    };
    for (key, value) in params {
        match value {
            Some(value) => config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?,
            None => config(FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null())?,
        };
    }
    config(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    let fd = call(Call::Fsmount, || unsafe {
        libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes)
    })?;
    close(context);
    Ok(fd)
}

/// Overlay by mount(2): its options are longer than `fsconfig` takes. It lands on top of
/// whatever covers `/`, and `/..` leads there.
fn mount_overlay(options: &CStr, attributes: u64, loan: &mut Loan<'_>) -> Done {
    let mut flags = 0;
    for (attribute, flag) in [
        (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
    ] {
        if attributes & attribute != 0 {
            flags |= flag;
        }
    }
    call(Call::Mount, || unsafe {
        libc::syscall(
            libc::SYS_mount,
            c"overlay".as_ptr(),
            c"/".as_ptr(),
            c"overlay".as_ptr(),
            flags,
            options.as_ptr(),
        )
    })?;
    let fd = openat(libc::AT_FDCWD, c"/..", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC, 0)?;
    set_slot(loan, Slot::Root, fd);
    Ok(())
}

fn open_tree(dir: c_int, path: &CStr, recursive: bool) -> Result<c_int, Fault> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    call(Call::OpenTree, || unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

fn move_mount(fd: c_int, dir: c_int, path: &CStr, flags: u32) -> Done {
    call(Call::MoveMount, || unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            fd,
            c"".as_ptr(),
            dir,
            path.as_ptr(),
            flags | MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

fn mount_setattr(fd: c_int, set: u64, clear: u64, propagation: u64, recursive: bool) -> Done {
    let attr = [set, clear, propagation, 0];
    let flags = if recursive { AT_EMPTY_PATH | AT_RECURSIVE } else { AT_EMPTY_PATH };
    call(Call::MountSetattr, || unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attr.as_ptr(), size_of_val(&attr))
    })
    .map(drop)
}

/// The descriptor is this character device, whatever its path says.
fn is_device(fd: c_int, device: u64) -> Done {
    let stat = fstat(fd)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == device {
        return Ok(());
    }
    Err(Fault { call: Call::Fstat, errno: libc::ENODEV })
}

/// Opens a mount's destination within the new root, and makes it first if so asked.
fn destination(dest: &Dest, loan: &Loan<'_>) -> Result<c_int, Fault> {
    let root = slot_fd(loan, Slot::Root);
    let path = libc::O_PATH | libc::O_CLOEXEC;
    match openat2(root, &dest.path, path, IN_ROOT) {
        Err(fault) if fault.errno == libc::ENOENT && dest.create as u8 != Create::No as u8 => {}
        other => return other,
    }
    let mut parent = openat2(root, c".", path, IN_ROOT)?;
    let mut rest = dest.parents.iter();
    while let Some((prefix, name)) = rest.next() {
        let last = rest.as_slice().is_empty();
        let next = match openat2(root, prefix, path, IN_ROOT) {
            Ok(fd) => fd,
            Err(fault) if fault.errno == libc::ENOENT => {
                if last && dest.create as u8 == Create::File as u8 {
                    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
                    close(openat(parent, name, flags, 0o644)?);
                } else {
                    call(Call::Mkdirat, || unsafe {
                        libc::syscall(libc::SYS_mkdirat, parent, name.as_ptr(), 0o755)
                    })?;
                }
                openat2(root, prefix, path, IN_ROOT)?
            }
            Err(fault) => return Err(fault),
        };
        close(parent);
        parent = next;
    }
    Ok(parent)
}

fn mask(dest: &Dest, loan: &mut Loan<'_>) -> Done {
    let root = slot_fd(loan, Slot::Root);
    let at = match openat2(root, &dest.path, libc::O_PATH | libc::O_CLOEXEC, IN_ROOT) {
        Ok(fd) => fd,
        Err(fault) if fault.errno == libc::ENOENT || fault.errno == libc::ENOTDIR => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let directory = fstat(at)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let held = slot_fd(loan, Slot::Mask);
    let cover = if !directory {
        let fd = open_tree(libc::AT_FDCWD, c"/dev/null", false)?;
        is_device(fd, libc::makedev(1, 3))?;
        fd
    } else if held >= 0 {
        open_tree(held, c"", false)?
    } else {
        let attributes = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC;
        new_mount(c"tmpfs", &[], attributes)?
    };
    move_mount(cover, at, c"", MOVE_MOUNT_T_EMPTY_PATH)?;
    close(at);
    if directory && held < 0 {
        set_slot(loan, Slot::Mask, cover);
    } else {
        close(cover);
    }
    Ok(())
}

fn read_only(dest: &Dest, loan: &Loan<'_>) -> Done {
    let root = slot_fd(loan, Slot::Root);
    let at = match openat2(root, &dest.path, libc::O_PATH | libc::O_CLOEXEC, IN_ROOT) {
        Ok(fd) => fd,
        Err(fault) if fault.errno == libc::ENOENT || fault.errno == libc::ENOTDIR => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let tree = open_tree(at, c"", true)?;
    mount_setattr(tree, libc::MOUNT_ATTR_RDONLY, 0, 0, true)?;
    move_mount(tree, at, c"", MOVE_MOUNT_T_EMPTY_PATH)?;
    close(tree);
    close(at);
    Ok(())
}

fn pivot_root(readonly: bool, loan: &Loan<'_>) -> Done {
    let root = slot_fd(loan, Slot::Root);
    fchdir(root)?;
    call(Call::PivotRoot, || unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    call(Call::Umount2, || unsafe { libc::syscall(libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH) })?;
    if readonly {
        mount_setattr(root, libc::MOUNT_ATTR_RDONLY, 0, 0, false)?;
    }
    call(Call::Chdir, || unsafe { libc::syscall(libc::SYS_chdir, c"/".as_ptr()) }).map(drop)
}

/// Enters the directory and makes sure that the kernel can name it from the root: a
/// descriptor that leaked from the host must not become the working directory.
fn chdir(path: &CStr) -> Done {
    call(Call::Chdir, || unsafe { libc::syscall(libc::SYS_chdir, path.as_ptr()) })?;
    let mut name = [0u8; libc::PATH_MAX as usize];
    call(Call::Getcwd, || unsafe { libc::syscall(libc::SYS_getcwd, name.as_mut_ptr(), name.len()) })?;
    match name.first() {
        Some(b'/') => Ok(()),
        _ => Err(Fault { call: Call::Getcwd, errno: libc::EXDEV }),
    }
}

// ---- the rest -------------------------------------------------------------------

fn loopback() -> Done {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { ::core::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    let socket = call(Call::Socket, || unsafe {
        libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    call(Call::Ioctl, || unsafe {
        libc::syscall(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS, &raw const request)
    })?;
    close(socket);
    Ok(())
}

/// Opens a terminal of the container's own `/dev/pts` (or of the host's, where the
/// container shares it), makes it the controlling terminal and the standard streams,
/// and sends the other end to the parent.
fn terminal(rows: u16, columns: u16, loan: &mut Loan<'_>) -> Done {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let pts = slot_fd(loan, Slot::Pts);
    let main = match pts {
        -1 => openat(libc::AT_FDCWD, c"/dev/ptmx", flags, 0)?,
        pts => openat(pts, c"ptmx", flags, 0)?,
    };
    let ioctl = |fd: c_int, request: u64, argument: *const c_void| {
        call(Call::Ioctl, || unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) })
    };
    let unlock: c_int = 0;
    ioctl(main, libc::TIOCSPTLCK as u64, (&raw const unlock).cast())?;
    let line = ioctl(main, libc::TIOCGPTPEER as u64, flags as usize as *const c_void)?;
    if rows > 0 {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        ioctl(line, libc::TIOCSWINSZ as u64, (&raw const size).cast())?;
    }
    ioctl(line, libc::TIOCSCTTY as u64, ptr::null())?;
    let dev = slot_fd(loan, Slot::Dev);
    if dev >= 0 && pts >= 0 {
        let tree = open_tree(line, c"", false)?;
        move_mount(tree, dev, c"console", 0)?;
        close(tree);
    }
    let step = loan.next.wrapping_sub(1) as u16;
    send(loan.report, Message { tag: Message::TERMINAL, call: 0, step, value: 0 }, Some(main))?;
    close(main);
    for (from, to) in loan.fds.iter_mut() {
        if (0..=2).contains(to) {
            *from = line;
        }
    }
    Ok(())
}

/// Places the descriptors in two passes, so that no target covers a source that is still
/// wanted, and closes the rest for good.
fn descriptors(loan: &mut Loan<'_>) -> Done {
    let above = loan.above;
    let lift = |fd: c_int| {
        call(Call::Fcntl, || unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, above) })
    };
    for (from, to) in loan.fds.iter_mut() {
        if from != to {
            *from = lift(*from)?;
        }
    }
    for (from, to) in loan.fds.iter() {
        if from != to {
            call(Call::Dup3, || unsafe { libc::syscall(libc::SYS_dup3, *from, *to, 0) })?;
        } else {
            call(Call::Fcntl, || unsafe { libc::syscall(libc::SYS_fcntl, *to, libc::F_SETFD, 0) })?;
        }
    }
    for (first, last) in loan.close {
        call(Call::CloseRange, || unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) })?;
    }
    loan.slots = [-1; SLOTS];
    Ok(())
}

fn drop_bounding(mask: u64) -> Done {
    for capability in 0..64u64 {
        if mask.checked_shr(capability as u32).is_some_and(|m| m & 1 == 1) {
            match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                // Beyond the last that this kernel has.
                Err(fault) if fault.errno == libc::EINVAL => return Ok(()),
                other => other?,
            }
        }
    }
    Ok(())
}

fn capset(effective: u64, permitted: u64, inheritable: u64) -> Done {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    call(Call::Capset, || unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })
        .map(drop)
}

fn ambient(mask: u64) -> Done {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for capability in 0..64u64 {
        if mask.checked_shr(capability as u32).is_some_and(|m| m & 1 == 1) {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)?;
        }
    }
    Ok(())
}

/// Gives the program the signal state that it expects, and becomes it.
fn execute(exec: &Exec) -> Done {
    // SIG_DFL for SIGPIPE, which Rust programs ignore; clone3 has cleared the handlers.
    let default = [0usize; 4];
    // SAFETY: a zeroed kernel sigaction of four words: SIG_DFL, no flags, empty mask.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGPIPE, default.as_ptr(), ptr::null::<u8>(), 8) };
    let none = 0u64;
    call(Call::Sigprocmask, || unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, ptr::null_mut::<u64>(), 8)
    })?;
    let (argv, envp) = (exec.argv.as_ptr(), exec.envp.as_ptr());
    if let Some(file) = &exec.file {
        return call(Call::Execveat, || unsafe {
            libc::syscall(libc::SYS_execveat, file.as_raw_fd(), c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH)
        })
        .map(drop);
    }
    // As execvp(3): a directory that lacks the program is passed over, and one that holds
    // it without leave is remembered, in case nothing better follows.
    let mut worst = libc::ENOENT;
    for path in exec.candidates.iter() {
        let fault = match call(Call::Execve, || unsafe {
            libc::syscall(libc::SYS_execve, path.as_ptr(), argv, envp)
        }) {
            Ok(_) => return Ok(()),
            Err(fault) => fault,
        };
        match fault.errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            errno => return Err(Fault { call: Call::Execve, errno }),
        }
    }
    Err(Fault { call: Call::Execve, errno: worst })
}
