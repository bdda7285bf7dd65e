//! `linux.resources`: converts the numbers of cgroup v1 to limits of v2.

use std::fmt;

use cgroup_core::device::{Access, Kind, Rule};
use cgroup_core::{Device, IoMax, Limits, Max, RdmaMax, v1};
use oci_spec::runtime::{self, LinuxDeviceType};

use super::process::cpus;
use crate::Error;

/// Checks the rules of the schema that the types do not express.
pub(super) fn check(given: &runtime::LinuxResources) -> Result<(), Error> {
    for (index, limit) in given.hugepage_limits().iter().flatten().enumerate() {
        let path = format!("hugepageLimits[{index}]");
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| limit.page_size().strip_suffix(unit));
        if !digits.is_some_and(|digits| {
            matches!(digits.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit))
        }) {
            let problem = format!("{:?} is not a size such as 2MB", limit.page_size());
            return bad(format!("{path}.pageSize"), problem);
        }
        if limit.limit() < 0 {
            return bad(format!("{path}.limit"), "must be at least 0");
        }
    }
    Ok(())
}

/// Converts `linux.resources`, or the resources of an `update`, to limits and device rules. The default rules
/// of every container come last. The rules are `None` if the resources have no list of devices.
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups);
/// [`v1`] has the conversion of each number.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), with the JSON path of the field: the value is
/// invalid, or cgroup v2 has no such limit.
pub fn resources(given: &runtime::LinuxResources) -> Result<(Limits, Option<Vec<Rule>>), Error> {
    check(given)?;
    let mut limits = Limits::default();
    given.memory().as_ref().map_or(Ok(()), |given| memory(given, &mut limits))?;
    given.cpu().as_ref().map_or(Ok(()), |given| cpu(given, &mut limits))?;
    given.block_io().as_ref().map_or(Ok(()), |given| block_io(given, &mut limits))?;
    given.network().as_ref().map_or(Ok(()), network)?;
    if let Some(pids) = given.pids() {
        // With a limit of 0 the first process could not start, and systemd rejects 0. runc 1.4 does the same.
        let limit = if pids.limit() == 0 { 1 } else { pids.limit() };
        limits.pids_max = at("pids.limit", v1::max("pids.max", limit))?;
    }
    for limit in given.hugepage_limits().iter().flatten() {
        let max = Max::Value(limit.limit().unsigned_abs());
        limits.hugetlb_max.insert(limit.page_size().clone(), max);
        limits.hugetlb_rsvd_max.insert(limit.page_size().clone(), max);
    }
    for (device, given) in given.rdma().iter().flatten() {
        let max = |count: Option<u32>| count.map(|count| Max::Value(count.into()));
        let max = RdmaMax { hca_handle: max(given.hca_handles()), hca_object: max(given.hca_objects()) };
        if max.is_empty() {
            return bad(format!("rdma.{device}"), "requires hcaHandles or hcaObjects");
        }
        let one = Limits { rdma_max: [(device.clone(), max)].into(), ..Limits::default() };
        at(format!("rdma.{device}"), one.validate())?;
        limits.rdma_max.extend(one.rdma_max);
    }
    for (file, value) in given.unified().iter().flatten() {
        let one = Limits { unified: [(file.clone(), value.clone())].into(), ..Limits::default() };
        at(format!("unified.{file}"), one.validate())?;
        limits.unified.extend(one.unified);
    }
    let mut devices = given.devices().as_deref().map(rules).transpose()?;
    devices.iter_mut().for_each(|rules| rules.extend(cgroup_core::device::DEFAULT));
    Ok((limits, devices))
}

fn bad<T>(field: impl fmt::Display, problem: impl fmt::Display) -> Result<T, Error> {
    Err(Error::invalid(&format!("linux.resources.{field}"), problem))
}

fn at<T>(field: impl fmt::Display, result: cgroup_core::Result<T>) -> Result<T, Error> {
    result.or_else(|problem| bad(field, problem))
}

fn v2_cannot(field: &str, asked: bool) -> Result<(), Error> {
    match asked {
        true => bad(field, "cgroup v2 has no such limit"),
        false => Ok(()),
    }
}

#[allow(deprecated)] // Some configurations still have these fields.
fn memory(given: &runtime::LinuxMemory, limits: &mut Limits) -> Result<(), Error> {
    let max = |name: &str, value: Option<i64>| {
        let field = format!("memory.{name}");
        at(&field, v1::max(&field, value.unwrap_or(0)))
    };
    limits.memory_max = max("limit", given.limit())?;
    limits.memory_low = max("reservation", given.reservation())?;
    let both = max("swap", given.swap())?;
    limits.memory_swap_max = at("memory.swap", v1::swap_max(limits.memory_max, both))?;
    let asks = |value: Option<i64>| !matches!(value, None | Some(0 | -1));
    v2_cannot("memory.kernel", asks(given.kernel()))?;
    v2_cannot("memory.kernelTCP", asks(given.kernel_tcp()))?;
    v2_cannot("memory.swappiness", given.swappiness().is_some_and(|value| value != 0))?;
    v2_cannot("memory.disableOOMKiller", given.disable_oom_killer() == Some(true))
}

