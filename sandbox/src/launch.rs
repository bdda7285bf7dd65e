//! Starting a plan. [`Launcher::start`] has the order of a start:
//!
//! 1. Make the container's cgroup (`cgroups`), or get it from a pool (`pool`). A thread begins to set the network
//!    limits.
//! 2. Get namespaces and mounts from a pool.
//! 3. Clone, and answer the child (`spawn`); `hooks` runs hooks meanwhile.
//! 4. Return the handle ([`Container`]).

mod hooks;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ns_core::{Kind, ProcessId};
use nspod_errno::how_to_get_a_cgroup;

use crate::bounds::{Bounds, Kill};
use crate::cgroups::{CgroupUse, ContainerCgroup, explain};
use crate::container::{Container, Origin};
use crate::error::Error;
use crate::init;
use crate::parent::CgroupParent;
use crate::plan::Plan;
use crate::pool::{Pool, Shared};
use crate::quota::Quotas;
use crate::reap::{ChildProcess, ReapList};
use crate::spawn::{self, NetLimiter, Premade, Prepared, Start};
use crate::stdio::Streams;
use crate::watch::{Dies, watch_process};

/// Starts containers with one plan, any number of times and from any thread.
///
/// ```no_run
/// use nspod_sandbox::Command;
/// let launcher = Command::new("true").launcher()?;
/// for _ in 0..1000 {
///     let mut container = launcher.spawn()?;
///     assert!(container.wait()?.status.success());
///     container.delete()?;
/// }
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
#[derive(Debug)]
pub struct Launcher {
    plan: Arc<Plan>,
    pool: Option<Arc<Shared>>,
    dies: Dies,
    /// The library's parent of cgroups, kept from the first start so that later starts need not
    /// find it.
    parent: Mutex<Option<Arc<CgroupParent>>>,
}

/// Options that differ between starts of one plan.
pub(crate) struct StartOptions<'a, 'b> {
    pub(crate) streams: &'a mut Streams<'b>,
    pub(crate) cgroup: &'a CgroupUse,
    /// Name of the cgroup, or `None` for a random name.
    pub(crate) name: Option<&'a str>,
    /// The pod's cgroup.
    pub(crate) pod: Option<PathBuf>,
    pub(crate) exit_file: Option<Arc<File>>,
    /// The container's entry in a store.
    pub(crate) entry: Option<PathBuf>,
    /// The lists of the container and the pod that the process is added to.
    pub(crate) reaped_by: Vec<ReapList>,
    /// Function to call when namespaces and mounts exist. The start removes it before the call.
    pub(crate) prepared: &'a mut Option<OnPrepared>,
    pub(crate) kill_on_drop: bool,
    pub(crate) bounds: Bounds,
    pub(crate) dies: Dies,
}

/// A function of the caller, to call when namespaces and mounts exist.
pub(crate) struct OnPrepared(pub(crate) Box<PreparedFn>);

type PreparedFn = dyn FnOnce(&Prepared<'_>) -> Result<Vec<u8>, Error> + Send;

impl std::fmt::Debug for OnPrepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnPrepared")
    }
}

impl Launcher {
    /// Returns a launcher of this plan.
    pub fn new(plan: impl Into<Arc<Plan>>) -> Launcher {
        Launcher { plan: plan.into(), pool: None, dies: Dies::Auto, parent: Mutex::default() }
    }

    /// Uses entries of a pool at each start, if they are ready, and makes the rest.
    #[must_use]
    pub fn with_pool(mut self, pool: &Pool) -> Launcher {
        self.pool = Some(pool.shared());
        self
    }

    /// Sets the pool by its shared part.
    pub(crate) fn with_shared_pool(mut self, pool: Option<Arc<Shared>>) -> Launcher {
        self.pool = pool;
        self
    }

    /// Sets whether the containers of [`spawn`](Self::spawn) end with this program.
    pub(crate) fn with_dies(mut self, dies: Dies) -> Launcher {
        self.dies = dies;
        self
    }

    /// Returns the plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Starts a container in its own cgroup, with the caller's standard streams.
    /// [`Command::spawn`](crate::Command::spawn) starts a container in the same way and has more
    /// options.
    /// Linux 5.14 or later; see [clone3(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// # Errors
    /// The same as [`Command::spawn`](crate::Command::spawn).
    pub fn spawn(&self) -> Result<Container, Error> {
        self.start(StartOptions {
            streams: &mut Streams::inherited(),
            cgroup: &CgroupUse::Auto,
            name: None,
            pod: None,
            exit_file: None,
            entry: None,
            reaped_by: Vec::new(),
            prepared: &mut None,
            kill_on_drop: true,
            bounds: Bounds::default(),
            dies: self.dies,
        })
    }

