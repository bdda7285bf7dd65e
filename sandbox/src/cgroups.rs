//! The cgroup of a container: its place, its limits, and the cause of the container's end according
//! to its counters.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cgroup_core::delegate::{self, Move};
use cgroup_core::{Cgroup, Limits, MemoryEvents};

use crate::claim;
use crate::error::{Error, ErrorKind};
use crate::outcome::{Oom, OomLevel};
use crate::parent::{CgroupParent, PARENT, WANTED, create_in_parent, is_not_allowed};
use crate::plan::text::absolute;
use crate::session;
use crate::spec::Spec;
use crate::stale::{self, owned_name};
use crate::store::random_name;
use crate::watch::{Watched, watch_cgroup};

/// Prefix for the names of a pool's cgroups.
const AHEAD: &str = "pool-";

/// The cgroup in which a container starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum CgroupUse {
    /// A new cgroup in the library's parent, if the caller may make one.
    #[default]
    Auto,
    /// A new cgroup in this one.
    Under(PathBuf),
    /// A new cgroup at this path, with its missing parents.
    At(PathBuf),
    /// An existing cgroup, which belongs to the joined container.
    Inside {
        /// Its directory.
        path: PathBuf,
        /// The first process of the container. If the cgroup is gone, or cannot hold processes
        /// because it enables controllers for its children, the cgroup of this process is used.
        of: Option<i32>,
        /// Whether to start even if the cgroup is frozen.
        even_frozen: bool,
    },
    /// A new cgroup for a call, in the container's.
    Call {
        /// The directory of the container's cgroup.
        container: PathBuf,
        /// Whether to start even if the cgroup is frozen.
        even_frozen: bool,
    },
    /// The caller's cgroup.
    None,
}

/// A container's cgroup.
#[derive(Debug)]
pub(crate) struct ContainerCgroup {
    cgroup: Cgroup,
    /// Whether the cgroup belongs to another container or must stay. This value then does not
    /// remove it.
    borrowed: bool,
    /// The library's parent, if the cgroup is in it.
    parent: Option<Arc<CgroupParent>>,
    /// The pod's cgroup, if the container is in a pod.
    pod: Option<PathBuf>,
    /// The container's cgroup, if this is the cgroup of a call.
    container: Option<PathBuf>,
    /// Path and `oom` count of each ancestor before the start. A missing count is 0: it is not known
    /// for a container that another process started.
    above: Vec<(PathBuf, u64)>,
    /// Set if the cgroup ends with this program.
    watched: Option<Watched>,
}

impl ContainerCgroup {
    fn new(cgroup: Cgroup) -> ContainerCgroup {
        ContainerCgroup {
            cgroup,
            borrowed: false,
            parent: None,
            pod: None,
            container: None,
            above: Vec::new(),
            watched: None,
        }
    }

