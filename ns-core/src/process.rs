//! Identity of a process that another program can use, for example from a file.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use libc::pid_t;
use nix::errno::Errno;

use crate::proc::Stat;
use crate::{Error, ErrorKind, Pidfd, Result, file, hint, pidfd, proc};

/// Identity of a process: pid, start time and boot. See
/// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
///
/// The kernel reuses the pid of an ended process. The start time distinguishes two processes with
/// the same pid, and the boot id distinguishes processes of two boots. So a program can write this
/// value to a file for another program: [`open`](Self::open) returns a handle on the same process,
/// or `None` if it has ended.
///
/// The start time has a resolution of one clock tick (10 ms). Two processes have the same identity
/// only if the kernel reuses a pid within one tick. Write and compare identities in one pid
/// namespace and one time namespace, since both change the numbers.
///
/// ```
/// use ns_core::ProcessId;
/// let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
/// let id = ProcessId::of(child.id() as i32)?;
/// let pidfd = id.open()?.expect("the child is alive");
/// pidfd.send_signal(libc::SIGKILL)?;
/// child.wait().unwrap();
/// assert!(id.open()?.is_none());
/// # Ok::<(), ns_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProcessId {
    /// Pid in the pid namespace of the `/proc` that was read.
    pub pid: pid_t,
    /// Start time in clock ticks after boot: field 22 of `/proc/PID/stat`, see
    /// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
    pub start: u64,
    /// Id of the boot: `/proc/sys/kernel/random/boot_id`. Empty if it was not readable; it then
    /// equals any other.
    pub boot: String,
}

impl ProcessId {
    /// Returns the identity of the process `pid`, which may be a zombie. See
    /// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html); the start time
    /// is in clock ticks since Linux 2.6.
    ///
    /// The pid must be that of the caller itself or of a child that it has not waited for, because the
    /// kernel may reuse any other. For another process use [`of_pidfd`](Self::of_pidfd).
    ///
    /// # Errors
    /// - [`NoSuchProcess`](ErrorKind::NoSuchProcess) (`ENOENT`, `ESRCH`): the process has ended and
    ///   been reaped, or is outside this pid namespace.
    /// - [`NotFound`](ErrorKind::NotFound) (`ENOENT`): `/proc` is not mounted.
    pub fn of(pid: pid_t) -> Result<Self> {
        let step = || format!("identify process {pid}");
        let path = || format!("/proc/{pid}/stat");
        let stat =
            stat(pid).map_err(|errno| hint::of_proc(Error::path(step(), "read", &path(), errno), errno))?;
        let stat = stat.ok_or_else(|| {
            Error::new(ErrorKind::Parse, step(), format!("{} has an unknown form", path())).on(path())
        })?;
        Ok(Self { pid, start: stat.start, boot: boot_id()?.to_owned() })
    }

