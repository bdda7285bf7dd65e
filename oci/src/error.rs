//! The crate's error.

use std::fmt;

use nspod_sandbox::ErrorReport;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A field of the configuration is invalid, or this runtime does not support it.
    /// [`Error::field`] is its JSON path.
    InvalidConfig,
    /// A network device could not be moved.
    NetDevice,
    /// resctrl is missing, or refused a request.
    Resctrl,
    /// The sandbox failed with an error of this kind.
    Sandbox(nspod_sandbox::ErrorKind),
}

/// An error of this crate. Its text is a sentence: the step, the object, the call, the errno, and
/// the likely cause.
pub struct Error {
    kind: ErrorKind,
    field: Option<String>,
    /// Completes "cannot …" if a call failed; a whole sentence otherwise.
    what: String,
    call: Option<&'static str>,
    errno: Option<i32>,
    hint: Option<String>,
    source: Option<nspod_sandbox::Error>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        let what = sentence.into();
        Error { kind, field: None, what, call: None, errno: None, hint: None, source: None }
    }

    /// A field of the configuration, by its JSON path, and what is wrong with it.
    pub(crate) fn invalid(field: &str, problem: impl fmt::Display) -> Self {
        let error = Error::new(ErrorKind::InvalidConfig, problem.to_string());
        Error { field: Some(field.to_owned()), ..error }
    }

    /// A call that failed; `what` completes "cannot …".
    pub(crate) fn call(kind: ErrorKind, what: impl Into<String>, call: &'static str, errno: i32) -> Self {
        Error { call: Some(call), errno: Some(errno), ..Error::new(kind, what) }
    }

    /// The same for an error of the standard library.
    pub(crate) fn io(
        kind: ErrorKind,
        what: impl Into<String>,
        call: &'static str,
        e: &std::io::Error,
    ) -> Self {
        Error::call(kind, what, call, e.raw_os_error().unwrap_or(0))
    }

    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// Returns what happened.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the JSON path of the invalid field of the configuration, such as
    /// `linux.resources.memory.limit`.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// Returns the errno of the failed call.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.errno
    }

    /// Returns the name of the failed call.
    pub fn failed_call(&self) -> Option<&str> {
        self.call.or_else(|| self.source.as_ref()?.failed_call())
    }

    /// Returns the machine-readable form. `kind` is `invalid_config` for an invalid field, and one of
    /// [`nspod_sandbox::ErrorKind::name`] otherwise.
    pub fn report(&self) -> ErrorReport {
        let kind = match (self.kind, self.errno) {
            (ErrorKind::InvalidConfig, _) => "invalid_config",
            (ErrorKind::Sandbox(kind), _) => kind.name(),
            (_, Some(errno)) => nspod_sandbox::ErrorKind::of_errno(errno).name(),
            (ErrorKind::NetDevice | ErrorKind::Resctrl, None) => "unsupported",
        };
        let errno = self.errno.map(|errno| format!("{:?}", nix::errno::Errno::from_raw(errno)));
        ErrorReport {
            kind: kind.into(),
            call: self.failed_call().map(Into::into),
            errno,
            field: self.field.clone(),
            message: self.to_string(),
            ..self.source.as_ref().map(nspod_sandbox::Error::report).unwrap_or_default()
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        match (self.call, self.errno) {
            (Some(call), Some(errno)) => {
                let errno = nix::errno::Errno::from_raw(errno);
                write!(f, "cannot {}: {call}: {} ({errno:?})", self.what, errno.desc())?;
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

/// An error of a plan or a start. An invalid field of the spec becomes the field of the
/// configuration that it was converted from.
impl From<nspod_sandbox::Error> for Error {
    fn from(e: nspod_sandbox::Error) -> Self {
        let text = e.to_string();
        let error = match e.field() {
            Some(field) => {
                let problem = text.strip_prefix(field).and_then(|rest| rest.strip_prefix(": "));
                let path = json_path(field);
                Error::invalid(path.as_deref().unwrap_or(field), problem.unwrap_or(&text))
            }
            None => Error::new(ErrorKind::Sandbox(e.kind()), text),
        };
        Error { errno: e.raw_os_error(), source: Some(e), ..error }
    }
}

/// Fields of a spec, and the JSON paths that they are converted from.
const FIELDS: [(&str, &str); 17] = [
    ("sysctls", "linux.sysctl"),
    ("masked_paths", "linux.maskedPaths"),
    ("readonly_paths", "linux.readonlyPaths"),
    ("nodes", "linux.devices"),
    ("namespaces", "linux.namespaces"),
    ("id_maps.uid", "linux.uidMappings"),
    ("id_maps.gid", "linux.gidMappings"),
    ("time_offsets", "linux.timeOffsets"),
    ("seccomp", "linux.seccomp"),
    ("process.seccomp", "linux.seccomp"),
    ("process.user.groups", "process.user.additionalGids"),
    ("process.oom_score_adj", "process.oomScoreAdj"),
    ("process.apparmor_profile", "process.apparmorProfile"),
    ("process.selinux_label", "process.selinuxLabel"),
    ("process.io_priority", "process.ioPriority"),
    ("process.memory_policy", "linux.memoryPolicy"),
    ("process.personality", "linux.personality"),
];

/// The same for the fields of a mount, after `mounts[N]`.
const MOUNT_FIELDS: [(&str, &str); 8] = [
    (".kind.source", ".source"),
    (".kind.fstype", ".type"),
    (".kind.options", ".options"),
    (".id_maps.gid", ".gidMappings"),
    (".id_maps", ".uidMappings"),
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
