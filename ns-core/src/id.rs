//! Which namespaces a process is in: identities, and sets of exactly eight.

use std::fmt;
use std::ops::Index;
use std::os::fd::{AsFd, OwnedFd};

use libc::pid_t;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstatat};

use crate::{Error, Kind, Kinds, Result, hint, pidfd};

/// What tells one namespace from another: the device and inode number of its nsfs file.
///
/// Two files refer to the same namespace if and only if both numbers are equal. A number
/// may come again once a namespace is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NamespaceId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode number, the one in `net:[4026531840]`.
    pub ino: u64,
}

impl NamespaceId {
    /// Stands in a [`NamespaceSet`] for the kind that the kernel lacks: all processes share it.
    pub const NONE: Self = Self { dev: 0, ino: 0 };

    pub(crate) fn from_stat(stat: &FileStat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }

    /// The form that `readlink /proc/PID/ns/KIND` and `lsns` show.
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

/// The namespaces of one process or thread: exactly one of each of the eight kinds.
///
/// A kernel may lack a kind: one built without `CONFIG_TIME_NS`, or older than Linux 5.6, has no
/// time namespaces. The set then holds [`NamespaceId::NONE`] for that kind.
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
    /// The set of these ids, in the order of [`Kind::ALL`].
    pub const fn new(ids: [NamespaceId; 8]) -> Self {
        Self(ids)
    }

    /// The namespaces of the process (or thread) `pid`, by `/proc/PID/ns`.
    ///
    /// # Errors
    /// - [`NoSuchProcess`](ErrorKind::NoSuchProcess): it has ended (a zombie has no
    ///   namespaces any more), or lives outside this pid namespace.
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied) (`EACCES`): reading needs what
    ///   ptrace reading needs, the same uid or CAP_SYS_PTRACE.
    pub fn of_pid(pid: pid_t) -> Result<Self> {
        Self::read(&pid.to_string())
    }

    /// The namespaces of the process behind a pidfd; never those of another process that
    /// got its pid.
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid).
    pub fn of_pidfd(pidfd: impl AsFd) -> Result<Self> {
        let pidfd = pidfd.as_fd();
        let set = Self::of_pid(pidfd::pid_of(pidfd)?)?;
        pidfd::check_unreaped(pidfd, "read the namespaces of the process behind a pidfd")?;
        Ok(set)
    }

    /// The namespaces of the calling thread.
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid), and `ENOENT` where `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        Self::read("thread-self")
    }

    fn read(of: &str) -> Result<Self> {
        let path = format!("/proc/{of}/ns");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(path.as_str(), flags, Mode::empty())
            .map_err(|errno| hint::of_proc(Error::os(step(of), format!("open({path})"), errno), errno))?;
        let mut ids = [NamespaceId::NONE; 8];
        for (id, kind) in ids.iter_mut().zip(Kind::ALL) {
            match stat_in(&dir, kind) {
                Ok(found) => *id = found,
                Err(Errno::ENOENT) if !hint::supported(kind) => {}
                Err(errno) => {
                    let error = Error::os(step(of), format!("stat({path}/{kind})"), errno);
                    return Err(hint::of_proc(error, errno));
                }
            }
        }
        Ok(Self(ids))
    }

    /// The namespace of this kind.
    pub const fn get(&self, kind: Kind) -> NamespaceId {
        self.0[kind as usize]
    }

    /// The kinds of which both sets hold the same namespace.
    pub fn coincide(&self, other: &Self) -> Kinds {
        Kind::ALL.into_iter().filter(|kind| self.get(*kind) == other.get(*kind)).collect()
    }

    /// Each kind with its namespace.
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
