//! The field `hooks`.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::{Bundle, identity, ours, runtime_lacks};
use crate::common::{end_of, eventually};

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Returns a hook that runs a script, with its kind in `$1` and the bundle in `$B`. It reads its whole input,
/// because otherwise it would end crun.
fn hook(bundle: &Bundle, kind: &str, script: &str) -> Value {
    let directory = bundle.path("");
    json!({
        "path": "/bin/sh",
        "args": ["sh", "-c", format!("state=$(cat); {script}"), "sh", kind],
        "env": ["PATH=/bin:/usr/bin", format!("B={}", directory.display())],
    })
}

/// Creates a bundle with a log directory that has the same path in the container, so that every hook can
/// write there.
fn bundle(script: &str) -> Bundle {
    let bundle = Bundle::sh(script);
    let directory = bundle.path("log").to_str().unwrap().to_owned();
    fs::create_dir(&directory).unwrap();
    bundle.mount(json!({ "destination": directory, "source": directory, "options": ["bind"] }))
}

/// Adds a hook of each kind.
fn with_all(mut bundle: Bundle, script: &str) -> Bundle {
    for kind in KINDS {
        let hook = hook(&bundle, kind, script);
        bundle = bundle.set(&format!("/hooks/{kind}/-"), hook);
    }
    bundle
}

/// Waits until each hook of a start has logged something: not every runtime waits for the hooks in the
/// container.
fn wait_for_all(bundle: &Bundle) {
    for kind in &KINDS[..5] {
        let file = bundle.path(&format!("log/{kind}"));
        eventually(kind, || fs::metadata(&file).is_ok_and(|file| file.len() > 0));
    }
}

fn log(bundle: &Bundle) -> String {
    fs::read_to_string(bundle.path("log/all")).unwrap_or_default()
}

#[test]
fn hooks_run_at_their_time_and_in_their_order() {
    let mut bundle = bundle("true");
    let directory = bundle.path("");
    bundle = bundle.set("/process/args/2", format!("echo program >> {}log/all", directory.display()));
    for kind in KINDS {
        for n in [1, 2] {
            let hook = hook(&bundle, kind, &format!("echo $1 {n} >> $B/log/all"));
            bundle = bundle.set(&format!("/hooks/{kind}/-"), hook);
        }
    }
    let twice = |kinds: &[&str]| kinds.iter().map(|kind| format!("{kind} 1\n{kind} 2\n")).collect::<String>();
    bundle.create();
    if !runtime_lacks(&["runc"], "hooks after the start run before it") {
        assert_eq!(log(&bundle), twice(&KINDS[..3]));
    }
    bundle.start();
    bundle.wait_until("stopped");
    if runtime_lacks(&["crun", "runc"], "hooks after the start do not wait for those in the container") {
        return;
    }
    // The program may log before the hooks that run after its start.
    let after: String =
        log(&bundle).lines().filter(|line| *line != "program").map(|line| format!("{line}\n")).collect();
    assert_eq!(after, twice(&KINDS[..5]));
    assert!(log(&bundle).starts_with(&(twice(&KINDS[..4]))), "{}", log(&bundle));
    assert!(log(&bundle).find("program") > log(&bundle).find("startContainer 2"), "{}", log(&bundle));
    bundle.delete(&[]);
    assert!(log(&bundle).ends_with(&twice(&KINDS[5..])), "{}", log(&bundle));
}

#[test]
fn run_has_all_hooks() {
    let bundle = with_all(bundle("true"), "echo $1 >> $B/log/all");
    bundle.run().ok();
    if !runtime_lacks(&["crun", "runc"], "hooks after the start do not wait for those in the container") {
        assert_eq!(log(&bundle), KINDS.map(|kind| format!("{kind}\n")).concat());
    }
}

#[test]
fn hooks_run_in_the_namespaces_of_the_runtime_or_of_the_container() {
    let script = "for kind in mnt net uts; do readlink /proc/self/ns/$kind; done > $B/log/$1";
    let bundle = with_all(bundle("sleep 1000"), script).up();
    let of = |of: &str| {
        ["mnt", "net", "uts"].map(|kind| identity(&format!("/proc/{of}/ns/{kind}")) + "\n").concat()
    };
    let (ours, containers) = (of("self"), of(&bundle.pid().to_string()));
    wait_for_all(&bundle);
    bundle.delete(&["--force"]);
    for kind in KINDS {
        let want = if kind.ends_with("Container") { &containers } else { &ours };
        assert_eq!(&fs::read_to_string(bundle.path(&format!("log/{kind}"))).unwrap(), want, "{kind}");
    }
}

