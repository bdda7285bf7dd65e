//! Hints for errors of a start: the likely cause of an unclear errno, and the cure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::unistd::geteuid;
use ns_core::{Kind, Kinds};
use nspod_errno::how_to_get_sys_admin;

use crate::spec::{Mount, MountKind, NamespaceMode, Root, Spec};
use crate::step::{Call, CopyUp, Lsm, MountStep, OverProc, Step, What};

/// Returns the likely cause of a step's error and its cure, if the errno alone is unclear.
/// `spec` is the container's.
pub(crate) fn step(step: &Step, spec: Option<&Spec>, call: Call, errno: i32) -> Option<String> {
    match step {
        Step::Mount(_)
            if (call, errno) == (Call::Openat2, libc::ENOENT) && spec.is_some_and(|s| s.root_sockets) =>
        {
            let hint = "the mount point does not exist within the root: create it there, choose an existing one, or \
                        leave --host-sockets out";
            return Some(hint.into());
        }
        Step::Mount(step) => return mount(step, call, errno),
        Step::Exec(program) => return exec(&program.name, spec, errno),
        Step::Chdir { path, .. } | Step::ChdirAsUser(path)
            if (call, errno) == (Call::Chdir, libc::ENOENT) =>
        {
            return Some(missing_directory(Path::new(OsStr::from_bytes(path.to_bytes())), spec));
        }
        Step::Unshare(kinds) | Step::Clone(kinds) => return clone(*kinds, errno),
        Step::JoinFd { .. } | Step::JoinPidfd { .. } if errno == libc::EPERM => {
            return Some(format!(
                "joining requires CAP_SYS_ADMIN both here and in the user namespace that owns it: {}, or join its \
                 user namespace as well",
                how_to_get_sys_admin()
            ));
        }
        Step::Capabilities { permitted, inheritable, .. } if errno == libc::EPERM => {
            return Some(capabilities(permitted | inheritable));
        }
        _ => {}
    }
    let hint = match step {
        Step::Hook(_) => hook(call, errno),
        step => namespace(step, errno)
            .or_else(|| kernel(step, errno))
            .or_else(|| file(step, call, errno))
            .or_else(|| credentials(step, call, errno))
            .or_else(|| attribute(step, call, errno)),
    };
    hint.map(Into::into)
}

/// Returns the hint for a step about namespaces, like [`step`].
fn namespace(step: &Step, errno: i32) -> Option<&'static str> {
    Some(match (step, errno) {
        (Step::JoinFd { kind: Kind::User, .. }, libc::EINVAL) => {
            "the caller is already in that user namespace, and a process cannot join its own"
        }
        (Step::JoinPidfd { .. }, libc::ESRCH) => "that process has ended",
        (Step::MapSelf { .. }, libc::EPERM) => {
            "the kernel or a security module denies id maps to ordinary users: see `sysctl kernel.apparmor_restrict_unprivileged_userns`"
        }
        _ => return None,
    })
}

/// Returns the hint for a step about kernel parameters, like [`step`].
fn kernel(step: &Step, errno: i32) -> Option<&'static str> {
    Some(match (step, errno) {
        (Step::Hostname(_) | Step::Domainname(_), libc::EINVAL) => "a name has at most 64 bytes",
        (Step::Sysctl { .. }, libc::ENOENT) => {
            "this kernel does not have the parameter, or does not have it in each namespace"
        }
        (Step::Sysctl { .. }, libc::EPERM | libc::EACCES) => {
            "the parameter is not the container's own: only those of its new net, ipc, uts and user namespaces can be set"
        }
        (Step::Sysctl { .. }, libc::EXDEV | libc::ELOOP) => {
            "the file is a link or something is mounted over it, so that the write could reach another file"
        }
        (Step::Sysctl { .. }, libc::EINVAL) => "the kernel rejects this value",
        _ => return None,
    })
}

