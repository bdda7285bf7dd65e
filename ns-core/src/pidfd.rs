//! Pidfds: a process by descriptor, which never comes to mean another process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use libc::pid_t;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::{Error, ErrorKind, Exit, ExitStatus, Result, Usage, file, proc, sys};

/// A handle on a process. Unlike a pid it never comes to mean another process.
///
/// See [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
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
    /// The process `pid`. Since Linux 5.3.
    ///
    /// A child that has not been waited for keeps its pid, so for one's own child this
    /// cannot hit another process. For others compare an identity after opening.
    ///
    /// # Errors
    /// - `ESRCH`: no such process here.
    /// - `EINVAL`: not a positive pid, or (`ENOENT` since 6.15) that of a thread that is
    ///   no process.
    pub fn open(pid: pid_t) -> Result<Self> {
        sys::pidfd_open(pid).map(Self).map_err(|errno| {
            let error = Error::os(format!("open a pidfd of process {pid}"), "pidfd_open", errno);
            match errno {
                Errno::ESRCH => error.hint("it has ended, or lives outside this pid namespace"),
                Errno::EINVAL | Errno::ENOENT => error
                    .with_kind(ErrorKind::InvalidInput)
                    .hint("it is not a pid, or that of a thread which is no process"),
                _ => error,
            }
        })
    }

    /// Takes over a pidfd.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) where the descriptor is another file.
    pub fn from_owned_fd(fd: OwnedFd) -> Result<Self> {
        // The one question that every kernel with pidfds answers: does fdinfo have a Pid line?
        let text = fdinfo(fd.as_fd())?;
        if proc::fdinfo_pid(&text).is_none() {
            let step = format!("take descriptor {} as a pidfd", fd.as_raw_fd());
            return Err(Error::new(ErrorKind::InvalidInput, step, "it is another file"));
        }
        Ok(Self(fd))
    }

    /// Takes over what the kernel returned as a pidfd.
    pub(crate) fn from_kernel(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Its pid in the caller's pid namespace.
    ///
    /// # Errors
    /// [`NoSuchProcess`](ErrorKind::NoSuchProcess): it has ended and been waited for, or
    /// lives outside this pid namespace.
    pub fn pid(&self) -> Result<pid_t> {
        pid_of(self.as_fd())
    }

    /// Sends a signal; 0 sends none, and only checks. Since Linux 5.1.
    ///
    /// # Errors
    /// - `ESRCH`: it has ended and been waited for.
    /// - `EPERM`: it has another uid, or the sender is not in an ancestor pid namespace.
    /// - `EINVAL`: no such signal.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        sys::pidfd_send_signal(self.as_fd(), signal).map_err(|errno| {
            let error = self.cannot(&format!("send signal {signal} to"), "pidfd_send_signal", errno);
            match errno {
                Errno::ESRCH => error.hint("it has ended and been waited for"),
                Errno::EPERM => error.hint("it needs the same uid, or CAP_KILL"),
                Errno::EINVAL => error.hint("no such signal, or it lives outside this pid namespace"),
                _ => error,
            }
        })
    }

    /// Waits until the child has ended, and reaps it. Since Linux 5.4.
    ///
    /// # Errors
    /// `ECHILD`: it is not a child of the caller, or has been waited for; where SIGCHLD is
    /// ignored the kernel reaps children itself. For others [`poll`](Self::poll), then
    /// [`exit_info`](Self::exit_info).
    pub fn wait(&self) -> Result<Exit> {
        loop {
            // Without WNOHANG the kernel answers only with an ended child.
            if let Some(exit) = self.waitid(0)? {
                return Ok(exit);
            }
        }
    }

    /// Reaps the child if it has ended; `None` while it runs. Since Linux 5.4.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        self.waitid(libc::WNOHANG)
    }

    /// Waits for at most `timeout`; `None` if the child then still runs.
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
        // __WALL: also children whose exit signal is not SIGCHLD.
        let options = options | libc::WEXITED | libc::__WALL;
        let waited = loop {
            match sys::waitid(self.as_fd(), options) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        let waited = waited.map_err(|errno| {
            self.cannot("wait for", "waitid(P_PIDFD)", errno).hint(match errno {
                Errno::ECHILD => "it is not a child of this process, or it has been waited for already",
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

    /// Waits until the process has ended, for at most `timeout` (`None`: for ever), and says
    /// whether it has. Works for any process, not only for children, and reaps nothing.
    ///
    /// # Errors
    /// `ENOMEM`; others do not occur.
    pub fn poll(&self, timeout: Option<Duration>) -> Result<bool> {
        // A timeout beyond the clock's range is for ever.
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

    /// How the process ended, for any process and even after somebody reaped it; `None`
    /// while it runs, or while its parent has not reaped it. Since Linux 6.15.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) (`ENOTTY`, `EINVAL`): this kernel is older.
    /// `ESRCH`: nothing was recorded, the pidfd was opened too late.
    pub fn exit_info(&self) -> Result<Option<ExitStatus>> {
        let fail = |errno| {
            let error = self.cannot("ask for the end of", "ioctl(PIDFD_GET_INFO)", errno);
            match errno {
                Errno::ENOTTY | Errno::EINVAL => {
                    error.with_kind(ErrorKind::Unsupported).hint("this kernel is older than Linux 6.15")
                }
                Errno::ESRCH => error.hint(
                    "it was reaped before this pidfd was opened, or this kernel is older than Linux 6.15",
                ),
                _ => error,
            }
        };
        let info = sys::pidfd_info(self.as_fd(), sys::PIDFD_INFO_PID | sys::PIDFD_INFO_EXIT).map_err(fail)?;
        Ok((info.mask & sys::PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_wait(info.exit_code)))
    }

    /// A duplicate of a descriptor of that process. Since Linux 5.6.
    ///
    /// # Errors
    /// - `EPERM`: this needs what ptrace attaching needs.
    /// - `EBADF`: that process has no such descriptor.
    /// - `ESRCH`: it has ended.
    pub fn get_fd(&self, remote: RawFd) -> Result<OwnedFd> {
        sys::pidfd_getfd(self.as_fd(), remote).map_err(|errno| {
            let verb = format!("copy descriptor {remote} of");
            self.cannot(&verb, "pidfd_getfd", errno).hint(match errno {
                Errno::EPERM => {
                    "this needs leave to ptrace it: the same uid and kernel.yama.ptrace_scope 0, \
                     or CAP_SYS_PTRACE in its user namespace"
                }
                Errno::EBADF => "it has no such descriptor",
                _ => "",
            })
        })
    }

    fn cannot(&self, verb: &str, call: &'static str, errno: Errno) -> Error {
        let step = match self.pid() {
            Ok(pid) => format!("{verb} process {pid}"),
            Err(_) => format!("{verb} the process behind pidfd {}", self.as_fd().as_raw_fd()),
        };
        Error::os(step, call, errno)
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
    file::read(&path).map_err(|errno| {
        Error::os(format!("inspect descriptor {}", fd.as_raw_fd()), format!("read({path})"), errno)
    })
}

/// The pid behind a pidfd, in the caller's pid namespace.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Result<pid_t> {
    let pid = match sys::pidfd_info(pidfd, sys::PIDFD_INFO_PID) {
        Ok(info) if info.mask & sys::PIDFD_INFO_PID != 0 => info.pid as pid_t,
        // Before 6.13, or not to be seen: fdinfo tells why.
        _ => match proc::fdinfo_pid(&fdinfo(pidfd)?) {
            Some(pid) => pid,
            None => {
                let step = format!("find the process behind descriptor {}", pidfd.as_raw_fd());
                return Err(Error::new(ErrorKind::InvalidInput, step, "it is not a pidfd"));
            }
        },
    };
    if pid > 0 {
        return Ok(pid);
    }
    let why = match pid {
        0 => "it lives outside this pid namespace",
        _ => "it has ended and been waited for",
    };
    let step = format!("find the pid of the process behind pidfd {}", pidfd.as_raw_fd());
    Err(Error::new(ErrorKind::NoSuchProcess, step, why))
}

/// Makes sure that the process has not been reaped: what was read of its pid was of it.
pub(crate) fn check_unreaped(pidfd: BorrowedFd<'_>, step: &str) -> Result<()> {
    match sys::pidfd_send_signal(pidfd, 0) {
        Err(Errno::ESRCH) => {
            Err(Error::os(step, "pidfd_send_signal", Errno::ESRCH).hint("it has ended and been waited for"))
        }
        _ => Ok(()),
    }
}
