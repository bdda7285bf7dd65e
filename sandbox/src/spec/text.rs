//! Strings of the operating system in JSON.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

/// Strings of the operating system in JSON: text where they are UTF-8, else bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Os {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&OsString> for Os {
    fn from(s: &OsString) -> Os {
        use std::os::unix::ffi::OsStrExt;
        match s.to_str() {
            Some(text) => Os::Text(text.into()),
            None => Os::Bytes(s.as_bytes().into()),
        }
    }
}

impl From<Os> for OsString {
    fn from(os: Os) -> OsString {
        use std::os::unix::ffi::OsStringExt;
        match os {
            Os::Text(text) => text.into(),
            Os::Bytes(bytes) => OsString::from_vec(bytes),
        }
    }
}

pub(super) mod os_strings {
    use super::{Deserialize, Os, OsString, Serialize};
    use serde::{Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(all: &[OsString], s: S) -> Result<S::Ok, S::Error> {
        all.iter().map(Os::from).collect::<Vec<_>>().serialize(s)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<OsString>, D::Error> {
        Ok(Vec::<Os>::deserialize(d)?.into_iter().map(OsString::from).collect())
    }
}

pub(super) mod os_pairs {
    use super::{Deserialize, Os, OsString, Serialize};
    use serde::{Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        all: &[(OsString, OsString)],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        all.iter().map(|(k, v)| (Os::from(k), Os::from(v))).collect::<Vec<_>>().serialize(s)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let pairs = Vec::<(Os, Os)>::deserialize(d)?;
        Ok(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}
