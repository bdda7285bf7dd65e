//! Checks each kind of namespace, and the ids that user namespaces may map.

use std::path::Path;

use ns_core::{Ids, Kind, SubIds};

use super::probe;
use super::report::{Group, Mark};

pub(super) fn check(privileged: bool) -> Group {
    let mut group = Group::new("namespaces");
    for kind in Kind::ALL {
        match probe::run(kind.name()) {
            Ok(()) => group.ok(kind.name(), limit(kind)),
            Err(why) => group.add(kind.name(), Mark::Missing, why),
        }
    }
    if privileged {
        group.tried("user, by ordinary users", Mark::Limited, probe::run_as_nobody("user"));
    } else {
        ranges(&mut group);
    }
    group
}

/// Returns the limit on namespaces of a kind per user.
fn limit(kind: Kind) -> String {
    let path = format!("/proc/sys/user/max_{kind}_namespaces");
    let limit = std::fs::read_to_string(path).unwrap_or_default();
    if limit.is_empty() { String::new() } else { format!("at most {} per user", limit.trim()) }
}

/// Checks which ids a caller without privileges may map besides its own.
fn ranges(group: &mut Group) {
    for (ids, file, option) in [(Ids::Uid, "/etc/subuid", "uids"), (Ids::Gid, "/etc/subgid", "gids")] {
        match SubIds::of_caller(ids) {
            Ok(ranges) if !ranges.is_empty() => {
                let count: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
                group.ok(file, format!("{count} ids"));
            }
            Ok(_) => group.add(
                file,
                Mark::Limited,
                format!(
                    "no ids for this user, so containers have a single id; \
                     as root: usermod --add-sub{option} 100000-165535 USER"
                ),
            ),
            Err(e) => group.add(file, Mark::Limited, e.to_string()),
        }
    }
    for program in ["newuidmap", "newgidmap"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        match std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file()) {
            Some(path) => group.ok(program, path.to_string_lossy()),
            None => group.add(
                program,
                Mark::Limited,
                "not on PATH, so the ids of /etc/subuid and /etc/subgid cannot be used; \
                 on Debian and Ubuntu: apt install uidmap",
            ),
        }
    }
    let switch = Path::new("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if std::fs::read_to_string(switch).is_ok_and(|text| text.trim() == "1") {
        group.add(
            "AppArmor",
            Mark::Limited,
            "kernel.apparmor_restrict_unprivileged_userns is 1, which removes the capabilities in new user \
             namespaces; as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
}
