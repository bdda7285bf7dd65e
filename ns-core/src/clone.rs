//! `clone3`: a new process, in new namespaces, in a cgroup, in one call.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::pid_t;
use nix::errno::Errno;

use crate::{Error, ErrorKind, Kinds, Pidfd, Result, hint, raw};

bitflags::bitflags! {
    /// Flags of [`Clone3`] beside the kinds. The bits are the kernel's `CLONE_*` flags.
    ///
    /// CLONE_THREAD, CLONE_SIGHAND and CLONE_SETTLS are left out: threads are libc's job.
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct CloneFlags: u64 {
        /// Returns a pidfd of the child.
        const PIDFD = libc::CLONE_PIDFD as u64;
        /// The child gets the caller's parent as its parent; the exit signal is the caller's.
        const PARENT = libc::CLONE_PARENT as u64;
        /// Shares memory; only with [`Clone3::spawn_on_stack`].
        const VM = libc::CLONE_VM as u64;
        /// The calling thread sleeps until the child has exec'd or ended.
        const VFORK = libc::CLONE_VFORK as u64;
        /// Shares the descriptor table.
        const FILES = libc::CLONE_FILES as u64;
        /// Shares root, working directory and umask.
        const FS = libc::CLONE_FS as u64;
        /// Shares the I/O context.
        const IO = libc::CLONE_IO as u64;
        /// Shares System V semaphore undo values.
        const SYSVSEM = libc::CLONE_SYSVSEM as u64;
        /// Resets signal handlers to their defaults (since Linux 5.5).
        const CLEAR_SIGHAND = raw::CLONE_CLEAR_SIGHAND;
    }
}

/// What `clone3` is to make; its fields are the call's.
///
/// See [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html). Since Linux 5.3.
///
/// ```
/// use ns_core::{Clone3, Cloned, CloneFlags, ExitStatus, Kinds};
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
/// let clone = Clone3 { kinds: Kinds::FIVE, flags: CloneFlags::PIDFD, ..Clone3::default() };
/// // SAFETY: the child calls nothing but getpid and _exit.
/// match unsafe { clone.spawn() }? {
///     Cloned::Child => unsafe { libc::_exit(libc::getpid()) }, // the first in its pid namespace
///     Cloned::Parent { pidfd, .. } => {
///         assert_eq!(pidfd.unwrap().wait()?.status, ExitStatus::Exited(1));
///     }
/// }
/// # Ok::<(), ns_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Clone3<'a> {
    /// Kinds of which the child gets a new namespace. A new time namespace is entered at
    /// once, which leaves no moment to set its offsets: for these
    /// [`unshare`](crate::unshare()) first.
    pub kinds: Kinds,
    /// Other flags.
    pub flags: CloneFlags,
    /// The cgroup (v2) that the child starts in, as a descriptor of its directory. Takes no
    /// lock of the whole system, unlike moving it later. Since Linux 5.7.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The signal that the parent gets when the child ends; SIGCHLD by default, 0 for none.
    /// Not used with [`CloneFlags::PARENT`].
    pub exit_signal: i32,
    /// The child's pid in its own pid namespace, in the one above it, and so on; empty lets
    /// the kernel choose. Since Linux 5.5.
    pub set_tid: &'a [pid_t],
}

impl Default for Clone3<'_> {
    /// As `fork` does: no new namespace, memory copied, SIGCHLD at the end.
    fn default() -> Self {
        Self {
            kinds: Kinds::empty(),
            flags: CloneFlags::empty(),
            cgroup: None,
            exit_signal: libc::SIGCHLD,
            set_tid: &[],
        }
    }
}

/// Where [`Clone3::spawn`] returned.
#[derive(Debug)]
pub enum Cloned {
    /// In the child.
    Child,
    /// In the parent.
    Parent {
        /// The child's pid in the parent's pid namespace.
        pid: pid_t,
        /// With [`CloneFlags::PIDFD`], the child's pidfd (close-on-exec).
        pidfd: Option<Pidfd>,
    },
}

/// A child that [`Clone3::spawn_on_stack`] made.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid in the parent's pid namespace.
    pub pid: pid_t,
    /// With [`CloneFlags::PIDFD`], its pidfd (close-on-exec).
    pub pidfd: Option<Pidfd>,
}

