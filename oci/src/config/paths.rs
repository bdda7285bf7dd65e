//! Paths in the container.

use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Returns a path in the container. A relative path is below `/`, as with other runtimes.
pub(super) fn absolute(field: &str, path: &Path, warnings: &mut Vec<String>) -> Result<PathBuf, Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(field, "must not be empty"));
    }
    let whole = Path::new("/").join(path);
    within(field, &whole)?;
    if !path.is_absolute() {
        warnings.push(format!("{field}: {} is not absolute; it is resolved against /", path.display()));
    }
    Ok(whole)
}

/// Checks that a path in the container is absolute and has no `..`.
pub(super) fn within(field: &str, path: &Path) -> Result<(), Error> {
    if !path.is_absolute() {
        return Err(Error::invalid(field, format!("{} is not an absolute path", path.display())));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::invalid(field, format!("{path:?} contains a NUL byte")));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(field, format!("{} contains ..", path.display())));
    }
    Ok(())
}
