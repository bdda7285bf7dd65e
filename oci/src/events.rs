//! `events`: the resources that a container uses, and its OOM kills, in runc's JSON.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, IoStat, Pressure, PressureLine, Usage, Watch, parse};
use serde::Serialize;

use crate::cgroup::is_gone;
use crate::container::Container;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Status;

impl Container {
    /// Returns the resources that the container uses, as an event. Times are in nanoseconds, except for
    /// those of pressure, which are in microseconds. Sizes are in bytes.
    ///
    /// See [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers); [`Usage`] has
    /// the first kernel version of each value.
    ///
    /// # Errors
    /// - [`ErrorKind::State`]: the container is stopped, or has no cgroup of its own.
    /// - `EACCES`, `ENOENT`: a file of the cgroup cannot be read.
    pub fn stats(&self) -> Result<Event> {
        let cgroup = self.running_cgroup()?;
        Event::stats(&self.id, &cgroup)?.ok_or_else(|| self.not_running())
    }

    /// Returns an iterator over the events of the container: each OOM kill, and the used resources
    /// every `interval`. The iterator blocks, and ends with the container.
    ///
    /// OOM kills are the count `oom_kill` of `memory.events`, since Linux 4.13; see
    /// [cgroup-v2.rst](https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files).
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub fn events(&self, interval: Duration) -> Result<Events> {
        let cgroup = self.running_cgroup()?;
        let watch = cgroup.watch().map_err(|e| if is_gone(&e) { self.not_running() } else { e.into() })?;
        let oom_kills = watch.seen().memory.oom_kill;
        let due = Instant::now() + interval;
        Ok(Events { id: self.id.clone(), cgroup, watch, oom_kills, interval, due, ended: false })
    }

    fn running_cgroup(&self) -> Result<Cgroup> {
        let entry = self.entry()?;
        if entry.status()? == Status::Stopped {
            return Err(self.not_running());
        }
        match entry.record()?.cgroup() {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.not_running()),
            cgroup => cgroup,
        }
    }

    fn not_running(&self) -> Error {
        let problem = format!("container with id {} is not running", self.id);
        Error::new(ErrorKind::State, "events", problem).on(&self.id)
    }
}

/// An iterator over the events of a container: [`Container::events`].
#[derive(Debug)]
pub struct Events {
    id: String,
    cgroup: Cgroup,
    watch: Watch,
    oom_kills: Option<u64>,
    interval: Duration,
    /// Time of the next report of the used resources.
    due: Instant,
    ended: bool,
}

impl Events {
    /// Waits for the next event; `None` at the end of the container.
    fn wait(&mut self) -> Result<Option<Event>> {
        loop {
            let left = self.due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let state = match self.watch.next(Some(left)) {
                Ok(state) => state,
                Err(e) if is_gone(&e) => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            let Some(state) = state else { break };
            self.ended = !state.cgroup.populated;
            if state.memory.oom_kill > self.oom_kills {
                self.oom_kills = state.memory.oom_kill;
                return Ok(Some(Event { kind: "oom", id: self.id.clone(), data: None }));
            }
            if self.ended {
                return Ok(None);
            }
        }
        self.due = Instant::now() + self.interval;
        Event::stats(&self.id, &self.cgroup)
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.ended {
            return None;
        }
        let next = self.wait().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.ended = true;
        }
        next
    }
}

// Fields have the order of those in runc's `types/events.go`, which also omits the same ones at zero.

