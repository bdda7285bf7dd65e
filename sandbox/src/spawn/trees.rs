//! Mount trees that the parent opens before the clone: what the child's ids could not reach,
//! and what takes rights on the host.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MsFlags, mount};
use nix::sched::unshare;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, mknod};
use nix::unistd::chown;
use ns_core::{Clone3, CloneFlags, IdMap, Kind, Namespace, Pidfd};

use super::guard::{BlockedSignals, Stack};
use crate::child::{Procfs, make_procfs};
use crate::error::{Error, ErrorKind};
use crate::hint;
use crate::plan::{MapsOf, ProcfsOf, Tree, TreeDevice, TreeMaps};
use crate::step::Call;

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;

/// A copy of a mount tree, attached nowhere, and out of the host's peer groups: what is
/// mounted on it later must not appear on the host.
pub(super) fn open_tree(tree: &Tree) -> Result<OwnedFd, Error> {
    if let Some(of) = &tree.procfs {
        return procfs(of);
    }
    let recursive = if tree.recursive { AT_RECURSIVE } else { 0 };
    let fd = match (copy_tree(&tree.source, recursive), &tree.device) {
        (Some(fd), Some(device)) if !is_device(&fd, device) => made(tree, device)?,
        (Some(fd), _) => fd,
        (None, Some(device)) if Errno::last_raw() == libc::ENOENT => made(tree, device)?,
        (None, _) => return Err(failed(tree, "open the tree", "open_tree")),
    };
    if !set_attributes(&fd, [0, 0, tree.propagation, 0], recursive) {
        return Err(failed(tree, "keep the host from the mounts on", "mount_setattr"));
    }
    if let Some(TreeMaps { of, recursive }) = &tree.id_maps {
        let made;
        let namespace = match of {
            MapsOf::Namespace(namespace) => namespace,
            MapsOf::Given { uid, gid } => {
                made = mapped(uid, gid)?;
                &made
            }
        };
        let attributes = [libc::MOUNT_ATTR_IDMAP, 0, 0, namespace.as_raw_fd() as u64];
        if !set_attributes(&fd, attributes, if *recursive { AT_RECURSIVE } else { 0 }) {
            let error = failed(tree, "map the ids of", "mount_setattr");
            let hint = error.raw_os_error().and_then(hint::id_map);
            return Err(error.with_hint(hint));
        }
    }
    Ok(fd)
}

fn copy_tree(path: &CStr, recursive: u32) -> Option<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | recursive;
    // SAFETY: open_tree takes a path of ours and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    // SAFETY: as above; nobody else owns it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn is_device(fd: &OwnedFd, device: &TreeDevice) -> bool {
    let same = |stat: FileStat| {
        (stat.st_mode & libc::S_IFMT, stat.st_rdev) == (device.mode & libc::S_IFMT, device.number)
    };
    fstat(fd).is_ok_and(same)
}

/// A tree of a device alone, where the host has none at that path. The device is made in a file
/// system that nothing else uses, so that nothing is left on the host. A thread mounts that file
/// system in a mount namespace of its own: before Linux 6.15 only what is mounted somewhere can be
/// copied.
fn made(tree: &Tree, device: &TreeDevice) -> Result<OwnedFd, Error> {
    let make = || -> Result<OwnedFd, (&'static str, Errno)> {
        // A directory that every host has.
        let (place, node) = (c"/proc", c"/proc/device");
        let (private, none) = (MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&CStr>);
        unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(|e| ("unshare", e))?;
        mount(none, c"/", none, private, none).map_err(|e| ("mount", e))?;
        mount(Some(c"tmpfs"), place, Some(c"tmpfs"), MsFlags::empty(), none).map_err(|e| ("mount", e))?;
        let (kind, mode) = (device.mode & libc::S_IFMT, Mode::from_bits_truncate(device.mode));
        let (kind, (uid, gid)) = (SFlag::from_bits_truncate(kind), device.owner);
        mknod(node, kind, mode, device.number).map_err(|e| ("mknod", e))?;
        chown(node, Some(uid.into()), Some(gid.into())).map_err(|e| ("chown", e))?;
        // The caller's mask and the change of owner take bits away.
        let flags = FchmodatFlags::FollowSymlink;
        fchmodat(AT_FDCWD, node, mode, flags).map_err(|e| ("fchmodat", e))?;
        copy_tree(node, 0).ok_or_else(|| ("open_tree", Errno::last()))
    };
    let made = std::thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or(Err(("clone", Errno::EAGAIN))).map_err(|(call, errno)| {
        let what = format!("make the device {}, which the host does not have", tree.source.to_string_lossy());
        Error::call(ErrorKind::Step, what, call, errno as i32)
    })
}

