//! The verbs outside the life cycle of a container, and the global options.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use cgroup_core::Controllers;
use serde_json::{Value, json};

use crate::bundle::{Bundle, ConsoleSocket, cgroups, ours, pid_of, runtime_lacks};
use crate::common::{Guard, end_of, eventually, signal, skip};

fn sleeping() -> Bundle {
    Bundle::of(&["sleep", "1000"]).up()
}

/// pivot_root(2) cannot leave an initramfs. Here strace injects the same failure.
#[test]
fn the_root_is_entered_without_pivot_root() {
    let strace = std::process::Command::new("strace").arg("-V").output();
    if strace.is_err() {
        return skip("strace is not installed");
    }
    let script = "ls -d /.. /../bin; \
        ls -d /bin/busybox; cat /proc/self/mountinfo";
    for hook in [false, true] {
        let mut bundle = Bundle::sh(script).set("/root/readonly", true).before(
            "exec strace -f -qq -o /dev/null -e trace=pivot_root -e inject=pivot_root:error=EINVAL \"$@\"",
        );
        if hook {
            let hook = json!([{ "path": "/bin/true", "args": ["true"] }]);
            bundle = bundle.set("/hooks/createContainer", hook);
        }
        let fails = bundle.run();
        assert_ne!(fails.code(), 0);
        assert_eq!(fails.out, "");
        bundle.verb(&["delete", "--force", bundle.id()]);
        let output = bundle.verb(&["run", "--no-pivot", bundle.id()]);
        assert_eq!(output.code(), 0, "{}", output.err);
        assert!(output.out.starts_with("/..\n/../bin\n/bin/busybox\n"), "{}", output.out);
        let at = |place| crate::bundle::mounted(&output.out, place);
        assert!(at("/").has("ro") && at("/proc").kind == "proc", "{}", output.out);
        assert!(!ours() || output.err.is_empty(), "{}", output.err);
    }
}

#[test]
fn exec_runs_in_every_namespace_of_the_container() {
    let bundle = sleeping();
    let here: String = ["cgroup", "ipc", "mnt", "net", "pid", "uts", "user"]
        .map(|kind| crate::bundle::identity(&format!("/proc/{}/ns/{kind}", bundle.pid())) + "\n")
        .concat();
    let script = "for kind in cgroup ipc mnt net pid uts user; do readlink /proc/self/ns/$kind; done";
    assert_eq!(bundle.exec(&["sh", "-c", script]).ok(), here);
    assert_eq!(bundle.exec(&["sh", "-c", "exit 41"]).code(), 41);
    assert_eq!(bundle.exec(&["sh", "-c", "kill -9 $$"]).code(), 137);
    assert_ne!(bundle.exec(&["not-there"]).code(), 0);
    assert_eq!(bundle.status(), "running");
}

#[test]
fn exec_has_the_attributes_of_the_configured_process() {
    if runtime_lacks(&["crun"], "the environment is different") {
        return;
    }
    let bundle = Bundle::of(&["sleep", "1000"])
        .set("/process/user", json!({ "uid": 1000, "gid": 2000, "umask": 0o27 }))
        .set("/process/cwd", "/tmp")
        .set("/process/env/-", "CONFIGURED=yes")
        .set("/process/rlimits", json!([{ "type": "RLIMIT_CPU", "soft": 100, "hard": 200 }]))
        .set(
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18 }],
            }),
        )
        .up();
    let output = bundle.exec(&["sh", "-c", "id -u; id -g; pwd; echo $CONFIGURED; ulimit -t; awk '/^NoNewPrivs/ { print $2 }' /proc/self/status; mkdir /tmp/d"]);
    assert_eq!(output.out, "1000\n2000\n/tmp\nyes\n100\n1\n");
    assert!(output.err.contains("cross-device"), "{}", output.err);
}

#[test]
fn exec_applies_its_flags() {
    let bundle = sleeping();
    let exec = |flags: &[&str], script: &str| {
        bundle.verb(&[&["exec"], flags, &[bundle.id(), "sh", "-c", script]].concat()).ok().to_owned()
    };
    assert_eq!(exec(&["--user", "1000:2000"], "id -u; id -g"), "1000\n2000\n");
    assert_eq!(exec(&["-u", "1000"], "id -u"), "1000\n");
    assert_eq!(exec(&["--cwd", "/tmp"], "pwd"), "/tmp\n");
    if runtime_lacks(&["crun"], "--env and --cap replace the values instead of adding to them") {
        return;
    }
    assert_eq!(exec(&["--env", "A=b c", "--env", "D=e"], "echo $A $D $HOME"), "b c e /root\n");
    let raw = "grep CapBnd /proc/self/status";
    assert!(
        exec(&["--cap", "CAP_NET_RAW"], raw).ends_with("20002420\n"),
        "{}",
        exec(&["--cap", "CAP_NET_RAW"], raw)
    );
    assert!(exec(&[], raw).ends_with("20000420\n"));
}

