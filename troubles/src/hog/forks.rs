//! Processes.

use std::io;

use super::act::{Hog, Victim, take};
use super::children::start;

/// More than the limits of the table.
const MANY: usize = 500;

pub(super) fn hog() -> io::Result<Hog> {
    let (children, why) = take(MANY, || start(&["wait"]));
    Ok(Hog::holds(format!("{} processes, then: {why}", children.len()), children))
}

pub(super) fn victim() -> io::Result<Victim> {
    Ok(Victim::works(5, || start(&["end"])?.wait().map(drop)))
}
