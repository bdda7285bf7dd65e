//! The library's own profile: the calls that ordinary programs need, and the capabilities that
//! allow other calls.

use caps::Capability::{self, *};

use super::profile::{Action, Arg, Op, Profile, Rule};
use crate::arch::abis::ABIS;

/// Calls that every program may make, by subject.
const ORDINARY: &[&str] = &[
    // Files and directories.
    "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 \
     fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync file_getattr \
     file_setattr flock fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 lchown link linkat \
     lseek lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 readahead \
     readlink readlinkat rename renameat renameat2 rmdir stat statfs statx symlink symlinkat sync \
     sync_file_range syncfs truncate umask unlink unlinkat utime utimensat utimes",
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat \
     llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Reading, writing, and waiting for files.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
     eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
     io_destroy io_getevents io_pgetevents io_setup io_submit ioctl pipe pipe2 poll ppoll pread64 preadv \
     preadv2 pselect6 pwrite64 pwritev pwritev2 read readv select sendfile signalfd signalfd4 splice tee \
     vmsplice write writev",
    // Sockets, except `socket` itself.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg \
     sendmsg sendto setsockopt shutdown socketpair",
    // Memory.
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall \
     mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
     remap_file_pages",
    // System V and POSIX IPC.
    "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd \
     semctl semget semop semtimedop shmat shmctl shmdt shmget",
    // Processes and threads.
    "arch_prctl execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake \
     get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage \
     getsid gettid kill modify_ldt pause pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease ptrace \
     process_vm_readv process_vm_writev restart_syscall rseq seccomp set_robust_list set_thread_area \
     set_tid_address setpgid setpriority setrlimit setsid tgkill times tkill uname vfork wait4 waitid",
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self",
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_tgsigqueueinfo sigaltstack uretprobe",
    "ioprio_get ioprio_set sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
     sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam \
     sched_setscheduler sched_yield",
    // Identity of a process.
    "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid \
     setgroups setregid setresgid setresuid setreuid setuid",
    // Time, randomness, state of the system.
    "adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer getrandom gettimeofday \
     nanosleep setitimer sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime \
     timerfd_create timerfd_gettime timerfd_settime",
];

/// Additional calls of 32-bit programs: calls that only i386 or 32-bit ARM has. Most are the older
/// or the 64-bit form of a call above. `send` and `recv` are calls of ARM, and of i386 through
/// `socketcall`.
const NARROW: &[&str] = &[
    "_llseek _newselect arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush chown32 fadvise64_64 fchown32 \
     fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64 lchown32 lstat64 mmap2 readdir recv send sendfile64 set_tls \
     stat64 statfs64 sync_file_range2 truncate64 ugetrlimit waitpid",
    "sigaction signal sigpending sigprocmask sigreturn sigsuspend",
    "getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32 getuid32 setfsgid32 setfsuid32 setgid32 \
     setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32",
    "clock_adjtime64 clock_getres_time64 clock_gettime64 clock_nanosleep_time64 futex_time64 \
     io_pgetevents_time64 mq_timedreceive_time64 mq_timedsend_time64 ppoll_time64 pselect6_time64 \
     recvmmsg_time64 rt_sigtimedwait_time64 sched_rr_get_interval_time64 semtimedop_time64 timer_gettime64 \
     timer_settime64 timerfd_gettime64 timerfd_settime64 utimensat_time64",
];

/// Calls that require one of these capabilities. `stime`, `umount` and `clock_settime64` are 32-bit
/// calls.
const GUARDED: &[(&[Capability], &str)] = &[
    (&[CAP_DAC_READ_SEARCH], "open_by_handle_at"),
    (
        &[CAP_SYS_ADMIN],
        "clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr pivot_root \
         quotactl quotactl_fd setdomainname sethostname setns statmount swapoff swapon umount umount2 unshare",
    ),
    (&[CAP_SYS_ADMIN, CAP_BPF], "bpf"),
    (&[CAP_SYS_ADMIN, CAP_PERFMON], "perf_event_open"),
    (&[CAP_SYS_ADMIN, CAP_SYSLOG], "syslog"),
    (&[CAP_SYS_BOOT], "kexec_file_load kexec_load reboot"),
    (&[CAP_SYS_CHROOT], "chroot"),
    (&[CAP_SYS_MODULE], "delete_module finit_module init_module"),
    (&[CAP_SYS_NICE], "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"),
    (&[CAP_SYS_PACCT], "acct"),
    (&[CAP_SYS_PTRACE], "kcmp pidfd_getfd process_madvise"),
    (&[CAP_SYS_RAWIO], "ioperm iopl"),
    (&[CAP_SYS_TIME], "clock_settime clock_settime64 settimeofday stime"),
    (&[CAP_SYS_TTY_CONFIG], "vhangup"),
];

/// Flags of clone(2) that require CAP_SYS_ADMIN: mnt, cgroup, uts, ipc, user, pid and net. The time
/// namespace has no flag there.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Harmless execution domains: Linux, Linux with 32-bit `uname` (`PER_LINUX32`), each also with a
/// `uname` of version 2.6 (`UNAME26`), and the value that only queries the domain.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

pub(super) fn profile(capabilities: u64) -> Profile {
    let has = |cap: &Capability| capabilities & cap.bitmask() != 0;
    let unlocked = GUARDED.iter().filter(|(caps, _)| caps.iter().any(has)).map(|(_, names)| names);
    let names = ORDINARY.iter().chain(NARROW).chain(unlocked).flat_map(|names| names.split_whitespace());
    let mut syscalls = vec![rule(names.collect(), Action::Allow, None, vec![])];

    if !has(&CAP_SYS_ADMIN) {
        let no_namespaces = masked(NAMESPACES as u32, 0);
        syscalls.push(rule(vec!["clone"], Action::Allow, None, vec![no_namespaces]));
        syscalls.push(rule(vec!["clone3"], Action::Errno, Some(libc::ENOSYS as u16), vec![]));
    }
    for domain in PERSONALITIES {
        syscalls.push(rule(vec!["personality"], Action::Allow, None, vec![masked(u32::MAX, domain)]));
    }
    for family in [libc::AF_ALG, libc::AF_VSOCK] {
        let family = masked(u32::MAX, family as u64);
        syscalls.push(rule(vec!["socket"], Action::Errno, None, vec![family]));
    }
    syscalls.push(rule(vec!["socket"], Action::Allow, None, vec![]));
    let architectures = ABIS.iter().filter(|abi| abi.narrow).map(|abi| abi.name.to_owned()).collect();
    Profile { default_action: Action::Errno, architectures, syscalls, ..Profile::default() }
}

fn rule(names: Vec<&str>, action: Action, errno_ret: Option<u16>, args: Vec<Arg>) -> Rule {
    let names = names.into_iter().map(str::to_owned).collect();
    Rule { names, action, errno_ret, args, ..Rule::default() }
}

/// Returns a comparison of the first argument, of which the kernel reads the lower half.
fn masked(mask: u32, value: u64) -> Arg {
    Arg { index: 0, value: u64::from(mask), value_two: value, op: Op::MaskedEq }
}

/// Returns the number of a capability.
pub(super) fn capability(name: &str) -> Option<u8> {
    name.parse::<Capability>().ok().map(|cap| cap.index())
}

#[cfg(test)]
pub(super) fn all_names() -> impl Iterator<Item = &'static str> {
    let guarded = GUARDED.iter().map(|(_, names)| names);
    ORDINARY.iter().chain(NARROW).chain(guarded).flat_map(|names| names.split_whitespace())
}