#[test]
fn arguments_after_the_id_of_exec_belong_to_the_command() {
    let bundle = sleeping();
    let output = bundle.exec(&["printf", "<%s>", "--user", "-d", "--", "-x"]);
    assert_eq!(output.ok(), "<--user><-d><--><-x>");
}

#[test]
fn exec_reads_a_process_from_a_file() {
    let bundle = sleeping();
    let process = json!({
        "args": ["/bin/sh", "-c", "id -u; pwd; echo $A; ulimit -t"],
        "cwd": "/tmp",
        "env": ["PATH=/bin", "A=file"],
        "user": { "uid": 33, "gid": 0 },
        "rlimits": [{ "type": "RLIMIT_CPU", "soft": 100, "hard": 200 }],

    });
    let bundle = bundle.file("process.json", &process.to_string());
    let file = bundle.path("process.json").to_str().unwrap().to_owned();
    for flag in ["--process", "-p"] {
        assert_eq!(bundle.verb(&["exec", flag, &file, bundle.id()]).ok(), "33\n/tmp\nfile\n100\n");
    }
    assert_ne!(bundle.verb(&["exec", "--process", "/not/there", bundle.id()]).code(), 0);
    if !runtime_lacks(&["crun", "runc"], "umask and oomScoreAdj of an exec are not supported") {
        let process = json!({
            "args": ["sh", "-c", "umask; cat /proc/self/oom_score_adj"], "cwd": "/", "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0, "umask": 0o77 }, "oomScoreAdj": 123,
        });
        let bundle = bundle.file("process.json", &process.to_string());
        assert_eq!(bundle.verb(&["exec", "--process", &file, bundle.id()]).ok(), "0077\n123\n");
    }
}

#[test]
fn exec_has_a_terminal() {
    let bundle = sleeping();
    let socket = ConsoleSocket::new();
    let script = "tty; echo controls > /dev/tty; read line; echo \"<$line>\"";
    let file = bundle.path("pid").to_str().unwrap().to_owned();
    bundle
        .verb(&[
            "exec",
            "--tty",
            "--detach",
            "--pid-file",
            &file,
            "--console-socket",
            socket.path(),
            bundle.id(),
            "sh",
            "-c",
            script,
        ])
        .ok();
    let mut terminal = socket.terminal();
    terminal.expect("/dev/pts/");
    terminal.expect("controls\r\n");
    terminal.type_in("typed\n");
    terminal.expect("<typed>\r\n");
    let pid = fs::read_to_string(&file).unwrap();
    eventually("it is gone", || !fs::exists(format!("/proc/{pid}/exe")).unwrap());
}

#[test]
fn the_terminal_of_exec_has_the_configured_size() {
    // crun sets the size after the program has started.
    let script = "until stty size 2> /dev/null | grep .; do sleep 0.1; done";
    let process = json!({
        "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
        "terminal": true, "consoleSize": { "height": 33, "width": 101 },
    });
    let bundle = Bundle::of(&["sleep", "1000"])
        .set("/process/consoleSize", json!({ "height": 22, "width": 77 }))
        .file("process.json", &process.to_string())
        .up();
    let file = bundle.path("process.json").to_str().unwrap().to_owned();
    let size = |flags: &[&str], command: &[&str]| {
        let socket = ConsoleSocket::new();
        let flags = [&["exec", "--detach", "--console-socket", socket.path()], flags].concat();
        bundle.verb(&[&flags[..], &[bundle.id()], command].concat()).ok();
        let terminal = socket.terminal();
        terminal.expect("\r\n");
        terminal.shown()
    };
    assert_eq!(size(&["--process", &file], &[]), "33 101\r\n");
    // conmon uses these arguments.
    assert_eq!(size(&["--process", &file, "--tty"], &[]), "33 101\r\n");
    if !runtime_lacks(&["crun"], "exec does not use the size in the configuration") {
        assert_eq!(size(&["--tty"], &["sh", "-c", script]), "22 77\r\n");
    }
}

