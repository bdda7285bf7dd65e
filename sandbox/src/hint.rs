//! What to do about errnos that puzzle: the likely cause in the place where they came up,
//! and the cure.

use ns_core::{Kind, Kinds};

use crate::step::{Call, CopyUp, Lsm, MountStep, OverProc, Step, What};

/// The likely cause and the cure of a step's errno, where the errno alone would puzzle.
pub(crate) fn step(step: &Step, call: Call, errno: i32) -> Option<String> {
    let text = match (step, call, errno) {
        (Step::Mount(m), _, _) => return mount(m, call, errno),
        (Step::JoinFd { kind: Kind::User, .. }, _, libc::EINVAL) => {
            "the caller is already in that user namespace, and nobody can enter the one they are in"
        }
        (Step::JoinFd { .. } | Step::JoinPidfd { .. }, _, libc::EPERM) => {
            "joining takes CAP_SYS_ADMIN both here and in the user namespace that owns it: be root, or join its user namespace as well"
        }
        (Step::JoinPidfd { .. }, _, libc::ESRCH) => "that process has ended",
        (Step::MapSelf { .. }, _, libc::EPERM) => {
            "the kernel or a security module keeps ordinary users from mapping ids: see `sysctl kernel.apparmor_restrict_unprivileged_userns`"
        }
        (Step::Unshare(kinds) | Step::Clone(kinds), _, _) => return clone(*kinds, errno),
        (Step::Hostname(_) | Step::Domainname(_), _, libc::EINVAL) => "a name has at most 64 bytes",
        (Step::Rlimit(_), _, libc::EPERM) => {
            "raising a hard limit takes CAP_SYS_RESOURCE: ask for no more than `ulimit -H` shows"
        }
        (Step::Rlimit(_), _, libc::EINVAL) => "the soft limit is above the hard one",
        (Step::OomScoreAdj(_), _, libc::EACCES) => {
            "going below the present value takes CAP_SYS_RESOURCE: see /proc/self/oom_score_adj"
        }
        (Step::Sysctl { .. }, _, libc::ENOENT) => {
            "there is no such parameter in this kernel, or not in a namespace of its own"
        }
        (Step::Sysctl { .. }, _, libc::EPERM | libc::EACCES) => {
            "it is not the container's own: only parameters of its new net, ipc, uts and user namespaces can be set"
        }
        (Step::Sysctl { .. }, _, libc::EXDEV | libc::ELOOP) => {
            "something is mounted over it or it is a link, and a write could go astray"
        }
        (Step::Sysctl { .. }, _, libc::EINVAL) => "the kernel refuses this value",
        (Step::Terminal { .. }, _, libc::ENOSPC) => {
            "the host has no terminal left: see `sysctl kernel.pty.max`"
        }
        (Step::Chdir { .. } | Step::ChdirAsUser(_), Call::Getcwd, libc::EXDEV | libc::ENOENT) => {
            "that directory lies outside the container's root"
        }
        (Step::Chdir { .. } | Step::ChdirAsUser(_), _, libc::ENOENT) => {
            "there is no such directory in the container: make it, or name another"
        }
        (Step::Chdir { .. } | Step::ChdirAsUser(_), _, libc::EACCES) => {
            "the container's user may not enter it"
        }
        (Step::Credentials { .. } | Step::Become { .. }, Call::Setresuid | Call::Setresgid, libc::EINVAL) => {
            "this id has no place in the user namespace's map: add a range to /etc/subuid and /etc/subgid, or run as an id that is mapped"
        }
        (Step::Credentials { .. }, Call::Setgroups, libc::EPERM) => {
            "setgroups is denied in this user namespace: leave the groups out, or map a range of gids"
        }
        (Step::DropBounding(_), _, libc::EPERM) => "this takes CAP_SETPCAP, which the caller lacks",
        (Step::Capabilities { permitted, inheritable, .. }, _, libc::EPERM) => {
            return Some(capabilities(permitted | inheritable));
        }
        (Step::Ambient(_), _, libc::EPERM) => {
            "an ambient capability must be permitted and inheritable as well"
        }
        (Step::Seccomp { .. }, _, libc::EACCES | libc::EPERM) => {
            "loading a filter takes no_new_privs or CAP_SYS_ADMIN"
        }
        (Step::Seccomp { .. }, _, libc::EINVAL) => "the kernel refuses the filter",
        (Step::Seccomp { .. }, _, libc::EBUSY) => {
            "a filter that the caller is under has a listener already, and there can be one only"
        }
        (Step::Keyring(_), _, libc::EDQUOT) => {
            "the user has as many keyrings as are allowed: see `sysctl kernel.keys` and /proc/key-users"
        }
        (Step::Scheduler(_), _, libc::EPERM) => {
            "raising a priority and the real-time policies take CAP_SYS_NICE, or room in RLIMIT_NICE and RLIMIT_RTPRIO; a cgroup may allow no real time at all"
        }
        (Step::Scheduler(_), _, libc::EBUSY) => "the host has not so much processor time left to promise",
        (Step::Scheduler(_), _, libc::EINVAL) => {
            "this kernel refuses these values together: of SCHED_DEADLINE, runtime may not exceed deadline, nor deadline the period"
        }
        (Step::IoPriority { .. }, _, libc::EPERM) => {
            "the real-time class takes CAP_SYS_ADMIN or CAP_SYS_NICE"
        }
        (Step::Affinity { .. }, _, libc::EINVAL) => {
            "none of these processors is online and in the cgroup's cpuset: see cpuset.cpus.effective"
        }
        (Step::MemoryPolicy { .. }, _, libc::EINVAL) => {
            "none of these nodes has memory and is in the cgroup's cpuset, or this kernel lacks the policy: see cpuset.mems.effective"
        }
        (Step::MemoryPolicy { .. }, _, libc::ENOSYS) => "this kernel knows no memory nodes (CONFIG_NUMA)",
        (Step::Label { lsm: Lsm::AppArmor, .. }, Call::Write, libc::ENOENT) => {
            "no such profile is loaded: see /sys/kernel/security/apparmor/profiles"
        }
        (Step::Label { .. }, Call::Write, libc::EINVAL) => "the security module does not know that label",
        (Step::Label { .. }, Call::Write, libc::EACCES | libc::EPERM) => {
            "the security module does not let the caller go there"
        }
        (Step::PivotRoot { .. }, Call::PivotRoot, libc::EINVAL) => {
            "the host's root is its first, in-memory one, which cannot be left: use no_pivot (`nspod-oci`: --no-pivot)"
        }
        (Step::Node { .. }, _, libc::EEXIST) => {
            "something else is there already: remove it from the image, or leave the device out"
        }
        (Step::Node { .. }, Call::Fchownat, libc::EINVAL) => {
            "its owner has no place in the user namespace's map"
        }
        (Step::Node { .. }, Call::Mknodat, libc::EPERM) => {
            "making devices takes CAP_MKNOD, and a file system that was mounted by the host's root"
        }
        (Step::Console(_), _, libc::ELOOP) => "a link in the root is in the way, and it is not followed",
        (Step::Node { .. } | Step::Symlink { .. } | Step::Console(_), _, libc::EROFS) => {
            "it has no place in a root that is read-only: mount a tmpfs there, or leave it out"
        }
        (Step::Mask(_), Call::Fstat, libc::ENODEV) => {
            "/dev/null of the host is not the null device, and masking with it would not be safe"
        }
        (Step::Exec(_), _, _) => return exec(errno).map(Into::into),
        (Step::Hook(_), _, _) => return hook(call, errno).map(Into::into),
        _ => return None,
    };
    Some(text.into())
}

