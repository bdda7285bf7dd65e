//! Kinds of namespaces, and sets of kinds.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Kind of a namespace.
///
/// A process is in exactly one namespace of each kind, and the kinds are independent of each other.
/// See [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
///
/// ```
/// use ns_core::Kind;
/// assert_eq!(Kind::Mnt.name(), "mnt");
/// assert_eq!("net".parse::<Kind>().unwrap(), Kind::Net);
/// assert_eq!(Kind::from_clone_flag(0x2000_0000), Some(Kind::Pid));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Kind {
    /// Mounts: the tree of file systems (since Linux 2.4.19). See
    /// [mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html).
    Mnt,
    /// Network devices, addresses, routes, ports and abstract Unix sockets (since Linux 2.6.29). See
    /// [network_namespaces(7)](https://man7.org/linux/man-pages/man7/network_namespaces.7.html).
    Net,
    /// Process ids (since Linux 2.6.24). See
    /// [pid_namespaces(7)](https://man7.org/linux/man-pages/man7/pid_namespaces.7.html).
    Pid,
    /// User ids, group ids and capabilities (since Linux 3.8). A user namespace owns namespaces of the
    /// other kinds. See
    /// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
    User,
    /// Host name and NIS domain name (since Linux 2.6.19). See
    /// [uts_namespaces(7)](https://man7.org/linux/man-pages/man7/uts_namespaces.7.html).
    Uts,
    /// System V IPC objects and POSIX message queues (since Linux 2.6.19). See
    /// [ipc_namespaces(7)](https://man7.org/linux/man-pages/man7/ipc_namespaces.7.html).
    Ipc,
    /// Root of the visible cgroup hierarchy (since Linux 4.6). See
    /// [cgroup_namespaces(7)](https://man7.org/linux/man-pages/man7/cgroup_namespaces.7.html).
    Cgroup,
    /// Offsets of CLOCK_MONOTONIC and CLOCK_BOOTTIME (since Linux 5.6). See
    /// [time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html).
    Time,
}

impl Kind {
    /// All eight kinds, in the order of a [`NamespaceSet`](crate::NamespaceSet).
    pub const ALL: [Kind; 8] =
        [Kind::Mnt, Kind::Net, Kind::Pid, Kind::User, Kind::Uts, Kind::Ipc, Kind::Cgroup, Kind::Time];

    /// Returns the name of the link in `/proc/PID/ns`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Mnt => "mnt",
            Kind::Net => "net",
            Kind::Pid => "pid",
            Kind::User => "user",
            Kind::Uts => "uts",
            Kind::Ipc => "ipc",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }

    /// Returns the flag `CLONE_NEW*` of clone3(2), unshare(2) and setns(2).
    pub const fn clone_flag(self) -> u64 {
        match self {
            Kind::Mnt => 0x0002_0000,
            Kind::Net => 0x4000_0000,
            Kind::Pid => 0x2000_0000,
            Kind::User => 0x1000_0000,
            Kind::Uts => 0x0400_0000,
            Kind::Ipc => 0x0800_0000,
            Kind::Cgroup => 0x0200_0000,
            Kind::Time => 0x0000_0080,
        }
    }

    /// Returns the kind of a flag `CLONE_NEW*`; `None` for any other number.
    pub fn from_clone_flag(flag: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.clone_flag() == flag)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            Error::parse(
                "a kind of namespace",
                text,
                "the kinds are mnt, net, pid, user, uts, ipc, cgroup, time",
            )
        })
    }
}

bitflags::bitflags! {
    /// Set of kinds. The bits are the kernel's flags `CLONE_NEW*`; see
    /// [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html).
    ///
    /// ```
    /// use ns_core::{Kind, Kinds};
    /// let kinds = Kinds::FIVE | Kinds::USER;
    /// assert!(kinds.contains_kind(Kind::User) && !kinds.contains_kind(Kind::Time));
    /// assert_eq!(kinds.bits() & Kind::Net.clone_flag(), Kind::Net.clone_flag());
    /// assert_eq!(kinds.kinds().collect::<Kinds>(), kinds);
    /// assert_eq!("pid,net".parse::<Kinds>().unwrap(), Kinds::PID | Kinds::NET);
    /// ```
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct Kinds: u64 {
        /// Mounts.
        const MNT = Kind::Mnt.clone_flag();
        /// Network.
        const NET = Kind::Net.clone_flag();
        /// Process ids.
        const PID = Kind::Pid.clone_flag();
        /// Users.
        const USER = Kind::User.clone_flag();
        /// Host name.
        const UTS = Kind::Uts.clone_flag();
        /// System V IPC and POSIX message queues.
        const IPC = Kind::Ipc.clone_flag();
        /// Root of the visible cgroup hierarchy.
        const CGROUP = Kind::Cgroup.clone_flag();
        /// Clock offsets (since Linux 5.6).
        const TIME = Kind::Time.clone_flag();
    }
}

impl Kinds {
    /// The five classic kinds: pid, net, mnt, ipc, uts.
    pub const FIVE: Kinds =
        Kinds::PID.union(Kinds::NET).union(Kinds::MNT).union(Kinds::IPC).union(Kinds::UTS);

    /// Iterates over the kinds in the set, in the order of [`Kind::ALL`].
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.contains_kind(*kind))
    }

    /// Returns whether the set contains `kind`.
    pub const fn contains_kind(self, kind: Kind) -> bool {
        self.bits() & kind.clone_flag() != 0
    }

    /// Returns the flags, or an error if [`Kinds::from_bits_retain`] added a flag that is not a kind: a
    /// safe function must not pass CLONE_FILES or CLONE_VM to the kernel.
    pub(crate) fn flags(self, step: &str) -> Result<u64> {
        match self.difference(Kinds::all()).bits() {
            0 => Ok(self.bits()),
            more => Err(Error::new(
                crate::ErrorKind::InvalidInput,
                step,
                format!("the flags {more:#x} are not kinds of namespaces"),
            )),
        }
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        Kinds::from_bits_truncate(kind.clone_flag())
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().map(Kinds::from).collect()
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.kinds().map(Kind::name).collect();
        f.pad(&names.join(","))
    }
}

impl FromStr for Kinds {
    type Err = Error;

    /// Parses names separated by commas; the empty text is the empty set.
    fn from_str(text: &str) -> Result<Self> {
        text.split(',').filter(|name| !name.is_empty()).map(str::parse::<Kind>).collect()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Kinds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.kinds())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Kinds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Kind>::deserialize(deserializer)?.into_iter().collect())
    }
}
