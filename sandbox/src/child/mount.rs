//! The file system: mounts by descriptor, paths beneath the new root.

use ::core::ffi::{CStr, c_char, c_int};
use ::core::iter::Iterator;
use ::core::mem::size_of_val;
use ::core::option::Option::{None, Some};
use ::core::ptr;
use ::core::result::Result::{self, Err, Ok};
use ::libc;

use super::sys::{Done, Fault, call, close, drop, fchdir, fstat, openat, openat2};
use super::{Loan, set_slot, slot_fd};
use crate::step::{Call, Create, Dest, MountStep, Param, Place, Slot, What};

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

pub(super) fn mount(step: &MountStep, loan: &mut Loan<'_>) -> Done {
    if let What::Overlay { options } = &step.what {
        return mount_overlay(options, step.set, loan);
    }
    let fd = match &step.what {
        What::New { fstype, params } => new_mount(fstype, params, step.set)?,
        What::Bind { source, recursive, tree, device } => {
            let opened = tree.and_then(|index| loan.trees.get(index).copied());
            let fd = match opened {
                Some(fd) => fd,
                None => open_tree(libc::AT_FDCWD, source, *recursive)?,
            };
            if let Some(device) = device {
                is_device(fd, *device)?;
            }
            fd
        }
        What::Overlay { .. } | What::Here => {
            openat(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC, 0)?
        }
    };
    if let What::Bind { .. } = step.what
        && step.set != 0
    {
        mount_setattr(fd, step.set, step.recursive)?;
    }
    match &step.place {
        Place::NewRoot => move_mount(fd, libc::AT_FDCWD, c"/", 0)?,
        Place::In(dest) => {
            let at = destination(dest, loan)?;
            let done = move_mount(fd, at, c"", MOVE_MOUNT_T_EMPTY_PATH);
            close(at);
            done?
        }
        Place::Within(slot, name) => move_mount(fd, slot_fd(loan, *slot), name, 0)?,
        Place::Detached => {}
    }
    match step.keep {
        Some(slot) => set_slot(loan, slot, fd),
        None => close(fd),
    }
    Ok(())
}

