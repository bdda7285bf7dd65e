//! What surrounds the clone in the parent: stacks for the child, signals held back, and the
//! mark of memory that may be dumped put back.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::sync::{Mutex, MutexGuard};

use nix::sys::signal::SigSet;

use crate::child::{Note, default_signals};
use crate::error::{Error, ErrorKind};

/// Memory for the stacks of the child and of one that it may clone, with a page below
/// each that nothing may touch. And a note that the child leaves, in a page that it shares with
/// the parent also where its other memory is a copy.
pub(super) struct Stack {
    base: *mut u8,
    note: *mut Note,
}

// SAFETY: the memory belongs to the value alone, whichever thread has it.
unsafe impl Send for Stack {}

/// Stacks that no child uses, kept for the next starts: to map one costs four calls, and a fault
/// for each page.
static FREE: Mutex<Vec<Stack>> = Mutex::new(Vec::new());
/// As many as are kept; a program that starts more at once maps the others each time.
const KEPT: usize = 16;

const PAGE: usize = 4096;
const ONE: usize = 64 << 10;

fn free() -> MutexGuard<'static, Vec<Stack>> {
    FREE.lock().unwrap_or_else(|e| e.into_inner())
}

impl Stack {
    pub(super) fn new() -> Result<Stack, Error> {
        let kept = free().pop();
        let stack = kept.map_or_else(Stack::map, Ok)?;
        // SAFETY: no child has this memory now.
        unsafe { stack.note.write_volatile(Note::default()) };
        Ok(stack)
    }

    /// Where the child leaves its note.
    pub(super) fn note(&self) -> *mut Note {
        self.note
    }

    /// What the child has noted.
    pub(super) fn read_note(&self) -> Note {
        // SAFETY: the page lives as long as this value. Any bytes are a note.
        unsafe { self.note.read_volatile() }
    }

    fn map() -> Result<Stack, Error> {
        // SAFETY: new anonymous memory, at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * ONE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(last("make a stack for the child", "mmap"));
        }
        // SAFETY: as above.
        let note = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if note == libc::MAP_FAILED {
            let error = last("make a page for what the child notes", "mmap");
            // SAFETY: the mapping that was just made.
            unsafe { libc::munmap(base, 2 * ONE) };
            return Err(error);
        }
        let stack = Stack { base: base.cast(), note: note.cast() };
        for guard in [0, ONE] {
            // SAFETY: a page of the mapping just made.
            unsafe { libc::mprotect(stack.base.add(guard).cast(), PAGE, libc::PROT_NONE) };
        }
        Ok(stack)
    }

    /// The first child's stack: its lowest usable address and its size.
    pub(super) fn upper(&self) -> (*mut u8, usize) {
        (self.base.wrapping_add(ONE + PAGE), ONE - PAGE)
    }

    /// The second one's.
    pub(super) fn lower(&self) -> (*mut u8, usize) {
        (self.base.wrapping_add(PAGE), ONE - PAGE)
    }
}

impl Drop for Stack {
    /// No child uses it any more: one with shared memory has become the program or ended before
    /// clone3 returned, and one with copied memory has a stack of its own.
    fn drop(&mut self) {
        let mut free = free();
        if free.len() < KEPT {
            free.push(Stack { base: self.base, note: self.note });
            return;
        }
        drop(free);
        // SAFETY: the mappings are this value's own, and were not handed on.
        unsafe {
            libc::munmap(self.base.cast(), 2 * ONE);
            libc::munmap(self.note.cast(), PAGE);
        }
    }
}

/// All signals of this thread are blocked while this lives.
pub(crate) struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    pub(crate) fn new() -> Self {
        // SAFETY: fills sets that live here; changes only this thread's mask.
        unsafe {
            let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
            BlockedSignals(old)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: gives this thread back the mask it had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// The kernel marks memory as not dumpable when a process that has it changes its ids.
/// Where the child shares the memory that would stick to this process, so the mark is put
/// back when the last child in flight has a memory of its own; not earlier, or the
/// child could be traced by whom it has become.
pub(super) struct Dumpable;

static IN_FLIGHT: Mutex<(usize, i32)> = Mutex::new((0, 1));

impl Dumpable {
    pub(super) fn keep() -> Self {
        let mut state = IN_FLIGHT.lock().unwrap_or_else(|e| e.into_inner());
        if state.0 == 0 {
            // SAFETY: a plain query.
            state.1 = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        }
        state.0 += 1;
        Dumpable
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut state = IN_FLIGHT.lock().unwrap_or_else(|e| e.into_inner());
        state.0 -= 1;
        // SAFETY: plain calls on this process's own mark. 2 cannot be set, and 0 means that
        // it was so before.
        unsafe {
            if state.0 == 0 && state.1 == 1 && libc::prctl(libc::PR_GET_DUMPABLE) != 1 {
                libc::prctl(libc::PR_SET_DUMPABLE, 1);
            }
        }
    }
}

/// How an open file is locked, as by flock(2).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lock {
    /// With others who share it.
    Shared,
    /// Alone.
    Exclusive,
}

/// Locks an open file as long as it is open; `false` if somebody else has locked it otherwise.
pub(crate) fn lock(fd: BorrowedFd<'_>, how: Lock) -> bool {
    let how = match how {
        Lock::Shared => libc::LOCK_SH,
        Lock::Exclusive => libc::LOCK_EX | libc::LOCK_NB,
    };
    // SAFETY: takes integers.
    unsafe { libc::flock(fd.as_raw_fd(), how) == 0 }
}

/// Has a program start with its standard streams alone, and with no signal blocked or ignored:
/// it inherits nothing else that the caller has open, blocks or ignores.
///
/// Since Linux 5.11, which has `CLOSE_RANGE_CLOEXEC`
/// ([close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html)).
///
/// ```
/// # use std::os::fd::AsRawFd;
/// let file = std::fs::File::open("/dev/null")?;
/// // As a descriptor is that was handed down to the caller.
/// nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
/// let mut command = std::process::Command::new("test");
/// command.arg("-e").arg(format!("/dev/fd/{}", file.as_raw_fd()));
/// assert!(command.status()?.success());
/// nspod_sandbox::inherit_nothing(&mut command);
/// assert!(!command.status()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn inherit_nothing(command: &mut std::process::Command) {
    let between = || {
        // SAFETY: no memory of ours is involved, and nothing is closed before the program is executed.
        let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if done != 0 {
            return Err(std::io::Error::last_os_error());
        }
        default_signals();
        Ok(SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: system calls alone, which allocate nothing and lock nothing.
    unsafe { command.pre_exec(between) };
}

/// Resets `SIGCHLD` to its default in this process.
///
/// A process that ignores `SIGCHLD` cannot wait for its children, and a program that is started by
/// one that ignores it ignores it as well. A program that starts containers calls this once, before
/// all else. The library does not do so by itself: dispositions belong to the whole process.
pub fn notice_children() {
    // SAFETY: no function becomes a handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

fn last(what: &str, call: &'static str) -> Error {
    Error::call(ErrorKind::Process, what, call, nix::errno::Errno::last_raw())
}
