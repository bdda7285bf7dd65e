//! Debian's containerd with this OCI runtime, through `ctr run --runc-binary`.

mod common;
mod oci;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::process::{ChildStdin, Command};
use std::sync::LazyLock;
use std::thread;

use common::terminal::Terminal;
use common::{Output, eventually, run_with, unique};
use oci::{
    AT_A_TERMINAL, BANDWIDTH, CONNECT, DENY, EXCEED, Engine, able, all_capabilities, cgroup,
    directory_with_layer, runtime, shell, until_the_end, wait_until_frozen, wait_until_limited,
};

const IMAGE: &str = "localhost/box:latest";

/// A private containerd with the image.
struct Containerd {
    dir: PathBuf,
    _end: ChildStdin,
}

fn containerd() -> Option<&'static Containerd> {
    static CONTAINERD: LazyLock<Containerd> = LazyLock::new(Containerd::new);
    able(&["containerd", "containerd-shim-runc-v2", "ctr", "busybox"]).then(|| &*CONTAINERD)
}

impl Engine for Containerd {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.dir.join("sock")).args(args);
        command
    }
}

impl Containerd {
    fn new() -> Containerd {
        let dir = directory_with_layer();
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[debug]\nlevel = \"warn\"\n",
            at("root"),
            at("state"),
            at("sock")
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        // With --uidmap, `ctr run` ignores --runc-binary, and the shim runs the program named runc.
        fs::create_dir(dir.join("bin")).unwrap();
        symlink(runtime(), dir.join("bin/runc")).unwrap();
        let end = "PATH=$PWD/bin:$PATH containerd -c config.toml > log 2>&1 &
            cat; for task in $(ctr -a $PWD/sock task ls -q); do ctr -a $PWD/sock task rm -f $task; done; kill $!; wait";
        let containerd = Containerd { _end: until_the_end(&dir, end), dir };
        // The format in which `docker save` writes an image.
        let script = r#"
            id=$(sha256sum layer.tar | cut -d ' ' -f 1)
            env='"Env": ["PATH=/bin"]'
            echo "{\"architecture\": \"amd64\", \"os\": \"linux\", \"config\": {$env},
                \"rootfs\": {\"type\": \"layers\", \"diff_ids\": [\"sha256:$id\"]}}" > config.json
            echo '[{"Config": "config.json", "RepoTags": ["localhost/box:latest"], "Layers": ["layer.tar"]}]' > manifest.json
            tar -cf image.tar manifest.json config.json layer.tar"#;
        shell(&containerd.dir, script);
        eventually("containerd answers", || containerd.call(&["version"]).code() == 0);
        containerd.ok(&["image", "import", containerd.dir.join("image.tar").to_str().unwrap()]);
        containerd
    }

    /// Runs a command in a new container.
    fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Output {
        let runtime = runtime().display().to_string();
        let args = [&["run", "--runc-binary", &runtime], flags, &[IMAGE, id], command].concat();
        self.call(&args)
    }

    /// Returns the output of a shell in a new container; the shell must succeed.
    #[track_caller]
    fn sh(&self, flags: &[&str], script: &str) -> String {
        let output = self.run(&[&["--rm"], flags].concat(), &unique(), &["sh", "-c", script]);
        assert_eq!((output.code(), output.err.as_str()), (0, ""), "{}", output.out);
        output.out
    }

    /// Starts a container in the background. Returns its name and pid.
    #[track_caller]
    fn detached(&self, flags: &[&str]) -> (String, u64) {
        let id = unique();
        let output = self.run(&[&["-d"], flags].concat(), &id, &["sleep", "1000"]);
        assert_eq!((output.code(), output.err.as_str()), (0, ""), "{}", output.out);
        let pid = self.task(&id)[1].parse().unwrap();
        (id, pid)
    }

    /// Returns the row of the container in the list of tasks: name, pid, state.
    #[track_caller]
    fn task(&self, id: &str) -> Vec<String> {
        let list = self.ok(&["task", "ls"]);
        let row = list.lines().map(|line| line.split_whitespace()).find(|row| row.clone().next() == Some(id));
        row.unwrap_or_else(|| panic!("{list}")).map(str::to_owned).collect()
    }

    /// Creates a directory that containers can mount.
    fn volume(&self) -> PathBuf {
        let dir = self.dir.join(unique());
        fs::create_dir(&dir).unwrap();
        dir
    }
}

