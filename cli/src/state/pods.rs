//! Pods from one invocation to the next.

use std::path::Path;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nspod_sandbox::{HoldBy, Pod, PodRecord, PodSpec};
use serde::{Deserialize, Serialize};

use super::{Dir, Lock, Locked, Process, Store, base, remove_cgroup};
use crate::error::{Error, Result};

const RECORD: &str = "state.json";
/// Where the namespaces are pinned: a mount of its own, private, so that no copy of a pin
/// ends up in another mount namespace.
const PINS: &str = "ns";

/// A pod, as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Seconds since 1970.
    created: u64,
    spec: PodSpec,
    record: PodRecord,
    /// Which process `record.holder` is the pid of.
    holder: Option<Process>,
    /// It is not finished: what `record` names may be there or not.
    #[serde(default)]
    creating: bool,
}

impl Record {
    fn new(created: u64, spec: &PodSpec, record: PodRecord) -> Result<Record> {
        let holder = record.holder.map(Process::of).transpose()?;
        Ok(Record { created, spec: spec.clone(), record, holder, creating: false })
    }

    fn write(&self, dir: &Dir) -> Result<()> {
        let text =
            serde_json::to_vec(self).map_err(|e| Error::new(format!("cannot write the pod down: {e}")))?;
        dir.replace(RECORD, &text)
    }
}

/// All pods of one user.
#[derive(Debug)]
pub(crate) struct Pods {
    dir: Dir,
}

/// A pod's directory, and what is in it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    dir: Arc<Dir>,
    record: Option<Record>,
}

impl Pods {
    pub(crate) fn open() -> Result<Pods> {
        let dir = Dir::own(&base())?.make_sub("pods")?;
        Ok(Pods { dir })
    }

    /// Makes a pod, all of it or nothing.
    pub(crate) fn create(&self, name: &str, spec: &PodSpec, created: u64, privileged: bool) -> Result<()> {
        let (dir, lock) = loop {
            if let Some(claimed) = self.dir.claim(name)? {
                break claimed;
            }
            match self.lock(name, false)? {
                // The rest of a creation that was killed.
                Locked::Ours(found, lock) if !found.is_finished() => self.remove_locked(&found, &lock)?,
                Locked::Gone => {}
                Locked::Ours(..) | Locked::Theirs => {
                    return Err(Error::new(format!("there is a pod {name} already"))
                        .hint(format!("choose another name, or `nspod pod rm -f {name}`")));
                }
            }
        };
        let found = Found { name: name.into(), dir: dir.into(), record: None };
        let made = found.make(spec, created, privileged);
        if made.is_err() {
            // What cannot be removed now is left with its record.
            let _ = found.reload().and_then(|found| self.remove_locked(&found, &lock));
        }
        made
    }

    fn lock(&self, name: &str, wait: bool) -> Result<Locked<Found>> {
        let Some(dir) = self.dir.sub(name)? else { return Ok(Locked::Gone) };
        let Some(lock) = dir.lock(wait)? else { return Ok(Locked::Theirs) };
        match dir.is_at(&self.dir, name)? {
            true => Ok(Locked::Ours(Found::load(name.into(), dir.into())?, lock)),
            false => Ok(Locked::Gone),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Result<Found> {
        let name = crate::value::name(name)?;
        let none = || Error::new(format!("there is no pod {name}")).hint("`nspod pod ls` lists all");
        Found::load(name.clone(), self.dir.sub(&name)?.ok_or_else(none)?.into())
    }

    pub(crate) fn all(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for name in self.dir.names()? {
            if let Some(dir) = self.dir.sub(&name)? {
                all.push(Found::load(name, dir.into())?);
            }
        }
        Ok(all)
    }

    /// Kills what is left in a pod and removes all of it.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match self.lock(name, true)? {
            Locked::Ours(found, lock) => self.remove_locked(&found, &lock),
            // Another invocation has just removed it.
            Locked::Gone | Locked::Theirs => Ok(()),
        }
    }

    pub(crate) fn names(&self) -> Result<Vec<String>> {
        self.dir.names()
    }

