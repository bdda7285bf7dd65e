//! Objects of the kernel.

use std::fs::File;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::act::{Hog, Victim};

/// More than the limits of the table.
const MANY: usize = 2000;

/// Makes objects until that fails, and holds them.
fn take<T: 'static>(what: &str, mut make: impl FnMut() -> io::Result<T>) -> Hog {
    let mut kept = Vec::new();
    let why = loop {
        match make() {
            Ok(object) => kept.push(object),
            Err(error) => break error.to_string(),
        }
        if kept.len() == MANY {
            break "enough".to_owned();
        }
    };
    Hog::holds(format!("{} {what}, then: {why}", kept.len()), kept)
}

/// Raises the soft limit of descriptors to the hard limit.
fn raise_descriptors() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

pub(super) fn descriptor_hog() -> io::Result<Hog> {
    raise_descriptors()?;
    Ok(take("open files", || File::open("/dev/null")))
}

pub(super) fn descriptor_victim() -> io::Result<Victim> {
    Ok(Victim::works(50, || File::open("/dev/null").map(drop)))
}
