//! A pool: a thread makes the slowest parts of starts in advance.

mod make;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use ns_core::Kinds;

use self::make::Maker;
use crate::cgroups::{CgroupUse, ContainerCgroup};
use crate::error::{Error, ErrorKind};
use crate::signals::BlockedSignals;
use crate::spawn::Premade;
use crate::spec::Spec;

/// Options of a [`Pool`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOptions {
    /// Maximum number of entries, 1 to 1,024. An entry has up to seven descriptors.
    pub size: usize,
    /// Whether to make cgroups.
    pub cgroups: bool,
    /// The parent of the cgroups, an absolute path on the host in a cgroup2 file system. Commands with this
    /// [`cgroup_parent`](crate::Command::cgroup_parent) use these cgroups. `None` means the
    /// library's parent, for commands without a parent.
    pub cgroup_parent: Option<PathBuf>,
    /// Whether to make the standard `/dev` ([`MountKind::Dev`](crate::spec::MountKind::Dev)), with
    /// the ipc namespace of its message queues.
    pub dev: bool,
}

impl Default for PoolOptions {
    /// Returns options for sixteen entries with cgroups and `/dev`.
    fn default() -> Self {
        PoolOptions { size: 16, cgroups: true, cgroup_parent: None, dev: true }
    }
}

/// Net and ipc namespaces, `/dev` mounts and cgroups that are made in advance. One container uses
/// each of them, once.
///
/// A start uses an entry of the pool if one is ready. Otherwise it makes its own, as without a
/// pool: it never waits. When half of the entries have been taken, a thread makes new ones. Entries
/// never return to the pool, so the state of one container never reaches another.
///
/// ```
/// use nspod_sandbox::{Command, Pool, PoolOptions};
/// # if !nix::unistd::geteuid().is_root() { return Ok(()); }
/// let pool = Pool::new(PoolOptions { size: 4, cgroups: false, ..PoolOptions::default() })?;
/// let mut command = Command::new("true");
/// command.pool(&pool);
/// assert!(command.status()?.status.success());
/// assert_eq!(pool.namespaces().taken, 1);
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
///
/// **Containers that use the pool.** A container uses namespaces of the pool if it has a new net
/// namespace with `lo` up ([`Spec::loopback`]), no new user namespace and, before Linux 6.2, no clock offsets. The
/// namespaces of a pool belong to the user namespace of the program that made the pool, and a
/// container with its own user namespace has no capabilities there. The container also uses the
/// `/dev` if it has a new ipc namespace and [`MountKind::Dev`]. It uses a cgroup of the pool if its
/// command has neither a name nor a parent, or if the parent is
/// [`cgroup_parent`](PoolOptions::cgroup_parent), and if dropping its handle
/// [kills](crate::Command::kill_on_drop) it. Limits are set when the cgroup is taken.
///
/// **Content.** A net namespace is new. It contains `lo` with 127.0.0.1 and ::1, and no routes,
/// rules or sockets. Kernel parameters have the defaults of the time at which the namespace was
/// made; some come from the host (`net.core.devconf_inherit_init_net`). Since Linux 6.8 mountinfo
/// lists mounts by age, so a `/dev` of a pool precedes the root on which it is mounted.
///
/// **Thread.** The thread (`nspod-pool`) blocks all signals, and has its own working directory and
/// umask. It changes no state of the process. It makes namespaces by entering them, and returns to
/// the caller's namespaces after each. In a forked process the thread does not run: starts use no
/// entries there, and dropping the pool has no effect.
///
/// **Removal.** Dropping the pool ends the thread and removes the unused entries. It does not
/// affect running containers. If the program ends without dropping the pool, empty cgroups named
/// `pool-` and twelve digits remain until the next pool with the same parent removes them.
///
/// [`Spec::loopback`]: crate::spec::Spec::loopback
/// [`MountKind::Dev`]: crate::spec::MountKind::Dev
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Counts of the entries of a [`Pool`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Entries that are ready.
    pub ready: usize,
    /// Entries made so far.
    pub made: u64,
    /// Entries taken so far.
    pub taken: u64,
    /// Starts for which no entry was ready.
    pub missed: u64,
}

/// The part of a pool that its thread and its users share.
pub(crate) struct Shared {
    options: PoolOptions,
    /// The pid of the process that runs the thread.
    process: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    namespaces: Shelf<make::Namespaces>,
    cgroups: Shelf<ContainerCgroup>,
    /// Unused parts of taken entries. The pool thread drops them, because this can take long.
    unused: Vec<OwnedFd>,
    failure: Option<Error>,
    stop: bool,
}

