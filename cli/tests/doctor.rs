//! Compares `nspod doctor` with independent observations of the host.

mod common;

use std::process::Command;

use cgroup_core::{Controller, ErrorKind, Hierarchy, Layout};
use common::user::User;
use common::{NSPOD, eventually, json, nspod, run_with};
use serde_json::Value;

fn doctor() -> Value {
    json(&["doctor", "--json"])
}

/// State and finding of a check.
fn check<'a>(report: &'a Value, group: &str, name: &str) -> (&'a str, &'a str) {
    let mut all = report["checks"].as_array().unwrap().iter();
    let found = all.find(|check| check["group"] == group && check["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no check {name} of {group} in {report:#}"));
    (found["mark"].as_str().unwrap(), found["finding"].as_str().unwrap())
}

#[test]
fn doctor_confirms_that_containers_start() {
    if !nspod_testkit::root() {
        return;
    }
    let report = doctor();
    assert_eq!(report["usable"], true);
    assert_eq!(check(&report, "trial", "a container"), ("ok", ""));
    nspod(&["run", "true"]).ok();
}

#[test]
fn each_controller_is_available_or_has_its_reason_and_a_hybrid_host_binds_memory_to_v1() {
    if !nspod_testkit::root() {
        return;
    }
    let (report, host) = (doctor(), Hierarchy::detect().unwrap());
    for controller in Controller::ALL {
        let why = host.why_missing(controller).map(|why| why.to_string());
        let want = why.as_deref().map_or(("ok", ""), |why| ("missing", why));
        assert_eq!(check(&report, "cgroups", controller.name()), want);
    }
    let (state, layout) = check(&report, "cgroups", "layout");
    assert!(layout.starts_with(&host.layout().to_string()), "{layout}");
    assert_eq!(state, if host.layout() == Layout::Unified { "ok" } else { "limited" });
    let memory_in_v1 = std::fs::read_to_string("/proc/cgroups").is_ok_and(|text| {
        text.lines().any(|line| line.starts_with("memory\t") && !line.starts_with("memory\t0\t"))
    });
    let said = check(&report, "cgroups", "memory").1;
    assert_eq!(
        said.starts_with("the memory controller is bound to the v1 hierarchy"),
        memory_in_v1,
        "{said}"
    );
}

#[test]
fn every_finding_that_is_not_ok_has_a_reason() {
    if !nspod_testkit::root() {
        return;
    }
    let report = doctor();
    for check in report["checks"].as_array().unwrap() {
        let finding = check["finding"].as_str().unwrap();
        assert!(check["mark"] == "ok" || finding.len() > 20, "{check}");
    }
    let text = common::ok(&["doctor"]);
    assert!(text.contains("\nContainers can be started here by the caller; "), "{text}");
    assert!(!text.contains('\x1b'), "no colours without a terminal");
}

#[test]
fn doctor_tells_an_ordinary_user_the_differences() {
    if !nspod_testkit::root() {
        return;
    }
    let output = run_with(User::new().command(&["doctor", "--json"]).env_remove("XDG_RUNTIME_DIR"), "");
    let report: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(output.code(), if report["usable"] == true { 0 } else { 1 });
    let (state, finding) = check(&report, "caller", "privileges");
    assert!(state == "limited" && finding.starts_with("uid 65534 without CAP_SYS_ADMIN"), "{finding}");
    let (state, finding) = check(&report, "cgroups", "delegation");
    assert!(state == "limited" && finding.contains("not delegated to user 65534"), "{finding}");
    // Root must find the same for an ordinary user.
    let by_root = doctor();
    assert_eq!(check(&by_root, "trial", "a rootless container").0, check(&report, "trial", "a container").0);
    assert_eq!(
        check(&by_root, "namespaces", "user, by ordinary users").0,
        check(&report, "namespaces", "user").0
    );
}

/// Runs doctor in a user namespace in which no more namespaces of a kind are allowed.
fn without(kind: &str) -> (i32, Value) {
    let script = format!("echo 0 > /proc/sys/user/max_{kind}_namespaces && exec {NSPOD} doctor --json");
    let output = run_with(Command::new("unshare").args(["-Ur", "sh", "-c", &script]), "");
    (output.code(), serde_json::from_str(&output.out).unwrap_or_else(|e| panic!("{e}: {}", output.err)))
}

