//! The record of a container, and the state that the specification derives from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cgroup_core::Cgroup;
use ns_core::{Pidfd, ProcessId};
use nspod_sandbox::spec::{Hook, Root};
use nspod_sandbox::store;
use serde::{Deserialize, Serialize};

use crate::config::VERSION;
use crate::error::{Error, ErrorKind, Result};
use crate::time::rfc3339;

/// The file name of a container's configuration, a copy of the bundle's.
pub(crate) const CONFIG: &str = "config.json";

/// The record of a container, in the file `state.json` of its state directory. The first fields have
/// the names of runc's `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OciRecord {
    pub(crate) id: String,
    /// Pid of the first process; 0 until it exists.
    pub(crate) init_process_pid: i32,
    /// Start time of the first process, in clock ticks after boot.
    pub(crate) init_process_start: u64,
    pub(crate) created: String,
    pub(crate) rootless: bool,
    /// The cgroup, under the empty key, as runc writes it for cgroup v2.
    pub(crate) cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) intel_rdt_path: Option<PathBuf>,
    /// The directories of `/sys/fs/resctrl` to remove with the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rdt_made: Vec<PathBuf>,
    /// Set if the root is mounted in the caller's mount namespace: the ids of the mounts at the root
    /// directory before and after the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root_mount: Option<(u64, Option<u64>)>,
    /// The directory at which `restore` mounts the root for criu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) criu_root: Option<PathBuf>,
    /// criu's names of the standard streams, unless they are a terminal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) streams: Vec<String>,
    pub(crate) boot_id: String,
    /// Whether `create` has not finished.
    pub(crate) creating: bool,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) owner: String,
    /// The systemd unit that owns the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
}

impl store::Record for OciRecord {
    const FILES: &'static [&'static str] = &[CONFIG, store::RECORD];

    fn is_complete(&self) -> bool {
        self.init_process_pid != 0
    }
}

impl OciRecord {
    pub(crate) fn new(id: &str, bundle: PathBuf) -> OciRecord {
        OciRecord {
            id: id.into(),
            init_process_pid: 0,
            init_process_start: 0,
            created: rfc3339(SystemTime::now(), true),
            rootless: false,
            cgroup_paths: BTreeMap::new(),
            intel_rdt_path: None,
            rdt_made: Vec::new(),
            root_mount: None,
            criu_root: None,
            streams: Vec::new(),
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

    pub(crate) fn set_cgroup_path(&mut self, path: &Path) {
        self.cgroup_paths.insert(String::new(), path.to_owned());
    }

    pub(crate) fn cgroup(&self) -> Result<Cgroup> {
        let path = self.cgroup_path().ok_or_else(|| {
            let problem = format!("the container {} does not have its own cgroup", self.id);
            Error::state(&self.id, "cgroup", problem)
        })?;
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

    /// Opens the first process; `None` if it has ended or does not exist yet.
    pub(crate) fn pidfd(&self) -> Result<Option<Pidfd>> {
        if self.init_process_pid == 0 { Ok(None) } else { Ok(self.process().open()?) }
    }

    pub(crate) fn set_root(&mut self, root: &Root) {
        if let Root::Dir { path, .. } = root {
            self.rootfs = path.clone();
        }
    }

    /// Returns whether the container has more objects to remove than the sandbox has created.
    pub(crate) fn needs_cleanup(&self) -> bool {
        self.unit.is_some()
            || !self.rdt_made.is_empty()
            || self.root_mount.is_some()
            || self.criu_root.is_some()
    }

    pub(crate) fn state(&self, status: Status) -> State {
        State {
            oci_version: VERSION,
            id: self.id.clone(),
            pid: if status == Status::Stopped { 0 } else { self.init_process_pid },
            status,
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            annotations: self.annotations.clone(),
            owner: self.owner.clone(),
        }
    }

    /// Returns the state as JSON, which hooks read from their standard input.
    pub(crate) fn state_json(&self, status: Status) -> Result<Vec<u8>> {
        let unwritable = |e: serde_json::Error| {
            let problem = format!("cannot write the state as JSON: {e}");
            Error::new(ErrorKind::InvalidInput, "store", problem).on(&self.id).with_source(e)
        };
        serde_json::to_vec(&self.state(status)).map_err(unwritable)
    }
}

/// The state of a container, with runc's additional fields.
///
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    /// Version of the specification: [`VERSION`].
    pub oci_version: &'static str,
    /// Id of the container.
    pub id: String,
    /// Pid of the first process in the caller's pid namespace; 0 if the container is stopped.
    pub pid: i32,
    /// Lifecycle status.
    pub status: Status,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// Time of creation, as [`rfc3339`] returns it.
    pub created: String,
    /// Annotations of the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name of the user who created the container; empty if the user is not in the user database.
    pub owner: String,
}

/// Lifecycle status of a container.
///
/// [Specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state);
/// `Paused` is an addition of runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` has not finished.
    Creating,
    /// The container waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// The cgroup is frozen. A created container can be paused too.
    Paused,
    /// The first process has ended, or `create` was killed.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_the_fields_of_the_specification() {
        let mut record = OciRecord::new("a", "/bundle".into());
        record.init_process_pid = 42;
        record.annotations.insert("k".into(), "v".into());
        let state = serde_json::to_value(record.state(Status::Running)).unwrap();
        assert_eq!(state["ociVersion"], VERSION);
        assert_eq!((&state["pid"], &state["status"]), (&42.into(), &"running".into()));
        assert_eq!((&state["bundle"], &state["annotations"]["k"]), (&"/bundle".into(), &"v".into()));
        let stopped = serde_json::to_value(record.state(Status::Stopped)).unwrap();
        assert_eq!(stopped["pid"], 0);
    }
}
