//! Waiting for events of a cgroup, and for pressure.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::stat::Mode;

use crate::cgroup::{Cgroup, read_all};
use crate::error::{Error, Result};
use crate::usage::{Events, MemoryEvents};

/// The state that a [`Watch`] reports, of a cgroup and all below it. Sections "Core Interface Files"
/// and "Memory Interface Files".
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct State {
    /// `cgroup.events`: populated and frozen.
    pub cgroup: Events,
    /// `memory.events`. All fields are `None` without the memory controller.
    pub memory: MemoryEvents,
}

/// Watches `cgroup.events` and `memory.events` of a cgroup.
///
/// As a file descriptor it becomes readable (`POLLIN`) when one of the files may have changed, and
/// stays readable until [`next`](Self::next) or [`now`](Self::now) reads them.
///
/// Since Linux 4.5. Section "\[Un\]populated Notification".
///
/// ```no_run
/// # use cgroup_core::Cgroup;
/// let mut watch = Cgroup::open("/sys/fs/cgroup/job")?.watch()?;
/// while let Some(state) = watch.next(None)? {
///     println!("{:?} processes killed by the OOM killer", state.memory.oom_kill);
///     if !state.cgroup.populated {
///         break;
///     }
/// }
/// # Ok::<(), cgroup_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Watch {
    epoll: Epoll,
    cgroup: OwnedFd,
    memory: Option<OwnedFd>,
    seen: State,
    name: String,
}

