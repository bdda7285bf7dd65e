//! The data of a plan.

use std::borrow::Cow;
use std::ffi::CString;
use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use cgroup_core::net;
use ns_core::{IdMap, Kinds};

use crate::log::Log;
use crate::plan::handles::Hold;
use crate::plan::numbers;
use crate::spec::{Hook, Spec};
use crate::step::{Param, PlannedStep, Step};

/// A prepared start. A [`Launcher`](crate::Launcher) can start it any number of times.
///
/// Its [`Display`](fmt::Display) prints one line for each action of the parent, and one numbered
/// line for each step of the child.
///
/// ```
/// use nspod_sandbox::{Plan, spec::Spec};
/// let plan = Plan::new(&Spec::new("/bin/true"), Default::default())?;
/// println!("{plan}");
/// # Ok::<(), nspod_sandbox::Error>(())
/// ```
#[derive(Debug)]
pub struct Plan {
    /// The steps of the child, in order.
    pub(crate) steps: Vec<Step>,
    /// The kinds of namespaces that the first clone makes.
    pub(crate) kinds: Kinds,
    /// Whether the child shares the parent's memory until it executes the program.
    pub(crate) shared_memory: bool,
    /// Id maps that the parent writes while the child waits.
    pub(crate) maps: Option<Maps>,
    /// Mount trees that the parent opens before the clone.
    pub(crate) trees: Vec<Tree>,
    /// Whether the second clone, instead of the first, enters the cgroup.
    pub(crate) cgroup_at_second: bool,
    /// The caller's descriptors that the program inherits, with their new numbers.
    pub(crate) inherited: Vec<(OwnedFd, i32)>,
    /// The stage, if the last steps need one.
    pub(crate) stage: Option<Stage>,
    /// How the child is held before it executes the program.
    pub(crate) held: Option<Hold>,
    /// The program's file, if it differs from the first argument.
    pub(super) file: Option<PathBuf>,
    /// Whether the child stops when namespaces and mounts exist, so that the caller's function can
    /// run.
    pub(super) ready: bool,
    /// The steps that make the standard `/dev`, if a pool can make it in advance.
    pub(crate) dev: Option<Range<usize>>,
    /// The log that the embedded init writes.
    pub(crate) log: Option<Arc<Log>>,
    /// Whether the embedded init kills the other processes in the cgroup when the program has ended.
    pub(crate) kills_cgroup: bool,
    /// The spec of the plan.
    pub(crate) spec: Spec,
}

/// A process that shares no memory with the caller and performs the last steps: see
/// [`stage`](super::stage).
pub(crate) struct Stage {
    /// The memory of the stage: the encoded steps after [`Step::Stage`].
    pub(crate) blob: Vec<u8>,
    /// Whether the program starts in a pid namespace that can contain other processes.
    pub(crate) enters: bool,
    /// The createContainer hooks. The parent runs them in the container's other namespaces: if the
    /// child ran them, the container's processes could see them while they hold the caller's
    /// memory.
    pub(crate) hooks: Vec<Hook>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stage { blob, enters, hooks } = self;
        let bytes = blob.len();
        f.debug_struct("Stage").field("bytes", &bytes).field("enters", enters).field("hooks", hooks).finish()
    }
}

/// Id maps that the parent writes.
#[derive(Debug, Clone)]
pub(crate) struct Maps {
    pub(crate) uid: IdMap,
    pub(crate) gid: IdMap,
    /// Whether newuidmap and newgidmap write the maps.
    pub(crate) helpers: bool,
}

/// A mount tree that the parent opens.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) source: CString,
    /// Whether the tree includes all mounts below the source.
    pub(crate) recursive: bool,
    /// `MS_PRIVATE`, or `MS_SLAVE` if later mounts of the host appear in the tree.
    pub(crate) propagation: u64,
    pub(crate) id_maps: Option<TreeMaps>,
    /// The expected device of the source. If the source differs, the parent makes the device.
    pub(crate) device: Option<TreeDevice>,
    /// A procfs of a joined pid namespace, which replaces the copy of the source.
    pub(crate) procfs: Option<ProcfsOf>,
}

impl Tree {
    /// Returns a private copy of the mount at `source`.
    pub(super) fn private(source: CString, recursive: bool) -> Tree {
        let propagation = libc::MS_PRIVATE;
        Tree { source, recursive, propagation, id_maps: None, device: None, procfs: None }
    }
}

