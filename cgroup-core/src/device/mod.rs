//! Which devices the processes of a cgroup may open and make: v2's way, a small eBPF program.
//!
//! Rules are OCI's (`linux.resources.devices`): in order, a later one overrides an earlier one for
//! the accesses that it names, and what no rule names is denied. So a list usually begins with
//! nothing, or with `allow a *:* rwm` to go on with what is denied.
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
