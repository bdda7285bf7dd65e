//! The crate's error: a sentence that names the step, its object, the call and the errno,
//! and says what to do where the errno alone would puzzle.

use std::fmt;

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
    /// `/proc` could not be read.
    Proc,
    /// A function of the caller's, that was called on the way, refused to go on.
    Caller,
}

/// An error of this crate.
pub struct Error {
    kind: ErrorKind,
    what: String,
    call: Option<&'static str>,
    errno: Option<i32>,
    hint: Option<String>,
}

impl Error {
    /// `what` completes "cannot …" for failures of the kernel, and is the whole sentence
    /// where there is no errno.
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), call: None, errno: None, hint: None }
    }

    /// What a function of the caller's ([`Command::prepared`]) has to say: a whole sentence.
    ///
    /// [`Command::prepared`]: crate::Command::prepared
    pub fn caller(sentence: impl Into<String>) -> Self {
        Error::new(ErrorKind::Caller, sentence)
    }

    pub(crate) fn invalid(field: &str, problem: impl fmt::Display) -> Self {
        Error::new(ErrorKind::InvalidSpec, format!("{field}: {problem}"))
    }

    /// A failed call, with the hint that its errno deserves in this place.
    pub(crate) fn call(kind: ErrorKind, what: impl Into<String>, call: &'static str, errno: i32) -> Self {
        Error { kind, what: what.into(), call: Some(call), errno: Some(errno), hint: None }
    }

    pub(crate) fn io(
        kind: ErrorKind,
        what: impl Into<String>,
        call: &'static str,
        e: &std::io::Error,
    ) -> Self {
        Error::call(kind, what, call, e.raw_os_error().unwrap_or(0))
    }

    pub(crate) fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// In other words.
    #[cfg(feature = "oci")]
    pub(crate) fn reworded(mut self, what: impl FnOnce(String) -> String) -> Self {
        self.what = what(self.what);
        self
    }

    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The errno of the call that failed, if a call did.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.errno
    }

    /// The name of the call that failed, if a call did.
    pub fn failed_call(&self) -> Option<&'static str> {
        self.call
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.call, self.errno) {
            (Some(call), Some(errno)) => {
                write!(f, "cannot {}: {call}: {}", self.what, errno_text(errno))?;
            }
            _ => f.write_str(&self.what)?,
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.kind).field("message", &self.to_string()).finish()
    }
}

impl std::error::Error for Error {}

/// `No such file or directory (ENOENT)`.
pub(crate) fn errno_text(errno: i32) -> String {
    let e = nix::errno::Errno::from_raw(errno);
    format!("{} ({e:?})", e.desc())
}

impl From<ns_core::Error> for Error {
    fn from(e: ns_core::Error) -> Self {
        Error {
            kind: ErrorKind::Namespace,
            what: e.to_string(),
            call: None,
            errno: e.raw_os_error(),
            hint: None,
        }
    }
}

impl From<cgroup_core::Error> for Error {
    fn from(e: cgroup_core::Error) -> Self {
        let kind = match e.kind() {
            cgroup_core::ErrorKind::Unenforceable => ErrorKind::Unenforceable,
            _ => ErrorKind::Cgroup,
        };
        Error { kind, what: e.to_string(), call: None, errno: e.raw_os_error(), hint: None }
    }
}
