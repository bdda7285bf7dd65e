//! nspod-oci with `--systemd-cgroup`. If systemd has booted this machine, the tests use it. Otherwise they
//! run this program again beside a private user manager, see `beside_systemd`.

#[path = "../../cgroup-core/tests/common/mod.rs"]
mod beside;
mod common;

use std::path::Path;
use std::process::Command;

use beside::Own;
use cgroup_core::{Controllers, Hierarchy};
use common::bundle::Bundle;
use common::{controllers, run_with};
use serde_json::Value;

/// Returns the parent of each container's cgroup, with all controllers of this host. If controllers are
/// missing, returns `None` and skips the test.
fn own() -> Option<Own> {
    if !controllers(Controllers::MEMORY | Controllers::CPU | Controllers::PIDS) {
        return None;
    }
    let own = Own::new();
    own.enable_path(Hierarchy::detect().unwrap().controllers()).unwrap();
    Some(own)
}

#[test]
fn containers_are_systemd_scopes() {
    const TESTS: &str = "beside_systemd::";
    let out = if Path::new("/run/systemd/private").exists() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = run_with(command.args(["--ignored", "--nocapture", TESTS]), "");
        assert_eq!(output.code(), 0, "{}{}", output.out, output.err);
        output.out
    } else {
        let Some(own) = own() else { return };
        let bus = [("NSPOD_TEST_SYSTEMD", "user"), ("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/user/0/bus")];
        let Some(out) = beside::beside_systemd(&own, 0, &[TESTS], &bus) else { return };
        out
    };
    assert!(out.contains(" 7 passed"), "{out}");
}

#[test]
fn containers_of_an_ordinary_user_are_scopes_of_the_users_systemd() {
    const USER: u32 = 65_534;
    let Some(own) = own() else { return };
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(own.path().join(file), Some(USER), Some(USER)).unwrap();
    }
    let test = ["--exact", "as_a_user::a_container_is_in_the_users_slice"];
    let Some(out) = beside::beside_systemd(&own, USER, &test, &[("NSPOD_TEST_SYSTEMD", "user")]) else {
        return;
    };
    assert!(out.contains(" 1 passed"), "{out}");
}

