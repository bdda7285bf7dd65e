//! Command-line flags for the limits of a cgroup.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cgroup_core::{CpuList, CpuMax, Device, Hierarchy, IoMax, Limits, Max};
use clap::Args;
use nspod_sandbox::ErrorKind;

use super::net::{self, Listed};
use crate::error::{Error, Result};
use crate::value;

// Limits of a container or pod.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits (cgroup v2)")]
pub(crate) struct LimitArgs {
    /// Maximum memory; above it the OOM killer is invoked (memory.max): 64m, 1g, max
    #[arg(short, long, value_name = "BYTES", value_parser = value::max_bytes, allow_hyphen_values = true)]
    memory: Option<Max>,
    /// Maximum memory and swap together, as in docker; memory.swap.max is the difference. With max,
    /// and by default, swap is unlimited
    #[arg(long, value_name = "BYTES", value_parser = value::max_bytes, allow_hyphen_values = true, requires = "memory")]
    memory_swap: Option<Max>,
    /// Memory that is reclaimed last (memory.low)
    #[arg(long, value_name = "BYTES", value_parser = value::max_bytes, visible_alias = "memory-low")]
    memory_reservation: Option<Max>,
    /// Memory that is never reclaimed (memory.min)
    #[arg(long, value_name = "BYTES", value_parser = value::max_bytes)]
    memory_min: Option<Max>,
    /// Memory above which the processes are throttled and memory is reclaimed (memory.high)
    #[arg(long, value_name = "BYTES", value_parser = value::max_bytes)]
    memory_high: Option<Max>,
    /// Number of processors (cpu.max): 0.5, 2
    #[arg(long, value_name = "NUMBER", value_parser = value::cpus)]
    cpus: Option<CpuMax>,
    /// Share of processor time among siblings, 2 to 262144, converted to cpu.weight
    #[arg(short, long, value_name = "SHARES", value_parser = value::cpu_shares, conflicts_with = "cpu_weight")]
    cpu_shares: Option<u64>,
    /// Share of processor time among siblings, 1 to 10000 (cpu.weight)
    #[arg(long, value_name = "WEIGHT")]
    cpu_weight: Option<u64>,
    /// Processors to run on (cpuset.cpus): 0-3,7
    #[arg(long, value_name = "LIST", value_parser = value::cpu_list)]
    cpuset_cpus: Option<CpuList>,
    /// Memory nodes to allocate from (cpuset.mems)
    #[arg(long, value_name = "LIST", value_parser = value::cpu_list)]
    cpuset_mems: Option<CpuList>,
    /// Maximum number of processes and threads, with the init (pids.max)
    #[arg(long, value_name = "COUNT", value_parser = value::max_count, allow_hyphen_values = true)]
    pids_limit: Option<Max>,
    /// Maximum bytes per second read from a device (io.max rbps)
    #[arg(long, value_name = "PATH:BYTES", value_parser = value::device_bytes)]
    device_read_bps: Vec<(PathBuf, Max)>,
    /// Maximum bytes per second written to a device (io.max wbps)
    #[arg(long, value_name = "PATH:BYTES", value_parser = value::device_bytes)]
    device_write_bps: Vec<(PathBuf, Max)>,
    /// Maximum read operations per second on a device (io.max riops)
    #[arg(long, value_name = "PATH:COUNT", value_parser = value::device_count)]
    device_read_iops: Vec<(PathBuf, Max)>,
    /// Maximum write operations per second on a device (io.max wiops)
    #[arg(long, value_name = "PATH:COUNT", value_parser = value::device_count)]
    device_write_iops: Vec<(PathBuf, Max)>,
    /// Share of device time among siblings, 1 to 10000 (io.weight)
    #[arg(long, value_name = "WEIGHT")]
    io_weight: Option<u64>,
    /// Network that the container may use; all others are denied. Repeat it for more: 10.0.0.0/8,
    /// 10.0.0.0/8:443/tcp, '[2001:db8::/32]:53/udp', 'in *:80/tcp', 'bind *:8000-8010', none
    #[arg(long, value_name = "RULE", value_parser = net::listed)]
    allow_net: Vec<Listed>,
    /// Network that the container may not use, also if --allow-net names it
    #[arg(long, value_name = "RULE", value_parser = net::listed)]
    deny_net: Vec<Listed>,
    /// Maximum TCP connections per second from the container; more fail with EPERM
    #[arg(long, value_name = "COUNT", value_parser = value::max_count, allow_hyphen_values = true)]
    connect_rate: Option<Max>,
    /// Maximum TCP connections per second to the container; more have to wait
    #[arg(long, value_name = "COUNT", value_parser = value::max_count, allow_hyphen_values = true)]
    accept_rate: Option<Max>,
    /// Maximum packets per second, in each direction; more are dropped
    #[arg(long, value_name = "COUNT", value_parser = value::max_count, allow_hyphen_values = true)]
    packet_rate: Option<Max>,
    /// Maximum bits per second from the container: 500kbit, 10mbit, 1gbit
    #[arg(long, value_name = "BITS", value_parser = value::max_bits, allow_hyphen_values = true)]
    egress_rate: Option<Max>,
    /// Maximum bits per second to the container
    #[arg(long, value_name = "BITS", value_parser = value::max_bits, allow_hyphen_values = true)]
    ingress_rate: Option<Max>,
    /// Bytes that may leave the container at once after a pause, above --egress-rate: 64k, 1m. The default is the
    /// bytes of 220 ms, for which `default` stands; with fewer than those of 200 ms, TCP does not reach the rate
    #[arg(long, value_name = "SIZE", value_parser = value::burst)]
    egress_burst: Option<Max>,
    /// Bytes that may arrive at once, above --ingress-rate: a size, or `default`
    #[arg(long, value_name = "SIZE", value_parser = value::burst)]
    ingress_burst: Option<Max>,
    /// Maximum number of IPv4 and IPv6 sockets that the container has open, without those that it
    /// accepts; more fail with EPERM
    #[arg(long, value_name = "COUNT", value_parser = value::max_count, allow_hyphen_values = true)]
    max_sockets: Option<Max>,
    /// Any file of cgroup v2, with its name in the kernel: memory.oom.group=1
    #[arg(long, value_name = "FILE=VALUE", value_parser = value::pair)]
    limit: Vec<(String, String)>,
}

