//! Runs a probe that changes the process in which it runs.

use std::os::fd::AsFd;

use ns_core::{Kind, Kinds};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::{caller, trial};
use crate::error::{Error, Result};

/// Runs a probe in this process.
pub(super) fn act(what: &str) -> Result<()> {
    match what {
        "nothing" => Ok(()),
        "rootless overlay" => trial::overlay(false),
        "fsopen" => fsopen(),
        "open_tree" => open_tree(),
        "move_mount" => move_mount(),
        kind => namespace(kind.parse()?),
    }
}

/// Makes a new namespace, with a new user namespace if the caller is not privileged.
fn namespace(kind: Kind) -> Result<()> {
    let user = if caller::privileged() { Kinds::empty() } else { Kinds::USER };
    Ok(ns_core::unshare(user | kind.into())?)
}

fn private_mounts() -> Result<()> {
    namespace(Kind::Mnt)?;
    let flags = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", flags).map_err(failed("mount"))
}

fn failed(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |e| {
        let errno = nix::errno::Errno::from_raw(e.raw_os_error());
        let error = Error::call("doctor", "use it", call, errno);
        match errno {
            nix::errno::Errno::ENOSYS => {
                error.hint("this kernel, or a seccomp filter of a container manager, lacks the call")
            }
            _ => error,
        }
    }
}

fn tmpfs() -> Result<rustix::fd::OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen"))?;
    rustix::mount::fsconfig_create(context.as_fd()).map_err(failed("fsconfig"))?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(failed("fsmount"))
}

fn fsopen() -> Result<()> {
    private_mounts()?;
    tmpfs().map(drop)
}

fn open_tree() -> Result<()> {
    private_mounts()?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(CWD, "/", flags).map_err(failed("open_tree")).map(drop)
}

fn move_mount() -> Result<()> {
    private_mounts()?;
    let mount = tmpfs()?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", CWD, "/tmp", flags).map_err(failed("move_mount"))?;
    rustix::mount::unmount("/tmp", UnmountFlags::DETACH).map_err(failed("umount2"))
}
