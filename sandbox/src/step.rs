//! One variant for each action that the child takes, in the words of the kernel.
//!
//! A [`Step`] is prepared data: every string is NUL-terminated and every number
//! decided before the clone, so that the child only passes pointers on. Its
//! position in the plan is how the child names what failed.

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

/// A file descriptor that one step makes and later ones use.
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

/// How many slots there are.
pub(crate) const SLOTS: usize = 7;

/// A parameter of a file system: its key, and its value unless it is a flag.
pub type Param = (CString, Option<CString>);

/// What is mounted.
#[derive(Debug)]
pub enum What {
    /// A new instance of a file system, by `fsopen`.
    New {
        /// `proc`, `tmpfs`, `overlay` …
        fstype: CString,
        /// Parameters for `fsconfig`; a key without a value is a flag.
        params: Vec<Param>,
    },
    /// A copy of what is at `source`, by `open_tree`.
    Bind {
        /// Path on the host, or within the joined mount namespace.
        source: CString,
        /// With everything mounted below it.
        recursive: bool,
        /// The parent opens the tree before the clone and the child finds it at this
        /// place of its list: for sources that the child's mapped ids could not reach.
        tree: Option<usize>,
        /// Only if it is a device of this type (`S_IFCHR`, `S_IFBLK`) and number.
        device: Option<(u32, u64)>,
    },
    /// A new instance of a file system, by mount(2): it has options that `fsconfig` does not
    /// take, or longer ones.
    Long {
        /// `overlay` …
        fstype: CString,
        /// The device or whatever the file system takes for its source.
        source: CString,
        /// `lowerdir=…,upperdir=…,workdir=…`.
        options: CString,
        /// `MS_*`, of those that `fsconfig` has no word for.
        flags: u64,
    },
    /// A copy of what the new root has at this path, where an earlier step has mounted it.
    Inside {
        /// Path within the new root.
        source: CString,
        /// With everything mounted below it.
        recursive: bool,
    },
    /// What is already there: the mount namespace's own root.
    Here,
    /// What is already there: the mount at the destination.
    There,
}

/// What of the directory that it covers a new file system begins with a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyUp {
    /// Nothing.
    No,
    /// All that is in it.
    Contents,
    /// And its owner, mode and times.
    All,
}

/// Whether a mount may lie over a procfs. Programs trust what they find in `/proc`, and security
/// modules are told by it what a program is to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverProc {
    /// It may not, not even where a link of the image leads there.
    No,
    /// It may: one of the files that are known to be harmless, or nothing new is mounted.
    Yes,
    /// It is mounted on `/proc` itself, so it must be a procfs.
    Root,
}

/// What to make at a mount's destination when nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// Nothing: its absence is an error.
    No,
    /// A directory; for the bind of a file, an empty file.
    Dir,
    /// An empty file.
    File,
}

/// The last component of a path.
#[derive(Debug)]
pub struct Last {
    /// Of the directory that holds it, where that is not the base.
    pub within: Option<CString>,
    /// Its name there.
    pub name: CString,
}

/// A path within the new root, resolved by `openat2` so that no link in a hostile
/// image leads out of it.
#[derive(Debug)]
pub struct Dest {
    /// Where the path begins: the new root, or a kernel file system that this plan has
    /// mounted and holds, so that nobody can lead the way to it elsewhere.
    pub base: Slot,
    /// Follow no link at all on the way.
    pub no_links: bool,
    /// The path, without a leading slash (`.` is the base itself).
    pub path: CString,
    /// The end of the path, for what is put into a directory; none of the base itself.
    pub last: Option<Last>,
    /// What to make when it is missing.
    pub create: Create,
}

/// Where a mount goes.
#[derive(Debug)]
pub enum Place {
    /// Over `/` of the mount namespace: it becomes the new root.
    NewRoot,
    /// At this path of the host's, for programs that look for the new root there.
    At(CString),
    /// Within the new root.
    In(Dest),
    /// A name in a slot's directory, which this plan has made itself.
    Within(Slot, CString),
    /// Nowhere: it is only held by its descriptor.
    Detached,
}

/// A mount, by file descriptor from beginning to end.
#[derive(Debug)]
pub struct MountStep {
    /// What is mounted.
    pub what: What,
    /// Where.
    pub place: Place,
    /// Attributes of the mount.
    pub attributes: Attributes,
    /// Attributes of the mount and of all below it.
    pub recursive: Attributes,
    /// What it begins with a copy of.
    pub copy_up: CopyUp,
    /// Give the root of the new file system the mode of the directory that it covers.
    pub mode_of_covered: bool,
    /// Whether it may lie over a procfs.
    pub over_proc: OverProc,
    /// Propagation types in order: `MS_SHARED` and the like, with `MS_REC` for all below.
    pub propagation: Vec<u64>,
    /// Keep the mount's descriptor for later steps.
    pub keep: Option<Slot>,
}

