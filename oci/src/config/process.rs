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
/// The [`Plan`](nspod_sandbox::Plan) of the process checks most values.
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
    let user = process.user();
    let umask = user.umask().unwrap_or(0o022);
    if umask > 0o777 {
        return Err(Error::invalid("process.user.umask", "must be at most 0777"));
    }
    let terminal = process.terminal().unwrap_or(false);
    let size = console_size(process)?;
    let linux = config.spec.linux().as_ref();
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(Process {
        args: process.args().iter().flatten().map(OsString::from).collect(),
        env: env("process.env", process.env())?,
        cwd: Some(process.cwd().clone()),
        user: Some(User {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
        }),
        umask: Some(umask),
        capabilities: Some(capabilities(process.capabilities().as_ref())),
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        seccomp: match &config.seccomp {
            Some(profile) => Seccomp::Profile(Box::new(profile.clone())),
            None => Seccomp::Unconfined,
        },
        rlimits: rlimits(process.rlimits())?,
        oom_score_adj: process.oom_score_adj(),
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

fn capabilities(given: Option<&runtime::LinuxCapabilities>) -> Capabilities {
    let Some(given) = given else { return Capabilities::NONE };
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
    // The kernel rejects other capabilities. Engines and `runc spec` set them nevertheless; runc and crun
    // ignore them too.
    sets.ambient &= sets.permitted & sets.inheritable;
    sets
}

fn rlimits(given: &Option<Vec<runtime::PosixRlimit>>) -> Result<Vec<Rlimit>, Error> {
    let mut all: Vec<Rlimit> = Vec::new();
    for (index, limit) in given.iter().flatten().enumerate() {
        let path = format!("process.rlimits[{index}]");
        let name = limit.typ().to_string();
        if all.iter().any(|other| other.name == name) {
            return Err(Error::invalid(&path, format!("{name} is given twice")));
        }
        all.push(Rlimit { name, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(all)
}

fn scheduler(given: &runtime::Scheduler) -> Result<Scheduler, Error> {
    use LinuxSchedulerPolicy as Policy;
    let bad = |name: &str, problem: &str| Error::invalid(&format!("process.scheduler.{name}"), problem);
    let policy = match given.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => return Err(bad("policy", "SCHED_ISO is not supported by Linux")),
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let priority = u32::try_from(given.priority().unwrap_or(0));
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
    Ok(Scheduler {
        policy,
        flags,
        nice: given.nice().unwrap_or(0),
        priority: priority.map_err(|_| bad("priority", "must not be negative"))?,
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
    })
}

fn io_priority(given: &runtime::LinuxIOPriority) -> Result<IoPriority, Error> {
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u8::try_from(given.priority());
    let level =
        level.map_err(|_| Error::invalid("process.ioPriority.priority", "must be between 0 and 7"))?;
    Ok(IoPriority { class, level })
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
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let flags = given.flags().iter().flatten().fold(0, |all, f| all | flag(f));
    Ok(MemoryPolicy { mode, flags, nodes })
}

/// Parses a list of processors or memory nodes.
pub(super) fn cpus(path: &str, list: &str) -> Result<CpuList, Error> {
    list.parse().map_err(|e| Error::invalid(path, e))
}
