//! The part of a start that runs on the host: resctrl, network devices, and the hooks prestart and
//! createRuntime. It runs after the namespaces exist and before the root is entered.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use ns_core::{Kind, Namespace, ProcessId};
use nspod_sandbox::Prepared;

use crate::config::{ContainerSpec, Hooks, IntelRdt};
use crate::error::{Error, Result};
use crate::hooks;
use crate::net::move_net_device;
use crate::record::{OciRecord, Status};
use crate::resctrl::Resctrl;
use crate::state::Entry;

/// The work of a start on the host.
pub(crate) struct PreStart {
    hooks: Hooks,
    net_devices: Vec<(String, Option<String>)>,
    rdt: Option<IntelRdt>,
    /// Whether the configuration has hooks that run in the container and read its state.
    hooks_inside: bool,
    /// The status that these hooks read.
    status: Status,
}

/// Results of the work.
#[derive(Default)]
pub(crate) struct PreStartOutcome {
    /// The file from which hooks in the container read its state.
    state: OnceLock<File>,
    /// The resctrl group, and the directories that were created for it.
    rdt: OnceLock<(PathBuf, Vec<PathBuf>)>,
}

impl PreStart {
    /// Moves the settings for the host out of a configuration.
    pub(crate) fn take(wanted: &mut ContainerSpec) -> PreStart {
        let inside = &wanted.spec.hooks;
        PreStart {
            status: if inside.create_container.is_empty() { Status::Created } else { Status::Creating },
            hooks_inside: !inside.is_empty(),
            hooks: std::mem::take(&mut wanted.hooks),
            net_devices: std::mem::take(&mut wanted.net_devices),
            rdt: wanted.intel_rdt.take(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let PreStart { hooks, net_devices, rdt, hooks_inside, .. } = self;
        let no_hooks = hooks.prestart.is_empty() && hooks.create_runtime.is_empty() && !hooks_inside;
        no_hooks && net_devices.is_empty() && rdt.is_none()
    }

    /// Does the work. Returns the state for the hooks in the container.
    pub(crate) fn run(
        self,
        made: &Prepared<'_>,
        entry: &Entry,
        record: &mut OciRecord,
        outcome: &PreStartOutcome,
    ) -> Result<Vec<u8>> {
        record.set_process(ProcessId::of(made.pid)?);
        if let Some(file) = made.state.and_then(|file| file.try_clone().ok()) {
            let _ = outcome.state.set(file);
        }
        if let Some(rdt) = self.rdt {
            apply_rdt(rdt, made.pid, record)?;
            let _ =
                outcome.rdt.set((record.intel_rdt_path.clone().unwrap_or_default(), record.rdt_made.clone()));
        }
        entry.write(record)?;
        entry.hooked.store(true, Ordering::Relaxed);
        if !self.net_devices.is_empty() {
            let target = Namespace::of_pidfd(made.pidfd, Kind::Net)?;
            for (name, new) in &self.net_devices {
                move_net_device(name, new.as_deref(), target.as_fd()).map_err(|e| match e.field() {
                    Some(_) => e,
                    None => e.with_field(format!("linux.netDevices.{name}")),
                })?;
            }
        }
        let state = record.state_json(Status::Creating)?;
        hooks::run("prestart", &self.hooks.prestart, &state)?;
        hooks::run("createRuntime", &self.hooks.create_runtime, &state)?;
        record.state_json(self.status)
    }
}

/// Moves the first process into the resctrl group of `linux.intelRdt`, and notes the group.
fn apply_rdt(rdt: IntelRdt, pid: i32, record: &mut OciRecord) -> Result<()> {
    let class = rdt.clos_id.clone().unwrap_or_else(|| record.id.clone());
    let lines = rdt.l3_cache_schema.into_iter().chain(rdt.mem_bw_schema).chain(rdt.schemata);
    let (clos_id, schemata) = (rdt.clos_id, lines.collect());
    let wanted = Resctrl { clos_id, schemata, enable_monitoring: rdt.monitoring };
    record.rdt_made = wanted.apply(&record.id, pid).map_err(|e| match e.field() {
        Some(_) => e,
        None => e.with_field("linux.intelRdt"),
    })?;
    record.intel_rdt_path = Some(Path::new("/sys/fs/resctrl").join(class));
    Ok(())
}

impl PreStartOutcome {
    /// Notes the resctrl group in the record. The work used a copy of the record.
    pub(crate) fn note(&self, record: &mut OciRecord) {
        if let Some((path, made)) = self.rdt.get().cloned() {
            (record.intel_rdt_path, record.rdt_made) = (Some(path), made);
        }
    }

    /// Changes the state for the startContainer hooks to "created".
    pub(crate) fn tell_created(&self, record: &OciRecord) -> Result<()> {
        let Some(file) = self.state.get() else { return Ok(()) };
        let state = record.state_json(Status::Created)?;
        let written = file.set_len(0).and_then(|()| file.write_all_at(&state, 0));
        written
            .map_err(|e| Error::io_without_path("hook", "pass the state to the hooks in the container", &e))
    }
}