impl LimitArgs {
    /// Returns the limits of a new container or pod.
    pub(crate) fn resolve(&self) -> Result<Limits> {
        let limits = self.named()?;
        limits.validate()?;
        Ok(limits)
    }

    /// Returns the named limits, which can be valid only beside others.
    pub(crate) fn named(&self) -> Result<Limits> {
        let mut limits = Limits {
            memory_max: self.memory,
            memory_low: self.memory_reservation,
            memory_min: self.memory_min,
            memory_high: self.memory_high,
            cpu_max: self.cpus,
            cpu_weight: self.cpu_weight.or(self.cpu_shares),
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_max: self.pids_limit,
            io_weight: self.io_weight,
            unified: self.limit.iter().cloned().collect(),
            net: self.net(None),
            ..Limits::default()
        };
        limits.memory_swap_max = match (self.memory_swap, self.memory) {
            (None, _) => None,
            (Some(Max::Value(both)), Some(Max::Value(memory))) => match both.checked_sub(memory) {
                Some(swap) => Some(Max::Value(swap)),
                None => {
                    let problem = format!(
                        "--memory-swap is memory and swap together: {both} bytes are less than the {memory} of --memory"
                    );
                    return Err(Error::usage("--memory-swap", problem));
                }
            },
            (Some(_), _) => Some(Max::Max),
        };
        type Field = fn(&mut IoMax) -> &mut Option<Max>;
        let rates: [(&[(PathBuf, Max)], Field); 4] = [
            (&self.device_read_bps, |io| &mut io.rbps),
            (&self.device_write_bps, |io| &mut io.wbps),
            (&self.device_read_iops, |io| &mut io.riops),
            (&self.device_write_iops, |io| &mut io.wiops),
        ];
        for (given, field) in rates {
            for (path, rate) in given {
                *field(limits.io_max.entry(block_device(path)?).or_default()) = Some(*rate);
            }
        }
        Ok(limits)
    }

