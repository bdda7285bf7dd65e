//! Compares the entries of an upper directory with another directory.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType as Type, Stat, major, minor};

use super::change::{Change, ChangeKind, Facts, FileType, Part};
use super::marks::Marks;
use super::scan::{Entry, Scan, What};
use super::tree::{Node, Tree, Xattrs};
use crate::error::Error;

/// A difference between an entry and the other directory. `entry` is its index in the scan; `None` if
/// the path does not exist in the upper directory.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) entry: Option<usize>,
    pub(super) change: Change,
}

/// The differences between an upper directory and another directory.
#[derive(Debug)]
pub(super) struct Comparison {
    /// The differences, each directory before its entries.
    pub(super) differences: Vec<Difference>,
    /// For each file with several names in the upper directory: a path at which the other directory has the
    /// same file.
    pub(super) linked: HashMap<(u64, u64), PathBuf>,
}

/// Compares what the container sees with a directory, which is the lower one or a copy of it.
pub(super) fn compare(scan: &Scan, upper: &Tree, other: &Tree, marks: Marks) -> Result<Comparison, Error> {
    let comparer = Comparer { upper, other, marks };
    let mut known = HashMap::new();
    let mut linked = HashMap::new();
    for (id, members) in &scan.links {
        for &member in members {
            let entry = &scan.entries[member];
            let Some(node) = other.node(&entry.path)? else { continue };
            let parts = comparer.parts(entry, &node)?;
            if parts.is_empty() {
                linked.entry(*id).or_insert((entry.path.clone(), node.id()));
            }
            known.insert(member, parts);
        }
    }
    let mut differences = Vec::new();
    for (index, entry) in scan.entries.iter().enumerate() {
        let node = other.node(&entry.path)?;
        let mut parts = match (&node, known.remove(&index)) {
            (Some(_), Some(parts)) => parts,
            (Some(node), None) => comparer.parts(entry, node)?,
            (None, _) => Vec::new(),
        };
        let kind = match &node {
            None if entry.what == What::Whiteout => continue,
            None => ChangeKind::Added,
            Some(_) if entry.what == What::Whiteout => ChangeKind::Deleted,
            Some(node) if parts.is_empty() => match linked.get(&entry.id()) {
                Some((_, id)) if *id != node.id() => {
                    parts.push(Part::HardLink);
                    ChangeKind::Changed
                }
                _ => continue,
            },
            Some(_) => ChangeKind::Changed,
        };
        let after = match kind {
            ChangeKind::Deleted => None,
            _ => Some(comparer.facts_of_entry(entry)?),
        };
        let before = node.map(|node| comparer.facts_of_node(&node)).transpose()?;
        let change = Change { path: Path::new("/").join(&entry.path), kind, parts, before, after };
        differences.push(Difference { entry: Some(index), change });
    }
    for entry in scan.entries.iter().filter(|entry| entry.what == What::Dir { opaque: true }) {
        comparer.hidden(&entry.path, &mut differences)?;
    }
    differences.sort_by(|a, b| a.change.path.cmp(&b.change.path));
    let linked = linked.into_iter().map(|(id, (path, _))| (id, path)).collect();
    Ok(Comparison { differences, linked })
}

/// Returns the parts in which a file differs from an entry of the upper directory, except the content.
pub(super) fn attributes(entry: &Entry, node: &Node, marks: Marks) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    let (new, old) = (&entry.stat, &node.stat);
    let is_link = node.file_type() == Type::Symlink;
    parts.extend((!is_link && (new.st_mode ^ old.st_mode) & 0o7777 != 0).then_some(Part::Mode));
    parts.extend(((new.st_uid, new.st_gid) != (old.st_uid, old.st_gid)).then_some(Part::Owner));
    parts.extend((modified(new) != modified(old)).then_some(Part::Modified));
    parts.extend((entry.xattrs != xattrs(entry, node, marks)?).then_some(Part::Xattrs));
    Ok(parts)
}

/// Returns the extended attributes of a file of the other directory, without those that overlayfs hides.
pub(super) fn xattrs(entry: &Entry, node: &Node, marks: Marks) -> Result<Xattrs, Error> {
    let mut found = node.xattrs()?;
    found.retain(|name, _| !marks.is_own(name) || entry.xattrs.contains_key(name));
    Ok(found)
}

struct Comparer<'a> {
    upper: &'a Tree,
    other: &'a Tree,
    marks: Marks,
}

