//! Processes.

use std::io;

use super::act::{Hog, Victim};
use super::children::start;

/// More than the limits of the table.
const MANY: usize = 500;

pub(super) fn hog() -> io::Result<Hog> {
    let mut children = Vec::new();
    let why = loop {
        match start(&["wait"]) {
            Ok(child) => children.push(child),
            Err(error) => break error.to_string(),
        }
        if children.len() == MANY {
            break "enough".to_owned();
        }
    };
    Ok(Hog::holds(format!("{} processes, then: {why}", children.len()), children))
}

pub(super) fn victim() -> io::Result<Victim> {
    Ok(Victim::works(5, || start(&["end"])?.wait().map(drop)))
}
