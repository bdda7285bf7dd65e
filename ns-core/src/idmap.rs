//! Id maps of user namespaces.

use std::fmt;
use std::os::fd::AsFd;
use std::str::FromStr;

use libc::pid_t;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use crate::file::write_proc;
use crate::{Error, ErrorKind, Result, file, hint};

/// Largest number of extents that the kernel accepts (since Linux 4.15; 5 before).
const MAX_EXTENTS: usize = 340;
/// The kernel accepts less text than a page. The smallest page has 4 KiB.
const MAX_TEXT: usize = 4096;

/// Range of consecutive ids in an id map. See
/// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Extent {
    /// First id in the user namespace.
    pub inside: u32,
    /// First id in the parent user namespace.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Id map of a user namespace: the content of `/proc/PID/uid_map` or `gid_map`. See
/// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
///
/// ```
/// use ns_core::{Extent, IdMap};
/// let map: IdMap = "0 1000 1\n1 100000 65536\n".parse()?;
/// map.validate()?;
/// assert_eq!(map.to_outside(0), Some(1000));
/// assert_eq!(map.to_outside(33), Some(100032));
/// assert_eq!(map.to_inside(1000), Some(0));
/// assert_eq!(map.to_inside(1001), None);
/// assert_eq!(map.to_string(), "0 1000 1\n1 100000 65536\n");
/// # Ok::<(), ns_core::Error>(())
/// ```
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct IdMap(Vec<Extent>);

/// Kind of ids: users or groups. See
/// [credentials(7)](https://man7.org/linux/man-pages/man7/credentials.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ids {
    /// User ids: `uid_map`, `/etc/subuid`, `newuidmap`.
    Uid,
    /// Group ids: `gid_map`, `/etc/subgid`, `newgidmap`.
    Gid,
}

impl Ids {
    /// Returns `uid_map` or `gid_map`.
    pub const fn file(self) -> &'static str {
        match self {
            Ids::Uid => "uid_map",
            Ids::Gid => "gid_map",
        }
    }
}

