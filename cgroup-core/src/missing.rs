//! Why a controller or an interface file is missing.

use std::fmt;
use std::path::PathBuf;

use crate::controller::Controller;

/// The reason why a controller or one of its files is missing. `Display` prints the reason and the
/// remedy. Section "Enabling and Disabling".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// A v1 hierarchy has the controller. A controller can be in one hierarchy only. Section
    /// "Mounting".
    BoundToV1 {
        /// The controller.
        controller: Controller,
        /// Mount point of the v1 hierarchy in this mount namespace; `None` if it has none.
        mount: Option<PathBuf>,
    },
    /// The kernel has the controller in v2, but it is not enabled for the cgroup at this path.
    /// Section "Enabling and Disabling".
    NotDelegated {
        /// The controller.
        controller: Controller,
        /// The uppermost visible cgroup that lacks the controller.
        at: PathBuf,
    },
    /// The kernel was built without the controller.
    NotInKernel {
        /// The controller.
        controller: Controller,
    },
    /// The kernel was started with `cgroup_disable=`.
    Disabled {
        /// The controller.
        controller: Controller,
    },
    /// No cgroup2 file system is mounted in this mount namespace.
    NoHierarchy,
    /// The controller is available, but the file does not exist: the kernel is too old, it was
    /// built without an option, or the name is wrong.
    NoFile {
        /// The name of the file.
        file: String,
        /// Requirements of the file, as the end of a sentence.
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
                write!(f, "the owner of the parent must write +{controller} to its cgroup.subtree_control ")?;
                write!(f, "(systemd: Delegate={controller} on the unit)")
            }
            Self::NotInKernel { controller } => {
                let config = controller.config();
                write!(f, "the kernel has no {controller} controller; use a kernel with {config}")
            }
            Self::Disabled { controller } => {
                let v1 = controller.v1_name();
                write!(f, "the {controller} controller is disabled; remove cgroup_disable={v1} ")?;
                write!(f, "from the kernel command line")
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
