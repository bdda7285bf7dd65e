//! How a container ended, and what it took.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ns_core::ExitStatus;
use serde::{Deserialize, Serialize};

/// Whose memory limit it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OomLevel {
    /// The container's own `memory.max`.
    Container,
    /// Its pod's.
    Pod,
    /// That of this cgroup above them.
    Ancestor(PathBuf),
    /// No cgroup's: the host ran out of memory.
    Host,
}

/// The OOM killer's work in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oom {
    /// Where the memory ran out.
    pub level: OomLevel,
    /// How many processes of the container were killed.
    pub killed: u64,
}

impl fmt::Display for Oom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.killed == 1 { "1 process".into() } else { format!("{} processes", self.killed) };
        write!(f, "the OOM killer ended {many} at ")?;
        match &self.level {
            OomLevel::Container => f.write_str("the container's memory.max"),
            OomLevel::Pod => f.write_str("the pod's memory.max"),
            OomLevel::Ancestor(path) => write!(f, "memory.max of {}", path.display()),
            OomLevel::Host => f.write_str("the end of the host's memory"),
        }
    }
}

/// How a container ended, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How its program ended.
    pub status: ExitStatus,
    /// Whether the OOM killer was at work, and where.
    pub oom: Option<Oom>,
    /// The most memory it held at once, in bytes: `memory.peak` of its cgroup (since Linux
    /// 5.19), or else the largest resident set of the program and what it waited for.
    pub peak_memory: Option<u64>,
    /// CPU time in user and kernel mode: `cpu.stat` of its cgroup, or else that of the
    /// program and what it waited for.
    pub cpu_time: Duration,
    /// How long `cpu.max` kept it from running.
    pub throttled_time: Duration,
    /// From start to end.
    pub wall_time: Duration,
}

impl Outcome {
    /// Of a container that nobody waits for any more.
    pub(crate) fn unknown() -> Outcome {
        Outcome {
            status: ExitStatus::Exited(0),
            oom: None,
            peak_memory: None,
            cpu_time: Duration::ZERO,
            throttled_time: Duration::ZERO,
            wall_time: Duration::ZERO,
        }
    }
}