    /// Starts a container.
    pub(crate) fn start(&self, options: StartOptions<'_, '_>) -> Result<Container, Error> {
        let StartOptions {
            streams,
            cgroup,
            name,
            pod,
            exit_file,
            entry,
            reaped_by,
            prepared,
            kill_on_drop,
            bounds,
            dies,
        } = options;
        let plan = &self.plan;
        let mut cgroup = self.cgroup(cgroup, name, kill_on_drop, pod)?;
        let limiter = NetLimiter::start(plan, cgroup.as_ref().map(ContainerCgroup::cgroup))?;
        let ties_process = tie(dies, plan, cgroup.as_mut(), kill_on_drop)?;
        if bounds.cpu.is_some() && cgroup.as_ref().is_none_or(ContainerCgroup::is_borrowed) {
            let problem = format!(
                "the limit is for the CPU time of the container's own cgroup, and it does not have one: {}",
                how_to_get_a_cgroup()
            );
            return Err(Error::invalid("cpu_time_max", problem));
        }
        let exit_file = match (plan.spec.has_init(), exit_file) {
            (true, None) => Some(Arc::new(init::exit_file()?)),
            (_, given) => given,
        };
        // The directories are limited before anything can write to them.
        let mut quotas = Quotas::set(&plan.spec, entry.as_deref())?;
        let kill_file = cgroup.as_ref().filter(|_| plan.kills_cgroup).map(kill_file).transpose()?;
        let started = Instant::now();
        let spawned = spawn::spawn(Start {
            plan,
            stdio: streams.child(),
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.cgroup().as_fd()),
            exit_file: exit_file.as_deref(),
            kill_file: kill_file.as_ref(),
            premade: self.premade(),
            limiter,
            on_ready: &mut |container| on_ready(plan, container, prepared.take()),
        });
        // After an error the child has ended, and dropping `cgroup` removes it.
        let spawned = spawned.map_err(|e| explain(e, cgroup.as_ref()))?;
        let process = ChildProcess::new(spawned.pid, spawned.pidfd);
        reaped_by.iter().for_each(|list| list.add(&process));
        quotas.started(process.pid);
        streams.close_child();
        let [stdin, stdout, stderr] = std::mem::take(&mut streams.ours);
        let mut container = Container {
            process,
            reaps: ReapList::default(),
            reaped_by,
            cgroup,
            quotas,
            origin: Origin::Plan(plan.clone()),
            exit_file,
            held: spawned.held,
            watched: None,
            kill: Kill::default(),
            bounds,
            counts_net: AtomicBool::new(plan.spec().limits.net.is_some()),
            kill_on_drop,
            started,
            outcome: None,
            stdin,
            stdout,
            stderr,
            terminal: spawned.terminal.map(File::from),
            seccomp_listener: spawned.listener,
        };
        if ties_process {
            container.watched = watch_process(&ProcessId::of(container.pid())?)?;
        }
        Ok(container)
    }

    /// Takes the container's cgroup from the pool, or makes it.
    fn cgroup(
        &self,
        wanted: &CgroupUse,
        name: Option<&str>,
        owned: bool,
        pod: Option<PathBuf>,
    ) -> Result<Option<ContainerCgroup>, Error> {
        let spec = &self.plan.spec;
        // The name of a pool's cgroup contains the identity of this program.
        if let Some(pool) = self.pool.as_ref().filter(|_| owned)
            && let Some(ready) = pool.cgroup(wanted, name, spec, pod.as_ref())?
        {
            return Ok(Some(ready));
        }
        // The lock is not held meanwhile, so that starts do not wait for one another.
        let known = || self.parent.lock().unwrap_or_else(|e| e.into_inner());
        let mut parent = known().clone();
        let cgroup = ContainerCgroup::open(wanted, name, owned, spec, pod, &mut parent);
        *known() = parent;
        cgroup
    }

    /// Takes namespaces and mounts from the pool, if suitable ones are ready.
    fn premade(&self) -> Premade {
        let pool = self.pool.as_ref().filter(|_| self.plan.spec.loopback);
        pool.and_then(|pool| pool.namespaces(self.plan.kinds, self.plan.dev.is_some())).unwrap_or_default()
    }
}

/// Ties the container's cgroup to this program. Returns whether its first process must be tied in place of
/// the cgroup. That process is held until it is tied.
fn tie(
    dies: Dies,
    plan: &Plan,
    cgroup: Option<&mut ContainerCgroup>,
    kill_on_drop: bool,
) -> Result<bool, Error> {
    let refused = |problem: &str| Err(Error::invalid("die_with_parent", problem));
    match (dies, cgroup) {
        (Dies::No, _) => Ok(false),
        (Dies::Yes, Some(cgroup)) if cgroup.is_borrowed() => refused(
            "the process starts in the cgroup of another container or program: use the handle of the container",
        ),
        (Dies::Yes, Some(cgroup)) => cgroup.watch(false).map(|()| false),
        (Dies::Auto, Some(cgroup)) if kill_on_drop && !cgroup.is_borrowed() => {
            cgroup.watch(true).map(|()| false)
        }
        (Dies::Auto, _) => Ok(false),
        (Dies::Yes, None) if !plan.spec.namespaces.is_new(Kind::Pid) => refused(
            "the container has neither its own cgroup nor a new pid namespace, so its processes cannot be found: add one of them",
        ),
        (Dies::Yes, None) if plan.held.is_none() => refused(&format!(
            "the container does not have its own cgroup any more: {}",
            how_to_get_a_cgroup()
        )),
        (Dies::Yes, None) => Ok(true),
    }
}

/// Opens `cgroup.kill` of the container (since Linux 5.14).
fn kill_file(cgroup: &ContainerCgroup) -> Result<File, Error> {
    let path = cgroup.cgroup().path().join("cgroup.kill");
    File::options().write(true).open(&path).map_err(|e| Error::path("cgroup", "open", &path, &e))
}

/// Calls the caller's function, writes its result to the file that hooks read, and runs the hooks
/// that the parent must run.
fn on_ready(plan: &Plan, container: &Prepared<'_>, prepared: Option<OnPrepared>) -> Result<(), Error> {
    if let Some(OnPrepared(then)) = prepared {
        let text = then(container)?;
        if let Some(file) = container.state {
            file.write_all_at(&text, 0)
                .map_err(|e| Error::io("hook", "write the state for hooks", "pwrite64", &e))?;
        }
    }
    for hook in plan.stage.iter().flat_map(|stage| &stage.hooks) {
        hooks::run(hook, container)?;
    }
    Ok(())
}