/// The same for the program.
pub(crate) fn exec(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::ENOENT => "no such program in the container's PATH, or its interpreter or loader is missing",
        libc::EACCES => "it is not executable for the container's user, or on a noexec mount",
        libc::ENOEXEC => "it is neither a binary for this machine nor begins with #!",
        libc::E2BIG => "arguments and environment are larger than the kernel takes",
        libc::EAGAIN => "the user has reached RLIMIT_NPROC",
        _ => return None,
    })
}

/// The same for a hook.
pub(crate) fn hook(call: Call, errno: i32) -> Option<&'static str> {
    match (call, errno) {
        (Call::Ppoll, libc::ETIMEDOUT) => Some("it took longer than its timeout and was killed"),
        _ => None,
    }
}

/// Which of its options a file system refuses, counted from 1.
pub(crate) fn option(step: &Step, number: i32) -> Option<String> {
    let Step::Mount(MountStep { what: What::New { params, .. }, .. }) = step else { return None };
    let (key, value) = params.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
    let value = value.as_ref().map_or(String::new(), |value| format!("={}", value.to_string_lossy()));
    Some(format!("the file system refuses the option {}{value}", key.to_string_lossy()))
}

/// The same for a tree whose ids are to be mapped.
pub(crate) fn id_map(errno: i32) -> Option<String> {
    let text = match errno {
        libc::EINVAL => {
            "this kernel maps no ids of that file system (tmpfs since Linux 6.3, overlayfs since 5.19), or something that it does not map is mounted below"
        }
        libc::EPERM => "its ids are mapped already, or the caller lacks CAP_SYS_ADMIN where it was mounted",
        _ => return None,
    };
    Some(text.into())
}

