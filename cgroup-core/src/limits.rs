//! Limits as plain data: nothing here touches the kernel.

pub mod v1;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write as _;

pub use values::{CpuMax, IoMax, Max, RdmaMax};

use crate::{Controller, Controllers, CpuList, Device, Error, Result};

/// What a cgroup may use. Each field is a file of the kernel, under its name there with the dots
/// as underscores, in the kernel's units: bytes, microseconds, processes. `None` and empty leave
/// the file alone.
///
/// With the feature `serde` the keys are the kernel's file names: `{"memory.max": 1048576}`.
///
/// Source: <https://docs.kernel.org/admin-guide/cgroup-v2.html>
///
/// ```
/// use cgroup_core::{CpuMax, Limits, Max};
/// let limits = Limits {
///     memory_max: Some(Max::Value(64 << 20)),
///     cpu_max: Some(CpuMax::new(50_000, 100_000)), // half a processor
///     ..Limits::default()
/// };
/// limits.validate().unwrap();
/// let expected = [("cpu.max", "50000 100000"), ("memory.max", "67108864")];
/// assert_eq!(limits.writes(), expected.map(|(file, value)| (file.into(), value.into())));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Limits {
    /// `cpu.max`: processor time in each period.
    #[cfg_attr(feature = "serde", serde(rename = "cpu.max", skip_serializing_if = "Option::is_none"))]
    pub cpu_max: Option<CpuMax>,
    /// `cpu.max.burst`: unused quota that may be saved up, in µs, at most the quota. Since Linux 5.14.
    #[cfg_attr(feature = "serde", serde(rename = "cpu.max.burst", skip_serializing_if = "Option::is_none"))]
    pub cpu_max_burst: Option<u64>,
    /// `cpu.weight`: share among siblings, 1 to 10000, 100 where not set.
    #[cfg_attr(feature = "serde", serde(rename = "cpu.weight", skip_serializing_if = "Option::is_none"))]
    pub cpu_weight: Option<u64>,
    /// `cpu.idle`: run only when nothing else wants to; excludes a weight. Since Linux 5.15.
    #[cfg_attr(feature = "serde", serde(rename = "cpu.idle", skip_serializing_if = "Option::is_none"))]
    pub cpu_idle: Option<bool>,
    /// `cpuset.cpus`: the processors to run on.
    #[cfg_attr(feature = "serde", serde(rename = "cpuset.cpus", skip_serializing_if = "Option::is_none"))]
    pub cpuset_cpus: Option<CpuList>,
    /// `cpuset.mems`: the memory nodes to allocate from.
    #[cfg_attr(feature = "serde", serde(rename = "cpuset.mems", skip_serializing_if = "Option::is_none"))]
    pub cpuset_mems: Option<CpuList>,
    /// `memory.min`: bytes that are never reclaimed.
    #[cfg_attr(feature = "serde", serde(rename = "memory.min", skip_serializing_if = "Option::is_none"))]
    pub memory_min: Option<Max>,
    /// `memory.low`: bytes that are reclaimed last.
    #[cfg_attr(feature = "serde", serde(rename = "memory.low", skip_serializing_if = "Option::is_none"))]
    pub memory_low: Option<Max>,
    /// `memory.high`: bytes beyond which the processes are slowed and reclaimed from.
    #[cfg_attr(feature = "serde", serde(rename = "memory.high", skip_serializing_if = "Option::is_none"))]
    pub memory_high: Option<Max>,
    /// `memory.max`: bytes beyond which the OOM killer comes. Set below what is in use, it reclaims
    /// and then kills at once.
    #[cfg_attr(feature = "serde", serde(rename = "memory.max", skip_serializing_if = "Option::is_none"))]
    pub memory_max: Option<Max>,
    /// `memory.swap.max`: bytes of swap, on top of `memory.max`.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "memory.swap.max", skip_serializing_if = "Option::is_none")
    )]
    pub memory_swap_max: Option<Max>,
    /// `memory.zswap.max`: bytes of compressed swap in memory. Since Linux 5.19.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "memory.zswap.max", skip_serializing_if = "Option::is_none")
    )]
    pub memory_zswap_max: Option<Max>,
    /// `memory.oom.group`: the OOM killer takes all of the cgroup's processes, or one.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "memory.oom.group", skip_serializing_if = "Option::is_none")
    )]
    pub memory_oom_group: Option<bool>,
    /// `pids.max`: processes and threads.
    #[cfg_attr(feature = "serde", serde(rename = "pids.max", skip_serializing_if = "Option::is_none"))]
    pub pids_max: Option<Max>,
    /// `io.max`: bandwidth and rate of each device.
    #[cfg_attr(feature = "serde", serde(rename = "io.max", skip_serializing_if = "BTreeMap::is_empty"))]
    pub io_max: BTreeMap<Device, IoMax>,
    /// `io.weight`: the default share among siblings, 1 to 10000, 100 where not set.
    #[cfg_attr(feature = "serde", serde(rename = "io.weight", skip_serializing_if = "Option::is_none"))]
    pub io_weight: Option<u64>,
    /// `io.weight` for single devices.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "io.weight.device", skip_serializing_if = "BTreeMap::is_empty")
    )]
    pub io_weight_device: BTreeMap<Device, u64>,
    /// `io.bfq.weight`: the same share on disks of the scheduler bfq, 1 to 1000, 100 where not set.
    /// Beside [`io_weight`](Self::io_weight) it is the same wish in another file, and it suffices
    /// that the kernel has one of the two.
    #[cfg_attr(feature = "serde", serde(rename = "io.bfq.weight", skip_serializing_if = "Option::is_none"))]
    pub io_bfq_weight: Option<u64>,
    /// `io.bfq.weight` for single devices; beside [`io_weight_device`](Self::io_weight_device) it
    /// suffices that the disk shares by one of the two.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "io.bfq.weight.device", skip_serializing_if = "BTreeMap::is_empty")
    )]
    pub io_bfq_weight_device: BTreeMap<Device, u64>,
    /// `io.latency`: the latency to protect on each device, in µs.
    #[cfg_attr(feature = "serde", serde(rename = "io.latency", skip_serializing_if = "BTreeMap::is_empty"))]
    pub io_latency: BTreeMap<Device, u64>,
    /// `hugetlb.SIZE.max`: bytes of huge pages, by size as the kernel names it: `2MB`, `1GB`.
    #[cfg_attr(feature = "serde", serde(rename = "hugetlb.max", skip_serializing_if = "BTreeMap::is_empty"))]
    pub hugetlb_max: BTreeMap<String, Max>,
    /// `hugetlb.SIZE.rsvd.max`: bytes of huge pages that may be reserved. Beyond it `mmap` fails,
    /// where beyond [`hugetlb_max`](Self::hugetlb_max) the page fault kills.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "hugetlb.rsvd.max", skip_serializing_if = "BTreeMap::is_empty")
    )]
    pub hugetlb_rsvd_max: BTreeMap<String, Max>,
    /// `rdma.max`: what may be held of each RDMA device, by its name as in `/sys/class/infiniband`.
    #[cfg_attr(feature = "serde", serde(rename = "rdma.max", skip_serializing_if = "BTreeMap::is_empty"))]
    pub rdma_max: BTreeMap<String, RdmaMax>,
    /// Any other file by name, as OCI's `unified`; written last, in order of name.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "BTreeMap::is_empty"))]
    pub unified: BTreeMap<String, String>,
}

