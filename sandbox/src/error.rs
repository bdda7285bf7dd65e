//! The error of this crate: step, object, call and errno as data and as a sentence.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use nix::errno::Errno;
use nspod_errno::ErrnoText;
use serde::{Deserialize, Serialize};

/// The category of an error, for programs: what happened. [`Error::step`] names the step that failed.
///
/// All functions return the kinds of an errno: `PermissionDenied`, `NotFound`, `ProcessEnded`,
/// `AlreadyExists`, `Busy`, `Unsupported`, `LimitReached`, `InvalidInput`, `TimedOut` and `Os`. The
/// other kinds name the functions that return them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A field of the spec is invalid, or conflicts with another: [`Error::field`]. Nothing was
    /// done. Returned by [`Plan::new`](crate::Plan::new) and the functions that make a plan, such as
    /// [`Command::spawn`](crate::Command::spawn), [`Pod::create`](crate::Pod::create) and
    /// [`Pool::new`](crate::Pool::new).
    InvalidSpec,
    /// A field of an OCI configuration is invalid, or not supported: [`Error::field`] is its JSON
    /// path. Only `nspod-oci-runtime` returns this kind.
    InvalidConfig,
    /// An argument, name, path or text is invalid (`EINVAL`, `ENOTDIR`, `EISDIR`, `ELOOP`,
    /// `ENAMETOOLONG`, `ERANGE`, `E2BIG`).
    InvalidInput,
    /// The program does not exist in the container. Returned by the functions that start a program:
    /// [`Command::spawn`](crate::Command::spawn), [`Launcher::spawn`](crate::Launcher::spawn),
    /// [`Container::start`](crate::Container::start) and [`start_held`](crate::start_held).
    ProgramNotFound,
    /// The program exists in the container but cannot be executed. Returned by the same functions.
    ProgramNotExecutable,
    /// The first process was killed before it executed the program. Returned by the same functions.
    Killed,
    /// A hook exited with a nonzero code, was killed, exceeded its timeout, or could not be executed.
    /// Returned by the same functions.
    HookFailed,
    /// A program that the operation needs failed or rejected a request: `newuidmap`, `newgidmap`,
    /// systemd, or criu. Returned by the functions that write id maps of ordinary users, and by
    /// `nspod-oci-runtime`. The programs return it for pasta and the plugins of CNI too.
    HelperFailed,
    /// The caller lacks a capability, or a policy of the host forbids the call (`EPERM`, `EACCES`,
    /// `EROFS`).
    PermissionDenied,
    /// A file, device, cgroup, container or pod does not exist (`ENOENT`, `ENODEV`, `ENXIO`).
    NotFound,
    /// The process has ended, or is outside this pid namespace (`ESRCH`).
    ProcessEnded,
    /// The name is in use (`EEXIST`).
    AlreadyExists,
    /// The object is in use (`EBUSY`, `ENOTEMPTY`, `ETXTBSY`).
    Busy,
    /// The kernel lacks the feature, or a required program is not installed (`ENOSYS`,
    /// `EOPNOTSUPP`, `ENOTTY`).
    Unsupported,
    /// Namespaces, processes, descriptors, memory or disk space are exhausted (`ENOSPC`, `EUSERS`,
    /// `EAGAIN`, `EMFILE`, `ENFILE`, `ENOMEM`, `EDQUOT`, `EFBIG`).
    LimitReached,
    /// This host cannot enforce a limit of the spec. Returned by the functions that start a program or
    /// set limits.
    Unenforceable,
    /// The container or pod is not in a state that allows the operation, or lacks a cgroup for it.
    /// Returned by the methods of [`Container`](crate::Container), [`Pod`](crate::Pod) and
    /// [`Pool`](crate::Pool).
    State,
    /// An operation did not finish in time (`ETIMEDOUT`).
    TimedOut,
    /// A process of the container sent an unexpected message, or none. Returned by the functions that
    /// start a program.
    Protocol,
    /// A function of the caller, for example that of
    /// [`Command::prepared`](crate::Command::prepared), returned an error.
    Caller,
    /// Another errno: [`Error::raw_os_error`].
    Os,
}

