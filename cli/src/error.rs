//! The command line's error: a sentence and an exit code, docker's: 125 for a failure of
//! nspod's own, 126 for a program that cannot be executed, 127 for one that is not there.

use std::fmt;
use std::path::Path;

use nspod_sandbox::ErrorKind;

/// Exit code of nspod's own failures.
pub const OURS: i32 = 125;

#[derive(Debug)]
pub struct Error {
    pub code: i32,
    sentence: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(sentence: impl Into<String>) -> Self {
        Error { code: OURS, sentence: sentence.into() }
    }

    /// A call on a path that failed: `cannot read PATH: No such file or directory (ENOENT)`.
    pub fn path(what: &str, path: &Path, errno: impl Into<nix::errno::Errno>) -> Self {
        let errno = errno.into();
        Error::new(format!("cannot {what} {}: {} ({errno:?})", path.display(), errno.desc()))
    }

    /// The same for an error of std's.
    pub fn io(what: &str, path: &Path, e: &std::io::Error) -> Self {
        match e.raw_os_error() {
            Some(errno) => Error::path(what, path, nix::errno::Errno::from_raw(errno)),
            None => Error::new(format!("cannot {what} {}: {e}", path.display())),
        }
    }

    /// A call without a path.
    pub fn call(what: &str, call: &str, errno: nix::errno::Errno) -> Self {
        Error::new(format!("cannot {what}: {call}: {} ({errno:?})", errno.desc()))
    }

    /// The same sentence with more to say.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.sentence = format!("{}; {hint}", self.sentence);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// The exit code for an error of the sandbox.
fn code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::ProgramNotFound => 127,
        ErrorKind::ProgramNotExecutable => 126,
        _ => OURS,
    }
}

impl From<nspod_sandbox::Error> for Error {
    fn from(e: nspod_sandbox::Error) -> Self {
        Error { code: code(e.kind()), sentence: e.to_string() }
    }
}

impl From<nspod_oci_runtime::Error> for Error {
    fn from(e: nspod_oci_runtime::Error) -> Self {
        let code = match e.kind() {
            nspod_oci_runtime::ErrorKind::Sandbox(kind) => code(kind),
            _ => OURS,
        };
        Error { code, sentence: e.to_string() }
    }
}

impl From<ns_core::Error> for Error {
    fn from(e: ns_core::Error) -> Self {
        Error::new(e.to_string())
    }
}

impl From<cgroup_core::Error> for Error {
    fn from(e: cgroup_core::Error) -> Self {
        Error::new(e.to_string())
    }
}

impl From<String> for Error {
    fn from(sentence: String) -> Self {
        Error::new(sentence)
    }
}
