//! Who the program is and what it may do: the last steps before it starts.

use std::ffi::CString;

use cgroup_core::CpuList;

use super::{Ids, Plan, c_string, numbers, program};
use crate::error::Error;
use crate::host::Host;
use crate::seccomp::Profile;
use crate::spec::{IoPriority, MemoryPolicy, Process, Scheduler, Seccomp, StreamOwner, User};
use crate::step::{CStrings, Exec, Lsm, RlimitStep, Step};

const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_SETPCAP: u64 = 1 << 8;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Every call that is made once the filter is in force can be refused by it, so the filter is
/// loaded last; but before the hooks, whose programs are the container's own.
pub(super) fn add(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let process = plan.spec.process.clone();
    let staged = plan.stage.is_some();
    let terminal = process.terminal.is_some();
    plan.push(Step::Descriptors);
    if terminal && !plan.enters() {
        plan.push(Step::ControllingTerminal);
    }
    streams(plan, &process);
    for limit in &process.rlimits {
        let field = format!("process.rlimits.{}", limit.name);
        let Some(resource) = limit.resource() else {
            return Err(Error::invalid(&field, "this is not a resource of setrlimit(2)"));
        };
        if limit.soft > limit.hard {
            return Err(Error::invalid(&field, "the soft limit is above the hard one"));
        }
        plan.push(Step::Rlimit(RlimitStep { resource, soft: limit.soft, hard: limit.hard }));
    }
    if let Some(umask) = process.umask {
        plan.push(Step::Umask(umask & 0o777));
    }
    attributes(plan, &process)?;
    let mut label = label(host, &process)?;
    if let (Some(_), true) = (&label, staged) {
        plan.push(Step::Proc { to: plan.highest_fd() + numbers::PROC, enters: plan.enters() });
    }
    if !staged {
        plan.steps.extend(label.take());
    }
    let cwd = cwd(&process)?;
    let changes_user = process.user.is_some();
    // With the rights of the caller, which may reach what the user cannot.
    plan.steps.extend(cwd.clone().map(|path| Step::Chdir { path, again: changes_user }));
    let mut filter = filter(plan, &process, host)?;
    // Without no_new_privs a filter requires CAP_SYS_ADMIN, which is kept until then.
    let able = host.privileged() || ids.foreign;
    let keeps = filter.is_some() && !process.no_new_privs && process.capabilities.is_some() && able;
    // The stage alone hands a listener over.
    let early = filter.is_some() && !process.no_new_privs && !keeps && !filter.as_ref().is_some_and(asks);
    // A process that the filter does not let exit ends by a trap. Before Linux 5.17 that ended
    // every process with the same memory.
    if let Some(Step::Seccomp { filter, .. }) = &filter
        && (early || !staged)
        && !crate::seccomp::allows(filter, libc::SYS_exit_group, [0; 3])
    {
        plan.shared_memory = false;
    }
    if early {
        plan.steps.extend(filter.take());
    }
    credentials(plan, host, ids, keeps)?;
    if let Some(path) = cwd.filter(|_| changes_user) {
        plan.push(Step::ChdirAsUser(path));
    }
    if process.no_new_privs {
        plan.push(Step::NoNewPrivs);
    }
    if staged {
        stage(plan, host, label, &mut filter, keeps);
    }
    plan.push(Step::Signals);
    if matches!(plan.held, Some(super::Hold::At(_))) {
        plan.push(Step::Started);
    }
    plan.steps.extend(filter);
    plan.push_hooks("startContainer", &plan.spec.hooks.start_container.clone())?;
    let exec = program(plan)?;
    plan.push(exec);
    Ok(())
}

