//! The changes of an overlay, as plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::spec::text;

/// A change: one path of the container that differs from the lower directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Absolute path within the container. JSON has bytes if it is not UTF-8.
    #[serde(with = "text")]
    pub path: PathBuf,
    /// Whether the path was added, changed or deleted.
    pub kind: ChangeKind,
    /// The parts that changed, in this order. Empty if the path was added or deleted.
    pub parts: Vec<Part>,
    /// The file of the lower directory. `None` if the path was added.
    pub before: Option<Facts>,
    /// The file that the container left. `None` if the path was deleted.
    pub after: Option<Facts>,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The path does not exist in the lower directory.
    Added,
    /// The path exists in both.
    Changed,
    /// The path was removed, with everything below it.
    Deleted,
}

/// A part of a file that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// The type of the file. The other parts are not compared.
    Type,
    /// The content of a regular file, the target of a symlink, or the number of a device.
    Content,
    /// The permission bits, with set-user-ID, set-group-ID and sticky bit.
    Mode,
    /// The owner or the group.
    Owner,
    /// The time of the last modification.
    Modified,
    /// An extended attribute.
    Xattrs,
    /// The other names of the file: it became a hard link.
    HardLink,
}

/// The facts about a file that a change can affect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Type of the file.
    #[serde(rename = "type")]
    pub file_type: FileType,
    /// Permission bits, with set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    /// Owner, in the user namespace of the caller.
    pub uid: u32,
    /// Group, in the user namespace of the caller.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last modification in seconds since 1970, and its nanoseconds.
    pub modified: (i64, u32),
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Target of a symlink.
    #[serde(with = "text")]
    pub target: Option<PathBuf>,
    /// Extended attributes that the caller can read, without those of overlayfs. A name or value that
    /// is not UTF-8 is escaped as in a Rust byte string.
    pub xattrs: BTreeMap<String, String>,
}

/// The type of a file; see [inode(7)](https://man7.org/linux/man-pages/man7/inode.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}
