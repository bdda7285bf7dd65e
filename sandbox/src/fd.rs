//! Copies of descriptors.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;

use crate::error::Error;

/// Copies a descriptor. The copy is closed on exec.
pub(crate) fn duplicate(fd: &impl AsFd) -> Result<OwnedFd, Error> {
    let copy = fd.as_fd().try_clone_to_owned();
    copy.map_err(|e| Error::io("process", "copy a descriptor", "fcntl", &e))
}

/// Copies a descriptor to a number of at least `minimum`. The copy is closed on exec.
pub(crate) fn duplicate_above(fd: &impl AsFd, minimum: RawFd) -> Result<OwnedFd, Error> {
    let copy = fcntl_dupfd_cloexec(fd, minimum);
    copy.map_err(|e| Error::call("process", "copy a descriptor", "fcntl", e.raw_os_error()))
}
