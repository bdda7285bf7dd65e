//! The plan of a start: a pure function of a spec and facts about the host.
//!
//! [`Plan::on`] checks and prepares everything, and changes nothing in the kernel. It follows the
//! order of the child's steps:
//!
//! 1. `check` rejects specs that are invalid on any host.
//! 2. `namespaces` (with `id_maps`) decides which namespaces are joined, which are made, and which
//!    clone makes them.
//! 3. `files` adds the root (`root`, `host_root`), each mount (`mounts`, `binds`, `file_systems`,
//!    `paths`), `devices`, kernel parameters (`names`) and masks.
//! 4. `identity` adds descriptors, `attributes`, `label`, ids, capabilities, `filter` and the
//!    `program`.
//! 5. `stage` encodes the last steps (`encode`) for a process that shares no memory or descriptors
//!    with the caller.

mod attributes;
mod binds;
mod builder;
mod check;
mod data;
mod devices;
mod display;
mod encode;
mod file_systems;
mod files;
mod filter;
mod handles;
mod hooks;
mod host_root;
mod id_maps;
mod identity;
mod label;
mod mount_points;
mod mounts;
mod names;
mod namespaces;
pub(crate) mod numbers;
mod paths;
mod program;
mod root;
mod stage;
pub(crate) mod text;

use ns_core::Kinds;

pub use self::data::Plan;
pub(crate) use self::data::{Maps, MapsOf, ProcfsOf, Stage, Tree, TreeDevice, TreeMaps};
pub use self::handles::{Handles, Hold};
use crate::error::Error;
use crate::host::Host;
use crate::spec::Spec;
use crate::step::Step;

impl Plan {
    /// Makes a plan for the calling process on this host.
    /// See [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// [`InvalidSpec`](crate::ErrorKind::InvalidSpec) names the invalid field. If a namespace
    /// cannot be joined, [`Error::step`] is `namespace`.
    pub fn new(spec: &Spec, handles: Handles) -> Result<Plan, Error> {
        Plan::on(spec, &Host::detect(spec)?, handles)
    }

    /// Makes a plan from a spec and facts about a host.
    /// See [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// # Errors
    /// The same as [`Plan::new`].
    pub fn on(spec: &Spec, host: &Host, handles: Handles) -> Result<Plan, Error> {
        check::check(spec)?;
        let Handles { namespaces, process, inherited, hold, ready, file, root, log, kills_cgroup } = handles;
        check::check_descriptors(&inherited)?;
        if log.is_some() && !spec.has_init() {
            return Err(Error::invalid("init", "a log requires an init, which writes it"));
        }
        let mut plan = Plan {
            steps: Vec::with_capacity(64),
            kinds: Kinds::empty(),
            // A child that waits for this program must not share its memory: the program would be
            // suspended.
            shared_memory: !ready,
            maps: None,
            trees: Vec::new(),
            cgroup_at_second: false,
            inherited,
            stage: Stage::of(spec, hold.is_some(), root.is_some()),
            held: hold,
            file,
            ready,
            dev: None,
            log,
            kills_cgroup: kills_cgroup && spec.has_init(),
            spec: spec.clone(),
        };
        let ids = namespaces::add(&mut plan, host, (namespaces, process))?;
        // If there is a stage, it makes the session in the process that it clones.
        let session = spec.process.new_session || spec.process.terminal.is_some();
        if session && !plan.enters() {
            plan.push(Step::Setsid);
        }
        names::add(&mut plan, spec)?;
        files::add(&mut plan, host, &ids)?;
        plan.steps.extend(root.map(Step::EnterRoot));
        identity::add(&mut plan, host, &ids)?;
        plan.encode_stage()?;
        if plan.steps.len() > usize::from(u16::MAX) {
            return Err(Error::invalid("mounts", "there are more mounts than a plan can hold"));
        }
        Ok(plan)
    }
}
