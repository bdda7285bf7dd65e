//! Mount points and links that the host's files lack.
//!
//! A root with the host's files is read-only, so nothing can be made in it. Its overlays show the missing
//! entries from a layer above the host's directory: a tmpfs with these entries and the directories that
//! contain them. Nothing is made on the host.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::spec::{Mount, MountKind, Spec};

/// Destinations of the usual mounts. Every host has them.
const USUAL: [&str; 5] = ["/proc", "/dev", "/sys", "/tmp", "/run"];

/// An entry of the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A directory that exists on the host.
    Existing,
    /// An empty directory.
    Directory,
    /// An empty file.
    File,
    /// A symbolic link to a target.
    Link(PathBuf),
}

/// A mount point or a link that the host's files lack.
#[derive(Debug)]
pub(super) struct Missing {
    /// Path in the spec.
    pub(super) destination: PathBuf,
    /// The deepest directory of the host on the path, without links.
    pub(super) within: PathBuf,
    /// Rest of the path.
    rest: PathBuf,
    entry: Entry,
}

impl Missing {
    /// Adds the entries for this path, and the directories above it, to those of a layer.
    pub(super) fn add_to(self, layer: &mut BTreeMap<PathBuf, Entry>) {
        for directory in self.within.ancestors() {
            layer.entry(directory.into()).or_insert(Entry::Existing);
        }
        let mut path = self.within;
        let count = self.rest.components().count();
        for (part, number) in self.rest.components().zip(1..) {
            path.push(part);
            let entry = if number == count { self.entry.clone() } else { Entry::Directory };
            layer.entry(path.clone()).or_insert(entry);
        }
    }

    /// Returns whether a directory above the path has an access control list, which the layer would not
    /// have.
    pub(super) fn is_below_acl(&self) -> bool {
        let has = |path: &Path| {
            rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0u8; 0])
                .is_ok_and(|length| length > 0)
        };
        self.within.ancestors().any(has)
    }
}

/// Returns the mount points and links of the spec that the host's files lack. Those in a mount of the
/// container are not the host's.
pub(super) fn missing(spec: &Spec) -> Vec<Missing> {
    let mut missing = Vec::new();
    let inside = |path: &Path| {
        let holds = |other: &Mount| other.destination != Path::new("/") && other.destination != path;
        spec.mounts.iter().any(|other| holds(other) && path.starts_with(&other.destination))
    };
    for mount in spec.mounts.iter().filter(|mount| mount.kind != MountKind::Remount) {
        let destination = &mount.destination;
        if USUAL.iter().any(|usual| destination == Path::new(usual)) || inside(destination) {
            continue;
        }
        let Some((within, rest)) = find(destination) else { continue };
        let entry = match &mount.kind {
            MountKind::Bind { source, .. } if source.metadata().is_ok_and(|found| !found.is_dir()) => {
                Entry::File
            }
            _ => Entry::Directory,
        };
        missing.push(Missing { destination: destination.clone(), within, rest, entry });
    }
    for link in spec.links.iter().filter(|link| !inside(&link.path)) {
        if let Some((within, rest)) = find(&link.path) {
            let entry = Entry::Link(link.target.clone());
            missing.push(Missing { destination: link.path.clone(), within, rest, entry });
        }
    }
    missing
}

/// Returns the deepest directory on a path that exists, without links, and the rest of the path. Returns
/// `None` if the path exists, or if nothing can be made there.
fn find(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let absent = |e: &std::io::Error| e.kind() == ErrorKind::NotFound;
    if path.components().any(|part| part == Component::ParentDir)
        || !fs::metadata(path).is_err_and(|e| absent(&e))
    {
        return None;
    }
    for within in path.ancestors().skip(1) {
        match fs::canonicalize(within) {
            Ok(real) => {
                let rest: PathBuf = path.strip_prefix(within).ok()?.components().collect();
                // A link whose target is missing must stay visible.
                let first = real.join(rest.components().next()?);
                let free = real.is_dir() && fs::symlink_metadata(first).is_err_and(|e| absent(&e));
                return free.then_some((real, rest));
            }
            Err(e) if absent(&e) => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Link;

    #[test]
    fn only_what_the_host_lacks_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("there")).unwrap();
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("there", at("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        let mut spec = Spec::new("true");
        spec.mounts.retain(|mount| mount.destination != Path::new("/tmp"));
        for name in ["file", "file/x", "dangling/x", "a/../b", "there", "link/new/deep"] {
            spec.mounts.push(Mount::bind("/usr", at(name)));
        }
        spec.mounts.push(Mount::bind("/etc/passwd", at("new")));
        // Inside another mount of the list.
        spec.mounts.push(Mount::bind("/usr", at("there/x")));
        spec.mounts.push(Mount::bind("/usr", at("new/x")));
        spec.links.push(Link { path: at("to/usr"), target: "/usr".into() });
        let found: Vec<_> = missing(&spec).into_iter().map(|m| (m.within, m.rest, m.entry)).collect();
        let want = [
            (real.join("there"), "new/deep", Entry::Directory),
            (real.clone(), "new", Entry::File),
            (real, "to/usr", Entry::Link("/usr".into())),
        ];
        assert_eq!(found, want.map(|(within, rest, entry)| (within, rest.into(), entry)));
    }

    #[test]
    fn the_layer_has_the_directories_above_a_path() {
        let mut layer = BTreeMap::new();
        for (rest, entry) in [("x/y", Entry::File), ("x/z", Entry::Link("t".into()))] {
            let (destination, within) = ("/a/b".into(), "/a/b".into());
            Missing { destination, within, rest: rest.into(), entry }.add_to(&mut layer);
        }
        let want = [
            ("/", Entry::Existing),
            ("/a", Entry::Existing),
            ("/a/b", Entry::Existing),
            ("/a/b/x", Entry::Directory),
            ("/a/b/x/y", Entry::File),
            ("/a/b/x/z", Entry::Link("t".into())),
        ];
        assert_eq!(layer.into_iter().collect::<Vec<_>>(), want.map(|(path, entry)| (path.into(), entry)));
    }
}
