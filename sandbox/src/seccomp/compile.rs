//! From a profile to a BPF program: the numbers of the calls, cut into ranges that share
//! a decision, and a binary search over these.

use std::collections::HashMap;
use std::sync::OnceLock;

use libc::sock_filter;
use syscalls::Sysno;

use super::{Action, Arg, Conditions, Op, Profile, Rule};
use crate::Error;

/// `AUDIT_ARCH_*` of linux/audit.h, and the architecture's name in OCI's and Docker's words.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "x86_64")]
const OCI_ARCH: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "x86_64")]
pub(super) const DOCKER_ARCH: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "aarch64")]
const OCI_ARCH: &str = "SCMP_ARCH_AARCH64";
#[cfg(target_arch = "aarch64")]
pub(super) const DOCKER_ARCH: &str = "arm64";

/// From here on, numbers are of x32 calls (x86_64 only; no other reaches them).
const X32: u32 = 0x4000_0000;
/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;
/// `MAX_ERRNO`: the kernel caps greater ones.
const MAX_ERRNO: u16 = 4095;

/// `LD`, a word of struct seccomp_data.
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_GE: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_GT: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
/// Offsets in struct seccomp_data.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// What becomes of a call: the rules that look at its arguments, in order, then what all
/// others come to (the profile's default where no rule says it).
#[derive(Clone, Default, PartialEq)]
struct Decision<'a> {
    chain: Vec<(&'a [Arg], u32)>,
    rest: Option<u32>,
}

impl Decision<'_> {
    fn always(ret: u32) -> Self {
        Decision { chain: Vec::new(), rest: Some(ret) }
    }
}

pub(super) fn compile(profile: &Profile) -> Result<Vec<sock_filter>, Error> {
    if !profile.architectures.is_empty() && !profile.architectures.iter().any(|a| a == OCI_ARCH) {
        let problem =
            format!("the profile is for {}, and this is {OCI_ARCH}", profile.architectures.join(", "));
        return Err(Error::invalid("seccomp.architectures", problem));
    }
    let default = encode("seccomp.defaultAction", profile.default_action, profile.default_errno_ret)?;
    let mut program = vec![
        op(LOAD, ARCH),
        branch(IF_EQ, AUDIT_ARCH, 1, 0),
        op(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, NR),
    ];
    search(&ranges(profile, default)?, &mut program);
    if program.len() > MAX_INSTRUCTIONS {
        let problem = format!("its program has {} instructions, and the kernel takes 4096", program.len());
        return Err(Error::invalid("seccomp.syscalls", problem));
    }
    Ok(program)
}

/// The decision from each number on, up to the next.
fn ranges(profile: &Profile, default: u32) -> Result<Vec<(u32, Decision<'_>)>, Error> {
    let decisions = decisions(profile)?;
    let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let newer = match profile.default_action {
        Action::Errno if !decisions.is_empty() => enosys,
        _ => default,
    };
    let x32 = match profile.default_action {
        Action::KillProcess | Action::KillThread | Action::Trap => default,
        _ => enosys,
    };
    let mut ranges: Vec<(u32, Decision<'_>)> = Vec::new();
    let above = [(decisions.len() as u32, Decision::always(newer)), (X32, Decision::always(x32))];
    for (number, mut decision) in (0..).zip(decisions).chain(above) {
        decision.rest.get_or_insert(default);
        if ranges.last().is_none_or(|(_, before)| *before != decision) {
            ranges.push((number, decision));
        }
    }
    Ok(ranges)
}

/// The decision for each number, up to the greatest that the profile names.
fn decisions(profile: &Profile) -> Result<Vec<Decision<'_>>, Error> {
    let mut decisions = Vec::<Decision<'_>>::new();
    for (n, rule) in profile.syscalls.iter().enumerate() {
        let field = format!("seccomp.syscalls[{n}]");
        let ret = check(rule, &field)?;
        for name in &rule.names {
            let Some(number) = number(name) else { continue };
            let number = number as usize;
            if number >= decisions.len() {
                decisions.resize_with(number + 1, Decision::default);
            }
            let decision = &mut decisions[number];
            match decision.rest {
                Some(before) if before == ret => {}
                Some(_) => {
                    let problem = format!(
                        "{name} can never reach this rule: one before it decides every {name} in another \
                         way; put this one first or take {name} out of the other"
                    );
                    return Err(Error::invalid(&field, problem));
                }
                None if rule.args.is_empty() => decision.rest = Some(ret),
                None => decision.chain.push((&rule.args, ret)),
            }
        }
    }
    Ok(decisions)
}

/// Refuses what cannot be compiled; the rule's action for the kernel.
fn check(rule: &Rule, field: &str) -> Result<u32, Error> {
    if rule.includes != Conditions::default() || rule.excludes != Conditions::default() {
        let problem = "includes and excludes are undecided: call Profile::resolve first";
        return Err(Error::invalid(field, problem));
    }
    if let Some(arg) = rule.args.iter().find(|a| a.index > 5) {
        let problem = format!("a system call has no argument {}: they count from 0 to 5", arg.index);
        return Err(Error::invalid(&format!("{field}.args"), problem));
    }
    if rule.args.len() > 12 {
        let problem = format!("{} comparisons are more than any call's arguments need (12)", rule.args.len());
        return Err(Error::invalid(&format!("{field}.args"), problem));
    }
    encode(&format!("{field}.action"), rule.action, rule.errno_ret)
}

