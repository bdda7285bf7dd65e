//! The census, and the queries on it.

use std::path::Path;

use ns_core::{Error, Kind, NamespaceId, NamespaceSet};
use serde::Serialize;

use crate::holders;
use crate::matrix::Matrix;
use crate::model::{self, Model};
use crate::record::{HostFrom, NamespaceInfo, ProcessInfo, Thread, Unreadable, Zombie};
use crate::scan::{self, INITIAL_PID_NS, Options};

/// Returns the host's namespaces if this process is in them.
fn in_host(process: &ProcessInfo) -> Option<(NamespaceSet, HostFrom)> {
    match process.pid {
        1 => Some((process.namespaces, HostFrom::Init)),
        2 if process.namespaces[Kind::Pid].ino == INITIAL_PID_NS => {
            Some((process.namespaces, HostFrom::Kthreadd))
        }
        _ => None,
    }
}

impl Options {
    /// Reads everything.
    pub const ALL: Options = Options { threads: true, fds: true, mounts: true, owners: true };

    /// Takes a census of `/proc`; see
    /// [proc_pid_ns(5)](https://man7.org/linux/man-pages/man5/proc_pid_ns.5.html). Linux 5.14 or later.
    ///
    /// # Errors
    /// As [`Options::of`].
    pub fn take(&self) -> Result<Census, Error> {
        self.of("/proc")
    }

    /// Takes a census of another mounted procfs. It contains the processes of the pid namespace for
    /// which the procfs was mounted; see
    /// [proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html). Linux 5.14 or later.
    ///
    /// # Errors
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput): the directory is not a procfs.
    /// - `ENOENT`, `EACCES`: the directory cannot be opened.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    ///
    /// A process that ends while it is read, or that the caller may not read, is not an error.
    pub fn of(&self, procfs: impl AsRef<Path>) -> Result<Census, Error> {
        let root = scan::Root::open(procfs.as_ref())?;
        let found = root.scan(&root.pids()?, *self)?;
        let mut index = holders::inhabited(&root, &found);
        if self.mounts {
            holders::add_mounts(&mut index, &root);
        }
        if self.owners {
            holders::add_owners(&mut index, &root);
        }
        let (host, host_from) = match found.processes.iter().find_map(in_host) {
            Some(found) => found,
            None => (root.namespaces_of("self")?, HostFrom::Caller),
        };
        let scan::Found { processes, threads, zombies, unreadable, fds: _ } = found;
        let namespaces = index.into_values().collect();
        Ok(Census { host, host_from, namespaces, processes, threads, zombies, unreadable })
    }
}

/// Every process and every namespace that the caller can see.
///
/// See [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html). Linux 5.14 or later.
///
/// ```
/// use nspod_census::Census;
/// let census = Census::take()?;
/// for namespace in census.namespaces() {
///     println!("{} {}", namespace.id.display(namespace.kind), namespace.processes.len());
/// }
/// for pod in census.model().pods {
///     println!("{} containers share {}", pod.containers.len(), pod.shared);
/// }
/// # Ok::<(), nspod_census::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Census {
    host: NamespaceSet,
    host_from: HostFrom,
    namespaces: Vec<NamespaceInfo>,
    processes: Vec<ProcessInfo>,
    threads: Vec<Thread>,
    zombies: Vec<Zombie>,
    unreadable: Vec<Unreadable>,
}

impl Census {
    /// Takes a census of `/proc` with the default [`Options`]. Linux 5.14 or later.
    ///
    /// To read the namespaces of another process, the caller needs its uid and all of its capabilities,
    /// or CAP_SYS_PTRACE in its user namespace
    /// ([ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html), access mode
    /// `PTRACE_MODE_READ_FSCREDS`). The other processes are in [`unreadable`](Self::unreadable).
    ///
    /// # Errors
    /// As [`Options::of`].
    pub fn take() -> Result<Census, Error> {
        Options::default().take()
    }

    /// Returns the processes by ascending pid, including kernel threads.
    pub fn processes(&self) -> &[ProcessInfo] {
        &self.processes
    }

    /// Returns the threads that are in other namespaces than their process; empty without
    /// [`Options::threads`].
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// Returns the processes that have ended and are not yet reaped.
    pub fn zombies(&self) -> &[Zombie] {
        &self.zombies
    }

    /// Returns the processes whose namespaces the caller may not read.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// Returns the namespaces by kind and id.
    pub fn namespaces(&self) -> &[NamespaceInfo] {
        &self.namespaces
    }

    /// Returns the host's namespaces. A process in other namespaces is isolated from the host.
    pub fn host(&self) -> &NamespaceSet {
        &self.host
    }

    /// Returns the process whose namespaces count as the [`host`](Self::host)'s.
    pub fn host_from(&self) -> HostFrom {
        self.host_from
    }

    /// Derives containers and pods by [`model::derive()`].
    pub fn model(&self) -> Model {
        model::derive(&self.processes, &self.host)
    }

    /// Returns a table of containers and the namespaces that they share.
    pub fn matrix(&self) -> Matrix {
        Matrix::of(&self.model())
    }

    /// Returns the process with this pid.
    pub fn process(&self, pid: i32) -> Option<&ProcessInfo> {
        let at = self.processes.binary_search_by_key(&pid, |p| p.pid).ok()?;
        Some(&self.processes[at])
    }

    /// Returns the namespace with this identity.
    pub fn namespace(&self, kind: Kind, id: NamespaceId) -> Option<&NamespaceInfo> {
        let at = self.namespaces.binary_search_by_key(&(kind, id), |n| (n.kind, n.id)).ok()?;
        Some(&self.namespaces[at])
    }

    /// Returns the pids of a process in the pid namespaces that contain it, from the host's to its own;
    /// empty if the census does not contain the pid.
    ///
    /// ```
    /// use nspod_census::Census;
    /// let me = std::process::id() as i32;
    /// assert_eq!(Census::take()?.inside_pids(me).first(), Some(&me));
    /// # Ok::<(), nspod_census::Error>(())
    /// ```
    pub fn inside_pids(&self, pid: i32) -> &[i32] {
        self.process(pid).map_or(&[], |p| &p.inside)
    }

    /// Returns the host's pid of the process that has the pid `inside` in a pid namespace.
    ///
    /// With [`Options::owners`] this also finds the processes of pid namespaces that are nested in that
    /// one.
    ///
    /// ```
    /// use nspod_census::Census;
    /// use ns_core::Kind;
    /// let census = Census::take()?;
    /// let me = census.process(std::process::id() as i32).unwrap();
    /// let inside = *me.inside.last().unwrap();
    /// assert_eq!(census.find(me.namespaces[Kind::Pid], inside), Some(me.pid));
    /// # Ok::<(), nspod_census::Error>(())
    /// ```
    pub fn find(&self, pid_ns: NamespaceId, inside: i32) -> Option<i32> {
        let pid_in = |process: &ProcessInfo| {
            let mut here = process.namespaces[Kind::Pid];
            for pid in process.inside.iter().rev() {
                if here == pid_ns {
                    return Some(*pid);
                }
                here = self.namespace(Kind::Pid, here)?.parent?;
            }
            None
        };
        self.processes.iter().find(|p| pid_in(p) == Some(inside)).map(|p| p.pid)
    }
}