impl IdMap {
    /// Returns the map of every id to itself.
    pub fn identity() -> Self {
        Self(vec![Extent { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// Returns a map of one id. An unprivileged process may write only such a map, of its own effective
    /// id.
    pub fn single(inside: u32, outside: u32) -> Self {
        Self(vec![Extent { inside, outside, count: 1 }])
    }

    /// Returns whether the map has no extents.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the extents.
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// Returns the id in the parent for an id in the user namespace; `None` if it is not mapped.
    pub fn to_outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|e| shift(inside, e.inside, e.count, e.outside))
    }

    /// Returns the id in the user namespace for an id in its parent; `None` if it is not mapped.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|e| shift(outside, e.outside, e.count, e.inside))
    }

    /// Checks the map against the rules of the kernel; see "Defining user and group ID mappings" in
    /// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
    ///
    /// A map must have 1 to 340 extents and less than 4096 bytes of text. An extent must not be empty,
    /// contain an id above 4294967294, or overlap another extent on either side. Before Linux 4.15 the
    /// kernel accepts at most 5 extents.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput): the sentence names the wrong extent.
    pub fn validate(&self) -> Result<()> {
        let bad = |why: String| Err(Error::new(ErrorKind::InvalidInput, "use an id map", why));
        if self.0.is_empty() {
            return bad("the map is empty; the kernel requires at least one extent".into());
        }
        if self.0.len() > MAX_EXTENTS {
            return bad(format!("the map has {} extents, the kernel accepts {MAX_EXTENTS}", self.0.len()));
        }
        for e in &self.0 {
            if e.count == 0 {
                return bad(format!("the extent {e} maps no id"));
            }
            if e.inside.checked_add(e.count).is_none() || e.outside.checked_add(e.count).is_none() {
                return bad(format!("the extent {e} ends after the last id, 4294967294"));
            }
        }
        for (side, first) in SIDES {
            let mut sorted: Vec<&Extent> = self.0.iter().collect();
            sorted.sort_unstable_by_key(|e| first(e));
            if let Some(pair) = sorted.windows(2).find(|p| first(p[0]) + p[0].count > first(p[1])) {
                return bad(format!("the extents {} and {} overlap {side}", pair[0], pair[1]));
            }
        }
        let bytes = self.to_string().len();
        if bytes >= MAX_TEXT {
            return bad(format!(
                "the text of the map has {bytes} bytes, the kernel accepts less than a page"
            ));
        }
        Ok(())
    }

    /// Reads the map of the user namespace that the process `pid` is in. The ids outside are those of
    /// the caller's user namespace. Since Linux 3.5; see
    /// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
    ///
    /// # Errors
    /// - `ENOENT`, `ESRCH` ([`NoSuchProcess`](ErrorKind::NoSuchProcess)): the process has ended, or is
    ///   outside this pid namespace.
    /// - [`Parse`](ErrorKind::Parse): the text is not an id map.
    pub fn of_pid(pid: pid_t, ids: Ids) -> Result<Self> {
        let path = format!("/proc/{pid}/{}", ids.file());
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let errno = file::errno(&error);
            hint::of_proc(Error::os(format!("read {path}"), "open", errno).on(&path), errno)
        })?;
        text.parse()
    }

    /// Writes the map of the user namespace that the process `pid` is in. A map can be written once.
    /// Since Linux 3.5, by unprivileged processes since 3.8; see
    /// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
    ///
    /// [`write_id_maps`] writes both maps, and the setgroups setting that the kernel requires.
    ///
    /// # Errors
    /// - [`InvalidInput`](ErrorKind::InvalidInput): see [`validate`](Self::validate).
    /// - `EPERM`: the map has already been written, or the caller lacks CAP_SETUID (CAP_SETGID) in the
    ///   parent user namespace, or maps id 0 of the parent without CAP_SETFCAP there. Without these
    ///   capabilities, only one id can be mapped, the caller's own effective id, and for groups only
    ///   after [`Setgroups::Deny`].
    /// - `EINVAL`: an id outside is not mapped in the parent user namespace.
    /// - `EACCES`: the process belongs to another user.
    /// - `ENOENT`, `ESRCH` ([`NoSuchProcess`](ErrorKind::NoSuchProcess)): the process has ended.
    pub fn write(&self, pid: pid_t, ids: Ids) -> Result<()> {
        self.put(AT_FDCWD, &format!("/proc/{pid}/{}", ids.file()), ids)
    }

    /// Writes the map as [`write`](Self::write) does, in an open directory `/proc/PID`. Since Linux 3.5;
    /// see [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
    ///
    /// # Errors
    /// As [`write`](Self::write), and `EXDEV`: the file is not on a procfs.
    pub fn write_at(&self, proc_pid: impl AsFd, ids: Ids) -> Result<()> {
        self.put(proc_pid, ids.file(), ids)
    }

    fn put(&self, dir: impl AsFd, path: &str, ids: Ids) -> Result<()> {
        self.validate()?;
        let step = format!("write the map {:?} to {path}", self.to_string().trim_end());
        let cap = match ids {
            Ids::Uid => "CAP_SETUID",
            Ids::Gid => "CAP_SETGID",
        };
        write_proc(dir, path, &self.to_string(), step).map_err(|(error, errno)| match errno {
            Errno::EPERM => error.hint(hint::user_switch().unwrap_or_else(|| {
                format!(
                    "a map can be written once, and requires {cap} in the parent user namespace, and \
                     CAP_SETFCAP to map its id 0; without these only one id can be mapped, the \
                     caller's own, for groups after setgroups is denied; for ranges use newuidmap \
                     and newgidmap"
                )
            })),
            Errno::EINVAL => error.hint("an id outside is not mapped in the parent user namespace"),
            _ => hint::of_proc(error, errno),
        })
    }
}