/// The user's standard streams.
fn streams(plan: &mut Plan, process: &Process) {
    let Some(User { uid, .. }) = process.user else { return };
    let opens_all = uid == 0 && process.capabilities.is_none_or(|c| c.effective & CAP_DAC_OVERRIDE != 0);
    let all = match process.streams {
        StreamOwner::Caller => return,
        StreamOwner::Needed if opens_all => return,
        StreamOwner::Needed => false,
        StreamOwner::User => true,
    };
    plan.push(Step::GiveStreams { uid, all });
}

fn cwd(process: &Process) -> Result<Option<CString>, Error> {
    let Some(cwd) = &process.cwd else { return Ok(None) };
    match cwd.is_absolute() {
        true => c_string("process.cwd", cwd).map(Some),
        false => Err(Error::invalid("process.cwd", format!("{} is not an absolute path", cwd.display()))),
    }
}

/// The steps from the stage on, up to those that every start has.
fn stage(plan: &mut Plan, host: &Host, label: Option<Step>, filter: &mut Option<Step>, keeps: bool) {
    let process = plan.spec.process.clone();
    let uid = plan.steps.iter().rev().find_map(|step| match step {
        Step::Credentials { uid, .. } | Step::Become { uid, .. } => Some(*uid),
        _ => None,
    });
    let uid = uid.unwrap_or(host.uid);
    let none = CStrings::new(Vec::new());
    let empty = CStrings::new(Vec::new());
    let file = Exec { name: String::new(), candidates: Vec::new(), file: None, argv: none, envp: empty };
    plan.push(Step::Stage(file));
    // What the program is executed with decides what it gets: root gets the bounding and the
    // inheritable set, others the ambient one. So the stage has got them, too, and leaves those
    // that the program is not to have before it is executed. Who looks at a held one sees them.
    let sets = process.capabilities.filter(|_| keeps || plan.held.is_some());
    let capabilities = |more: u64| {
        sets.map(|sets| {
            let root = uid == 0;
            let permitted = sets.permitted & (sets.bounding | sets.inheritable);
            let permitted = if root { permitted | sets.ambient } else { sets.ambient };
            let effective = sets.effective & permitted | more;
            Step::Capabilities { effective, permitted: permitted | more, inheritable: sets.inheritable }
        })
    };
    if let Some(sets) = sets {
        plan.steps.extend(capabilities(if keeps { CAP_SYS_ADMIN } else { 0 }));
        if keeps {
            plan.push(Step::Ambient(sets.ambient));
        }
    }
    // No process that others can see has a right that its program will not have, if the filter
    // lets it do what is left.
    let (asks, early) = match &filter {
        Some(step @ Step::Seccomp { filter, .. }) => {
            (asks(step), keeps && lets_through(filter, plan, &process))
        }
        _ => (false, false),
    };
    let mut load = |plan: &mut Plan, when: bool| {
        if when && let Some(step) = filter.take() {
            plan.push(step);
            plan.steps.extend(capabilities(0).filter(|_| early));
        }
    };
    load(plan, early && plan.enters());
    if plan.enters() {
        plan.push(Step::Clone(ns_core::Kinds::empty()));
        if process.new_session || process.terminal.is_some() {
            plan.push(Step::Setsid);
        }
        if process.terminal.is_some() {
            plan.push(Step::ControllingTerminal);
        }
    }
    plan.steps.extend(label);
    // A process that answers for the filter has the listener before the container is started.
    load(plan, asks || early && plan.held.is_some());
    if plan.held.is_some() {
        plan.push(Step::Hold);
    }
}

/// Whether another process answers for the filter, by a listener.
fn asks(step: &Step) -> bool {
    matches!(step, Step::Seccomp { flags, .. } if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0)
}

/// Whether the filter allows what the stage does after it has loaded the filter early.
fn lets_through(filter: &[libc::sock_filter], plan: &Plan, process: &Process) -> bool {
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
    calls.into_iter().all(|(nr, args)| crate::seccomp::allows(filter, nr, args))
}

