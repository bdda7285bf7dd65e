//! The device filter: the devices that the processes of a cgroup may open and create nodes for. In
//! v2 the filter is an eBPF program, since Linux 4.15.
//!
//! Rules have the meaning of OCI's `linux.resources.devices`: a later rule overrides an earlier one
//! for its accesses, and an access without a rule is denied. To allow everything except a few
//! devices, begin the list with `allow a *:* rwm`.
//!
//! ```
//! use cgroup_core::device::{Access, Kind, Rule, allows};
//! let rules: Vec<Rule> = ["allow c 1:* rw", "deny c 1:3 w"].map(|r| r.parse().unwrap()).into();
//! assert!(allows(&rules, Kind::Char, 1, 5, Access::READ | Access::WRITE));
//! assert!(allows(&rules, Kind::Char, 1, 3, Access::READ));
//! assert!(!allows(&rules, Kind::Char, 1, 3, Access::READ | Access::WRITE));
//! ```
//!
//! Sources: <https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller>,
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#allowed-device-list>

mod attach;
mod program;
mod rule;

pub use program::{Instruction, compile};
pub use rule::{Access, DEFAULT, Kind, Rule, allows};
