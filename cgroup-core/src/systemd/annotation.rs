//! Unit properties in container annotations. CRI-O and podman use them for properties without a
//! field in the OCI configuration.

use super::property::{Property, Value};
use crate::error::{Error, Result};

/// Prefix of the keys.
const PREFIX: &str = "org.systemd.property.";

impl Property {
    /// Returns the property that an annotation `org.systemd.property.NAME` sets, or `None` for
    /// other keys. The value is in GVariant text format; booleans, numbers, strings and lists of
    /// strings are supported. If `NAME` ends in `Sec`, the value is in seconds, and becomes the
    /// property in microseconds. See "Auxiliary properties" in
    /// [runc's documentation](https://github.com/opencontainers/runc/blob/main/docs/systemd.md).
    ///
    /// ```
    /// use cgroup_core::systemd::{Property, Value};
    /// let of = |name, text| Property::of_annotation(&format!("org.systemd.property.{name}"), text);
    /// let expected = Property::new("TimeoutStopUSec", 30_000_000_u64);
    /// assert_eq!(of("TimeoutStopUSec", "uint64 30000000")?, Some(expected.clone()));
    /// assert_eq!(of("TimeoutStopSec", "30")?, Some(expected));
    /// let after = Value::Texts(vec!["crio.service".into()]);
    /// assert_eq!(of("After", "['crio.service']")?, Some(Property::new("After", after)));
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidText`: the name or the value has another format.
    pub fn of_annotation(key: &str, text: &str) -> Result<Option<Self>> {
        let Some(name) = key.strip_prefix(PREFIX) else { return Ok(None) };
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(Error::text("a systemd property", name, "a name has three letters or more"));
        }
        let value = value(text).ok_or_else(|| {
            Error::text(
                "a value of a systemd property",
                text,
                "it is not a boolean, a number, a 'string' or a ['list', 'of strings']",
            )
        })?;
        // Names such as UUSec, or with an acronym before Sec, do not match.
        let seconds =
            name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        let Some(stem) = seconds else { return Ok(Some(Self::new(name, value))) };
        let usec = match value {
            Value::I32(n) => f64::from(n) * 1e6,
            Value::U32(n) => f64::from(n) * 1e6,
            Value::I64(n) => n as f64 * 1e6,
            Value::U64(n) => n as f64 * 1e6,
            Value::F64(n) => n * 1e6,
            _ => f64::NAN,
        };
        if !(0.0..u64::MAX as f64).contains(&usec) {
            return Err(Error::text(
                "a number of seconds",
                text,
                "it is not a number, is negative, or is too large",
            ));
        }
        Ok(Some(Self::new(format!("{stem}USec"), usec as u64)))
    }
}

/// Parses a value in GVariant text format: <https://docs.gtk.org/glib/gvariant-text-format.html>.
fn value(text: &str) -> Option<Value> {
    let text = text.trim();
    let (kind, rest) = text.split_once(' ').unwrap_or(("", text));
    let rest = rest.trim_start();
    Some(match kind {
        "boolean" => Value::Bool(rest.parse().ok()?),
        "int32" => Value::I32(rest.parse().ok()?),
        "uint32" => Value::U32(rest.parse().ok()?),
        "int64" => Value::I64(rest.parse().ok()?),
        "uint64" => Value::U64(rest.parse().ok()?),
        "double" => Value::F64(rest.parse().ok()?),
        _ => match text.as_bytes() {
            b"true" => Value::Bool(true),
            b"false" => Value::Bool(false),
            [b'\'' | b'"', ..] => match string(text)? {
                (string, "") => Value::Text(string),
                _ => return None,
            },
            [b'[', ..] => Value::Texts(list(&text[1..])?),
            _ if text.contains('.') => Value::F64(text.parse().ok()?),
            _ => Value::I32(text.parse().ok()?),
        },
    })
}

/// Parses a quoted string. Returns it and the rest of the text.
fn string(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let mut string = String::new();
    let mut chars = text[1..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => string.push(chars.next().map(|(_, c)| c).filter(|c| matches!(c, '\'' | '"' | '\\'))?),
            _ if c == quote => return Some((string, &text[at + 2..])),
            _ => string.push(c),
        }
    }
    None
}

/// Parses the rest of a list of strings, after its bracket.
fn list(mut text: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    loop {
        let (string, rest) = string(text.trim_start())?;
        all.push(string);
        match rest.trim_start().split_at_checked(1)? {
            (",", rest) => text = rest,
            ("]", "") => return Some(all),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(name: &str, text: &str) -> Result<Option<Property>> {
        Property::of_annotation(&format!("{PREFIX}{name}"), text)
    }

    proptest! {
        #[test]
        fn no_text_makes_parse_panic(name in "[A-Za-z]{3,9}(Sec)?", text in "(uint64 |\\[|'|\")?(.|\\\\|'|,|\\]){0,9}") {
            let _ = of(&name, &text);
        }
    }

    #[test]
    fn a_value_has_its_prefixed_type_or_an_inferred_one() {
        let cases: [(&str, Value); 11] = [
            ("true", true.into()),
            ("boolean false", false.into()),
            ("-5", (-5_i32).into()),
            ("uint32 7", 7_u32.into()),
            ("int64 -7", (-7_i64).into()),
            ("uint64 18446744073709551615", u64::MAX.into()),
            ("1.5", 1.5.into()),
            ("'inactive-or-failed'", "inactive-or-failed".into()),
            (r#""it's \"x\" \\""#, r#"it's "x" \"#.into()),
            ("'uint64 5'", "uint64 5".into()),
            ("['a', \"b\"]", vec!["a".to_owned(), "b".to_owned()].into()),
        ];
        for (text, value) in cases {
            assert_eq!(of("Name", text).unwrap(), Some(Property::new("Name", value)), "{text}");
        }
        for wrong in
            ["", "word", "'open", "'a' b", "[]", "['a'", "['a',]", "[1]", "uint64 -1", "3000000000", r"'\n'"]
        {
            assert_eq!(of("Name", wrong).unwrap_err().kind(), crate::ErrorKind::InvalidText, "{wrong}");
        }
    }

    #[test]
    fn seconds_become_microseconds_and_other_names_stay() {
        let usec = |value: u64| Some(Property::new("TimeoutStopUSec", value));
        assert_eq!(of("TimeoutStopSec", "uint64 2").unwrap(), usec(2_000_000));
        assert_eq!(of("TimeoutStopSec", "0.5").unwrap(), usec(500_000));
        assert_eq!(of("TimeoutStopUSec", "uint64 2").unwrap(), usec(2));
        for wrong in ["-1", "'2'", "true", "double inf"] {
            assert_eq!(
                of("TimeoutStopSec", wrong).unwrap_err().kind(),
                crate::ErrorKind::InvalidText,
                "{wrong}"
            );
        }
    }

    #[test]
    fn other_annotations_are_ignored_and_an_invalid_property_name_is_refused() {
        assert_eq!(Property::of_annotation("io.kubernetes.pod", "x").unwrap(), None);
        for wrong in ["", "ab", "Memory.Max", "A B C"] {
            assert_eq!(of(wrong, "true").unwrap_err().kind(), crate::ErrorKind::InvalidText, "{wrong}");
        }
    }
}