#[test]
fn the_program_of_a_hook_comes_from_the_host_until_the_root_changes() {
    if runtime_lacks(&["crun"], "a hook without arguments is not supported") {
        return;
    }
    let bundle = bundle("true").file("program", "#!/bin/sh\ncat > /dev/null; echo host >> $B/log/all\n");
    let bundle = bundle.file("rootfs/program", "#!/bin/sh\ncat > /dev/null; echo container >> $B/log/all\n");
    let mut env = hook(&bundle, "", "")["env"].clone();
    let host = bundle.path("program").to_str().unwrap().to_owned();
    env[0] = "PATH=/bin".into();
    let bundle = bundle
        .set("/hooks/createRuntime/-", json!({ "path": host, "env": env }))
        .set("/hooks/createContainer/-", json!({ "path": host, "env": env }))
        .set("/hooks/startContainer/-", json!({ "path": "/program", "env": env }));
    bundle.run().ok();
    assert_eq!(log(&bundle), "host\nhost\ncontainer\n");
}

#[test]
fn hooks_receive_the_state() {
    let bundle = with_all(bundle("sleep 1000"), "echo \"$state\" > $B/log/$1")
        .set("/annotations", json!({ "org.example.key": "value" }));
    let bundle = bundle.up();
    let pid = bundle.pid();
    wait_for_all(&bundle);
    bundle.delete(&["--force"]);
    for (kind, status) in
        KINDS.iter().zip(["creating", "creating", "creating", "created", "running", "stopped"])
    {
        let state: Value =
            serde_json::from_str(&fs::read_to_string(bundle.path(&format!("log/{kind}"))).unwrap()).unwrap();
        assert_eq!(state["id"], bundle.id(), "{kind}: {state}");
        if *kind == "startContainer"
            && runtime_lacks(&["crun"], "the state in the container has another bundle")
        {
            continue;
        }
        let directory = bundle.path("");
        assert_eq!(state["bundle"], directory.to_str().unwrap().trim_end_matches('/'), "{kind}: {state}");
        assert_eq!(state["annotations"]["org.example.key"], "value", "{kind}: {state}");
        assert!(state["ociVersion"].is_string(), "{kind}: {state}");
        let late = *kind == "poststart" && runtime_lacks(&["runc"], "hooks after the start run before it");
        if !late && !runtime_lacks(&["crun"], "it reports created instead of creating") {
            assert_eq!(state["status"], status, "{kind}: {state}");
        }
        if ["prestart", "createRuntime", "poststart"].contains(kind) {
            assert_eq!(state["pid"], pid, "{kind}: {state}");
        }
    }
}

#[test]
fn a_hook_has_only_its_arguments_and_its_environment() {
    let bundle = bundle("true");
    let file = bundle.path("log/all").to_str().unwrap().to_owned();
    let script = format!(
        "tr '\\0' '|' < /proc/$$/cmdline >> {file}; tr '\\0' '\\n' < /proc/$$/environ | sort >> {file}"
    );
    let args = json!(["named", "-c", script, "a b", ""]);
    let bundle = bundle.set(
        "/hooks/createRuntime/-",
        json!({ "path": "/bin/sh", "args": args, "env": ["X=y z", "PATH=/bin:/usr/bin"] }),
    );
    bundle.run().ok();
    assert_eq!(log(&bundle), format!("named|-c|{script}|a b||PATH=/bin:/usr/bin\nX=y z\n"));
}

#[test]
fn a_hook_without_an_environment_has_the_programs_inside_and_the_runtimes_outside_the_container() {
    let bundle = bundle("true").set("/process/env", json!(["PATH=/bin:/usr/bin", "INSIDE=yes"]));
    let script = "cat > /dev/null; echo $1 ${INSIDE-no} ${NSPOD_TEST_MARK:+mark} ${HOME:-none} >> $2/all";
    let mut bundle = bundle.file("rootfs/etc/passwd", "root:x:0:0::/home/root:/bin/sh\n");
    for kind in KINDS {
        let log = bundle.path("log");
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script, "sh", kind, log] });
        bundle = bundle.set(&format!("/hooks/{kind}/-"), hook);
    }
    bundle.write_config();
    let mut run = bundle.command(&["run", bundle.id()]);
    assert!(end_of(&mut run.env("HOME", "/hosts").spawn().unwrap()).success(), "{}", bundle.printed("run"));
    let mut lines: Vec<_> = log(&bundle).lines().map(str::to_owned).collect();
    let inside = lines.iter().position(|line| line.starts_with("startContainer")).unwrap();
    assert_eq!(lines.remove(inside), "startContainer yes /home/root");
    if runtime_lacks(&["crun"], "createContainer hooks run with the runtime's environment") {
        return;
    }
    let inside = lines.iter().position(|line| line.starts_with("createContainer")).unwrap();
    let line = lines.remove(inside);
    // runc has not set HOME at this point.
    assert!(
        line == "createContainer yes /home/root" || !ours() && line == "createContainer yes none",
        "{line}"
    );
    for line in lines {
        assert!(line.ends_with(" no mark /hosts"), "{line}");
    }
}

