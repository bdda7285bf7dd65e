//! Code that the programs `nspod` and `nspod-oci` share. It is not an API.

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod foreground;
#[doc(hidden)]
pub mod keys;
#[doc(hidden)]
pub mod manual;
#[doc(hidden)]
pub mod output;
#[doc(hidden)]
pub mod runtime_dir;
#[doc(hidden)]
pub mod terminal;
#[doc(hidden)]
pub mod value;
