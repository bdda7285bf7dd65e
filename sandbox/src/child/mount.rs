//! Mounts, handled as descriptors.

use ::core::ffi::{CStr, c_int, c_uint};
use ::core::iter::Iterator;
use ::core::option::Option::{self, None, Some};
use ::core::result::Result::{self, Err, Ok};
use ::libc;
use ::std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use super::context::ChildContext;
use super::copy::copy;
use super::file::{check_device, is_directory, is_procfs, is_procfs_root};
use super::path::{IN_ROOT, PATH, destination, existing};
use super::sys::{
    self, Config, Done, Fault, close, fchdir, fchmodat, fsconfig, fsmount, fsopen, fstat, mount_setattr,
    move_mount, openat, openat2,
};
use crate::spec::Attributes;
use crate::step::{Call, CopyUp, Create, Dest, MountStep, OverProc, Param, Place, Slot, What};

/// Flags to open a directory without access to its content.
pub(super) const O_PATH_DIR: c_int = PATH | libc::O_DIRECTORY;
pub(super) const NO_ATTRIBUTES: Attributes = Attributes { set: 0, clear: 0 };
pub(super) const READ_ONLY: Attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };

/// Performs [`Step::Mount`](crate::step::Step::Mount).
pub(super) fn mount(step: &MountStep, context: &mut ChildContext<'_>) -> Done {
    match (mounted(step, context), &step.place) {
        (Err(Fault { errno: libc::ENOENT, .. }), Place::In(Dest { create: Create::LeaveOut, .. })) => Ok(()),
        (done, _) => done,
    }
}

fn mounted(step: &MountStep, context: &mut ChildContext<'_>) -> Done {
    if let Place::At(_) = step.place {
        context.clear_umask();
    }
    // A missing destination becomes a directory or a file, like the source.
    let source = match &step.what {
        What::Bind { .. } | What::Inside { .. } => bind(&step.what, context)?,
        _ => -1,
    };
    let (at, made) = match &step.place {
        Place::In(dest) => covered(dest, source, step.over_proc, context)?,
        _ => (-1, false),
    };
    let (mut own, mut below) = (step.attributes, step.recursive);
    let fd = match &step.what {
        What::New { fstype, params } => {
            let all = own.set | below.set;
            (own, below) = (NO_ATTRIBUTES, NO_ATTRIBUTES);
            new_mount(fstype, params, all)?
        }
        What::Long { fstype, source, options, flags } => {
            let cover = match &step.place {
                Place::NewRoot => openat(libc::AT_FDCWD, c"/", O_PATH_DIR, 0)?,
                _ => context.slot(Slot::Root),
            };
            mount_long(fstype, source, options, *flags, cover)?
        }
        What::Bind { .. } | What::Inside { .. } => source,
        What::Here => openat(libc::AT_FDCWD, c"/", O_PATH_DIR, 0)?,
        What::There => at,
    };
    if source >= 0 && step.over_proc as u8 == OverProc::Root as u8 && !is_procfs_root(source)? {
        return Err(Fault { call: Call::Fstatfs, errno: libc::EPERM });
    }
    if step.mode_of_covered && at >= 0 && !made {
        fchmodat(fd, c".", fstat(at)?.st_mode & 0o7777)?;
    }
    if step.copy_up as u8 != CopyUp::No as u8 {
        copy(at, fd, step.copy_up)?;
    }
    set_attributes(fd, below, 0, true)?;
    set_attributes(fd, own, 0, false)?;
    settle(step, fd, at, context)
}

/// Returns a copy of the tree to bind.
fn bind(what: &What, context: &ChildContext<'_>) -> Result<c_int, Fault> {
    match what {
        What::Bind { source, recursive, tree, device } => {
            let opened = tree.and_then(|index| context.trees.get(index).copied());
            let fd = match opened {
                Some(fd) => fd,
                None => open_tree(libc::AT_FDCWD, source, *recursive)?,
            };
            if let Some((kind, number)) = device {
                check_device(fd, *kind, *number)?;
            }
            Ok(fd)
        }
        What::Inside { source, recursive } => {
            let at = openat2(context.slot(Slot::Root), source, PATH, IN_ROOT)?;
            let fd = open_tree(at, c"", *recursive)?;
            close(at);
            Ok(fd)
        }
        _ => Err(Fault { call: Call::OpenTree, errno: libc::EINVAL }),
    }
}