    /// Returns the identity of the process behind a pidfd. Since Linux 5.3; see
    /// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_pidfd(pidfd: &Pidfd) -> Result<Self> {
        let id = Self::of(pidfd.pid()?)?;
        pidfd::check_unreaped(pidfd.as_fd(), || format!("identify process {}", id.pid))?;
        Ok(id)
    }

    /// Returns the identity of the calling process. See
    /// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) (`ENOENT`): `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        Self::of(nix::unistd::getpid().as_raw())
    }

    /// Opens a pidfd of this process. Returns `None` if the process has ended, even if another
    /// process has its pid now, or its parent has not yet waited for it. Since Linux 5.3; see
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    ///
    /// # Errors
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    /// - `EACCES`, `EPERM`: `/proc/PID/stat` may not be read.
    /// - [`NotFound`](ErrorKind::NotFound) (`ENOENT`): `/proc` is not mounted.
    pub fn open(&self) -> Result<Option<Pidfd>> {
        match Pidfd::open(self.pid) {
            // The process behind the pidfd keeps its pid at least until it has been reaped, so a
            // start time that is read now is its own.
            Ok(pidfd) => Ok(self.is_alive()?.then_some(pidfd)),
            // No process has the pid, or it is the id of a thread.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns whether this process is alive: it has not ended, and no other process has its pid.
    ///
    /// The process may end before the caller uses the result. To signal the process, use
    /// [`open`](Self::open). See
    /// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
    ///
    /// # Errors
    /// - `EACCES`, `EPERM`: `/proc/PID/stat` may not be read.
    /// - [`NotFound`](ErrorKind::NotFound) (`ENOENT`): `/proc` is not mounted.
    pub fn is_alive(&self) -> Result<bool> {
        Ok(self.stat()?.is_some_and(|stat| !stat.has_ended()))
    }

    /// Returns whether this process has ended or is about to: it was killed or has begun to exit. See
    /// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html), fields `flags`
    /// and `signal`.
    ///
    /// # Errors
    /// As [`is_alive`](Self::is_alive).
    pub fn is_ending(&self) -> Result<bool> {
        Ok(self.stat()?.is_none_or(|stat| stat.is_ending()))
    }

    /// Reads `stat` of this process; `None` if it has been reaped.
    fn stat(&self) -> Result<Option<Stat>> {
        let found = match stat(self.pid) {
            Ok(found) => found,
            Err(Errno::ENOENT | Errno::ESRCH) if Path::new("/proc/thread-self").exists() => None,
            Err(errno) => {
                let step = format!("find out whether process {} is alive", self.pid);
                let path = format!("/proc/{}/stat", self.pid);
                return Err(hint::of_proc(Error::path(step, "read", &path, errno), errno));
            }
        };
        let boot = boot_id()?;
        let same_boot = self.boot.is_empty() || boot.is_empty() || self.boot == boot;
        Ok(found.filter(|stat| same_boot && stat.start == self.start))
    }
}

fn stat(pid: pid_t) -> Result<Option<Stat>, Errno> {
    file::read(&format!("/proc/{pid}/stat")).map(|text| Stat::parse(&text))
}

/// Returns the id of this boot, a UUID: `/proc/sys/kernel/random/boot_id`. Reads the file once and
/// keeps the result. Empty if this `/proc` shows processes only (`subset=pid`, since Linux 5.8).
///
/// ```
/// assert!(matches!(ns_core::boot_id()?.len(), 0 | 36));
/// # Ok::<(), ns_core::Error>(())
/// ```
///
/// See [proc_sys_kernel(5)](https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html).
///
/// # Errors
/// `EACCES`, `EMFILE`, `ENFILE`: the file cannot be opened.
pub fn boot_id() -> Result<&'static str> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let text = match file::read(PATH) {
        Ok(text) => text,
        Err(Errno::ENOENT) => Vec::new(),
        Err(errno) => return Err(Error::path("read the id of this boot", "read", PATH, errno)),
    };
    Ok(ID.get_or_init(|| String::from_utf8_lossy(text.trim_ascii()).into_owned()))
}

/// Returns the pids of the process `pid`: first its pid here, then its pid in each nested pid
/// namespace, last its pid in its own. Since Linux 4.1 (`NSpid`); see
/// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html).
///
/// ```
/// let myself = std::process::id() as i32;
/// assert_eq!(ns_core::pid_chain(myself)?[0], myself);
/// # Ok::<(), ns_core::Error>(())
/// ```
///
/// # Errors
/// - [`NoSuchProcess`](ErrorKind::NoSuchProcess) (`ENOENT`, `ESRCH`): the process has ended, or is
///   outside this pid namespace.
/// - [`Unsupported`](ErrorKind::Unsupported): the kernel has no pid namespaces.
pub fn pid_chain(pid: pid_t) -> Result<Vec<pid_t>> {
    let path = format!("/proc/{pid}/status");
    let step = || format!("read the pids of process {pid}");
    let text =
        file::read(&path).map_err(|errno| hint::of_proc(Error::path(step(), "read", &path, errno), errno))?;
    proc::nspid(&text).ok_or_else(|| {
        let why = format!("{path} has no NSpid line (Linux 4.1, CONFIG_PID_NS)");
        Error::new(ErrorKind::Unsupported, step(), why).on(pid)
    })
}
