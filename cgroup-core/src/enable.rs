//! Enabling controllers for the children of a cgroup: `cgroup.subtree_control`.

use nix::errno::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Controllers;
use crate::error::{Error, Result};
use crate::hierarchy::Hierarchy;
use crate::missing::Missing;

impl Cgroup {
    /// Hands these controllers down to the children, in one write and only those that are not yet.
    ///
    /// Beside processes of its own the kernel lets only `cpu`, `cpuset` and `pids` in, and the
    /// children are then for threads alone ([`set_type_threaded`](Self::set_type_threaded)): no
    /// process can be attached to them.
    ///
    /// # Errors
    /// `NotFound` (`ENOENT`) where a controller is not [`available`](Self::available) here; `Busy`
    /// (`EBUSY`) where the cgroup holds processes (the no-internal-processes rule: a cgroup other
    /// than the root has either processes or controllers for its children); `Unsupported`
    /// (`EOPNOTSUPP`) for a domain controller in a threaded subtree.
    pub fn enable(&self, controllers: Controllers) -> Result<()> {
        if controllers.is_empty() {
            return Ok(());
        }
        let missing = controllers - self.enabled()?;
        if missing.is_empty() {
            return Ok(());
        }
        self.write("cgroup.subtree_control", &signed('+', missing))
    }

    /// Takes these controllers from the children.
    ///
    /// # Errors
    /// `Busy` (`EBUSY`) where a child hands them down in turn.
    pub fn disable(&self, controllers: Controllers) -> Result<()> {
        let present = controllers & self.enabled()?;
        if present.is_empty() { Ok(()) } else { self.write("cgroup.subtree_control", &signed('-', present)) }
    }

    /// Makes these controllers available in this cgroup, by enabling them in each ancestor from
    /// the topmost that lacks them down to the parent. What is available already costs one read.
    ///
    /// # Errors
    /// `Unenforceable`, with the reason for each, where even the top of the mount lacks a
    /// controller; `Busy` where an ancestor holds processes, which are named, even for the
    /// controllers that could be enabled beside them; and all of [`enable`](Self::enable)'s.
    pub fn enable_path(&self, controllers: Controllers) -> Result<()> {
        let missing = controllers - self.available()?;
        if missing.is_empty() {
            return Ok(());
        }
        match self.parent()? {
            Some(parent) => {
                parent.enable_path(missing)?;
                parent.hand_down(missing)
            }
            None => {
                let host = Hierarchy::detect()?;
                let why = |controller| {
                    let at = self.path().to_owned();
                    let missing =
                        host.why_missing(controller).unwrap_or(Missing::NotDelegated { controller, at });
                    (controller.to_string(), missing)
                };
                Err(Error::cannot_enforce(missing.members().map(why).collect()))
            }
        }
    }

    /// As [`enable`](Self::enable), for children that shall hold processes: of the controllers that
    /// can be enabled beside processes none is.
    pub(crate) fn hand_down(&self, controllers: Controllers) -> Result<()> {
        // Of another type is the root, which may, and what is for threads already.
        if !(controllers - self.enabled()?).is_empty()
            && self.read_if_there("cgroup.type")?.as_deref() == Some("domain\n")
        {
            let pids = self.procs()?;
            if !pids.is_empty() {
                return Err(self.fail(
                    format_args!(
                        "enable {controllers} in {}, which holds the processes {pids:?}",
                        self.path().display()
                    ),
                    "write",
                    "cgroup.subtree_control",
                    Errno::EBUSY,
                ));
            }
        }
        self.enable(controllers)
    }
}

/// `+cpu +memory`
fn signed(sign: char, controllers: Controllers) -> String {
    let mut text = String::with_capacity(64);
    for controller in controllers.members() {
        text.push(sign);
        text.push_str(controller.name());
        text.push(' ');
    }
    text.pop();
    text
}
