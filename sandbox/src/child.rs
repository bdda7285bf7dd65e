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

use ::core::ffi::{c_char, c_int, c_void};
use ::core::iter::Iterator;
use ::core::mem::{size_of, size_of_val};
use ::core::ops::Range;
use ::core::option::Option::{self, None, Some};
use ::core::ptr;
use ::core::result::Result::{self, Err, Ok};
use ::libc;
use ::std::os::fd::{AsRawFd, OwnedFd};

use self::finish::{
    ambient, capset, descriptors, drop_bounding, execute, give_streams, keyring, label, loopback, proc,
    terminal,
};
use self::mount::{
    change_root, chdir, clear_umask, console, directory, enter_root, make_ready, mask, mount, node,
    pivot_root, place, private, read_only, restore_umask, symlink,
};
pub(crate) use self::procfs::Procfs;
pub(crate) use self::report::{Message, Note, SharedNote};
use self::sys::{
    Done, Fault, call, clone_on_stack, close, default_signals, drop, exit, openat, prctl, set_ids, setns,
    unblock_signals, write_beneath, write_file,
};
pub(crate) use self::sys::{End, Run, SecondStack, default_signal, enter, inherit_nothing, mount_setattr};
use crate::step::{Call, SLOTS, Slot, Step};

mod copy;
mod finish;
mod hook;
mod mount;
mod procfs;
mod report;
mod sys;

/// Exit status of a child that could not become the program; the parent has its message.
const EXIT_SETUP: c_int = 127;

/// What the parent lends the child: borrowed, prepared, and alive until it has become
/// the program or ended.
pub(crate) struct Loan<'a> {
    /// What to do.
    pub(crate) steps: &'a [Step],
    /// The child's end of the socket to the parent.
    pub(crate) report: c_int,
    /// The parent's end, which a copy of its descriptors holds as well.
    pub(crate) peer: c_int,
    /// Descriptors to place: from, to. The child changes `from`.
    pub(crate) fds: &'a mut [(c_int, c_int)],
    /// Ranges of descriptors that no step needs: those of the caller, which must be gone before
    /// this process can be seen from within a container.
    pub(crate) strangers: &'a [(u32, u32)],
    /// Ranges of descriptors to close.
    pub(crate) close: &'a [(u32, u32)],
    /// Above every descriptor that is placed.
    pub(crate) above: c_int,
    /// Mount trees that the parent has opened.
    pub(crate) trees: &'a [c_int],
    /// For a step that clones once more: where the next process's stack lies.
    pub(crate) stack: Option<SecondStack>,
    /// For a step that clones once more: the cgroup to start in, or -1.
    pub(crate) cgroup: c_int,
    /// The memory is the parent's own.
    pub(crate) shared: bool,
    /// Memory for a note to the parent, which a filter cannot prevent.
    pub(crate) note: Option<&'a SharedNote>,
    /// What is executed in place of the plan's file, or -1.
    pub(crate) image: c_int,
    /// What hooks get as standard input, or -1.
    pub(crate) state: c_int,
    /// Where to go on.
    pub(crate) next: usize,
    /// The caller's mask of modes while another is in force, or -1.
    pub(crate) umask: c_int,
    /// The working directory is the program's.
    pub(crate) entered: bool,
    /// Descriptors that steps have made.
    pub(crate) slots: [c_int; SLOTS],
    /// What a pool has made ahead.
    pub(crate) ready: Ready<'a>,
}

/// What a pool has made ahead, so that this process need not.
pub(crate) struct Ready<'a> {
    /// Namespaces to enter, with the kind of each. In the net namespace `lo` is up.
    pub(crate) enter: &'a [(c_int, u64)],
    /// The steps that are done, but for the placing of their mounts.
    pub(crate) steps: Range<usize>,
    /// Those mounts, in the order of the steps.
    pub(crate) dev: &'a [c_int],
}

impl Ready<'_> {
    /// What a message has for its step where these could not be entered: no plan has so many.
    pub(crate) const STEP: u16 = u16::MAX;
}

impl Run for Loan<'_> {
    fn run(&mut self) -> ! {
        begin(self)
    }
}

