//! What the tests of other people's engines on this OCI runtime have in common.

#![allow(dead_code, unreachable_pub)] // Each test file uses its share.

use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use cgroup_core::{Controllers, Hierarchy};

use crate::common::{Output, controllers, eventually, programs, run_with, unique};

/// Who runs containers by the runtime under test.
pub trait Engine {
    /// Its client with these arguments.
    fn command(&self, args: &[&str]) -> Command;

    fn call(&self, args: &[&str]) -> Output {
        run_with(&mut self.command(args), "")
    }

    /// What its client prints; it must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert_eq!(output.code(), 0, "{args:?}: {}{}", output.out, output.err);
        output.out
    }
}

/// An engine with Docker's command line, which has the image `box`.
pub trait DockerLike: Engine {
    /// What every container is run with.
    const RUN: &'static [&'static str];

    /// What a shell in a new container prints; it must succeed.
    #[track_caller]
    fn sh(&self, flags: &[&str], script: &str) -> String {
        self.ok(&[Self::RUN, &["--rm"], flags, &["box", "sh", "-c", script]].concat())
    }

    /// A container that runs this in the background.
    #[track_caller]
    fn detached(&self, flags: &[&str], command: &[&str]) -> String {
        let name = unique();
        self.ok(&[Self::RUN, &["-d", "--name", &name], flags, &["box"], command].concat());
        name
    }

    /// A container that runs a script in the background, which has come to where it says that it is ready.
    #[track_caller]
    fn ready(&self, script: &str) -> String {
        let name = self.detached(&[], &["sh", "-c", script]);
        eventually("the script is ready", || self.ok(&["logs", &name]).contains("ready"));
        name
    }

    /// A field of what is known of a container.
    #[track_caller]
    fn inspect(&self, name: &str, field: &str) -> String {
        self.ok(&["inspect", "--format", &format!("{{{{{field}}}}}"), name]).trim_end().to_owned()
    }

    #[track_caller]
    fn pid(&self, name: &str) -> u64 {
        self.inspect(name, ".State.Pid").parse().unwrap()
    }
}

/// A script that waits for the caller's window size, which an engine sets when the script runs already, says where
/// it is, and can be interrupted.
pub const AT_A_TERMINAL: &str = r#"
    trap 'echo caught; exit 5' INT
    until [ "$(stty size)" = '24 80' ]; do sleep 0.1; done
    echo $(tty) $(stty size) ready
    while :; do sleep 0.1; done"#;

/// The runtime under test. `NSPOD_TEST_RUNTIME` names another one, which shows that the tests are right.
pub fn runtime() -> PathBuf {
    std::env::var_os("NSPOD_TEST_RUNTIME").map_or(env!("CARGO_BIN_EXE_nspod-oci").into(), PathBuf::from)
}

/// Whether this host has these programs, and cgroups with the controllers of each limit; if not, the test is
/// skipped.
pub fn able(names: &[&str]) -> bool {
    if !controllers(Controllers::MEMORY | Controllers::CPU | Controllers::CPUSET | Controllers::PIDS) {
        return false;
    }
    programs(names)
}

/// A directory with an archive of a file system of busybox alone in it, `layer.tar`. Others may pass through it:
/// where ids are mapped, root of a container is nobody to the host.
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

/// Runs a script there, which must succeed; its output.
#[track_caller]
pub fn shell(dir: &Path, script: &str) -> String {
    let output = run_with(Command::new("sh").args(["-ec", script]).current_dir(dir), "");
    assert_eq!(output.code(), 0, "{script}: {}", output.err);
    output.out
}

/// Runs a script there that may wait on its standard input for the end of this process, however that ends. So
/// engines and their storage are gone after the tests, and none of them has to clean up.
pub fn until_the_end(dir: &Path, script: &str) -> ChildStdin {
    let script = format!("{script}\ncd /; rm -rf {}", dir.display());
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", &script]).current_dir(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap().stdin.take().unwrap()
}

/// The cgroup of a process.
pub fn cgroup(pid: u64) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = line.trim_end().strip_prefix("0::/").unwrap();
    Hierarchy::detect().unwrap().mount_point().unwrap().join(path)
}

/// Waits until the kernel has frozen a process, or thawed it.
#[track_caller]
pub fn wait_until_frozen(pid: u64, frozen: bool) {
    let events = cgroup(pid).join("cgroup.events");
    let line = format!("frozen {}", u8::from(frozen));
    eventually(&line, || std::fs::read_to_string(&events).unwrap().lines().any(|found| found == line));
}

/// The bounding set of this process, as `/proc` has it: all that root can have.
pub fn all_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap().to_owned()
}
