//! Process 1 of a container: starts the program, forwards signals to it, reaps all orphans, and
//! ends with the program's exit status.
//!
//! `build.rs` compiles this file separately, without the standard library, and the library embeds
//! the result. The program allocates nothing and needs no file of the container. Its arguments are
//! `nspod-init -- PROGRAM ARGUMENT…`, so that ps(1) shows the program. The first variable of its
//! environment is `NSPOD_INIT=REPORT:EXIT:STEP:CANDIDATES:OUTPUT:FILES:KIB:KILL:SESSION`:
//!
//! - `REPORT`: a socket or pipe to the runtime. If the program cannot be executed, the init sends
//!   one record. An end of file means that the program runs.
//! - `EXIT`: a file for the exit status. When the program has ended, the init writes the line
//!   `exited CODE`, `signaled SIGNAL` or `signaled SIGNAL core`. -1 means no file.
//! - `STEP`: the step that the record names.
//! - `CANDIDATES`: number of following strings of the environment that are paths to try. The
//!   strings after them are the program's environment. With 0 the init starts no program: it only
//!   holds the pid namespace, until another process kills it.
//! - `OUTPUT`: a pipe with the program's output, or -1. The init copies it to the log.
//! - `FILES`: number of the log's files. Their descriptors follow `OUTPUT`, and then those of the same number of
//!   files with the times of the output.
//! - `KIB`: maximum size of a file of the log together with its times, in KiB. See [`Log`].
//! - `KILL`: the file `cgroup.kill` of the container, or -1. The init writes to it last, which kills the
//!   processes of the runtime in this cgroup, and the init.
//! - `SESSION`: 0 if the program stays in the session and the process group of the runtime; 1 if the init leads
//!   a new session; 2 if this session also has a terminal. In a session of the init, the program leads a process
//!   group, which is the terminal's foreground. In the runtime's session, the init leaves the group of the program,
//!   so that a signal for the group is not forwarded to the program a second time.
//!
//! The library has reset all signals to their defaults.
//!
//! If its name in `argv[0]` is `nspod-stage`, this program is the *stage*: it performs the last
//! steps of a start, in a process that shares no memory, environment or descriptors with the
//! runtime. Its other argument is `BLOB:SIZE:REPORT`. `BLOB` is a memory file of `SIZE` bytes,
//! mapped shared: if a step fails and the container's filter rejects `write`, the runtime can read
//! the cause there. `plan/encode.rs` of the library writes the file. Its layout:
//!
//! - word 0: the record of the failed step, or 0. Word 1: set to 1 immediately before the program
//!   is executed.
//! - word 2: number of relocations after the header. A relocation is the offset of a word to which
//!   the address of the blob is added. Word 3: number of operations after the relocations. An
//!   operation has eight words: `KIND | CALL << 8 | STEP << 16 | TOLERATED << 32`, the number of a
//!   system call, and its six arguments. `TOLERATED` is an errno that does not count as a failure.
//! - then the strings and arrays that the operations point to.
//!
//! If its name is `nspod-watch`, this program is the watcher of a process that starts containers: see
//! `watch.rs`.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;
use core::ptr::null;
use core::sync::atomic::{AtomicBool, Ordering};

/// The record's tag: a step failed.
const FAILED: u8 = 1;
/// Numbers of the library's `Call`, such as `Call::Clone3`.
const CALL_CLONE: u8 = 3;
const CALL_OPENAT2: u8 = 5;
const CALL_WRITE: u8 = 6;
const CALL_READ: u8 = 7;
const CALL_SENDMSG: u8 = 29;
const CALL_EXECVE: u8 = 41;
const CALL_CLONE_OLD: u8 = 44;
const CALL_LSEEK: u8 = 45;
const CALL_PPOLL: u8 = 46;
const CALL_WAIT4: u8 = 48;
/// Other tags of records.
const CLONED: u8 = 2;
const WAITING: u8 = 3;
const LISTENER: u8 = 5;
const STARTED: u8 = 6;

/// Exit code of an init that was started with invalid arguments.
const MISUSED: i32 = 125;
/// Message for this case. It occurs if a command or interpreter is `/proc/self/exe`.
const MISUSE: &[u8] =
    b"nspod-init: this file only starts the container's program: name the program by its own path, not by /proc/self/exe\n";
const STDERR: i32 = 2;
/// Exit code if the program could not be started.
const NOT_STARTED: i32 = 127;

const ENOENT: i32 = 2;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;
const EFBIG: i32 = 27;

const SIGCHLD: i32 = 17;
const SIGXFSZ: i32 = 25;

const CLONE_VM: usize = 0x100;
const CLONE_VFORK: usize = 0x4000;
const CLONE_PIDFD: usize = 0x1000;
const CLONE_PARENT: usize = 0x8000;
const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;
const CLOSE_RANGE_CLOEXEC: usize = 4;
const FIONREAD: usize = 0x541b;
/// `WAIT_BEFORE | WRITE | WAIT_AFTER` of sync_file_range(2).
const SYNC_AND_WAIT: usize = 1 | 2 | 4;
const FADV_DONTNEED: usize = 4;
/// `SFD_CLOEXEC | SFD_NONBLOCK`. SIGSTOP removes a SIGCONT between ppoll and read.
const SFD_FLAGS: usize = 0o2000000 | 0o4000;
const PROT_READ_WRITE: usize = 1 | 2;
const MAP_SHARED: usize = 1;
const POLLIN: u64 = 1;
const ETIMEDOUT: i32 = 110;
const SIGKILL: usize = 9;
const O_WRONLY_CLOEXEC: u64 = 1 | 0o2000000;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;
/// `RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH`.
const RESOLVE_WITHIN: u64 = 1 | 2 | 8;
const SIG_SETMASK: usize = 2;
const TIOCSPGRP: usize = 0x5410;
const WNOHANG: usize = 1;

