//! Errors about state directories, and their cures.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;
use rustix::io::Errno;

use crate::error::Error;

/// Returns the error of a call on a file of the store.
pub(super) fn failed(what: &str, path: &Path, call: &'static str, errno: Errno) -> Error {
    let path = path.display().to_string();
    let error = Error::call("store", format!("{what} {path}"), call, errno.raw_os_error()).on(path);
    match errno {
        Errno::NOSPC | Errno::DQUOT => error.and_hint("the file system is full: remove files from it"),
        _ => error,
    }
}

/// Returns how the user can move the store to another directory, as the last clause of a hint:
/// `name another directory with --root`. It is called only if an error occurs.
pub type Alternative = fn() -> Option<&'static str>;

/// Appends the alternative to a cure.
pub(super) fn or(cure: &str, alternative: Alternative) -> String {
    alternative().map_or_else(|| cure.to_owned(), |alternative| format!("{cure}, or {alternative}"))
}

/// Returns the error of a call on a state directory, with the reason and the cure.
pub(super) fn explained(
    what: &str,
    call: &'static str,
    path: &Path,
    errno: Errno,
    alternative: Alternative,
) -> Error {
    let error = failed(what, path, call, errno);
    // The longest existing part of the path.
    let found = path.ancestors().find_map(|part| Some((part, part.symlink_metadata().ok()?)));
    let Some((part, meta)) = found else { return error };
    let name = part.display();
    let hint = match errno {
        Errno::ACCESS => {
            let (mode, owner, uid) = (meta.mode() & 0o7777, meta.uid(), geteuid().as_raw());
            let cure = or(&format!("run as uid {owner}"), alternative);
            format!("{name} has owner {owner} and mode {mode:o}, and the caller has uid {uid}: {cure}")
        }
        Errno::NOTDIR if meta.is_symlink() && part == path => {
            format!("{name} is a symbolic link, which is not followed: {}", or("remove it", alternative))
        }
        Errno::NOENT if part != path => {
            let missing =
                path.ancestors().take_while(|above| *above != part).last().unwrap_or(path).display();
            format!("{missing} does not exist: {}", or("make it", alternative))
        }
        Errno::NOTDIR => format!("{name} is not a directory: {}", or("remove it", alternative)),
        Errno::ROFS => {
            let cure = or("mount a writable one there", alternative);
            format!("the file system of {name} is read-only: {cure}")
        }
        _ => return error,
    };
    error.with_hint(Some(hint))
}