impl Limits {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        self.writes().is_empty()
    }

    /// The controllers that it needs. Files in [`unified`](Self::unified) count by the part before
    /// their first dot; the core's own (`cgroup.*`) need none.
    pub fn controllers(&self) -> Controllers {
        self.writes().iter().filter_map(|(file, _)| Controller::of_file(file)).collect()
    }

    /// What to write where, in the order to write it: limits that shield others first, so that
    /// `memory.swap.max` is in force when `memory.max` begins to reclaim.
    pub fn writes(&self) -> Vec<(String, String)> {
        let mut all = Writes(Vec::new());
        if self.cpu_max.is_some() && self.cpu_max_burst.is_some() {
            // The kernel refuses a quota below the burst that is set already.
            all.put("cpu.max.burst", Some(0));
        }
        all.put("cpu.max", self.cpu_max);
        all.put("cpu.max.burst", self.cpu_max_burst);
        // A weight is refused while the cgroup is idle.
        all.put("cpu.idle", self.cpu_idle.map(u8::from));
        all.put("cpu.weight", self.cpu_weight);
        all.put("cpuset.cpus", self.cpuset_cpus.as_ref());
        all.put("cpuset.mems", self.cpuset_mems.as_ref());
        all.put("memory.oom.group", self.memory_oom_group.map(u8::from));
        all.put("memory.swap.max", self.memory_swap_max);
        all.put("memory.zswap.max", self.memory_zswap_max);
        all.put("memory.min", self.memory_min);
        all.put("memory.low", self.memory_low);
        all.put("memory.high", self.memory_high);
        all.put("memory.max", self.memory_max);
        all.put("pids.max", self.pids_max);
        for (device, max) in self.io_max.iter().filter(|(_, max)| !max.is_empty()) {
            all.put("io.max", Some(format_args!("{device} {max}")));
        }
        all.put("io.weight", self.io_weight.map(|weight| format!("default {weight}")));
        for (device, weight) in &self.io_weight_device {
            all.put("io.weight", Some(format_args!("{device} {weight}")));
        }
        all.put("io.bfq.weight", self.io_bfq_weight.map(|weight| format!("default {weight}")));
        for (device, weight) in &self.io_bfq_weight_device {
            all.put("io.bfq.weight", Some(format_args!("{device} {weight}")));
        }
        for (device, target) in &self.io_latency {
            all.put("io.latency", Some(format_args!("{device} target={target}")));
        }
        for (size, max) in &self.hugetlb_max {
            all.0.push((format!("hugetlb.{size}.max"), max.to_string()));
        }
        for (size, max) in &self.hugetlb_rsvd_max {
            all.0.push((format!("hugetlb.{size}.rsvd.max"), max.to_string()));
        }
        for (device, max) in self.rdma_max.iter().filter(|(_, max)| !max.is_empty()) {
            all.put("rdma.max", Some(format_args!("{device} {max}")));
        }
        all.0.extend(self.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
        all.0
    }

    /// Checks every value against the ranges that the kernel documents, without asking it.
    ///
    /// # Errors
    /// `InvalidLimit`, naming the first file whose value the kernel would refuse.
    pub fn validate(&self) -> Result<()> {
        let weight = |file: &str, weight: &u64| match weight {
            1..=10_000 => Ok(()),
            other => Err(Error::limit(file, other, "a weight is from 1 to 10000")),
        };
        if let Some(max) = self.cpu_max {
            max.validate()?;
        }
        if let (Some(CpuMax { quota: Some(quota), .. }), Some(burst)) = (self.cpu_max, self.cpu_max_burst)
            && burst > quota
        {
            return Err(Error::limit("cpu.max.burst", burst, "a burst is at most the quota of cpu.max"));
        }
        if let Some(value) = &self.cpu_weight {
            weight("cpu.weight", value)?;
            if self.cpu_idle == Some(true) {
                return Err(Error::limit(
                    "cpu.weight",
                    value,
                    "cpu.idle is set, which takes the weight away",
                ));
            }
        }
        if let Some(value) = &self.io_weight {
            weight("io.weight", value)?;
        }
        self.io_weight_device.values().try_for_each(|value| weight("io.weight", value))?;
        let bfq = self.io_bfq_weight.iter().chain(self.io_bfq_weight_device.values());
        if let Some(wrong) = bfq.into_iter().find(|weight| !(1..=1_000).contains(*weight)) {
            return Err(Error::limit("io.bfq.weight", wrong, "a weight of bfq is from 1 to 1000"));
        }
        for (device, max) in &self.io_max {
            if max.values().any(|value| value == Max::Value(0)) {
                return Err(Error::limit("io.max", format_args!("{device} {max}"), "a rate is above 0"));
            }
        }
        for size in self.hugetlb_max.keys().chain(self.hugetlb_rsvd_max.keys()) {
            if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(Error::limit("hugetlb.SIZE.max", size, "a size is a word such as 2MB"));
            }
        }
        for (device, max) in &self.rdma_max {
            if device.is_empty() || !device.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Error::limit("rdma.max", device, "a device is a word such as mlx5_0"));
            }
            if max.values().any(|value| matches!(value, Max::Value(count) if count > i32::MAX as u64)) {
                return Err(Error::limit("rdma.max", max, "a count is at most 2147483647"));
            }
        }
        self.unified.iter().try_for_each(|(file, value)| unified(file, value))
    }
}

/// Whether a file by name is a limit at all.
fn unified(file: &str, value: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let wrong = |why| Err(Error::limit(file, value, why));
    match file {
        "cgroup.procs" | "cgroup.threads" | "cgroup.kill" | "cgroup.freeze" | "cgroup.type" => {
            wrong("this file acts on processes and is not a limit")
        }
        _ if !file.bytes().all(plain) || !file.contains('.') || file.starts_with('.') => {
            wrong("the file's name is not of the form CONTROLLER.NAME")
        }
        _ if value.contains('\0') => wrong("a value has no NUL in it"),
        _ => Ok(()),
    }
}

struct Writes(Vec<(String, String)>);

impl Writes {
    fn put(&mut self, file: &str, value: Option<impl std::fmt::Display>) {
        let Some(value) = value else { return };
        let mut text = String::new();
        let _ = write!(text, "{value}");
        self.0.push((file.to_owned(), text));
    }
}
