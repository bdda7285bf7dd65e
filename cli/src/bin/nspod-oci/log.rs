//! What went wrong, as clients of runc read it: on standard error, or as lines of a file of
//! which they take the last error.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{Write as _, stderr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use nspod_cli::error::{Error, Result};

/// How lines are written.
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

/// Where lines go from now on. The file is made; it is opened for each line, so that no descriptor
/// of this process stands in the way of those that the caller hands on.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn set_up(file: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let file = match file {
        Some(file) => {
            open(file).map_err(|e| match e.raw_os_error() {
                Some(nix::libc::ENXIO) => Error::io("open the log", file, &e).hint("nobody reads from it"),
                _ => Error::io("open the log", file, &e),
            })?;
            // Relative to the working directory of now.
            Some(std::path::absolute(file).unwrap_or_else(|_| file.into()))
        }
        None => None,
    };
    let _ = LOG.set(Log { file, format, debug });
    Ok(())
}

/// It does not wait for somebody who might read from a FIFO.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true).mode(0o644).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

/// The failure of this program: in the log, and in plain words on standard error if the log is
/// elsewhere.
pub(crate) fn error(what: &impl Display) {
    write("error", what);
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        let _ = writeln!(stderr(), "{what}");
    }
}

pub(crate) fn warn(what: &impl Display) {
    write("warning", what);
}

pub(crate) fn debug(what: &impl Display) {
    if is_debug() {
        write("debug", what);
    }
}

/// Whether `--debug` is given.
pub(crate) fn is_debug() -> bool {
    LOG.get().is_some_and(|log| log.debug)
}

fn write(level: &str, what: &impl Display) {
    let (file, format) = LOG.get().map_or((None, Format::Text), |log| (log.file.as_ref(), log.format));
    // With --debug the time shows how long each step has lasted.
    let time = rfc3339(SystemTime::now(), is_debug());
    let text = line(level, &what.to_string(), format, &time);
    let to_file = |path: &PathBuf| open(path)?.write_all(text.as_bytes());
    // Where even the log cannot be written, the words shall not be lost.
    if file.is_none_or(|path| to_file(path).is_err()) {
        let _ = stderr().write_all(text.as_bytes());
    }
}

fn line(level: &str, message: &str, format: Format, time: &str) -> String {
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        Format::Json => {
            let line = serde_json::json!({ "level": level, "msg": message, "time": time });
            format!("{line}\n")
        }
    }
}

/// `2026-11-24T14:19:37Z`, to the nanosecond if wanted.
pub(crate) fn rfc3339(at: SystemTime, nanoseconds: bool) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970: years begin in March.
    let day_of_era = (days + 719_468) % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + (days + 719_468) / 146_097 * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanoseconds {
        let _ = write!(text, ".{:09}", since.subsec_nanos());
    }
    text + "Z"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_date_is_the_calendars() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(at(seconds), false), date);
        }
        let fraction = at(1) + Duration::from_nanos(5);
        assert_eq!(rfc3339(fraction, true), "1970-01-01T00:00:01.000000005Z");
    }

    #[test]
    fn lines_are_those_of_logrus() {
        let message = "no \"x\"\nhere";
        let time = rfc3339(at(0), false);
        let json = line("error", message, Format::Json, &time);
        let expected = r#"{"level":"error","msg":"no \"x\"\nhere","time":"1970-01-01T00:00:00Z"}"#;
        assert_eq!(json.trim_end(), expected);
        let text = line("error", message, Format::Text, &time);
        assert_eq!(text, "time=\"1970-01-01T00:00:00Z\" level=error msg=\"no \\\"x\\\"\\nhere\"\n");
    }
}