struct Shelf<T> {
    ready: VecDeque<T>,
    counts: PoolCounts,
    filling: bool,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { ready: VecDeque::new(), counts: PoolCounts::default(), filling: true }
    }
}

impl<T> Shelf<T> {
    fn take(&mut self, size: usize) -> Option<T> {
        // The oldest entry is the best: the kernel has finished its deferred work for it.
        let taken = self.ready.pop_front();
        match taken {
            Some(_) => self.counts.taken += 1,
            None => self.counts.missed += 1,
        }
        self.filling |= self.ready.len() <= size / 2;
        taken
    }

    fn put(&mut self, one: T, size: usize) {
        self.ready.push_back(one);
        self.counts.made += 1;
        self.filling = self.ready.len() < size;
    }

    fn counts(&self) -> PoolCounts {
        PoolCounts { ready: self.ready.len(), ..self.counts }
    }
}

impl Pool {
    /// Makes a pool and fills it.
    /// Linux 5.14 or later; see [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`]: the size is out of range, or requires too many descriptors. `EPERM`:
    /// the caller lacks `CAP_SYS_ADMIN` or `CAP_NET_ADMIN`. `ENOSPC`: the host allows no more namespaces
    /// (`user.max_net_namespaces`).
    pub fn new(options: PoolOptions) -> Result<Pool, Error> {
        check(&options)?;
        let shared = Arc::new(Shared {
            options,
            process: std::process::id(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        shared.lock().cgroups.filling = shared.options.cgroups;
        let (worker, blocked) = (shared.clone(), BlockedSignals::new());
        let thread = std::thread::Builder::new().name("nspod-pool".into()).spawn(move || work(&worker));
        drop(blocked);
        let thread = thread.map_err(|e| Error::io("pool", "start the pool's thread", "clone3", &e))?;
        let pool = Pool { shared, thread: Some(thread) };
        pool.fill()?;
        Ok(pool)
    }

    /// Waits until the pool is full.
    /// See [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// The pool keeps its other entries, and tries again every second.
    /// - The same as [`new`](Self::new): an entry could not be made.
    /// - [`ErrorKind::State`]: this process was forked from the one that made the pool.
    pub fn fill(&self) -> Result<(), Error> {
        let shared = &self.shared;
        if !shared.is_here() {
            let what = "the pool belongs to the process from which this one was forked: make a new pool";
            return Err(Error::new(ErrorKind::State, "pool", what));
        }
        let mut state = shared.lock();
        state.namespaces.filling = state.namespaces.ready.len() < shared.options.size;
        state.cgroups.filling = shared.options.cgroups && state.cgroups.ready.len() < shared.options.size;
        state.failure = None;
        shared.changed.notify_all();
        while state.namespaces.filling || state.cgroups.filling {
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            state = shared.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        Ok(())
    }

    /// Returns the counts of net namespaces, with their ipc namespaces and `/dev` mounts.
    pub fn namespaces(&self) -> PoolCounts {
        self.shared.lock().namespaces.counts()
    }

    /// Returns the counts of cgroups.
    pub fn cgroups(&self) -> PoolCounts {
        self.shared.lock().cgroups.counts()
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.shared.is_here() {
            // In a forked process the thread does not run, the cgroups belong to the parent, and a
            // thread that does not exist here may hold the lock.
            std::mem::forget((thread, self.shared.clone()));
            return;
        }
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        let _ = thread.join();
        let mut state = self.shared.lock();
        let left = (std::mem::take(&mut state.namespaces.ready), std::mem::take(&mut state.cgroups.ready));
        drop(state);
        drop(left);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Returns whether this process runs the thread. A forked process has copies of the
    /// descriptors, but each entry must be used only once.
    fn is_here(&self) -> bool {
        self.process == std::process::id()
    }

    /// Takes namespaces for a clone that would make these kinds, with the mounts of `/dev` if the
    /// container has the standard `/dev`. Returns `None` if no suitable entry is ready.
    pub(crate) fn namespaces(&self, kinds: Kinds, wants_dev: bool) -> Option<Premade> {
        if !kinds.contains(Kinds::NET) || kinds.contains(Kinds::USER) || !self.is_here() {
            return None;
        }
        let taken = self.take(|state, size| state.namespaces.take(size))?;
        let (wanted, mut unused): (Vec<_>, Vec<_>) =
            taken.namespaces.into_iter().partition(|(_, kind)| kinds.contains(*kind));
        let mut dev = taken.dev;
        if !wants_dev || !kinds.contains(Kinds::IPC) {
            unused.extend(dev.drain(..).map(|fd| (fd, Kinds::empty())));
        }
        if !unused.is_empty() {
            self.lock().unused.extend(unused.into_iter().map(|(fd, _)| fd));
        }
        Some(Premade { namespaces: wanted, dev })
    }

    /// Takes a cgroup and sets the spec's limits. Returns `None` if no suitable cgroup is ready.
    ///
    /// # Errors
    /// A limit could not be set, or the cgroup is frozen.
    pub(crate) fn cgroup(
        &self,
        wanted: &CgroupUse,
        name: Option<&str>,
        spec: &Spec,
        pod: Option<&PathBuf>,
    ) -> Result<Option<ContainerCgroup>, Error> {
        let fits = match (wanted, &self.options.cgroup_parent) {
            (CgroupUse::Auto, None) => true,
            (CgroupUse::Under(path), Some(parent)) => path == parent,
            _ => false,
        };
        if !fits || name.is_some() || !self.options.cgroups || !self.is_here() {
            return Ok(None);
        }
        let taken = self.take(|state, size| state.cgroups.take(size));
        taken.map(|cgroup| cgroup.take_over(spec, pod.cloned())).transpose()
    }

    fn take<T>(&self, take: impl FnOnce(&mut State, usize) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        if state.stop {
            return None;
        }
        let taken = take(&mut state, self.options.size);
        let wanting = state.namespaces.filling || state.cgroups.filling;
        drop(state);
        if wanting {
            self.changed.notify_all();
        }
        taken
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("options", &self.options).finish_non_exhaustive()
    }
}

fn check(options: &PoolOptions) -> Result<(), Error> {
    const MOST: usize = 1024;
    /// Number of descriptors of an entry: a net and an ipc namespace, four mounts, a cgroup.
    const EACH: u64 = 7;
    let size = options.size;
    if !(1..=MOST).contains(&size) {
        return Err(Error::invalid("size", format!("{size} is not between 1 and {MOST}")));
    }
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    if let Ok((soft, _)) = limit
        && size as u64 * EACH > soft / 2
    {
        return Err(Error::invalid(
            "size",
            format!(
                "{size} entries have {} descriptors, more than half of the {soft} that this process may have \
                 (RLIMIT_NOFILE): raise it, or choose at most {}",
                size as u64 * EACH,
                soft / 2 / EACH
            ),
        ));
    }
    Ok(())
}

enum Made {
    Namespaces(make::Namespaces),
    Cgroup(ContainerCgroup),
    Nothing,
}

/// Runs the thread: makes the missing entries until the pool is dropped.
fn work(shared: &Shared) {
    /// Delay before the thread tries a failed entry again, unless another thread waits for it.
    const PAUSE: Duration = Duration::from_secs(1);
    let (options, size) = (&shared.options, shared.options.size);
    let mut maker: Option<Maker> = None;
    let mut state = shared.lock();
    while !state.stop {
        let unused = std::mem::take(&mut state.unused);
        let (namespaces, cgroups) = (state.namespaces.filling, state.cgroups.filling);
        if unused.is_empty() && !namespaces && !cgroups {
            state = shared.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            continue;
        }
        drop(state);
        drop(unused);
        let made = match &mut maker {
            None => Maker::new(options.dev, options.cgroups, options.cgroup_parent.as_deref()).map(|made| {
                maker = Some(made);
                Made::Nothing
            }),
            Some(maker) if namespaces => maker.namespaces().map(Made::Namespaces),
            Some(maker) if cgroups => maker.cgroup().map(Made::Cgroup),
            Some(_) => Ok(Made::Nothing),
        };
        state = shared.lock();
        match made {
            Ok(made) => {
                match made {
                    Made::Namespaces(one) => state.namespaces.put(one, size),
                    Made::Cgroup(one) => state.cgroups.put(one, size),
                    Made::Nothing => {}
                }
                if !state.namespaces.filling && !state.cgroups.filling {
                    shared.changed.notify_all();
                }
            }
            Err(failure) => {
                state.failure = Some(failure);
                shared.changed.notify_all();
                let waited = shared
                    .changed
                    .wait_timeout_while(state, PAUSE, |state| !state.stop && state.failure.is_some());
                state = waited.unwrap_or_else(|e| e.into_inner()).0;
            }
        }
    }
}
