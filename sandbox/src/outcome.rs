//! How a container ended, and what it took.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal.
        signal: i32,
        /// It left a core file.
        core: bool,
    },
}

impl Status {
    /// It exited with code 0.
    pub fn success(self) -> bool {
        self == Status::Exited(0)
    }

    /// As shells count: the exit code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Status::Exited(code) => code,
            Status::Signaled { signal, .. } => 128 + signal,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exited with code {code}"),
            Status::Signaled { signal, core } => {
                match nix::sys::signal::Signal::try_from(*signal) {
                    Ok(name) => write!(f, "ended by {name}")?,
                    Err(_) => write!(f, "ended by signal {signal}")?,
                }
                if *core { f.write_str(", core dumped") } else { Ok(()) }
            }
        }
    }
}

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
    pub status: Status,
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
            status: Status::Exited(0),
            oom: None,
            peak_memory: None,
            cpu_time: Duration::ZERO,
            throttled_time: Duration::ZERO,
            wall_time: Duration::ZERO,
        }
    }
}
