//! Namespaces: which are joined, which are made, in which order, and by which clone.

use std::os::fd::OwnedFd;

use ns_core::{Kind, Kinds, Pidfd};

use crate::error::Error;
use crate::fd::duplicate;
use crate::host::Host;
use crate::plan::data::Plan;
use crate::plan::id_maps::{self, Ids};
use crate::plan::text::c_string;
use crate::spec::{Join, NamespaceMode};
use crate::step::Step;

/// Descriptors of the namespaces to join, and of the process that a pid names.
type Handles = (Vec<ns_core::Namespace>, Option<(i32, OwnedFd)>);

/// Adds the steps, and decides what each clone makes.
///
/// Usually one clone makes all new namespaces, and joins follow. A second clone is needed in these
/// cases:
/// - New namespaces must belong to a joined user namespace.
/// - A new user namespace would lose the permission to join others.
/// - Clock offsets are set, before Linux 6.2. They must be set before the time namespace has a process.
/// - The new user namespace has an owner other than the caller.
///
/// If a pid namespace is joined, the stage performs the second clone: the members of that namespace
/// see each new process in it, so the process must not share memory or descriptors with the caller.
pub(super) fn add(plan: &mut Plan, host: &Host, mut handles: Handles) -> Result<Ids, Error> {
    let spec = plan.spec.clone();
    let ns = &spec.namespaces;
    let (user, time, pid) = (Kinds::from(Kind::User), Kinds::from(Kind::Time), Kinds::from(Kind::Pid));
    let cgroup = Kinds::from(Kind::Cgroup);
    let (new, joined) = (ns.new_kinds(), ns.joined_kinds());
    let offsets = spec.time_offsets.as_ref();
    // Since Linux 6.2, execve(2) enters the time namespace that the process has made.
    let enters_time = host.kernel >= (6, 2);

    let user_new = new.contains(user);
    let user_joined = joined.contains(user);
    let enters = joined.contains(pid);
    let owner = if user_new { id_maps::owner(plan, host)? } else { None };
    let twice = (user_joined && !(new - cgroup).is_empty())
        || (user_new && !joined.is_empty())
        || (offsets.is_some() && !enters_time)
        || owner.is_some();
    // The root of a new cgroup namespace is the cgroup of the process that makes it. Therefore the
    // child makes it after it has entered its cgroup.
    let mut rest = new - cgroup;
    if offsets.is_some() {
        rest -= time;
    }
    if !twice {
        plan.kinds = rest;
    } else if user_new && joined.is_empty() && owner.is_none() {
        plan.kinds = user;
    }
    rest -= plan.kinds;
    // A process that has entered another user namespace may have lost the permission to enter the
    // cgroup. Otherwise the first process stays outside, so that the program has all of pids.max.
    plan.cgroup_at_second = twice && !user_new && !user_joined && !enters;

    if let Some(value) = spec.process.oom_score_adj {
        // The write goes through the caller's /proc, while this process still has the permission.
        plan.push(Step::OomScoreAdj(c_string("process.oom_score_adj", value.to_string())?));
    }
    // If cgroup namespaces are delegation boundaries (nsdelegate), a process cannot leave a cgroup
    // that is outside its cgroup namespace. Therefore this namespace is joined last.
    let late = if plan.cgroup_at_second { joined & cgroup } else { Kinds::empty() };
    // If the container's processes see the host's pids, they see this process. They have
    // capabilities over it as soon as it is in their user namespace.
    if user_joined && !enters && host.privileged() {
        plan.push(Step::Undumpable);
    }
    join(plan, host, joined - late, &mut handles)?;
    if rest.contains(user) {
        // The owner of the namespace could not write to the files of an undumpable process.
        plan.shared_memory &= owner.is_some() && joined.is_empty() && offsets.is_none();
        plan.steps.extend(owner);
        plan.push(Step::Unshare(user));
        rest -= user;
    }
    let (ids, r#become) = match user_new {
        true => id_maps::add(plan, host).map(|(ids, step)| (ids, Some(step)))?,
        false => (Ids::of_joined(ns.get(Kind::User))?, None),
    };
    if let Some(offsets) = offsets {
        // This must precede the change of ids: afterwards the file belongs to root.
        plan.push(Step::Unshare(time));
        plan.push(Step::TimeOffsets(c_string("time_offsets", offsets.to_string())?));
    }
    plan.steps.extend(r#become);
    // The caller's ids are probably not mapped there, so the process could not make files. Also, a
    // process whose ids are not mapped inside can still be root outside.
    if user_joined && (new.contains(Kinds::from(Kind::Mnt)) || spec.process.user.is_none()) {
        plan.push(id_maps::become_joined_root(ns.get(Kind::User), ids.setgroups));
    }
    if joined.contains(time) || new.contains(time) && !enters_time {
        plan.shared_memory = false;
    }
    match enters {
        true if !rest.is_empty() && twice => plan.push(Step::Unshare(rest)),
        false if twice => plan.push(Step::Clone(rest)),
        _ => {}
    }
    join(plan, host, late, &mut handles)?;
    if new.contains(cgroup) {
        plan.push(Step::Unshare(cgroup));
    }
    Ok(ids)
}

/// Adds the steps that join namespaces. A privileged caller joins the user namespace last, to keep
/// its capabilities until then. Other callers join it first, to gain capabilities.
fn join(plan: &mut Plan, host: &Host, joined: Kinds, (handles, process): &mut Handles) -> Result<(), Error> {
    let spec = plan.spec.clone();
    let mut order: Vec<Kind> = joined.kinds().filter(|k| *k != Kind::User).collect();
    if joined.contains(Kinds::from(Kind::User)) {
        let at = if host.privileged() { order.len() } else { 0 };
        order.insert(at, Kind::User);
    }
    let mut steps: Vec<Step> = Vec::new();
    for kind in order {
        let field = format!("namespaces.{}", kind.name());
        match spec.namespaces.get(kind) {
            NamespaceMode::Join(Join::Pid(pid)) => {
                // One setns(2) joins several namespaces of a process. The user namespace of a
                // privileged caller is a separate call.
                if let Some(Step::JoinPidfd { kinds, pid: last, .. }) = steps.last_mut()
                    && last == pid
                    && !(kind == Kind::User && host.privileged())
                {
                    *kinds |= Kinds::from(kind);
                    continue;
                }
                if *pid <= 0 {
                    return Err(Error::invalid(&field, format!("{pid} is not a pid")));
                }
                let pidfd = match process {
                    Some((meant, pidfd)) if meant == pid => duplicate(pidfd)?,
                    _ => Pidfd::open(*pid)?.into(),
                };
                steps.push(Step::JoinPidfd { kinds: kind.into(), pidfd, pid: *pid });
            }
            NamespaceMode::Join(Join::Path(path)) => {
                let namespace = ns_core::Namespace::open(path)?;
                if namespace.kind() != kind {
                    let problem = format!("{} is a {} namespace", path.display(), namespace.kind().name());
                    return Err(Error::invalid(&field, problem));
                }
                let from = path.display().to_string();
                steps.push(Step::JoinFd { kind, ns: namespace.into(), from });
            }
            NamespaceMode::Join(Join::Handle) => {
                let Some(at) = handles.iter().position(|n| n.kind() == kind) else {
                    return Err(Error::invalid(&field, "Handles::namespaces has no namespace of this kind"));
                };
                let namespace = handles.swap_remove(at);
                steps.push(Step::JoinFd { kind, ns: namespace.into(), from: "the pod".into() });
            }
            _ => {}
        }
    }
    plan.steps.extend(steps);
    Ok(())
}

/// Returns the namespace of this kind that the plan joins, if any.
pub(super) fn joined(plan: &Plan, kind: Kind) -> Result<Option<OwnedFd>, Error> {
    for step in &plan.steps {
        match step {
            Step::JoinFd { kind: other, ns, .. } if *other == kind => {
                return duplicate(ns).map(Some);
            }
            Step::JoinPidfd { kinds, pidfd, .. } if kinds.contains(kind.into()) => {
                return Ok(Some(ns_core::Namespace::of_pidfd(pidfd, kind)?.into()));
            }
            _ => {}
        }
    }
    Ok(None)
}
