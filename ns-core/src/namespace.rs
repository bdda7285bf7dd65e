//! Handles on namespaces.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::pid_t;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::{Error, ErrorKind, Kind, NamespaceId, Result, file, hint, pidfd, raw};

/// Handle on a namespace. The namespace exists at least as long as this value, even without a
/// process in it.
///
/// See [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
///
/// ```
/// use ns_core::{Kind, Namespace, NamespaceSet};
/// let net = Namespace::current(Kind::Net)?;
/// assert_eq!(net.kind(), Kind::Net);
/// assert_eq!(net.id(), NamespaceSet::current()?[Kind::Net]);
/// # Ok::<(), ns_core::Error>(())
/// ```
pub struct Namespace {
    fd: OwnedFd,
    kind: Kind,
    id: NamespaceId,
}

impl Namespace {
    /// Opens the namespace of this kind that the process or thread `pid` is in. Since Linux 3.8; see
    /// [proc_pid_ns(5)](https://man7.org/linux/man-pages/man5/proc_pid_ns.5.html).
    ///
    /// # Errors
    /// - `ENOENT`, `ESRCH` ([`NoSuchProcess`](ErrorKind::NoSuchProcess)): the process has ended, or is
    ///   outside this pid namespace.
    /// - `EACCES` ([`PermissionDenied`](ErrorKind::PermissionDenied)): the caller has neither the uid
    ///   of the process nor CAP_SYS_PTRACE in its user namespace.
    /// - `ENOENT` ([`Unsupported`](ErrorKind::Unsupported)): the kernel lacks the kind.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn of_pid(pid: pid_t, kind: Kind) -> Result<Self> {
        Self::of_proc(
            format!("open the {kind} namespace of process {pid}"),
            &pid.to_string(),
            kind,
            kind.name(),
        )
    }

    /// Opens the namespace of this kind that new children of the process will be in.
    ///
    /// For the pid and time kinds it differs from the process's own namespace after an
    /// [`unshare`](crate::unshare()) or [`setns`](crate::setns()). For the other kinds it is the
    /// process's own. Since Linux 4.12 for pid, 5.6 for time; see `pid_for_children` in
    /// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid), and `ENOENT` ([`NotFound`](ErrorKind::NotFound)): a new pid
    /// namespace has not had a process yet.
    pub fn for_children(pid: pid_t, kind: Kind) -> Result<Self> {
        let file = match kind {
            Kind::Pid => "pid_for_children",
            Kind::Time => "time_for_children",
            other => other.name(),
        };
        let step = format!("open the {kind} namespace for children of process {pid}");
        let opened = Self::of_proc(step, &pid.to_string(), kind, file);
        // A pid namespace cannot be opened before its first process exists.
        opened.map_err(|error| match (kind, error.raw_os_error()) {
            (Kind::Pid, Some(libc::ENOENT)) if Path::new(&format!("/proc/{pid}/ns/pid")).exists() => {
                error.with_kind(ErrorKind::NotFound).hint("the new pid namespace has not had a process yet")
            }
            _ => error,
        })
    }

    /// Opens the namespace of this kind that the calling thread is in. Since Linux 3.17; see
    /// [proc_pid_ns(5)](https://man7.org/linux/man-pages/man5/proc_pid_ns.5.html).
    ///
    /// # Errors
    /// - `ENOENT` ([`Unsupported`](ErrorKind::Unsupported)): the kernel lacks the kind.
    /// - `ENOENT` ([`NotFound`](ErrorKind::NotFound)): `/proc` is not mounted.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn current(kind: Kind) -> Result<Self> {
        Self::of_proc(format!("open the caller's {kind} namespace"), "thread-self", kind, kind.name())
    }

    fn of_proc(step: String, of: &str, kind: Kind, file: &str) -> Result<Self> {
        let path = format!("/proc/{of}/ns/{file}");
        match open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => Self::of_kind(fd, kind),
            Err(Errno::ENOENT) if !hint::supported(kind) => {
                let error = Error::path(step, "open", &path, Errno::ENOENT);
                Err(error.with_kind(ErrorKind::Unsupported).hint(lacks(kind)))
            }
            Err(errno) => Err(hint::of_proc(Error::path(step, "open", &path, errno), errno)),
        }
    }

    /// Opens the namespace of this kind that the process behind a pidfd is in. Fails if the process
    /// has been reaped, so it never opens one of another process with the same pid. Since Linux 5.3.
    ///
    /// Since Linux 6.11 the kernel returns the namespace for the pidfd (`PIDFD_GET_*_NAMESPACE` of
    /// `linux/pidfd.h`). On older kernels this opens `/proc/PID/ns` and then checks that the process
    /// was not reaped meanwhile; see
    /// [proc_pid_ns(5)](https://man7.org/linux/man-pages/man5/proc_pid_ns.5.html).
    ///
    /// ```
    /// use ns_core::{Kind, Namespace, Pidfd};
    /// let myself = Pidfd::open(std::process::id() as i32)?;
    /// let uts = Namespace::of_pidfd(&myself, Kind::Uts)?;
    /// assert_eq!(uts.id(), Namespace::current(Kind::Uts)?.id());
    /// # Ok::<(), ns_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid).
    pub fn of_pidfd(pidfd: impl AsFd, kind: Kind) -> Result<Self> {
        let pidfd = pidfd.as_fd();
        let whose = || match pidfd::pid_of(pidfd) {
            Ok(pid) => format!("process {pid}"),
            Err(_) => "the process behind a pidfd".into(),
        };
        let step = || format!("open the {kind} namespace of {}", whose());
        match raw::ioctl_fd(pidfd, pidfd_request(kind)) {
            Ok(fd) => return Self::of_kind(fd, kind),
            // ENOTTY and EINVAL: before 6.11. EOPNOTSUPP: the kernel lacks the kind.
            Err(Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP) => {}
            Err(errno) => {
                let request = format!("PIDFD_GET_{}_NAMESPACE", kind.name().to_uppercase());
                let mut error = Error::os(step(), "ioctl", errno).argument(request);
                if let Ok(pid) = pidfd::pid_of(pidfd) {
                    error = error.on(pid);
                }
                return Err(hint::of_proc(error, errno));
            }
        }
        let namespace = Self::of_pid(pidfd::pid_of(pidfd)?, kind)?;
        pidfd::check_unreaped(pidfd, step)?;
        Ok(namespace)
    }

    /// Opens the namespace that a file refers to: a file pinned by [`pin`](Self::pin), `ip netns add`
    /// or `unshare --net=FILE`, or a link in `/proc/PID/ns`. Since Linux 3.19, the first version with
    /// the file system nsfs; see
    /// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// The path is first opened with `O_PATH`, so that a device or a FIFO in its place is not opened.
    ///
    /// # Errors
    /// - [`NotANamespace`](ErrorKind::NotANamespace): the file is not on nsfs, such as a pin from
    ///   before a reboot.
    /// - `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`: see
    ///   [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let step = || format!("open the namespace {}", path.display());
        let at = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os(step(), "open", errno).on(path.display()))?;
        check_nsfs(at.as_fd(), step).map_err(|error| error.on(path.display()))?;
        let again = format!("/proc/thread-self/fd/{}", at.as_raw_fd());
        let fd = open(again.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os(step(), "open", errno).argument(again.clone()).on(path.display()))?;
        Self::from_owned_fd(fd)
    }

    /// Makes a handle from a descriptor. The kernel reports the kind
    /// ([ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html)). Since Linux 4.11.
    ///
    /// # Errors
    /// - [`NotANamespace`](ErrorKind::NotANamespace): the descriptor refers to another file.
    /// - [`Unsupported`](ErrorKind::Unsupported): the namespace is of a kind unknown to this crate.
    pub fn from_owned_fd(fd: OwnedFd) -> Result<Self> {
        let step = || format!("use descriptor {} as a namespace", fd.as_raw_fd());
        check_nsfs(fd.as_fd(), step)?;
        let flag = raw::ioctl(fd.as_fd(), libc::NS_GET_NSTYPE as u32)
            .map_err(|errno| Error::os(step(), "ioctl", errno).argument("NS_GET_NSTYPE"))?;
        let kind = Kind::from_clone_flag(flag as u64).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                step(),
                format!("the kernel reports the unknown kind {flag:#x}"),
            )
        })?;
        Self::of_kind(fd, kind)
    }

    fn of_kind(fd: OwnedFd, kind: Kind) -> Result<Self> {
        let stat =
            fstat(&fd).map_err(|errno| Error::os(format!("identify a {kind} namespace"), "fstat", errno))?;
        Ok(Self { fd, kind, id: NamespaceId::from_stat(&stat) })
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the identity.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// Opens the user namespace that owns this namespace. An operation on this namespace requires
    /// capabilities in its owner. The owner of a user namespace is its parent. Since Linux 4.9; see
    /// [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
    ///
    /// ```
    /// use ns_core::{Kind, Namespace};
    /// let owner = Namespace::current(Kind::Net)?.owner_user()?;
    /// assert_eq!(owner.kind(), Kind::User);
    /// # Ok::<(), ns_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// - `EPERM`: the owner is neither the caller's user namespace nor a descendant of it.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn owner_user(&self) -> Result<Namespace> {
        let fd = raw::ioctl_fd(self.as_fd(), libc::NS_GET_USERNS as u32).map_err(|errno| {
            self.cannot("find the owner of", "ioctl(NS_GET_USERNS)", errno).hint(match errno {
                Errno::EPERM => "the owner is neither the caller's user namespace nor a descendant of it",
                _ => "",
            })
        })?;
        Self::of_kind(fd, Kind::User)
    }

    /// Opens the parent of this pid or user namespace. Since Linux 4.9; see
    /// [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
    ///
    /// # Errors
    /// - `EINVAL`: namespaces of the other kinds have no parent.
    /// - `EPERM`: this is the initial namespace, or the parent is outside the caller's own namespace.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub fn parent(&self) -> Result<Namespace> {
        let fd = raw::ioctl_fd(self.as_fd(), libc::NS_GET_PARENT as u32).map_err(|errno| {
            self.cannot("find the parent of", "ioctl(NS_GET_PARENT)", errno).hint(match errno {
                Errno::EINVAL => "only pid and user namespaces have parents",
                Errno::EPERM => "this is the initial namespace, or the parent is outside the caller's own",
                _ => "",
            })
        })?;
        Self::of_kind(fd, self.kind)
    }

    /// Returns the uid of the process that created this user namespace, as the caller's user namespace
    /// maps it. Since Linux 4.11; see
    /// [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
    ///
    /// # Errors
    /// `EINVAL`: this is not a user namespace.
    pub fn creator_uid(&self) -> Result<u32> {
        raw::ns_owner_uid(self.as_fd()).map_err(|errno| {
            self.cannot("find the creator of", "ioctl(NS_GET_OWNER_UID)", errno).hint(match errno {
                Errno::EINVAL => "only user namespaces record their creator",
                _ => "",
            })
        })
    }

    /// Returns another handle on the same namespace. Since Linux 2.6.24 (`F_DUPFD_CLOEXEC`); see
    /// [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html).
    ///
    /// # Errors
    /// `EMFILE`: no descriptor is free.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|error| {
            let errno = file::errno(&error);
            self.cannot("duplicate the handle on", "fcntl", errno).argument("F_DUPFD_CLOEXEC")
        })?;
        Ok(Self { fd, ..*self })
    }

    pub(crate) fn cannot(&self, verb: &str, call: &'static str, errno: Errno) -> Error {
        Error::os(format!("{verb} the namespace {self}"), call, errno).on(self)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> OwnedFd {
        namespace.fd
    }
}

