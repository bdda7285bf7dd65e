#![doc = include_str!("../README.md")]

mod arch;
#[cfg(feature = "tokio")]
mod async_container;
#[cfg(feature = "tokio")]
mod async_output;
mod bounds;
mod cgroups;
mod child;
mod claim;
mod command;
mod container;
mod ended;
mod error;
mod exec;
mod fd;
mod hint;
mod hold;
mod host;
mod inherit;
pub mod init;
mod join;
mod launch;
pub mod layer;
pub mod log;
mod open;
mod outcome;
mod output;
mod parent;
pub mod passwd;
mod plan;
mod pod;
mod pool;
mod quota;
mod reap;
#[doc = include_str!("../RECIPES.md")]
pub mod recipes {}
pub mod seccomp;
mod session;
mod signals;
mod sockets;
mod spawn;
pub mod spec;
mod stale;
mod stdio;
#[cfg(not(feature = "internals"))]
mod step;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod step;
pub mod store;
mod watch;

#[cfg(feature = "tokio")]
pub use async_container::AsyncContainer;
pub use bounds::{Killer, Overflow};
pub use cgroup_core;
pub use command::Command;
pub use container::{Container, ContainerRecord};
pub use error::{Error, ErrorKind, ErrorReport};
pub use exec::Exec;
pub use hold::{is_held, start_held};
pub use host::{Host, HostMount};
pub use inherit::{inherit_nothing, notice_children};
pub use launch::Launcher;
pub use ns_core;
pub use ns_core::ExitStatus;
pub use outcome::{EndedBy, Oom, OomLevel, Outcome, StorageUsage};
pub use output::Output;
pub use plan::{Handles, Hold, Plan};
pub use pod::{Files, HoldBy, Pod, PodRecord, PodSpec};
pub use pool::{Pool, PoolCounts, PoolOptions};
pub use quota::{prune_quotas, release_quotas, storage_of_ended};
pub use spawn::{Prepared, make_undumpable};
pub use stale::reap_stale;
pub use stdio::Stdio;
pub use step::PlannedStep;
