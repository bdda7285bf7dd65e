//! The controllers of cgroup v2.

use std::fmt;

use bitflags::bitflags;

/// A controller of cgroup v2. In v2 the freezer, perf_event and the device filter need no
/// controller, so they are not members.
///
/// Source: <https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers>
///
/// ```
/// use cgroup_core::Controller;
/// assert_eq!(Controller::of_file("memory.max"), Some(Controller::Memory));
/// assert_eq!((Controller::Io.name(), Controller::Io.v1_name()), ("io", "blkio"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Controller {
    /// Weight and bandwidth of processor time. Since Linux 4.15.
    Cpu,
    /// Sets of processors and memory nodes. Since Linux 5.0.
    Cpuset,
    /// Bandwidth, rate, weight and latency of block devices (`blkio` in v1). Since Linux 4.5.
    Io,
    /// Memory, swap and memory of the kernel. Since Linux 4.5.
    Memory,
    /// Number of processes and threads. Since Linux 4.5.
    Pids,
    /// Huge pages of each size. Since Linux 5.6.
    Hugetlb,
    /// RDMA resources. Since Linux 4.11.
    Rdma,
    /// Scalar resources, such as SEV address space ids. Since Linux 5.13.
    Misc,
    /// Regions of device memory. Since Linux 6.14.
    Dmem,
}

bitflags! {
    /// A set of [`Controller`]s. Section "Controllers".
    ///
    /// ```
    /// use cgroup_core::{Controller, Controllers};
    /// let set: Controllers = "cpu memory".parse().unwrap();
    /// assert_eq!(set, Controllers::CPU | Controllers::MEMORY);
    /// assert_eq!((set | Controller::Pids.into()).to_string(), "cpu memory pids");
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Controllers: u16 {
        /// [`Controller::Cpu`]
        const CPU = 1 << Controller::Cpu as u8;
        /// [`Controller::Cpuset`]
        const CPUSET = 1 << Controller::Cpuset as u8;
        /// [`Controller::Io`]
        const IO = 1 << Controller::Io as u8;
        /// [`Controller::Memory`]
        const MEMORY = 1 << Controller::Memory as u8;
        /// [`Controller::Pids`]
        const PIDS = 1 << Controller::Pids as u8;
        /// [`Controller::Hugetlb`]
        const HUGETLB = 1 << Controller::Hugetlb as u8;
        /// [`Controller::Rdma`]
        const RDMA = 1 << Controller::Rdma as u8;
        /// [`Controller::Misc`]
        const MISC = 1 << Controller::Misc as u8;
        /// [`Controller::Dmem`]
        const DMEM = 1 << Controller::Dmem as u8;
    }
}

impl Controller {
    /// All controllers that this crate knows, in the order of the enum.
    pub const ALL: [Self; 9] = [
        Self::Cpu,
        Self::Cpuset,
        Self::Io,
        Self::Memory,
        Self::Pids,
        Self::Hugetlb,
        Self::Rdma,
        Self::Misc,
        Self::Dmem,
    ];

    /// Returns the name in `cgroup.controllers`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
            Self::Rdma => "rdma",
            Self::Misc => "misc",
            Self::Dmem => "dmem",
        }
    }

    /// Returns the name in `/proc/cgroups` and in the mount options of v1.
    pub fn v1_name(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            other => other.name(),
        }
    }

    /// Returns the kernel option for the controller.
    pub fn config(self) -> &'static str {
        match self {
            Self::Cpu => "CONFIG_CGROUP_SCHED",
            Self::Cpuset => "CONFIG_CPUSETS",
            Self::Io => "CONFIG_BLK_CGROUP",
            Self::Memory => "CONFIG_MEMCG",
            Self::Pids => "CONFIG_CGROUP_PIDS",
            Self::Hugetlb => "CONFIG_CGROUP_HUGETLB",
            Self::Rdma => "CONFIG_CGROUP_RDMA",
            Self::Misc => "CONFIG_CGROUP_MISC",
            Self::Dmem => "CONFIG_CGROUP_DMEM",
        }
    }

    /// Returns the controller of an interface file, from the part before its first dot. Returns
    /// `None` for the files `cgroup.*` and for unknown names.
    pub fn of_file(file: &str) -> Option<Self> {
        Self::of_name(file.split('.').next()?)
    }

    /// Returns the controller with this name in `cgroup.controllers`.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.name() == name)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Controller> for Controllers {
    fn from(controller: Controller) -> Self {
        Self::from_bits_retain(1 << controller as u8)
    }
}

impl FromIterator<Controller> for Controllers {
    fn from_iter<I: IntoIterator<Item = Controller>>(iter: I) -> Self {
        iter.into_iter().fold(Self::empty(), |set, c| set | c.into())
    }
}

impl Controllers {
    /// Returns the members, in the order of [`Controller::ALL`].
    pub fn members(self) -> impl Iterator<Item = Controller> {
        Controller::ALL.into_iter().filter(move |&c| self.contains(c.into()))
    }
}

/// Prints the names with spaces between, like `cgroup.controllers`.
impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, controller) in self.members().enumerate() {
            write!(f, "{}{controller}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
