//! Parsers of `/proc`: pure functions of text.
//!
//! Each parser accepts any bytes and never panics. If the text has another form, it returns `None` or
//! skips the line. [`IdMap`](crate::IdMap), [`SubIds`](crate::SubIds) and
//! [`TimeOffsets`](crate::TimeOffsets) parse the texts of id maps, subordinate ids and clock offsets.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use libc::pid_t;

use crate::Kind;

/// Returns the value of a line `NAME:<tab>VALUE`, without white space around it.
///
/// The format is that of `/proc/PID/status`, `/proc/PID/fdinfo/FD` and `/proc/meminfo`; see
/// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html) and
/// [proc_pid_fdinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html).
///
/// ```
/// use ns_core::proc;
/// let status = b"Name:\tsh\nThreads:\t1\nCapBnd:\t000001ffffffffff\n";
/// assert_eq!(proc::field(status, "CapBnd"), Some(&b"000001ffffffffff"[..]));
/// assert_eq!(proc::field(status, "Cap"), None);
/// ```
pub fn field<'t>(text: &'t [u8], name: &str) -> Option<&'t [u8]> {
    let value = |line: &'t [u8]| line.strip_prefix(name.as_bytes())?.strip_prefix(b":");
    lines(text).find_map(value).map(<[u8]>::trim_ascii)
}

/// Returns the value of a line `NAME:<tab>NUMBER`; see [`field`].
///
/// ```
/// use ns_core::proc;
/// assert_eq!(proc::number::<u32>(b"Name:\tsh\nThreads:\t12\n", "Threads"), Some(12));
/// ```
pub fn number<T: std::str::FromStr>(text: &[u8], name: &str) -> Option<T> {
    decimal(field(text, name)?)
}

/// Returns the value of a line `NAME:<tab>HEX`, a set of capabilities or signals; see [`field`].
/// Bit 0 of a set of signals is signal 1.
///
/// ```
/// use ns_core::proc;
/// assert_eq!(proc::hex(b"SigBlk:\t0000000000004000\n", "SigBlk"), Some(1 << (15 - 1)));
/// ```
pub fn hex(text: &[u8], name: &str) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(field(text, name)?).ok()?, 16).ok()
}

/// Returns the pids of a process from its `/proc/PID/status`: first the pid in the reader's pid
/// namespace, last the pid in its own.
///
/// The kernel writes the `NSpid` line since Linux 4.1, with CONFIG_PID_NS.
///
/// ```
/// let status = b"Name:\tsh\nTgid:\t4242\nNSpid:\t4242\t17\t1\n";
/// assert_eq!(ns_core::proc::nspid(status), Some(vec![4242, 17, 1]));
/// ```
pub fn nspid(status: &[u8]) -> Option<Vec<pid_t>> {
    let pids: Vec<pid_t> = words(field(status, "NSpid")?).map(decimal).collect::<Option<_>>()?;
    (!pids.is_empty()).then_some(pids)
}

/// Fields of `/proc/PID/status` that describe a process. See
/// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Command name (`Name:`), unescaped. At most 15 bytes, except for kernel threads.
    pub name: String,
    /// Letter of `State:`, such as `S`; `Z` is a zombie.
    pub state: u8,
    /// Pid of the parent (`PPid:`), 0 if the parent is outside the reader's pid namespace.
    pub parent: pid_t,
    /// Effective uid, the second number of `Uid:`.
    pub uid: u32,
    /// Pids from the reader's pid namespace to the process's own (`NSpid:`); empty without
    /// CONFIG_PID_NS.
    pub pids: Vec<pid_t>,
}

