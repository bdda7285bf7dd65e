//! Parsers for the formats of cgroup files: pure functions of text. The parsers of records are with
//! their types, such as [`CpuStat::parse`](crate::CpuStat::parse).
//!
//! New kernels add keys, so the parsers keep or skip unknown keys. A malformed text is an error of the
//! kind [`InvalidText`](crate::ErrorKind::InvalidText). Section "Format".

mod host;

use std::str::FromStr;

pub use host::{Mount, Subsystem, mountinfo, proc_cgroups, proc_self_cgroup};

use crate::controller::{Controller, Controllers};
use crate::device_number::Device;
use crate::error::{Error, Result};

/// Parses `cgroup.controllers` and `cgroup.subtree_control`: names with spaces between. Skips unknown
/// names. Section "Core Interface Files".
///
/// ```
/// use cgroup_core::{Controllers, parse};
/// assert_eq!(parse::controllers("memory future pids\n"), Controllers::MEMORY | Controllers::PIDS);
/// ```
pub fn controllers(text: &str) -> Controllers {
    text.split_ascii_whitespace().filter_map(Controller::of_name).collect()
}

impl FromStr for Controller {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::of_name(name)
            .ok_or_else(|| Error::text("a cgroup v2 controller", name, "no controller has this name"))
    }
}

/// Rejects unknown names with `InvalidText`. [`controllers`] skips them.
impl FromStr for Controllers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split_ascii_whitespace().map(str::parse::<Controller>).collect()
    }
}

/// Parses a decimal number, with white space around it. Section "Format".
///
/// ```
/// assert_eq!(cgroup_core::parse::number("4096\n")?, 4096);
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidText`: the text is not a number, or the number exceeds 64 bits.
pub fn number(text: &str) -> Result<u64> {
    let text = text.trim_ascii();
    text.parse().map_err(|_| Error::text("a number", text, "it is not a decimal number of 64 bits"))
}

/// Parses a flat keyed file (`cpu.stat`, `memory.events`, `cgroup.events`, `cgroup.stat`): a line
/// `KEY VALUE` for each key. Skips lines in which the value is not a number. Section "Format".
///
/// ```
/// let mut events = cgroup_core::parse::flat_keyed("populated 1\nfrozen 0\n")?;
/// assert_eq!(events.next(), Some(("populated", 1)));
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidText`: a line does not have two words.
pub fn flat_keyed(text: &str) -> Result<impl Iterator<Item = (&str, u64)>> {
    let wrong = |line: &str| line.split_ascii_whitespace().count() != 2;
    match text.lines().find(|line| wrong(line)) {
        Some(line) => Err(Error::text("a flat keyed file", line, "a line is a key and a value")),
        None => Ok(text.lines().filter_map(|line| {
            let (key, value) = line.trim_ascii().split_once([' ', '\t'])?;
            Some((key, value.trim_ascii().parse().ok()?))
        })),
    }
}

/// Parses a file of one number a line: `cgroup.procs`, `cgroup.threads`. Section "Core Interface
/// Files".
///
/// ```
/// assert_eq!(cgroup_core::parse::pids("1\n42\n")?, [1, 42]);
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidText`: a line is not a pid.
pub fn pids(text: &str) -> Result<Vec<i32>> {
    let pid = |line: &str| line.parse().map_err(|_| Error::text("a list of pids", line, "it is not a pid"));
    text.lines().map(pid).collect()
}

/// Splits a line that begins with a device number.
pub(crate) fn keyed_by_device<'a>(
    what: &'static str,
    line: &'a str,
) -> Result<(Device, std::str::SplitAsciiWhitespace<'a>)> {
    let mut words = line.split_ascii_whitespace();
    let device = words.next().ok_or_else(|| Error::text(what, line, "a line begins with MAJOR:MINOR"))?;
    Ok((device.parse()?, words))
}