#[test]
fn doctor_names_the_disabled_switch_and_exits_1_if_no_container_can_start() {
    if !nspod_testkit::root() {
        return;
    }
    let (code, report) = without("uts");
    assert_eq!((code, &report["usable"]), (1, &Value::Bool(false)));
    let (state, why) = check(&report, "namespaces", "uts");
    assert_eq!(state, "missing");
    assert!(why.contains("the sysctl user.max_uts_namespaces is 0"), "{why}");
    let (state, why) = check(&report, "trial", "a container");
    assert_eq!(state, "missing");
    assert!(why.contains("user.max_uts_namespaces"), "{why}");
    assert_eq!(check(&report, "namespaces", "ipc").0, "ok");
}

#[test]
fn doctor_and_run_fail_at_the_same_step() {
    if !nspod_testkit::root() {
        return;
    }
    // A state directory that cannot be made, and a namespace that cannot be made.
    for setup in ["mount -t tmpfs -o ro none /run", "echo 0 > /proc/sys/user/max_ipc_namespaces"] {
        let in_container = |nspod: &str| {
            let script = format!("{setup} && exec {NSPOD} {nspod}");
            run_with(
                Command::new("unshare").args(["-Urm", "sh", "-c", &script]).env_remove("XDG_RUNTIME_DIR"),
                "",
            )
        };
        let report: Value = serde_json::from_str(&in_container("doctor --json").out).unwrap();
        let (state, why) = check(&report, "trial", "a container");
        let run = in_container("run true");
        assert_eq!((state, run.code()), ("missing", 125), "{run:?}");
        assert_eq!(format!("nspod: {why}\n"), run.err);
    }
}

#[test]
fn root_without_a_capability_is_not_told_to_become_root() {
    if !nspod_testkit::root() {
        return;
    }
    let cure = "root lacks it here, so start the container around it with --cap-add SYS_ADMIN";
    let without = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        run_with(
            command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", NSPOD]).args(args),
            "",
        )
    };
    for args in [&["run", "--userns", "host", "true"][..], &["run", "--bare", "--userns", "host", "true"]] {
        let output = without(args);
        assert_eq!(output.code(), 125, "{output:?}");
        let want = format!("new namespaces require CAP_SYS_ADMIN: {cure}");
        assert!(output.err.contains(&want) && !output.err.contains("run as root"), "{}", output.err);
    }
    let report: Value = serde_json::from_str(&without(&["doctor", "--json"]).out).unwrap();
    let (state, why) = check(&report, "caller", "privileges");
    assert_eq!(state, "limited");
    assert!(why.starts_with("uid 0 without CAP_SYS_ADMIN: ") && why.ends_with(cure), "{why}");
    for check in report["checks"].as_array().unwrap() {
        assert!(!check["finding"].as_str().unwrap().contains("run as root"), "{check}");
    }
}

#[test]
fn doctor_leaves_nothing_behind() {
    if !nspod_testkit::root() {
        return;
    }
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // The cgroups of unnamed containers, such as doctor's, have names of twelve hexadecimal digits.
    let unnamed = || {
        let parent = Hierarchy::detect().unwrap().root().unwrap().child("nspod");
        // The parent cgroup is removed with the last container of any test.
        let children = match parent.and_then(|parent| parent.children()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            children => children.unwrap(),
        };
        let is_unnamed = |name: &str| name.len() == 12 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let names = children.iter().map(|cgroup| cgroup.name().to_string_lossy().into_owned());
        names.filter(|name| is_unnamed(name)).collect::<Vec<_>>()
    };
    let (before, cgroups) = (mounts(), unnamed());
    doctor();
    assert_eq!(mounts(), before);
    let mut left = unnamed();
    left.retain(|name| !cgroups.contains(name));
    // Cgroups of concurrent tests disappear soon.
    eventually("no cgroup is left behind", || {
        let now = unnamed();
        left.retain(|name| now.contains(name));
        left.is_empty()
    });
}