/// What the kernel notes of a process beside who it is; setting it may take privileges.
fn attributes(plan: &mut Plan, process: &Process) -> Result<(), Error> {
    if let Some(name) = &process.keyring {
        plan.push(Step::Keyring(c_string("process.keyring", name)?));
    }
    if let Some(s) = &process.scheduler {
        check_scheduler(s)?;
        plan.push(Step::Scheduler(libc::sched_attr {
            size: size_of::<libc::sched_attr>() as u32,
            sched_policy: s.policy,
            sched_flags: s.flags,
            sched_nice: s.nice,
            sched_priority: s.priority,
            sched_runtime: s.runtime,
            sched_deadline: s.deadline,
            sched_period: s.period,
        }));
    }
    if let Some(IoPriority { class, level }) = process.io_priority {
        if !(1..=3).contains(&class) {
            let problem = format!("{class} is none of 1 (real time), 2 (best effort) and 3 (idle)");
            return Err(Error::invalid("process.io_priority.class", problem));
        }
        if level > 7 {
            return Err(Error::invalid(
                "process.io_priority.level",
                format!("{level} is not between 0 and 7"),
            ));
        }
        plan.push(Step::IoPriority { class, level });
    }
    if let Some(cpus) = &process.affinity {
        if cpus.is_empty() {
            return Err(Error::invalid("process.affinity", "name a processor"));
        }
        plan.push(Step::Affinity { cpus: cpus.clone(), mask: mask("process.affinity", cpus)? });
    }
    if let Some(domain) = process.personality {
        // The kernel takes it for the question which it is, and sets nothing.
        if domain == u32::MAX {
            return Err(Error::invalid("process.personality", "0xffffffff is no execution domain"));
        }
        plan.push(Step::Personality(domain));
    }
    if let Some(policy) = &process.memory_policy {
        check_memory_policy(policy)?;
        let mask = mask("process.memory_policy.nodes", &policy.nodes)?;
        plan.push(Step::MemoryPolicy { mode: policy.mode, nodes: policy.nodes.clone(), mask });
    }
    Ok(())
}

fn check_scheduler(s: &Scheduler) -> Result<(), Error> {
    let wrong =
        |field: &str, problem: String| Err(Error::invalid(&format!("process.scheduler.{field}"), problem));
    let policy = s.policy as i32;
    if !matches!(policy, libc::SCHED_OTHER..=libc::SCHED_BATCH | libc::SCHED_IDLE | libc::SCHED_DEADLINE) {
        return wrong("policy", format!("{} is no scheduling policy of Linux", s.policy));
    }
    // SCHED_FLAG_RESET_ON_FORK up to SCHED_FLAG_UTIL_CLAMP_MAX.
    if s.flags & !0x7f != 0 {
        return wrong("flags", format!("{:#x} holds a flag that the kernel does not know", s.flags));
    }
    if !(-20..=19).contains(&s.nice) {
        return wrong("nice", format!("{} is not between -20 and 19", s.nice));
    }
    let real_time = matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR);
    if real_time && !(1..=99).contains(&s.priority) {
        return wrong("priority", format!("{} is not between 1 and 99", s.priority));
    }
    if !real_time && s.priority != 0 {
        return wrong("priority", "only SCHED_FIFO and SCHED_RR have one".into());
    }
    let promised = [("runtime", s.runtime), ("deadline", s.deadline), ("period", s.period)];
    if policy != libc::SCHED_DEADLINE {
        return match promised.into_iter().find(|(_, value)| *value != 0) {
            Some((field, _)) => wrong(field, "only SCHED_DEADLINE has one".into()),
            None => Ok(()),
        };
    }
    if s.runtime < 1024 {
        return wrong("runtime", format!("{} ns are less than the kernel takes, 1024", s.runtime));
    }
    if s.deadline < s.runtime {
        return wrong("deadline", format!("{} ns are less than the runtime", s.deadline));
    }
    if s.period != 0 && s.period < s.deadline {
        return wrong("period", format!("{} ns are less than the deadline", s.period));
    }
    Ok(())
}

