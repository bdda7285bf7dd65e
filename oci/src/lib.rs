#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bundle;
mod cgroup;
mod cleanup;
pub mod config;
mod container;
mod criu;
mod error;
mod events;
mod exec;
mod hooks;
mod inherit;
mod launch;
mod net;
mod pid_file;
mod prestart;
mod program;
mod record;
pub mod resctrl;
mod runtime;
mod socket;
mod state;
mod streams;
mod time;

pub use bundle::Bundle;
pub use container::{Container, UpdateOptions};
pub use criu::{CheckpointOptions, ImageOptions, ManageCgroups, RestoreOptions, Restored};
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, Events};
pub use exec::ExecOptions;
pub use inherit::InheritedFds;
pub use launch::{CreateOptions, Foreground};
pub use net::move_net_device;
pub use nspod_sandbox;
pub use oci_spec;
pub use record::{State, Status};
pub use runtime::{CgroupDriver, Runtime};
pub use time::rfc3339;
