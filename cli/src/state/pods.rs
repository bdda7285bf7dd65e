//! Pods that other invocations created.

use std::path::Path;

use cgroup_core::{Cgroup, Limits};
use ns_core::{Kind, ProcessId};
use nspod_cli::runtime_dir;
use nspod_sandbox::store::{self, Dir, Lock, Locked, Trust};
use nspod_sandbox::{ErrorKind, HoldBy, Pod, PodRecord, PodSpec};
use serde::{Deserialize, Serialize};

use super::{Store, base, remove_cgroup, valid_name};
use crate::error::{Error, Result};
use crate::network::{self, Network, Target};
use crate::private_mount;

/// Directory in which namespaces are pinned. It is a separate private mount, so that no other mount namespace
/// gets a copy of a pin.
const PINS: &str = "ns";

/// Saved state of a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedPod {
    /// Creation time in seconds since 1970.
    created: u64,
    spec: PodSpec,
    record: PodRecord,
    /// Whether the creation has not finished: the objects named in `record` may not exist.
    #[serde(default)]
    creating: bool,
    /// Whether the pod's directory has the state of a network.
    #[serde(default)]
    network: bool,
}

impl store::Record for SavedPod {
    fn is_complete(&self) -> bool {
        !self.creating
    }
}

impl SavedPod {
    fn new(created: u64, spec: &PodSpec, record: PodRecord) -> SavedPod {
        SavedPod { created, spec: spec.clone(), record, creating: false, network: false }
    }
}

/// The pods of one user.
#[derive(Debug)]
pub(crate) struct Pods(store::Store<SavedPod>);

/// A pod's entry in the store.
#[derive(Debug)]
pub(crate) struct Entry(store::Entry<SavedPod>);

impl Pods {
    /// Opens the store. Creates its directory if it is missing.
    pub(crate) fn open() -> Result<Pods> {
        let dir = Dir::private(&base(), runtime_dir::BY_VARIABLE)?.make_sub("pods")?;
        Ok(Pods(store::Store::new(dir, Trust::Store)))
    }

    /// Opens the store for a command that only reads, without creating it. Returns `None` if the store does
    /// not exist or cannot be read.
    pub(crate) fn peek() -> Option<Pods> {
        base().join("pods").is_dir().then(|| Pods::open().ok())?
    }

    /// Creates a pod. `reserve` completes the spec with what it reserves in the pod's entry. If that fails,
    /// nothing of the pod is left.
    pub(crate) fn create(
        &self,
        name: &str,
        spec: &PodSpec,
        network: Option<&Network>,
        privileged: bool,
        reserve: impl FnOnce(&Dir, &mut PodSpec) -> Result<()>,
    ) -> Result<()> {
        let reclaim = |entry: &store::Entry<SavedPod>, lock: &Lock| match is_complete(entry) {
            true => Ok(false),
            false => self.clear(entry, lock).map(|()| true),
        };
        let Some((entry, lock)) = self.0.create(name, reclaim)? else {
            let problem = format!("there is a pod {name} already");
            let error = Error::new(ErrorKind::AlreadyExists, "store", problem).on(name);
            return Err(error.hint(format!("choose another name, or `nspod pod rm -f {name}`")));
        };
        let mut spec = spec.clone();
        let made = reserve(entry.dir(), &mut spec).and_then(|()| make(&entry, spec, network, privileged));
        if made.is_err() {
            // Keep the record if some parts cannot be removed now: `pod rm` removes them later.
            let _ = self.0.reload(&entry).map_err(Error::from).and_then(|entry| self.clear(&entry, &lock));
        }
        made
    }

