//! Reading and writing small files of `/proc` and `/etc`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::{Error, Result};

/// Returns the errno of an error of std.
pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Reads a file of `/proc`. `std::fs::read` would ask for the size, which such files do not have,
/// and then read them in small pieces.
pub(crate) fn read(path: &str) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(4096);
    let file = File::open(path).map_err(|e| errno(&e))?;
    file.take(u64::MAX).read_to_end(&mut bytes).map_err(|e| errno(&e))?;
    Ok(bytes)
}

/// Writes a file of `/proc` in one call, after checking that it is on a procfs.
pub(crate) fn write_proc(dir: impl AsFd, path: &str, text: &str, step: String) -> Result<(), (Error, Errno)> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let attempt = || -> Result<(), (&'static str, Errno)> {
        let fd: OwnedFd = match path.starts_with('/') {
            true => open(path, flags, Mode::empty()),
            false => openat(dir, path, flags, Mode::empty()),
        }
        .map_err(|errno| ("open", errno))?;
        let statfs = fstatfs(&fd).map_err(|errno| ("fstatfs", errno))?;
        if statfs.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(("fstatfs", Errno::EXDEV));
        }
        nix::unistd::write(&fd, text.as_bytes()).map_err(|errno| ("write", errno))?;
        Ok(())
    };
    attempt().map_err(|(call, errno)| {
        let error = Error::os(step, call, errno).on(path);
        match errno {
            Errno::EXDEV => (error.hint("the file is not on a procfs: something is mounted over it"), errno),
            _ => (error, errno),
        }
    })
}
