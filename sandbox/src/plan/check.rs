//! Checks that require no facts about the host.

use std::os::fd::OwnedFd;
use std::path::Path;

use cgroup_core::Max;
use ns_core::Kind;

use crate::error::Error;
use crate::plan::names::check_sysctl;
use crate::spec::{IdMaps, MountKind, NamespaceMode, Root, Spec, StorageLimit};

/// Checks a spec.
pub(super) fn check(spec: &Spec) -> Result<(), Error> {
    let ns = &spec.namespaces;
    // An init without a program holds the namespaces of a pod.
    let nameless = spec.process.args.first().is_none_or(|arg| arg.is_empty());
    if nameless && !(spec.init == Some(true) && spec.process.args.is_empty()) {
        return Err(Error::invalid("process.args", "a program is required"));
    }
    check_mounts(spec)?;
    check_storage(spec)?;
    for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        let Some(name) = name else { continue };
        if *ns.get(Kind::Uts) == NamespaceMode::Host {
            let problem = "a name requires a new or joined uts namespace, or the host would be renamed";
            return Err(Error::invalid(field, problem));
        }
        if name.len() > 64 {
            return Err(Error::invalid(field, "a name has at most 64 bytes"));
        }
    }
    // The maps of a joined namespace only describe it.
    let makes_maps = match spec.id_maps {
        IdMaps::Auto => false,
        IdMaps::Own { .. } => !matches!(ns.user, NamespaceMode::Join(_)),
        IdMaps::Single | IdMaps::Maps { .. } => true,
    };
    let requires_new = [
        ("init", spec.has_init(), Kind::Pid, "an init requires a new pid namespace, because it is pid 1"),
        (
            "time_offsets",
            spec.time_offsets.is_some(),
            Kind::Time,
            "clock offsets require a new time namespace",
        ),
        ("id_maps", makes_maps, Kind::User, "id maps require a new user namespace"),
    ];
    for (field, set, kind, problem) in requires_new {
        if set && !ns.is_new(kind) {
            return Err(Error::invalid(field, problem));
        }
    }
    if let Some(value) = spec.process.oom_score_adj
        && !(-1000..=1000).contains(&value)
    {
        let problem = format!("{value} is not between -1000 and 1000");
        return Err(Error::invalid("process.oom_score_adj", problem));
    }
    for (name, value) in &spec.sysctls {
        check_sysctl(name, value, spec)?;
    }
    spec.limits.validate()?;
    if spec.has_init() && spec.process.scheduler.as_ref().is_some_and(|scheduler| !scheduler.is_inherited()) {
        let problem =
            "an init would have this scheduling policy, and the program, its child, would not inherit it";
        return Err(Error::invalid("init", problem));
    }
    if spec.has_init() && !spec.process.args.is_empty() && spec.limits.pids_max == Some(Max::Value(1)) {
        let problem =
            "1 leaves no room for the program, because the init is a process too: use at least 2, or no init";
        return Err(Error::invalid("limits.pids_max", problem));
    }
    Ok(())
}

/// Checks that mounts are made in a new mount namespace, unless they must stay.
fn check_mounts(spec: &Spec) -> Result<(), Error> {
    let new = spec.namespaces.is_new(Kind::Mnt);
    if spec.mounts_stay {
        let problem = match &spec.root {
            _ if new => "mounts cannot stay in a new mnt namespace, because they end with it",
            Root::Dir { path, .. } if path != Path::new("/") => return Ok(()),
            _ => "the root must be a directory other than /",
        };
        return Err(Error::invalid("mounts_stay", problem));
    }
    if new {
        return Ok(());
    }
    let host_mounts = [
        ("mounts", spec.mounts.is_empty()),
        ("nodes", spec.nodes.is_empty()),
        ("links", spec.links.is_empty()),
        ("propagation", spec.propagation.is_none()),
        ("masked_paths", spec.masked_paths.is_empty()),
        ("readonly_paths", spec.readonly_paths.is_empty()),
    ];
    if let Some((field, _)) = host_mounts.into_iter().find(|(_, empty)| !empty) {
        let problem = "this requires a new mnt namespace, or the host would be changed";
        return Err(Error::invalid(field, problem));
    }
    match spec.root {
        Root::Host => Ok(()),
        _ => Err(Error::invalid("root", "a container root requires a new mnt namespace")),
    }
}

/// Checks the limits of the root's writes and of the mounts.
fn check_storage(spec: &Spec) -> Result<(), Error> {
    let positive = |field: &str, limit: StorageLimit| {
        let zero = [("size", limit.size), ("inodes", limit.inodes)].into_iter().find(|(_, n)| *n == Some(0));
        match zero {
            Some((name, _)) => Err(Error::invalid(
                format!("{field}.{name}"),
                "a limit of 0 means no limit to the kernel: leave it out, or use a positive number",
            )),
            None => Ok(()),
        }
    };
    if let Root::Overlay { limit, .. } = &spec.root {
        positive("root.limit", *limit)?;
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        let field = format!("mounts[{index}].limit");
        positive(&field, mount.limit)?;
        let problem = match &mount.kind {
            _ if mount.limit.is_empty() => continue,
            MountKind::Tmpfs { .. } | MountKind::Bind { recursive: false, .. } => continue,
            MountKind::Bind { .. } => "the mounts below it would not be limited: bind it without them",
            _ => "only a tmpfs and the bind of a directory can be limited",
        };
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

/// Checks the numbers of the descriptors that the program inherits.
pub(super) fn check_descriptors(inherited: &[(OwnedFd, i32)]) -> Result<(), Error> {
    // The kernel's default of fs.nr_open.
    const END: i32 = 1 << 20;
    for (at, (_, to)) in inherited.iter().enumerate() {
        if !(3..END).contains(to) {
            return Err(Error::invalid("descriptors", format!("{to} is not between 3 and {}", END - 1)));
        }
        if inherited[..at].iter().any(|(_, other)| other == to) {
            return Err(Error::invalid("descriptors", format!("two descriptors have the number {to}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Mount;

    #[test]
    fn a_limit_that_cannot_hold_is_refused() {
        let limit = StorageLimit::of_size(1 << 20);
        let bind = |recursive| MountKind::Bind { source: "/v".into(), recursive };
        let mount = |kind, limit| {
            let mut spec = Spec::new("true");
            spec.mounts = vec![Mount { limit, ..Mount::new("/mnt", kind) }];
            check_storage(&spec)
        };
        assert!(mount(bind(false), limit).is_ok() && mount(MountKind::Tmpfs { mode: None }, limit).is_ok());
        for (refused, problem) in [
            (mount(bind(true), limit), "the mounts below it would not be limited"),
            (mount(MountKind::Proc, limit), "only a tmpfs and the bind of a directory can be limited"),
            (mount(bind(false), StorageLimit::of_size(0)), "a limit of 0 means no limit"),
        ] {
            let error = refused.unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
            assert!(error.field().is_some_and(|field| field.starts_with("mounts[0].limit")), "{error}");
        }
    }
}
