//! The error type of this crate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nspod_errno::ErrnoText;

use crate::missing::Missing;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: the step, the object, the system call, the errno, and the likely cause. See
/// [errno(3)](https://man7.org/linux/man-pages/man3/errno.3.html).
///
/// `Display` prints a sentence for people, with the errno as `Operation not permitted (EPERM)`. The
/// methods return the parts for programs.
///
/// ```
/// use cgroup_core::{ErrorKind, Limits};
/// let error = Limits { cpu_weight: Some(0), ..Limits::default() }.validate().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidLimit);
/// assert_eq!(error.field(), Some("cpu.weight"));
/// assert_eq!(error.to_string(), "cpu.weight cannot be \"0\": a weight must be from 1 to 10000");
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

/// Category of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The cgroup, file or process does not exist (`ENOENT`, `ESRCH`), or the cgroup was removed
    /// while the handle was open (`ENODEV`).
    NotFound,
    /// A cgroup with this name exists (`EEXIST`).
    AlreadyExists,
    /// The caller lacks permission or delegation (`EACCES`, `EPERM`), or the mount is read-only
    /// (`EROFS`).
    PermissionDenied,
    /// The cgroup has processes or children (`EBUSY`, `ENOTEMPTY`).
    Busy,
    /// An awaited event did not happen in time.
    TimedOut,
    /// A name is not one path component, or is not valid for a cgroup or unit.
    InvalidName,
    /// The value of a limit is outside the range that the kernel accepts.
    InvalidLimit,
    /// A text does not have the expected format.
    InvalidText,
    /// This host or this cgroup cannot enforce a limit; see [`Error::unenforceable`].
    Unenforceable,
    /// The path is not on a cgroup2 file system.
    NotCgroup2,
    /// No cgroup2 hierarchy is mounted, or the cgroup is outside of what is mounted.
    NoHierarchy,
    /// The caller has no cgroup in which it may create others.
    NotDelegated,
    /// systemd rejected a request, or a job of systemd failed.
    Refused,
    /// The kernel lacks the feature (`ENOSYS`, `EOPNOTSUPP`), or no systemd accepts the connection.
    Unsupported,
    /// Another errno; see [`Error::raw_os_error`].
    Os,
}

