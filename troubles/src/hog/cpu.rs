//! Processor time.

use std::hint::black_box;
use std::io;

use super::{Hog, Victim};

/// Counts to a number.
pub(super) fn spin(to: u64) -> u64 {
    (0..to).fold(0, |sum, n| black_box(sum + n)).min(0) + to
}

pub(super) fn hog() -> io::Result<Hog> {
    Hog::repeats(4, |_| {
        spin(10_000);
        Ok(())
    })
}

pub(super) fn victim() -> io::Result<Victim> {
    Ok(Victim::Spin)
}
