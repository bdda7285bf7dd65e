//! Debian's podman with this OCI runtime.

mod common;
mod oci;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command};
use std::sync::LazyLock;

use common::terminal::Terminal;
use common::{eventually, run_with, skip, unique};
use oci::{
    AT_A_TERMINAL, BANDWIDTH, CONNECT, DENY, DockerLike, EXCEED, Engine, able, all_capabilities, cgroup,
    directory_with_layer, runtime, shell, until_the_end, wait_until_frozen, wait_until_limited,
};

/// Podman with private storage that contains the image `box`. Containers have only a loopback network.
struct Podman {
    dir: PathBuf,
    _end: ChildStdin,
}

/// The user that runs podman.
#[derive(PartialEq)]
enum Caller {
    Root,
    /// The user nobody, with a range of ids from 100000 on.
    User,
}

fn podman() -> Option<&'static Podman> {
    static PODMAN: LazyLock<Podman> = LazyLock::new(|| Podman::of(Caller::Root));
    able(&["podman", "conmon", "busybox"]).then(|| &*PODMAN)
}

fn podman_of_user() -> Option<Podman> {
    able(&["podman", "conmon", "busybox", "newuidmap"]).then(|| Podman::of(Caller::User))
}

impl Engine for Podman {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join("podman"));
        command.args(args);
        command
    }
}

impl DockerLike for Podman {
    const RUN: &[&str] = &["run"];
}

impl Podman {
    fn of(caller: Caller) -> Podman {
        let dir = directory_with_layer();
        let runtime = dir.join(runtime().file_name().unwrap());
        // Another process writes the executable: a concurrent fork in this process would keep it open.
        shell(&dir, &format!("cp {} {}", oci::runtime().display(), runtime.display()));
        // The option that --cgroups=disabled requires has another name in podman 4 than in its manual.
        let conf = "[containers]\nnetns = \"none\"\n[network]\nnetwork_backend = \"netavark\"\n\
            [engine]\nruntime_supports_json = [\"crun\", \"runc\", \"nspod-oci\"]\n\
            runtime_supports_nocgroup = [\"crun\", \"nspod-oci\"]\n";
        fs::write(dir.join("containers.conf"), conf).unwrap();
        let script = format!(
            r#"#!/bin/sh
            set -e
            export D={dir} CONTAINERS_CONF={dir}/containers.conf
            set -- podman --root $D/root --runroot $D/run --tmpdir $D/tmp --storage-driver overlay \
                --cgroup-manager cgroupfs --events-backend none --runtime {runtime} "$@"
            [ $(stat -c %u $D) != 0 ] || exec "$@"
            export USER=nobody HOME=$D XDG_RUNTIME_DIR=$D/runtime
            exec unshare --mount --propagation private sh -ec '
                mount --bind $D/subids /etc/subuid
                mount --bind $D/subids /etc/subgid
                exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"' sh "$@"
            "#,
            dir = dir.display(),
            runtime = runtime.display()
        );
        fs::write(dir.join("script"), script).unwrap();
        shell(&dir, "cp script podman; chmod +x podman; echo nobody:100000:65536 > subids");
        if caller == Caller::User {
            shell(&dir, "mkdir runtime; chown 65534:65534 . runtime");
        }
        // The last command kills the process that holds an ordinary user's namespaces.
        let end = "cat; for what in 'pod rm -fa -t 0' 'rm -fa -t 0' 'system migrate'; do ./podman $what; done
            umount root/overlay";
        let podman = Podman { _end: until_the_end(&dir, end), dir };
        let layer = podman.dir.join("layer.tar");
        podman.ok(&["import", "-q", "-c", "ENV PATH=/bin", layer.to_str().unwrap(), "box"]);
        podman
    }

    /// Recreates the cgroup of a pod without processes. This version of podman leaves a device filter on the
    /// cgroup: containers of podman cannot use devices there, and other runtimes cannot start containers
    /// there.
    fn renew_cgroup_of_pod(&self, pod: &str) {
        let path = self.ok(&["pod", "inspect", "--format", "{{.CgroupPath}}", pod]);
        let mount_point = cgroup_core::Hierarchy::detect().unwrap().mount_point().unwrap().to_owned();
        fs::remove_dir(mount_point.join(path.trim().trim_start_matches('/'))).unwrap();
    }

