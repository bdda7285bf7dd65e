//! Compiles a profile to a BPF program. The call numbers are split into ranges with the same
//! decision, and the program finds the range with a binary search.

use std::borrow::Cow;

use libc::sock_filter;

use super::abi::{Abi, PRIVATE};
use super::profile::{Action, Arg, Conditions, Op, Profile, Rule, numbered};
use crate::Error;
use crate::arch::abis::ABIS;

/// First number of x32 calls (x86_64 only; no other call has a number this high).
const X32: u32 = 0x4000_0000;
/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;
/// `MAX_ERRNO`: the kernel reduces higher values to it.
const MAX_ERRNO: u16 = 4095;

/// `LD` of a word of struct seccomp_data.
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

/// The decision about a call: the rules that compare arguments, in order, then the action for all
/// other arguments (the profile's default if no rule sets one).
#[derive(Clone, Default, PartialEq)]
struct Decision<'a> {
    chain: Vec<(Cow<'a, [Arg]>, u32)>,
    rest: Option<u32>,
}

impl Decision<'_> {
    fn always(ret: u32) -> Self {
        Decision { chain: Vec::new(), rest: Some(ret) }
    }
}

pub(super) fn compile(profile: &Profile) -> Result<Vec<sock_filter>, Error> {
    let listed = |abi: &Abi| profile.architectures.iter().any(|name| name == abi.name);
    if !profile.architectures.is_empty() && !ABIS.iter().any(listed) {
        let problem =
            format!("the profile is for {}, and this is {}", profile.architectures.join(", "), ABIS[0].name);
        return Err(Error::invalid("seccomp.architectures", problem));
    }
    decided("seccomp.defaultErrno", profile.default_errno.as_ref())?;
    let default = encode("seccomp.defaultAction", profile.default_action, profile.default_errno_ret)?;
    let rules = profile.syscalls.iter().enumerate();
    let returns = rules.map(|(n, rule)| check(rule, &format!("seccomp.syscalls[{n}]")));
    let returns = returns.collect::<Result<Vec<_>, _>>()?;

    let mut program = vec![op(LOAD, ARCH)];
    // The machine's own ABI always applies, and comes first.
    let meant: Vec<&Abi> =
        ABIS.iter().enumerate().filter(|(n, abi)| *n == 0 || listed(abi)).map(|(_, a)| a).collect();
    for abis in meant.chunk_by(|a, b| a.audit == b.audit) {
        let mut section = vec![op(LOAD, NR)];
        search(&ranges(profile, &returns, default, abis)?, abis[0].narrow, &mut section);
        match u8::try_from(section.len()) {
            Ok(len) => program.push(branch(IF_EQ, abis[0].audit, 0, len)),
            // A conditional jump reaches 255 instructions.
            Err(_) => {
                program.extend([branch(IF_EQ, abis[0].audit, 1, 0), op(JUMP, section.len() as u32)]);
            }
        }
        program.append(&mut section);
    }
    program.push(op(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    if program.len() > MAX_INSTRUCTIONS {
        let problem =
            format!("its program has {} instructions, but the kernel's maximum is 4096", program.len());
        return Err(Error::invalid("seccomp.syscalls", problem));
    }
    Ok(program)
}

/// Returns the ranges of call numbers: each start with its decision, for ABIs that share an
/// `AUDIT_ARCH_*`.
fn ranges<'a>(
    profile: &'a Profile,
    returns: &[u32],
    default: u32,
    abis: &[&Abi],
) -> Result<Vec<(u32, Decision<'a>)>, Error> {
    let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let mut ranges: Vec<(u32, Decision<'_>)> = Vec::new();
    let mut add = |number: u32, decision: Decision<'a>| {
        if ranges.last().is_none_or(|(_, before)| *before != decision) {
            ranges.push((number, decision));
        }
    };
    for abi in abis {
        let decisions = decisions(profile, returns, default, abi)?;
        let newer = match profile.default_action {
            Action::Errno if !decisions.is_empty() => enosys,
            _ => default,
        };
        let mut next = 0;
        for (number, mut decision) in decisions {
            if number > next {
                let between = if next <= PRIVATE && PRIVATE < number { newer } else { default };
                add(abi.base + next, Decision::always(between));
            }
            decision.rest.get_or_insert(default);
            add(abi.base + number, decision);
            next = number + 1;
        }
        add(abi.base + next, Decision::always(newer));
    }
    if abis.iter().all(|abi| !abi.narrow && abi.base < X32) {
        let kills = matches!(profile.default_action, Action::KillProcess | Action::KillThread | Action::Trap);
        add(X32, Decision::always(if kills { default } else { enosys }));
    }
    // A tracer sets the number -1 for a call that must not be made; the result is the tracer's.
    add(u32::MAX, Decision::always(default));
    Ok(ranges)
}

/// A call number, the index of the rule that names it, and, for a multiplexer, the selecting
/// argument and the action for it.
type Named = (u32, usize, Option<(Arg, u32)>);

/// Returns the decision for each number that the profile names, in ascending order.
fn decisions<'a>(
    profile: &'a Profile,
    returns: &[u32],
    default: u32,
    abi: &Abi,
) -> Result<Vec<(u32, Decision<'a>)>, Error> {
    let mut named: Vec<Named> = Vec::with_capacity(512);
    let mut multiplexed: Vec<(u32, Arg, usize)> = Vec::new();
    for (n, rule) in profile.syscalls.iter().enumerate() {
        named.extend(rule.names.iter().filter_map(|name| Some(((abi.number)(name)?, n, None))));
        multiplexed.extend(rule.names.iter().filter_map(|name| {
            let (number, arg) = (abi.multiplexed)(name)?;
            Some((number, arg, n))
        }));
    }
    multiplexed.sort_by_key(|(number, arg, n)| (*number, arg.value_two, *n));
    for rules in multiplexed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let (number, arg, first) = rules[0];
        let rules = rules.iter().map(|(_, _, n)| (&profile.syscalls[*n], returns[*n]));
        named.extend(unseen(rules, default).map(|ret| (number, first, Some((arg, ret)))));
    }
    named.sort_by_key(|(number, n, part)| (*number, *n, part.map(|(arg, _)| arg.value_two)));
    named.dedup();
    let mut decisions = Vec::<(u32, Decision<'_>)>::with_capacity(named.len());
    for (number, n, part) in named {
        if decisions.last().is_none_or(|(last, _)| *last != number) {
            decisions.push((number, Decision::default()));
        }
        let Some((_, decision)) = decisions.last_mut() else { continue };
        let (rule, ret) = (&profile.syscalls[n], returns[n]);
        match (decision.rest, part) {
            // An earlier rule decides all calls with this number.
            (Some(_), _) => {}
            (None, Some((arg, ret))) => decision.chain.push((Cow::Owned(vec![arg]), ret)),
            (None, None) if rule.args.is_empty() => decision.rest = Some(ret),
            (None, None) if rule.alternatives() => {
                decision.chain.extend(rule.args.chunks(1).map(|arg| (Cow::Borrowed(arg), ret)));
            }
            (None, None) => decision.chain.push((Cow::Borrowed(&rule.args), ret)),
        }
    }
    Ok(decisions)
}