/// Returns the hint for a step about files and terminals, like [`step`].
fn file(step: &Step, call: Call, errno: i32) -> Option<&'static str> {
    Some(match (step, call, errno) {
        (Step::Terminal { .. }, _, libc::ENOSPC) => {
            "the host has no free terminal: see `sysctl kernel.pty.max`"
        }
        (Step::Chdir { .. } | Step::ChdirAsUser(_), Call::Getcwd, libc::EXDEV | libc::ENOENT) => {
            "that directory is outside the container's root"
        }
        (Step::Chdir { .. } | Step::ChdirAsUser(_), _, libc::EACCES) => {
            "the container's user lacks the permission to enter it"
        }
        (Step::PivotRoot { .. }, Call::PivotRoot, libc::EINVAL) => {
            "the host's root is its initial file system in memory, which pivot_root cannot leave: use no_pivot (`nspod-oci`: --no-pivot)"
        }
        (Step::Node { .. }, _, libc::EEXIST) => {
            "the image has another file at that path: remove it, or leave the device out"
        }
        (Step::Node { .. }, Call::Fchownat, libc::EINVAL) => "its owner is not mapped in the user namespace",
        (Step::Node { .. }, Call::Mknodat, libc::EPERM) => {
            "a device requires CAP_MKNOD, and a file system that the host's root has mounted"
        }
        (Step::Console(_), _, libc::ELOOP) => {
            "a symbolic link in the root is on the path, and it is not followed"
        }
        (Step::Node { .. } | Step::Symlink { .. } | Step::Console(_), _, libc::EROFS) => {
            "the root is read-only: mount a tmpfs there, or leave it out"
        }
        (Step::Mask(_), Call::Fstat, libc::ENODEV) => {
            "/dev/null of the host is not the null device, so masking with it is not safe"
        }
        _ => return None,
    })
}

/// Returns the hint for a step about ids, capabilities, filters, keyrings or labels, like [`step`].
fn credentials(step: &Step, call: Call, errno: i32) -> Option<&'static str> {
    Some(match (step, call, errno) {
        (Step::Credentials { .. } | Step::Become { .. }, Call::Setresuid | Call::Setresgid, libc::EINVAL) => {
            "this id is not mapped in the user namespace: add a range to /etc/subuid and /etc/subgid, or run as a mapped id"
        }
        (Step::Owner(_), Call::Prctl, libc::EPERM) => {
            "this requires CAP_SETPCAP, which the caller lacks, or its securebits are locked"
        }
        (Step::Owner(_), Call::Setresuid, libc::EPERM) => "this requires CAP_SETUID, which the caller lacks",
        (Step::Owner(_), Call::Setresuid, libc::EINVAL) => {
            "this id does not exist in the caller's user namespace"
        }
        (Step::Credentials { .. }, Call::Setgroups, libc::EPERM) => {
            "setgroups is denied in this user namespace: leave the groups out, or map a range of gids"
        }
        (Step::DropBounding(_), _, libc::EPERM) => "this requires CAP_SETPCAP, which the caller lacks",
        (Step::Ambient(_), _, libc::EPERM) => {
            "an ambient capability must be permitted and inheritable as well"
        }
        (Step::Seccomp { .. }, _, libc::EACCES | libc::EPERM) => {
            "a filter requires no_new_privs or CAP_SYS_ADMIN"
        }
        (Step::Seccomp { .. }, _, libc::EINVAL) => "the kernel rejects the filter",
        (Step::Seccomp { .. }, _, libc::EBUSY) => {
            "the caller already has a filter with a listener, and a process can have only one"
        }
        (Step::Keyring(_), _, libc::EDQUOT) => {
            "the user has reached the limit on keyrings: see `sysctl kernel.keys` and /proc/key-users"
        }
        (Step::Label { lsm: Lsm::AppArmor, .. }, Call::Write, libc::ENOENT) => {
            "no such profile is loaded: see /sys/kernel/security/apparmor/profiles"
        }
        (Step::Label { .. }, Call::Write, libc::EINVAL) => "the security module does not know that label",
        (Step::Label { .. }, Call::Write, libc::EACCES | libc::EPERM) => {
            "the security module does not allow the caller to change to that label"
        }
        _ => return None,
    })
}