/// Creates a bundle whose commands use systemd.
fn bundle(script: &str, spec: &[&str], change: impl FnOnce(&mut Value)) -> Bundle {
    // With a private manager, the user owns this directory.
    let dir = match std::env::var_os("NSPOD_TEST_SYSTEMD") {
        Some(_) => tempfile::tempdir_in(std::env::var_os("XDG_RUNTIME_DIR").unwrap()).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    Bundle::inside(dir, &["--systemd-cgroup"], spec, script, change)
}

/// Returns a property of a unit, as printed by systemctl.
#[track_caller]
fn shown(unit: &str, property: &str) -> String {
    let mut command = Command::new("systemctl");
    if std::env::var_os("NSPOD_TEST_SYSTEMD").is_some() {
        command.arg("--user").env_remove("DBUS_SESSION_BUS_ADDRESS");
    }
    let output = run_with(command.args(["show", "--value", "-p", property, unit]), "");
    output.ok().trim_end().to_owned()
}

#[track_caller]
fn all_shown(unit: &str, expected: &[(&str, &str)]) {
    for (property, value) in expected {
        assert_eq!(shown(unit, property), *value, "{property}");
    }
}

const SLEEP: &str = "exec sleep 1000";

mod beside_systemd {
    use serde_json::json;

    use super::common::Output;
    use super::{SLEEP, all_shown, bundle, shown};

    #[track_caller]
    fn fails(output: &Output, words: &str) {
        assert_eq!(output.code(), 1, "{}{}", output.out, output.err);
        assert!(output.err.contains(words), "{words:?} is not in: {}", output.err);
    }

    /// Checks that systemd has forgotten the unit of a container that has ended.
    #[track_caller]
    fn gone(unit: &str) {
        assert_eq!(shown(unit, "LoadState"), "not-found");
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_container_is_a_scope_in_its_slice_and_its_limits_are_properties() {
        let bundle = bundle(SLEEP, &[], |config| {
            config["linux"]["cgroupsPath"] = "nspodtest-a.slice:cri:limited".into();
            config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
            config["linux"]["resources"]["cpu"] = json!({ "quota": 50_001, "period": 200_000 });
            config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
            config["annotations"] = json!({ "org.systemd.property.TimeoutStopSec": "uint64 7" });
        });
        bundle.verb(&["create"]).ok();
        let (unit, cgroup) = ("cri-limited.scope", bundle.cgroup());
        assert_eq!(bundle.record()["unit"], unit);
        assert!(cgroup.ends_with("nspodtest.slice/nspodtest-a.slice/cri-limited.scope"), "{cgroup:?}");
        let expected = [
            ("ActiveState", "active"),
            ("Slice", "nspodtest-a.slice"),
            ("Delegate", "yes"),
            ("MemoryMax", "67108864"),
            ("CPUQuotaPerSecUSec", "260ms"),
            ("CPUQuotaPeriodUSec", "200ms"),
            ("TasksMax", "20"),
            ("TimeoutStopUSec", "7s"),
        ];
        all_shown(unit, &expected);
        assert_eq!(bundle.read("memory.max"), "67108864");
        assert_eq!(bundle.read("cpu.max"), "50001 200000");
        assert_eq!(bundle.read("pids.max"), "20");
        // Only the container keeps the scope alive now.
        assert_eq!(bundle.read("cgroup.procs"), bundle.record()["init_process_pid"].to_string());
        bundle.verb(&["start"]).ok();
        assert_eq!(bundle.command(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]).ok(), "0::/\n");

        bundle.verb(&["update", "--memory", "33554432", "--pids-limit", "10"]).ok();
        all_shown(unit, &[("MemoryMax", "33554432"), ("TasksMax", "10")]);
        assert_eq!(bundle.read("cpu.max"), "50001 200000");
        assert_eq!(bundle.read("memory.max"), "33554432");
        assert_eq!(bundle.read("pids.max"), "10");
        bundle.verb(&["update", "--cpu-quota", "100000", "--cpu-period", "100000"]).ok();
        all_shown(unit, &[("MemoryMax", "33554432"), ("CPUQuotaPerSecUSec", "1s")]);
        assert_eq!(bundle.read("cpu.max"), "100000 100000");

        bundle.command(&["kill", &bundle.id, "KILL"]).ok();
        bundle.wait_for("stopped");
        bundle.verb(&["delete"]).ok();
        gone(unit);
        assert!(!cgroup.exists());
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_container_without_a_slice_is_in_system_slice_and_can_be_deleted_by_force() {
        let bundle = bundle(SLEEP, &[], |_| {});
        bundle.command(&["--cgroup-manager", "systemd", "run", "--detach", &bundle.id]).ok();
        let (unit, cgroup) = (format!("nspod-{}.scope", bundle.id), bundle.cgroup());
        all_shown(&unit, &[("Slice", "system.slice"), ("ActiveState", "active")]);
        bundle.verb(&["pause"]).ok();
        bundle.verb(&["delete", "--force"]).ok();
        gone(&unit);
        assert!(!cgroup.exists());
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_limit_of_one_process_leaves_room_for_the_program() {
        for resources in [json!({ "pids": { "limit": 1 } }), json!({ "unified": { "pids.max": "1" } })] {
            let bundle = bundle("echo alone; ls /; echo never", &[], |config| {
                config["linux"]["resources"] = resources;
            });
            let output = bundle.verb(&["run"]);
            assert_eq!(output.out, "alone\n", "{}", output.err);
            assert!(output.err.contains("can't fork"), "{}", output.err);
        }
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn devices_are_denied_and_allowed() {
        for (allowed, expected) in [(false, 1), (true, 0)] {
            let bundle = bundle(": < /dev/kmsg", &[], |config| {
                let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw" });
                config["linux"]["devices"] =
                    json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]);
                // Using this device also requires CAP_SYSLOG.
                for set in ["bounding", "effective", "permitted"] {
                    config["process"]["capabilities"][set].as_array_mut().unwrap().push("CAP_SYSLOG".into());
                }
                if allowed {
                    config["linux"]["resources"]["devices"].as_array_mut().unwrap().push(rule);
                }
            });
            let output = bundle.verb(&["run"]);
            assert_eq!(output.code(), expected, "{}", output.err);
            assert_eq!(output.err.contains("Operation not permitted"), !allowed, "{}", output.err);
        }
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn an_ended_container_leaves_nothing() {
        let bundle = bundle("sleep 1000 & exit 7", &[], |config| {
            // Processes that outlive the first one are killed with the container.
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
            config["linux"]["cgroupsPath"] = "nspodtest.slice:cri:ended".into();
        });
        assert_eq!(bundle.verb(&["run"]).code(), 7);
        gone("cri-ended.scope");
        fails(&bundle.verb(&["state"]), "container does not exist");
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_failed_creation_leaves_no_unit() {
        let bundle = bundle("", &[], |config| {
            config["process"]["args"] = json!(["/nowhere"]);
            config["linux"]["cgroupsPath"] = "nspodtest.slice:cri:failed".into();
        });
        for verb in ["create", "run"] {
            let output = bundle.verb(&[verb]);
            assert!(output.code() != 0 && output.err.contains("/nowhere"), "{}", output.err);
            gone("cri-failed.scope");
            fails(&bundle.verb(&["state"]), "container does not exist");
        }
    }

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_property_that_systemd_refuses_is_reported_with_its_field() {
        let cases = [
            ("kubepods:cri:x", json!({}), "linux.cgroupsPath: "),
            ("/kubepods/x", json!({}), "linux.cgroupsPath: "),
            ("", json!({ "org.systemd.property.After": "[" }), "annotations.org.systemd.property.After: "),
            ("", json!({ "org.systemd.property.Nonsense": "1" }), "Nonsense"),
        ];
        for (path, annotations, words) in cases {
            let bundle = bundle("", &[], |config| {
                config["linux"]["cgroupsPath"] = path.into();
                config["annotations"] = annotations;
            });
            fails(&bundle.verb(&["create"]), words);
            fails(&bundle.verb(&["state"]), "container does not exist");
        }
    }
}

mod as_a_user {
    use serde_json::json;

    use super::{SLEEP, all_shown, bundle};

    #[test]
    #[ignore = "run beside a systemd, by the tests above"]
    fn a_container_is_in_the_users_slice() {
        let bundle = bundle(SLEEP, &["--rootless"], |config| {
            config["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 } });
        });
        bundle.verb(&["run", "--detach"]).ok();
        let (unit, cgroup) = (format!("nspod-{}.scope", bundle.id), bundle.cgroup());
        all_shown(&unit, &[("Slice", "user.slice"), ("MemoryMax", "67108864"), ("Delegate", "yes")]);
        assert_eq!(bundle.read("memory.max"), "67108864");
        bundle.verb(&["delete", "--force"]).ok();
        assert!(!cgroup.exists());
    }
}
