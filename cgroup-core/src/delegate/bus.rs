//! Just enough D-Bus to ask systemd for a scope: one call on a connection of its own.
//!
//! Sources: <https://dbus.freedesktop.org/doc/dbus-specification.html>,
//! <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html>

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Replies are short; what is longer is not for us.
const LONGEST: u32 = 1 << 20;

/// Calls `StartTransientUnit` on the user's systemd for a delegated scope that holds the process.
pub(super) fn start_scope(unit: &str, pid: i32) -> Result<()> {
    let cure = || "log in through a session with a user manager (loginctl enable-linger USER)".to_owned();
    let address = address();
    let failed = |error: io::Error| {
        Error::not_delegated(format!("no systemd scope by {}: {error}", address.display()), cure())
    };
    match call(&address, &[hello(), start(unit, pid)]).map_err(failed)? {
        None => Ok(()),
        Some(refusal) => {
            Err(Error::not_delegated(format!("systemd refused the scope {unit}: {refusal}"), cure()))
        }
    }
}

/// The socket of the user's bus.
fn address() -> PathBuf {
    let told = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let path = told.split(';').find_map(|one| one.strip_prefix("unix:path=")?.split(',').next());
    match (path, std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(dir)) => PathBuf::from(dir).join("bus"),
        (None, None) => PathBuf::from(format!("/run/user/{}/bus", geteuid())),
    }
}

/// Sends the messages and awaits the reply to the last: `None`, or the error that it is.
fn call(address: &PathBuf, messages: &[Message]) -> io::Result<Option<String>> {
    let mut stream = UnixStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let uid: String = geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    replies.by_ref().take(1024).read_line(&mut line)?;
    if !line.starts_with("OK ") {
        return Err(io::Error::other(format!("the bus answers AUTH with {:?}", line.trim_end())));
    }
    stream.write_all(b"BEGIN\r\n")?;
    for (i, message) in messages.iter().enumerate() {
        stream.write_all(&message.to_bytes(i as u32 + 1))?;
    }
    loop {
        let mut start = [0; 16];
        replies.read_exact(&mut start)?;
        let rest = rest_of(&start).ok_or_else(malformed)?;
        let mut message = start.to_vec();
        replies.by_ref().take(rest).read_to_end(&mut message)?;
        match reply(&message).ok_or_else(malformed)? {
            Reply::Error(serial, text) if serial as usize <= messages.len() => return Ok(Some(text)),
            Reply::Return(serial) if serial as usize == messages.len() => return Ok(None),
            _ => {}
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the bus sent a malformed message")
}

/// A method call: where to, and its marshalled arguments.
struct Message {
    path: &'static str,
    interface: &'static str,
    member: &'static str,
    signature: &'static str,
    body: Vec<u8>,
}

/// What every client of a bus says first.
fn hello() -> Message {
    let (path, interface) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");
    Message { path, interface, member: "Hello", signature: "", body: Vec::new() }
}

fn start(unit: &str, pid: i32) -> Message {
    let mut body = Writer(Vec::new());
    body.text(unit);
    body.text("fail");
    body.array(8, |body| {
        body.property("Description", "s", |body| body.text("nspod"));
        // A scope that failed is forgotten too.
        body.property("CollectMode", "s", |body| body.text("inactive-or-failed"));
        body.property("Delegate", "b", |body| body.word(1));
        body.property("PIDs", "au", |body| body.array(4, |body| body.word(pid as u32)));
    });
    body.array(8, |_| {}); // No auxiliary units.
    Message {
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "StartTransientUnit",
        signature: "ssa(sv)a(sa(sv))",
        body: body.0,
    }
}

impl Message {
    fn to_bytes(&self, serial: u32) -> Vec<u8> {
        // Little endian, a method call, no flags, version 1.
        let mut all = Writer(vec![b'l', 1, 0, 1]);
        all.word(self.body.len() as u32);
        all.word(serial);
        let destination = self.interface.strip_suffix(".Manager").unwrap_or(self.interface);
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
        all.0.extend(&self.body);
        all.0
    }
}

/// Marshals values, each aligned as D-Bus wants it.
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn word(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.word(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// The length counts from the first element, after its padding.
    fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.word(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        elements(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// A struct of a name and a variant.
    fn property(&mut self, name: &str, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.text(name);
        self.signature(signature);
        value(self);
    }

    /// A struct of a code and a variant.
    fn field(&mut self, code: u8, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        value(self);
    }
}

/// What matters of a message from the bus.
#[derive(Debug, PartialEq)]
enum Reply {
    Return(u32),
    Error(u32, String),
    Other,
}

/// How many bytes follow a message's first 16.
fn rest_of(start: &[u8; 16]) -> Option<u64> {
    let reader = Reader::of(start);
    let (body, fields) = (reader.word_at(4)?, reader.word_at(12)?);
    if body > LONGEST || fields > LONGEST {
        return None;
    }
    Some(u64::from(fields).next_multiple_of(8) + u64::from(body))
}

fn reply(message: &[u8]) -> Option<Reply> {
    let mut reader = Reader::of(message);
    let kind = *message.get(1)?;
    let end = 16 + reader.word_at(12)? as usize;
    let (mut serial, mut name) = (0, String::new());
    reader.at = 16;
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        match reader.signature()? {
            "u" if code == 5 => serial = reader.word()?,
            "s" if code == 4 => name = reader.text()?.to_owned(),
            "u" => drop(reader.word()?),
            "s" | "o" => drop(reader.text()?),
            "g" => drop(reader.signature()?),
            _ => return None,
        }
    }
    reader.align(8);
    Some(match kind {
        2 => Reply::Return(serial),
        3 => Reply::Error(serial, format!("{name}: {}", reader.text().unwrap_or_default())),
        _ => Reply::Other,
    })
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
            start in prop_oneof![Just(vec![b'l', 2, 0, 1]), Just(vec![b'B', 3, 0, 1]), any::<Vec<u8>>()],
            rest in proptest::collection::vec(prop_oneof![Just(0), 0..9_u8, any::<u8>()], 0..80),
        ) {
            let message = [start, rest].concat();
            let _ = reply(&message);
            if let Some(start) = message.first_chunk() {
                let _ = rest_of(start);
            }
        }
    }

    #[test]
    fn an_error_is_read_with_its_name_and_text() {
        let mut all = Writer(vec![b'l', 3, 0, 1]);
        all.word(0);
        all.word(9);
        all.array(8, |all| {
            all.field(5, "u", |all| all.word(2));
            all.field(4, "s", |all| all.text("a.B"));
        });
        all.align(8);
        all.text("no");
        assert_eq!(reply(&all.0), Some(Reply::Error(2, "a.B: no".into())));
        let start = all.0.first_chunk().unwrap();
        assert_eq!(rest_of(start), Some(all.0.len() as u64 - 16 - 7)); // The body's length was left 0.
    }
}
