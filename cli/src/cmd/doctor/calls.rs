//! Checks the system calls that a start needs.

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use ns_core::{Kinds, Pidfd};
use nspod_sandbox::spec::{Mount, MountKind, Seccomp, Spec};

use super::report::{Group, Mark};
use super::{probe, trial};
use crate::error::{Error, Result};

pub(super) fn check(privileged: bool) -> Group {
    let mut group = Group::new("kernel calls");
    for what in ["fsopen", "open_tree", "move_mount"] {
        group.tried(what, Mark::Missing, probe::run(what));
    }
    group.tried("mount_setattr", Mark::Missing, trial::start(&read_only_bind(privileged)));
    group.tried("openat2", Mark::Missing, openat2_in_root());
    group.tried("pidfd_open", Mark::Missing, Pidfd::open(std::process::id() as i32).map(drop));
    match exit_info() {
        Ok(()) => group.ok("PIDFD_GET_INFO", ""),
        Err(e) => group.add(
            "PIDFD_GET_INFO",
            Mark::Limited,
            format!("{e}; the exit status of a detached container is known only with an init"),
        ),
    }
    group.tried("overlayfs", Mark::Limited, trial::overlay(privileged));
    if privileged {
        group.tried("overlayfs, rootless", Mark::Limited, probe::run_as_nobody("rootless overlay"));
    }
    group.tried("seccomp filter", Mark::Missing, trial::start(&filtered()));
    group
}

/// A program with a recursive read-only bind mount.
fn read_only_bind(privileged: bool) -> Spec {
    let mut spec = Spec::bare("/proc/self/exe");
    spec.process.args = trial::nothing();
    spec.namespaces = trial::new(privileged, Kinds::MNT);
    let bind = MountKind::Bind { source: "/tmp".into(), recursive: true };
    spec.mounts = vec![Mount { readonly: true, ..Mount::new("/tmp", bind) }];
    spec
}

fn filtered() -> Spec {
    let mut spec = Spec::bare("/proc/self/exe");
    spec.process.args = trial::nothing();
    spec.process.no_new_privs = true;
    spec.process.seccomp = Seccomp::Standard;
    spec
}

fn openat2_in_root() -> Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(AT_FDCWD, "/", how).map(drop).map_err(|e| {
        Error::call("doctor", "open /", "openat2", e)
            .hint("root file systems cannot be used safely without it: use Linux 5.6 or later")
    })
}

/// Returns whether a pidfd returns the exit status to a process that is not the parent (since Linux 6.15).
fn exit_info() -> Result<()> {
    let path = std::path::Path::new("/proc/self/exe");
    let mut child = std::process::Command::new(path)
        .args(&trial::nothing()[1..])
        .spawn()
        .map_err(|e| Error::io("doctor", "start", path, &e))?;
    let pidfd = Pidfd::open(child.id() as i32);
    child.wait().map_err(|e| Error::io("doctor", "wait for", path, &e))?;
    pidfd?.exit_info()?;
    Ok(())
}
