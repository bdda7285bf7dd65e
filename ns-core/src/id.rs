//! Identities of namespaces, and the set of eight that a process is in.

use std::fmt;
use std::ops::Index;
use std::os::fd::{AsFd, OwnedFd};

use libc::pid_t;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstatat};

use crate::{Error, Kind, Kinds, Result, hint, pidfd};

/// Identity of a namespace: device and inode number of its file on nsfs.
///
/// Two files refer to the same namespace if and only if both numbers are equal. The kernel may
/// reuse a number after the namespace is gone. See
/// [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NamespaceId {
    /// Device of nsfs (`st_dev`).
    pub dev: u64,
    /// Inode number (`st_ino`), the number in `net:[4026531840]`.
    pub ino: u64,
}

impl NamespaceId {
    /// Placeholder in a [`NamespaceSet`] for a kind that the kernel lacks.
    pub const NONE: Self = Self { dev: 0, ino: 0 };

    pub(crate) fn from_stat(stat: &FileStat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }

    /// Formats the identity as `readlink /proc/PID/ns/KIND` does.
    ///
    /// ```
    /// use ns_core::{Kind, NamespaceId};
    /// let id = NamespaceId { dev: 4, ino: 4026531840 };
    /// assert_eq!(id.display(Kind::Net).to_string(), "net:[4026531840]");
    /// ```
    pub fn display(self, kind: Kind) -> impl fmt::Display {
        Link(kind, self.ino)
    }
}

struct Link(Kind, u64);

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:[{}]", self.0, self.1))
    }
}

/// Namespaces of one process or thread: exactly one of each kind.
///
/// If the kernel lacks a kind, the set contains [`NamespaceId::NONE`] for it. A kernel without
/// CONFIG_TIME_NS or before Linux 5.6 lacks time namespaces. See
/// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
///
/// ```
/// use ns_core::{Kind, Kinds, NamespaceSet};
/// let mine = NamespaceSet::current()?;
/// let parent = NamespaceSet::of_pid(std::os::unix::process::parent_id() as i32)?;
/// let shared: Kinds = mine.coincide(&parent);
/// println!("{} shared with the parent: {shared}", mine[Kind::Net].display(Kind::Net));
/// # assert!(shared.contains(Kinds::FIVE));
/// # Ok::<(), ns_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NamespaceSet([NamespaceId; 8]);

impl NamespaceSet {
    /// Makes a set from ids in the order of [`Kind::ALL`].
    pub const fn new(ids: [NamespaceId; 8]) -> Self {
        Self(ids)
    }

    /// Reads the namespaces of the process or thread `pid` from `/proc/PID/ns`. Since Linux 3.8; see
    /// [proc_pid_ns(5)](https://man7.org/linux/man-pages/man5/proc_pid_ns.5.html).
    ///
    /// # Errors
    /// - `ENOENT`, `ESRCH` ([`NoSuchProcess`](crate::ErrorKind::NoSuchProcess)): the process has
    ///   ended, even if it was not yet waited for, or is outside this pid namespace.
    /// - `EACCES` ([`PermissionDenied`](crate::ErrorKind::PermissionDenied)): the caller has neither
    ///   the uid of the process nor CAP_SYS_PTRACE in its user namespace
    ///   ([ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html), access mode
    ///   `PTRACE_MODE_READ_FSCREDS`).
    /// - `ENOENT` ([`NotFound`](crate::ErrorKind::NotFound)): `/proc` is not mounted.
    pub fn of_pid(pid: pid_t) -> Result<Self> {
        Self::read(&pid.to_string())
    }

    /// Reads the namespaces of the process behind a pidfd. Fails if the process has been reaped, so
    /// it never reads those of another process with the same pid. Since Linux 5.3; see
    /// [proc_pid_ns(5)](https://man7.org/linux/man-pages/man5/proc_pid_ns.5.html).
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid).
    pub fn of_pidfd(pidfd: impl AsFd) -> Result<Self> {
        let pidfd = pidfd.as_fd();
        let set = Self::of_pid(pidfd::pid_of(pidfd)?)?;
        pidfd::check_unreaped(pidfd, || "read the namespaces of the process behind a pidfd".into())?;
        Ok(set)
    }

    /// Reads the namespaces of the calling thread from `/proc/thread-self/ns`. Since Linux 3.17; see
    /// [proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html).
    ///
    /// # Errors
    /// `ENOENT` ([`NotFound`](crate::ErrorKind::NotFound)): `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        Self::read("thread-self")
    }

    fn read(of: &str) -> Result<Self> {
        let path = format!("/proc/{of}/ns");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(path.as_str(), flags, Mode::empty())
            .map_err(|errno| hint::of_proc(Error::path(step(of), "open", &path, errno), errno))?;
        let mut ids = [NamespaceId::NONE; 8];
        for (id, kind) in ids.iter_mut().zip(Kind::ALL) {
            match stat_in(&dir, kind) {
                Ok(found) => *id = found,
                Err(Errno::ENOENT) if !hint::supported(kind) => {}
                Err(errno) => {
                    let error = Error::path(step(of), "stat", &format!("{path}/{kind}"), errno);
                    return Err(hint::of_proc(error, errno));
                }
            }
        }
        Ok(Self(ids))
    }

    /// Returns the namespace of this kind.
    pub const fn get(&self, kind: Kind) -> NamespaceId {
        self.0[kind as usize]
    }

    /// Returns the kinds in which both sets have the same namespace.
    pub fn coincide(&self, other: &Self) -> Kinds {
        Kind::ALL.into_iter().filter(|kind| self.get(*kind) == other.get(*kind)).collect()
    }

    /// Iterates over the kinds and their namespaces.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, NamespaceId)> {
        Kind::ALL.into_iter().zip(self.0)
    }
}

impl Index<Kind> for NamespaceSet {
    type Output = NamespaceId;

    fn index(&self, kind: Kind) -> &NamespaceId {
        &self.0[kind as usize]
    }
}

fn step(of: &str) -> String {
    match of {
        "thread-self" => "read the namespaces of the calling thread".into(),
        pid => format!("read the namespaces of process {pid}"),
    }
}

fn stat_in(dir: &OwnedFd, kind: Kind) -> Result<NamespaceId, Errno> {
    fstatat(dir, kind.name(), AtFlags::empty()).map(|stat| NamespaceId::from_stat(&stat))
}
