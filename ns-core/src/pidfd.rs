//! Pidfds: handles on processes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use libc::pid_t;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::{Error, ErrorKind, Exit, ExitStatus, Result, Usage, file, proc, raw};

/// Handle on a process. Unlike a pid, it never refers to another process.
///
/// Linux 5.3 or later. See [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
///
/// ```
/// use ns_core::{ExitStatus, Pidfd};
/// let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
/// let pidfd = Pidfd::open(child.id() as i32)?;
/// pidfd.send_signal(libc::SIGKILL)?;
/// let exit = pidfd.wait()?;
/// assert_eq!(exit.status, ExitStatus::Signaled { signal: libc::SIGKILL, core_dumped: false });
/// # Ok::<(), ns_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Opens the process `pid`. Since Linux 5.3; see
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// A child keeps its pid until its parent has waited for it, so this always opens the right child
    /// of the caller. The pid of another process may belong to a new process: compare the identity
    /// after opening, or use [`ProcessId::open`](crate::ProcessId::open).
    ///
    /// # Errors
    /// - `ESRCH`: no process in this pid namespace has the pid.
    /// - `EINVAL`: `pid` is not positive, or is the id of a thread other than the first of its process.
    ///   For the latter, recent kernels return `ENOENT` (6.12 does not, 6.18 does).
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn open(pid: pid_t) -> Result<Self> {
        let opened = match raw::pidfd_open(pid) {
            // Older kernels (6.1) also return this if the process is reaped during the call. A thread is in /proc.
            Err(Errno::EINVAL) if pid > 0 && !Path::new(&format!("/proc/{pid}")).exists() => {
                Err(Errno::ESRCH)
            }
            opened => opened,
        };
        opened.map(Self).map_err(|errno| {
            let error = Error::os(format!("open a pidfd of process {pid}"), "pidfd_open", errno).on(pid);
            match errno {
                Errno::ESRCH => error.hint("the process has ended, or is outside this pid namespace"),
                Errno::EINVAL | Errno::ENOENT => error
                    .with_kind(ErrorKind::InvalidInput)
                    .hint("the number is not positive, or is the id of a thread"),
                _ => error,
            }
        })
    }

    /// Makes a handle from a descriptor. Since Linux 5.3; see
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// # Errors
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the descriptor is not a pidfd.
    /// - `ENOENT`: `/proc` is not mounted.
    pub fn from_owned_fd(fd: OwnedFd) -> Result<Self> {
        // On all kernels with pidfds, fdinfo has a Pid line for them.
        let text = fdinfo(fd.as_fd())?;
        if proc::fdinfo_pid(&text).is_none() {
            let step = format!("use descriptor {} as a pidfd", fd.as_raw_fd());
            return Err(Error::new(ErrorKind::InvalidInput, step, "the descriptor is not a pidfd"));
        }
        Ok(Self(fd))
    }

    /// Makes a handle from a descriptor that the kernel returned as a pidfd.
    pub(crate) fn from_kernel(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Returns the pid in the caller's pid namespace.
    ///
    /// Uses `PIDFD_GET_INFO` of `linux/pidfd.h` since Linux 6.13, and `/proc/thread-self/fdinfo` before;
    /// see [proc_pid_fdinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html).
    ///
    /// # Errors
    /// - [`NoSuchProcess`](ErrorKind::NoSuchProcess): the process has ended and been reaped, or is
    ///   outside this pid namespace.
    /// - `ENOENT`: `/proc` is not mounted (before Linux 6.13).
    pub fn pid(&self) -> Result<pid_t> {
        pid_of(self.as_fd())
    }

    /// Sends a signal. Signal 0 only checks whether a signal could be sent. Since Linux 5.1; see
    /// [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html).
    ///
    /// # Errors
    /// - `ESRCH`: the process has ended and been reaped.
    /// - `EPERM`: the process has another uid, and the caller lacks CAP_KILL in its user namespace.
    /// - `EINVAL`: the signal does not exist, or the process is outside the caller's pid namespace and
    ///   its descendants.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        raw::pidfd_send_signal(self.as_fd(), signal).map_err(|errno| {
            let error = self.cannot(&format!("send signal {signal} to"), "pidfd_send_signal", errno);
            match errno {
                Errno::ESRCH => error.hint("the process has ended and been reaped"),
                Errno::EPERM => {
                    error.hint("this requires the uid of the process, or CAP_KILL in its user namespace")
                }
                Errno::EINVAL => {
                    error.hint("the signal does not exist, or the process is outside this pid namespace")
                }
                _ => error,
            }
        })
    }

    /// Waits until the child ends, and reaps it. Since Linux 5.4; see
    /// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html).
    ///
    /// For a process that is not a child, use [`poll`](Self::poll) and [`exit_info`](Self::exit_info).
    ///
    /// # Errors
    /// `ECHILD`: the process is not a child of the caller, or has already been reaped. If the caller
    /// ignores SIGCHLD, the kernel reaps its children.
    pub fn wait(&self) -> Result<Exit> {
        loop {
            // Without WNOHANG the kernel returns only when the child has ended.
            if let Some(exit) = self.waitid(0)? {
                return Ok(exit);
            }
        }
    }

    /// Reaps the child if it has ended; returns `None` while it runs. Since Linux 5.4; see
    /// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        self.waitid(libc::WNOHANG)
    }

    /// Waits for at most `timeout` and reaps the child; returns `None` if it still runs. Since Linux
    /// 5.4; see [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Exit>> {
        match self.poll(Some(timeout))? {
            true => self.wait().map(Some),
            false => self.try_wait(),
        }
    }

    fn waitid(&self, options: i32) -> Result<Option<Exit>> {
        // __WALL includes children whose exit signal is not SIGCHLD.
        let options = options | libc::WEXITED | libc::__WALL;
        let waited = loop {
            match raw::waitid(self.as_fd(), options) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        let waited = waited.map_err(|errno| {
            self.cannot("wait for", "waitid(P_PIDFD)", errno).hint(match errno {
                Errno::ECHILD => "the process is not a child of the caller, or has already been reaped",
                _ => "",
            })
        })?;
        Ok(waited.map(|waited| Exit {
            status: match waited.code {
                libc::CLD_EXITED => ExitStatus::Exited(waited.status),
                code => ExitStatus::Signaled { signal: waited.status, core_dumped: code == libc::CLD_DUMPED },
            },
            usage: Usage {
                user: duration(waited.usage.ru_utime),
                system: duration(waited.usage.ru_stime),
                max_rss: (waited.usage.ru_maxrss as u64).saturating_mul(1024),
            },
        }))
    }

    /// Waits until the process ends, for at most `timeout` or without a limit, and returns whether it
    /// has ended. Does not reap the process, which need not be a child. Since Linux 5.3; see
    /// [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html).
    ///
    /// ```
    /// use ns_core::Pidfd;
    /// use std::time::Duration;
    /// let child = std::process::Command::new("true").spawn().unwrap();
    /// let pidfd = Pidfd::open(child.id() as i32)?;
    /// assert!(pidfd.poll(Some(Duration::from_secs(60)))?);
    /// assert!(pidfd.try_wait()?.unwrap().status.success());
    /// # Ok::<(), ns_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `ENOMEM`: the host is out of memory.
    pub fn poll(&self, timeout: Option<Duration>) -> Result<bool> {
        // A timeout beyond the range of the clock has no limit.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut fds, left.map(TimeSpec::from_duration), None) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.cannot("wait for the end of", "ppoll", errno)),
            }
        }
    }

    /// Returns how the process ended. Returns `None` until its parent has reaped it. The process need
    /// not be a child of the caller. Since Linux 6.15: `PIDFD_INFO_EXIT` of `linux/pidfd.h`; the
    /// status is that of [wait(2)](https://man7.org/linux/man-pages/man2/wait.2.html).
    ///
    /// # Errors
    /// - `ENOTTY`, `EINVAL` ([`Unsupported`](ErrorKind::Unsupported)): the kernel is older than 6.15.
    /// - `ESRCH`: the process was reaped before this pidfd was opened, or the kernel is older.
    pub fn exit_info(&self) -> Result<Option<ExitStatus>> {
        let fail = |errno| {
            let error = self.cannot("ask for the end of", "ioctl(PIDFD_GET_INFO)", errno);
            match errno {
                Errno::ENOTTY | Errno::EINVAL => {
                    error.with_kind(ErrorKind::Unsupported).hint("this kernel is older than Linux 6.15")
                }
                Errno::ESRCH => error.hint(
                    "the process was reaped before this pidfd was opened, or this kernel is older than \
                     Linux 6.15",
                ),
                _ => error,
            }
        };
        let info = raw::pidfd_info(self.as_fd(), raw::PIDFD_INFO_PID | raw::PIDFD_INFO_EXIT).map_err(fail)?;
        Ok((info.mask & raw::PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_wait(info.exit_code)))
    }

    /// Duplicates a descriptor of the process. Since Linux 5.6; see
    /// [pidfd_getfd(2)](https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html).
    ///
    /// ```
    /// use ns_core::Pidfd;
    /// use std::os::fd::AsRawFd;
    /// let file = std::fs::File::open("/proc/self/status").unwrap();
    /// let copy = Pidfd::open(std::process::id() as i32)?.get_fd(file.as_raw_fd())?;
    /// assert_ne!(copy.as_raw_fd(), file.as_raw_fd());
    /// # Ok::<(), ns_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// - `EPERM`: the caller may not attach to the process by
    ///   [ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html).
    /// - `EBADF`: the process does not have this descriptor.
    /// - `ESRCH`: the process has ended.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn get_fd(&self, remote: RawFd) -> Result<OwnedFd> {
        raw::pidfd_getfd(self.as_fd(), remote).map_err(|errno| {
            let verb = format!("copy descriptor {remote} of");
            self.cannot(&verb, "pidfd_getfd", errno).hint(match errno {
                Errno::EPERM => {
                    "this requires permission to ptrace the process: its uid and \
                     kernel.yama.ptrace_scope 0, or CAP_SYS_PTRACE in its user namespace"
                }
                Errno::EBADF => "the process does not have this descriptor",
                _ => "",
            })
        })
    }

    fn cannot(&self, verb: &str, call: &'static str, errno: Errno) -> Error {
        match self.pid() {
            Ok(pid) => Error::os(format!("{verb} process {pid}"), call, errno).on(pid),
            Err(_) => {
                let fd = self.as_fd().as_raw_fd();
                Error::os(format!("{verb} the process behind pidfd {fd}"), call, errno)
            }
        }
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> OwnedFd {
        pidfd.0
    }
}