#[test]
fn the_pidfd_of_a_started_process_is_sent() {
    if runtime_lacks(&["crun", "runc"], "--pidfd-socket requires version 1.2") {
        return;
    }
    let bundle = Bundle::of(&["sleep", "1000"]);
    let received = |flags: &[&str], command: &[&str]| {
        let socket = ConsoleSocket::new();
        let flags = [flags, &["--pidfd-socket", socket.path(), bundle.id()], command].concat();
        bundle.verb(&flags).ok();
        let (word, pidfd) = socket.received();
        (word, pid_of(&pidfd).to_string())
    };
    bundle.write_config();
    assert_eq!(received(&["create"], &[]), ("standard".to_owned(), bundle.pid().to_string()));
    bundle.start();
    let file = bundle.path("pid").to_str().unwrap().to_owned();
    let exec = received(&["exec", "--detach", "--pid-file", &file], &["sleep", "1000"]);
    assert_eq!(exec, ("setns".to_owned(), fs::read_to_string(&file).unwrap()));
    bundle.delete(&["--force"]);
    let run = received(&["run", "--detach"], &[]);
    assert_eq!(run, ("standard".to_owned(), bundle.pid().to_string()));
    let refused = bundle.verb(&["exec", "--pidfd-socket", "/not/there", bundle.id(), "true"]);
    assert_ne!(refused.code(), 0);
    assert!(refused.err.contains("pidfd socket"), "{}", refused.err);
}

#[test]
fn exec_can_leave_the_command_in_the_background() {
    let bundle = sleeping();
    let file = bundle.path("pid").to_str().unwrap().to_owned();
    bundle.verb(&["exec", "--detach", "--pid-file", &file, bundle.id(), "sleep", "2000"]).ok();
    let pid = fs::read_to_string(&file).unwrap();
    let command = || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    eventually("it is executed", || command() == "sleep\u{0}2000\u{0}");
    assert_ne!(pid, bundle.pid().to_string());
    let namespace = |pid: &str| crate::bundle::identity(&format!("/proc/{pid}/ns/pid"));
    assert_eq!(namespace(&pid), namespace(&bundle.pid().to_string()));
    bundle.delete(&["--force"]);
    eventually("it ends with its container", || !fs::exists(format!("/proc/{pid}/exe")).unwrap());
}

#[test]
fn exec_preserves_descriptors() {
    let bundle = sleeping().file("three", "three\n");
    let runtime = bundle.command(&["exec", "--preserve-fds", "1", bundle.id(), "cat", "/proc/self/fd/3"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$@\" 3< $B/three", "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    assert_eq!(crate::common::run_with(command.env("B", bundle.path("")), "").ok(), "three\n");
}

#[test]
fn exec_can_join_a_cgroup_below() {
    if !cgroups(Controllers::PIDS) {
        return;
    }
    let bundle = sleeping();
    assert!(bundle.exec(&["cat", "/proc/self/cgroup"]).ok().contains(bundle.id()));
    fs::create_dir(bundle.cgroup().join("below")).unwrap();
    let output = bundle.verb(&["exec", "--cgroup", "below", bundle.id(), "cat", "/proc/self/cgroup"]);
    assert!(output.ok().ends_with("/below\n"), "{}", output.out);
    assert_ne!(bundle.verb(&["exec", "--cgroup", "none", bundle.id(), "true"]).code(), 0);
}

#[test]
fn options_are_accepted_before_and_after_the_id() {
    if runtime_lacks(&["crun", "runc"], "options are accepted only before the id") {
        return;
    }
    let bundle = Bundle::of(&["sleep", "1000"]);
    bundle.write_config();
    let file = bundle.path("pid").to_str().unwrap().to_owned();
    bundle.verb(&["create", bundle.id(), "--pid-file", &file]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), bundle.pid().to_string());
    bundle.start();
    bundle.verb(&["delete", bundle.id(), "--force"]).ok();
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0);
}

#[test]
fn list_shows_containers() {
    let bundle = Bundle::of(&["sleep", "1000"]).set("/annotations", json!({ "org.example.key": "value" }));
    bundle.create();
    let table = bundle.verb(&["list"]);
    let mut lines = table.ok().lines();
    let words: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        words[..4],
        ["NAME", "PID", "STATUS", "BUNDLE"].map(|word| if words[0] == "ID" && word == "NAME" {
            "ID"
        } else {
            word
        })
    );
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[..3], [bundle.id(), &bundle.pid().to_string(), "created"]);
    assert_eq!(bundle.verb(&["list", "-q"]).ok(), format!("{}\n", bundle.id()));
    let list: Value = serde_json::from_str(bundle.verb(&["list", "--format", "json"]).ok()).unwrap();
    assert_eq!(list[0]["id"], bundle.id());
    assert_eq!(list[0]["status"], "created");
    assert_eq!(list[0]["pid"], bundle.pid());
    assert_ne!(bundle.verb(&["list", "--format", "colours"]).code(), 0);
    bundle.delete(&["--force"]);
    assert_eq!(bundle.verb(&["list", "-q"]).ok(), "");
}

