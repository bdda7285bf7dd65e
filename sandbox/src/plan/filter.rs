//! The system-call filter.

use crate::error::Error;
use crate::host::Host;
use crate::plan::data::Plan;
use crate::quota;
use crate::seccomp::{self, Action, Arg, Op, Profile, Rule};
use crate::spec::{Process, Seccomp};
use crate::step::Step;

/// Returns the step that loads the filter, if the spec has one.
pub(super) fn filter(plan: &Plan, process: &Process, host: &Host) -> Result<Option<Step>, Error> {
    let bounding = process.capabilities.map_or(u64::MAX, |c| c.bounding);
    let keeps = process.keep_projects || plan.spec.limits_directories();
    let mut profile = match &process.seccomp {
        Seccomp::Unconfined if !keeps && !process.no_user_namespaces => return Ok(None),
        Seccomp::Unconfined => everything(),
        Seccomp::Standard => Profile::standard(bounding),
        Seccomp::Profile(profile) => profile.resolve(bounding, host.kernel),
    };
    if keeps {
        keep_projects(&mut profile);
    }
    if process.no_user_namespaces {
        deny_user_namespaces(&mut profile);
    }
    if profile.notifies() {
        if plan.held.is_none() {
            return Err(Error::invalid(
                "process.seccomp",
                "SCMP_ACT_NOTIFY requires a container that is held (Command::hold) until the supervisor has the listener",
            ));
        }
        // The child reports the loaded filter with write(2), before the parent has received the
        // listener.
        if profile.notifies_of("write") {
            return Err(Error::invalid(
                "process.seccomp",
                "SCMP_ACT_NOTIFY of write would never be answered: the start itself calls write before the supervisor has the listener",
            ));
        }
    }
    Ok(Some(Step::Seccomp { filter: profile.compile()?, flags: profile.load_flags() }))
}

/// Returns a rule that lets a call fail.
fn refusal(name: &str, errno: i32, args: Vec<Arg>) -> Rule {
    Rule {
        names: vec![name.into()],
        action: Action::Errno,
        errno_ret: Some(errno as u16),
        args,
        ..Rule::default()
    }
}

/// Denies the calls that make a user namespace. The first rule of a call decides.
fn deny_user_namespaces(profile: &mut Profile) {
    let flag = libc::CLONE_NEWUSER as u64;
    let new_user = Arg { index: 0, value: flag, value_two: flag, op: Op::MaskedEq };
    let rules = [
        refusal("clone", libc::EPERM, vec![new_user]),
        refusal("unshare", libc::EPERM, vec![new_user]),
        // A filter cannot read the flags, which are in memory.
        refusal("clone3", libc::ENOSYS, Vec::new()),
    ];
    profile.syscalls.splice(0..0, rules);
}

/// Denies the calls that change the project id of a file. The first rule of a call decides.
fn keep_projects(profile: &mut Profile) {
    let rule = |name, args| refusal(name, libc::EPERM, args);
    // The kernel reads the lower half of the argument.
    let command = |value: u32| Arg {
        index: 1,
        value: u64::from(u32::MAX),
        value_two: u64::from(value),
        op: Op::MaskedEq,
    };
    let ioctls = quota::CHANGES.map(|value| rule("ioctl", vec![command(value)]));
    profile.syscalls.splice(0..0, ioctls.into_iter().chain([rule("file_setattr", Vec::new())]));
}

/// Returns a profile that allows all calls of all ABIs.
fn everything() -> Profile {
    let architectures = Profile::standard(0).architectures;
    Profile { default_action: Action::Allow, architectures, ..Profile::default() }
}

/// Returns whether the filter has a listener, with which another process decides about calls.
pub(super) fn asks(step: &Step) -> bool {
    matches!(step, Step::Seccomp { flags, .. } if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0)
}

/// Returns whether the filter allows the calls that the stage makes after an early load of the
/// filter.
pub(super) fn lets_through(filter: &[libc::sock_filter], plan: &Plan, process: &Process) -> bool {
    let mut calls = vec![
        (libc::SYS_capset, [0; 3]),
        (libc::SYS_write, [0; 3]),
        (libc::SYS_read, [0; 3]),
        (libc::SYS_close, [0; 3]),
        (libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as u64, 0, 0]),
    ];
    if plan.enters() {
        let flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD) as u64;
        calls.extend([
            (libc::SYS_clone, [flags, 0, 0]),
            (libc::SYS_sendmsg, [0; 3]),
            (libc::SYS_exit_group, [0; 3]),
            (libc::SYS_setsid, [0; 3]),
            (libc::SYS_ioctl, [0, libc::TIOCSCTTY, 0]),
        ]);
    }
    if process.apparmor_profile.is_some() || process.selinux_label.is_some() {
        calls.push((libc::SYS_openat2, [0; 3]));
    }
    calls.into_iter().all(|(nr, args)| seccomp::allows(filter, nr, args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_without_user_namespaces_denies_each_call_that_makes_one() {
        let (user, other) = (libc::CLONE_NEWUSER as u64, libc::CLONE_NEWNS as u64);
        for mut profile in [everything(), Profile::standard(u64::MAX)] {
            let control = profile.compile().unwrap();
            deny_user_namespaces(&mut profile);
            let filter = profile.compile().unwrap();
            for nr in [libc::SYS_clone, libc::SYS_unshare] {
                for flags in [user, user | other, user | 1 << 32] {
                    assert!(seccomp::allows(&control, nr, [flags, 0, 0]), "{nr} {flags:#x}");
                    assert!(!seccomp::allows(&filter, nr, [flags, 0, 0]), "{nr} {flags:#x}");
                }
                assert!(seccomp::allows(&filter, nr, [other, 0, 0]), "{nr}");
            }
            assert!(!seccomp::allows(&filter, libc::SYS_clone3, [0; 3]));
        }
    }

    #[test]
    fn a_filter_that_keeps_the_projects_denies_each_call_that_changes_them() {
        let mut chain = Profile { default_action: Action::Allow, ..Profile::default() };
        let ioctl = Rule { names: vec!["ioctl".into(), "file_setattr".into()], ..Rule::default() };
        chain.syscalls.push(Rule { action: Action::Allow, ..ioctl });
        for mut profile in [everything(), Profile::standard(u64::MAX), Profile::standard(0), chain] {
            keep_projects(&mut profile);
            let filter = profile.compile().unwrap();
            let allows = |nr, args| seccomp::allows(&filter, nr, args);
            for command in quota::CHANGES.map(u64::from) {
                assert!(!allows(libc::SYS_ioctl, [0, command, 0]), "{command:#x}");
                assert!(!allows(libc::SYS_ioctl, [0, command | 1 << 32, 0]), "{command:#x}");
                assert!(allows(libc::SYS_ioctl, [0, command + 1, 0]), "{command:#x}");
            }
            // file_setattr(2), of all architectures.
            assert!(!allows(469, [0; 3]));
            assert!(allows(libc::SYS_openat, [0; 3]));
        }
    }
}