/// Architecture-specific code.
#[cfg_attr(target_arch = "aarch64", path = "../src/arch/aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "../src/arch/x86_64.rs")]
mod arch;
use arch::nr;

mod watch;

// The kernel enters here with argc and argv on the stack. `init` gets their address.
arch::entry!(init);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(MISUSED)
}

/// Fills memory. The compiler calls this function for arrays.
///
/// # Safety
/// `to` is valid for writes of `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    for at in 0..count {
        // The compiler would replace an ordinary loop by a call of this function.
        // SAFETY: the caller guarantees it.
        unsafe { to.add(at).write_volatile(byte as u8) };
    }
    to
}

/// Copies memory. The compiler calls this function for arrays.
///
/// # Safety
/// `to` is valid for writes and `from` for reads of `count` bytes, and they do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for at in 0..count {
        // SAFETY: the caller guarantees it.
        unsafe { to.add(at).write_volatile(*from.add(at)) };
    }
    to
}

/// Makes a system call.
///
/// # Safety
/// The arguments must be valid for the call: pointers must be valid for the memory that it reads
/// and writes, and the call must not affect memory that the compiler relies on.
unsafe fn syscall<const N: usize>(nr: usize, args: [usize; N]) -> isize {
    let arg = |n: usize| args.get(n).copied().unwrap_or(0);
    let ret: isize;
    // SAFETY: the registers follow the kernel's calling convention, and the kernel changes no
    // others. The caller guarantees that the call itself is sound.
    unsafe {
        arch::system_call!(nr, arg => ret);
    }
    ret
}

/// Makes a system call that accesses no memory of this process.
fn plain<const N: usize>(nr: usize, args: [usize; N]) -> isize {
    // SAFETY: this is used only for close, close_range, dup3, fadvise64, fcntl, ftruncate, lseek, setpgid,
    // sync_file_range, getpid, kill, pidfd_open, pidfd_send_signal without information, prctl, exit and
    // exit_group, whose arguments are integers.
    unsafe { syscall(nr, args) }
}

/// Ends this process. A filter can reject both calls, but not the trap.
fn exit(code: i32) -> ! {
    plain(nr::EXIT_GROUP, [code as usize]);
    plain(nr::EXIT, [code as usize]);
    // SAFETY: the instruction raises a signal that ends this process.
    unsafe { arch::trap!() }
}

fn close(fd: i32) {
    if fd >= 0 {
        plain(nr::CLOSE, [fd as usize]);
    }
}

fn close_on_exec(fd: i32) {
    if fd >= 0 {
        plain(nr::FCNTL, [fd as usize, F_SETFD, FD_CLOEXEC]);
    }
}

/// Closes all descriptors except those of the exit file, `cgroup.kill` and the log. If init kept an end of one of the
/// program's pipes, the pipe would stay open after the program has closed it.
fn close_others(task: &Task) {
    let mut next = 0;
    for (first, count) in [(task.exit, 1), (task.kill, 1), task.log_fds()] {
        if first < 0 {
            continue;
        }
        if first > next {
            close_range(task, next, first - 1);
        }
        next = first + count;
    }
    close_range(task, next, i32::MAX);
}

/// Closes the descriptors of a range, also if the container's filter rejects close_range(2).
fn close_range(task: &Task, first: i32, last: i32) {
    if plain(nr::CLOSE_RANGE, [first as usize, last as usize, 0]) < 0 {
        (first..=last.min(task.last_fd())).for_each(close);
    }
}

/// Writes all bytes, unless the write fails.
fn write(fd: i32, mut bytes: &[u8]) {
    while fd >= 0 && !bytes.is_empty() {
        // SAFETY: the kernel reads `bytes.len()` bytes of a live slice.
        let n = unsafe { syscall(nr::WRITE, [fd as usize, bytes.as_ptr() as usize, bytes.len()]) };
        match n {
            1.. => bytes = bytes.get(n as usize..).unwrap_or(&[]),
            _ if n == -(EINTR as isize) => {}
            _ => return,
        }
    }
}

/// Sets the signal mask, one bit for each signal.
fn set_mask(mask: u64) {
    // SAFETY: the kernel reads eight bytes at `&mask` and writes none.
    unsafe { syscall(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const mask as usize, 0, 8]) };
}

/// The parsed arguments.
struct Task {
    report: i32,
    exit: i32,
    step: u16,
    /// The pipe with the program's output, or -1.
    output: i32,
    /// Number of the log's files.
    files: i32,
    /// Maximum size of a file of the log in KiB.
    kib: i32,
    /// The file `cgroup.kill`, or -1.
    kill: i32,
    /// `SESSION` above.
    session: i32,
    /// Paths to try; there are `count` of them.
    candidates: *const *const u8,
    count: usize,
    argv: *const *const u8,
    envp: *const *const u8,
    /// Set by the process that shares this memory and should have become the program, if it has
    /// reported a failure.
    failed: AtomicBool,
    /// Set by the same process immediately before it executes the program.
    executes: AtomicBool,
}

impl Task {
    /// Reads the arguments from the initial stack: argc, argv, NULL, envp, NULL.
    ///
    /// # Safety
    /// `stack` must be the stack pointer at the program's entry.
    unsafe fn read(stack: *const usize) -> Option<Task> {
        // SAFETY: by the ABI, argc pointers, a NULL, and the environment with another NULL follow argc. `count`
        // is checked to be within the environment.
        unsafe {
            let argc = *stack;
            let args = stack.add(1).cast::<*const u8>();
            let strings = args.add(argc + 1);
            let mut numbers = [0; 9];
            parse(after(b"NSPOD_INIT=", *strings)?, &mut numbers)?;
            let [report, exit, step, count, output, files, kib, kill, session] = numbers;
            let count = usize::try_from(count).ok()?;
            let candidates = strings.add(1);
            if (0..count).any(|n| (*candidates.add(n)).is_null()) || count > 0 && argc < 3 {
                return None;
            }
            let (argv, envp) = (args.add(2), candidates.add(count));
            Some(Task { report, exit, step: step as u16, output, files, kib, kill, session, candidates, count, argv, envp, failed: AtomicBool::new(false), executes: AtomicBool::new(false) })
        }
    }

