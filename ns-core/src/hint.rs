//! Likely causes of an errno. Some depend on sysctls of the host, which this module reads.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Uid;

use crate::{Error, ErrorKind, Kind, Kinds};

/// Adds the likely cause of a failed clone3 or unshare.
pub(crate) fn new_namespaces(error: Error, errno: Errno, kinds: Kinds) -> Error {
    match errno {
        Errno::EPERM if !kinds.contains_kind(Kind::User) => error.hint(format!(
            "new namespaces require CAP_SYS_ADMIN: {}, or create a user namespace together with the others",
            nspod_errno::how_to_get_sys_admin()
        )),
        Errno::EPERM | Errno::EACCES => error.hint(user_switch().unwrap_or_else(|| {
            "this process may not create user namespaces: it is in a chroot, or a seccomp filter \
             (of a container manager) or a security module forbids it"
                .into()
        })),
        Errno::ENOSPC | Errno::EUSERS => error.hint(limit(kinds)),
        Errno::EINVAL => match kinds.kinds().find(|kind| !supported(*kind)) {
            Some(kind) => {
                error.with_kind(ErrorKind::Unsupported).hint(format!("this kernel has no {kind} namespaces"))
            }
            None => error,
        },
        Errno::ENOMEM => error.hint(
            "the host is out of memory, or the init of the caller's pid namespace for children has \
             ended, so that no process can be created there",
        ),
        Errno::ENOSYS => {
            error.hint("the kernel lacks the call, or a seccomp filter (of a container manager) refuses it")
        }
        _ => error,
    }
}

fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Returns the sysctl that forbids user namespaces to the caller, if the caller is not root.
pub(crate) fn user_switch() -> Option<String> {
    if Uid::effective().is_root() {
        return None;
    }
    let off = [
        ("user.max_user_namespaces", "0", "a number such as 15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            "0, or give the program an AppArmor profile with `userns,`",
        ),
    ];
    off.into_iter().find(|(name, value, _)| sysctl(name).as_deref() == Some(value)).map(
        |(name, value, cure)| {
            format!("this host forbids user namespaces: {name} is {value}; set it to {cure}")
        },
    )
}

/// Describes the limit on the number of namespaces that is reached.
fn limit(kinds: Kinds) -> String {
    let zero = kinds
        .kinds()
        .map(|kind| format!("user.max_{kind}_namespaces"))
        .find(|name| sysctl(name).as_deref() == Some("0"));
    match zero {
        Some(name) => format!("the sysctl {name} is 0: no such namespace may be created"),
        None => "a limit is reached: a sysctl user.max_*_namespaces (of this or an outer user \
                 namespace), or 32 levels of pid or user namespaces"
            .into(),
    }
}

/// Returns whether this kernel has namespaces of the kind; `true` if that is unknown.
pub(crate) fn supported(kind: Kind) -> bool {
    // Mount namespaces have no kernel option: if their link is missing, /proc is.
    std::fs::symlink_metadata(format!("/proc/thread-self/ns/{kind}")).is_ok()
        || std::fs::symlink_metadata("/proc/thread-self/ns/mnt").is_err()
}

/// Adds the likely cause of a failure below `/proc/PID`.
pub(crate) fn of_proc(error: Error, errno: Errno) -> Error {
    match errno {
        Errno::ENOENT | Errno::ESRCH if Path::new("/proc/thread-self").exists() => error
            .with_kind(ErrorKind::NoSuchProcess)
            .hint("the process has ended, or is outside this pid namespace"),
        Errno::ENOENT => error.hint("/proc is not mounted"),
        Errno::EACCES | Errno::EPERM => error.hint(
            "this requires the uid of that process, or CAP_SYS_PTRACE in its user namespace; a \
             /proc mounted with hidepid= or a security module may also forbid it",
        ),
        _ => error,
    }
}
