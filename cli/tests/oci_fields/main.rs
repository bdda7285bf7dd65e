//! Every field of the OCI runtime configuration on Linux has its effect, observed in the container or in the
//! kernel. Every verb does what clients rely on.
//!
//! The runtime under test is nspod-oci. As a control on the tests, `NSPOD_TEST_RUNTIME` sets another command
//! line: `/usr/bin/runc`, or `/usr/bin/crun --cgroup-manager=disabled` on a host with v1 hierarchies.

#[path = "../common/mod.rs"]
mod common;

mod bundle;
mod criu;
mod devices;
mod hooks;
mod kernel;
mod life;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod schema;
mod seccomp;
mod verbs;
