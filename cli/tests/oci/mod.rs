//! Shared helpers for the tests of other projects' engines with this OCI runtime.

#![allow(dead_code, unreachable_pub)] // Each test file uses some of these helpers.

use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use cgroup_core::{Controllers, Hierarchy};

use crate::common::{OCI, Output, controllers, eventually, programs, run_with, unique};

/// An engine that uses the runtime under test.
pub trait Engine {
    /// Returns a command of the engine's client with these arguments.
    fn command(&self, args: &[&str]) -> Command;

    fn call(&self, args: &[&str]) -> Output {
        run_with(&mut self.command(args), "")
    }

    /// Returns the output of the client, which must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert_eq!(output.code(), 0, "{args:?}: {}{}", output.out, output.err);
        output.out
    }
}

/// An engine with Docker's command line, and with the image `box`.
pub trait DockerLike: Engine {
    /// Arguments that start every container.
    const RUN: &'static [&'static str];

    /// Returns the output of a shell in a new container; the shell must succeed.
    #[track_caller]
    fn sh(&self, flags: &[&str], script: &str) -> String {
        self.ok(&[Self::RUN, &["--rm"], flags, &["box", "sh", "-c", script]].concat())
    }

    /// Runs a command in a detached container.
    #[track_caller]
    fn detached(&self, flags: &[&str], command: &[&str]) -> String {
        let name = unique();
        self.ok(&[Self::RUN, &["-d", "--name", &name], flags, &["box"], command].concat());
        name
    }

    /// Runs a script in a detached container, and waits until the script prints that it is ready.
    #[track_caller]
    fn ready(&self, script: &str) -> String {
        let name = self.detached(&[], &["sh", "-c", script]);
        eventually("the script is ready", || self.ok(&["logs", &name]).contains("ready"));
        name
    }

    /// Returns a field that the engine's `inspect` prints for a container.
    #[track_caller]
    fn inspect(&self, name: &str, field: &str) -> String {
        self.ok(&["inspect", "--format", &format!("{{{{{field}}}}}"), name]).trim_end().to_owned()
    }

    #[track_caller]
    fn pid(&self, name: &str) -> u64 {
        self.inspect(name, ".State.Pid").parse().unwrap()
    }
}

/// A script for a terminal. It waits for the caller's window size, which an engine sets while the script
/// runs. Then it prints its terminal, and can be interrupted.
pub const AT_A_TERMINAL: &str = r#"
    trap 'echo caught; exit 5' INT
    until [ "$(stty size)" = '24 80' ]; do sleep 0.1; done
    echo $(tty) $(stty size) ready
    while :; do sleep 0.1; done"#;

/// Returns the runtime under test. `NSPOD_TEST_RUNTIME` names another runtime, as a control on the tests.
pub fn runtime() -> PathBuf {
    std::env::var_os("NSPOD_TEST_RUNTIME").map_or(OCI.into(), PathBuf::from)
}

/// Returns whether this host has these programs, and cgroups with the controller of each limit. If not, the
/// test is skipped.
pub fn able(names: &[&str]) -> bool {
    if !controllers(Controllers::MEMORY | Controllers::CPU | Controllers::CPUSET | Controllers::PIDS) {
        return false;
    }
    programs(names)
}

/// Creates a directory with `layer.tar`, an archive of a file system with only busybox. Other users may
/// search the directory: with mapped ids, root of a container is an unprivileged user on the host.
pub fn directory_with_layer() -> PathBuf {
    let dir = tempfile::Builder::new().prefix("nspod-oci-").tempdir().unwrap().keep();
    let script = "umask 022; chmod 755 .; mkdir -p tree/bin tree/etc tree/root; mkdir -m 1777 tree/tmp
        cp \"$(command -v busybox)\" tree/bin/busybox
        chroot tree /bin/busybox --install -s /bin
        echo from the image > tree/tmp/seed
        printf 'root:x:0:0::/root:/bin/sh\\nnobody:x:65534:65534::/:/bin/sh\\n' > tree/etc/passwd
        printf 'root:x:0:\\nnogroup:x:65534:\\n' > tree/etc/group
        tar --numeric-owner -C tree -cf layer.tar .";
    shell(&dir, script);
    dir
}

/// Runs a script in the directory and returns its output. The script must succeed.
#[track_caller]
pub fn shell(dir: &Path, script: &str) -> String {
    let output = run_with(Command::new("sh").args(["-ec", script]).current_dir(dir), "");
    assert_eq!(output.code(), 0, "{script}: {}", output.err);
    output.out
}

/// Runs a script in the directory. The script can wait on its standard input until this process ends in any
/// way. So engines and their storage are removed after the tests without explicit cleanup.
pub fn until_the_end(dir: &Path, script: &str) -> ChildStdin {
    let script = format!("{script}\ncd /; rm -rf {}", dir.display());
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", &script]).current_dir(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap().stdin.take().unwrap()
}

/// Returns the cgroup of a process.
pub fn cgroup(pid: u64) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = line.trim_end().strip_prefix("0::/").unwrap();
    Hierarchy::detect().unwrap().mount_point().unwrap().join(path)
}

/// A bandwidth of 125 bytes per second as an annotation.
pub const BANDWIDTH: &str = "kubernetes.io/egress-bandwidth=1k";
/// A script that exceeds the bandwidth: the packet that opens a connection has 60 bytes.
pub const EXCEED: &str = "for i in 1 2 3 4 5 6; do timeout 1 nc 127.0.0.1 80; done; exec sleep 1000";
/// An annotation with a rule, and a connection that it denies.
pub const DENY: &str = "org.nspod.net.deny=127.0.0.0/8:80/tcp";
pub const CONNECT: &str = "nc 127.0.0.1 80 2>&1 || true";

/// Waits until the network limit of the process has dropped a packet.
#[track_caller]
pub fn wait_until_limited(pid: u64) {
    let cgroup = cgroup_core::Cgroup::open(cgroup(pid)).unwrap();
    let dropped = || cgroup.net_usage().unwrap().expect("network limits").egress.dropped;
    eventually("a packet is dropped", || dropped() > 0);
}

/// Waits until the kernel has frozen a process, or thawed it.
#[track_caller]
pub fn wait_until_frozen(pid: u64, frozen: bool) {
    let events = cgroup(pid).join("cgroup.events");
    let line = format!("frozen {}", u8::from(frozen));
    eventually(&line, || std::fs::read_to_string(&events).unwrap().lines().any(|found| found == line));
}

/// Returns the bounding set of this process in the format of `/proc`: all capabilities that root can have.
pub fn all_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap().to_owned()
}
