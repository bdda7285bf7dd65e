//! Output for people and for programs.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nspod_sandbox::{ErrorKind, ExitStatus};
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::error::{Error, Result};

/// Writes to standard output. A closed pipe is not an error.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO));
            Err(Error::call("write", "write to standard output", "write", errno))
        }
        _ => Ok(()),
    }
}

/// Prints a line.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    print(format!("{text}\n"))
}

/// Prints JSON, indented.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, "write", format!("cannot write this as JSON: {e}"))
    })?;
    line(ascii_controls(&text))
}

/// Prints JSON on one line, for a stream of values.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, "write", format!("cannot write this as JSON: {e}"))
    })?;
    line(ascii_controls(&text))
}

/// Escapes the control characters that serde_json leaves in its text: DEL and U+0080 to U+009F, which include another
/// form of escape sequences.
pub fn ascii_controls(json: &str) -> Cow<'_, str> {
    if !json.contains(is_late_control) {
        return json.into();
    }
    let escape = |c: char| match is_late_control(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    json.chars().map(escape).collect()
}

fn is_late_control(c: char) -> bool {
    c.is_control() && c >= '\x7f'
}

/// Whether messages are JSON. A message can come from a destructor, which has no argument for this.
static JSON: AtomicBool = AtomicBool::new(false);

/// Makes the following messages JSON.
pub fn notes_are_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Prints a message on standard error. Its control characters are replaced, because it can contain names from a
/// container. Failures are ignored, because `eprintln!` would panic; the exit code remains.
pub fn note(text: impl std::fmt::Display) {
    let text = text.to_string();
    let _ = match JSON.load(Ordering::Relaxed) {
        true => {
            let line = serde_json::json!({ "warning": text }).to_string();
            writeln!(io::stderr(), "{}", ascii_controls(&line))
        }
        false => writeln!(io::stderr(), "nspod: {}", plain_lines(&text)),
    };
}

/// Prints the machine-readable form of an error on standard error: a line of JSON for each failure.
pub fn note_json(error: &Error) {
    for report in error.reports() {
        let text = serde_json::to_string(report).unwrap_or_else(|_| report.message.clone());
        let _ = writeln!(io::stderr(), "{}", ascii_controls(&text));
    }
}

/// Explains why a program ended, if its exit code does not show it.
pub fn ended(status: ExitStatus) {
    if let ExitStatus::Signaled { signal: nix::libc::SIGSYS, .. } = status {
        note(
            "the program was killed by SIGSYS: a seccomp filter sends it for a forbidden system call, and for \
             each call of an ABI that is not in the filter's \"architectures\", such as that of 32-bit programs",
        );
    }
}

/// Returns whether the reader of standard output has closed it. For commands that write repeatedly.
pub fn unread() -> bool {
    let out = io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let closed = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|e| e.intersects(closed))
}

/// Formats a table with aligned columns. The headings are bold on a terminal.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    layout(headings, rows, colours())
}

/// Formats a table that fits the terminal. If it is too wide, removes the column `optional`, and then shortens the
/// cells of the columns in `flexible`, the widest first. Without a terminal, keeps everything.
pub fn fitted(headings: &[&str], rows: &[Vec<String>], optional: &str, flexible: &[&str]) -> String {
    let columns = rustix::termios::tcgetwinsize(io::stdout()).map(|size| usize::from(size.ws_col));
    match columns {
        Ok(columns @ 1..) => fit(headings, rows, optional, flexible, columns),
        _ => table(headings, rows),
    }
}

fn fit(headings: &[&str], rows: &[Vec<String>], optional: &str, flexible: &[&str], columns: usize) -> String {
    const LEAST: usize = 8;
    let (mut headings, mut rows) = (headings.to_vec(), rows.to_vec());
    let most = |at: usize| rows.iter().map(|row| width(&row[at])).max().unwrap_or(0);
    let mut widths: Vec<usize> = headings.iter().enumerate().map(|(at, h)| most(at).max(h.width())).collect();
    let is_too_wide =
        |widths: &[usize]| widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1) > columns;
    if is_too_wide(&widths)
        && let Some(at) = headings.iter().position(|heading| *heading == optional)
    {
        headings.remove(at);
        widths.remove(at);
        rows.iter_mut().for_each(|row| drop(row.remove(at)));
    }
    let flexible: Vec<usize> = (0..headings.len()).filter(|at| flexible.contains(&headings[*at])).collect();
    while is_too_wide(&widths) {
        let widest = flexible.iter().copied().filter(|at| widths[*at] > LEAST);
        let Some(at) = widest.max_by_key(|at| widths[*at]) else { break };
        widths[at] -= 1;
    }
    for row in &mut rows {
        for at in &flexible {
            row[*at] = shortened(&row[*at], widths[*at]);
        }
    }
    table(&headings, &rows)
}

