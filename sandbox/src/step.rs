//! The child's instructions: one variant for each action, in the kernel's terms.
//!
//! A [`Step`] is prepared before the clone: its strings are NUL-terminated and its numbers are
//! final, so that the child only passes them to the kernel. The child reports a failed step by its
//! index.

// The module is public only with the feature `internals`.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]

mod call;
mod name;
mod words;

use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicPtr;

use cgroup_core::CpuList;
use ns_core::{Kind, Kinds};

use crate::spec::Attributes;

pub use call::Call;

/// A descriptor that one step opens and later steps use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Slot {
    /// The new root's mount.
    Root,
    /// The container's `/proc`.
    Proc,
    /// The container's `/sys`.
    Sys,
    /// The container's `/dev`.
    Dev,
    /// The container's `/dev/pts`.
    Pts,
    /// The empty read-only tmpfs that covers masked directories.
    Mask,
    /// The program's terminal.
    Terminal,
}

/// Number of slots.
pub(crate) const SLOTS: usize = 7;

/// A parameter of a file system: a key, and a value unless it is a flag.
pub type Param = (CString, Option<CString>);

/// The source of a mount.
#[derive(Debug)]
pub enum What {
    /// A new instance of a file system, by fsopen(2).
    New {
        /// File system type, for example `proc`.
        fstype: CString,
        /// Parameters for `fsconfig`; a key without a value is a flag.
        params: Vec<Param>,
    },
    /// A copy of the mount at `source`, by open_tree(2).
    Bind {
        /// Path on the host, or in the joined mount namespace.
        source: CString,
        /// Whether mounts below it are copied too.
        recursive: bool,
        /// Index in the list of trees that the parent opens before the clone. The parent opens a
        /// source if the child's mapped ids may lack the permission.
        tree: Option<usize>,
        /// Type (`S_IFCHR`, `S_IFBLK`) and number of the expected device.
        device: Option<(u32, u64)>,
    },
    /// A new instance of a file system, by mount(2): some of its options are too long for
    /// fsconfig(2) or are not supported by it.
    Long {
        /// File system type, for example `overlay`.
        fstype: CString,
        /// Source, for example a device.
        source: CString,
        /// `lowerdir=…,upperdir=…,workdir=…`.
        options: CString,
        /// `MS_*` flags that have no parameter in fsconfig(2).
        flags: u64,
    },
    /// A copy of a mount that an earlier step made in the new root.
    Inside {
        /// Path within the new root.
        source: CString,
        /// Whether mounts below it are copied too.
        recursive: bool,
    },
    /// The root of the mount namespace, which already exists.
    Here,
    /// The mount at the destination, which already exists.
    There,
}

/// The part of the covered directory that a new file system copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyUp {
    /// Nothing.
    No,
    /// The directory's contents.
    Contents,
    /// The directory's contents, owner, mode and times.
    All,
}

/// Whether a mount may cover a procfs. Programs trust the files in `/proc`, and writes there tell
/// security modules what a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverProc {
    /// The mount may not cover a procfs, even if a link of the image leads there.
    No,
    /// The mount may cover a procfs: the file is known to be harmless, or nothing new is mounted.
    Yes,
    /// The destination is `/proc` itself, and the mount must be a procfs.
    Root,
}

/// What to make at the destination of a mount if it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// Nothing: a missing destination is an error.
    No,
    /// Nothing: a mount whose source or destination is missing is left out.
    LeaveOut,
    /// A directory, or an empty file if a file is bound.
    Dir,
    /// An empty file.
    File,
}

/// The last component of a path.
#[derive(Debug)]
pub struct Last {
    /// Path of the parent directory, unless that is the base.
    pub within: Option<CString>,
    /// File name in that directory.
    pub name: CString,
}

/// A path within the new root. openat2(2) resolves the path so that no link of a hostile image
/// leads out of the root.
#[derive(Debug)]
pub struct Dest {
    /// Directory at which the path starts: the new root, or a kernel file system that the plan has
    /// mounted and holds open.
    pub base: Slot,
    /// Whether links are rejected.
    pub no_links: bool,
    /// Path without a leading slash; `.` is the base itself.
    pub path: CString,
    /// Last component, unless the path is the base itself.
    pub last: Option<Last>,
    /// What to make if it is missing.
    pub create: Create,
}