fn duration(time: libc::timeval) -> Duration {
    let (secs, micros) = (time.tv_sec as u64, time.tv_usec as u32);
    Duration::new(secs, micros.saturating_mul(1000))
}

fn fdinfo(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let path = format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd());
    file::read(&path)
        .map_err(|errno| Error::path(format!("inspect descriptor {}", fd.as_raw_fd()), "read", &path, errno))
}

/// Returns the pid behind a pidfd, in the caller's pid namespace.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Result<pid_t> {
    let pid = match raw::pidfd_info(pidfd, raw::PIDFD_INFO_PID) {
        Ok(info) if info.mask & raw::PIDFD_INFO_PID != 0 => info.pid as pid_t,
        // Before Linux 6.13, or after the end of the process, fdinfo has the pid.
        _ => match proc::fdinfo_pid(&fdinfo(pidfd)?) {
            Some(pid) => pid,
            None => {
                let step = format!("find the process behind descriptor {}", pidfd.as_raw_fd());
                return Err(Error::new(ErrorKind::InvalidInput, step, "the descriptor is not a pidfd"));
            }
        },
    };
    if pid > 0 {
        return Ok(pid);
    }
    let why = match pid {
        0 => "the process is outside this pid namespace",
        _ => "the process has ended and been reaped",
    };
    let step = format!("find the pid of the process behind pidfd {}", pidfd.as_raw_fd());
    Err(Error::new(ErrorKind::NoSuchProcess, step, why))
}

/// Checks that the process has not been reaped, so that a file read by its pid was its own.
pub(crate) fn check_unreaped(pidfd: BorrowedFd<'_>, step: impl FnOnce() -> String) -> Result<()> {
    match raw::pidfd_send_signal(pidfd, 0) {
        Err(Errno::ESRCH) => Err(Error::os(step(), "pidfd_send_signal", Errno::ESRCH)
            .hint("the process has ended and been reaped")),
        _ => Ok(()),
    }
}
