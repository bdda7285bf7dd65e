//! `process`, and the fields of `linux` that apply to a process: seccomp, personality, memoryPolicy.

use std::ffi::OsString;

use cgroup_core::CpuList;
use oci_spec::runtime::{
    self, IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType,
};

use super::types::{Config, Context};
use crate::Error;
use nspod_sandbox::spec::{
    Capabilities, IoPriority, MemoryPolicy, Process, Rlimit, Scheduler, Seccomp, StreamOwner, Terminal, User,
};

/// Converts the process of an `exec`. Rlimits, capabilities, labels and noNewPrivileges default to those of
/// the container's process.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#process).
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), with the JSON path of the field.
pub fn process(process: &runtime::Process, config: &Config, context: &Context<'_>) -> Result<Process, Error> {
    let first = config.spec.process();
    let mut all = process.clone();
    if let Some(first) = first {
        all.set_capabilities(all.capabilities().clone().or_else(|| first.capabilities().clone()));
        all.set_no_new_privileges(all.no_new_privileges().or(first.no_new_privileges()));
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        all.set_apparmor_profile(given(all.apparmor_profile()).or_else(|| first.apparmor_profile().clone()));
        all.set_selinux_label(given(all.selinux_label()).or_else(|| first.selinux_label().clone()));
        if all.rlimits().as_ref().is_none_or(Vec::is_empty) {
            all.set_rlimits(first.rlimits().clone());
        }
    }
    // clone3 starts the process in its cgroup. So the initial affinity is also the final one, unless the
    // configuration sets another.
    let affinity = all.exec_cpu_affinity().as_ref().and_then(|affinity| {
        let last = affinity.cpu_affinity_final().clone().map(|list| ("final", list));
        last.or_else(|| affinity.initial().clone().map(|list| ("initial", list)))
    });
    let affinity =
        affinity.map(|(when, list)| cpus(&format!("process.execCPUAffinity.{when}"), &list)).transpose()?;
    Ok(Process { affinity, ..translate(&all, config, context)? })
}

pub(super) fn translate(
    process: &runtime::Process,
    config: &Config,
    context: &Context<'_>,
) -> Result<Process, Error> {
    let bad = |field: &str, problem: &str| Err(Error::invalid(&format!("process.{field}"), problem));
    let args: Vec<OsString> = process.args().iter().flatten().map(OsString::from).collect();
    if args.first().is_none_or(|program| program.is_empty()) {
        return bad("args", "must name a program");
    }
    for (index, arg) in process.args().iter().flatten().enumerate() {
        if arg.contains('\0') {
            return bad(&format!("args[{index}]"), "must not contain a NUL byte");
        }
    }
    if !process.cwd().is_absolute() {
        return bad("cwd", "must be an absolute path");
    }
    let oom_score_adj = process.oom_score_adj();
    if oom_score_adj.is_some_and(|value| !(-1000..=1000).contains(&value)) {
        return bad("oomScoreAdj", "must be between -1000 and 1000");
    }
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    let ids = [("uid", user.uid()), ("gid", user.gid())].into_iter();
    if let Some((name, _)) =
        ids.chain(groups.iter().map(|id| ("additionalGids", *id))).find(|(_, id)| *id == u32::MAX)
    {
        return bad(&format!("user.{name}"), "4294967295 is not a valid id");
    }
    let umask = user.umask().unwrap_or(0o022);
    if umask > 0o777 {
        return bad("user.umask", "must be at most 0777");
    }
    let terminal = process.terminal().unwrap_or(false);
    let size = console_size(process)?;
    let linux = config.spec.linux().as_ref();
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(Process {
        args,
        env: env("process.env", process.env())?,
        cwd: Some(process.cwd().clone()),
        user: Some(User { uid: user.uid(), gid: user.gid(), groups }),
        umask: Some(umask),
        capabilities: Some(capabilities(process.capabilities().as_ref())?),
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        seccomp: match &config.seccomp {
            Some(profile) => Seccomp::Profile(Box::new(profile.clone())),
            None => Seccomp::Unconfined,
        },
        rlimits: rlimits(process.rlimits())?,
        oom_score_adj,
        terminal: terminal.then(|| {
            let (rows, columns) = size.unwrap_or_default();
            Terminal { rows, columns }
        }),
        new_session: true,
        create_cwd: true,
        streams: StreamOwner::User,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        apparmor_profile: text(process.apparmor_profile()),
        selinux_label: text(process.selinux_label()),
        personality: linux.and_then(|l| l.personality().as_ref()).map(personality).transpose()?,
        memory_policy: linux.and_then(|l| l.memory_policy().as_ref()).map(memory_policy).transpose()?,
        keyring: (!context.no_new_keyring).then(|| format!("_ses.{}", context.id)),
        ..Process::default()
    })
}