/// Which of these the caller lacks.
fn capabilities(wanted: u64) -> String {
    let own = caps::read(None, caps::CapSet::Permitted).unwrap_or_default();
    let lacking = caps::all().into_iter().filter(|c| wanted & c.bitmask() != 0 && !own.contains(c));
    let mut names: Vec<String> = lacking.map(|c| c.to_string()).collect();
    names.sort();
    match names.is_empty() {
        true => "only what one has can be passed on, and a change of user loses it".into(),
        false => format!("the caller lacks {}: only what one has can be passed on", names.join(", ")),
    }
}

/// The same for new namespaces, by the first clone or a later one.
pub(crate) fn clone(kinds: Kinds, errno: i32) -> Option<String> {
    let user = kinds.contains(Kinds::from(Kind::User));
    let text = match errno {
        libc::EPERM if user => {
            "this host keeps users from making user namespaces: see `sysctl kernel.unprivileged_userns_clone` and `kernel.apparmor_restrict_unprivileged_userns`, or a chroot is in the way"
        }
        libc::EPERM => "new namespaces take CAP_SYS_ADMIN: be root, or ask for a new user namespace as well",
        libc::ENOSPC => {
            let limits: Vec<String> =
                kinds.kinds().map(|k| format!("user.max_{}_namespaces", k.name())).collect();
            return Some(format!(
                "a limit on namespaces or on their depth (32) is reached: see `sysctl {}`",
                limits.join(" ")
            ));
        }
        libc::EINVAL => {
            let absent = |kind: &Kind| {
                let own = ns_core::Namespace::current(*kind);
                own.is_err_and(|e| e.kind() == ns_core::ErrorKind::Unsupported)
            };
            return Some(match kinds.kinds().find(absent) {
                Some(kind) => format!("this kernel has no {kind} namespaces"),
                None => "the kernel refuses these kinds together".into(),
            });
        }
        libc::EAGAIN => {
            "a limit on processes is reached: pids.max of the cgroup or of one above it, RLIMIT_NPROC or `sysctl kernel.pid_max`"
        }
        libc::EBUSY => {
            "the cgroup has controllers enabled for its children, so it cannot hold processes itself"
        }
        libc::EOPNOTSUPP => "the cgroup is threaded or in an invalid domain: see its cgroup.type",
        libc::EACCES => {
            "the caller may not move processes into this cgroup: it must be able to write its cgroup.procs and that of the common ancestor"
        }
        libc::ENODEV => "the cgroup was removed in the meantime",
        libc::ENOMEM => "the host is out of memory, or the pid namespace's init has ended",
        libc::EUSERS => "user namespaces are nested 32 deep at most",
        _ => return None,
    };
    Some(text.into())
}

/// The host's files through an overlay.
fn host_root(errno: i32) -> String {
    let cause = match errno {
        libc::ENODEV => "this kernel lacks overlayfs (`modprobe overlay`)",
        libc::EPERM => "this kernel lets no user namespace mount an overlay (Linux 5.11 does)",
        libc::EINVAL => {
            "overlayfs refuses this directory, for one because it lies on two overlays already: `dmesg` may say more"
        }
        libc::ENOENT => "the directory is gone since the plan was made",
        _ => "overlayfs refuses this directory",
    };
    format!(
        "the overlay keeps the container from the host's sockets and named pipes, and {cause}: mount \
         something over it (--tmpfs DIR, -v DIR:DIR:ro), name a root (--rootfs), or give the sockets \
         up to the container (--host-sockets)"
    )
}

