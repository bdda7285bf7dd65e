//! Calls the floor in C, floor.c, within this process.

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

/// A prepared container.
#[derive(Debug)]
pub struct Floor {
    root: CString,
    program: CString,
    argument: Option<CString>,
    extra: Vec<CString>,
}

impl Floor {
    /// Prepares a program (an absolute path within the root) in a container over this root directory.
    ///
    /// # Errors
    /// If a path contains a NUL byte.
    pub fn new(root: &Path, program: &Path) -> Result<Floor> {
        Ok(Floor { root: c(root)?, program: c(program)?, argument: None, extra: Vec::new() })
    }

    /// Passes an argument to the program.
    pub fn argument(mut self, argument: &CStr) -> Floor {
        self.argument = Some(argument.to_owned());
        self
    }

    /// Mounts a tmpfs on each of these directories, relative to the root.
    ///
    /// # Errors
    /// If a path contains a NUL byte.
    pub fn extra(mut self, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Floor> {
        self.extra = paths.into_iter().map(|path| c(path.as_ref())).collect::<Result<_>>()?;
        Ok(self)
    }

    /// Creates the cgroup, starts the container, waits for its end and removes the cgroup.
    ///
    /// # Errors
    /// The errno of the call that failed in this process. `EPROTO` if the child did not end with exit code 0.
    pub fn run(&self, cgroup: &CStr) -> Result<()> {
        // SAFETY: the pointers in `raw` refer to strings that `self` owns, and the path of the cgroup is a
        // terminated string. The child has its own memory and makes system calls only.
        ended(self.raw(|raw| unsafe { nspod_floor_run(raw, cgroup.as_ptr()) }))
    }

    /// Creates the cgroup, starts the container and returns its pid. The caller must wait for the pid and remove
    /// the cgroup.
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

/// Starts a process in new namespaces (`CLONE_NEW…`) by clone3, executes the program and waits. The memory is
/// copied, as by fork.
///
/// # Errors
/// As for [`Floor::run`].
pub fn raw(program: &CStr, kinds: u64) -> Result<()> {
    // SAFETY: a terminated string. The child has its own memory and makes system calls only.
    ended(unsafe { nspod_raw_run(program.as_ptr(), kinds) })
}

/// Starts a process as [`raw`] does, but shares the memory until exec, as vfork does.
///
/// # Errors
/// As for [`Floor::run`].
pub fn raw_shared(program: &CStr, kinds: u64) -> Result<()> {
    // SAFETY: a terminated string. The child has its own stack, and this thread waits until the child has executed
    // the program. This process has no signal handlers.
    ended(unsafe { nspod_raw_run_shared(program.as_ptr(), kinds) })
}

/// Starts this many sleeping processes in one set of new namespaces of the five classic kinds. Returns the pid of
/// the first process; the others end with it.
///
/// # Errors
/// The errno of clone3.
pub fn crowd(processes: u32) -> Result<i32> {
    // SAFETY: the children have their own memory and make system calls only.
    number(unsafe { nspod_crowd(processes) })
}

/// Waits for a child. Returns its wait status.
///
/// # Errors
/// `ECHILD` if the process is not a child.
pub fn wait(pid: i32) -> Result<i32> {
    // SAFETY: the call accepts any number.
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