impl fmt::Display for Namespace {
    /// Formats the namespace as `net:[4026531840]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.display(self.kind).fmt(f)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({self}, fd {})", self.fd.as_raw_fd())
    }
}

/// Returns the end of a sentence: this kernel lacks the kind, and the option that adds it.
fn lacks(kind: Kind) -> String {
    let option = match kind {
        Kind::Mnt => "CONFIG_NAMESPACES",
        Kind::Cgroup => "CONFIG_CGROUPS",
        Kind::Time => "CONFIG_TIME_NS, and Linux 5.6 or later",
        Kind::Net => "CONFIG_NET_NS",
        Kind::Pid => "CONFIG_PID_NS",
        Kind::User => "CONFIG_USER_NS",
        Kind::Uts => "CONFIG_UTS_NS",
        Kind::Ipc => "CONFIG_IPC_NS",
    };
    format!("this kernel has no {kind} namespaces, which require {option}")
}

/// Checks that a descriptor refers to a file on nsfs.
pub(crate) fn check_nsfs(fd: BorrowedFd<'_>, step: impl Fn() -> String) -> Result<()> {
    let statfs = fstatfs(fd).map_err(|errno| Error::os(step(), "fstatfs", errno))?;
    if statfs.filesystem_type() == NSFS_MAGIC {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotANamespace,
        step(),
        "the file is not a namespace (not on nsfs): nothing is pinned there, or the pin was unmounted",
    ))
}

/// `PIDFD_GET_*_NAMESPACE`, from `linux/pidfd.h`.
fn pidfd_request(kind: Kind) -> u32 {
    let number = match kind {
        Kind::Cgroup => 1,
        Kind::Ipc => 2,
        Kind::Mnt => 3,
        Kind::Net => 4,
        Kind::Pid => 5,
        Kind::Time => 7,
        Kind::User => 9,
        Kind::Uts => 10,
    };
    (0xff << 8) | number
}