    /// Returns the pod of a name.
    pub(crate) fn find(&self, name: &str) -> Result<Entry> {
        self.get(name)?.ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, "store", format!("there is no pod {name}")).on(name);
            error.hint("`nspod pod ls` lists all")
        })
    }

    /// Returns the pod of a name, or `None` if it does not exist.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Entry>> {
        Ok(self.0.find(&valid_name(name)?)?.map(Entry))
    }

    /// Returns all pods, sorted by name. A pod whose record cannot be read is left out with a note.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        let note = |e: nspod_sandbox::Error| crate::output::note(e);
        Ok(self.0.entries()?.into_iter().filter_map(|entry| entry.map(Entry).map_err(note).ok()).collect())
    }

    /// Returns the names of all pods, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        Ok(self.0.names()?)
    }

    /// Changes the limits of a pod. `change` writes them to the cgroup and to the spec.
    pub(crate) fn update(
        &self,
        name: &str,
        change: impl FnOnce(&Cgroup, &mut Limits) -> Result<()>,
    ) -> Result<()> {
        self.find(name)?;
        let gone = || Error::state("store", name, format!("the pod {name} has just been removed"));
        // With the lock, each of two updates begins with the limits of the other.
        let Locked::Ours(entry, _lock) = self.0.lock(name, true)? else { return Err(gone()) };
        let pod = open(&entry)?;
        let none = || {
            let problem = format!("the pod {name} does not have its own cgroup");
            Error::state("cgroup", name, problem).hint(nspod_errno::how_to_get_a_cgroup())
        };
        let mut saved = complete(&entry)?.clone();
        change(pod.cgroup().ok_or_else(none)?, &mut saved.spec.limits)?;
        pod.detach();
        Ok(entry.write(&saved)?)
    }

    /// Kills the processes in a pod and removes the pod.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match self.0.lock(name, true)? {
            Locked::Ours(entry, lock) => self.clear(&entry, &lock),
            // Another invocation has just removed it.
            Locked::Gone | Locked::Theirs => Ok(()),
        }
    }

    /// Removes the remains of a killed creation. Returns whether there were any.
    pub(crate) fn prune(&self, name: &str) -> Result<bool> {
        match self.0.lock(name, false)? {
            Locked::Ours(entry, lock) if !is_complete(&entry) => self.clear(&entry, &lock).map(|()| true),
            _ => Ok(false),
        }
    }

    fn clear(&self, entry: &store::Entry<SavedPod>, lock: &Lock) -> Result<()> {
        // The plugins of CNI need the net namespace.
        if entry.record().is_some_and(|saved| saved.network || saved.creating) {
            network::disconnect(entry.dir().path())?;
        }
        match open(entry) {
            Ok(pod) => pod.delete()?,
            // The pod is incomplete, or its namespaces are gone after a crash or a reboot. Other
            // parts can still exist.
            Err(_) => remove_parts(entry)?,
        }
        unmount(entry.dir())?;
        Ok(self.0.remove(entry, lock)?)
    }
}

impl Entry {
    pub(crate) fn name(&self) -> &str {
        self.0.name()
    }

    /// Opens the pod.
    pub(crate) fn open(&self) -> Result<Pod> {
        open(&self.0)
    }

    /// Returns the creation time in seconds since 1970; `None` if the pod is incomplete.
    pub(crate) fn created(&self) -> Option<u64> {
        complete(&self.0).ok().map(|saved| saved.created)
    }

    /// Returns the pid of the process that holds the pod's namespaces, if one does.
    pub(crate) fn holder(&self) -> Option<i32> {
        let holder = complete(&self.0).ok()?.record.holder.as_ref()?;
        matches!(holder.is_alive(), Ok(true)).then_some(holder.pid)
    }

    /// Returns the spec; `None` if the pod is incomplete.
    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        complete(&self.0).ok().map(|saved| &saved.spec)
    }

    /// Returns the pod's directory.
    pub(crate) fn dir(&self) -> &Path {
        self.0.dir().path()
    }

    /// Returns whether the containers of the pod share a kind of namespace.
    pub(crate) fn shares(&self, kind: Kind) -> bool {
        self.spec().is_some_and(|spec| spec.share.contains_kind(kind))
    }

    /// Returns the pod's directory if it has the state of a network.
    pub(crate) fn network(&self) -> Option<&Path> {
        self.0.record().filter(|saved| saved.network).map(|_| self.0.dir().path())
    }

    /// Returns the ids of the pod's containers.
    pub(crate) fn containers(&self, store: &Store) -> Result<Vec<String>> {
        let mut all = store.all()?;
        all.retain(|entry| entry.saved().is_some_and(|saved| saved.pod.as_deref() == Some(self.name())));
        Ok(all.iter().map(|entry| entry.id().to_owned()).collect())
    }
}

fn is_complete(entry: &store::Entry<SavedPod>) -> bool {
    entry.record().is_some_and(store::Record::is_complete)
}