/// Returns the hint for a step about limits, scheduling or memory, like [`step`].
fn attribute(step: &Step, call: Call, errno: i32) -> Option<&'static str> {
    Some(match (step, call, errno) {
        (Step::Rlimit(_), _, libc::EPERM) => {
            "raising a hard limit requires CAP_SYS_RESOURCE: use at most what `ulimit -H` shows"
        }
        (Step::Rlimit(_), _, libc::EINVAL) => "the soft limit is above the hard one",
        (Step::OomScoreAdj(_), _, libc::EACCES) => {
            "a value below the current one requires CAP_SYS_RESOURCE: see /proc/self/oom_score_adj"
        }
        (Step::Scheduler(_), _, libc::EPERM) => {
            "a higher priority or a real-time policy requires CAP_SYS_NICE, or room in RLIMIT_NICE and RLIMIT_RTPRIO; a cgroup may permit no real-time policy"
        }
        (Step::Scheduler(_), _, libc::EBUSY) => "the host cannot reserve that much processor time",
        (Step::Scheduler(_), _, libc::EINVAL) => {
            "the kernel rejects this combination: with SCHED_DEADLINE, runtime may not exceed deadline, and deadline may not exceed period"
        }
        (Step::IoPriority { .. }, _, libc::EPERM) => {
            "the real-time class requires CAP_SYS_ADMIN or CAP_SYS_NICE"
        }
        (Step::Affinity { .. }, _, libc::EINVAL) => {
            "none of these processors is online and in the cgroup's cpuset: see cpuset.cpus.effective"
        }
        (Step::MemoryPolicy { .. }, _, libc::EINVAL) => {
            "none of these nodes has memory and is in the cgroup's cpuset, or this kernel lacks the policy: see cpuset.mems.effective"
        }
        (Step::MemoryPolicy { .. }, _, libc::ENOSYS) => "this kernel has no memory nodes (CONFIG_NUMA)",
        _ => return None,
    })
}

/// Returns the hint for a failed exec of the program, like [`step`].
pub(crate) fn exec(program: &str, spec: Option<&Spec>, errno: i32) -> Option<String> {
    let text = match errno {
        libc::ENOENT => return Some(missing(Path::new(program), spec)),
        libc::EACCES => "it is not executable for the container's user, or on a noexec mount",
        libc::ENOEXEC => "it is neither a binary for this machine nor begins with #!",
        libc::E2BIG => "arguments and environment exceed the kernel's limit",
        libc::EAGAIN => "the user has reached RLIMIT_NPROC",
        _ => return None,
    };
    Some(text.into())
}

/// Returns the reason why a program does not exist in the container.
fn missing(program: &Path, spec: Option<&Spec>) -> String {
    let loader = "its interpreter or loader is missing";
    if program.components().count() < 2 {
        return format!("no such program in the container's PATH, or {loader}");
    }
    let no_file = format!("the container has no such file, or {loader}");
    if program.is_relative() {
        return spec.and_then(|spec| missing_relative(program, spec)).unwrap_or(no_file);
    }
    match spec.filter(|spec| shows_host(spec)).and_then(|spec| cover(program, spec)) {
        Some(mount) if program.exists() => format!(
            "the file exists on the host, but the container has its own {0}: bind the directory that \
             contains it (-v DIR:DIR)",
            mount.destination.display()
        ),
        _ => no_file,
    }
}

/// Returns the reason why a relative path does not lead to a program. Returns `None` if the program starts in
/// the caller's working directory.
fn missing_relative(program: &Path, spec: &Spec) -> Option<String> {
    let cwd = spec.process.cwd.as_deref()?;
    let here = std::env::current_dir().ok()?;
    if here == cwd {
        return None;
    }
    let (starts, dir) = (format!("the container starts in {}", cwd.display()), here.display());
    let relative = format!("the path is relative to the container's working directory, {}", cwd.display());
    Some(match cover(&here, spec) {
        _ if spec.namespaces.mnt != NamespaceMode::New => {
            format!("{relative}: name another one (-w DIR), or an absolute path")
        }
        _ if !here.join(program).exists() => format!(
            "{relative}: bind the directory that contains the program (-v DIR:DIR) and enter it (-w DIR)"
        ),
        Some(mount) => format!(
            "{starts} and has its own {}: bind the caller's directory and start there (-v {dir}:{dir} -w {dir})",
            mount.destination.display()
        ),
        None if shows_host(spec) => {
            format!("{starts}, not in the caller's directory: start it there (-w {dir})")
        }
        None => format!(
            "{starts} of its own root: bind the caller's directory and start there (-v {dir}:{dir} -w {dir})"
        ),
    })
}

