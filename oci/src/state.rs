//! The state of containers. Each container has a directory below the runtime's.
//!
//! The directory is created and locked first. The record is written before any object is created that a crash
//! would leave, and again when the first process exists.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ns_core::Pidfd;
use nspod_sandbox::store::{self, Alternative, Dir, Lock, Locked, Trust, read_small};

use crate::config::{self, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{CONFIG, OciRecord, Status};

/// The containers of a runtime.
#[derive(Debug)]
pub(crate) struct Store(store::Store<OciRecord>);

impl Store {
    pub(crate) fn open(root: &Path, hint: Alternative) -> Result<Store> {
        let dir = Dir::shared(root, hint)?;
        // Check each entry, since other users may be able to enter the directory.
        Ok(Store(store::Store::new(dir, Trust::Entry)))
    }

    /// Creates a container's entry and locks it.
    pub(crate) fn create(&self, id: &str) -> Result<(Entry, Lock)> {
        valid(id)?;
        // Without a record, a killed creation has left nothing else.
        let reclaim = |entry: &store::Entry<OciRecord>, lock: &Lock| match entry.record() {
            None => self.0.remove(entry, lock).map(|()| true),
            Some(_) => Ok(false),
        };
        match self.0.create(id, reclaim)? {
            Some((entry, lock)) => Ok((Entry::new(entry), lock)),
            None => {
                let problem = format!("container with given ID already exists: {id}");
                Err(Error::new(ErrorKind::AlreadyExists, "store", problem).on(id))
            }
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
                Err(e) => log::warn!("{e}"),
            }
        }
        Ok(all)
    }

    /// Locks a container again that this process locked before. Returns `None` if another process has
    /// removed it.
    pub(crate) fn lock_again(&self, entry: &Entry) -> Result<Option<Lock>> {
        Ok(self.0.lock_again(&entry.entry)?)
    }

    /// Removes a container's entry.
    pub(crate) fn remove(&self, entry: &Entry, lock: &Lock) -> Result<()> {
        Ok(self.0.remove(&entry.entry, lock)?)
    }
}

/// Returns the error for a container that does not exist.
pub(crate) fn missing(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, "store", format!("container does not exist: {id}")).on(id)
}

/// Checks an id by runc's rule. An id is the name of a directory, with a limited set of characters.
fn valid(id: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    match !id.is_empty() && id.bytes().all(plain) && !matches!(id, "." | "..") {
        true => Ok(()),
        false => {
            let rule = "letters, digits, '_', '+', '-' and '.', and neither \".\" nor \"..\"";
            let problem = format!("invalid container ID format: {id:?}: {rule}");
            Err(Error::new(ErrorKind::InvalidInput, "store", problem).on(id))
        }
    }
}

/// A container's entry.
#[derive(Debug)]
pub(crate) struct Entry {
    entry: store::Entry<OciRecord>,
    /// Whether hooks of the creation have run, so that the poststop hooks must run.
    pub(crate) hooked: AtomicBool,
}

impl Entry {
    fn new(entry: store::Entry<OciRecord>) -> Entry {
        Entry { entry, hooked: false.into() }
    }

    pub(crate) fn id(&self) -> &str {
        self.entry.name()
    }

    /// Returns the directory of the container's state.
    pub(crate) fn dir(&self) -> &Dir {
        self.entry.dir()
    }

    pub(crate) fn write(&self, record: &OciRecord) -> Result<()> {
        Ok(self.entry.write(record)?)
    }

    /// Saves a copy of the configuration, since the bundle may change.
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<()> {
        let mut file = self.dir().create(CONFIG)?;
        file.write_all(json).map_err(|e| Error::io("store", "write", &self.dir().at(CONFIG), &e))
    }

    pub(crate) fn config(&self) -> Result<Config> {
        let text = self.dir().read(CONFIG)?.ok_or_else(|| missing(self.id()))?;
        config::parse(text.as_bytes())
    }

