//! The one error type of this crate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::missing::Missing;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, on which object, in which call, with which errno, and what to do about it.
///
/// Its `Display` is a sentence for people; [`Error::kind`] and [`Error::raw_os_error`] are for
/// programs.
///
/// ```
/// use cgroup_core::{Cgroup, ErrorKind};
/// let error = Cgroup::open("/proc/self").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotCgroup2);
/// assert!(error.to_string().contains("/proc/self"));
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

/// The classes of failure that a program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The cgroup, file or process does not exist (`ENOENT`, `ESRCH`), or was removed while the
    /// handle was held (`ENODEV`).
    NotFound,
    /// A cgroup of that name exists (`EEXIST`).
    AlreadyExists,
    /// The kernel refused for lack of permission or of delegation (`EACCES`, `EPERM`, `EROFS`).
    PermissionDenied,
    /// Processes or child cgroups stand in the way (`EBUSY`, `ENOTEMPTY`).
    Busy,
    /// What was waited for did not happen in time.
    TimedOut,
    /// A name is not one path component, or is not fit for a cgroup.
    InvalidName,
    /// A limit's value is outside the range that the kernel takes.
    InvalidLimit,
    /// Text is not in the format expected.
    InvalidText,
    /// Limits that this host or this cgroup cannot enforce; see [`Error::unenforceable`].
    Unenforceable,
    /// The path is not a directory of a cgroup2 file system.
    NotCgroup2,
    /// There is no cgroup2 hierarchy here, or the cgroup lies outside of what is mounted.
    NoHierarchy,
    /// The caller has no cgroup in which it may create others.
    NotDelegated,
    /// No systemd can be reached, or it refused.
    Systemd,
    /// The kernel lacks the feature (`ENOSYS`, `EOPNOTSUPP`).
    Unsupported,
    /// Any other errno; see [`Error::raw_os_error`].
    Os,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("cannot {step}: {call}: {} ({errno:?}){}", errno.desc(), Cure(*cure))]
    Os { step: String, call: &'static str, errno: Errno, cure: Option<&'static str> },
    #[error("gave up after {after:?} waiting for {what}")]
    TimedOut { what: String, after: Duration },
    #[error("{name:?} cannot name a cgroup: {why}")]
    Name { name: String, why: &'static str },
    #[error("{file} cannot be {value:?}: {why}")]
    Limit { file: String, value: String, why: &'static str },
    #[error("cannot read {text:?} as {what}: {why}")]
    Text { what: &'static str, text: String, why: &'static str },
    #[error("{}", Sentences(.0))]
    Unenforceable(Vec<(String, Missing)>),
    #[error("{path:?} is not a cgroup v2 directory: its file system is another one", path = .0)]
    NotCgroup2(PathBuf),
    #[error("{0}")]
    NoHierarchy(&'static str),
    #[error("the cgroup {cgroup:?} of {who} is outside of the cgroup2 mount at {mount:?}, which shows {root:?} and below: mount cgroup2 anew in this cgroup namespace, or look from the host", cgroup = .0, who = .1, mount = .2, root = .3)]
    Outside(String, String, PathBuf, String),
    #[error("{what}: {cure}")]
    NotDelegated { what: String, cure: String },
    #[error("{what}{}", Cure(*cure))]
    Systemd { what: String, cure: Option<&'static str> },
}

/// The cure of a surprising errno, as the end of a sentence.
struct Cure(Option<&'static str>);

impl fmt::Display for Cure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |cure| write!(f, "; {cure}"))
    }
}

/// One sentence for each limit that cannot be enforced.
struct Sentences<'a>(&'a [(String, Missing)]);

impl fmt::Display for Sentences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (file, missing)) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "; " };
            write!(f, "{gap}{file} cannot be enforced here: {missing}")?;
        }
        Ok(())
    }
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Os { errno, .. } => match errno {
                Errno::ENOENT | Errno::ESRCH | Errno::ENODEV => ErrorKind::NotFound,
                Errno::EEXIST => ErrorKind::AlreadyExists,
                Errno::EACCES | Errno::EPERM | Errno::EROFS => ErrorKind::PermissionDenied,
                Errno::EBUSY | Errno::ENOTEMPTY => ErrorKind::Busy,
                Errno::ENOSYS | Errno::EOPNOTSUPP => ErrorKind::Unsupported,
                _ => ErrorKind::Os,
            },
            Inner::TimedOut { .. } => ErrorKind::TimedOut,
            Inner::Name { .. } => ErrorKind::InvalidName,
            Inner::Limit { .. } => ErrorKind::InvalidLimit,
            Inner::Text { .. } => ErrorKind::InvalidText,
            Inner::Unenforceable(_) => ErrorKind::Unenforceable,
            Inner::NotCgroup2(_) => ErrorKind::NotCgroup2,
            Inner::NoHierarchy(_) | Inner::Outside(..) => ErrorKind::NoHierarchy,
            Inner::NotDelegated { .. } => ErrorKind::NotDelegated,
            Inner::Systemd { .. } => ErrorKind::Systemd,
        }
    }

    /// The errno, where a system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.errno().map(|errno| errno as i32)
    }

    /// Each limit that cannot be enforced and why, if that is what this error is about.
    pub fn unenforceable(&self) -> &[(String, Missing)] {
        match &*self.0 {
            Inner::Unenforceable(list) => list,
            _ => &[],
        }
    }

    pub(crate) fn errno(&self) -> Option<Errno> {
        match &*self.0 {
            Inner::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    pub(crate) fn os(step: String, call: &'static str, errno: Errno, cure: Option<&'static str>) -> Self {
        Self(Box::new(Inner::Os { step, call, errno, cure }))
    }

    pub(crate) fn timed_out(what: String, after: Duration) -> Self {
        Self(Box::new(Inner::TimedOut { what, after }))
    }

    pub(crate) fn name(name: &[u8], why: &'static str) -> Self {
        Self(Box::new(Inner::Name { name: String::from_utf8_lossy(name).into_owned(), why }))
    }

    pub(crate) fn limit(file: impl Into<String>, value: impl fmt::Display, why: &'static str) -> Self {
        Self(Box::new(Inner::Limit { file: file.into(), value: value.to_string(), why }))
    }

    pub(crate) fn text(what: &'static str, text: &str, why: &'static str) -> Self {
        let text = text.chars().take(200).collect();
        Self(Box::new(Inner::Text { what, text, why }))
    }

    pub(crate) fn cannot_enforce(list: Vec<(String, Missing)>) -> Self {
        Self(Box::new(Inner::Unenforceable(list)))
    }

    pub(crate) fn not_cgroup2(path: &Path) -> Self {
        Self(Box::new(Inner::NotCgroup2(path.to_owned())))
    }

    pub(crate) fn no_hierarchy(why: &'static str) -> Self {
        Self(Box::new(Inner::NoHierarchy(why)))
    }

    pub(crate) fn outside(cgroup: &str, who: String, mount: &Path, root: &str) -> Self {
        Self(Box::new(Inner::Outside(cgroup.into(), who, mount.to_owned(), root.into())))
    }

    pub(crate) fn not_delegated(what: String, cure: String) -> Self {
        Self(Box::new(Inner::NotDelegated { what, cure }))
    }

    pub(crate) fn systemd(what: String, cure: Option<&'static str>) -> Self {
        Self(Box::new(Inner::Systemd { what, cure }))
    }
}
