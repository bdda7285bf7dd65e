//! The report of `--report` and `--json` of `nspod run` and `exec`: how a program ended, or why it did not start.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::libc;
use nspod_sandbox::{ErrorReport, Outcome};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde::Serialize;

use crate::error::{Error, Result};

/// The end of a container.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) id: Option<String>,
    pub(crate) outcome: Option<Outcome>,
}

impl End {
    /// Returns the report, a line of JSON. `result` is the exit code of nspod.
    pub(crate) fn report(&self, result: &Result<i32>) -> Vec<u8> {
        let text = Text {
            id: self.id.as_deref(),
            exit_code: result.as_ref().map_or_else(|e| e.code, |code| *code),
            outcome: self.outcome.as_ref(),
            error: result.as_ref().err().and_then(|e| e.reports().next()),
        };
        let mut line = serde_json::to_vec(&text).expect("the report has only strings as keys");
        line.push(b'\n');
        line
    }
}

#[derive(Serialize)]
struct Text<'a> {
    id: Option<&'a str>,
    /// The exit code of nspod.
    exit_code: i32,
    outcome: Option<&'a Outcome>,
    error: Option<&'a ErrorReport>,
}

/// An open report. It is opened before the start, so that a file that cannot be written prevents the start.
#[derive(Debug)]
pub(crate) struct Report {
    file: File,
    path: PathBuf,
}

impl Report {
    /// Opens a file, or the descriptor of a number.
    pub(crate) fn open(target: &Path) -> Result<Report> {
        let descriptor = target.to_str().and_then(|text| text.parse::<u32>().ok());
        let path = descriptor.map_or(target.to_owned(), |number| format!("/proc/self/fd/{number}").into());
        let mut options = File::options();
        match descriptor {
            Some(_) => options.append(true),
            None => options.write(true).create(true).truncate(true),
        };
        let opened = match (descriptor, options.open(&path)) {
            // The path of a socket cannot be opened.
            (Some(number), Err(e)) if e.raw_os_error() == Some(libc::ENXIO) => copy(number),
            (_, opened) => opened,
        };
        let file = opened.map_err(|e| Error::io("report", "open the report", &path, &e))?;
        Ok(Report { file, path })
    }

    /// Writes a line of JSON.
    pub(crate) fn write(mut self, end: &End, result: &Result<i32>) -> Result<()> {
        let line = end.report(result);
        self.file.write_all(&line).map_err(|e| Error::io("report", "write the report", &self.path, &e))
    }
}

/// Returns a copy of a descriptor of this process.
fn copy(number: u32) -> std::io::Result<File> {
    let number = i32::try_from(number).unwrap_or(-1);
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(own, number, PidfdGetfdFlags::empty())?.into())
}
