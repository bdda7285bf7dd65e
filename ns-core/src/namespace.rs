//! Handles on namespaces: a descriptor keeps a namespace alive without a process in it.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::pid_t;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::{Error, ErrorKind, Kind, NamespaceId, Result, file, hint, pidfd, sys};

/// A namespace, held by a descriptor: it lives at least as long as this value.
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
    /// The namespace of this kind that the process (or thread) `pid` is in.
    ///
    /// # Errors
    /// - [`NoSuchProcess`](ErrorKind::NoSuchProcess): it has ended, or lives outside this
    ///   pid namespace.
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied) (`EACCES`): opening needs what
    ///   ptrace reading needs, the same uid or CAP_SYS_PTRACE.
    /// - [`Unsupported`](ErrorKind::Unsupported): this kernel lacks the kind.
    pub fn of_pid(pid: pid_t, kind: Kind) -> Result<Self> {
        Self::of_proc(
            format!("open the {kind} namespace of process {pid}"),
            &pid.to_string(),
            kind,
            kind.name(),
        )
    }

    /// The namespace that new children of the process will be in: for the pid and time
    /// kinds it differs from its own after an [`unshare`](crate::unshare()) or
    /// [`setns`](crate::setns()); for the others it is the process's own.
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid). `ENOENT` also for a new pid namespace that has not had
    /// its first process yet.
    pub fn for_children(pid: pid_t, kind: Kind) -> Result<Self> {
        let file = match kind {
            Kind::Pid => "pid_for_children",
            Kind::Time => "time_for_children",
            other => other.name(),
        };
        let step = format!("open the {kind} namespace for children of process {pid}");
        let opened = Self::of_proc(step, &pid.to_string(), kind, file);
        // Before its first process a pid namespace cannot be opened, though its maker lives.
        opened.map_err(|error| match (kind, error.raw_os_error()) {
            (Kind::Pid, Some(libc::ENOENT)) if Path::new(&format!("/proc/{pid}/ns/pid")).exists() => {
                error.with_kind(ErrorKind::NotFound).hint("the new pid namespace has had no process yet")
            }
            _ => error,
        })
    }

    /// The namespace of this kind that the calling thread is in.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the kernel lacks the kind; `ENOENT`
    /// where `/proc` is not mounted.
    pub fn current(kind: Kind) -> Result<Self> {
        Self::of_proc(format!("open the caller's {kind} namespace"), "thread-self", kind, kind.name())
    }

    fn of_proc(step: String, of: &str, kind: Kind, file: &str) -> Result<Self> {
        let path = format!("/proc/{of}/ns/{file}");
        match open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => Self::of_kind(fd, kind),
            Err(Errno::ENOENT) if !hint::supported(kind) => {
                let error = Error::os(step, format!("open({path})"), Errno::ENOENT);
                Err(error.with_kind(ErrorKind::Unsupported).hint(lacks(kind)))
            }
            Err(errno) => Err(hint::of_proc(Error::os(step, format!("open({path})"), errno), errno)),
        }
    }

    /// The namespace of this kind that the process behind a pidfd is in, never that of
    /// another process that got its pid.
    ///
    /// Asks the pidfd itself where the kernel can (since Linux 6.11), else `/proc`, and
    /// then makes sure that the process had not been reaped meanwhile.
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid).
    pub fn of_pidfd(pidfd: impl AsFd, kind: Kind) -> Result<Self> {
        let pidfd = pidfd.as_fd();
        let step = || format!("open the {kind} namespace of the process behind a pidfd");
        match sys::ioctl_fd(pidfd, pidfd_request(kind)) {
            Ok(fd) => return Self::of_kind(fd, kind),
            // ENOTTY and EINVAL: before 6.11. EOPNOTSUPP: a kind that was not built in.
            Err(Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP) => {}
            Err(errno) => {
                let call = format!("ioctl(PIDFD_GET_{}_NAMESPACE)", kind.name().to_uppercase());
                return Err(hint::of_proc(Error::os(step(), call, errno), errno));
            }
        }
        let namespace = Self::of_pid(pidfd::pid_of(pidfd)?, kind)?;
        pidfd::check_unreaped(pidfd, &step())?;
        Ok(namespace)
    }

    /// The namespace that a file refers to: one pinned by [`pin`](Self::pin), by
    /// `ip netns add` or by `unshare --net=FILE`, or a link below `/proc/PID/ns`.
    ///
    /// The path is first opened with `O_PATH`, so a device or a FIFO in its place is not
    /// touched.
    ///
    /// # Errors
    /// - [`NotANamespace`](ErrorKind::NotANamespace): the file is not on nsfs, such as a
    ///   pin left from before a reboot.
    /// - `ENOENT`, `EACCES`: as of open(2).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let step = || format!("open the namespace {}", path.display());
        let at = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os(step(), "open", errno))?;
        check_nsfs(at.as_fd(), step)?;
        let again = format!("/proc/thread-self/fd/{}", at.as_raw_fd());
        let fd = open(again.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os(step(), format!("open({again})"), errno))?;
        Self::from_owned_fd(fd)
    }

    /// Takes over a descriptor of a namespace, and asks the kernel which kind it is.
    ///
    /// # Errors
    /// [`NotANamespace`](ErrorKind::NotANamespace) where it is another file.
    pub fn from_owned_fd(fd: OwnedFd) -> Result<Self> {
        let step = || format!("take descriptor {} as a namespace", fd.as_raw_fd());
        check_nsfs(fd.as_fd(), step)?;
        let flag = sys::ioctl(fd.as_fd(), libc::NS_GET_NSTYPE as u32)
            .map_err(|errno| Error::os(step(), "ioctl(NS_GET_NSTYPE)", errno))?;
        let kind = Kind::from_clone_flag(flag as u64).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                step(),
                format!("the kernel says its type is {flag:#x}, an unknown kind"),
            )
        })?;
        Self::of_kind(fd, kind)
    }

    fn of_kind(fd: OwnedFd, kind: Kind) -> Result<Self> {
        let stat =
            fstat(&fd).map_err(|errno| Error::os(format!("identify a {kind} namespace"), "fstat", errno))?;
        Ok(Self { fd, kind, id: NamespaceId::from_stat(&stat) })
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its identity.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// The user namespace that owns this one: capabilities in it are what operations on
    /// this one need. For a user namespace this is its parent. Since Linux 4.9.
    ///
    /// # Errors
    /// `EPERM`: the owner is not the caller's own user namespace or one below it.
    pub fn owner_user(&self) -> Result<Namespace> {
        let fd = sys::ioctl_fd(self.as_fd(), libc::NS_GET_USERNS as u32).map_err(|errno| {
            self.cannot("find the owner of", "ioctl(NS_GET_USERNS)", errno).hint(match errno {
                Errno::EPERM => "its owner is above the caller's own user namespace, out of sight",
                _ => "",
            })
        })?;
        Self::of_kind(fd, Kind::User)
    }

    /// The namespace above this one in the hierarchy that pid and user namespaces form.
    /// Since Linux 4.9.
    ///
    /// # Errors
    /// - `EINVAL`: the other kinds have no hierarchy.
    /// - `EPERM`: it is the initial one, or its parent is above the caller's own.
    pub fn parent(&self) -> Result<Namespace> {
        let fd = sys::ioctl_fd(self.as_fd(), libc::NS_GET_PARENT as u32).map_err(|errno| {
            self.cannot("find the parent of", "ioctl(NS_GET_PARENT)", errno).hint(match errno {
                Errno::EINVAL => "only pid and user namespaces have parents",
                Errno::EPERM => {
                    "it is the initial one, or its parent is above the caller's own, out of sight"
                }
                _ => "",
            })
        })?;
        Self::of_kind(fd, self.kind)
    }

    /// The uid, in the caller's user namespace, of the process that created this user
    /// namespace. Since Linux 4.11.
    ///
    /// # Errors
    /// `EINVAL`: it is not a user namespace.
    pub fn creator_uid(&self) -> Result<u32> {
        sys::ns_owner_uid(self.as_fd()).map_err(|errno| {
            self.cannot("find the creator of", "ioctl(NS_GET_OWNER_UID)", errno).hint(match errno {
                Errno::EINVAL => "only user namespaces record their creator",
                _ => "",
            })
        })
    }

    /// Another handle on the same namespace.
    ///
    /// # Errors
    /// `EMFILE`: the descriptors of this process are used up.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|error| {
            let errno = file::errno(&error);
            self.cannot("duplicate the handle on", "fcntl(F_DUPFD_CLOEXEC)", errno)
        })?;
        Ok(Self { fd, ..*self })
    }

    pub(crate) fn cannot(&self, verb: &str, call: &'static str, errno: Errno) -> Error {
        Error::os(format!("{verb} the namespace {self}"), call, errno)
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
    /// As `net:[4026531840]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.display(self.kind).fmt(f)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({self}, fd {})", self.fd.as_raw_fd())
    }
}

/// Says that this kernel lacks the kind, and what has it.
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
    format!("this kernel has no {kind} namespaces, which need {option}")
}

/// Makes sure that a descriptor is of nsfs.
pub(crate) fn check_nsfs(fd: BorrowedFd<'_>, step: impl Fn() -> String) -> Result<()> {
    let statfs = fstatfs(fd).map_err(|errno| Error::os(step(), "fstatfs", errno))?;
    if statfs.filesystem_type() == NSFS_MAGIC {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotANamespace,
        step(),
        "it is not a namespace file (not on nsfs): nothing is pinned there, or it was unmounted",
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
