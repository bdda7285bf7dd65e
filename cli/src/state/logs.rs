//! The logs of detached containers, on disk.
//!
//! The log of a container is in `BASE/STORE/ID`, and the link `log` in its entry leads there. `STORE` names the
//! boot and the directory of the store: the logs survive both, and containers in different stores can have the
//! same name.

use std::io::ErrorKind::NotFound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use nspod_cli::runtime_dir;
use nspod_sandbox::log::LogReader;
use nspod_sandbox::store::{Alternative, Dir};

use super::container::Entry;
use crate::error::{Error, Result};

/// Name of the link in an entry.
const LOG: &str = "log";

const BY_VARIABLE: Alternative = || Some("set NSPOD_LOG_DIR to another directory");

/// Creates the directory of a container's log, which is empty, and the link to it. `store` is the directory of
/// the store. The caller holds the lock of the entry.
pub(crate) fn create(store: &Path, entry: &Entry) -> Result<Dir> {
    let base = Dir::shared(&base()?, BY_VARIABLE)?;
    let dir = base.make_sub(&store_name(store)?)?;
    dir.check_private()?;
    let path = std::path::absolute(dir.at(entry.id()))
        .map_err(|e| Error::io("log", "resolve the path of the log", &dir.at(entry.id()), &e))?;
    entry.dir().link(LOG, &path)?;
    remove_all(&path)?;
    Ok(dir.make_sub(entry.id())?)
}

/// Returns the directory of a container's log. Returns `None` if it has none, or if it logs to a file of the
/// user.
pub(crate) fn dir(entry: &Dir) -> Result<Option<PathBuf>> {
    Ok(entry.read_link(LOG)?)
}

/// Opens the log of a container.
pub(crate) fn open(entry: &Entry) -> Result<Option<LogReader>> {
    if let Some(path) = entry.record()?.log.as_ref() {
        let file = std::fs::File::open(path).map_err(|e| Error::io("open", "open the log", path, &e))?;
        return Ok(Some(LogReader::of_file(file)));
    }
    Ok(dir(entry.dir())?.map(|dir| LogReader::open(&dir)).transpose()?.flatten())
}

/// Gives the log of a container, if it has one, the container's new name. The caller holds the lock of the entry.
pub(crate) fn rename(entry: &Dir, name: &str) -> Result<()> {
    let Some(old) = dir(entry)? else { return Ok(()) };
    let new = old.with_file_name(name);
    // No other container has the name.
    remove_all(&new)?;
    match std::fs::rename(&old, &new) {
        Err(e) if e.kind() != NotFound => Err(Error::io("log", "rename the log", &old, &e)),
        _ => Ok(entry.link(LOG, &new)?),
    }
}

/// Removes the log of a container, if it has one.
pub(crate) fn remove(entry: &Dir) -> Result<()> {
    dir(entry)?.map_or(Ok(()), |path| remove_all(&path))
}

/// Removes the logs of containers that no longer exist, and returns their directories. `alone` calls a function
/// if no container of the store has the name, and none can be started meanwhile.
pub(super) fn prune(
    store: &Path,
    alone: impl Fn(&str, &mut dyn FnMut() -> Result<()>) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    let (base, own) = (base()?, store_name(store)?);
    let boot = own.split('-').next().unwrap_or_default();
    let mut removed = Vec::new();
    for name in names(&base)?.iter().filter(|name| is_store_name(name)) {
        let dir = base.join(name);
        if *name == own {
            for id in names(&dir)? {
                alone(&id, &mut || {
                    let path = dir.join(&id);
                    remove_all(&path)?;
                    removed.push(path);
                    Ok(())
                })?;
            }
        } else if !name.starts_with(boot) {
            // No container is older than the boot.
            remove_all(&dir)?;
            removed.push(dir);
        }
    }
    Ok(removed)
}

/// Returns the directory of all logs: `$NSPOD_LOG_DIR`, or the user's state directory, or `/var/lib/nspod/logs`.
fn base() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("NSPOD_LOG_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    Ok(match runtime_dir::state_of_user() {
        Some(dir) => dir.join("nspod/logs"),
        None if geteuid().is_root() => "/var/lib/nspod/logs".into(),
        // Another user could make this directory first, and a link in it to the files of this user.
        None => Dir::private(format!("/var/tmp/nspod-{}", geteuid()).as_ref(), BY_VARIABLE)?.at("logs"),
    })
}

/// Returns the name of a store's directory: the boot, and the device and inode of the store.
fn store_name(store: &Path) -> Result<String> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read_to_string(BOOT).map_err(|e| Error::io("log", "read", Path::new(BOOT), &e))?;
    let boot = boot.split('-').next().unwrap_or_default();
    let meta = store.metadata().map_err(|e| Error::io("log", "inspect", store, &e))?;
    Ok(format!("{boot}-{:x}-{:x}", meta.dev(), meta.ino()))
}

/// Returns whether a directory can be one of [`store_name`].
fn is_store_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let is_hex = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 3 && parts.iter().all(is_hex) && parts[0].len() == 8
}

/// Returns the names in a directory; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io("log", "list", dir, &e);
    match dir.read_dir() {
        Err(e) if e.kind() == NotFound => Ok(Vec::new()),
        entries => entries
            .map_err(failed)?
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .collect::<std::io::Result<_>>()
            .map_err(failed),
    }
}

fn remove_all(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != NotFound => Err(Error::io("remove", "remove the log", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::is_store_name;

    #[test]
    fn only_directories_of_stores_are_pruned() {
        assert!(is_store_name("0123abcd-1a-2f"));
        for other in
            ["", "web", "0123abcd", "0123abcd-1a", "0123abcd-1a-2f-3", "0123abcd--2f", "0123abc-1a-2f"]
        {
            assert!(!is_store_name(other), "{other}");
        }
    }
}
