//! The life cycle of a container: create, start, state, kill, delete.

use std::fs;
use std::path::Path;

use cgroup_core::Controllers;
use serde_json::json;

use crate::bundle::{Bundle, cgroups, ours, runtime_lacks};
use crate::common::{eventually, root};

#[test]
fn create_leaves_one_waiting_process_and_start_releases_it() {
    let bundle = Bundle::sh("echo started; exec sleep 1000");
    bundle.create();
    assert_eq!(bundle.status(), "created");
    let pid = bundle.pid();
    eventually("no process but one is left", || bundle.processes().iter().all(|&process| process == pid));
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(bundle.printed("create"), "");
    bundle.start();
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.pid(), pid);
    eventually("it runs", || bundle.printed("create") == "started\n");
    assert_eq!(bundle.proc("cmdline"), "sleep\u{0}1000\u{0}");
}

#[test]
fn a_created_container_keeps_the_config_of_its_creation() {
    let bundle = Bundle::sh("echo first");
    bundle.create();
    fs::write(bundle.path("config.json"), "{").unwrap();
    bundle.start();
    bundle.wait_until("stopped");
    assert_eq!(bundle.printed("create"), "first\n");
}

#[test]
fn the_state_has_the_fields_of_the_specification() {
    let bundle = Bundle::sh("exit 3").set("/annotations", json!({ "org.example.key": "value", "empty": "" }));
    bundle.create();
    let state = bundle.state();
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
    if ours() {
        let features: serde_json::Value = serde_json::from_str(bundle.verb(&["features"]).ok()).unwrap();
        assert_eq!((&state["ociVersion"], &features["ociVersionMax"]), (&json!("1.3.0"), &json!("1.3.0")));
    }
    assert_eq!(state["id"], bundle.id());
    assert_eq!(state["bundle"], bundle.path("").to_str().unwrap().trim_end_matches('/'));
    assert_eq!(state["annotations"], json!({ "org.example.key": "value", "empty": "" }));
    bundle.start();
    bundle.wait_until("stopped");
    assert!(matches!(bundle.state()["pid"].as_u64(), None | Some(0)), "{}", bundle.state());
    bundle.delete(&[]);
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0);
}

#[test]
fn an_id_can_be_used_once() {
    let bundle = Bundle::of(&["sleep", "1000"]);
    bundle.create();
    let pid = bundle.pid();
    let again = bundle.verb(&["create", bundle.id()]);
    assert_ne!(again.code(), 0);
    assert!(again.err.contains("exist"), "{}", again.err);
    assert_ne!(bundle.verb(&["run", bundle.id()]).code(), 0);
    assert_eq!((bundle.status(), bundle.pid()), ("created".into(), pid));
}

#[test]
fn an_invalid_id_is_refused() {
    let bundle = Bundle::sh("true");
    bundle.write_config();
    for id in ["", ".", "..", "a/b", "../a", "a b", "a\nb", "ä", "a\u{7f}", "*"] {
        if [".", "a b", "a\nb", "ä", "a\u{7f}", "*", ".."].contains(&id)
            && runtime_lacks(&["crun"], "every id that is not a path is accepted")
        {
            continue;
        }
        if id == "." && runtime_lacks(&["runc"], "a dot is accepted as an id") {
            continue;
        }
        assert_ne!(bundle.verb(&["run", id]).code(), 0, "{id:?}");
        assert_ne!(bundle.verb(&["state", id]).code(), 0, "{id:?}");
    }
    assert!(!bundle.path("a").exists());
}

