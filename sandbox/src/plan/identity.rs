//! Who the program is and what it may do: the last steps before it starts.

use std::ffi::CString;

use cgroup_core::CpuList;

use super::{INIT_PROC, Ids, Plan, Through, c_string, program};
use crate::error::Error;
use crate::host::Host;
use crate::seccomp::Profile;
use crate::spec::{IoPriority, MemoryPolicy, Process, Scheduler, Seccomp, StreamOwner, User};
use crate::step::{Lsm, RlimitStep, Step};

const CAP_DAC_OVERRIDE: u64 = 1 << 1;

pub(super) fn add(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let process = plan.spec.process.clone();
    plan.push(Step::Descriptors);
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
    label(plan, host, &process)?;
    let cwd = cwd(&process)?;
    let changes_user = process.user.is_some();
    // With the rights of the caller, which may reach what the user cannot.
    plan.steps.extend(cwd.clone().map(|path| Step::Chdir { path, again: changes_user }));
    let filter = filter(plan, &process, host)?;
    // Without no_new_privs a filter takes CAP_SYS_ADMIN, which goes next.
    let (early, late) = match process.no_new_privs {
        true => (None, filter),
        false => (filter, None),
    };
    plan.steps.extend(early);
    credentials(plan, host, ids)?;
    if let Some(path) = cwd.filter(|_| changes_user) {
        plan.push(Step::ChdirAsUser(path));
    }
    if process.no_new_privs {
        plan.push(Step::NoNewPrivs);
    }
    // The parent must have the listener before the program starts, so that filter is loaded before
    // the hold. Any other is loaded after it, for waiting takes calls that a filter may refuse; but
    // before the hooks, whose programs are the container's own.
    let (before, after) = match late {
        Some(Step::Seccomp { flags, .. }) if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 => {
            (None, late)
        }
        late => (late, None),
    };
    plan.steps.extend(before);
    if plan.held.is_some() {
        plan.push(Step::Hold);
    }
    plan.steps.extend(after);
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

fn label(plan: &mut Plan, host: &Host, process: &Process) -> Result<(), Error> {
    // An init of the container's own has the label as well; what is there only for the
    // moment before the program takes it for the program.
    let by_init = (plan.through == Some(Through::Sealed)).then(|| plan.highest_fd() + INIT_PROC);
    let asked = [
        (Lsm::AppArmor, "AppArmor", "process.apparmor_profile", &process.apparmor_profile, host.apparmor),
        (Lsm::Selinux, "SELinux", "process.selinux_label", &process.selinux_label, host.selinux),
    ];
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
        if plan.label.is_some() {
            return Err(Error::invalid(field, "a process has one label, of one security module"));
        }
        plan.label = by_init.map(|fd| (plan.steps.len(), fd));
        plan.push(Step::Label { lsm, text: c_string(field, text)?, by_init });
    }
    Ok(())
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
        // What is called from the filter's loading until the parent has its listener.
        let late = ["prctl", "capset", "setgroups", "setresgid", "setresuid", "chdir", "getcwd"];
        let between = if process.no_new_privs { &[] } else { late.as_slice() };
        if let Some(call) = between.iter().chain(&["write"]).find(|call| profile.notifies_of(call)) {
            return Err(Error::invalid(
                "process.seccomp",
                format!(
                    "SCMP_ACT_NOTIFY of {call} would never be answered: the start itself calls it, before the listener is handed over"
                ),
            ));
        }
    }
    Ok(Some(Step::Seccomp { filter: profile.compile()?, flags: profile.load_flags() }))
}

fn credentials(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let capabilities = plan.spec.process.capabilities;
    if let Some(sets) = capabilities {
        // With no more capabilities than a neighbour's, and until the program is there, it
        // could be traced by one who sees it, and its memory is still the caller's. A caller
        // without privileges could then not look at it either, in its own user namespace.
        let seen = !ids.new || host.privileged();
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
        plan.push(Step::DropBounding(!sets.bounding));
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
        plan.push(Step::Capabilities {
            effective: sets.effective,
            permitted: sets.permitted,
            inheritable: sets.inheritable,
        });
        if sets.ambient != 0 {
            plan.push(Step::Ambient(sets.ambient));
        }
    }
    Ok(())
}