#[test]
fn ps_shows_the_processes() {
    if !cgroups(Controllers::PIDS) {
        return;
    }
    let bundle = Bundle::sh("sleep 1000 & exec sleep 2000").up();
    let mut pids = Vec::new();
    eventually("two processes", || {
        let output = bundle.verb(&["ps", "--format", "json", bundle.id()]);
        pids = serde_json::from_str(output.ok()).unwrap();
        pids.len() == 2 && bundle.proc("comm") == "sleep\n"
    });
    assert!(pids.contains(&bundle.pid()), "{pids:?}");
    if !runtime_lacks(&["crun"], "its table has only pids") {
        let table = bundle.verb(&["ps", bundle.id()]);
        assert!(table.ok().lines().next().unwrap().contains("PID"), "{}", table.out);
        assert!(table.out.contains("sleep 1000") && table.out.contains("sleep 2000"), "{}", table.out);
    }
}

#[test]
fn pause_freezes_and_resume_thaws() {
    if !cgroups(Controllers::PIDS) {
        return;
    }
    let bundle = Bundle::sh("while :; do date >> /ticks; sleep 0.02; done").up();
    let ticks = || fs::metadata(bundle.path("rootfs/ticks")).map_or(0, |file| file.len());
    eventually("it ticks", || ticks() > 0);
    bundle.verb(&["pause", bundle.id()]).ok();
    assert_eq!(bundle.status(), "paused");
    assert!(fs::read_to_string(bundle.cgroup().join("cgroup.events")).unwrap().contains("frozen 1"));
    let stopped = ticks();
    bundle.verb(&["resume", bundle.id()]).ok();
    assert_eq!(bundle.status(), "running");
    eventually("it ticks again", || ticks() > stopped);
    bundle.verb(&["pause", bundle.id()]).ok();
    bundle.delete(&["--force"]);
}

#[test]
fn a_created_container_can_be_paused_and_resumed_before_it_is_started() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun"], "only running containers can be paused") {
        return;
    }
    let bundle = Bundle::sh("echo started; exec sleep 1000");
    bundle.create();
    bundle.verb(&["pause", bundle.id()]).ok();
    assert_eq!(bundle.status(), "paused");
    assert_ne!(bundle.verb(&["start", bundle.id()]).code(), 0);
    assert_ne!(bundle.exec(&["true"]).code(), 0);
    bundle.verb(&["resume", bundle.id()]).ok();
    assert_eq!(bundle.status(), "created");
    bundle.start();
    eventually("it runs", || bundle.printed("create") == "started\n");
    assert_eq!(bundle.status(), "running");
}

#[test]
fn exec_in_a_paused_container_waits_on_request() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun"], "every exec in a paused container waits") {
        return;
    }
    let bundle = sleeping();
    for flags in [&[][..], &["--detach"]] {
        bundle.verb(&["pause", bundle.id()]).ok();
        let args = [&["exec", "--ignore-paused"], flags, &[bundle.id(), "echo", "ran"]].concat();
        let mut exec = Guard(bundle.command(&args).spawn().unwrap());
        thread::sleep(Duration::from_millis(300));
        assert!(exec.0.try_wait().unwrap().is_none(), "it does not wait");
        assert_eq!(bundle.printed("exec"), "");
        bundle.verb(&["resume", bundle.id()]).ok();
        assert!(end_of(&mut exec.0).success());
        eventually("it ran", || bundle.printed("exec") == "ran\n");
    }
    assert_eq!(bundle.verb(&["exec", "--ignore-paused", bundle.id(), "echo", "ran"]).ok(), "ran\n");
}

#[test]
fn exec_that_waits_for_a_paused_container_can_be_killed() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun"], "every exec in a paused container waits") {
        return;
    }
    let bundle = sleeping();
    bundle.verb(&["pause", bundle.id()]).ok();
    let mut exec = Guard(bundle.command(&["exec", "--ignore-paused", bundle.id(), "true"]).spawn().unwrap());
    thread::sleep(Duration::from_millis(300));
    signal(&exec.0, nix::libc::SIGKILL);
    assert_eq!(end_of(&mut exec.0).signal(), Some(nix::libc::SIGKILL));
    bundle.verb(&["resume", bundle.id()]).ok();
    assert_eq!(bundle.exec(&["true"]).code(), 0);
}

#[test]
fn exec_finds_the_cgroup_that_the_first_process_has_moved_to() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun", "runc"], "it also uses the v1 hierarchies") {
        return;
    }
    let bundle = sleeping();
    let first = bundle.cgroup();
    let second = Cgroup::new(first.with_file_name(format!("{}-moved", bundle.id())));
    fs::write(second.0.join("cgroup.procs"), bundle.pid().to_string()).unwrap();
    fs::remove_dir(&first).unwrap();
    assert_eq!(bundle.status(), "running");
    let said = bundle.exec(&["grep", "^0:", "/proc/self/cgroup"]);
    assert!(said.ok().trim_end().ends_with("-moved"), "{}", said.out);
    // A cgroup that the caller names is not replaced by another.
    assert_ne!(bundle.verb(&["exec", "--cgroup", "/", bundle.id(), "true"]).code(), 0);
    bundle.delete(&["--force"]);
}