    /// Creates a directory that containers can use as a volume.
    fn volume(&self) -> PathBuf {
        let dir = self.dir.join(unique());
        fs::create_dir(&dir).unwrap();
        dir
    }
}

#[test]
fn a_command_runs_with_its_streams_and_nothing_is_left() {
    let Some(podman) = podman() else { return };
    let name = unique();
    let args = ["run", "--rm", "-i", "-h", "inner", "--name", &name, "box", "sh", "-c"];
    let script = "cat; hostname; echo $$; echo oops >&2; echo /proc/1/cgroup; cat /proc/self/cgroup";
    let output = run_with(&mut podman.command(&[&args[..], &[script]].concat()), "typed\n");
    assert_eq!((output.code(), output.err.as_str()), (0, "oops\n"));
    assert_eq!(output.out, "typed\ninner\n1\n/proc/1/cgroup\n0::/\n");
    assert_eq!(podman.call(&["container", "exists", &name]).code(), 1);
}

#[test]
fn build_runs_the_steps_of_a_file_and_the_runtime_prints_nothing() {
    let Some(podman) = podman() else { return };
    let image = unique();
    let dir = podman.volume();
    let file = "FROM box\nRUN echo built > /made\nUSER 1000\nRUN echo to-stdout && echo to-dev-stdout > /dev/stdout\n";
    fs::write(dir.join("Containerfile"), file).unwrap();
    let output = podman.call(&["build", "--network", "none", "-t", &image, dir.to_str().unwrap()]);
    assert_eq!(output.code(), 0, "{output:?}");
    for line in ["to-stdout", "to-dev-stdout"] {
        assert!(output.out.lines().any(|out| out == line), "{output:?}");
    }
    let said = output.err.to_lowercase();
    assert!(!said.contains("warn") && !said.contains("capabilities"), "{output:?}");
    assert_eq!(podman.ok(&["run", "--rm", &image, "cat", "/made"]), "built\n");
    podman.ok(&["rmi", "-f", &image]);
}

#[test]
fn exit_codes_are_the_programs_own_or_say_why_it_did_not_start() {
    let Some(podman) = podman() else { return };
    let code = |command: &[&str]| podman.call(&[&["run", "--rm", "box"], command].concat()).code();
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["/etc/passwd"]), 126);
    assert_eq!(code(&["no-such-program"]), 127);
}

#[test]
fn a_detached_container_is_listed_and_waited_for() {
    let Some(podman) = podman() else { return };
    let go = podman.volume();
    let volume = format!("{}:/go", go.display());
    let name =
        podman.detached(&["-v", &volume], &["sh", "-c", "until [ -e /go/on ]; do sleep 0.1; done; exit 4"]);
    let filter = format!("name={name}");
    let list = ["ps", "--format", "{{.Status}}", "--filter", &filter];
    assert!(podman.ok(&list).starts_with("Up "));
    fs::write(go.join("on"), "").unwrap();
    assert_eq!(podman.ok(&["wait", &name]), "4\n");
    assert_eq!(podman.ok(&list), "");
}

