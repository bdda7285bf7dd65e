//! The table of all limits: the fields of [`Limits`], and for each its file, the values that the
//! kernel accepts, its systemd property, its cgroup v1 name and its requirements.
//!
//! # Adding a limit
//! Add one entry to `limits!` below, at its place in the order of writes:
//!
//! ```text
//! /// `misc.max`: maximum number of …, with units, first kernel version and section.
//! "misc.max" misc_max: BTreeMap<String, Max> = { since: "5.13" };
//! ```
//!
//! The string is the key in JSON and the name of the file. The type is `Option` of a value, or a
//! `BTreeMap` from a device (a line of the file for each) or from a page size (a file for each,
//! with `SIZE` in its name). The attributes are the fields of [`Limit`]; those left out have the
//! values of `Limit::NONE`. Serialization, [`writes`](Limits::writes),
//! [`validate`](Limits::validate), [`merge`](Limits::merge), [`remove`](Limits::remove),
//! [`Property::of_limits`](crate::systemd::Property::of_limits) and the messages follow from the
//! entry. A value of a new type implements `Value` in `setting.rs`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use nix::errno::Errno;

use super::setting::{FileFormat, Setting};
use super::values::{CpuMax, IoMax, Max, RdmaMax};
use crate::cpu_list::CpuList;
use crate::device_number::Device;

/// The file, range, requirements and equivalents of one limit.
#[derive(Debug)]
pub(crate) struct Limit {
    /// The file and the prefix of the value. `None`: the file has the name of the key, and the
    /// value has no prefix.
    format: Option<FileFormat>,
    /// Checks the value, without asking the kernel.
    check: fn(&Limits) -> Check,
    /// The systemd property for the same limit.
    pub(crate) systemd: Systemd,
    /// The names of the same limit in cgroup v1.
    v1: &'static [&'static str],
    /// The first kernel version that has the file in v2.
    since: &'static str,
    /// The kernel options that the file requires.
    requires: &'static str,
    /// The likely causes of an errno from a write to the file.
    causes: &'static [(Errno, &'static str)],
    /// The file of another mechanism for the same purpose. If both are set, one is enough.
    pub(crate) alternative: Option<&'static str>,
    field: Field,
    key: &'static str,
}

