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
