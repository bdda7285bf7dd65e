//! A new process in new namespaces and in a cgroup, by one call of clone3(2).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicI32;

use libc::pid_t;
use nix::errno::Errno;

use crate::{Error, ErrorKind, Kinds, Pidfd, Result, hint, raw};

bitflags::bitflags! {
    /// Flags of [`Clone3`], except for the kinds of namespaces. The bits are the kernel's flags
    /// `CLONE_*`; see [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// CLONE_THREAD, CLONE_SIGHAND and CLONE_SETTLS are missing, because only libc can make threads.
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct CloneFlags: u64 {
        /// Returns a pidfd of the child (since Linux 5.2).
        const PIDFD = libc::CLONE_PIDFD as u64;
        /// Makes the child a sibling of the caller: both have the same parent and exit signal.
        const PARENT = libc::CLONE_PARENT as u64;
        /// Shares the memory. Only [`Clone3::spawn_on_stack`] accepts this flag.
        const VM = libc::CLONE_VM as u64;
        /// Suspends the calling thread until the child calls execve(2) or ends.
        const VFORK = libc::CLONE_VFORK as u64;
        /// Shares the descriptor table.
        const FILES = libc::CLONE_FILES as u64;
        /// Shares root directory, working directory and umask.
        const FS = libc::CLONE_FS as u64;
        /// Shares the I/O context.
        const IO = libc::CLONE_IO as u64;
        /// Shares System V semaphore undo values.
        const SYSVSEM = libc::CLONE_SYSVSEM as u64;
        /// Resets signal handlers to their defaults (since Linux 5.5).
        const CLEAR_SIGHAND = raw::CLONE_CLEAR_SIGHAND;
    }
}

/// Arguments of clone3(2). See [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html). Since Linux 5.3.
///
/// ```
/// use ns_core::{Clone3, Cloned, CloneFlags, ExitStatus, Kinds};
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
/// let clone = Clone3 { kinds: Kinds::FIVE, flags: CloneFlags::PIDFD, ..Clone3::default() };
/// // SAFETY: the child calls only getpid and _exit.
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
    /// Kinds of new namespaces. A child with copied memory enters a new time namespace at once, so its
    /// offsets cannot be set: to set them, call [`unshare`](crate::unshare()) first. A child that shares
    /// memory enters it when it executes a program. Since Linux 6.2; before, the two exclude each other.
    pub kinds: Kinds,
    /// Flags other than the kinds.
    pub flags: CloneFlags,
    /// Directory of the cgroup (v2) that the child starts in. Unlike a later move, this needs no
    /// system-wide lock. Since Linux 5.7.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Signal to the parent when the child ends: SIGCHLD by default, 0 for none. Ignored with
    /// [`CloneFlags::PARENT`].
    pub exit_signal: i32,
    /// Pids of the child: in its own pid namespace, in the parent of that namespace, and so on. If
    /// empty, the kernel chooses. Since Linux 5.5.
    pub set_tid: &'a [pid_t],
    /// Where the kernel stores the child's pid before the child runs (`CLONE_PARENT_SETTID`). Another
    /// thread can read it while [`CloneFlags::VFORK`] suspends the calling thread.
    pub parent_tid: Option<&'a AtomicI32>,
}

impl Default for Clone3<'_> {
    /// Returns the arguments that act like fork(2): no new namespace, copied memory, SIGCHLD.
    fn default() -> Self {
        Self {
            kinds: Kinds::empty(),
            flags: CloneFlags::empty(),
            cgroup: None,
            exit_signal: libc::SIGCHLD,
            set_tid: &[],
            parent_tid: None,
        }
    }
}

/// Process in which [`Clone3::spawn`] returned. See
/// [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
#[derive(Debug)]
pub enum Cloned {
    /// The child.
    Child,
    /// The parent.
    Parent {
        /// Pid of the child in the parent's pid namespace.
        pid: pid_t,
        /// Pidfd of the child (close-on-exec), with [`CloneFlags::PIDFD`].
        pidfd: Option<Pidfd>,
    },
}

/// Child created by [`Clone3::spawn_on_stack`]. See
/// [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
#[derive(Debug)]
pub struct Spawned {
    /// Pid in the parent's pid namespace.
    pub pid: pid_t,
    /// Pidfd (close-on-exec), with [`CloneFlags::PIDFD`].
    pub pidfd: Option<Pidfd>,
}