/// The systemd property of a limit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Systemd {
    /// systemd has no property for this limit.
    None,
    /// A `u64`, with `max` as the greatest number.
    Number(&'static str),
    /// Like `Number`, for a property that cannot be 0.
    Positive(&'static str),
    /// A bit mask of processors or memory nodes.
    Mask(&'static str),
    /// `CPUQuotaPeriodUSec` and `CPUQuotaPerSecUSec`.
    Quota,
    /// A `CPUWeight` of 0 if the value is 1, and no property otherwise.
    Idle,
}

/// Access to the field of [`Limits`], with its type erased.
#[derive(Debug)]
struct Field {
    write: fn(&Limits, FileFormat, &mut Vec<(String, String)>),
    merge: fn(&mut Limits, &Limits),
    take: fn(&mut Limits, &mut Limits, FileFormat, &str),
    replaces: fn(&Limits) -> bool,
}

/// A value out of range, and why.
type Check = Result<(), (String, &'static str)>;

impl Limit {
    const NONE: Self = Self {
        format: None,
        check: |_| Ok(()),
        systemd: Systemd::None,
        v1: &[],
        since: "",
        requires: "",
        causes: &[],
        alternative: None,
        field: Field { write: |_, _, _| {}, merge: |_, _| {}, take: |_, _, _, _| {}, replaces: |_| false },
        key: "",
    };

    /// Returns the first limit with this file.
    pub(crate) fn of_file(file: &str) -> Option<&'static Self> {
        TABLE.iter().find(|limit| limit.file() == file || limit.format().size_in(file).is_some())
    }

    /// Returns the requirements of the file, as the end of a sentence.
    pub(crate) fn requirement(file: &str) -> String {
        if let Some(limit) = Self::of_file(file) {
            let options = if limit.requires.is_empty() { "" } else { " and " };
            return format!("it requires Linux {} or later{options}{}", limit.since, limit.requires);
        }
        let is_v1 = |name: &&'static str| {
            *name == file || FileFormat { file: name, prefix: "" }.size_in(file).is_some()
        };
        match TABLE.iter().find(|limit| limit.v1.iter().any(is_v1)) {
            Some(limit) => format!("this is a name of cgroup v1: use {}", limit.file()),
            None => "check the name; this kernel does not know it".to_owned(),
        }
    }

    /// Returns the likely cause of an errno from a write to the file.
    pub(crate) fn cause(file: &str, errno: Errno) -> Option<&'static str> {
        let causes = Self::of_file(file)?.causes;
        causes.iter().find(|(cause, _)| *cause == errno).map(|(_, text)| *text)
    }

    /// Returns the name of the file.
    pub(super) fn file(&self) -> &'static str {
        self.format().file
    }

    fn format(&self) -> FileFormat {
        self.format.unwrap_or(FileFormat { file: self.key, prefix: "" })
    }

    pub(super) fn check(&self, limits: &Limits) -> Check {
        (self.check)(limits)
    }

    pub(super) fn write(&self, limits: &Limits, writes: &mut Vec<(String, String)>) {
        (self.field.write)(limits, self.format(), writes);
    }

    pub(super) fn merge(&self, limits: &mut Limits, new: &Limits) {
        (self.field.merge)(limits, new);
        // The files of `unified` are written last and would undo the new value.
        if (self.field.replaces)(new) {
            limits.unified.remove(self.file());
        }
    }

    pub(super) fn take(&self, limits: &mut Limits, taken: &mut Limits, file: &str) {
        (self.field.take)(limits, taken, self.format(), file);
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $key:literal $field:ident: $type:ty = { $($attribute:ident: $value:expr),* $(,)? };)*) => {
        /// The limits of a cgroup. Each field is a file of the kernel, with underscores for the dots
        /// in its name, and has the kernel's units: bytes, microseconds, processes. `None` and an
        /// empty map leave the file as it is.
        ///
        /// With the feature `serde` the keys are the names of the files: `{"memory.max": 1048576}`.
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
            $(
                $(#[$doc])*
                #[cfg_attr(feature = "serde", serde(rename = $key, skip_serializing_if = "Setting::is_unset"))]
                pub $field: $type,
            )*
            /// Other files by name, as in OCI's `unified`. They are written last, in the order of
            /// their names.
            #[cfg_attr(feature = "serde", serde(skip_serializing_if = "BTreeMap::is_empty"))]
            pub unified: BTreeMap<String, String>,
            /// Network limits, which programs of the cgroup enforce and no file has. They are set after
            /// the files, and replace all network limits that were set before.
            #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
            pub net: Option<crate::net::Limits>,
        }

        /// All limits, in the order in which they are written.
        #[allow(clippy::needless_update, reason = "an entry can give all attributes")]
        pub(super) static TABLE: &[Limit] = &[$(Limit {
            key: $key,
            field: Field {
                write: |limits, format, writes| Setting::write(&limits.$field, format, writes),
                merge: |limits, new| Setting::merge(&mut limits.$field, &new.$field),
                take: |limits, taken, format, file| taken.$field = Setting::take(&mut limits.$field, format, file),
                replaces: |limits| <$type as Setting>::REPLACES && !limits.$field.is_unset(),
            },
            $($attribute: $value,)*
            ..Limit::NONE
        }),*];
    };
}

