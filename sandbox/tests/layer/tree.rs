//! A directory tree as data, to compare two of them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nspod_sandbox::layer::ChangeKind;

/// The properties of one file that a commit must keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    device: u64,
    /// Content, or target of a symlink.
    content: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

/// All files of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    files: BTreeMap<PathBuf, File>,
    /// The paths of each file that has several.
    links: Vec<Vec<PathBuf>>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Tree {
        let mut files = BTreeMap::new();
        let mut inodes: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            let full = root.join(&path);
            let meta = full.symlink_metadata().unwrap();
            let content = match meta.file_type() {
                t if t.is_file() => std::fs::read(&full).unwrap(),
                t if t.is_symlink() => full.read_link().unwrap().into_os_string().into_encoded_bytes(),
                _ => Vec::new(),
            };
            if meta.is_dir() {
                todo.extend(
                    std::fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())),
                );
            } else {
                inodes.entry(meta.ino()).or_default().push(path.clone());
            }
            let file = File {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                modified: (meta.mtime(), meta.mtime_nsec()),
                device: meta.rdev(),
                content,
                xattrs: xattrs(&full),
            };
            files.insert(path, file);
        }
        let mut links: Vec<Vec<PathBuf>> = inodes.into_values().filter(|paths| paths.len() > 1).collect();
        links.iter_mut().for_each(|paths| paths.sort());
        links.sort();
        Tree { files, links }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 4096];
    let Ok(size) = rustix::fs::llistxattr(path, &mut list[..]) else { return BTreeMap::new() };
    let names = list[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let size = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(size);
            (String::from_utf8(name.into()).unwrap(), value)
        })
        .collect()
}

/// Returns the paths that differ, without their hard links. A deleted directory stands for its content.
pub(crate) fn differences(before: &Tree, after: &Tree) -> Vec<(ChangeKind, PathBuf)> {
    let mut found = Vec::new();
    for (path, file) in &after.files {
        match before.files.get(path) {
            None => found.push((ChangeKind::Added, path.clone())),
            Some(old) if old != file => found.push((ChangeKind::Changed, path.clone())),
            Some(_) => {}
        }
    }
    let is_dir =
        |path: &Path| after.files.get(path).is_some_and(|file| file.mode & libc::S_IFMT == libc::S_IFDIR);
    for path in before.files.keys() {
        if !after.files.contains_key(path) && path.parent().is_some_and(is_dir) {
            found.push((ChangeKind::Deleted, path.clone()));
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found
}
