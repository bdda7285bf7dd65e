//! The likely cause of an errno from a file of a cgroup.

use nix::errno::Errno;

use crate::limits::table::Limit;

/// Returns the likely cause of an errno from a file, and the remedy.
pub(crate) fn cause(file: &str, errno: Errno) -> Option<&'static str> {
    if let Some(cause) = Limit::cause(file, errno) {
        return Some(cause);
    }
    Some(match (file, errno) {
        (_, Errno::ENODEV) => "the cgroup was removed",
        ("cgroup.subtree_control", Errno::EBUSY) => {
            "a cgroup has either processes or controllers for its children, not both: move the processes to a child first; to disable a controller, disable it in the children first"
        }
        ("cgroup.subtree_control", Errno::ENOENT) => {
            "a controller is not in cgroup.controllers of this cgroup: enable it in the parent first"
        }
        ("cgroup.subtree_control", Errno::EOPNOTSUPP) => {
            "in a threaded subtree only threaded controllers can be enabled (cpu, cpuset, pids)"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EBUSY) => {
            "this cgroup enables controllers for its children and so cannot have processes: use a child"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EOPNOTSUPP) => {
            "the cgroup is threaded or invalid (see cgroup.type): use cgroup.threads within one threaded subtree"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::EACCES | Errno::EPERM) => {
            "a move requires write access to cgroup.procs of this cgroup and of the common ancestor"
        }
        ("cgroup.procs" | "cgroup.threads", Errno::ESRCH) => "the process has ended",
        ("cgroup.procs" | "cgroup.threads", Errno::EINVAL) => {
            "neither a kernel thread that is bound to a processor nor a process outside of this pid namespace can be moved"
        }
        ("cgroup.type", Errno::EOPNOTSUPP) => {
            "the parent is an invalid domain, or this cgroup has processes or enables controllers"
        }
        ("cgroup.kill", Errno::ENOENT) => "the kernel is older than 5.14, or this is the root",
        ("cgroup.freeze", Errno::ENOENT) => "the root cannot be frozen",
        (_, Errno::EACCES | Errno::EPERM) => "the file is not delegated to the caller",
        (_, Errno::EROFS) => "cgroup2 is mounted read-only here",
        (_, Errno::ENOENT) => {
            "the cgroup was removed, its controller is not enabled here, or the kernel does not know the file"
        }
        (_, Errno::EINVAL | Errno::ERANGE) => "the kernel rejects this value for this file",
        _ => return None,
    })
}
