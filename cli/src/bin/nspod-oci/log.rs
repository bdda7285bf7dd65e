//! The log, in the format that clients of runc parse: lines on standard error or in a file. Clients show the
//! last error.

use std::fmt::Display;
use std::fs::File;
use std::io::{Write as _, stderr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use ::log::{Level, LevelFilter, Metadata, Record};
use clap::ValueEnum;
use nspod_cli::error::{Error, Result};
use nspod_cli::output::{ascii_controls, plain_lines};
use nspod_oci_runtime::rfc3339;
use nspod_sandbox::ErrorReport;

/// Format of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug)]
struct Log {
    file: Option<PathBuf>,
    format: Format,
    debug: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// The log of the library.
struct Library;

impl ::log::Log for Library {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || is_debug()
    }

    fn log(&self, record: &Record<'_>) {
        match record.level() {
            Level::Error | Level::Warn => warn(record.args()),
            Level::Info | Level::Debug | Level::Trace => debug(record.args()),
        }
    }

    fn flush(&self) {}
}

/// Logs a command line that cannot be parsed to standard error, in JSON if one of the arguments asks for it.
pub(crate) fn usage(error: clap::Error) {
    let arguments: Vec<_> = std::env::args_os().take_while(|argument| argument != "--").collect();
    let has_json = arguments.iter().any(|argument| argument == "--log-format=json")
        || arguments.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json");
    if has_json {
        let _ = LOG.set(Log { file: None, format: Format::Json, debug: false });
        self::error(&Error::parse(error, |_| None));
    } else {
        let _ = write!(stderr(), "{}", plain_lines(&error.render().to_string()));
    }
}

/// Sets the destination of log lines, including those of the library. Creates the file, and opens it
/// again for each line, so that its descriptor cannot have the number of an inherited descriptor.
///
/// # Errors
/// The file cannot be opened. The log is then standard error.
pub(crate) fn set_up(file: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let opened = file.map_or(Ok(()), |file| open(file).map(drop).map_err(|e| unopened(file, &e)));
    // Relative to the current working directory.
    let file =
        file.filter(|_| opened.is_ok()).map(|file| std::path::absolute(file).unwrap_or_else(|_| file.into()));
    let _ = LOG.set(Log { file, format, debug });
    let _ = ::log::set_logger(&Library);
    ::log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Warn });
    opened
}

fn unopened(file: &Path, e: &std::io::Error) -> Error {
    let error = Error::io("open", "open the log", file, e);
    match e.raw_os_error() {
        Some(nix::libc::ENXIO) => error.hint("no process reads from it"),
        _ => error,
    }
}

/// Opens the log, without waiting for a reader of a FIFO.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true).mode(0o644).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

/// Logs the failure of this program, and prints it to standard error if the log is a file. In JSON the
/// line has the keys of the machine-readable form in addition to those of logrus.
pub(crate) fn error(error: &Error) {
    for report in error.reports() {
        write("error", &report.message, Some(report));
        if LOG.get().is_some_and(|log| log.file.is_some()) {
            let _ = writeln!(stderr(), "{}", plain_lines(&report.message));
        }
    }
}

pub(crate) fn warn(what: &impl Display) {
    write("warning", what, None);
}

pub(crate) fn debug(what: &impl Display) {
    if is_debug() {
        write("debug", what, None);
    }
}

/// Returns whether `--debug` is set.
pub(crate) fn is_debug() -> bool {
    LOG.get().is_some_and(|log| log.debug)
}

fn write(level: &str, what: &impl Display, report: Option<&ErrorReport>) {
    let (file, format) = LOG.get().map_or((None, Format::Text), |log| (log.file.as_ref(), log.format));
    // With --debug the nanoseconds show the duration of each step.
    let time = rfc3339(SystemTime::now(), is_debug());
    let text = line(level, &what.to_string(), report, format, &time);
    let to_file = |path: &PathBuf| open(path)?.write_all(text.as_bytes());
    // If the log cannot be written, the line must not be lost.
    if file.is_none_or(|path| to_file(path).is_err()) {
        let _ = stderr().write_all(text.as_bytes());
    }
}

fn line(level: &str, message: &str, report: Option<&ErrorReport>, format: Format, time: &str) -> String {
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        Format::Json => {
            let mut line = serde_json::json!({ "level": level, "msg": message, "time": time });
            if let Some(ErrorReport { kind, step, object, call, errno, field, message: _ }) = report {
                line["kind"] = kind.as_str().into();
                let parts =
                    [("step", step), ("object", object), ("call", call), ("errno", errno), ("field", field)];
                for (key, part) in parts {
                    line[key] = part.as_deref().into();
                }
            }
            ascii_controls(&format!("{line}\n")).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn lines_have_the_format_of_logrus() {
        let message = "no \"x\"\nhere";
        let time = rfc3339(UNIX_EPOCH, false);
        let json = line("warning", message, None, Format::Json, &time);
        let expected = r#"{"level":"warning","msg":"no \"x\"\nhere","time":"1970-01-01T00:00:00Z"}"#;
        assert_eq!(json.trim_end(), expected);
        let text = line("error", message, None, Format::Text, &time);
        assert_eq!(text, "time=\"1970-01-01T00:00:00Z\" level=error msg=\"no \\\"x\\\"\\nhere\"\n");
    }

    #[test]
    fn the_line_of_an_error_has_the_keys_of_its_machine_readable_form() {
        let error = Error::path("read", "read", Path::new("/x"), nix::errno::Errno::EPERM);
        let report = error.reports().next().unwrap();
        let line = line("error", &report.message, Some(report), Format::Json, "now");
        let expected = serde_json::json!({
            "level": "error", "msg": "cannot read /x: Operation not permitted (EPERM)", "time": "now",
            "kind": "permission_denied", "step": "read", "object": "/x", "call": null, "errno": "EPERM",
            "field": null,
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), expected);
    }
}
