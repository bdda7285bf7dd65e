//! Ids, capabilities, keyrings, security labels, and other attributes of the program's process.

use ::core::ffi::{CStr, c_int, c_ulong};
use ::core::iter::Iterator;
use ::core::option::Option::{self, Some};
use ::core::result::Result::{self, Err, Ok};
use ::libc;

use super::file::{proc_at_root, write_beneath};
use super::mount::new_mount;
use super::sys::{
    Done, Fault, capset, clear_ambient, close, drop_bounding, dup3, ioprio_set, join_session_keyring,
    keep_on_exec, raise_ambient, set_ids, set_key_permissions, setgroups,
};
use crate::step::capability_words;

/// Sets supplementary groups, group id and user id.
pub(super) fn credentials(uid: u32, gid: u32, groups: Option<&[u32]>) -> Done {
    if let Some(groups) = groups {
        setgroups(groups)?;
    }
    set_ids(uid, gid)
}

/// Sets the capability sets.
pub(super) fn capabilities(effective: u64, permitted: u64, inheritable: u64) -> Done {
    let (header, sets) = capability_words(effective, permitted, inheritable);
    capset(&header, &sets)
}

/// Sets the ambient capabilities.
pub(super) fn ambient(mask: u64) -> Done {
    clear_ambient()?;
    for capability in bits(mask) {
        raise_ambient(capability)?;
    }
    Ok(())
}

/// Removes capabilities from the bounding set.
pub(super) fn bounding(mask: u64) -> Done {
    for capability in bits(mask) {
        match drop_bounding(capability) {
            // The kernel has no capability with this number or a higher one.
            Err(fault) if fault.errno == libc::EINVAL => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// Returns the numbers of the bits that are set.
fn bits(mask: u64) -> impl Iterator<Item = c_ulong> {
    (0..64).filter(move |bit| mask.wrapping_shr(*bit) & 1 == 1).map(|bit: u32| bit as c_ulong)
}

/// Sets class and level of the I/O priority.
pub(super) fn io_priority(class: u8, level: u8) -> Done {
    /// `IOPRIO_CLASS_SHIFT`.
    const CLASS: u32 = 13;
    ioprio_set((class as c_int).wrapping_shl(CLASS) | level as c_int)
}

/// Joins or makes the session keyring of this name. Does nothing on a kernel without keyrings.
pub(super) fn keyring(name: &CStr) -> Done {
    // Permissions of a session keyring for its possessor and its user. The user may also find the
    // keyring, so that a later process of the container can join it.
    const PERMISSIONS: u32 = 0x3f1b_0000;
    let id = match join_session_keyring(name) {
        Err(fault) if fault.errno == libc::ENOSYS => return Ok(()),
        other => other?,
    };
    match set_key_permissions(id, PERMISSIONS) {
        // The name belongs to a keyring of another user.
        Err(fault) if fault.errno == libc::EACCES => Ok(()),
        other => other,
    }
}

/// Sets the label of the next program through a security module's file below `/proc`. The file
/// belongs to the kernel's procfs: [`write_beneath`] ensures that.
pub(super) fn label(file: &CStr, text: &CStr) -> Done {
    let root = proc_root()?;
    let written = write_beneath(root, file, text, libc::RESOLVE_NO_MAGICLINKS);
    close(root);
    written
}

/// Opens the root of a procfs as `to`, for the stage. `enters` means that the program starts in a
/// joined pid namespace: a new procfs would then show another pid namespace.
pub(super) fn proc(to: c_int, enters: bool) -> Done {
    let root = if enters { proc_at_root()? } else { proc_root()? };
    if root == to {
        return keep_on_exec(to);
    }
    dup3(root, to)?;
    close(root);
    Ok(())
}

/// Opens the root of the container's procfs. Opens the root of a new procfs if `/proc` in the
/// container is not a procfs.
fn proc_root() -> Result<c_int, Fault> {
    proc_at_root().or_else(|_| new_mount(c"proc", &[], 0))
}