/// Where a mount is attached.
#[derive(Debug)]
pub enum Place {
    /// Over `/` of the mount namespace, as the new root.
    NewRoot,
    /// At this path of the host, as the new root, for programs that look for the root there.
    At(CString),
    /// Within the new root.
    In(Dest),
    /// A name in a slot's directory, which the plan has made.
    Within(Slot, CString),
    /// Detached: only its descriptor is kept.
    Detached,
}

/// A mount, handled by descriptor.
#[derive(Debug)]
pub struct MountStep {
    /// Source.
    pub what: What,
    /// Place.
    pub place: Place,
    /// Attributes of the mount alone.
    pub attributes: Attributes,
    /// Attributes of the mount and of all mounts below it.
    pub recursive: Attributes,
    /// What the mount copies from the directory that it covers.
    pub copy_up: CopyUp,
    /// Whether the root of the mount gets the mode of the covered directory.
    pub mode_of_covered: bool,
    /// Whether the mount may cover a procfs.
    pub over_proc: OverProc,
    /// Propagation types in order (`MS_SHARED` and so on), with `MS_REC` for the mounts below too.
    pub propagation: Vec<u64>,
    /// Slot that keeps the mount's descriptor.
    pub keep: Option<Slot>,
}

/// Returns the header and the sets that capset(2) reads, in the layout of version 3: first the
/// lower halves of the effective, permitted and inheritable sets, then the upper halves.
pub(crate) const fn capability_words(
    effective: u64,
    permitted: u64,
    inheritable: u64,
) -> ([u32; 2], [u32; 6]) {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let sets = [effective, permitted, inheritable];
    let [low, high] = [
        [sets[0] as u32, sets[1] as u32, sets[2] as u32],
        [(sets[0] >> 32) as u32, (sets[1] >> 32) as u32, (sets[2] >> 32) as u32],
    ];
    ([VERSION, 0], [low[0], low[1], low[2], high[0], high[1], high[2]])
}

/// A resource limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RlimitStep {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// A security module that labels programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lsm {
    /// AppArmor, whose file accepts `exec PROFILE`.
    AppArmor,
    /// SELinux, whose file accepts the label.
    Selinux,
}

impl Lsm {
    /// Returns the file below `/proc` that sets the label of the next program.
    pub(crate) fn file(self) -> &'static std::ffi::CStr {
        match self {
            Lsm::AppArmor => c"thread-self/attr/apparmor/exec",
            Lsm::Selinux => c"thread-self/attr/exec",
        }
    }
}

