//! The error type of this crate: a sentence that says what was tried, on what, by which
//! call, what the kernel answered, and what to do about it.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a sentence, with its [`ErrorKind`] and the kernel's errno.
///
/// ```
/// use ns_core::{ErrorKind, Kind, Namespace};
/// // pid_max is at most 2^22, so no process has this pid.
/// let error = Namespace::of_pid(i32::MAX, Kind::Net).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NoSuchProcess);
/// assert_eq!(
///     error.to_string(),
///     "cannot open the net namespace of process 2147483647: \
///      open(/proc/2147483647/ns/net): ENOENT: No such file or directory; \
///      no such process here: it has ended, or lives outside this pid namespace",
/// );
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    step: String,
    call: Cow<'static, str>,
    errno: Option<i32>,
    hint: Cow<'static, str>,
}

/// The sort of failure, for a program to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller lacks a capability, or a policy of the host forbids it.
    PermissionDenied,
    /// The process has ended, or is not visible from this pid namespace.
    NoSuchProcess,
    /// A file does not exist.
    NotFound,
    /// A file exists already.
    AlreadyExists,
    /// A path or descriptor is not a namespace, or not of the kind asked for.
    NotANamespace,
    /// This kernel lacks the feature.
    Unsupported,
    /// A number of things is used up: namespaces, their nesting, processes, descriptors.
    LimitReached,
    /// An argument is invalid, or invalid in the caller's state.
    InvalidInput,
    /// A text could not be parsed.
    Parse,
    /// Something in use stands in the way.
    Busy,
    /// A program that is needed is not installed, or failed.
    Program,
    /// Another failure of a system call: see [`Error::raw_os_error`].
    Os,
}

impl ErrorKind {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::EPERM | Errno::EACCES => Self::PermissionDenied,
            Errno::ESRCH => Self::NoSuchProcess,
            Errno::ENOENT => Self::NotFound,
            Errno::EEXIST => Self::AlreadyExists,
            Errno::ENOSYS | Errno::ENOTTY => Self::Unsupported,
            Errno::ENOSPC | Errno::EUSERS | Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => {
                Self::LimitReached
            }
            Errno::EINVAL => Self::InvalidInput,
            Errno::EBUSY => Self::Busy,
            _ => Self::Os,
        }
    }
}

impl Error {
    /// Makes the error of a failed system call, for crates that build on this one. `step`
    /// completes the sentence "cannot …"; `call` names the system call.
    pub fn from_raw_os_error(
        step: impl Into<String>,
        call: impl Into<Cow<'static, str>>,
        errno: i32,
    ) -> Self {
        Self::os(step, call, Errno::from_raw(errno))
    }

    pub(crate) fn os(step: impl Into<String>, call: impl Into<Cow<'static, str>>, errno: Errno) -> Self {
        Self(Box::new(Inner {
            kind: ErrorKind::of(errno),
            step: step.into(),
            call: call.into(),
            errno: Some(errno as i32),
            hint: Cow::Borrowed(""),
        }))
    }

    /// Makes the error of a failure that no system call reported, for crates that build on this
    /// one. `step` completes the sentence "cannot …"; `why` is the reason.
    pub fn new(kind: ErrorKind, step: impl Into<String>, why: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            step: step.into(),
            call: Cow::Borrowed(""),
            errno: None,
            hint: why.into(),
        }))
    }

    pub(crate) fn parse(what: &str, text: &str, why: &'static str) -> Self {
        let shown: String = text.chars().take(80).collect();
        Self::new(ErrorKind::Parse, format!("parse {shown:?} as {what}"), why)
    }

    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = hint.into();
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The sort of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The errno that the kernel answered with; `None` if it was not asked.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { step, call, errno, hint, .. } = &*self.0;
        write!(f, "cannot {step}")?;
        if !call.is_empty() {
            write!(f, ": {call}")?;
        }
        if let Some(errno) = errno {
            let errno = Errno::from_raw(*errno);
            write!(f, ": {errno}")?;
        }
        match (hint.is_empty(), errno) {
            (true, _) => Ok(()),
            (false, Some(_)) => write!(f, "; {hint}"),
            (false, None) => write!(f, ": {hint}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {:?})", self.0.kind, self.to_string())
    }
}

impl std::error::Error for Error {}