    /// Returns the first descriptor of the log and the number of its descriptors: the pipe, the files and their times.
    fn log_fds(&self) -> (i32, i32) {
        (self.output, 2 * self.files + 1)
    }

    /// Returns the last one of the init's own descriptors, or of those of the program if it has none.
    fn last_fd(&self) -> i32 {
        let (output, count) = self.log_fds();
        let last = if output < 0 { -1 } else { output + count - 1 };
        [self.report, self.exit, self.kill, last].into_iter().fold(STDERR, i32::max)
    }

    /// Makes the program inherit no descriptor of the init. Their numbers are above those of the program.
    fn keep_descriptors(&self) {
        let (output, count) = self.log_fds();
        let own = [self.report, self.exit, self.kill, output];
        let first = own.into_iter().filter(|fd| *fd >= 0).min().unwrap_or(STDERR + 1);
        // The container's filter can reject the call. The program could then exceed the bound of the log.
        if plain(nr::CLOSE_RANGE, [first as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC]) < 0 {
            own.into_iter().chain(output + 1..output + count).for_each(close_on_exec);
        }
    }

    /// Reports to the runtime that the program was not started.
    fn fail(&self, step: u16, call: u8, errno: i32) {
        write(self.report, &record(FAILED, call, step, errno));
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// Returns the record for the runtime, in the format of its `Message`.
fn record(tag: u8, call: u8, step: u16, value: i32) -> [u8; 8] {
    let ([s0, s1], [v0, v1, v2, v3]) = (step.to_ne_bytes(), value.to_ne_bytes());
    [tag, call, s0, s1, v0, v1, v2, v3]
}

/// Returns the rest of a string that starts with `prefix`.
///
/// # Safety
/// `text` must be NULL or a NUL-terminated string.
unsafe fn after(prefix: &[u8], mut text: *const u8) -> Option<*const u8> {
    if text.is_null() {
        return None;
    }
    for byte in prefix {
        // SAFETY: no byte after the terminating NUL is read, because the prefix contains none.
        unsafe {
            if *text != *byte {
                return None;
            }
            text = text.add(1);
        }
    }
    Some(text)
}

/// Parses decimal numbers separated by colons. There must be exactly as many as `numbers` has.
///
/// # Safety
/// `text` must be a NUL-terminated string.
unsafe fn parse<const N: usize>(mut text: *const u8, numbers: &mut [i32; N]) -> Option<()> {
    let mut terminator = b':';
    for (n, number) in numbers.iter_mut().enumerate() {
        if n == N - 1 {
            terminator = 0;
        }
        let mut value: i32 = 0;
        let mut negative = false;
        loop {
            // SAFETY: no byte after the terminating NUL is read: the NUL ends the last number, and
            // is an error within the others.
            let byte = unsafe { *text };
            // SAFETY: the pointer is at most one byte past the NUL.
            text = unsafe { text.add(1) };
            match byte {
                b'-' => negative = true,
                b'0'..=b'9' => value = value.checked_mul(10)?.checked_add(i32::from(byte - b'0'))?,
                _ if byte == terminator => break,
                _ => return None,
            }
        }
        *number = if negative { -value } else { value };
    }
    Some(())
}

/// Returns whether this program's name in `argv[0]` starts with `name`.
///
/// # Safety
/// `stack` must be the stack pointer at the program's entry, with at least one argument.
unsafe fn is_named(stack: *const usize, name: &[u8]) -> bool {
    // SAFETY: a pointer to a string follows argc. `all` stops at the NUL, which no name contains.
    unsafe {
        let text = *stack.add(1).cast::<*const u8>();
        name.iter().enumerate().all(|(at, byte)| *text.add(at) == *byte)
    }
}

/// The stack of the child until it has executed the program.
#[repr(C, align(16))]
struct Stack([MaybeUninit<u8>; 8192]);

/// Starts the program. The child shares memory, and this process is suspended until the child has
/// executed the program or has ended. Returns the pid or a negative errno.
fn start(task: &Task) -> isize {
    let mut stack = Stack([MaybeUninit::uninit(); 8192]);
    let top = (&raw mut stack).wrapping_add(1);
    let flags = CLONE_VM | CLONE_VFORK | SIGCHLD as usize;
    let ret: isize;
    // SAFETY: the child runs `child` on its own stack. The stack outlives this use, because
    // CLONE_VFORK suspends this process. The child gets its argument in a register that the kernel
    // does not change, and never returns. In this process the block is an ordinary system call.
    unsafe {
        arch::clone_call!(flags, top, child(task) => ret);
    }
    ret
}

/// Becomes the program: in a session of the init, moves to its own process group, in the foreground of the terminal
/// if there is one. Unblocks all signals.
extern "C" fn child(task: &Task) -> ! {
    if task.session > 0 {
        plain(nr::SETPGID, [0, 0]);
    }
    if task.session > 1 {
        let group = plain(nr::GETPID, []) as i32;
        // SAFETY: the kernel reads an int at `&group`. A background group would get SIGTTOU, which is blocked.
        unsafe { syscall(nr::IOCTL, [0, TIOCSPGRP, &raw const group as usize]) };
    }
    set_mask(0);
    execute(task)
}

/// Executes the first candidate that can be executed, or reports why none can.
fn execute(task: &Task) -> ! {
    task.executes.store(true, Ordering::Relaxed);
    // SAFETY: the kernel provided `count` strings and two NULL-terminated arrays.
    let errno = unsafe { try_each(task.candidates, task.count, task.argv, task.envp) };
    task.fail(task.step, CALL_EXECVE, errno);
    exit(NOT_STARTED)
}

/// Executes the first of `count` paths that can be executed. If none can, returns the errno.
///
/// # Safety
/// There are `count` NUL-terminated strings at `candidates`. `argv` and `envp` are NULL-terminated
/// arrays of such strings.
unsafe fn try_each(
    candidates: *const *const u8,
    count: usize,
    argv: *const *const u8,
    envp: *const *const u8,
) -> i32 {
    let mut errno = ENOENT;
    for n in 0..count {
        // SAFETY: `n` is less than `count`; the caller guarantees the rest.
        let ret =
            unsafe { syscall(nr::EXECVE, [*candidates.add(n) as usize, argv as usize, envp as usize]) };
        match -ret as i32 {
            ENOENT | ENOTDIR => {}
            EACCES => errno = EACCES,
            other => return other,
        }
    }
    errno
}

/// Waits for the next signal, and returns its number.
fn next_signal() -> i32 {
    loop {
        let signal = wait_signal(null());
        if signal > 0 {
            return signal;
        }
    }
}

/// Waits for a signal until the timeout, a struct timespec or NULL. Returns its number, 0 for a signal of the
/// log itself, or a negative errno.
fn wait_signal(timeout: *const [u64; 2]) -> i32 {
    let all = u64::MAX;
    // A siginfo_t: the number, an errno, a code, padding, the sender's pid, and others.
    let mut info = [0i32; 32];
    // SAFETY: the kernel reads eight bytes at `&all`, and 16 bytes at `timeout` unless it is null, and writes
    // 128 bytes at `&mut info`.
    let signal = unsafe {
        let args = [&raw const all as usize, &raw mut info as usize, timeout as usize, 8];
        syscall(nr::RT_SIGTIMEDWAIT, args)
    } as i32;
    let [_, _, _, _, sender, ..] = info;
    if is_of_log(signal, sender) { 0 } else { signal }
}

/// Returns whether a signal is for the log and not for the program: the kernel sends SIGXFSZ in the name of this process
/// if the log reaches the container's RLIMIT_FSIZE.
fn is_of_log(signal: i32, sender: i32) -> bool {
    signal == SIGXFSZ && sender == plain(nr::GETPID, []) as i32
}

/// Reaps processes that have ended: all of them, or until `main`. Returns the status of `main`.
fn reap(main: i32) -> Option<i32> {
    loop {
        let mut status = 0i32;
        // SAFETY: the kernel writes an int at `&mut status`.
        let pid = unsafe { syscall(nr::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0]) };
        if pid <= 0 {
            return None;
        }
        if pid as i32 == main {
            return Some(status);
        }
    }
}

/// A short line, built without an allocator.
struct Line {
    bytes: [u8; HEADER],
    len: usize,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [b' '; HEADER], len: 0 }
    }

    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, number: i32) {
        let digits = [number / 100 % 10, number / 10 % 10, number % 10].map(|d| b'0' + d as u8);
        let leading = if number >= 100 {
            0
        } else if number >= 10 {
            1
        } else {
            2
        };
        self.push(digits.get(leading..).unwrap_or(&[]));
    }

    /// Pushes a number without leading zeros.
    fn push_pid(&mut self, number: u32) {
        let mut divisor = 1_000_000_000;
        while divisor > 1 && number < divisor {
            divisor /= 10;
        }
        while divisor > 0 {
            self.push(&[b'0' + (number / divisor % 10) as u8]);
            divisor /= 10;
        }
    }

    /// Pushes a number with 20 digits.
    fn push_wide(&mut self, mut number: u64) {
        let mut digits = [b'0'; 20];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        self.push(&digits);
    }
}

