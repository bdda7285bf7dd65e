//! JSON form of paths and other strings of the operating system.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// JSON form of a string: text if it is UTF-8, otherwise bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Os {
    Text(String),
    Bytes(Vec<u8>),
}

/// A type with this JSON form: `#[serde(with = "text")]`.
pub(crate) trait Written: Sized {
    type Form: Serialize + for<'de> Deserialize<'de>;
    fn form(&self) -> Self::Form;
    fn from_form(form: Self::Form) -> Self;
}

impl Written for OsString {
    type Form = Os;

    fn form(&self) -> Os {
        use std::os::unix::ffi::OsStrExt;
        match self.to_str() {
            Some(text) => Os::Text(text.into()),
            None => Os::Bytes(self.as_bytes().into()),
        }
    }

    fn from_form(os: Os) -> OsString {
        use std::os::unix::ffi::OsStringExt;
        match os {
            Os::Text(text) => text.into(),
            Os::Bytes(bytes) => OsString::from_vec(bytes),
        }
    }
}

impl Written for PathBuf {
    type Form = Os;

    fn form(&self) -> Os {
        self.as_os_str().to_owned().form()
    }

    fn from_form(os: Os) -> PathBuf {
        OsString::from_form(os).into()
    }
}

impl<T: Written> Written for Option<T> {
    type Form = Option<T::Form>;

    fn form(&self) -> Self::Form {
        self.as_ref().map(T::form)
    }

    fn from_form(form: Self::Form) -> Self {
        form.map(T::from_form)
    }
}

impl<T: Written> Written for Vec<T> {
    type Form = Vec<T::Form>;

    fn form(&self) -> Self::Form {
        self.iter().map(T::form).collect()
    }

    fn from_form(form: Self::Form) -> Self {
        form.into_iter().map(T::from_form).collect()
    }
}

impl<A: Written, B: Written> Written for (A, B) {
    type Form = (A::Form, B::Form);

    fn form(&self) -> Self::Form {
        (self.0.form(), self.1.form())
    }

    fn from_form(form: Self::Form) -> Self {
        (A::from_form(form.0), B::from_form(form.1))
    }
}

pub(crate) fn serialize<T: Written, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.form().serialize(serializer)
}

pub(crate) fn deserialize<'de, T: Written, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::Form::deserialize(deserializer).map(T::from_form)
}
