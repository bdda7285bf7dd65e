//! The wire format of D-Bus: marshals calls and parses messages.
//!
//! Source: <https://dbus.freedesktop.org/doc/dbus-specification.html>

use super::property::{Property, Value};

/// Maximum length of a message part in bytes. The expected replies are short.
const LONGEST: u32 = 1 << 20;

/// A method call: the destination and the marshalled arguments.
pub(super) struct Call<'a> {
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) signature: &'a str,
    pub(super) body: Writer,
}

pub(super) const DBUS: &str = "org.freedesktop.DBus";
const SYSTEMD: &str = "org.freedesktop.systemd1";

impl Call<'_> {
    /// Returns a call to the manager object of systemd.
    pub(super) fn manager<'a>(member: &'a str, signature: &'a str, body: Writer) -> Call<'a> {
        let (path, interface) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
        Call { path, interface, member, signature, body }
    }

    pub(super) fn to_bytes(&self, serial: u32) -> Vec<u8> {
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
pub(super) enum Kind {
    Return,
    Error,
    Signal,
    Other,
}

/// A received message, and the relevant fields of its header.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// Serial of the call that it answers.
    pub(super) reply_to: u32,
    /// Name of an error, or member of a signal.
    pub(super) name: String,
    pub(super) signature: String,
    bytes: Vec<u8>,
    /// Offset of the body in the bytes.
    body: usize,
}

/// Returns the number of bytes after the first 16 of a message.
pub(super) fn rest_of(start: &[u8; 16]) -> Option<u64> {
    let reader = Reader::of(start);
    let (body, fields) = (reader.word_at(4)?, reader.word_at(12)?);
    if body > LONGEST || fields > LONGEST {
        return None;
    }
    Some(u64::from(fields).next_multiple_of(8) + u64::from(body))
}

impl Message {
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
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
    pub(super) fn job(&self) -> Option<(String, String)> {
        let mut body = self.body();
        body.word()?;
        let job = body.text()?.to_owned();
        body.text()?;
        Some((job, body.text()?.to_owned()))
    }
}

/// Reads the format of [`Writer`], in both byte orders. Never reads beyond the end.
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
    fn a_variant_is_read_if_it_is_a_string() {
        let of = |value: Value| {
            let fields = |all: &mut Writer| all.field(8, "g", |all| all.signature("v"));
            message(2, fields, |all| all.variant(&value)).text().map(str::to_owned)
        };
        assert_eq!(of("/a.slice".into()), Some("/a.slice".to_owned()));
        assert_eq!(of(7_u32.into()), None);
    }
}