/// Writes to the exit file how the program ended, copies the rest of its output, and writes to `cgroup.kill` if
/// the task has this file. Then ends with the exit code of a shell in this case: the program's exit code, or 128
/// plus the signal.
fn finish(task: &Task, status: i32, log: &mut Log) -> ! {
    let mut line = Line::new();
    let signal = status & 0x7f;
    let code = if signal == 0 {
        let code = status >> 8 & 0xff;
        line.push(b"exited ");
        line.push_number(code);
        code
    } else {
        line.push(b"signaled ");
        line.push_number(signal);
        if status & 0x80 != 0 {
            line.push(b" core");
        }
        128 + signal
    };
    line.push(b"\n");
    write(task.exit, line.bytes.get(..line.len).unwrap_or(&[]));
    close(task.exit);
    log.finish();
    write(task.kill, b"1");
    exit(code)
}

extern "C" fn init(stack: *const usize) -> ! {
    // SAFETY: `_start` passes the initial stack pointer of the kernel, which points to argc,
    // followed by argv.
    let staged = unsafe { (*stack == 2).then(|| stage::argument(stack)).flatten() };
    if let Some(argument) = staged {
        // SAFETY: the argument is a NUL-terminated string of argv.
        unsafe { stage::run(argument) }
    }
    // SAFETY: the same as above: four pointers to strings follow argc.
    if unsafe { *stack == 4 && is_named(stack, b"nspod-watch") } {
        // SAFETY: the same as above.
        unsafe { watch::run(stack) }
    }
    // SAFETY: the same as above.
    let Some(task) = (unsafe { Task::read(stack) }) else {
        write(STDERR, MISUSE);
        exit(MISUSED)
    };
    task.keep_descriptors();
    let mut log = Log::new(&task);
    // The init has descriptors of the host, for example the file for the exit status.
    plain(nr::PRCTL, [PR_SET_DUMPABLE, 0]);
    // Blocked signals are queued for `next_signal`. The kernel would otherwise discard signals for
    // which process 1 has no handler.
    set_mask(u64::MAX);
    if task.count == 0 {
        write(task.report, &record(STARTED, 0, task.step, 0));
        close(task.report);
        close_others(&task);
        loop {
            if next_signal() == SIGCHLD {
                reap(0);
            }
        }
    }
    let pid = start(&task);
    if pid < 0 {
        task.fail(task.step, CALL_CLONE, -pid as i32);
        finish(&task, NOT_STARTED << 8, &mut log);
    }
    if !task.executes.load(Ordering::Relaxed) {
        let mut status = 0i32;
        // SAFETY: the kernel writes an int at `&mut status`.
        unsafe { syscall(nr::WAIT4, [pid as usize, &raw mut status as usize, 0, 0]) };
        task.fail(task.step, CALL_WAIT4, status);
        finish(&task, NOT_STARTED << 8, &mut log);
    }
    if task.session == 0 {
        plain(nr::SETPGID, [0, 0]);
    }
    // The end of file alone could also mean that this process was killed.
    if !task.failed.load(Ordering::Relaxed) {
        write(task.report, &record(STARTED, 0, task.step, 0));
    }
    close(task.report);
    close_others(&task);
    log.open_signals();
    loop {
        match log.next_signal() {
            SIGCHLD => {
                if let Some(status) = reap(pid as i32) {
                    finish(&task, status, &mut log);
                }
            }
            signal => _ = plain(nr::KILL, [pid as usize, signal as usize]),
        }
    }
}

