//! The error of this crate: that of the sandbox, with the JSON path of a field of the configuration.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

use nspod_sandbox::ErrorReport;

pub use nspod_sandbox::ErrorKind;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
///
/// [`Display`](fmt::Display) prints a complete sentence for people; its wording can change between
/// releases. [`kind`](Self::kind), [`step`](Self::step), [`object`](Self::object),
/// [`field`](Self::field), [`failed_call`](Self::failed_call) and
/// [`raw_os_error`](Self::raw_os_error) are for programs, and so is [`report`](Self::report), which
/// returns them all.
///
/// | kind | returned by |
/// |---|---|
/// | [`InvalidConfig`](ErrorKind::InvalidConfig) | [`Bundle::open`], [`Container::create`], [`Container::exec`], [`Container::update`]: [`field`](Self::field) is the JSON path |
/// | [`InvalidInput`](ErrorKind::InvalidInput) | all functions: an id, an option or a file of the state is invalid |
/// | [`NotFound`](ErrorKind::NotFound) | all functions: the container, a file or a device does not exist |
/// | [`AlreadyExists`](ErrorKind::AlreadyExists) | [`Container::create`], [`Container::restore`]: the id is taken |
/// | [`State`](ErrorKind::State) | the functions that require a status of the container, or a cgroup |
/// | [`ProgramNotFound`](ErrorKind::ProgramNotFound), [`ProgramNotExecutable`](ErrorKind::ProgramNotExecutable) | [`Container::create`], [`Container::start`], [`Container::exec`] |
/// | [`Killed`](ErrorKind::Killed) | [`Container::create`], [`Container::start`]: the first process was killed before it executed the program |
/// | [`HookFailed`](ErrorKind::HookFailed) | [`Container::create`], [`Container::start`], [`Container::restore`] |
/// | [`HelperFailed`](ErrorKind::HelperFailed) | [`Container::checkpoint`], [`Container::restore`] for criu; all functions for systemd |
/// | [`TimedOut`](ErrorKind::TimedOut) | [`Container::delete`]: a killed process does not end |
/// | all other kinds | all functions: a call failed, and the kind is that of its errno |
///
/// [`Bundle::open`]: crate::Bundle::open
/// [`Container::create`]: crate::Container::create
/// [`Container::start`]: crate::Container::start
/// [`Container::exec`]: crate::Container::exec
/// [`Container::update`]: crate::Container::update
/// [`Container::delete`]: crate::Container::delete
/// [`Container::checkpoint`]: crate::Container::checkpoint
/// [`Container::restore`]: crate::Container::restore
pub struct Error(nspod_sandbox::Error);

impl Error {
    /// Makes an error from a whole sentence. `step` is the [name of the step](Self::step).
    pub(crate) fn new(kind: ErrorKind, step: &'static str, sentence: impl Into<String>) -> Self {
        Error(nspod_sandbox::Error::new(kind, step, sentence))
    }

    /// Makes the error of a container in a state that does not allow the step.
    pub(crate) fn state(id: &str, step: &'static str, sentence: impl Into<String>) -> Self {
        Error::new(ErrorKind::State, step, sentence).on(id)
    }

    /// Makes the error of an invalid field: its JSON path, and the problem with its value.
    pub(crate) fn invalid(field: &str, problem: impl fmt::Display) -> Self {
        Error::new(ErrorKind::InvalidConfig, "config", problem.to_string()).with_field(field)
    }

    /// Makes the error of an invalid option: its name, such as `--cap`, and the problem with its value.
    pub(crate) fn option(name: &str, problem: impl fmt::Display) -> Self {
        Error::new(ErrorKind::InvalidInput, "options", problem.to_string()).with_field(name)
    }

    /// Makes the error of a failed call; `what` completes "cannot …".
    pub(crate) fn call(step: &'static str, what: impl Into<String>, call: &'static str, errno: i32) -> Self {
        Error(nspod_sandbox::Error::call(step, what, call, errno))
    }

    /// Makes the error of a failed call on a path; `what` completes "cannot … PATH".
    pub(crate) fn path(step: &'static str, what: &str, path: &Path, errno: i32) -> Self {
        Error::io(step, what, path, &std::io::Error::from_raw_os_error(errno))
    }

    /// Makes the error of the standard library for a path; `what` completes "cannot … PATH".
    pub(crate) fn io(step: &'static str, what: &str, path: &Path, e: &std::io::Error) -> Self {
        Error(nspod_sandbox::Error::path(step, what, path, e))
    }

    /// Makes the error of the standard library for an operation without a path; `what` completes
    /// "cannot …".
    pub(crate) fn io_without_path(step: &'static str, what: &str, e: &std::io::Error) -> Self {
        Error(nspod_sandbox::Error::failed(step, what, e))
    }

    /// Sets the object. The sentence stays the same.
    pub(crate) fn on(self, object: impl Into<String>) -> Self {
        Error(self.0.on(object))
    }

    /// Sets the kind. The sentence stays the same.
    pub(crate) fn with_kind(self, kind: ErrorKind) -> Self {
        Error(self.0.with_kind(kind))
    }

    /// Sets the field, which is the beginning of the sentence unless the error was rephrased.
    pub(crate) fn with_field(self, field: impl Into<String>) -> Self {
        Error(self.0.with_field(field))
    }

