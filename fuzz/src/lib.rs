//! What the targets share: values of the libraries' types, made of arbitrary bytes.

pub mod limits;
pub mod seccomp;
pub mod spec;

use arbitrary::{Result, Unstructured};
use serde::de::DeserializeOwned;

/// A value read as JSON where the bytes begin like an object, so that seeds are files that one
/// can read; else one that is built of the bytes.
pub fn json_or<T: DeserializeOwned>(
    data: &[u8],
    build: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Option<T> {
    match data.first() {
        Some(b'{') => serde_json::from_slice(data).ok(),
        _ => build(&mut Unstructured::new(data)).ok(),
    }
}

/// Some of the values, in any number below `most`.
pub fn several<'a, T>(
    u: &mut Unstructured<'a>,
    most: usize,
    one: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=most)?;
    (0..count).map(|_| one(u)).collect()
}

/// A value or none.
pub fn maybe<'a, T>(
    u: &mut Unstructured<'a>,
    one: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Option<T>> {
    if u.arbitrary()? { one(u).map(Some) } else { Ok(None) }
}
