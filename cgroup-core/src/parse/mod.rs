//! The pure parsers: text in, values out, no file touched.
//!
//! The kernel's files grow keys over time, so unknown keys are kept or skipped, never an error;
//! what is malformed is an error of kind [`InvalidText`](crate::ErrorKind::InvalidText).

mod host;

use std::collections::BTreeMap;

pub use host::{Mount, Subsystem, mountinfo, proc_cgroups, proc_self_cgroup};

use crate::usage::{IoStat, Pressure, PressureLine};
use crate::{Controller, Controllers, CpuList, Device, Error, IoMax, Max, Result};

/// `cgroup.controllers` and `cgroup.subtree_control`: names and spaces. Unknown names are skipped.
///
/// ```
/// use cgroup_core::{Controllers, parse};
/// assert_eq!(parse::controllers("memory future pids\n"), Controllers::MEMORY | Controllers::PIDS);
/// ```
pub fn controllers(text: &str) -> Controllers {
    text.split_ascii_whitespace().filter_map(|name| name.parse::<Controller>().ok()).collect()
}

/// A number in decimal, with the newline that the kernel puts after it.
///
/// # Errors
/// `InvalidText` where it is no number or exceeds 64 bits.
pub fn number(text: &str) -> Result<u64> {
    let text = text.trim_ascii();
    text.parse().map_err(|_| Error::text("a number", text, "it is not a decimal number of 64 bits"))
}

/// A number or the word `max`.
///
/// # Errors
/// `InvalidText`, as [`number`].
pub fn max(text: &str) -> Result<Max> {
    match text.trim_ascii() {
        "max" => Ok(Max::Max),
        text => number(text).map(Max::Value),
    }
}

/// A flat keyed file (`cpu.stat`, `memory.events`, `cgroup.events`, `cgroup.stat`): a line
/// `KEY VALUE` for each key. A line whose value is not a number is skipped, such as
/// `pids.events`' `max` could be.
///
/// # Errors
/// `InvalidText` for a line of other than two words.
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

/// A file of one number a line: `cgroup.procs`, `cgroup.threads`.
///
/// # Errors
/// `InvalidText` for a line that is no pid.
pub fn pids(text: &str) -> Result<Vec<i32>> {
    let pid = |line: &str| line.parse().map_err(|_| Error::text("a list of pids", line, "it is not a pid"));
    text.lines().map(pid).collect()
}

/// `cpuset.cpus` and the like: see [`CpuList`].
///
/// # Errors
/// `InvalidText`, see [`CpuList`].
pub fn cpu_list(text: &str) -> Result<CpuList> {
    text.parse()
}

/// `*.pressure`: the share of time lost to waiting.
///
/// # Errors
/// `InvalidText` for an unknown first word or a malformed number.
///
/// ```
/// let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=42\n";
/// let pressure = cgroup_core::parse::pressure(text).unwrap();
/// assert_eq!((pressure.some.avg10, pressure.some.total), (1.5, 42));
/// assert_eq!(pressure.full, None);
/// ```
pub fn pressure(text: &str) -> Result<Pressure> {
    let wrong = |why| Error::text("a pressure file", text, why);
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next();
        let mut parsed = PressureLine::default();
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| wrong("a field is KEY=VALUE"))?;
            let share = || match value.parse::<f32>() {
                Ok(share) if share.is_finite() => Ok(share),
                _ => Err(wrong("a share is a decimal number")),
            };
            match key {
                "avg10" => parsed.avg10 = share()?,
                "avg60" => parsed.avg60 = share()?,
                "avg300" => parsed.avg300 = share()?,
                "total" => parsed.total = number(value)?,
                _ => {}
            }
        }
        match kind {
            Some("some") => pressure.some = parsed,
            Some("full") => pressure.full = Some(parsed),
            _ => return Err(wrong("a line begins with some or full")),
        }
    }
    Ok(pressure)
}

/// `io.stat`: a line `MAJ:MIN KEY=VALUE…` for each device.
///
/// # Errors
/// `InvalidText` for a line that does not begin with a device number.
pub fn io_stat(text: &str) -> Result<BTreeMap<Device, IoStat>> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let (device, rest) = keyed_by_device("io.stat", line)?;
        let mut stat = IoStat::default();
        for (key, value) in rest.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => stat.rbytes = value,
                "wbytes" => stat.wbytes = value,
                "rios" => stat.rios = value,
                "wios" => stat.wios = value,
                "dbytes" => stat.dbytes = value,
                "dios" => stat.dios = value,
                _ => {}
            }
        }
        all.insert(device, stat);
    }
    Ok(all)
}

/// `io.max`: a line `MAJ:MIN rbps=… wbps=… riops=… wiops=…` for each device that is limited.
///
/// # Errors
/// `InvalidText` for a line that does not begin with a device number, an unknown key, or a value
/// that is neither a number nor `max`.
pub fn io_max(text: &str) -> Result<BTreeMap<Device, IoMax>> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let (device, rest) = keyed_by_device("io.max", line)?;
        let mut limit = IoMax::default();
        for word in rest {
            let wrong =
                || Error::text("a line of io.max", line, "a field is rbps, wbps, riops or wiops=VALUE");
            let (key, value) = word.split_once('=').ok_or_else(wrong)?;
            let value = Some(max(value)?);
            match key {
                "rbps" => limit.rbps = value,
                "wbps" => limit.wbps = value,
                "riops" => limit.riops = value,
                "wiops" => limit.wiops = value,
                _ => return Err(wrong()),
            }
        }
        all.insert(device, limit);
    }
    Ok(all)
}

fn keyed_by_device<'a>(
    what: &'static str,
    line: &'a str,
) -> Result<(Device, std::str::SplitAsciiWhitespace<'a>)> {
    let mut words = line.split_ascii_whitespace();
    let device = words.next().ok_or_else(|| Error::text(what, line, "a line begins with MAJOR:MINOR"))?;
    Ok((device.parse()?, words))
}
