//! Steps of a plan that a thread of this process performs ahead, for a pool.

#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use crate::child;
use crate::error::Error;
use crate::spawn::failure::step_failed;
use crate::step::Step;

/// Brings up `lo` and performs these steps in the calling thread, except that mounts are made and not
/// attached. Returns the mounts, in the order of the steps.
///
/// # Errors
/// The step that failed.
pub(crate) fn perform_ahead(steps: &[Step]) -> Result<Vec<OwnedFd>, Error> {
    let count = steps.iter().filter(|step| matches!(step, Step::Mount(_))).count();
    let mut mounts = vec![-1; count];
    let done = child::ahead(steps, &mut mounts);
    let made = mounts.into_iter().filter(|fd| *fd >= 0);
    // SAFETY: the child's code has just made these descriptors, and nothing else owns them.
    let made = made.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    match done {
        Ok(()) => Ok(made),
        Err((at, call, errno)) => Err(step_failed(steps.get(at).unwrap_or(&Step::Loopback), call, errno)),
    }
}
