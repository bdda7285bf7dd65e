//! Mount trees that the parent opens before the clone: those that the child's ids cannot reach, and
//! those that require permissions on the host.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sched::unshare;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, mknod};
use nix::unistd::chown;
use ns_core::{Clone3, CloneFlags, IdMap, Kind, Namespace, Pidfd};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change};

use super::stack::{Memory, Stack};
use crate::child::{End, Procfs, mount_setattr};
use crate::error::{Error, ErrorKind};
use crate::hint;
use crate::plan::{MapsOf, ProcfsOf, Tree, TreeDevice, TreeMaps};
use crate::step::Call;

/// Returns a detached copy of a mount tree. The copy leaves the host's peer groups, so that later
/// mounts in it do not appear on the host.
pub(super) fn open_tree(tree: &Tree) -> Result<OwnedFd, Error> {
    if let Some(of) = &tree.procfs {
        return procfs(of);
    }
    let fd = match (copy_tree(&tree.source, tree.recursive), &tree.device) {
        (Ok(fd), Some(device)) if !is_device(&fd, device) => made(tree, device)?,
        (Ok(fd), _) => fd,
        (Err(rustix::io::Errno::NOENT), Some(device)) => made(tree, device)?,
        (Err(errno), _) => return Err(failed(tree, "open the tree", "open_tree", errno.raw_os_error())),
    };
    if let Err(errno) = set_attributes(&fd, [0, 0, tree.propagation, 0], tree.recursive) {
        return Err(failed(tree, "set the propagation of the copy of", "mount_setattr", errno));
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
        if let Err(errno) = set_attributes(&fd, attributes, *recursive) {
            return Err(failed(tree, "map the ids of", "mount_setattr", errno).with_hint(hint::id_map(errno)));
        }
    }
    Ok(fd)
}

fn copy_tree(path: &CStr, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(CWD, path, flags)
}

fn is_device(fd: &OwnedFd, device: &TreeDevice) -> bool {
    let same = |stat: FileStat| {
        (stat.st_mode & libc::S_IFMT, stat.st_rdev) == (device.mode & libc::S_IFMT, device.number)
    };
    fstat(fd).is_ok_and(same)
}

/// Returns a tree with only a device, for a device that the host lacks at that path. The device is
/// made in a file system that nothing else uses, so that nothing remains on the host. A thread
/// mounts that file system in its own mount namespace: before Linux 6.15 only attached mounts can
/// be copied.
fn made(tree: &Tree, device: &TreeDevice) -> Result<OwnedFd, Error> {
    let make = || -> Result<OwnedFd, (&'static str, Errno)> {
        // This directory exists on every host.
        let (place, node) = (c"/proc", c"/proc/device");
        let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        let failed = |call| move |e: rustix::io::Errno| (call, Errno::from_raw(e.raw_os_error()));
        unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(|e| ("unshare", e))?;
        mount_change(c"/", private).map_err(failed("mount"))?;
        mount(c"tmpfs", place, c"tmpfs", MountFlags::empty(), None).map_err(failed("mount"))?;
        let (kind, mode) = (device.mode & libc::S_IFMT, Mode::from_bits_truncate(device.mode));
        let (kind, (uid, gid)) = (SFlag::from_bits_truncate(kind), device.owner);
        mknod(node, kind, mode, device.number).map_err(|e| ("mknod", e))?;
        chown(node, Some(uid.into()), Some(gid.into())).map_err(|e| ("chown", e))?;
        // The caller's umask and the change of owner remove bits of the mode.
        let flags = FchmodatFlags::FollowSymlink;
        fchmodat(AT_FDCWD, node, mode, flags).map_err(|e| ("fchmodat", e))?;
        copy_tree(node, false).map_err(failed("open_tree"))
    };
    let made = std::thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or(Err(("clone", Errno::EAGAIN))).map_err(|(call, errno)| {
        let path = tree.source.to_string_lossy();
        let what = format!("make the device {path}, which the host does not have");
        Error::call("setup", what, call, errno as i32).on(path)
    })
}

