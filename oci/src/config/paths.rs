//! Paths in the container.

use std::path::{Path, PathBuf};

use crate::Error;

/// Returns a path in the container. A relative path is below `/`, as with other runtimes. The plan rejects
/// paths with `..`.
pub(super) fn absolute(field: &str, path: &Path, warnings: &mut Vec<String>) -> Result<PathBuf, Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(field, "must not be empty"));
    }
    if !path.is_absolute() {
        warnings.push(format!("{field}: {} is not absolute; it is resolved against /", path.display()));
    }
    Ok(Path::new("/").join(path))
}