pub(super) fn new_mount(fstype: &CStr, params: &[Param], attributes: u64) -> Result<c_int, Fault> {
    let context = call!(Fsopen, libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC)?;
    let config = |command: u32, key: *const c_char, value: *const c_char| {
        call!(Fsconfig, libc::SYS_fsconfig, context, command, key, value, 0)
    };
    for (key, value) in params {
        match value {
            Some(value) => config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?,
            None => config(FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null())?,
        };
    }
    config(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    let fd = call!(Fsmount, libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes)?;
    close(context);
    Ok(fd)
}

/// Overlay by mount(2): its options are longer than `fsconfig` takes. It lands on top of
/// whatever covers `/`, and `/..` leads there.
pub(super) fn mount_overlay(options: &CStr, attributes: u64, loan: &mut Loan<'_>) -> Done {
    let mut flags = 0;
    for (attribute, flag) in [
        (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
    ] {
        if attributes & attribute != 0 {
            flags |= flag;
        }
    }
    call!(
        Mount,
        libc::SYS_mount,
        c"overlay".as_ptr(),
        c"/".as_ptr(),
        c"overlay".as_ptr(),
        flags,
        options.as_ptr()
    )?;
    let fd = openat(libc::AT_FDCWD, c"/..", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC, 0)?;
    set_slot(loan, Slot::Root, fd);
    Ok(())
}

pub(super) fn open_tree(dir: c_int, path: &CStr, recursive: bool) -> Result<c_int, Fault> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    call!(OpenTree, libc::SYS_open_tree, dir, path.as_ptr(), flags)
}

pub(super) fn move_mount(fd: c_int, dir: c_int, path: &CStr, flags: u32) -> Done {
    call!(
        MoveMount,
        libc::SYS_move_mount,
        fd,
        c"".as_ptr(),
        dir,
        path.as_ptr(),
        flags | MOVE_MOUNT_F_EMPTY_PATH
    )
    .map(drop)
}

pub(super) fn mount_setattr(fd: c_int, set: u64, recursive: bool) -> Done {
    let attr = [set, 0, 0, 0];
    let flags = if recursive { AT_EMPTY_PATH | AT_RECURSIVE } else { AT_EMPTY_PATH };
    call!(MountSetattr, libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attr.as_ptr(), size_of_val(&attr))
        .map(drop)
}

/// The descriptor is this character device, whatever its path says.
pub(super) fn is_device(fd: c_int, device: u64) -> Done {
    let stat = fstat(fd)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == device {
        return Ok(());
    }
    Err(Fault { call: Call::Fstat, errno: libc::ENODEV })
}

/// Opens a mount's destination within the new root, and makes it first if so asked.
pub(super) fn destination(dest: &Dest, loan: &Loan<'_>) -> Result<c_int, Fault> {
    let root = slot_fd(loan, dest.base);
    let path = libc::O_PATH | libc::O_CLOEXEC;
    let resolve = if dest.no_links { IN_ROOT | libc::RESOLVE_NO_SYMLINKS } else { IN_ROOT };
    match openat2(root, &dest.path, path, resolve) {
        Err(fault) if fault.errno == libc::ENOENT && dest.create as u8 != Create::No as u8 => {}
        other => return other,
    }
    let mut parent = openat2(root, c".", path, resolve)?;
    let mut rest = dest.parents.iter();
    while let Some((prefix, name)) = rest.next() {
        let last = rest.as_slice().is_empty();
        let next = match openat2(root, prefix, path, resolve) {
            Ok(fd) => fd,
            Err(fault) if fault.errno == libc::ENOENT => {
                if last && dest.create as u8 == Create::File as u8 {
                    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
                    close(openat(parent, name, flags, 0o644)?);
                } else {
                    call!(Mkdirat, libc::SYS_mkdirat, parent, name.as_ptr(), 0o755)?;
                }
                openat2(root, prefix, path, resolve)?
            }
            Err(fault) => return Err(fault),
        };
        close(parent);
        parent = next;
    }
    Ok(parent)
}

pub(super) fn mask(dest: &Dest, loan: &mut Loan<'_>) -> Done {
    let base = slot_fd(loan, dest.base);
    let at = match openat2(base, &dest.path, libc::O_PATH | libc::O_CLOEXEC, IN_ROOT) {
        Ok(fd) => fd,
        Err(fault) if fault.errno == libc::ENOENT || fault.errno == libc::ENOTDIR => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let directory = fstat(at)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let held = slot_fd(loan, Slot::Mask);
    let cover = if !directory {
        let fd = open_tree(libc::AT_FDCWD, c"/dev/null", false)?;
        is_device(fd, libc::makedev(1, 3))?;
        fd
    } else if held >= 0 {
        open_tree(held, c"", false)?
    } else {
        let attributes = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC;
        new_mount(c"tmpfs", &[], attributes)?
    };
    move_mount(cover, at, c"", MOVE_MOUNT_T_EMPTY_PATH)?;
    close(at);
    if directory && held < 0 {
        set_slot(loan, Slot::Mask, cover);
    } else {
        close(cover);
    }
    Ok(())
}

pub(super) fn read_only(dest: &Dest, loan: &Loan<'_>) -> Done {
    let base = slot_fd(loan, dest.base);
    let at = match openat2(base, &dest.path, libc::O_PATH | libc::O_CLOEXEC, IN_ROOT) {
        Ok(fd) => fd,
        Err(fault) if fault.errno == libc::ENOENT || fault.errno == libc::ENOTDIR => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let tree = open_tree(at, c"", true)?;
    mount_setattr(tree, libc::MOUNT_ATTR_RDONLY, true)?;
    move_mount(tree, at, c"", MOVE_MOUNT_T_EMPTY_PATH)?;
    close(tree);
    close(at);
    Ok(())
}

pub(super) fn pivot_root(readonly: bool, loan: &Loan<'_>) -> Done {
    let root = slot_fd(loan, Slot::Root);
    fchdir(root)?;
    call!(PivotRoot, libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr())?;
    call!(Umount2, libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH)?;
    if readonly {
        mount_setattr(root, libc::MOUNT_ATTR_RDONLY, false)?;
    }
    call!(Chdir, libc::SYS_chdir, c"/".as_ptr()).map(drop)
}

/// Enters the directory and makes sure that the kernel can name it from the root: a
/// descriptor that leaked from the host must not become the working directory.
pub(super) fn chdir(path: &CStr) -> Done {
    call!(Chdir, libc::SYS_chdir, path.as_ptr())?;
    let mut name = [0u8; libc::PATH_MAX as usize];
    call!(Getcwd, libc::SYS_getcwd, name.as_mut_ptr(), name.len())?;
    match name.first() {
        Some(b'/') => Ok(()),
        _ => Err(Fault { call: Call::Getcwd, errno: libc::EXDEV }),
    }
}
