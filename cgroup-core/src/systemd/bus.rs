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

use super::property::{Property, Value};
use crate::error::errno_text;

/// Time limit of a call. Jobs of systemd end later: see [`Connection::job`].
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of a message part in bytes. The expected replies are short.
const LONGEST: u32 = 1 << 20;

/// An authenticated connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Path and result of the systemd jobs that have ended.
    ended: Vec<(String, String)>,
}

/// Why a call failed.
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
    /// Whether it is the systemd error with this name.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused(refused, _) if refused.strip_prefix("org.freedesktop.systemd1.") == Some(name))
    }

    /// Returns the error of the connection that it comes from.
    pub(super) fn into_source(self) -> Option<io::Error> {
        match self {
            Self::Io(error) => Some(error),
            Self::Refused(..) => None,
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
                Some(errno) => f.write_str(&errno_text(Errno::from_raw(errno))),
                None => write!(f, "{error}"),
            },
            Self::Refused(name, text) => write!(f, "{name}: {text}"),
        }
    }
}

/// A method call: the destination and the marshalled arguments.
pub(super) struct Call<'a> {
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) signature: &'a str,
    pub(super) body: Writer,
}

const DBUS: &str = "org.freedesktop.DBus";
const SYSTEMD: &str = "org.freedesktop.systemd1";

