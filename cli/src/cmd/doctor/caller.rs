//! Checks the kernel and the privileges of the caller.

use nspod_sandbox::Host;
use nspod_sandbox::spec::{Capabilities, Spec};

use super::report::{Group, Mark};

/// The capabilities that root needs for all features, each with the consequence of its absence.
const NEEDED: &[(&str, &str)] = &[
    ("CHOWN", "a new root file system cannot be given to the ids of a user namespace"),
    ("DAC_OVERRIDE", "root file systems and volumes of other users cannot be used"),
    ("KILL", "containers of other uids cannot be signalled"),
    ("MKNOD", "--device cannot make device nodes"),
    ("NET_ADMIN", "networks cannot be set up"),
    ("SETFCAP", "user namespaces cannot map uid 0"),
    ("SETGID", "--user and ranges of ids do not work"),
    ("SETUID", "--user and ranges of ids do not work"),
    ("SETPCAP", "capabilities cannot be dropped from the bounding set"),
    ("SYS_ADMIN", "every container needs a user namespace"),
    ("SYS_CHROOT", "mount namespaces cannot be joined: nspod exec does not work"),
    ("SYS_PTRACE", "the namespaces of other users' processes cannot be seen: nspod census is incomplete"),
    ("SYS_RESOURCE", "resource limits (--ulimit) and oom_score_adj can only be lowered, not raised"),
];

fn facts() -> Host {
    Host::detect(&Spec::default()).unwrap_or_default()
}

/// Returns whether the caller may make namespaces and mounts without a user namespace.
pub(super) fn privileged() -> bool {
    facts().privileged()
}

pub(super) fn check() -> Group {
    let mut group = Group::new("caller");
    if let Ok(name) = nix::sys::utsname::uname() {
        group.ok("kernel", format!("Linux {}", name.release().to_string_lossy()));
    }
    let host = facts();
    if !host.privileged() {
        let uid = host.uid;
        group.add(
            "privileges",
            Mark::Limited,
            format!(
                "uid {uid} without CAP_SYS_ADMIN: every container gets a user namespace; for more, {}",
                nspod_errno::how_to_get_sys_admin()
            ),
        );
        return group;
    }
    group.ok("privileges", format!("uid {} with CAP_SYS_ADMIN", host.uid));
    for (name, loss) in lacking(host.capabilities) {
        let cure = format!(
            "grant it where this shell is started (systemd: CapabilityBoundingSet=, containers: --cap-add {name})"
        );
        group.add(format!("CAP_{name}"), Mark::Limited, format!("not held: {loss}; {cure}"));
    }
    group
}

fn lacking(held: u64) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lacks = move |name: &str| Capabilities::bit(name).is_none_or(|bit| held & bit == 0);
    NEEDED.iter().copied().filter(move |(name, _)| lacks(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_checked_capability_has_a_number() {
        assert_eq!(lacking(u64::MAX).count(), 0);
        assert_eq!(lacking(!(1 << 24)).map(|(name, _)| name).collect::<Vec<_>>(), ["SYS_RESOURCE"]);
    }
}
