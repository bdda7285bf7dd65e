//! Debian's Docker with this OCI runtime, configured by the `daemon.json` of the README.

mod common;
mod oci;

use std::fs;
use std::path::PathBuf;
use std::process::{ChildStdin, Command};
use std::sync::LazyLock;

use common::terminal::Terminal;
use common::{eventually, run_with, unique};
use oci::{
    AT_A_TERMINAL, DockerLike, Engine, able, directory_with_layer, runtime, shell, until_the_end,
    wait_until_frozen,
};

/// A private daemon with the image `box`. Containers have only a loopback network.
struct Docker {
    dir: PathBuf,
    _end: ChildStdin,
}

fn docker() -> Option<&'static Docker> {
    static DOCKER: LazyLock<Docker> = LazyLock::new(Docker::new);
    able(&["docker", "dockerd", "containerd", "busybox"]).then(|| &*DOCKER)
}

impl Engine for Docker {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}/sock", self.dir.display()));
        command.args(args).env("DOCKER_CONFIG", &self.dir);
        command
    }
}

impl DockerLike for Docker {
    const RUN: &[&str] = &["run", "--runtime", "nspod", "--network", "none"];
}

impl Docker {
    fn new() -> Docker {
        let dir = directory_with_layer();
        fs::write(dir.join("daemon.json"), daemon_json()).unwrap();
        let end = "dockerd --config-file $PWD/daemon.json --host unix://$PWD/sock --data-root $PWD/root \
                --exec-root $PWD/run --pidfile $PWD/pid --bridge none --iptables=false --ip6tables=false \
                --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /${PWD##*/} > log 2>&1 &
            cat; docker -H unix://$PWD/sock ps -aq | xargs -r docker -H unix://$PWD/sock rm -f; kill $!; wait
            rmdir /sys/fs/cgroup/${PWD##*/}";
        let docker = Docker { _end: until_the_end(&dir, end), dir };
        eventually("dockerd answers", || docker.call(&["version"]).code() == 0);
        let layer = docker.dir.join("layer.tar");
        docker.ok(&["import", "-c", "ENV PATH=/bin", layer.to_str().unwrap(), "box"]);
        docker
    }

    /// Returns the arguments that start a container with these flags.
    fn run<'a>(flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        [Docker::RUN, flags, &["box"], command].concat()
    }
}

/// Returns the `daemon.json` of the README, with the runtime under test.
fn daemon_json() -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let section = readme.split("\n**Docker**").nth(1).unwrap();
    let json = section.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let installed = "/usr/local/bin/nspod-oci";
    assert_eq!(json.matches(installed).count(), 1);
    json.replace(installed, runtime().to_str().unwrap())
}

#[test]
fn a_command_runs_with_its_streams_and_nothing_is_left() {
    let Some(docker) = docker() else { return };
    let name = unique();
    let flags = ["--rm", "-i", "-h", "inner", "-e", "WHO=me", "-w", "/tmp", "--name", &name];
    let script = "cat; hostname; echo $WHO $$ $(pwd); echo oops >&2; cat /proc/self/cgroup";
    let output = run_with(&mut docker.command(&Docker::run(&flags, &["sh", "-c", script])), "typed\n");
    assert_eq!((output.code(), output.err.as_str()), (0, "oops\n"));
    assert_eq!(output.out, "typed\ninner\nme 1 /tmp\n0::/\n");
    assert_eq!(docker.ok(&["ps", "-aq", "--filter", &format!("name={name}")]), "");
}

#[test]
fn exit_codes_are_the_programs_own_or_say_why_it_did_not_start() {
    let Some(docker) = docker() else { return };
    let code = |command: &[&str]| docker.call(&Docker::run(&["--rm"], command)).code();
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["/etc/passwd"]), 126);
    assert_eq!(code(&["no-such-program"]), 127);
}

#[test]
fn run_and_exec_have_a_terminal_and_a_user() {
    let Some(docker) = docker() else { return };
    let name = docker.detached(&["-m", "64m"], &["sleep", "1000"]);
    let script = format!("echo $(id -u) $(pwd) $(cat /sys/fs/cgroup/memory.max); {AT_A_TERMINAL}");
    let exec = ["exec", "-it", "-u", "nobody", "-w", "/tmp", &name, "sh", "-c", &script];
    let run =
        Docker::run(&["--rm", "-it", "-u", "nobody", "-w", "/tmp", "-m", "64m"], &["sh", "-c", &script]);
    for args in [&exec[..], &run] {
        let mut terminal = Terminal::of(&docker.command(args));
        terminal.expect("65534 /tmp 67108864\r\n");
        terminal.expect("/dev/pts/0 24 80 ready\r\n");
        terminal.type_in("\x03");
        terminal.expect("caught");
        assert_eq!(terminal.end(), 5);
    }
}