fn cpu(given: &runtime::LinuxCpu, limits: &mut Limits) -> Result<(), Error> {
    let (quota, period) = (given.quota().unwrap_or(0), given.period().unwrap_or(0));
    if let Some(max) = v1::cpu_max(quota, period) {
        let alone = |quota, period| {
            let max = cgroup_core::CpuMax { quota, period };
            Limits { cpu_max: Some(max), ..Limits::default() }.validate()
        };
        at("cpu.period", alone(None, max.period))?;
        at("cpu.quota", alone(max.quota, max.period))?;
        limits.cpu_max = Some(max);
    }
    limits.cpu_max_burst = given.burst();
    let together = Limits { cpu_max: limits.cpu_max, cpu_max_burst: given.burst(), ..Limits::default() };
    at("cpu.burst", together.validate())?;
    limits.cpu_idle = match given.idle() {
        None => None,
        Some(0) => Some(false),
        Some(1) => Some(true),
        Some(_) => return bad("cpu.idle", "must be 0 or 1"),
    };
    // An idle cgroup has no weight.
    if limits.cpu_idle != Some(true) {
        limits.cpu_weight = v1::cpu_weight(given.shares().unwrap_or(0));
    }
    v2_cannot("cpu.realtimeRuntime", given.realtime_runtime().is_some_and(|value| value != 0))?;
    v2_cannot("cpu.realtimePeriod", given.realtime_period().is_some_and(|value| value != 0))?;
    let list = |name: &str, list: &Option<String>| {
        let list = list.as_deref().filter(|list| !list.trim().is_empty());
        list.map(|list| cpus(&format!("linux.resources.cpu.{name}"), list)).transpose()
    };
    limits.cpuset_cpus = list("cpus", given.cpus())?;
    limits.cpuset_mems = list("mems", given.mems())?;
    Ok(())
}

type Field = fn(&mut IoMax) -> &mut Option<Max>;

fn block_io(given: &runtime::LinuxBlockIo, limits: &mut Limits) -> Result<(), Error> {
    let weight = given.weight().unwrap_or(0);
    limits.io_weight = at("blockIO.weight", v1::io_weight(weight))?;
    limits.io_bfq_weight = (weight != 0).then_some(weight.into());
    v2_cannot("blockIO.leafWeight", given.leaf_weight().is_some_and(|weight| weight != 0))?;
    for (index, given) in given.weight_device().iter().flatten().enumerate() {
        let field = format!("blockIO.weightDevice[{index}]");
        let device = device(&field, given.major(), given.minor())?;
        v2_cannot(&format!("{field}.leafWeight"), given.leaf_weight().is_some_and(|weight| weight != 0))?;
        let weight = given.weight().unwrap_or(0);
        if let Some(converted) = at(format!("{field}.weight"), v1::io_weight(weight))? {
            limits.io_weight_device.insert(device, converted);
            limits.io_bfq_weight_device.insert(device, weight.into());
        }
    }
    let throttles: [(&str, &Option<Vec<_>>, Field); 4] = [
        ("throttleReadBpsDevice", given.throttle_read_bps_device(), |max| &mut max.rbps),
        ("throttleWriteBpsDevice", given.throttle_write_bps_device(), |max| &mut max.wbps),
        ("throttleReadIOPSDevice", given.throttle_read_iops_device(), |max| &mut max.riops),
        ("throttleWriteIOPSDevice", given.throttle_write_iops_device(), |max| &mut max.wiops),
    ];
    for (name, given, field) in throttles {
        for (index, given) in given.iter().flatten().enumerate() {
            let device = device(&format!("blockIO.{name}[{index}]"), given.major(), given.minor())?;
            let rate = if given.rate() == 0 { Max::Max } else { Max::Value(given.rate()) };
            *field(limits.io_max.entry(device).or_default()) = Some(rate);
        }
    }
    Ok(())
}

fn device(field: &str, major: i64, minor: i64) -> Result<Device, Error> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(Device::new(major, minor)),
        (Err(_), _) => bad(format!("{field}.major"), format!("{major} is not a device number")),
        _ => bad(format!("{field}.minor"), format!("{minor} is not a device number")),
    }
}

fn network(given: &runtime::LinuxNetwork) -> Result<(), Error> {
    v2_cannot("network.classID", given.class_id().is_some_and(|id| id != 0))?;
    v2_cannot("network.priorities", given.priorities().as_ref().is_some_and(|all| !all.is_empty()))
}

fn rules(given: &[runtime::LinuxDeviceCgroup]) -> Result<Vec<Rule>, Error> {
    given.iter().enumerate().map(|(index, rule)| device_rule(&format!("devices[{index}]"), rule)).collect()
}

fn device_rule(field: &str, given: &runtime::LinuxDeviceCgroup) -> Result<Rule, Error> {
    let kind = match given.typ() {
        None | Some(LinuxDeviceType::A) => Kind::All,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
        Some(LinuxDeviceType::B) => Kind::Block,
        Some(LinuxDeviceType::P) => {
            return bad(format!("{field}.type"), "a device rule cannot apply to named pipes");
        }
    };
    let number = |name: &str, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => bad(
                format!("{field}.{name}"),
                format!("{number} is neither a device number nor -1, which means all"),
            ),
        },
    };
    let (major, minor) = (number("major", given.major())?, number("minor", given.minor())?);
    let access = match given.access().as_deref() {
        None | Some("") => Access::all(),
        Some(text) => at(format!("{field}.access"), text.parse())?,
    };
    Ok(Rule { allow: given.allow(), kind, major, minor, access })
}