impl ErrorKind {
    /// All kinds of this release.
    pub const ALL: [ErrorKind; 21] = [
        ErrorKind::InvalidSpec,
        ErrorKind::InvalidConfig,
        ErrorKind::InvalidInput,
        ErrorKind::ProgramNotFound,
        ErrorKind::ProgramNotExecutable,
        ErrorKind::Killed,
        ErrorKind::HookFailed,
        ErrorKind::HelperFailed,
        ErrorKind::PermissionDenied,
        ErrorKind::NotFound,
        ErrorKind::ProcessEnded,
        ErrorKind::AlreadyExists,
        ErrorKind::Busy,
        ErrorKind::Unsupported,
        ErrorKind::LimitReached,
        ErrorKind::Unenforceable,
        ErrorKind::State,
        ErrorKind::TimedOut,
        ErrorKind::Protocol,
        ErrorKind::Caller,
        ErrorKind::Os,
    ];

    /// Returns the name in the [machine-readable form](ErrorReport::kind), for example
    /// `permission_denied`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidSpec => "invalid_spec",
            Self::InvalidConfig => "invalid_config",
            Self::InvalidInput => "invalid_input",
            Self::ProgramNotFound => "program_not_found",
            Self::ProgramNotExecutable => "program_not_executable",
            Self::Killed => "killed",
            Self::HookFailed => "hook_failed",
            Self::HelperFailed => "helper_failed",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::ProcessEnded => "process_ended",
            Self::AlreadyExists => "already_exists",
            Self::Busy => "busy",
            Self::Unsupported => "unsupported",
            Self::LimitReached => "limit_reached",
            Self::Unenforceable => "unenforceable",
            Self::State => "state",
            Self::TimedOut => "timed_out",
            Self::Protocol => "protocol",
            Self::Caller => "caller",
            Self::Os => "os",
        }
    }

    /// Returns the kind of a failed call.
    pub fn of_errno(errno: i32) -> Self {
        match Errno::from_raw(errno) {
            Errno::EPERM | Errno::EACCES | Errno::EROFS => Self::PermissionDenied,
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => Self::NotFound,
            Errno::ESRCH => Self::ProcessEnded,
            Errno::EEXIST => Self::AlreadyExists,
            Errno::EBUSY | Errno::ENOTEMPTY | Errno::ETXTBSY => Self::Busy,
            Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENOTTY => Self::Unsupported,
            Errno::ENOSPC
            | Errno::EUSERS
            | Errno::EAGAIN
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM
            | Errno::EDQUOT
            | Errno::EFBIG => Self::LimitReached,
            Errno::EINVAL
            | Errno::ENOTDIR
            | Errno::EISDIR
            | Errno::ELOOP
            | Errno::ENAMETOOLONG
            | Errno::ERANGE
            | Errno::E2BIG => Self::InvalidInput,
            Errno::ETIMEDOUT => Self::TimedOut,
            _ => Self::Os,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The machine-readable form of an error: a JSON object with exactly these keys. A key that does
/// not apply is `null`. New kinds and steps can be added; the meaning of an existing one does not
/// change. Only `message` is for people, and can be reworded in any release.
///
/// ```
/// use nspod_sandbox::{Handles, Plan, spec::Spec};
/// let mut spec = Spec::new("true");
/// spec.process.cwd = Some("relative".into());
/// let error = Plan::new(&spec, Handles::default()).unwrap_err();
/// let json = serde_json::to_value(error.report()).unwrap();
/// assert_eq!(json["kind"], "invalid_spec");
/// assert_eq!(json["field"], "process.cwd");
/// assert_eq!(json["errno"], serde_json::Value::Null);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Category of the error: [`ErrorKind::name`], for example `permission_denied`.
    pub kind: String,
    /// Name of the step that failed: [`Error::step`].
    pub step: Option<String>,
    /// Path, cgroup, program, container or other object of the step: [`Error::object`].
    pub object: Option<String>,
    /// Name of the failed system call, for example `mount_setattr`.
    pub call: Option<String>,
    /// Symbolic name of the errno, for example `EPERM`: the numbers differ between architectures.
    pub errno: Option<String>,
    /// Path of the invalid field, for example `mounts[3].destination`. For an error of a cgroup, the
    /// interface file, for example `memory.max`.
    pub field: Option<String>,
    /// The sentence for people, without a newline at the end.
    pub message: String,
}

/// An error of this crate.
///
/// [`Display`](fmt::Display) prints a complete sentence for people; its wording can change between
/// releases. [`kind`](Self::kind), [`field`](Self::field), [`failed_call`](Self::failed_call) and
/// [`raw_os_error`](Self::raw_os_error) are for programs. The sentence includes the cause, so do
/// not print [`source`](std::error::Error::source) as well; use the source only for downcasts.
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
    /// Text after "cannot" if there is an errno and no source, otherwise the whole sentence.
    what: String,
    step: Cow<'static, str>,
    object: Option<String>,
    field: Option<String>,
    call: Option<Cow<'static, str>>,
    errno: Option<Errno>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error from a whole sentence, for crates that use this crate. `step` is the [name of the
    /// step](Self::step).
    pub fn new(kind: ErrorKind, step: &'static str, sentence: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            what: sentence.into(),
            step: step.into(),
            object: None,
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
        Error::new(ErrorKind::Caller, "caller", sentence)
    }

    /// Makes an [`ErrorKind::InvalidSpec`] error from the path of the field, for example
    /// `mounts[3].destination`, and the problem with its value.
    pub fn invalid(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Error::new(ErrorKind::InvalidSpec, "plan", problem.to_string()).with_field(field)
    }

    /// Makes the error of a failed call. `step` is the [name of the step](Self::step). `what`
    /// follows "cannot" in the sentence.
    pub fn call(
        step: &'static str,
        what: impl Into<String>,
        call: impl Into<Cow<'static, str>>,
        errno: i32,
    ) -> Self {
        let mut error = Error::of_errno(step, what, errno);
        error.0.call = Some(call.into());
        error
    }

    /// Makes the error of a failed call of the standard library. `step` is the [name of the
    /// step](Self::step). `what` follows "cannot" in the sentence.
    pub fn io(
        step: &'static str,
        what: impl Into<String>,
        call: impl Into<Cow<'static, str>>,
        e: &std::io::Error,
    ) -> Self {
        let call = call.into();
        match e.raw_os_error() {
            Some(errno) => Error::call(step, what, call, errno),
            None => Error::of_std(step, format!("cannot {}: {call}: {e}", what.into()), e),
        }
    }

    /// Makes the error of an operation of the standard library that can fail in more than one call.
    /// `step` is the [name of the step](Self::step). `what` follows "cannot" in the sentence.
    pub fn failed(step: &'static str, what: impl Into<String>, e: &std::io::Error) -> Self {
        match e.raw_os_error() {
            Some(errno) => Error::of_errno(step, what, errno),
            None => Error::of_std(step, format!("cannot {}: {e}", what.into()), e),
        }
    }

    /// Does the same as [`failed`](Self::failed) for an operation on a path, which is the
    /// [`object`](Self::object) and the end of `what` in the sentence.
    pub fn path(step: &'static str, what: &str, path: &Path, e: &std::io::Error) -> Self {
        Error::failed(step, format!("{what} {}", path.display()), e).on(path.display().to_string())
    }

    fn of_errno(step: &'static str, what: impl Into<String>, errno: i32) -> Self {
        let mut error = Error::new(ErrorKind::of_errno(errno), step, what);
        error.0.errno = Some(Errno::from_raw(errno));
        match error.0.errno {
            Some(Errno::EMFILE) => {
                error.and_hint("raise the limit on open files of this process (ulimit -n)")
            }
            Some(Errno::ENFILE) => error.and_hint("raise the sysctl fs.file-max"),
            _ => error,
        }
    }

    /// Makes an error from one of the standard library that has no errno.
    fn of_std(step: &'static str, sentence: String, e: &std::io::Error) -> Self {
        use std::io::ErrorKind as Std;
        let kind = match e.kind() {
            Std::InvalidInput | Std::InvalidData => ErrorKind::InvalidInput,
            Std::NotFound => ErrorKind::NotFound,
            Std::PermissionDenied => ErrorKind::PermissionDenied,
            Std::TimedOut => ErrorKind::TimedOut,
            Std::UnexpectedEof => ErrorKind::Protocol,
            _ => ErrorKind::Os,
        };
        Error::new(kind, step, sentence).with_source(std::io::Error::new(e.kind(), e.to_string()))
    }

    /// Sets the [`source`](std::error::Error::source). The sentence must be whole.
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// Replaces the sentence. This error becomes the [`source`](std::error::Error::source) of the new
    /// one. All other parts stay the same.
    pub fn rephrased(self, sentence: impl Into<String>) -> Self {
        let Inner { kind, step, object, field, call, errno, .. } = &*self.0;
        Error(Box::new(Inner {
            kind: *kind,
            what: sentence.into(),
            step: step.clone(),
            object: object.clone(),
            field: field.clone(),
            call: call.clone(),
            errno: *errno,
            hint: None,
            source: Some(Box::new(self)),
        }))
    }

    /// Puts words and a colon before the sentence, like [`rephrased`](Self::rephrased).
    pub fn with_context(self, words: impl fmt::Display) -> Self {
        let sentence = format!("{words}: {self}");
        self.rephrased(sentence)
    }

    /// Replaces the category. The sentence stays the same.
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Sets the name of the failed step: [`step`](Self::step). The sentence stays the same.
    pub fn at(mut self, step: impl Into<Cow<'static, str>>) -> Self {
        self.0.step = step.into();
        self
    }

    /// Sets the object of the failed step: [`object`](Self::object). The sentence stays the same.
    pub fn on(mut self, object: impl Into<String>) -> Self {
        self.0.object = Some(object.into());
        self
    }

    /// Replaces the path of the field, for a caller whose configuration has other names than
    /// [`Spec`](crate::spec::Spec). The rest of the error stays the same.
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Appends a clause to the sentence.
    pub fn and_hint(mut self, hint: impl fmt::Display) -> Self {
        self.0.hint = Some(match self.0.hint.take() {
            Some(before) => format!("{before}; {hint}"),
            None => hint.to_string(),
        });
        self
    }

    /// Sets the end of the sentence, which tells the reader what to do.
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.0.hint = hint;
        self
    }

    /// Returns the category of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the path of the invalid field, for example `mounts[3].destination`. If a cgroup caused
    /// the error, returns the name of the interface file, for example `memory.max`.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// Returns the name of the failed step. For a step of the child this is [`PlannedStep::name`].
    /// For actions of this process before and after those steps it is `plan` (the spec is invalid),
    /// `clone`, `id-maps`, `cgroup`, `namespace`, `process`, `proc`, `pod`, `pool`, `quota`, `store`, `setup`,
    /// `user` (a user or group is unknown), `read`, `start`, `hook`, `open`, `record`, `prepared` or
    /// `caller`.
    ///
    /// [`PlannedStep::name`]: crate::PlannedStep::name
    pub fn step(&self) -> &str {
        &self.0.step
    }

    /// Returns the object of the failed step: a path, a program, or a name.
    pub fn object(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// Returns the errno of the failed call, if a call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno.map(|errno| errno as i32)
    }

    /// Returns the name of the failed call, if a call failed.
    pub fn failed_call(&self) -> Option<&str> {
        self.0.call.as_deref()
    }

    /// Returns the cause that [`with_source`](Self::with_source) set, as a value.
    pub fn into_source(self) -> Option<Box<dyn std::error::Error + Send + Sync>> {
        self.0.source
    }

    /// Returns the machine-readable form.
    pub fn report(&self) -> ErrorReport {
        let text = |text: Option<&str>| text.map(str::to_owned);
        ErrorReport {
            kind: self.kind().name().to_owned(),
            step: Some(self.step().to_owned()),
            object: text(self.object()),
            call: text(self.failed_call()),
            errno: self.0.errno.map(|errno| format!("{errno:?}")),
            field: text(self.field()),
            message: self.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { what, field, call, errno, hint, source, .. } = &*self.0;
        // The sentence of the source names the field, the call and the errno.
        let is_whole = source.is_some();
        if let (Some(field), false) = (field, is_whole) {
            write!(f, "{field}: ")?;
        }
        match (errno, call) {
            (Some(errno), Some(call)) if !is_whole => {
                write!(f, "cannot {what}: {call}: {}", ErrnoText(*errno))?;
            }
            (Some(errno), None) if !is_whole => write!(f, "cannot {what}: {}", ErrnoText(*errno))?,
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
    /// Returns the error that caused this one: an [`ns_core::Error`], a [`cgroup_core::Error`], an
    /// error of the standard library or of serde_json, or the `Error` that was
    /// [rephrased](Error::rephrased). If there is none, returns the [`Errno`].
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(&**source),
            None => self.0.errno.as_ref().map(|errno| errno as _),
        }
    }
}

impl From<ns_core::Error> for Error {
    fn from(e: ns_core::Error) -> Self {
        use ns_core::ErrorKind as Ns;
        let kind = match e.kind() {
            Ns::PermissionDenied => ErrorKind::PermissionDenied,
            Ns::NoSuchProcess => ErrorKind::ProcessEnded,
            Ns::NotFound => ErrorKind::NotFound,
            Ns::AlreadyExists => ErrorKind::AlreadyExists,
            Ns::NotANamespace | Ns::InvalidInput | Ns::Parse => ErrorKind::InvalidInput,
            Ns::Unsupported => ErrorKind::Unsupported,
            Ns::ProgramFailed => ErrorKind::HelperFailed,
            Ns::LimitReached => ErrorKind::LimitReached,
            Ns::Busy => ErrorKind::Busy,
            _ => e.raw_os_error().map_or(ErrorKind::Os, ErrorKind::of_errno),
        };
        let mut error = Error::new(kind, "namespace", e.to_string());
        error.0.errno = e.raw_os_error().map(Errno::from_raw);
        error.0.call = e.failed_call().map(Into::into);
        error.0.object = e.object().map(Into::into);
        error.0.source = Some(Box::new(e));
        error
    }
}

impl From<cgroup_core::Error> for Error {
    fn from(e: cgroup_core::Error) -> Self {
        use cgroup_core::ErrorKind as Cg;
        let kind = match e.kind() {
            Cg::NotFound => ErrorKind::NotFound,
            Cg::AlreadyExists => ErrorKind::AlreadyExists,
            Cg::PermissionDenied | Cg::NotDelegated => ErrorKind::PermissionDenied,
            Cg::Busy => ErrorKind::Busy,
            Cg::TimedOut => ErrorKind::TimedOut,
            Cg::InvalidName | Cg::InvalidLimit | Cg::InvalidText | Cg::NotCgroup2 => ErrorKind::InvalidInput,
            Cg::Unenforceable => ErrorKind::Unenforceable,
            Cg::NoHierarchy | Cg::Unsupported => ErrorKind::Unsupported,
            Cg::Refused => ErrorKind::HelperFailed,
            _ => e.raw_os_error().map_or(ErrorKind::Os, ErrorKind::of_errno),
        };
        let mut error = Error::new(kind, "cgroup", e.to_string());
        error.0.errno = e.raw_os_error().map(Errno::from_raw);
        error.0.call = e.failed_call().map(|call| call.to_owned().into());
        error.0.object = e.object().map(Into::into);
        error.0.field = e.field().map(Into::into);
        error.0.source = Some(Box::new(e));
        error
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::*;

    fn parts(report: &ErrorReport) -> [Option<&str>; 5] {
        let ErrorReport { step, object, call, errno, field, .. } = report;
        [step, object, call, errno, field].map(Option::as_deref)
    }

    #[test]
    fn an_error_of_ns_core_keeps_its_call_and_path() {
        let error = ns_core::Error::from_raw_os_error("open it", "open", libc::ENOENT).on("/proc/7/ns/net");
        let sentence = error.to_string();
        let report = Error::from(error).report();
        assert_eq!((report.kind.as_str(), report.message.as_str()), ("not_found", sentence.as_str()));
        let expected = [Some("namespace"), Some("/proc/7/ns/net"), Some("open"), Some("ENOENT"), None];
        assert_eq!(parts(&report), expected);
        let failed = ns_core::Error::new(ns_core::ErrorKind::ProgramFailed, "map ids", "it is not setuid");
        let report = Error::from(failed).report();
        assert_eq!(parts(&report), [Some("namespace"), None, None, None, None]);
        assert_eq!(report.kind, "helper_failed");
    }

    #[test]
    fn context_stands_before_the_field_and_the_parts_stay() {
        let error = Error::invalid("mounts[0].kind", "must not be empty").with_context("the pod");
        assert_eq!(error.to_string(), "the pod: mounts[0].kind: must not be empty");
        assert_eq!(error.field(), Some("mounts[0].kind"));
        let denied = std::io::Error::from_raw_os_error(libc::EPERM);
        let error = Error::path("read", "read", Path::new("/x"), &denied).with_context("a").with_context("b");
        assert_eq!(error.to_string(), "b: a: cannot read /x: Operation not permitted (EPERM)");
        assert_eq!(parts(&error.report()), [Some("read"), Some("/x"), None, Some("EPERM"), None]);
    }

    #[test]
    fn an_error_of_the_standard_library_is_kept_as_the_source() {
        let e = std::io::Error::new(std::io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
        let error = Error::path("read", "read", Path::new("/x"), &e);
        assert_eq!(error.to_string(), "cannot read /x: stream did not contain valid UTF-8");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<std::io::Error>());
        assert_eq!(source.map(std::io::Error::kind), Some(std::io::ErrorKind::InvalidData));
    }

    #[test]
    fn the_list_of_kinds_is_complete() {
        for (number, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "{kind}");
        }
        assert_eq!(ErrorKind::ALL.len(), ErrorKind::Os as usize + 1, "Os is the last kind");
        let names: std::collections::HashSet<_> = ErrorKind::ALL.map(ErrorKind::name).into();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn an_error_of_cgroup_core_keeps_its_call_cgroup_and_file() {
        let limits = cgroup_core::Limits { cpu_weight: Some(0), ..Default::default() };
        let error = limits.validate().unwrap_err();
        let sentence = error.to_string();
        let error = Error::from(error);
        let report = error.report();
        assert_eq!(parts(&report), [Some("cgroup"), None, None, None, Some("cpu.weight")]);
        assert_eq!((report.kind.as_str(), report.message.as_str()), ("invalid_input", sentence.as_str()));
        let hinted = error.with_hint(Some("choose another".into())).to_string();
        assert_eq!(hinted, format!("{sentence}; choose another"));

        let error = cgroup_core::Cgroup::open("/no/such").unwrap_err();
        let (sentence, call) = (error.to_string(), error.failed_call().map(str::to_owned));
        let report = Error::from(error).report();
        assert_eq!(parts(&report), [Some("cgroup"), Some("/no/such"), call.as_deref(), Some("ENOENT"), None]);
        assert!(call.is_some());
        assert_eq!((report.kind.as_str(), report.message.as_str()), ("not_found", sentence.as_str()));
    }
}