#[test]
fn verbs_fail_in_the_wrong_state() {
    let bundle = Bundle::of(&["sleep", "1000"]).up();
    assert_ne!(bundle.verb(&["start", bundle.id()]).code(), 0, "it runs");
    assert_ne!(bundle.verb(&["delete", bundle.id()]).code(), 0, "it runs");
    assert_eq!(bundle.status(), "running");
    bundle.verb(&["kill", bundle.id(), "KILL"]).ok();
    bundle.wait_until("stopped");
    assert_ne!(bundle.verb(&["start", bundle.id()]).code(), 0, "it is stopped");
    assert_ne!(bundle.verb(&["kill", bundle.id(), "KILL"]).code(), 0, "it is stopped");
    assert_ne!(bundle.exec(&["true"]).code(), 0, "it is stopped");
    bundle.delete(&[]);
    for verb in ["start", "kill", "delete", "state"] {
        assert_ne!(bundle.verb(&[verb, bundle.id()]).code(), 0, "{verb}: it is gone");
    }
}

#[test]
fn delete_force_accepts_created_running_and_missing_containers() {
    let bundle = Bundle::of(&["sleep", "1000"]);
    for start in [false, true] {
        bundle.create();
        if start {
            bundle.start();
        }
        let pid = bundle.pid();
        bundle.delete(&["--force"]);
        assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0);
        eventually("its process is gone", || !Path::new(&format!("/proc/{pid}/exe")).exists());
        assert!(
            fs::read_dir(bundle.path("state"))
                .unwrap()
                .all(|entry| entry.unwrap().file_name() != *bundle.id())
        );
    }
    bundle.delete(&["--force"]);
}

#[test]
fn a_created_container_is_deleted_by_force_or_after_it_was_killed() {
    let bundle = Bundle::of(&["sleep", "1000"]);
    bundle.create();
    bundle.verb(&["kill", bundle.id(), "KILL"]).ok();
    bundle.wait_until("stopped");
    bundle.delete(&[]);
}

#[test]
fn signals_have_names_and_numbers() {
    let script = "trap 'echo term' TERM; trap 'echo usr1' USR1; trap 'echo usr2' USR2; \
        trap 'echo rtmin+3' 37; trap 'echo rtmax-1' 63; echo ready; while :; do sleep 0.05; done";
    let bundle = Bundle::sh(script).up();
    eventually("it is ready", || bundle.printed("create") == "ready\n");
    let mut so_far = "ready\n".to_owned();
    for (signal, said) in [
        (Some("USR1"), "usr1\n"),
        (Some("SIGUSR2"), "usr2\n"),
        (Some("10"), "usr1\n"),
        (Some("TERM"), "term\n"),
        (None, "term\n"),
        (Some("0"), ""),
        (Some("SIGRTMIN+3"), "rtmin+3\n"),
        (Some("RTMAX-1"), "rtmax-1\n"),
    ] {
        if signal.is_some_and(|name| name.to_ascii_uppercase().contains("RTM"))
            && runtime_lacks(&["runc"], "names of real-time signals")
        {
            continue;
        }
        bundle.verb(&["kill", bundle.id()].into_iter().chain(signal).collect::<Vec<_>>()).ok();
        so_far += said;
        eventually(said, || bundle.printed("create") == so_far);
    }
    for signal in ["NONE", "SIGNONE", "-1", "4000", "RTMIN-1", "RTMAX+1"] {
        if !runtime_lacks(&["crun"], "unknown signals are rejected") {
            assert_ne!(bundle.verb(&["kill", bundle.id(), signal]).code(), 0, "{signal:?}");
        }
    }
    assert_eq!(bundle.status(), "running");
    bundle.verb(&["kill", bundle.id(), "9"]).ok();
    bundle.wait_until("stopped");
}

#[test]
fn kill_ends_the_remaining_processes_in_a_shared_pid_namespace() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun", "runc"], "it signals only the first process")
    {
        return;
    }
    for script in ["sleep 1000 &", "sleep 1000 & exec sleep 1000"] {
        let bundle = Bundle::sh(script).without("pid");
        let mark = format!("NSPOD_TEST_MARK={}", bundle.id());
        let bundle = bundle.set("/process/env/-", mark).up();
        if script.ends_with('&') {
            bundle.wait_until("stopped");
            assert_eq!(bundle.processes().len(), 1);
            assert_ne!(
                bundle.verb(&["kill", bundle.id(), "TERM"]).code(),
                0,
                "only KILL goes to all processes"
            );
        }
        bundle.verb(&["kill", bundle.id(), "KILL"]).ok();
        eventually("no process is left", || bundle.processes().is_empty());
        bundle.wait_until("stopped");
        bundle.delete(&[]);
    }
}

