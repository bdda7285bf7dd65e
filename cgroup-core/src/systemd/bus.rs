//! A minimal D-Bus client for systemd: one connection, and one call after the other.
//!
//! Sources: <https://dbus.freedesktop.org/doc/dbus-specification.html>,
//! <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html>

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nspod_errno::ErrnoText;

use super::wire::{Call, DBUS, Kind, Message, Writer, rest_of};
use crate::error::ErrorKind;

/// Time limit of a call. Jobs of systemd end later: see [`Connection::job`].
const TIMEOUT: Duration = Duration::from_secs(10);

/// An authenticated connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Path and result of the systemd jobs that have ended.
    ended: Vec<(String, String)>,
}

/// Cause of a failed call.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    /// The peer returned an error: its name and its text.
    Refused(String, String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    /// Returns whether it is the systemd error with this name.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused(refused, _) if refused.strip_prefix("org.freedesktop.systemd1.") == Some(name))
    }

    /// Returns the error of the connection, if the connection failed.
    pub(super) fn into_source(self) -> Option<io::Error> {
        match self {
            Self::Io(error) => Some(error),
            Self::Refused(..) => None,
        }
    }

    /// Returns what happened.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            _ if self.is_late() => ErrorKind::TimedOut,
            Self::Io(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(errno) => ErrorKind::of(errno),
                None => ErrorKind::Refused,
            },
            Self::Refused(..) if self.is("NoSuchUnit") => ErrorKind::NotFound,
            Self::Refused(..) if self.is("UnitExists") => ErrorKind::AlreadyExists,
            Self::Refused(name, _) => match name.as_str() {
                "org.freedesktop.DBus.Error.AccessDenied"
                | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
                    ErrorKind::PermissionDenied
                }
                _ => ErrorKind::Refused,
            },
        }
    }

    pub(super) fn is_late(&self) -> bool {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        matches!(self, Self::Io(error) if matches!(error.kind(), TimedOut | WouldBlock))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            _ if self.is_late() => f.write_str("it does not answer in time"),
            Self::Io(error) => match error.raw_os_error() {
                Some(errno) => write!(f, "{}", ErrnoText(Errno::from_raw(errno))),
                None => write!(f, "{error}"),
            },
            Self::Refused(name, text) => write!(f, "{name}: {text}"),
        }
    }
}

impl Connection {
    /// Connects to a bus, or to systemd itself.
    pub(super) fn open(address: &Path, is_bus: bool) -> Result<Self, Failure> {
        let mut stream = BufReader::new(UnixStream::connect(address)?);
        let deadline = Instant::now() + TIMEOUT;
        stream.get_ref().set_write_timeout(Some(TIMEOUT))?;
        // The request omits the user id, because the id in a user namespace differs from that of the
        // socket. One write contains the whole request, and the next call follows after the answer,
        // because systemd ignores bytes directly after BEGIN.
        stream.get_ref().write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut line = String::new();
        for expected in ["DATA", "OK "] {
            line.clear();
            set_timeout(&stream, deadline)?;
            stream.by_ref().take(1024).read_line(&mut line)?;
            if !line.starts_with(expected) {
                let answer = format!("it answers AUTH with {:?}", line.trim_end());
                return Err(io::Error::other(answer).into());
            }
        }
        let mut connection = Self { stream, serial: 0, ended: Vec::new() };
        if is_bus {
            let (path, interface) = ("/org/freedesktop/DBus", DBUS);
            let to_bus = |member, signature, body| Call { path, interface, member, signature, body };
            connection.call(to_bus("Hello", "", Writer::default()))?;
            let mut rule = Writer::default();
            rule.text("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
            connection.call(to_bus("AddMatch", "s", rule))?;
        }
        Ok(connection)
    }

    /// Sends a call and waits for its reply.
    pub(super) fn call(&mut self, call: Call<'_>) -> Result<Message, Failure> {
        self.serial += 1;
        self.stream.get_ref().write_all(&call.to_bytes(self.serial))?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let message = self.receive(deadline)?;
            match message.kind {
                Kind::Return if message.reply_to == self.serial => return Ok(message),
                Kind::Error if message.reply_to == self.serial => {
                    let text = message.text().unwrap_or_default().to_owned();
                    return Err(Failure::Refused(message.name, text));
                }
                _ => self.note(&message),
            }
        }
    }

    /// Waits for the end of a systemd job and returns its result: `done`, `failed`, `timeout` and
    /// others.
    pub(super) fn job(&mut self, job: &str, patience: Duration) -> Result<String, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| ended == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            let message = self.receive(deadline)?;
            self.note(&message);
        }
    }

    /// Records the result if the message reports the end of a job.
    fn note(&mut self, message: &Message) {
        if message.kind == Kind::Signal && message.name == "JobRemoved" && message.signature == "uoss" {
            self.ended.extend(message.job());
        }
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Message> {
        set_timeout(&self.stream, deadline)?;
        let mut start = [0; 16];
        self.stream.read_exact(&mut start)?;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "it sent a malformed message");
        let rest = rest_of(&start).ok_or_else(malformed)?;
        let mut bytes = start.to_vec();
        self.stream.by_ref().take(rest).read_to_end(&mut bytes)?;
        Message::parse(bytes).ok_or_else(malformed)
    }
}

/// Limits the time of the next read to the deadline.
fn set_timeout(stream: &BufReader<UnixStream>, deadline: Instant) -> io::Result<()> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => stream.get_ref().set_read_timeout(Some(left)),
    }
}
