//! `update`: changes the limits of a container.

use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_cli::value::signed_bytes;
use nspod_oci_runtime::nspod_sandbox::store::read_bounded;
use nspod_oci_runtime::{UpdateOptions, config};
use serde_json::{Map, Value, json};

use crate::global::{Global, MaybePath};
use crate::log;

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Read the limits from a file in the format of linux.resources in config.json; - is standard input.
    /// Other flags for limits are then ignored
    #[arg(short, long, value_name = "FILE", default_value = "", hide_default_value = true)]
    resources: MaybePath,
    /// Maximum memory in bytes, for example 52428800 or 50M; -1 removes the limit
    #[arg(long, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Memory in bytes that is reclaimed last
    #[arg(long, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Maximum memory and swap together in bytes; requires --memory; -1 removes the limit
    #[arg(long, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Share of processor time, 2 to 262144
    #[arg(long, alias = "cpu-shares", value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Processor time per period in µs; -1 removes the limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Period in µs
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Maximum unused quota that can accumulate, in µs
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// 1: use only idle processor time; 0: normal scheduling
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// Rejected: cgroup v2 has no such limit
    #[arg(long, hide = true, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    #[arg(long, hide = true, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Processors to run on
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Maximum number of processes and threads; -1 removes the limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Share of disk bandwidth, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Ignored with a warning: cgroup v2 has no such limit
    #[arg(long, hide = true, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    kernel_memory: Option<i64>,
    #[arg(long, hide = true, value_name = "BYTES", value_parser = signed_bytes, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<i64>,
    /// Intel RDT schema for the L3 cache
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Intel RDT schema for memory bandwidth
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn update(global: &Global, args: &UpdateArgs) -> Result<()> {
    let text = match args.resources.get() {
        Some(path) => read(path)?,
        None => args.json().to_string().into_bytes(),
    };
    let kernel = [args.kernel_memory, args.kernel_memory_tcp];
    if args.resources.get().is_none() && kernel.into_iter().flatten().any(|bytes| bytes != 0) {
        log::warn(&"--kernel-memory and --kernel-memory-tcp have no effect: cgroup v2 has no such limit");
    }
    let options = UpdateOptions {
        resources: config::parse_resources(&text)?,
        l3_cache_schema: args.l3_cache_schema.clone(),
        mem_bw_schema: args.mem_bw_schema.clone(),
    };
    Ok(global.container(&args.id).update(&options)?)
}

fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    let read = match path.as_os_str() == "-" {
        true => read_bounded(std::io::stdin()),
        false => std::fs::File::open(path).and_then(read_bounded),
    };
    read.map_err(|e| Error::io("read", "read the limits", path, &e))
}

impl UpdateArgs {
    /// Returns the flags in the form of linux.resources.
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