    /// Opens or makes the cgroup, and sets the spec's limits. Returns `None` if the container stays in
    /// the caller's cgroup. Without a name, the cgroup gets a random one; if it is `owned`, the name
    /// contains the identity of this program.
    pub(crate) fn open(
        wanted: &CgroupUse,
        name: Option<&str>,
        owned: bool,
        spec: &Spec,
        pod: Option<PathBuf>,
        known: &mut Option<Arc<CgroupParent>>,
    ) -> Result<Option<ContainerCgroup>, Error> {
        let demanded = !spec.limits.is_empty() || spec.devices.is_some();
        let random = if owned { owned_name } else { random_name };
        let name = || name.map_or_else(random, str::to_owned);
        let (cgroup, parent) = match wanted {
            CgroupUse::None => {
                nothing_demanded(spec, "the container does not have its own cgroup")?;
                return Ok(None);
            }
            CgroupUse::Inside { path, of, even_frozen } => {
                let path_text = path.display();
                let why = match of {
                    Some(_) => format!(
                        "the process starts in the container's cgroup {path_text} (`Container::call` starts it in a cgroup of its own)"
                    ),
                    None => format!("the process starts in the existing cgroup {path_text}"),
                };
                nothing_demanded(spec, &why)?;
                let cgroup = Cgroup::open(absolute("cgroup_inside", path)?)?;
                if !even_frozen {
                    not_frozen(&cgroup)?;
                }
                let mut existing = ContainerCgroup::new(cgroup);
                existing.borrowed = true;
                return Ok(Some(existing));
            }
            CgroupUse::Call { container, even_frozen } => {
                let above = Cgroup::open(container)?;
                if !even_frozen {
                    not_frozen(&above)?;
                }
                (session::create(&above, name, spec.limits.controllers())?, None)
            }
            CgroupUse::At(path) => {
                let cgroup = Cgroup::top()?.create_path(path, WANTED)?;
                (cgroup, None)
            }
            CgroupUse::Under(path) => {
                let parent = Cgroup::open(absolute("cgroup_parent", path)?)?;
                not_frozen(&parent)?;
                (parent.create_child(name())?, None)
            }
            CgroupUse::Auto => match create_in_parent(&name(), WANTED, known) {
                Ok((parent, cgroup)) => (cgroup, Some(parent)),
                Err(e) if !demanded && is_not_allowed(&e) => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        let mut cgroup = ContainerCgroup::new(cgroup);
        cgroup.parent = parent;
        cgroup.pod = pod;
        if let CgroupUse::Call { container, .. } = wanted {
            cgroup.container = Some(container.clone());
        }
        cgroup.prepare(spec)?;
        Ok(Some(cgroup))
    }

    /// Returns the cgroup of a container that another process started. Dropping it kills the
    /// container; call [`leave`](Self::leave) to keep it.
    pub(crate) fn of_running(cgroup: Cgroup, pod: Option<PathBuf>) -> ContainerCgroup {
        let mut running = ContainerCgroup::new(cgroup);
        running.pod = pod;
        running
    }

    /// Returns the path of the pod's cgroup.
    pub(crate) fn pod(&self) -> Option<&Path> {
        self.pod.as_deref()
    }

    /// Makes a cgroup for a pool, in `parent` or in the library's parent.
    pub(crate) fn ahead(
        parent: Option<&Path>,
        known: &mut Option<Arc<CgroupParent>>,
    ) -> Result<ContainerCgroup, Error> {
        let create = |name: &str| match parent {
            Some(path) => Ok(Some((Cgroup::open(path)?.create_child(name)?, None))),
            None => {
                create_in_parent(name, WANTED, known).map(|(parent, cgroup)| Some((cgroup, Some(parent))))
            }
        };
        let (cgroup, parent) = claim::create_owned(|| format!("{AHEAD}{}", owned_name()), create)?;
        let mut made = ContainerCgroup::new(cgroup);
        made.parent = parent;
        Ok(made)
    }

    /// Gives a cgroup of [`ahead`](Self::ahead) to a container, with the spec's limits.
    pub(crate) fn take_over(mut self, spec: &Spec, pod: Option<PathBuf>) -> Result<ContainerCgroup, Error> {
        if self.parent.is_none() {
            not_frozen(&self.cgroup)?;
        }
        self.pod = pod;
        self.prepare(spec)?;
        Ok(self)
    }

    /// Removes the empty cgroups that pools of ended programs left behind.
    pub(crate) fn remove_abandoned(parent: Option<&Path>) {
        let parent = match parent {
            Some(path) => Cgroup::open(path).ok(),
            None => delegate::find(PARENT, Move::Nothing).ok().map(|found| found.base),
        };
        if let Some(parent) = parent {
            let _ = claim::remove_abandoned(&parent, AHEAD);
        }
    }

    fn prepare(&mut self, spec: &Spec) -> Result<(), Error> {
        // `NetLimiter` sets the network limits.
        let limits = match spec.limits.net {
            None => Cow::Borrowed(&spec.limits),
            Some(_) => Cow::Owned(Limits { net: None, ..spec.limits.clone() }),
        };
        if !limits.is_empty() {
            limit(&self.cgroup, &limits)?;
        }
        if let Some(rules) = &spec.devices {
            self.cgroup.attach_devices(rules)?;
        }
        self.above = self.ooms_above();
        Ok(())
    }

    /// Ties the cgroup and the processes in it to this program: see [`watch`](crate::watch).
    pub(crate) fn watch(&mut self, by_default: bool) -> Result<(), Error> {
        self.watched = watch_cgroup(&self.cgroup, by_default)?;
        Ok(())
    }

    /// Returns whether the cgroup belongs to another container.
    pub(crate) fn is_borrowed(&self) -> bool {
        self.borrowed
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Returns the `oom` counts of the ancestors. The list is empty without a memory controller.
    fn ooms_above(&self) -> Vec<(PathBuf, u64)> {
        let mut all = Vec::new();
        let mut path = self.cgroup.path();
        while let Some(parent) = path.parent() {
            // `read_to_string` of a `File` calls statx(2) for the size first, but cgroup files have
            // no size.
            let mut text = String::with_capacity(4096);
            let file = std::fs::File::open(parent.join("memory.events.local"));
            if file.and_then(|file| file.take(u64::MAX).read_to_string(&mut text)).is_err() {
                break;
            }
            let oom = MemoryEvents::parse(&text).ok().and_then(|events| events.oom);
            all.push((parent.to_owned(), oom.unwrap_or(0)));
            path = parent;
        }
        all
    }

    /// Returns the number of processes that the OOM killer ended, and the level whose limit was
    /// reached: the level whose `oom` count grew.
    pub(crate) fn oom(&self) -> Option<Oom> {
        let (reached, killed) = session::own_ooms(&self.cgroup).filter(|(_, killed)| *killed > 0)?;
        // The count includes the limits of cgroups that the container made in its own.
        let level = if reached > 0 {
            if self.container.is_some() { OomLevel::Call } else { OomLevel::Container }
        } else {
            let before = |path: &Path| self.above.iter().find(|(of, _)| of == path).map_or(0, |(_, n)| *n);
            match self.ooms_above().into_iter().find(|(path, now)| *now > before(path)) {
                Some((path, _)) if Some(&path) == self.container.as_ref() => OomLevel::Container,
                Some((path, _)) if Some(&path) == self.pod.as_ref() => OomLevel::Pod,
                Some((path, _)) => OomLevel::Ancestor(path),
                None => OomLevel::Host,
            }
        };
        Some(Oom { level, killed })
    }

    /// Returns whether an allocation reached `memory.max` of the cgroup.
    fn is_short_of_memory(&self) -> bool {
        self.cgroup.memory_events().is_ok_and(|events| events.max.is_some_and(|times| times > 0))
    }

    /// Kills the processes in the cgroup, and removes it with its descendants.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Kills the processes in the cgroup, and removes it like [`remove`](Self::remove), but waits for at most
    /// 200 ms. A thread completes the removal.
    pub(crate) fn remove_soon(mut self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        let remove = |patience| session::remove_within(&self.cgroup, patience).is_ok();
        // Usually the cgroup is empty. The processes that outlived the first one have not been killed.
        if self.borrowed || remove(Duration::ZERO) || (self.cgroup.kill().is_ok() && remove(PATIENCE)) {
            self.borrowed = true;
            return;
        }
        let later = std::thread::Builder::new().name("nspod-remove".into());
        let shared = Arc::new(Mutex::new(Some(self)));
        let theirs = shared.clone();
        let take =
            |shared: &Mutex<Option<ContainerCgroup>>| shared.lock().ok().and_then(|mut one| one.take());
        if later.spawn(move || drop(take(&theirs))).is_err()
            && let Some(cgroup) = take(&shared)
        {
            cgroup.leave_tied();
        }
    }

    /// Drops the handle and keeps the cgroup. It does not end with this program any more.
    pub(crate) fn leave(mut self) {
        if !std::mem::replace(&mut self.borrowed, true) {
            stale::keep(&self.cgroup);
        }
    }

    /// Drops the handle and keeps the cgroup. If it is tied to this program, it ends with it.
    pub(crate) fn leave_tied(mut self) {
        self.borrowed = true;
        if let Some(watched) = self.watched.take() {
            watched.keep();
        }
    }

    fn clear(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.borrowed, true) {
            return Ok(());
        }
        if let Err(e) = self.cgroup.destroy() {
            if let Some(watched) = self.watched.take() {
                watched.keep();
            }
            return Err(e.into());
        }
        self.parent = None;
        Ok(())
    }
}

impl Drop for ContainerCgroup {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// Adds the likely cause to the error of a start whose first process was killed, or that reached
/// the memory limit.
///
/// `cgroup` is the container's.
pub(crate) fn explain(error: Error, cgroup: Option<&ContainerCgroup>) -> Error {
    let hint = match (error.kind(), error.raw_os_error()) {
        (ErrorKind::Killed, _) => match cgroup.and_then(ContainerCgroup::oom) {
            Some(oom) => format!("{oom}: the memory limit may be too low for the start"),
            None => {
                "a process outside the container sent the signal, or the process reached a resource limit"
                    .to_owned()
            }
        },
        // execve(2) also fails with E2BIG if there is no memory for the arguments.
        (_, Some(libc::ENOMEM | libc::E2BIG)) if cgroup.is_some_and(ContainerCgroup::is_short_of_memory) => {
            "memory.max was reached: the memory limit may be too low for the start".to_owned()
        }
        _ => return error,
    };
    error.with_hint(Some(hint))
}

/// Checks that the spec sets neither limits nor device rules: they require that the container has
/// its own cgroup.
fn nothing_demanded(spec: &Spec, why: &str) -> Result<(), Error> {
    let net = spec.limits.net.iter().flat_map(|net| net.settings());
    let limit = spec.limits.writes().into_iter().chain(net).next().map(|(file, _)| format!("limits.{file}"));
    match limit.or(spec.devices.as_ref().map(|_| "devices".to_owned())) {
        Some(field) => {
            Err(Error::invalid(&field, format!("{why}, so this would not be enforced: leave it out")))
        }
        None => Ok(()),
    }
}

/// Checks that a cgroup is not frozen. A process that starts in a frozen cgroup would never execute
/// its program, and the caller would wait forever.
fn not_frozen(cgroup: &Cgroup) -> Result<(), Error> {
    match cgroup.events() {
        Ok(events) if events.frozen => {
            let path = cgroup.path().display().to_string();
            let what = format!("cannot start a process in {path}, which is frozen: thaw it first");
            Err(Error::new(ErrorKind::State, "cgroup", what).on(path))
        }
        // The root of the hierarchy has no cgroup.events. If the cgroup is gone, the clone fails.
        Err(e) if e.kind() != cgroup_core::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Sets limits, after enabling their controllers in the ancestors.
pub(crate) fn limit(cgroup: &Cgroup, limits: &Limits) -> Result<(), Error> {
    if let Err(missing) = cgroup.enable_path(limits.controllers()) {
        // The error of `apply` names the limit and the reason why it cannot be enforced.
        cgroup.apply(limits)?;
        return Err(missing.into());
    }
    cgroup.apply(limits)?;
    Ok(())
}

/// Makes the cgroup of a pod, and returns it with the path of the library's parent. Calls `tell`
/// with the path before it makes the cgroup, unless the path already exists.
pub(crate) fn make_pod(
    name: &str,
    tell: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(Cgroup, PathBuf), Error> {
    let parent = Arc::new(CgroupParent::find(WANTED)?);
    let path = parent.0.path().join(name);
    if !path.exists() {
        tell(&path)?;
    }
    let (parent, cgroup) = create_in_parent(name, WANTED, &mut Some(parent))?;
    Ok((cgroup, parent.0.path().to_owned()))
}
