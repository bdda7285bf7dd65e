//! How a container ended, and the resources that it used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ns_core::ExitStatus;
use serde::{Deserialize, Serialize};

use crate::spec::StorageLimit;

/// The memory limit that was exceeded: the level of an OOM kill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OomLevel {
    /// `memory.max` of the cgroup of a [call](crate::Container::call), or of a cgroup in it.
    Call,
    /// `memory.max` of the container's cgroup, or of a cgroup in it.
    Container,
    /// `memory.max` of its pod's cgroup.
    Pod,
    /// `memory.max` of this cgroup, an ancestor of both.
    Ancestor(PathBuf),
    /// No cgroup limit: the host ran out of memory.
    Host,
}

/// The OOM kills in a container, counted from `memory.events`
/// ([cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oom {
    /// The level whose limit was exceeded.
    pub level: OomLevel,
    /// Number of processes of the container that were killed: `oom_kill`, since Linux 4.13.
    pub killed: u64,
}

impl fmt::Display for Oom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.killed == 1 { "1 process".into() } else { format!("{} processes", self.killed) };
        write!(f, "the OOM killer ended {many} at ")?;
        match &self.level {
            OomLevel::Call => f.write_str("the call's memory.max"),
            OomLevel::Container => f.write_str("the container's memory.max"),
            OomLevel::Pod => f.write_str("the pod's memory.max"),
            OomLevel::Ancestor(path) => write!(f, "memory.max of {}", path.display()),
            OomLevel::Host => f.write_str("the limit of the host's memory"),
        }
    }
}

/// The cause of a container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndedBy {
    /// The program exited.
    #[default]
    Exit,
    /// A signal that neither this library nor the OOM killer sent.
    Signal,
    /// The OOM killer; [`Outcome::oom`] has the level.
    Oom,
    /// [`Command::timeout`](crate::Command::timeout).
    WallTime,
    /// [`Command::cpu_time_max`](crate::Command::cpu_time_max).
    CpuTime,
    /// [`Command::output_max`](crate::Command::output_max) with
    /// [`Overflow::Kill`](crate::Overflow::Kill).
    OutputLimit,
    /// [`Container::kill`](crate::Container::kill) or [`Killer::kill`](crate::Killer::kill).
    Cancelled,
}

/// How a container ended, and the resources that it used: the result of
/// [`Container::wait`](crate::Container::wait).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit code or signal of the program. A program that is pid 1 itself
    /// ([`init(false)`](crate::Command::init)) does not end by most signals that it sends itself.
    pub status: ExitStatus,
    /// Why the program ended.
    #[serde(default)]
    pub ended_by: EndedBy,
    /// OOM kills in the container's cgroup since it was made, or `None` if there were none or the
    /// memory controller is missing. Processes of [`Exec`](crate::Exec) share this count with the
    /// container. [Calls](crate::Container::call) have their own.
    pub oom: Option<Oom>,
    /// Number of processes and threads that `pids.max` refused: `max` in `pids.events` of the
    /// container's cgroup (since Linux 4.5). `None` if the spec does not limit them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_refused: Option<u64>,
    /// Peak memory usage in bytes: `memory.peak` of the container's cgroup (since Linux 5.19).
    /// Without that file, the largest resident set of the program and the children that it waited
    /// for ([getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html)).
    pub peak_memory: Option<u64>,
    /// CPU time in user and kernel mode: `usage_usec` in `cpu.stat` of the container's cgroup.
    /// Without a cgroup, the CPU time of the program and the children that it waited for.
    pub cpu_time: Duration,
    /// Time during which `cpu.max` throttled the container: `throttled_usec` in `cpu.stat`. Zero
    /// without the cpu controller.
    pub throttled_time: Duration,
    /// Time from the start to the end of the program.
    pub wall_time: Duration,
    /// Network traffic of the container's cgroup. `None` if neither the spec nor
    /// [`Container::update`](crate::Container::update) set network limits, or the caller may not read
    /// the counters: see
    /// [`Cgroup::net_usage`](cgroup_core::Cgroup::net_usage). Since Linux 5.14.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<cgroup_core::net::Usage>,
    /// Files in the directories with a [`StorageLimit`]. Those in memory end with the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage: Vec<StorageUsage>,
}

/// The files in a place with a [`StorageLimit`]: a root with writes, or a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageUsage {
    /// Path in the container.
    pub destination: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Number of files, directories and other inodes.
    pub inodes: u64,
    /// Maximum of both.
    pub limit: StorageLimit,
}

impl Outcome {
    /// Returns the outcome of a container that was released, because nothing waits for it.
    pub(crate) fn unknown() -> Outcome {
        Outcome {
            status: ExitStatus::Exited(0),
            ended_by: EndedBy::Exit,
            oom: None,
            pids_refused: None,
            peak_memory: None,
            cpu_time: Duration::ZERO,
            throttled_time: Duration::ZERO,
            wall_time: Duration::ZERO,
            storage: Vec::new(),
            net: None,
        }
    }
}
