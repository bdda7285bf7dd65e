//! Evaluation of a compiled filter without the kernel.

use libc::sock_filter;

use crate::arch::abis::ABIS;

/// Returns whether the filter allows this native call with these first arguments.
pub(crate) fn allows(filter: &[sock_filter], nr: libc::c_long, args: [u64; 3]) -> bool {
    let [a, b, c] = args;
    let answer = run(filter, ABIS[0].audit, nr as u32, [a, b, c, 0, 0, 0]);
    matches!(
        answer.map(|answer| answer & libc::SECCOMP_RET_ACTION_FULL),
        Some(libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG)
    )
}

/// Runs a classic BPF program. Supports the instructions that the compiler uses, and returns `None`
/// for any other instruction.
pub(crate) fn run(program: &[sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> Option<u32> {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&nr.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (n, arg) in args.iter().enumerate() {
        data[16 + 8 * n..24 + 8 * n].copy_from_slice(&arg.to_ne_bytes());
    }
    let (mut a, mut pc) = (0u32, 0usize);
    loop {
        let i = program.get(pc)?;
        pc += 1;
        match i.code {
            0x20 => a = u32::from_ne_bytes(data.get(i.k as usize..)?.get(..4)?.try_into().ok()?),
            0x54 => a &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => pc += usize::from(if a == i.k { i.jt } else { i.jf }),
            0x25 => pc += usize::from(if a > i.k { i.jt } else { i.jf }),
            0x35 => pc += usize::from(if a >= i.k { i.jt } else { i.jf }),
            0x06 => return Some(i.k),
            _ => return None,
        }
    }
}