fn mount(mount: &MountStep, call: Call, errno: i32) -> Option<String> {
    let kernel_fs =
        |name: &str| matches!(&mount.what, What::New { fstype, .. } if fstype.to_bytes() == name.as_bytes());
    let bind = matches!(mount.what, What::Bind { .. } | What::Inside { .. });
    let overlay = matches!(&mount.what, What::Long { fstype, .. } if **fstype == *c"overlay");
    let host = matches!(&mount.what, What::New { fstype, .. } if **fstype == *c"overlay");
    let text = match (call, errno) {
        (Call::Fsopen | Call::Fsconfig | Call::Fsmount, _) if host => return Some(host_root(errno)),
        (Call::Fstatfs, libc::EPERM) if mount.over_proc == OverProc::Root => {
            "it cannot be mounted because it is not of type proc: bind a procfs, or mount a new one"
        }
        (Call::Fstatfs, libc::EPERM) => {
            "it cannot be mounted because it is inside /proc, where a link of the image leads"
        }
        (_, libc::EPERM) if kernel_fs("proc") => {
            "the kernel shows a new /proc only where the present one is fully visible: something is mounted over parts of it here, as container runtimes do, or the pid namespace is not the container's own"
        }
        (_, libc::EPERM) if kernel_fs("sysfs") => {
            "a new /sys takes a net namespace of the container's own, and a present one that is fully visible"
        }
        (_, libc::EPERM) if kernel_fs("mqueue") => {
            "a new mqueue takes an ipc namespace of the container's own"
        }
        (Call::Mkdirat | Call::Open, libc::EROFS) => {
            "the place to mount on does not exist and the root is read-only: name an existing directory, or use a root that can be written"
        }
        (Call::Openat2, libc::ENOENT) => "the place to mount on does not exist within the root",
        (Call::Openat2, libc::ELOOP) => "a link in the root is in the way, and it is not followed",
        (Call::OpenTree, libc::ENOENT) => "there is nothing at that path on the host",
        (Call::OpenTree, libc::EACCES) => {
            "the container's user cannot reach it: each directory on the way must be open to it"
        }
        (Call::OpenTree, libc::EINVAL) if bind => {
            "what is mounted below it may not be revealed in a user namespace: bind it with all below it"
        }
        (Call::MoveMount, libc::ENOTDIR) => "a directory goes only on a directory, a file only on a file",
        (Call::MountSetattr, libc::EPERM) => {
            "its flags are locked: a user namespace may not lift what its parent has set"
        }
        (Call::MountSetattr, libc::EINVAL) if matches!(mount.what, What::There) => "nothing is mounted there",
        (Call::Fsconfig, libc::EINVAL) => {
            "the file system refuses its options or its source: `dmesg` may say which"
        }
        (Call::Open, libc::ELOOP) if mount.copy_up != CopyUp::No => {
            "what is to be copied is more than 128 directories deep"
        }
        (Call::Sendfile | Call::Mkdirat, libc::ENOSPC) => {
            "the tmpfs has no room for the copy: give it a larger size"
        }
        (Call::Fsopen, libc::ENODEV) => "this kernel lacks that file system",
        (Call::Fstat, libc::ENODEV) => "it is not the device that its name says",
        (Call::Mount, libc::EINVAL) if overlay => {
            "overlayfs refuses these directories: upper and work must be on one file system that is not an overlay itself, and work empty"
        }
        (Call::Mount, libc::ENODEV) if overlay => "this kernel lacks overlayfs: `modprobe overlay`",
        (_, libc::ENOSYS) => "this takes Linux 5.12 or later",
        (_, libc::EPERM) => {
            "mounting takes CAP_SYS_ADMIN in the mount namespace: be root, or ask for a new user namespace as well"
        }
        (_, libc::ENOSPC) => "the mount namespace is full: see `sysctl fs.mount-max`",
        _ => return None,
    };
    Some(text.into())
}