    pub(crate) fn record(&self) -> Result<&OciRecord> {
        self.entry.record().ok_or_else(|| missing(self.id()))
    }

    pub(crate) fn status(&self) -> Result<Status> {
        self.status_if(|record| Ok(record.process().is_alive()?))
    }

    /// Returns the status, and the first process if it is alive.
    pub(crate) fn look(&self) -> Result<(Status, Option<Pidfd>)> {
        let pidfd = self.entry.record().map(OciRecord::pidfd).transpose()?.flatten();
        Ok((self.status_if(|_| Ok(pidfd.is_some()))?, pidfd))
    }

    fn status_if(&self, is_alive: impl Fn(&OciRecord) -> Result<bool>) -> Result<Status> {
        let record = match self.entry.state()? {
            store::EntryState::BeingMade => return Ok(Status::Creating),
            store::EntryState::Broken => return Ok(Status::Stopped),
            store::EntryState::There => self.record()?,
        };
        Ok(match () {
            () if !is_alive(record)? => Status::Stopped,
            () if record.creating => Status::Creating,
            () if is_frozen(record)? => Status::Paused,
            () if nspod_sandbox::is_held(self.dir().path())? => Status::Created,
            () => Status::Running,
        })
    }
}

/// Returns whether the cgroup is frozen. A created container can be frozen too. As with runc, `start` then
/// has no effect until the container is thawed.
fn is_frozen(record: &OciRecord) -> Result<bool> {
    let Some(path) = record.cgroup_path() else { return Ok(false) };
    let path = path.join("cgroup.freeze");
    match File::open(&path).and_then(read_small) {
        Ok(text) => Ok(text.trim_ascii_end() == b"1"),
        // The cgroup has been removed, and the process is in another cgroup.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(false),
        Err(e) => Err(Error::io("cgroup", "read", &path, &e)),
    }
}

#[cfg(test)]
mod tests {
    use ns_core::ProcessId;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("a/root"), || None).unwrap();
        (temp, store)
    }

    #[test]
    fn an_id_is_a_plain_name() {
        for id in ["a", "A_b+c-d.e", "-", "...", "0"] {
            assert!(valid(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\n", "a:b"] {
            assert_eq!(valid(id).unwrap_err().kind(), ErrorKind::InvalidInput, "{id:?}");
        }
    }

    #[test]
    fn an_id_can_be_used_once() {
        let (_temp, store) = store();
        let _first = store.create("a").unwrap();
        let error = store.create("a").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("container with given ID already exists"), "{error}");
    }

    #[test]
    fn leftovers_of_a_crash_are_stopped_and_not_a_container() {
        let (_temp, store) = store();
        let (entry, lock) = store.create("a").unwrap();
        assert_eq!(store.look("a").unwrap().unwrap().status().unwrap(), Status::Creating);
        drop(lock);
        let left = store.look("a").unwrap().unwrap();
        assert_eq!(left.status().unwrap(), Status::Stopped);
        assert!(store.find("a").unwrap_err().to_string().contains("container does not exist"));
        entry.write(&OciRecord::new("a", "/bundle".into())).unwrap();
        assert_eq!(store.find("a").unwrap().status().unwrap(), Status::Stopped);
    }

    #[test]
    fn a_record_that_another_user_may_have_written_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let (temp, store) = store();
        let (entry, _lock) = store.create("a").unwrap();
        entry.write(&OciRecord::new("a", "/bundle".into())).unwrap();
        assert!(store.find("a").is_ok());
        let path = temp.path().join("a/root/a");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = store.find("a").unwrap_err().to_string();
        assert!(error.contains("mode 777 instead of"), "{error}");
        assert!(store.all().unwrap().is_empty());
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let (_temp, store) = store();
        let (entry, lock) = store.create("a").unwrap();
        let mut record = OciRecord::new("a", "/bundle".into());
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
}
