//! `--json` of every command.

mod common;

use common::{Name, alone, busybox_root, commands, eventually, nspod, ok, programs, root};
use serde_json::{Value, json};

/// Returns the values in a text of JSON.
#[track_caller]
fn values(of: &[&str], text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>();
    values.unwrap_or_else(|e| panic!("{of:?}: {e}: {text:?}"))
}

/// Runs a command with `--json`. Returns what it prints, on standard error if it fails.
#[track_caller]
fn printed(args: &[&str]) -> Vec<Value> {
    let output = nspod(&[&["--json"], args].concat());
    let (out, err) = (values(args, &output.out), values(args, &output.err));
    let is_object = |value: &Value| value.is_object() || value.is_array();
    assert!(out.iter().chain(&err).all(is_object), "{args:?}: {output:?}");
    match output.code() {
        0 => assert!(!out.is_empty(), "{args:?} prints nothing"),
        _ => assert!(!err.is_empty() || !out.is_empty(), "{args:?} fails and prints nothing"),
    }
    if output.code() == 0 { out } else { err }
}

#[test]
fn every_command_prints_json() {
    if !root() || !programs(&["busybox"]) {
        return;
    }
    let (dir, name, pod) = (tempfile::tempdir().unwrap(), Name::container(), Name::pod());
    let image = dir.path().join("image");
    busybox_root(&image, &["sh", "sleep", "touch"]);
    let (image, dir) = (image.to_str().unwrap(), dir.path().to_str().unwrap());
    let overlay = format!("--overlay={dir}/overlay");
    let detached = ["-d", "--name", &name, "--rootfs", image, &overlay];
    let script = ["sh", "-c", "echo out; touch /made; exec sleep 1000"];
    let run = [&["run"][..], &detached, &script].concat();
    let own = std::process::id().to_string();
    let (from, renamed) = (format!("{}:/made", &*name), format!("{}-renamed", &*name));
    // The name of each command has as many words as the number says.
    let lines: &[(usize, &[&str])] = &[
        (2, &["pod", "create", &pod]),
        (2, &["pod", "run", &pod, "true"]),
        (2, &["pod", "ls"]),
        (2, &["pod", "inspect", &pod]),
        (2, &["pod", "update", "--memory", "256m", &pod]),
        (2, &["pod", "kill", &pod]),
        (2, &["pod", "rm", &pod]),
        (1, &run),
        (1, &["run", "--explain", "true"]),
        (1, &["exec", &name, "true"]),
        (1, &["exec", "-d", &name, "true"]),
        // It fails, because the container has no terminal.
        (1, &["attach", &name]),
        (1, &["ps"]),
        (1, &["ps", "-aq"]),
        (1, &["top", &name]),
        (1, &["logs", &name]),
        (1, &["stats", "--no-stream"]),
        (1, &["diff", &name]),
        (1, &["inspect", &name]),
        (1, &["update", "--memory", "256m", &name]),
        (1, &["pause", &name]),
        (1, &["unpause", &name]),
        (1, &["kill", "--signal", "CONT", &name]),
        (1, &["census"]),
        (1, &["census", &name]),
        (1, &["census", "--namespaces", "net"]),
        (1, &["census", "--pid", &own]),
        (1, &["cp", &from, dir]),
        (1, &["rename", &name, &renamed]),
        (1, &["rename", &renamed, &name]),
        (1, &["stop", &name]),
        (1, &["wait", &name]),
        (1, &["commit", "--discard", &name]),
        (1, &["rm", &name]),
        (1, &["doctor"]),
        (1, &["completions", "bash"]),
        (1, &["man", "run"]),
        (1, &["man", "--dir", dir]),
        (1, &["version"]),
    ];
    // This would also remove the containers of other tests.
    const ALONE: &[&str] = &["prune"];
    let (top, of_pod) = (ok(&["--help"]), ok(&["pod", "--help"]));
    let all = commands(&top).into_iter().filter(|name| *name != "pod").map(str::to_owned);
    let pods = commands(&of_pod).into_iter().map(|name| format!("pod {name}"));
    for command in all.chain(pods) {
        let is_listed = lines.iter().any(|(words, args)| args[..*words].join(" ") == command);
        assert!(is_listed || ALONE.contains(&command.as_str()), "{command} has no line here");
    }
    for (_, args) in lines {
        if args[0] == "logs" {
            eventually("the program has started", || !ok(&["logs", &name]).is_empty());
        }
        printed(args);
    }
}

#[test]
fn a_change_is_printed_as_the_name_of_what_changed() {
    if !root() {
        return;
    }
    let (name, pod) = (Name::container(), Name::pod());
    let id = [json!({ "id": &*name })];
    assert_eq!(printed(&["run", "-d", "--name", &name, "sh", "-c", "echo a; printf b; exec sleep 1000"]), id);
    eventually("the program has started", || ok(&["logs", &name]).ends_with('b'));
    assert_eq!(printed(&["logs", &name]), [json!({ "line": "a" }), json!({ "line": "b" })]);
    assert!(printed(&["ps", "-q"])[0].as_array().unwrap().contains(&json!(&*name)));
    for command in ["pause", "unpause", "kill", "rm"] {
        eventually("the container is in a state for this", || command != "rm" || name.at() == "exited");
        assert_eq!(printed(&[command, &name]), id, "{command}");
    }
    for args in [&["pod", "create"][..], &["pod", "kill"], &["pod", "rm"]] {
        assert_eq!(printed(&[args, &[&pod]].concat()), [json!({ "name": &*pod })], "{args:?}");
    }
    let script = "$N run -d --name a true >/dev/null && $N wait a && $N --json prune && $N --json prune";
    let pruned = values(&[script], alone(script).ok());
    assert_eq!(pruned[1], json!({ "pods": [], "containers": ["a"], "logs": [] }));
    assert_eq!(pruned[2], json!({ "pods": [], "containers": [], "logs": [] }));
}

#[test]
fn a_program_in_the_foreground_is_followed_by_its_report() {
    if !root() {
        return;
    }
    let name = Name::container();
    ok(&["run", "-d", "--name", &name, "sleep", "1000"]);
    for args in [&["run"][..], &["run", "--bare"], &["exec", &name]] {
        let output = nspod(&[&["--json"], args, &["sh", "-c", "echo out; exit 3"]].concat());
        assert_eq!((output.code(), output.err.as_str()), (3, ""), "{args:?}");
        let (out, report) = output.out.split_once('\n').unwrap();
        let report: Value = serde_json::from_str(report).unwrap();
        assert_eq!(
            (out, &report["exit_code"], &report["error"]),
            ("out", &json!(3), &Value::Null),
            "{args:?}"
        );
        assert_eq!(report["outcome"]["status"], json!({ "exited": 3 }), "{args:?}: {report}");
    }
    // A warning is JSON too.
    let output = nspod(&["--json", "run", "--timeout", "100ms", "sleep", "1000"]);
    let warning: Value = serde_json::from_str(&output.err).unwrap();
    assert_eq!(output.code(), 124, "{output:?}");
    assert_eq!(warning, json!({ "warning": "the container exceeded --timeout and was killed" }));
}
