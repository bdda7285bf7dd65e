//! The stage: a process that shares no memory, executable, environment or descriptors with the
//! caller. It performs the last steps of a start if other processes can see it.
//!
//! `encode` encodes its steps.

use crate::error::Error;
use crate::host::Host;
use crate::init;
use crate::plan::data::{Plan, Stage};
use crate::plan::filter::{asks, lets_through};
use crate::plan::text::c_string;
use crate::plan::{encode, numbers};
use crate::spec::{NamespaceMode, Root, Spec};
use crate::step::{CStrings, Exec, Step};

const CAP_SYS_ADMIN: u64 = 1 << 21;

impl Stage {
    /// Decides whether the last steps require a process that shares nothing with the caller. They
    /// do in these cases:
    /// - The pid namespace is joined, and other processes run in it.
    /// - A hook of the image runs before the program.
    /// - The container is held, and other processes can enter it meanwhile.
    /// - The program is a file of an image, which can name `/proc/self/exe` as its interpreter. The
    ///   embedded init is such a process too.
    pub(super) fn of(spec: &Spec, held: bool, entered: bool) -> Option<Stage> {
        let foreign = entered
            || !matches!(spec.root, Root::Host | Root::HostReadOnly)
            || matches!(spec.namespaces.mnt, NamespaceMode::Join(_));
        let enters = matches!(spec.namespaces.pid, NamespaceMode::Join(_));
        let needed = enters || held || !spec.hooks.start_container.is_empty() || foreign && !spec.has_init();
        needed.then(|| Stage { blob: Vec::new(), enters, hooks: Vec::new() })
    }
}

/// Adds the steps of the stage, up to the steps that every start has. If the stage loads the filter
/// early, removes it from `filter`.
pub(super) fn add(plan: &mut Plan, host: &Host, label: Option<Step>, filter: &mut Option<Step>, keeps: bool) {
    let process = plan.spec.process.clone();
    let uid = plan.steps.iter().rev().find_map(|step| match step {
        Step::Credentials { uid, .. } | Step::Become { uid, .. } => Some(*uid),
        _ => None,
    });
    let uid = uid.unwrap_or(host.uid);
    let none = CStrings::new(Vec::new());
    let empty = CStrings::new(Vec::new());
    let file = Exec { name: String::new(), candidates: Vec::new(), file: None, argv: none, envp: empty };
    plan.push(Step::Stage(file));
    // execve(2) grants the bounding and the inheritable set to root, and the ambient set to other
    // users. The stage was executed too, so it has the same capabilities. It drops those that the
    // program must not have, because other processes can look at a held container.
    let sets = process.capabilities.filter(|_| keeps || plan.held.is_some());
    let capabilities = |more: u64| {
        sets.map(|sets| {
            let root = uid == 0;
            let permitted = sets.permitted & (sets.bounding | sets.inheritable);
            let permitted = if root { permitted | sets.ambient } else { sets.ambient };
            let effective = sets.effective & permitted | more;
            Step::Capabilities { effective, permitted: permitted | more, inheritable: sets.inheritable }
        })
    };
    if let Some(sets) = sets {
        plan.steps.extend(capabilities(if keeps { CAP_SYS_ADMIN } else { 0 }));
        if keeps {
            plan.push(Step::Ambient(sets.ambient));
        }
    }
    // If the filter allows the remaining calls, no visible process has a capability that its
    // program does not get.
    let (asks, early) = match &filter {
        Some(step @ Step::Seccomp { filter, .. }) => {
            (asks(step), keeps && lets_through(filter, plan, &process))
        }
        _ => (false, false),
    };
    let mut load = |plan: &mut Plan, when: bool| {
        if when && let Some(step) = filter.take() {
            plan.push(step);
            plan.steps.extend(capabilities(0).filter(|_| early));
        }
    };
    load(plan, early && plan.enters());
    if plan.enters() {
        plan.push(Step::Clone(ns_core::Kinds::empty()));
        if process.new_session || process.terminal.is_some() {
            plan.push(Step::Setsid);
        }
        if process.terminal.is_some() {
            plan.push(Step::ControllingTerminal);
        }
    }
    plan.steps.extend(label);
    // The supervisor gets the listener before the container is started.
    load(plan, asks || early && plan.held.is_some());
    if plan.held.is_some() {
        plan.push(Step::Hold);
    }
}

impl Plan {
    /// Encodes the steps after the one that executes the stage, and completes that step.
    pub(super) fn encode_stage(&mut self) -> Result<(), Error> {
        let Some(at) = self.steps.iter().position(|step| matches!(step, Step::Stage(_))) else {
            return Ok(());
        };
        let blob = encode::encode(self, at + 1)?;
        let (high, above) = (self.highest_fd(), self.above());
        let (fd, report) = (high + numbers::BLOB, high + numbers::REPORT);
        let contract = c_string("process.args", format!("{fd}:{}:{report}", blob.len()))?;
        self.steps[at] = Step::Stage(Exec {
            name: "the stage".into(),
            candidates: Vec::new(),
            file: Some(init::image(above)?),
            argv: CStrings::new(vec![c"nspod-stage".to_owned(), contract]),
            envp: CStrings::new(Vec::new()),
        });
        if let Some(stage) = &mut self.stage {
            stage.blob = blob;
        }
        Ok(())
    }
}