/// Size of the header of a file of the log.
const HEADER: usize = 64;
/// Size of the buffer between the pipe and the log.
const BUFFER: usize = 64 << 10;
/// Amount of new data in a file after which it is written to the disk.
const WINDOW: u64 = 256 << 10;
/// Size of a record of a file of times: two words.
const RECORD: u64 = 16;
/// Smallest distance in time between two records, in nanoseconds.
const MILLISECOND: u64 = 1_000_000;
const CLOCK_REALTIME: usize = 0;
/// Time between two looks at the output, if only signals can be waited for.
const PAUSE: [u64; 2] = [0, 50_000_000];

static mut OUTPUT: [u8; BUFFER] = [0; BUFFER];

/// The log: the program's output in a ring of files of limited size. If the container has no log, the init copies
/// nothing.
///
/// If the current file is full, the next one, which is the oldest, is truncated and becomes the current one.
/// Each file that is not empty starts with a line of [`HEADER`] bytes: `nspod log NUMBER LOST`, padded with
/// spaces. `NUMBER` grows by one with each file. `LOST` is the number of bytes that could not be written until
/// then, for example because the disk was full. The library's `log.rs` reads the files.
///
/// Each file of the log has a file of times, which consists of records of two words. The first record is `NUMBER` and
/// 0. Each other record is a time in nanoseconds since 1970, and the offset after the header of the output that was
/// copied then. A record is written before its output, and only if a millisecond has passed since the last one. A file
/// of the log and its times together do not exceed the limit.
///
/// The program does not wait for a disk that is full: that output is lost and counted. It waits for a disk
/// that is slow. The container pays for the page cache of the files, so each part that was written is removed
/// from the cache.
struct Log {
    /// The pipe, which does not block, or -1 after its end.
    output: i32,
    /// A signalfd, or -1.
    signals: i32,
    /// The first file, and the number of files. As many files of times follow.
    first: i32,
    files: i32,
    /// Maximum size of a file together with its times.
    limit: u64,
    /// Index of the current file, its number, and its size. The size is 0 before the file has a header.
    current: i32,
    number: u64,
    size: u64,
    /// Size of the part of the file that is on the disk.
    settled: u64,
    /// Size of the current file of times, the size of its part that is on the disk, and its last time.
    times: u64,
    times_settled: u64,
    stamped: u64,
    lost: u64,
}

impl Log {
    fn new(task: &Task) -> Log {
        let limit = (task.kib as u64) << 10;
        let (output, files) = if limit > HEADER as u64 && task.files > 0 { (task.output, task.files) } else { (-1, 0) };
        Log { output, signals: -1, first: output + 1, files, limit, current: 0, number: 1, size: 0, settled: 0, times: 0, times_settled: 0, stamped: 0, lost: 0 }
    }

    /// Makes it possible to wait for signals and for output at the same time.
    fn open_signals(&mut self) {
        if self.output >= 0 {
            let all = u64::MAX;
            // SAFETY: the kernel reads eight bytes at `&all`.
            self.signals = unsafe {
                syscall(nr::SIGNALFD4, [usize::MAX, &raw const all as usize, 8, SFD_FLAGS])
            } as i32;
        }
    }

    /// Copies output until a signal arrives, and returns its number. A signal waits for the copy of one
    /// buffer at most.
    fn next_signal(&mut self) -> i32 {
        while self.output >= 0 {
            if self.signals < 0 {
                // The container's filter rejects signalfd4 or ppoll.
                let timeout = if self.copy() > 0 { [0, 0] } else { PAUSE };
                let signal = wait_signal(&raw const timeout);
                if signal > 0 {
                    return signal;
                }
                continue;
            }
            // Two structs pollfd: descriptor, wanted events, returned events.
            let mut polled = [self.signals, self.output].map(|fd| u64::from(fd as u32) | POLLIN << 32);
            // SAFETY: the kernel reads and writes two structs pollfd. NULL means no timeout and no mask.
            let ready = unsafe { syscall(nr::PPOLL, [&raw mut polled as usize, 2, 0, 0, 8]) };
            if ready < 0 {
                close(self.signals);
                self.signals = -1;
                continue;
            }
            let [signaled, written] = polled.map(|fd| fd >> 48 != 0);
            if signaled && let Some(signal) = self.read_signal() {
                return signal;
            }
            if written {
                self.copy();
            }
        }
        next_signal()
    }