fn begin(loan: &mut Loan<'_>) -> ! {
    if loan.next == 0 {
        default_signals();
        // Or the end of the parent would not be the end of what the child waits for.
        close(loan.peer);
        for (first, last) in loan.strangers {
            let _ = call!(CloseRange, libc::SYS_close_range, *first, *last, 0);
        }
        for (namespace, kind) in loan.ready.enter {
            if let Err(fault) = setns(*namespace, *kind) {
                fail(fault, Ready::STEP, loan)
            }
        }
    } else {
        close(loan.cgroup);
    }
    run(loan)
}

fn run(loan: &mut Loan<'_>) -> ! {
    let steps = loan.steps;
    let mut index = loan.next;
    while let Some(step) = steps.get(index) {
        index = index.wrapping_add(1);
        loan.next = index;
        let at = index.wrapping_sub(1);
        let done = match loan.ready.steps.start <= at && at < loan.ready.steps.end {
            true => place_ready(step, loan),
            false => perform(step, loan),
        };
        if let Err(fault) = done {
            fail(fault, at as u16, loan)
        }
    }
    exit(EXIT_SETUP)
}

fn fail(fault: Fault, step: u16, loan: &Loan<'_>) -> ! {
    let message = Message { tag: Message::FAILED, call: fault.call as u8, step, value: fault.errno };
    if let Some(note) = loan.note {
        note.fail(message);
    }
    let _ = send(loan.report, message, None);
    exit(EXIT_SETUP)
}

/// Of a step that is done already: its mount goes to its place.
fn place_ready(step: &Step, loan: &mut Loan<'_>) -> Done {
    match (step, loan.ready.dev.split_first()) {
        (Step::Mount(step), Some((fd, rest))) => {
            loan.ready.dev = rest;
            place(step, *fd, loan)
        }
        _ => Ok(()),
    }
}

/// Does steps in a thread that is no child, in which nothing is placed: see
/// [`perform_ahead`](crate::spawn::perform_ahead). Those mounts that are made are filled in.
///
/// # Errors
/// The number of the step, the call and the errno.
pub(crate) fn ahead(steps: &[Step], mounts: &mut [Option<OwnedFd>]) -> Result<(), (usize, Call, c_int)> {
    if let Err(fault) = loopback() {
        return Err((steps.len(), fault.call, fault.errno));
    }
    let mut loan = Loan {
        steps,
        report: -1,
        peer: -1,
        fds: &mut [],
        strangers: &[],
        close: &[],
        above: 0,
        trees: &[],
        stack: None,
        cgroup: -1,
        shared: false,
        note: None,
        image: -1,
        state: -1,
        next: 0,
        umask: -1,
        entered: false,
        slots: [-1; SLOTS],
        ready: Ready { enter: &[], steps: 0..0, dev: &[] },
    };
    clear_umask(&mut loan);
    let mut mounts = mounts.iter_mut();
    let mut failed = None;
    for (step, at) in steps.iter().zip(0..) {
        let done = match step {
            Step::Mount(step) => make_ready(step, &mut loan).map(|fd| {
                if let Some(mount) = mounts.next() {
                    *mount = Some(fd);
                }
            }),
            step => perform(step, &mut loan),
        };
        if let Err(fault) = done {
            failed = Some((at, fault.call, fault.errno));
            break;
        }
    }
    // The thread makes cgroups too.
    restore_umask(&mut loan);
    match failed {
        Some(failed) => Err(failed),
        None => Ok(()),
    }
}