/// One action of the child.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    /// Join a namespace by its descriptor.
    JoinFd {
        /// Kind.
        kind: Kind,
        /// Namespace.
        ns: OwnedFd,
        /// Path from which it was opened, for messages.
        from: String,
    },
    /// Join several namespaces of a process at once.
    JoinPidfd {
        /// Kinds.
        kinds: Kinds,
        /// Process.
        pidfd: OwnedFd,
        /// Pid of the process, for messages.
        pid: i32,
    },
    /// Change to the user that owns the user namespace of the next step, with all capabilities.
    Owner(u32),
    /// Move into new namespaces.
    Unshare(Kinds),
    /// Deny setgroups(2) in the new user namespace, and map one user id and one group id.
    MapSelf {
        /// A line of `uid_map`.
        uid_map: CString,
        /// A line of `gid_map`.
        gid_map: CString,
    },
    /// Wait until the parent has written the id maps.
    AwaitMaps,
    /// Wait until the parent has set the network limits.
    AwaitLimits,
    /// Change to these ids of the new user namespace, so that they own the files that later steps
    /// make.
    Become {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Whether to leave the caller's supplementary groups. Ignored if setgroups(2) is denied.
        leave_groups: bool,
    },
    /// Set the clocks of the new time namespace.
    TimeOffsets(CString),
    /// Make the process undumpable until it has executed its own program. Until then its memory and
    /// executable are the caller's, and a process that sees it or the next process could trace it.
    Undumpable,
    /// Continue in a new process, a sibling of this one, and end this one.
    Clone(Kinds),
    /// Start a session.
    Setsid,
    /// Set the propagation of `/` (`MS_PRIVATE` and so on), with `MS_REC` for all mounts below too.
    Propagation(u64),
    /// Make the mount that holds this path private.
    Private(CString),
    /// Mount.
    Mount(MountStep),
    /// Make a device node or a named pipe. An existing one may stay.
    Node {
        /// Path.
        dest: Dest,
        /// Mode, with the file type.
        mode: u32,
        /// Device number.
        device: u64,
        /// User and group, unless they are the container's root.
        owner: Option<(u32, u32)>,
    },
    /// Make an empty file, to mount a device on.
    File {
        /// Directory.
        slot: Slot,
        /// Name.
        name: CString,
    },
    /// Make a symbolic link, unless the path already exists.
    Symlink {
        /// Path.
        dest: Dest,
        /// Target.
        target: CString,
    },
    /// Make a directory in a slot's directory.
    Mkdir {
        /// Directory.
        slot: Slot,
        /// Name.
        name: CString,
        /// Permission bits.
        mode: u32,
        /// User and group, unless they are the container's root. If they cannot be set, root owns the
        /// directory.
        owner: Option<(u32, u32)>,
    },
    /// Make a directory within the root, if that is possible.
    Directory(Dest),
    /// Cover a path: a directory with an empty one, a file with `/dev/null`.
    Mask(Dest),
    /// Make a path read-only.
    ReadOnly(Dest),
    /// Set a kernel parameter of the container's namespaces.
    Sysctl {
        /// Path below `/proc`, for example `sys/net/ipv4/ip_forward`.
        path: CString,
        /// Value.
        value: CString,
    },
    /// Make the new root `/` by pivot_root(2), and unmount the old root.
    PivotRoot {
        /// Whether to make the mount of the new root read-only afterwards.
        readonly: bool,
        /// Whether the host may share mounts of the old root, so that they must stay mounted there.
        shared: bool,
    },
    /// Make the new root `/` by chroot(2), if pivot_root(2) is not possible. The mounts that it
    /// covers stay in the mount namespace.
    ChangeRoot {
        /// Whether to mount the new root over `/` first.
        over: bool,
        /// Whether to make the mount of the new root read-only afterwards.
        readonly: bool,
        /// Mounts of procfs and sysfs to unmount first. If such a file system were visible in the
        /// mount namespace, the kernel would let a user namespace mount a new one without the
        /// masks.
        hide: Vec<CString>,
    },
    /// Make the root of the joined process `/`, by chroot(2).
    EnterRoot(OwnedFd),
    /// Open a terminal and make it the standard streams. The parent gets its other side.
    Terminal {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Owner; `u32::MAX` means the caller.
        owner: u32,
    },
    /// Make standard input the controlling terminal.
    ControllingTerminal,
    /// Mount the terminal on the container's `/dev/console`.
    Console(Dest),
    /// Set the host name.
    Hostname(CString),
    /// Set the NIS domain name.
    Domainname(CString),
    /// Bring up `lo`.
    Loopback,
    /// Set a resource limit.
    Rlimit(RlimitStep),
    /// Set `oom_score_adj`, which the OOM killer adds to this process's score.
    OomScoreAdj(CString),
    /// Place the given descriptors and close all others.
    Descriptors,
    /// Make the user the owner of the standard streams that are not devices.
    GiveStreams {
        /// User id within the container.
        uid: u32,
        /// Whether files that are open only for reading are included.
        all: bool,
    },
    /// Join or make a session keyring of this name, so that later processes of the container find
    /// it. Ignored on a kernel without keyrings.
    Keyring(CString),
    /// Set the scheduling policy.
    Scheduler(libc::sched_attr),
    /// Set class and level of I/O.
    IoPriority {
        /// `IOPRIO_CLASS_*`.
        class: u8,
        /// 0 to 7.
        level: u8,
    },
    /// Set the processors that the program may run on.
    Affinity {
        /// Processors.
        cpus: CpuList,
        /// The same processors, one bit for each.
        mask: Vec<libc::c_ulong>,
    },
    /// Set the execution domain.
    Personality(u32),
    /// Set the NUMA memory policy.
    MemoryPolicy {
        /// `MPOL_*`, with `MPOL_F_*`.
        mode: u32,
        /// Nodes.
        nodes: CpuList,
        /// The same nodes, one bit for each.
        mask: Vec<libc::c_ulong>,
    },
    /// Set the label that a security module gives the program.
    Label {
        /// Security module.
        lsm: Lsm,
        /// Text for the module's file.
        text: CString,
    },
    /// Open the root of the container's procfs, for the stage.
    Proc {
        /// Number of the descriptor.
        to: i32,
        /// Whether the program starts in a joined pid namespace. A new procfs would not show that
        /// namespace.
        enters: bool,
    },
    /// Set the file mode creation mask.
    Umask(u32),
    /// Remove capabilities from the bounding set, one bit for each.
    DropBounding(u64),
    /// Keep capabilities across the change of user.
    KeepCapabilities,
    /// Set supplementary groups, gid and uid.
    Credentials {
        /// User id within the container.
        uid: u32,
        /// Group id within the container.
        gid: u32,
        /// Supplementary groups, or `None` if setgroups(2) is denied.
        groups: Option<Vec<u32>>,
    },
    /// Enter the working directory, and check that it is within the root.
    Chdir {
        /// Directory.
        path: CString,
        /// Whether to continue if the caller may not enter it, because [`Step::ChdirAsUser`]
        /// follows.
        again: bool,
    },
    /// Enter the working directory as the program's user, unless the process has entered it
    /// already.
    ChdirAsUser(CString),
    /// Set the effective, permitted and inheritable sets.
    Capabilities {
        /// Effective set.
        effective: u64,
        /// Permitted set.
        permitted: u64,
        /// Inheritable set.
        inheritable: u64,
    },
    /// Set the ambient set.
    Ambient(u64),
    /// Set no_new_privs: execve(2) grants no privileges.
    NoNewPrivs,
    /// Load a system-call filter. The parent receives its listener, if it has one.
    Seccomp {
        /// Instructions.
        filter: Vec<libc::sock_filter>,
        /// `SECCOMP_FILTER_FLAG_*`.
        flags: libc::c_ulong,
    },
    /// Report that namespaces and mounts exist, and wait for the parent.
    Ready,
    /// Run a hook.
    Hook(Hook),
    /// Report that everything is ready, and wait to be started.
    Hold,
    /// Execute the stage. It performs the following steps in a process that shares no memory,
    /// executable, environment or descriptors with the caller.
    Stage(Exec),
    /// Unblock all signals.
    Signals,
    /// Report to the program that starts a held container that only the filter and the exec of the
    /// program remain.
    Started,
    /// Execute the program.
    Exec(Exec),
}