    fn read_signal(&mut self) -> Option<i32> {
        // A struct signalfd_siginfo: the number, an errno, a code, the sender's pid, and others.
        let mut info = [0i32; 32];
        // SAFETY: the kernel writes 128 bytes at `&mut info`.
        unsafe { syscall(nr::READ, [self.signals as usize, &raw mut info as usize, 128]) };
        let [signal, _, _, sender, ..] = info;
        (signal > 0 && !is_of_log(signal, sender)).then_some(signal)
    }

    /// Copies at most one buffer of output. Returns the number of bytes.
    fn copy(&mut self) -> usize {
        if self.output < 0 {
            return 0;
        }
        // SAFETY: the kernel writes at most `BUFFER` bytes to the static buffer, which only this function
        // uses, in the only thread.
        let n = unsafe { syscall(nr::READ, [self.output as usize, &raw mut OUTPUT as usize, BUFFER]) };
        match n {
            1.. => {
                // SAFETY: the kernel has written `n` bytes, and nothing changes them before the next call.
                self.append(unsafe { core::slice::from_raw_parts((&raw const OUTPUT).cast(), n as usize) });
                n as usize
            }
            _ if n == -(EAGAIN as isize) || n == -(EINTR as isize) => 0,
            _ => {
                // No process has the other end.
                close(self.output);
                self.output = -1;
                0
            }
        }
    }

    fn append(&mut self, mut bytes: &[u8]) {
        let now = now();
        while !bytes.is_empty() {
            // There is space for the next record and some output.
            if (self.size == 0 || self.size + self.times + 2 * RECORD >= self.limit) && !self.begin() {
                break;
            }
            self.stamp(now);
            // The container's RLIMIT_FSIZE can be lower than the size of a header.
            let room = self.limit.saturating_sub(self.size + self.times).max(1) as usize;
            let part = bytes.get(..room).unwrap_or(bytes);
            // SAFETY: the kernel reads `part.len()` bytes of a live slice.
            let n = unsafe { syscall(nr::WRITE, [self.fd(), part.as_ptr() as usize, part.len()]) };
            match n {
                1.. => {
                    self.size += n as u64;
                    bytes = bytes.get(n as usize..).unwrap_or(&[]);
                    self.settle(WINDOW);
                }
                // The container's RLIMIT_FSIZE is lower than the limit.
                _ if n == -(EFBIG as isize) && self.size > HEADER as u64 => self.limit = self.size + self.times,
                _ => break,
            }
        }
        if !bytes.is_empty() {
            self.lost += bytes.len() as u64;
            if self.size > 0 {
                self.write_header();
            }
        }
    }

    fn fd(&self) -> usize {
        (self.first + self.current) as usize
    }

    fn times_fd(&self) -> usize {
        self.fd() + self.files as usize
    }

    /// Records that output is copied at this time. Without a clock or space there is no record.
    fn stamp(&mut self, now: u64) {
        let is_first = self.times == 0;
        if now == 0 || !is_first && (self.stamped..self.stamped + MILLISECOND).contains(&now) {
            return;
        }
        let words = [self.number, 0, now, self.size - HEADER as u64];
        let new = if is_first { &words[..] } else { words.get(2..).unwrap_or(&[]) };
        let length = size_of_val(new);
        // SAFETY: the kernel reads `length` bytes of a live slice.
        let n = unsafe {
            syscall(nr::PWRITE64, [self.times_fd(), new.as_ptr() as usize, length, self.times as usize])
        };
        if n == length as isize {
            self.times += length as u64;
            self.stamped = now;
        }
    }

    /// Continues in the next file. Returns false if that is not possible.
    fn begin(&mut self) -> bool {
        if self.size > 0 {
            self.settle(1);
            self.current = if self.current + 1 < self.files { self.current + 1 } else { 0 };
            self.number += 1;
            self.size = 0;
            self.settled = 0;
            self.times = 0;
            self.times_settled = 0;
        }
        plain(nr::FTRUNCATE, [self.times_fd(), 0]);
        if plain(nr::FTRUNCATE, [self.fd(), 0]) < 0 || self.write_header() != HEADER as isize {
            return false;
        }
        plain(nr::LSEEK, [self.fd(), HEADER, 0]);
        self.size = HEADER as u64;
        true
    }

    fn write_header(&self) -> isize {
        let mut line = Line::new();
        line.push(b"nspod log ");
        line.push_wide(self.number);
        line.push(b" ");
        line.push_wide(self.lost);
        let mut bytes = line.bytes;
        bytes[HEADER - 1] = b'\n';
        // SAFETY: the kernel reads `HEADER` bytes of a live array.
        unsafe { syscall(nr::PWRITE64, [self.fd(), bytes.as_ptr() as usize, HEADER, 0]) }
    }

    /// If there are `amount` new bytes in the file and its times, writes them to the disk and removes them from the
    /// cache.
    fn settle(&mut self, amount: u64) {
        if self.size - self.settled + self.times - self.times_settled >= amount {
            self.settled = settle(self.fd(), self.settled, self.size);
            self.times_settled = settle(self.times_fd(), self.times_settled, self.times);
        }
    }

    /// Copies what is in the pipe now. Other processes may still write to it: they end with this process.
    fn finish(&mut self) {
        let mut rest = 0i32;
        if self.output >= 0 {
            // SAFETY: the kernel writes an int at `&mut rest`.
            unsafe { syscall(nr::IOCTL, [self.output as usize, FIONREAD, &raw mut rest as usize]) };
        }
        let mut rest = rest as usize;
        while rest > 0 {
            match self.copy() {
                0 => return,
                copied => rest = rest.saturating_sub(copied),
            }
        }
    }
}

