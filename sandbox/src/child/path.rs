//! Paths within the new root, and the files that are made there. No link of a hostile image leads
//! out of the root.

use ::core::ffi::{CStr, c_int};
use ::core::iter::Iterator;
use ::core::option::Option::{self, None, Some};
use ::core::result::Result::{self, Err, Ok};
use ::libc;

use super::context::ChildContext;
use super::file::{check_device, is_directory, own_fd};
use super::sys::{
    Done, Fault, close, fchmodat, fchownat, mkdirat, mknodat, openat, openat2, readlinkat, symlinkat,
};
use crate::step::{Call, Create, Dest, Slot};

/// Flags to open a file without access to its content.
pub(super) const PATH: c_int = libc::O_PATH | libc::O_CLOEXEC;
/// Flags for resolving paths within the new root.
pub(super) const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

fn resolve(dest: &Dest) -> u64 {
    if dest.no_links { IN_ROOT | libc::RESOLVE_NO_SYMLINKS } else { IN_ROOT }
}

/// Opens a destination within the new root. If it is missing and the plan allows it, makes it
/// first: a directory, or a file if `source` is a file. Returns whether it was made.
pub(super) fn destination(
    dest: &Dest,
    source: c_int,
    context: &ChildContext<'_>,
) -> Result<(c_int, bool), Fault> {
    let root = context.slot(dest.base);
    match openat2(root, &dest.path, PATH, resolve(dest)) {
        Err(fault) if fault.errno == libc::ENOENT && makes(dest.create) => {}
        other => return other.map(|fd| (fd, false)),
    }
    let create = if source >= 0 && !is_directory(source)? { Create::File } else { dest.create };
    make(root, &dest.path, create, resolve(dest))?;
    openat2(root, &dest.path, PATH, resolve(dest)).map(|fd| (fd, true))
}

fn makes(create: Create) -> bool {
    create as u8 == Create::Dir as u8 || create as u8 == Create::File as u8
}

/// Opens an existing destination. Returns `None` if it does not exist.
pub(super) fn existing(dest: &Dest, context: &ChildContext<'_>) -> Result<Option<c_int>, Fault> {
    match openat2(context.slot(dest.base), &dest.path, PATH, IN_ROOT) {
        Err(fault) if fault.errno == libc::ENOENT || fault.errno == libc::ENOTDIR => Ok(None),
        other => other.map(Some),
    }
}

/// The parent directory of a destination.
struct Parent {
    fd: c_int,
    /// Whether the descriptor belongs to a slot and stays open.
    held: bool,
}

impl Parent {
    fn close(self) {
        if !self.held {
            close(self.fd);
        }
    }
}

