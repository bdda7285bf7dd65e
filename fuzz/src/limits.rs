//! Limits with values inside and outside the ranges that the kernel accepts.

use arbitrary::{Result, Unstructured};
use cgroup_core::{CpuMax, Device, IoMax, Limits, Max, RdmaMax, net};

use crate::{maybe, several};

/// Returns any limits.
pub fn any(u: &mut Unstructured<'_>) -> Result<Limits> {
    let device = |u: &mut Unstructured<'_>| Ok(Device::new(u.arbitrary()?, u.int_in_range(0..=20)?));
    let weight = |u: &mut Unstructured<'_>| u.int_in_range(0..=10_001);
    let size = |u: &mut Unstructured<'_>| Ok(u.choose(&["2MB", "1GB", "", "../x"])?.to_string());
    let unified = |u: &mut Unstructured<'_>| {
        let files = ["memory.high", "cgroup.procs", "misc.max", "../x.y", "x", "io.cost.qos"];
        Ok((u.choose(&files)?.to_string(), u.arbitrary()?))
    };
    Ok(Limits {
        cpu_max: maybe(u, cpu_max)?,
        cpu_max_burst: maybe(u, |u| u.int_in_range(0..=2_000_000))?,
        cpu_weight: maybe(u, weight)?,
        cpu_idle: u.arbitrary()?,
        cpuset_cpus: maybe(u, |u| {
            Ok(several(u, 8, |u| u.arbitrary::<u8>())?.into_iter().map(u32::from).collect())
        })?,
        cpuset_mems: None,
        memory_min: maybe(u, max)?,
        memory_low: maybe(u, max)?,
        memory_high: maybe(u, max)?,
        memory_max: maybe(u, max)?,
        memory_swap_max: maybe(u, max)?,
        memory_zswap_max: maybe(u, max)?,
        memory_oom_group: u.arbitrary()?,
        pids_max: maybe(u, max)?,
        io_max: several(u, 3, |u| Ok((device(u)?, io_max(u)?)))?.into_iter().collect(),
        io_weight: maybe(u, weight)?,
        io_weight_device: several(u, 2, |u| Ok((device(u)?, weight(u)?)))?.into_iter().collect(),
        io_bfq_weight: maybe(u, weight)?,
        io_bfq_weight_device: several(u, 2, |u| Ok((device(u)?, weight(u)?)))?.into_iter().collect(),
        io_latency: several(u, 2, |u| Ok((device(u)?, u.arbitrary()?)))?.into_iter().collect(),
        hugetlb_max: several(u, 2, |u| Ok((size(u)?, max(u)?)))?.into_iter().collect(),
        hugetlb_rsvd_max: several(u, 2, |u| Ok((size(u)?, max(u)?)))?.into_iter().collect(),
        rdma_max: several(u, 2, |u| {
            let device = u.choose(&["mlx5_0", "", "a b"])?.to_string();
            Ok((device, RdmaMax { hca_handle: maybe(u, max)?, hca_object: maybe(u, max)? }))
        })?
        .into_iter()
        .collect(),
        unified: several(u, 2, unified)?.into_iter().collect(),
        net: maybe(u, net)?,
    })
}

fn net(u: &mut Unstructured<'_>) -> Result<net::Limits> {
    let rule = |u: &mut Unstructured<'_>| {
        let rules = ["*", "10.0.0.0/8:80-81/tcp", "in [2001:db8::/32]:53", "bind 127.0.0.1/32/udp"];
        let mut rule: net::Rule = u.choose(&rules)?.parse().expect("the text is a rule");
        // The text of a rule with an empty range is rejected, so it does not survive JSON.
        rule.ports = maybe(u, |u| {
            let (one, other): (u16, u16) = u.arbitrary()?;
            Ok(one.min(other)..=one.max(other))
        })?;
        Ok(rule)
    };
    Ok(net::Limits {
        allow: several(u, 2, rule)?,
        deny: several(u, 2, rule)?,
        connects_max: maybe(u, |u| u.arbitrary())?,
        accepts_max: maybe(u, |u| u.arbitrary())?,
        packets_max: maybe(u, |u| u.arbitrary())?,
        egress_max: maybe(u, |u| u.int_in_range(0..=1 << 36))?,
        ingress_max: maybe(u, |u| u.int_in_range(0..=1 << 36))?,
        egress_burst: maybe(u, |u| u.int_in_range(0..=1 << 36))?,
        ingress_burst: maybe(u, |u| u.int_in_range(0..=1 << 36))?,
        sockets_max: maybe(u, |u| u.arbitrary())?,
    })
}

fn max(u: &mut Unstructured<'_>) -> Result<Max> {
    Ok(maybe(u, |u| u.arbitrary())?.map_or(Max::Max, Max::Value))
}

fn cpu_max(u: &mut Unstructured<'_>) -> Result<CpuMax> {
    Ok(CpuMax { quota: maybe(u, |u| u.int_in_range(0..=2_000_000))?, period: u.int_in_range(0..=1_000_001)? })
}

fn io_max(u: &mut Unstructured<'_>) -> Result<IoMax> {
    Ok(IoMax { rbps: maybe(u, max)?, wbps: maybe(u, max)?, riops: maybe(u, max)?, wiops: maybe(u, max)? })
}
