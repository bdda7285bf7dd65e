//! The file system: mounts by descriptor, paths beneath the new root.

use ::core::ffi::{CStr, c_char, c_int};
use ::core::iter::Iterator;
use ::core::ops::Deref;
use ::core::option::Option::{self, None, Some};
use ::core::ptr;
use ::core::result::Result::{self, Err, Ok};
use ::libc;
use ::std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use super::copy::copy;
use super::sys::{
    self, Done, Fault, call, close, drop, fchdir, fsmount, fstat, is_procfs, is_procfs_root, openat, openat2,
    own_fd,
};
use super::{Loan, set_slot, slot_fd};
use crate::spec::Attributes;
use crate::step::{Call, CopyUp, Create, Dest, MountStep, OverProc, Param, Place, Slot, What};

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_SET_FD: u32 = 5;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const PATH: c_int = libc::O_PATH | libc::O_CLOEXEC;
const O_PATH_DIR: c_int = PATH | libc::O_DIRECTORY;
const NO_ATTRIBUTES: Attributes = Attributes { set: 0, clear: 0 };
const READ_ONLY: Attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };
const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

pub(super) fn mount(step: &MountStep, loan: &mut Loan<'_>) -> Done {
    if let Place::At(_) = step.place {
        clear_umask(loan);
    }
    // What is missing at the destination is made as the source is: a directory or a file.
    let source = match &step.what {
        What::Bind { .. } | What::Inside { .. } => bind(&step.what, loan)?,
        _ => -1,
    };
    let (at, made) = match &step.place {
        Place::In(dest) => covered(dest, source, step.over_proc, loan)?,
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
                _ => slot_fd(loan, Slot::Root),
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
        let mode = fstat(at)?.st_mode & 0o7777;
        call!(Fchmodat, libc::SYS_fchmodat, fd, c".".as_ptr(), mode)?;
    }
    if step.copy_up as u8 != CopyUp::No as u8 {
        copy(at, fd, step.copy_up)?;
    }
    mount_setattr(fd, below, 0, true)?;
    mount_setattr(fd, own, 0, false)?;
    settle(step, fd, at, loan)
}

/// A copy of the tree that is to be bound.
fn bind(what: &What, loan: &Loan<'_>) -> Result<c_int, Fault> {
    match what {
        What::Bind { source, recursive, tree, device } => {
            let opened = tree.and_then(|index| loan.trees.get(index).copied());
            let fd = match opened {
                Some(fd) => fd,
                None => open_tree(libc::AT_FDCWD, source, *recursive)?,
            };
            if let Some((kind, number)) = device {
                is_device(fd, *kind, *number)?;
            }
            Ok(fd)
        }
        What::Inside { source, recursive } => {
            let at = openat2(slot_fd(loan, Slot::Root), source, PATH, IN_ROOT)?;
            let fd = open_tree(at, c"", *recursive)?;
            close(at);
            Ok(fd)
        }
        _ => Err(Fault { call: Call::OpenTree, errno: libc::EINVAL }),
    }
}

/// Opens a mount's destination, and makes it first if so asked: whether it was made.
fn covered(dest: &Dest, source: c_int, over_proc: OverProc, loan: &Loan<'_>) -> Result<(c_int, bool), Fault> {
    let (at, made) = destination(dest, source, loan)?;
    // Along no link there is no other way into /proc than the path that was looked at.
    if over_proc as u8 == OverProc::No as u8 && !dest.no_links && is_procfs(at)? {
        return Err(Fault { call: Call::Fstatfs, errno: libc::EPERM });
    }
    Ok((at, made))
}

