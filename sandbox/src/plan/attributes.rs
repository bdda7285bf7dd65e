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
    for limit in &process.rlimits {
        let field = format!("process.rlimits.{}", limit.name);
        let Some(resource) = limit.resource() else {
            return Err(Error::invalid(&field, "this is not a resource of setrlimit(2)"));
        };
        if limit.soft > limit.hard {
            return Err(Error::invalid(&field, "the soft limit is above the hard limit"));
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
        plan.push(Step::Affinity { cpus: cpus.clone(), mask: mask("process.affinity", cpus)? });
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
        let mask = mask("process.memory_policy.nodes", &policy.nodes)?;
        plan.push(Step::MemoryPolicy { mode: policy.mode, nodes: policy.nodes.clone(), mask });
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
    const FLAGS: i32 = MPOL_F_NUMA_BALANCING | libc::MPOL_F_RELATIVE_NODES | libc::MPOL_F_STATIC_NODES;
    const MPOL_F_NUMA_BALANCING: i32 = 1 << 13;
    const MPOL_PREFERRED_MANY: i32 = 5;
    const MPOL_WEIGHTED_INTERLEAVE: i32 = 6;
    let both = libc::MPOL_F_RELATIVE_NODES | libc::MPOL_F_STATIC_NODES;
    let mode = policy.mode as i32;
    let empty = policy.nodes.is_empty();
    let problem = match mode & !FLAGS {
        _ if mode & both == both => "the nodes are either static or relative",
        libc::MPOL_DEFAULT | libc::MPOL_LOCAL if !empty => "this policy has no nodes",
        libc::MPOL_DEFAULT | libc::MPOL_LOCAL if mode & FLAGS != 0 => "this policy has no flags",
        libc::MPOL_DEFAULT | libc::MPOL_LOCAL | libc::MPOL_PREFERRED => return Ok(()),
        libc::MPOL_BIND | libc::MPOL_INTERLEAVE | MPOL_PREFERRED_MANY | MPOL_WEIGHTED_INTERLEAVE => {
            match empty {
                true => {
                    return Err(Error::invalid("process.memory_policy.nodes", "this policy requires nodes"));
                }
                false => return Ok(()),
            }
        }
        _ => "this is not a memory policy of Linux",
    };
    Err(Error::invalid("process.memory_policy", format!("{:#x}: {problem}", policy.mode)))
}

/// Returns a mask with one bit for each processor or node.
fn mask(field: &str, list: &CpuList) -> Result<Vec<libc::c_ulong>, Error> {
    /// A limit that is above the number of processors of any kernel configuration.
    const END: u32 = 1 << 14;
    const BITS: u32 = libc::c_ulong::BITS;
    let Some(last) = list.ranges().last().map(|range| *range.end()) else { return Ok(Vec::new()) };
    if last >= END {
        return Err(Error::invalid(field, format!("{last} is above the maximum of Linux, {}", END - 1)));
    }
    let mut mask = vec![0; (last / BITS + 1) as usize];
    for n in list.iter() {
        mask[(n / BITS) as usize] |= 1 << (n % BITS);
    }
    Ok(mask)
}