/// A cgroup. It is removed at the end with the processes in it.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new(path: std::path::PathBuf) -> Cgroup {
        fs::create_dir(&path).unwrap();
        Cgroup(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        eventually("the cgroup is removed", || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

#[test]
fn a_paused_container_refuses_exec_and_can_be_killed() {
    if !cgroups(Controllers::PIDS) {
        return;
    }
    let bundle = sleeping();
    if !runtime_lacks(&["crun"], "resume accepts containers that are not paused") {
        assert_ne!(bundle.verb(&["resume", bundle.id()]).code(), 0);
    }
    bundle.verb(&["pause", bundle.id()]).ok();
    if !runtime_lacks(&["crun"], "exec in a paused container waits") {
        assert_ne!(bundle.exec(&["true"]).code(), 0);
    }
    bundle.verb(&["kill", bundle.id(), "KILL"]).ok();
    bundle.wait_until("stopped");
}

#[test]
fn update_accepts_flags() {
    if !cgroups(Controllers::MEMORY | Controllers::CPU | Controllers::PIDS | Controllers::CPUSET) {
        return;
    }
    let bundle = sleeping();
    bundle
        .verb(&[
            "update",
            "--memory",
            "33554432",
            "--memory-swap",
            "67108864",
            "--memory-reservation",
            "16777216",
            "--pids-limit",
            "20",
            "--cpu-quota",
            "25000",
            "--cpu-period",
            "50000",
            "--cpu-share",
            "262144",
            "--cpuset-cpus",
            "0",
            "--cpuset-mems",
            "0",
            bundle.id(),
        ])
        .ok();
    let files = [
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "pids.max",
        "cpu.max",
        "cpu.weight",
        "cpuset.cpus",
        "cpuset.mems",
    ];
    assert_eq!(
        files.map(|file| bundle.limit(file)),
        ["33554432", "33554432", "16777216", "20", "25000 50000", "10000", "0", "0"]
    );
    if !runtime_lacks(&["crun", "runc"], "update --cpu-burst and --cpu-idle") {
        bundle.verb(&["update", "--cpu-burst", "10000", bundle.id()]).ok();
        bundle.verb(&["update", "--cpu-idle", "1", bundle.id()]).ok();
        assert_eq!([bundle.limit("cpu.max.burst"), bundle.limit("cpu.idle")], ["10000", "1"]);
    }
    bundle.verb(&["update", "--pids-limit", "-1", bundle.id()]).ok();
    assert_eq!([bundle.limit("pids.max"), bundle.limit("memory.max")], ["max", "33554432"]);
    assert_ne!(bundle.verb(&["update", "--memory", "much", bundle.id()]).code(), 0);
}

#[test]
fn update_accepts_sizes_with_units() {
    if !cgroups(Controllers::MEMORY) || runtime_lacks(&["crun"], "units are not supported") {
        return;
    }
    let bundle = sleeping();
    let update = |flags: &[&str]| bundle.verb(&[&["update"], flags, &[bundle.id()]].concat());
    let limits = || ["memory.max", "memory.swap.max", "memory.low"].map(|file| bundle.limit(file));
    update(&["--memory", "50M"]).ok();
    assert_eq!(limits(), ["52428800", "max", "0"]);
    update(&["--memory", "64MiB", "--memory-swap", "96 mb", "--memory-reservation", "1.5m"]).ok();
    assert_eq!(limits(), ["67108864", "33554432", "1572864"]);
    // The flag counts memory and swap; the kernel's file counts only swap.
    let alone = update(&["--memory-swap", "128M"]);
    assert_ne!(alone.code(), 0);
    assert!(alone.err.contains("memory"), "{}", alone.err);
    assert_eq!(limits(), ["67108864", "33554432", "1572864"]);
    update(&["--memory-swap", "-1"]).ok();
    assert_eq!(limits(), ["67108864", "max", "1572864"]);
    // This limit does not exist any more.
    let kernel = update(&["--kernel-memory", "50M", "--memory", "32M"]);
    assert_eq!(kernel.code(), 0, "{}", kernel.err);
    assert!(kernel.err.contains("level=warning"), "{}", kernel.err);
    assert_eq!(limits(), ["33554432", "max", "1572864"]);
    assert_ne!(update(&["--memory", "-2"]).code(), 0);
}

#[test]
fn update_reads_resources_from_a_file_or_its_input() {
    if !cgroups(Controllers::MEMORY | Controllers::PIDS) {
        return;
    }
    let bundle = sleeping()
        .file("resources.json", &json!({ "pids": { "limit": 31 }, "cpu": { "quota": 30000 } }).to_string());
    let file = bundle.path("resources.json").to_str().unwrap().to_owned();
    bundle.verb(&["update", "--resources", &file, bundle.id()]).ok();
    assert_eq!([bundle.limit("pids.max"), bundle.limit("cpu.max")], ["31", "30000 100000"]);
    let resources = json!({ "memory": { "limit": 33_554_432 }, "unified": { "memory.high": "16777216" } });
    bundle.verb_with(&["update", "-r", "-", bundle.id()], &resources.to_string()).ok();
    assert_eq!([bundle.limit("memory.max"), bundle.limit("pids.max")], ["33554432", "31"]);
    if !runtime_lacks(&["runc"], "unified is not updated") {
        assert_eq!(bundle.limit("memory.high"), "16777216");
    }
    assert_ne!(bundle.verb_with(&["update", "-r", "-", bundle.id()], "{").code(), 0);
}

#[test]
fn update_of_a_quota_keeps_the_period_and_the_other_way_round() {
    if !cgroups(Controllers::CPU) || runtime_lacks(&["crun"], "a quota alone sets the period to 100 ms") {
        return;
    }
    let cpu = json!({ "quota": 25_000, "period": 50_000 });
    let bundle = Bundle::of(&["sleep", "1000"]).set("/linux/resources/cpu", cpu).up();
    bundle.verb(&["update", "--cpu-quota", "20000", bundle.id()]).ok();
    assert_eq!(bundle.limit("cpu.max"), "20000 50000");
    bundle.verb(&["update", "--cpu-period", "40000", bundle.id()]).ok();
    assert_eq!(bundle.limit("cpu.max"), "20000 40000");
    bundle.verb(&["update", "--cpu-quota", "-1", bundle.id()]).ok();
    assert_eq!(bundle.limit("cpu.max"), "max 40000");
}

#[test]
fn update_can_refuse_a_limit_below_the_current_usage() {
    if !cgroups(Controllers::MEMORY)
        || runtime_lacks(&["runc"], "memory.checkBeforeUpdate requires version 1.1")
    {
        return;
    }
    let bundle = sleeping();
    let update = |limit: u64, check: bool| {
        let memory = json!({ "memory": { "limit": limit, "swap": limit, "checkBeforeUpdate": check } });
        bundle.verb_with(&["update", "-r", "-", bundle.id()], &memory.to_string())
    };
    update(33_554_432, true).ok();
    let refused = update(4096, true);
    assert_ne!(refused.code(), 0);
    assert!(!ours() || refused.err.contains("memory.checkBeforeUpdate requires"), "{}", refused.err);
    assert_eq!((bundle.limit("memory.max").as_str(), bundle.status().as_str()), ("33554432", "running"));
    // Without the check, the limit kills the processes.
    update(4096, false);
    bundle.wait_until("stopped");
}

#[test]
fn events_prints_statistics() {
    if !cgroups(Controllers::MEMORY | Controllers::CPU | Controllers::PIDS)
        || runtime_lacks(&["crun"], "events")
    {
        return;
    }
    let bundle = Bundle::of(&["sleep", "1000"]).set("/linux/resources/memory/limit", 33_554_432).up();
    let event: Value = serde_json::from_str(bundle.verb(&["events", "--stats", bundle.id()]).ok()).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(bundle.id())));
    let data = &event["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 33_554_432);
    assert!(data["memory"]["usage"]["usage"].as_u64() > Some(0), "{data}");
    assert!(data["cpu"]["usage"]["total"].as_u64() > Some(0), "{data}");
    assert_eq!(data["pids"]["current"], 1);
}

#[test]
fn an_event_has_its_keys_in_runcs_order_and_the_pressure() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun"], "events") {
        return;
    }
    let bundle = sleeping();
    let output = bundle.verb(&["events", "--stats", bundle.id()]);
    let (text, mut from) = (output.ok(), 0);
    let keys = [
        "type",
        "id",
        "data",
        "cpu",
        "cpuset",
        "memory",
        "pids",
        "blkio",
        "hugetlb",
        "intel_rdt",
        "network_interfaces",
    ];
    for key in keys {
        let at = text[from..].find(&format!("\"{key}\":"));
        from += at.unwrap_or_else(|| panic!("{key} is not where it belongs: {text}"));
    }
    if runtime_lacks(&["runc"], "pressure requires version 1.2") {
        return;
    }
    let event: Value = serde_json::from_str(text).unwrap();
    for (part, file) in [("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")] {
        let psi = &event["data"][part]["psi"];
        assert_eq!(
            psi.is_object(),
            bundle.cgroup().join(format!("{file}.pressure")).exists(),
            "{part}: {text}"
        );
        for share in ["avg10", "avg60", "avg300", "total"].iter().filter(|_| psi.is_object()) {
            assert!(psi["some"][share].is_number() && psi["full"][share].is_number(), "{part}: {text}");
        }
    }
}