impl Cgroup {
    /// Begins to watch the cgroup. [`Watch::seen`] is the present state.
    ///
    /// Since Linux 5.6. Section "\[Un\]populated Notification".
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`): this is the root, which has no events; (`ENODEV`): the cgroup was
    ///   removed.
    /// - `Os` (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub fn watch(&self) -> Result<Watch> {
        let name = self.path().display().to_string();
        let fail = |call, errno| Error::os(format!("watch cgroup {name}"), call, errno, None).on(self.path());
        let cgroup =
            self.open_file("cgroup.events", OFlag::O_RDONLY).map_err(|errno| fail("openat2", errno))?;
        let memory = match self.open_file("memory.events", OFlag::O_RDONLY) {
            Ok(fd) => Some(fd),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(fail("openat2", errno)),
        };
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| fail("epoll_create1", errno))?;
        for fd in std::iter::once(&cgroup).chain(&memory) {
            let event = EpollEvent::new(EpollFlags::EPOLLPRI, 0);
            epoll.add(fd, event).map_err(|errno| fail("epoll_ctl", errno))?;
        }
        let mut watch = Watch { epoll, cgroup, memory, seen: State::default(), name };
        watch.now()?;
        Ok(watch)
    }

    /// Sets a trigger that fires when processes of this cgroup and below lose `threshold` of a
    /// `window` to waiting for a resource. The kernel counts both in µs.
    ///
    /// Since Linux 5.2. Documentation/accounting/psi.rst.
    ///
    /// # Errors
    /// As [`Trigger::host`], and `NotFound` (`ENODEV`): the cgroup was removed.
    pub fn trigger(
        &self,
        resource: Resource,
        stall: Stall,
        threshold: Duration,
        window: Duration,
    ) -> Result<Trigger> {
        let file = format!("{resource}.pressure");
        let name = self.path().join(&file).display().to_string();
        let fd = self
            .open_file(&file, OFlag::O_RDWR)
            .map_err(|errno| Trigger::refused(&name, "openat2", errno))?;
        Trigger::set(fd, name, stall, threshold, window)
    }
}

impl Watch {
    /// Returns the state as it was last read.
    pub fn seen(&self) -> &State {
        &self.seen
    }

    /// Reads the present state.
    ///
    /// Since Linux 4.5. Sections "Core Interface Files" and "Memory Interface Files".
    ///
    /// # Errors
    /// `NotFound` (`ENODEV`): the cgroup was removed.
    pub fn now(&mut self) -> Result<&State> {
        let fail = |errno| {
            let cause = (errno == Errno::ENODEV).then_some("the cgroup was removed");
            Error::os(format!("watch cgroup {}", self.name), "read", errno, cause).on(self.name.as_ref())
        };
        let cgroup = Events::parse(&read_all(&self.cgroup).map_err(fail)?)?;
        let memory = match &self.memory {
            Some(fd) => MemoryEvents::parse(&read_all(fd).map_err(fail)?)?,
            None => MemoryEvents::default(),
        };
        self.seen = State { cgroup, memory };
        Ok(&self.seen)
    }

    /// Waits until the state differs from [`seen`](Self::seen), and returns it. Returns `None`
    /// after the timeout; without one it waits forever. May report several quick changes as one.
    ///
    /// Since Linux 4.5. Section "\[Un\]populated Notification".
    ///
    /// # Errors
    /// As [`now`](Self::now).
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<State>> {
        let before = self.seen.clone();
        self.wait(timeout, |state| *state != before)
    }

    /// Waits until `wanted` accepts the state, and returns the state; at once if `wanted` accepts
    /// the present one. Returns `None` after the timeout; without one it waits forever.
    ///
    /// Since Linux 4.5. Section "\[Un\]populated Notification".
    ///
    /// # Errors
    /// As [`now`](Self::now).
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        wanted: impl Fn(&State) -> bool,
    ) -> Result<Option<State>> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let state = self.now()?;
            if wanted(state) {
                return Ok(Some(state.clone()));
            }
            let fail = |errno| {
                let step = format!("watch cgroup {}", self.name);
                Error::os(step, "poll", errno, None).on(self.name.as_ref())
            };
            if ready_before(self.as_fd(), PollFlags::POLLIN, deadline).map_err(fail)?.is_none() {
                return Ok(None);
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// A resource that processes wait for. Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Block devices.
    Io,
    /// Interrupts, with [`Stall::Full`] only. Since Linux 6.1, with CONFIG_IRQ_TIME_ACCOUNTING.
    Irq,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
            Self::Irq => "irq",
        })
    }
}

/// Waiting time that counts. Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stall {
    /// Time in which at least one task waited.
    Some,
    /// Time in which all tasks waited.
    Full,
}

/// A trigger on a pressure file (PSI). Dropping it ends the trigger.
///
/// As a file descriptor it signals `POLLPRI`, at most once in a window.
///
/// Since Linux 5.2. Source:
/// <https://docs.kernel.org/accounting/psi.html#monitoring-for-pressure-thresholds>
#[derive(Debug)]
pub struct Trigger {
    fd: OwnedFd,
    name: String,
}

impl Trigger {
    /// Sets a trigger for the whole machine, on a file of `/proc/pressure`.
    ///
    /// Since Linux 5.2. Documentation/accounting/psi.rst.
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`) or `Unsupported` (`EOPNOTSUPP`): PSI is off (CONFIG_PSI; `psi=1` on
    ///   the kernel command line).
    /// - `Os` (`EINVAL`): the threshold is 0 or longer than the window, the window is longer than
    ///   10 s, or shorter than 0.5 s on kernels such as 6.1 (6.12 has no such minimum), or the caller
    ///   lacks CAP_SYS_RESOURCE and the window is not a multiple of 2 s.
    /// - `PermissionDenied` (`EACCES`, `EPERM`): the caller cannot write to the file, or lacks
    ///   CAP_SYS_RESOURCE, which older kernels require for every trigger.
    pub fn host(resource: Resource, stall: Stall, threshold: Duration, window: Duration) -> Result<Self> {
        let name = format!("/proc/pressure/{resource}");
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = nix::fcntl::open(name.as_str(), flags, Mode::empty())
            .map_err(|errno| Self::refused(&name, "open", errno))?;
        Self::set(fd, name, stall, threshold, window)
    }

    fn set(fd: OwnedFd, name: String, stall: Stall, threshold: Duration, window: Duration) -> Result<Self> {
        let stall = match stall {
            Stall::Some => "some",
            Stall::Full => "full",
        };
        // The kernel overwrites the last byte with NUL.
        let text = format!("{stall} {} {}\n", threshold.as_micros(), window.as_micros());
        match nix::unistd::write(&fd, text.as_bytes()) {
            Ok(_) => Ok(Self { fd, name }),
            Err(errno) => Err(Self::refused(&name, "write", errno)),
        }
    }

    /// Waits for the trigger. Returns `true` if it fired, and `false` after the timeout; without
    /// one it waits forever.
    ///
    /// Since Linux 5.2. Documentation/accounting/psi.rst.
    ///
    /// # Errors
    /// `NotFound` (`ENODEV`): the cgroup was removed.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        match ready_before(self.fd.as_fd(), PollFlags::POLLPRI, deadline) {
            Ok(Some(flags)) if flags.contains(PollFlags::POLLERR) => {
                Err(Self::refused(&self.name, "poll", Errno::ENODEV))
            }
            Ok(fired) => Ok(fired.is_some()),
            Err(errno) => Err(Self::refused(&self.name, "poll", errno)),
        }
    }

    fn refused(name: &str, call: &'static str, errno: Errno) -> Error {
        let cause = match errno {
            Errno::EINVAL => Some(
                "the window must be from 0.5 to 10 s, and the threshold above 0 and at most the window; without CAP_SYS_RESOURCE the window must be a multiple of 2 s",
            ),
            Errno::ENOENT | Errno::EOPNOTSUPP => Some("PSI is off: start the kernel with psi=1"),
            Errno::ENODEV => Some("the cgroup was removed"),
            _ => None,
        };
        Error::os(format!("set a trigger on {name}"), call, errno, cause).on(name.as_ref())
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Polls until the descriptor is ready. Returns `None` after the deadline. Continues after a
/// signal.
pub(crate) fn ready_before(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> nix::Result<Option<PollFlags>> {
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up, so that the last wait does not spin.
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [PollFd::new(fd, flags)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => match deadline {
                Some(deadline) if Instant::now() >= deadline => return Ok(None),
                _ => {}
            },
            Ok(_) => return Ok(Some(fds[0].revents().unwrap_or(PollFlags::empty()))),
            Err(errno) => return Err(errno),
        }
    }
}