fn perform(step: &Step, loan: &mut Loan<'_>) -> Done {
    match step {
        Step::JoinFd { kind, ns, .. } => setns(ns.as_raw_fd(), kind.clone_flag()),
        Step::JoinPidfd { kinds, pidfd, .. } => setns(pidfd.as_raw_fd(), kinds.bits()),
        Step::Unshare(kinds) => call!(Unshare, libc::SYS_unshare, kinds.bits()).map(drop),
        Step::MapSelf { uid_map, gid_map } => {
            write_file(libc::AT_FDCWD, c"/proc/self/setgroups", c"deny")?;
            write_file(libc::AT_FDCWD, c"/proc/self/uid_map", uid_map)?;
            write_file(libc::AT_FDCWD, c"/proc/self/gid_map", gid_map)
        }
        Step::AwaitMaps | Step::Ready => wait(loan),
        Step::Hook(hook) => {
            restore_umask(loan);
            hook::run(hook, loan)
        }
        Step::Become { uid, gid, leave_groups } => {
            if *leave_groups {
                match call!(Setgroups, libc::SYS_setgroups, 0, ptr::null::<u32>()) {
                    // Denied in a namespace that was made so: then nobody can leave any.
                    Err(fault) if fault.errno == libc::EPERM => {}
                    other => drop(other?),
                }
            }
            set_ids(*uid, *gid)
        }
        Step::TimeOffsets(text) => write_file(libc::AT_FDCWD, c"/proc/self/timens_offsets", text),
        Step::Undumpable => prctl(libc::PR_SET_DUMPABLE, 0, 0),
        Step::Clone(kinds) => clone_again(kinds.bits(), loan),
        Step::Setsid => call!(Setsid, libc::SYS_setsid).map(drop),
        Step::Propagation(flags) => {
            // The first of the steps that make files: they have the modes that are asked for.
            clear_umask(loan);
            let (none, root) = (ptr::null::<c_char>(), c"/".as_ptr());
            call!(Mount, libc::SYS_mount, none, root, none, *flags, none).map(drop)
        }
        Step::Mount(step) => mount(step, loan),
        Step::Private(path) => private(path),
        Step::Node { dest, mode, device, owner } => node(dest, *mode, *device, *owner, loan),
        Step::File { slot, name } => {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
            let fd = openat(slot_fd(loan, *slot), name, flags, 0o666)?;
            close(fd);
            Ok(())
        }
        Step::Symlink { dest, target } => symlink(dest, target, loan),
        Step::Mkdir { slot, name, mode } => {
            call!(Mkdirat, libc::SYS_mkdirat, slot_fd(loan, *slot), name.as_ptr(), *mode).map(drop)
        }
        Step::Directory(dest) => directory(dest, loan),
        Step::Mask(dest) => mask(dest, loan),
        Step::ReadOnly(dest) => read_only(dest, loan),
        Step::Sysctl { path, value } => write_beneath(slot_fd(loan, Slot::Proc), path, value),
        Step::PivotRoot { readonly, shared } => pivot_root(*readonly, *shared, loan),
        Step::ChangeRoot { over, readonly, hide } => change_root(*over, *readonly, hide, loan),
        Step::EnterRoot(root) => enter_root(root.as_raw_fd()),
        Step::Terminal { rows, columns, owner } => terminal(*rows, *columns, *owner, loan),
        Step::ControllingTerminal => {
            call!(Ioctl, libc::SYS_ioctl, 0, libc::TIOCSCTTY, ptr::null::<c_void>()).map(drop)
        }
        Step::Console(dest) => console(dest, loan),
        Step::Hostname(name) => {
            call!(Sethostname, libc::SYS_sethostname, name.as_ptr(), name.as_bytes().len()).map(drop)
        }
        Step::Domainname(name) => {
            call!(Setdomainname, libc::SYS_setdomainname, name.as_ptr(), name.as_bytes().len()).map(drop)
        }
        // A pool's is up.
        Step::Loopback if !loan.ready.enter.is_empty() => Ok(()),
        Step::Loopback => loopback(),
        Step::Rlimit(limit) => {
            let new = [limit.soft, limit.hard];
            call!(Prlimit, libc::SYS_prlimit64, 0, limit.resource, new.as_ptr(), ptr::null_mut::<u64>())
                .map(drop)
        }
        Step::OomScoreAdj(value) => write_file(libc::AT_FDCWD, c"/proc/self/oom_score_adj", value),
        Step::Descriptors => {
            restore_umask(loan);
            descriptors(loan)
        }
        Step::GiveStreams { uid, all } => give_streams(*uid, *all),
        Step::Umask(mask) => {
            // SAFETY: plain system call; this process has a file-system context of its own.
            unsafe { libc::syscall(libc::SYS_umask, *mask) };
            Ok(())
        }
        Step::Keyring(name) => keyring(name),
        Step::Scheduler(attr) => {
            call!(SchedSetattr, libc::SYS_sched_setattr, 0, &raw const *attr, 0).map(drop)
        }
        Step::IoPriority { class, level } => {
            const IOPRIO_WHO_PROCESS: c_int = 1;
            let priority = (*class as c_int) << 13 | *level as c_int;
            call!(IoprioSet, libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority).map(drop)
        }
        Step::Affinity { mask, .. } => {
            let bytes = size_of_val(mask.as_slice());
            call!(SchedSetaffinity, libc::SYS_sched_setaffinity, 0, bytes, mask.as_ptr()).map(drop)
        }
        Step::Personality(domain) => call!(Personality, libc::SYS_personality, *domain).map(drop),
        Step::MemoryPolicy { mode, mask, .. } => {
            // The kernel reads one bit less than it is told of.
            let bits = size_of_val(mask.as_slice()).saturating_mul(8).saturating_add(1);
            call!(SetMempolicy, libc::SYS_set_mempolicy, *mode, mask.as_ptr(), bits).map(drop)
        }
        Step::Label { lsm, text } => label(lsm.file(), text),
        Step::Proc { to, enters } => proc(*to, *enters),
        Step::DropBounding(mask) => drop_bounding(*mask),
        Step::KeepCapabilities => prctl(libc::PR_SET_KEEPCAPS, 1, 0),
        Step::Credentials { uid, gid, groups } => {
            if let Some(groups) = groups {
                call!(Setgroups, libc::SYS_setgroups, groups.len(), groups.as_ptr())?;
            }
            set_ids(*uid, *gid)
        }
        Step::Chdir { path, again } => match chdir(path) {
            Ok(()) => {
                loan.entered = true;
                Ok(())
            }
            Err(fault) if *again && (fault.errno == libc::EACCES || fault.errno == libc::EPERM) => Ok(()),
            other => other,
        },
        Step::ChdirAsUser(_) if loan.entered => Ok(()),
        Step::ChdirAsUser(path) => chdir(path),
        Step::Capabilities { effective, permitted, inheritable } => {
            capset(*effective, *permitted, *inheritable)
        }
        Step::Ambient(mask) => ambient(*mask),
        Step::NoNewPrivs => prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0),
        Step::Seccomp { filter, flags } => {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            let set = libc::SECCOMP_SET_MODE_FILTER;
            call!(Seccomp, libc::SYS_seccomp, set, *flags, &raw const program).map(drop)
        }
        Step::Signals => unblock_signals(),
        Step::Stage(exec) | Step::Exec(exec) => {
            if let Some(note) = loan.note {
                note.executes();
            }
            execute(exec, loan.image)
        }
        // The stage's: a held container always has one.
        Step::Hold | Step::Started => Ok(()),
    }
}

