//! The error of the programs: an exit code, a sentence, and the parts of the sentence as data.
//!
//! The exit codes are docker's: 125 if nspod itself failed, 126 if the program cannot be executed,
//! 127 if the program does not exist.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;
use nspod_sandbox::{ErrorKind, ErrorReport};

/// Exit code if nspod itself failed.
pub const OURS: i32 = 125;

/// `kind` of an error about the command line itself. `field` is the flag, `--memory`.
const USAGE: &str = "usage";

#[derive(Debug)]
pub struct Error {
    pub code: i32,
    report: Box<ErrorReport>,
    /// Further failures of a command that was given several containers.
    more: Vec<Error>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error from a whole sentence. `step` is the name of the failed step, for programs.
    pub fn new(kind: ErrorKind, step: &'static str, sentence: impl Into<String>) -> Self {
        nspod_sandbox::Error::new(kind, step, sentence).into()
    }

    /// Makes the error of an invalid command line. `flag` is the flag or argument, such as `--memory`.
    pub fn usage(flag: &str, sentence: impl Into<String>) -> Self {
        let mut error = Error::new(ErrorKind::InvalidInput, "arguments", sentence);
        error.report.kind = USAGE.into();
        error.report.field = Some(flag.into());
        error
    }

    /// Makes the error of a command line that could not be parsed. `tip` returns what to use instead of a command
    /// that does not exist.
    pub fn parse(mut e: clap::Error, tip: fn(&str) -> Option<&'static str>) -> Self {
        use clap::error::{ContextKind, ContextValue};
        correct_tips(&mut e, tip);
        let text = e.render().to_string();
        // clap has no function for the text without this heading.
        let sentence = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        let mut error = Error::new(ErrorKind::InvalidInput, "arguments", sentence);
        error.report.kind = USAGE.into();
        let value = |kind| match e.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => texts.first().cloned(),
            _ => None,
        };
        let argument = value(ContextKind::InvalidArg);
        let object = value(ContextKind::InvalidValue).or_else(|| value(ContextKind::InvalidSubcommand));
        (error.report.field, error.report.object) = match e.kind() {
            // A superfluous argument is a value, unless it looks like a flag.
            clap::error::ErrorKind::UnknownArgument
                if argument.as_ref().is_some_and(|a| !a.starts_with('-')) =>
            {
                (None, argument)
            }
            // `--memory <BYTES>` names the flag and its value, and `<COMMAND>...` an argument.
            _ => (argument.and_then(|argument| Some(name(&argument)?.to_owned())), object),
        };
        error.report.object.take_if(|object| object.is_empty());
        error
    }

    /// Makes the error of a container or pod in a state that does not allow the step.
    pub fn state(step: &'static str, object: &str, sentence: impl Into<String>) -> Self {
        Error::new(ErrorKind::State, step, sentence).on(object)
    }

    /// Makes the error of a failed operation on a path: `cannot read PATH: No such file or directory
    /// (ENOENT)`. `what` begins with the verb.
    pub fn path(step: &'static str, what: &str, path: &Path, errno: impl Into<Errno>) -> Self {
        Error::io(step, what, path, &errno.into().into())
    }

    /// Makes the error of a failed operation on a path from an error of the standard library.
    pub fn io(step: &'static str, what: &str, path: &Path, e: &std::io::Error) -> Self {
        nspod_sandbox::Error::path(step, what, path, e).into()
    }

    /// Makes the error of a failed call without a path. `what` begins with the verb.
    pub fn call(step: &'static str, what: &str, call: &'static str, errno: Errno) -> Self {
        nspod_sandbox::Error::call(step, what, call, errno as i32).into()
    }

    /// Makes the error of a failed call of the standard library without a path. `what` begins with the verb.
    pub fn io_call(step: &'static str, what: &str, call: &'static str, e: &std::io::Error) -> Self {
        nspod_sandbox::Error::io(step, what, call, e).into()
    }

    /// Makes the error of an invalid field of a spec. In the sentence, `words` replace the field. Their first word
    /// is the flag, unless they begin with "the".
    pub fn in_words(e: nspod_sandbox::Error, words: &str) -> Self {
        let code = code(e.kind());
        let mut report = e.with_field(words).report();
        report.field = words.split(' ').next().filter(|flag| *flag != "the").map(str::to_owned);
        Error { code, report: Box::new(report), more: Vec::new() }
    }

    /// Sets the container, pod or path that the error is about. The sentence stays the same.
    pub fn on(mut self, object: impl fmt::Display) -> Self {
        self.report.object = Some(object.to_string());
        self
    }

    /// Appends a hint to the sentence.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.report.message = format!("{}; {hint}", self.report.message);
        self
    }

    /// Combines errors into one. Returns `None` if the list is empty.
    pub fn all(failed: Vec<Error>) -> Option<Self> {
        let mut failed = failed.into_iter();
        let mut first = failed.next()?;
        first.more.extend(failed);
        Some(first)
    }

    /// Adds an error that happened after this one.
    pub fn and(mut self, next: Self) -> Self {
        self.more.push(next);
        self
    }

    /// Returns the machine-readable form of each failure.
    pub fn reports(&self) -> impl Iterator<Item = &ErrorReport> {
        std::iter::once(&*self.report).chain(self.more.iter().map(|more| &*more.report))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.message)?;
        self.more.iter().try_for_each(|more| write!(f, "\nnspod: {more}"))
    }
}

