//! Cgroups that systemd manages: transient scopes and slices, over D-Bus.
//!
//! On a host with systemd, only systemd writes to cgroups that it has not delegated. A program that
//! needs a cgroup asks systemd for a *scope*, a unit for processes that another program starts. The
//! scope is in a *slice*, a unit that contains units. With `Delegate=yes` the program owns the
//! cgroups below the scope.
//!
//! A scope starts with a process in it and ends with its last process. A program that is started
//! with `CLONE_INTO_CGROUP` does not exist yet when the scope starts. So [`Manager::hold_scope`]
//! puts a placeholder into the scope: a child that does nothing. [`Held::release`] ends it when the
//! program has started. The alternatives are worse. A program that starts outside and is moved, as
//! with runc, begins without limits, and the move acquires a lock of its thread group. A caller that
//! moves itself there and back leaves its own unit for that time. systemd removes the cgroup and the
//! unit after the last process has ended, so no process needs to wait for the end.
//!
//! ```no_run
//! use cgroup_core::{Limits, Max, systemd::{Manager, Property, Scope}};
//! let limits = Limits { memory_max: Some(Max::Value(64 << 20)), ..Limits::default() };
//! let mut manager = Manager::connect()?;
//! let scope = Scope {
//!     slice: Some("machine-web.slice".into()), // in machine.slice; systemd creates both
//!     properties: Property::of_limits(&limits)?,
//!     ..Scope::new("job-1.scope")
//! };
//! let held = manager.hold_scope(&scope)?;
//! held.cgroup().apply(&limits)?; // also the limits without a property
//! // … clone3 with CLONE_INTO_CGROUP and held.cgroup() …
//! let cgroup = held.release();
//! cgroup.kill()?;
//! manager.stop("job-1.scope")?;
//! # Ok::<(), cgroup_core::Error>(())
//! ```
//!
//! Sources: <https://systemd.io/CGROUP_DELEGATION/>,
//! [org.freedesktop.systemd1(5)](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html)

mod annotation;
mod bus;
mod held;
mod manager;
mod property;
mod scope;
mod wire;

pub use held::Held;
pub use manager::Manager;
pub use property::{Property, Value};
pub use scope::{Scope, slice_path};
