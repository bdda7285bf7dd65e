//! Copies of descriptors.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, ErrorKind};

/// Copies a descriptor. The copy is closed on exec.
pub(crate) fn duplicate(fd: &impl AsFd) -> Result<OwnedFd, Error> {
    let copy = fd.as_fd().try_clone_to_owned();
    copy.map_err(|e| Error::io(ErrorKind::Process, "copy a descriptor", "fcntl", &e))
}

/// Copies a descriptor to a number of at least `minimum`. The copy is closed on exec.
pub(crate) fn duplicate_above(fd: &impl AsFd, minimum: RawFd) -> Result<OwnedFd, Error> {
    match fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(minimum)) {
        // SAFETY: F_DUPFD_CLOEXEC returns a new descriptor, which nothing else owns.
        Ok(copy) => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
        Err(e) => Err(Error::call(ErrorKind::Process, "copy a descriptor", "fcntl", e as i32)),
    }
}