#[test]
fn run_ends_as_the_program_does() {
    assert_eq!(Bundle::sh("exit 37").run().code(), 37);
    let bundle = Bundle::sh("sleep 1000 & kill -9 $!; wait $!");
    assert_eq!(bundle.run().code(), 137);
    // SIGKILL reaches pid 1 only from outside its pid namespace.
    let bundle = Bundle::sh("exec sleep 1000");
    bundle.write_config();
    let mut child = bundle.command(&["run", bundle.id()]).spawn().unwrap();
    eventually("it runs", || {
        let state = bundle.verb(&["state", bundle.id()]);
        state.code() == 0 && state.out.contains("\"running\"")
    });
    bundle.verb(&["kill", bundle.id(), "KILL"]).ok();
    assert_eq!(crate::common::end_of(&mut child).code(), Some(137));
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0, "it is deleted");
}

#[test]
fn run_forwards_signals() {
    let bundle = Bundle::sh("trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    bundle.write_config();
    let mut child = bundle.command(&["run", bundle.id()]).spawn().unwrap();
    eventually("it is ready", || bundle.printed("run") == "ready\n");
    crate::common::signal(&child, 15);
    assert_eq!(crate::common::end_of(&mut child).code(), Some(5));
    assert_eq!(bundle.printed("run"), "ready\ngot\n");
}

#[test]
fn run_leaves_nothing() {
    let bundle = Bundle::sh("sleep 1000 & echo done");
    assert_eq!(bundle.run().ok(), "done\n");
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0);
    eventually("no process is left", || bundle.processes().is_empty());
    assert!(!bundle.path("state").join(bundle.id()).exists());
}

#[test]
fn a_missing_program_leaves_no_container() {
    for args in [["/not/there"], ["not-there"], ["/etc"]] {
        let bundle = Bundle::of(&args);
        bundle.write_config();
        let output = bundle.verb(&["run", bundle.id()]);
        assert_ne!(output.code(), 0);
        assert!(output.err.contains(args[0]) || !ours() && !output.err.is_empty(), "{}", output.err);
        assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0);
    }
}

#[test]
fn run_detached_leaves_a_running_container() {
    for flag in ["--detach", "-d"] {
        let bundle = Bundle::sh("echo started; exec sleep 1000");
        bundle.write_config();
        let file = bundle.path("pid").to_str().unwrap().to_owned();
        bundle.verb(&["run", flag, "--pid-file", &file, bundle.id()]).ok();
        assert_eq!(bundle.status(), "running");
        assert_eq!(fs::read_to_string(&file).unwrap(), bundle.pid().to_string());
        let pid = bundle.pid();
        eventually("no process but its own is left", || {
            bundle.processes().iter().all(|&process| process == pid)
        });
        eventually("it runs", || bundle.printed("run") == "started\n");
    }
}

#[test]
fn create_writes_a_pid_file() {
    let bundle = Bundle::of(&["sleep", "1000"]);
    bundle.write_config();
    let file = bundle.path("pid").to_str().unwrap().to_owned();
    bundle
        .verb(&["create", "--bundle", bundle.path("").to_str().unwrap(), "--pid-file", &file, bundle.id()])
        .ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), bundle.pid().to_string());
}

#[test]
fn the_bundle_is_named_or_the_working_directory() {
    let bundle = Bundle::sh("echo here");
    bundle.write_config();
    for flag in ["--bundle", "-b"] {
        let mut command = bundle.command(&["run", flag, bundle.path("").to_str().unwrap(), bundle.id()]);
        assert!(command.current_dir("/").status().unwrap().success());
        assert_eq!(bundle.printed("run"), "here\n");
    }
    assert_ne!(bundle.verb(&["run", "--bundle", "/not/there", bundle.id()]).code(), 0);
}

