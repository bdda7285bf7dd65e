//! The ids of a container: the maps of its user namespace.

use std::fs;
use std::path::PathBuf;

use ns_core::IdMap;

use crate::error::{Error, ErrorKind};
use crate::host::Host;
use crate::plan::data::{Maps, Plan};
use crate::plan::text::c_string;
use crate::spec::{IdMaps, Join, NamespaceMode};
use crate::step::Step;

/// Properties of the container's ids in its user namespace.
pub(super) struct Ids {
    /// Whether the user namespace differs from the caller's.
    pub(super) foreign: bool,
    /// Whether the plan makes the user namespace.
    pub(super) new: bool,
    /// Whether setgroups(2) is allowed.
    pub(super) setgroups: bool,
    /// Whether gid 5 (terminals) is mapped.
    pub(super) tty_group: bool,
}

impl Ids {
    /// Returns the ids of a user namespace that the plan does not make.
    ///
    /// # Errors
    /// A file of the joined process cannot be read.
    pub(super) fn of_joined(user: &NamespaceMode) -> Result<Ids, Error> {
        Ok(match user {
            NamespaceMode::Join(Join::Pid(pid)) => Ids {
                foreign: true,
                new: false,
                setgroups: read(*pid, "setgroups")?.is_none_or(|s| s.trim() == "allow"),
                tty_group: read(*pid, "gid_map")?
                    .and_then(|s| s.parse::<IdMap>().ok())
                    .is_some_and(|map| map.to_outside(5).is_some()),
            },
            NamespaceMode::Join(_) => Ids { foreign: true, new: false, setgroups: true, tty_group: false },
            _ => Ids { foreign: false, new: false, setgroups: true, tty_group: true },
        })
    }
}

/// Reads a file of a process in `/proc`. Returns `None` if the process has ended, which the step that joins it
/// reports.
fn read(pid: i32, name: &str) -> Result<Option<String>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/{name}"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(e) => Err(Error::path("id-maps", "read", &path, &e)),
    }
}

/// Returns the step in which the child changes to the owner of the namespace that it is about to
/// make; `None` if the caller is the owner.
pub(super) fn owner(plan: &Plan, host: &Host) -> Result<Option<Step>, Error> {
    let IdMaps::Own { uid, .. } = &plan.spec.id_maps else { return Ok(None) };
    if !host.privileged() {
        let problem = format!(
            "a namespace with another owner requires CAP_SYS_ADMIN: {}, or use other id maps",
            nspod_errno::how_to_get_sys_admin()
        );
        return Err(Error::invalid("id_maps", problem));
    }
    Ok(uid.to_outside(first(uid)).map(Step::Owner))
}

/// Adds the steps that map the ids of a new user namespace. The child can map a single id itself; a
/// range requires the parent.
///
/// Returns the ids, and the step in which the child becomes root of the namespace.
pub(super) fn add(plan: &mut Plan, host: &Host) -> Result<(Ids, Step), Error> {
    let (uid, gid) = match &plan.spec.id_maps {
        IdMaps::Auto => host.auto_maps(),
        IdMaps::Single => (IdMap::single(0, host.uid), IdMap::single(0, host.gid)),
        IdMaps::Maps { uid, gid } | IdMaps::Own { uid, gid } => (uid.clone(), gid.clone()),
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
            ErrorKind::Unsupported,
            "plan",
            "a range of ids requires newuidmap and newgidmap, which are not installed: `apt install uidmap`, or map a single id",
        )
        .with_field("id_maps"));
    }
    // The namespace's root, if it is mapped, makes files and mounts. With a single gid,
    // setgroups(2) is denied.
    let setgroups = !matches!(gid.extents(), [e] if e.count == 1);
    let becomes = Step::Become { uid: first(&uid), gid: first(&gid), leave_groups: setgroups };
    let tty_group = gid.to_outside(5).is_some();
    if single {
        plan.push(Step::MapSelf {
            uid_map: c_string("id_maps.uid", uid.to_string())?,
            gid_map: c_string("id_maps.gid", gid.to_string())?,
        });
    } else {
        plan.push(Step::AwaitMaps);
        plan.maps = Some(Maps { uid, gid, helpers });
        // The ids of the range make the memory undumpable. The other threads of an ordinary user's program
        // could then not open their files in /proc/self.
        plan.shared_memory &= !helpers;
    }
    Ok((Ids { foreign: true, new: true, setgroups, tty_group }, becomes))
}

/// Returns the maps of the user namespace that the plan makes, if it makes one.
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

/// Returns the step that becomes root of a joined user namespace, or its first id.
pub(super) fn become_joined_root(user: &NamespaceMode, leave_groups: bool) -> Step {
    let first = |ids| match user {
        NamespaceMode::Join(Join::Pid(pid)) => IdMap::of_pid(*pid, ids).map_or(0, |map| first(&map)),
        _ => 0,
    };
    Step::Become { uid: first(ns_core::Ids::Uid), gid: first(ns_core::Ids::Gid), leave_groups }
}

/// Returns 0 if the map contains it, otherwise the map's first id.
fn first(map: &IdMap) -> u32 {
    match map.to_outside(0) {
        Some(_) => 0,
        None => map.extents().first().map_or(0, |extent| extent.inside),
    }
}
