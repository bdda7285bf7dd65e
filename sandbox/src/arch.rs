//! Architecture-specific code. Each architecture has one file, `arch/NAME.rs`, which the embedded
//! init (`init/init.rs`) includes too.

#[cfg(target_arch = "aarch64")]
#[path = "arch/aarch64.rs"]
mod native;
#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64.rs"]
mod native;

pub(crate) use native::{abis, trap};
