//! The configuration: reads and checks `config.json`, and converts it to a
//! [`Spec`](nspod_sandbox::spec::Spec). The conversion has no side effects.
//!
//! Settings that this runtime or cgroup v2 cannot apply are errors with the JSON path of the field.
//! Unknown fields are ignored, as the specification requires.
//!
//! Specification: [config.md](https://github.com/opencontainers/runtime-spec/blob/main/config.md) and
//! [config-linux.md](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md).

mod container;
mod example;
mod hooks;
mod json;
mod linux;
mod mount_options;
mod mounts;
mod network;
mod parse;
mod paths;
mod process;
mod resources;
mod types;

pub use example::example;
pub use mount_options::mount_options;
pub use parse::{parse, parse_process, parse_resources};
pub use process::process;
pub use resources::resources;
pub use types::{CgroupsPath, Config, ContainerSpec, Context, Hooks, IntelRdt, SeccompListener, VERSION};
