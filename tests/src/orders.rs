//! The connection to a process that executes orders.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The time after which a test fails, so that it does not hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Stands for an errno if the process has ended without an answer.
pub const GONE: i32 = libc::ECONNRESET;

/// An answer: a text, or an errno.
pub type Reply = Result<String, i32>;

/// The connection to a process that executes orders.
#[derive(Debug)]
pub struct Orders {
    to: File,
    from: File,
    read: Vec<u8>,
}

impl Orders {
    /// Returns the connection with these two streams for orders and answers.
    pub fn new(to: impl Into<File>, from: impl Into<File>) -> Orders {
        Orders { to: to.into(), from: from.into(), read: Vec::new() }
    }

    /// Returns the descriptor for orders.
    pub fn to(&self) -> &File {
        &self.to
    }

    /// Sends an order and waits for the answer.
    ///
    /// # Errors
    /// The errno of the failed order, or [`GONE`] if the process has ended.
    pub fn order(&mut self, line: &str) -> Reply {
        self.to.write_all(format!("{line}\n").as_bytes()).map_err(|_| GONE)?;
        self.answer()
    }

    /// Waits for the answer to an order that was sent.
    ///
    /// # Errors
    /// As [`order`](Self::order).
    ///
    /// # Panics
    /// If there is no answer within [`PATIENCE`].
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
            _ => panic!("invalid answer: {line:?}"),
        }
    }
}

fn ready(file: &File, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|n| n > 0)
}
