//! Attributes of the process: resource limits, umask, keyring, scheduling, execution domain, memory
//! policy.

use cgroup_core::CpuList;

use crate::error::Error;
use crate::plan::data::Plan;
use crate::plan::text::c_string;
use crate::spec::{IoPriority, MemoryPolicy, Process, Scheduler};
use crate::step::{RlimitStep, Step};

/// Adds the steps. Some of them require capabilities that only the caller has.
pub(super) fn add(plan: &mut Plan, process: &Process) -> Result<(), Error> {
    for (index, limit) in process.rlimits.iter().enumerate() {
        let Some(resource) = limit.resource() else {
            let problem = format!("{} is not a resource of setrlimit(2)", limit.name);
            return Err(Error::invalid(format!("process.rlimits[{index}].name"), problem));
        };
        if limit.soft > limit.hard {
            let problem = format!("the soft limit of {} is above the hard limit", limit.name);
            return Err(Error::invalid(format!("process.rlimits[{index}]"), problem));
        }
        plan.push(Step::Rlimit(RlimitStep { resource, soft: limit.soft, hard: limit.hard }));
    }
    if let Some(umask) = process.umask {
        plan.push(Step::Umask(umask & 0o777));
    }
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
            let problem = format!("{class} is not 1 (real time), 2 (best effort) or 3 (idle)");
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
            return Err(Error::invalid("process.affinity", "at least one processor is required"));
        }
        plan.push(Step::Affinity { cpus: cpus.clone(), mask: mask("process.affinity", cpus, 1 << 14)? });
    }
    if let Some(domain) = process.personality {
        // personality(2) with this value only returns the current domain.
        if domain == u32::MAX {
            return Err(Error::invalid("process.personality", "0xffffffff is not an execution domain"));
        }
        plan.push(Step::Personality(domain));
    }
    if let Some(policy) = &process.memory_policy {
        check_memory_policy(policy)?;
        // The kernel's MAX_NUMNODES is at most 1024.
        let mask = mask("process.memory_policy.nodes", &policy.nodes, 1 << 10)?;
        plan.push(Step::MemoryPolicy { mode: policy.mode | policy.flags, nodes: policy.nodes.clone(), mask });
    }
    Ok(())
}

fn check_scheduler(s: &Scheduler) -> Result<(), Error> {
    let wrong =
        |field: &str, problem: String| Err(Error::invalid(format!("process.scheduler.{field}"), problem));
    let policy = s.policy as i32;
    if !matches!(policy, libc::SCHED_OTHER..=libc::SCHED_BATCH | libc::SCHED_IDLE | libc::SCHED_DEADLINE) {
        return wrong("policy", format!("{} is not a scheduling policy of Linux", s.policy));
    }
    // SCHED_FLAG_RESET_ON_FORK up to SCHED_FLAG_UTIL_CLAMP_MAX.
    if s.flags & !0x7f != 0 {
        return wrong("flags", format!("{:#x} contains a flag that the kernel does not know", s.flags));
    }
    if !(-20..=19).contains(&s.nice) {
        return wrong("nice", format!("{} is not between -20 and 19", s.nice));
    }
    let real_time = matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR);
    if real_time && !(1..=99).contains(&s.priority) {
        return wrong("priority", format!("{} is not between 1 and 99", s.priority));
    }
    if !real_time && s.priority != 0 {
        return wrong("priority", "only SCHED_FIFO and SCHED_RR have a priority".into());
    }
    let promised = [("runtime", s.runtime), ("deadline", s.deadline), ("period", s.period)];
    if policy != libc::SCHED_DEADLINE {
        return match promised.into_iter().find(|(_, value)| *value != 0) {
            Some((field, _)) => wrong(field, "only SCHED_DEADLINE has this parameter".into()),
            None => Ok(()),
        };
    }
    if s.runtime < 1024 {
        return wrong("runtime", format!("{} ns is less than the minimum of the kernel, 1024 ns", s.runtime));
    }
    if s.deadline < s.runtime {
        return wrong("deadline", format!("{} ns is less than the runtime", s.deadline));
    }
    if s.period != 0 && s.period < s.deadline {
        return wrong("period", format!("{} ns is less than the deadline", s.period));
    }
    Ok(())
}

fn check_memory_policy(policy: &MemoryPolicy) -> Result<(), Error> {
    const MPOL_PREFERRED_MANY: i32 = 5;
    const MPOL_WEIGHTED_INTERLEAVE: i32 = 6;
    const BALANCING: i32 = 1 << 13;
    const PLACED: i32 = libc::MPOL_F_STATIC_NODES | libc::MPOL_F_RELATIVE_NODES;
    let wrong =
        |field: &str, problem: &str| Err(Error::invalid(format!("process.memory_policy.{field}"), problem));
    let (mode, flags, empty) = (policy.mode as i32, policy.flags as i32, policy.nodes.is_empty());
    if !(libc::MPOL_DEFAULT..=MPOL_WEIGHTED_INTERLEAVE).contains(&mode) {
        return wrong("mode", &format!("{} is not a memory policy of Linux", policy.mode));
    }
    if flags & !(PLACED | BALANCING) != 0 {
        return wrong("flags", &format!("{flags:#x} contains a flag that the kernel does not know"));
    }
    let local = matches!(mode, libc::MPOL_DEFAULT | libc::MPOL_LOCAL);
    match () {
        () if local && !empty => wrong("nodes", "this policy has no nodes"),
        () if !local && empty && mode != libc::MPOL_PREFERRED => wrong("nodes", "this policy requires nodes"),
        () if local && flags != 0 => wrong("flags", "this policy has no flags"),
        () if flags & PLACED == PLACED => wrong("flags", "the nodes are either static or relative"),
        () if flags & PLACED != 0 && empty => wrong("flags", "static or relative nodes require nodes"),
        () if flags & BALANCING != 0 && !matches!(mode, libc::MPOL_BIND | MPOL_PREFERRED_MANY) => {
            wrong("flags", "MPOL_F_NUMA_BALANCING requires MPOL_BIND or MPOL_PREFERRED_MANY")
        }
        () => Ok(()),
    }
}

/// Returns a mask with one bit for each processor or node. `end` is above the number of any kernel
/// configuration.
fn mask(field: &str, list: &CpuList, end: u32) -> Result<Vec<libc::c_ulong>, Error> {
    const BITS: u32 = libc::c_ulong::BITS;
    let Some(last) = list.ranges().last().map(|range| *range.end()) else { return Ok(Vec::new()) };
    if last >= end {
        return Err(Error::invalid(field, format!("{last} is above the maximum of Linux, {}", end - 1)));
    }
    let mut mask = vec![0; (last / BITS + 1) as usize];
    for n in list.iter() {
        mask[(n / BITS) as usize] |= 1 << (n % BITS);
    }
    Ok(mask)
}