/// Returns a procfs of a pid namespace that the caller is not in. A short-lived process makes the
/// procfs, because it may have to enter other namespaces first.
fn procfs(of: &ProcfsOf) -> Result<OwnedFd, Error> {
    let make = |member: Option<&Pidfd>| -> Result<Result<OwnedFd, (Call, i32)>, Error> {
        let mut job = Procfs {
            namespace: of.namespace.as_raw_fd(),
            user: of.user.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            member: member.map_or(-1, |pidfd| pidfd.as_fd().as_raw_fd()),
            params: &of.params,
            made: None,
            failed: None,
        };
        let clone = Clone3 { flags: CloneFlags::FILES, ..Clone3::default() };
        let (_, pidfd) = Stack::new()?.start(clone, Memory::Shared, &mut job)?;
        pidfd.wait()?;
        Ok(match job.failed {
            Some(failed) => Err(failed),
            // The process ended without a result: it was killed.
            None => job.made.ok_or((Call::Unknown, libc::ESRCH)),
        })
    };
    let (call, errno) = match make(None)? {
        Ok(mount) => return Ok(mount),
        Err(failed) => failed,
    };
    let what = "make a procfs of the joined pid namespace";
    if (call, errno) != (Call::Fsconfig, libc::EINVAL) {
        let errno = errno & ((1 << Call::OPTION) - 1);
        return Err(Error::call("setup", what, call.name(), errno));
    }
    let members = members(&of.namespace)?;
    if members.is_empty() {
        let ended = "cannot join the pid namespace: all of its processes have ended: join another one";
        return Err(Error::new(ErrorKind::ProcessEnded, "setup", ended));
    }
    if of.params.is_empty() {
        for member in members {
            if let Ok(mount) = make(Some(&member))? {
                return Ok(mount);
            }
        }
    }
    let cure = "this requires Linux 6.17; on an older kernel, a process in the namespace must have its procfs \
                mounted on /proc, and the mount must have no options";
    Err(Error::call("setup", what, call.name(), errno).with_hint(Some(cure.into())))
}

/// Returns the processes in a pid namespace.
fn members(namespace: &OwnedFd) -> Result<Vec<Pidfd>, Error> {
    let unread = |e: std::io::Error| Error::io("proc", "read /proc", "getdents64", &e).on("/proc");
    let wanted = std::fs::metadata(format!("/proc/self/fd/{}", namespace.as_raw_fd())).map_err(unread)?;
    let mut members = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(pidfd) = Pidfd::open(pid) else { continue };
        let own = std::fs::metadata(entry.path().join("ns/pid"));
        let is_in = own.is_ok_and(|own| (own.dev(), own.ino()) == (wanted.dev(), wanted.ino()));
        // A zombie is still in the namespace.
        if is_in && !pidfd.poll(Some(Duration::ZERO))? {
            members.push(pidfd);
        }
    }
    Ok(members)
}

fn failed(tree: &Tree, what: &str, call: &'static str, errno: i32) -> Error {
    let path = tree.source.to_string_lossy();
    Error::call("setup", format!("{what} {path}"), call, errno).on(path)
}

fn set_attributes(fd: &OwnedFd, attributes: [u64; 4], recursive: bool) -> Result<(), i32> {
    mount_setattr(fd.as_raw_fd(), &attributes, recursive).map_err(|fault| fault.errno)
}

/// Returns a user namespace with these maps and without processes. The process that makes the
/// namespace ends at once; until it is reaped, /proc still shows its namespace.
fn mapped(uid: &IdMap, gid: &IdMap) -> Result<OwnedFd, Error> {
    let clone = Clone3 { kinds: Kind::User.into(), ..Clone3::default() };
    let (pid, pidfd) = Stack::new()?.start(clone, Memory::Shared, &mut End)?;
    let written = ns_core::write_id_maps(pid, uid, gid);
    let namespace = written.and_then(|_| Namespace::of_pid(pid, Kind::User));
    let waited = pidfd.wait();
    let namespace = namespace.map_err(|e| Error::from(e).at("id-maps"))?;
    waited?;
    Ok(namespace.into())
}
