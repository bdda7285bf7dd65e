//! aarch64: machine code, system-call numbers and ABIs. The macros expand to assembly, which their
//! users put into unsafe blocks.

#![allow(unused_imports, unused_macros, dead_code)]

/// Ends the process by a signal.
macro_rules! trap {
    () => {
        ::core::arch::asm!("brk #1", options(noreturn))
    };
}

/// The entry point of a program: calls a function with the initial stack pointer.
macro_rules! entry {
    ($function:ident) => {
        ::core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, sp",
            "bl {function}",
            "brk #1",
            function = sym $function,
        );
    };
}

/// A system call with six arguments.
macro_rules! system_call {
    ($nr:expr, $arg:expr => $ret:ident) => {
        ::core::arch::asm!(
            "svc #0",
            in("x8") $nr,
            inlateout("x0") $arg(0) => $ret,
            in("x1") $arg(1), in("x2") $arg(2), in("x3") $arg(3), in("x4") $arg(4), in("x5") $arg(5),
            options(nostack),
        )
    };
}

/// Calls clone(2). The child calls a function with one argument on its own stack.
macro_rules! clone_call {
    ($flags:expr, $stack:expr, $function:ident($argument:expr) => $ret:ident) => {
        ::core::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x5",
            "bl {function}",
            "brk #1",
            "2:",
            function = sym $function,
            in("x8") nr::CLONE,
            inlateout("x0") $flags => $ret,
            in("x1") $stack, in("x2") 0, in("x3") 0, in("x4") 0, in("x5") $argument,
            lateout("x30") _,
        )
    };
}

pub(crate) use {clone_call, entry, system_call, trap};

/// `O_DIRECTORY` of open(2).
pub(crate) const O_DIRECTORY: u64 = 0o40000;

/// Numbers of system calls.
pub(crate) mod nr {
    pub(crate) const DUP3: usize = 24;
    pub(crate) const FCNTL: usize = 25;
    pub(crate) const IOCTL: usize = 29;
    pub(crate) const UNLINKAT: usize = 35;
    pub(crate) const FTRUNCATE: usize = 46;
    pub(crate) const CHDIR: usize = 49;
    pub(crate) const CLOSE: usize = 57;
    pub(crate) const GETDENTS64: usize = 61;
    pub(crate) const LSEEK: usize = 62;
    pub(crate) const READ: usize = 63;
    pub(crate) const WRITE: usize = 64;
    pub(crate) const PWRITE64: usize = 68;
    pub(crate) const PPOLL: usize = 73;
    pub(crate) const SIGNALFD4: usize = 74;
    pub(crate) const FSTAT: usize = 80;
    pub(crate) const SYNC_FILE_RANGE: usize = 84;
    pub(crate) const EXIT: usize = 93;
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const CLOCK_GETTIME: usize = 113;
    pub(crate) const KILL: usize = 129;
    pub(crate) const RT_SIGACTION: usize = 134;
    pub(crate) const RT_SIGPROCMASK: usize = 135;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 137;
    pub(crate) const SETPGID: usize = 154;
    pub(crate) const PRCTL: usize = 167;
    pub(crate) const GETPID: usize = 172;
    pub(crate) const SENDMSG: usize = 211;
    pub(crate) const CLONE: usize = 220;
    pub(crate) const EXECVE: usize = 221;
    pub(crate) const MMAP: usize = 222;
    pub(crate) const FADVISE64: usize = 223;
    pub(crate) const WAIT4: usize = 260;
    pub(crate) const PIDFD_SEND_SIGNAL: usize = 424;
    pub(crate) const PIDFD_OPEN: usize = 434;
    pub(crate) const CLOSE_RANGE: usize = 436;
    pub(crate) const OPENAT2: usize = 437;
}

/// The ABIs whose programs the kernel can run, and their system calls by name, for seccomp filters.
#[cfg(not(nspod_init))]
pub(crate) mod abis {
    use crate::seccomp::abi::{Abi, PRIVATE, none, numbers};

    /// Docker's name of the architecture.
    pub(crate) const DOCKER_ARCH: &str = "arm64";

    /// The machine's own ABI first, then the ABIs that share its `AUDIT_ARCH_*`, sorted by base.
    pub(crate) const ABIS: &[Abi] = &[
        Abi {
            name: "SCMP_ARCH_AARCH64",
            audit: 0xc000_00b7,
            base: 0,
            narrow: false,
            number,
            multiplexed: none,
        },
        Abi {
            name: "SCMP_ARCH_ARM",
            audit: 0x4000_0028,
            base: 0,
            narrow: true,
            number: arm,
            multiplexed: none,
        },
    ];

    numbers!(number, syscalls::Sysno);
    numbers!(arm_common, syscalls::arm::Sysno);

    /// Returns numbers that all machines share, and those of ARM only.
    fn arm(name: &str) -> Option<u32> {
        let own = ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls"];
        match own.iter().position(|own| *own == name) {
            Some(n) => Some(PRIVATE + 1 + n as u32),
            None => arm_common(name),
        }
    }
}