fn complete(entry: &store::Entry<SavedPod>) -> Result<&SavedPod> {
    entry.record().filter(|saved| !saved.creating).ok_or_else(|| {
        let name = entry.name();
        Error::state("store", name, format!("the pod {name} is incomplete"))
            .hint(format!("`nspod pod rm -f {name}` removes the rest of it"))
    })
}

fn open(entry: &store::Entry<SavedPod>) -> Result<Pod> {
    let saved = complete(entry)?;
    Pod::open(&saved.spec, &saved.record).map_err(|e| {
        let gone = matches!(e.kind(), ErrorKind::ProcessEnded | ErrorKind::State);
        let name = entry.name();
        match gone {
            true => Error::from(e.with_context(format_args!("the pod {name}")))
                .on(name)
                .hint(format!("`nspod pod rm -f {name}` removes the rest")),
            false => e.into(),
        }
    })
}

/// Creates a pod in its new entry.
fn make(
    entry: &store::Entry<SavedPod>,
    spec: PodSpec,
    network: Option<&Network>,
    privileged: bool,
) -> Result<()> {
    let created = super::now();
    let hold_by = if privileged { HoldBy::Descriptors } else { HoldBy::Process };
    let mut spec = PodSpec { hold_by, ..spec };
    let dir = entry.dir().path();
    if spec.share.contains_kind(Kind::Net) {
        network::make_hosts(dir, spec.hostname.as_deref())?;
    }
    if let Some(name) = &spec.hostname {
        network::make_hostname(dir, name)?;
    }
    if let Some(network) = network {
        network.make_files(dir)?;
        network.set_sysctls(&mut spec.sysctls);
    }
    if let Some(files) = &mut spec.files {
        network::mount_files(dir, &files.root, &mut files.mounts);
    }
    let (writer, noted) = (entry.writer(), spec.clone());
    let note = move |record: &PodRecord| {
        writer.write(&SavedPod { creating: true, ..SavedPod::new(created, &noted, record.clone()) })
    };
    // The cgroups of pods and containers share a parent. A container name cannot contain a colon.
    let mut pod = Pod::create_noted(&format!("pod:{}", entry.name()), &spec, note)?;
    if privileged {
        entry.dir().make_sub(PINS)?;
        let pins = entry.dir().at(PINS);
        private_mount::mount(&pins).map_err(|e| Error::io("mount", "mount", &pins, &e.into()))?;
        pod.pin(&pins)?;
    }
    if let Some(network) = network {
        network.connect(&target(dir, &pod)?)?;
    }
    let saved = SavedPod::new(created, pod.spec(), pod.record());
    entry.write(&SavedPod { network: network.is_some(), ..saved })?;
    pod.detach();
    Ok(())
}

/// Returns the net namespace of a pod: pinned, or that of the process that holds it.
fn target<'a>(dir: &'a Path, pod: &Pod) -> Result<Target<'a>> {
    let cgroup = pod.cgroup().map(|cgroup| cgroup.path().to_owned());
    let (net, user) = match (pod.record().pins, pod.holder_pid()) {
        (Some(pins), _) => (pins.join(Kind::Net.name()), None),
        (None, Some(pid)) => {
            let of = |kind: Kind| format!("/proc/{pid}/ns/{kind}").into();
            (of(Kind::Net), Some(of(Kind::User)))
        }
        (None, None) => {
            return Err(Error::state("network", "", "the pod's net namespace is neither pinned nor held"));
        }
    };
    Ok(Target { dir, net, user, cgroup, pod: true })
}

/// Removes the remaining parts of a pod that is incomplete or has lost its namespaces.
fn remove_parts(entry: &store::Entry<SavedPod>) -> Result<()> {
    let Some(saved) = entry.record() else { return Ok(()) };
    if let Some(holder) = saved.record.holder.as_ref().map(ProcessId::open).transpose()?.flatten() {
        holder.send_signal(nix::libc::SIGKILL)?;
    }
    if let Some(path) = &saved.record.cgroup {
        remove_cgroup(path)?;
    }
    // The shared memory is in a separate directory.
    match saved.record.shm.as_deref().and_then(Path::parent).map(std::fs::remove_dir_all) {
        Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", "remove the shared memory of", Path::new(entry.name()), &e))
        }
        _ => Ok(()),
    }
}

fn unmount(dir: &Dir) -> Result<()> {
    let pins = dir.at(PINS);
    private_mount::unmount(&pins).map_err(|e| Error::io("unmount", "unmount", &pins, &e.into()))
}
