#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod arch;
mod clone;
mod error;
mod exit;
mod file;
mod hint;
mod id;
mod idmap;
mod join;
mod kind;
mod namespace;
mod pidfd;
mod pin;
pub mod proc;
mod process;
pub mod raw;
mod subid;
mod time;

pub use clone::{Clone3, CloneFlags, Cloned, Spawned};
pub use error::{Error, ErrorKind, Result};
pub use exit::{Exit, ExitStatus, Usage};
pub use id::{NamespaceId, NamespaceSet};
pub use idmap::{Extent, IdMap, Ids, Setgroups, write_id_maps};
pub use join::{setns, setns_pidfd, unshare};
pub use kind::{Kind, Kinds};
pub use namespace::Namespace;
pub use pidfd::Pidfd;
pub use process::{ProcessId, boot_id, pid_chain};
pub use subid::{SubIdRange, SubIds, user_name, write_with_newuidmap};
pub use time::{TimeOffset, TimeOffsets};