impl ErrorKind {
    pub(crate) fn of(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ESRCH | Errno::ENODEV => Self::NotFound,
            Errno::EEXIST => Self::AlreadyExists,
            Errno::EACCES | Errno::EPERM | Errno::EROFS => Self::PermissionDenied,
            Errno::EBUSY | Errno::ENOTEMPTY => Self::Busy,
            Errno::ENOSYS | Errno::EOPNOTSUPP => Self::Unsupported,
            _ => Self::Os,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("cannot {step}: {call}: {}{}", ErrnoText(*errno), Cause(*cause))]
    Os {
        step: String,
        call: &'static str,
        errno: Errno,
        cause: Option<&'static str>,
        object: Option<String>,
        field: Option<String>,
    },
    #[error("timed out after {after:?} while waiting for {what}")]
    TimedOut { what: String, object: String, after: Duration },
    #[error("{name:?} cannot name a cgroup: {why}")]
    Name { name: String, why: &'static str },
    #[error("{file} cannot be {value:?}: {why}")]
    Limit { file: String, value: String, why: &'static str },
    #[error("cannot parse {text:?} as {what}: {why}")]
    Text { what: &'static str, text: String, why: &'static str },
    #[error("{}", Sentences(list))]
    Unenforceable { list: Vec<(String, Missing)>, cgroup: String },
    #[error("{path:?} is not on a cgroup2 file system", path = .0)]
    NotCgroup2(PathBuf),
    #[error("{0}")]
    NoHierarchy(&'static str),
    #[error(
        "the cgroup {cgroup:?} of {owner} is outside of the cgroup2 mount at {mount:?}, which shows {root:?} \
         and below: mount cgroup2 again in this cgroup namespace, or run this outside of it"
    )]
    Outside { cgroup: String, owner: String, mount: PathBuf, root: String },
    #[error("{what}: {cure}")]
    NotDelegated { what: String, cure: String, object: String, errno: Errno, source: Option<Error> },
    #[error("{what}{}", Cause(*cause))]
    Systemd {
        kind: ErrorKind,
        what: String,
        cause: Option<&'static str>,
        /// The unit, or the socket.
        object: String,
        source: Option<std::io::Error>,
    },
}

/// The likely cause, as the end of a sentence.
struct Cause(Option<&'static str>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |cause| write!(f, "; {cause}"))
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
    /// Returns the kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Inner::Os { errno, .. } => ErrorKind::of(*errno),
            Inner::TimedOut { .. } => ErrorKind::TimedOut,
            Inner::Name { .. } => ErrorKind::InvalidName,
            Inner::Limit { .. } => ErrorKind::InvalidLimit,
            Inner::Text { .. } => ErrorKind::InvalidText,
            Inner::Unenforceable { .. } => ErrorKind::Unenforceable,
            Inner::NotCgroup2(_) => ErrorKind::NotCgroup2,
            Inner::NoHierarchy(_) | Inner::Outside { .. } => ErrorKind::NoHierarchy,
            Inner::NotDelegated { .. } => ErrorKind::NotDelegated,
            Inner::Systemd { kind, .. } => *kind,
        }
    }

    /// Returns the errno of the system call that failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Inner::Os { errno, .. } | Inner::NotDelegated { errno, .. } => Some(*errno as i32),
            Inner::Systemd { source, .. } => source.as_ref().and_then(std::io::Error::raw_os_error),
            _ => None,
        }
    }

    /// Returns the name of the system call that failed.
    pub fn failed_call(&self) -> Option<&str> {
        match &*self.0 {
            Inner::Os { call, .. } => Some(call),
            Inner::NotDelegated { .. } => Some("faccessat"),
            _ => None,
        }
    }

    /// Returns the name of the interface file that the failure is about, such as `memory.max`: the
    /// file of an invalid limit, of the first limit that cannot be enforced, or of a failed access. `net`
    /// stands for all network limits, which have no file.
    pub fn field(&self) -> Option<&str> {
        match &*self.0 {
            Inner::Limit { file, .. } => Some(file),
            Inner::Unenforceable { list, .. } => list.first().map(|(file, _)| file.as_str()),
            Inner::Os { field, .. } => field.as_deref(),
            _ => None,
        }
    }

    /// Returns the step that failed, as the end of "cannot …".
    pub fn step(&self) -> Option<&str> {
        match &*self.0 {
            Inner::Os { step, .. } => Some(step),
            _ => None,
        }
    }

    /// Returns the object of the failure: the path of a cgroup or file, a unit or socket of systemd, or
    /// an invalid name or text.
    pub fn object(&self) -> Option<&str> {
        match &*self.0 {
            Inner::Os { object, .. } => object.as_deref(),
            Inner::Name { name, .. } => Some(name),
            Inner::Unenforceable { cgroup, .. } => Some(cgroup),
            Inner::NotCgroup2(path) => path.to_str(),
            Inner::Outside { cgroup, .. } => Some(cgroup),
            Inner::TimedOut { object, .. }
            | Inner::NotDelegated { object, .. }
            | Inner::Systemd { object, .. } => Some(object),
            Inner::Text { text, .. } => Some(text),
            Inner::Limit { .. } | Inner::NoHierarchy(_) => None,
        }
    }

    /// Returns each limit that cannot be enforced, with the reason. Empty for errors of other kinds.
    pub fn unenforceable(&self) -> &[(String, Missing)] {
        match &*self.0 {
            Inner::Unenforceable { list, .. } => list,
            _ => &[],
        }
    }

    pub(crate) fn errno(&self) -> Option<Errno> {
        match &*self.0 {
            Inner::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// `step` completes the sentence "cannot …".
    pub(crate) fn os(step: String, call: &'static str, errno: Errno, cause: Option<&'static str>) -> Self {
        Self(Box::new(Inner::Os { step, call, errno, cause, object: None, field: None }))
    }

    /// Adds the cgroup that the failed call was about.
    pub(crate) fn on(mut self, cgroup: &Path) -> Self {
        if let Inner::Os { object, .. } = &mut *self.0 {
            *object = Some(cgroup.display().to_string());
        }
        self
    }

    /// Adds the interface file that the failed call was about.
    pub(crate) fn with_field(mut self, file: &str) -> Self {
        if let Inner::Os { field, .. } = &mut *self.0 {
            *field = Some(file.to_owned());
        }
        self
    }

    pub(crate) fn timed_out(what: String, object: String, after: Duration) -> Self {
        Self(Box::new(Inner::TimedOut { what, object, after }))
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

    pub(crate) fn cannot_enforce(cgroup: &Path, list: Vec<(String, Missing)>) -> Self {
        Self(Box::new(Inner::Unenforceable { list, cgroup: cgroup.display().to_string() }))
    }

    pub(crate) fn not_cgroup2(path: &Path) -> Self {
        Self(Box::new(Inner::NotCgroup2(path.to_owned())))
    }

    pub(crate) fn no_hierarchy(why: &'static str) -> Self {
        Self(Box::new(Inner::NoHierarchy(why)))
    }

    pub(crate) fn outside(cgroup: &str, owner: String, mount: &Path, root: &str) -> Self {
        let (mount, root) = (mount.to_owned(), root.to_owned());
        Self(Box::new(Inner::Outside { cgroup: cgroup.into(), owner, mount, root }))
    }

    /// `object` is the file that faccessat(2) finds not writable.
    pub(crate) fn not_delegated(
        what: String,
        cure: String,
        object: String,
        errno: Errno,
        source: Option<Self>,
    ) -> Self {
        Self(Box::new(Inner::NotDelegated { what, cure, object, errno, source }))
    }

    pub(crate) fn systemd(
        kind: ErrorKind,
        what: String,
        cause: Option<&'static str>,
        object: String,
        source: Option<std::io::Error>,
    ) -> Self {
        Self(Box::new(Inner::Systemd { kind, what, cause, object, source }))
    }
}