    /// Sets the cause. The sentence stays the same.
    pub(crate) fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        Error(self.0.with_source(source))
    }

    /// Replaces the sentence. All other parts stay, and this error becomes the source.
    pub(crate) fn rephrased(self, sentence: impl Into<String>) -> Self {
        Error(self.0.rephrased(sentence))
    }

    /// Puts words and a colon before the sentence. All other parts stay.
    pub(crate) fn context(self, words: impl fmt::Display) -> Self {
        Error(self.0.with_context(words))
    }

    /// Appends a hint to the sentence.
    pub(crate) fn with_hint(self, hint: impl fmt::Display) -> Self {
        Error(self.0.and_hint(hint))
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    /// Returns the name of the failed step: a step of the sandbox ([`nspod_sandbox::Error::step`]), or
    /// `bundle`, `config`, `options`, `create`, `start`, `exec`, `kill`, `delete`, `pause`, `resume`,
    /// `update`, `events`, `hook`, `socket`, `net-devices`, `resctrl`, `criu` or `pid-file`.
    pub fn step(&self) -> &str {
        self.0.step()
    }

    /// Returns the object of the failed step: the id of a container, a path, a program or a device.
    pub fn object(&self) -> Option<&str> {
        self.0.object()
    }

    /// Returns the JSON path of the invalid field of the configuration, such as
    /// `linux.resources.memory.limit`; for an option of the command line its name, such as `--cap`; for
    /// an error of a cgroup the interface file, such as `memory.max`.
    pub fn field(&self) -> Option<&str> {
        self.0.field()
    }

    /// Returns the errno of the failed call.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.raw_os_error()
    }

    /// Returns the name of the failed call.
    pub fn failed_call(&self) -> Option<&str> {
        self.0.failed_call()
    }

    /// Returns the machine-readable form.
    pub fn report(&self) -> ErrorReport {
        self.0.report()
    }

    /// Makes the error of a function that this crate passes to
    /// [`Command::prepared`](nspod_sandbox::Command::prepared). `From` returns the original error.
    pub(crate) fn into_caller(self) -> nspod_sandbox::Error {
        nspod_sandbox::Error::caller(self.to_string()).with_source(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Error {
    /// Returns the cause, as [`nspod_sandbox::Error`] does: the error of ns-core, cgroup-core, the
    /// standard library or serde_json, or the [`Errno`](nix::errno::Errno).
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl From<ns_core::Error> for Error {
    fn from(e: ns_core::Error) -> Self {
        Error(e.into())
    }
}

impl From<cgroup_core::Error> for Error {
    fn from(e: cgroup_core::Error) -> Self {
        Error(e.into())
    }
}

/// Converts an error of a plan or a start. An invalid field of the spec becomes the field of the
/// configuration from which it was converted.
impl From<nspod_sandbox::Error> for Error {
    fn from(e: nspod_sandbox::Error) -> Self {
        match (e.kind(), e.field()) {
            (ErrorKind::Caller, _) if e.source().is_some_and(<dyn StdError>::is::<Error>) => {
                let source = e.into_source().and_then(|source| source.downcast().ok());
                *source.expect("the source was checked")
            }
            (ErrorKind::InvalidSpec, field) => {
                let path = field.map(|field| json_path(field).unwrap_or_else(|| field.to_owned()));
                let e = e.with_kind(ErrorKind::InvalidConfig).at("config");
                Error(match path {
                    Some(path) => e.with_field(path),
                    None => e,
                })
            }
            _ => Error(e),
        }
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
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidInput, Some("cpu.weight")));
        assert!(error.source().is_some_and(<dyn StdError>::is::<cgroup_core::Error>));
        let error =
            ns_core::Error::from_raw_os_error("open it", "open", nix::libc::ENOENT).on("/proc/7/ns/net");
        let error = Error::from(error).context("while it starts");
        assert!(error.to_string().starts_with("while it starts: cannot open it: open: "), "{error}");
        let report = error.report();
        assert_eq!((report.call.as_deref(), report.errno.as_deref()), (Some("open"), Some("ENOENT")));
        assert_eq!(report.object.as_deref(), Some("/proc/7/ns/net"));
        let first = error.source().and_then(StdError::source);
        assert!(first.is_some_and(<dyn StdError>::is::<ns_core::Error>));
    }

    #[test]
    fn a_field_of_the_spec_becomes_the_field_of_the_configuration() {
        let of = |field: &str| Error::from(nspod_sandbox::Error::invalid(field, "must not be empty"));
        let error = of("mounts[2].kind.source");
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidConfig, Some("mounts[2].source")));
        assert_eq!(error.to_string(), "mounts[2].source: must not be empty");
        assert_eq!(of("process.args").field(), Some("process.args"));
    }

    #[test]
    fn an_error_that_passes_the_sandbox_comes_back_as_it_was() {
        let error = Error::new(ErrorKind::HookFailed, "hook", "exit status 1").on("/bin/false");
        let error = Error::from(error.into_caller());
        let report = error.report();
        assert_eq!((report.kind.as_str(), report.object.as_deref()), ("hook_failed", Some("/bin/false")));
        assert_eq!(report.message, "exit status 1");
    }

    #[test]
    fn an_error_of_the_standard_library_names_the_errno() {
        let denied = std::io::Error::from_raw_os_error(nix::libc::EPERM);
        let error = Error::io("criu", "run", Path::new("/sbin/criu"), &denied);
        assert_eq!(error.to_string(), "cannot run /sbin/criu: Operation not permitted (EPERM)");
        let report = error.report();
        assert_eq!(
            (report.kind.as_str(), report.object.as_deref()),
            ("permission_denied", Some("/sbin/criu"))
        );
        let error = Error::io_without_path("hook", "run it", &std::io::Error::other("why"));
        assert_eq!((error.to_string(), error.raw_os_error()), ("cannot run it: why".to_owned(), None));
    }
}