fn check_memory_policy(policy: &MemoryPolicy) -> Result<(), Error> {
    const FLAGS: i32 = MPOL_F_NUMA_BALANCING | libc::MPOL_F_RELATIVE_NODES | libc::MPOL_F_STATIC_NODES;
    const MPOL_F_NUMA_BALANCING: i32 = 1 << 13;
    const MPOL_PREFERRED_MANY: i32 = 5;
    const MPOL_WEIGHTED_INTERLEAVE: i32 = 6;
    let both = libc::MPOL_F_RELATIVE_NODES | libc::MPOL_F_STATIC_NODES;
    let mode = policy.mode as i32;
    let empty = policy.nodes.is_empty();
    let problem = match mode & !FLAGS {
        _ if mode & both == both => "the nodes are either static or relative",
        libc::MPOL_DEFAULT | libc::MPOL_LOCAL if !empty => "this policy takes no nodes",
        libc::MPOL_DEFAULT | libc::MPOL_LOCAL if mode & FLAGS != 0 => "this policy takes no flags",
        libc::MPOL_DEFAULT | libc::MPOL_LOCAL | libc::MPOL_PREFERRED => return Ok(()),
        libc::MPOL_BIND | libc::MPOL_INTERLEAVE | MPOL_PREFERRED_MANY | MPOL_WEIGHTED_INTERLEAVE => {
            match empty {
                true => return Err(Error::invalid("process.memory_policy.nodes", "this policy takes nodes")),
                false => return Ok(()),
            }
        }
        _ => "this is no memory policy of Linux",
    };
    Err(Error::invalid("process.memory_policy", format!("{:#x}: {problem}", policy.mode)))
}

/// A bit for each processor or node.
fn mask(field: &str, list: &CpuList) -> Result<Vec<libc::c_ulong>, Error> {
    /// Far above what the kernel can be built for.
    const END: u32 = 1 << 14;
    const BITS: u32 = libc::c_ulong::BITS;
    let Some(last) = list.ranges().last().map(|range| *range.end()) else { return Ok(Vec::new()) };
    if last >= END {
        return Err(Error::invalid(field, format!("{last} is above all that Linux counts, {}", END - 1)));
    }
    let mut mask = vec![0; (last / BITS + 1) as usize];
    for n in list.iter() {
        mask[(n / BITS) as usize] |= 1 << (n % BITS);
    }
    Ok(mask)
}

/// The step that gives the program a label, if one is asked for.
fn label(host: &Host, process: &Process) -> Result<Option<Step>, Error> {
    let asked = [
        (Lsm::AppArmor, "AppArmor", "process.apparmor_profile", &process.apparmor_profile, host.apparmor),
        (Lsm::Selinux, "SELinux", "process.selinux_label", &process.selinux_label, host.selinux),
    ];
    let mut step = None;
    for (lsm, name, field, label, in_force) in asked {
        let Some(label) = label.as_ref().filter(|label| !label.is_empty()) else { continue };
        if !in_force {
            // Which is so already.
            if lsm == Lsm::AppArmor && label == "unconfined" {
                continue;
            }
            let problem = format!(
                "{label:?} cannot be set, for {name} is not in force in this kernel (see /sys/kernel/security/lsm): \
                 leave it out"
            );
            return Err(Error::invalid(field, problem));
        }
        let text = match lsm {
            Lsm::AppArmor => format!("exec {label}"),
            Lsm::Selinux => label.clone(),
        };
        if step.is_some() {
            return Err(Error::invalid(field, "a process has one label, of one security module"));
        }
        step = Some(Step::Label { lsm, text: c_string(field, text)? });
    }
    Ok(step)
}

