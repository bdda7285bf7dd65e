//! The command line on the host's kernel, as root, in the host lane.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const NSPOD: &str = env!("CARGO_BIN_EXE_nspod");

fn nspod(args: &[&str]) -> Output {
    Command::new(NSPOD).args(args).stdin(Stdio::null()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the output of a command that must succeed.
fn ok(args: &[&str]) -> String {
    let output = nspod(args);
    assert!(output.status.success(), "{args:?}: {}{}", out(&output), err(&output));
    out(&output)
}

fn code(args: &[&str]) -> i32 {
    nspod(args).status.code().unwrap()
}

/// A unique name. The container or pod with this name is removed at the end.
struct Name(String, &'static [&'static str]);

impl Name {
    fn new(what: &'static [&'static str]) -> Name {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Name(format!("smoke-{}-{count}", std::process::id()), what)
    }

    fn container() -> Name {
        Name::new(&["rm", "-f"])
    }

    fn pod() -> Name {
        Name::new(&["pod", "rm", "-f"])
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut args = self.1.to_vec();
        args.push(&self.0);
        nspod(&args);
    }
}

#[test]
fn the_exit_code_tells_what_failed() {
    if !nspod_testkit::root() {
        return;
    }
    assert_eq!(code(&["run", "sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["run", "no-such-program"]), 127);
    assert_eq!(code(&["run", "/etc/passwd"]), 126);
    assert_eq!(code(&["run", "--no-such-flag", "true"]), 125);
    assert_eq!(code(&["run", "-v", "/no/such/dir:/mnt", "true"]), 125);
    assert_eq!(code(&["run", "--init", "sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["--help"]), 0);
}

#[test]
fn an_error_is_a_sentence_on_standard_error() {
    if !nspod_testkit::root() {
        return;
    }
    let output = nspod(&["run", "no-such-program"]);
    assert!(out(&output).is_empty());
    assert!(err(&output).starts_with("nspod: cannot execute no-such-program: execve: No such file"));
}

#[test]
fn a_foreground_container_sees_itself_and_leaves_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let seen =
        ok(&["run", "--name", &name.0, "-h", "box", "sh", "-c", "hostname; echo $$; ls /sys/class/net"]);
    assert_eq!(seen, "box\n1\nlo\n");
    assert!(!ok(&["ps", "-aq"]).contains(&name.0));
    assert!(!Path::new("/run/nspod/containers").join(&name.0).exists());
}

#[test]
fn a_detached_container_can_be_watched_waited_for_and_removed() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let script = "echo out; echo err >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3";
    assert_eq!(ok(&["run", "-d", "--name", &name.0, "sh", "-c", script]), format!("{}\n", name.0));
    let clash = nspod(&["run", "--name", &name.0, "true"]);
    assert_eq!(clash.status.code(), Some(125));
    let want = format!(
        "nspod: there is a container {0} already; choose another --name, or `nspod rm -f {0}`\n",
        name.0
    );
    assert_eq!(err(&clash), want);

    let listed: serde_json::Value = serde_json::from_str(&ok(&["ps", "--json"])).unwrap();
    let row = listed.as_array().unwrap().iter().find(|row| row["id"] == name.0.as_str()).unwrap();
    assert_eq!((row["state"].as_str(), row["pid"].as_i64()), (Some("running"), Some(1)));
    assert!(row["host_pid"].as_i64().unwrap() > 1);

    assert_eq!(code(&["rm", &name.0]), 125);
    assert_eq!(ok(&["exec", &name.0, "hostname"]), format!("{}\n", name.0));
    assert_eq!(code(&["exec", &name.0, "sh", "-c", "exit 5"]), 5);
    // The container may see the file and end before this process has exited, and then kills this process too.
    assert!([0, 137].contains(&code(&["exec", &name.0, "touch", "/tmp/go"])));
    assert_eq!(ok(&["wait", &name.0]), "3\n");
    assert_eq!(ok(&["logs", &name.0]), "out\nerr\n");
    assert_eq!(ok(&["logs", "--tail", "1", &name.0]), "err\n");
    assert!(ok(&["ps", "-a"]).contains("exited (3)"));
    ok(&["rm", &name.0]);
    assert!(nspod(&["inspect", &name.0]).status.code() == Some(125));
}

#[test]
fn kill_records_the_signal_and_stop_terminates_first() {
    if !nspod_testkit::root() {
        return;
    }
    let (killed, stopped) = (Name::container(), Name::container());
    ok(&["run", "-d", "--name", &killed.0, "sleep", "1000"]);
    ok(&["kill", &killed.0]);
    assert_eq!(ok(&["wait", &killed.0]), "137\n");
    ok(&[
        "run",
        "-d",
        "--name",
        &stopped.0,
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    while ok(&["logs", &stopped.0]).is_empty() {}
    ok(&["stop", &stopped.0]);
    assert_eq!(ok(&["wait", &stopped.0]), "9\n");
}

#[test]
fn a_signal_that_pid_1_would_lose_ends_a_foreground_container() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let mut run = Command::new(NSPOD).args(["run", "--name", &name.0, "sleep", "1000"]).spawn().unwrap();
    while !ok(&["ps", "-q"]).contains(&name.0) {}
    let pid = nix::unistd::Pid::from_raw(run.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(128 + 15));
    assert!(!ok(&["ps", "-aq"]).contains(&name.0));
}

#[test]
fn pause_stops_and_unpause_continues() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    ok(&["run", "-d", "--name", &name.0, "sleep", "1000"]);
    ok(&["pause", &name.0]);
    assert!(ok(&["ps"]).lines().any(|line| line.starts_with(&name.0) && line.contains("paused")));
    ok(&["unpause", &name.0]);
    assert!(ok(&["ps"]).lines().any(|line| line.starts_with(&name.0) && line.contains("running")));
    assert!(ok(&["top", &name.0]).contains("sleep 1000"));
    assert!(ok(&["stats", "--no-stream", &name.0]).contains(&name.0));
    ok(&["rm", "-f", &name.0]);
}

#[test]
fn explain_does_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let plan = ok(&["run", "--explain", "--name", &name.0, "-h", "box", "touch", "/run/nspod-was-here"]);
    assert!(plan.contains("clone3") && plan.contains("box"), "{plan}");
    assert!(!ok(&["ps", "-aq"]).contains(&name.0));
    let json: serde_json::Value = serde_json::from_str(&ok(&["--json", "run", "--explain", "true"])).unwrap();
    assert!(json["steps"].as_array().unwrap().len() > 10 && json["spec"]["root"] == "host-read-only");
}

#[test]
fn two_containers_of_a_pod_talk_over_localhost() {
    if !nspod_testkit::root() {
        return;
    }
    let (pod, server) = (Name::pod(), Name::container());
    ok(&["pod", "create", &pod.0]);
    let script = "use Socket; socket(S,2,1,0); bind(S,sockaddr_in(4711,INADDR_LOOPBACK)) or die; listen(S,1); $|=1; print qq(ready\n); accept(C,S); print C qq(hello\n)";
    ok(&["pod", "run", &pod.0, "-d", "--name", &server.0, "perl", "-e", script]);
    while !ok(&["logs", &server.0]).contains("ready") {
        assert!(ok(&["ps", "-q"]).contains(&server.0), "{}", ok(&["logs", &server.0]));
    }
    let client = "use Socket; socket(S,2,1,0); connect(S,sockaddr_in(4711,INADDR_LOOPBACK)) or die qq($!\n); print <S>";
    assert_ne!(code(&["run", "perl", "-e", client]), 0, "another network must not reach it");
    assert_eq!(ok(&["run", "--pod", &pod.0, "perl", "-e", client]), "hello\n");
    assert!(ok(&["pod", "ls"]).contains(&server.0));
    assert_eq!(code(&["pod", "rm", &pod.0]), 125);
    ok(&["pod", "rm", "-f", &pod.0]);
    assert!(!Path::new("/run/nspod/pods").join(&pod.0).exists());
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&pod.0));
    assert!(!ok(&["ps", "-aq"]).contains(&server.0));
}

#[test]
fn a_container_has_its_own_terminal() {
    if !nspod_testkit::root() {
        return;
    }
    let seen = ok(&["run", "-t", "sh", "-c", "tty; test -t 0 && test -t 2 && echo yes"]);
    assert_eq!(seen, "/dev/pts/0\r\nyes\r\n");
}

/// Runs as `nobody`, with a separate runtime directory.
fn as_nobody(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(dir.join("bin")).args(args);
    command.env("XDG_RUNTIME_DIR", dir).current_dir("/").stdin(Stdio::null()).output().unwrap()
}

fn nobodys_directory() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().to_owned();
    std::fs::copy(NSPOD, path.join("bin")).unwrap();
    nix::unistd::chown(&path, Some(65_534.into()), Some(65_534.into())).unwrap();
    (temp, path)
}

