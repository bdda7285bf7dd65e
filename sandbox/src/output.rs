//! Collecting the output of a container.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bounds::{OutputBound, Overflow};
use crate::command::Command;
use crate::container::Container;
use crate::error::Error;
use crate::outcome::{EndedBy, Outcome};

/// The result of [`Command::output`].
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// How the container ended.
    pub outcome: Outcome,
    /// The beginning of the standard output, at most [`Command::output_max`] bytes.
    pub stdout: Vec<u8>,
    /// The beginning of the standard error, at most [`Command::output_max`] bytes.
    pub stderr: Vec<u8>,
    /// Whether a stream was longer.
    pub truncated: bool,
}

/// Time for reading what is left in the pipes after the end.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

impl Command {
    /// Starts the container, collects its output, waits for its end, and deletes it. A standard output
    /// or error of [`Stdio::Inherit`](crate::Stdio::Inherit) becomes a pipe, and a standard input of [`Stdio::Inherit`](crate::Stdio::Inherit)
    /// becomes `/dev/null`.
    ///
    /// The output ends with the first process of the container. Its other processes are killed, and what
    /// is then in the pipes is read for at most one second, so a process outside of the container that
    /// holds a pipe open delays the end by at most that time.
    /// Linux 5.14 or later; see [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// ```
    /// use std::time::Duration;
    /// use nspod_sandbox::{Command, EndedBy, Overflow, Stdio};
    /// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
    ///
    /// let output = Command::new("tr").args(["a-z", "A-Z"]).stdin(Stdio::Bytes("text".into())).output()?;
    /// assert_eq!(output.stdout, b"TEXT");
    ///
    /// let mut flood = Command::new("yes");
    /// let output = flood.output_max(1000, Overflow::Kill).timeout(Duration::from_secs(10)).output()?;
    /// assert_eq!((output.stdout.len(), output.outcome.ended_by), (1000, EndedBy::OutputLimit));
    /// # Ok::<(), nspod_sandbox::Error>(())
    /// ```
    ///
    /// # Errors
    /// - The same as [`spawn`](Self::spawn), [`Container::wait`] and [`Container::delete`].
    /// - `EIO` and others: a pipe cannot be read.
    pub fn output(&mut self) -> Result<Output, Error> {
        let mut container = self.spawn_with(true)?;
        let mut capture = Capture::new(&mut container, self.output_bound())?;
        loop {
            let patience = container.enforce()?;
            let ended = capture.read(Some(&container), patience)?;
            if capture.kept.is_too_much() {
                container.kill_for(EndedBy::OutputLimit)?;
                break;
            }
            if ended {
                break;
            }
        }
        let outcome = container.wait()?;
        // The processes that still hold the pipes end.
        container.delete()?;
        let deadline = Instant::now() + DRAIN;
        while capture.is_open() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            capture.read(None, Some(left))?;
        }
        Ok(capture.kept.output(outcome))
    }
}

/// The bytes that were read from the standard output and the standard error, at most as many as the bound.
pub(crate) struct Kept {
    streams: [Vec<u8>; 2],
    bound: OutputBound,
    truncated: bool,
}

impl Kept {
    pub(crate) fn new(bound: OutputBound) -> Kept {
        Kept { streams: Default::default(), bound, truncated: false }
    }

    /// Adds a piece of the standard output (0) or the standard error (1).
    pub(crate) fn add(&mut self, stream: usize, piece: &[u8]) {
        let kept = &mut self.streams[stream];
        let room = self.bound.most - kept.len();
        self.truncated |= piece.len() > room;
        kept.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// Returns whether the container wrote too much and must be killed.
    pub(crate) fn is_too_much(&self) -> bool {
        self.truncated && self.bound.overflow == Overflow::Kill
    }

    pub(crate) fn output(self, outcome: Outcome) -> Output {
        let [stdout, stderr] = self.streams;
        Output { outcome, stdout, stderr, truncated: self.truncated }
    }
}

/// Returns the error of a read from a pipe.
pub(crate) fn unreadable(e: &std::io::Error) -> Error {
    Error::io("process", "read the output", "read", e)
}

/// The streams that are read, and what was kept of them.
struct Capture {
    streams: [Option<File>; 2],
    kept: Kept,
}

impl Capture {
    fn new(container: &mut Container, bound: OutputBound) -> Result<Capture, Error> {
        let streams = [container.stdout.take(), container.stderr.take()];
        for stream in streams.iter().flatten() {
            fcntl(stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(|e| Error::call("process", "make a pipe non-blocking", "fcntl", e as i32))?;
        }
        Ok(Capture { streams, kept: Kept::new(bound) })
    }

    fn is_open(&self) -> bool {
        self.streams.iter().any(Option::is_some)
    }

    /// Waits for output or for the end of the container's first process, and reads. Returns whether the
    /// process has ended.
    fn read(&mut self, of: Option<&Container>, patience: Option<Duration>) -> Result<bool, Error> {
        let present: Vec<usize> = (0..2).filter(|at| self.streams[*at].is_some()).collect();
        let mut fds: Vec<PollFd<'_>> =
            self.streams.iter().flatten().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
        fds.extend(of.map(|container| PollFd::new(container.pidfd().as_fd(), PollFlags::POLLIN)));
        let patience = patience.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time.as_millis().max(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::call("process", "wait for the output", "poll", e as i32)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        drop(fds);
        for (at, _) in present.iter().zip(&ready).filter(|(_, ready)| **ready) {
            self.take(*at)?;
        }
        Ok(of.is_some() && ready.last() == Some(&true))
    }

    /// Reads one piece of a stream.
    fn take(&mut self, at: usize) -> Result<(), Error> {
        let Some(file) = &mut self.streams[at] else { return Ok(()) };
        let mut buffer = [0; 1 << 16];
        match file.read(&mut buffer) {
            Ok(0) => self.streams[at] = None,
            Ok(length) => self.kept.add(at, &buffer[..length]),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(e) => return Err(unreadable(&e)),
        }
        Ok(())
    }
}
