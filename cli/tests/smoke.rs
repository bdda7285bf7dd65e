//! The command line on the host's kernel, as root, in the host lane.

mod common;

use std::path::Path;
use std::process::Command;

use common::user::User;
use common::{Guard, NSPOD, Name, end_of, eventually, nspod, ok};

fn code(args: &[&str]) -> i32 {
    nspod(args).code()
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
    assert!(output.out.is_empty());
    assert!(output.err.starts_with("nspod: cannot execute no-such-program: execve: No such file"));
}

#[test]
fn a_foreground_container_sees_itself_and_leaves_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let seen = ok(&["run", "--name", &name, "-h", "box", "sh", "-c", "hostname; echo $$; ls /sys/class/net"]);
    assert_eq!(seen, "box\n2\nlo\n");
    assert!(!ok(&["ps", "-aq"]).contains(&*name));
    assert!(!Path::new("/run/nspod/containers").join(&*name).exists());
}

#[test]
fn a_detached_container_can_be_watched_waited_for_and_removed() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let script = "echo out; echo err >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3";
    assert_eq!(ok(&["run", "-d", "--name", &name, "sh", "-c", script]), format!("{}\n", &*name));
    let clash = nspod(&["run", "--name", &name, "true"]);
    assert_eq!(clash.code(), 125);
    let want = format!(
        "nspod: there is a container {0} already; choose another --name, or `nspod rm -f {0}`\n",
        &*name
    );
    assert_eq!(clash.err, want);

    let listed: serde_json::Value = serde_json::from_str(&ok(&["ps", "--json"])).unwrap();
    let row = listed.as_array().unwrap().iter().find(|row| row["id"] == *name).unwrap();
    assert_eq!((row["state"].as_str(), row["pid"].as_i64()), (Some("running"), Some(1)));
    assert!(row["host_pid"].as_i64().unwrap() > 1);

    assert_eq!(code(&["rm", &name]), 125);
    assert_eq!(ok(&["exec", &name, "hostname"]), format!("{}\n", &*name));
    assert_eq!(code(&["exec", &name, "sh", "-c", "exit 5"]), 5);
    // The container may see the file and end before this process has exited, and then kills this process too.
    assert!([0, 137].contains(&code(&["exec", &name, "touch", "/tmp/go"])));
    assert_eq!(ok(&["wait", &name]), "3\n");
    assert_eq!(ok(&["logs", &name]), "out\nerr\n");
    assert_eq!(ok(&["logs", "--tail", "1", &name]), "err\n");
    assert!(ok(&["ps", "-a"]).contains("exited (3)"));
    ok(&["rm", &name]);
    assert!(nspod(&["inspect", &name]).code() == 125);
}

#[test]
fn kill_records_the_signal_and_stop_terminates_first() {
    if !nspod_testkit::root() {
        return;
    }
    let (killed, stopped) = (Name::container(), Name::container());
    ok(&["run", "-d", "--name", &killed, "sleep", "1000"]);
    ok(&["kill", &killed]);
    assert_eq!(ok(&["wait", &killed]), "137\n");
    ok(&[
        "run",
        "-d",
        "--name",
        &stopped,
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    eventually("the script is ready", || !ok(&["logs", &stopped]).is_empty());
    ok(&["stop", &stopped]);
    assert_eq!(ok(&["wait", &stopped]), "9\n");
}

#[test]
fn a_signal_that_pid_1_would_lose_ends_a_foreground_container() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let mut run = Guard(Command::new(NSPOD).args(["run", "--name", &name, "sleep", "1000"]).spawn().unwrap());
    eventually("the container runs", || ok(&["ps", "-q"]).contains(&*name));
    common::signal(&run.0, nix::libc::SIGTERM);
    assert_eq!(end_of(&mut run.0).code(), Some(128 + 15));
    assert!(!ok(&["ps", "-aq"]).contains(&*name));
}

#[test]
fn pause_stops_and_unpause_continues() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    ok(&["run", "-d", "--name", &name, "sleep", "1000"]);
    ok(&["pause", &name]);
    assert!(ok(&["ps"]).lines().any(|line| line.starts_with(&*name) && line.contains("paused")));
    ok(&["unpause", &name]);
    assert!(ok(&["ps"]).lines().any(|line| line.starts_with(&*name) && line.contains("running")));
    assert!(ok(&["top", &name]).contains("sleep 1000"));
    assert!(ok(&["stats", "--no-stream", &name]).contains(&*name));
    ok(&["rm", "-f", &name]);
}

