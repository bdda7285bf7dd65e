//! Helpers of the kernel tests: cgroups that are removed even after a failure, helper processes,
//! and skips.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Deref;
use std::process::{ChildStdout, Command, Stdio};

use cgroup_core::{Cgroup, Controllers, Hierarchy};
use nspod_testkit::Guard;

/// A cgroup of one test. Dropping it kills its processes and removes it with all cgroups below.
pub(crate) struct Own(Cgroup);

impl Own {
    pub(crate) fn new() -> Self {
        let name = nspod_testkit::unique("nspod-test");
        let root = Hierarchy::detect().unwrap().root().unwrap();
        Self(root.create_child(name).unwrap())
    }

    /// Returns a cgroup with these controllers. Returns `None` after a skip if the host lacks one.
    pub(crate) fn with(controllers: Controllers) -> Option<Self> {
        let host = Hierarchy::detect().unwrap();
        let reasons: Vec<String> =
            controllers.members().filter_map(|c| host.why_missing(c)).map(|why| why.to_string()).collect();
        if !reasons.is_empty() {
            nspod_testkit::skip(&reasons.join("; "));
            return None;
        }
        let own = Self::new();
        own.enable_path(controllers).unwrap();
        Some(own)
    }
}

impl Deref for Own {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let gone = self.0.destroy();
        if !std::thread::panicking() {
            gone.unwrap();
        }
    }
}

/// A process in a cgroup that does what it is told. It runs the ignored test `agent` of this program, which
/// prints an answer to each line of its standard input.
pub(crate) struct Agent {
    pub(crate) helper: Guard,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts the agent with these variables in its environment.
    pub(crate) fn start(cgroup: &Cgroup, vars: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "agent", "--nocapture", "--test-threads=1"]);
        command.envs(vars.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let agent = Self { helper: Guard(child), answers };
        cgroup.attach(agent.helper.pid()).unwrap();
        agent
    }

    /// Sends a request without waiting for the answer.
    pub(crate) fn tell(&mut self, request: &str) {
        writeln!(self.helper.0.stdin.as_mut().unwrap(), "{request}").unwrap();
    }

    /// Sends a request, and returns the answer.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.tell(request);
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the agent ended: {request}");
            if let Some(answer) = line.trim_end().strip_prefix("answer: ") {
                return answer.to_owned();
            }
        }
    }
}

/// Runs ignored tests of this program as a user, beside a systemd user manager that uses only the
/// cgroup `own`. Returns the output if the tests pass, and `None` after a skip if there is no
/// systemd.
///
/// The manager runs in a mount namespace with its own cgroup2 view, as process 1 would start it.
/// The session beside it belongs to root, like that of a login.
pub(crate) fn beside_systemd(own: &Own, uid: u32, tests: &[&str], vars: &[(&str, &str)]) -> Option<String> {
    if ["/usr/bin/systemd", "/usr/bin/dbus-daemon"].iter().any(|path| !std::path::Path::new(path).exists()) {
        nspod_testkit::skip("systemd and dbus are not installed (packages systemd, dbus, dbus-user-session)");
        return None;
    }
    let script = r#"
        set -e
        top=/sys/fs/cgroup/$1 uid=$2; shift 2
        mount --make-rprivate /
        umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
        mount -t tmpfs tmpfs /run
        export XDG_RUNTIME_DIR=/run/user/$uid HOME=/run/user/$uid
        mkdir -p /run/systemd/system $XDG_RUNTIME_DIR && chown $uid $XDG_RUNTIME_DIR
        as="setpriv --reuid $uid --regid $uid --clear-groups"
        echo $$ >$top/cgroup.procs
        $as systemd --user --unit=basic.target >&2 &
        mkdir $top/session-1.scope
        echo $$ >$top/session-1.scope/cgroup.procs
        i=0; until [ -S $XDG_RUNTIME_DIR/bus ]; do i=$((i+1)); [ $i -lt 600 ]; sleep 0.2; done
        exec $as env "$@"
    "#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(own.name()).arg(uid.to_string());
    command.args(vars.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg(std::env::current_exe().unwrap()).args(["--ignored", "--nocapture"]).args(tests);
    command.env_remove("DBUS_SESSION_BUS_ADDRESS").env_remove("DBUS_SYSTEM_BUS_ADDRESS");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut helper = Guard(child);
    let (mut out, mut log) = (String::new(), String::new());
    // The manager keeps the standard error open until the cgroup is destroyed.
    helper.0.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
    let status = helper.0.wait().unwrap();
    own.kill().unwrap();
    helper.0.stderr.as_mut().unwrap().read_to_string(&mut log).unwrap();
    assert!(status.success(), "{out}\n{log}");
    Some(out)
}