/// Returns the reason why the working directory does not exist in the container.
fn missing_directory(dir: &Path, spec: Option<&Spec>) -> String {
    let new = spec.filter(|spec| spec.namespaces.mnt == NamespaceMode::New && dir.is_dir());
    let own = new.and_then(|spec| match cover(dir, spec) {
        Some(mount) => Some(mount.destination.display().to_string()),
        None if shows_host(spec) => None,
        None => Some("root".into()),
    });
    match own {
        Some(own) => format!(
            "the directory exists on the host, but the container has its own {own}: bind it (-v {0}:{0})",
            dir.display()
        ),
        None => "there is no such directory in the container: create it, or choose another one".into(),
    }
}

/// Returns whether the root shows the host's files.
fn shows_host(spec: &Spec) -> bool {
    matches!(spec.root, Root::Host | Root::HostReadOnly)
}

/// Returns the mount that hides a path of the host. A bind can show the path.
fn cover<'a>(path: &Path, spec: &'a Spec) -> Option<&'a Mount> {
    let last = spec.mounts.iter().rev().find(|mount| path.starts_with(&mount.destination));
    last.filter(|mount| !matches!(mount.kind, MountKind::Bind { .. }))
}

/// Returns the hint for a hook, like [`step`].
pub(crate) fn hook(call: Call, errno: i32) -> Option<&'static str> {
    match (call, errno) {
        (Call::Ppoll, libc::ETIMEDOUT) => Some("it took longer than its timeout and was killed"),
        _ => None,
    }
}

/// Returns the option that a file system rejected, by its number. The first option has the number
/// 1.
pub(crate) fn option(step: &Step, number: i32) -> Option<String> {
    let Step::Mount(MountStep { what: What::New { params, .. }, .. }) = step else { return None };
    let (key, value) = params.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
    let value = value.as_ref().map_or(String::new(), |value| format!("={}", value.to_string_lossy()));
    Some(format!("the file system rejects the option {}{value}", key.to_string_lossy()))
}

/// Returns the hint for the id mapping of a mount, like [`step`].
pub(crate) fn id_map(errno: i32) -> Option<String> {
    let text = match errno {
        libc::EINVAL => {
            "this kernel cannot map the ids of that file system (tmpfs: since Linux 6.3, overlayfs: since 5.19), or of a file system that is mounted below"
        }
        libc::EPERM => {
            "its ids are mapped already, or the caller lacks CAP_SYS_ADMIN in the user namespace that mounted it"
        }
        _ => return None,
    };
    Some(text.into())
}

/// Returns the names of these capabilities that the caller lacks.
fn capabilities(wanted: u64) -> String {
    let own = caps::read(None, caps::CapSet::Permitted).unwrap_or_default();
    let lacking = caps::all().into_iter().filter(|c| wanted & c.bitmask() != 0 && !own.contains(c));
    let mut names: Vec<String> = lacking.map(|c| c.to_string()).collect();
    names.sort();
    match names.is_empty() {
        true => {
            "only capabilities that the caller has can be passed on, and a change of user drops them".into()
        }
        false => {
            format!("the caller lacks {}: only capabilities that it has can be passed on", names.join(", "))
        }
    }
}

fn is_admin() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// Returns the hint for a clone into new namespaces, like [`step`].
pub(crate) fn clone(kinds: Kinds, errno: i32) -> Option<String> {
    let user = kinds.contains(Kinds::from(Kind::User));
    let text = match errno {
        libc::EPERM if user && geteuid().is_root() && !is_admin() => {
            return Some(format!(
                "new namespaces require CAP_SYS_ADMIN: {}. Without it, the kernel, a security module or the filter \
                 of that container denies a user namespace",
                how_to_get_sys_admin()
            ));
        }
        libc::EPERM if user => {
            "this host denies user namespaces to ordinary users: see `sysctl kernel.unprivileged_userns_clone` and `kernel.apparmor_restrict_unprivileged_userns`; the kernel denies them in a chroot too"
        }
        libc::EPERM => {
            let cure = how_to_get_sys_admin();
            return Some(format!(
                "new namespaces require CAP_SYS_ADMIN: {cure}, or add a new user namespace"
            ));
        }
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
                None => "the kernel rejects this combination of kinds".into(),
            });
        }
        libc::EAGAIN => {
            "a limit on processes is reached: pids.max of the cgroup or of an ancestor, RLIMIT_NPROC or `sysctl kernel.pid_max`"
        }
        libc::EBUSY => {
            "the cgroup has controllers enabled for its children, so it cannot hold processes itself"
        }
        libc::EOPNOTSUPP => "the cgroup is threaded or in an invalid domain: see its cgroup.type",
        libc::EACCES => {
            "the caller may not move processes into this cgroup: it must be able to write its cgroup.procs and that of the common ancestor"
        }
        libc::ENODEV => "the cgroup was removed in the meantime",
        libc::ENOMEM => "the host is out of memory, or the init of the pid namespace has ended",
        libc::EUSERS => "user namespaces can be nested at most 32 deep",
        _ => return None,
    };
    Some(text.into())
}

