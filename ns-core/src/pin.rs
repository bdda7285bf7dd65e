//! Pins: a namespace kept alive by a bind mount on a file, without any process.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::namespace::check_nsfs;
use crate::{Error, ErrorKind, Kind, Namespace, Result};

impl Namespace {
    /// Keeps the namespace alive at `path`, until [`unpin`](Self::unpin): creates the file
    /// and bind mounts the namespace on it, as `ip netns add` does.
    ///
    /// The file must not exist, and is removed again if the mount fails. A pinned pid
    /// namespace lives on, but once its init is gone no process can enter it.
    ///
    /// # Errors
    /// - `EEXIST`: there is a file already.
    /// - `ENOENT`: its directory is missing.
    /// - `EPERM`: mounting needs CAP_SYS_ADMIN in the user namespace that owns the caller's
    ///   mount namespace.
    /// - `EINVAL` for a mount namespace: it can be pinned only from an older one, at a place
    ///   whose mount is not shared with it; pinned from within it would keep itself alive.
    pub fn pin(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let verb = format!("pin at {}", path.display());
        let step = || format!("{verb} the namespace {self}");
        let (dir, name) = split(path, step)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&dir, name, flags, Mode::S_IRUSR).map_err(|errno| {
            Error::os(step(), "openat(O_CREAT | O_EXCL)", errno).hint(match errno {
                Errno::EEXIST => "there is a file already; unpin it first",
                Errno::EROFS => "the file system is read-only; choose a directory below /run",
                _ => "",
            })
        })?;
        // Both ends by descriptor: nothing that happens to the paths can redirect the mount.
        let source = format!("/proc/thread-self/fd/{}", self.as_fd().as_raw_fd());
        let target = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        let none = None::<&str>;
        mount(Some(source.as_str()), target.as_str(), none, MsFlags::MS_BIND, none).map_err(|errno| {
            let _ = unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir);
            Error::os(step(), "mount(MS_BIND)", errno).hint(self.pin_hint(errno))
        })
    }

    fn pin_hint(&self, errno: Errno) -> &'static str {
        match (errno, self.kind()) {
            (Errno::EINVAL, Kind::Mnt) => {
                "a mount namespace can be pinned only from one that is older than it (pinned \
                 within itself it would never end), at a place whose mount is private: \
                 `mount --bind DIR DIR && mount --make-private DIR`"
            }
            (Errno::EPERM, _) => {
                "mounting needs CAP_SYS_ADMIN in the user namespace that owns the mount \
                 namespace: as an ordinary user hold the namespace by its descriptor instead"
            }
            (Errno::ENOENT, _) => "/proc is not mounted here",
            _ => "",
        }
    }

    /// Removes a pin: unmounts the namespace and deletes the file. The namespace ends once
    /// no process, descriptor or other pin holds it.
    ///
    /// # Errors
    /// - [`NotANamespace`](ErrorKind::NotANamespace): no namespace is mounted there; nothing
    ///   was changed.
    /// - `EINVAL`: it is a namespace file, but not a mount of its own.
    /// - `EPERM`: as for [`pin`](Self::pin).
    pub fn unpin(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let step = || format!("unpin the namespace at {}", path.display());
        let (dir, name) = split(path, step)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file =
            openat(&dir, name, flags, Mode::empty()).map_err(|errno| Error::os(step(), "openat", errno))?;
        check_nsfs(file.as_fd(), step)?;
        drop(file);
        let target = Path::new("/proc/thread-self/fd").join(dir.as_raw_fd().to_string()).join(name);
        umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| {
            Error::os(step(), "umount2(MNT_DETACH | UMOUNT_NOFOLLOW)", errno).hint(match errno {
                Errno::EINVAL => "no mount of this mount namespace is there",
                Errno::EPERM => "unmounting needs CAP_SYS_ADMIN",
                _ => "",
            })
        })?;
        unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir).map_err(|errno| Error::os(step(), "unlinkat", errno))
    }
}

/// The directory of a path, opened, and the name in it.
fn split(path: &Path, step: impl Fn() -> String) -> Result<(OwnedFd, &std::ffi::OsStr)> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, step(), "the path does not end in a file name"))?;
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = open(dir, flags, Mode::empty())
        .map_err(|errno| Error::os(step(), format!("open({})", dir.display()), errno))?;
    Ok((dir, name))
}