/// Opens the parent directory of a destination, and makes it first if it is missing. Also returns
/// the name of the destination in it.
fn parent<'a>(dest: &'a Dest, context: &ChildContext<'_>) -> Result<(Parent, &'a CStr), Fault> {
    let root = context.slot(dest.base);
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

/// A NUL-terminated path in a buffer.
type PathBuffer = [u8; libc::PATH_MAX as usize];
const EMPTY: PathBuffer = [0; libc::PATH_MAX as usize];

fn text(buffer: &[u8]) -> &CStr {
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

/// A symbolic link whose target does not exist.
struct Dangling {
    /// Offset of the link's name in the path.
    at: usize,
    /// What to make as its target.
    create: Create,
}

/// Makes the missing directories of a path within the root, and the file or directory that `create`
/// names at its end. A link whose target does not exist is followed, and the target is made.
fn make(root: c_int, path: &CStr, create: Create, resolve: u64) -> Done {
    const MOST_LINKS: u8 = 40;
    let (mut way, mut target) = (EMPTY, EMPTY);
    put(&mut way, 0, path.to_bytes())?;
    let (mut end, mut followed) = (create, false);
    for _ in 0..MOST_LINKS {
        match make_up_to_link(root, &mut way, end, resolve, &mut target)? {
            Some(link) => {
                let target = text(&target).to_bytes();
                let absolute = target.first() == Some(&b'/');
                put(&mut way, if absolute { 0 } else { link.at }, target)?;
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

/// Makes the missing parts of a path, up to a link whose target does not exist. Reads the link's
/// target into `target`.
fn make_up_to_link(
    root: c_int,
    way: &mut PathBuffer,
    create: Create,
    resolve: u64,
    target: &mut PathBuffer,
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
            let name = text(way.get(at..).unwrap_or_default());
            let create = if is_last { create } else { Create::Dir };
            match make_one(parent, name, create) {
                Err(fault) if fault.errno == libc::EEXIST => {}
                other => other?,
            }
            match openat2(root, text(way), PATH, resolve) {
                Ok(next) => {
                    close(parent);
                    parent = next;
                }
                Err(fault) if fault.errno == libc::ENOENT => {
                    *target = EMPTY;
                    // The last byte stays NUL.
                    let room = target.len().wrapping_sub(1);
                    readlinkat(parent, name, target.get_mut(..room).unwrap_or_default())?;
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
    mkdirat(parent, name, 0o755)
}

/// Copies a text and a NUL into a path at an offset.
fn put(way: &mut PathBuffer, at: usize, text: &[u8]) -> Done {
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

/// Makes a directory within the root. An error is ignored: a later step that needs the directory
/// fails.
pub(super) fn directory(dest: &Dest, context: &ChildContext<'_>) -> Done {
    if let Ok((fd, _)) = destination(dest, -1, context) {
        close(fd);
    }
    Ok(())
}

/// Makes a directory in a slot's directory. If its owner cannot be set, it stays root's.
pub(super) fn new_directory(
    slot: Slot,
    name: &CStr,
    mode: u32,
    owner: Option<(u32, u32)>,
    context: &ChildContext<'_>,
) -> Done {
    let at = context.slot(slot);
    mkdirat(at, name, mode)?;
    if let Some((uid, gid)) = owner {
        let _ = fchownat(at, name, uid, gid, libc::AT_SYMLINK_NOFOLLOW);
    }
    Ok(())
}

/// Makes an empty file in a slot's directory.
pub(super) fn file(slot: Slot, name: &CStr, context: &ChildContext<'_>) -> Done {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    openat(context.slot(slot), name, flags, 0o666).map(close)
}

/// Makes a device node or a named pipe. An existing one may stay.
pub(super) fn node(
    dest: &Dest,
    mode: u32,
    device: u64,
    owner: Option<(u32, u32)>,
    context: &ChildContext<'_>,
) -> Done {
    let (parent, name) = parent(dest, context)?;
    let made = mknodat(parent.fd, name, mode, device as u32);
    let exists = match &made {
        Err(fault) => fault.errno == libc::EEXIST,
        Ok(()) => false,
    };
    let done = match owner {
        _ if exists => check_node(parent.fd, name, mode, device, None),
        Some(owner) if made.is_ok() => check_node(parent.fd, name, mode, device, Some(owner)),
        _ => made,
    };
    parent.close();
    done
}

/// Checks the type and number of a node, and changes its owner.
fn check_node(parent: c_int, name: &CStr, mode: u32, device: u64, owner: Option<(u32, u32)>) -> Done {
    let fd = openat(parent, name, PATH | libc::O_NOFOLLOW, 0)?;
    if check_device(fd, mode & libc::S_IFMT, device).is_err() {
        close(fd);
        return Err(Fault { call: Call::Mknodat, errno: libc::EEXIST });
    }
    if let Some((uid, gid)) = owner {
        fchownat(fd, c"", uid, gid, libc::AT_EMPTY_PATH)?;
        // The change of owner has removed these bits.
        if mode & 0o7000 != 0 {
            fchmodat(libc::AT_FDCWD, own_fd(fd).path(), mode & 0o7777)?;
        }
    }
    close(fd);
    Ok(())
}

/// Makes a symbolic link, unless the path already exists.
pub(super) fn symlink(dest: &Dest, target: &CStr, context: &ChildContext<'_>) -> Done {
    let (parent, name) = parent(dest, context)?;
    let made = symlinkat(target, parent.fd, name);
    parent.close();
    match made {
        Err(fault) if fault.errno == libc::EEXIST => Ok(()),
        other => other,
    }
}
