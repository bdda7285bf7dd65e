//! The keys that leave a container without ending it.

/// A sequence of keys. The default is Ctrl-P, Ctrl-Q, as in docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Keys {
        Keys(vec![0x10, 0x11])
    }
}

impl Keys {
    /// Parses keys that are separated by commas, such as `ctrl-p,ctrl-q` or `~,.`. `none` is an empty sequence,
    /// which is never typed.
    pub fn parse(text: &str) -> Result<Keys, String> {
        match text {
            "none" => Ok(Keys(Vec::new())),
            _ => text.split(',').map(key).collect::<Result<_, _>>().map(Keys),
        }
    }
}

fn key(text: &str) -> Result<u8, String> {
    match (text.as_bytes(), text.strip_prefix("ctrl-").map(str::as_bytes)) {
        (_, Some([key])) if (b'@'..=b'_').contains(&key.to_ascii_uppercase()) => {
            Ok(key.to_ascii_uppercase() & 0x1f)
        }
        ([key @ b'!'..=b'~'], _) => Ok(*key),
        _ => Err(format!("{text:?} is not a key: use a character, or ctrl- and a letter or one of @[\\]^_")),
    }
}

/// Finds the keys in what the caller types.
#[derive(Debug)]
pub struct Watch {
    keys: Keys,
    /// The last bytes, which can be the beginning of the keys.
    held: Vec<u8>,
}

impl Watch {
    pub fn new(keys: Keys) -> Watch {
        Watch { keys, held: Vec::new() }
    }

    /// Appends what the caller typed for the program to `out`. Returns whether the caller typed the keys; what follows
    /// them is discarded.
    pub fn pass(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in typed {
            self.held.push(*byte);
            while !self.keys.0.starts_with(&self.held) {
                out.push(self.held.remove(0));
            }
            if !self.held.is_empty() && self.held == self.keys.0 {
                self.held.clear();
                return true;
            }
        }
        false
    }

    /// Appends the bytes that were held back. There is no more input.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q"), Ok(Keys::default()));
        assert_eq!(Keys::parse("ctrl-@,ctrl-],~,."), Ok(Keys(vec![0, 0x1d, b'~', b'.'])));
        assert_eq!(Keys::parse("none"), Ok(Keys(Vec::new())));
        for bad in ["", "ctrl-", "ctrl-p,", "ab", "ctrl-1", "é", " "] {
            nspod_testkit::assert_refused(Keys::parse(bad), "is not a key");
        }
    }

    fn typed(keys: &str, parts: &[&str]) -> (String, bool) {
        let (mut watch, mut out) = (Watch::new(Keys::parse(keys).unwrap()), Vec::new());
        let left = parts.iter().any(|part| watch.pass(part.as_bytes(), &mut out));
        watch.end(&mut out);
        (String::from_utf8(out).unwrap(), left)
    }

    #[test]
    fn only_the_whole_sequence_leaves_and_everything_else_reaches_the_program() {
        for (parts, program, left) in [
            (&["aab"][..], "", true),
            (&["aaab"], "a", true),
            (&["xa", "a", "by"], "x", true),
            (&["aac", "ab"], "aacab", false),
            (&["a"], "a", false),
        ] {
            assert_eq!(typed("a,a,b", parts), (program.into(), left), "{parts:?}");
        }
        assert_eq!(typed("none", &["\x10\x11"]), ("\x10\x11".into(), false));
    }
}
