//! Cases with an effect that is known. They run like the others, and the table counts them in its last column.

use nspod_faults::Case;

use crate::paths::Path;

/// A known effect.
pub(crate) struct Known {
    /// Beginning of the path's name.
    path: &'static str,
    /// Name of the call.
    call: &'static str,
    /// Beginning of the fault's name, such as `EPERM` or `kill`.
    fault: &'static str,
    /// What happens, and why it stays.
    pub(crate) reason: &'static str,
}

/// All known effects.
pub(crate) const KNOWN: &[Known] = &[
    Known {
        path: "",
        call: "execve",
        fault: "kill",
        reason: "a program that is killed while execve(2) starts it counts as one that has started: nothing \
                 distinguishes it from one that is killed immediately afterwards",
    },
    Known { path: "pod create, as a user", call: "close_range", fault: "kill", reason: HOLDER },
    Known { path: "pod create, as a user", call: "rt_sigtimedwait", fault: "kill", reason: HOLDER },
    Known { path: "oci create and start", call: "read", fault: "", reason: WAITING },
    Known { path: "oci create and start", call: "write", fault: "kill", reason: WAITING },
];

const HOLDER: &str = "the process that holds the namespaces of a user's pod can be killed after it has said that it is \
                      ready: the next command on the pod says that it has ended";
const WAITING: &str = "if the process that waits between create and start ends there, start says that the \
                       container has stopped, or that its process does not exist, without the cause";

impl Known {
    /// Returns the known effect of a case. There is none in the process `main` of the program itself.
    pub(crate) fn of(path: &Path, case: &Case, main: usize) -> Option<&'static Known> {
        if case.call.task == main {
            return None;
        }
        let name = case.to_string();
        let fault = name.rsplit('/').next().unwrap_or_default();
        KNOWN.iter().find(|known| {
            path.name.starts_with(known.path)
                && case.call.name == known.call
                && fault.starts_with(known.fault)
        })
    }
}
