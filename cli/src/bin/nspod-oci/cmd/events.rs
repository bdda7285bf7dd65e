//! `events`: what a container uses, and when it runs out of memory, in runc's JSON.

use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, ErrorKind, IoStat, Usage, parse};
use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_cli::output;
use serde_json::{Map, Value, json};

use crate::args::Global;
use crate::state::Status;

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// How often
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    interval: Duration,
    /// Print what it uses now, and end
    #[arg(long)]
    stats: bool,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn events(global: &Global, args: &EventsArgs) -> Result<()> {
    if args.interval.is_zero() {
        return Err(Error::new("--interval must be greater than 0"));
    }
    let entry = global.store()?.find(&args.id)?;
    if entry.status()? == Status::Stopped {
        return Err(Error::new(format!("container with id {} is not running", args.id)));
    }
    let cgroup = entry.record()?.cgroup()?;
    let event = |kind: &str, data: Option<Value>| {
        let mut event = json!({ "type": kind, "id": args.id });
        if let Some(data) = data {
            event["data"] = data;
        }
        output::json_line(&event)
    };
    if args.stats {
        return event("stats", Some(stats(&cgroup)?));
    }
    let mut watch = cgroup.watch()?;
    let mut ooms = watch.seen().memory.oom_kill;
    loop {
        let due = Instant::now() + args.interval;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let state = match watch.next(Some(left)) {
                Ok(state) => state,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            let Some(state) = state else { break };
            if state.memory.oom_kill > ooms {
                ooms = state.memory.oom_kill;
                event("oom", None)?;
            }
            if !state.cgroup.populated {
                return Ok(());
            }
        }
        if output::unread() {
            return Ok(());
        }
        event("stats", Some(stats(&cgroup)?))?;
    }
}

fn stats(cgroup: &Cgroup) -> Result<Value> {
    let usage = cgroup.usage()?;
    let limit = |file: &str| -> Result<u64> {
        let text = cgroup.read_if_there(file)?.unwrap_or_default();
        Ok(text.trim_end().parse().unwrap_or(u64::MAX))
    };
    let raw = cgroup.read_if_there("memory.stat")?.unwrap_or_default();
    let pids = limit("pids.max")?;
    Ok(json!({
        "cpu": cpu(&usage),
        "cpuset": {},
        "memory": memory(&usage, limit("memory.max")?, limit("memory.swap.max")?, &raw)?,
        "pids": {
            "current": usage.pids.current.unwrap_or(0),
            "limit": if pids == u64::MAX { 0 } else { pids },
        },
        "blkio": disks(&usage),
        "hugetlb": huge_pages(cgroup)?,
        "intel_rdt": {},
        "network_interfaces": null,
    }))
}

/// Times in nanoseconds.
fn cpu(usage: &Usage) -> Value {
    let nanoseconds = |micro: Option<u64>| micro.unwrap_or(0).saturating_mul(1000);
    json!({
        "usage": {
            "total": nanoseconds(usage.cpu.usage_usec),
            "kernel": nanoseconds(usage.cpu.system_usec),
            "user": nanoseconds(usage.cpu.user_usec),
        },
        "throttling": {
            "periods": usage.cpu.nr_periods.unwrap_or(0),
            "throttledPeriods": usage.cpu.nr_throttled.unwrap_or(0),
            "throttledTime": nanoseconds(usage.cpu.throttled_usec),
        },
    })
}

/// Swap is told with memory in it, as of cgroup v1.
fn memory(usage: &Usage, max: u64, swap_max: u64, raw: &str) -> Result<Value> {
    let used = usage.memory.current.unwrap_or(0);
    let swap = used.saturating_add(usage.memory.swap_current.unwrap_or(0));
    let raw: Map<String, Value> =
        parse::flat_keyed(raw)?.map(|(key, value)| (key.to_owned(), value.into())).collect();
    Ok(json!({
        "cache": usage.memory.stat.file.unwrap_or(0),
        "usage": {
            "limit": max,
            "usage": used,
            "max": usage.memory.peak.unwrap_or(0),
            "failcnt": usage.memory.events.max.unwrap_or(0),
        },
        "swap": { "limit": swap_max.saturating_add(max), "usage": swap, "failcnt": 0 },
        "kernel": { "limit": 0, "usage": usage.memory.stat.kernel.unwrap_or(0), "failcnt": 0 },
        "kernelTCP": { "limit": 0, "failcnt": 0 },
        "raw": raw,
    }))
}

fn disks(usage: &Usage) -> Value {
    let Some(disks) = usage.io.as_ref().filter(|disks| !disks.is_empty()) else { return json!({}) };
    type Of<'a> = (&'a str, fn(&IoStat) -> u64);
    let entries = |of: [Of<'_>; 2]| -> Vec<Value> {
        let each = |(device, stat): (&cgroup_core::Device, &IoStat)| {
            let (major, minor) = (device.major, device.minor);
            of.map(|(op, value)| json!({ "major": major, "minor": minor, "op": op, "value": value(stat) }))
        };
        disks.iter().flat_map(each).collect()
    };
    json!({
        "ioServiceBytesRecursive": entries([("Read", |s| s.rbytes), ("Write", |s| s.wbytes)]),
        "ioServicedRecursive": entries([("Read", |s| s.rios), ("Write", |s| s.wios)]),
    })
}

fn huge_pages(cgroup: &Cgroup) -> Result<Value> {
    let mut sizes = Map::new();
    let files = std::fs::read_dir(cgroup.path()).map_err(|e| Error::io("list", cgroup.path(), &e))?;
    for file in files.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(size) = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(".current")) else {
            continue;
        };
        if size.ends_with(".rsvd") {
            continue;
        }
        let usage = cgroup.number(&name)?.unwrap_or(0);
        let events = cgroup.read_if_there(&format!("hugetlb.{size}.events"))?.unwrap_or_default();
        let failed = parse::flat_keyed(&events)?.find(|(key, _)| *key == "max").map_or(0, |(_, n)| n);
        sizes.insert(size.to_owned(), json!({ "usage": usage, "failcnt": failed }));
    }
    Ok(Value::Object(sizes))
}

/// A duration as Go writes it: `5s`, `1m30s`, `500ms`.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 500ms, 5s or 1m30s");
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        let ms = |ms| Ok(Duration::from_millis(ms));
        assert_eq!(duration("5s"), ms(5000));
        assert_eq!(duration("1m30s"), ms(90_000));
        assert_eq!(duration("1.5s500ms"), ms(2000));
        for wrong in ["", "5", "s", "5x", "-1s", "1s2"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn swap_is_told_with_memory_in_it() {
        let mut usage = Usage::default();
        (usage.memory.current, usage.memory.swap_current) = (Some(10), Some(5));
        let told = memory(&usage, 100, 50, "anon 7\nfile 3\n").unwrap();
        assert_eq!((&told["swap"]["usage"], &told["swap"]["limit"]), (&15.into(), &150.into()));
        assert_eq!(told["raw"]["anon"], 7);
        assert_eq!(memory(&usage, u64::MAX, 50, "").unwrap()["swap"]["limit"], u64::MAX);
    }
}