/// Cuts a text off after this number of columns. The last one is then an ellipsis.
pub fn shortened(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns - 1;
    let fits = |c: &char| match left.checked_sub(c.width().unwrap_or(0)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// Returns whether to print colours: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
pub fn colours() -> bool {
    // Computed once, because each cell of a table needs it.
    static COLOURS: LazyLock<bool> = LazyLock::new(|| {
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
    });
    *COLOURS
}

/// Returns a text in a colour of the terminal, by its SGR number, if colours are printed.
pub fn paint(text: &str, sgr: &str) -> String {
    if colours() { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.into() }
}

fn layout(headings: &[&str], rows: &[Vec<String>], bold: bool) -> String {
    let paint =
        |heading: &&str| if bold { format!("\x1b[1m{heading}\x1b[0m") } else { (*heading).to_owned() };
    let headings: Vec<String> = headings.iter().map(paint).collect();
    let lines = || std::iter::once(&headings).chain(rows);
    let mut widths = vec![0; headings.len()];
    for line in lines() {
        for (most, cell) in widths.iter_mut().zip(line) {
            *most = width(cell).max(*most);
        }
    }
    let mut text = String::new();
    for line in lines() {
        for (at, (cell, most)) in line.iter().zip(&widths).enumerate() {
            text.push_str(if at == 0 { "" } else { "  " });
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', most - width(cell)));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// Returns how many columns a text occupies on a terminal. Colours occupy none.
fn width(text: &str) -> usize {
    let mut parts = text.split("\x1b[");
    let first = parts.next().map_or(0, UnicodeWidthStr::width);
    first + parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest).width()).sum::<usize>()
}

/// Replaces control characters, which a terminal would interpret, in text from another program.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '�' } else { c }).collect()
}

/// Does the same as [`plain`] for each line of a text.
pub fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// Returns the text as it is if standard output is not a terminal, and otherwise as [`plain_lines`].
pub fn shown(text: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { plain_lines(text).into() } else { text.into() }
}

/// Formats bytes: `64.0 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Formats an age in seconds: `5 minutes ago`.
pub fn ago(seconds: u64) -> String {
    let (n, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "long text".into()], vec!["longer".into(), "b".into()]];
        assert_eq!(layout(&["ID", "WHAT"], &rows, false), "ID      WHAT\na       long text\nlonger  b\n");
        let painted = [vec!["\x1b[2m·\x1b[0m".into(), "b".into()]];
        assert_eq!(layout(&["ID", "WHAT"], &painted, false), "ID  WHAT\n\x1b[2m·\x1b[0m   b\n");
        let wide = [vec!["日本".into(), "b".into()], vec![String::new(), "c".into()]];
        assert_eq!(layout(&["ID", "WHAT"], &wide, false), "ID    WHAT\n日本  b\n      c\n");
        let last = [vec!["a".into(), String::new()]];
        assert_eq!(layout(&["ID", "WHAT"], &last, false), "ID  WHAT\na\n");
        assert!(layout(&["ID"], &[], true).starts_with("\x1b[1mID\x1b[0m\n"));
    }

    #[test]
    fn a_table_that_is_too_wide_loses_a_column_and_the_ends_of_long_cells() {
        let rows = [["id", "/x", "日本日本日本日本", "a long command line"].map(str::to_owned).to_vec()];
        let headings = ["ID", "CGROUP", "NAME", "COMMAND"];
        let line = |columns| {
            let text = fit(&headings, &rows, "CGROUP", &["NAME", "COMMAND"], columns);
            text.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(line(49), "id  /x      日本日本日本日本  a long command line");
        assert_eq!(line(48), "id  日本日本日本日本  a long command line");
        assert_eq!(line(30), "id  日本日本日…  a long comm…");
        assert_eq!(line(1), "id  日本日…  a long …");
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(ago(1), "1 second ago");
        assert_eq!(ago(7_200), "2 hours ago");
    }

    #[test]
    fn control_characters_of_a_name_are_escaped() {
        assert_eq!(plain("a\x1b[31mb\n"), "a�[31mb�");
    }
}