/// Writes the bytes from `from` to the end of a file to the disk and removes them from the cache. Returns the size of the
/// part that is not in the cache any more: the last page may be incomplete.
fn settle(fd: usize, from: u64, end: u64) -> u64 {
    if end > from {
        let (from, length) = (from as usize, (end - from) as usize);
        plain(nr::SYNC_FILE_RANGE, [fd, from, length, SYNC_AND_WAIT]);
        plain(nr::FADVISE64, [fd, from, length, FADV_DONTNEED]);
    }
    end & !0xfff
}

/// Returns the time in nanoseconds since 1970. Returns 0 if the container's filter rejects the call.
fn now() -> u64 {
    let mut time = [0u64; 2];
    // SAFETY: the kernel writes a struct timespec of two words.
    unsafe { syscall(nr::CLOCK_GETTIME, [CLOCK_REALTIME, &raw mut time as usize]) };
    let [seconds, nanoseconds] = time;
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds)
}

/// The last steps of a start: see the head of this file.
mod stage {
    use super::*;

    /// Words of the header.
    const RECORD: usize = 0;
    const EXECUTES: usize = 1;
    const RELOCATIONS: usize = 2;
    const OPERATIONS: usize = 3;
    const HEADER: usize = 4;

    /// Kinds of operations.
    const CALL: u8 = 0;
    const CLONE: u8 = 1;
    const HOLD: u8 = 2;
    const LISTEN: u8 = 3;
    const LABEL: u8 = 4;
    const HOOK: u8 = 5;
    const EXECUTE: u8 = 6;
    const EXECUTE_FILE: u8 = 7;
    const TELL: u8 = 8;

    /// Returns the argument of a stage, if this process was started as one.
    ///
    /// # Safety
    /// `stack` must be the stack pointer at the program's entry, with two arguments.
    pub(super) unsafe fn argument(stack: *const usize) -> Option<*const u8> {
        // SAFETY: two pointers to strings follow argc.
        unsafe { is_named(stack, b"nspod-stage").then(|| *stack.add(2).cast::<*const u8>()) }
    }

    struct Stage {
        blob: *mut u64,
        report: i32,
    }

    /// One operation.
    #[repr(C)]
    struct Operation {
        kind: u8,
        call: u8,
        step: u16,
        tolerated: u32,
        nr: usize,
        args: [usize; 6],
    }

    /// A failed call and its errno.
    type Fault = (u8, i32);

    /// Performs the operations of the blob.
    ///
    /// # Safety
    /// `argument` is a NUL-terminated string.
    pub(super) unsafe fn run(argument: *const u8) -> ! {
        let mut numbers = [0; 3];
        // SAFETY: the caller guarantees it.
        if unsafe { parse(argument, &mut numbers) }.is_none() {
            exit(MISUSED);
        }
        let [fd, size, report] = numbers;
        // SAFETY: this makes a new mapping, at an address that the kernel chooses.
        let blob = unsafe {
            syscall(nr::MMAP, [0, size as usize, PROT_READ_WRITE, MAP_SHARED, fd as usize, 0])
        };
        if blob < 0 {
            write(report, &record(FAILED, 0, u16::MAX, -blob as i32));
            exit(NOT_STARTED);
        }
        close(fd);
        let mut stage = Stage { blob: blob as *mut u64, report };
        // SAFETY: the library wrote the blob, with the layout at the head of this file: each offset
        // is the offset of a word in the blob.
        let operations = unsafe {
            let (relocations, count) = (*stage.blob.add(RELOCATIONS), *stage.blob.add(OPERATIONS));
            for n in 0..relocations as usize {
                let at = *stage.blob.add(HEADER + n) as usize;
                *stage.blob.byte_add(at) += blob as u64;
            }
            let first = stage.blob.add(HEADER + relocations as usize).cast::<Operation>();
            core::slice::from_raw_parts(first, count as usize)
        };
        for operation in operations {
            if let Err((call, errno)) = stage.perform(operation) {
                stage.fail(operation.step, call, errno);
            }
        }
        exit(NOT_STARTED)
    }

    impl Stage {
        fn fail(&self, step: u16, call: u8, errno: i32) -> ! {
            let record = record(FAILED, call, step, errno);
            // SAFETY: the first word of the blob.
            unsafe { self.blob.add(RECORD).write_volatile(u64::from_ne_bytes(record)) };
            write(self.report, &record);
            exit(NOT_STARTED)
        }

        fn perform(&mut self, operation: &Operation) -> Result<(), Fault> {
            let [a, b, c, d, ..] = operation.args;
            match operation.kind {
                CALL => called(operation).map(drop),
                CLONE => self.clone(operation.step),
                HOLD => self.hold(operation.step, a as i32, b as i32),
                LISTEN => {
                    let listener = called(operation)?;
                    self.tell(LISTENER, operation.step, listener)
                }
                LABEL => label(a, b as *const u8, c as *const u8, d),
                HOOK => hook(operation),
                EXECUTE => {
                    self.executes();
                    // SAFETY: the library wrote the three arrays.
                    let errno = unsafe { try_each(a as *const _, b, c as *const _, d as *const _) };
                    Err((CALL_EXECVE, errno))
                }
                TELL => self.tell(STARTED, operation.step, 0),
                EXECUTE_FILE => {
                    self.executes();
                    called(operation).map(drop)
                }
                _ => exit(MISUSED),
            }
        }

        /// Records that only the exec of the program remains.
        fn executes(&self) {
            // SAFETY: the second word of the blob.
            unsafe { self.blob.add(EXECUTES).write_volatile(1) };
        }

        fn tell(&self, tag: u8, step: u16, value: i32) -> Result<(), Fault> {
            let message = record(tag, 0, step, value);
            // SAFETY: the kernel reads the eight bytes of a live array.
            let n = unsafe {
                syscall(nr::WRITE, [self.report as usize, message.as_ptr() as usize, message.len()])
            };
            checked(CALL_WRITE, n).map(drop)
        }