#[test]
fn explain_does_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::container();
    let plan = ok(&["run", "--explain", "--name", &name, "-h", "box", "touch", "/run/nspod-was-here"]);
    assert!(plan.contains("clone3") && plan.contains("box"), "{plan}");
    assert!(!ok(&["ps", "-aq"]).contains(&*name));
    let json: serde_json::Value = serde_json::from_str(&ok(&["--json", "run", "--explain", "true"])).unwrap();
    assert!(json["steps"].as_array().unwrap().len() > 10 && json["spec"]["root"] == "host-read-only");
}

#[test]
fn two_containers_of_a_pod_talk_over_localhost() {
    if !nspod_testkit::root() {
        return;
    }
    let (pod, server) = (Name::pod(), Name::container());
    ok(&["pod", "create", &pod]);
    let script = "use Socket; socket(S,2,1,0); bind(S,sockaddr_in(4711,INADDR_LOOPBACK)) or die; listen(S,1); $|=1; print qq(ready\n); accept(C,S); print C qq(hello\n)";
    ok(&["pod", "run", &pod, "-d", "--name", &server, "perl", "-e", script]);
    eventually("the server is ready", || ok(&["logs", &server]).contains("ready"));
    let client = "use Socket; socket(S,2,1,0); connect(S,sockaddr_in(4711,INADDR_LOOPBACK)) or die qq($!\n); print <S>";
    assert_ne!(code(&["run", "perl", "-e", client]), 0, "another network must not reach it");
    assert_eq!(ok(&["run", "--pod", &pod, "perl", "-e", client]), "hello\n");
    assert!(ok(&["pod", "ls"]).contains(&*server));
    assert_eq!(code(&["pod", "rm", &pod]), 125);
    ok(&["pod", "rm", "-f", &pod]);
    assert!(!Path::new("/run/nspod/pods").join(&*pod).exists());
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&*pod));
    assert!(!ok(&["ps", "-aq"]).contains(&*server));
}

#[test]
fn a_container_has_its_own_terminal() {
    if !nspod_testkit::root() {
        return;
    }
    let seen = ok(&["run", "-t", "sh", "-c", "tty; test -t 0 && test -t 2 && echo yes"]);
    assert_eq!(seen, "/dev/pts/0\r\nyes\r\n");
}

#[test]
fn an_ordinary_user_runs_containers() {
    if !nspod_testkit::root() {
        return;
    }
    let user = User::new();
    let run = user.nspod(&["run", "-h", "box", "sh", "-c", "id -u; hostname; echo $$"]);
    assert_eq!(run.ok(), "0\nbox\n2\n");
    let detached = user.nspod(&["run", "-d", "--name", "n", "sh", "-c", "echo hi; sleep 1000"]);
    assert_eq!(detached.ok(), "n\n");
    let exec = user.nspod(&["exec", "n", "hostname"]);
    assert_eq!(exec.ok(), "n\n");
    assert!(user.nspod(&["top", "n"]).out.contains("sleep 1000"));
    let removed = user.nspod(&["rm", "-f", "n"]);
    assert_eq!(removed.ok(), "n\n");
    let limited = user.nspod(&["run", "-m", "64m", "true"]);
    assert_eq!(limited.code(), 125, "{}", limited.err);
}

#[test]
fn an_ordinary_users_pod_is_held_by_a_process() {
    if !nspod_testkit::root() {
        return;
    }
    let user = User::new();
    let made = user.nspod(&["pod", "create", "p"]);
    assert_eq!(made.ok(), "p\n");
    let run = user.nspod(&["pod", "run", "p", "hostname"]);
    let removed = user.nspod(&["pod", "rm", "-f", "p"]);
    assert_eq!(run.ok(), "p\n");
    assert_eq!(removed.ok(), "p\n");
}
