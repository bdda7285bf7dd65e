//! The lock on a directory, for example that of an entry.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A lock on a directory, for example that of an entry. It is released when it is dropped or when the process ends.
///
/// See [flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html).
#[derive(Debug)]
pub struct Lock(Arc<OwnedFd>);

impl Lock {
    /// Locks an open file. Returns `None` if another process holds the lock and `wait` is false.
    pub(crate) fn take(file: Arc<OwnedFd>, wait: bool) -> Result<Option<Lock>, Errno> {
        let how = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Some(Lock(file))),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Returns whether the lock was acquired through this open file.
    pub(super) fn is_of(&self, file: &Arc<OwnedFd>) -> bool {
        Arc::ptr_eq(&self.0, file)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Others share the same open file, so closing this descriptor would not release the lock: the
        // entry, or a child of another thread that has a copy of the descriptor.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
