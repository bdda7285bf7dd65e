//! Pins: bind mounts that keep a namespace alive without a process.

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
    /// Keeps the namespace alive until [`unpin`](Self::unpin): creates the file `path` and
    /// bind-mounts the namespace on it, as `ip netns add` does. Since Linux 3.8. See
    /// [namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html).
    ///
    /// The file must not exist. It is removed if the mount fails. No process can enter a pinned pid
    /// namespace after its init has ended.
    ///
    /// # Errors
    /// - `EEXIST`: the file exists.
    /// - `ENOENT`: the directory of the file does not exist, or `/proc` is not mounted.
    /// - `EROFS`: the file system is read-only.
    /// - `EPERM`: the caller lacks CAP_SYS_ADMIN in the user namespace that owns its mount namespace.
    /// - `EINVAL`: a mount namespace is not newer than the caller's own, or would receive the mount by
    ///   propagation. The kernel refuses mounts by which a mount namespace keeps itself alive.
    ///   Linux 6.18 compares numbers that each CPU takes from its own range, so that a namespace made
    ///   later on another CPU may count as older.
    pub fn pin(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let verb = format!("pin at {}", path.display());
        let step = || format!("{verb} the namespace {self}");
        let (dir, name) = split(path, step)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&dir, name, flags, Mode::S_IRUSR).map_err(|errno| {
            let error = Error::os(step(), "openat", errno).argument("O_CREAT | O_EXCL");
            error.on(path.display()).hint(match errno {
                Errno::EEXIST => "the file exists; unpin it first",
                Errno::EROFS => "the file system is read-only; choose a directory below /run",
                _ => "",
            })
        })?;
        // Source and target are given by descriptor, so that a change of the paths cannot redirect
        // the mount.
        let source = format!("/proc/thread-self/fd/{}", self.as_fd().as_raw_fd());
        let target = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        let none = None::<&str>;
        mount(Some(source.as_str()), target.as_str(), none, MsFlags::MS_BIND, none).map_err(|errno| {
            let _ = unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir);
            let error = Error::os(step(), "mount", errno).argument("MS_BIND");
            error.on(path.display()).hint(self.pin_hint(errno))
        })
    }

    fn pin_hint(&self, errno: Errno) -> &'static str {
        match (errno, self.kind()) {
            (Errno::EINVAL, Kind::Mnt) => {
                "a mount namespace can be pinned only in an older mount namespace, at a place whose \
                 mount is private: `mount --bind DIR DIR && mount --make-private DIR`"
            }
            (Errno::EPERM, _) => {
                "mounting requires CAP_SYS_ADMIN in the user namespace that owns the mount \
                 namespace; without it keep a descriptor of the namespace open instead"
            }
            (Errno::ENOENT, _) => "/proc is not mounted",
            _ => "",
        }
    }

    /// Removes a pin: unmounts the namespace and deletes the file. The namespace ends when no process,
    /// descriptor or other pin keeps it alive. Since Linux 3.19. See
    /// [umount(2)](https://man7.org/linux/man-pages/man2/umount.2.html).
    ///
    /// # Errors
    /// - [`NotANamespace`](ErrorKind::NotANamespace): no namespace is mounted on the file, which is
    ///   left as it is.
    /// - `ENOENT`: the file does not exist.
    /// - `EINVAL`: the file is a namespace, but not a mount point of this mount namespace.
    /// - `EPERM`: the caller lacks CAP_SYS_ADMIN in the user namespace that owns its mount namespace.
    pub fn unpin(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let step = || format!("unpin the namespace at {}", path.display());
        let failed = |call, errno| Error::os(step(), call, errno).on(path.display());
        let (dir, name) = split(path, step)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&dir, name, flags, Mode::empty()).map_err(|errno| failed("openat", errno))?;
        check_nsfs(file.as_fd(), step).map_err(|error| error.on(path.display()))?;
        drop(file);
        let target = Path::new("/proc/thread-self/fd").join(dir.as_raw_fd().to_string()).join(name);
        umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| {
            failed("umount2", errno).argument("MNT_DETACH | UMOUNT_NOFOLLOW").hint(match errno {
                Errno::EINVAL => "the file is not a mount point of this mount namespace",
                Errno::EPERM => "unmounting requires CAP_SYS_ADMIN",
                _ => "",
            })
        })?;
        unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir).map_err(|errno| failed("unlinkat", errno))
    }
}

/// Opens the directory of a path; returns it and the name in it.
fn split(path: &Path, step: impl Fn() -> String) -> Result<(OwnedFd, &std::ffi::OsStr)> {
    let name = path.file_name().ok_or_else(|| {
        let why = "the path does not end in a file name";
        Error::new(ErrorKind::InvalidInput, step(), why).on(path.display())
    })?;
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = open(dir, flags, Mode::empty())
        .map_err(|errno| Error::path(step(), "open", &dir.display().to_string(), errno))?;
    Ok((dir, name))
}