impl Status {
    /// Parses `/proc/PID/status` in one pass; see
    /// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html).
    ///
    /// Returns `None` if a field other than `NSpid` is missing.
    ///
    /// ```
    /// use ns_core::proc::Status;
    /// let text = b"Name:\tsleep\nState:\tS (sleeping)\nPPid:\t7\nUid:\t0\t0\t0\t0\nNSpid:\t812\t1\n";
    /// let status = Status::parse(text).unwrap();
    /// assert_eq!((status.name.as_str(), status.parent), ("sleep", 7));
    /// assert_eq!(status.pids, [812, 1]);
    /// ```
    pub fn parse(text: &[u8]) -> Option<Status> {
        let (mut name, mut state, mut parent, mut uid) = (None, None, None, None);
        let mut pids = Vec::new();
        for line in lines(text) {
            let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
            let (key, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            match key {
                b"Name" => name = Some(String::from_utf8_lossy(&unescape(value)).into_owned()),
                b"State" => state = value.first().copied(),
                b"PPid" => parent = decimal(value),
                b"Uid" => uid = words(value).nth(1).and_then(decimal),
                b"NSpid" => {
                    pids = words(value).map(decimal).collect::<Option<_>>()?;
                    break; // The lines about memory and signals follow.
                }
                _ => {}
            }
        }
        Some(Status { name: name?, state: state?, parent: parent?, uid: uid?, pids })
    }
}

/// Fields of `/proc/PID/stat` that identify a process and show whether it is alive. See
/// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Letter of the state (field 3); `Z` is a zombie, `X` is dead.
    pub state: u8,
    /// Kernel flags `PF_*` (field 9).
    pub flags: u64,
    /// Time when the process started, in clock ticks after boot (field 22). The reader's time
    /// namespace shifts it (since Linux 5.6).
    pub start: u64,
    /// Pending signals of the main thread (field 31): bit 0 is signal 1.
    pub pending: u64,
}

impl Stat {
    /// Parses `/proc/PID/stat`; see
    /// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
    ///
    /// Returns `None` if the text ends before the start time.
    ///
    /// ```
    /// use ns_core::proc::Stat;
    /// let text = b"12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 10";
    /// let stat = Stat::parse(text).unwrap();
    /// assert_eq!((stat.state, stat.start), (b'S', 4711));
    /// assert!(!stat.has_ended() && !stat.is_ending());
    /// ```
    pub fn parse(text: &[u8]) -> Option<Stat> {
        // The name, in parentheses, may contain spaces and parentheses itself.
        let name_end = text.iter().rposition(|b| *b == b')')?;
        let mut fields = words(&text[name_end + 1..]);
        let state = *fields.next()?.first()?;
        let flags = decimal(fields.nth(5)?)?;
        let start = decimal(fields.nth(12)?)?;
        let pending = fields.nth(8).and_then(decimal).unwrap_or(0);
        Some(Stat { state, flags, start, pending })
    }

    /// Returns whether the process is a zombie or dead.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// Returns whether the process has ended, has begun to exit, or was killed and has not yet
    /// noticed.
    pub fn is_ending(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        const PF_SIGNALED: u64 = 0x400;
        const SIGKILL_PENDING: u64 = 1 << (libc::SIGKILL - 1);
        self.has_ended()
            || self.flags & (PF_EXITING | PF_SIGNALED) != 0
            || self.pending & SIGKILL_PENDING != 0
    }
}

/// Returns the pid from a pidfd's `/proc/PID/fdinfo/FD`: -1 if the process has been reaped, 0 if it
/// is outside the reader's pid namespace. Returns `None` if the descriptor is not a pidfd.
///
/// The kernel writes the `Pid` line since Linux 5.2.
///
/// ```
/// assert_eq!(ns_core::proc::fdinfo_pid(b"pos:\t0\nPid:\t42\nNSpid:\t42\n"), Some(42));
/// ```
pub fn fdinfo_pid(fdinfo: &[u8]) -> Option<pid_t> {
    number(fdinfo, "Pid")
}

/// Returns the cgroup (v2) of a process from its `/proc/PID/cgroup`: the path of the line `0::`, as
/// seen from the reader's cgroup namespace.
///
/// The path begins with `/..` if the cgroup is outside that namespace, and ends with ` (deleted)` if
/// the cgroup was removed. Returns `None` without a v2 hierarchy. See
/// [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
///
/// ```
/// use ns_core::proc;
/// assert_eq!(proc::cgroup(b"4:memory:/a\n0::/pod/web\n"), Some("/pod/web"));
/// assert_eq!(proc::cgroup(b"4:memory:/a\n"), None);
/// ```
pub fn cgroup(text: &[u8]) -> Option<&str> {
    let path = lines(text).find_map(|line| line.strip_prefix(b"0::"))?;
    std::str::from_utf8(path).ok()
}