limits! {
    /// `cpu.max`: maximum processor time in each period, in µs. Since Linux 4.15. Section "CPU
    /// Interface Files".
    "cpu.max" cpu_max: Option<CpuMax> = {
        check: |limits| match limits.cpu_max {
            Some(max) => max.check().map_err(|why| (max.to_string(), why)),
            None => Ok(()),
        },
        systemd: Systemd::Quota,
        v1: &["cpu.cfs_quota_us", "cpu.cfs_period_us"],
        since: "4.15",
        requires: "CONFIG_CFS_BANDWIDTH",
        causes: &[(
            Errno::EINVAL,
            "the quota is below cpu.max.burst, the quota or the period is out of range, or an ancestor has a lower realtime budget",
        )],
    };
    /// `cpu.max.burst`: unused quota that may be accumulated, in µs, at most the quota. Since
    /// Linux 5.14. Section "CPU Interface Files".
    "cpu.max.burst" cpu_max_burst: Option<u64> = {
        check: |limits| match (limits.cpu_max.and_then(|max| max.quota), limits.cpu_max_burst) {
            (Some(quota), Some(burst)) if burst > quota => {
                Err((burst.to_string(), "it must be at most the quota of cpu.max"))
            }
            _ => Ok(()),
        },
        v1: &["cpu.cfs_burst_us"],
        since: "5.14",
        requires: "CONFIG_CFS_BANDWIDTH",
    };
    /// `cpu.idle`: whether the processes run only when no other process is ready to run. Excludes
    /// `cpu.weight`, and is written before it, because the kernel rejects a weight while the cgroup
    /// is idle. Since Linux 5.15. Section "CPU Interface Files".
    "cpu.idle" cpu_idle: Option<bool> = {
        systemd: Systemd::Idle,
        since: "5.15",
        requires: "CONFIG_FAIR_GROUP_SCHED",
    };
    /// `cpu.weight`: share of processor time among siblings, from 1 to 10000; the kernel's default
    /// is 100. Since Linux 4.15. Section "CPU Interface Files".
    "cpu.weight" cpu_weight: Option<u64> = {
        check: |limits| match limits.cpu_weight {
            Some(weight) if limits.cpu_idle == Some(true) => {
                Err((weight.to_string(), "an idle cgroup (cpu.idle) has no weight"))
            }
            _ => in_range(&limits.cpu_weight, WEIGHT),
        },
        systemd: Systemd::Number("CPUWeight"),
        v1: &["cpu.shares"],
        since: "4.15",
        requires: "CONFIG_FAIR_GROUP_SCHED",
        causes: &[(Errno::EINVAL, "the cgroup is idle (cpu.idle is 1), or the weight is not from 1 to 10000")],
    };
    /// `cpuset.cpus`: processors that the processes may run on. Since Linux 5.0. Section "Cpuset
    /// Interface Files".
    "cpuset.cpus" cpuset_cpus: Option<CpuList> = {
        systemd: Systemd::Mask("AllowedCPUs"),
        v1: &["cpuset.cpus"],
        since: "5.0",
        causes: CPUSET,
    };
    /// `cpuset.mems`: memory nodes that the processes may allocate from. Since Linux 5.0. Section
    /// "Cpuset Interface Files".
    "cpuset.mems" cpuset_mems: Option<CpuList> = {
        systemd: Systemd::Mask("AllowedMemoryNodes"),
        v1: &["cpuset.mems"],
        since: "5.0",
        causes: CPUSET,
    };
    /// `memory.oom.group`: whether the OOM killer kills all processes of the cgroup together. Since
    /// Linux 4.19. Section "Memory Interface Files".
    "memory.oom.group" memory_oom_group: Option<bool> = { since: "4.19" };
    /// `memory.swap.max`: maximum swap in bytes, in addition to `memory.max`. Written before
    /// `memory.max`, so that it is in force when that begins to reclaim. Since Linux 4.5. Section
    /// "Memory Interface Files".
    "memory.swap.max" memory_swap_max: Option<Max> = {
        systemd: Systemd::Number("MemorySwapMax"),
        v1: &["memory.memsw.limit_in_bytes"],
        since: "4.5",
        requires: "CONFIG_SWAP, without swapaccount=0 on the kernel command line",
    };
    /// `memory.zswap.max`: maximum compressed swap in memory, in bytes. Since Linux 5.19. Section
    /// "Memory Interface Files".
    "memory.zswap.max" memory_zswap_max: Option<Max> = { since: "5.19", requires: "CONFIG_ZSWAP" };
    /// `memory.min`: memory in bytes that is never reclaimed. Since Linux 4.18. Section "Memory
    /// Interface Files".
    "memory.min" memory_min: Option<Max> = { systemd: Systemd::Number("MemoryMin"), since: "4.18" };
    /// `memory.low`: memory in bytes that is reclaimed last. Since Linux 4.5. Section "Memory
    /// Interface Files".
    "memory.low" memory_low: Option<Max> = {
        systemd: Systemd::Number("MemoryLow"),
        v1: &["memory.soft_limit_in_bytes"],
        since: "4.5",
    };
    /// `memory.high`: memory in bytes above which the processes are throttled and their memory is
    /// reclaimed. Since Linux 4.5. Section "Memory Interface Files".
    "memory.high" memory_high: Option<Max> = { systemd: Systemd::Positive("MemoryHigh"), since: "4.5" };
    /// `memory.max`: maximum memory in bytes. If the cgroup uses more when this is written, the
    /// kernel reclaims memory and then invokes the OOM killer. Since Linux 4.5. Section "Memory
    /// Interface Files".
    "memory.max" memory_max: Option<Max> = {
        systemd: Systemd::Positive("MemoryMax"),
        v1: &["memory.limit_in_bytes"],
        since: "4.5",
    };
    /// `pids.max`: maximum number of processes and threads. Since Linux 4.5. Section "PID Interface
    /// Files".
    "pids.max" pids_max: Option<Max> = {
        systemd: Systemd::Positive("TasksMax"),
        v1: &["pids.max"],
        since: "4.5",
    };
    /// `io.max`: maximum bytes and operations per second of each device. Since Linux 4.5. Section
    /// "IO Interface Files".
    "io.max" io_max: BTreeMap<Device, IoMax> = {
        check: |limits| {
            let wrong = limits.io_max.iter().find(|(_, max)| max.values().any(|value| value == Max::Value(0)));
            fail(wrong.map(|(device, max)| format!("{device} {max}")), "a rate must be above 0")
        },
        v1: &[
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        ],
        since: "4.5",
        requires: "CONFIG_BLK_DEV_THROTTLING",
        causes: DISK,
    };
    /// `io.weight`: default share of each device's time among siblings, from 1 to 10000; the
    /// kernel's default is 100. Since Linux 4.5, and with the io.cost model since 5.4. Section "IO
    /// Interface Files".
    "io.weight" io_weight: Option<u64> = {
        format: Some(FileFormat { file: "io.weight", prefix: "default " }),
        check: |limits| in_range(&limits.io_weight, WEIGHT),
        systemd: Systemd::Number("IOWeight"),
        v1: &["blkio.weight", "blkio.weight_device"],
        since: "4.5",
        requires: "CONFIG_BLK_CGROUP_IOCOST, or the bfq scheduler",
        causes: DISK_WEIGHT,
        alternative: Some("io.bfq.weight"),
    };
    /// `io.weight` of single devices, from 1 to 10000. Since Linux 4.5, and with the io.cost model
    /// since 5.4. Section "IO Interface Files".
    "io.weight.device" io_weight_device: BTreeMap<Device, u64> = {
        format: Some(FileFormat { file: "io.weight", prefix: "" }),
        check: |limits| in_range(limits.io_weight_device.values(), WEIGHT),
    };
    /// `io.bfq.weight`: the same share on disks with the bfq scheduler, from 1 to 1000; the kernel's
    /// default is 100. If both this and [`io_weight`](Self::io_weight) are set, the kernel needs to
    /// have only one of the two files. Since Linux 4.12. Documentation/block/bfq-iosched.rst.
    "io.bfq.weight" io_bfq_weight: Option<u64> = {
        format: Some(FileFormat { file: "io.bfq.weight", prefix: "default " }),
        check: |limits| in_range(&limits.io_bfq_weight, BFQ_WEIGHT),
        v1: &["blkio.bfq.weight", "blkio.bfq.weight_device"],
        since: "4.12",
        requires: "CONFIG_BFQ_GROUP_IOSCHED, with the module bfq loaded",
        causes: DISK_WEIGHT,
        alternative: Some("io.weight"),
    };
    /// `io.bfq.weight` of single devices, from 1 to 1000. If both this and
    /// [`io_weight_device`](Self::io_weight_device) are set, the disk needs to support only one of
    /// the two. Since Linux 5.4. Documentation/block/bfq-iosched.rst.
    "io.bfq.weight.device" io_bfq_weight_device: BTreeMap<Device, u64> = {
        format: Some(FileFormat { file: "io.bfq.weight", prefix: "" }),
        check: |limits| in_range(limits.io_bfq_weight_device.values(), BFQ_WEIGHT),
    };
    /// `io.latency`: target latency of each device in µs, below which the cgroup is protected. Since
    /// Linux 4.19. Section "IO Latency Interface Files".
    "io.latency" io_latency: BTreeMap<Device, u64> = {
        format: Some(FileFormat { file: "io.latency", prefix: "target=" }),
        since: "4.19",
        requires: "CONFIG_BLK_CGROUP_IOLATENCY",
        causes: DISK,
    };
    /// `hugetlb.SIZE.max`: maximum bytes of huge pages, by page size as the kernel names it: `2MB`,
    /// `1GB`. A page fault above the limit raises SIGBUS. Since Linux 5.6. Section "HugeTLB
    /// Interface Files".
    "hugetlb.max" hugetlb_max: BTreeMap<String, Max> = {
        format: Some(FileFormat { file: "hugetlb.SIZE.max", prefix: "" }),
        check: |limits| page_sizes(&limits.hugetlb_max),
        v1: &["hugetlb.SIZE.limit_in_bytes"],
        since: "5.6",
        requires: PAGE_SIZE,
    };
    /// `hugetlb.SIZE.rsvd.max`: maximum bytes of huge pages that may be reserved. Above the limit
    /// `mmap` fails. Since Linux 5.7. Documentation/admin-guide/cgroup-v1/hugetlb.rst.
    "hugetlb.rsvd.max" hugetlb_rsvd_max: BTreeMap<String, Max> = {
        format: Some(FileFormat { file: "hugetlb.SIZE.rsvd.max", prefix: "" }),
        check: |limits| page_sizes(&limits.hugetlb_rsvd_max),
        v1: &["hugetlb.SIZE.rsvd.limit_in_bytes"],
        since: "5.7",
        requires: PAGE_SIZE,
    };
    /// `rdma.max`: maximum resources of each RDMA device, by its name in `/sys/class/infiniband`.
    /// Since Linux 4.11. Section "RDMA Interface Files".
    "rdma.max" rdma_max: BTreeMap<String, RdmaMax> = {
        check: |limits| {
            let name = |name: &&String| name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic());
            fail(limits.rdma_max.keys().find(name), "the name of a device is a word such as mlx5_0")?;
            let count = |value| matches!(value, Max::Value(count) if count > i32::MAX as u64);
            let max = limits.rdma_max.values().find(|max| max.values().any(count));
            fail(max, "a count must be at most 2147483647")
        },
        v1: &["rdma.max"],
        since: "4.11",
    };
}

