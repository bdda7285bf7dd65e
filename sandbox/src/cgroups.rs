//! Where a container's cgroup is made, and what it says of the container's end.

use std::io::Read;
use std::path::{Path, PathBuf};

use cgroup_core::{Cgroup, Controllers, Hierarchy, Limits};

use crate::command::CgroupUse;
use crate::error::{Error, ErrorKind};
use crate::outcome::{Oom, OomLevel};
use crate::spec::Spec;

/// The name of the cgroup that holds all containers of the library's making.
const BASE: &str = "nspod";

/// A container's cgroup.
#[derive(Debug)]
pub(crate) struct Home {
    cgroup: Cgroup,
    /// It belongs to the container that is joined, and is not this one's to remove.
    borrowed: bool,
    /// The library's own parent, to be removed when nothing is left in it.
    base: Option<PathBuf>,
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
    ) -> Result<Option<Home>, Error> {
        let demanded = !spec.limits.is_empty() || spec.devices.is_some();
        let (parent, base) = match wanted {
            CgroupUse::None if !demanded => return Ok(None),
            CgroupUse::Inside(path) => {
                let cgroup = Cgroup::open(path)?;
                return Ok(Some(Home { cgroup, borrowed: true, base: None, pod: None, above: Vec::new() }));
            }
            CgroupUse::Under(path) => (Cgroup::open(path)?, None),
            CgroupUse::Auto | CgroupUse::None => match base() {
                Ok(base) => {
                    let path = base.path().to_owned();
                    (base, Some(path))
                }
                Err(_) if !demanded => return Ok(None),
                Err(e) => return Err(e),
            },
        };
        let name = name.map_or_else(random_name, |n| Ok(n.to_owned()))?;
        let cgroup = create(&parent, &name, base.is_some())?;
        let mut home = Home { cgroup, borrowed: false, base, pod, above: Vec::new() };
        match home.prepare(spec) {
            Ok(()) => Ok(Some(home)),
            Err(e) => {
                let _ = home.remove();
                Err(e)
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

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The `oom` counts of the cgroups above; empty where there is no memory controller.
    fn ooms_above(&self) -> Vec<(PathBuf, u64)> {
        let mut all = Vec::new();
        let mut path = self.cgroup.path();
        while let Some(parent) = path.parent() {
            let Ok(text) = std::fs::read_to_string(parent.join("memory.events.local")) else { break };
            all.push((parent.to_owned(), event(&text, "oom")));
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
    pub(crate) fn remove(self) -> Result<(), Error> {
        if self.borrowed {
            return Ok(());
        }
        self.cgroup.destroy()?;
        if let Some(base) = &self.base {
            // Busy as long as another container lives in it.
            let _ = std::fs::remove_dir(base);
        }
        Ok(())
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

fn event(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The cgroup under which containers are made: `nspod` below the root for root, below what
/// is delegated for others.
pub(crate) fn base() -> Result<Cgroup, Error> {
    let hierarchy = Hierarchy::detect()?;
    let root = hierarchy.root()?;
    Ok(root.child(BASE).or_else(|_| root.create_child(BASE))?)
}

/// Makes a cgroup. Another process may remove an empty base at the same moment, and then
/// it is made again.
fn create(parent: &Cgroup, name: &str, base_is_ours: bool) -> Result<Cgroup, Error> {
    for _ in 0..16 {
        match parent.create_child(name) {
            Err(e) if base_is_ours && e.raw_os_error() == Some(libc::ENOENT) => {
                let again = base()?;
                match again.create_child(name) {
                    Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                    other => return Ok(other?),
                }
            }
            other => return Ok(other?),
        }
    }
    Ok(parent.create_child(name)?)
}

/// Twelve hexadecimal digits.
pub(crate) fn random_name() -> Result<String, Error> {
    let mut bytes = [0u8; 6];
    let mut random = std::fs::File::open("/dev/urandom")
        .map_err(|e| Error::io(ErrorKind::Process, "open /dev/urandom", "open", &e))?;
    random
        .read_exact(&mut bytes)
        .map_err(|e| Error::io(ErrorKind::Process, "read /dev/urandom", "read", &e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The controllers that containers are measured and limited by, as far as they are here.
pub(crate) fn wanted() -> Controllers {
    Controllers::CPU | Controllers::MEMORY | Controllers::PIDS | Controllers::IO | Controllers::CPUSET
}

/// Makes a parent for a pod's containers.
pub(crate) fn make_pod(name: &str, parent: Option<&Path>) -> Result<(Cgroup, Option<PathBuf>), Error> {
    match parent {
        Some(path) => Ok((Cgroup::open(path)?.create_child(name)?, None)),
        None => {
            let base = base()?;
            let path = base.path().to_owned();
            Ok((create(&base, name, true)?, Some(path)))
        }
    }
}
