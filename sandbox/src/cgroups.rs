//! Where a container's cgroup is made, and what it says of the container's end.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cgroup_core::delegate::{self, Move};
use cgroup_core::{Cgroup, Controllers, Limits, MemoryEvents};

use crate::command::CgroupUse;
use crate::error::{Error, ErrorKind};
use crate::outcome::{Oom, OomLevel};
use crate::spawn::{Lock, lock};
use crate::spec::Spec;

/// The name of the cgroup that holds all containers of the library's making.
const BASE: &str = "nspod";

/// How the names of cgroups begin that are made ahead.
const AHEAD: &str = "pool-";

/// The controllers that containers are limited and measured by, as far as the host has them.
pub(crate) const WANTED: Controllers = Controllers::all();

/// A container's cgroup.
#[derive(Debug)]
pub(crate) struct Home {
    cgroup: Cgroup,
    /// It belongs to the container that is joined, and is not this one's to remove.
    borrowed: bool,
    /// The library's own parent.
    base: Option<Arc<Base>>,
    pod: Option<PathBuf>,
    /// `oom` of each cgroup above, before the start.
    above: Vec<(PathBuf, u64)>,
}

impl Home {
    /// Makes the cgroup, with the spec's limits, or finds out that none is to be had.
    pub(crate) fn open(
        wanted: &CgroupUse,
        name: Option<&str>,
        spec: &Spec,
        pod: Option<PathBuf>,
        base: &mut Option<Arc<Base>>,
    ) -> Result<Option<Home>, Error> {
        let demanded = !spec.limits.is_empty() || spec.devices.is_some();
        let name = || name.map_or_else(random_name, str::to_owned);
        let (cgroup, base) = match wanted {
            CgroupUse::None => {
                nothing_demanded(spec, "the container is to have no cgroup of its own")?;
                return Ok(None);
            }
            CgroupUse::Inside { path, even_frozen, .. } => {
                let why = format!("the process is to start in {}, which is not its own", path.display());
                nothing_demanded(spec, &why)?;
                let cgroup = Cgroup::open(path)?;
                if !even_frozen {
                    not_frozen(&cgroup)?;
                }
                return Ok(Some(Home { cgroup, borrowed: true, base: None, pod: None, above: Vec::new() }));
            }
            CgroupUse::At(path) => {
                let cgroup = Cgroup::top()?.create_path(path, WANTED)?;
                (cgroup, None)
            }
            CgroupUse::Under(path) => {
                let parent = Cgroup::open(path)?;
                not_frozen(&parent)?;
                (parent.create_child(name())?, None)
            }
            CgroupUse::Auto => match create_in_base(&name(), base) {
                Ok((base, cgroup)) => (cgroup, Some(base)),
                Err(e) if !demanded && none_to_be_had(&e) => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        let mut home = Home { cgroup, borrowed: false, base, pod, above: Vec::new() };
        home.prepare(spec)?;
        Ok(Some(home))
    }

    /// Makes a cgroup for whoever comes, here or where the library would.
    pub(crate) fn ahead(parent: Option<&Path>, known: &mut Option<Arc<Base>>) -> Result<Home, Error> {
        let name = format!("{AHEAD}{}", random_name());
        for _ in 0..100 {
            let (cgroup, base) = match parent {
                Some(path) => (Cgroup::open(path)?.create_child(&name)?, None),
                None => create_in_base(&name, known).map(|(base, cgroup)| (cgroup, Some(base)))?,
            };
            let home = Home { cgroup, borrowed: false, base, pod: None, above: Vec::new() };
            // Held as long as the descriptor is open. Another pool that found it before that has
            // removed it.
            if lock(home.cgroup.as_fd(), Lock::Shared) && home.cgroup.events().is_ok() {
                return Ok(home);
            }
        }
        Err(Error::new(ErrorKind::Cgroup, format!("somebody removes the cgroup {name} whenever it is made")))
    }

    /// What [`ahead`](Self::ahead) has made becomes a container's.
    pub(crate) fn take_over(mut self, spec: &Spec, pod: Option<PathBuf>) -> Result<Home, Error> {
        if self.base.is_none() {
            not_frozen(&self.cgroup)?;
        }
        self.pod = pod;
        self.prepare(spec)?;
        Ok(self)
    }

    /// Removes what programs that have ended had made ahead, where nobody is in it.
    pub(crate) fn remove_abandoned(parent: Option<&Path>) {
        let parent = match parent {
            Some(path) => Cgroup::open(path).ok(),
            None => delegate::find(BASE, Move::Nothing).ok().map(|found| found.base),
        };
        for child in parent.and_then(|parent| parent.children().ok()).unwrap_or_default() {
            if child.name().as_bytes().starts_with(AHEAD.as_bytes()) && lock(child.as_fd(), Lock::Exclusive) {
                let _ = child.remove_within(Duration::ZERO);
            }
        }
    }

    fn prepare(&mut self, spec: &Spec) -> Result<(), Error> {
        if !spec.limits.is_empty() {
            limit(&self.cgroup, &spec.limits)?;
        }
        if let Some(rules) = &spec.devices {
            self.cgroup.attach_devices(rules)?;
        }
        self.above = self.ooms_above();
        Ok(())
    }

    /// It belongs to the container that is joined.
    pub(crate) fn is_borrowed(&self) -> bool {
        self.borrowed
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The `oom` counts of the cgroups above; empty where there is no memory controller.
    fn ooms_above(&self) -> Vec<(PathBuf, u64)> {
        let mut all = Vec::new();
        let mut path = self.cgroup.path();
        while let Some(parent) = path.parent() {
            // std would ask a plain file for its size first, which these do not have.
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

    /// Whether the OOM killer was at work, and at which level: where `oom` was counted.
    pub(crate) fn oom(&self) -> Option<Oom> {
        let killed = self.cgroup.memory_events().ok()?.oom_kill?;
        if killed == 0 {
            return None;
        }
        let own = self.cgroup.memory_events_local().ok().and_then(|e| e.oom).unwrap_or(0);
        let level = if own > 0 {
            OomLevel::Container
        } else {
            let now = self.ooms_above();
            let hit = now.iter().zip(&self.above).find(|((_, now), (_, before))| now > before);
            match hit.map(|((path, _), _)| path) {
                Some(path) if Some(path) == self.pod.as_ref() => OomLevel::Pod,
                Some(path) => OomLevel::Ancestor(path.clone()),
                None => OomLevel::Host,
            }
        };
        Some(Oom { level, killed })
    }

    /// Removes the cgroup and everything below it.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Leaves it to live on.
    pub(crate) fn leave(mut self) {
        self.borrowed = true;
    }

    fn clear(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.borrowed, true) {
            return Ok(());
        }
        self.cgroup.destroy()?;
        self.base = None;
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// Checks that the spec has nothing that a cgroup of the container's own would enforce.
fn nothing_demanded(spec: &Spec, why: &str) -> Result<(), Error> {
    let limit = spec.limits.writes().into_iter().next().map(|(file, _)| format!("limits.{file}"));
    match limit.or(spec.devices.as_ref().map(|_| "devices".to_owned())) {
        Some(field) => {
            Err(Error::invalid(&field, format!("{why}, and nothing would enforce this: leave it out")))
        }
        None => Ok(()),
    }
}

/// A process that is born frozen never becomes its program, and its parent would wait for it.
fn not_frozen(cgroup: &Cgroup) -> Result<(), Error> {
    match cgroup.events() {
        Ok(events) if events.frozen => Err(Error::new(
            ErrorKind::State,
            format!("nothing can be started in {}, which is frozen: thaw it first", cgroup.path().display()),
        )),
        // The root of the hierarchy cannot be frozen, and what is gone takes no process.
        Err(e) if e.kind() != cgroup_core::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Sets limits, after what it takes from the cgroups above.
pub(crate) fn limit(cgroup: &Cgroup, limits: &Limits) -> Result<(), Error> {
    if let Err(missing) = cgroup.enable_path(limits.controllers()) {
        // `apply` says of each limit why it cannot be had.
        cgroup.apply(limits)?;
        return Err(missing.into());
    }
    cgroup.apply(limits)?;
    Ok(())
}

/// The cgroup under which containers are made: `nspod` below the root for root, below what
/// is delegated for others. It is removed with the last that uses it, here or in another
/// program.
#[derive(Debug)]
pub(crate) struct Base(Cgroup);

impl Base {
    /// The controllers that containers are measured by are handed down to it as far as the host
    /// lets them be.
    fn find() -> Result<Base, Error> {
        let found = delegate::find(BASE, Move::Nothing)?;
        let base = Base(found.base);
        // Only a limit that is asked for is owed, and then what is in its way is said.
        let _ = base.hand_down(WANTED & found.controllers);
        Ok(base)
    }
}

impl Base {
    fn hand_down(&self, wanted: Controllers) -> cgroup_core::Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut has = self.0.available()?;
        if !has.contains(wanted) {
            self.0.enable_path(wanted)?;
            has = self.0.available()?;
        }
        self.0.enable(has & WANTED)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // Busy as long as another container lives in it.
        let _ = std::fs::remove_dir(self.0.path());
    }
}

/// Makes a cgroup under the base, which may be known from before. It may vanish at any moment,
/// and is made again.
fn create_in_base(name: &str, known: &mut Option<Arc<Base>>) -> Result<(Arc<Base>, Cgroup), Error> {
    let gone = |e: &Error| matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV));
    let mut attempt = || {
        let base = match known.take() {
            Some(base) => base,
            None => Arc::new(Base::find()?),
        };
        let cgroup = base.0.create_child(name)?;
        *known = Some(base.clone());
        Ok((base, cgroup))
    };
    for _ in 0..100 {
        match attempt() {
            Err(e) if gone(&e) => std::thread::yield_now(),
            other => return other,
        }
    }
    attempt()
}

/// Whether this host lets the caller have no cgroup: there is no hierarchy, or no right to one. Any
/// other failure (a name that is taken, a limit on cgroups, too many open files) is one to tell.
pub(crate) fn none_to_be_had(e: &Error) -> bool {
    let refused = matches!(e.raw_os_error(), None | Some(libc::EACCES | libc::EPERM | libc::EROFS));
    e.kind() == ErrorKind::Cgroup && refused
}

/// Twelve hexadecimal digits, made without a system call once the thread has its keys.
pub(crate) fn random_name() -> String {
    // The keys are the kernel's random bits. A process that was forked off has the same ones.
    let number = RandomState::new().hash_one(std::process::id());
    format!("{:012x}", number >> 16)
}

/// Makes a parent for a pod's containers, and says which base it lies in. The path of one that is
/// free is told before it is made.
pub(crate) fn make_pod(
    name: &str,
    tell: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(Cgroup, PathBuf), Error> {
    let base = Arc::new(Base::find()?);
    let path = base.0.path().join(name);
    if !path.exists() {
        tell(&path)?;
    }
    let (base, cgroup) = create_in_base(name, &mut Some(base))?;
    Ok((cgroup, base.0.path().to_owned()))
}
