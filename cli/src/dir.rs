//! A directory held by descriptor: everything in it by name, no link followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, openat, renameat, renameat2};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use nspod_sandbox::Host;
use rustix::fs::{FlockOperation, RawDir, SeekFrom, flock, seek};

use crate::error::{Error, Result};

const DIR: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const PRIVATE: Mode = Mode::S_IRWXU;

/// `$XDG_RUNTIME_DIR` of an ordinary user; also of one who is root in a user namespace, which an
/// engine calls by the user's name, as runc has it.
pub fn of_user() -> Option<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute())?;
    is_users().then_some(dir)
}

fn is_users() -> bool {
    let another = || std::env::var_os("USER").is_none_or(|name| name != "root");
    !geteuid().is_root() || Host::is_nested() && another()
}

/// What to do instead of, or after, something else.
fn or(cure: &str, elsewhere: Elsewhere) -> String {
    elsewhere().map_or_else(|| cure.to_owned(), |elsewhere| format!("{cure}, or {elsewhere}"))
}

/// A failure to get at a state directory, with what is in the way and the cure.
fn explained(what: &str, path: &Path, errno: Errno, elsewhere: Elsewhere) -> Error {
    let error = Error::path(what, path, errno);
    // As far as anything is there.
    let there = path.ancestors().find_map(|part| Some((part, part.symlink_metadata().ok()?)));
    let Some((part, there)) = there else { return error };
    let name = part.display();
    match errno {
        Errno::EACCES => {
            let (mode, uid) = (there.mode() & 0o7777, geteuid());
            let cure = or(&format!("be uid {}", there.uid()), elsewhere);
            error.hint(format_args!(
                "{name} belongs to uid {} with mode {mode:o}, and this is uid {uid}: {cure}",
                there.uid()
            ))
        }
        Errno::ENOTDIR if there.is_symlink() && part == path => {
            let cure = or("remove it", elsewhere);
            error.hint(format_args!("{name} is a link, which is not followed: {cure}"))
        }
        Errno::ENOTDIR => error.hint(format_args!("{name} is no directory: {}", or("remove it", elsewhere))),
        Errno::EROFS => {
            let cure = or("mount one there that is not", elsewhere);
            error.hint(format_args!("the file system of {name} is read-only: {cure}"))
        }
        _ => error,
    }
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(0))
}

/// All of a file that is mostly small. std would ask for its size and place first, and read what
/// has no size, as in procfs, in small pieces.
pub fn read_small(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(8192);
    file.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    /// How to have state kept elsewhere, if it can be.
    elsewhere: Elsewhere,
}

type Elsewhere = fn() -> Option<&'static str>;

