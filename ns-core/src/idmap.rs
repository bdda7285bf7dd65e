//! Id maps of user namespaces: which ids inside are which outside.

use std::fmt;
use std::os::fd::AsFd;
use std::str::FromStr;

use libc::pid_t;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use crate::file::write_proc;
use crate::{Error, ErrorKind, Result, file, hint};

/// The kernel takes at most this many extents (since Linux 4.15; 5 before).
const MAX_EXTENTS: usize = 340;
/// The kernel takes less than this many bytes of text: a page, of 4 KiB at least.
const MAX_TEXT: usize = 4096;

/// A run of ids: `count` of them, from `inside` in the user namespace and from `outside` in
/// its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Extent {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// An id map: the content of `uid_map` or `gid_map`. See
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

/// Which ids: of users or of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ids {
    /// User ids: `uid_map`, `/etc/subuid`, `newuidmap`.
    Uid,
    /// Group ids: `gid_map`, `/etc/subgid`, `newgidmap`.
    Gid,
}

impl Ids {
    /// `uid_map` or `gid_map`.
    pub const fn file(self) -> &'static str {
        match self {
            Ids::Uid => "uid_map",
            Ids::Gid => "gid_map",
        }
    }
}

impl IdMap {
    /// Maps every id to itself.
    pub fn identity() -> Self {
        Self(vec![Extent { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// Maps one id: the only map that an unprivileged process may write, and then only of
    /// its own effective id.
    pub fn single(inside: u32, outside: u32) -> Self {
        Self(vec![Extent { inside, outside, count: 1 }])
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its extents.
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// The id outside that an id inside is.
    pub fn to_outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|e| shift(inside, e.inside, e.count, e.outside))
    }

    /// The id inside that an id outside is.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|e| shift(outside, e.outside, e.count, e.inside))
    }

    /// Checks what the kernel will check: at least one extent and at most 340, none empty or
    /// beyond 4294967294, none overlapping another inside or outside, and less than 4096
    /// bytes of text (a page, where pages are 4 KiB).
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput), naming the extent at fault.
    pub fn validate(&self) -> Result<()> {
        let bad = |why: String| Err(Error::new(ErrorKind::InvalidInput, "use an id map", why));
        if self.0.is_empty() {
            return bad("it maps nothing; the kernel wants at least one extent".into());
        }
        if self.0.len() > MAX_EXTENTS {
            return bad(format!("it has {} extents, the kernel takes {MAX_EXTENTS}", self.0.len()));
        }
        for e in &self.0 {
            if e.count == 0 {
                return bad(format!("the extent {e} maps no id"));
            }
            if e.inside.checked_add(e.count).is_none() || e.outside.checked_add(e.count).is_none() {
                return bad(format!("the extent {e} goes beyond the last id, 4294967294"));
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
            return bad(format!("its text has {bytes} bytes, the kernel takes less than a page"));
        }
        Ok(())
    }

    /// The map that the process `pid` sees itself under, in the ids of the caller's user
    /// namespace.
    ///
    /// # Errors
    /// [`NoSuchProcess`](ErrorKind::NoSuchProcess): it has ended.
    pub fn of_pid(pid: pid_t, ids: Ids) -> Result<Self> {
        let path = format!("/proc/{pid}/{}", ids.file());
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let errno = file::errno(&error);
            hint::of_proc(Error::os(format!("read {path}"), "open", errno), errno)
        })?;
        text.parse()
    }

    /// Gives the user namespace of the process `pid` this map; can be done once.
    ///
    /// For both maps at once, and setgroups as the kernel demands it, [`write_id_maps`].
    ///
    /// # Errors
    /// - [`InvalidInput`](ErrorKind::InvalidInput): see [`validate`](Self::validate).
    /// - `EPERM`: the map has been written before; or it takes CAP_SETUID (CAP_SETGID) in
    ///   the parent user namespace, and CAP_SETFCAP to map its 0. Without these only a
    ///   single extent of one id can be written, of the caller's own effective id, and for
    ///   groups only after [`Setgroups::Deny`].
    /// - `EACCES`: the process belongs to somebody else.
    /// - [`NoSuchProcess`](ErrorKind::NoSuchProcess): it has ended.
    pub fn write(&self, pid: pid_t, ids: Ids) -> Result<()> {
        self.put(AT_FDCWD, &format!("/proc/{pid}/{}", ids.file()), ids)
    }

    /// As [`write`](Self::write), beneath an open `/proc/PID` directory.
    ///
    /// # Errors
    /// As [`write`](Self::write).
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
                    "the map may have been written already (once is all), or this takes {cap} in \
                     the parent user namespace, and CAP_SETFCAP to map its 0; without these only \
                     one id can be mapped, the caller's own, for groups after denying setgroups; \
                     for ranges use newuidmap and newgidmap"
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
    /// A line an extent, as the kernel takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|extent| writeln!(f, "{extent}"))
    }
}

impl FromStr for IdMap {
    type Err = Error;

    /// Parses what the kernel prints and what people write; does not validate.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |line: &str| {
            Error::parse("a line of an id map", line, "it is INSIDE OUTSIDE COUNT, three numbers")
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

/// Digits only: no sign.
pub(crate) fn number(text: &str) -> Option<u32> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// Whether processes in a user namespace may call `setgroups`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Setgroups {
    /// They may, once there is a gid map.
    Allow,
    /// Never: nobody in it can drop a group, and so gain what the group is denied.
    Deny,
}

impl Setgroups {
    /// The word in `/proc/PID/setgroups`.
    pub const fn name(self) -> &'static str {
        match self {
            Setgroups::Allow => "allow",
            Setgroups::Deny => "deny",
        }
    }

    /// What holds for the process `pid`.
    ///
    /// # Errors
    /// [`NoSuchProcess`](ErrorKind::NoSuchProcess): it has ended.
    pub fn of_pid(pid: pid_t) -> Result<Self> {
        let path = format!("/proc/{pid}/setgroups");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let errno = file::errno(&error);
            hint::of_proc(Error::os(format!("read {path}"), "open", errno), errno)
        })?;
        text.parse()
    }

    /// Sets it for the user namespace of the process `pid`, before its gid map is written.
    ///
    /// # Errors
    /// `EPERM`: the gid map has been written, or it has been denied, here or further out.
    pub fn write(self, pid: pid_t) -> Result<()> {
        let path = format!("/proc/{pid}/setgroups");
        let step = format!("write {} to {path}", self.name());
        write_proc(AT_FDCWD, &path, self.name(), step).map_err(|(error, errno)| match errno {
            Errno::EPERM => {
                error.hint("it is decided before the gid map is written, and once denied stays so")
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
            other => Err(Error::parse("a setgroups setting", other, "it is allow or deny")),
        }
    }
}

/// Writes both maps of the user namespace of the process `pid`, and returns what it did
/// about setgroups: denied where the gid map holds a single id.
///
/// The kernel demands that of an unprivileged writer (since Linux 3.19). It is done for a
/// privileged one as well: with one id there is no group to set, only groups to drop, and a
/// file may deny a group what it grants to others.
///
/// # Errors
/// Those of [`IdMap::write`] and [`Setgroups::write`].
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