/// Returns the header and the sets that capset(2) reads, in the layout of version 3: the lower halves
/// of the effective, permitted and inheritable sets, and then the upper halves.
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

/// A resource limit, as setrlimit(2) takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RlimitStep {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// A security module that labels programs, as the file of `/proc/self/attr` that takes the
/// label of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lsm {
    /// Takes `exec PROFILE`.
    AppArmor,
    /// Takes the label.
    Selinux,
}

impl Lsm {
    /// Below `/proc`.
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
        /// Of this kind.
        kind: Kind,
        /// The namespace.
        ns: OwnedFd,
        /// What it was opened from, for messages.
        from: String,
    },
    /// Join several namespaces of a process at once.
    JoinPidfd {
        /// Of these kinds.
        kinds: Kinds,
        /// The process.
        pidfd: OwnedFd,
        /// Its pid, for messages.
        pid: i32,
    },
    /// Leave namespaces for new ones.
    Unshare(Kinds),
    /// Deny setgroups(2) in the new user namespace and map one id of each sort.
    MapSelf {
        /// A line of `uid_map`.
        uid_map: CString,
        /// A line of `gid_map`.
        gid_map: CString,
    },
    /// Wait until the parent has written the id maps.
    AwaitMaps,
    /// Become these ids of the new user namespace, so that what is made belongs to them.
    Become {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Leave the caller's supplementary groups, where that is not denied.
        leave_groups: bool,
    },
    /// Set the clocks of the new time namespace.
    TimeOffsets(CString),
    /// Keep those who can see the next process from tracing it or opening its memory or
    /// its program, which are the caller's until it has become its own.
    Undumpable,
    /// Go on in a new process, a sibling of this one, which ends.
    Clone(Kinds),
    /// Join a session of its own.
    Setsid,
    /// Decide how mount events pass between this namespace and others: `MS_PRIVATE` and the
    /// like, for `/`, with `MS_REC` for all below.
    Propagation(u64),
    /// Keep what is mounted on this path from the peers of the mount that holds it.
    Private(CString),
    /// Mount.
    Mount(MountStep),
    /// Make a device node or named pipe; one that is there already may stay.
    Node {
        /// There.
        dest: Dest,
        /// Mode with the type.
        mode: u32,
        /// Device number.
        device: u64,
        /// User and group, where it is not the container's root.
        owner: Option<(u32, u32)>,
    },
    /// Make an empty file, as a place to mount a device on.
    File {
        /// In this directory.
        slot: Slot,
        /// Of this name.
        name: CString,
    },
    /// Make a symbolic link, unless something is there already.
    Symlink {
        /// There.
        dest: Dest,
        /// To this.
        target: CString,
    },
    /// Make a directory in a slot's directory.
    Mkdir {
        /// In this directory.
        slot: Slot,
        /// Of this name.
        name: CString,
        /// Permission bits.
        mode: u32,
    },
    /// Make a directory within the root, where it can be made.
    Directory(Dest),
    /// Hide what is at a path: a directory under an empty one, a file under `/dev/null`.
    Mask(Dest),
    /// Make what is at a path read-only.
    ReadOnly(Dest),
    /// Set a kernel parameter of the container's namespaces.
    Sysctl {
        /// Path below `/proc`, `sys/net/ipv4/ip_forward`.
        path: CString,
        /// The value.
        value: CString,
    },
    /// Make the new root `/` and let go of the old one.
    PivotRoot {
        /// Also make the new root itself read-only, now that everything is in place.
        readonly: bool,
        /// Mounts of the old one may be the host's as well: to let go of them must not take
        /// them from it.
        shared: bool,
    },
    /// Make the new root `/` by chroot(2), where pivot_root(2) cannot: what it covers stays in the
    /// mount namespace.
    ChangeRoot {
        /// Move it over `/` before.
        over: bool,
        /// Also make the new root itself read-only, now that everything is in place.
        readonly: bool,
        /// Mounts of procfs and sysfs to take away before. Where such a file system is visible in
        /// its mount namespace, the kernel lets a user namespace mount it anew without the masks.
        hide: Vec<CString>,
    },
    /// Make this directory `/`, by chroot(2): the root of the process that is joined.
    EnterRoot(OwnedFd),
    /// Open a terminal and make it the standard streams; the parent gets its other end.
    Terminal {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Whose it is; `u32::MAX` leaves it the caller's.
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
    /// Set how eagerly the kernel's OOM killer picks this process.
    OomScoreAdj(CString),
    /// Place the given descriptors and close all others.
    Descriptors,
    /// Make the user the owner of the standard streams that are no devices.
    GiveStreams {
        /// The user, within the container.
        uid: u32,
        /// Also files that are open only for reading.
        all: bool,
    },
    /// Have a session keyring of this name, which a later process of the container finds by
    /// it. A kernel without keyrings has none.
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
    /// Run on these processors only.
    Affinity {
        /// The processors.
        cpus: CpuList,
        /// The same, a bit each.
        mask: Vec<libc::c_ulong>,
    },
    /// Set the execution domain.
    Personality(u32),
    /// Set where memory is taken from.
    MemoryPolicy {
        /// `MPOL_*`, with `MPOL_F_*`.
        mode: u32,
        /// The nodes.
        nodes: CpuList,
        /// The same, a bit each.
        mask: Vec<libc::c_ulong>,
    },
    /// Tell a security module what the program is to run as.
    Label {
        /// This one.
        lsm: Lsm,
        /// What its file takes.
        text: CString,
    },
    /// Open the root of the container's procfs, for the stage.
    Proc {
        /// By this number.
        to: i32,
        /// The program is born into a pid namespace that is joined, so that no new procfs does.
        enters: bool,
    },
    /// Set the file mode creation mask.
    Umask(u32),
    /// Leave these capabilities out of the bounding set.
    DropBounding(u64),
    /// Keep capabilities across the change of uid.
    KeepCapabilities,
    /// Set supplementary groups, gid and uid.
    Credentials {
        /// User id within the container.
        uid: u32,
        /// Group id within the container.
        gid: u32,
        /// Supplementary groups; `None` where setgroups(2) is denied.
        groups: Option<Vec<u32>>,
    },
    /// Enter the working directory and see that it lies within the root.
    Chdir {
        /// The directory.
        path: CString,
        /// Go on where it may not be entered: [`Step::ChdirAsUser`] follows.
        again: bool,
    },
    /// The same as the program's user, unless it is entered already.
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
    /// Let no execve(2) grant privileges.
    NoNewPrivs,
    /// Load a system-call filter; the parent takes its listener, if it has one.
    Seccomp {
        /// The program.
        filter: Vec<libc::sock_filter>,
        /// `SECCOMP_FILTER_FLAG_*`.
        flags: libc::c_ulong,
    },
    /// Tell the parent that namespaces and mounts are made, and wait for its word.
    Ready,
    /// Run a program that the spec wants to be run on the way.
    Hook(Hook),
    /// Tell the parent that everything is ready, and wait to be started.
    Hold,
    /// Execute the stage, which has nothing of the caller's memory, executable, environment and
    /// descriptors: it takes the steps that follow.
    Stage(Exec),
    /// Give the program the signal state that it expects: default actions, none blocked.
    Signals,
    /// Tell the program that starts a held container that only its filter and its program are to
    /// come.
    Started,
    /// Become the program.
    Exec(Exec),
}

