//! Takes a census and answers questions about it.

use std::path::Path;

use ns_core::{Error, Kind, NamespaceId, NamespaceSet};
use serde::Serialize;

use crate::holders;
use crate::matrix::Matrix;
use crate::model::{self, Model};
use crate::record::{HostFrom, Namespace, Process, Thread, Unreadable, Zombie};
use crate::scan::{self, Options};

/// The inode number of the initial pid namespace, in every kernel
/// ([proc_ns.h](https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/linux/proc_ns.h)).
const INITIAL_PID_NS: u64 = 0xeffffffc;

fn in_host(process: &Process) -> Option<(NamespaceSet, HostFrom)> {
    match process.pid {
        1 => Some((process.namespaces, HostFrom::Init)),
        2 if process.namespaces[Kind::Pid].ino == INITIAL_PID_NS => {
            Some((process.namespaces, HostFrom::Kthreadd))
        }
        _ => None,
    }
}

impl Options {
    /// Everything there is to know.
    pub const ALL: Options = Options { threads: true, fds: true, mounts: true, owners: true };

    /// Takes the census of `/proc`.
    ///
    /// # Errors
    /// As [`Options::of`].
    pub fn take(&self) -> Result<Census, Error> {
        self.of("/proc")
    }

    /// Takes the census of a procfs that is mounted elsewhere: of the pid namespace that it
    /// was mounted for.
    ///
    /// # Errors
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the directory is not a procfs.
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

/// Every process and every namespace that can be seen from here.
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
    namespaces: Vec<Namespace>,
    processes: Vec<Process>,
    threads: Vec<Thread>,
    zombies: Vec<Zombie>,
    unreadable: Vec<Unreadable>,
}

impl Census {
    /// Takes the census of `/proc`, with the default [`Options`].
    ///
    /// Seeing the namespaces of another process needs what ptrace reading needs: the same uid
    /// (and no capabilities beyond the reader's), or CAP_SYS_PTRACE in its user namespace. The
    /// processes that this leaves out are counted in [`unreadable`](Self::unreadable).
    ///
    /// # Errors
    /// As [`Options::of`].
    pub fn take() -> Result<Census, Error> {
        Options::default().take()
    }

    /// The processes, by ascending pid. Kernel threads are processes too.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The threads that differ from their process, if they were asked for.
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// Processes that have ended and are not yet waited for.
    pub fn zombies(&self) -> &[Zombie] {
        &self.zombies
    }

    /// Processes whose namespaces the reader may not see.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// The namespaces, by kind and then by id.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// What isolation is measured against: the outermost namespaces that this `/proc` shows.
    pub fn host(&self) -> &NamespaceSet {
        &self.host
    }

    /// Whose namespaces [`host`](Self::host) is.
    pub fn host_from(&self) -> HostFrom {
        self.host_from
    }

    /// The containers and pods, by [`model::derive()`].
    pub fn model(&self) -> Model {
        model::derive(&self.processes, &self.host)
    }

    /// A picture of who shares what.
    pub fn matrix(&self) -> Matrix {
        Matrix::of(&self.model())
    }

    /// A process by its pid.
    pub fn process(&self, pid: i32) -> Option<&Process> {
        let at = self.processes.binary_search_by_key(&pid, |p| p.pid).ok()?;
        Some(&self.processes[at])
    }

    /// A namespace by its identity.
    pub fn namespace(&self, kind: Kind, id: NamespaceId) -> Option<&Namespace> {
        let at = self.namespaces.binary_search_by_key(&(kind, id), |n| (n.kind, n.id)).ok()?;
        Some(&self.namespaces[at])
    }

    /// The pids of a process in the pid namespaces that it can be seen from, from the host's
    /// inwards to its own; empty if the pid is not in the census.
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

    /// The host's pid of the process that is `inside` in a pid namespace.
    ///
    /// A process of a pid namespace nested in that one can be seen from there as well; such
    /// are found if the census was taken with [`Options::owners`].
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
        let pid_in = |process: &Process| {
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