        /// Continues in a sibling process, which starts in the container's pid namespace. The
        /// runtime gets the sibling's pidfd, because the sibling could forge a pid.
        fn clone(&self, step: u16) -> Result<(), Fault> {
            let mut pidfd = -1i32;
            let flags = CLONE_PARENT | CLONE_PIDFD | SIGCHLD as usize;
            // SAFETY: without CLONE_VM both processes have their own memory and stack. The kernel
            // writes an int at `&pidfd`.
            let pid = unsafe { syscall(nr::CLONE, [flags, 0, &raw mut pidfd as usize, 0, 0]) };
            if checked(CALL_CLONE_OLD, pid)? == 0 {
                return Ok(());
            }
            self.send(&record(CLONED, 0, step, pid as i32), pidfd)?;
            exit(0)
        }

        /// Sends a record with a descriptor.
        fn send(&self, message: &[u8; 8], fd: i32) -> Result<(), Fault> {
            // A cmsghdr of SOL_SOCKET and SCM_RIGHTS, with one int.
            let control = [20u64, 1 | 1 << 32, u64::from(fd as u32)];
            let iov = [message.as_ptr() as usize, message.len()];
            let header = [0, 0, &raw const iov as usize, 1, &raw const control as usize, 24, 0];
            // SAFETY: the msghdr's pointers refer to live arrays with the lengths in it.
            let n = unsafe {
                syscall(nr::SENDMSG, [self.report as usize, &raw const header as usize, MSG_NOSIGNAL])
            };
            checked(CALL_SENDMSG, n).map(drop)
        }

        /// Reports that everything is ready, and waits for a byte from `go`, or from the runtime.
        /// Later failures are reported to `late`.
        fn hold(&mut self, step: u16, go: i32, late: i32) -> Result<(), Fault> {
            self.tell(WAITING, step, 0)?;
            let from = if go < 0 { self.report } else { go };
            let mut byte = 0u8;
            // SAFETY: the kernel writes one byte at `&byte`.
            let n = unsafe { syscall(nr::READ, [from as usize, &raw mut byte as usize, 1]) };
            if checked(CALL_READ, n)? != 1 {
                exit(NOT_STARTED);
            }
            if go >= 0 {
                close(go);
                close(self.report);
                self.report = late;
            }
            Ok(())
        }
    }

    const MSG_NOSIGNAL: usize = 0x4000;

    fn checked(call: u8, returned: isize) -> Result<i32, Fault> {
        if returned < 0 { Err((call, -returned as i32)) } else { Ok(returned as i32) }
    }

    fn called(operation: &Operation) -> Result<i32, Fault> {
        // SAFETY: the library made the operation from a checked step, and its pointers refer to the
        // blob.
        let returned = unsafe { syscall(operation.nr, operation.args) };
        match checked(operation.call, returned) {
            Err((_, errno)) if errno as u32 == operation.tolerated => Ok(0),
            other => other,
        }
    }

    /// Sets the label of the next program through a security module's file below `/proc`.
    fn label(proc: usize, path: *const u8, text: *const u8, length: usize) -> Result<(), Fault> {
        let how = [O_WRONLY_CLOEXEC, 0, RESOLVE_WITHIN];
        // SAFETY: the arguments are a string of the library and a struct open_how of three words.
        let fd = unsafe {
            syscall(nr::OPENAT2, [proc, path as usize, &raw const how as usize, size_of_val(&how)])
        };
        let fd = checked(CALL_OPENAT2, fd)?;
        // SAFETY: the kernel reads `length` bytes of the blob.
        let written = unsafe { syscall(nr::WRITE, [fd as usize, text as usize, length]) };
        close(fd);
        checked(CALL_WRITE, written).map(drop)
    }

    /// Runs a hook and waits for its end, with the container's state on standard input. The
    /// arguments are path, argv, envp, the file of the state, and the timeout in seconds (0: none).
    fn hook(operation: &Operation) -> Result<(), Fault> {
        let [path, argv, envp, state, seconds, _] = operation.args;
        checked(CALL_LSEEK, plain(nr::LSEEK, [state, 0, 0]))?;
        let mut pidfd = -1i32;
        // SAFETY: the same as in `Stage::clone`.
        let pid = unsafe {
            syscall(nr::CLONE, [CLONE_PIDFD | SIGCHLD as usize, 0, &raw mut pidfd as usize, 0, 0])
        };
        let pid = checked(CALL_CLONE_OLD, pid)?;
        if pid == 0 {
            if plain(nr::DUP3, [state, 0, 0]) >= 0 {
                plain(nr::CLOSE_RANGE, [3, u32::MAX as usize, 0]);
                set_mask(0);
                // SAFETY: the arguments are a string and two arrays of the library.
                unsafe { syscall(nr::EXECVE, [path, argv, envp]) };
            }
            exit(NOT_STARTED)
        }
        let mut poll = u64::from(pidfd as u32) | POLLIN << 32;
        let limit = [seconds as u64, 0];
        let limit = if seconds == 0 { 0 } else { &raw const limit as usize };
        // SAFETY: the arguments are a struct pollfd, and a struct timespec or NULL.
        let ready = unsafe { syscall(nr::PPOLL, [&raw mut poll as usize, 1, limit, 0, 8]) };
        let mut status = 0i32;
        if ready <= 0 {
            plain(nr::KILL, [pid as usize, SIGKILL]);
        }
        // SAFETY: the kernel writes an int at `&status`.
        let waited = unsafe { syscall(nr::WAIT4, [pid as usize, &raw mut status as usize, 0, 0]) };
        close(pidfd);
        checked(CALL_PPOLL, ready)?;
        checked(CALL_WAIT4, waited)?;
        match (ready, status) {
            (0, _) => Err((CALL_PPOLL, ETIMEDOUT)),
            (_, 0) => Ok(()),
            // The call tells the runtime that the value is a wait status.
            (_, status) => Err((CALL_WAIT4, status)),
        }
    }
}
