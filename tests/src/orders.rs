//! Talking with a process that takes orders.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest that anything here may take before the test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What stands for an errno when the process has ended instead of answering.
pub const GONE: i32 = libc::ECONNRESET;

/// An answer: a text, or the errno of what failed.
pub type Reply = Result<String, i32>;

/// The way to a process that takes orders.
#[derive(Debug)]
pub struct Orders {
    to: File,
    from: File,
    read: Vec<u8>,
}

impl Orders {
    /// Orders go one way and answers come the other.
    pub fn new(to: impl Into<File>, from: impl Into<File>) -> Orders {
        Orders { to: to.into(), from: from.into(), read: Vec::new() }
    }

    /// The descriptor that orders are written to.
    pub fn to(&self) -> &File {
        &self.to
    }

    /// Gives an order and awaits the answer.
    ///
    /// # Errors
    /// The errno of what the process tried, or [`GONE`] if it has ended.
    pub fn order(&mut self, line: &str) -> Reply {
        self.to.write_all(format!("{line}\n").as_bytes()).map_err(|_| GONE)?;
        self.answer()
    }

    /// Awaits the answer to an order that was given.
    ///
    /// # Errors
    /// As [`order`](Self::order).
    ///
    /// # Panics
    /// If there is none within [`PATIENCE`].
    pub fn answer(&mut self) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            assert!(ready(&self.from, deadline), "no answer in time");
            let mut piece = [0; 4096];
            match self.from.read(&mut piece) {
                Ok(len @ 1..) => self.read.extend(&piece[..len]),
                _ => return Err(GONE),
            }
        };
        let line: Vec<u8> = self.read.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line[..end]).into_owned();
        match line.split_once(' ') {
            Some(("ok", text)) => Ok(text.replace('\t', "\n")),
            Some(("err", errno)) => Err(errno.parse().unwrap_or(-1)),
            _ => panic!("this is no answer: {line:?}"),
        }
    }
}

fn ready(file: &File, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|n| n > 0)
}

/// Waits for something that has no event to wait for.
///
/// # Panics
/// If it does not come true within [`PATIENCE`].
pub fn await_true(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}
