//! Processor time.

use std::io;

use super::act::{Hog, Victim, spin};

pub(super) fn hog() -> io::Result<Hog> {
    Hog::repeats(4, |_| {
        spin(10_000);
        Ok(())
    })
}

pub(super) fn victim() -> io::Result<Victim> {
    Ok(Victim::Spin)
}