/// Returns the hint for an overlay over the host's files, like [`mount`].
fn host_root(errno: i32) -> String {
    let cause = match errno {
        libc::ENODEV => "this kernel lacks overlayfs (`modprobe overlay`)",
        libc::EPERM => "this kernel denies overlays in a user namespace (Linux 5.11 permits them)",
        libc::EINVAL => {
            "overlayfs rejects this directory, for example because it is already on two overlays: see `dmesg`"
        }
        libc::ENOENT => "the directory was removed after the plan was made",
        _ => "overlayfs rejects this directory",
    };
    format!(
        "the overlay protects the host's sockets and named pipes from the container, and {cause}: mount \
         something over it (--tmpfs DIR, -v DIR:DIR:ro), name a root (--rootfs), or let the container \
         use the sockets (--host-sockets)"
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
            "a new /proc requires that the current one is fully visible, and a new pid namespace: container runtimes mount over parts of /proc"
        }
        (_, libc::EPERM) if kernel_fs("sysfs") => {
            "a new /sys requires a new net namespace, and that the current one is fully visible"
        }
        (_, libc::EPERM) if kernel_fs("mqueue") => "a new mqueue requires a new ipc namespace",
        (Call::Mkdirat | Call::Open, libc::EROFS) => {
            "the mount point does not exist and the root is read-only: use an existing directory, or a writable root"
        }
        (Call::Openat2, libc::ENOENT) => {
            "the mount point does not exist within the root: create it there, or choose an existing one"
        }
        (Call::Openat2, libc::ELOOP) => "a symbolic link in the root is on the path, and it is not followed",
        (Call::OpenTree, libc::ENOENT) => "that path does not exist on the host",
        (Call::OpenTree, libc::EACCES) => {
            "the container's user cannot reach it: the user must be able to enter each directory of the path"
        }
        (Call::OpenTree, libc::EINVAL) if bind => {
            "mounts cover parts of it, and a user namespace may not uncover them: bind it recursively"
        }
        (Call::MoveMount, libc::ENOTDIR) => {
            "a directory can only be mounted on a directory, and a file on a file"
        }
        (Call::MountSetattr, libc::EPERM) => {
            "its flags are locked: a user namespace may not clear flags that its parent has set"
        }
        (Call::MountSetattr, libc::EINVAL) if matches!(mount.what, What::There) => "nothing is mounted there",
        (Call::Fsconfig, libc::EINVAL) => "the file system rejects its options or its source: see `dmesg`",
        (Call::Open, libc::ELOOP) if mount.copy_up != CopyUp::No => {
            "the tree to copy is more than 128 directories deep"
        }
        (Call::Sendfile | Call::Mkdirat, libc::ENOSPC) => {
            "the copy does not fit into the tmpfs: set a larger size"
        }
        (Call::Fsopen, libc::ENODEV) => "this kernel lacks that file system",
        (Call::Fstat, libc::ENODEV) => "it is not the expected device",
        (Call::Mount, libc::EINVAL) if overlay => {
            "overlayfs rejects these directories: upper and work must be on one file system that is not an overlay, and work must be empty"
        }
        (Call::Mount, libc::ENODEV) if overlay => "this kernel lacks overlayfs: `modprobe overlay`",
        (_, libc::ENOSYS) => "this requires Linux 5.12 or later",
        (_, libc::EPERM) => {
            let cure = how_to_get_sys_admin();
            return Some(format!(
                "a mount requires CAP_SYS_ADMIN in the mount namespace: {cure}, or add a new user namespace"
            ));
        }
        (_, libc::ENOSPC) => "the mount namespace has reached its limit on mounts: see `sysctl fs.mount-max`",
        _ => return None,
    };
    Some(text.into())
}
