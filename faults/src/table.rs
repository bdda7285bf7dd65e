//! The plausible errnos of each system call.

use nix::errno::Errno::{self, EACCES, EAGAIN, EBUSY, EINTR, EIO, EMFILE, ENOMEM, ENOSPC, ENOSYS, EPERM};

/// Returns the errnos that are plausible for a call with these arguments. Empty if the call is left out.
pub(crate) fn errnos(name: &str, arguments: [u64; 6]) -> &'static [Errno] {
    let flags = |at: usize, flags: i32| arguments[at] & flags as u64 != 0;
    match name {
        // The kernel always returns a result. These calls only read or replace a value of the process.
        "getpid" | "getppid" | "gettid" | "getuid" | "geteuid" | "getgid" | "getegid" | "umask" => &[],
        "set_tid_address" | "set_robust_list" | "rseq" | "arch_prctl" | "sched_yield" => &[],
        // They do not return.
        "exit" | "exit_group" | "rt_sigreturn" => &[],
        // The descriptor is closed in every case, and no caller could do anything about it.
        "close" => &[],
        // They fail only for invalid arguments, which are constants here.
        "rt_sigaction" | "rt_sigprocmask" | "sigaltstack" | "uname" | "sysinfo" | "madvise" => &[],
        "clock_gettime" | "getgroups" | "getsid" | "getpgid" | "sched_getaffinity" => &[],
        // The allocator makes them. The Rust runtime aborts a program that has no memory.
        "brk" | "munmap" | "mremap" => &[],
        "mmap" if flags(3, libc::MAP_SHARED | libc::MAP_STACK) => &[ENOMEM, EPERM],
        "mmap" => &[],
        "mprotect" => &[ENOMEM],
        // A wait for another thread of the same program.
        "futex" => &[],
        // A debug build checks each descriptor before it is closed. The flags of an open descriptor can always be
        // read and changed.
        "fcntl" if (1..=3).contains(&arguments[1]) => &[],
        "fcntl" => &[EPERM, EMFILE, EINTR, EBUSY],

        "open" | "openat" | "openat2" => &[EPERM, ENOMEM, EMFILE, EINTR, EIO],
        "read" | "pread64" | "readv" | "preadv" => &[EINTR, EIO, ENOMEM],
        "write" | "pwrite64" | "writev" | "pwritev" => &[ENOSPC, EINTR, EIO, EBUSY, EPERM],
        "getdents64" => &[ENOMEM, EIO, EINTR],
        "fstat" | "stat" | "lstat" | "newfstatat" | "fstatfs" | "statfs" | "lseek" => &[ENOMEM, EIO],
        "statx" => &[ENOMEM, EIO, ENOSYS],
        "access" | "faccessat" => &[EACCES, EIO],
        "faccessat2" => &[EACCES, EIO, ENOSYS],
        "readlink" | "readlinkat" | "getcwd" => &[ENOMEM, EACCES],
        "chdir" | "fchdir" | "chroot" => &[EPERM, ENOMEM, EIO],
        "mkdir" | "mkdirat" | "mknod" | "mknodat" | "symlink" | "symlinkat" | "link" | "linkat" => {
            &[EPERM, ENOMEM, ENOSPC, EIO]
        }
        "unlink" | "unlinkat" | "rmdir" => &[EPERM, EBUSY, EIO],
        "rename" | "renameat" | "renameat2" => &[EPERM, ENOSPC, EBUSY],
        "chmod" | "fchmod" | "fchmodat" | "chown" | "fchown" | "fchownat" => &[EPERM, ENOSPC, EIO],
        "ftruncate" | "fallocate" | "fsync" | "fdatasync" | "sendfile" => &[ENOSPC, EIO, EINTR],
        "flock" => &[EINTR, ENOMEM],
        "dup" | "dup2" | "dup3" => &[EMFILE, EBUSY, EINTR],
        "close_range" => &[EMFILE, ENOMEM, ENOSYS],
        "ioctl" => &[EPERM, EIO, ENOMEM],

        "pipe2" | "eventfd2" | "epoll_create1" | "signalfd4" | "memfd_create" => &[EMFILE, ENOMEM],
        "pidfd_open" => &[EMFILE, ENOMEM, EPERM, ENOSYS],
        "socket" | "socketpair" => &[EPERM, EMFILE, ENOMEM],
        "bind" | "connect" | "setsockopt" | "getsockopt" | "accept4" => &[EPERM, ENOMEM, EINTR],
        "recvmsg" | "recvfrom" | "sendmsg" | "sendto" => &[EINTR, ENOMEM, EPERM],
        "poll" | "ppoll" | "epoll_wait" | "epoll_pwait" => &[EINTR, ENOMEM],
        "epoll_ctl" => &[ENOMEM, ENOSPC],

        // ENOSPC is the limit of user.max_*_namespaces, and EAGAIN that of processes.
        "clone3" => &[EPERM, ENOMEM, ENOSPC, EAGAIN, EBUSY, ENOSYS],
        "clone" | "fork" | "vfork" => &[EPERM, ENOMEM, ENOSPC, EAGAIN],
        "execve" | "execveat" => &[EPERM, ENOMEM, EAGAIN, EIO],
        "unshare" | "setns" => &[EPERM, ENOMEM, ENOSPC],
        "wait4" | "waitid" => &[EINTR],
        "kill" | "tkill" | "tgkill" | "pidfd_send_signal" => &[EPERM],
        "nanosleep" | "clock_nanosleep" => &[EINTR],
        "rt_sigtimedwait" => &[EINTR, EAGAIN],
        "getrandom" => &[EINTR, EPERM, ENOSYS],

        // ENOSPC is the limit of fs.mount-max.
        "mount" | "move_mount" | "open_tree" | "pivot_root" => &[EPERM, ENOMEM, EBUSY, ENOSPC],
        "fsopen" | "fsmount" | "fspick" => &[EPERM, ENOMEM, EMFILE],
        "fsconfig" => &[EPERM, ENOMEM, EBUSY],
        "mount_setattr" => &[EPERM, ENOMEM, ENOSYS],
        "umount" | "umount2" => &[EPERM, EBUSY],

        // A filter of an outer sandbox can deny each of them with EPERM.
        "prctl" | "capget" | "capset" | "setsid" | "setpgid" | "prlimit64" => &[EPERM],
        "sethostname" | "setdomainname" | "personality" | "setpriority" | "sched_setaffinity" => &[EPERM],
        "setresuid" => &[EPERM, EAGAIN],
        "setresgid" | "setgroups" => &[EPERM, ENOMEM],
        "seccomp" => &[EPERM, ENOMEM],
        "bpf" => &[EPERM, ENOMEM, ENOSYS],
        "keyctl" | "add_key" => &[EPERM, ENOMEM, ENOSYS],

        _ => &[EPERM, ENOMEM],
    }
}