fn encode(field: &str, action: Action, errno: Option<u16>) -> Result<u32, Error> {
    let data = errno.unwrap_or(libc::EPERM as u16);
    Ok(match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno if data > MAX_ERRNO => {
            return Err(Error::invalid(
                field,
                format!("{data} is not an errno: the greatest is {MAX_ERRNO}"),
            ));
        }
        Action::Errno => libc::SECCOMP_RET_ERRNO | u32::from(data),
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Trace => libc::SECCOMP_RET_TRACE | u32::from(data),
        Action::Notify => {
            let problem =
                "SCMP_ACT_NOTIFY needs an agent that answers for the kernel, which is not supported";
            return Err(Error::invalid(field, problem));
        }
    })
}

/// The number of a call by its name.
pub(super) fn number(name: &str) -> Option<u32> {
    static NUMBERS: OnceLock<HashMap<&str, u32>> = OnceLock::new();
    // Not `Sysno::iter`, which leaves the last one out.
    let all = || (0..=Sysno::last() as usize).filter_map(Sysno::new);
    let numbers = || all().map(|call| (call.name(), call as u32)).collect();
    NUMBERS.get_or_init(numbers).get(name).copied()
}

/// A binary search for the range that the number in the accumulator is in.
fn search(ranges: &[(u32, Decision<'_>)], program: &mut Vec<sock_filter>) {
    let (below, from) = ranges.split_at(ranges.len() / 2);
    match (below, from) {
        ([], [(_, decision)]) => decide(decision, program),
        (_, [(start, _), ..]) => {
            let mut left = Vec::new();
            search(below, &mut left);
            match u8::try_from(left.len()) {
                Ok(len) => program.push(branch(IF_GE, *start, len, 0)),
                // A conditional jump reaches 255 instructions.
                Err(_) => {
                    program.extend([branch(IF_GE, *start, 0, 1), op(JUMP, left.len() as u32)]);
                }
            }
            program.append(&mut left);
            search(from, program);
        }
        _ => {}
    }
}

/// The rules that look at arguments, each a block that falls through to the next.
fn decide(decision: &Decision<'_>, program: &mut Vec<sock_filter>) {
    for (args, ret) in &decision.chain {
        let mut block = Vec::new();
        let mut failing = Vec::new();
        for arg in *args {
            compare(arg, &mut block, &mut failing);
        }
        block.push(op(RETURN, *ret));
        let end = block.len();
        for (at, when) in failing {
            let to = (end - at - 1) as u8;
            if when { block[at].jt = to } else { block[at].jf = to }
        }
        program.append(&mut block);
    }
    program.extend(decision.rest.map(|ret| op(RETURN, ret)));
}

/// Compares an argument, its upper half first. Where it holds the code falls through;
/// `failing` gets the jumps to take where it does not, and whether on true or on false.
fn compare(arg: &Arg, block: &mut Vec<sock_filter>, failing: &mut Vec<(usize, bool)>) {
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (upper, lower) = if cfg!(target_endian = "little") { (4, 0) } else { (0, 4) };
    let (upper, lower) = (ARGS + 8 * arg.index + upper, ARGS + 8 * arg.index + lower);
    let (high, low) = halves(arg.value);
    let at = block.len();
    match arg.op {
        Op::Eq => {
            block.extend([op(LOAD, upper), op(IF_EQ, high), op(LOAD, lower), op(IF_EQ, low)]);
            failing.extend([(at + 1, false), (at + 3, false)]);
        }
        Op::MaskedEq => {
            let (expected_high, expected_low) = halves(arg.value_two);
            block.extend([op(LOAD, upper), op(AND, high), op(IF_EQ, expected_high)]);
            block.extend([op(LOAD, lower), op(AND, low), op(IF_EQ, expected_low)]);
            failing.extend([(at + 2, false), (at + 5, false)]);
        }
        Op::Ne => {
            block.extend([op(LOAD, upper), branch(IF_EQ, high, 0, 2), op(LOAD, lower), op(IF_EQ, low)]);
            failing.push((at + 3, true));
        }
        Op::Gt | Op::Ge => {
            let last = if arg.op == Op::Gt { IF_GT } else { IF_GE };
            block.extend([op(LOAD, upper), branch(IF_GT, high, 3, 0), op(IF_EQ, high)]);
            block.extend([op(LOAD, lower), op(last, low)]);
            failing.extend([(at + 2, false), (at + 4, false)]);
        }
        Op::Lt | Op::Le => {
            let last = if arg.op == Op::Lt { IF_GE } else { IF_GT };
            block.extend([op(LOAD, upper), op(IF_GT, high), branch(IF_EQ, high, 0, 2)]);
            block.extend([op(LOAD, lower), op(last, low)]);
            failing.extend([(at + 1, true), (at + 4, true)]);
        }
    }
}

fn op(code: u32, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

/// A conditional jump, over `jt` instructions if it holds and over `jf` if not.
fn branch(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}