type Range = (RangeInclusive<u64>, &'static str);

const WEIGHT: Range = (1..=10_000, "a weight must be from 1 to 10000");
const BFQ_WEIGHT: Range = (1..=1_000, "a bfq weight must be from 1 to 1000");
const PAGE_SIZE: &str = "a page size of this machine, such as 2MB, between the dots";

const CPUSET: &[(Errno, &str)] = &[
    (Errno::EINVAL, "the list has a number that this machine does not have"),
    (Errno::ERANGE, "the list has a number that this machine does not have"),
    (Errno::ENOSPC, "the list would leave the processes of the cgroup without a processor or a memory node"),
];
const DISK: &[(Errno, &str)] = &[(Errno::ENODEV, NO_DISK), (Errno::ENXIO, NO_DISK)];
const DISK_WEIGHT: &[(Errno, &str)] = &[
    (Errno::ENODEV, NO_DISK),
    (Errno::ENXIO, NO_DISK),
    (
        Errno::EOPNOTSUPP,
        "the disk does not support this weight: for io.bfq.weight write bfq to its queue/scheduler, for io.weight enable it in the root's io.cost.qos",
    ),
];
const NO_DISK: &str = "no such disk: name a whole disk as MAJOR:MINOR, not a partition";

fn fail(wrong: Option<impl Display>, why: &'static str) -> Check {
    wrong.map_or(Ok(()), |wrong| Err((wrong.to_string(), why)))
}

fn in_range<'a>(values: impl IntoIterator<Item = &'a u64>, (range, why): Range) -> Check {
    fail(values.into_iter().find(|value| !range.contains(value)), why)
}

