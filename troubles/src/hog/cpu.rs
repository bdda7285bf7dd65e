//! Processor time.

use std::hint::black_box;
use std::io;

use super::{Hog, Victim};

/// Counts to a number.
pub(super) fn spin(to: u64) {
    for number in 0..to {
        black_box(number);
    }
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