/// Opens the destination of a mount. If it is missing and the plan allows it, makes it first.
/// Returns whether it was made.
fn covered(
    dest: &Dest,
    source: c_int,
    over_proc: OverProc,
    context: &ChildContext<'_>,
) -> Result<(c_int, bool), Fault> {
    let (at, made) = destination(dest, source, context)?;
    // If no link is followed, only a path that the plan has checked can lead into /proc.
    if over_proc as u8 == OverProc::No as u8 && !dest.no_links && is_procfs(at)? {
        return Err(Fault { call: Call::Fstatfs, errno: libc::EPERM });
    }
    Ok((at, made))
}

/// Makes the new mount of a step. [`place`] attaches it later.
pub(super) fn make_ready(step: &MountStep, context: &mut ChildContext<'_>) -> Result<OwnedFd, Fault> {
    let What::New { fstype, params } = &step.what else {
        return Err(Fault { call: Call::Fsopen, errno: libc::EINVAL });
    };
    let fd = new_mount_in(fstype, params, step.attributes.set | step.recursive.set, None)?;
    if let Some(slot) = step.keep {
        context.set_slot(slot, fd.as_raw_fd());
    }
    Ok(fd)
}

/// Attaches a mount of [`make_ready`].
pub(super) fn place(step: &MountStep, fd: c_int, context: &mut ChildContext<'_>) -> Done {
    let at = match &step.place {
        Place::In(dest) => covered(dest, -1, step.over_proc, context)?.0,
        _ => -1,
    };
    settle(step, fd, at, context)
}

/// Attaches a mount at its place, and stores its descriptor in its slot.
fn settle(step: &MountStep, fd: c_int, at: c_int, context: &mut ChildContext<'_>) -> Done {
    match (&step.what, &step.place) {
        (What::There, _) | (What::Long { .. }, Place::NewRoot) | (_, Place::Detached) => {}
        (_, Place::NewRoot) => move_mount(fd, libc::AT_FDCWD, c"/")?,
        (_, Place::At(path)) => move_mount(fd, libc::AT_FDCWD, path)?,
        (_, Place::In(_)) => {
            match move_mount(fd, at, c"") {
                // mount(2) returns ENOTDIR in this case, and clients expect it.
                Err(fault) if fault.errno == libc::EINVAL && is_directory(fd)? != is_directory(at)? => {
                    return Err(Fault { errno: libc::ENOTDIR, ..fault });
                }
                other => other?,
            }
            close(at);
        }
        (_, Place::Within(slot, name)) => move_mount(fd, context.slot(*slot), name)?,
    }
    for flags in step.propagation.iter() {
        set_attributes(fd, NO_ATTRIBUTES, *flags & !libc::MS_REC, *flags & libc::MS_REC != 0)?;
    }
    match step.keep {
        Some(slot) => context.set_slot(slot, fd),
        None => close(fd),
    }
    Ok(())
}

/// Makes a new detached mount with these attributes (`MOUNT_ATTR_*`).
pub(super) fn new_mount(fstype: &CStr, params: &[Param], attributes: u64) -> Result<c_int, Fault> {
    new_mount_in(fstype, params, attributes, None).map(OwnedFd::into_raw_fd)
}

/// Makes a mount like [`new_mount`], for a pid namespace that this process is not in. Since Linux
/// 6.17.
pub(super) fn new_mount_in(
    fstype: &CStr,
    params: &[Param],
    attributes: u64,
    pid: Option<c_int>,
) -> Result<OwnedFd, Fault> {
    let fs = fsopen(fstype)?;
    // A process with the caller's descriptor table must not leave the context open.
    let made = configure(fs, params, pid).and_then(|()| fsmount(fs, attributes as c_uint));
    close(fs);
    made
}

/// Sets the parameters of a file system context, and makes the superblock.
fn configure(fs: c_int, params: &[Param], pid: Option<c_int>) -> Done {
    if let Some(pid) = pid {
        fsconfig(fs, Config::Descriptor(c"pidns", pid))?;
    }
    for ((key, value), number) in params.iter().zip(1..) {
        let config = match value {
            Some(value) => Config::Text(key, value),
            None => Config::Flag(key),
        };
        if let Err(fault) = fsconfig(fs, config) {
            // The parent has the options, and finds the option by this number.
            let option: c_int = number;
            return Err(Fault { errno: fault.errno | option.wrapping_shl(Call::OPTION), ..fault });
        }
    }
    fsconfig(fs, Config::Create)
}

