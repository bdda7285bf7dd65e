//! Every field of the OCI runtime configuration on Linux has its effect, read back from inside the
//! container or from the kernel; and every verb does what clients take for granted.
//!
//! The runtime under test is nspod-oci, or, as a control on the tests themselves, the command line in
//! `NSPOD_TEST_RUNTIME`: `/usr/bin/runc`, or `/usr/bin/crun --cgroup-manager=disabled` where the
//! hierarchies are not cgroup v2's alone.

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
