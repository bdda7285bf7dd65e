//! The files of /proc that tell where the hierarchies are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// A cgroup mount, v1 or v2, of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which directory of the hierarchy is mounted, as seen from the reader's cgroup namespace:
    /// `/` for its root, `/..` for what lies above.
    pub root: String,
    /// Where, as seen from the reader's root directory.
    pub point: PathBuf,
    /// `true` for `cgroup2`, `false` for v1.
    pub v2: bool,
    /// The controllers and flags of a v1 hierarchy (its super block options).
    pub options: Vec<String>,
}

/// `/proc/self/mountinfo`, the cgroup mounts alone, in its order: of two at the same place the
/// later one is on top. Lines that are malformed are skipped, for one odd mount must not hide
/// the others.
///
/// Source: <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
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

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
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

/// A line of `/proc/cgroups`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subsystem {
    /// Its v1 name: `blkio` where v2 says `io`.
    pub name: String,
    /// The id of the v1 hierarchy it is bound to; 0 for v2 or for none.
    pub hierarchy: u32,
    /// `false` where the kernel was started with `cgroup_disable=`.
    pub enabled: bool,
}

/// `/proc/cgroups`: every controller in the kernel.
///
/// # Errors
/// `InvalidText` for a line of other than four fields.
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

/// `/proc/PID/cgroup`: the cgroup in v2 (the line `0::PATH`), as seen from the reader's cgroup
/// namespace: it begins with `/..` where it lies outside of it. `None` where v2 is not mounted
/// anywhere. A name may hold spaces; a removed cgroup's path ends in ` (deleted)`.
///
/// ```
/// let text = "2:pids:/a\n0::/user.slice/x\n";
/// assert_eq!(cgroup_core::parse::proc_self_cgroup(text), Some("/user.slice/x"));
/// ```
pub fn proc_self_cgroup(text: &str) -> Option<&str> {
    text.split('\n').find_map(|line| line.strip_prefix("0::"))
}