fn send(report: c_int, message: Message, fd: Option<c_int>) -> Done {
    if fd.is_none() {
        // The simplest of calls, for a filter may be in force. If nobody listens any more,
        // SIGPIPE is blocked.
        let message: *const Message = &raw const message;
        return call!(Write, libc::SYS_write, report, message, size_of::<Message>()).map(drop);
    }
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
    call!(Sendmsg, libc::SYS_sendmsg, report, &raw const header, libc::MSG_NOSIGNAL).map(drop)
}

/// Says that the child is waiting, and waits for a byte. The parent's end being closed
/// means that it gave up.
fn wait(loan: &Loan<'_>) -> Done {
    let step = loan.next.wrapping_sub(1) as u16;
    send(loan.report, Message { tag: Message::WAITING, call: 0, step, value: 0 }, None)?;
    let mut byte = 0u8;
    let n = call!(Read, libc::SYS_read, loan.report, &raw mut byte, 1)?;
    match n {
        1 => Ok(()),
        _ => exit(EXIT_SETUP),
    }
}

/// Continues in a sibling, and ends this process.
fn clone_again(kinds: u64, loan: &mut Loan<'_>) -> Done {
    let Some(stack) = loan.stack.take() else {
        return Err(Fault { call: Call::Clone3, errno: libc::ENOMEM });
    };
    let mut flags = kinds | libc::CLONE_PARENT as u64;
    if loan.shared {
        flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    }
    let cgroup = if loan.cgroup >= 0 { Some(loan.cgroup) } else { None };
    let report = loan.report;
    let step = loan.next.wrapping_sub(1) as u16;
    let pid = clone_on_stack(flags, cgroup, stack, loan)?;
    let _ = send(report, Message { tag: Message::CLONED, call: 0, step, value: pid }, None);
    exit(0)
}

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