/// Returns rows and columns of the terminal.
pub(super) fn console_size(process: &runtime::Process) -> Result<Option<(u16, u16)>, Error> {
    let Some(size) = process.console_size() else { return Ok(None) };
    let number = |name: &str, value: u64| {
        let path = format!("process.consoleSize.{name}");
        u16::try_from(value).map_err(|_| Error::invalid(&path, "must be at most 65535"))
    };
    Ok(Some((number("height", size.height())?, number("width", size.width())?)))
}

/// Converts lines `NAME=VALUE`. If a name is repeated, the last line counts.
pub(super) fn env(path: &str, env: &Option<Vec<String>>) -> Result<Vec<(OsString, OsString)>, Error> {
    let mut all: Vec<(OsString, OsString)> = Vec::new();
    for (index, entry) in env.iter().flatten().enumerate() {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() && !entry.contains('\0') => (name, value),
            _ => {
                let problem = format!("{entry:?} is not of the form NAME=VALUE");
                return Err(Error::invalid(&format!("{path}[{index}]"), problem));
            }
        };
        match all.iter_mut().find(|(other, _)| other == name) {
            Some(earlier) => earlier.1 = value.into(),
            None => all.push((name.into(), value.into())),
        }
    }
    Ok(all)
}

fn capabilities(given: Option<&runtime::LinuxCapabilities>) -> Result<Capabilities, Error> {
    let Some(given) = given else { return Ok(Capabilities::NONE) };
    let bits = |set: &Option<runtime::Capabilities>| {
        set.iter().flatten().filter_map(|c| Capabilities::bit(&c.to_string())).fold(0, |all, bit| all | bit)
    };
    let mut sets = Capabilities {
        bounding: bits(given.bounding()),
        effective: bits(given.effective()),
        permitted: bits(given.permitted()),
        inheritable: bits(given.inheritable()),
        ambient: bits(given.ambient()),
    };
    if sets.effective & !sets.permitted != 0 {
        return Err(Error::invalid(
            "process.capabilities.effective",
            "a capability is not in the permitted set",
        ));
    }
    // The kernel rejects other capabilities. Engines and `runc spec` set them nevertheless; runc and crun
    // ignore them too.
    sets.ambient &= sets.permitted & sets.inheritable;
    Ok(sets)
}

