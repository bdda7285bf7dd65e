//! Which system call of a step failed.

/// The system call of a step that failed, as the child reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Call {
    Unknown = 0,
    Setns,
    Unshare,
    Clone3,
    Open,
    Openat2,
    Write,
    Read,
    Mkdirat,
    Mknodat,
    Symlinkat,
    Mount,
    Umount2,
    OpenTree,
    Fsopen,
    Fsconfig,
    Fsmount,
    MoveMount,
    MountSetattr,
    PivotRoot,
    Fchmodat,
    Chdir,
    Fchdir,
    Getcwd,
    Fstat,
    Sethostname,
    Setdomainname,
    Socket,
    Ioctl,
    Sendmsg,
    Prlimit,
    Fcntl,
    Dup3,
    CloseRange,
    Prctl,
    Capset,
    Setgroups,
    Setresgid,
    Setresuid,
    Seccomp,
    Setsid,
    Execve,
    Execveat,
    Sigprocmask,
    Clone,
    Lseek,
    Ppoll,
    Kill,
    Wait4,
    Fchownat,
    Utimensat,
    Readlinkat,
    Getdents,
    Sendfile,
}

impl Call {
    const ALL: &'static [(Call, &'static str)] = &[
        (Call::Unknown, "?"),
        (Call::Setns, "setns"),
        (Call::Unshare, "unshare"),
        (Call::Clone3, "clone3"),
        (Call::Open, "openat"),
        (Call::Openat2, "openat2"),
        (Call::Write, "write"),
        (Call::Read, "read"),
        (Call::Mkdirat, "mkdirat"),
        (Call::Mknodat, "mknodat"),
        (Call::Symlinkat, "symlinkat"),
        (Call::Mount, "mount"),
        (Call::Umount2, "umount2"),
        (Call::OpenTree, "open_tree"),
        (Call::Fsopen, "fsopen"),
        (Call::Fsconfig, "fsconfig"),
        (Call::Fsmount, "fsmount"),
        (Call::MoveMount, "move_mount"),
        (Call::MountSetattr, "mount_setattr"),
        (Call::PivotRoot, "pivot_root"),
        (Call::Fchmodat, "fchmodat"),
        (Call::Chdir, "chdir"),
        (Call::Fchdir, "fchdir"),
        (Call::Getcwd, "getcwd"),
        (Call::Fstat, "fstat"),
        (Call::Sethostname, "sethostname"),
        (Call::Setdomainname, "setdomainname"),
        (Call::Socket, "socket"),
        (Call::Ioctl, "ioctl"),
        (Call::Sendmsg, "sendmsg"),
        (Call::Prlimit, "prlimit"),
        (Call::Fcntl, "fcntl"),
        (Call::Dup3, "dup3"),
        (Call::CloseRange, "close_range"),
        (Call::Prctl, "prctl"),
        (Call::Capset, "capset"),
        (Call::Setgroups, "setgroups"),
        (Call::Setresgid, "setresgid"),
        (Call::Setresuid, "setresuid"),
        (Call::Seccomp, "seccomp"),
        (Call::Setsid, "setsid"),
        (Call::Execve, "execve"),
        (Call::Execveat, "execveat"),
        (Call::Sigprocmask, "rt_sigprocmask"),
        (Call::Clone, "clone"),
        (Call::Lseek, "lseek"),
        (Call::Ppoll, "ppoll"),
        (Call::Kill, "kill"),
        (Call::Wait4, "wait4"),
        (Call::Fchownat, "fchownat"),
        (Call::Utimensat, "utimensat"),
        (Call::Readlinkat, "readlinkat"),
        (Call::Getdents, "getdents64"),
        (Call::Sendfile, "sendfile"),
    ];

    /// The call's name in the manual.
    pub fn name(self) -> &'static str {
        Call::ALL.iter().find(|(c, _)| *c == self).map_or("?", |(_, n)| n)
    }

    /// Where in a report's value, above the errno, the number of the option stands that a
    /// file system refuses, counted from 1.
    pub(crate) const OPTION: u32 = 16;

    /// The call with this number in a report.
    pub(crate) fn from_u8(n: u8) -> Call {
        Call::ALL.iter().find(|(c, _)| *c as u8 == n).map_or(Call::Unknown, |(c, _)| *c)
    }
}