/// A device that the parent makes, because the container's ids lack the permission.
#[derive(Debug)]
pub(crate) struct TreeDevice {
    /// Mode with the file type.
    pub(crate) mode: u32,
    pub(crate) number: u64,
    /// User and group on the host.
    pub(crate) owner: (u32, u32),
}

/// A procfs that is made from outside its pid namespace.
#[derive(Debug)]
pub(crate) struct ProcfsOf {
    pub(crate) namespace: OwnedFd,
    /// The user namespace that has the permission, if the caller lacks it.
    pub(crate) user: Option<OwnedFd>,
    pub(crate) params: Vec<Param>,
}

/// ID mapping of a tree (an idmapped mount).
#[derive(Debug)]
pub(crate) struct TreeMaps {
    pub(crate) of: MapsOf,
    pub(crate) recursive: bool,
}

/// The user namespace whose maps mount_setattr(2) applies to a tree.
#[derive(Debug)]
pub(crate) enum MapsOf {
    /// A namespace that the parent makes with these maps.
    Given { uid: IdMap, gid: IdMap },
    /// The namespace that the container joins.
    Namespace(OwnedFd),
}

impl Plan {
    /// Returns the steps of the child, in order.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = PlannedStep<'_>> {
        self.steps.iter().map(PlannedStep)
    }

    /// Returns the instructions of the child, in order. This is not part of the API: only tests of
    /// this workspace use it.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn instructions(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the spec of the plan.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Returns whether a start copies the memory of the calling process (its page tables, as fork(2) does), so
    /// that the cost of a start grows with the caller's memory: about 10 ms for each 100 MiB. Otherwise the
    /// child shares the memory until it executes a program.
    ///
    /// The memory is copied in these cases:
    /// - The caller runs while the child waits: for hooks of the parent, and for
    ///   [`Command::prepared`](crate::Command::prepared).
    /// - The caller is not privileged, and newuidmap maps a range of ids. The kernel makes a process
    ///   undumpable when it changes to such an id. With shared memory this would apply to the caller, and its
    ///   other threads could not open their files in `/proc/self`.
    /// - The container joins a time namespace. setns(2) requires a process that shares no memory.
    /// - The container has a new time namespace, before Linux 6.2: a process that shares memory could not
    ///   enter it.
    /// - The container has a new user namespace and joins other namespaces, or a user namespace with an owner
    ///   of its own ([`IdMaps::Own`](crate::spec::IdMaps::Own)) and clock offsets.
    /// - The system-call filter denies exit_group(2).
    pub fn copies_memory(&self) -> bool {
        !self.shared_memory
    }

    /// Returns the highest descriptor number that the program gets.
    pub(crate) fn highest_fd(&self) -> i32 {
        self.inherited.iter().map(|(_, to)| *to).max().unwrap_or(2).max(2)
    }

    /// Returns a number above all placed descriptors: those of the program, and those of the stage
    /// and the init that run before it.
    pub(crate) fn above(&self) -> i32 {
        let placed = self.stage.is_some() || self.spec.has_init();
        // The pipe, the files of the log and their times.
        let log = self.log.as_ref().map_or(0, |log| 1 + 2 * log.count());
        self.highest_fd() + if placed { numbers::ABOVE + log } else { 1 }
    }

    /// Returns the program's name, for messages.
    pub(crate) fn program(&self) -> Cow<'_, str> {
        self.spec.process.args.first().map_or("the init".into(), |name| name.to_string_lossy())
    }

    /// Returns whether the program starts in a pid namespace that can contain other processes.
    pub(crate) fn enters(&self) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.enters)
    }

    /// Returns whether a step clones a second process.
    pub(crate) fn clones(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Clone(_)))
    }

    /// Returns the network limits. A plan with limits has one [`Step::AwaitLimits`].
    pub(crate) fn net_limits(&self) -> Option<&net::Limits> {
        self.spec.limits.net.as_ref().filter(|net| !net.is_empty())
    }

    /// Adds the step that waits for the network limits, if there are some and no step waits yet.
    pub(super) fn await_limits(&mut self) {
        let waits = || self.steps.iter().any(|step| matches!(step, Step::AwaitLimits));
        if self.net_limits().is_some() && !waits() {
            self.push(Step::AwaitLimits);
        }
    }

    /// Adds a step.
    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }
}