impl Dir {
    /// Opens a directory, made where it is missing, that is the caller's own and nobody
    /// else may enter: `nspod`'s, which has no other for root.
    pub fn own(path: &Path) -> Result<Dir> {
        let elsewhere: Elsewhere = || is_users().then_some("set XDG_RUNTIME_DIR to another directory");
        let explained = |what, errno| explained(what, path, errno, elsewhere);
        let fd = match open(path, DIR, Mode::empty()) {
            Err(Errno::ENOENT) => {
                match nix::unistd::mkdir(path, PRIVATE) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(explained("make the state directory", e)),
                }
                open(path, DIR, Mode::empty())
            }
            other => other,
        };
        let fd = fd.map_err(|e| explained("open the state directory", e))?;
        let dir = Dir { fd, path: path.into(), elsewhere };
        dir.private()?;
        Ok(dir)
    }

    /// Makes sure that it is the caller's own and nobody else may enter.
    pub fn private(&self) -> Result<()> {
        let stat = fstat(&self.fd).map_err(|e| Error::path("look at", &self.path, e))?;
        let (uid, mode) = (geteuid().as_raw(), stat.st_mode & 0o777);
        if stat.st_uid != uid || mode & 0o077 != 0 {
            return Err(Error::new(format!(
                "the state directory {} belongs to uid {} with mode {mode:o}, where uid {uid} and mode 700 are wanted: {}",
                self.path.display(),
                stat.st_uid,
                or("remove it", self.elsewhere),
            )));
        }
        Ok(())
    }

    /// Opens a directory as it is, made with those above it where it is missing: that of `--root`.
    pub fn make(path: &Path) -> Result<Dir> {
        let elsewhere: Elsewhere = || Some("name another directory by --root");
        let explained = |what, errno| explained(what, path, errno, elsewhere);
        let opened = match open(path, DIR, Mode::empty()) {
            Err(Errno::ENOENT) => {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(|e| explained("make the state directory", errno(&e)))?;
                open(path, DIR, Mode::empty())
            }
            other => other,
        };
        let fd = opened.map_err(|e| explained("open the state directory", e))?;
        Ok(Dir { fd, path: path.into(), elsewhere })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// A directory in it, if it is there.
    pub fn sub(&self, name: &str) -> Result<Option<Dir>> {
        match openat(&self.fd, name, DIR, Mode::empty()) {
            Ok(fd) => Ok(Some(Dir { fd, path: self.at(name), elsewhere: self.elsewhere })),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(explained("open", &self.at(name), e, self.elsewhere)),
        }
    }

    /// A directory in it, made where it is missing.
    pub fn make_sub(&self, name: &str) -> Result<Dir> {
        if let Some(dir) = self.sub(name)? {
            return Ok(dir);
        }
        self.mkdir(name)?;
        self.sub(name)?.ok_or_else(|| Error::path("open", &self.at(name), Errno::ENOENT))
    }

    /// Makes a directory; false if there is one of that name already.
    pub fn mkdir(&self, name: &str) -> Result<bool> {
        match mkdirat(&self.fd, name, PRIVATE) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(e) => Err(explained("make", &self.at(name), e, self.elsewhere)),
        }
    }

    /// Makes a directory and locks it; `None` if there is one of that name already.
    ///
    /// Between the two another process may remove the directory and make its own. The one that
    /// is locked must be at its name still, and must be empty: a process that has made one puts
    /// something into it before it gives the lock up.
    pub fn claim(&self, name: &str) -> Result<Option<(Dir, Lock)>> {
        while self.mkdir(name)? {
            match self.lock_new(name) {
                Ok(None) => {}
                Ok(Some((dir, lock, empty))) => return Ok(empty.then_some((dir, lock))),
                Err(e) => {
                    // It is removed only while it is empty, and then its maker makes another.
                    let _ = unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir);
                    return Err(e);
                }
            }
        }
        Ok(None)
    }

    fn lock_new(&self, name: &str) -> Result<Option<(Dir, Lock, bool)>> {
        let Some(dir) = self.sub(name)? else { return Ok(None) };
        let Some(lock) = dir.lock(true)? else { return Ok(None) };
        if !dir.is_at(self, name)? {
            return Ok(None);
        }
        let empty = dir.further_names()?.is_empty();
        Ok(Some((dir, lock, empty)))
    }

    /// The names in it, in order.
    pub fn names(&self) -> Result<Vec<String>> {
        seek(&self.fd, SeekFrom::Start(0)).map_err(|e| self.not_listed(e))?;
        let mut names = self.further_names()?;
        names.sort();
        Ok(names)
    }

    /// The names from where the handle stands, which is then at the end. It takes no further
    /// descriptor, so that what is in the directory can be removed when there is none.
    fn further_names(&self) -> Result<Vec<String>> {
        let mut space = vec![MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(&self.fd, &mut space);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            match entry.map_err(|e| self.not_listed(e))?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    fn not_listed(&self, e: rustix::io::Errno) -> Error {
        Error::path("list", &self.path, Errno::from_raw(e.raw_os_error()))
    }

    /// A file in it, for reading, if it is there.
    pub fn open(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(Error::path("open", &self.at(name), e)),
        }
    }

    /// What a file in it says, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let text = read_small(file)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into()));
        text.map(Some).map_err(|e| Error::io("read", &self.at(name), &e))
    }

    /// A new file in it, to read, write and append to.
    pub fn create(&self, name: &str) -> Result<File> {
        self.create_with(name, OFlag::O_APPEND)
    }

    fn create_with(&self, name: &str, more: OFlag) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | more;
        let fd = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        fd.map(File::from).map_err(|e| Error::path("make", &self.at(name), e))
    }

    /// Writes a file in one step: whoever reads it sees the old text or the new.
    pub fn replace(&self, name: &str, text: &[u8]) -> Result<()> {
        let fresh = format!(".{name}.{}", std::process::id());
        let mut file = self.create_with(&fresh, OFlag::O_TRUNC)?;
        file.write_all(text).map_err(|e| Error::io("write", &self.at(&fresh), &e))?;
        // A file system may write to its disk before it lets a name pass from an old file to a new
        // one, as ext4 does; not where both keep one, and there is nothing to keep after a crash.
        match renameat2(&self.fd, fresh.as_str(), &self.fd, name, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => unlinkat(&self.fd, fresh.as_str(), UnlinkatFlags::NoRemoveDir),
            Err(_) => renameat(&self.fd, fresh.as_str(), &self.fd, name),
        }
        .map_err(|e| Error::path("put in place", &self.at(name), e))
    }

    /// Removes this directory, whose name is in `parent`, with the files in it; one that is gone is
    /// fine. These files are mostly all that there are, and nobody has to list them.
    pub fn remove_from(&self, parent: &Dir, name: &str, files: &[&str]) -> Result<()> {
        for file in files {
            match unlinkat(&self.fd, *file, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => {}
                Err(e) => return Err(Error::path("remove", &self.at(file), e)),
            }
        }
        match unlinkat(&parent.fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // The name may be another's by now.
            Err(_) if !self.is_at(parent, name)? => Ok(()),
            Err(_) => self.clear().and_then(|()| parent.remove_empty(name)),
        }
    }

    /// Removes a directory in it with the files in that; one that is gone is fine.
    pub fn remove_sub(&self, name: &str) -> Result<()> {
        let Some(dir) = self.sub(name)? else { return Ok(()) };
        dir.clear()?;
        self.remove_empty(name)
    }

    fn remove_empty(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(Error::path("remove", &self.at(name), e)),
        }
    }

    /// Removes what is in it.
    fn clear(&self) -> Result<()> {
        for file in self.names()? {
            match unlinkat(&self.fd, file.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EISDIR) => self.remove_sub(&file)?,
                Err(e) => return Err(Error::path("remove", &self.at(&file), e)),
            }
        }
        Ok(())
    }

    /// Locks the directory against other invocations; `None` if one of them holds it and
    /// `wait` is not wanted.
    pub fn lock(&self, wait: bool) -> Result<Option<Lock>> {
        let file = self.fd.try_clone().map_err(|e| Error::io("lock", &self.path, &e))?;
        let how = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Some(Lock(file))),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::path("lock", &self.path, Errno::from_raw(e.raw_os_error()))),
            }
        }
    }

    /// Whether its name in the parent leads to it still.
    pub fn is_at(&self, parent: &Dir, name: &str) -> Result<bool> {
        let failed = |e| Error::path("look at", &self.path, e);
        let own = fstat(&self.fd).map_err(failed)?;
        match fstatat(&parent.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A lock that ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // The directory's handle is the same open file, so to close this is not enough.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn temp() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::own(&temp.path().join("state")).unwrap();
        (temp, dir)
    }

    #[test]
    fn a_state_directory_that_others_may_enter_is_refused() {
        let (_temp, dir) = temp();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Dir::own(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("with mode 755, where uid") && error.contains("mode 700 are wanted"),
            "{error}"
        );
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_followed() {
        let (temp, dir) = temp();
        std::os::unix::fs::symlink(dir.path(), temp.path().join("link")).unwrap();
        assert!(Dir::own(&temp.path().join("link")).is_err());
        std::os::unix::fs::symlink(temp.path(), dir.at("web")).unwrap();
        assert!(dir.sub("web").is_err());
        std::os::unix::fs::symlink("/etc/passwd", dir.at("file")).unwrap();
        assert!(dir.open("file").is_err() && dir.create("file").is_err());
    }

    #[test]
    fn removing_a_directory_removes_links_and_not_what_they_lead_to() {
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
    fn files_that_are_known_are_removed_and_so_are_others() {
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
    fn one_of_two_gets_the_name() {
        let (_temp, dir) = temp();
        let first = dir.claim("web").unwrap();
        assert!(first.is_some() && dir.claim("web").unwrap().is_none());
        assert!(dir.at("web").is_dir());
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let (_temp, dir) = temp();
        let again = Dir::own(dir.path()).unwrap();
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
