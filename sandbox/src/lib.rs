#![doc = include_str!("../README.md")]

mod cgroups;
mod child;
mod command;
mod container;
mod error;
mod family;
mod hint;
mod hold;
mod host;
pub mod init;
mod outcome;
mod plan;
mod pod;
mod pool;
pub mod seccomp;
mod spawn;
pub mod spec;
pub mod step;

pub use cgroup_core;
pub use command::{Command, Prepared, Stdio};
pub use container::{Container, exec};
pub use error::{Error, ErrorKind};
pub use hold::{Hold, is_held, start_held};
pub use host::{Host, HostMount};
pub use ns_core;
pub use ns_core::ExitStatus;
pub use outcome::{Oom, OomLevel, Outcome};
pub use plan::{Handles, Plan};
pub use pod::{Files, HoldBy, Pod, PodRecord, PodSpec};
pub use pool::{Pool, PoolCounts, PoolOptions};
pub use spawn::{inherit_nothing, notice_children};