/// Returns the action for a call whose arguments are in memory, where a filter cannot read them:
/// the strictest action that the rules could choose. Returns `None` if the rules can only loosen
/// the default.
fn unseen<'a>(rules: impl Iterator<Item = (&'a Rule, u32)>, default: u32) -> Option<u32> {
    // This is the order in which the kernel combines several filters.
    let strictness = |ret: &u32| (ret & libc::SECCOMP_RET_ACTION_FULL) as i32;
    let (mut strictest, mut decided) = (None, false);
    for (rule, ret) in rules {
        strictest = strictest.into_iter().chain([ret]).min_by_key(strictness);
        decided = rule.args.is_empty();
        if decided {
            break;
        }
    }
    strictest.filter(|ret| decided || strictness(ret) <= strictness(&default))
}

/// Checks a rule, and returns its action as a return value of the filter.
fn check(rule: &Rule, field: &str) -> Result<u32, Error> {
    if rule.includes != Conditions::default() || rule.excludes != Conditions::default() {
        let problem = "includes and excludes are not resolved: call Profile::resolve first";
        return Err(Error::invalid(field, problem));
    }
    if let Some(arg) = rule.args.iter().find(|a| a.index > 5) {
        let problem = format!("a system call has no argument {}: the indices are 0 to 5", arg.index);
        return Err(Error::invalid(format!("{field}.args"), problem));
    }
    if rule.args.len() > 12 {
        let problem = format!("{} comparisons are more than the maximum of 12", rule.args.len());
        return Err(Error::invalid(format!("{field}.args"), problem));
    }
    decided(&format!("{field}.errno"), rule.errno.as_ref())?;
    encode(&format!("{field}.action"), rule.action, rule.errno_ret)
}

