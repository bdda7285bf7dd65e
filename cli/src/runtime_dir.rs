//! The default directory of a program's state.

use std::path::PathBuf;

use nix::unistd::geteuid;
use nspod_sandbox::Host;
use nspod_sandbox::store::Alternative;

/// Returns `$XDG_RUNTIME_DIR` for a user other than root.
///
/// Root in a user namespace counts as another user if `USER` is not `root`: an engine without
/// privileges sets it to the user's name. runc has the same rule.
pub fn of_user() -> Option<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute())?;
    is_user().then_some(dir)
}

/// Returns `$XDG_STATE_HOME`, by default `~/.local/state`, for a user other than root. Root in a user
/// namespace counts as in [`of_user`].
pub fn state_of_user() -> Option<PathBuf> {
    let dir = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = || dir("XDG_STATE_HOME").or_else(|| Some(dir("HOME")?.join(".local/state")));
    if is_user() { state() } else { None }
}

fn is_user() -> bool {
    let has_name = || std::env::var_os("USER").is_none_or(|name| name != "root");
    !geteuid().is_root() || Host::is_nested() && has_name()
}

/// The variable moves the state of `nspod`, unless the user is root.
pub const BY_VARIABLE: Alternative = || is_user().then_some("set XDG_RUNTIME_DIR to another directory");

/// `--root` moves the state of `nspod-oci`.
pub const BY_ROOT: Alternative = || Some("name another directory with --root");
