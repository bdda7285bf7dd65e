//! Strings for system calls.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::Error;
use crate::step::CStrings;

/// Returns a NUL-terminated copy of a text.
pub(super) fn c_string(field: &str, text: impl AsRef<OsStr>) -> Result<CString, Error> {
    CString::new(text.as_ref().as_bytes())
        .map_err(|_| Error::invalid(field, format!("{:?} contains a NUL byte", text.as_ref())))
}

/// Checks that a path is absolute, and returns it.
pub(crate) fn absolute<'a>(field: &str, path: &'a Path) -> Result<&'a Path, Error> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::invalid(field, format!("{} is not an absolute path", path.display()))),
    }
}

/// Returns variables in the form that execve(2) requires. If a name occurs several times, the last
/// one applies.
pub(super) fn environment(field: &str, variables: &[(OsString, OsString)]) -> Result<CStrings, Error> {
    let pair = |(key, value): &(OsString, OsString)| {
        if key.is_empty() || key.as_bytes().contains(&b'=') {
            return Err(Error::invalid(field, format!("{key:?} is not the name of a variable")));
        }
        let mut pair = key.clone();
        pair.push("=");
        pair.push(value);
        c_string(field, pair)
    };
    // getenv(3) returns the first match, so only the last value of each name is passed on.
    let mut names = HashSet::new();
    let mut last: Vec<_> = variables.iter().rev().filter(|(key, _)| names.insert(key)).collect();
    last.reverse();
    Ok(CStrings::new(last.into_iter().map(pair).collect::<Result<_, _>>()?))
}