impl Clone3<'_> {
    /// Makes the process with copied memory; returns twice, as `fork` does.
    ///
    /// # Errors
    /// - `EPERM`: new namespaces need CAP_SYS_ADMIN, unless one is a user namespace, which a
    ///   host may forbid; `set_tid` needs CAP_CHECKPOINT_RESTORE.
    /// - `EINVAL`: a kind that this kernel lacks, or flags that exclude each other
    ///   ([`CloneFlags::FS`] with a new user or mnt namespace); also
    ///   [`CloneFlags::VM`], for which there is [`spawn_on_stack`](Self::spawn_on_stack).
    /// - `ENOSPC`: a limit on namespaces: `user.max_*_namespaces`, or 32 levels of nesting.
    /// - `EAGAIN`: a limit on processes: RLIMIT_NPROC, `pids.max`, `kernel.pid_max`.
    /// - `EEXIST`: a pid in `set_tid` is taken.
    /// - `EBUSY`, `EOPNOTSUPP`: the cgroup may hold no processes: it has controllers enabled
    ///   for its children, or is threaded. `EACCES`: it may not be written.
    /// - `ENOMEM`: also where the init of the caller's pid namespace for children has ended.
    ///
    /// # Safety
    /// In the child only the calling thread goes on, with whatever locks others held: until
    /// exec or `_exit` it may call async-signal-safe functions only, and must neither
    /// allocate, panic nor return from where values of the parent would be dropped twice.
    /// With [`CloneFlags::FILES`] the caller upholds I/O safety for both processes.
    pub unsafe fn spawn(&self) -> Result<Cloned> {
        if self.flags.contains(CloneFlags::VM) {
            let why = "sharing memory needs a stack of its own: use spawn_on_stack";
            return Err(Error::new(ErrorKind::InvalidInput, self.step(), why));
        }
        let mut pidfd = -1;
        let mut args = self.args(&mut pidfd)?;
        // SAFETY: the caller vouches for the child; the pointers are of locals and a borrow.
        match unsafe { raw::clone3(&mut args) } {
            Ok(0) => Ok(Cloned::Child),
            // SAFETY: the kernel has just filled in `pidfd`, if asked to.
            Ok(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { self.own(pidfd) } }),
            Err(errno) => Err(self.error(errno)),
        }
    }

    /// Makes the process on a stack of its own, where it calls `f(arg)`; returns in the
    /// parent only.
    ///
    /// With `VM | VFORK` this costs the same from a parent of any size: nothing is copied,
    /// and the calling thread sleeps until the child has exec'd or ended. On x86_64 and
    /// aarch64.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn); `ENOSYS` on other architectures.
    ///
    /// # Safety
    /// That of [`raw::clone3_on_stack`].
    pub unsafe fn spawn_on_stack(
        &self,
        stack: *mut u8,
        size: usize,
        f: unsafe extern "C" fn(*mut c_void) -> !,
        arg: *mut c_void,
    ) -> Result<Spawned> {
        let mut pidfd = -1;
        let mut args = self.args(&mut pidfd)?;
        // SAFETY: the caller vouches for stack, `f` and `arg`; the pointers in `args` are of
        // a local and a borrow.
        match unsafe { raw::clone3_on_stack(&mut args, stack, size, f, arg) } {
            // SAFETY: the kernel has just filled in `pidfd`, if asked to.
            Ok(pid) => Ok(Spawned { pid, pidfd: unsafe { self.own(pidfd) } }),
            Err(errno) => Err(self.error(errno)),
        }
    }

    /// The kernel's block; `pidfd` outlives the call that uses it.
    fn args(&self, pidfd: &mut i32) -> Result<raw::CloneArgs> {
        let mut args = raw::clone_args();
        // Bits that are no CloneFlags (from_bits_retain) would break what they promise.
        args.flags = self.kinds.flags(&self.step())? | self.flags.intersection(CloneFlags::all()).bits();
        if self.flags.contains(CloneFlags::PIDFD) {
            args.pidfd = (pidfd as *mut i32).expose_provenance() as u64;
        }
        if !self.flags.contains(CloneFlags::PARENT) {
            args.exit_signal = self.exit_signal as u64;
        }
        if !self.set_tid.is_empty() {
            args.set_tid = self.set_tid.as_ptr().expose_provenance() as u64;
            args.set_tid_size = self.set_tid.len() as u64;
        }
        if let Some(cgroup) = self.cgroup {
            args.flags |= raw::CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        Ok(args)
    }

    /// # Safety
    /// With `PIDFD`, `pidfd` is a descriptor that nobody else owns.
    unsafe fn own(&self, pidfd: i32) -> Option<Pidfd> {
        self.flags.contains(CloneFlags::PIDFD).then(|| {
            // SAFETY: by the contract above.
            Pidfd::from_kernel(unsafe { OwnedFd::from_raw_fd(pidfd) })
        })
    }

    fn step(&self) -> String {
        match self.kinds.is_empty() {
            true => "create a process".into(),
            false => format!("create a process in new {} namespaces", self.kinds),
        }
    }

    fn error(&self, errno: Errno) -> Error {
        let error = Error::os(self.step(), "clone3", errno);
        match errno {
            Errno::EEXIST => error.hint("a pid in set_tid is taken"),
            Errno::EAGAIN => error.hint(
                "a limit on processes: RLIMIT_NPROC (ulimit -u), pids.max of a cgroup, or \
                 kernel.pid_max",
            ),
            Errno::EBUSY if self.cgroup.is_some() => error.hint(
                "the cgroup has controllers enabled for its children \
                 (cgroup.subtree_control): only leaf cgroups hold processes",
            ),
            Errno::EOPNOTSUPP if self.cgroup.is_some() => {
                error.hint("the cgroup is in a threaded subtree (cgroup.type): it holds no processes")
            }
            Errno::EACCES if self.cgroup.is_some() => {
                error.hint("cgroup.procs of the cgroup is not writable by the caller")
            }
            Errno::EBADF if self.cgroup.is_some() => {
                error.hint("the descriptor is not of a cgroup v2 directory")
            }
            Errno::EPERM if !self.set_tid.is_empty() => error.hint(
                "set_tid needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the user namespace \
                 of each pid namespace it names",
            ),
            Errno::EINVAL
                if self.flags.contains(CloneFlags::FS) && self.kinds.intersects(Kinds::USER | Kinds::MNT) =>
            {
                error.hint("CloneFlags::FS excludes a new user or mnt namespace")
            }
            _ => hint::new_namespaces(error, errno, self.kinds),
        }
    }
}
