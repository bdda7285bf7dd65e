//! The error type: a sentence with the step, the object, the call, the errno, and the likely cause.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;
use nspod_errno::ErrnoText;

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
    call: Option<&'static str>,
    /// Text in parentheses after the call: a path or a flag.
    argument: Cow<'static, str>,
    object: Option<String>,
    errno: Option<Errno>,
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
    /// This kernel lacks the feature, or a required program is not installed.
    Unsupported,
    /// A limit is reached: on namespaces, their nesting, processes or descriptors.
    LimitReached,
    /// An argument is invalid, or not allowed in the caller's state.
    InvalidInput,
    /// A text could not be parsed.
    Parse,
    /// The object is in use.
    Busy,
    /// A program that this crate runs, `newuidmap` or `newgidmap`, failed.
    ProgramFailed,
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
    pub fn from_raw_os_error(step: impl Into<String>, call: &'static str, errno: i32) -> Self {
        Self::os(step, call, Errno::from_raw(errno))
    }

    pub(crate) fn os(step: impl Into<String>, call: &'static str, errno: Errno) -> Self {
        let mut error = Self::new(ErrorKind::of(errno), step, "");
        (error.0.call, error.0.errno) = (Some(call), Some(errno));
        error
    }

    /// Makes the error of a system call that failed on a path. The sentence names the path after the
    /// call.
    pub(crate) fn path(step: impl Into<String>, call: &'static str, path: &str, errno: Errno) -> Self {
        Self::os(step, call, errno).argument(path.to_owned()).on(path)
    }

    /// Makes the error of a failure that no system call reported, for crates that build on this
    /// one. `step` completes the sentence "cannot …"; `why` is the reason.
    pub fn new(kind: ErrorKind, step: impl Into<String>, why: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            step: step.into(),
            call: None,
            argument: Cow::Borrowed(""),
            object: None,
            errno: None,
            hint: why.into(),
        }))
    }

    /// Sets the [`object`](Self::object). The sentence stays the same.
    pub fn on(mut self, object: impl fmt::Display) -> Self {
        self.0.object = Some(object.to_string());
        self
    }

    pub(crate) fn parse(what: &str, text: &str, why: &'static str) -> Self {
        let shown: String = text.chars().take(80).collect();
        Self::new(ErrorKind::Parse, format!("parse {shown:?} as {what}"), why).on(shown)
    }

    /// Adds a flag of the failed call to the sentence.
    pub(crate) fn argument(mut self, argument: impl Into<Cow<'static, str>>) -> Self {
        self.0.argument = argument.into();
        self
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

    /// Returns the name of the failed system call, for example `setns`; `None` if no system call
    /// failed.
    pub fn failed_call(&self) -> Option<&'static str> {
        self.0.call
    }

    /// Returns the object of the step: a path, a pid, a namespace such as `net:[4026531840]`, or a text
    /// that could not be parsed.
    pub fn object(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// Returns the category.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the errno of the failed system call; `None` if no system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno.map(|errno| errno as i32)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { step, call, argument, errno, hint, .. } = &*self.0;
        write!(f, "cannot {step}")?;
        if let Some(call) = call {
            write!(f, ": {call}")?;
        }
        if !argument.is_empty() {
            write!(f, "({argument})")?;
        }
        if let Some(errno) = errno {
            write!(f, ": {}", ErrnoText(*errno))?;
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
