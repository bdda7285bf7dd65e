//! Limits are enforced and visible inside. When a limit kills a process, the level is reported.

mod common;

use cgroup_core::Controllers;
use common::{Name, controllers, eventually, json, nspod, ok};

/// A program that allocates memory without end.
const HOG: &str = "$x = ''; while (1) { $x .= 'x' x 1048576 }";

#[test]
fn each_limit_sets_the_kernels_file() {
    if !controllers(Controllers::MEMORY | Controllers::CPU | Controllers::PIDS | Controllers::CPUSET) {
        return;
    }
    let seen = ok(&[
        "run",
        "-m",
        "64m",
        "--memory-swap",
        "96m",
        "--memory-reservation",
        "16m",
        "--memory-high",
        "48m",
        "--cpus",
        "0.5",
        "--cpu-weight",
        "300",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "32",
        "--limit",
        "memory.oom.group=1",
        "sh",
        "-c",
        "cd /sys/fs/cgroup; grep . memory.max memory.low memory.high memory.oom.group cpu.max cpu.weight cpuset.cpus pids.max; nproc",
    ]);
    let want = "memory.max:67108864\nmemory.low:16777216\nmemory.high:50331648\nmemory.oom.group:1\n\
        cpu.max:50000 100000\ncpu.weight:300\ncpuset.cpus:0\npids.max:32\n1\n";
    assert_eq!(seen, want);
}

#[test]
fn memory_max_ends_the_hog_and_the_message_names_the_level() {
    if !controllers(Controllers::MEMORY) {
        return;
    }
    for init in ["--init=false", "--init"] {
        let hog = nspod(&["run", init, "-m", "32m", "--memory-swap", "32m", "perl", "-e", HOG]);
        let want = "nspod: the OOM killer ended 1 process at the container's memory.max\n";
        assert_eq!((hog.code(), hog.err.as_str()), (137, want), "{init}");
    }
    let pod = Name::pod();
    ok(&["pod", "create", "-m", "32m", "--memory-swap", "32m", &pod]);
    let hog = nspod(&["run", "--pod", &pod, "perl", "-e", HOG]);
    let want = "nspod: the OOM killer ended 1 process at the pod's memory.max\n";
    assert_eq!((hog.code(), hog.err.as_str()), (137, want));
}

#[test]
fn a_detached_hog_is_reported_by_its_exit_code() {
    if !controllers(Controllers::MEMORY) {
        return;
    }
    let neighbour = Name::detached(&["-m", "32m"], &["sleep", "1000"]);
    let hog = Name::detached(&["-m", "32m", "--memory-swap", "32m"], &["perl", "-e", HOG]);
    assert_eq!(ok(&["wait", &hog]), "137\n");
    eventually("it is listed so", || hog.row().unwrap()["exit_code"] == 137);
    assert_eq!(neighbour.at(), "running");
}

#[test]
fn pids_limit_stops_a_fork_bomb() {
    if !controllers(Controllers::PIDS) {
        return;
    }
    let bomb =
        nspod(&["run", "--pids-limit", "8", "bash", "-c", "for i in {1..50}; do sleep 100 & done; wait"]);
    assert_ne!(bomb.code(), 0);
    assert!(bomb.err.contains("Resource temporarily unavailable"), "{}", bomb.err);
}

#[test]
fn an_update_changes_a_live_container() {
    if !controllers(Controllers::MEMORY | Controllers::PIDS | Controllers::CPU) {
        return;
    }
    let name = Name::detached(&["-m", "64m"], &["sleep", "1000"]);
    ok(&["update", "-m", "32m", "--pids-limit", "20", "--cpus", "0.25", &name]);
    let files = "cd /sys/fs/cgroup; grep . memory.max pids.max cpu.max";
    assert_eq!(
        ok(&["exec", &name, "sh", "-c", files]),
        "memory.max:33554432\npids.max:20\ncpu.max:25000 100000\n"
    );
    let limits = json(&["inspect", &name])[0]["spec"]["limits"].clone();
    assert_eq!(limits["memory.max"], 33_554_432, "{limits}");
    let stats = json(&["--json", "stats", "--no-stream", &name]);
    assert_eq!(stats[0]["memory_limit"], 33_554_432, "{stats}");
    assert!(ok(&["stats", "--no-stream", &name]).contains("/ 32.0 MiB"));
}