fn filter(plan: &Plan, process: &Process, host: &Host) -> Result<Option<Step>, Error> {
    let bounding = process.capabilities.map_or(u64::MAX, |c| c.bounding);
    let profile = match &process.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Standard => Profile::standard(bounding),
        Seccomp::Profile(profile) => profile.resolve(bounding, host.kernel),
    };
    if profile.notifies() {
        if plan.held.is_none() {
            return Err(Error::invalid(
                "process.seccomp",
                "SCMP_ACT_NOTIFY takes a container that is held (Command::hold) until whoever answers has the listener",
            ));
        }
        // It says that the filter is loaded before the parent has the listener.
        if profile.notifies_of("write") {
            return Err(Error::invalid(
                "process.seccomp",
                "SCMP_ACT_NOTIFY of write would never be answered: the start itself calls it, before the listener is handed over",
            ));
        }
    }
    Ok(Some(Step::Seccomp { filter: profile.compile()?, flags: profile.load_flags() }))
}

/// Ids and capabilities. If it `keeps` CAP_SYS_ADMIN for the filter, the program loses that by
/// being executed.
fn credentials(plan: &mut Plan, host: &Host, ids: &Ids, keeps: bool) -> Result<(), Error> {
    let capabilities = plan.spec.process.capabilities;
    let staged = plan.stage.is_some();
    if let Some(sets) = capabilities {
        // With no more capabilities than a neighbour's, and until the program is there, it
        // could be traced by one who sees it, and its memory is still the caller's. A caller
        // without privileges could then not look at it either, in its own user namespace.
        let seen = (!ids.new || host.privileged()) && !plan.enters();
        if seen && !plan.steps.iter().any(|s| matches!(s, Step::Undumpable)) {
            plan.push(Step::Undumpable);
        }
        if sets.effective & !sets.permitted != 0 {
            return Err(Error::invalid("process.capabilities", "an effective capability is not permitted"));
        }
        if sets.ambient & !(sets.permitted & sets.inheritable) != 0 {
            return Err(Error::invalid(
                "process.capabilities",
                "an ambient capability is not both permitted and inheritable",
            ));
        }
        if !(keeps && staged) {
            plan.push(Step::DropBounding(!sets.bounding));
        }
    }
    if let Some(user) = plan.spec.process.user.clone() {
        for (field, id) in [("process.user.uid", user.uid), ("process.user.gid", user.gid)] {
            if id == u32::MAX {
                return Err(Error::invalid(field, "4294967295 stands for no id"));
            }
        }
        if !ids.setgroups && !user.groups.is_empty() {
            return Err(Error::invalid(
                "process.user.groups",
                "setgroups is denied where a single gid is mapped: leave the groups out, or map a range",
            ));
        }
        if capabilities.is_some() && user.uid != 0 {
            plan.push(Step::KeepCapabilities);
        }
        // Whoever became root of the user namespace has left the caller's groups, or it is denied.
        let left = plan.steps.iter().any(|step| matches!(step, Step::Become { leave_groups: true, .. }));
        let groups = (ids.setgroups && !(left && user.groups.is_empty())).then_some(user.groups);
        plan.push(Step::Credentials { uid: user.uid, gid: user.gid, groups });
    }
    if let Some(sets) = capabilities {
        // Across the stage's exec a capability lasts if it is ambient, which requires that it is
        // inheritable. That in turn requires that it is still in the bounding set.
        let across = if keeps && staged { CAP_SYS_ADMIN } else { 0 };
        let kept = if keeps { CAP_SYS_ADMIN } else { 0 } | if across == 0 { 0 } else { CAP_SETPCAP };
        plan.push(Step::Capabilities {
            effective: sets.effective | kept,
            permitted: sets.permitted | kept,
            inheritable: sets.inheritable | across,
        });
        if sets.ambient | across != 0 {
            plan.push(Step::Ambient(sets.ambient | across));
        }
        if across != 0 {
            plan.push(Step::DropBounding(!sets.bounding));
        }
    }
    Ok(())
}
