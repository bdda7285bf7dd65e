//! Seccomp profiles with few calls, so that rules overlap.

use arbitrary::{Result, Unstructured};
use libc::sock_filter;
use nspod_sandbox::seccomp::{Action, Arg, Flag, Op, Profile, Rule};

use crate::{maybe, several};

/// The native architecture, as a filter sees it.
#[cfg(target_arch = "x86_64")]
pub const ARCH: u32 = 0xc000_003e;
/// The native architecture, as a filter sees it.
#[cfg(target_arch = "aarch64")]
pub const ARCH: u32 = 0xc000_00b7;

/// Names that profiles use, and one that no architecture has.
pub const NAMES: [(&str, Option<i64>); 6] = [
    ("read", Some(libc::SYS_read)),
    ("openat", Some(libc::SYS_openat)),
    ("clone3", Some(libc::SYS_clone3)),
    ("personality", Some(libc::SYS_personality)),
    ("futex_waitv", Some(libc::SYS_futex_waitv)),
    ("no_such_call", None),
];

/// Returns any profile.
pub fn any(u: &mut Unstructured<'_>) -> Result<Profile> {
    Ok(Profile {
        default_action: action(u)?,
        default_errno_ret: errno(u)?,
        architectures: several(u, 3, |u| {
            let all =
                ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
            Ok(u.choose(&all)?.to_string())
        })?,
        flags: several(u, 1, |u| {
            Ok(*u.choose(&[Flag::Log, Flag::Tsync, Flag::SpecAllow, Flag::WaitKillableRecv])?)
        })?,
        syscalls: several(u, 6, rule)?,
        ..Profile::default()
    })
}

fn rule(u: &mut Unstructured<'_>) -> Result<Rule> {
    Ok(Rule {
        names: several(u, 3, |u| Ok(u.choose(&NAMES)?.0.to_owned()))?,
        action: action(u)?,
        errno_ret: errno(u)?,
        args: several(u, 3, arg)?,
        ..Rule::default()
    })
}

fn arg(u: &mut Unstructured<'_>) -> Result<Arg> {
    let ops = [Op::Ne, Op::Lt, Op::Le, Op::Eq, Op::Ge, Op::Gt, Op::MaskedEq];
    Ok(Arg { index: u.int_in_range(0..=6)?, value: number(u)?, value_two: number(u)?, op: *u.choose(&ops)? })
}

/// Returns mostly values near the boundary of the 32-bit halves that a filter compares.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    let edges = [0, 1, 0xffff_ffff, 1 << 32, (1 << 32) + 1, u64::MAX];
    if u.arbitrary()? { Ok(*u.choose(&edges)?) } else { u.arbitrary() }
}

fn action(u: &mut Unstructured<'_>) -> Result<Action> {
    use Action::{Allow, Errno, KillProcess, KillThread, Log, Notify, Trace, Trap};
    Ok(*u.choose(&[Allow, Errno, Allow, Errno, KillProcess, KillThread, Log, Trace, Trap, Notify])?)
}

fn errno(u: &mut Unstructured<'_>) -> Result<Option<u16>> {
    maybe(u, |u| u.int_in_range(0..=4096))
}

/// Runs classic BPF over a `struct seccomp_data`. Every jump must stay within the program.
pub fn run(program: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [number, arch, 0, 0].map(u32::to_ne_bytes).concat();
    data.extend(args.into_iter().flat_map(u64::to_ne_bytes));
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}
