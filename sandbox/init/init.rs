//! Process 1 of a container: it starts the program, forwards signals to it, reaps
//! every orphan, and ends as the program did.
//!
//! `build.rs` compiles this file alone, without the standard library, and the
//! library embeds the result. It allocates nothing and needs no file of the
//! container's. Its arguments (`argv[1]` is
//! `REPORT:EXIT:STEP:CANDIDATES:PROC:LABEL`):
//!
//! - `REPORT`: a socket or pipe to the runtime. It gets one record when the program
//!   cannot be executed, and its end of file means that the program runs.
//! - `EXIT`: a file that gets the line `exited CODE`, `signaled SIGNAL` or
//!   `signaled SIGNAL core` when the program has ended; -1 for none; -2 to become the
//!   program and be no init at all: then all that the container can find of what it
//!   was started from is this harmless file.
//! - `STEP`: the step that the record names.
//! - `CANDIDATES`: how many of the arguments that follow are paths to try; what
//!   follows them is the program's `argv`. With none, there is no program: init
//!   only holds the pid namespace, until it is killed from outside.
//! - `PROC`: a descriptor of `/proc`, or -1. With one, two more arguments come before the
//!   candidates: a path below it, and what is written there before the program is executed,
//!   for a security module.
//! - `LABEL`: the step that the record names when that fails.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};

/// The record's tag: a step failed.
const FAILED: u8 = 1;
/// `Call::Clone3` and the like, of the library.
const CALL_CLONE: u8 = 3;
const CALL_OPENAT2: u8 = 5;
const CALL_WRITE: u8 = 6;
const CALL_EXECVE: u8 = 41;

/// The exit code of an init that was started with arguments it does not understand.
const MISUSED: i32 = 125;
/// The exit code when the program could not be started.
const NOT_STARTED: i32 = 127;

const ENOENT: i32 = 2;
const EINTR: i32 = 4;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;

const SIGCHLD: i32 = 17;
const LAST_SIGNAL: i32 = 64;

const CLONE_VM: usize = 0x100;
const CLONE_VFORK: usize = 0x4000;
const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;
/// `EXIT` of one that only becomes the program.
const NO_INIT: i32 = -2;
const O_WRONLY_CLOEXEC: u64 = 1 | 0o2000000;
const PR_SET_DUMPABLE: usize = 4;
/// `RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH`.
const RESOLVE_WITHIN: u64 = 1 | 2 | 8;
const SIG_SETMASK: usize = 2;
const TIOCSPGRP: usize = 0x5410;
const WNOHANG: usize = 1;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const GETPID: usize = 39;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const FCNTL: usize = 72;
    pub const SETPGID: usize = 109;
    pub const PRCTL: usize = 157;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
    pub const CLOSE_RANGE: usize = 436;
    pub const OPENAT2: usize = 437;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const FCNTL: usize = 25;
    pub const IOCTL: usize = 29;
    pub const CLOSE: usize = 57;
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const KILL: usize = 129;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const SETPGID: usize = 154;
    pub const PRCTL: usize = 167;
    pub const GETPID: usize = 172;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const CLOSE_RANGE: usize = 436;
    pub const OPENAT2: usize = 437;
}

// The kernel enters here with argc and argv on the stack; `init` gets their address.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {init}",
    "ud2",
    init = sym init,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {init}",
    "brk #1",
    init = sym init,
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(MISUSED)
}

/// A system call.
///
/// # Safety
/// The arguments must be what the call takes: pointers valid for what it reads and
/// writes, and no effect on memory that the compiler relies on.
unsafe fn syscall<const N: usize>(nr: usize, args: [usize; N]) -> isize {
    let arg = |n: usize| args.get(n).copied().unwrap_or(0);
    let ret: isize;
    // SAFETY: the registers are those of the kernel's calling convention, which
    // changes nothing else; the caller vouches for the call itself.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "syscall",
            inlateout("rax") nr => ret,
            in("rdi") arg(0), in("rsi") arg(1), in("rdx") arg(2), in("r10") arg(3),
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "svc #0",
            in("x8") nr,
            inlateout("x0") arg(0) => ret,
            in("x1") arg(1), in("x2") arg(2), in("x3") arg(3),
            options(nostack),
        );
    }
    ret
}

/// A system call that reads and writes no memory of ours.
fn plain<const N: usize>(nr: usize, args: [usize; N]) -> isize {
    // SAFETY: used only for close, close_range, fcntl, setpgid, getpid, kill, prctl
    // and exit_group, whose arguments are numbers.
    unsafe { syscall(nr, args) }
}

fn exit(code: i32) -> ! {
    loop {
        plain(nr::EXIT_GROUP, [code as usize]);
    }
}

fn close(fd: i32) {
    if fd >= 0 {
        plain(nr::CLOSE, [fd as usize]);
    }
}