/// Makes a new mount by mount(2), because fsconfig(2) accepts at most 255 bytes for an option. The
/// new mount covers `cover`, the root of a mount that no other process has. The path `..` leads
/// from there to the new mount.
fn mount_long(
    fstype: &CStr,
    source: &CStr,
    options: &CStr,
    flags: u64,
    cover: c_int,
) -> Result<c_int, Fault> {
    let back = openat(libc::AT_FDCWD, c".", O_PATH_DIR, 0);
    fchdir(cover)?;
    sys::mount(Some(source), c".", Some(fstype), flags, Some(options))?;
    if let Ok(back) = back {
        fchdir(back)?;
        close(back);
    }
    openat2(cover, c"..", O_PATH_DIR, IN_ROOT)
}

fn open_tree(dir: c_int, path: &CStr, recursive: bool) -> Result<c_int, Fault> {
    sys::open_tree(dir, path, recursive).map(OwnedFd::into_raw_fd)
}

/// Changes attributes and propagation of a mount, optionally with all mounts below it.
pub(super) fn set_attributes(fd: c_int, attributes: Attributes, propagation: u64, recursive: bool) -> Done {
    match [attributes.set, attributes.clear, propagation, 0] {
        [0, 0, 0, _] => Ok(()),
        words => mount_setattr(fd, &words, recursive),
    }
}

/// Sets the propagation of the mounts of this mount namespace. This is the first step that makes
/// files: from here on, files get the modes of the spec.
pub(super) fn propagation(flags: u64, context: &mut ChildContext<'_>) -> Done {
    context.clear_umask();
    sys::mount(None, c"/", None, flags, None)
}

/// Makes the mount that contains a path private, so that later mounts on the path do not propagate.
pub(super) fn private(path: &CStr) -> Done {
    let mut at = openat(libc::AT_FDCWD, path, O_PATH_DIR, 0)?;
    for _ in 0..libc::PATH_MAX {
        match set_attributes(at, NO_ATTRIBUTES, libc::MS_PRIVATE, false) {
            // The directory is not the root of its mount; a parent directory is.
            Err(fault) if fault.errno == libc::EINVAL => {}
            other => {
                close(at);
                return other;
            }
        }
        let up = openat(at, c"..", O_PATH_DIR, 0)?;
        close(at);
        at = up;
    }
    Err(Fault { call: Call::MountSetattr, errno: libc::EINVAL })
}

/// Mounts the terminal on `/dev/console`.
pub(super) fn console(dest: &Dest, context: &ChildContext<'_>) -> Done {
    let (at, _) = destination(dest, -1, context)?;
    let tree = open_tree(context.slot(Slot::Terminal), c"", false)?;
    move_mount(tree, at, c"")?;
    close(tree);
    close(at);
    Ok(())
}

/// Covers a path: a directory with an empty read-only one, a file with `/dev/null`.
pub(super) fn mask(dest: &Dest, context: &mut ChildContext<'_>) -> Done {
    let Some(at) = existing(dest, context)? else { return Ok(()) };
    let directory = is_directory(at)?;
    let held = context.slot(Slot::Mask);
    let cover = if !directory {
        let fd = open_tree(libc::AT_FDCWD, c"/dev/null", false)?;
        check_device(fd, libc::S_IFCHR, libc::makedev(1, 3))?;
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
    move_mount(cover, at, c"")?;
    close(at);
    if directory && held < 0 {
        context.set_slot(Slot::Mask, cover);
    } else {
        close(cover);
    }
    Ok(())
}

/// Makes a path read-only, with all mounts below it.
pub(super) fn read_only(dest: &Dest, context: &ChildContext<'_>) -> Done {
    let Some(at) = existing(dest, context)? else { return Ok(()) };
    let tree = open_tree(at, c"", true)?;
    set_attributes(tree, READ_ONLY, 0, true)?;
    move_mount(tree, at, c"")?;
    close(tree);
    close(at);
    Ok(())
}
