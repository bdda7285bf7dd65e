//! Flags for the end of a container or a call: time limits, and the report about it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nspod_sandbox::{Command, EndedBy, Outcome};

use crate::error::Result;
use crate::report::{End, Report};
use crate::{output, value};

// Time limits and the report.
#[derive(Debug, Default, Args)]
pub(crate) struct BoundArgs {
    /// Kill all processes after this time (500ms, 30s, 1h). The exit code is then 124
    #[arg(long, value_name = "TIME", value_parser = value::duration, conflicts_with = "detach")]
    timeout: Option<Duration>,
    /// Kill all processes when together they have used this CPU time. The exit code is then 124
    #[arg(long, value_name = "TIME", value_parser = value::duration, conflicts_with = "detach")]
    cpu_time: Option<Duration>,
    /// Write how the program ended, or why it did not start, to a file or a descriptor as JSON
    #[arg(long, value_name = "FILE|FD", conflicts_with = "detach")]
    report: Option<PathBuf>,
}

/// Exit code of a program that exceeded a time limit: that of timeout(1).
const TIMED_OUT: i32 = 124;

impl BoundArgs {
    /// Returns whether a time limit is set.
    pub(crate) fn limits_time(&self) -> bool {
        self.timeout.is_some() || self.cpu_time.is_some()
    }

    /// Returns whether a report is written.
    pub(crate) fn reports(&self) -> bool {
        self.report.is_some()
    }

    /// Sets the time limits.
    pub(crate) fn apply(&self, command: &mut Command) {
        self.timeout.map(|time| command.timeout(time));
        self.cpu_time.map(|time| command.cpu_time_max(time));
    }

    /// Runs a function that stores the end, and writes the report. With `json`, also prints the report of a
    /// program that has ended.
    pub(crate) fn reported(&self, json: bool, run: impl FnOnce(&mut End) -> Result<i32>) -> Result<i32> {
        let report = self.report.as_deref().map(Report::open).transpose()?;
        let mut end = End::default();
        let result = run(&mut end);
        let written = report.map_or(Ok(()), |report| report.write(&end, &result));
        if json && end.outcome.is_some() && result.is_ok() {
            output::print(end.report(&result))?;
        }
        match (result, written) {
            (result, Ok(())) => result,
            (Ok(_), Err(e)) => Err(e),
            (Err(first), Err(e)) => Err(first.and(e)),
        }
    }
}

/// Prints why a container or a command in it was killed, and returns the exit code.
pub(crate) fn ended(what: &str, outcome: &Outcome) -> i32 {
    let exceeded = match outcome.ended_by {
        EndedBy::WallTime => "--timeout",
        EndedBy::CpuTime => "--cpu-time",
        _ => {
            output::ended(outcome.status);
            return outcome.status.shell_code();
        }
    };
    output::note(format_args!("{what} exceeded {exceeded} and was killed"));
    TIMED_OUT
}