#[test]
fn an_ordinary_user_runs_containers() {
    if !nspod_testkit::root() {
        return;
    }
    let (_temp, dir) = nobodys_directory();
    let run = as_nobody(&dir, &["run", "-h", "box", "sh", "-c", "id -u; hostname; echo $$"]);
    assert_eq!((out(&run).as_str(), err(&run).as_str()), ("0\nbox\n1\n", ""));
    let detached = as_nobody(&dir, &["run", "-d", "--name", "n", "sh", "-c", "echo hi; sleep 1000"]);
    assert_eq!((out(&detached).as_str(), err(&detached).as_str()), ("n\n", ""));
    let exec = as_nobody(&dir, &["exec", "n", "hostname"]);
    assert_eq!((out(&exec).as_str(), err(&exec).as_str()), ("n\n", ""));
    assert!(out(&as_nobody(&dir, &["top", "n"])).contains("sleep 1000"));
    let removed = as_nobody(&dir, &["rm", "-f", "n"]);
    assert_eq!((out(&removed).as_str(), err(&removed).as_str()), ("n\n", ""));
    let limited = as_nobody(&dir, &["run", "-m", "64m", "true"]);
    assert_eq!(limited.status.code(), Some(125), "{}", err(&limited));
}

#[test]
fn an_ordinary_users_pod_is_held_by_a_process() {
    if !nspod_testkit::root() {
        return;
    }
    let (_temp, dir) = nobodys_directory();
    let made = as_nobody(&dir, &["pod", "create", "p"]);
    assert_eq!((out(&made).as_str(), err(&made).as_str()), ("p\n", ""));
    let run = as_nobody(&dir, &["pod", "run", "p", "hostname"]);
    let removed = as_nobody(&dir, &["pod", "rm", "-f", "p"]);
    assert_eq!((out(&run).as_str(), err(&run).as_str()), ("p\n", ""));
    assert_eq!((out(&removed).as_str(), err(&removed).as_str()), ("p\n", ""));
}