/// An event of a container. It serializes to the JSON of
/// [`runc events`](https://github.com/opencontainers/runc/blob/main/man/runc-events.8.md).
#[derive(Debug, Serialize)]
pub struct Event {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

impl Event {
    /// Returns the used resources; `None` if the cgroup was removed.
    fn stats(id: &str, cgroup: &Cgroup) -> Result<Option<Event>> {
        match Stats::of(cgroup) {
            Ok(stats) => Ok(Some(Event { kind: "stats", id: id.to_owned(), data: Some(stats) })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns whether the OOM killer has killed a process of the container.
    pub fn is_oom(&self) -> bool {
        self.kind == "oom"
    }
}

#[derive(Debug, Serialize)]
struct Stats {
    cpu: Cpu,
    cpuset: CpuSet,
    memory: Memory,
    pids: Pids,
    blkio: Disks,
    hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: BTreeMap<(), ()>,
    network_interfaces: Option<()>,
}

impl Stats {
    fn of(cgroup: &Cgroup) -> Result<Stats> {
        let limit = |file: &str| -> Result<u64> {
            let text = cgroup.read_if_there(file)?.unwrap_or_default();
            Ok(text.trim_end().parse().unwrap_or(u64::MAX))
        };
        let raw = cgroup.read_if_there("memory.stat")?.unwrap_or_default();
        let (memory, swap, pids) = (limit("memory.max")?, limit("memory.swap.max")?, limit("pids.max")?);
        let hugetlb = huge_pages(cgroup)?;
        // If the cgroup was removed meanwhile, the values above are missing, and this fails.
        let usage = cgroup.usage()?;
        Ok(Stats {
            cpu: Cpu::of(&usage),
            cpuset: CpuSet::default(),
            memory: Memory::of(&usage, memory, swap, &raw)?,
            pids: Pids {
                current: usage.pids.current.unwrap_or(0),
                limit: if pids == u64::MAX { 0 } else { pids },
            },
            blkio: Disks::of(&usage),
            hugetlb,
            intel_rdt: BTreeMap::new(),
            network_interfaces: None,
        })
    }
}

/// Pressure stall information.
#[derive(Debug, Serialize)]
struct Psi {
    some: Share,
    full: Share,
}

#[derive(Debug, Default, Serialize)]
struct Share {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    /// In microseconds.
    total: u64,
}

impl Psi {
    fn of(pressure: Option<&Pressure>) -> Option<Psi> {
        let share = |line: &PressureLine| {
            let PressureLine { avg10, avg60, avg300, total, .. } = *line;
            Share { avg10, avg60, avg300, total }
        };
        let psi = |pressure: &Pressure| Psi {
            some: share(&pressure.some),
            // Before Linux 5.13 the file for the processor does not have this line.
            full: pressure.full.as_ref().map(share).unwrap_or_default(),
        };
        pressure.map(psi)
    }
}

#[derive(Debug, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

/// Times in nanoseconds.
#[derive(Debug, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    /// In nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

impl Cpu {
    fn of(usage: &Usage) -> Cpu {
        let nanoseconds = |micro: Option<u64>| micro.unwrap_or(0).saturating_mul(1000);
        let cpu = &usage.cpu;
        Cpu {
            usage: CpuUsage {
                total: nanoseconds(cpu.usage_usec),
                kernel: nanoseconds(cpu.system_usec),
                user: nanoseconds(cpu.user_usec),
            },
            throttling: Throttling {
                periods: cpu.nr_periods.unwrap_or(0),
                throttled_periods: cpu.nr_throttled.unwrap_or(0),
                throttled_time: nanoseconds(cpu.throttled_usec),
            },
            psi: Psi::of(usage.cpu_pressure.as_ref()),
        }
    }
}

/// Fields of cgroup v1: all zero.
#[derive(Debug, Default, Serialize)]
struct CpuSet {
    cpu_exclusive: u64,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

impl Memory {
    /// Converts the usage. The numbers of swap include memory, as in cgroup v1.
    fn of(usage: &Usage, max: u64, swap_max: u64, raw: &str) -> Result<Memory> {
        let (memory, used) = (&usage.memory, usage.memory.current.unwrap_or(0));
        Ok(Memory {
            cache: memory.stat.file.unwrap_or(0),
            usage: MemoryEntry {
                limit: max,
                usage: used,
                max: memory.peak.unwrap_or(0),
                failcnt: memory.events.max.unwrap_or(0),
            },
            swap: MemoryEntry {
                limit: swap_max.saturating_add(max),
                usage: used.saturating_add(memory.swap_current.unwrap_or(0)),
                ..MemoryEntry::default()
            },
            kernel: MemoryEntry { usage: memory.stat.kernel.unwrap_or(0), ..MemoryEntry::default() },
            kernel_tcp: MemoryEntry::default(),
            raw: parse::flat_keyed(raw)?.map(|(key, value)| (key.to_owned(), value)).collect(),
            psi: Psi::of(usage.memory_pressure.as_ref()),
        })
    }
}

#[derive(Debug, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Disks {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<DiskEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<DiskEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct DiskEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    op: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

impl Disks {
    fn of(usage: &Usage) -> Disks {
        type Of<'a> = (&'static str, fn(&IoStat) -> u64);
        let entries = |of: [Of<'_>; 2]| -> Vec<DiskEntry> {
            let each = |(device, stat): (&cgroup_core::Device, &IoStat)| {
                let (major, minor) = (device.major.into(), device.minor.into());
                of.map(|(op, value)| DiskEntry { major, minor, op, value: value(stat) })
            };
            usage.io.iter().flatten().flat_map(each).collect()
        };
        Disks {
            io_service_bytes_recursive: entries([("Read", |s| s.rbytes), ("Write", |s| s.wbytes)]),
            io_serviced_recursive: entries([("Read", |s| s.rios), ("Write", |s| s.wios)]),
            psi: Psi::of(usage.io_pressure.as_ref()),
        }
    }
}

#[derive(Debug, Serialize)]
struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    failcnt: u64,
}

fn huge_pages(cgroup: &Cgroup) -> Result<BTreeMap<String, HugePages>> {
    let mut sizes = BTreeMap::new();
    let files =
        std::fs::read_dir(cgroup.path()).map_err(|e| Error::io("cgroup", "list", cgroup.path(), &e))?;
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
        let failcnt = parse::flat_keyed(&events)?.find(|(key, _)| *key == "max").map_or(0, |(_, n)| n);
        sizes.insert(size.to_owned(), HugePages { usage, failcnt });
    }
    Ok(sizes)
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_includes_memory() {
        let mut usage = Usage::default();
        (usage.memory.current, usage.memory.swap_current) = (Some(10), Some(5));
        let told = Memory::of(&usage, 100, 50, "anon 7\nfile 3\n").unwrap();
        assert_eq!((told.swap.usage, told.swap.limit, told.raw["anon"]), (15, 150, 7));
        assert_eq!(Memory::of(&usage, u64::MAX, 50, "").unwrap().swap.limit, u64::MAX);
    }

    #[test]
    fn a_removed_cgroup_has_no_numbers() {
        if !nspod_testkit::root() {
            return;
        }
        let hierarchy = cgroup_core::Hierarchy::detect().unwrap();
        let cgroup = hierarchy.root().unwrap().create_child(nspod_testkit::unique("events")).unwrap();
        let before = Event::stats("a", &cgroup).unwrap();
        cgroup.remove().unwrap();
        assert!(before.is_some() && Event::stats("a", &cgroup).unwrap().is_none());
    }

    #[test]
    fn event_lines_equal_those_of_runc() {
        let oom = Event { kind: "oom", id: "a".into(), data: None };
        assert_eq!(serde_json::to_string(&oom).unwrap(), r#"{"type":"oom","id":"a"}"#);
        let mut usage = Usage::default();
        let some = cgroup_core::Pressure::parse("some avg10=1.50 avg60=0.10 avg300=0.00 total=42\n").unwrap();
        usage.io_pressure = Some(some);
        let disks = serde_json::to_string(&Disks::of(&usage)).unwrap();
        let zero = r#"{"avg10":0.0,"avg60":0.0,"avg300":0.0,"total":0}"#;
        let some = r#"{"avg10":1.5,"avg60":0.1,"avg300":0.0,"total":42}"#;
        assert_eq!(disks, format!(r#"{{"psi":{{"some":{some},"full":{zero}}}}}"#));
    }
}
