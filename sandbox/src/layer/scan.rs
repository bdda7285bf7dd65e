//! Reads the upper directory of an overlay: files, directories, and the marks of overlayfs.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use super::marks::Marks;
use super::tree::{Node, Tree, Xattrs};
use crate::error::{Error, ErrorKind};

/// An entry of the upper directory.
#[derive(Debug)]
pub(super) struct Entry {
    /// Path from the root. It is empty for the root itself.
    pub(super) path: PathBuf,
    pub(super) what: What,
    pub(super) stat: Stat,
    /// Extended attributes as the container sees them.
    pub(super) xattrs: Xattrs,
}

/// How an entry of the upper directory changes the lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The entry of the lower directory is removed.
    Whiteout,
    Dir {
        /// Whether it replaces the directory of the lower one. Otherwise it is merged with it.
        opaque: bool,
    },
    File,
}

/// All entries of an upper directory, each directory before its entries.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) entries: Vec<Entry>,
    /// Indexes of the entries that are hard links of one file, by device and inode number.
    pub(super) links: HashMap<(u64, u64), Vec<usize>>,
}

impl Entry {
    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.what, What::Dir { .. })
    }

    /// Returns device and inode number.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }
}

/// Reads an upper directory.
pub(super) fn scan(upper: &Tree, marks: Marks) -> Result<Scan, Error> {
    let mut entries = Vec::new();
    let mut links: HashMap<_, Vec<usize>> = HashMap::new();
    // Paths, whether the directory above is opaque, and whether it contains marked whiteouts.
    let mut todo = vec![(PathBuf::new(), false, false)];
    while let Some((path, opaque_above, marked_whiteouts)) = todo.pop() {
        // Another program has removed it.
        let Some(node) = upper.node(&path)? else { continue };
        let own = Own::of(&node, marks)?;
        own.check(upper, &path)?;
        let whiteout = is_device_0(&node) || marked_whiteouts && own.is_whiteout(&node);
        // Nothing of the lower directory is visible anywhere below an opaque directory.
        let opaque = opaque_above || own.opaque == Some(b'y');
        let what = match node.is_dir() {
            true => What::Dir { opaque },
            false if whiteout => What::Whiteout,
            false => What::File,
        };
        if node.is_dir() {
            let names = upper.names(&path)?;
            let below = |name| (path.join(name), opaque, own.opaque == Some(b'x'));
            todo.extend(names.into_iter().rev().map(below));
        } else if what == What::File && node.stat.st_nlink > 1 {
            links.entry(node.id()).or_default().push(entries.len());
        }
        entries.push(Entry { path, what, stat: node.stat, xattrs: own.others });
    }
    links.retain(|_, all| all.len() > 1);
    Ok(Scan { entries, links })
}

fn is_device_0(node: &Node) -> bool {
    node.file_type() == FileType::CharacterDevice && node.stat.st_rdev == 0
}

/// The extended attributes of overlayfs itself, apart from the others.
struct Own {
    opaque: Option<u8>,
    whiteout: bool,
    /// Name of an attribute with which the content of the entry is elsewhere.
    elsewhere: Option<&'static str>,
    others: Xattrs,
}

impl Own {
    fn of(node: &Node, marks: Marks) -> Result<Own, Error> {
        let mut own = Own { opaque: None, whiteout: false, elsewhere: None, others: Xattrs::new() };
        for (name, value) in node.xattrs()? {
            let Some(mark) = name.to_bytes().strip_prefix(marks.prefix().as_bytes()) else {
                own.others.insert(name, value);
                continue;
            };
            match mark {
                b"opaque" => own.opaque = value.first().copied(),
                b"whiteout" => own.whiteout = true,
                b"redirect" => own.elsewhere = Some("redirect"),
                b"metacopy" => own.elsewhere = Some("metacopy"),
                mark => {
                    // An attribute of an overlay within the container, which Linux 6.7 escapes.
                    if mark.starts_with(b"overlay.") {
                        let prefix = marks.prefix().trim_end_matches("overlay.");
                        let name = [prefix.as_bytes(), mark].concat();
                        own.others.insert(CString::new(name).unwrap_or_default(), value);
                    }
                }
            }
        }
        Ok(own)
    }

    fn is_whiteout(&self, node: &Node) -> bool {
        self.whiteout && node.file_type() == FileType::RegularFile && node.stat.st_size == 0
    }

    /// Rejects an entry whose content is not in the upper directory.
    fn check(&self, upper: &Tree, path: &Path) -> Result<(), Error> {
        let Some(mark) = self.elsewhere else { return Ok(()) };
        let path = upper.full(path).display().to_string();
        let sentence = format!(
            "cannot read the changes: {path} refers to a file of the lower directory (overlay.{mark}), which nspod \
             does not support; mount the overlay with redirect_dir=off and metacopy=off"
        );
        Err(Error::new(ErrorKind::Unsupported, "layer", sentence).on(path))
    }
}
