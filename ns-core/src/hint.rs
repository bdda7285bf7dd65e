//! Why the kernel refuses new namespaces: asks the host's own switches.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Uid;

use crate::{Error, ErrorKind, Kind, Kinds};

/// Adds the likely cause of a failed clone3 or unshare.
pub(crate) fn new_namespaces(error: Error, errno: Errno, kinds: Kinds) -> Error {
    match errno {
        Errno::EPERM if !kinds.contains_kind(Kind::User) => error.hint(
            "this needs CAP_SYS_ADMIN: run as root, or ask for a new user namespace along \
             with the others",
        ),
        Errno::EPERM | Errno::EACCES => error.hint(user_switch().unwrap_or_else(|| {
            "user namespaces are forbidden to this process: by a chroot it is in, by a \
             seccomp filter (that of a container manager), or by a security module"
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
            "memory is short, or the init of the pid namespace for the caller's children has \
             ended, after which no process can be made in it",
        ),
        Errno::ENOSYS => {
            error.hint("this kernel or a seccomp filter (that of a container manager) lacks the call")
        }
        _ => error,
    }
}

fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Which switch of the host forbids user namespaces to the caller, an ordinary user.
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

/// Which limit on the number of namespaces is reached.
fn limit(kinds: Kinds) -> String {
    let zero = kinds
        .kinds()
        .map(|kind| format!("user.max_{kind}_namespaces"))
        .find(|name| sysctl(name).as_deref() == Some("0"));
    match zero {
        Some(name) => format!("the sysctl {name} is 0: none may be made"),
        None => "a limit is reached: the sysctls user.max_*_namespaces (of this or an outer \
                 user namespace), or 32 levels of pid or user namespaces"
            .into(),
    }
}

/// Whether this kernel has namespaces of the kind; unknown counts as yes.
pub(crate) fn supported(kind: Kind) -> bool {
    // Mount namespaces have no kernel option: where their link is missing, so is /proc.
    std::fs::symlink_metadata(format!("/proc/thread-self/ns/{kind}")).is_ok()
        || std::fs::symlink_metadata("/proc/thread-self/ns/mnt").is_err()
}

/// The likely cause of a failure below `/proc/PID`.
pub(crate) fn of_proc(error: Error, errno: Errno) -> Error {
    match errno {
        Errno::ENOENT | Errno::ESRCH if Path::new("/proc/thread-self").exists() => error
            .with_kind(ErrorKind::NoSuchProcess)
            .hint("no such process here: it has ended, or lives outside this pid namespace"),
        Errno::ENOENT => error.hint("/proc is not mounted here"),
        Errno::EACCES | Errno::EPERM => error.hint(
            "this needs the uid of that process, or CAP_SYS_PTRACE in its user namespace; \
             /proc mounted with hidepid= or a security module may forbid it too",
        ),
        _ => error,
    }
}