/// Removes the tips of clap that are wrong, and adds those of `tip` for a command that does not exist. clap compares
/// names by the share of equal letters (`cp` resembles `completions`), and advises to pass each unknown flag to the
/// program.
fn correct_tips(e: &mut clap::Error, tip: fn(&str) -> Option<&'static str>) {
    use clap::error::{ContextKind, ContextValue};
    if let Some(ContextValue::String(typed)) = e.get(ContextKind::InvalidSubcommand).cloned() {
        if let Some(ContextValue::Strings(mut names)) = e.remove(ContextKind::SuggestedSubcommand) {
            names.retain(|name| resembles(&typed, name));
            if !names.is_empty() {
                e.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
            }
        }
        if let Some(tip) = tip(&typed) {
            e.remove(ContextKind::SuggestedSubcommand);
            e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
    }
    let (typed, similar) = (e.get(ContextKind::InvalidArg), e.get(ContextKind::SuggestedArg));
    if let (Some(ContextValue::String(typed)), Some(ContextValue::String(flag))) = (typed, similar)
        && !resembles(typed, flag)
    {
        e.remove(ContextKind::SuggestedArg);
        // It contains the flag.
        e.remove(ContextKind::Usage);
    }
    if let Some(ContextValue::StyledStrs(mut tips)) = e.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().starts_with("to pass '"));
        if !tips.is_empty() {
            e.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
}

/// Returns whether somebody who typed one name can have meant the other: a few letters differ, or the end is missing.
fn resembles(typed: &str, name: &str) -> bool {
    let (typed, name) = (typed.trim_start_matches('-'), name.trim_start_matches('-'));
    let errors = match typed.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    };
    strsim::osa_distance(typed, name) <= errors || typed.len() >= 3 && name.starts_with(typed)
}

/// Returns the name of a flag or an argument from its form in a help text: `--memory` of `--memory <BYTES>`,
/// `COMMAND` of `<COMMAND>...`.
fn name(form: &str) -> Option<&str> {
    form.split([' ', '=', '[', ']', '<', '>', '.']).find(|part| !part.is_empty())
}

/// Fields of a spec, and the flags that set them. The first name that a field begins with applies.
const FLAGS: [(&str, &str); 28] = [
    ("cpu_time_max", "--cpu-time"),
    ("devices", "--device"),
    ("die_with_parent", "--die-with-parent"),
    ("domainname", "--domainname"),
    ("hostname", "--hostname"),
    ("id_maps.gid", "--gidmap"),
    ("id_maps.uid", "--uidmap"),
    ("id_maps", "--userns"),
    ("init", "--init"),
    ("limits.pids_max", "--pids-limit"),
    ("links", "--symlink"),
    ("log.files", "--log-max-files"),
    ("log.size", "--log-max-size"),
    ("mounts", "--mount"),
    ("namespaces", "--ns"),
    ("process.args", "COMMAND"),
    ("process.capabilities", "--cap-add"),
    ("process.cwd", "--workdir"),
    ("process.env", "--env"),
    ("process.oom_score_adj", "--oom-score-adj"),
    ("process.rlimits", "--ulimit"),
    ("process.seccomp", "--security-opt"),
    ("process.user.groups", "--group-add"),
    ("process.user", "--user"),
    ("root.limit", "--storage-opt"),
    ("root.writes", "--overlay"),
    ("root", "--rootfs"),
    ("time_offsets", "--time-offset"),
];

