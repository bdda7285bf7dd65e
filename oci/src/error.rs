//! The crate's error.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

use nix::errno::Errno;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

use nspod_sandbox::ErrorReport;

/// Kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bundle or its configuration could not be read.
    Bundle,
    /// A field of the configuration is invalid, or this runtime does not support it.
    /// [`Error::field`] is its JSON path.
    InvalidConfig,
    /// The id is not a valid name of a container.
    InvalidId,
    /// A container with this id exists.
    Exists,
    /// No container has this id.
    NotFound,
    /// The status of the container does not permit the operation.
    Status,
    /// The state of the container could not be read or written.
    Store,
    /// The program does not exist in the container.
    ProgramNotFound,
    /// The program exists in the container and cannot be executed.
    ProgramNotExecutable,
    /// A hook failed or ran into its timeout.
    Hook,
    /// A cgroup could not be created, limited, read or removed.
    Cgroup,
    /// A process could not be identified, signalled or waited for.
    Process,
    /// A descriptor could not be sent: to the console socket, the pidfd socket or the seccomp
    /// listener.
    Socket,
    /// A network device could not be moved.
    NetDevice,
    /// resctrl is missing, or refused a request.
    Resctrl,
    /// criu is missing, or failed.
    Criu,
    /// An option is invalid, or contradicts the configuration.
    InvalidOption,
    /// The sandbox failed with an error of this kind.
    Sandbox(nspod_sandbox::ErrorKind),
}

/// An error of this crate.
///
/// [`Display`](fmt::Display) prints a complete sentence for people; its wording can change between
/// releases. [`kind`](Self::kind), [`field`](Self::field), [`failed_call`](Self::failed_call) and
/// [`raw_os_error`](Self::raw_os_error) are for programs.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    field: Option<String>,
    /// Completes "cannot …" if a call failed; otherwise the whole sentence.
    what: String,
    call: Option<String>,
    /// Kind, step, object, call and field of the sandbox's error; its sentence is in `what`.
    origin: ErrorReport,
    errno: Option<Errno>,
    hint: Option<String>,
    source: Option<nspod_sandbox::Error>,
}

impl Error {
    /// Makes an error from a whole sentence.
    pub(crate) fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            field: None,
            what: sentence.into(),
            call: None,
            origin: ErrorReport::default(),
            errno: None,
            hint: None,
            source: None,
        }))
    }

    /// Makes the error of an invalid field: its JSON path, and the problem with its value.
    pub(crate) fn invalid(field: &str, problem: impl fmt::Display) -> Self {
        let mut error = Error::new(ErrorKind::InvalidConfig, problem.to_string());
        error.0.field = Some(field.to_owned());
        error
    }

    /// Makes the error of a failed call; `what` completes "cannot …".
    pub(crate) fn call(kind: ErrorKind, what: impl Into<String>, call: &str, errno: i32) -> Self {
        let mut error = Error::new(kind, what);
        error.0.call = Some(call.to_owned());
        error.0.errno = Some(Errno::from_raw(errno));
        error
    }

    /// Makes the error of a failed call on a path; `what` completes "cannot … PATH".
    pub(crate) fn path(kind: ErrorKind, what: &str, path: &Path, errno: i32) -> Self {
        Error::io(kind, what, path, &std::io::Error::from_raw_os_error(errno))
    }

    /// Makes the error of the standard library for a path; `what` completes "cannot … PATH".
    pub(crate) fn io(kind: ErrorKind, what: &str, path: &Path, e: &std::io::Error) -> Self {
        let mut error = Error::io_without_path(kind, &format!("{what} {}", path.display()), e);
        error.0.origin.object = Some(path.display().to_string());
        error
    }

    /// Makes the error of the standard library for an operation without a path; `what` completes
    /// "cannot …".
    pub(crate) fn io_without_path(kind: ErrorKind, what: &str, e: &std::io::Error) -> Self {
        let errno = e.raw_os_error().map(Errno::from_raw);
        let text = errno.map_or_else(|| e.to_string(), errno_text);
        let mut error = Error::new(kind, format!("cannot {what}: {text}"));
        error.0.errno = errno;
        error
    }

    /// Puts words and a colon before the sentence. Kind, errno and source stay.
    pub(crate) fn context(mut self, words: impl fmt::Display) -> Self {
        self.0.what = format!("{words}: {self}");
        (self.0.field, self.0.call, self.0.hint) = (None, None, None);
        self
    }

    /// Appends a hint to the sentence.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    fn from_sandbox(kind: ErrorKind, e: nspod_sandbox::Error) -> Self {
        let mut error = Error::new(kind, e.to_string());
        error.0.errno = e.raw_os_error().map(Errno::from_raw);
        error.0.origin = e.report();
        error.0.source = Some(e);
        error
    }

    /// Returns what happened.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the JSON path of the invalid field of the configuration, such as
    /// `linux.resources.memory.limit`.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// Returns the errno of the failed call.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno.map(|errno| errno as i32)
    }

    /// Returns the name of the failed call.
    pub fn failed_call(&self) -> Option<&str> {
        self.0.call.as_deref().or(self.0.origin.call.as_deref())
    }

    /// Returns the machine-readable form.
    pub fn report(&self) -> ErrorReport {
        let Inner { kind, field, errno, origin, .. } = &*self.0;
        // An error of ns-core or cgroup-core has a kind of its own: `unenforceable`.
        let own_kind = matches!(kind, ErrorKind::Process | ErrorKind::Cgroup) && !origin.kind.is_empty();
        ErrorReport {
            kind: if own_kind { origin.kind.clone() } else { kind.name(*errno).into() },
            call: self.failed_call().map(Into::into),
            errno: errno.map(|errno| format!("{errno:?}")),
            field: field.clone().or_else(|| origin.field.clone()),
            message: self.to_string(),
            ..origin.clone()
        }
    }
}