#[test]
fn a_limit_without_its_controller_is_reported() {
    if !common::root() {
        return;
    }
    let all = Controllers::MEMORY | Controllers::CPU | Controllers::PIDS;
    let has = cgroup_core::Hierarchy::detect().unwrap().controllers();
    for (flag, value, file, controller) in [
        ("-m", "64m", "memory.max", Controllers::MEMORY),
        ("--cpus", "0.5", "cpu.max", Controllers::CPU),
        ("--pids-limit", "9", "pids.max", Controllers::PIDS),
    ] {
        let strict = nspod(&["run", flag, value, "echo", "started"]);
        let lax = nspod(&["run", "--lax-limits", flag, value, "echo", "started"]);
        assert_eq!((lax.code(), lax.out.as_str()), (0, "started\n"), "{}", lax.err);
        if has.contains(controller) {
            assert_eq!((strict.code(), strict.err.as_str(), lax.err.as_str()), (0, "", ""));
            continue;
        }
        assert_eq!((strict.code(), strict.out.as_str()), (125, ""), "{}", strict.err);
        let name = (controller & all).to_string();
        let said = format!("nspod: {file} cannot be enforced here: the {name} controller is ");
        assert!(strict.err.starts_with(&said), "{}", strict.err);
        assert!(strict.err.ends_with("; or use --lax-limits to start without it\n"), "{}", strict.err);
        assert!(
            lax.err.starts_with(&format!("nspod: {file} is not enforced: the {name} controller is ")),
            "{}",
            lax.err
        );
    }
}

/// Returns the cgroup of a container, and checks that no call has a cgroup in it.
fn without_calls(name: &str) -> std::path::PathBuf {
    let own = common::cgroup(name);
    let calls = || {
        let children = std::fs::read_dir(&own).unwrap().map(|child| child.unwrap().file_name());
        children.filter(|name| name.as_encoded_bytes().starts_with(b"nspod-call-")).count()
    };
    assert_eq!(calls(), 0);
    own
}

#[test]
fn a_command_in_a_container_has_the_limits_of_run() {
    if !controllers(Controllers::MEMORY | Controllers::CPU | Controllers::PIDS) {
        return;
    }
    let name = Name::detached(&["-m", "96m"], &["sleep", "1000"]);
    let files = "cd /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); \
        grep . memory.max memory.swap.max pids.max cpu.max memory.oom.group";
    let flags = ["-m", "64m", "--memory-swap", "96m", "--pids-limit", "32", "--cpus", "0.5", "--limit"];
    let seen = ok(&[&["exec"], &flags[..], &["memory.oom.group=1", &name, "sh", "-c", files]].concat());
    let want = "memory.max:67108864\nmemory.swap.max:33554432\npids.max:32\ncpu.max:50000 100000\nmemory.oom.group:1\n";
    assert_eq!(seen, want);
    let report = tempfile::NamedTempFile::new().unwrap();
    let path = report.path().to_str().unwrap();
    let flags = ["--report", path, "-m", "32m", "--memory-swap", "32m"];
    let hog = nspod(&[&["exec"], &flags[..], &[&name, "perl", "-e", HOG]].concat());
    let want = "nspod: the OOM killer ended 1 process at the call's memory.max\n";
    assert_eq!((hog.code(), hog.err.as_str()), (137, want));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((&report["id"], &report["exit_code"]), (&(&*name).into(), &137.into()), "{report}");
    assert_eq!(report["outcome"]["oom"], serde_json::json!({ "level": "call", "killed": 1 }), "{report}");
    assert_eq!(report["outcome"]["ended_by"], "oom", "{report}");
    // The limit of the container is above that of the command.
    let hog = nspod(&["exec", "-m", "1g", "--memory-swap", "1g", &name, "perl", "-e", HOG]);
    assert_eq!(hog.code(), 137);
    assert_eq!(name.at(), "running");
    without_calls(&name);
    // The other commands see all of the container.
    ok(&["exec", "-d", "--pids-limit", "9", &name, "sleep", "999"]);
    assert!(ok(&["top", &name]).contains("sleep 999"));
    ok(&["pause", &name]);
    let paused = nspod(&["exec", "-m", "64m", &name, "true"]);
    assert!(paused.err.contains("is paused"), "{}", paused.err);
    ok(&["unpause", &name]);
    let stats = json(&["--json", "stats", "--no-stream", &name]);
    assert!(stats[0]["usage"]["pids"]["current"].as_u64().unwrap() >= 3, "{stats}");
    ok(&["update", "-m", "128m", &name]);
    let own = common::cgroup(&name);
    ok(&["rm", "-f", &name]);
    assert!(!own.exists());
}