/// Returns the words of the command line for a field of a spec.
fn in_flags(field: &str) -> Option<String> {
    if let Some(parameter) = field.strip_prefix("sysctls.") {
        return Some(format!("--sysctl {parameter}"));
    }
    // The path of a field in the file of the profile follows.
    if let Some(part) = field.strip_prefix("seccomp.") {
        return Some(format!("--security-opt seccomp ({part})"));
    }
    let sets = |name: &str| {
        // The name ends here: `init`, not `initial`.
        field.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let flag = FLAGS.iter().find(|(name, _)| sets(name)).map(|(_, flag)| (*flag).to_owned());
    // A limit has the name of its file in the cgroup.
    flag.or_else(|| field.strip_prefix("limits.").map(str::to_owned))
}

/// Returns the exit code for an error of the sandbox.
fn code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::ProgramNotFound => 127,
        ErrorKind::ProgramNotExecutable => 126,
        _ => OURS,
    }
}

/// An invalid field of the spec becomes the flag that sets it.
impl From<nspod_sandbox::Error> for Error {
    fn from(e: nspod_sandbox::Error) -> Self {
        match (e.kind(), e.field().and_then(in_flags)) {
            (ErrorKind::InvalidSpec, Some(words)) => Error::in_words(e, &words),
            _ => Error { code: code(e.kind()), report: Box::new(e.report()), more: Vec::new() },
        }
    }
}

impl From<nspod_oci_runtime::Error> for Error {
    fn from(e: nspod_oci_runtime::Error) -> Self {
        Error { code: code(e.kind()), report: Box::new(e.report()), more: Vec::new() }
    }
}

impl From<ns_core::Error> for Error {
    fn from(e: ns_core::Error) -> Self {
        nspod_sandbox::Error::from(e).into()
    }
}

impl From<cgroup_core::Error> for Error {
    fn from(e: cgroup_core::Error) -> Self {
        nspod_sandbox::Error::from(e).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_argument_is_without_its_value() {
        for (form, expected) in [
            ("--memory <BYTES>", "--memory"),
            ("--overlay[=<DIR>]", "--overlay"),
            ("--no-such", "--no-such"),
            ("<COMMAND>...", "COMMAND"),
            ("[OPTION]...", "OPTION"),
        ] {
            assert_eq!(name(form), Some(expected));
        }
    }

    #[test]
    fn only_a_similar_name_is_suggested() {
        for (typed, name) in
            [("lgos", "logs"), ("inspct", "inspect"), ("comp", "completions"), ("--publsh", "--publish")]
        {
            assert!(resembles(typed, name), "{typed}");
        }
        for (typed, name) in
            [("cp", "completions"), ("start", "stats"), ("port", "pod"), ("pd", "ps"), ("--publsh", "--cpus")]
        {
            assert!(!resembles(typed, name), "{typed}");
        }
    }

    #[test]
    fn an_invalid_field_of_a_spec_is_a_flag() {
        for (field, words, flag) in [
            ("process.oom_score_adj", "--oom-score-adj", "--oom-score-adj"),
            ("process.user.groups[1]", "--group-add", "--group-add"),
            ("sysctls.kernel.hostname", "--sysctl kernel.hostname", "--sysctl"),
            ("seccomp.syscalls[3].errno", "--security-opt seccomp (syscalls[3].errno)", "--security-opt"),
            ("limits.pids_max", "--pids-limit", "--pids-limit"),
            ("limits.memory.max", "memory.max", "memory.max"),
        ] {
            let error = Error::from(nspod_sandbox::Error::invalid(field, "it is wrong"));
            assert_eq!(error.to_string(), format!("{words}: it is wrong"));
            assert_eq!(error.reports().next().unwrap().field.as_deref(), Some(flag));
        }
        let error =
            Error::in_words(nspod_sandbox::Error::invalid("mounts[0]", "it is wrong"), "the mount of /proc");
        assert_eq!(error.to_string(), "the mount of /proc: it is wrong");
        assert_eq!(error.reports().next().unwrap().field, None);
    }

    #[test]
    fn the_readme_documents_each_kind_and_each_key() {
        let readme = include_str!("../README.md");
        let section = readme.split("\n## Errors as JSON\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let first = |row: &'static str| row.strip_prefix("| `").and_then(|row| row.split('`').next());
        let documented: Vec<&str> = section.lines().filter_map(first).collect();
        let report = serde_json::to_value(ErrorReport::default()).unwrap();
        let keys = report.as_object().unwrap().keys().map(String::as_str);
        let kinds = ErrorKind::ALL.iter().map(|kind| kind.name()).chain([USAGE]);
        let mut expected: Vec<&str> = keys.chain(kinds).collect();
        let mut found = documented.clone();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}