fn decided(field: &str, errno: Option<&String>) -> Result<(), Error> {
    let Some(name) = errno else { return Ok(()) };
    let problem = match numbered(Some(name), None).0 {
        Some(_) => format!("{name:?} is not an errno such as EPERM"),
        None => format!("the errno {name:?} is not resolved: call Profile::resolve first"),
    };
    Err(Error::invalid(field, problem))
}

fn encode(field: &str, action: Action, errno: Option<u16>) -> Result<u32, Error> {
    let data = errno.unwrap_or(libc::EPERM as u16);
    Ok(match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno if data > MAX_ERRNO => {
            return Err(Error::invalid(field, format!("{data} is not an errno: the maximum is {MAX_ERRNO}")));
        }
        Action::Errno => libc::SECCOMP_RET_ERRNO | u32::from(data),
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Trace => libc::SECCOMP_RET_TRACE | u32::from(data),
        Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
    })
}

/// Adds a binary search for the range that contains the number in the accumulator.
fn search(ranges: &[(u32, Decision<'_>)], narrow: bool, program: &mut Vec<sock_filter>) {
    let (below, from) = ranges.split_at(ranges.len() / 2);
    match (below, from) {
        ([], [(_, decision)]) => decide(decision, narrow, program),
        (_, [(start, _), ..]) => {
            let mut left = Vec::new();
            search(below, narrow, &mut left);
            match u8::try_from(left.len()) {
                Ok(len) => program.push(branch(IF_GE, *start, len, 0)),
                // A conditional jump reaches 255 instructions.
                Err(_) => {
                    program.extend([branch(IF_GE, *start, 0, 1), op(JUMP, left.len() as u32)]);
                }
            }
            program.append(&mut left);
            search(from, narrow, program);
        }
        _ => {}
    }
}

/// Adds the rules that compare arguments. Each rule is a block that falls through to the next.
fn decide(decision: &Decision<'_>, narrow: bool, program: &mut Vec<sock_filter>) {
    for (args, ret) in &decision.chain {
        let mut block = Vec::new();
        let mut failing = Vec::new();
        for arg in args.iter() {
            match narrow {
                true => compare_lower(arg, &mut block, &mut failing),
                false => compare(arg, &mut block, &mut failing),
            }
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

/// Returns the offsets of the upper and the lower half of an argument.
fn offsets(arg: &Arg) -> (u32, u32) {
    let (upper, lower) = if cfg!(target_endian = "little") { (4, 0) } else { (0, 4) };
    (ARGS + 8 * arg.index + upper, ARGS + 8 * arg.index + lower)
}

/// Adds a comparison of the lower half of an argument: in a 32-bit ABI there is no upper half.
fn compare_lower(arg: &Arg, block: &mut Vec<sock_filter>, failing: &mut Vec<(usize, bool)>) {
    let (value, (_, lower)) = (arg.value as u32, offsets(arg));
    block.push(op(LOAD, lower));
    let (jump, k, fails_when) = match arg.op {
        Op::Eq => (IF_EQ, value, false),
        Op::Ne => (IF_EQ, value, true),
        Op::Gt => (IF_GT, value, false),
        Op::Le => (IF_GT, value, true),
        Op::Ge => (IF_GE, value, false),
        Op::Lt => (IF_GE, value, true),
        Op::MaskedEq => {
            block.push(op(AND, value));
            (IF_EQ, arg.value_two as u32 & value, false)
        }
    };
    failing.push((block.len(), fails_when));
    block.push(op(jump, k));
}

/// Adds a comparison of an argument, upper half first. If it holds, the code falls through.
/// `failing` gets the jumps that must be taken if it does not hold, each with the result on which
/// it jumps.
fn compare(arg: &Arg, block: &mut Vec<sock_filter>, failing: &mut Vec<(usize, bool)>) {
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (upper, lower) = offsets(arg);
    let (high, low) = halves(arg.value);
    let at = block.len();
    match arg.op {
        Op::Eq => {
            block.extend([op(LOAD, upper), op(IF_EQ, high), op(LOAD, lower), op(IF_EQ, low)]);
            failing.extend([(at + 1, false), (at + 3, false)]);
        }
        Op::MaskedEq => {
            let (expected_high, expected_low) = halves(arg.value_two & arg.value);
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

/// Returns a conditional jump over `jt` instructions if the condition holds, otherwise over `jf`.
fn branch(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}
