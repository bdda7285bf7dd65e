//! Moves the calling thread into new or existing namespaces.

use nix::errno::Errno;
use nix::sched::{self, CloneFlags};

use crate::{Error, Kind, Kinds, Namespace, Pidfd, Result, hint};

/// Moves the calling **thread** into new namespaces of these kinds. For pid and time, moves the
/// children that it creates from now on. See
/// [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html).
///
/// The kind pid exists since Linux 3.8, cgroup since 4.6, time since 5.6.
///
/// # Safety of this function
/// This function is safe, because it rejects flags that break memory or I/O safety. With CLONE_FILES
/// one descriptor could refer to different files in different threads; for this reason rustix
/// deprecated its safe `unshare`. A new namespace changes what names mean to the thread, and neither
/// its memory nor its descriptors. It can still surprise a program with several threads, so call this
/// function in a thread that ends afterwards, or in a child:
/// - Other threads stay in their namespaces. New threads start in the namespaces of their creator.
/// - `MNT` also gives the thread its own working directory, root directory and umask.
/// - After `PID` the thread cannot create threads (`EINVAL`). The first process that it creates is pid
///   1 of the new namespace, and no other can be created after that one has ended.
/// - After `TIME` the thread can create neither threads nor children that share memory (`EINVAL`).
/// - `USER` fails in a process with several threads (`EINVAL`).
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
/// - `EPERM`: the caller lacks CAP_SYS_ADMIN, and `USER` is not among the kinds; or the host forbids
///   user namespaces, or the caller is in a chroot.
/// - `EINVAL`: `USER` in a process with several threads, or the kernel lacks a kind
///   ([`Unsupported`](crate::ErrorKind::Unsupported)).
/// - `ENOSPC`: a limit on namespaces is reached: `user.max_*_namespaces`, or 32 levels of nesting.
/// - `ENOMEM`: the host is out of memory.
/// - [`InvalidInput`](crate::ErrorKind::InvalidInput): the set contains a flag that is not a kind.
pub fn unshare(kinds: Kinds) -> Result<()> {
    let step = format!("move the calling thread into new {kinds} namespaces");
    let flags = kinds.flags(&step)?;
    sched::unshare(to_nix(flags)).map_err(|errno| {
        let error = Error::os(step, "unshare", errno);
        match errno {
            Errno::EINVAL if kinds.contains_kind(Kind::User) => error.hint(
                "a process with several threads cannot create a user namespace: create it together \
                 with a child by Clone3, or before starting threads",
            ),
            _ => hint::new_namespaces(error, errno, kinds),
        }
    })
}

/// Moves the calling **thread** into a namespace. For pid, moves the children that it creates from now
/// on. Since Linux 3.8 for all kinds except cgroup (4.6) and time (5.6). See
/// [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
///
/// This function is safe for the reasons given at [`unshare`].
///
/// ```
/// use ns_core::{Kind, Kinds, Namespace, NamespaceSet, setns, unshare};
/// # if !nix::unistd::geteuid().is_root() { return; }
/// let uts = Namespace::current(Kind::Uts).unwrap();
/// let back = std::thread::spawn(move || {
///     unshare(Kinds::UTS).unwrap();
///     setns(&uts).unwrap();
///     NamespaceSet::current().unwrap()
/// });
/// assert_eq!(back.join().unwrap(), NamespaceSet::current().unwrap());
/// ```
///
/// # Errors
/// - `EPERM`: the caller lacks CAP_SYS_ADMIN in the user namespace that owns the target; or, for mnt,
///   CAP_SYS_ADMIN or CAP_SYS_CHROOT in its own; or, for user, is not in an ancestor of the target.
/// - `EINVAL`: for user, the process has several threads or is already in the namespace; for mnt, the
///   thread shares root and working directory with others; for pid, the target is neither the caller's
///   pid namespace nor a descendant of it.
/// - `EUSERS`: for time, the process has several threads.
pub fn setns(namespace: &Namespace) -> Result<()> {
    let kind = namespace.kind();
    sched::setns(namespace, to_nix(kind.clone_flag())).map_err(|errno| {
        let error = namespace.cannot("move the calling thread into", "setns", errno);
        joining(error, errno, kind.into())
    })
}

/// Moves the calling **thread** into the namespaces of these kinds that a process is in: into all of
/// them, or into none if the call fails. Since Linux 5.8.
///
/// See [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
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
/// As [`setns`], and:
/// - `ESRCH`: the process has ended.
/// - `EINVAL`: the set is empty.
/// - [`InvalidInput`](crate::ErrorKind::InvalidInput): the set contains a flag that is not a kind.
pub fn setns_pidfd(pidfd: &Pidfd, kinds: Kinds) -> Result<()> {
    let pid = pidfd.pid().ok();
    let who = pid.map_or_else(|| "an ended process".into(), |pid| format!("process {pid}"));
    let step = format!("move the calling thread into the {kinds} namespaces of {who}");
    let flags = kinds.flags(&step)?;
    sched::setns(pidfd, to_nix(flags)).map_err(|errno| {
        let mut error = Error::os(step, "setns", errno);
        if let Some(pid) = pid {
            error = error.on(pid);
        }
        match errno {
            Errno::ESRCH => error.hint("the process has ended"),
            Errno::EINVAL if kinds.is_empty() => error.hint("the set of kinds is empty"),
            _ => joining(error, errno, kinds),
        }
    })
}

/// nix has no name for CLONE_NEWTIME.
fn to_nix(flags: u64) -> CloneFlags {
    CloneFlags::from_bits_retain(flags as i32)
}

/// Adds the likely cause of a failed setns.
fn joining(error: Error, errno: Errno, kinds: Kinds) -> Error {
    match errno {
        Errno::EPERM => error.hint(
            "this requires CAP_SYS_ADMIN in the user namespace that owns the target, and for a mnt \
             namespace CAP_SYS_ADMIN and CAP_SYS_CHROOT in the caller's own: join the user \
             namespace first, or together",
        ),
        Errno::EINVAL if kinds.contains_kind(Kind::User) => error.hint(
            "a process with several threads cannot join a user namespace (a child can), and a \
             process cannot join the user namespace that it is in",
        ),
        Errno::EINVAL if kinds.contains_kind(Kind::Mnt) => error.hint(
            "this thread shares root and working directory with others: call unshare for a mnt \
             namespace first, or join in a child",
        ),
        Errno::EINVAL if kinds.contains_kind(Kind::Pid) => {
            error.hint("only the caller's own pid namespace and its descendants can be joined")
        }
        Errno::EUSERS => error.hint(
            "a process that shares its memory (with threads, or as a vfork child) cannot join a time \
             namespace: join in a child with its own memory",
        ),
        _ => error,
    }
}