fn is_directory(fd: c_int) -> Result<bool, Fault> {
    Ok(fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// A mount that is made to be placed later: one that is new and begins empty.
pub(super) fn make_ready(step: &MountStep, loan: &mut Loan<'_>) -> Result<OwnedFd, Fault> {
    let What::New { fstype, params } = &step.what else {
        return Err(Fault { call: Call::Fsopen, errno: libc::EINVAL });
    };
    let fd = new_mount_in(fstype, params, step.attributes.set | step.recursive.set, None)?;
    if let Some(slot) = step.keep {
        set_slot(loan, slot, fd.as_raw_fd());
    }
    Ok(fd)
}

/// Places a mount of [`make_ready`]'s.
pub(super) fn place(step: &MountStep, fd: c_int, loan: &mut Loan<'_>) -> Done {
    let at = match &step.place {
        Place::In(dest) => covered(dest, -1, step.over_proc, loan)?.0,
        _ => -1,
    };
    settle(step, fd, at, loan)
}

/// A mount goes to its place, and is kept if it shall be.
fn settle(step: &MountStep, fd: c_int, at: c_int, loan: &mut Loan<'_>) -> Done {
    match (&step.what, &step.place) {
        (What::There, _) | (What::Long { .. }, Place::NewRoot) | (_, Place::Detached) => {}
        (_, Place::NewRoot) => move_mount(fd, libc::AT_FDCWD, c"/", 0)?,
        (_, Place::At(path)) => move_mount(fd, libc::AT_FDCWD, path, 0)?,
        (_, Place::In(_)) => {
            match move_mount(fd, at, c"", MOVE_MOUNT_T_EMPTY_PATH) {
                // The kernel's word for it here; mount(2) says ENOTDIR, which clients know.
                Err(fault) if fault.errno == libc::EINVAL && is_directory(fd)? != is_directory(at)? => {
                    return Err(Fault { errno: libc::ENOTDIR, ..fault });
                }
                other => other?,
            }
            close(at);
        }
        (_, Place::Within(slot, name)) => move_mount(fd, slot_fd(loan, *slot), name, 0)?,
    }
    for flags in step.propagation.iter() {
        mount_setattr(fd, NO_ATTRIBUTES, *flags & !libc::MS_REC, *flags & libc::MS_REC != 0)?;
    }
    match step.keep {
        Some(slot) => set_slot(loan, slot, fd),
        None => close(fd),
    }
    Ok(())
}

pub(super) fn new_mount(fstype: &CStr, params: &[Param], attributes: u64) -> Result<c_int, Fault> {
    new_mount_in(fstype, params, attributes, None).map(OwnedFd::into_raw_fd)
}

/// The same, of a pid namespace that this process is not in: since Linux 6.17.
pub(super) fn new_mount_in(
    fstype: &CStr,
    params: &[Param],
    attributes: u64,
    pid: Option<c_int>,
) -> Result<OwnedFd, Fault> {
    let context = call!(Fsopen, libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC)?;
    let config = |command: u32, key: *const c_char, value: *const c_char| {
        call!(Fsconfig, libc::SYS_fsconfig, context, command, key, value, 0)
    };
    if let Some(pid) = pid {
        let (key, none) = (c"pidns".as_ptr(), ptr::null::<c_char>());
        call!(Fsconfig, libc::SYS_fsconfig, context, FSCONFIG_SET_FD, key, none, pid)?;
    }
    for ((key, value), number) in params.iter().zip(1..) {
        let done = match value {
            Some(value) => config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
            None => config(FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null()),
        };
        if let Err(fault) = done {
            // The parent has the options, and names the one of this number.
            let option: c_int = number;
            return Err(Fault { errno: fault.errno | option.wrapping_shl(Call::OPTION), ..fault });
        }
    }
    config(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    let fd = fsmount(context, FSMOUNT_CLOEXEC, attributes as u32)?;
    close(context);
    Ok(fd)
}

/// By mount(2), since `fsconfig` takes at most 255 bytes of an option. It lands on top of
/// `cover`, the root of a mount that nobody else has, and the way up from there leads to it.
fn mount_long(
    fstype: &CStr,
    source: &CStr,
    options: &CStr,
    flags: u64,
    cover: c_int,
) -> Result<c_int, Fault> {
    let back = openat(libc::AT_FDCWD, c".", O_PATH_DIR, 0);
    fchdir(cover)?;
    let options = options.as_ptr();
    call!(Mount, libc::SYS_mount, source.as_ptr(), c".".as_ptr(), fstype.as_ptr(), flags, options)?;
    if let Ok(back) = back {
        fchdir(back)?;
        close(back);
    }
    openat2(cover, c"..", O_PATH_DIR, IN_ROOT)
}

pub(super) fn open_tree(dir: c_int, path: &CStr, recursive: bool) -> Result<c_int, Fault> {
    owned_tree(dir, path, recursive).map(OwnedFd::into_raw_fd)
}

/// The same, with its owner.
pub(super) fn owned_tree(dir: c_int, path: &CStr, recursive: bool) -> Result<OwnedFd, Fault> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    sys::open_tree(dir, path, flags)
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

/// Changes attributes and propagation of a mount, and of all below it; nothing where there is
/// nothing to change.
pub(super) fn mount_setattr(fd: c_int, attributes: Attributes, propagation: u64, recursive: bool) -> Done {
    let attr = [attributes.set, attributes.clear, propagation, 0];
    if attr == [0; 4] {
        return Ok(());
    }
    sys::mount_setattr(fd, &attr, recursive)
}

/// Keeps what is mounted on this path from peers of the mount that holds it.
pub(super) fn private(path: &CStr) -> Done {
    let mut at = openat(libc::AT_FDCWD, path, O_PATH_DIR, 0)?;
    for _ in 0..libc::PATH_MAX {
        match mount_setattr(at, NO_ATTRIBUTES, libc::MS_PRIVATE, false) {
            // It is not the root of a mount: that is further up.
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

/// The descriptor is this device, whatever its path says.
pub(super) fn is_device(fd: c_int, kind: u32, number: u64) -> Done {
    let stat = fstat(fd)?;
    if stat.st_mode & libc::S_IFMT == kind && stat.st_rdev == number {
        return Ok(());
    }
    Err(Fault { call: Call::Fstat, errno: libc::ENODEV })
}

/// Opens a mount's destination within the new root, and makes it first if so asked; whether it
/// was made.
fn destination(dest: &Dest, source: c_int, loan: &Loan<'_>) -> Result<(c_int, bool), Fault> {
    let root = slot_fd(loan, dest.base);
    match openat2(root, &dest.path, PATH, resolve(dest)) {
        Err(fault) if fault.errno == libc::ENOENT && dest.create as u8 != Create::No as u8 => {}
        other => return other.map(|fd| (fd, false)),
    }
    let create = if source >= 0 && !is_directory(source)? { Create::File } else { dest.create };
    make(root, &dest.path, create, resolve(dest))?;
    openat2(root, &dest.path, PATH, resolve(dest)).map(|fd| (fd, true))
}

/// The directory that holds a destination.
struct Parent {
    fd: c_int,
    /// A slot's, which stays open.
    held: bool,
}

impl Parent {
    fn close(self) {
        if !self.held {
            close(self.fd);
        }
    }
}

/// Opens the directory that holds the destination, and makes it first where it is missing;
/// with the name that the destination has there.
fn parent<'a>(dest: &'a Dest, loan: &Loan<'_>) -> Result<(Parent, &'a CStr), Fault> {
    let root = slot_fd(loan, dest.base);
    let Some(last) = &dest.last else {
        return Err(Fault { call: Call::Openat2, errno: libc::EEXIST });
    };
    let parent = match &last.within {
        None => Parent { fd: root, held: true },
        Some(path) => Parent { fd: make_directory(path, dest, root)?, held: false },
    };
    Ok((parent, &last.name))
}

fn make_directory(path: &CStr, dest: &Dest, root: c_int) -> Result<c_int, Fault> {
    match openat2(root, path, PATH, resolve(dest)) {
        Err(fault) if fault.errno == libc::ENOENT => {}
        other => return other,
    }
    make(root, path, Create::Dir, resolve(dest))?;
    openat2(root, path, PATH, resolve(dest))
}

/// A path that is changed on the way, and ends with a NUL.
type Way = [u8; libc::PATH_MAX as usize];
const EMPTY: Way = [0; libc::PATH_MAX as usize];

/// A link that leads to nothing yet.
struct Dangling {
    /// Where its name begins in the way, the rest of which is now what it says.
    at: usize,
    /// What is to be made where it leads.
    create: Create,
}

/// Makes what is missing of a path within the root: directories, and what is asked for at its end.
/// A link that leads to nothing is followed, as any other, and there it is made.
fn make(root: c_int, path: &CStr, create: Create, resolve: u64) -> Done {
    const MOST_LINKS: u8 = 40;
    let (mut way, mut target) = (EMPTY, EMPTY);
    put(&mut way, 0, path.to_bytes())?;
    let (mut end, mut followed) = (create, false);
    for _ in 0..MOST_LINKS {
        match make_up_to_link(root, &mut way, end, resolve, &mut target)? {
            Some(link) => {
                let said = CStr::from_bytes_until_nul(&target).unwrap_or(c"").to_bytes();
                let absolute = said.first() == Some(&b'/');
                put(&mut way, if absolute { 0 } else { link.at }, said)?;
                (end, followed) = (link.create, true);
            }
            None if followed => {
                put(&mut way, 0, path.to_bytes())?;
                (end, followed) = (create, false);
            }
            None => return Ok(()),
        }
    }
    Err(Fault { call: Call::Openat2, errno: libc::ELOOP })
}

/// Makes what is missing of a way; up to a link that leads to nothing, whose target it reads.
fn make_up_to_link(
    root: c_int,
    way: &mut Way,
    create: Create,
    resolve: u64,
    target: &mut Way,
) -> Result<Option<Dangling>, Fault> {
    let mut parent = openat2(root, c".", PATH, resolve)?;
    let mut at = 0usize;
    loop {
        let rest = way.get(at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'/' || *byte == 0).unwrap_or(0);
        let stop = at.wrapping_add(length);
        let is_last = rest.get(length).copied().unwrap_or(0) == 0;
        if let Some(byte) = way.get_mut(stop) {
            *byte = 0;
        }
        if length > 0 {
            let name = CStr::from_bytes_until_nul(way.get(at..).unwrap_or_default()).unwrap_or(c"");
            let create = if is_last { create } else { Create::Dir };
            match make_one(parent, name, create) {
                Err(fault) if fault.errno == libc::EEXIST => {}
                other => other?,
            }
            match openat2(root, CStr::from_bytes_until_nul(way).unwrap_or(c""), PATH, resolve) {
                Ok(next) => {
                    close(parent);
                    parent = next;
                }
                Err(fault) if fault.errno == libc::ENOENT => {
                    *target = EMPTY;
                    let room = target.len().wrapping_sub(1);
                    call!(
                        Readlinkat,
                        libc::SYS_readlinkat,
                        parent,
                        name.as_ptr(),
                        target.as_mut_ptr(),
                        room
                    )?;
                    close(parent);
                    return Ok(Some(Dangling { at, create }));
                }
                Err(fault) => return Err(fault),
            }
        }
        if is_last {
            close(parent);
            return Ok(None);
        }
        if let Some(byte) = way.get_mut(stop) {
            *byte = b'/';
        }
        at = stop.wrapping_add(1);
    }
}

fn make_one(parent: c_int, name: &CStr, create: Create) -> Done {
    if create as u8 == Create::File as u8 {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        return openat(parent, name, flags, 0o644).map(close);
    }
    call!(Mkdirat, libc::SYS_mkdirat, parent, name.as_ptr(), 0o755).map(drop)
}

/// Puts text into a way from here on, and a NUL at its end.
fn put(way: &mut Way, at: usize, text: &[u8]) -> Done {
    let end = at.wrapping_add(text.len());
    let Some(last) = way.get_mut(end) else {
        return Err(Fault { call: Call::Openat2, errno: libc::ENAMETOOLONG });
    };
    *last = 0;
    for (byte, new) in way.get_mut(at..end).unwrap_or_default().iter_mut().zip(text) {
        *byte = *new;
    }
    Ok(())
}

fn resolve(dest: &Dest) -> u64 {
    if dest.no_links { IN_ROOT | libc::RESOLVE_NO_SYMLINKS } else { IN_ROOT }
}

/// Makes a directory within the root; where it cannot be made, whoever needs it will say so.
pub(super) fn directory(dest: &Dest, loan: &Loan<'_>) -> Done {
    if let Ok((fd, _)) = destination(dest, -1, loan) {
        close(fd);
    }
    Ok(())
}

/// Makes a device node or pipe, with the mode as given.
pub(super) fn node(dest: &Dest, mode: u32, device: u64, owner: Option<(u32, u32)>, loan: &Loan<'_>) -> Done {
    let (parent, name) = parent(dest, loan)?;
    let made = call!(Mknodat, libc::SYS_mknodat, parent.fd, name.as_ptr(), mode, device as u32);
    let there = match &made {
        Err(fault) => fault.errno == libc::EEXIST,
        Ok(_) => false,
    };
    if there || (made.is_ok() && owner.is_some()) {
        let fd = openat(parent.fd, name, PATH | libc::O_NOFOLLOW, 0)?;
        let same = is_device(fd, mode & libc::S_IFMT, device);
        if let (Ok(()), false, Some((uid, gid))) = (&same, there, owner) {
            let flags = libc::AT_EMPTY_PATH;
            call!(Fchownat, libc::SYS_fchownat, fd, c"".as_ptr(), uid, gid, flags)?;
            // A change of owner takes these bits away.
            if mode & 0o7000 != 0 {
                let path = own_fd(fd);
                let path = path.path().as_ptr();
                call!(Fchmodat, libc::SYS_fchmodat, libc::AT_FDCWD, path, mode & 0o7777)?;
            }
        }
        close(fd);
        if same.is_err() {
            return Err(Fault { call: Call::Mknodat, errno: libc::EEXIST });
        }
        parent.close();
        return Ok(());
    }
    parent.close();
    made.map(drop)
}

/// The mask of the caller's process has no say in the modes of what is made, up to
/// [`restore_umask`].
pub(super) fn clear_umask(loan: &mut Loan<'_>) {
    if loan.umask < 0 {
        // SAFETY: a plain system call; this process has a file-system context of its own.
        loan.umask = unsafe { libc::syscall(libc::SYS_umask, 0) } as c_int;
    }
}

/// What others than this child make has the modes that the caller's mask leaves them.
pub(super) fn restore_umask(loan: &mut Loan<'_>) {
    if loan.umask >= 0 {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_umask, loan.umask) };
        loan.umask = -1;
    }
}

/// Makes a symbolic link, unless something is there already.
pub(super) fn symlink(dest: &Dest, target: &CStr, loan: &Loan<'_>) -> Done {
    let (parent, name) = parent(dest, loan)?;
    let made = call!(Symlinkat, libc::SYS_symlinkat, target.as_ptr(), parent.fd, name.as_ptr());
    parent.close();
    match made {
        Err(fault) if fault.errno == libc::EEXIST => Ok(()),
        other => other.map(drop),
    }
}

/// Mounts the terminal on `/dev/console`.
pub(super) fn console(dest: &Dest, loan: &Loan<'_>) -> Done {
    let (at, _) = destination(dest, -1, loan)?;
    let tree = open_tree(slot_fd(loan, Slot::Terminal), c"", false)?;
    move_mount(tree, at, c"", MOVE_MOUNT_T_EMPTY_PATH)?;
    close(tree);
    close(at);
    Ok(())
}

pub(super) fn mask(dest: &Dest, loan: &mut Loan<'_>) -> Done {
    let base = slot_fd(loan, dest.base);
    let at = match openat2(base, &dest.path, PATH, IN_ROOT) {
        Ok(fd) => fd,
        Err(fault) if fault.errno == libc::ENOENT || fault.errno == libc::ENOTDIR => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let directory = fstat(at)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let held = slot_fd(loan, Slot::Mask);
    let cover = if !directory {
        let fd = open_tree(libc::AT_FDCWD, c"/dev/null", false)?;
        is_device(fd, libc::S_IFCHR, libc::makedev(1, 3))?;
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
    let at = match openat2(base, &dest.path, PATH, IN_ROOT) {
        Ok(fd) => fd,
        Err(fault) if fault.errno == libc::ENOENT || fault.errno == libc::ENOTDIR => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let tree = open_tree(at, c"", true)?;
    mount_setattr(tree, READ_ONLY, 0, true)?;
    move_mount(tree, at, c"", MOVE_MOUNT_T_EMPTY_PATH)?;
    close(tree);
    close(at);
    Ok(())
}

pub(super) fn pivot_root(readonly: bool, shared: bool, loan: &Loan<'_>) -> Done {
    let root = slot_fd(loan, Slot::Root);
    let old = if shared { openat(libc::AT_FDCWD, c"/", O_PATH_DIR, 0)? } else { -1 };
    fchdir(root)?;
    call!(PivotRoot, libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr())?;
    if shared {
        mount_setattr(old, NO_ATTRIBUTES, libc::MS_SLAVE, true)?;
        close(old);
    }
    // The old root is mounted over the new one, and a tmpfs that was over the old one still is:
    // `/..` leads to the uppermost. umount2(2) lets go of that one.
    const MOST: u8 = 100;
    for _ in 0..MOST {
        call!(Umount2, libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH)?;
        match openat2(root, c"..", O_PATH_DIR, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_XDEV) {
            Ok(fd) => {
                close(fd);
                return settled(root, readonly);
            }
            Err(fault) if fault.errno == libc::EXDEV => {}
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault { call: Call::Umount2, errno: libc::EBUSY })
}

/// The new root is `/`, with nothing over it.
fn settled(root: c_int, readonly: bool) -> Done {
    if readonly {
        mount_setattr(root, READ_ONLY, 0, false)?;
    }
    call!(Chdir, libc::SYS_chdir, c"/".as_ptr()).map(drop)
}

pub(super) fn change_root<P: Deref<Target = CStr>>(
    over: bool,
    readonly: bool,
    hide: &[P],
    loan: &Loan<'_>,
) -> Done {
    let root = slot_fd(loan, Slot::Root);
    for path in hide.iter() {
        match call!(Umount2, libc::SYS_umount2, path.as_ptr(), libc::MNT_DETACH) {
            // A user namespace may not take away what it has from its parent.
            Err(fault) if fault.errno == libc::EINVAL || fault.errno == libc::EPERM => {
                let cover = new_mount(c"tmpfs", &[], libc::MOUNT_ATTR_RDONLY)?;
                let covered = move_mount(cover, libc::AT_FDCWD, path, 0);
                close(cover);
                absent(covered)?;
            }
            other => absent(other.map(drop))?,
        }
    }
    if over {
        move_mount(root, libc::AT_FDCWD, c"/", 0)?;
    }
    enter_root(root)?;
    if readonly {
        mount_setattr(root, READ_ONLY, 0, false)?;
    }
    Ok(())
}

pub(super) fn enter_root(root: c_int) -> Done {
    fchdir(root)?;
    call!(Chroot, libc::SYS_chroot, c".".as_ptr())?;
    call!(Chdir, libc::SYS_chdir, c"/".as_ptr()).map(drop)
}

/// It is as well if it went with what it was mounted on.
fn absent(done: Done) -> Done {
    match done {
        Err(fault) if fault.errno == libc::ENOENT => Ok(()),
        other => other,
    }
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