    /// Returns the network limits before, changed by the flags. Returns `None` without a flag.
    pub(crate) fn net(&self, before: Option<&cgroup_core::net::Limits>) -> Option<cgroup_core::net::Limits> {
        let counts = [self.connect_rate, self.accept_rate, self.packet_rate, self.max_sockets];
        let bytes = [(self.egress_rate, self.egress_burst), (self.ingress_rate, self.ingress_burst)];
        net::resolve(before, [&self.allow_net, &self.deny_net], counts, bytes)
    }
}

/// Returns the device number of a disk, from the path of its node or from `MAJOR:MINOR`.
fn block_device(path: &Path) -> Result<Device> {
    if let Some(device) = path.to_str().and_then(|text| text.parse().ok()) {
        return Ok(device);
    }
    let meta = path.metadata().map_err(|e| Error::io("look", "look at", path, &e))?;
    if !meta.file_type().is_block_device() {
        let problem = format!("{} is not a block device: name a disk such as /dev/sda", path.display());
        return Err(Error::new(ErrorKind::InvalidInput, "limits", problem).on(path.display()));
    }
    Ok(device_number(meta.rdev()))
}

pub(crate) fn device_number(rdev: u64) -> Device {
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    Device::new(major as u32, minor as u32)
}

/// Removes the limits whose controller this host does not have. Returns a note for each.
pub(crate) fn relax(limits: &mut Limits) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (file, missing) in Hierarchy::detect()?.unenforceable(limits) {
        limits.remove(&file);
        notes.push(format!("{file} is not enforced: {missing}"));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;

    fn limits(flags: &[&str]) -> Result<Limits> {
        parse::<LimitArgs>(flags)?.resolve()
    }

    fn writes(flags: &[&str]) -> Vec<String> {
        let all = limits(flags).unwrap().writes();
        all.into_iter().map(|(file, value)| format!("{file}={value}")).collect()
    }

    #[test]
    fn each_flag_sets_the_kernels_file() {
        for (flags, file) in [
            (vec!["-m", "64m"], "memory.max=67108864"),
            (vec!["--memory", "-1"], "memory.max=max"),
            (vec!["--memory-low=1k"], "memory.low=1024"),
            (vec!["--cpus", "1.5"], "cpu.max=150000 100000"),
            (vec!["--cpu-shares", "1024"], "cpu.weight=100"),
            (vec!["--cpu-weight", "300"], "cpu.weight=300"),
            (vec!["--cpuset-cpus", "0-1"], "cpuset.cpus=0-1"),
            (vec!["--pids-limit", "100"], "pids.max=100"),
            (vec!["--device-read-bps", "8:0:1m"], "io.max=8:0 rbps=1048576"),
            (vec!["--limit", "memory.oom.group=1"], "memory.oom.group=1"),
        ] {
            assert_eq!(writes(&flags), [file], "{flags:?}");
        }
        assert_eq!(writes(&[]), [""; 0]);
    }

    #[test]
    fn the_swap_limit_is_the_part_above_memory() {
        assert_eq!(
            writes(&["-m", "1m", "--memory-swap", "3m"]),
            ["memory.swap.max=2097152", "memory.max=1048576"]
        );
        assert_eq!(
            writes(&["-m", "1m", "--memory-swap", "-1"]),
            ["memory.swap.max=max", "memory.max=1048576"]
        );
        let error = limits(&["-m", "2m", "--memory-swap", "1m"]).unwrap_err();
        assert!(error.to_string().contains("less than the 2097152 of --memory"), "{error}");
        nspod_testkit::assert_refused(limits(&["--memory-swap", "1m"]), "--memory");
    }

    #[test]
    fn several_rates_of_a_device_are_one_line() {
        let flags = ["--device-read-bps", "8:0:1m", "--device-write-iops", "8:0:20"];
        assert_eq!(writes(&flags), ["io.max=8:0 rbps=1048576 wiops=20"]);
    }

    #[test]
    fn a_rate_requires_a_block_device() {
        let error = limits(&["--device-read-bps", "/dev/null:1m"]).unwrap_err();
        assert_eq!(error.to_string(), "/dev/null is not a block device: name a disk such as /dev/sda");
    }

    #[test]
    fn values_that_the_kernel_would_refuse_are_refused() {
        nspod_testkit::assert_refused(limits(&["--cpu-weight", "0"]), "cpu.weight");
        nspod_testkit::assert_refused(limits(&["--limit", "cgroup.procs=1"]), "cgroup.procs");
    }
}
