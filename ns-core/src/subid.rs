//! Subordinate ids of ordinary users: `/etc/subuid`, `/etc/subgid`, `newuidmap`, `newgidmap`.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libc::pid_t;
use nix::unistd::Uid;

use crate::idmap::number;
use crate::{Error, ErrorKind, Extent, IdMap, Ids, Result, file};

/// Range of ids that a user may map. See [subuid(5)](https://man7.org/linux/man-pages/man5/subuid.5.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubIdRange {
    /// First id.
    pub start: u32,
    /// Number of ids.
    pub count: u32,
}

/// Content of `/etc/subuid` or `/etc/subgid`: the ranges that each user may map. See
/// [subuid(5)](https://man7.org/linux/man-pages/man5/subuid.5.html).
///
/// ```
/// use ns_core::{IdMap, SubIds};
/// let subuids = SubIds::parse("alice:100000:65536\n1001:165536:65536\n");
/// let ranges = subuids.of_user(Some("alice"), 1000);
/// assert_eq!(IdMap::rootless(1000, &ranges).to_string(), "0 1000 1\n1 100000 65536\n");
/// assert_eq!(subuids.of_user(None, 1001)[0].start, 165536);
/// ```
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SubIds(Vec<(String, SubIdRange)>);

impl SubIds {
    /// Parses lines `OWNER:START:COUNT`. Skips lines of another form and empty ranges, as newuidmap
    /// does.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(line).collect())
    }

    /// Reads `/etc/subuid` or `/etc/subgid`. Returns no ranges for a missing file. See
    /// [subuid(5)](https://man7.org/linux/man-pages/man5/subuid.5.html).
    ///
    /// # Errors
    /// `EACCES`, `EIO`, `EMFILE`: see [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    pub fn read(ids: Ids) -> Result<Self> {
        let path = match ids {
            Ids::Uid => "/etc/subuid",
            Ids::Gid => "/etc/subgid",
        };
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                let errno = file::errno(&error);
                Err(Error::os(format!("read {path}"), "open", errno).on(path))
            }
        }
    }

    /// Returns the ranges of a user. The file lists a user by name or by uid.
    pub fn of_user(&self, name: Option<&str>, uid: u32) -> Vec<SubIdRange> {
        let uid = uid.to_string();
        let is_theirs = |owner: &str| owner == uid || Some(owner) == name;
        self.0.iter().filter(|(owner, _)| is_theirs(owner)).map(|(_, range)| *range).collect()
    }

    /// Returns the ranges of all users.
    pub fn ranges(&self) -> impl Iterator<Item = SubIdRange> + '_ {
        self.0.iter().map(|(_, range)| *range)
    }

    /// Returns the ranges of the caller: of its real uid, and of the name of that uid in `/etc/passwd`.
    ///
    /// Does not ask other sources of names, such as LDAP, because the C library would load their
    /// modules into the program. For these, look the name up and call [`of_user`](Self::of_user). See
    /// [subuid(5)](https://man7.org/linux/man-pages/man5/subuid.5.html).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn of_caller(ids: Ids) -> Result<Vec<SubIdRange>> {
        let uid = Uid::current().as_raw();
        // A user that passwd does not list may be listed by uid.
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let passwd = String::from_utf8_lossy(&passwd);
        Ok(Self::read(ids)?.of_user(user_name(&passwd, uid), uid))
    }
}

/// Returns the name of a user from the text of `/etc/passwd`; see
/// [passwd(5)](https://man7.org/linux/man-pages/man5/passwd.5.html).
///
/// ```
/// let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
/// assert_eq!(ns_core::user_name(passwd, 1000), Some("alice"));
/// assert_eq!(ns_core::user_name(passwd, 1001), None);
/// ```
pub fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

fn line(line: &str) -> Option<(String, SubIdRange)> {
    let mut fields = line.split(':');
    let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
    let range = SubIdRange { start: number(start)?, count: number(count)? };
    let fits = range.start.checked_add(range.count).is_some();
    (fields.next().is_none() && !owner.is_empty() && range.count > 0 && fits)
        .then(|| (owner.to_owned(), range))
}

impl IdMap {
    /// Returns the usual map of an ordinary user: id 0 is `own`, and the ids from 1 are those of the
    /// ranges, up to the last id.
    pub fn rootless(own: u32, ranges: &[SubIdRange]) -> Self {
        let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
        let mut inside = 1u32;
        for range in ranges {
            let count = range.count.min(u32::MAX - inside);
            if count > 0 {
                extents.push(Extent { inside, outside: range.start, count });
            }
            inside += count;
        }
        Self::from(extents)
    }
}

/// Writes both maps of the user namespace that the process `pid` is in, by the programs `newuidmap` and
/// `newgidmap`. These may map the ranges that `/etc/subuid` and `/etc/subgid` give to the caller. See
/// [newuidmap(1)](https://man7.org/linux/man-pages/man1/newuidmap.1.html). User namespaces exist since
/// Linux 3.8.
///
/// # Errors
/// - [`Unsupported`](ErrorKind::Unsupported): a program is not on `PATH`.
/// - [`ProgramFailed`](ErrorKind::ProgramFailed): a program failed. The sentence contains its message.
/// - [`InvalidInput`](ErrorKind::InvalidInput): see [`IdMap::validate`].
pub fn write_with_newuidmap(pid: pid_t, uid: &IdMap, gid: &IdMap) -> Result<()> {
    uid.validate()?;
    gid.validate()?;
    run("newuidmap", pid, uid)?;
    run("newgidmap", pid, gid)
}

fn run(program: &'static str, pid: pid_t, map: &IdMap) -> Result<()> {
    let step = || format!("map ids of process {pid} with {program}");
    let search = std::env::var_os("PATH").unwrap_or_default();
    let path = find(program, &search).ok_or_else(|| {
        let why = "the program is not on PATH; on Debian and Ubuntu: apt install uidmap";
        Error::new(ErrorKind::Unsupported, step(), why).on(program)
    })?;
    let numbers = map.extents().iter().flat_map(|e| [e.inside, e.outside, e.count]);
    let output = Command::new(&path)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            let errno = file::errno(&error);
            Error::path(step(), "spawn", &path.display().to_string(), errno)
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let file = if program == "newuidmap" { "/etc/subuid" } else { "/etc/subgid" };
    let why = format!(
        "the program ended with {} and the message {:?}; {file} must give the ids outside to the \
         caller, and {} must be setuid root or have a file capability",
        output.status,
        said.trim(),
        path.display(),
    );
    Err(Error::new(ErrorKind::ProgramFailed, step(), why).on(path.display()))
}

/// Returns the first executable file of that name in the directories of a search path.
fn find(program: &str, search: &OsStr) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(search)
        .filter(|dir| dir != Path::new(""))
        .map(|dir| dir.join(program))
        .find(executable)
}
