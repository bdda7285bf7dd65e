//! The crate's error: a sentence that names the step, its object, the call and the errno,
//! and says what to do where the errno alone would puzzle.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;

/// What sort of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The spec asks for something impossible or contradictory; nothing was done.
    InvalidSpec,
    /// The program is not there, as the container sees it.
    ProgramNotFound,
    /// The program is there and cannot be executed.
    ProgramNotExecutable,
    /// The first process was killed before it was the program.
    Killed,
    /// A step of the child failed; the child is gone and so is its cgroup.
    Step,
    /// A namespace could not be opened, pinned or read.
    Namespace,
    /// A cgroup could not be made, limited, read or removed.
    Cgroup,
    /// This host cannot enforce a limit that was asked for.
    Unenforceable,
    /// The id maps could not be written.
    IdMap,
    /// A process could not be made.
    Clone,
    /// A process could not be waited for, signalled or talked with.
    Process,
    /// The container or pod is not in a state that allows this.
    State,
    /// A [`store`](crate::store) could not be read or written.
    Store,
    /// `/proc` could not be read.
    Proc,
    /// A function of the caller's, that was called on the way, refused to go on.
    Caller,
}

/// An error of this crate.
///
/// [`Display`](fmt::Display) prints a complete sentence for people; its wording can change between
/// releases. [`kind`](Self::kind), [`field`](Self::field), [`failed_call`](Self::failed_call) and
/// [`raw_os_error`](Self::raw_os_error) are for programs. The sentence includes the cause, so do
/// not print [`source`](std::error::Error::source) as well; it is there for downcasts.
///
/// ```
/// use nspod_sandbox::{ErrorKind, Handles, Plan, spec::Spec};
/// let mut spec = Spec::new("true");
/// spec.process.cwd = Some("relative".into());
/// let error = Plan::new(&spec, Handles::default()).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidSpec);
/// assert_eq!(error.field(), Some("process.cwd"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    /// Completes "cannot …" if a call failed; otherwise the whole sentence.
    what: String,
    field: Option<String>,
    call: Option<Cow<'static, str>>,
    errno: Option<Errno>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error from a whole sentence, for crates that build on this one.
    pub fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            what: sentence.into(),
            field: None,
            call: None,
            errno: None,
            hint: None,
            source: None,
        }))
    }

    /// Makes the error of a function that the caller passed to [`Command::prepared`], from a whole
    /// sentence.
    ///
    /// [`Command::prepared`]: crate::Command::prepared
    pub fn caller(sentence: impl Into<String>) -> Self {
        Error::new(ErrorKind::Caller, sentence)
    }

    /// Makes an [`ErrorKind::InvalidSpec`] error: the path of the field, as in
    /// `mounts[3].destination`, and the problem with its value.
    pub fn invalid(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Error::new(ErrorKind::InvalidSpec, problem.to_string()).with_field(field)
    }

    /// Makes the error of a failed call. `what` completes the sentence "cannot …".
    pub fn call(
        kind: ErrorKind,
        what: impl Into<String>,
        call: impl Into<Cow<'static, str>>,
        errno: i32,
    ) -> Self {
        let mut error = Error::new(kind, what);
        error.0.call = Some(call.into());
        error.0.errno = Some(Errno::from_raw(errno));
        error
    }

    /// Makes the error of a call of the standard library. `what` completes the sentence "cannot …".
    pub fn io(
        kind: ErrorKind,
        what: impl Into<String>,
        call: impl Into<Cow<'static, str>>,
        e: &std::io::Error,
    ) -> Self {
        let call = call.into();
        match e.raw_os_error() {
            Some(errno) => Error::call(kind, what, call, errno),
            None => Error::new(kind, format!("cannot {}: {call}: {e}", what.into())),
        }
    }

    pub(crate) fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Replaces the path of the field, for a caller whose configuration has other names than
    /// [`Spec`](crate::spec::Spec). The rest of the error stays.
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Sets the end of the sentence, which says what to do.
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.0.hint = hint;
        self
    }

    /// Returns what sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the path of the field that is invalid, as in `mounts[3].destination`, or `None` if
    /// the error is not about a field.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// Returns the errno of the call that failed, if a call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno.map(|errno| errno as i32)
    }

    /// Returns the name of the call that failed, if a call failed.
    pub fn failed_call(&self) -> Option<&str> {
        self.0.call.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { what, field, call, errno, hint, .. } = &*self.0;
        if let Some(field) = field {
            write!(f, "{field}: ")?;
        }
        match (call, errno) {
            (Some(call), Some(errno)) => {
                write!(f, "cannot {what}: {call}: {}", errno_text(*errno as i32))?;
            }
            _ => f.write_str(what)?,
        }
        match hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.0.kind).field("message", &self.to_string()).finish()
    }
}

impl std::error::Error for Error {
    /// Returns the [`ns_core::Error`] or [`cgroup_core::Error`] that this error comes from, or else
    /// the [`Errno`].
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(&**source),
            None => self.0.errno.as_ref().map(|errno| errno as _),
        }
    }
}

/// Returns `No such file or directory (ENOENT)`.
pub(crate) fn errno_text(errno: i32) -> String {
    let e = Errno::from_raw(errno);
    format!("{} ({e:?})", e.desc())
}

impl From<ns_core::Error> for Error {
    fn from(e: ns_core::Error) -> Self {
        let mut error = Error::new(ErrorKind::Namespace, e.to_string());
        error.0.errno = e.raw_os_error().map(Errno::from_raw);
        error.0.source = Some(Box::new(e));
        error
    }
}

impl From<cgroup_core::Error> for Error {
    fn from(e: cgroup_core::Error) -> Self {
        let kind = match e.kind() {
            cgroup_core::ErrorKind::Unenforceable => ErrorKind::Unenforceable,
            _ => ErrorKind::Cgroup,
        };
        let mut error = Error::new(kind, e.to_string());
        error.0.errno = e.raw_os_error().map(Errno::from_raw);
        error.0.source = Some(Box::new(e));
        error
    }
}
