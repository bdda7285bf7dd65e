//! A directory, handled by descriptor. Files in it are accessed by name, and no link is followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::geteuid;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom, fstat, mkdirat, openat, openat2,
    readlinkat, renameat, renameat_with, seek, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::hint::{Alternative, explained, failed, or};
use super::lock::Lock;
use crate::error::{Error, ErrorKind};

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory, handled by descriptor. Files in it are accessed by name, and no link is followed.
///
/// A clone shares the descriptor.
#[derive(Debug, Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    alternative: Alternative,
}

impl Dir {
    /// Opens a directory that belongs to the caller and that no other user can enter. Creates it
    /// with mode 700 if it is missing; its parent directory must exist.
    ///
    /// `alternative` completes the hint of an error, see [`Alternative`].
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`]: another user owns the directory or can enter it; `EACCES`, `EROFS`,
    /// `ENOSPC`, `ENOENT` from mkdir(2) or open(2); `ENOTDIR` also if the path is a symbolic link.
    pub fn private(path: &Path, alternative: Alternative) -> Result<Dir, Error> {
        let dir = Dir::open_or(path, alternative, || match mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e),
        })?;
        dir.check_private()?;
        Ok(dir)
    }

    /// Opens a directory of any owner. Creates it and its parent directories with mode 700 if they
    /// are missing.
    /// See [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    ///
    /// # Errors
    /// The same as [`private`](Self::private), except that the owner and the mode are not checked.
    pub fn shared(path: &Path, alternative: Alternative) -> Result<Dir, Error> {
        Dir::open_or(path, alternative, || {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|e| Errno::from_raw_os_error(e.raw_os_error().unwrap_or(0)))
        })
    }

    /// Opens a directory; `make` creates it if it is missing.
    fn open_or(
        path: &Path,
        alternative: Alternative,
        make: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<Dir, Error> {
        let opened = match openat(CWD, path, DIR, Mode::empty()) {
            Err(Errno::NOENT) => {
                make().map_err(|e| explained("make the state directory", "mkdir", path, e, alternative))?;
                openat(CWD, path, DIR, Mode::empty())
            }
            other => other,
        };
        let fd = opened.map_err(|e| explained("open the state directory", "open", path, e, alternative))?;
        Ok(Dir { fd: fd.into(), path: path.into(), alternative })
    }

    /// Checks that the directory belongs to the caller and that no other user can enter it.
    /// See [stat(2)](https://man7.org/linux/man-pages/man2/stat.2.html).
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`]: another user owns the directory or can enter it.
    pub fn check_private(&self) -> Result<(), Error> {
        let stat = fstat(&self.fd).map_err(|e| failed("inspect", &self.path, "fstat", e))?;
        let (uid, mode) = (geteuid().as_raw(), stat.st_mode & 0o777);
        if stat.st_uid == uid && mode & 0o077 == 0 {
            return Ok(());
        }
        let path = self.path.display();
        let owner = stat.st_uid;
        let error = Error::new(
            ErrorKind::PermissionDenied,
            "store",
            format!(
                "the state directory {path} has owner {owner} and mode {mode:o} instead of owner {uid} and mode 700"
            ),
        );
        Err(error.on(path.to_string()).with_hint(Some(or("remove it", self.alternative))))
    }

    /// Returns the path under which the directory was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file in the directory.
    pub fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// Opens a subdirectory. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// The errno of openat(2); `ENOTDIR` also if it is a symbolic link.
    pub fn sub(&self, name: &str) -> Result<Option<Dir>, Error> {
        match openat(&self.fd, component(name)?, DIR, Mode::empty()) {
            Ok(fd) => Ok(Some(Dir { fd: fd.into(), path: self.at(name), alternative: self.alternative })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(explained("open", "openat", &self.at(name), e, self.alternative)),
        }
    }

    /// Opens a subdirectory. Creates it with mode 700 if it is missing.
    ///
    /// # Errors
    /// The errors of [`sub`](Self::sub), and the errno of mkdirat(2).
    pub fn make_sub(&self, name: &str) -> Result<Dir, Error> {
        if let Some(dir) = self.sub(name)? {
            return Ok(dir);
        }
        self.mkdir(name)?;
        self.sub(name)?.ok_or_else(|| failed("open", &self.at(name), "openat", Errno::NOENT))
    }

    /// Creates a subdirectory. Returns `false` if the name exists.
    fn mkdir(&self, name: &str) -> Result<bool, Error> {
        match mkdirat(&self.fd, component(name)?, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(explained("make", "mkdirat", &self.at(name), e, self.alternative)),
        }
    }

    /// Creates a subdirectory and locks it. Returns `None` if the name exists.
    ///
    /// Between mkdir and the lock another process may remove the directory and create its own.
    /// Therefore the locked directory must still have the name, and must be empty: a process that
    /// creates one writes a file into it before it releases the lock.
    pub(super) fn claim(&self, name: &str) -> Result<Option<(Dir, Lock)>, Error> {
        while self.mkdir(name)? {
            match self.lock_new(name) {
                Ok(None) => {}
                Ok(Some((dir, lock, empty))) => return Ok(empty.then_some((dir, lock))),
                Err(e) => {
                    // rmdir fails if another process has created a file in the directory. If the
                    // directory belongs to another process and is still empty, that process creates
                    // a new one.
                    let _ = unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
                    return Err(e);
                }
            }
        }
        Ok(None)
    }

    fn lock_new(&self, name: &str) -> Result<Option<(Dir, Lock, bool)>, Error> {
        let Some(dir) = self.sub(name)? else { return Ok(None) };
        let Some(lock) = dir.lock(true)? else { return Ok(None) };
        if !dir.is_at(self, name)? {
            return Ok(None);
        }
        let empty = dir.remaining_names()?.is_empty();
        Ok(Some((dir, lock, empty)))
    }

    /// Returns the names in the directory, sorted. Names that are not UTF-8 are omitted.
    ///
    /// # Errors
    /// The errno of getdents64(2).
    pub fn names(&self) -> Result<Vec<String>, Error> {
        seek(&self.fd, SeekFrom::Start(0)).map_err(|e| failed("list", &self.path, "lseek", e))?;
        let mut names = self.remaining_names()?;
        names.sort();
        Ok(names)
    }

    /// Returns the names from the descriptor's position to the end. Opens no other descriptor, so
    /// that a directory can be emptied if the process has no free descriptors.
    fn remaining_names(&self) -> Result<Vec<String>, Error> {
        let mut space = vec![MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(&self.fd, &mut space);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| failed("list", &self.path, "getdents64", e))?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// Opens a file in the directory for reading. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// The errno of openat(2); `ELOOP` if it is a symbolic link.
    pub fn open(&self, name: &str) -> Result<Option<File>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, component(name)?, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(failed("open", &self.at(name), "openat", e)),
        }
    }

    /// Reads a file in the directory. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open), and the errno of read(2). The text is not UTF-8.
    pub fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let bytes = read_small(file).map_err(|e| io(&e, "read", &self.at(name), "read"))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let path = self.at(name).display().to_string();
            let what = format!("cannot read {path}: {e}");
            Error::new(ErrorKind::InvalidInput, "store", what).on(path).with_source(e)
        });
        text.map(Some)
    }

    /// Opens a file in the directory for reading and appending. Creates it with mode 600 if it is
    /// missing.
    /// See [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub fn create(&self, name: &str) -> Result<File, Error> {
        self.create_with(name, OFlags::APPEND)
    }

    /// Opens a file in the directory for writing. Creates it with mode 600 if it is missing, and empties it.
    pub(crate) fn create_empty(&self, name: &str) -> Result<File, Error> {
        self.create_with(name, OFlags::TRUNC)
    }

    fn create_with(&self, name: &str, more: OFlags) -> Result<File, Error> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let fd = openat(&self.fd, component(name)?, flags, Mode::RUSR | Mode::WUSR);
        fd.map(File::from).map_err(|e| failed("make", &self.at(name), "openat", e))
    }

    /// Makes a symbolic link in the directory, or replaces it.
    ///
    /// # Errors
    /// The errno of symlinkat(2) or unlinkat(2).
    pub fn link(&self, name: &str, target: &Path) -> Result<(), Error> {
        let made = match symlinkat(target, &self.fd, component(name)?) {
            Err(Errno::EXIST) => {
                unlinkat(&self.fd, name, AtFlags::empty()).and_then(|()| symlinkat(target, &self.fd, name))
            }
            other => other,
        };
        made.map_err(|e| failed("make", &self.at(name), "symlinkat", e))
    }

    /// Returns the target of a symbolic link in the directory. Returns `None` if there is no such link.
    ///
    /// # Errors
    /// The errno of readlinkat(2).
    pub fn read_link(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        match readlinkat(&self.fd, component(name)?, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
            // Another file has the name.
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(e) => Err(failed("read", &self.at(name), "readlinkat", e)),
        }
    }

    /// Replaces a file in the directory atomically: a reader sees either the old text or the new
    /// text.
    ///
    /// # Errors
    /// The errno of openat(2), write(2) or rename(2).
    pub fn replace(&self, name: &str, text: &[u8]) -> Result<(), Error> {
        let fresh = format!(".{name}.{}", std::process::id());
        let mut file = self.create_with(&fresh, OFlags::TRUNC)?;
        file.write_all(text).map_err(|e| io(&e, "write", &self.at(&fresh), "write"))?;
        // A rename over an existing file makes ext4 write the new file to the disk first. An
        // exchange does not, and the store need not survive a crash of the machine.
        match renameat_with(&self.fd, &*fresh, &self.fd, name, RenameFlags::EXCHANGE) {
            Ok(()) => unlinkat(&self.fd, &*fresh, AtFlags::empty()),
            Err(_) => renameat(&self.fd, &*fresh, &self.fd, name),
        }
        .map_err(|e| failed("replace", &self.at(name), "rename", e))
    }

    /// Renames a subdirectory, which `dir` is. Returns `None` if the new name exists.
    pub(super) fn rename(&self, dir: &Dir, from: &str, to: &str) -> Result<Option<Dir>, Error> {
        match renameat_with(&self.fd, component(from)?, &self.fd, component(to)?, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Some(Dir { path: self.at(to), ..dir.clone() })),
            Err(Errno::EXIST) => Ok(None),
            Err(e) => Err(failed("rename", &self.at(from), "renameat2", e)),
        }
    }

    /// Returns whether the directory has been removed since it was opened.
    pub(super) fn is_removed(&self) -> Result<bool, Error> {
        let now = fstat(&self.fd).map_err(|e| failed("inspect", &self.path, "fstat", e))?;
        Ok(now.st_nlink == 0)
    }

    /// Removes this directory, which has the name `name` in `parent`, and the files in it. Does
    /// nothing if it does not exist.
    ///
    /// `files` are the files that the directory usually contains. The directory is listed only if
    /// it contains others.
    pub(super) fn remove_from(&self, parent: &Dir, name: &str, files: &[&str]) -> Result<(), Error> {
        for file in files {
            match unlinkat(&self.fd, *file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                Err(e) => return Err(failed("remove", &self.at(file), "unlinkat", e)),
            }
        }
        match unlinkat(&parent.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Another process may use the name now.
            Err(_) if !self.is_at(parent, name)? => Ok(()),
            Err(_) => self.clear().and_then(|()| parent.remove_empty(name)),
        }
    }

    /// Removes a subdirectory. Fails with `EXDEV` if something is mounted on it, because the files in it are
    /// not of this directory.
    fn remove_sub(&self, name: &str) -> Result<(), Error> {
        let fd = match openat2(&self.fd, component(name)?, DIR, Mode::empty(), ResolveFlags::NO_XDEV) {
            Ok(fd) => fd.into(),
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(failed("remove", &self.at(name), "openat2", e)),
        };
        Dir { fd, path: self.at(name), alternative: self.alternative }.clear()?;
        self.remove_empty(name)
    }

    fn remove_empty(&self, name: &str) -> Result<(), Error> {
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(failed("remove", &self.at(name), "rmdir", e)),
        }
    }

    fn clear(&self) -> Result<(), Error> {
        for file in self.names()? {
            match unlinkat(&self.fd, &*file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => self.remove_sub(&file)?,
                Err(e) => return Err(failed("remove", &self.at(&file), "unlinkat", e)),
            }
        }
        Ok(())
    }

    /// Locks the directory. Returns `None` if another process holds the lock and `wait` is false.
    pub(super) fn lock(&self, wait: bool) -> Result<Option<Lock>, Error> {
        Lock::take(self.open_file(), wait).map_err(|e| failed("lock", &self.path, "flock", e))
    }

    /// Returns the open directory, for a [`Lock`] on it.
    pub(crate) fn open_file(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// Returns whether the lock is one of this directory.
    pub(super) fn is_locked_by(&self, lock: &Lock) -> bool {
        lock.is_of(&self.fd)
    }

    /// Returns whether the name in `parent` still leads to this directory.
    pub(super) fn is_at(&self, parent: &Dir, name: &str) -> Result<bool, Error> {
        let own = fstat(&self.fd).map_err(|e| failed("inspect", &self.path, "fstat", e))?;
        match statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(failed("inspect", &self.path, "fstatat", e)),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a whole file, which is usually smaller than 8 KiB.
///
/// [`std::fs::read`] first queries size and position. If a file reports no size, as in procfs, it
/// reads the file in small pieces.
///
/// # Errors
/// The errors of read(2).
pub fn read_small(file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(8192);
    file.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Maximum size in bytes of a file that [`read_bounded`] reads.
const MOST: u64 = 16 << 20;

/// Reads a whole file that the caller does not control, for example a file of a bundle. It may be endless
/// like `/dev/zero`, or a sparse file that is larger than the memory.
///
/// # Errors
/// The errors of read(2). [`std::io::ErrorKind::InvalidInput`]: the file has more than 16 MiB.
pub fn read_bounded(file: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(8192);
    let length = file.take(MOST + 1).read_to_end(&mut bytes)?;
    if length as u64 > MOST {
        let problem = format!("it has more than the maximum of {MOST} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, problem));
    }
    Ok(bytes)
}

/// Checks that a name is a single path component, so that it cannot lead out of the directory.
fn component(name: &str) -> Result<&str, Error> {
    match name {
        "" | "." | ".." => {}
        _ if name.contains('/') => {}
        _ => return Ok(name),
    }
    let what = format!("{name:?} is not the name of a file in a directory");
    Err(Error::new(ErrorKind::InvalidInput, "store", what).on(name))
}

fn io(e: &std::io::Error, what: &str, path: &Path, call: &'static str) -> Error {
    failed(what, path, call, Errno::from_raw_os_error(e.raw_os_error().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn temp() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = private(&temp.path().join("state")).unwrap();
        (temp, dir)
    }

    fn private(path: &Path) -> Result<Dir, Error> {
        Dir::private(path, || None)
    }

    #[test]
    fn a_state_directory_that_others_can_enter_is_refused() {
        let (_temp, dir) = temp();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Dir::private(dir.path(), || Some("choose another")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let (error, uid) = (error.to_string(), geteuid().as_raw());
        let want = format!("and mode 755 instead of owner {uid} and mode 700; remove it, or choose another");
        assert!(error.ends_with(&want), "{error}");
    }

    #[test]
    fn a_link_is_not_followed() {
        let (temp, dir) = temp();
        std::os::unix::fs::symlink(dir.path(), temp.path().join("link")).unwrap();
        let error = private(&temp.path().join("link")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
        std::os::unix::fs::symlink(temp.path(), dir.at("web")).unwrap();
        assert_eq!(dir.sub("web").unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
        std::os::unix::fs::symlink("/etc/passwd", dir.at("file")).unwrap();
        assert_eq!(dir.open("file").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(dir.create("file").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let (_temp, dir) = temp();
        for name in ["", ".", "..", "../x", "a/b", "/etc"] {
            let said =
                [dir.sub(name).unwrap_err(), dir.read(name).unwrap_err(), dir.create(name).unwrap_err()];
            assert!(said.iter().all(|e| e.to_string().contains("is not the name of a file")), "{said:?}");
        }
    }

    #[test]
    fn removing_a_directory_removes_links_and_not_their_targets() {
        let (temp, dir) = temp();
        std::fs::write(temp.path().join("kept"), "").unwrap();
        let sub = dir.make_sub("web").unwrap();
        sub.replace("a", b"1").unwrap();
        sub.make_sub("ns").unwrap().replace("net", b"").unwrap();
        std::os::unix::fs::symlink(temp.path(), sub.at("link")).unwrap();
        dir.remove_sub("web").unwrap();
        assert!(temp.path().join("kept").exists() && !dir.at("web").exists());
    }

    #[test]
    fn known_files_are_removed_and_so_are_others() {
        let (_temp, dir) = temp();
        for more in [&[][..], &["b", "c"]] {
            let sub = dir.make_sub("web").unwrap();
            ["a"].iter().chain(more).for_each(|name| sub.replace(name, b"1").unwrap());
            sub.remove_from(&dir, "web", &["missing", "a"]).unwrap();
            assert!(!dir.at("web").exists(), "{more:?}");
            sub.remove_from(&dir, "web", &["a"]).unwrap();
        }
    }

    #[test]
    fn a_name_is_claimed_once() {
        let (_temp, dir) = temp();
        let first = dir.claim("web").unwrap();
        assert!(first.is_some() && dir.claim("web").unwrap().is_none());
        assert!(dir.at("web").is_dir());
    }

    #[test]
    fn a_link_is_read_and_replaced() {
        let (_temp, dir) = temp();
        assert_eq!(dir.read_link("log").unwrap(), None);
        for target in ["/a", "/b"] {
            dir.link("log", Path::new(target)).unwrap();
            assert_eq!(dir.read_link("log").unwrap().as_deref(), Some(Path::new(target)));
        }
        dir.replace("file", b"").unwrap();
        assert_eq!(dir.read_link("file").unwrap(), None);
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let (_temp, dir) = temp();
        let again = private(dir.path()).unwrap();
        let lock = dir.lock(false).unwrap().unwrap();
        assert!(again.lock(false).unwrap().is_none());
        drop(lock);
        assert!(again.lock(false).unwrap().is_some());
    }

    #[test]
    fn a_replaced_file_is_whole() {
        let (_temp, dir) = temp();
        dir.replace("state.json", b"long text").unwrap();
        dir.replace("state.json", b"short").unwrap();
        assert_eq!(dir.read("state.json").unwrap().as_deref(), Some("short"));
        assert_eq!(dir.names().unwrap(), ["state.json"]);
    }
}