#[test]
fn exec_has_a_terminal_and_a_user() {
    let Some(podman) = podman() else { return };
    let name = podman.detached(&["-m", "64m"], &["sleep", "1000"]);
    let script =
        format!("echo $(id -u):$(id -g) $(pwd) $WHO $(cat /sys/fs/cgroup/memory.max); {AT_A_TERMINAL}");
    let exec = ["exec", "-it", "-u", "nobody", "-w", "/tmp", "-e", "WHO=me", &name, "sh", "-c", &script];
    let mut terminal = Terminal::of(&podman.command(&exec));
    terminal.expect("65534:65534 /tmp me 67108864\r\n");
    terminal.expect("/dev/pts/0 24 80 ready\r\n");
    terminal.type_in("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.end(), 5);
    assert_eq!(podman.call(&["exec", &name, "no-such-program"]).code(), 127);
}

#[test]
fn run_has_a_terminal() {
    let Some(podman) = podman() else { return };
    let mut terminal = Terminal::of(&podman.command(&["run", "-it", "box", "sh", "-c", AT_A_TERMINAL]));
    terminal.expect("/dev/pts/0 24 80 ready\r\n");
    terminal.type_in("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.end(), 5);
}

#[test]
fn stop_terminates_and_then_kills() {
    let Some(podman) = podman() else { return };
    let polite = podman.ready("trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    podman.ok(&["stop", &polite]);
    assert_eq!(podman.inspect(&polite, ".State.ExitCode"), "3");
    let deaf = podman.detached(&[], &["sleep", "1000"]);
    podman.ok(&["stop", "-t", "1", &deaf]);
    assert_eq!(podman.inspect(&deaf, ".State.ExitCode"), "137");
}

#[test]
fn restart_starts_a_new_process_in_the_same_files() {
    let Some(podman) = podman() else { return };
    let name = podman.detached(&[], &["sh", "-c", "echo x >> /starts; sleep 1000"]);
    let before = podman.pid(&name);
    podman.ok(&["restart", "-t", "0", &name]);
    assert_ne!(podman.pid(&name), before);
    assert_eq!(podman.inspect(&name, ".State.Status"), "running");
    eventually("it has started twice", || podman.ok(&["exec", &name, "cat", "/starts"]) == "x\nx\n");
}

#[test]
fn pause_freezes_and_unpause_thaws() {
    let Some(podman) = podman() else { return };
    let name = podman.detached(&[], &["sleep", "1000"]);
    let pid = podman.pid(&name);
    wait_until_frozen(pid, false);
    podman.ok(&["pause", &name]);
    assert_eq!(podman.inspect(&name, ".State.Status"), "paused");
    wait_until_frozen(pid, true);
    podman.ok(&["unpause", &name]);
    assert_eq!(podman.inspect(&name, ".State.Status"), "running");
    wait_until_frozen(pid, false);
}

#[test]
fn top_lists_the_processes() {
    let Some(podman) = podman() else { return };
    let name = podman.detached(&["--user", "nobody"], &["sleep", "1000"]);
    let top = podman.ok(&["top", &name, "pid", "user", "args"]);
    let rows: Vec<Vec<&str>> = top.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [vec!["PID", "USER", "COMMAND"], vec!["1", "nobody", "sleep", "1000"]]);
}

#[test]
fn stats_are_those_of_the_container() {
    let Some(podman) = podman() else { return };
    let name = podman.detached(&["-m", "64m"], &["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    eventually("there are three processes", || {
        let stats = podman.ok(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", &name]);
        stats.starts_with("3 ") && stats.ends_with(" / 67.11MB\n") && !stats.starts_with("3 0B")
    });
}

#[test]
fn logs_keep_both_streams() {
    let Some(podman) = podman() else { return };
    let name = podman.detached(&[], &["sh", "-c", "echo one; echo two >&2; echo three"]);
    podman.ok(&["wait", &name]);
    let logs = podman.call(&["logs", &name]);
    assert_eq!((logs.code(), logs.out.as_str(), logs.err.as_str()), (0, "one\nthree\n", "two\n"));
}

#[test]
fn kill_sends_any_signal() {
    let Some(podman) = podman() else { return };
    let name = podman.ready("trap 'echo caught' USR1; echo ready; while :; do sleep 0.1; done");
    podman.ok(&["kill", "-s", "USR1", &name]);
    eventually("the signal is caught", || podman.ok(&["logs", &name]).contains("caught"));
    podman.ok(&["kill", &name]);
    assert_eq!(podman.ok(&["wait", &name]), "137\n");
    assert_eq!(podman.inspect(&name, ".State.OOMKilled"), "false");
}

#[test]
fn the_oom_killer_is_named() {
    let Some(podman) = podman() else { return };
    let name = unique();
    let hog = "cat /sys/fs/cgroup/memory.max; x=x; while :; do x=$x$x; done";
    let limit = ["-m", "16m", "--memory-swap", "16m"];
    podman.ok(&[&["create", "--name", &name], &limit[..], &["box", "sh", "-c", hog]].concat());
    // This version of conmon records the OOM in its working directory, but podman expects the record in the
    // container's directory.
    let mut start = podman.command(&["start", "-a", &name]);
    let hog = run_with(start.current_dir(podman.inspect(&name, ".StaticDir")), "");
    assert_eq!((hog.code(), hog.out.as_str()), (137, "16777216\n"), "{}", hog.err);
    assert_eq!(podman.inspect(&name, ".State.OOMKilled"), "true");
    assert_eq!(podman.inspect(&name, ".State.ExitCode"), "137");
}

#[test]
fn cpus_set_a_quota() {
    let Some(podman) = podman() else { return };
    assert_eq!(podman.sh(&["--cpus", "0.5"], "cat /sys/fs/cgroup/cpu.max"), "50000 100000\n");
}

#[test]
fn cpuset_cpus_restrict_the_processors() {
    let Some(podman) = podman() else { return };
    assert_eq!(podman.sh(&["--cpuset-cpus", "0"], "cat /sys/fs/cgroup/cpuset.cpus; nproc"), "0\n1\n");
}

#[test]
fn pids_limit_stops_a_fork_bomb() {
    let Some(podman) = podman() else { return };
    let bomb = "cat /sys/fs/cgroup/pids.max; for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done";
    let bomb = podman.call(&["run", "--rm", "--pids-limit", "8", "box", "sh", "-c", bomb]);
    assert_eq!(bomb.out, "8\n");
    assert!(bomb.code() != 0 && bomb.err.contains("can't fork"), "{bomb:?}");
}

#[test]
fn update_changes_a_live_container() {
    let Some(podman) = podman() else { return };
    let name = podman.detached(&["-m", "64m", "--pids-limit", "20"], &["sleep", "1000"]);
    podman.ok(&["update", "-m", "32m", "--cpus", "0.25", &name]);
    let files = "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max";
    assert_eq!(podman.ok(&["exec", &name, "sh", "-c", files]), "33554432\n25000 100000\n20\n");
}

#[test]
fn annotations_limit_the_network() {
    let Some(podman) = podman() else { return };
    let denied = podman.sh(&["--annotation", DENY], CONNECT);
    assert!(denied.contains("Operation not permitted"), "{denied}");
    let name = podman.detached(&["--annotation", BANDWIDTH], &["sh", "-c", EXCEED]);
    wait_until_limited(podman.pid(&name));
}

#[test]
fn ulimits_are_set() {
    let Some(podman) = podman() else { return };
    let flags = ["--ulimit", "nofile=100:200", "--ulimit", "core=0:0"];
    assert_eq!(podman.sh(&flags, "ulimit -Sn; ulimit -Hn; ulimit -c"), "100\n200\n0\n");
}

#[test]
fn capabilities_are_the_default_ones_fewer_or_others() {
    let Some(podman) = podman() else { return };
    let script = "grep Cap /proc/self/status; chown 1 /root && echo changed || true";
    let sets = |held: &str| {
        format!("CapInh:\t{0:016}\nCapPrm:\t{held}\nCapEff:\t{held}\nCapBnd:\t{held}\nCapAmb:\t{0:016}\n", 0)
    };
    // These are podman's defaults.
    assert_eq!(podman.sh(&[], script), sets("00000000a80425fb") + "changed\n");
    let others =
        podman.call(&["run", "--rm", "--cap-drop=all", "--cap-add=net_raw", "box", "sh", "-c", script]);
    assert_eq!(others.out, sets("0000000000002000"));
    assert_eq!(others.err, "chown: /root: Operation not permitted\n");
}

#[test]
fn a_read_only_root_leaves_tmp() {
    let Some(podman) = podman() else { return };
    let script = "! touch /file 2>&1; cat /tmp/seed; echo changed > /tmp/seed; cat /tmp/seed";
    let seen = podman.sh(&["--read-only"], script);
    assert_eq!(seen, "touch: /file: Read-only file system\nfrom the image\nchanged\n");
}

#[test]
fn volumes_are_shared_as_requested() {
    let Some(podman) = podman() else { return };
    let (rw, ro) = (podman.volume(), podman.volume());
    fs::write(ro.join("script"), "#!/bin/sh\necho executed\n").unwrap();
    shell(&ro, "chmod +x script");
    let flags = [
        format!("-v={}:/rw:noexec", rw.display()),
        format!("-v={}:/ro:ro", ro.display()),
        format!("-v={}:/tmp", unique()),
    ];
    let script = "echo written > /rw/file; /ro/script; ! touch /ro/file 2>&1; cp /ro/script /rw; ! /rw/script 2>&1; cat /tmp/seed";
    let seen = podman.sh(&flags.each_ref().map(String::as_str), script);
    let want = "executed\ntouch: /ro/file: Read-only file system\nsh: /rw/script: Permission denied\nfrom the image\n";
    assert_eq!(seen, want);
    assert_eq!(fs::read_to_string(rw.join("file")).unwrap(), "written\n");
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    let Some(podman) = podman() else { return };
    let script = "stat -c %a /t; df -k /t | tail -n 1 | tr -s ' ' | cut -d' ' -f1,2; ! dd if=/dev/zero of=/t/x bs=1M count=2 2> /dev/null; stat -c %s /t/x";
    let seen = podman.sh(&["--tmpfs", "/t:size=1m,mode=700"], script);
    assert_eq!(seen, "700\ntmpfs 1024\n1048576\n");
}

#[test]
fn ids_are_mapped() {
    let Some(podman) = podman() else { return };
    let volume = podman.volume();
    shell(&volume, "chown 100000 .");
    let mount = format!("{}:/data", volume.display());
    let flags = ["--uidmap", "0:100000:1000", "--gidmap", "0:200000:1000", "-v", &mount];
    let script = "touch /data/file; id -u; stat -c %u:%g /bin/busybox; cat /proc/self/uid_map /proc/self/gid_map; ls -ld /proc/1/exe | cut -c 1-10";
    let seen = podman.sh(&flags, script);
    let words: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(words, ["0", "0:0", "0", "100000", "1000", "0", "200000", "1000", "lrwxrwxrwx"]);
    let file = fs::metadata(volume.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (100_000, 200_000));
}

#[test]
fn only_the_given_devices_work() {
    let Some(podman) = podman() else { return };
    let args = ["run", "--rm", "--cap-add=syslog", "--device=/dev/kmsg:/dev/given:r", "box", "sh", "-c"];
    let script = "mknod /dev/taken b 7 0; for device in given taken; do true < /dev/$device && echo $device is read; true > /dev/$device; done";
    let output = podman.call(&[&args[..], &[script]].concat());
    assert_eq!(output.out, "given is read\n");
    let refused = "sh: can't create /dev/given: Operation not permitted\n\
        sh: can't open /dev/taken: Operation not permitted\n\
        sh: can't create /dev/taken: Operation not permitted\n";
    assert_eq!(output.err, refused);
}

#[test]
fn privileged_has_all_rights_of_root() {
    let Some(podman) = podman() else { return };
    let script = "grep -E 'CapEff|Seccomp:' /proc/self/status; true < /dev/kmsg && echo opened; mount -t tmpfs none /root && grep -c ' /root tmpfs ' /proc/mounts; echo mine > /proc/sys/kernel/domainname && echo written; true";
    let all = all_capabilities();
    let seen = podman.sh(&["--privileged"], script);
    assert_eq!(seen, format!("CapEff:\t{all}\nSeccomp:\t0\nopened\n1\nwritten\n"));
    let plain = podman.call(&["run", "--rm", "box", "sh", "-c", script]);
    assert_eq!(plain.out, "CapEff:\t00000000a80425fb\nSeccomp:\t2\n", "{}", plain.err);
}

#[test]
fn the_default_seccomp_profile_is_in_force() {
    let Some(podman) = podman() else { return };
    // Only the filter prevents this for root of a user namespace.
    let script = "grep Seccomp: /proc/self/status; unshare -Uru sh -c 'hostname renamed && hostname'";
    let filtered = podman.call(&["run", "--rm", "box", "sh", "-c", script]);
    assert_eq!((filtered.code(), filtered.out.as_str()), (1, "Seccomp:\t2\n"));
    assert_eq!(filtered.err, "hostname: sethostname: Operation not permitted\n");
    assert_eq!(podman.sh(&["--security-opt", "seccomp=unconfined"], script), "Seccomp:\t0\nrenamed\n");
}

#[test]
fn a_seccomp_profile_decides_the_errno() {
    let Some(podman) = podman() else { return };
    let profile = podman.volume().join("profile.json");
    let rule = r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}"#;
    fs::write(&profile, format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#)).unwrap();
    let option = format!("seccomp={}", profile.display());
    let made = podman.call(&["run", "--rm", "--security-opt", &option, "box", "mkdir", "/made"]);
    assert_eq!(
        (made.code(), made.err.as_str()),
        (1, "mkdir: can't create directory '/made': No space left on device\n")
    );
}

#[test]
fn sysctls_are_set_in_the_container() {
    let Some(podman) = podman() else { return };
    let flags = ["--sysctl", "kernel.shm_rmid_forced=1", "--sysctl", "net.ipv4.ip_default_ttl=42"];
    let files = "cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_default_ttl";
    let host = shell("/".as_ref(), files);
    assert_ne!(host, "1\n42\n");
    assert_eq!(podman.sh(&flags, files), "1\n42\n");
    assert_eq!(shell("/".as_ref(), files), host);
}

#[test]
fn an_init_reaps() {
    let Some(podman) = podman() else { return };
    let script = "cat /proc/1/comm; orphan=$(sh -c 'sleep 0.1 > /dev/null & echo $!'); while [ -d /proc/$orphan ]; do sleep 0.1; done; echo reaped";
    assert_eq!(podman.sh(&["--init"], script), "podman-init\nreaped\n");
}

#[test]
fn a_health_check_runs_inside() {
    let Some(podman) = podman() else { return };
    let flags = ["--health-cmd", "test -e /healthy", "--health-interval", "disable", "--health-retries", "1"];
    let name = podman.detached(&flags, &["sleep", "1000"]);
    assert_eq!(podman.call(&["healthcheck", "run", &name]).code(), 1);
    assert_eq!(podman.inspect(&name, ".State.Health.Status"), "unhealthy");
    podman.ok(&["exec", &name, "touch", "/healthy"]);
    podman.ok(&["healthcheck", "run", &name]);
    assert_eq!(podman.inspect(&name, ".State.Health.Status"), "healthy");
}

#[test]
fn a_network_namespace_is_joined_by_its_path() {
    let Some(podman) = podman() else { return };
    let name = unique();
    shell("/".as_ref(), &format!("ip netns add {name}; ip -n {name} link add mine type veth"));
    let seen = podman.call(&[
        "run",
        "--rm",
        "--network",
        &format!("ns:/run/netns/{name}"),
        "box",
        "ls",
        "/sys/class/net",
    ]);
    shell("/".as_ref(), &format!("ip netns del {name}"));
    assert!(seen.out.contains("mine\n"), "{seen:?}");
}

#[test]
fn containers_of_a_pod_talk_over_localhost() {
    let Some(podman) = podman() else { return };
    let (pod, site) = (unique(), podman.volume());
    fs::write(site.join("greeting"), "hello over localhost\n").unwrap();
    podman.ok(&["pod", "create", "--name", &pod, "--network", "none"]);
    podman.renew_cgroup_of_pod(&pod);
    let mount = format!("{}:/site:ro", site.display());
    let server = ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/site"];
    podman.detached(&["--pod", &pod, "-v", &mount], &server);
    let get = "wget -q -O - http://127.0.0.1:8080/greeting";
    let script = format!("until {get} 2> /dev/null; do sleep 0.1; done; ps; ls /site 2>&1");
    let client = podman.call(&["run", "--rm", "--pod", &pod, "box", "sh", "-c", &script]);
    assert!(client.out.starts_with("hello over localhost\n"), "{client:?}");
    assert!(client.out.ends_with("ls: /site: No such file or directory\n"), "{client:?}");
    assert!(!client.out.contains("httpd"), "{client:?}");
    let stranger = podman.call(&["run", "--rm", "box", "sh", "-c", get]);
    assert!(stranger.err.contains("can't connect to remote host"), "{stranger:?}");
    podman.ok(&["pod", "rm", "-f", "-t", "0", &pod]);
    assert_eq!(podman.call(&["pod", "exists", &pod]).code(), 1);
}

#[test]
fn play_kube_starts_a_pod_manifest() {
    let Some(podman) = podman() else { return };
    let (pod, dir) = (unique(), podman.volume());
    fs::write(dir.join("greeting"), "hello from the manifest\n").unwrap();
    let manifest = dir.join("pod.yaml");
    let text = format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
spec:
  containers:
  - name: server
    image: localhost/box:latest
    imagePullPolicy: Never
    command: [httpd, -f, -p, "127.0.0.1:8080", -h, /data]
    resources:
      limits: {{memory: 32Mi, cpu: 500m}}
    securityContext:
      readOnlyRootFilesystem: true
      runAsUser: 65534
      capabilities: {{drop: [ALL]}}
    volumeMounts:
    - {{name: data, mountPath: /data, readOnly: true}}
  - name: client
    image: localhost/box:latest
    imagePullPolicy: Never
    env: [{{name: WHO, value: kubernetes}}]
    command:
    - sh
    - -c
    - until wget -q -O - http://127.0.0.1:8080/greeting 2> /dev/null; do sleep 0.1; done; echo $WHO $(hostname); sleep 1000
  volumes:
  - name: data
    hostPath: {{path: {dir}, type: Directory}}
"#,
        dir = dir.display()
    );
    fs::write(&manifest, text).unwrap();
    podman.ok(&["play", "kube", "--network", "none", "--start=false", manifest.to_str().unwrap()]);
    podman.renew_cgroup_of_pod(&pod);
    podman.ok(&["pod", "start", &pod]);
    let client = format!("{pod}-client");
    let want = format!("hello from the manifest\nkubernetes {pod}\n");
    eventually("the client has what the server serves", || podman.ok(&["logs", &client]) == want);
    let server = format!("{pod}-server");
    let script =
        "cd /sys/fs/cgroup; cat memory.max cpu.max; id -u; grep CapBnd /proc/self/status; ! touch /file 2>&1";
    let want =
        "33554432\n50000 100000\n65534\nCapBnd:\t0000000000000000\ntouch: /file: Read-only file system\n";
    assert_eq!(podman.ok(&["exec", &server, "sh", "-c", script]), want);
    let cgroup = cgroup(podman.pid(&server));
    assert!(cgroup.exists());
    podman.ok(&["play", "kube", "--down", manifest.to_str().unwrap()]);
    assert!(!cgroup.exists());
    assert_eq!(podman.call(&["pod", "exists", &pod]).code(), 1);
}

#[test]
fn the_default_profile_of_apparmor_is_in_force() {
    let Some(podman) = podman() else { return };
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        return skip("this test requires AppArmor");
    }
    let label = podman.sh(&[], "cat /proc/self/attr/current");
    assert!(label.starts_with("containers-default-") && label.ends_with(" (enforce)\n"), "{label}");
}

#[test]
fn an_ordinary_user_runs_containers_and_executes_in_them() {
    let Some(podman) = podman_of_user() else { return };
    let script = "id -u; awk '{ print $1, $2, $3 }' /proc/self/uid_map; exit 7";
    for cgroups in ["--cgroups=disabled", "--cgroups=enabled"] {
        let run = podman.call(&["run", "--rm", cgroups, "box", "sh", "-c", script]);
        assert_eq!((run.code(), run.out.as_str()), (7, "0\n0 65534 1\n1 100000 65536\n"), "{}", run.err);
    }
    let name = podman.detached(&[], &["sleep", "1000"]);
    assert_eq!(podman.ok(&["exec", "-u", "nobody", &name, "id", "-u"]), "65534\n");
    assert_eq!(podman.call(&["exec", &name, "sh", "-c", "exit 5"]).code(), 5);
    podman.ok(&["stop", "-t", "0", &name]);
    assert_eq!(podman.inspect(&name, ".State.ExitCode"), "137");
}

#[test]
fn an_ordinary_users_volume_has_the_users_ids_and_those_of_the_range() {
    let Some(podman) = podman_of_user() else { return };
    let volume = podman.volume();
    shell(&volume, "chmod 777 .");
    let flag = format!("-v={}:/v", volume.display());
    podman.sh(&[&flag], "touch /v/root");
    podman.sh(&[&flag, "--user=5"], "touch /v/five");
    assert_eq!(podman.sh(&[&flag, "--userns=keep-id"], "touch /v/kept; id -u"), "65534\n");
    let owner = |file: &str| fs::metadata(volume.join(file)).unwrap().uid();
    assert_eq!([owner("root"), owner("five"), owner("kept")], [65_534, 100_004, 65_534]);
}
