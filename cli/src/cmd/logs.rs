//! `nspod logs`: prints the output of a detached container.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;

use crate::error::{Error, Result};
use crate::state::{Store, logs};
use crate::{output, value};

/// Largest size of a line in JSON. A longer line is printed in parts.
const LONGEST: usize = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Continue until the container exits
    #[arg(short, long)]
    follow: bool,
    /// Print only the last COUNT lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<u64>,
    /// Print only lines from this time on: a date and time such as 2026-01-31T10:00:00Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    since: Option<SystemTime>,
    /// Print only lines until this time
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    until: Option<SystemTime>,
    /// Print the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

pub(crate) fn logs(args: &LogsArgs, json: bool) -> Result<()> {
    let entry = Store::open()?.find(&args.id)?;
    let Some(mut log) = logs::open(&entry)? else {
        let problem = format!("the container {} has no log", entry.id());
        let error = Error::state("logs", entry.id(), problem);
        return Err(error.hint("only containers started with -d and without --log-max-size none have one"));
    };
    if args.needs_times() && !log.has_times() {
        let problem = format!("the log of {} has no times", entry.id());
        let error = Error::state("logs", entry.id(), problem);
        return Err(error.hint("only the log that nspod bounds has them, not a --log-file"));
    }
    let failed = |e: std::io::Error| {
        Error::io_call("read", &format!("read the log of {}", entry.id()), "read", &e).on(entry.id())
    };
    if let Some(lines) = args.tail {
        log.seek_to_last(lines).map_err(failed)?;
    }
    let (mut chunk, mut times) = (vec![0; 64 << 10], Vec::new());
    let mut printer = Printer { args, json, line: None, rest: Vec::new() };
    loop {
        // Check before the read, so that the last output is not missed.
        let ended = !args.follow
            || args.until.is_some_and(|until| SystemTime::now() > until)
            || !matches!(entry.lives(), Ok(true))
            || output::unread();
        let n = log.read_timed(&mut chunk, &mut times).map_err(failed)?;
        printer.print(&chunk[..n], &times)?;
        if n == 0 && ended || printer.is_past(&times) {
            break;
        }
        if n == 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    printer.finish()?;
    let lost = log.lost().map_err(failed)?;
    if lost > 0 {
        output::note(format_args!("{lost} bytes of output were not logged, because the disk was full"));
    }
    Ok(())
}

impl LogsArgs {
    fn needs_times(&self) -> bool {
        self.timestamps || self.since.is_some() || self.until.is_some()
    }

    /// Returns whether a line with this time is printed. A line without a time is.
    fn wants(&self, time: Option<SystemTime>) -> bool {
        let Some(time) = time else { return true };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
    }
}

/// Prints the lines of a log that are wanted.
struct Printer<'a> {
    args: &'a LogsArgs,
    json: bool,
    /// The line that has begun: whether it is printed, and its time.
    line: Option<(bool, Option<SystemTime>)>,
    /// With JSON, the part of this line that is not printed yet.
    rest: Vec<u8>,
}

impl Printer<'_> {
    /// Prints a part of the log. `times` has the first byte and the time of each of its parts.
    fn print(&mut self, bytes: &[u8], times: &[(usize, Option<SystemTime>)]) -> Result<()> {
        let mut out = Vec::new();
        for (n, (from, time)) in times.iter().enumerate() {
            let to = times.get(n + 1).map_or(bytes.len(), |(next, _)| *next);
            for piece in bytes[*from..to].split_inclusive(|byte| *byte == b'\n') {
                self.piece(piece, *time, &mut out);
            }
        }
        output::print(out)
    }

    /// Returns whether nothing that follows is wanted. `times` are those of the last part.
    fn is_past(&self, times: &[(usize, Option<SystemTime>)]) -> bool {
        let last = times.last().and_then(|(_, time)| *time);
        let is_late = self.args.until.zip(last).is_some_and(|(until, last)| last > until);
        is_late && self.line.is_none_or(|(wanted, _)| !wanted)
    }

    /// Appends a piece of one line, as it is printed.
    fn piece(&mut self, piece: &[u8], time: Option<SystemTime>, out: &mut Vec<u8>) {
        let begins = self.line.is_none();
        let (wanted, time) = *self.line.get_or_insert_with(|| (self.args.wants(time), time));
        let ends = piece.ends_with(b"\n");
        if wanted && self.json {
            self.rest.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            while self.rest.len() > LONGEST {
                // A character has at most four bytes.
                let is_start = |at: &usize| self.rest[*at] & 0xc0 != 0x80;
                let at = (LONGEST - 3..=LONGEST).rev().find(is_start).unwrap_or(LONGEST);
                let part: Vec<u8> = self.rest.drain(..at).collect();
                self.object(&part, time, true, out);
            }
            if ends {
                let line = std::mem::take(&mut self.rest);
                self.object(&line, time, false, out);
            }
        } else if wanted {
            if begins && self.args.timestamps {
                let shown = time.map_or("-".into(), shown);
                out.extend_from_slice(format!("{shown} ").as_bytes());
            }
            out.extend_from_slice(piece);
        }
        if ends {
            self.line = None;
        }
    }

    fn object(&self, line: &[u8], time: Option<SystemTime>, partial: bool, out: &mut Vec<u8>) {
        let mut object = json!({ "line": String::from_utf8_lossy(line) });
        if self.args.needs_times() {
            object["time"] = time.map(shown).into();
        }
        if partial {
            object["partial"] = true.into();
        }
        out.extend_from_slice(output::ascii_controls(&format!("{object}\n")).as_bytes());
    }

    /// Prints the last line, if it does not end with a newline.
    fn finish(mut self) -> Result<()> {
        let mut out = Vec::new();
        if let Some((true, time)) = self.line.filter(|_| self.json) {
            let line = std::mem::take(&mut self.rest);
            self.object(&line, time, false, &mut out);
        }
        output::print(out)
    }
}

fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}