#[test]
fn a_container_is_stopped_restarted_and_killed() {
    let Some(docker) = docker() else { return };
    let polite = docker.ready("trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    docker.ok(&["stop", &polite]);
    assert_eq!(docker.inspect(&polite, ".State.ExitCode"), "3");
    docker.ok(&["restart", "-t", "0", &polite]);
    assert_eq!(docker.inspect(&polite, ".State.Status"), "running");
    docker.ok(&["kill", &polite]);
    assert_eq!(docker.ok(&["wait", &polite]), "137\n");
    let deaf = docker.detached(&[], &["sleep", "1000"]);
    docker.ok(&["stop", "-t", "1", &deaf]);
    assert_eq!(docker.inspect(&deaf, ".State.ExitCode"), "137");
}

#[test]
fn a_container_is_paused_listed_and_measured() {
    let Some(docker) = docker() else { return };
    let name = docker.detached(&["-m", "64m"], &["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    eventually("there are three processes", || {
        let top = docker.ok(&["top", &name, "-o", "pid,args"]);
        let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", &name]);
        top.matches("sleep 1000\n").count() == 2 && stats.starts_with("3 ") && stats.ends_with(" / 64MiB\n")
    });
    let pid = docker.pid(&name);
    docker.ok(&["pause", &name]);
    wait_until_frozen(pid, true);
    docker.ok(&["unpause", &name]);
    wait_until_frozen(pid, false);
}

#[test]
fn limits_are_set_in_the_kernels_files_and_can_be_changed() {
    let Some(docker) = docker() else { return };
    let flags = ["-m", "64m", "--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "33"];
    let name = docker.detached(&[&flags[..], &["--ulimit", "nofile=100:200"]].concat(), &["sleep", "1000"]);
    let files = "ulimit -Sn; ulimit -Hn; cd /sys/fs/cgroup; cat memory.max cpu.max cpuset.cpus pids.max";
    let seen = || docker.ok(&["exec", &name, "sh", "-c", files]);
    assert_eq!(seen(), "100\n200\n67108864\n50000 100000\n0\n33\n");
    docker.ok(&["update", "-m", "32m", "--memory-swap", "64m", "--cpus", "0.25", &name]);
    assert_eq!(seen(), "100\n200\n33554432\n25000 100000\n0\n33\n");
    // The devices of the container are still usable.
    docker.ok(&["exec", &name, "sh", "-c", "echo x > /dev/null"]);
}

#[test]
fn the_oom_killer_is_named() {
    let Some(docker) = docker() else { return };
    let name = unique();
    let hog = "x=x; while :; do x=$x$x; done";
    let flags = ["-m", "16m", "--memory-swap", "16m", "--name", &name];
    assert_eq!(docker.call(&Docker::run(&flags, &["sh", "-c", hog])).code(), 137);
    assert_eq!(docker.inspect(&name, ".State.OOMKilled"), "true");
}

#[test]
fn capabilities_are_the_default_ones_fewer_or_all() {
    let Some(docker) = docker() else { return };
    let status = "awk '/^(CapBnd|Seccomp):/ { print $2 }' /proc/self/status";
    assert_eq!(docker.sh(&[], status), "00000000a80425fb\n2\n");
    assert_eq!(docker.sh(&["--cap-drop", "all", "--cap-add", "NET_RAW"], status), "0000000000002000\n2\n");
    // All capabilities that this version of Docker knows.
    assert_eq!(docker.sh(&["--privileged"], status), "0000003fffffffff\n0\n");
    assert_ne!(docker.call(&Docker::run(&["--rm"], &["unshare", "-U", "true"])).code(), 0);
    assert_eq!(docker.sh(&["--security-opt", "seccomp=unconfined"], "unshare -U echo made"), "made\n");
}

#[test]
fn files_are_read_only_mounted_or_devices() {
    let Some(docker) = docker() else { return };
    let touch = "touch /x 2>/dev/null || echo read-only";
    assert_eq!(docker.sh(&["--read-only"], touch), "read-only\n");
    let dir = docker.dir.join(unique());
    fs::create_dir(&dir).unwrap();
    shell(&dir, "echo from the host > file");
    let [rw, ro] = ["rw", "ro"].map(|mode| format!("{}:/{mode}:{mode}", dir.display()));
    let script = "cat /ro/file; echo from inside > /rw/file; touch /ro/x 2>/dev/null || echo read-only; \
        awk '$2 == \"/t\" { print $3 }' /proc/mounts";
    let seen = docker.sh(&["-v", &rw, "-v", &ro, "--tmpfs", "/t"], script);
    assert_eq!(seen, "from the host\nread-only\ntmpfs\n");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "from inside\n");
    let devices = "mknod /tmp/taken b 7 0; for device in /dev/given /tmp/taken; do \
        true < $device && echo $device is read; true > $device; done";
    let flags = ["--rm", "--cap-add", "syslog", "--device", "/dev/kmsg:/dev/given:r"];
    let output = docker.call(&Docker::run(&flags, &["sh", "-c", devices]));
    assert_eq!(output.out, "/dev/given is read\n");
    assert_eq!(output.err.matches("Operation not permitted\n").count(), 3, "{}", output.err);
    let sysctl = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.shm_rmid_forced=1"];
    let files = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(docker.sh(&sysctl, files), "1\n1\n");
}

#[test]
fn namespaces_are_those_of_another_container() {
    let Some(docker) = docker() else { return };
    let name = docker.detached(&["--ipc", "shareable"], &["sleep", "1000"]);
    let first = format!("container:{name}");
    let namespaces = "for kind in net ipc pid mnt; do readlink /proc/self/ns/$kind; done";
    let shared = ["run", "--rm", "--runtime", "nspod", "--network", &first, "--ipc", &first, "--pid", &first];
    let shared = docker.ok(&[&shared[..], &["box", "sh", "-c", namespaces]].concat());
    let own = docker.ok(&["exec", &name, "sh", "-c", namespaces]);
    let (shared, own): (Vec<_>, Vec<_>) = (shared.lines().collect(), own.lines().collect());
    assert_eq!(shared[..3], own[..3]);
    assert_ne!(shared[3], own[3]);
}
