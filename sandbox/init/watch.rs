//! The watcher: waits for the end of the process that started containers, and then kills these
//! containers and removes their cgroups.
//!
//! Its name in `argv[0]` is `nspod-watch`. Descriptor 0 is a pidfd of the process, descriptor 1 the table
//! of containers (`../src/watch/layout.rs`), and all others are closed. The arguments are:
//!
//! 1. the number of slots of the table.
//! 2. the cgroup of the watcher, below the library's parent of cgroups, or an empty string.
//! 3. the cgroup of the process at the start of the watcher, or an empty string. The watcher moves there
//!    at its end if it may not move to the cgroup above the library's parent.

use super::*;

#[path = "../src/watch/layout.rs"]
mod layout;
use layout::{CGROUP, FREE, PROCESS, Slot};

const AT_FDCWD: usize = -100isize as usize;
const AT_REMOVEDIR: usize = 0x200;
const O_DIRECTORY_CLOEXEC: u64 = arch::O_DIRECTORY | 0o2000000;
const O_RDONLY_CLOEXEC: u64 = 0o2000000;
const RESOLVE_NO_MAGICLINKS: u64 = 2;
const DT_DIR: u8 = 4;
const ENODEV: isize = 19;
const MILLISECOND: u64 = 1_000_000;
/// Longest pause between two attempts to remove what is left, in nanoseconds.
const LONGEST: u64 = 100 * MILLISECOND;
/// Time after which the watcher ends although a process has not ended, in nanoseconds. Such a process is in
/// an uninterruptible system call.
const PATIENCE: u64 = 60_000 * MILLISECOND;

/// A path or a name that ends with a NUL.
type Name = [u8; 1040];

/// Waits for the end of the process, and ends its containers.
///
/// # Safety
/// `stack` must be the stack pointer at the program's entry, with four arguments.
pub(super) unsafe fn run(stack: *const usize) -> ! {
    // SAFETY: four pointers to strings follow argc.
    let [slots, own, callers] = unsafe {
        let args = stack.add(1).cast::<*const u8>();
        [*args.add(1), *args.add(2), *args.add(3)]
    };
    let mut count = [0];
    // SAFETY: the argument is a NUL-terminated string.
    if unsafe { parse(slots, &mut count) }.is_none() {
        exit(MISUSED)
    }
    let [count] = count;
    set_mask(u64::MAX);
    plain(nr::PRCTL, [PR_SET_DUMPABLE, 0]);
    // SAFETY: the kernel reads a string at each pointer.
    unsafe {
        syscall(nr::PRCTL, [PR_SET_NAME, c"nspod-watch".as_ptr() as usize]);
        syscall(nr::CHDIR, [c"/".as_ptr() as usize]);
    }
    // SAFETY: this makes a new mapping, at an address that the kernel chooses.
    let table = unsafe {
        let length = count as usize * size_of::<Slot>();
        syscall(nr::MMAP, [0, length, PROT_READ_WRITE, MAP_SHARED, 1, 0])
    };
    if table < 0 {
        exit(NOT_STARTED)
    }
    close(1);
    // SAFETY: the mapping has `count` slots, which consist of atomics and are valid with any bytes.
    let slots = unsafe { core::slice::from_raw_parts(table as *const Slot, count as usize) };
    wait();
    end_all(slots);
    // SAFETY: both arguments are NUL-terminated strings.
    unsafe { leave(own, callers) };
    exit(0)
}

/// Waits until the process has ended.
fn wait() {
    loop {
        let mut poll = POLLIN << 32;
        // SAFETY: the kernel reads and writes a struct pollfd. NULL means no timeout and no mask.
        if unsafe { syscall(nr::PPOLL, [&raw mut poll as usize, 1, 0, 0, 8]) } > 0 {
            return;
        }
    }
}

fn pause(nanoseconds: u64) {
    let time = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    // SAFETY: the kernel reads a struct timespec, and no descriptors and no mask.
    unsafe { syscall(nr::PPOLL, [0, 0, &raw const time as usize, 0, 8]) };
}