/// A program that is run on the way, with the container's state on standard input.
#[derive(Debug)]
pub struct Hook {
    /// Which of OCI's hooks it is, for messages.
    pub when: &'static str,
    /// Its file.
    pub path: CString,
    /// Arguments.
    pub argv: CStrings,
    /// Environment.
    pub envp: CStrings,
    /// How many seconds it has.
    pub timeout: Option<u32>,
}

/// The program that a container starts.
pub struct Exec {
    /// The program's name, for messages.
    pub name: String,
    /// Paths to try in order.
    pub candidates: Vec<CString>,
    /// A descriptor to execute instead of a path.
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

/// Strings and the NULL-terminated array of pointers to them that execve(2) takes.
pub struct CStrings {
    strings: Vec<CString>,
    /// Pointers to the heap buffers of `strings`, which never change. An `AtomicPtr` has the layout
    /// of a pointer, and may be sent to another thread.
    pointers: Vec<AtomicPtr<libc::c_char>>,
}

impl CStrings {
    /// Takes the strings and makes the array.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]);
        let pointers = pointers.map(|pointer| AtomicPtr::new(pointer.cast_mut())).collect();
        CStrings { strings, pointers }
    }

    /// The array: a pointer to each string, then NULL.
    pub fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr().cast()
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

impl fmt::Debug for CStrings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.strings.fmt(f)
    }
}