#[test]
fn the_time_limit_of_a_command_in_a_container_ends_all_of_it() {
    if !common::root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let tree = "setsid sh -c 'setsid sleep 998 & sleep 998' & sleep 998";
    for (flag, script) in [("--timeout", tree), ("--cpu-time", "setsid sleep 998 & while :; do :; done")] {
        let late = nspod(&["exec", flag, "500ms", &name, "sh", "-c", script]);
        let want = format!("nspod: the command exceeded {flag} and was killed\n");
        assert_eq!((late.code(), late.err), (124, want));
        assert!(!ok(&["top", &name]).contains("sleep 998"));
    }
    assert_eq!(nspod(&["exec", "--timeout", "100s", &name, "sh", "-c", "exit 3"]).code(), 3);
    assert_eq!(nspod(&["exec", "--timeout", "100s", &name, "no-such"]).code(), 127);
    let detached = nspod(&["exec", "-d", "--timeout", "1s", &name, "true"]);
    assert_eq!(detached.code(), 125);
    let report = nspod(&["exec", "--report", "1", &name, "true"]).out;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["outcome"]["ended_by"], "exit", "{report}");
    without_calls(&name);
    // Limits are enforced or refused.
    if !cgroup_core::Hierarchy::detect().unwrap().controllers().contains(Controllers::MEMORY) {
        let refused = nspod(&["exec", "-m", "64m", &name, "echo", "started"]);
        assert_eq!((refused.code(), refused.out.as_str()), (125, ""));
        let said = "nspod: memory.max cannot be enforced here: the memory controller is ";
        assert!(refused.err.starts_with(said), "{}", refused.err);
    }
}

#[test]
fn a_killed_exec_leaves_nothing_that_rm_does_not_remove() {
    if !common::root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let args = ["exec", "--timeout", "100s", &name, "sh", "-c", "setsid sleep 997 & sleep 997"];
    let mut exec = std::process::Command::new(common::NSPOD).args(args).spawn().unwrap();
    eventually("both run", || ok(&["top", &name]).matches("sleep 997").count() >= 2);
    exec.kill().unwrap();
    exec.wait().unwrap();
    assert!(ok(&["top", &name]).contains("sleep 997"));
    let own = common::cgroup(&name);
    ok(&["rm", "-f", &name]);
    assert!(!own.exists());
}

/// An ordinary user with a delegated cgroup.
#[test]
fn an_ordinary_user_runs_commands_with_limits_in_a_container() {
    if !common::root() {
        return;
    }
    let (user, host) = (common::user::User::new(), cgroup_core::Hierarchy::detect().unwrap());
    let root = host.root().unwrap();
    let given = root.create_child(common::unique()).unwrap();
    let _ = given.enable_path(host.controllers());
    // nspod finds the delegated cgroup from this place in it.
    let place = given.create_child("nspod-callers").unwrap();
    for cgroup in [&given, &place] {
        for file in [".", "cgroup.procs", "cgroup.subtree_control"] {
            nix::unistd::chown(&cgroup.path().join(file), Some(65_534.into()), None).unwrap();
        }
    }
    let inside = |args: &[&str]| {
        let mut command = std::process::Command::new("sh");
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", place.path().display());
        let run = user.command(args);
        command.args(["-c", &enter, "sh"]).arg(run.get_program()).args(run.get_args()).current_dir("/");
        for (key, value) in run.get_envs() {
            command.env(key, value.unwrap());
        }
        common::run_with(&mut command, "")
    };
    inside(&["run", "-d", "--name", "box", "sleep", "1000"]).ok();
    let late = inside(&["exec", "--timeout", "500ms", "box", "sh", "-c", "setsid sleep 996 & sleep 996"]);
    assert_eq!(
        (late.code(), late.err.as_str()),
        (124, "nspod: the command exceeded --timeout and was killed\n")
    );
    let top = inside(&["top", "box"]);
    assert!(!top.ok().contains("sleep 996"));
    if host.controllers().contains(Controllers::MEMORY) {
        let hog = inside(&["exec", "-m", "32m", "--memory-swap", "32m", "box", "perl", "-e", HOG]);
        let want = "nspod: the OOM killer ended 1 process at the call's memory.max\n";
        assert_eq!((hog.code(), hog.err.as_str()), (137, want));
    }
    inside(&["rm", "-f", "box"]).ok();
    given.destroy().unwrap();
    // Without a cgroup of its own, the command cannot be limited.
    user.nspod(&["run", "-d", "--name", "box", "sleep", "1000"]).ok();
    let refused = user.nspod(&["exec", "--timeout", "1s", "box", "true"]);
    assert_eq!(refused.code(), 125);
    assert!(refused.err.contains("the container does not have its own cgroup"), "{}", refused.err);
}