impl Comparer<'_> {
    /// Returns the parts in which a file of the other directory differs from an entry. Empty for a whiteout.
    fn parts(&self, entry: &Entry, node: &Node) -> Result<Vec<Part>, Error> {
        if entry.what == What::Whiteout {
            return Ok(Vec::new());
        }
        if entry.file_type() != node.file_type() {
            return Ok(vec![Part::Type]);
        }
        let mut parts = attributes(entry, node, self.marks)?;
        if !self.same_content(entry, node)? {
            parts.insert(0, Part::Content);
        }
        Ok(parts)
    }

    fn same_content(&self, entry: &Entry, node: &Node) -> Result<bool, Error> {
        Ok(match entry.file_type() {
            Type::RegularFile if entry.stat.st_size != node.stat.st_size => false,
            Type::RegularFile => {
                let Some(new) = self.upper.node(&entry.path)? else { return Ok(false) };
                let (new, old) = (new.read()?, node.read()?);
                same_bytes(&new, &old).map_err(|e| {
                    let path = self.other.full(&entry.path);
                    Error::path("layer", "compare the content of", &path, &e)
                })?
            }
            Type::Symlink => {
                self.upper.node(&entry.path)?.map(|new| new.target()).transpose()? == Some(node.target()?)
            }
            Type::CharacterDevice | Type::BlockDevice => entry.stat.st_rdev == node.stat.st_rdev,
            _ => true,
        })
    }

    /// Adds what an opaque directory hides of the other one.
    fn hidden(&self, dir: &Path, differences: &mut Vec<Difference>) -> Result<(), Error> {
        if !self.other.node(dir)?.is_some_and(|node| node.is_dir()) {
            return Ok(());
        }
        for name in self.other.names(dir)? {
            let path = dir.join(name);
            // An entry of the upper directory has been compared already.
            if self.upper.node(&path)?.is_some() {
                continue;
            }
            let Some(node) = self.other.node(&path)? else { continue };
            let before = Some(self.facts_of_node(&node)?);
            let path = Path::new("/").join(path);
            let change = Change { path, kind: ChangeKind::Deleted, parts: Vec::new(), before, after: None };
            differences.push(Difference { entry: None, change });
        }
        Ok(())
    }

    fn facts_of_entry(&self, entry: &Entry) -> Result<Facts, Error> {
        let target = match entry.file_type() {
            Type::Symlink => self.upper.node(&entry.path)?.map(|node| node.target()).transpose()?,
            _ => None,
        };
        Ok(facts(&entry.stat, target.map(std::ffi::CString::into_bytes), &entry.xattrs))
    }

    fn facts_of_node(&self, node: &Node) -> Result<Facts, Error> {
        let target = match node.file_type() {
            Type::Symlink => Some(node.target()?.into_bytes()),
            _ => None,
        };
        let mut xattrs = node.xattrs()?;
        xattrs.retain(|name, _| !self.marks.is_own(name));
        Ok(facts(&node.stat, target, &xattrs))
    }
}

fn modified(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, stat.st_mtime_nsec as u32)
}

fn facts(stat: &Stat, target: Option<Vec<u8>>, xattrs: &Xattrs) -> Facts {
    let file_type = match Type::from_raw_mode(stat.st_mode) {
        Type::Directory => FileType::Directory,
        Type::Symlink => FileType::Symlink,
        Type::Fifo => FileType::Fifo,
        Type::Socket => FileType::Socket,
        Type::CharacterDevice => FileType::CharDevice,
        Type::BlockDevice => FileType::BlockDevice,
        _ => FileType::File,
    };
    let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    Facts {
        file_type,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: modified(stat),
        device: is_device.then(|| (major(stat.st_rdev), minor(stat.st_rdev))),
        target: target.map(|bytes| std::ffi::OsString::from_vec(bytes).into()),
        xattrs: xattrs.iter().map(|(name, value)| (text(name.to_bytes()), text(value))).collect(),
    }
}

fn same_bytes(a: &std::fs::File, b: &std::fs::File) -> io::Result<bool> {
    let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
    let mut at = 0;
    loop {
        let [one, two] = &mut buffers;
        let size = a.read_at(one, at)?;
        if size == 0 {
            return Ok(b.read_at(&mut two[..1], at)? == 0);
        }
        match b.read_exact_at(&mut two[..size], at) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if one[..size] != two[..size] {
            return Ok(false);
        }
        at += size as u64;
    }
}
