//! The mounts of the host that the caller sees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ns_core::proc;

/// A mount of the host: a line of `/proc/self/mountinfo`.
///
/// Source: <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostMount {
    /// Mount id.
    pub id: u64,
    /// Id of the parent mount.
    pub parent: u64,
    /// Mount point.
    pub path: PathBuf,
    /// Type of the file system.
    pub fstype: String,
    /// The attributes `nosuid`, `nodev`, `noexec` and `nosymfollow`, as `MOUNT_ATTR_*`.
    pub attributes: u64,
}

impl HostMount {
    /// Parses mountinfo, and returns the mounts in its order. Lines with another format are
    /// ignored.
    pub fn parse(text: &[u8]) -> Vec<HostMount> {
        proc::mounts(text).map(|mount| HostMount::of(&mount)).collect()
    }

    fn of(mount: &proc::Mount<'_>) -> HostMount {
        let attributes = mount.options.split(|byte| *byte == b',').fold(0, |set, word| {
            set | match word {
                b"nosuid" => libc::MOUNT_ATTR_NOSUID,
                b"nodev" => libc::MOUNT_ATTR_NODEV,
                b"noexec" => libc::MOUNT_ATTR_NOEXEC,
                b"nosymfollow" => libc::MOUNT_ATTR_NOSYMFOLLOW,
                _ => 0,
            }
        });
        HostMount {
            id: mount.id,
            parent: mount.parent,
            path: mount.point().into_owned(),
            fstype: String::from_utf8_lossy(mount.fstype).into_owned(),
            attributes,
        }
    }

    /// Returns the mounts that paths lead to, sorted by path. If several mounts share a mount
    /// point, the uppermost is returned. Mounts that a later mount hides are omitted.
    pub(crate) fn visible(all: &[HostMount]) -> Vec<&HostMount> {
        let ids: BTreeSet<u64> = all.iter().map(|mount| mount.id).collect();
        let mut on: BTreeMap<u64, Vec<&HostMount>> = BTreeMap::new();
        for mount in all.iter().filter(|mount| mount.parent != mount.id) {
            on.entry(mount.parent).or_default().push(mount);
        }
        on.values_mut().for_each(|mounts| mounts.sort_by(|a, b| a.path.cmp(&b.path)));
        // This is the caller's root. A mount over it does not hide it from the caller.
        let root =
            all.iter().find(|m| m.path == Path::new("/") && (!ids.contains(&m.parent) || m.parent == m.id));
        let (mut seen, mut next) = (Vec::new(), Vec::from_iter(root));
        while let Some(mut mount) = next.pop() {
            let over = |mount: &HostMount| {
                let over = on.get(&mount.id)?.iter().find(|other| other.path == mount.path);
                over.copied().filter(|_| mount.path != Path::new("/"))
            };
            while let Some(other) = over(mount) {
                mount = other;
            }
            seen.push(mount);
            let mut last: Option<&Path> = None;
            for below in on.get(&mount.id).into_iter().flatten().filter(|below| below.path != mount.path) {
                if last.is_none_or(|last| !below.path.starts_with(last)) {
                    last = Some(&below.path);
                    next.push(below);
                }
            }
        }
        seen.sort_by(|a, b| a.path.cmp(&b.path));
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<(u64, String)> {
        let all = HostMount::parse(text.as_bytes());
        HostMount::visible(&all).into_iter().map(|m| (m.id, m.path.display().to_string())).collect()
    }

    #[test]
    fn a_line_is_read_with_its_escapes_and_optional_fields() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noexec,nosuid master:1 shared:7 - ext3 /dev/root rw";
        let attributes = libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID;
        let mount =
            HostMount { id: 36, parent: 35, path: "/mnt 2\\x".into(), fstype: "ext3".into(), attributes };
        assert_eq!(HostMount::parse(line), [mount]);
        assert_eq!(HostMount::parse(b"\nnonsense\n1 x\n"), []);
    }

    #[test]
    fn a_covered_mount_is_not_visible() {
        let text = "27 1 0:1 / / rw - ext4 a rw\n30 27 0:2 / /a rw - tmpfs a rw\n31 30 0:2 / /a/b rw - tmpfs a rw\n\
            32 30 0:2 / /a rw - tmpfs a rw\n33 32 0:2 / /a/c rw - tmpfs a rw\n34 27 0:2 / /d/e rw - tmpfs a rw\n\
            35 27 0:2 / /d rw - tmpfs a rw\n36 27 0:2 / /d-e rw - tmpfs a rw\n";
        let want = [(27, "/"), (32, "/a"), (33, "/a/c"), (35, "/d"), (36, "/d-e")];
        assert_eq!(paths(text), want.map(|(id, path)| (id, path.to_owned())));
        assert_eq!(paths(""), []);
    }
}