impl Connection {
    /// Connects to a bus, or to systemd itself.
    pub(super) fn open(address: &Path, is_bus: bool) -> Result<Self, Failure> {
        let mut stream = BufReader::new(UnixStream::connect(address)?);
        let deadline = Instant::now() + TIMEOUT;
        stream.get_ref().set_write_timeout(Some(TIMEOUT))?;
        // The user id is left out, because the id in a user namespace differs from that of the
        // socket. All is sent in one write and nothing follows before the answer, because systemd
        // ignores what comes directly after BEGIN.
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

impl Call<'_> {
    /// Returns a call to the manager object of systemd.
    pub(super) fn manager<'a>(member: &'a str, signature: &'a str, body: Writer) -> Call<'a> {
        let (path, interface) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
        Call { path, interface, member, signature, body }
    }

    fn to_bytes(&self, serial: u32) -> Vec<u8> {
        // Little endian, a method call, no flags, version 1.
        let mut all = Writer(vec![b'l', 1, 0, 1]);
        all.word(self.body.0.len() as u32);
        all.word(serial);
        let destination = if self.interface == DBUS { DBUS } else { SYSTEMD };
        all.array(8, |all| {
            all.field(1, "o", |all| all.text(self.path));
            all.field(2, "s", |all| all.text(self.interface));
            all.field(3, "s", |all| all.text(self.member));
            all.field(6, "s", |all| all.text(destination));
            if !self.signature.is_empty() {
                all.field(8, "g", |all| all.signature(self.signature));
            }
        });
        all.align(8);
        all.0.extend(&self.body.0);
        all.0
    }
}

/// Marshals values with the alignment of D-Bus.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn word(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn long(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.word(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// Appends an array. The length begins at the first element, after the padding.
    pub(super) fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.word(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        elements(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Appends `a(sv)`: structs of a name and a variant.
    pub(super) fn properties(&mut self, properties: &[Property]) {
        self.array(8, |all| {
            for property in properties {
                all.align(8);
                all.text(&property.name);
                all.variant(&property.value);
            }
        });
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(_) => self.signature("b"),
            Value::I32(_) => self.signature("i"),
            Value::U32(_) => self.signature("u"),
            Value::I64(_) => self.signature("x"),
            Value::U64(_) => self.signature("t"),
            Value::F64(_) => self.signature("d"),
            Value::Text(_) => self.signature("s"),
            Value::Texts(_) => self.signature("as"),
            Value::Bytes(_) => self.signature("ay"),
            Value::U32s(_) => self.signature("au"),
        }
        match value {
            Value::Bool(value) => self.word(u32::from(*value)),
            Value::I32(value) => self.word(value.cast_unsigned()),
            Value::U32(value) => self.word(*value),
            Value::I64(value) => self.long(value.cast_unsigned()),
            Value::U64(value) => self.long(*value),
            Value::F64(value) => self.long(value.to_bits()),
            Value::Text(text) => self.text(text),
            Value::Texts(texts) => self.array(4, |all| texts.iter().for_each(|text| all.text(text))),
            Value::Bytes(bytes) => self.array(1, |all| all.0.extend(bytes)),
            Value::U32s(words) => self.array(4, |all| words.iter().for_each(|word| all.word(*word))),
        }
    }

    /// Appends a header field: a struct of a code and a variant.
    fn field(&mut self, code: u8, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        value(self);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Return,
    Error,
    Signal,
    Other,
}

/// A received message, and the relevant fields of its header.
#[derive(Debug)]
pub(super) struct Message {
    kind: Kind,
    /// Serial of the call that it answers.
    reply_to: u32,
    /// Name of an error, or member of a signal.
    name: String,
    signature: String,
    bytes: Vec<u8>,
    /// Offset of the body in the bytes.
    body: usize,
}

/// Returns the number of bytes after the first 16 of a message.
fn rest_of(start: &[u8; 16]) -> Option<u64> {
    let reader = Reader::of(start);
    let (body, fields) = (reader.word_at(4)?, reader.word_at(12)?);
    if body > LONGEST || fields > LONGEST {
        return None;
    }
    Some(u64::from(fields).next_multiple_of(8) + u64::from(body))
}

impl Message {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut reader = Reader::of(&bytes);
        let kind = match *bytes.get(1)? {
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        let end = 16 + reader.word_at(12)? as usize;
        let (mut reply_to, mut name, mut signature) = (0, String::new(), String::new());
        reader.at = 16;
        while reader.at < end {
            reader.align(8);
            let code = reader.byte()?;
            match (reader.signature()?, code) {
                ("u", 5) => reply_to = reader.word()?,
                ("s", 3 | 4) => name = reader.text()?.to_owned(),
                ("g", 8) => signature = reader.signature()?.to_owned(),
                ("u", _) => drop(reader.word()?),
                ("s" | "o", _) => drop(reader.text()?),
                ("g", _) => drop(reader.signature()?),
                _ => return None,
            }
        }
        reader.align(8);
        let body = reader.at;
        Some(Self { kind, reply_to, name, signature, bytes, body })
    }

    fn body(&self) -> Reader<'_> {
        Reader { at: self.body, ..Reader::of(&self.bytes) }
    }

    /// Returns the text in the body: the path of an object, the text of an error, or a variant that
    /// contains a text.
    pub(super) fn text(&self) -> Option<&str> {
        let mut body = self.body();
        match self.signature.as_str() {
            "v" if body.signature()? != "s" => None,
            "v" | "s" | "o" => body.text(),
            _ => None,
        }
    }

    /// Returns the path and the result of the job in a signal `JobRemoved`.
    fn job(&self) -> Option<(String, String)> {
        let mut body = self.body();
        body.word()?;
        let job = body.text()?.to_owned();
        body.text()?;
        Some((job, body.text()?.to_owned()))
    }
}

/// Reads what [`Writer`] writes, in either byte order, and never beyond the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, big: bytes.first() == Some(&b'B') }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn word_at(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn word(&mut self) -> Option<u32> {
        self.align(4);
        let word = self.word_at(self.at)?;
        self.at += 4;
        Some(word)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.word()? as usize;
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.byte()?;
        Some(text)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.byte()? as usize;
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.byte()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_message_makes_the_reader_panic(
            start in prop_oneof![
                Just(vec![b'l', 2, 0, 1]), Just(vec![b'B', 3, 0, 1]), Just(vec![b'l', 4, 0, 1]), any::<Vec<u8>>()
            ],
            rest in proptest::collection::vec(prop_oneof![Just(0), 0..9_u8, any::<u8>()], 0..80),
        ) {
            let bytes = [start, rest].concat();
            if let Some(start) = bytes.first_chunk() {
                let _ = rest_of(start);
            }
            if let Some(message) = Message::parse(bytes) {
                let _ = (message.text().is_some(), message.job());
            }
        }
    }

    /// Returns a message of this kind with these fields and this body.
    fn message(kind: u8, fields: impl FnOnce(&mut Writer), body: impl FnOnce(&mut Writer)) -> Message {
        let mut content = Writer::default();
        body(&mut content);
        let mut all = Writer(vec![b'l', kind, 0, 1]);
        all.word(content.0.len() as u32);
        all.word(9);
        all.array(8, fields);
        all.align(8);
        all.0.extend(content.0);
        assert_eq!(rest_of(all.0.first_chunk().unwrap()), Some(all.0.len() as u64 - 16));
        Message::parse(all.0).unwrap()
    }

    #[test]
    fn an_error_is_read_with_its_name_and_text() {
        let fields = |all: &mut Writer| {
            all.field(5, "u", |all| all.word(2));
            all.field(4, "s", |all| all.text("a.B"));
            all.field(8, "g", |all| all.signature("s"));
        };
        let error = message(3, fields, |all| all.text("no"));
        assert_eq!((error.kind, error.reply_to, error.name.as_str()), (Kind::Error, 2, "a.B"));
        assert_eq!(error.text(), Some("no"));
    }

    #[test]
    fn the_end_of_a_job_is_read_with_its_result() {
        let fields = |all: &mut Writer| {
            all.field(3, "s", |all| all.text("JobRemoved"));
            all.field(8, "g", |all| all.signature("uoss"));
        };
        let ended = message(4, fields, |all| {
            all.word(7);
            ["/job/7", "a.scope", "done"].iter().for_each(|text| all.text(text));
        });
        assert_eq!((ended.kind, ended.name.as_str()), (Kind::Signal, "JobRemoved"));
        assert_eq!(ended.job(), Some(("/job/7".to_owned(), "done".to_owned())));
        assert_eq!(ended.text(), None);
    }

    #[test]
    fn a_variant_is_read_where_it_is_a_text() {
        let of = |value: Value| {
            let fields = |all: &mut Writer| all.field(8, "g", |all| all.signature("v"));
            message(2, fields, |all| all.variant(&value)).text().map(str::to_owned)
        };
        assert_eq!(of("/a.slice".into()), Some("/a.slice".to_owned()));
        assert_eq!(of(7_u32.into()), None);
    }
}
