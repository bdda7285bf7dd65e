//! Steps of a plan that a thread of this process performs in advance, for a pool.

use std::os::fd::OwnedFd;

use crate::child;
use crate::error::Error;
use crate::spawn::failure::step_failed;
use crate::step::Step;

/// Brings up `lo` and performs these steps in the calling thread. Mounts are made but not attached.
/// Returns the mounts, in the order of the steps.
///
/// # Errors
/// A step failed.
pub(crate) fn perform_ahead(steps: &[Step]) -> Result<Vec<OwnedFd>, Error> {
    let count = steps.iter().filter(|step| matches!(step, Step::Mount(_))).count();
    let mut mounts: Vec<Option<OwnedFd>> = (0..count).map(|_| None).collect();
    match child::ahead(steps, &mut mounts) {
        Ok(()) => Ok(mounts.into_iter().flatten().collect()),
        Err((at, call, errno)) => {
            Err(step_failed(steps.get(at).unwrap_or(&Step::Loopback), None, call, errno))
        }
    }
}
