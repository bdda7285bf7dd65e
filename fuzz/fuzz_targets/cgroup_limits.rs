//! Limits survive JSON. Valid limits can be written: each write names a file of the cgroup, and its value parses to
//! the requested limit.
#![no_main]

use cgroup_core::{Controller, CpuList, CpuMax, IoMax, Limits, Max};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(limits) = nspod_fuzz::json_or(data, nspod_fuzz::limits::any) else { return };
    let json = serde_json::to_string(&limits).unwrap();
    assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
    assert_eq!(limits.is_empty(), limits.writes().is_empty() && limits.net.is_none());
    if limits.validate().is_err() {
        return;
    }
    for (file, value) in limits.writes() {
        assert!(file.contains('.') && !file.contains(['/', '\0', '\n']), "{file:?}");
        assert!(!value.contains('\0'), "{file}: {value:?}");
        if let Some(controller) = Controller::of_file(&file) {
            assert!(limits.controllers().contains(controller.into()), "{file}");
        }
    }
    let written = |file: &str| {
        let own = |(name, _): &&(String, String)| name == file && !limits.unified.contains_key(file);
        limits.writes().iter().rev().find(own).map(|(_, value)| value.clone())
    };
    if let Some(value) = written("cpu.max") {
        assert_eq!(value.parse::<CpuMax>().ok(), limits.cpu_max);
    }
    for (file, limit) in [
        ("memory.min", limits.memory_min),
        ("memory.high", limits.memory_high),
        ("memory.max", limits.memory_max),
        ("memory.swap.max", limits.memory_swap_max),
        ("pids.max", limits.pids_max),
    ] {
        if let Some(value) = written(file) {
            assert_eq!(value.parse::<Max>().ok(), limit, "{file}");
        }
    }
    if let Some(value) = written("cpuset.cpus") {
        assert_eq!(value.parse::<CpuList>().ok(), limits.cpuset_cpus);
    }
    if let Some(value) = written("io.max") {
        let (device, max) = limits.io_max.iter().rfind(|(_, max)| !max.is_empty()).unwrap();
        assert_eq!(IoMax::parse(&value).unwrap().get(device), Some(max));
    }
});