#[test]
fn a_hook_has_no_descriptors_of_the_runtimes_caller_and_no_blocked_signals() {
    let script = "echo $1 >> $B/log/all; if test -e /proc/$$/fd/7; then echo $1 fd >> $B/log/leaked; fi
        grep SigBlk /proc/self/status | grep -qE '[1-9a-f]' && echo $1 signals >> $B/log/leaked; true";
    let bundle = with_all(bundle("true"), script).before("exec 7< /dev/null");
    bundle.run().ok();
    if ours() {
        assert_eq!(log(&bundle), KINDS.map(|kind| format!("{kind}\n")).concat());
    }
    if !runtime_lacks(&["crun"], "it holds signals back") {
        let leaked = fs::read_to_string(bundle.path("log/leaked"));
        assert_eq!(leaked.map_err(|error| error.kind()), Err(std::io::ErrorKind::NotFound));
    }
}

#[test]
fn a_hook_ignores_no_signal_that_the_runtimes_caller_ignores() {
    let script = "echo $1 $(grep SigIgn /proc/self/status) >> $B/log/all";
    let bundle = with_all(bundle("true"), script).before("trap '' HUP INT QUIT USR1 TERM");
    bundle.run().ok();
    if runtime_lacks(&["crun", "runc"], "hooks inherit the ignored signals of the caller") {
        return;
    }
    assert_eq!(log(&bundle), KINDS.map(|kind| format!("{kind} SigIgn: 0000000000000000\n")).concat());
}

#[test]
fn hooks_run_where_the_runtimes_caller_ignores_the_end_of_its_children() {
    if runtime_lacks(&["crun"], "it fails") {
        return;
    }
    let bundle =
        with_all(bundle("true"), "echo $1 >> $B/log/all").before("set -- env --ignore-signal=CHLD \"$@\"");
    bundle.run().ok();
    if !runtime_lacks(&["runc"], "hooks after the start do not wait for those in the container") {
        assert_eq!(log(&bundle), KINDS.map(|kind| format!("{kind}\n")).concat());
    }
}

#[test]
fn a_hook_after_the_end_that_exceeds_its_timeout_is_killed() {
    let mut slow = hook(&bundle("true"), "poststop", "exec sleep 1000");
    slow["timeout"] = 1.into();
    let bundle = bundle("true").set("/hooks/poststop/-", slow).up();
    bundle.wait_until("stopped");
    let output = bundle.verb(&["delete", bundle.id()]);
    assert_eq!(output.code(), 0, "{}", output.err);
    assert!(!ours() || output.err.contains("killed after its timeout of 1 s"), "{}", output.err);
}

#[test]
fn a_hook_that_fails_before_the_start_leaves_no_container() {
    for kind in &KINDS[..3] {
        let bundle = bundle("echo started");
        let failing = hook(&bundle, kind, "echo because >&2; exit 3");
        let after = hook(&bundle, "poststop", "echo $1 >> $B/log/all");
        let bundle = bundle.set(&format!("/hooks/{kind}/-"), failing).set("/hooks/poststop/-", after);
        bundle.write_config();
        let output = bundle.verb(&["create", bundle.id()]);
        assert_ne!(output.code(), 0, "{kind}");
        assert_ne!(output.err, "", "{kind}");
        assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0, "{kind}: a container is left");
        assert!(bundle.processes().is_empty(), "{kind}: processes are left");
        if !runtime_lacks(&["crun", "runc"], "poststop hooks do not run after a failed hook") {
            assert_eq!(log(&bundle), "poststop\n", "{kind}");
        }
    }
}

#[test]
fn a_hook_that_fails_at_the_start_stops_the_container() {
    let bundle = bundle("echo program >> /tmp/ran; sleep 1000");
    let failing = hook(&bundle, "startContainer", "exit 3");
    let bundle = bundle.set("/hooks/startContainer/-", failing);
    bundle.create();
    let output = bundle.verb(&["start", bundle.id()]);
    if !runtime_lacks(&["runc", "crun"], "start does not wait for the hooks in the container") {
        assert_ne!(output.code(), 0);
    }
    bundle.wait_until("stopped");
    assert!(!bundle.path("rootfs/tmp/ran").exists());
}

