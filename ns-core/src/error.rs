//! The error type: a sentence with the step, the object, the call, the errno, and the likely cause.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: a sentence for people, and an [`ErrorKind`] and an errno for programs. See
/// [errno(3)](https://man7.org/linux/man-pages/man3/errno.3.html).
///
/// ```
/// use ns_core::{ErrorKind, Kind, Namespace};
/// // No process has this pid, because pid_max is at most 2^22.
/// let error = Namespace::of_pid(i32::MAX, Kind::Net).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NoSuchProcess);
/// assert_eq!(
///     error.to_string(),
///     "cannot open the net namespace of process 2147483647: \
///      open(/proc/2147483647/ns/net): No such file or directory (ENOENT); \
///      the process has ended, or is outside this pid namespace",
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

/// Category of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller lacks a capability, or a policy of the host forbids the operation.
    PermissionDenied,
    /// The process has ended, or is not visible from this pid namespace.
    NoSuchProcess,
    /// A file does not exist.
    NotFound,
    /// A file exists already.
    AlreadyExists,
    /// A path or descriptor does not refer to a namespace.
    NotANamespace,
    /// This kernel lacks the feature.
    Unsupported,
    /// A limit is reached: on namespaces, their nesting, processes or descriptors.
    LimitReached,
    /// An argument is invalid, or not allowed in the caller's state.
    InvalidInput,
    /// A text could not be parsed.
    Parse,
    /// The object is in use.
    Busy,
    /// A required program is not installed, or failed.
    Program,
    /// Another failure of a system call; see [`Error::raw_os_error`].
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

    /// Returns what was attempted, as it completes the sentence "cannot …".
    pub fn step(&self) -> &str {
        &self.0.step
    }

    /// Returns the failed system call, with its path where it has one; `None` if no system call
    /// failed.
    pub fn call(&self) -> Option<&str> {
        Some(&*self.0.call).filter(|call| !call.is_empty())
    }

    /// Returns the category.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the errno of the failed system call; `None` if no system call failed.
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
            write!(f, ": {} ({errno:?})", errno.desc())?;
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