#[test]
fn a_command_runs_with_its_streams_and_exit_code_and_nothing_is_left() {
    let Some(containerd) = containerd() else { return };
    let id = unique();
    let flags = ["--rm", "--env", "WHO=me", "--cwd", "/tmp"];
    let script = "head -n 1; echo $WHO $$ $(pwd); echo oops >&2; exit 7";
    let runtime = runtime().display().to_string();
    let args = [&["run", "--runc-binary", &runtime], &flags[..], &[IMAGE, &id, "sh", "-c", script]].concat();
    let output = run_with(&mut containerd.command(&args), "typed\n");
    assert_eq!((output.code(), output.out.as_str()), (7, "typed\nme 1 /tmp\n"), "{}", output.err);
    assert_eq!(output.err, "oops\n");
    assert!(!containerd.ok(&["container", "ls", "-q"]).lines().any(|line| line == id));
}

#[test]
fn a_missing_program_is_named() {
    let Some(containerd) = containerd() else { return };
    let output = containerd.run(&["--rm"], &unique(), &["no-such-program"]);
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.err.contains("no-such-program"), "{output:?}");
}

#[test]
fn exec_has_a_user_and_a_terminal() {
    let Some(containerd) = containerd() else { return };
    let (id, pid) = containerd.detached(&["--memory-limit", "67108864"]);
    let exec = ["task", "exec", "--exec-id", "one", "--user", "nobody", "--cwd", "/tmp"];
    let output = containerd.call(&[&exec[..], &[&id, "sh", "-c", "id -u; pwd; exit 4"]].concat());
    assert_eq!((output.code(), output.out.as_str()), (4, "65534\n/tmp\n"), "{}", output.err);
    let exec = ["task", "exec", "--exec-id", "two", "--tty", &id, "sh", "-c", AT_A_TERMINAL];
    let mut terminal = Terminal::of(&containerd.command(&exec));
    terminal.expect("/dev/pts/0 24 80 ready\r");
    let procs = cgroup(pid).join("cgroup.procs");
    assert!(fs::read_to_string(procs).unwrap().lines().count() > 1);
    terminal.type_in("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.end(), 5);
}

#[test]
fn annotations_limit_the_network() {
    let Some(containerd) = containerd() else { return };
    // The loopback interface of a new network namespace is down.
    let denied = containerd.sh(&["--net-host", "--annotation", DENY], CONNECT);
    assert!(denied.contains("Operation not permitted"), "{denied}");
    let id = unique();
    let output = containerd.run(&["-d", "--net-host", "--annotation", BANDWIDTH], &id, &["sh", "-c", EXCEED]);
    assert_eq!(output.code(), 0, "{output:?}");
    wait_until_limited(containerd.task(&id)[1].parse().unwrap());
}

#[test]
fn run_has_a_terminal() {
    let Some(containerd) = containerd() else { return };
    let (id, runtime) = (unique(), runtime().display().to_string());
    let run = ["run", "--rm", "--tty", "--runc-binary", &runtime, IMAGE, &id, "sh", "-c", AT_A_TERMINAL];
    let mut terminal = Terminal::of(&containerd.command(&run));
    terminal.expect("/dev/pts/0 24 80 ready\r");
    terminal.type_in("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.end(), 5);
}

#[test]
fn metrics_and_processes_are_the_cgroups() {
    let Some(containerd) = containerd() else { return };
    let (id, pid) = containerd.detached(&["--memory-limit", "67108864"]);
    let metrics = containerd.ok(&["task", "metrics", &id]);
    let metric = |name: &str| -> u64 {
        let row = metrics.lines().find(|line| line.split_whitespace().next() == Some(name));
        row.and_then(|row| row.split_whitespace().last()?.parse().ok()).unwrap_or_else(|| panic!("{metrics}"))
    };
    assert_eq!((metric("memory.usage_limit"), metric("pids.current")), (67_108_864, 1));
    assert!(metric("memory.usage") > 0 && metric("cpu.usage_usec") > 0, "{metrics}");
    let processes = containerd.ok(&["task", "ps", &id]);
    let pids: Vec<_> = processes.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(pids, [pid.to_string()]);
}

#[test]
fn pause_freezes_and_resume_thaws() {
    let Some(containerd) = containerd() else { return };
    let (id, pid) = containerd.detached(&[]);
    wait_until_frozen(pid, false);
    containerd.ok(&["task", "pause", &id]);
    assert_eq!(containerd.task(&id)[2], "PAUSED");
    wait_until_frozen(pid, true);
    containerd.ok(&["task", "resume", &id]);
    assert_eq!(containerd.task(&id)[2], "RUNNING");
    wait_until_frozen(pid, false);
}

#[test]
fn kill_sends_any_signal_to_one_or_to_all() {
    let Some(containerd) = containerd() else { return };
    let (id, volume) = (unique(), containerd.volume());
    let mount = format!("type=bind,src={},dst=/mnt,options=rbind:rw", volume.display());
    let script = "trap 'echo caught; exit 3' USR1; touch /mnt/ready; while :; do sleep 0.1; done";
    let output = thread::scope(|scope| {
        let run = scope.spawn(|| containerd.run(&["--rm", "--mount", &mount], &id, &["sh", "-c", script]));
        eventually("the trap is set", || volume.join("ready").exists() || run.is_finished());
        containerd.call(&["task", "kill", "-s", "SIGUSR1", &id]);
        run.join().unwrap()
    });
    assert_eq!((output.code(), output.out.as_str()), (3, "caught\n"), "{}", output.err);
    let (id, pid) = containerd.detached(&[]);
    let cgroup = cgroup(pid);
    containerd.ok(&["task", "kill", "--all", "-s", "SIGKILL", &id]);
    eventually("it has stopped", || containerd.task(&id)[2] == "STOPPED");
    let removed = containerd.call(&["task", "rm", &id]);
    assert!(removed.err.contains("exit with non-zero exit code 137"), "{removed:?}");
    assert!(!cgroup.exists());
}

#[test]
fn memory_limit_ends_the_hog() {
    let Some(containerd) = containerd() else { return };
    let flags = ["--rm", "--memory-limit", "16777216"];
    let hog = containerd.run(&flags, &unique(), &["sh", "-c", "x=x; while :; do x=$x$x; done"]);
    assert_eq!((hog.code(), hog.out.as_str()), (137, ""), "{}", hog.err);
}

#[test]
fn limits_are_set_in_the_cgroup() {
    let Some(containerd) = containerd() else { return };
    let (_, pid) = containerd.detached(&["--memory-limit", "33554432", "--cpus", "0.5"]);
    let files = shell(&cgroup(pid), "cat memory.max cpu.max");
    assert_eq!(files, "33554432\n50000 100000\n");
}

#[test]
fn seccomp_is_containerds_default_profile() {
    let Some(containerd) = containerd() else { return };
    let script = "grep Seccomp: /proc/self/status; unshare -U id -u 2>&1; true";
    let seen = containerd.sh(&["--seccomp"], script);
    assert_eq!(seen, "Seccomp:\t2\nunshare: unshare(0x10000000): Operation not permitted\n");
    assert_eq!(containerd.sh(&[], script), "Seccomp:\t0\n65534\n");
}

#[test]
fn mounts_are_shared_as_requested() {
    let Some(containerd) = containerd() else { return };
    let (rw, ro) = (containerd.volume(), containerd.volume());
    fs::write(ro.join("file"), "from outside\n").unwrap();
    let bind = |dir: &PathBuf, to: &str, access: &str| {
        format!("type=bind,src={},dst={to},options=rbind:{access}", dir.display())
    };
    let flags = [
        "--mount",
        &bind(&rw, "/rw", "rw"),
        "--mount",
        &bind(&ro, "/ro/deep", "ro"),
        "--mount",
        "type=tmpfs,src=tmpfs,dst=/t,options=size=1m:mode=700",
    ];
    let script = "cat /ro/deep/file; ! touch /ro/deep/file 2>&1; echo written > /rw/file; stat -c %a /t; df -k /t | tail -n 1 | tr -s ' ' | cut -d ' ' -f 1,2";
    let seen = containerd.sh(&flags, script);
    assert_eq!(seen, "from outside\ntouch: /ro/deep/file: Read-only file system\n700\ntmpfs 1024\n");
    assert_eq!(fs::read_to_string(rw.join("file")).unwrap(), "written\n");
}

#[test]
fn privileged_has_all_rights_of_root() {
    let Some(containerd) = containerd() else { return };
    let script = "grep CapEff /proc/self/status; true < /dev/kmsg && echo opened; mount -t tmpfs none /root && grep -c ' /root tmpfs ' /proc/mounts; echo mine > /proc/sys/kernel/domainname && echo written; true";
    let seen = containerd.sh(&["--privileged"], script);
    assert_eq!(seen, format!("CapEff:\t{}\nopened\n1\nwritten\n", all_capabilities()));
    let plain = containerd.run(&["--rm"], &unique(), &["sh", "-c", script]);
    assert_eq!((plain.code(), plain.out.as_str()), (0, "CapEff:\t00000000a80425fb\n"), "{}", plain.err);
}

#[test]
fn ids_are_mapped() {
    let Some(containerd) = containerd() else { return };
    let volume = containerd.volume();
    shell(&volume, "chown 100000 .");
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", volume.display());
    let flags = ["--uidmap", "0:100000:1000", "--gidmap", "0:200000:1000", "--mount", &mount];
    let script =
        "touch /data/file; id -u; stat -c %u:%g /bin/busybox; cat /proc/self/uid_map /proc/self/gid_map";
    let seen = containerd.sh(&flags, script);
    let words: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(words, ["0", "0:0", "0", "100000", "1000", "0", "200000", "1000"]);
    let file = fs::metadata(volume.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (100_000, 200_000));
}
