//! Enabling controllers for the children of a cgroup: `cgroup.subtree_control`.

use nix::errno::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Controllers;
use crate::error::{Error, Result};
use crate::hierarchy::Hierarchy;
use crate::missing::Missing;

impl Cgroup {
    /// Enables controllers for the children of this cgroup, with one write of those that are not
    /// yet enabled.
    ///
    /// While this cgroup has processes, the kernel accepts only `cpu`, `cpuset` and `pids`. The
    /// children then accept only threads ([`set_type_threaded`](Self::set_type_threaded)), not
    /// processes.
    ///
    /// Since Linux 4.5. Sections "Enabling and Disabling" and "No Internal Process Constraint".
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`): a controller is not [`available`](Self::available) in this cgroup.
    /// - `Busy` (`EBUSY`): this cgroup has processes and is not the root.
    /// - `Unsupported` (`EOPNOTSUPP`): a controller does not support threads, and the cgroup is in
    ///   a threaded subtree.
    /// - `PermissionDenied` (`EACCES`): the cgroup is not delegated to the caller.
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

    /// Disables controllers for the children of this cgroup.
    ///
    /// Since Linux 4.5. Section "Enabling and Disabling".
    ///
    /// # Errors
    /// - `Busy` (`EBUSY`): a child enables the controller for its own children.
    /// - `PermissionDenied` (`EACCES`): the cgroup is not delegated to the caller.
    pub fn disable(&self, controllers: Controllers) -> Result<()> {
        let present = controllers & self.enabled()?;
        if present.is_empty() { Ok(()) } else { self.write("cgroup.subtree_control", &signed('-', present)) }
    }

    /// Makes controllers available in this cgroup. Enables them in each ancestor that does not,
    /// from the top down to the parent. If they are available already, this reads one file.
    ///
    /// Since Linux 4.5. Section "Top-down Constraint".
    ///
    /// # Errors
    /// - `Unenforceable`, with the reason for each controller: the top of the mount lacks it.
    /// - `Busy` (`EBUSY`): an ancestor has processes. The message lists them. This also holds for
    ///   the controllers that [`enable`](Self::enable) accepts beside processes.
    /// - As [`enable`](Self::enable).
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
                Err(Error::cannot_enforce(self.path(), missing.members().map(why).collect()))
            }
        }
    }

    /// Enables controllers for children that will have processes. Unlike [`enable`](Self::enable),
    /// this fails if this cgroup has processes, for every controller.
    pub(crate) fn hand_down(&self, controllers: Controllers) -> Result<()> {
        // The root may have both and has no cgroup.type; a threaded cgroup has another type.
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

/// Returns the controllers as `+cpu +memory`.
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
