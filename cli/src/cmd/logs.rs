//! `nspod logs`: prints the output of a detached container.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use clap::Args;

use crate::error::{Error, Result};
use crate::output;
use crate::state::{Entry, LOG, Store};

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Continue until the container exits
    #[arg(short, long)]
    follow: bool,
    /// Print only the last COUNT lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<u64>,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

pub(crate) fn logs(args: &LogsArgs) -> Result<()> {
    let entry = Store::open()?.find(&args.id)?;
    let mut file = open(&entry)?;
    let failed = |e: std::io::Error| {
        Error::io_call("read", &format!("read the log of {}", entry.id()), "read", &e).on(entry.id())
    };
    if let Some(lines) = args.tail {
        let start = start_of_last(&mut file, lines).map_err(failed)?;
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
    }
    loop {
        // Check before the read, so that the last output is not missed.
        let ended = !args.follow || !matches!(entry.lives(), Ok(true)) || output::unread();
        let mut chunk = Vec::new();
        file.by_ref().take(1 << 20).read_to_end(&mut chunk).map_err(failed)?;
        output::print(&chunk)?;
        if chunk.is_empty() && ended {
            return Ok(());
        }
        if chunk.is_empty() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn open(entry: &Entry) -> Result<File> {
    let none = || {
        let problem =
            format!("the container {} has no log: only containers started with -d have one", entry.id());
        Error::state("logs", entry.id(), problem)
    };
    match entry.record()?.log.as_ref() {
        Some(path) => File::open(path).map_err(|e| Error::io("open", "open the log", path, &e)),
        None => entry.dir().open(LOG)?.ok_or_else(none),
    }
}

/// Returns the offset at which the last `lines` lines begin. Reads the file from its end.
fn start_of_last(file: &mut (impl Read + Seek), lines: u64) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut at, mut found, mut block) = (end, 0, [0; 4096]);
    while at > 0 {
        let size = at.min(block.len() as u64);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let block = &mut block[..size as usize];
        file.read_exact(block)?;
        for (offset, byte) in block.iter().enumerate().rev() {
            let position = at + offset as u64 + 1;
            // A newline at the end of the file ends the last line and does not begin another.
            if *byte == b'\n' && position < end {
                found += 1;
                if found == lines {
                    return Ok(position);
                }
            }
        }
        if lines == 0 {
            return Ok(end);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn last(text: &str, lines: u64) -> String {
        let mut file = Cursor::new(text.as_bytes());
        let start = start_of_last(&mut file, lines).unwrap();
        text[start as usize..].into()
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("a\nb\nc", 2), "b\nc");
        assert_eq!(last("a\nb\n", 9), "a\nb\n");
        assert_eq!(last("a\nb\n", 0), "");
        assert_eq!(last("", 3), "");
        let long = "x".repeat(5000);
        assert_eq!(last(&format!("a\n{long}\n"), 1), format!("{long}\n"));
        assert_eq!(last(&format!("a\n{long}\nb\n"), 2), format!("{long}\nb\n"));
    }
}
