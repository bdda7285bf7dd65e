//! systemd as the manager of cgroups: transient scopes and slices, over D-Bus.
//!
//! Where systemd runs, it alone writes to what it has not delegated. Who wants a cgroup asks it for
//! a *scope*, a unit of processes that somebody else starts, in a *slice*, a unit of units, and owns
//! what is below it by `Delegate=`.
//!
//! A scope is started with a process in it and ends with the last one. The programs of this crate's
//! users are born in their cgroup by `CLONE_INTO_CGROUP` and are no processes yet, so
//! [`Manager::hold_scope`] puts a placeholder there: a child that does nothing, and is ended when
//! the real one is in. The alternatives have their price: a program that is started outside and
//! moved, as runc's is, spends its first moments under no limit, and takes the lock of all of a
//! process's threads; the caller's own process, moved there and back, leaves its own unit.
//! systemd notes when the last process ends, and then removes the cgroup and forgets the unit;
//! nobody has to stay for that.
//!
//! ```no_run
//! use cgroup_core::{Limits, Max, systemd::{Manager, Property, Scope}};
//! let limits = Limits { memory_max: Some(Max::Value(64 << 20)), ..Limits::default() };
//! let mut manager = Manager::connect()?;
//! let scope = Scope {
//!     slice: Some("machine-web.slice".into()), // in machine.slice; both are made if need be
//!     properties: Property::of_limits(&limits)?,
//!     ..Scope::new("job-1.scope")
//! };
//! let held = manager.hold_scope(&scope)?;
//! held.cgroup().apply(&limits)?; // and what systemd has no property for
//! // … clone3 with CLONE_INTO_CGROUP and held.cgroup() …
//! let cgroup = held.release();
//! cgroup.kill()?;
//! manager.stop("job-1.scope")?;
//! # Ok::<(), cgroup_core::Error>(())
//! ```
//!
//! Source: <https://systemd.io/CGROUP_DELEGATION/>

mod annotation;
mod bus;
mod held;
mod manager;
mod property;
mod scope;

pub use held::Held;
pub use manager::Manager;
pub use property::{Property, Value};
pub use scope::{Scope, slice_path};