fn rlimits(given: &Option<Vec<runtime::PosixRlimit>>) -> Result<Vec<Rlimit>, Error> {
    let mut all: Vec<Rlimit> = Vec::new();
    for (index, limit) in given.iter().flatten().enumerate() {
        let path = format!("process.rlimits[{index}]");
        let name = limit.typ().to_string();
        if all.iter().any(|other| other.name == name) {
            return Err(Error::invalid(&path, format!("{name} is given twice")));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(&path, "the soft limit is above the hard limit"));
        }
        all.push(Rlimit { name, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(all)
}

fn scheduler(given: &runtime::Scheduler) -> Result<Scheduler, Error> {
    use LinuxSchedulerPolicy as Policy;
    let bad = |name: &str, problem: &str| Err(Error::invalid(&format!("process.scheduler.{name}"), problem));
    let policy = match given.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => return bad("policy", "SCHED_ISO is not supported by Linux"),
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let nice = given.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return bad("nice", "must be between -20 and 19");
    }
    let priority = given.priority().unwrap_or(0);
    match given.policy() {
        Policy::SchedFifo | Policy::SchedRr if !(1..=99).contains(&priority) => {
            return bad("priority", "must be between 1 and 99 for SCHED_FIFO and SCHED_RR");
        }
        Policy::SchedFifo | Policy::SchedRr => {}
        _ if priority != 0 => return bad("priority", "requires SCHED_FIFO or SCHED_RR"),
        _ => {}
    }
    let times = [("runtime", *given.runtime()), ("deadline", *given.deadline()), ("period", *given.period())];
    let [runtime, deadline, period] = times.map(|(_, time)| time.unwrap_or(0));
    if *given.policy() != Policy::SchedDeadline {
        if let Some((name, _)) = times.iter().find(|(_, time)| time.unwrap_or(0) != 0) {
            return bad(name, "requires SCHED_DEADLINE");
        }
    } else if runtime == 0 || deadline == 0 {
        let name = if runtime == 0 { "runtime" } else { "deadline" };
        return bad(name, "SCHED_DEADLINE requires a runtime and a deadline");
    } else if runtime > deadline || period != 0 && deadline > period {
        return bad("deadline", "must be at least the runtime, and at most the period");
    }
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let flags = given.flags().iter().flatten().fold(0, |all, f| all | flag(f));
    Ok(Scheduler { policy, flags, nice, priority: priority as u32, runtime, deadline, period })
}

fn io_priority(given: &runtime::LinuxIOPriority) -> Result<IoPriority, Error> {
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match given.priority() {
        level @ 0..=7 => Ok(IoPriority { class, level: level as u8 }),
        _ => Err(Error::invalid("process.ioPriority.priority", "must be between 0 and 7")),
    }
}

fn personality(given: &runtime::LinuxPersonality) -> Result<u32, Error> {
    if given.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::invalid("linux.personality.flags", "the specification defines no flags yet"));
    }
    Ok(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn memory_policy(given: &runtime::LinuxMemoryPolicy) -> Result<MemoryPolicy, Error> {
    use MemoryPolicyModeType as Mode;
    let bad = |name: &str, problem: &str| Err(Error::invalid(&format!("linux.memoryPolicy.{name}"), problem));
    let mode = match given.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let nodes = cpus("linux.memoryPolicy.nodes", given.nodes().as_deref().unwrap_or_default())?;
    // The kernel's MAX_NUMNODES is at most 1024.
    if nodes.ranges().any(|range| *range.end() > 1023) {
        return bad("nodes", "must be at most 1023");
    }
    match given.mode() {
        Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() => {
            return bad("nodes", "this mode has no nodes");
        }
        Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred => {}
        _ if nodes.is_empty() => return bad("nodes", "this mode requires nodes"),
        _ => {}
    }
    let flags: Vec<MemoryPolicyFlagType> = given.flags().clone().unwrap_or_default();
    let has = |flag| flags.contains(&flag);
    let (fixed, relative, balancing) = (
        has(MemoryPolicyFlagType::MpolFStaticNodes),
        has(MemoryPolicyFlagType::MpolFRelativeNodes),
        has(MemoryPolicyFlagType::MpolFNumaBalancing),
    );
    if fixed && relative {
        return bad("flags", "static and relative nodes conflict");
    }
    if (fixed || relative) && nodes.is_empty() {
        return bad("flags", "static and relative nodes require nodes");
    }
    if balancing && !matches!(given.mode(), Mode::MpolBind | Mode::MpolPreferredMany) {
        return bad("flags", "MPOL_F_NUMA_BALANCING requires MPOL_BIND");
    }
    let bits = u32::from(fixed) << 15 | u32::from(relative) << 14 | u32::from(balancing) << 13;
    Ok(MemoryPolicy { mode: mode | bits, nodes })
}

/// Parses a list of processors or memory nodes.
pub(super) fn cpus(path: &str, list: &str) -> Result<CpuList, Error> {
    list.parse().map_err(|e| Error::invalid(path, e))
}