#[test]
fn events_reports_usage_and_oom_until_the_end() {
    if !cgroups(Controllers::MEMORY | Controllers::CPU | Controllers::PIDS)
        || runtime_lacks(&["crun"], "events")
    {
        return;
    }
    let hog = "until [ -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000";
    let bundle = Bundle::of(&["sh", "-c", hog])
        .set("/linux/resources/memory", json!({ "limit": 33_554_432, "swap": 33_554_432 }))
        .up();
    let mut events = bundle.command(&["events", "--interval", "200ms", bundle.id()]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = || -> String {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        event["type"].as_str().unwrap().to_owned()
    };
    assert_eq!([next(), next()], ["stats", "stats"]);
    fs::write(bundle.path("rootfs/go"), "").unwrap();
    assert!((0..300).any(|_| next() == "oom"), "no OOM event for a minute");
    bundle.delete(&["--force"]);
    assert!(lines.all(|line| line.is_ok()));
    assert!(end_of(&mut events).success());
}

#[test]
fn events_end_with_the_container_although_it_is_deleted_at_any_moment() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun"], "events") {
        return;
    }
    for round in 0..nspod_testkit::rounds(40) {
        let bundle = sleeping();
        let mut events = bundle.command(&["events", "--interval", "1ms", bundle.id()]);
        let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("stats"));
        bundle.delete(&["--force"]);
        assert!(lines.all(|line| line.is_ok()));
        assert!(end_of(&mut events).success(), "round {round}");
    }
}