type Side = (&'static str, fn(&Extent) -> u32);
const SIDES: [Side; 2] = [("inside", |e| e.inside), ("outside", |e| e.outside)];

fn shift(id: u32, from: u32, count: u32, to: u32) -> Option<u32> {
    let offset = id.checked_sub(from)?;
    if offset < count { to.checked_add(offset) } else { None }
}

impl From<Vec<Extent>> for IdMap {
    fn from(extents: Vec<Extent>) -> Self {
        Self(extents)
    }
}

impl FromIterator<Extent> for IdMap {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        Self(extents.into_iter().collect())
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

impl fmt::Display for IdMap {
    /// Formats the map as the kernel accepts it: one line for each extent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|extent| writeln!(f, "{extent}"))
    }
}

impl FromStr for IdMap {
    type Err = Error;

    /// Parses lines `INSIDE OUTSIDE COUNT`. Does not [`validate`](IdMap::validate).
    fn from_str(text: &str) -> Result<Self> {
        let bad = |line: &str| {
            Error::parse("a line of an id map", line, "a line is INSIDE OUTSIDE COUNT, three numbers")
        };
        let mut extents = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let mut numbers = line.split_ascii_whitespace().map(number);
            let mut next = || numbers.next().flatten().ok_or_else(|| bad(line));
            let extent = Extent { inside: next()?, outside: next()?, count: next()? };
            if numbers.next().is_some() {
                return Err(bad(line));
            }
            extents.push(extent);
        }
        Ok(Self(extents))
    }
}

/// Parses a number without a sign.
pub(crate) fn number(text: &str) -> Option<u32> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// Permission of processes in a user namespace to call
/// [setgroups(2)](https://man7.org/linux/man-pages/man2/setgroups.2.html). Since Linux 3.19; see
/// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Setgroups {
    /// Processes may call setgroups after the gid map has been written.
    Allow,
    /// Processes may not call setgroups, so that they cannot drop a group that a file denies access.
    Deny,
}

impl Setgroups {
    /// Returns the word in `/proc/PID/setgroups`.
    pub const fn name(self) -> &'static str {
        match self {
            Setgroups::Allow => "allow",
            Setgroups::Deny => "deny",
        }
    }

    /// Reads the setting of the user namespace that the process `pid` is in. Since Linux 3.19; see
    /// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
    ///
    /// # Errors
    /// - `ENOENT`, `ESRCH` ([`NoSuchProcess`](ErrorKind::NoSuchProcess)): the process has ended, or is
    ///   outside this pid namespace.
    pub fn of_pid(pid: pid_t) -> Result<Self> {
        let path = format!("/proc/{pid}/setgroups");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let errno = file::errno(&error);
            hint::of_proc(Error::os(format!("read {path}"), "open", errno).on(&path), errno)
        })?;
        text.parse()
    }

    /// Writes the setting of the user namespace that the process `pid` is in. This must happen before
    /// its gid map is written. Since Linux 3.19; see
    /// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
    ///
    /// # Errors
    /// - `EPERM`: the gid map has been written, or setgroups is denied in this or an outer user
    ///   namespace.
    /// - `ENOENT`, `ESRCH` ([`NoSuchProcess`](ErrorKind::NoSuchProcess)): the process has ended.
    pub fn write(self, pid: pid_t) -> Result<()> {
        let path = format!("/proc/{pid}/setgroups");
        let step = format!("write {} to {path}", self.name());
        write_proc(AT_FDCWD, &path, self.name(), step).map_err(|(error, errno)| match errno {
            Errno::EPERM => {
                error.hint("the setting can be written only before the gid map, and cannot be allowed again")
            }
            _ => hint::of_proc(error, errno),
        })
    }
}

impl FromStr for Setgroups {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim_end() {
            "allow" => Ok(Setgroups::Allow),
            "deny" => Ok(Setgroups::Deny),
            other => Err(Error::parse("a setgroups setting", other, "the settings are allow and deny")),
        }
    }
}

/// Writes both maps of the user namespace that the process `pid` is in, and returns the setgroups
/// setting that it wrote: [`Setgroups::Deny`] if the gid map has a single id.
///
/// The kernel requires [`Setgroups::Deny`] from an unprivileged writer (since Linux 3.19). This
/// function writes it for a privileged writer too: with a single gid a process cannot join groups,
/// only drop them, and a file may deny a group an access that it grants to others. See
/// [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
///
/// # Errors
/// As [`IdMap::write`] and [`Setgroups::write`].
pub fn write_id_maps(pid: pid_t, uid: &IdMap, gid: &IdMap) -> Result<Setgroups> {
    uid.validate()?;
    gid.validate()?;
    let setgroups = match gid.extents() {
        [Extent { count: 1, .. }] => Setgroups::Deny,
        _ => Setgroups::Allow,
    };
    if setgroups == Setgroups::Deny {
        setgroups.write(pid)?;
    }
    uid.write(pid, Ids::Uid)?;
    gid.write(pid, Ids::Gid)?;
    Ok(setgroups)
}
