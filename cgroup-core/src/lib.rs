#![doc = include_str!("../README.md")]

mod apply;
mod cause;
mod cgroup;
mod controller;
mod cpu_list;
mod create_path;
pub mod delegate;
pub mod device;
mod device_number;
mod enable;
mod error;
mod hierarchy;
mod limits;
mod missing;
pub mod net;
pub mod parse;
mod processes;
mod remove;
#[cfg(feature = "serde")]
mod serde_text;
mod sys;
pub mod systemd;
mod usage;
mod watch;

pub use apply::Applied;
pub use cgroup::Cgroup;
pub use controller::{Controller, Controllers};
pub use cpu_list::CpuList;
pub use device_number::Device;
pub use error::{Error, ErrorKind, Result};
pub use hierarchy::{Hierarchy, Layout};
pub use limits::{CpuMax, IoMax, Limits, Max, RdmaMax, v1};
pub use missing::Missing;
pub use usage::{
    CpuStat, Events, IoStat, MemoryEvents, MemoryStat, MemoryUsage, PidsEvents, PidsUsage, Pressure,
    PressureLine, Usage,
};
pub use watch::{Resource, Stall, State, Trigger, Watch};