#[test]
fn spec_writes_a_config_that_runs() {
    let bundle = Bundle::sh("");
    bundle.verb(&["spec"]).ok();
    let read =
        || serde_json::from_str::<Value>(&fs::read_to_string(bundle.path("config.json")).unwrap()).unwrap();
    let mut config = read();
    assert_eq!(config["process"]["terminal"], true);
    assert_eq!(config["process"]["args"], json!(["sh"]));
    assert_eq!(config["root"], json!({ "path": "rootfs", "readonly": true }));
    assert_ne!(bundle.verb(&["spec"]).code(), 0, "an existing file is kept");
    assert_eq!(read(), config);
    config["process"]["args"] = json!(["echo", "started"]);
    config["process"]["terminal"] = false.into();
    if !cgroups(Controllers::empty()) {
        config["linux"]["resources"].take();
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
    }
    fs::write(bundle.path("config.json"), config.to_string()).unwrap();
    assert_eq!(bundle.verb(&["run", bundle.id()]).ok(), "started\n");
}

#[test]
fn spec_of_an_ordinary_user_has_a_user_namespace() {
    if runtime_lacks(&["crun"], "maps of ids, and the host's network, in it") {
        return;
    }
    let bundle = Bundle::sh("");
    bundle.verb(&["spec", "--rootless"]).ok();
    let config: Value =
        serde_json::from_str(&fs::read_to_string(bundle.path("config.json")).unwrap()).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.iter().any(|namespace| namespace["type"] == "user"), "{config}");
    assert!(!namespaces.iter().any(|namespace| namespace["type"] == "network"), "{config}");
    assert_eq!(config["linux"]["uidMappings"][0]["size"], 1);
    assert!(config["linux"]["resources"].is_null(), "{config}");
}

#[test]
fn spec_writes_to_the_named_directory() {
    let bundle = Bundle::sh("");
    fs::create_dir(bundle.path("other")).unwrap();
    bundle.verb(&["spec", "--bundle", bundle.path("other").to_str().unwrap()]).ok();
    assert!(bundle.path("other/config.json").exists());
}

#[test]
fn features_are_printed() {
    if runtime_lacks(&["crun"], "features") {
        return;
    }
    let bundle = Bundle::sh("");
    let features: Value = serde_json::from_str(bundle.verb(&["features"]).ok()).unwrap();
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string(), "{features}");
    let has =
        |list: &Value, word: &str| list.as_array().is_some_and(|list| list.iter().any(|item| item == word));
    assert!(has(&features["hooks"], "createContainer"), "{features}");
    assert!(has(&features["mountOptions"], "rbind") && has(&features["mountOptions"], "rro"), "{features}");
    let linux = &features["linux"];
    assert!(has(&linux["namespaces"], "user") && has(&linux["capabilities"], "CAP_SYS_ADMIN"), "{linux}");
    assert_eq!(linux["cgroup"]["v2"], true);
    assert!(has(&linux["seccomp"]["actions"], "SCMP_ACT_NOTIFY"), "{linux}");
    assert!(has(&linux["seccomp"]["operators"], "SCMP_CMP_MASKED_EQ"), "{linux}");
    if runtime_lacks(&["runc"], "potentiallyUnsafeConfigAnnotations requires version 1.1.1") {
        return;
    }
    assert!(has(&features["potentiallyUnsafeConfigAnnotations"], "org.systemd.property."), "{features}");
}

