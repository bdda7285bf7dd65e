//! Hosts that lack something: descriptors, space, a writable state directory, namespaces, `/proc` or `/sys`.

use crate::paths::{PATHS, Path};

/// What a host lacks.
pub(crate) struct Environment {
    pub(crate) name: String,
    /// The script before the command, in the mount namespace of the test.
    pub(crate) enter: String,
    /// The script of the command, which runs `$TRACED` with eval.
    pub(crate) wrap: String,
    /// Removes what `enter` made.
    pub(crate) leave: &'static str,
    /// A line of the report that this environment changes begins with this text.
    pub(crate) changes: &'static str,
    /// Names of the paths.
    of: &'static [&'static str],
}

const STARTS: &[&str] = &["run", "run -d", "pod create", "oci run", "oci create and start"];
/// Without a redirection, for which the shell needs descriptors.
const PLAIN_STARTS: &[&str] = &["run", "run -d", "pod create", "oci run"];
const OF_ROOT: &[&str] = &["run", "oci run"];
const OF_USER: &[&str] = &["run, as a user"];
const NO_LEAVE: &str = "";

/// Returns all environments.
pub(crate) fn all() -> Vec<Environment> {
    let mut all = Vec::new();
    let plain = |name: String, wrap: &str, of| Environment {
        name,
        enter: String::new(),
        wrap: wrap.to_owned(),
        leave: NO_LEAVE,
        changes: "\0",
        of,
    };
    for count in (5..=38).step_by(3) {
        let environment = plain(
            format!("{count} descriptors"),
            &format!("ulimit -n {count}; eval \"$TRACED\""),
            PLAIN_STARTS,
        );
        all.push(Environment { changes: "Max open files", ..environment });
    }
    let states = |options: &str, fill: &str| {
        format!(
            "for dir in /run/nspod /run/oci; do mkdir -p $dir; mount -t tmpfs -o mode=700,{options} none $dir; {fill}; done"
        )
    };
    // A state directory has its own directory of logs, which stays empty.
    let leave =
        "$N prune; umount /run/nspod /run/oci; rmdir /run/oci /run/nspod /run/logs/* 2>/dev/null; true";
    for inodes in 1..=5 {
        let environment = plain(format!("{inodes} inodes for the state"), "eval \"$TRACED\"", STARTS);
        all.push(Environment { enter: states(&format!("nr_inodes={inodes}"), ":"), leave, ..environment });
    }
    let full = plain("no space for the state".into(), "eval \"$TRACED\"", STARTS);
    let fill = "dd if=/dev/zero of=$dir/.full bs=4k count=4 2>/dev/null || true";
    all.push(Environment { enter: states("size=4k", fill), leave, ..full });
    let read_only = plain("a read-only state directory".into(), "eval \"$TRACED\"", STARTS);
    all.push(Environment { enter: states("ro", ":"), leave, ..read_only });
    for kind in ["mnt", "net", "pid", "ipc", "uts", "cgroup"] {
        let wrap = format!(
            "unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/max_{kind}_namespaces && eval \"$TRACED\"'"
        );
        all.push(plain(format!("user.max_{kind}_namespaces at 0"), &wrap, OF_ROOT));
    }
    let mounted = |name: &str, mount: &str, of| {
        let wrap = format!("unshare --mount sh -c '{mount} && eval \"$TRACED\"'");
        plain(name.to_owned(), &wrap, of)
    };
    all.push(mounted("an empty /proc", "mount -t tmpfs none /proc", OF_ROOT));
    all.push(mounted("an empty /sys", "mount -t tmpfs none /sys", OF_ROOT));
    all.push(mounted("hidepid=2", "mount -t proc -o hidepid=2 none /proc", OF_USER));
    all.push(mounted("hidepid=2 for root", "mount -t proc -o hidepid=2 none /proc", OF_ROOT));
    all
}

impl Environment {
    /// Returns the paths that are tried in this environment.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &'static Path> + '_ {
        PATHS.iter().filter(|path| self.of.contains(&path.name))
    }
}
