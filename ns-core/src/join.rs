//! New namespaces for the calling thread, and joining those there are.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::{Error, Kind, Kinds, Namespace, Pidfd, Result, hint, raw};

/// Moves the calling **thread** into new namespaces of these kinds; for pid and time, its
/// children from now on. See
/// [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html).
///
/// # Why this is a safe function
/// The flags that break memory or I/O safety (CLONE_FILES: a descriptor then means
/// different files in different threads, which is why rustix deprecated its safe
/// `unshare`) cannot be passed here: a `Kinds` with other bits is refused. A new namespace
/// changes what names mean to one thread, not what its memory or descriptors are. It may
/// still surprise a threaded program, so keep it to a thread that then ends, or to a child:
/// - Other threads stay where they were. Threads made later by this one start where it is.
/// - `MNT` also gives the thread a working directory, root and umask of its own.
/// - After `PID` this thread can start no threads any more (`EINVAL`), and the first process
///   it makes is pid 1 of the new namespace: when that ends, no further one can be made.
/// - After `TIME` neither threads nor children that share memory (`EINVAL`).
/// - `USER` is refused in a threaded process (`EINVAL`).
///
/// ```
/// use ns_core::{Kind, Kinds, NamespaceSet, unshare};
/// # if !nix::unistd::geteuid().is_root() { return; }
/// let before = NamespaceSet::current().unwrap();
/// let after = std::thread::spawn(|| {
///     unshare(Kinds::UTS).unwrap();
///     NamespaceSet::current().unwrap()
/// });
/// assert_eq!(before.coincide(&after.join().unwrap()), Kinds::all() - Kinds::UTS);
/// ```
///
/// # Errors
/// - `EPERM`: needs CAP_SYS_ADMIN, unless `USER` is among the kinds, which a host may
///   forbid; also in a chroot for `USER`.
/// - `EINVAL`: `USER` in a threaded process; a kind that this kernel lacks.
/// - `ENOSPC`: a limit on namespaces: `user.max_*_namespaces`, or 32 levels of nesting.
pub fn unshare(kinds: Kinds) -> Result<()> {
    let step = format!("move the calling thread into new {kinds} namespaces");
    let flags = kinds.flags(&step)?;
    // SAFETY: `flags` are CLONE_NEW* flags only, see above.
    unsafe { raw::unshare(flags) }.map_err(|errno| {
        let error = Error::os(step, "unshare", errno);
        match errno {
            Errno::EINVAL if kinds.contains_kind(Kind::User) => error.hint(
                "a new user namespace is refused to a process with several threads: make it \
                 with the process, by Clone3, or before starting threads",
            ),
            _ => hint::new_namespaces(error, errno, kinds),
        }
    })
}

/// Moves the calling **thread** into a namespace; for pid only its children from now on. See
/// [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
///
/// It is a safe function for the reasons given at [`unshare`].
///
/// # Errors
/// - `EPERM`: needs CAP_SYS_ADMIN in the user namespace that owns the target, and for mnt
///   also in the caller's (with CAP_SYS_CHROOT). A user namespace cannot be joined from one
///   that is not its ancestor.
/// - `EINVAL`: a user namespace from a threaded process, or the one the caller is in; a mnt
///   namespace from a thread that shares root and working directory with others
///   ([`unshare`]`(MNT)` or CLONE_FS); a pid namespace that is not the caller's or below it.
/// - `EUSERS`: a time namespace from a threaded process.
pub fn setns(namespace: &Namespace) -> Result<()> {
    let kind = namespace.kind();
    raw::setns(namespace.as_fd(), kind.clone_flag() as i32).map_err(|errno| {
        let error = namespace.cannot("move the calling thread into", "setns", errno);
        joining(error, errno, kind.into())
    })
}

/// Moves the calling **thread** into the namespaces of these kinds of a process, all or
/// none. Since Linux 5.8.
///
/// ```
/// use ns_core::{Kinds, NamespaceSet, Pidfd, setns_pidfd};
/// # if !nix::unistd::geteuid().is_root() { return; }
/// let myself = Pidfd::open(std::process::id() as i32).unwrap();
/// let there = std::thread::spawn(move || {
///     setns_pidfd(&myself, Kinds::NET | Kinds::IPC | Kinds::UTS).unwrap();
///     NamespaceSet::current().unwrap()
/// });
/// assert_eq!(there.join().unwrap(), NamespaceSet::current().unwrap());
/// ```
///
/// # Errors
/// As [`setns`]; `ESRCH`: the process has ended.
pub fn setns_pidfd(pidfd: &Pidfd, kinds: Kinds) -> Result<()> {
    let who = pidfd.pid().map_or_else(|_| "a process that has ended".into(), |pid| format!("process {pid}"));
    let step = format!("move the calling thread into the {kinds} namespaces of {who}");
    let flags = kinds.flags(&step)?;
    raw::setns(pidfd.as_fd(), flags as i32).map_err(|errno| {
        let error = Error::os(step, "setns", errno);
        match errno {
            Errno::ESRCH => error.hint("it has ended"),
            Errno::EINVAL if kinds.is_empty() => error.hint("no kind was named"),
            _ => joining(error, errno, kinds),
        }
    })
}

fn joining(error: Error, errno: Errno, kinds: Kinds) -> Error {
    match errno {
        Errno::EPERM => error.hint(
            "this needs CAP_SYS_ADMIN in the user namespace that owns the target, and for a \
             mnt namespace CAP_SYS_ADMIN and CAP_SYS_CHROOT in the caller's own: join the \
             user namespace first, or together",
        ),
        Errno::EINVAL if kinds.contains_kind(Kind::User) => error.hint(
            "a process with several threads cannot join a user namespace (let a child do \
             it), and none can join the one it is in",
        ),
        Errno::EINVAL if kinds.contains_kind(Kind::Mnt) => error.hint(
            "this thread shares root and working directory with others: unshare a mnt \
             namespace first, or let a child join",
        ),
        Errno::EINVAL if kinds.contains_kind(Kind::Pid) => {
            error.hint("only the caller's own pid namespace and those below it can be joined")
        }
        Errno::EUSERS => error.hint(
            "a process that shares its memory with others (threads, or a vfork child) cannot \
             join a time namespace: let a child with memory of its own do it",
        ),
        _ => error,
    }
}
