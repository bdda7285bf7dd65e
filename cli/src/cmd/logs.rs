//! `nspod logs`: prints the output of a detached container.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::error::{Error, Result};
use crate::output;
use crate::state::{Store, logs};

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Continue until the container exits
    #[arg(short, long)]
    follow: bool,
    /// Print only the last COUNT lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<u64>,
    /// The log has no times, so this flag of docker only explains what to do instead
    #[arg(long, value_name = "TIME", hide = true)]
    since: Option<String>,
    /// The same
    #[arg(short, long, hide = true)]
    timestamps: bool,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

pub(crate) fn logs(args: &LogsArgs, json: bool) -> Result<()> {
    let entry = Store::open()?.find(&args.id)?;
    if args.timestamps || args.since.is_some() {
        let flag = if args.timestamps { "--timestamps" } else { "--since" };
        let problem = format!(
            "{flag} is not possible: the log is the output of the program as it was written, without times"
        );
        let hint = format!(
            "`nspod logs -f -n 0 {0} | ts` adds them to new lines, or let the program print them",
            entry.id()
        );
        return Err(Error::usage(flag, problem).hint(hint));
    }
    let Some(mut log) = logs::open(&entry)? else {
        let problem = format!("the container {} has no log", entry.id());
        let error = Error::state("logs", entry.id(), problem);
        return Err(error.hint("only containers started with -d and without --log-max-size none have one"));
    };
    let failed = |e: std::io::Error| {
        Error::io_call("read", &format!("read the log of {}", entry.id()), "read", &e).on(entry.id())
    };
    if let Some(lines) = args.tail {
        log.seek_to_last(lines).map_err(failed)?;
    }
    let mut chunk = vec![0; 64 << 10];
    let mut lines = Lines::default();
    loop {
        // Check before the read, so that the last output is not missed.
        let ended = !args.follow || !matches!(entry.lives(), Ok(true)) || output::unread();
        let n = log.read(&mut chunk).map_err(failed)?;
        match json {
            true => lines.print(&chunk[..n])?,
            false => output::print(&chunk[..n])?,
        }
        if n == 0 && ended {
            break;
        }
        if n == 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    lines.finish()?;
    let lost = log.lost().map_err(failed)?;
    if lost > 0 {
        output::note(format_args!("{lost} bytes of output were not logged, because the disk was full"));
    }
    Ok(())
}

/// Prints each line of the output as a line of JSON.
#[derive(Default)]
struct Lines {
    /// The beginning of a line that is not complete.
    rest: Vec<u8>,
}

impl Lines {
    /// Prints the lines that this part of the output completes.
    fn print(&mut self, part: &[u8]) -> Result<()> {
        // The rest of the earlier parts has no newline.
        let end = part.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| self.rest.len() + at + 1);
        self.rest.extend_from_slice(part);
        let complete: Vec<u8> = self.rest.drain(..end).collect();
        let line = |line: &[u8]| {
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
            format!("{}\n", json!({ "line": text }))
        };
        output::print(complete.split_inclusive(|byte| *byte == b'\n').map(line).collect::<String>())
    }

    /// Prints the last line, if it does not end with a newline.
    fn finish(mut self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { self.print(b"\n") }
    }
}
