//! What is known of a container from one call of this program to the next: a directory under
//! `--root` for each, as runc's.
//!
//! The directory is made first and is locked by who works on it. Its record is written before
//! anything is made of which something would be left, and again when there is a process.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use cgroup_core::Cgroup;
use ns_core::{Pidfd, ProcessId};
use nspod_cli::error::{Error, Result};
use nspod_oci_runtime::config::{self, Context};
use nspod_sandbox::spec::{Hook, Root};
use nspod_sandbox::store::{self, Dir, Lock, Locked, Trust, read_small};
use serde::{Deserialize, Serialize};

use crate::args::Global;
use crate::{driver, log};

const CONFIG: &str = "config.json";

/// What is written down of a container. The first fields are named as in runc's `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// 0 as long as there is none.
    pub(crate) init_process_pid: i32,
    /// Clock ticks since boot.
    pub(crate) init_process_start: u64,
    pub(crate) created: String,
    pub(crate) rootless: bool,
    /// The only key is empty, as of cgroup v2 in runc.
    pub(crate) cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) intel_rdt_path: Option<PathBuf>,
    /// What of `/sys/fs/resctrl` is removed with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rdt_made: Vec<PathBuf>,
    /// The mount that covers the root in the caller's mount namespace, which is the container's as
    /// well: what is mounted there before it is made, and what then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root_mount: Option<(u64, Option<u64>)>,
    pub(crate) boot_id: String,
    /// `create` is not through with it.
    pub(crate) creating: bool,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
}

impl Record {
    pub(crate) fn new(id: &str, bundle: PathBuf) -> Record {
        Record {
            id: id.into(),
            init_process_pid: 0,
            init_process_start: 0,
            created: log::rfc3339(SystemTime::now(), true),
            rootless: false,
            cgroup_paths: BTreeMap::new(),
            intel_rdt_path: None,
            rdt_made: Vec::new(),
            root_mount: None,
            boot_id: String::new(),
            creating: true,
            bundle,
            rootfs: PathBuf::new(),
            owner: String::new(),
            unit: None,
            annotations: BTreeMap::new(),
            poststart: Vec::new(),
            poststop: Vec::new(),
        }
    }

    pub(crate) fn cgroup_path(&self) -> Option<&Path> {
        self.cgroup_paths.get("").map(PathBuf::as_path)
    }

    pub(crate) fn cgroup(&self) -> Result<Cgroup> {
        let path = self
            .cgroup_path()
            .ok_or_else(|| Error::new(format!("the container {} has no cgroup of its own", self.id)))?;
        Ok(Cgroup::open(path)?)
    }

    pub(crate) fn set_process(&mut self, process: ProcessId) {
        self.init_process_pid = process.pid;
        self.init_process_start = process.start;
        self.boot_id = process.boot;
    }

    pub(crate) fn process(&self) -> ProcessId {
        ProcessId { pid: self.init_process_pid, start: self.init_process_start, boot: self.boot_id.clone() }
    }

    /// Its first process, if that has not ended.
    pub(crate) fn pidfd(&self) -> Result<Option<Pidfd>> {
        if self.init_process_pid == 0 { Ok(None) } else { Ok(self.process().open()?) }
    }

    pub(crate) fn set_root(&mut self, root: &Root) {
        if let Root::Dir { path, .. } = root {
            self.rootfs = path.clone();
        }
    }

    /// There is more to remove than what the sandbox has made.
    pub(crate) fn has_own_end(&self) -> bool {
        self.unit.is_some() || !self.rdt_made.is_empty() || self.root_mount.is_some()
    }

    /// The state as the specification has it, on which hooks and listeners live.
    pub(crate) fn state(&self, status: Status) -> State<'_> {
        State {
            oci_version: config::VERSION,
            id: &self.id,
            pid: if status == Status::Stopped { 0 } else { self.init_process_pid },
            status,
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: &self.created,
            annotations: &self.annotations,
            owner: &self.owner,
        }
    }

    pub(crate) fn state_json(&self, status: Status) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.state(status)).map_err(unwritable)
    }
}

fn unwritable(e: serde_json::Error) -> Error {
    Error::new(format!("cannot write this as JSON: {e}"))
}

/// The state of the specification, with runc's additions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<'a> {
    pub(crate) oci_version: &'static str,
    id: &'a str,
    pub(crate) pid: i32,
    pub(crate) status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: &'a str,
}

impl State<'_> {
    /// Its line of `list`.
    pub(crate) fn row(&self) -> Vec<String> {
        let (bundle, status) = (self.bundle.display().to_string(), self.status.to_string());
        vec![self.id.into(), self.pid.to_string(), status, bundle, self.created.into(), self.owner.into()]
    }
}

