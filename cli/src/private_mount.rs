//! A directory that is a mount of its own with private propagation: no other mount namespace gets a copy of the
//! mounts in it.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::{Errno, Result};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change};

/// Turns a directory into such a mount.
pub(crate) fn mount(dir: &Path) -> Result<()> {
    mount_bind(dir, dir)?;
    mount_change(dir, MountPropagationFlags::PRIVATE)
}

/// Unmounts the directory with the mounts in it. Does nothing if the mount or the directory does not exist, or if the
/// caller cannot have made a mount.
pub(crate) fn unmount(dir: &Path) -> Result<()> {
    match rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        // The kernel checks the caller's rights first, also if nothing is mounted.
        Err(Errno::PERM) if !is_mount(dir) => Ok(()),
        done => done,
    }
}

fn is_mount(dir: &Path) -> bool {
    let found = statx(CWD, dir, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
