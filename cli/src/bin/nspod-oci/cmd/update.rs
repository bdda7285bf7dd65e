//! `update`: changes the limits of a container.

use std::io::Read;

use cgroup_core::{CpuMax, Limits, Max};
use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_cli::value::signed_bytes;
use nspod_oci_runtime::config;
use nspod_oci_runtime::oci_spec::runtime::LinuxCpu;
use serde_json::{Map, Value, json};

use crate::args::{Global, MaybePath};
use crate::state::{Record, Status};
use crate::{driver, log};

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// A file with the limits, as linux.resources of config.json; - is standard input. All
    /// other flags are then of no account
    #[arg(short, long, value_name = "FILE", default_value = "", hide_default_value = true)]
    resources: MaybePath,
    /// Bytes of memory, as in 52428800 or 50M; -1 lifts the limit
    #[arg(long, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Bytes of memory that are reclaimed last
    #[arg(long, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Bytes of memory and swap together, which needs --memory too; -1 lifts the limit
    #[arg(long, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Share of the processors, 2 to 262144
    #[arg(long, alias = "cpu-shares", value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// µs of processor time in a period; -1 lifts the limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// The period, in µs
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// µs of unused quota that may be saved up
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// 1 runs it only when nothing else wants to run
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// Refused: cgroup v2 has no such limit
    #[arg(long, hide = true, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    #[arg(long, hide = true, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// The processors to run on
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The memory nodes to allocate from
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads; -1 lifts the limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Share of the disks, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Ignored with a warning: cgroup v2 has no such limit
    #[arg(long, hide = true, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    kernel_memory: Option<i64>,
    #[arg(long, hide = true, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<i64>,
    /// Intel RDT's schema for the L3 cache
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Intel RDT's schema for memory bandwidth
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn update(global: &Global, args: &UpdateArgs) -> Result<()> {
    let (entry, _lock) = global.store()?.lock(&args.id)?;
    let status = entry.status()?;
    if status == Status::Stopped {
        return Err(Error::new("container not running"));
    }
    let record = entry.record()?;
    let text = match args.resources.get() {
        Some(path) => read(path)?,
        None => args.json().to_string(),
    };
    let kernel = [args.kernel_memory, args.kernel_memory_tcp];
    if args.resources.get().is_none() && kernel.into_iter().flatten().any(|bytes| bytes != 0) {
        log::warn(&"--kernel-memory and --kernel-memory-tcp have no effect: cgroup v2 has no such limit");
    }
    let given = config::parse_resources(text.as_bytes())?;
    let (mut limits, devices) = config::resources(&given)?;
    if let Some(cpu) = given.cpu() {
        keep_half(cpu, record, &mut limits)?;
    }
    if given.memory().is_some_and(|memory| memory.check_before_update() == Some(true)) {
        leaves_room(record, limits.memory_max)?;
    }
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        schemata(args, record.intel_rdt_path.as_deref())?;
    }
    if !limits.is_empty() {
        driver::update(record, &limits)?;
    }
    if let Some(rules) = devices {
        record.cgroup()?.replace_devices(&rules)?;
    }
    Ok(())
}

/// A quota leaves the period as it is, and the other way round.
fn keep_half(cpu: &LinuxCpu, record: &Record, limits: &mut Limits) -> Result<()> {
    let Some(max) = &mut limits.cpu_max else { return Ok(()) };
    let Some(text) = record.cgroup()?.read_if_there("cpu.max")? else { return Ok(()) };
    let now: CpuMax = text.parse()?;
    if cpu.period().unwrap_or(0) == 0 {
        max.period = now.period;
    }
    if cpu.quota().unwrap_or(0) == 0 {
        max.quota = now.quota;
    }
    Ok(())
}

/// Below what is in use a limit would end processes at once.
fn leaves_room(record: &Record, max: Option<Max>) -> Result<()> {
    let Some(Max::Value(max)) = max else { return Ok(()) };
    let used = record.cgroup()?.read_if_there("memory.current")?;
    match used.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(used) if max <= used => Err(Error::new(format!(
            "memory.limit: {max} bytes are no more than the {used} in use, which memory.checkBeforeUpdate forbids: name a higher limit, or leave the check out"
        ))),
        _ => Ok(()),
    }
}

fn read(path: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|e| Error::io("read the limits", path, &e))?;
    Ok(text)
}

fn schemata(args: &UpdateArgs, group: Option<&std::path::Path>) -> Result<()> {
    let group = group.ok_or_else(|| {
        Error::new("--l3-cache-schema, --mem-bw-schema: the container has no group of Intel RDT's: its configuration names no linux.intelRdt")
    })?;
    let lines: Vec<&str> =
        [&args.l3_cache_schema, &args.mem_bw_schema].into_iter().flatten().map(String::as_str).collect();
    let path = group.join("schemata");
    let write = |line: &&str| std::fs::write(&path, format!("{line}\n"));
    lines.iter().try_for_each(write).map_err(|e| Error::io("write the schema to", &path, &e))
}

impl UpdateArgs {
    /// The flags as linux.resources.
    fn json(&self) -> Value {
        fn section(fields: &[(&str, Option<Value>)]) -> Option<Value> {
            let given: Map<String, Value> =
                fields.iter().filter_map(|(name, value)| Some(((*name).into(), value.clone()?))).collect();
            (!given.is_empty()).then_some(Value::Object(given))
        }
        let number = |value: Option<i64>| value.map(Value::from);
        let count = |value: Option<u64>| value.map(Value::from);
        let text = |value: &Option<String>| value.clone().map(Value::from);
        let memory = section(&[
            ("limit", number(self.memory)),
            ("reservation", number(self.memory_reservation)),
            ("swap", number(self.memory_swap)),
        ]);
        let cpu = section(&[
            ("shares", count(self.cpu_share)),
            ("quota", number(self.cpu_quota)),
            ("period", count(self.cpu_period)),
            ("burst", count(self.cpu_burst)),
            ("idle", number(self.cpu_idle)),
            ("realtimePeriod", count(self.cpu_rt_period)),
            ("realtimeRuntime", number(self.cpu_rt_runtime)),
            ("cpus", text(&self.cpuset_cpus)),
            ("mems", text(&self.cpuset_mems)),
        ]);
        let pids = self.pids_limit.map(|limit| json!({ "limit": limit }));
        let disks = self.blkio_weight.map(|weight| json!({ "weight": weight }));
        section(&[("memory", memory), ("cpu", cpu), ("pids", pids), ("blockIO", disks)]).unwrap_or(json!({}))
    }
}