#[test]
fn an_invalid_config_is_refused() {
    let bundle = Bundle::sh("true");
    assert_ne!(bundle.verb(&["run", bundle.id()]).code(), 0, "there is no config.json");
    for config in ["", "{", "[]", "{}", "{\"ociVersion\": 1}", "{\"ociVersion\": \"1.0.2\"}"] {
        fs::write(bundle.path("config.json"), config).unwrap();
        assert_ne!(bundle.verb(&["run", bundle.id()]).code(), 0, "{config}");
    }
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0);
}

#[test]
fn supported_versions_of_the_configuration_are_accepted() {
    if runtime_lacks(&["crun"], "only versions 1.0.x are supported") {
        return;
    }
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"] {
        assert_eq!(
            Bundle::sh("echo started").set("/ociVersion", version).run().ok(),
            "started\n",
            "{version}"
        );
    }
    let later = Bundle::sh("echo started").set("/ociVersion", "1.99.0").run();
    assert_eq!((later.code(), later.out.as_str()), (0, "started\n"));
    assert!(!ours() || later.err.contains("ociVersion"), "{}", later.err);
    if runtime_lacks(&["runc"], "versions are not checked") {
        return;
    }
    for version in ["", "one", "0.6.0", "2.0.0"] {
        Bundle::sh("true").set("/ociVersion", version).refused("ociVersion");
    }
}

#[test]
fn descriptors_are_passed_on_request() {
    let preserving = |flags: &[&str], listen: &str| {
        let bundle = Bundle::sh("ls /proc/self/fd | tr '\\n' ' '; cat <&3; echo $LISTEN_FDS; test \"$LISTEN_PID\" = $$ && echo mine").file("three", "three\n");
        bundle.write_config();
        let runtime = bundle.command(&[&["run"], flags, &[bundle.id()]].concat());
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("{listen} exec \"$@\" 3< $B/three 4< /dev/null 5< /dev/null"), "sh"]);
        command
            .arg(runtime.get_program())
            .args(runtime.get_args())
            .env("B", bundle.path(""))
            .current_dir(bundle.path(""));
        crate::common::run_with(&mut command, "").out
    };
    assert!(
        preserving(&["--preserve-fds", "1"], "").starts_with("0 1 2 3 4 three\n"),
        "3 is passed, and ls opens another"
    );
    assert!(preserving(&["--preserve-fds=3"], "").starts_with("0 1 2 3 4 5 6 three\n"));
    assert!(preserving(&[], "").starts_with("0 1 2 3 "), "ls opens it");
    if !runtime_lacks(&["crun"], "LISTEN_FDS is not set in the container") {
        assert!(preserving(&[], "LISTEN_FDS=1 LISTEN_PID=$$").contains("three\n1\n"));
    }
    if ours() {
        assert!(preserving(&[], "LISTEN_FDS=1 LISTEN_PID=$$").ends_with("mine\n"));
    }
}

#[test]
fn the_root_of_states_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::of(&["sleep", "1000"]);
    bundle.create();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (root, own) = (mode(&bundle.path("state")), mode(&bundle.path("state").join(bundle.id())));
    if !runtime_lacks(&["crun"], "its directories are open to the group") {
        assert_eq!(own & 0o066, 0, "{own:o}");
    }
    assert!(!ours() || (root, own) == (0o700, 0o700), "{root:o} {own:o}");
}

#[test]
fn delete_removes_no_file_behind_a_mount_in_the_state_directory() {
    if !root() || !ours() {
        return;
    }
    let bundle = Bundle::of(&["sleep", "1000"]).up();
    let bundle = bundle.before(
        "mkdir $B/state/$NSPOD_TEST_MARK/mounted; mount --bind $B/rootfs $B/state/$NSPOD_TEST_MARK/mounted",
    );
    let output = bundle.verb(&["delete", "--force", bundle.id()]);
    assert!(bundle.path("rootfs/bin/busybox").exists(), "the root is empty");
    assert!(output.code() != 0 && output.err.contains("(EXDEV)"), "{output:?}");
}