/// A procfs of a pid namespace that the caller is not in. A process that ends at once makes it, for
/// it may have to enter other namespaces first.
fn procfs(of: &ProcfsOf) -> Result<OwnedFd, Error> {
    let make = |member: Option<&Pidfd>| -> Result<Result<OwnedFd, (Call, i32)>, Error> {
        let mut job = Procfs {
            namespace: of.namespace.as_raw_fd(),
            user: of.user.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            member: member.map_or(-1, |pidfd| pidfd.as_fd().as_raw_fd()),
            params: &of.params,
            made: -1,
            failed: None,
        };
        let flags = CloneFlags::PIDFD
            | CloneFlags::CLEAR_SIGHAND
            | CloneFlags::FILES
            | CloneFlags::VM
            | CloneFlags::VFORK;
        let clone = Clone3 { flags, ..Clone3::default() };
        let stack = Stack::new()?;
        let (bottom, size) = stack.upper();
        let signals = BlockedSignals::new();
        // SAFETY: the stack is mapped, unused, and outlives the call, as the job does, for this
        // thread sleeps until the child has ended. The child keeps to what `child.rs` promises.
        let spawned =
            unsafe { clone.spawn_on_stack(bottom, size, make_procfs, (&raw mut job).cast::<c_void>()) };
        drop(signals);
        let spawned = spawned.map_err(|e| Error::from(e).of_kind(ErrorKind::Clone))?;
        spawned.pidfd.map_or_else(|| Pidfd::open(spawned.pid), Ok).and_then(|pidfd| pidfd.wait())?;
        Ok(match job.failed {
            Some(failed) => Err(failed),
            // SAFETY: the descriptor is new in the table that both have, and nobody else owns it.
            None => Ok(unsafe { OwnedFd::from_raw_fd(job.made) }),
        })
    };
    let (call, errno) = match make(None)? {
        Ok(mount) => return Ok(mount),
        Err(failed) => failed,
    };
    let what = "make a procfs of the pid namespace that is joined";
    if (call, errno) != (Call::Fsconfig, libc::EINVAL) {
        let errno = errno & ((1 << Call::OPTION) - 1);
        return Err(Error::call(ErrorKind::Step, what, call.name(), errno));
    }
    if of.params.is_empty() {
        for member in members(&of.namespace)? {
            if let Ok(mount) = make(Some(&member))? {
                return Ok(mount);
            }
        }
    }
    let cure = "that requires Linux 6.17, or a process in it that has its procfs mounted on /proc, and no \
                options of the mount";
    Err(Error::call(ErrorKind::Step, what, call.name(), errno).with_hint(Some(cure.into())))
}

/// The processes that are in a pid namespace.
fn members(namespace: &OwnedFd) -> Result<Vec<Pidfd>, Error> {
    let unread = |e: std::io::Error| Error::io(ErrorKind::Proc, "read /proc", "getdents64", &e);
    let wanted = std::fs::metadata(format!("/proc/self/fd/{}", namespace.as_raw_fd())).map_err(unread)?;
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(pidfd) = Pidfd::open(pid) else { continue };
        let own = std::fs::metadata(entry.path().join("ns/pid"));
        if own.is_ok_and(|own| (own.dev(), own.ino()) == (wanted.dev(), wanted.ino())) {
            members.push(pidfd);
        }
    }
    Ok(members)
}

fn failed(tree: &Tree, what: &str, call: &'static str) -> Error {
    let what = format!("{what} {}", tree.source.to_string_lossy());
    Error::call(ErrorKind::Step, what, call, Errno::last_raw())
}

fn set_attributes(fd: &OwnedFd, attributes: [u64; 4], recursive: u32) -> bool {
    let flags = libc::AT_EMPTY_PATH as u32 | recursive;
    let (fd, empty, size) = (fd.as_raw_fd(), c"".as_ptr(), size_of_val(&attributes));
    // SAFETY: an empty path, and a mount_attr of the size that is passed.
    unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, attributes.as_ptr(), size) == 0 }
}

/// A user namespace with these maps and nobody in it. The process that it is made for ends at
/// once: until it is waited for the kernel still tells its namespace.
fn mapped(uid: &IdMap, gid: &IdMap) -> Result<OwnedFd, Error> {
    unsafe extern "C" fn end(_: *mut c_void) -> ! {
        loop {
            // SAFETY: ends the process at once.
            unsafe { libc::syscall(libc::SYS_exit_group, 0) };
        }
    }
    let flags = CloneFlags::PIDFD | CloneFlags::CLEAR_SIGHAND | CloneFlags::VM | CloneFlags::VFORK;
    let clone = Clone3 { kinds: Kind::User.into(), flags, ..Clone3::default() };
    let stack = Stack::new()?;
    let (bottom, size) = stack.upper();
    let signals = BlockedSignals::new();
    // SAFETY: the stack is mapped, unused, and outlives the call, for this thread sleeps until
    // the child has ended; all that it does is to end.
    let spawned = unsafe { clone.spawn_on_stack(bottom, size, end, std::ptr::null_mut()) };
    drop(signals);
    let spawned = spawned.map_err(|e| Error::from(e).of_kind(ErrorKind::Clone))?;
    let written = ns_core::write_id_maps(spawned.pid, uid, gid);
    let namespace = written.and_then(|_| Namespace::of_pid(spawned.pid, Kind::User));
    let waited = spawned.pidfd.map_or_else(|| Pidfd::open(spawned.pid), Ok).and_then(|pidfd| pidfd.wait());
    let namespace = namespace.map_err(|e| Error::from(e).of_kind(ErrorKind::IdMap))?;
    waited?;
    Ok(namespace.into())
}