#[test]
fn errors_go_to_the_log() {
    let bundle = Bundle::sh("true");
    let log = bundle.path("log").to_str().unwrap().to_owned();
    for format in ["json", "text"] {
        let _ = fs::remove_file(&log);
        // Insert global options before the verb.
        let mut command = bundle.command(&["state", "not-there"]);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_owned()).collect();
        let (global, verb) = args.split_at(args.len() - 2);
        let mut again = std::process::Command::new(command.get_program());
        again.args(global).args(["--log", &log, "--log-format", format]).args(verb);
        assert_ne!(crate::common::run_with(&mut again, "").code(), 0);
        let said = fs::read_to_string(&log).unwrap();
        if format == "json" {
            let line: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
            assert_eq!(line["level"], "error", "{line}");
            assert!(line["msg"].is_string() && line["time"].is_string(), "{line}");
        } else {
            assert_ne!(said, "");
        }
        command.stdin(std::process::Stdio::null());
    }
}

#[test]
fn the_log_is_created_at_once_and_must_be_writable() {
    let bundle = Bundle::sh("true");
    let log = bundle.path("log").to_str().unwrap().to_owned();
    bundle.verb(&["--log", &log, "list"]).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
    for log in ["/not/there", bundle.path("").to_str().unwrap()] {
        for verb in [&["list"][..], &["exec", "none", "true"]] {
            let output = bundle.verb(&[&["--log", log], verb].concat());
            assert_eq!((output.code(), output.out.as_str()), (1, ""), "{log}");
            assert!(output.err.contains(log), "{}", output.err);
        }
    }
    if !runtime_lacks(&["crun"], "--log \"\" requires a later version") {
        bundle.verb(&["--log", "", "list"]).ok();
    }
}

#[test]
fn debug_shows_how_a_container_is_created() {
    if !ours() {
        return;
    }
    let hook = json!({ "path": "/bin/true" });
    let filter = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }] });
    let bundle =
        Bundle::sh("exit 3").set("/hooks/createRuntime/-", hook.clone()).set("/hooks/poststop/-", hook);
    let bundle = bundle.set("/linux/seccomp", filter).set("/process/env/-", "SECRET=word");
    bundle.write_config();
    let log = bundle.path("log").to_str().unwrap().to_owned();
    let debug =
        |verb: &[&str]| bundle.verb(&[&["--debug", "--log", &log, "--log-format", "json"], verb].concat());
    let output = debug(&["run", bundle.id()]);
    assert_eq!((output.code(), output.err.as_str()), (3, ""));
    let (first, mut times) = (fs::read_to_string(&log).unwrap(), Vec::new());
    let mut said = String::new();
    for line in first.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "debug");
        times.push(line["time"].as_str().unwrap().to_owned());
        said = said + line["msg"].as_str().unwrap() + "\n";
    }
    assert!(times.is_sorted() && times[0].len() == "2026-11-24T14:19:37.123456789Z".len(), "{times:?}");
    let mut from = 0;
    for words in [
        ": run\n",
        bundle.path("").to_str().unwrap().trim_end_matches('/'),
        "cgroup /",
        "net namespace: New",
        "seccomp: ",
        "clone3 into its cgroup",
        "mount a new proc on /proc",
        "load the seccomp filter",
        "execute /bin/sh",
        "run the createRuntime hook /bin/true",
        "createRuntime hook /bin/true has succeeded",
        "runs",
        "exited with code 3",
        "run the poststop hook",
    ] {
        let at = said[from..].find(words);
        from += at.unwrap_or_else(|| panic!("{words:?} is not where it belongs: {said}"));
    }
    assert!(!said.contains("SECRET") && !said.contains("word"), "{said}");

    let bundle = sleeping();
    let debug = |verb: &[&str]| bundle.verb(&[&["--debug"], verb].concat()).err;
    let exec = debug(&["exec", "--env", "SECRET=word", bundle.id(), "true"]);
    assert!(
        exec.contains("join the") && exec.contains("exited with code 0") && !exec.contains("word"),
        "{exec}"
    );
    let pid = bundle.pid();
    let killed = debug(&["kill", bundle.id(), "KILL"]);
    assert!(killed.contains(&format!("send signal 9 to process {pid}")), "{killed}");
    bundle.wait_until("stopped");
    assert!(debug(&["delete", bundle.id()]).contains("which is stopped"));
}

#[test]
fn version_and_help_are_printed() {
    let bundle = Bundle::sh("");
    let version = bundle.verb(&["--version"]);
    assert!(version.ok().contains(" version ") && version.out.contains("spec: 1."), "{}", version.out);
    for args in [&["--help"] as &[&str], &["create", "--help"]] {
        assert_eq!(bundle.verb(args).code(), 0, "{args:?}");
    }
    assert_ne!(bundle.verb(&["no-such-verb"]).code(), 0);
    assert_ne!(bundle.verb(&["state"]).code(), 0);
}