impl ErrorKind {
    /// Returns the kind in the machine-readable form: `invalid_config`, or one of
    /// [`nspod_sandbox::ErrorKind::name`].
    fn name(self, errno: Option<Errno>) -> &'static str {
        use nspod_sandbox::ErrorKind as Kind;
        let kind = match self {
            ErrorKind::InvalidConfig => return "invalid_config",
            ErrorKind::Sandbox(kind) => kind,
            ErrorKind::InvalidId | ErrorKind::InvalidOption => Kind::InvalidInput,
            ErrorKind::Exists => Kind::AlreadyExists,
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::Status => Kind::State,
            ErrorKind::ProgramNotFound => Kind::ProgramNotFound,
            ErrorKind::ProgramNotExecutable => Kind::ProgramNotExecutable,
            ErrorKind::Hook => Kind::HookFailed,
            _ => errno.map_or(Kind::Os, |errno| Kind::of_errno(errno as i32)),
        };
        kind.name()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { field, what, call, errno, hint, .. } = &*self.0;
        if let Some(field) = field {
            write!(f, "{field}: ")?;
        }
        match (call, errno) {
            (Some(call), Some(errno)) => write!(f, "cannot {what}: {call}: {}", errno_text(*errno))?,
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

impl StdError for Error {
    /// Returns the underlying error of the sandbox, or the [`Errno`]. The source of the sandbox's
    /// error is that of ns-core or cgroup-core.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.source {
            Some(source) => Some(source),
            None => self.0.errno.as_ref().map(|errno| errno as _),
        }
    }
}

