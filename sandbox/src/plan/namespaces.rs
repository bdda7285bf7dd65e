//! Which namespaces are joined, made and mapped, in which order, and by which clone.

use std::os::fd::OwnedFd;

use ns_core::{IdMap, Kind, Kinds, Pidfd};

use super::{Ids, Maps, Plan, c_string};
use crate::error::{Error, ErrorKind};
use crate::host::Host;
use crate::spec::{IdMaps, Join, Namespace};
use crate::step::Step;

/// What is joined by descriptors: namespaces, and the process of a pid.
type Handles = (Vec<ns_core::Namespace>, Option<(i32, OwnedFd)>);

/// Adds the steps and decides the clones.
///
/// Mostly one clone makes all that is new, and joins follow. It takes a second one where
/// - new namespaces shall belong to a user namespace that is joined;
/// - a new user namespace would lose the right to join others';
/// - clocks are set, which must be done before anyone is in the time namespace.
///
/// Where a pid namespace is joined the second clone is the stage's, for its members are born
/// into it and could look at a process that is still the caller's.
pub(super) fn add(plan: &mut Plan, host: &Host, mut handles: Handles) -> Result<Ids, Error> {
    let spec = plan.spec.clone();
    let ns = &spec.namespaces;
    let (user, time, pid) = (Kinds::from(Kind::User), Kinds::from(Kind::Time), Kinds::from(Kind::Pid));
    let cgroup = Kinds::from(Kind::Cgroup);
    let (new, joined) = (ns.new_kinds(), ns.joined_kinds());
    let offsets = spec.time_offsets.as_ref();

    let user_new = new.contains(user);
    let user_joined = joined.contains(user);
    let enters = joined.contains(pid);
    let twice =
        (user_joined && !(new - cgroup).is_empty()) || (user_new && !joined.is_empty()) || offsets.is_some();
    // The root of a new cgroup namespace is the maker's cgroup at that moment, and a
    // child of clone3 is its maker's, so it is made when the child is in its own.
    let mut rest = new - cgroup;
    if !twice {
        plan.kinds = rest;
    } else if user_new && joined.is_empty() {
        plan.kinds = user;
    }
    rest -= plan.kinds;
    // Whoever has entered another user namespace may have lost the right to enter the
    // cgroup; and whoever has not leaves one pid of pids.max to the program.
    plan.cgroup_at_second = twice && !user_new && !user_joined && !enters;

    if let Some(value) = spec.process.oom_score_adj {
        // By the caller's own /proc, and before it might not be this process's to write.
        plan.push(Step::OomScoreAdj(c_string("process.oom_score_adj", value.to_string())?));
    }
    // Where cgroup namespaces are delegation boundaries (nsdelegate), the cgroup that one
    // comes from cannot be left once it is out of sight: that namespace is joined last.
    let late = if plan.cgroup_at_second { joined & cgroup } else { Kinds::empty() };
    // Where the container's processes see the host's pids, they see this process, and have rights
    // over it once it is in their user namespace.
    if user_joined && !enters && host.privileged() {
        plan.push(Step::Undumpable);
    }
    join(plan, host, joined - late, &mut handles)?;
    if rest.contains(user) {
        plan.push(Step::Unshare(user));
        plan.shared_memory = false;
        rest -= user;
    }
    let (ids, r#become) = match user_new {
        true => map(plan, host).map(|(ids, step)| (ids, Some(step)))?,
        false => (joined_ids(ns.get(Kind::User)), None),
    };
    if let Some(offsets) = offsets {
        // Before this process changes its ids: the file is then root's.
        plan.push(Step::Unshare(time));
        plan.push(Step::TimeOffsets(c_string("time_offsets", offsets.to_string())?));
        rest -= time;
    }
    plan.steps.extend(r#become);
    // The caller's own ids are likely none there: nobody can make files, and somebody who is
    // nobody inside may still be root outside.
    if user_joined && (new.contains(Kinds::from(Kind::Mnt)) || spec.process.user.is_none()) {
        plan.push(joined_root(ns.get(Kind::User), ids.setgroups));
    }
    if (new | joined).contains(time) {
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

/// Joins what is to be joined. A caller with privileges enters the user namespace last,
/// lest it lose them; one without enters it first, to gain some.
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
            Namespace::Join(Join::Pid(pid)) => {
                // Several of one process at once, but for the user namespace of a
                // privileged caller.
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
                    Some((meant, pidfd)) if meant == pid => pidfd
                        .try_clone()
                        .map_err(|e| Error::io(ErrorKind::Process, "copy a descriptor", "fcntl", &e))?,
                    _ => Pidfd::open(*pid)?.into(),
                };
                steps.push(Step::JoinPidfd { kinds: kind.into(), pidfd, pid: *pid });
            }
            Namespace::Join(Join::Path(path)) => {
                let namespace = ns_core::Namespace::open(path)?;
                if namespace.kind() != kind {
                    let problem = format!("{} is a {} namespace", path.display(), namespace.kind().name());
                    return Err(Error::invalid(&field, problem));
                }
                let from = path.display().to_string();
                steps.push(Step::JoinFd { kind, ns: namespace.into(), from });
            }
            Namespace::Join(Join::Handle) => {
                let Some(at) = handles.iter().position(|n| n.kind() == kind) else {
                    return Err(Error::invalid(&field, "no namespace was handed over to join"));
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

/// Maps the ids of a new user namespace: one of each sort the child can write itself, a
/// range takes the parent.
fn map(plan: &mut Plan, host: &Host) -> Result<(Ids, Step), Error> {
    let (uid, gid) = match &plan.spec.id_maps {
        IdMaps::Auto => host.auto_maps(),
        IdMaps::Single => (IdMap::single(0, host.uid), IdMap::single(0, host.gid)),
        IdMaps::Maps { uid, gid } => (uid.clone(), gid.clone()),
    };
    for (field, map) in [("id_maps.uid", &uid), ("id_maps.gid", &gid)] {
        map.validate().map_err(|e| Error::invalid(field, e))?;
        if map.extents().is_empty() {
            return Err(Error::invalid(field, "map at least one id"));
        }
    }
    let is_own = |map: &IdMap, own: u32| matches!(map.extents(), [e] if e.outside == own && e.count == 1);
    let single = is_own(&uid, host.uid) && is_own(&gid, host.gid);
    let helpers = !single && !host.privileged();
    if helpers && !host.newidmap {
        return Err(Error::new(
            ErrorKind::IdMap,
            "id_maps: a range of ids takes newuidmap and newgidmap, which are not installed: `apt install uidmap`, or map a single id",
        ));
    }
    // Files are made and mounts done as the root of the namespace, where it has one.
    // A single gid comes with setgroups denied.
    let setgroups = !matches!(gid.extents(), [e] if e.count == 1);
    let r#become = Step::Become { uid: first(&uid), gid: first(&gid), leave_groups: setgroups };
    let tty_group = gid.to_outside(5).is_some();
    if single {
        plan.push(Step::MapSelf {
            uid_map: c_string("id_maps.uid", uid.to_string())?,
            gid_map: c_string("id_maps.gid", gid.to_string())?,
        });
    } else {
        plan.push(Step::AwaitMaps);
        plan.maps = Some(Maps { uid, gid, helpers });
        plan.shared_memory = false;
    }
    Ok((Ids { foreign: true, new: true, setgroups, tty_group }, r#become))
}

/// The maps of the user namespace that the plan makes, if it does.
pub(super) fn new_maps(plan: &Plan) -> Option<(IdMap, IdMap)> {
    if let Some(maps) = &plan.maps {
        return Some((maps.uid.clone(), maps.gid.clone()));
    }
    plan.steps.iter().find_map(|step| match step {
        Step::MapSelf { uid_map, gid_map } => {
            Some((uid_map.to_str().ok()?.parse().ok()?, gid_map.to_str().ok()?.parse().ok()?))
        }
        _ => None,
    })
}

/// Become root of a user namespace that is not made here, or the first id that it has.
fn joined_root(user: &Namespace, leave_groups: bool) -> Step {
    let first = |ids| match user {
        Namespace::Join(Join::Pid(pid)) => IdMap::of_pid(*pid, ids).map_or(0, |map| first(&map)),
        _ => 0,
    };
    Step::Become { uid: first(ns_core::Ids::Uid), gid: first(ns_core::Ids::Gid), leave_groups }
}

/// Root, where the map has it, or else its first id.
fn first(map: &IdMap) -> u32 {
    match map.to_outside(0) {
        Some(_) => 0,
        None => map.extents().first().map_or(0, |extent| extent.inside),
    }
}

/// What is known of a user namespace that is not made here.
fn joined_ids(user: &Namespace) -> Ids {
    let read = |pid: &i32, name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    match user {
        Namespace::Join(Join::Pid(pid)) => Ids {
            foreign: true,
            new: false,
            setgroups: read(pid, "setgroups").is_none_or(|s| s.trim() == "allow"),
            tty_group: read(pid, "gid_map")
                .and_then(|s| s.parse::<IdMap>().ok())
                .is_some_and(|map| map.to_outside(5).is_some()),
        },
        Namespace::Join(_) => Ids { foreign: true, new: false, setgroups: true, tty_group: false },
        _ => Ids { foreign: false, new: false, setgroups: true, tty_group: true },
    }
}
