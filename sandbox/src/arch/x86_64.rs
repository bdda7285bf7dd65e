//! x86_64: machine code and system-call numbers. The macros expand to assembly, which their users
//! put into unsafe blocks.

#![allow(unused_imports, unused_macros, dead_code)]

/// Ends the process by a signal.
macro_rules! trap {
    () => {
        ::core::arch::asm!("ud2", options(noreturn))
    };
}

/// The entry point of a program: calls a function with the initial stack pointer.
macro_rules! entry {
    ($function:ident) => {
        ::core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "xor ebp, ebp",
            "mov rdi, rsp",
            "and rsp, -16",
            "call {function}",
            "ud2",
            function = sym $function,
        );
    };
}

/// A system call with six arguments.
macro_rules! system_call {
    ($nr:expr, $arg:expr => $ret:ident) => {
        ::core::arch::asm!(
            "syscall",
            inlateout("rax") $nr => $ret,
            in("rdi") $arg(0), in("rsi") $arg(1), in("rdx") $arg(2), in("r10") $arg(3),
            in("r8") $arg(4), in("r9") $arg(5),
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        )
    };
}

/// Calls clone(2). The child calls a function with one argument on its own stack.
macro_rules! clone_call {
    ($flags:expr, $stack:expr, $function:ident($argument:expr) => $ret:ident) => {
        ::core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call {function}",
            "ud2",
            "2:",
            function = sym $function,
            inlateout("rax") nr::CLONE => $ret,
            in("rdi") $flags, in("rsi") $stack, in("rdx") 0, in("r10") 0, in("r8") 0, in("r9") $argument,
            lateout("rcx") _, lateout("r11") _,
        )
    };
}

pub(crate) use {clone_call, entry, system_call, trap};

/// Numbers of system calls.
pub(crate) mod nr {
    pub(crate) const READ: usize = 0;
    pub(crate) const WRITE: usize = 1;
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const LSEEK: usize = 8;
    pub(crate) const MMAP: usize = 9;
    pub(crate) const RT_SIGACTION: usize = 13;
    pub(crate) const RT_SIGPROCMASK: usize = 14;
    pub(crate) const IOCTL: usize = 16;
    pub(crate) const GETPID: usize = 39;
    pub(crate) const SENDMSG: usize = 46;
    pub(crate) const CLONE: usize = 56;
    pub(crate) const EXECVE: usize = 59;
    pub(crate) const EXIT: usize = 60;
    pub(crate) const WAIT4: usize = 61;
    pub(crate) const KILL: usize = 62;
    pub(crate) const FCNTL: usize = 72;
    pub(crate) const SETPGID: usize = 109;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
    pub(crate) const PRCTL: usize = 157;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const PPOLL: usize = 271;
    pub(crate) const DUP3: usize = 292;
    pub(crate) const CLOSE_RANGE: usize = 436;
    pub(crate) const OPENAT2: usize = 437;
}
