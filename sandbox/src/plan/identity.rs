//! Who the program is and what it may do: the last steps before it starts.

use super::{Ids, Plan, c_string, program};
use crate::error::Error;
use crate::host::Host;
use crate::seccomp::Profile;
use crate::spec::{Capabilities, Seccomp};
use crate::step::{RlimitStep, Step};

pub(super) fn add(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let process = plan.spec.process.clone();
    plan.push(Step::Descriptors);
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
    let filter = filter(&process.seccomp, process.capabilities, host)?;
    // Without no_new_privs a filter takes CAP_SYS_ADMIN, which goes next.
    let (early, late) = match process.no_new_privs {
        true => (None, filter),
        false => (filter, None),
    };
    plan.steps.extend(early);
    credentials(plan, ids)?;
    if let Some(cwd) = &process.cwd {
        if !cwd.is_absolute() {
            return Err(Error::invalid("process.cwd", format!("{} is not an absolute path", cwd.display())));
        }
        plan.push(Step::Chdir(c_string("process.cwd", cwd)?));
    }
    if process.no_new_privs {
        plan.push(Step::NoNewPrivs);
    }
    plan.steps.extend(late);
    if plan.held.is_some() {
        plan.push(Step::Hold);
    }
    plan.push_hooks("startContainer", &plan.spec.hooks.start_container.clone())?;
    let exec = program(plan)?;
    plan.push(exec);
    Ok(())
}

fn filter(seccomp: &Seccomp, capabilities: Option<Capabilities>, host: &Host) -> Result<Option<Step>, Error> {
    let bounding = capabilities.map_or(u64::MAX, |c| c.bounding);
    let profile = match seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Standard => Profile::standard(bounding),
        Seccomp::Profile(profile) => profile.resolve(bounding, host.kernel),
    };
    Ok(Some(Step::Seccomp { filter: profile.compile()?, flags: profile.load_flags() }))
}

fn credentials(plan: &mut Plan, ids: &Ids) -> Result<(), Error> {
    let capabilities = plan.spec.process.capabilities;
    if let Some(sets) = capabilities {
        // With no more capabilities than a neighbour's, and until the program is there, it
        // could be traced by one who sees it. In a user namespace of its own it has none.
        if !ids.new && !plan.steps.iter().any(|s| matches!(s, Step::Undumpable)) {
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
        let groups = ids.setgroups.then_some(user.groups);
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
