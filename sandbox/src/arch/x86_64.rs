//! x86_64: machine code, system-call numbers and ABIs. The macros expand to assembly, which their
//! users put into unsafe blocks.

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

/// `O_DIRECTORY` of open(2).
pub(crate) const O_DIRECTORY: u64 = 0o200000;

/// Numbers of system calls.
pub(crate) mod nr {
    pub(crate) const READ: usize = 0;
    pub(crate) const WRITE: usize = 1;
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const FSTAT: usize = 5;
    pub(crate) const LSEEK: usize = 8;
    pub(crate) const MMAP: usize = 9;
    pub(crate) const RT_SIGACTION: usize = 13;
    pub(crate) const RT_SIGPROCMASK: usize = 14;
    pub(crate) const IOCTL: usize = 16;
    pub(crate) const PWRITE64: usize = 18;
    pub(crate) const GETPID: usize = 39;
    pub(crate) const SENDMSG: usize = 46;
    pub(crate) const CLONE: usize = 56;
    pub(crate) const EXECVE: usize = 59;
    pub(crate) const EXIT: usize = 60;
    pub(crate) const WAIT4: usize = 61;
    pub(crate) const KILL: usize = 62;
    pub(crate) const FCNTL: usize = 72;
    pub(crate) const FTRUNCATE: usize = 77;
    pub(crate) const CHDIR: usize = 80;
    pub(crate) const SETPGID: usize = 109;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
    pub(crate) const PRCTL: usize = 157;
    pub(crate) const GETDENTS64: usize = 217;
    pub(crate) const FADVISE64: usize = 221;
    pub(crate) const CLOCK_GETTIME: usize = 228;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const UNLINKAT: usize = 263;
    pub(crate) const PPOLL: usize = 271;
    pub(crate) const SYNC_FILE_RANGE: usize = 277;
    pub(crate) const SIGNALFD4: usize = 289;
    pub(crate) const DUP3: usize = 292;
    pub(crate) const PIDFD_SEND_SIGNAL: usize = 424;
    pub(crate) const PIDFD_OPEN: usize = 434;
    pub(crate) const CLOSE_RANGE: usize = 436;
    pub(crate) const OPENAT2: usize = 437;
}

/// The ABIs whose programs the kernel can run, and their system calls by name, for seccomp filters.
#[cfg(not(nspod_init))]
pub(crate) mod abis {
    use crate::seccomp::abi::{Abi, none, numbers};
    use crate::seccomp::{Arg, Op};

    /// Docker's name of the architecture.
    pub(crate) const DOCKER_ARCH: &str = "amd64";

    /// The machine's own ABI first, then the ABIs that share its `AUDIT_ARCH_*`, sorted by base.
    pub(crate) const ABIS: &[Abi] = &[
        Abi {
            name: "SCMP_ARCH_X86_64",
            audit: 0xc000_003e,
            base: 0,
            narrow: false,
            number,
            multiplexed: none,
        },
        Abi {
            name: "SCMP_ARCH_X32",
            audit: 0xc000_003e,
            base: 0x4000_0000,
            narrow: false,
            number: x32,
            multiplexed: none,
        },
        Abi { name: "SCMP_ARCH_X86", audit: 0x4000_0003, base: 0, narrow: true, number: x86, multiplexed },
    ];

    numbers!(number, syscalls::Sysno);
    numbers!(x86, syscalls::x86::Sysno);

    /// Returns x86_64's numbers, except for calls whose structures differ.
    fn x32(name: &str) -> Option<u32> {
        const FIRST: u32 = 512;
        const OWN: [&str; 36] = [
            "rt_sigaction",
            "rt_sigreturn",
            "ioctl",
            "readv",
            "writev",
            "recvfrom",
            "sendmsg",
            "recvmsg",
            "execve",
            "ptrace",
            "rt_sigpending",
            "rt_sigtimedwait",
            "rt_sigqueueinfo",
            "sigaltstack",
            "timer_create",
            "mq_notify",
            "kexec_load",
            "waitid",
            "set_robust_list",
            "get_robust_list",
            "vmsplice",
            "move_pages",
            "preadv",
            "pwritev",
            "rt_tgsigqueueinfo",
            "recvmmsg",
            "sendmmsg",
            "process_vm_readv",
            "process_vm_writev",
            "setsockopt",
            "getsockopt",
            "io_setup",
            "io_submit",
            "execveat",
            "preadv2",
            "pwritev2",
        ];
        match OWN.iter().position(|own| *own == name) {
            Some(n) => Some(FIRST + n as u32),
            None => number(name),
        }
    }

    /// Returns the multiplexer of a call: `socketcall` for socket calls, `ipc` for System V IPC
    /// (linux/net.h, linux/ipc.h). The kernel reads only 16 bits of the number that `ipc` receives.
    fn multiplexed(name: &str) -> Option<(u32, Arg)> {
        const SOCKETCALL: u32 = 102;
        const IPC: u32 = 117;
        let (number, mask, call) = match name {
            "socket" => (SOCKETCALL, u32::MAX, 1),
            "bind" => (SOCKETCALL, u32::MAX, 2),
            "connect" => (SOCKETCALL, u32::MAX, 3),
            "listen" => (SOCKETCALL, u32::MAX, 4),
            "accept" => (SOCKETCALL, u32::MAX, 5),
            "getsockname" => (SOCKETCALL, u32::MAX, 6),
            "getpeername" => (SOCKETCALL, u32::MAX, 7),
            "socketpair" => (SOCKETCALL, u32::MAX, 8),
            "send" => (SOCKETCALL, u32::MAX, 9),
            "recv" => (SOCKETCALL, u32::MAX, 10),
            "sendto" => (SOCKETCALL, u32::MAX, 11),
            "recvfrom" => (SOCKETCALL, u32::MAX, 12),
            "shutdown" => (SOCKETCALL, u32::MAX, 13),
            "setsockopt" => (SOCKETCALL, u32::MAX, 14),
            "getsockopt" => (SOCKETCALL, u32::MAX, 15),
            "sendmsg" => (SOCKETCALL, u32::MAX, 16),
            "recvmsg" => (SOCKETCALL, u32::MAX, 17),
            "accept4" => (SOCKETCALL, u32::MAX, 18),
            "recvmmsg" => (SOCKETCALL, u32::MAX, 19),
            "sendmmsg" => (SOCKETCALL, u32::MAX, 20),
            "semop" => (IPC, 0xffff, 1),
            "semget" => (IPC, 0xffff, 2),
            "semctl" => (IPC, 0xffff, 3),
            "semtimedop" => (IPC, 0xffff, 4),
            "msgsnd" => (IPC, 0xffff, 11),
            "msgrcv" => (IPC, 0xffff, 12),
            "msgget" => (IPC, 0xffff, 13),
            "msgctl" => (IPC, 0xffff, 14),
            "shmat" => (IPC, 0xffff, 21),
            "shmdt" => (IPC, 0xffff, 22),
            "shmget" => (IPC, 0xffff, 23),
            "shmctl" => (IPC, 0xffff, 24),
            _ => return None,
        };
        Some((number, Arg { index: 0, value: mask.into(), value_two: call, op: Op::MaskedEq }))
    }
}
