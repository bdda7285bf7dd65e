//! The ABIs whose programs this machine's kernel can run, and the system-call numbers of each ABI.

use super::profile::{Arg, Op};

/// An ABI of system calls.
pub(super) struct Abi {
    /// Name in OCI, `SCMP_ARCH_*`.
    pub(super) name: &'static str,
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub(super) audit: u32,
    /// First call number of the ABI.
    pub(super) base: u32,
    /// Whether arguments have 32 bits.
    pub(super) narrow: bool,
    /// Returns the number of a call, relative to `base`.
    pub(super) number: fn(&str) -> Option<u32>,
    /// Returns the number of the multiplexer that also makes this call, and the argument that
    /// selects it.
    pub(super) multiplexed: fn(&str) -> Option<(u32, Arg)>,
}

/// Numbers from here on are private to an architecture (for example ARM's `cacheflush`). They are
/// not newer than those below.
pub(super) const PRIVATE: u32 = 0xf_0000;

/// The machine's own ABI first, then the ABIs that share its `AUDIT_ARCH_*`, sorted by base.
#[cfg(target_arch = "x86_64")]
pub(super) const ABIS: &[Abi] = &[
    Abi { name: "SCMP_ARCH_X86_64", audit: 0xc000_003e, base: 0, narrow: false, number, multiplexed: none },
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
#[cfg(target_arch = "aarch64")]
pub(super) const ABIS: &[Abi] = &[
    Abi { name: "SCMP_ARCH_AARCH64", audit: 0xc000_00b7, base: 0, narrow: false, number, multiplexed: none },
    Abi { name: "SCMP_ARCH_ARM", audit: 0x4000_0028, base: 0, narrow: true, number: arm, multiplexed: none },
];

/// Docker's name of the machine's architecture.
#[cfg(target_arch = "x86_64")]
pub(super) const DOCKER_ARCH: &str = "amd64";
#[cfg(target_arch = "aarch64")]
pub(super) const DOCKER_ARCH: &str = "arm64";

const SLOTS: usize = 1024;

/// Returns the folded FNV-1a hash of a name. The names of a table have almost no collisions.
const fn slot(name: &str) -> usize {
    let (bytes, mut hash, mut n) = (name.as_bytes(), 0x811c_9dc5u32, 0);
    while n < bytes.len() {
        hash = (hash ^ bytes[n] as u32).wrapping_mul(0x0100_0193);
        n += 1;
    }
    ((hash ^ hash >> 16) as usize) % SLOTS
}

/// Defines a function that maps names to numbers with a hash table built at compile time: a start
/// looks up about four hundred names for each ABI.
macro_rules! numbers {
    ($name:ident, $sysno:ty) => {
        pub(super) fn $name(name: &str) -> Option<u32> {
            const TABLE: [u16; SLOTS] = {
                let (mut table, mut id) = ([u16::MAX; SLOTS], 0);
                while id <= <$sysno>::last().id() as usize {
                    if let Some(call) = <$sysno>::new(id) {
                        let mut at = slot(call.name());
                        while table[at] != u16::MAX {
                            at = (at + 1) % SLOTS;
                        }
                        table[at] = id as u16;
                    }
                    id += 1;
                }
                table
            };
            let mut at = slot(name);
            loop {
                // An empty slot holds a number that is not a call.
                let call = <$sysno>::new(usize::from(TABLE[at]))?;
                if call.name() == name {
                    return Some(call.id() as u32);
                }
                at = (at + 1) % SLOTS;
            }
        }
    };
}

numbers!(number, syscalls::Sysno);
#[cfg(target_arch = "x86_64")]
numbers!(x86, syscalls::x86::Sysno);
#[cfg(target_arch = "aarch64")]
numbers!(arm_common, syscalls::arm::Sysno);

/// Returns x86_64's numbers, except for calls whose structures differ.
#[cfg(target_arch = "x86_64")]
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

/// Returns numbers that all machines share, and those of ARM only.
#[cfg(target_arch = "aarch64")]
fn arm(name: &str) -> Option<u32> {
    let own = ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls"];
    match own.iter().position(|own| *own == name) {
        Some(n) => Some(PRIVATE + 1 + n as u32),
        None => arm_common(name),
    }
}

/// Returns `None`, for an ABI without multiplexers.
fn none(_: &str) -> Option<(u32, Arg)> {
    None
}

/// Returns the multiplexer of a call: `socketcall` for socket calls, `ipc` for System V IPC
/// (linux/net.h, linux/ipc.h). The kernel reads only 16 bits of the number that `ipc` receives.
#[cfg(target_arch = "x86_64")]
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