/// What a container is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl store::Record for Record {
    const FILES: &'static [&'static str] = &[CONFIG, store::RECORD];

    fn is_complete(&self) -> bool {
        self.init_process_pid != 0
    }
}

/// The containers under a `--root`.
#[derive(Debug)]
pub(crate) struct Store(store::Store<Record>);

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Store> {
        let dir = Dir::shared(root, nspod_cli::runtime_dir::BY_ROOT)?;
        // Each entry is checked, since `--root` can name a directory that other users can enter.
        Ok(Store(store::Store::new(dir, Trust::Entry)))
    }

    /// Creates a container's entry and locks it.
    pub(crate) fn create(&self, id: &str) -> Result<(Entry, Lock)> {
        valid(id)?;
        // Without a record, a killed creation has left nothing else.
        let reclaim = |entry: &store::Entry<Record>, lock: &Lock| match entry.record() {
            None => self.0.remove(entry, lock).map(|()| true),
            Some(_) => Ok(false),
        };
        match self.0.create(id, reclaim)? {
            Some((entry, lock)) => Ok((Entry::new(entry), lock)),
            None => Err(Error::new(format!("container with given ID already exists: {id}"))),
        }
    }

    /// Returns a container that has a record.
    pub(crate) fn find(&self, id: &str) -> Result<Entry> {
        match self.look(id)? {
            Some(entry) if entry.entry.record().is_some() => Ok(entry),
            _ => Err(missing(id)),
        }
    }

    /// Returns a container's entry, with or without a record.
    pub(crate) fn look(&self, id: &str) -> Result<Option<Entry>> {
        valid(id)?;
        Ok(self.0.find(id)?.map(Entry::new))
    }

    /// Locks a container's entry; waits for the lock.
    pub(crate) fn lock(&self, id: &str) -> Result<(Entry, Lock)> {
        valid(id)?;
        match self.0.lock(id, true)? {
            Locked::Ours(entry, lock) => Ok((Entry::new(entry), lock)),
            Locked::Theirs | Locked::Gone => Err(missing(id)),
        }
    }

    /// Returns the containers that have a record.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for entry in self.0.entries()? {
            match entry {
                Ok(entry) if entry.record().is_some() => all.push(Entry::new(entry)),
                Ok(_) => {}
                Err(e) => log::warn(&e),
            }
        }
        Ok(all)
    }

    /// Locks a container again that this process had locked; `None` if another process has removed
    /// it.
    pub(crate) fn lock_again(&self, entry: &Entry) -> Result<Option<Lock>> {
        Ok(self.0.lock_again(&entry.entry)?)
    }

    /// Removes a container's entry.
    pub(crate) fn remove(&self, entry: &Entry, lock: &Lock) -> Result<()> {
        Ok(self.0.remove(&entry.entry, lock)?)
    }
}

fn missing(id: &str) -> Error {
    Error::new(format!("container does not exist: {id}"))
}

/// As runc's: a word that is the name of a directory.
fn valid(id: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    match !id.is_empty() && id.bytes().all(plain) && !matches!(id, "." | "..") {
        true => Ok(()),
        false => Err(Error::new(format!(
            "invalid container ID format: {id:?}: letters, digits, '_', '+', '-' and '.', and neither \".\" nor \"..\""
        ))),
    }
}

/// A container's entry.
#[derive(Debug)]
pub(crate) struct Entry {
    entry: store::Entry<Record>,
    /// Whether hooks of its creation have begun, so that those of its end are due.
    pub(crate) hooked: AtomicBool,
}

impl Entry {
    fn new(entry: store::Entry<Record>) -> Entry {
        Entry { entry, hooked: false.into() }
    }

    pub(crate) fn id(&self) -> &str {
        self.entry.name()
    }

    /// The directory of the container's state.
    pub(crate) fn dir(&self) -> &Dir {
        self.entry.dir()
    }

    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        Ok(self.entry.write(record)?)
    }

    /// Keeps the configuration, whatever becomes of the bundle.
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<()> {
        let mut file = self.dir().create(CONFIG)?;
        file.write_all(json).map_err(|e| Error::io("write", &self.dir().at(CONFIG), &e))
    }

    pub(crate) fn config(&self) -> Result<config::Config> {
        let text = self.dir().read(CONFIG)?.ok_or_else(|| missing(self.id()))?;
        Ok(config::parse(text.as_bytes())?)
    }

    /// What the configuration is read by.
    pub(crate) fn context(&self, global: &Global) -> Result<Context<'_>> {
        let record = self.record()?;
        Ok(context(global, &record.bundle, self.id()))
    }

    pub(crate) fn record(&self) -> Result<&Record> {
        self.entry.record().ok_or_else(|| missing(self.id()))
    }

    pub(crate) fn status(&self) -> Result<Status> {
        self.status_if(|record| Ok(record.process().is_alive()?))
    }

    /// The same, with its first process, if that has not ended.
    pub(crate) fn look(&self) -> Result<(Status, Option<Pidfd>)> {
        let pidfd = self.entry.record().map(Record::pidfd).transpose()?.flatten();
        Ok((self.status_if(|_| Ok(pidfd.is_some()))?, pidfd))
    }

    fn status_if(&self, lives: impl Fn(&Record) -> Result<bool>) -> Result<Status> {
        let record = match self.entry.state()? {
            store::EntryState::BeingMade => return Ok(Status::Creating),
            store::EntryState::Broken => return Ok(Status::Stopped),
            store::EntryState::There => self.record()?,
        };
        Ok(match () {
            () if !lives(record)? => Status::Stopped,
            () if record.creating => Status::Creating,
            () if is_frozen(record)? => Status::Paused,
            () if nspod_sandbox::is_held(self.dir().path())? => Status::Created,
            () => Status::Running,
        })
    }
}

