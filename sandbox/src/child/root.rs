//! The change to the new root, and to the working directory.

use ::core::ffi::{CStr, c_int};
use ::core::ops::Deref;
use ::core::option::Option::Some;
use ::core::result::Result::{Err, Ok};
use ::libc;

use super::context::ChildContext;
use super::mount::{NO_ATTRIBUTES, O_PATH_DIR, READ_ONLY, new_mount, set_attributes};
use super::sys::{
    self, Done, Fault, chroot_here, close, fchdir, getcwd, move_mount, openat, openat2, pivot_root_here,
    umount2,
};
use crate::step::{Call, Slot};

/// Makes the new root `/` by pivot_root(2), and unmounts the old root. `shared` means that mounts
/// of the old root may also be the host's.
pub(super) fn pivot_root(readonly: bool, shared: bool, context: &ChildContext<'_>) -> Done {
    let root = context.slot(Slot::Root);
    let old = if shared { openat(libc::AT_FDCWD, c"/", O_PATH_DIR, 0)? } else { -1 };
    fchdir(root)?;
    pivot_root_here()?;
    if shared {
        set_attributes(old, NO_ATTRIBUTES, libc::MS_SLAVE, true)?;
        close(old);
    }
    // The old root is mounted over the new one. A tmpfs over the old root is still there: `/..`
    // leads to the uppermost mount, which umount2(2) removes.
    const MOST: u8 = 100;
    for _ in 0..MOST {
        umount2(c".", libc::MNT_DETACH)?;
        match openat2(root, c"..", O_PATH_DIR, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_XDEV) {
            Ok(fd) => {
                close(fd);
                set_read_only(root, readonly)?;
                return sys::chdir(c"/");
            }
            Err(fault) if fault.errno == libc::EXDEV => {}
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault { call: Call::Umount2, errno: libc::EBUSY })
}

fn set_read_only(root: c_int, readonly: bool) -> Done {
    match readonly {
        true => set_attributes(root, READ_ONLY, 0, false),
        false => Ok(()),
    }
}

/// Makes the new root `/` by chroot(2). If `over` is set, mounts the new root over `/` first.
/// Unmounts the mounts of `hide` first.
pub(super) fn change_root<P: Deref<Target = CStr>>(
    over: bool,
    readonly: bool,
    hide: &[P],
    context: &ChildContext<'_>,
) -> Done {
    let root = context.slot(Slot::Root);
    for path in hide.iter() {
        // If a mount is missing, it was on another mount and was unmounted with it.
        match unmount_or_cover(path) {
            Err(fault) if fault.errno == libc::ENOENT => {}
            other => other?,
        }
    }
    if over {
        move_mount(root, libc::AT_FDCWD, c"/")?;
    }
    enter_root(root)?;
    set_read_only(root, readonly)
}

/// Unmounts a mount, or covers it if this user namespace inherited it and may not unmount it.
fn unmount_or_cover(path: &CStr) -> Done {
    match umount2(path, libc::MNT_DETACH) {
        Err(fault) if fault.errno == libc::EINVAL || fault.errno == libc::EPERM => {
            let cover = new_mount(c"tmpfs", &[], libc::MOUNT_ATTR_RDONLY)?;
            let covered = move_mount(cover, libc::AT_FDCWD, path);
            close(cover);
            covered
        }
        other => other,
    }
}

/// Makes an open directory `/`, by chroot(2).
pub(super) fn enter_root(root: c_int) -> Done {
    fchdir(root)?;
    chroot_here()?;
    sys::chdir(c"/")
}

/// Enters the working directory. If `again` is set and the caller may not enter the directory, a
/// later step tries again.
pub(super) fn enter_directory(path: &CStr, again: bool, context: &mut ChildContext<'_>) -> Done {
    match chdir(path) {
        Ok(()) => {
            context.entered = true;
            Ok(())
        }
        Err(fault) if again && (fault.errno == libc::EACCES || fault.errno == libc::EPERM) => Ok(()),
        other => other,
    }
}

/// Enters the working directory unless an earlier step has entered it.
pub(super) fn enter_directory_as_user(path: &CStr, context: &ChildContext<'_>) -> Done {
    if context.entered { Ok(()) } else { chdir(path) }
}

/// Changes the working directory, and checks that it has a path from the root: a descriptor that
/// leaked from the host must not become the working directory.
fn chdir(path: &CStr) -> Done {
    sys::chdir(path)?;
    let mut name = [0u8; libc::PATH_MAX as usize];
    getcwd(&mut name)?;
    match name.first() {
        Some(b'/') => Ok(()),
        _ => Err(Fault { call: Call::Getcwd, errno: libc::EXDEV }),
    }
}
