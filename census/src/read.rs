//! Parsers of what `/proc` says about a process. Pure functions of bytes: anything may be
//! given to them, and what is not understood is `None`, never a panic.

use ns_core::Kind;

/// What [`status`] finds in `/proc/PID/status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The command name (`Name:`), unescaped; at most 15 bytes but for kernel threads.
    pub name: String,
    /// The letter of `State:`, `S`; `Z` is a zombie.
    pub state: u8,
    /// Pid of the parent (`PPid:`), 0 where there is none in this pid namespace.
    pub parent: i32,
    /// Effective uid, the second of `Uid:`.
    pub uid: u32,
    /// `NSpid:`, the pids from the reader's pid namespace inwards to the process's own.
    pub pids: Vec<i32>,
}

/// Reads `/proc/PID/status`; see
/// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html).
/// `None` unless every field of [`Status`] but `NSpid` (which needs CONFIG_PID_NS) is there.
///
/// ```
/// use nspod_census::read::status;
/// let text = b"Name:\tsleep\nState:\tS (sleeping)\nPPid:\t7\nUid:\t0\t0\t0\t0\nNSpid:\t812\t1\n";
/// let status = status(text).unwrap();
/// assert_eq!((status.name.as_str(), status.parent), ("sleep", 7));
/// assert_eq!(status.pids, [812, 1]);
/// ```
pub fn status(text: &[u8]) -> Option<Status> {
    let (mut name, mut state, mut parent, mut uid) = (None, None, None, None);
    let mut pids = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (key, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        match key {
            b"Name" => name = Some(unescape(value)),
            b"State" => state = value.first().copied(),
            b"PPid" => parent = number(value),
            b"Uid" => uid = words(value).nth(1).and_then(number),
            b"NSpid" => {
                pids = words(value).map(number).collect::<Option<_>>()?;
                break; // what follows is memory and signals
            }
            _ => {}
        }
    }
    Some(Status { name: name?, state: state?, parent: parent?, uid: uid?, pids })
}

/// How many threads the process has, from the `Threads:` of the same file, which comes late in it.
///
/// ```
/// use nspod_census::read::threads;
/// assert_eq!(threads(b"Name:\tsleep\nVmRSS:\t  876 kB\nThreads:\t1\n"), Some(1));
/// assert_eq!(threads(b"Name:\tsleep\n"), None);
/// ```
pub fn threads(text: &[u8]) -> Option<u32> {
    let value = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"Threads:"))?;
    number(value.trim_ascii())
}

/// The cgroup (v2) that `/proc/PID/cgroup` names, as the reader's cgroup namespace sees it.
///
/// ```
/// use nspod_census::read::cgroup;
/// assert_eq!(cgroup(b"4:memory:/a\n0::/pod/web\n"), Some("/pod/web"));
/// assert_eq!(cgroup(b"4:memory:/a\n"), None);
/// ```
pub fn cgroup(text: &[u8]) -> Option<&str> {
    let path = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    std::str::from_utf8(path).ok()
}

/// The kind and inode number in the text of an nsfs link, `net:[4026531840]`.
///
/// ```
/// use nspod_census::read::link;
/// assert_eq!(link(b"net:[4026531840]"), Some((ns_core::Kind::Net, 4026531840)));
/// assert_eq!(link(b"pipe:[12]"), None);
/// ```
pub fn link(text: &[u8]) -> Option<(Kind, u64)> {
    let colon = text.iter().position(|b| *b == b':')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name().as_bytes() == &text[..colon])?;
    Some((kind, number(text[colon + 1..].strip_prefix(b"[")?.strip_suffix(b"]")?)?))
}

/// A namespace that is mounted somewhere, from a line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceMount {
    /// Kind of the namespace.
    pub kind: Kind,
    /// Device of nsfs.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// The mount point, below the root directory of the process whose mountinfo it is.
    pub path: String,
}

/// The namespaces that are kept by a bind mount, from `/proc/PID/mountinfo`; see
/// [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
///
/// ```
/// use nspod_census::read::namespace_mounts;
/// let text = b"36 35 0:4 net:[4026532281] /run/my\\040net rw shared:7 - nsfs nsfs rw\n";
/// let mount = namespace_mounts(text).next().unwrap();
/// assert_eq!((mount.ino, mount.path.as_str()), (4026532281, "/run/my net"));
/// ```
pub fn namespace_mounts(text: &[u8]) -> impl Iterator<Item = NamespaceMount> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = words(line).skip(2);
        let (device, root, path) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.skip_while(|field| *field != b"-").nth(1)? != b"nsfs" {
            return None;
        }
        let (kind, ino) = link(root)?;
        let colon = device.iter().position(|b| *b == b':')?;
        let (major, minor) = (number(&device[..colon])?, number(&device[colon + 1..])?);
        Some(NamespaceMount { kind, dev: libc::makedev(major, minor), ino, path: unescape(path) })
    })
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty())
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(digits).ok()?;
    (!text.starts_with('+')).then(|| text.parse().ok())?
}

/// The kernel's escapes: a backslash and three octal digits, `\n`, `\\`. What is not UTF-8
/// is replaced.
fn unescape(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = match rest {
            [b'\\', b'n', tail @ ..] => push(&mut bytes, b'\n', tail),
            [b'\\', b'\\', tail @ ..] => push(&mut bytes, b'\\', tail),
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                push(&mut bytes, ((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'), tail)
            }
            _ => push(&mut bytes, *first, tail),
        };
    }
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn push<'a>(bytes: &mut Vec<u8>, byte: u8, tail: &'a [u8]) -> &'a [u8] {
    bytes.push(byte);
    tail
}
