//! Values of the libraries' types from arbitrary bytes, for all targets.

pub mod limits;
pub mod seccomp;
pub mod spec;

use arbitrary::{Result, Unstructured};
use serde::de::DeserializeOwned;

/// Parses the bytes as JSON if they begin like an object, so that seeds are readable files. Otherwise builds the
/// value from the bytes.
pub fn json_or<T: DeserializeOwned>(
    data: &[u8],
    build: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Option<T> {
    match data.first() {
        Some(b'{') => serde_json::from_slice(data).ok(),
        _ => build(&mut Unstructured::new(data)).ok(),
    }
}

/// Returns fewer than `most` of the values.
pub fn several<'a, T>(
    u: &mut Unstructured<'a>,
    most: usize,
    one: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=most)?;
    (0..count).map(|_| one(u)).collect()
}

/// Returns a value or `None`.
pub fn maybe<'a, T>(
    u: &mut Unstructured<'a>,
    one: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Option<T>> {
    if u.arbitrary()? { one(u).map(Some) } else { Ok(None) }
}