impl Clone3<'_> {
    /// Creates the process with copied memory. Returns in both processes, as fork(2) does. Since
    /// Linux 5.3; see [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// # Errors
    /// - `EPERM`: new namespaces require CAP_SYS_ADMIN, unless one of them is a user namespace, which
    ///   a host may forbid; `set_tid` requires CAP_CHECKPOINT_RESTORE.
    /// - `EINVAL`: the kernel lacks a kind, or flags exclude each other ([`CloneFlags::FS`] and a new
    ///   user or mnt namespace).
    /// - [`InvalidInput`](ErrorKind::InvalidInput): [`CloneFlags::VM`], which requires
    ///   [`spawn_on_stack`](Self::spawn_on_stack).
    /// - `ENOSPC`: a limit on namespaces is reached: `user.max_*_namespaces`, or 32 levels of nesting.
    /// - `EAGAIN`: a limit on processes is reached: RLIMIT_NPROC, `pids.max` or `kernel.pid_max`.
    /// - `EEXIST`: a pid in `set_tid` is in use.
    /// - `EBUSY`: the cgroup enables controllers for its children.
    /// - `EOPNOTSUPP`: the cgroup is in a threaded subtree.
    /// - `EACCES`: the caller may not write `cgroup.procs`.
    /// - `ENOMEM`: the host is out of memory, or the init of the caller's pid namespace for children
    ///   has ended.
    ///
    /// # Safety
    /// In the child only the calling thread continues, and locks of other threads stay locked. Until
    /// the child calls execve(2) or `_exit`, it may call async-signal-safe functions only. It must
    /// not allocate, panic, or return to a caller that drops values of the parent a second time.
    /// With [`CloneFlags::FILES`] the caller upholds I/O safety for both processes.
    pub unsafe fn spawn(&self) -> Result<Cloned> {
        if self.flags.contains(CloneFlags::VM) {
            let why = "a child that shares memory requires its own stack: use spawn_on_stack";
            return Err(Error::new(ErrorKind::InvalidInput, self.step(), why));
        }
        let mut pidfd = -1;
        let mut args = self.args(&mut pidfd)?;
        // SAFETY: the caller vouches for the child. The pointers are of locals and of a borrow.
        match unsafe { raw::clone3(&mut args) } {
            Ok(0) => Ok(Cloned::Child),
            // SAFETY: with PIDFD the kernel has just written a new descriptor to `pidfd`.
            Ok(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { self.own(pidfd) } }),
            Err(errno) => Err(self.error(errno)),
        }
    }

    /// Creates the process on its own stack, where it calls `f(arg)`. Returns in the parent only.
    /// Since Linux 5.3, on x86_64 and aarch64; see
    /// [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// With `VM | VFORK` the time does not depend on the size of the parent: the kernel copies no
    /// memory, and suspends the calling thread until the child calls execve(2) or ends.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn); `ENOSYS` on other architectures.
    ///
    /// # Safety
    /// See [`raw::clone3_on_stack`].
    pub unsafe fn spawn_on_stack(
        &self,
        stack: *mut u8,
        size: usize,
        f: unsafe extern "C" fn(*mut c_void) -> !,
        arg: *mut c_void,
    ) -> Result<Spawned> {
        let mut pidfd = -1;
        let mut args = self.args(&mut pidfd)?;
        // SAFETY: the caller vouches for the stack, `f` and `arg`. The pointers in `args` are of a
        // local and of a borrow.
        match unsafe { raw::clone3_on_stack(&mut args, stack, size, f, arg) } {
            // SAFETY: with PIDFD the kernel has just written a new descriptor to `pidfd`.
            Ok(pid) => Ok(Spawned { pid, pidfd: unsafe { self.own(pidfd) } }),
            Err(errno) => Err(self.error(errno)),
        }
    }

    /// Returns the kernel's structure. `pidfd` must outlive the call that uses it.
    fn args(&self, pidfd: &mut i32) -> Result<raw::CloneArgs> {
        let mut args = raw::clone_args();
        // from_bits_retain can add bits that are not CloneFlags.
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
        if let Some(tid) = self.parent_tid {
            args.flags |= libc::CLONE_PARENT_SETTID as u64;
            args.parent_tid = tid.as_ptr().expose_provenance() as u64;
        }
        if let Some(cgroup) = self.cgroup {
            args.flags |= raw::CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        Ok(args)
    }

    /// # Safety
    /// With `PIDFD`, `pidfd` is a descriptor without an owner.
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
            Errno::EEXIST => error.hint("a pid in set_tid is in use"),
            Errno::EAGAIN => error.hint(
                "a limit on processes is reached: RLIMIT_NPROC (ulimit -u), pids.max of a cgroup, or \
                 kernel.pid_max",
            ),
            Errno::EBUSY if self.cgroup.is_some() => error.hint(
                "the cgroup enables controllers for its children (cgroup.subtree_control), so it \
                 cannot contain processes",
            ),
            Errno::EOPNOTSUPP if self.cgroup.is_some() => error
                .hint("the cgroup is in a threaded subtree (cgroup.type), so it cannot contain processes"),
            Errno::EACCES if self.cgroup.is_some() => {
                error.hint("the caller may not write cgroup.procs of the cgroup")
            }
            Errno::EBADF if self.cgroup.is_some() => {
                error.hint("the descriptor does not refer to a cgroup v2 directory")
            }
            Errno::EPERM if !self.set_tid.is_empty() => error.hint(
                "set_tid requires CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the user namespace of \
                 each of the pid namespaces",
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