/// Closes every descriptor but `kept`: one that init held would keep a pipe of the
/// program's open after the program has closed it.
fn close_all_but(kept: i32) {
    if kept < 0 {
        plain(nr::CLOSE_RANGE, [0, u32::MAX as usize, 0]);
        return;
    }
    if kept > 0 {
        plain(nr::CLOSE_RANGE, [0, kept as usize - 1, 0]);
    }
    plain(nr::CLOSE_RANGE, [kept as usize + 1, u32::MAX as usize, 0]);
}

/// Writes all of `bytes`, as far as that can be done.
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

/// What the arguments say.
struct Task {
    report: i32,
    exit: i32,
    step: u16,
    /// Paths to try, `count` of them.
    candidates: *const *const u8,
    count: usize,
    argv: *const *const u8,
    envp: *const *const u8,
    proc: i32,
    label: u16,
    /// With `proc`, a path below it and what is written there.
    label_args: *const *const u8,
}

impl Task {
    /// Reads the arguments from the initial stack: argc, argv, NULL, envp, NULL.
    ///
    /// # Safety
    /// `stack` must be the stack pointer at the program's entry.
    unsafe fn read(stack: *const usize) -> Option<Task> {
        // SAFETY: by the ABI, argc pointers and a NULL follow argc, and the
        // environment follows them; `count` is checked to stay within argc.
        unsafe {
            let argc = *stack;
            let args = stack.add(1).cast::<*const u8>();
            if argc < 2 {
                return None;
            }
            let mut numbers = [0; NUMBERS];
            parse(*args.add(1), &mut numbers)?;
            let [report, exit, step, count, proc, label] = numbers;
            let before = if proc >= 0 { 4 } else { 2 };
            let rest = argc.checked_sub(before)?;
            let count = usize::try_from(count).ok().filter(|n| *n <= rest)?;
            let (label_args, candidates) = (args.add(2), args.add(before));
            let (argv, envp) = (candidates.add(count), args.add(argc + 1));
            let (step, label) = (step as u16, label as u16);
            Some(Task { report, exit, step, candidates, count, argv, envp, proc, label, label_args })
        }
    }

    /// Tells the runtime that the program was not started.
    fn fail(&self, step: u16, call: u8, errno: i32) {
        let ([s0, s1], [v0, v1, v2, v3]) = (step.to_ne_bytes(), errno.to_ne_bytes());
        write(self.report, &[FAILED, call, s0, s1, v0, v1, v2, v3]);
    }
}

/// How many numbers the first argument holds.
const NUMBERS: usize = 6;

