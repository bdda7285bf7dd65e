//! The likely cause of an errno.

use nix::errno::Errno;

use crate::limits::table::Limit;

/// What to do about an errno of one of a cgroup's files.
pub(crate) fn cause(file: &str, errno: Errno) -> Option<&'static str> {
    if let Some(cause) = Limit::cause(file, errno) {
        return Some(cause);
    }
    Some(match (file, errno) {
        (_, Errno::ENODEV) => "the cgroup was removed",
        ("cgroup.subtree_control", Errno::EBUSY) => {
            "a cgroup either holds processes or hands controllers down, not both: move them to a child first; or a child still hands down what is to be disabled"
        }
        ("cgroup.subtree_control", Errno::ENOENT) => {
            "a controller is not in this cgroup's cgroup.controllers: enable it in the parent first"
        }
        ("cgroup.subtree_control", Errno::EOPNOTSUPP) => {
            "in a threaded subtree only threaded controllers can be enabled (cpu, cpuset, pids)"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EBUSY) => {
            "this cgroup hands controllers down to children, so no process may sit in it: use a child"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EOPNOTSUPP) => {
            "the cgroup is threaded or invalid (see cgroup.type): use cgroup.threads within one threaded subtree"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EACCES | Errno::EPERM) => {
            "moving takes write access to cgroup.procs here and in the common ancestor"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::ESRCH) => "the process has ended",
        ("cgroup.procs" | "cgroup.threads", Errno::EINVAL) => {
            "kernel threads bound to a processor cannot be moved, nor pid 0 of another pid namespace"
        }
        ("cgroup.type", Errno::EOPNOTSUPP) => {
            "the parent is an invalid domain, or this cgroup has processes or controllers enabled"
        }
        ("cgroup.kill", Errno::ENOENT) => "the kernel is older than 5.14, or this is the root",
        ("cgroup.freeze", Errno::ENOENT) => "the root cannot be frozen",
        (_, Errno::EACCES | Errno::EPERM) => "the file is not delegated to the caller",
        (_, Errno::EROFS) => "cgroup2 is mounted read-only here",
        (_, Errno::ENOENT) => {
            "the cgroup was removed, its controller is not enabled here, or the kernel does not know the file"
        }
        (_, Errno::EINVAL | Errno::ERANGE) => "the kernel does not take this value for this file",
        _ => return None,
    })
}
