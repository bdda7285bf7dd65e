//! The program of a profile decides according to its rules, as an independent interpreter shows.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use nspod_fuzz::seccomp::{ARCH, NAMES, any, run};
use nspod_sandbox::seccomp::{Action, Arg, Op, Profile, Rule};

fuzz_target!(|data: &[u8]| {
    let Some(profile) = nspod_fuzz::json_or(data, any) else { return };
    let json = serde_json::to_string(&profile).unwrap();
    assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    let profile = profile.resolve(0xa004_25fb, (6, 1));
    let Ok(program) = profile.compile() else { return };
    assert!((1..=4096).contains(&program.len()));
    assert_eq!(run(&program, !ARCH, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);

    let values =
        profile.syscalls.iter().flat_map(|rule| &rule.args).flat_map(|arg| [arg.value, arg.value_two]);
    let values: Vec<u64> = values.take(12).flat_map(|v| [v.wrapping_sub(1), v, v.wrapping_add(1)]).collect();
    for (name, number) in NAMES {
        let Some(number) = number else { continue };
        if !profile.syscalls.iter().any(|rule| rule.names.iter().any(|n| n == name)) {
            continue;
        }
        for value in values.iter().copied().chain([0, 1 << 32]) {
            for args in [[value; 6], [value, !value, 0, value, 1 << 32, 1]] {
                let decided = run(&program, ARCH, number as u32, args);
                assert_eq!(decided, meant(&profile, name, args), "{name} {args:x?}");
            }
        }
    }
});

/// Returns the action of the profile: that of the first rule with this call and matching conditions, otherwise the
/// default.
fn meant(profile: &Profile, name: &str, args: [u64; 6]) -> u32 {
    let applies = |rule: &&Rule| rule.names.iter().any(|n| n == name) && compared(&rule.args, args);
    match profile.syscalls.iter().find(applies) {
        Some(rule) => verdict(rule.action, rule.errno_ret),
        None => verdict(profile.default_action, profile.default_errno_ret),
    }
}

/// All conditions must match. If two check the same argument, one match is sufficient.
fn compared(rule: &[Arg], args: [u64; 6]) -> bool {
    let indices: BTreeSet<u32> = rule.iter().map(|arg| arg.index).collect();
    if indices.len() < rule.len() {
        rule.iter().any(|arg| holds(arg, args))
    } else {
        rule.iter().all(|arg| holds(arg, args))
    }
}

fn holds(arg: &Arg, args: [u64; 6]) -> bool {
    let (given, value) = (args[arg.index as usize], arg.value);
    match arg.op {
        Op::Ne => given != value,
        Op::Lt => given < value,
        Op::Le => given <= value,
        Op::Eq => given == value,
        Op::Ge => given >= value,
        Op::Gt => given > value,
        Op::MaskedEq => given & value == arg.value_two & value,
    }
}

fn verdict(action: Action, errno: Option<u16>) -> u32 {
    let data = u32::from(errno.unwrap_or(libc::EPERM as u16));
    match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno => libc::SECCOMP_RET_ERRNO | data,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Trace => libc::SECCOMP_RET_TRACE | data,
        Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
        action => panic!("{action:?} was compiled"),
    }
}