/// One action of a start, in the child. Its [`Display`](fmt::Display) names the action and its object,
/// for example `set the host name box`.
#[derive(Debug, Clone, Copy)]
pub struct PlannedStep<'a>(pub(crate) &'a Step);

impl fmt::Display for PlannedStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hook, with the container's state on standard input.
#[derive(Debug)]
pub struct Hook {
    /// Name of the hook's stage in OCI, for messages.
    pub when: &'static str,
    /// Path.
    pub path: CString,
    /// Arguments.
    pub argv: CStrings,
    /// Environment.
    pub envp: CStrings,
    /// Timeout in seconds.
    pub timeout: Option<u32>,
}

/// The program that a container starts.
pub struct Exec {
    /// The program's name, for messages.
    pub name: String,
    /// Paths, tried in order.
    pub candidates: Vec<CString>,
    /// Descriptor to execute instead of a path.
    pub file: Option<OwnedFd>,
    /// Arguments.
    pub argv: CStrings,
    /// Environment.
    pub envp: CStrings,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("candidates", &self.candidates).field("argv", &self.argv).finish()
    }
}

/// Strings, and the NULL-terminated array of pointers to them that execve(2) reads.
pub struct CStrings {
    strings: Vec<CString>,
    /// Pointers to the heap buffers of `strings`, which never change. An `AtomicPtr` has the layout
    /// of a pointer, and can be sent to another thread.
    pointers: Vec<AtomicPtr<libc::c_char>>,
}

impl CStrings {
    /// Makes the array.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]);
        let pointers = pointers.map(|pointer| AtomicPtr::new(pointer.cast_mut())).collect();
        CStrings { strings, pointers }
    }

    /// Returns the array: a pointer to each string, then NULL.
    pub fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr().cast()
    }

    /// Returns the strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

impl fmt::Debug for CStrings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.strings.fmt(f)
    }
}
