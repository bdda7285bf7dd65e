//! Open files.

use std::fs::File;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::act::{Hog, Victim, take};

/// More than the limits of the table.
const MANY: usize = 2000;

/// Raises the soft limit of descriptors to the hard limit.
fn raise_descriptors() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

pub(super) fn descriptor_hog() -> io::Result<Hog> {
    raise_descriptors()?;
    let (files, why) = take(MANY, || File::open("/dev/null"));
    Ok(Hog::holds(format!("{} open files, then: {why}", files.len()), files))
}

pub(super) fn descriptor_victim() -> io::Result<Victim> {
    Ok(Victim::works(50, || File::open("/dev/null").map(drop)))
}
