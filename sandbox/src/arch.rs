//! What differs by architecture: one file for each, which the embedded init uses too.

#[cfg(target_arch = "aarch64")]
#[path = "arch/aarch64.rs"]
mod native;
#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64.rs"]
mod native;

pub(crate) use native::trap;
