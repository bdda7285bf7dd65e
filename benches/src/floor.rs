//! The floor: starts an OCI-like container with the fewest system calls. The times of the library are measured as
//! ratios to it.
//!
//! A cgroup, one clone3 into it with five new namespaces, nine mounts, six device nodes, pivot_root, exec, wait,
//! rmdir. It maps no ids, drops no capabilities, loads no filter and checks nothing.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{
    MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_STRICTATIME, c_char, c_long,
    c_ulong,
};

/// From linux/sched.h. The type of libc's constant is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A prepared container.
#[derive(Debug)]
pub struct Floor {
    root: CString,
    program: CString,
    cgroup: CString,
}

impl Floor {
    /// Prepares a program (an absolute path within the root) in a container over this root directory, with a cgroup
    /// to create at this path.
    ///
    /// # Errors
    /// A path contains a NUL byte.
    pub fn new(root: &Path, program: &Path, cgroup: &Path) -> Result<Floor> {
        let c = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(Error::other);
        Ok(Floor { root: c(root)?, program: c(program)?, cgroup: c(cgroup)? })
    }

    /// Starts the container, waits for its end and removes its cgroup.
    ///
    /// # Errors
    /// The first call that failed in this process, or `EPROTO` if the child did not end with exit code 0.
    pub fn run(&self) -> Result<()> {
        // SAFETY: the paths are terminated strings that outlive the calls, and the results are checked.
        unsafe {
            check(libc::mkdir(self.cgroup.as_ptr(), 0o755).into())?;
            let flags = libc::O_DIRECTORY | libc::O_RDONLY | libc::O_CLOEXEC;
            let cgroup = check(libc::open(self.cgroup.as_ptr(), flags).into())? as i32;
            let result = self.run_in(cgroup);
            libc::close(cgroup);
            check(libc::rmdir(self.cgroup.as_ptr()).into())?;
            result
        }
    }

    fn run_in(&self, cgroup: i32) -> Result<()> {
        let mut pidfd = -1;
        // SAFETY: all zeroes is a valid clone_args. The child has its own memory, so it continues here on a copy of
        // this stack. `child` neither returns nor allocates.
        unsafe {
            let mut args: libc::clone_args = std::mem::zeroed();
            let five = libc::CLONE_NEWPID
                | libc::CLONE_NEWNS
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUTS
                | libc::CLONE_NEWNET;
            args.flags = (five | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP;
            args.pidfd = &raw mut pidfd as u64;
            args.exit_signal = libc::SIGCHLD as u64;
            args.cgroup = cgroup as u64;
            let pid = check(libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)))?;
            if pid == 0 {
                self.child();
            }
            let mut status = 0;
            check(libc::waitpid(pid as i32, &raw mut status, 0).into())?;
            libc::close(pidfd);
            if status == 0 { Ok(()) } else { Err(Error::from_raw_os_error(libc::EPROTO)) }
        }
    }

    /// Sets up the container, then executes the program.
    ///
    /// # Safety
    /// The process is the child of a clone with copied memory, and has its own mount namespace.
    unsafe fn child(&self) -> ! {
        let strict = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        let root = self.root.as_c_str();
        mount(c"none", c"/", c"", MS_REC | MS_PRIVATE, c"");
        mount(root, root, c"", MS_BIND | MS_REC, c"");
        // SAFETY: every pointer refers to a terminated string or to an array that ends with NULL, and both outlive
        // the call. This process has its own copy of the memory.
        unsafe {
            or_die(libc::chdir(root.as_ptr()).into());
            mount(c"proc", c"proc", c"proc", strict, c"");
            mount(c"tmpfs", c"dev", c"tmpfs", MS_NOSUID | MS_STRICTATIME, c"mode=755,size=65536k");
            libc::umask(0);
            for (name, major, minor) in [
                (c"dev/null", 1, 3),
                (c"dev/zero", 1, 5),
                (c"dev/full", 1, 7),
                (c"dev/random", 1, 8),
                (c"dev/urandom", 1, 9),
                (c"dev/tty", 5, 0),
            ] {
                or_die(libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(major, minor)).into());
            }
            for (name, mode) in [(c"dev/pts", 0o755), (c"dev/shm", 0o1777), (c"dev/mqueue", 0o755)] {
                or_die(libc::mkdir(name.as_ptr(), mode).into());
            }
            let pts = c"newinstance,ptmxmode=0666,mode=0620";
            mount(c"devpts", c"dev/pts", c"devpts", MS_NOSUID | MS_NOEXEC, pts);
            mount(c"shm", c"dev/shm", c"tmpfs", strict, c"mode=1777,size=65536k");
            mount(c"mqueue", c"dev/mqueue", c"mqueue", strict, c"");
            mount(c"sysfs", c"sys", c"sysfs", strict | MS_RDONLY, c"");
            for (target, name) in [
                (c"/proc/self/fd", c"dev/fd"),
                (c"/proc/self/fd/0", c"dev/stdin"),
                (c"/proc/self/fd/1", c"dev/stdout"),
                (c"/proc/self/fd/2", c"dev/stderr"),
                (c"pts/ptmx", c"dev/ptmx"),
            ] {
                or_die(libc::symlink(target.as_ptr(), name.as_ptr()).into());
            }
            or_die(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()));
            or_die(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into());
            or_die(libc::chdir(c"/".as_ptr()).into());
            or_die(libc::sethostname(c"c".as_ptr(), 1).into());
            let argv = [self.program.as_ptr(), std::ptr::null::<c_char>()];
            libc::execv(self.program.as_ptr(), argv.as_ptr());
            libc::_exit(127)
        }
    }
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: c_ulong, data: &CStr) {
    let (kind, data) = (kind.as_ptr(), data.as_ptr().cast());
    // SAFETY: terminated strings that outlive the call.
    unsafe { or_die(libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data).into()) };
}

fn or_die(result: c_long) {
    if result < 0 {
        // SAFETY: ends only this process.
        unsafe { libc::_exit(126) }
    }
}

fn check(result: c_long) -> Result<c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