/// Reads decimal numbers that are divided by colons, exactly as many as asked for.
///
/// # Safety
/// `text` must be a NUL-terminated string.
unsafe fn parse(mut text: *const u8, numbers: &mut [i32; NUMBERS]) -> Option<()> {
    let mut terminator = b':';
    for (n, number) in numbers.iter_mut().enumerate() {
        if n == NUMBERS - 1 {
            terminator = 0;
        }
        let mut value: i32 = 0;
        let mut negative = false;
        loop {
            // SAFETY: no byte after the terminating NUL is read: it ends the last
            // number, and is refused within the others.
            let byte = unsafe { *text };
            // SAFETY: at most one past the NUL.
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

/// The stack that the child runs on until it has executed the program.
#[repr(C, align(16))]
struct Stack([MaybeUninit<u8>; 8192]);

/// Starts the program: memory is shared and this process waits until the program
/// has been executed or the child has ended. Returns the pid or a negative errno.
fn start(task: &Task) -> isize {
    let mut stack = Stack([MaybeUninit::uninit(); 8192]);
    let top = (&raw mut stack).wrapping_add(1);
    let flags = CLONE_VM | CLONE_VFORK | SIGCHLD as usize;
    let ret: isize;
    // SAFETY: the child runs `child` on a stack of its own, which outlives it here
    // because CLONE_VFORK suspends this process meanwhile; it gets its argument in a
    // register that the kernel leaves alone, and never returns. In this process the
    // block is a plain system call.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call {child}",
            "ud2",
            "2:",
            child = sym child,
            inlateout("rax") nr::CLONE => ret,
            in("rdi") flags, in("rsi") top, in("rdx") 0, in("r10") 0, in("r8") 0, in("r9") task,
            lateout("rcx") _, lateout("r11") _,
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x5",
            "bl {child}",
            "brk #1",
            "2:",
            child = sym child,
            in("x8") nr::CLONE,
            inlateout("x0") flags => ret,
            in("x1") top, in("x2") 0, in("x3") 0, in("x4") 0, in("x5") task,
            lateout("x30") _,
        );
    }
    ret
}

/// Becomes the program: a process group of its own, in the terminal's foreground if
/// there is a terminal, every signal at its default and none blocked.
extern "C" fn child(task: &Task) -> ! {
    plain(nr::SETPGID, [0, 0]);
    let group = plain(nr::GETPID, []) as i32;
    // SAFETY: the kernel reads an int at `&group`. It refuses the call unless
    // descriptor 0 is this session's terminal, which is all the check there need be;
    // SIGTTOU, which a group in the background would get, is blocked.
    unsafe { syscall(nr::IOCTL, [0, TIOCSPGRP, &raw const group as usize]) };
    // A struct sigaction of zeros: SIG_DFL, no flags, an empty mask.
    let default = [0u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the kernel reads a struct sigaction, four words, at `&default`.
        unsafe { syscall(nr::RT_SIGACTION, [signal as usize, &raw const default as usize, 0, 8]) };
    }
    set_mask(0);
    execute(task)
}

/// Becomes the first of the candidates that can be executed, or tells why none can.
fn execute(task: &Task) -> ! {
    let mut errno = ENOENT;
    for n in 0..task.count {
        // SAFETY: `n` is one of the candidates; each is a NUL-terminated string, and
        // argv and envp are NULL-terminated arrays, as the kernel laid them out.
        let ret = unsafe {
            syscall(nr::EXECVE, [*task.candidates.add(n) as usize, task.argv as usize, task.envp as usize])
        };
        match -ret as i32 {
            ENOENT | ENOTDIR => {}
            EACCES => errno = EACCES,
            other => {
                errno = other;
                break;
            }
        }
    }
    task.fail(task.step, CALL_EXECVE, errno);
    exit(NOT_STARTED)
}

/// Tells a security module what the program is to run as.
fn label(task: &Task) {
    let how = [O_WRONLY_CLOEXEC, 0, RESOLVE_WITHIN];
    // SAFETY: with `proc` there are two strings at `label_args`, which the kernel reads up
    // to their NULs, and a struct open_how of three words at `&how`.
    let (fd, written) = unsafe {
        let (path, text) = (*task.label_args, *task.label_args.add(1));
        let how = &raw const how as usize;
        let fd = syscall(nr::OPENAT2, [task.proc as usize, path as usize, how, 24]);
        // Read so that the compiler does not make it a call of strlen, which is not here.
        let length = (0..).take_while(|n| text.add(*n).read_volatile() != 0).count();
        (fd, syscall(nr::WRITE, [fd as usize, text as usize, length]))
    };
    let (call, errno) = match (fd, written) {
        (..0, _) => (CALL_OPENAT2, -fd),
        (_, ..0) => (CALL_WRITE, -written),
        _ => return,
    };
    task.fail(task.label, call, errno as i32);
    exit(NOT_STARTED)
}

/// Waits for the next signal, whichever it is.
fn next_signal() -> i32 {
    let all = u64::MAX;
    loop {
        // SAFETY: the kernel reads eight bytes at `&all`; it writes no siginfo to a
        // null pointer, and takes a null time as no limit.
        let signal = unsafe {
            syscall(
                nr::RT_SIGTIMEDWAIT,
                [&raw const all as usize, null_mut::<u8>() as usize, null::<u8>() as usize, 8],
            )
        };
        if signal > 0 {
            return signal as i32;
        }
    }
}

/// Reaps every process that has ended; the status of `main` if it is among them.
fn reap(main: i32) -> Option<i32> {
    let mut ended = None;
    loop {
        let mut status = 0i32;
        // SAFETY: the kernel writes an int at `&mut status`.
        let pid = unsafe { syscall(nr::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0]) };
        if pid <= 0 {
            return ended;
        }
        if pid as i32 == main {
            ended = Some(status);
        }
    }
}

/// A short line, built without an allocator.
struct Line {
    bytes: [u8; 32],
    len: usize,
}

impl Line {
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
}

/// Writes to `file` how the program ended, and ends in the same way as a shell
/// would tell it: the exit code, or 128 and the signal.
fn finish(file: i32, status: i32) -> ! {
    let mut line = Line { bytes: [0; 32], len: 0 };
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
    write(file, line.bytes.get(..line.len).unwrap_or(&[]));
    close(file);
    exit(code)
}

extern "C" fn init(stack: *const usize) -> ! {
    // SAFETY: `_start` passes the stack pointer that the kernel entered it with.
    let Some(task) = (unsafe { Task::read(stack) }) else { exit(MISUSED) };
    for fd in [task.report, task.exit, task.proc] {
        plain(nr::FCNTL, [fd as usize, F_SETFD, FD_CLOEXEC]);
    }
    if task.exit == NO_INIT {
        if task.proc >= 0 {
            label(&task);
        }
        execute(&task);
    }
    // What init holds, the file for the exit status for one, is the host's.
    plain(nr::PRCTL, [PR_SET_DUMPABLE, 0]);
    // Blocked signals are kept for `next_signal`, even those that the kernel would
    // otherwise drop because process 1 has no handler for them.
    set_mask(u64::MAX);
    if task.count == 0 {
        close_all_but(task.exit);
        loop {
            if next_signal() == SIGCHLD {
                reap(0);
            }
        }
    }
    let pid = start(&task);
    if pid < 0 {
        task.fail(task.step, CALL_CLONE, -pid as i32);
        finish(task.exit, NOT_STARTED << 8);
    }
    close(task.report);
    close_all_but(task.exit);
    loop {
        match next_signal() {
            SIGCHLD => {
                if let Some(status) = reap(pid as i32) {
                    finish(task.exit, status);
                }
            }
            signal => _ = plain(nr::KILL, [pid as usize, signal as usize]),
        }
    }
}
