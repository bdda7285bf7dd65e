//! The raw system calls of project quotas: no crate has them.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_long, c_ulong};
use rustix::io::Errno;

use crate::spec::StorageLimit;

/// `PRJQUOTA`, the type of quota.
const PROJECT: c_int = 2;
const Q_GETQUOTA: c_int = 0x80_0007;
const Q_SETQUOTA: c_int = 0x80_0008;
/// `Q_XGETQSTAT` of [quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html), for any
/// file system.
const Q_XGETQSTAT: c_int = 0x5805;
/// `FS_QUOTA_PDQ_ENFD`: the limits of projects are enforced.
const ENFORCED: u16 = 1 << 5;
/// The unit of size limits (`QIF_DQBLKSIZE`), in bytes.
const BLOCK: u64 = 1024;

/// `FS_IOC_FSGETXATTR`.
const GET: c_ulong = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`.
const SET: c_ulong = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: new files in the directory get its project id.
const INHERIT: u32 = 0x200;

/// `struct fsxattr` of
/// [ioctl_xfs_fsgetxattr(2)](https://man7.org/linux/man-pages/man2/ioctl_xfs_fsgetxattr.2.html).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct fs_quota_stat`, of which only the flags are read.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    pad: i8,
    rest: [u64; 16],
}

/// Project id of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Project {
    pub(super) id: u32,
    /// Whether new files in the directory get the id.
    pub(super) inherited: bool,
}

/// Returns the project id of a regular file or directory.
pub(super) fn project(file: impl AsFd) -> Result<Project, Errno> {
    let attributes = attributes(&file)?;
    Ok(Project { id: attributes.project, inherited: attributes.flags & INHERIT != 0 })
}

/// Sets the project id of a regular file or directory.
pub(super) fn set_project(file: impl AsFd, project: Project) -> Result<(), Errno> {
    let mut attributes = attributes(&file)?;
    attributes.project = project.id;
    attributes.flags = (attributes.flags & !INHERIT) | if project.inherited { INHERIT } else { 0 };
    // SAFETY: the ioctl reads a `struct fsxattr`, which outlives the call.
    done(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), SET, &raw const attributes) }.into())
}

fn attributes(file: impl AsFd) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    // SAFETY: the ioctl writes a `struct fsxattr`, which outlives the call.
    done(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET, &raw mut attributes) }.into())?;
    Ok(attributes)
}

/// Returns whether the file system enforces limits of projects.
pub(super) fn is_enforced(on: impl AsFd) -> Result<bool, Errno> {
    let mut state = State::default();
    quotactl(on, Q_XGETQSTAT, 0, &mut state)?;
    Ok(state.flags & ENFORCED != 0)
}

/// Returns the used bytes and inodes of a project.
pub(super) fn usage(on: impl AsFd, id: u32) -> Result<(u64, u64), Errno> {
    let mut quota = empty();
    match quotactl(on, Q_GETQUOTA, id, &mut quota) {
        // xfs has no record of an id that was never used.
        Ok(()) | Err(Errno::NOENT) => Ok((quota.dqb_curspace, quota.dqb_curinodes)),
        Err(e) => Err(e),
    }
}

/// Sets the limit of a project. An empty limit removes it.
pub(super) fn set_limit(on: impl AsFd, id: u32, limit: StorageLimit) -> Result<(), Errno> {
    let mut quota = empty();
    quota.dqb_bhardlimit = limit.size.unwrap_or(0).div_ceil(BLOCK);
    quota.dqb_ihardlimit = limit.inodes.unwrap_or(0);
    // QIF_BLIMITS and QIF_ILIMITS.
    quota.dqb_valid = 1 | 4;
    quotactl(on, Q_SETQUOTA, id, &mut quota)
}

fn empty() -> libc::dqblk {
    // SAFETY: the structure consists of integers.
    unsafe { std::mem::zeroed() }
}

/// Calls quotactl_fd(2), since Linux 5.14, with the structure that the command reads or writes.
fn quotactl<T>(on: impl AsFd, command: c_int, id: u32, data: &mut T) -> Result<(), Errno> {
    let (fd, command) = (on.as_fd().as_raw_fd(), ((command << 8) | PROJECT) as u32);
    // SAFETY: each caller passes the structure of its command, which outlives the call.
    done(unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, id, std::ptr::from_mut(data)) })
}

fn done(returned: c_long) -> Result<(), Errno> {
    match returned {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        _ => Ok(()),
    }
}