fn page_sizes(limits: &BTreeMap<String, Max>) -> Check {
    let word = |size: &&String| size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric());
    fail(limits.keys().find(word), "a page size is a word such as 2MB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_of_the_table_is_found_by_its_name() {
        for limit in TABLE {
            let file = limit.file().replace("SIZE", "2MB");
            let found = Limit::of_file(&file).unwrap();
            assert_eq!(found.file(), limit.file());
            assert!(!found.since.is_empty(), "{file}");
            let alternative = found.alternative.map(|other| Limit::of_file(other).unwrap());
            assert!(alternative.is_none_or(|other| other.alternative == Some(found.file())), "{file}");
        }
        assert_eq!(Limit::of_file("hugetlb.2MB.rsvd.max").unwrap().file(), "hugetlb.SIZE.rsvd.max");
        assert!(Limit::of_file("hugetlb.2MB.events").is_none());
    }

    #[test]
    fn a_v1_file_name_is_refused_with_its_v2_name() {
        let text = Limit::requirement("memory.limit_in_bytes");
        assert_eq!(text, "this is a name of cgroup v1: use memory.max");
        let text = Limit::requirement("hugetlb.2MB.limit_in_bytes");
        assert_eq!(text, "this is a name of cgroup v1: use hugetlb.SIZE.max");
        let text = Limit::requirement("cpu.idle");
        assert_eq!(text, "it requires Linux 5.15 or later and CONFIG_FAIR_GROUP_SCHED");
        assert!(Limit::requirement("x.y").starts_with("check the name"));
    }
}