/// Ends all containers. The first round kills them all, and the others remove what was busy.
fn end_all(slots: &[Slot]) {
    let Some((header, slots)) = slots.split_first() else { return };
    let used = header.number.load(Ordering::Acquire) as usize;
    let (mut next, mut waited) = (MILLISECOND, 0);
    loop {
        let mut left = false;
        for slot in slots.iter().take(used) {
            let ended = match slot.state.load(Ordering::Acquire) {
                CGROUP => end_cgroup(slot),
                PROCESS => end_process(slot),
                _ => true,
            };
            if ended {
                slot.state.store(FREE, Ordering::Release);
            }
            left |= !ended;
        }
        if !left || waited >= PATIENCE {
            return;
        }
        pause(next);
        waited += next;
        next = (next * 2).min(LONGEST);
    }
}

/// Opens a file or a directory. Returns a negative errno on failure.
fn open(dir: usize, name: *const u8, flags: u64) -> isize {
    let how = [flags, 0, RESOLVE_NO_MAGICLINKS];
    // SAFETY: all callers pass a NUL-terminated string. The kernel reads a struct open_how of three words.
    unsafe { syscall(nr::OPENAT2, [dir, name as usize, &raw const how as usize, size_of_val(&how)]) }
}

fn remove(dir: usize, name: *const u8) -> isize {
    // SAFETY: all callers pass a NUL-terminated string.
    unsafe { syscall(nr::UNLINKAT, [dir, name as usize, AT_REMOVEDIR]) }
}

/// Opens a file of a cgroup and writes to it.
fn write_file(dir: usize, name: *const u8, bytes: &[u8]) -> bool {
    let fd = open(dir, name, O_WRONLY_CLOEXEC);
    if fd < 0 {
        return false;
    }
    // SAFETY: the kernel reads `bytes.len()` bytes of a live slice.
    let written = unsafe { syscall(nr::WRITE, [fd as usize, bytes.as_ptr() as usize, bytes.len()]) };
    close(fd as i32);
    written > 0
}

fn inode(fd: usize) -> u64 {
    // On both architectures a struct stat is at most 144 bytes, and `st_ino` is its second word.
    let mut stat = [0u64; 18];
    // SAFETY: the kernel writes a struct stat.
    unsafe { syscall(nr::FSTAT, [fd, &raw mut stat as usize]) };
    let [_, inode, ..] = stat;
    inode
}

/// Kills all processes in the cgroup of a slot and removes it. Returns whether it is gone.
fn end_cgroup(slot: &Slot) -> bool {
    let path: *const u8 = slot.path.as_ptr().cast();
    let dir = open(AT_FDCWD, path, O_DIRECTORY_CLOEXEC);
    if dir < 0 {
        return is_gone(dir);
    }
    let gone = inode(dir as usize) != slot.id.load(Ordering::Relaxed) || {
        write_file(dir as usize, c"cgroup.kill".as_ptr().cast(), b"1");
        is_gone(remove(AT_FDCWD, path)) || {
            remove_below(dir as usize);
            is_gone(remove(AT_FDCWD, path))
        }
    };
    close(dir as i32);
    gone
}

/// Returns whether the result of a call means that a cgroup is gone.
fn is_gone(result: isize) -> bool {
    result == 0 || result == -(ENOENT as isize) || result == -ENODEV
}

/// Removes the cgroups below a directory, each after those below it. Stops at the first one that is busy.
fn remove_below(top: usize) {
    loop {
        let (mut parent, mut dir) = (top, top);
        let mut name: Name = [0; 1040];
        let mut found: Name = [0; 1040];
        while first_child(dir, &mut found) {
            name = found;
            let child = open(dir, name.as_ptr(), O_DIRECTORY_CLOEXEC);
            if parent != top {
                close(parent as i32);
            }
            parent = dir;
            if child < 0 {
                break;
            }
            dir = child as usize;
        }
        let removed = dir != top && remove(parent, name.as_ptr()) == 0;
        for fd in [parent, dir] {
            if fd != top {
                close(fd as i32);
            }
        }
        if !removed {
            return;
        }
    }
}

