//! The floor in C: floor.c, called within this process.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

unsafe extern "C" {
    fn nspod_floor_start(floor: *const Raw, cgroup: *const c_char) -> c_int;
    fn nspod_floor_run(floor: *const Raw, cgroup: *const c_char) -> c_int;
    fn nspod_wait(pid: c_int) -> c_int;
    fn nspod_raw_run(program: *const c_char, kinds: u64) -> c_int;
    fn nspod_raw_run_shared(program: *const c_char, kinds: u64) -> c_int;
    fn nspod_crowd(processes: u32) -> c_int;
}

/// `struct floor` of floor.c.
#[repr(C)]
struct Raw {
    root: *const c_char,
    program: *const c_char,
    argument: *const c_char,
    extra: *const *const c_char,
}

/// A container made ready.
#[derive(Debug)]
pub struct Floor {
    root: CString,
    program: CString,
    argument: Option<CString>,
    extra: Vec<CString>,
}

impl Floor {
    /// A program (an absolute path within the root) in a container over this root directory.
    ///
    /// # Errors
    /// Where a path holds a NUL byte.
    pub fn new(root: &Path, program: &Path) -> Result<Floor> {
        Ok(Floor { root: c(root)?, program: c(program)?, argument: None, extra: Vec::new() })
    }

    /// Hands the program an argument.
    pub fn argument(mut self, argument: &CStr) -> Floor {
        self.argument = Some(argument.to_owned());
        self
    }

    /// Mounts a tmpfs on each of these directories, relative to the root.
    ///
    /// # Errors
    /// Where a path holds a NUL byte.
    pub fn extra(mut self, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Floor> {
        self.extra = paths.into_iter().map(|path| c(path.as_ref())).collect::<Result<_>>()?;
        Ok(self)
    }

    /// Makes the cgroup, starts it, waits for its end and removes the cgroup.
    ///
    /// # Errors
    /// The errno of the call that failed in this process; `EPROTO` where the child did not end by exit code 0.
    pub fn run(&self, cgroup: &CStr) -> Result<()> {
        // SAFETY: what `raw` points to lives in `self`; the cgroup's path is a terminated string. The
        // child has memory of its own and makes system calls only.
        ended(self.raw(|raw| unsafe { nspod_floor_run(raw, cgroup.as_ptr()) }))
    }

    /// Makes the cgroup and starts it; its pid is to be waited for, and the cgroup to be removed.
    ///
    /// # Errors
    /// The errno of the call that failed.
    pub fn start(&self, cgroup: &CStr) -> Result<i32> {
        // SAFETY: as in `run`.
        number(self.raw(|raw| unsafe { nspod_floor_start(raw, cgroup.as_ptr()) }))
    }

    fn raw<T>(&self, call: impl FnOnce(*const Raw) -> T) -> T {
        let extra: Vec<_> = self.extra.iter().map(|p| p.as_ptr()).chain([ptr::null()]).collect();
        call(&Raw {
            root: self.root.as_ptr(),
            program: self.program.as_ptr(),
            argument: self.argument.as_ref().map_or(ptr::null(), |a| a.as_ptr()),
            extra: extra.as_ptr(),
        })
    }
}

/// clone3 into new namespaces (`CLONE_NEW…`), exec, wait. Memory is copied, as by fork.
///
/// # Errors
/// As [`Floor::run`].
pub fn raw(program: &CStr, kinds: u64) -> Result<()> {
    // SAFETY: a terminated string; the child has memory of its own and makes system calls only.
    ended(unsafe { nspod_raw_run(program.as_ptr(), kinds) })
}

/// The same with memory shared until exec, as by vfork.
///
/// # Errors
/// As [`Floor::run`].
pub fn raw_shared(program: &CStr, kinds: u64) -> Result<()> {
    // SAFETY: a terminated string; the child has a stack of its own and this thread waits until it has
    // executed the program. Nothing here has a signal handler.
    ended(unsafe { nspod_raw_run_shared(program.as_ptr(), kinds) })
}

/// So many processes that sleep in one set of new namespaces of the five classic kinds: the pid of
/// the first, with which all end.
///
/// # Errors
/// The errno of clone3.
pub fn crowd(processes: u32) -> Result<i32> {
    // SAFETY: the children have memory of their own and make system calls only.
    number(unsafe { nspod_crowd(processes) })
}

/// Waits for a child: its wait status.
///
/// # Errors
/// `ECHILD` where this is none.
pub fn wait(pid: i32) -> Result<i32> {
    // SAFETY: a plain call.
    number(unsafe { nspod_wait(pid) })
}

fn c(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(Error::other)
}

fn number(result: c_int) -> Result<i32> {
    if result < 0 { Err(Error::from_raw_os_error(-result)) } else { Ok(result) }
}

fn ended(result: c_int) -> Result<()> {
    match number(result)? {
        0 => Ok(()),
        _ => Err(Error::from_raw_os_error(libc::EPROTO)),
    }
}
