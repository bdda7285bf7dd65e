//! Objects of the whole host: open files and cgroups.

use std::fs::{self, File};
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
    Ok(Victim::tries(|| File::open("/dev/null").map(drop)))
}

/// The cgroup of the container.
const CGROUP: &str = "/sys/fs/cgroup";

/// Makes cgroups until the kernel refuses one.
pub(super) fn cgroup_hog() -> io::Result<Hog> {
    let mut number = 0;
    let (cgroups, why) = take(MANY, || {
        number += 1;
        fs::create_dir(format!("{CGROUP}/hog-{number}"))
    });
    Ok(Hog::holds(format!("{} cgroups, then: {why}", cgroups.len()), ()))
}

pub(super) fn cgroup_victim() -> io::Result<Victim> {
    let path = format!("{CGROUP}/victim");
    Ok(Victim::tries(move || fs::create_dir(&path).and_then(|()| fs::remove_dir(&path))))
}