    /// Removes what a creation that was killed has left; whether it was one.
    pub(crate) fn prune(&self, name: &str) -> Result<bool> {
        match self.lock(name, false)? {
            Locked::Ours(found, lock) if !found.is_finished() => {
                self.remove_locked(&found, &lock).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn remove_locked(&self, found: &Found, _lock: &Lock) -> Result<()> {
        match found.open() {
            Ok(pod) => pod.delete()?,
            // It was never finished, or its namespaces are gone, after a crash or a reboot; the
            // rest need not be.
            Err(_) => found.clear()?,
        }
        found.unmount()?;
        self.dir.remove_sub(&found.name)
    }
}

impl Found {
    fn load(name: String, dir: Arc<Dir>) -> Result<Found> {
        let record = match dir.read(RECORD)? {
            Some(text) => Some(serde_json::from_str(&text).map_err(|e| {
                Error::new(format!("{} is not a record of this nspod's: {e}", dir.at(RECORD).display()))
            })?),
            None => None,
        };
        Ok(Found { name, dir, record })
    }

    fn reload(&self) -> Result<Found> {
        Found::load(self.name.clone(), self.dir.clone())
    }

    fn make(&self, spec: &PodSpec, created: u64, privileged: bool) -> Result<()> {
        let hold_by = if privileged { HoldBy::Descriptors } else { HoldBy::Process };
        let spec = PodSpec { hold_by, ..spec.clone() };
        let (dir, noted) = (self.dir.clone(), spec.clone());
        let note = move |record: &PodRecord| {
            let written = Record::new(created, &noted, record.clone())
                .and_then(|record| Record { creating: true, ..record }.write(&dir));
            written.map_err(|e| nspod_sandbox::Error::caller(e.to_string()))
        };
        // No container can have a name with a colon: their cgroups lie beside each other.
        let mut pod = Pod::create_noted(&format!("pod:{}", self.name), &spec, note)?;
        if privileged {
            self.dir.make_sub(PINS)?;
            let pins = self.dir.at(PINS);
            private_mount(&pins)?;
            pod.pin(&pins)?;
        }
        Record::new(created, pod.spec(), pod.record())?.write(&self.dir)?;
        pod.detach();
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.record.as_ref().is_some_and(|record| !record.creating)
    }

    fn record(&self) -> Result<&Record> {
        self.record.as_ref().filter(|record| !record.creating).ok_or_else(|| {
            Error::new(format!("the pod {} was never finished", self.name))
                .hint(format!("`nspod pod rm -f {}` removes what is left of it", self.name))
        })
    }

    pub(crate) fn open(&self) -> Result<Pod> {
        let record = self.record()?;
        if !record.holder.as_ref().map_or(Ok(true), Process::lives)? {
            return Err(Error::new(format!(
                "the process that holds the pod {}'s namespaces has ended, and they with it; `nspod pod rm -f {0}` removes the rest",
                self.name
            )));
        }
        Ok(Pod::open(&record.spec, &record.record)?)
    }

    pub(crate) fn created(&self) -> Option<u64> {
        self.record().ok().map(|r| r.created)
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.record().ok().map(|r| &r.spec)
    }

    /// The ids of its containers.
    pub(crate) fn containers(&self, store: &Store) -> Result<Vec<String>> {
        let in_it = |entry: super::Entry| {
            let record = entry.record.as_ref()?;
            (record.pod.as_deref() == Some(&self.name)).then_some(entry.id)
        };
        Ok(store.all()?.into_iter().filter_map(in_it).collect())
    }

    /// Removes what is left of a pod that was never finished, or whose namespaces are gone.
    fn clear(&self) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        if let Some(holder) = record.holder.as_ref().map(Process::open).transpose()?.flatten() {
            holder.send_signal(nix::libc::SIGKILL)?;
        }
        if let Some(path) = &record.record.cgroup {
            remove_cgroup(path)?;
        }
        // It lies in a directory of its own.
        match record.record.shm.as_deref().and_then(Path::parent).map(std::fs::remove_dir_all) {
            Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(format!("cannot remove the shared memory of {}: {e}", self.name)))
            }
            _ => Ok(()),
        }
    }

    fn unmount(&self) -> Result<()> {
        let pins = self.dir.at(PINS);
        match umount2(&pins, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // No mount, no directory, or no right to have made one.
            Ok(())
            | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT | nix::errno::Errno::EPERM) => Ok(()),
            Err(e) => Err(Error::path("unmount", &pins, e)),
        }
    }
}

/// Makes a directory a mount that nothing propagates from.
fn private_mount(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND, none)
        .and_then(|()| mount(none, dir, none, MsFlags::MS_PRIVATE, none))
        .map_err(|e| Error::path("mount", dir, e))
}