#[test]
fn a_hook_that_fails_after_the_start_stops_the_container_from_version_1_3_on() {
    if runtime_lacks(&["crun", "runc"], "one rule for all versions, and runc runs these hooks at create") {
        return;
    }
    let with_failing = |version: &str| {
        let bundle = bundle("sleep 1000 & exec sleep 1000").set("/ociVersion", version);
        let failing = hook(&bundle, "poststart", "exit 3");
        let hooks = ["poststart", "poststop"].map(|kind| hook(&bundle, kind, "echo $1 >> $B/log/all"));
        let [next, last] = hooks;
        bundle.set("/hooks/poststart", json!([failing, next])).set("/hooks/poststop/-", last)
    };
    for version in ["1.3.0", "1.4.0"] {
        let bundle = with_failing(version);
        bundle.write_config();
        assert_eq!(bundle.verb(&["create", bundle.id()]).code(), 0);
        let output = bundle.verb(&["start", bundle.id()]);
        assert_eq!(output.code(), 1, "{version}");
        assert!(output.err.contains("hooks.poststart[0]: error running hook"), "{}", output.err);
        assert_eq!(bundle.status(), "stopped", "{version}");
        assert_eq!(log(&bundle), "", "{version}: the next is not run");
        bundle.delete(&[]);
        assert_eq!(log(&bundle), "poststop\n", "{version}");
        for flags in [&[][..], &["--detach"]] {
            let bundle = with_failing(version);
            bundle.write_config();
            let output = bundle.verb(&[&["run"], flags, &[bundle.id()]].concat());
            assert_eq!(output.code(), 1, "{version} {flags:?}");
            assert!(output.err.contains("hooks.poststart[0]"), "{}", output.err);
            assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0, "{version} {flags:?}");
            assert_eq!(log(&bundle), "poststop\n", "{version} {flags:?}");
        }
    }
    let bundle = with_failing("1.2.1");
    bundle.create();
    let output = bundle.verb(&["start", bundle.id()]);
    assert!(output.code() == 0 && output.err.contains("poststart hook"), "{}", output.err);
    assert_eq!((bundle.status().as_str(), log(&bundle).as_str()), ("running", "poststart\n"));
}

#[test]
fn a_hook_that_fails_after_the_end_does_not_keep_the_container() {
    let bundle = bundle("true");
    let (failing, next) = (hook(&bundle, "", "exit 3"), hook(&bundle, "poststop", "echo $1 >> $B/log/all"));
    let bundle = bundle.set("/hooks/poststop/-", failing).set("/hooks/poststop/-", next).up();
    bundle.wait_until("stopped");
    assert_eq!(bundle.verb(&["delete", bundle.id()]).code(), 0);
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0);
    if !runtime_lacks(&["runc"], "it ends with the first poststop hook that fails") {
        assert_eq!(log(&bundle), "poststop\n");
    }
}

#[test]
fn a_hook_that_exceeds_its_timeout_fails() {
    for kind in &KINDS[..3] {
        let bundle = bundle("echo started");
        let mut slow = hook(&bundle, kind, "exec sleep 1000");
        slow["timeout"] = 1.into();
        bundle.set(&format!("/hooks/{kind}/-"), slow).refused(kind);
    }
}

#[test]
fn a_hook_need_not_read_the_state() {
    if runtime_lacks(&["crun"], "SIGPIPE kills it") {
        return;
    }
    let hook = json!({ "path": "/bin/true", "args": ["true"] });
    let bundle = Bundle::sh("echo started").set("/annotations/long", "x".repeat(100_000));
    let bundle =
        bundle.set("/hooks", json!({ "createRuntime": [hook], "poststart": [hook], "poststop": [hook] }));
    assert_eq!(bundle.run().ok(), "started\n");
}

#[test]
fn a_hook_within_its_timeout_succeeds() {
    let bundle = bundle("true");
    let mut quick = hook(&bundle, "createRuntime", "echo $1 >> $B/log/all");
    quick["timeout"] = 1000.into();
    let bundle = bundle.set("/hooks/createRuntime/-", quick);
    bundle.run().ok();
    assert_eq!(log(&bundle), "createRuntime\n");
}

#[test]
fn a_hook_has_an_absolute_path_and_a_timeout_above_zero() {
    Bundle::sh("true").set("/hooks/createRuntime/-", json!({ "path": "/not/there" })).fails();
    if runtime_lacks(&["crun", "runc"], "such a hook is accepted") {
        return;
    }
    Bundle::sh("true")
        .set("/hooks/createRuntime/-", json!({ "path": "true" }))
        .refused("hooks.createRuntime[0].path");
    let hook = json!({ "path": "/bin/true", "timeout": 0 });
    Bundle::sh("true").set("/hooks/poststart/-", hook).refused("hooks.poststart[0].timeout");
}
