//! Why a controller or one of its files is not to be had.

use std::fmt;
use std::path::PathBuf;

use crate::controller::Controller;

/// Why a controller, or one of its files, is missing. Its `Display` is the reason and the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// A v1 hierarchy holds the controller; one hierarchy at a time can.
    BoundToV1 {
        /// Which controller.
        controller: Controller,
        /// Where that hierarchy is mounted, if it is mounted in this mount namespace.
        mount: Option<PathBuf>,
    },
    /// The kernel has it in v2, but the cgroup at this path does not hand it down.
    NotDelegated {
        /// Which controller.
        controller: Controller,
        /// The uppermost cgroup, as far as can be seen, that lacks it.
        at: PathBuf,
    },
    /// The kernel was built without the controller.
    NotInKernel {
        /// Which controller.
        controller: Controller,
    },
    /// The kernel was started with `cgroup_disable=`.
    Disabled {
        /// Which controller.
        controller: Controller,
    },
    /// No cgroup2 file system is mounted in this mount namespace.
    NoHierarchy,
    /// The controller is there, but not this file: the kernel is too old for it, was built without
    /// an option, or there is no such file.
    NoFile {
        /// The name of the file.
        file: String,
        /// What the file requires, as the end of a sentence.
        requirement: String,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BoundToV1 { controller, mount } => {
                write!(f, "the {controller} controller is bound to the v1 hierarchy")?;
                if let Some(mount) = mount {
                    write!(f, " at {}", mount.display())?;
                }
                let v1 = controller.v1_name();
                write!(f, "; start the kernel with cgroup_no_v1={v1} (or systemd.unified_cgroup_hierarchy=1)")
            }
            Self::NotDelegated { controller, at } => {
                let at = at.display();
                write!(f, "the {controller} controller is not enabled down to {at}; ")?;
                write!(f, "have the owner of the parent write +{controller} to its cgroup.subtree_control ")?;
                write!(f, "(systemd: Delegate={controller} on the unit)")
            }
            Self::NotInKernel { controller } => {
                let config = controller.config();
                write!(f, "the kernel has no {controller} controller; use one built with {config}")
            }
            Self::Disabled { controller } => {
                let v1 = controller.v1_name();
                write!(f, "the {controller} controller is switched off; remove cgroup_disable={v1} ")?;
                write!(f, "from the kernel's command line")
            }
            Self::NoHierarchy => {
                f.write_str("no cgroup2 file system is mounted; mount -t cgroup2 none /sys/fs/cgroup")
            }
            Self::NoFile { file, requirement } => {
                write!(f, "the file {file} does not exist; {requirement}")
            }
        }
    }
}
