//! Handles that a spec cannot contain.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Error;
use crate::fd::duplicate;
use crate::log::Log;

/// How a container is held before its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Until [`Container::start`](crate::Container::start). The container ends with this program.
    Here,
    /// Until [`start_held`](crate::start_held) with this directory, in any program.
    At(PathBuf),
}

/// Descriptors and other handles that belong to a spec.
#[derive(Debug, Default)]
pub struct Handles {
    /// Namespaces to join, for each kind that is `Join(Handle)` in the spec.
    pub namespaces: Vec<ns_core::Namespace>,
    /// The process whose pid the spec joins. This pins the pid to the pidfd, so that a reused pid
    /// is not joined.
    pub process: Option<(i32, OwnedFd)>,
    /// Descriptors that the program inherits, with their new numbers (3 or higher).
    pub inherited: Vec<(OwnedFd, i32)>,
    /// Holds the container before its program until it is started.
    pub hold: Option<Hold>,
    /// Stops when the namespaces and mounts exist, for [`Command::prepared`].
    ///
    /// [`Command::prepared`]: crate::Command::prepared
    pub ready: bool,
    /// The program's file, if it differs from the first argument.
    pub(crate) file: Option<PathBuf>,
    /// The directory that becomes `/`: the root of a process in a mount namespace with another
    /// root.
    pub root: Option<OwnedFd>,
    /// The log that the embedded init writes.
    pub log: Option<Arc<Log>>,
    /// Whether the embedded init kills the other processes in the cgroup when the program has ended.
    pub(crate) kills_cgroup: bool,
}

impl Handles {
    /// Duplicates the handles, so that the plan can be made again.
    pub(crate) fn try_clone(&self) -> Result<Handles, Error> {
        let inherited = self.inherited.iter().map(|(fd, to)| Ok((duplicate(fd)?, *to)));
        let namespaces = self.namespaces.iter().map(|namespace| Ok(namespace.try_clone()?));
        let process = self.process.as_ref().map(|(pid, fd)| Ok::<_, Error>((*pid, duplicate(fd)?)));
        Ok(Handles {
            namespaces: namespaces.collect::<Result<_, Error>>()?,
            inherited: inherited.collect::<Result<_, Error>>()?,
            process: process.transpose()?,
            hold: self.hold.clone(),
            root: self.root.as_ref().map(duplicate).transpose()?,
            ready: self.ready,
            file: self.file.clone(),
            log: self.log.clone(),
            kills_cgroup: self.kills_cgroup,
        })
    }
}