/// Returns kind and inode number from the target of a link in `/proc/PID/ns`; see
/// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
///
/// ```
/// use ns_core::{Kind, proc};
/// assert_eq!(proc::ns_link(b"net:[4026531840]"), Some((Kind::Net, 4026531840)));
/// assert_eq!(proc::ns_link(b"pipe:[12]"), None);
/// ```
pub fn ns_link(target: &[u8]) -> Option<(Kind, u64)> {
    let colon = target.iter().position(|b| *b == b':')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name().as_bytes() == &target[..colon])?;
    Some((kind, decimal(target[colon + 1..].strip_prefix(b"[")?.strip_suffix(b"]")?)?))
}

/// A line of `/proc/PID/mountinfo`.
///
/// See [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
/// Paths keep the kernel's escapes until [`root`](Self::root) or [`point`](Self::point) decodes
/// them, because most readers want few of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'t> {
    /// Id of the mount.
    pub id: u64,
    /// Id of the mount that this one is mounted on.
    pub parent: u64,
    /// Device of the file system, `st_dev` of its files.
    pub device: u64,
    root: &'t [u8],
    point: &'t [u8],
    /// Options of the mount, separated by commas.
    pub options: &'t [u8],
    /// Type of the file system, such as `ext4`.
    pub fstype: &'t [u8],
    /// Options of the file system, separated by commas.
    pub super_options: &'t [u8],
}

impl<'t> Mount<'t> {
    /// Parses one line. Returns `None` if it has another form.
    ///
    /// ```
    /// use ns_core::proc::Mount;
    /// let line = b"36 35 0:4 net:[4026532281] /run/my\\040net rw shared:7 - nsfs nsfs rw";
    /// let mount = Mount::parse(line).unwrap();
    /// assert_eq!((mount.id, mount.fstype), (36, &b"nsfs"[..]));
    /// assert_eq!(mount.point().to_str(), Some("/run/my net"));
    /// ```
    pub fn parse(line: &'t [u8]) -> Option<Mount<'t>> {
        let mut fields = line.split(|b| *b == b' ');
        let (id, parent) = (decimal(fields.next()?)?, decimal(fields.next()?)?);
        let device = fields.next()?;
        let colon = device.iter().position(|b| *b == b':')?;
        let device = libc::makedev(decimal(&device[..colon])?, decimal(&device[colon + 1..])?);
        let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
        // Any number of tags such as `shared:7` comes before the dash.
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let fstype = fields.next()?;
        let super_options = fields.nth(1).unwrap_or_default();
        Some(Mount { id, parent, device, root, point, options, fstype, super_options })
    }

    /// Returns the directory of the file system that is mounted.
    pub fn root(&self) -> Cow<'t, Path> {
        path(unescape(self.root))
    }

    /// Returns the mount point, relative to the root directory of the process.
    pub fn point(&self) -> Cow<'t, Path> {
        path(unescape(self.point))
    }

    /// Returns whether `option` is one of the mount's options.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(|b| *b == b',').any(|word| word == option.as_bytes())
    }
}

/// Returns the mounts of a `/proc/PID/mountinfo` in the order of the file. A later mount hides an
/// earlier one at the same place. Skips lines of another form. See
/// [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
///
/// ```
/// use ns_core::proc;
/// let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw,nosuid - proc proc rw\n";
/// let types: Vec<_> = proc::mounts(text).map(|mount| mount.fstype).collect();
/// assert_eq!(types, [&b"ext4"[..], b"proc"]);
/// ```
pub fn mounts(mountinfo: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    lines(mountinfo).filter_map(Mount::parse)
}

/// Decodes the escapes that the kernel writes into paths and names: a backslash with three octal
/// digits, `\n`, and `\\`. A backslash before anything else stays.
///
/// ```
/// use ns_core::proc;
/// assert_eq!(*proc::unescape(b"/my\\040net\\134x"), *b"/my net\\x");
/// ```
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match rest {
            [b'\\', b'n', tail @ ..] => (b'\n', tail),
            [b'\\', b'\\', tail @ ..] => (b'\\', tail),
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                (((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'), tail)
            }
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    Cow::Owned(bytes)
}

fn path(bytes: Cow<'_, [u8]>) -> Cow<'_, Path> {
    match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(Path::new(OsStr::from_bytes(bytes))),
        Cow::Owned(bytes) => Cow::Owned(PathBuf::from(std::ffi::OsString::from_vec(bytes))),
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| matches!(b, b' ' | b'\t' | b'\n')).filter(|word| !word.is_empty())
}

/// Parses a number as the kernel writes it: without a plus sign.
fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(digits).ok()?;
    (!text.starts_with('+')).then(|| text.parse().ok())?
}
