//! bpf(2), as far as a device program needs it.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::{Instruction, Rule, compile};
use crate::{Cgroup, Error, Result};

// Commands, types and flags of linux/bpf.h.
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The same for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct Attach {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
    replaced: i32,
}

/// The same for `BPF_PROG_QUERY`.
#[repr(C)]
struct Query {
    target: i32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// The same for `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

impl Cgroup {
    /// Attaches a device filter of these rules. Of several, on this cgroup and on its ancestors,
    /// all must allow; so this can only narrow. It lasts as long as the cgroup. What is open
    /// already stays open.
    ///
    /// # Errors
    /// `PermissionDenied` (`EPERM`) without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the
    /// initial user namespace, or where an ancestor's program was attached without
    /// `BPF_F_ALLOW_MULTI`; `Unsupported` (`ENOSYS`) or `EINVAL` where the kernel lacks
    /// CONFIG_CGROUP_BPF; `E2BIG` beyond 64 programs on the cgroup.
    pub fn attach_devices(&self, rules: &[Rule]) -> Result<()> {
        let program = self.load(&compile(rules))?;
        self.attach_program(&program, None)
    }

    /// As [`attach_devices`](Self::attach_devices), in the place of whatever device filters are
    /// attached to this very cgroup; without a moment in between where there is one. Those of
    /// ancestors stay in force.
    ///
    /// # Errors
    /// As [`attach_devices`](Self::attach_devices).
    pub fn replace_devices(&self, rules: &[Rule]) -> Result<()> {
        let program = self.load(&compile(rules))?;
        let old = self.attached()?;
        self.attach_program(&program, old.first())?;
        old.iter().skip(1).try_for_each(|old| self.detach(old))
    }

    /// Takes every device filter off this very cgroup.
    ///
    /// # Errors
    /// As [`attach_devices`](Self::attach_devices).
    pub fn detach_devices(&self) -> Result<()> {
        self.attached()?.iter().try_for_each(|program| self.detach(program))
    }

    fn load(&self, program: &[Instruction]) -> Result<OwnedFd> {
        let mut attr = Load {
            kind: TYPE_CGROUP_DEVICE,
            count: program.len() as u32,
            instructions: program.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"nspod_devices\0\0\0",
        };
        // SAFETY: `instructions` and `license` point to `count` instructions and a C string, both
        // alive for the call; the kernel copies them.
        let fd = unsafe { bpf(PROG_LOAD, &mut attr) };
        fd.map(owned).map_err(|errno| self.refused("load the device filter of", errno))
    }

    fn attach_program(&self, program: &OwnedFd, replaced: Option<&OwnedFd>) -> Result<()> {
        let mut attr = Attach {
            target: self.as_fd().as_raw_fd(),
            program: program.as_raw_fd(),
            kind: ATTACH_CGROUP_DEVICE,
            flags: if replaced.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI },
            replaced: replaced.map_or(0, AsRawFd::as_raw_fd),
        };
        // SAFETY: plain integers, of descriptors that are open for the call.
        let done = unsafe { bpf(PROG_ATTACH, &mut attr) };
        done.map(drop).map_err(|errno| self.refused("attach the device filter to", errno))
    }

    fn detach(&self, program: &OwnedFd) -> Result<()> {
        let mut attr = Attach {
            target: self.as_fd().as_raw_fd(),
            program: program.as_raw_fd(),
            kind: ATTACH_CGROUP_DEVICE,
            flags: 0,
            replaced: 0,
        };
        // SAFETY: plain integers, of descriptors that are open for the call.
        let done = unsafe { bpf(PROG_DETACH, &mut attr) };
        done.map(drop).map_err(|errno| self.refused("detach the device filter from", errno))
    }

    /// The device programs of this very cgroup.
    fn attached(&self) -> Result<Vec<OwnedFd>> {
        let fail = |errno| self.refused("list the device filters of", errno);
        let mut ids = [0_u32; 64]; // The kernel's BPF_CGROUP_MAX_PROGS.
        let mut query = Query {
            target: self.as_fd().as_raw_fd(),
            kind: ATTACH_CGROUP_DEVICE,
            query_flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: ids.len() as u32,
            padding: 0,
        };
        // SAFETY: `ids` has room for `count` ids and outlives the call, which writes no more than that.
        unsafe { bpf(PROG_QUERY, &mut query) }.map_err(fail)?;
        let by_id = |&id: &u32| {
            let mut attr = ById { id, next: 0, flags: 0 };
            // SAFETY: plain integers.
            unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }.map(owned).map_err(fail)
        };
        ids.iter().take(query.count as usize).map(by_id).collect()
    }

    fn refused(&self, step: &str, errno: Errno) -> Error {
        let cure = match errno {
            Errno::EPERM => Some(
                "it takes CAP_BPF and CAP_NET_ADMIN in the initial user namespace, and no ancestor with an exclusive filter",
            ),
            Errno::EINVAL | Errno::ENOSYS => {
                Some("the kernel needs CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL")
            }
            Errno::E2BIG => Some("the cgroup has 64 filters, or the rules are too many"),
            Errno::EBADF => Some("the cgroup was removed"),
            _ => None,
        };
        Error::os(format!("{step} cgroup {}", self.path().display()), "bpf", errno, cure)
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: only called on what a bpf command that makes a descriptor has just returned.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// One bpf(2) call.
///
/// # Safety
/// `attr` begins as the kernel's `union bpf_attr` for `command`, without padding, and each pointer
/// in it is valid for what the command does with it.
unsafe fn bpf<T>(command: u32, attr: &mut T) -> nix::Result<i32> {
    let size = std::mem::size_of::<T>();
    // SAFETY: the kernel reads and writes at most `size` bytes at `attr`; the rest is the caller's promise.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    Errno::result(done).map(|fd| fd as i32)
}
