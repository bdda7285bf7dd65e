//! `nspod stats`: shows the resource usage of containers.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use cgroup_core::Usage;
use clap::Args;
use nspod_sandbox::StorageUsage;
use serde::Serialize;

use super::ps::running;
use crate::error::{Error, Result};
use crate::output;
use crate::state::{Entry, Store, logs};

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Print once instead of every second
    #[arg(long)]
    no_stream: bool,
    /// Names or ids of the containers; by default all running ones
    #[arg(value_name = "CONTAINER")]
    ids: Vec<String>,
}

/// The usage of one container at one moment.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    /// Share of one processor since the previous sample, in percent.
    cpu_percent: Option<f64>,
    /// `memory.max` in bytes; `None` without a limit.
    memory_limit: Option<u64>,
    /// Size of the log in bytes; `None` without a log.
    log_bytes: Option<u64>,
    usage: Usage,
    /// Usage of the places with a limit: --storage-opt, and size= of a mount.
    storage: Vec<StorageUsage>,
}

/// The usage of all containers at one moment.
struct Sample {
    at: Instant,
    rows: Vec<Row>,
}

pub(crate) fn stats(args: &StatsArgs, json: bool) -> Result<()> {
    let store = Store::open()?;
    // The share of a processor is the difference of two samples.
    let mut last = Sample::take(&store, &args.ids, None)?;
    let mut pause = Duration::from_millis(if args.no_stream { 200 } else { 1000 });
    loop {
        std::thread::sleep(pause);
        let sample = Sample::take(&store, &args.ids, Some(&last))?;
        if json {
            match args.no_stream {
                true => output::json(&sample.rows)?,
                false => output::json_line(&sample.rows)?,
            }
        } else {
            sample.show(!args.no_stream && std::io::stdout().is_terminal())?;
        }
        if args.no_stream || output::unread() || (sample.rows.is_empty() && !args.ids.is_empty()) {
            return Ok(());
        }
        last = sample;
        pause = Duration::from_secs(1);
    }
}

impl Sample {
    fn take(store: &Store, ids: &[String], before: Option<&Sample>) -> Result<Sample> {
        // A container that is missing, or has no cgroup, is an error if it was named. Later samples leave out
        // containers that have been removed meanwhile.
        let is_strict = before.is_none() && !ids.is_empty();
        let is_missing = |e: &Error| e.reports().all(|report| report.kind == "not_found");
        let found = |id: &String| match store.find(id) {
            Err(e) if !is_strict && is_missing(&e) => None,
            entry => Some(entry),
        };
        let entries = match ids {
            [] => store.all()?,
            _ => ids.iter().filter_map(found).collect::<Result<_>>()?,
        };
        let at = Instant::now();
        let mut rows = Vec::new();
        for entry in entries {
            if !running(&entry)? {
                continue;
            }
            let usage = match entry.need_cgroup().and_then(|c| Ok(c.usage()?)) {
                Ok(usage) => usage,
                Err(e) if is_strict => return Err(e),
                Err(_) => continue,
            };
            rows.push(Row {
                cpu_percent: None,
                memory_limit: memory_limit(&entry),
                log_bytes: logs::open(&entry).ok().flatten().and_then(|log| log.size().ok()),
                id: entry.id().to_owned(),
                usage,
                storage: entry.storage(),
            });
        }
        let mut sample = Sample { at, rows };
        if let Some(before) = before {
            sample.compare(before);
        }
        Ok(sample)
    }

    fn compare(&mut self, before: &Sample) {
        let elapsed = self.at.duration_since(before.at).as_secs_f64() * 1e6;
        for row in &mut self.rows {
            let then = before.rows.iter().find(|other| other.id == row.id);
            let used = |row: &Row| row.usage.cpu.usage_usec;
            if let (Some(now), Some(then)) = (used(row), then.and_then(used)) {
                row.cpu_percent = Some(now.saturating_sub(then) as f64 / elapsed * 100.0);
            }
        }
    }

    fn show(&self, again: bool) -> Result<()> {
        let table = output::table(
            &[
                "ID",
                "CPU",
                "MEMORY / LIMIT",
                "PEAK",
                "PIDS",
                "READ / WRITTEN",
                "SENT / RECEIVED",
                "LOG",
                "STORAGE / LIMIT",
                "PRESSURE CPU MEM IO",
            ],
            &self.rows.iter().map(Row::cells).collect::<Vec<_>>(),
        );
        let clear = if again { "\x1b[2J\x1b[H" } else { "" };
        output::print(format!("{clear}{table}"))
    }
}

fn memory_limit(entry: &Entry) -> Option<u64> {
    entry.cgroup()?.read("memory.max").ok()?.trim().parse().ok()
}

impl Row {
    /// Returns the bytes in the places with a limit of their size.
    fn storage(&self) -> String {
        let sizes = || self.storage.iter().filter_map(|place| Some((place.size, place.limit.size?)));
        match sizes().reduce(|(used, limit), (more, of)| (used + more, limit.saturating_add(of))) {
            Some((used, limit)) => format!("{} / {}", output::bytes(used), output::bytes(limit)),
            None => "-".into(),
        }
    }

    fn cells(&self) -> Vec<String> {
        const NONE: &str = "-";
        let bytes = |n: Option<u64>| n.map_or(NONE.into(), output::bytes);
        let usage = &self.usage;
        let limit = self.memory_limit.map_or(String::new(), |n| format!(" / {}", output::bytes(n)));
        let io = usage.io.as_ref().map(|devices| {
            devices.values().fold((0, 0), |(read, written), d| (read + d.rbytes, written + d.wbytes))
        });
        let pressure = [&usage.cpu_pressure, &usage.memory_pressure, &usage.io_pressure];
        let pressure = pressure.map(|p| p.as_ref().map_or(NONE.into(), |p| format!("{:.1}%", p.some.avg10)));
        vec![
            self.id.clone(),
            self.cpu_percent.map_or(NONE.into(), |p| format!("{p:.1}%")),
            format!("{}{limit}", bytes(usage.memory.current)),
            bytes(usage.memory.peak),
            usage.pids.current.map_or(NONE.into(), |n| n.to_string()),
            io.map_or(NONE.into(), |(r, w)| format!("{} / {}", output::bytes(r), output::bytes(w))),
            usage.net.map_or(NONE.into(), |net| {
                format!("{} / {}", output::bytes(net.egress.bytes), output::bytes(net.ingress.bytes))
            }),
            bytes(self.log_bytes),
            self.storage(),
            pressure.join(" "),
        ]
    }
}
