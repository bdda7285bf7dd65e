//! Pods from one invocation to the next.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nspod_sandbox::{HoldBy, Pod, PodRecord, PodSpec};
use serde::{Deserialize, Serialize};

use super::{Dir, Lock, Process, Store, base, remove_cgroup};
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
    dir: Dir,
    record: Option<Record>,
}

impl Pods {
    pub(crate) fn open() -> Result<Pods> {
        let dir = Dir::own(&base())?.make_sub("pods")?;
        Ok(Pods { dir })
    }

    /// Makes a pod, all of it or nothing.
    pub(crate) fn create(&self, name: &str, spec: &PodSpec, created: u64, privileged: bool) -> Result<()> {
        if !self.dir.mkdir(name)? {
            return Err(Error::new(format!("there is a pod {name} already"))
                .hint(format!("choose another name, or `nspod pod rm -f {name}`")));
        }
        let gone = || Error::new(format!("somebody has removed the pod {name} while it was being made"));
        let dir = self.dir.sub(name)?.ok_or_else(gone)?;
        let _lock = dir.lock(true)?;
        let mut found = Found { name: name.into(), dir, record: None };
        let made = found.make(spec, created, privileged);
        if made.is_err() {
            let _ = self.remove_dir(&found);
        }
        made
    }

    pub(crate) fn find(&self, name: &str) -> Result<Found> {
        let name = crate::value::name(name)?;
        let none = || Error::new(format!("there is no pod {name}")).hint("`nspod pod ls` lists all");
        Found::load(name.clone(), self.dir.sub(&name)?.ok_or_else(none)?)
    }

    pub(crate) fn all(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for name in self.dir.names()? {
            if let Some(dir) = self.dir.sub(&name)? {
                all.push(Found::load(name, dir)?);
            }
        }
        Ok(all)
    }

    /// Kills what is left in a pod and removes all of it.
    pub(crate) fn remove(&self, found: &Found) -> Result<()> {
        let _lock = found.lock()?;
        match found.open() {
            Ok(pod) => pod.delete()?,
            // Its namespaces are gone, after a crash or a reboot; the rest need not be.
            Err(_) => found.clear()?,
        }
        self.remove_dir(found)
    }

    fn remove_dir(&self, found: &Found) -> Result<()> {
        found.unmount()?;
        self.dir.remove_sub(&found.name)
    }
}

impl Found {
    fn load(name: String, dir: Dir) -> Result<Found> {
        let record = match dir.read(RECORD)? {
            Some(text) => Some(serde_json::from_str(&text).map_err(|e| {
                Error::new(format!("{} is not a record of this nspod's: {e}", dir.at(RECORD).display()))
            })?),
            None => None,
        };
        Ok(Found { name, dir, record })
    }

    fn make(&mut self, spec: &PodSpec, created: u64, privileged: bool) -> Result<()> {
        let hold_by = if privileged { HoldBy::Descriptors } else { HoldBy::Process };
        // No container can have a name with a colon: their cgroups lie beside each other.
        let spec = PodSpec { hold_by, ..spec.clone() };
        let mut pod = Pod::create(&format!("pod:{}", self.name), &spec)?;
        if privileged {
            self.dir.make_sub(PINS)?;
            let pins = self.dir.at(PINS);
            private_mount(&pins)?;
            if let Err(e) = pod.pin(&pins) {
                drop(pod);
                return Err(e.into());
            }
        }
        let record = Record {
            created,
            spec: pod.spec().clone(),
            record: pod.record(),
            holder: pod.holder_pid().and_then(Process::of),
        };
        let text =
            serde_json::to_vec(&record).map_err(|e| Error::new(format!("cannot write the pod down: {e}")))?;
        self.dir.replace(RECORD, &text)?;
        self.record = Some(record);
        pod.detach();
        Ok(())
    }

    fn lock(&self) -> Result<Option<Lock>> {
        self.dir.lock(true)
    }

    fn record(&self) -> Result<&Record> {
        self.record.as_ref().ok_or_else(|| {
            Error::new(format!("the pod {} was never finished", self.name))
                .hint(format!("`nspod pod rm -f {}` removes what is left of it", self.name))
        })
    }

    pub(crate) fn open(&self) -> Result<Pod> {
        let record = self.record()?;
        if record.holder.as_ref().is_some_and(|holder| !holder.lives()) {
            return Err(Error::new(format!(
                "the process that holds the pod {}'s namespaces has ended, and they with it; `nspod pod rm -f {0}` removes the rest",
                self.name
            )));
        }
        Ok(Pod::open(&record.spec, &record.record)?)
    }

    pub(crate) fn created(&self) -> Option<u64> {
        self.record.as_ref().map(|r| r.created)
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.record.as_ref().map(|r| &r.spec)
    }

    /// The ids of its containers.
    pub(crate) fn containers(&self, store: &Store) -> Result<Vec<String>> {
        let in_it = |entry: super::Entry| {
            let record = entry.record.as_ref()?;
            (record.pod.as_deref() == Some(&self.name)).then_some(entry.id)
        };
        Ok(store.all()?.into_iter().filter_map(in_it).collect())
    }

    /// What is left of a pod whose namespaces are gone.
    fn clear(&self) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        if let Some(holder) = record.holder.as_ref().and_then(Process::open) {
            holder.send_signal(nix::libc::SIGKILL)?;
        }
        if let Some(path) = &record.record.cgroup {
            remove_cgroup(path)?;
        }
        match record.record.shm.as_deref().map(std::fs::remove_dir_all) {
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