/// What a configuration is read by.
pub(crate) fn context<'a>(global: &Global, bundle: &'a Path, id: &'a str) -> Context<'a> {
    Context {
        bundle,
        id,
        systemd_cgroup: driver::is_systemd(global),
        rootless: global.rootless(),
        ..Context::default()
    }
}

/// Also of one that was created, which then does not go on when it is started, as in runc.
fn is_frozen(record: &Record) -> Result<bool> {
    let Some(path) = record.cgroup_path() else { return Ok(false) };
    let path = path.join("cgroup.freeze");
    match std::fs::File::open(&path).and_then(read_small) {
        Ok(text) => Ok(text.trim_ascii_end() == b"1"),
        // The cgroup is gone, and the process in another.
        Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV)) => Ok(false),
        Err(e) => Err(Error::io("read", &path, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("a/root")).unwrap();
        (temp, store)
    }

    #[test]
    fn an_id_is_a_plain_name() {
        for id in ["a", "A_b+c-d.e", "-", "...", "0"] {
            assert!(valid(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\n", "a:b"] {
            assert!(valid(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn an_id_is_taken_once() {
        let (_temp, store) = store();
        let _first = store.create("a").unwrap();
        let error = store.create("a").unwrap_err().to_string();
        assert!(error.contains("container with given ID already exists"), "{error}");
    }

    #[test]
    fn what_a_crash_has_left_is_stopped_and_is_no_container() {
        let (_temp, store) = store();
        let (entry, lock) = store.create("a").unwrap();
        assert_eq!(store.look("a").unwrap().unwrap().status().unwrap(), Status::Creating);
        drop(lock);
        let left = store.look("a").unwrap().unwrap();
        assert_eq!(left.status().unwrap(), Status::Stopped);
        assert!(store.find("a").unwrap_err().to_string().contains("container does not exist"));
        entry.write(&Record::new("a", "/bundle".into())).unwrap();
        assert_eq!(store.find("a").unwrap().status().unwrap(), Status::Stopped);
    }

    #[test]
    fn what_another_user_may_have_written_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let (temp, store) = store();
        let (entry, _lock) = store.create("a").unwrap();
        entry.write(&Record::new("a", "/bundle".into())).unwrap();
        assert!(store.find("a").is_ok());
        let path = temp.path().join("a/root/a");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = store.find("a").unwrap_err().to_string();
        assert!(error.contains("mode 777 instead of owner"), "{error}");
        assert!(store.all().unwrap().is_empty());
    }

    #[test]
    fn a_process_with_the_pid_of_one_that_ended_is_another() {
        let (_temp, store) = store();
        let (entry, lock) = store.create("a").unwrap();
        let mut record = Record::new("a", "/bundle".into());
        record.creating = false;
        record.set_process(ProcessId::current().unwrap());
        entry.write(&record).unwrap();
        drop(lock);
        assert_eq!(store.find("a").unwrap().status().unwrap(), Status::Running);
        record.init_process_start += 1;
        entry.write(&record).unwrap();
        let found = store.find("a").unwrap();
        assert_eq!(found.status().unwrap(), Status::Stopped);
        assert!(found.record().unwrap().pidfd().unwrap().is_none());
    }

    #[test]
    fn a_state_has_the_specifications_fields() {
        let mut record = Record::new("a", "/bundle".into());
        record.init_process_pid = 42;
        record.annotations.insert("k".into(), "v".into());
        let state = serde_json::to_value(record.state(Status::Running)).unwrap();
        assert_eq!(state["ociVersion"], config::VERSION);
        assert_eq!((&state["pid"], &state["status"]), (&42.into(), &"running".into()));
        assert_eq!((&state["bundle"], &state["annotations"]["k"]), (&"/bundle".into(), &"v".into()));
        let stopped = serde_json::to_value(record.state(Status::Stopped)).unwrap();
        assert_eq!(stopped["pid"], 0);
    }
}
