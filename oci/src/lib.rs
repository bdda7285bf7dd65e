#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod config;
mod error;
mod net;
pub mod resctrl;

pub use error::{Error, ErrorKind};
pub use net::move_net_device;
pub use oci_spec;
