//! Parsers for the files of /proc that list the hierarchies and their mounts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// A mount of cgroup v1 or v2 in `/proc/self/mountinfo`.
/// [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mounted directory of the hierarchy, as seen from the reader's cgroup namespace: `/` for
    /// its root, `/..` for a cgroup above.
    pub root: String,
    /// The mount point, relative to the reader's root directory.
    pub point: PathBuf,
    /// `true` for `cgroup2`, `false` for v1.
    pub v2: bool,
    /// The controllers and flags of a v1 hierarchy (the super block options).
    pub options: Vec<String>,
}

/// Parses the cgroup mounts of `/proc/self/mountinfo`, in the order of the file. If two are at the
/// same place, the later one hides the other. Skips malformed lines, because one unusual mount must
/// not hide the others.
///
/// Since Linux 2.6.26. Source: <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
pub fn mountinfo(text: &str) -> Vec<Mount> {
    text.split('\n').filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    // 31 23 0:28 ROOT POINT OPTIONS [TAGS…] - TYPE SOURCE SUPEROPTIONS
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let v2 = match right.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let options = right.nth(1).unwrap_or("").split(',').map(str::to_owned).collect();
    let mut left = left.split(' ').skip(3);
    let root = String::from_utf8_lossy(&unescape(left.next()?)).into_owned();
    let point = OsString::from_vec(unescape(left.next()?)).into();
    Some(Mount { root, point, v2, options })
}

/// Decodes the octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// A line of `/proc/cgroups`. [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subsystem {
    /// Name in v1, such as `blkio` for `io`.
    pub name: String,
    /// Id of the v1 hierarchy that has the controller; 0 for v2 or none.
    pub hierarchy: u32,
    /// `false` if the kernel was started with `cgroup_disable=`.
    pub enabled: bool,
}

/// Parses `/proc/cgroups`, which lists all controllers of the kernel.
///
/// Since Linux 2.6.24. [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
///
/// ```
/// let all = cgroup_core::parse::proc_cgroups("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t9\t1\n")?;
/// assert_eq!((all[0].name.as_str(), all[0].hierarchy, all[0].enabled), ("cpu", 0, true));
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidText`: a line does not have four fields.
pub fn proc_cgroups(text: &str) -> Result<Vec<Subsystem>> {
    let mut all = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let wrong = || Error::text("/proc/cgroups", line, "a line is NAME HIERARCHY COUNT ENABLED");
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, hierarchy, _, enabled] = words[..] else { return Err(wrong()) };
        let hierarchy = hierarchy.parse().map_err(|_| wrong())?;
        all.push(Subsystem { name: name.to_owned(), hierarchy, enabled: enabled != "0" });
    }
    Ok(all)
}

/// Returns the path of the v2 cgroup in the text of a `/proc/PID/cgroup` (the line `0::PATH`), as
/// seen from the reader's cgroup namespace. The path begins with `/..` if the cgroup is outside of
/// that namespace. It may contain spaces, and ends in ` (deleted)` if the cgroup was removed.
/// Returns `None` if v2 is not mounted anywhere.
///
/// Since Linux 4.5. [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
///
/// ```
/// let text = "2:pids:/a\n0::/user.slice/x\n";
/// assert_eq!(cgroup_core::parse::proc_self_cgroup(text), Some("/user.slice/x"));
/// ```
pub fn proc_self_cgroup(text: &str) -> Option<&str> {
    text.split('\n').find_map(|line| line.strip_prefix("0::"))
}