/// Finds a directory in a directory.
fn first_child(dir: usize, name: &mut Name) -> bool {
    let mut buffer = [0u64; 256];
    plain(nr::LSEEK, [dir, 0, 0]);
    loop {
        // SAFETY: the kernel writes at most as many bytes as the buffer has.
        let n = unsafe { syscall(nr::GETDENTS64, [dir, &raw mut buffer as usize, size_of_val(&buffer)]) };
        if n <= 0 {
            return false;
        }
        // SAFETY: the buffer has at least `n` bytes.
        let mut rest = unsafe { core::slice::from_raw_parts((&raw const buffer).cast::<u8>(), n as usize) };
        // A struct linux_dirent64: inode, offset, length, type, name.
        while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, l0, l1, kind, text @ ..] = rest {
            let text = text.split(|byte| *byte == 0).next().unwrap_or(&[]);
            if *kind == DT_DIR && !matches!(text, b"." | b"..") && text.len() < name.len() {
                *name = [0; 1040];
                name.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
                return true;
            }
            let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
            rest = rest.get(length.max(1)..).unwrap_or(&[]);
        }
    }
}

/// Kills process 1 of a pid namespace, with which all others in it end. Returns whether it is gone.
fn end_process(slot: &Slot) -> bool {
    let pid = slot.number.load(Ordering::Relaxed);
    let pidfd = plain(nr::PIDFD_OPEN, [pid as usize, 0]);
    if pidfd < 0 {
        return true;
    }
    // If the process still exists afterwards, the pidfd and the file are of the same process.
    if start_time(pid) == Some(slot.id.load(Ordering::Relaxed)) {
        plain(nr::PIDFD_SEND_SIGNAL, [pidfd as usize, SIGKILL, 0, 0]);
    }
    close(pidfd as i32);
    true
}

/// Reads the start time of a process, field 22 of `/proc/PID/stat`.
fn start_time(pid: u32) -> Option<u64> {
    let mut line = Line::new();
    line.push(b"/proc/");
    line.push_pid(pid);
    line.push(b"/stat\0");
    let fd = open(AT_FDCWD, line.bytes.as_ptr(), O_RDONLY_CLOEXEC);
    if fd < 0 {
        return None;
    }
    let mut text = [0u8; 1024];
    // SAFETY: the kernel writes at most as many bytes as the buffer has.
    let n = unsafe { syscall(nr::READ, [fd as usize, &raw mut text as usize, text.len()]) };
    close(fd as i32);
    let text = text.get(..usize::try_from(n).ok()?)?;
    // The name of the program can contain spaces and parentheses.
    let name = text.iter().rposition(|byte| *byte == b')')?;
    let field = text.get(name + 2..)?.split(|byte| *byte == b' ').nth(19)?;
    field.iter().try_fold(0u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

/// Moves this process out of its cgroup, and removes the cgroup and then its parent, if that is empty.
///
/// # Safety
/// The arguments are NUL-terminated strings.
unsafe fn leave(own: *const u8, callers: *const u8) {
    let mut path: Name = [0; 1040];
    // SAFETY: the caller guarantees it.
    let length = unsafe { copy(own, &mut path) };
    if length == 0 {
        return;
    }
    let mut parent = path;
    cut(&mut parent);
    let mut above = parent;
    cut(&mut above);
    let mut callers_path: Name = [0; 1040];
    // SAFETY: the caller guarantees it.
    unsafe { copy(callers, &mut callers_path) };
    for place in [above, callers_path] {
        let dir = open(AT_FDCWD, place.as_ptr(), O_DIRECTORY_CLOEXEC);
        if dir < 0 {
            continue;
        }
        let moved = write_file(dir as usize, c"cgroup.procs".as_ptr().cast(), b"0");
        close(dir as i32);
        if moved && remove(AT_FDCWD, path.as_ptr()) == 0 {
            // This fails while another process has containers or a watcher in it.
            remove(AT_FDCWD, parent.as_ptr());
            return;
        }
    }
}

/// Copies a string. Returns its length, or 0 if it is too long.
///
/// # Safety
/// `from` is a NUL-terminated string.
unsafe fn copy(from: *const u8, to: &mut Name) -> usize {
    for (at, place) in to.iter_mut().enumerate() {
        // SAFETY: no byte after the NUL is read.
        *place = unsafe { *from.add(at) };
        if *place == 0 {
            return at;
        }
    }
    *to = [0; 1040];
    0
}

/// Removes the last component of a path.
fn cut(path: &mut Name) {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    for byte in path.iter_mut().skip(slash.max(1)) {
        *byte = 0;
    }
}