/// Returns `No such file or directory (ENOENT)`.
pub(crate) fn errno_text(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

impl From<ns_core::Error> for Error {
    fn from(e: ns_core::Error) -> Self {
        Error::from_sandbox(ErrorKind::Process, e.into())
    }
}

impl From<cgroup_core::Error> for Error {
    fn from(e: cgroup_core::Error) -> Self {
        Error::from_sandbox(ErrorKind::Cgroup, e.into())
    }
}

/// Converts an error of a plan or a start. An invalid field of the spec becomes the field of the
/// configuration from which it was converted.
impl From<nspod_sandbox::Error> for Error {
    fn from(e: nspod_sandbox::Error) -> Self {
        let kind = match e.kind() {
            nspod_sandbox::ErrorKind::InvalidSpec => ErrorKind::InvalidConfig,
            kind => ErrorKind::Sandbox(kind),
        };
        let path = e.field().map(|field| json_path(field).unwrap_or_else(|| field.to_owned()));
        let problem =
            e.field().and_then(|field| e.to_string().strip_prefix(&format!("{field}: ")).map(Into::into));
        let mut error = Error::from_sandbox(kind, e);
        if let (Some(path), Some(problem)) = (path, problem) {
            (error.0.field, error.0.what) = (Some(path), problem);
        }
        error
    }
}

/// Fields of a spec, and the JSON paths that they are converted from.
const FIELDS: [(&str, &str); 19] = [
    ("sysctls", "linux.sysctl"),
    ("masked_paths", "linux.maskedPaths"),
    ("readonly_paths", "linux.readonlyPaths"),
    ("nodes", "linux.devices"),
    ("namespaces", "linux.namespaces"),
    ("id_maps.uid", "linux.uidMappings"),
    ("id_maps.gid", "linux.gidMappings"),
    ("id_maps", "linux.uidMappings"),
    ("time_offsets", "linux.timeOffsets"),
    ("seccomp", "linux.seccomp"),
    ("process.seccomp", "linux.seccomp"),
    ("process.user.groups", "process.user.additionalGids"),
    ("process.oom_score_adj", "process.oomScoreAdj"),
    ("process.apparmor_profile", "process.apparmorProfile"),
    ("process.selinux_label", "process.selinuxLabel"),
    ("process.io_priority.level", "process.ioPriority.priority"),
    ("process.io_priority", "process.ioPriority"),
    ("process.memory_policy", "linux.memoryPolicy"),
    ("process.personality", "linux.personality"),
];

/// Fields of a mount in a spec, and their names after `mounts[N]`.
const MOUNT_FIELDS: [(&str, &str); 9] = [
    (".kind.source", ".source"),
    (".kind.fstype", ".type"),
    (".kind.options", ".options"),
    (".id_maps.uid", ".uidMappings"),
    (".id_maps.gid", ".gidMappings"),
    (".id_maps", ".options"),
    (".copy_up", ".options"),
    (".attributes", ".options"),
    (".recursive_attributes", ".options"),
];

/// Returns the JSON path of a field of the spec, if the two differ.
fn json_path(field: &str) -> Option<String> {
    let (start, rest, names) = match field.find(']') {
        Some(end) if field.starts_with("mounts[") => (&field[..=end], &field[end + 1..], &MOUNT_FIELDS[..]),
        _ => ("", field, &FIELDS[..]),
    };
    names.iter().find_map(|(spec, json)| {
        let below = rest.strip_prefix(spec)?;
        // The name ends here: `nodes[1]` and `nodes`, not `nodes_of_others`.
        (below.is_empty() || below.starts_with(['.', '['])).then(|| format!("{start}{json}{below}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_another_crate_keeps_its_parts() {
        let report = Error::from(cgroup_core::Cgroup::open("/no/such").unwrap_err()).report();
        assert_eq!((report.kind.as_str(), report.step.as_deref()), ("not_found", Some("cgroup")));
        assert_eq!((report.object.as_deref(), report.call.as_deref()), (Some("/no/such"), Some("open")));
        let limits = cgroup_core::Limits { cpu_weight: Some(0), ..Default::default() };
        let error = Error::from(limits.validate().unwrap_err());
        assert_eq!((error.kind(), error.field()), (ErrorKind::Cgroup, None));
        let report = error.report();
        assert_eq!((report.kind.as_str(), report.field.as_deref()), ("invalid_input", Some("cpu.weight")));
        let error = ns_core::Error::from_raw_os_error("open it", "open(/proc/7/ns/net)", nix::libc::ENOENT);
        let report = Error::from(error).context("while it starts").report();
        assert_eq!((report.call.as_deref(), report.errno.as_deref()), (Some("open"), Some("ENOENT")));
        assert_eq!(report.object.as_deref(), Some("/proc/7/ns/net"));
    }

    #[test]
    fn an_error_of_the_standard_library_names_the_errno() {
        let denied = std::io::Error::from_raw_os_error(nix::libc::EPERM);
        let error = Error::io(ErrorKind::Criu, "run", Path::new("/sbin/criu"), &denied);
        assert_eq!(error.to_string(), "cannot run /sbin/criu: Operation not permitted (EPERM)");
        let report = error.report();
        assert_eq!(
            (report.kind.as_str(), report.object.as_deref()),
            ("permission_denied", Some("/sbin/criu"))
        );
        let error = Error::io_without_path(ErrorKind::Hook, "run it", &std::io::Error::other("why"));
        assert_eq!((error.to_string(), error.raw_os_error()), ("cannot run it: why".to_owned(), None));
    }
}
