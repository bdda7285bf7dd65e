//! The life cycle of a container and of a pod over several invocations.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Guard, NSPOD, Name, alone, cgroup, end_of, eventually, json, nspod, ok, root};

#[test]
fn a_detached_container_lives_until_it_is_removed() {
    if !root() {
        return;
    }
    let script = "echo one; echo two >&2; trap 'exit 3' TERM; while :; do sleep 0.02; done";
    let name = Name::detached(&["-h", "box", "-e", "A=1"], &["sh", "-c", script]);
    eventually("it has written", || ok(&["logs", &name]) == "one\ntwo\n");
    assert_eq!(name.at(), "running");
    assert!(ok(&["ps", "-q"]).lines().any(|id| id == &*name));

    // `exec` runs the command in the container.
    assert_eq!(
        ok(&["exec", "-e", "B=2", "-w", "/usr", &name, "sh", "-c", "hostname; echo $A$B; pwd"]),
        "box\n12\n/usr\n"
    );
    let own = ok(&["exec", &name, "sh", "-c", "readlink /proc/self/ns/pid; cat /proc/self/cgroup"]);
    let namespaces = json(&["inspect", &name])[0]["namespaces"].clone();
    assert_eq!(own.lines().next(), namespaces["pid"].as_str());
    assert!(own.lines().any(|line| line == "0::/"), "{own}");
    assert_eq!(nspod(&["exec", &name, "sh", "-c", "exit 9"]).code(), 9);
    assert_eq!(nspod(&["exec", &name, "no-such"]).code(), 127);
    assert_eq!(nspod(&["exec", &name, "/etc"]).code(), 126);
    ok(&["exec", "-d", &name, "sleep", "4711"]);

    // The lists contain both pids of each process.
    for command in ["top", "ps"] {
        eventually("the second program is listed", || {
            let rows = json(&["--json", command, &name]);
            let row = rows.as_array().unwrap().iter().find(|row| row["command"] == "sleep 4711").cloned();
            row.is_some_and(|row| row["pid"].as_i64().unwrap() > 1 && row["host_pid"] != row["pid"])
        });
        assert!(ok(&[command, &name]).starts_with("HOST PID  PID  COMMAND\n"));
    }
    let seen = json(&["inspect", &name]);
    assert_eq!((&seen[0]["id"], &seen[0]["state"]), (&(*name).into(), &"running".into()));
    let stat = std::fs::read_to_string(format!("/proc/{}/status", seen[0]["pid"])).unwrap();
    assert!(stat.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{stat}");

    let stats = json(&["--json", "stats", "--no-stream", &name]);
    assert!(stats[0]["usage"]["cpu"]["usage_usec"].as_u64().unwrap() > 0, "{stats}");
    assert!(ok(&["stats", "--no-stream", &name]).contains(&*name));

    let refused = nspod(&["rm", &name]);
    assert_eq!(
        refused.err,
        format!(
            "nspod: the container {0} is running; `nspod stop {0}` ends it, `nspod rm -f {0}` ends and removes it\n",
            &*name
        )
    );
    assert_eq!(ok(&["stop", &name]), format!("{}\n", &*name));
    assert_eq!(ok(&["wait", &name]), "3\n");
    let row = name.row().unwrap();
    assert_eq!((&row["state"], &row["exit_code"]), (&"exited".into(), &3.into()));
    assert_eq!(ok(&["logs", &name]), "one\ntwo\n");
    assert_eq!(ok(&["logs", "-n", "1", "-f", &name]), "two\n");
    assert_eq!(
        nspod(&["exec", &name, "true"]).err,
        format!("nspod: the container {} is not running\n", &*name)
    );
    assert_eq!(ok(&["rm", &name]), format!("{}\n", &*name));
    assert!(!name.state().exists() && !cgroup(&name).exists());
}

#[test]
fn logs_follow_until_the_end() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volume = format!("{}:/mnt", dir.path().display());
    let script = "echo first; until [ -e /mnt/go ]; do sleep 0.02; done; printf last";
    let name = Name::detached(&["-v", &volume], &["sh", "-c", script]);
    let child = Command::new(NSPOD).args(["logs", "--follow", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut logs = Guard(child);
    let mut out = BufReader::new(logs.0.stdout.take().unwrap());
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    assert_eq!(text, "first\n");
    std::fs::write(dir.path().join("go"), "").unwrap();
    out.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), end_of(&mut logs.0).code()), ("first\nlast", Some(0)));
}

#[test]
fn waiting_ends_with_the_container() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let child = Command::new(NSPOD).args(["--json", "wait", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut wait = Guard(child);
    assert!(wait.0.try_wait().unwrap().is_none());
    ok(&["kill", "-s", "KILL", &name]);
    assert_eq!(end_of(&mut wait.0).code(), Some(0));
    let mut text = String::new();
    wait.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let row: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&row["id"], &row["exit_code"]), (&(*name).into(), &137.into()));
}

#[test]
fn signals_reach_the_program_by_name_and_number() {
    if !root() {
        return;
    }
    let script = "trap 'echo got' USR1; trap 'exit 5' INT; echo ready; while :; do sleep 0.02; done";
    let name = Name::detached(&[], &["sh", "-c", script]);
    eventually("it is ready", || ok(&["logs", &name]) == "ready\n");
    ok(&["kill", "-s", "usr1", &name]);
    eventually("the signal came", || ok(&["logs", &name]) == "ready\ngot\n");
    ok(&["kill", "--signal", "0", &name]);
    ok(&["kill", "--signal", "2", &name]);
    assert_eq!(ok(&["wait", &name]), "5\n");
    assert_eq!(nspod(&["kill", "-s", "0", &name]).code(), 125, "it has ended");
}

#[test]
fn real_time_signals_reach_the_program_and_stop_it() {
    if !root() {
        return;
    }
    let script = "trap 'echo got' 63; trap 'exit 6' 37; echo ready; while :; do sleep 0.02; done";
    for (flags, init) in [(&["--stop-signal", "SIGRTMIN+3"][..], "--init"), (&[], "--init=false")] {
        let log = tempfile::NamedTempFile::new().unwrap();
        // The size of a log requires an init.
        let file = ["--log-file", log.path().to_str().unwrap()];
        let name = Name::detached(&[flags, &[init], &file].concat(), &["busybox", "sh", "-c", script]);
        eventually("it is ready", || ok(&["logs", &name]) == "ready\n");
        ok(&["kill", "-s", "RTMAX-1", &name]);
        eventually("the signal came", || ok(&["logs", &name]) == "ready\ngot\n");
        let signal = if flags.is_empty() { &["--signal", "RTMIN+3"][..] } else { &[] };
        let start = std::time::Instant::now();
        ok(&[&["stop", "-t", "100"], signal, &[&name]].concat());
        assert!(start.elapsed().as_secs() < 90, "the signal did not stop it");
        if init == "--init" {
            assert_eq!(name.row().unwrap()["exit_code"], 6);
        }
    }
    // `kill` and `stop` do not wait for a signal that the kernel drops.
    let name = Name::detached(&["--init=false", "--log-max-size=none"], &["sleep", "1000"]);
    let lost = nspod(&["kill", "-s", "RTMIN+3", &name]);
    assert!(lost.code() == 125 && lost.err.contains("signal 37 would be lost"), "{}", lost.err);
    ok(&["stop", "-t", "100", "--signal", "RTMIN+3", &name]);
}

#[test]
fn a_paused_container_makes_no_progress_and_can_be_killed() {
    if !root() {
        return;
    }
    let script = "i=0; while :; do i=$((i+1)); echo $i > /tmp/i; sleep 0.01; done";
    let name = Name::detached(&[], &["sh", "-c", script]);
    let count = || {
        let pid = json(&["inspect", &name])[0]["pid"].clone();
        std::fs::read_to_string(format!("/proc/{pid}/root/tmp/i"))
    };
    eventually("it counts", || count().is_ok_and(|count| !count.is_empty()));
    let count = || count().unwrap();
    ok(&["pause", &name]);
    assert_eq!(name.at(), "paused");
    let refused = nspod(&["exec", &name, "true"]);
    let want = format!("nspod: the container {0} is paused; `nspod unpause {0}` resumes it\n", &*name);
    assert_eq!((refused.code(), refused.err), (125, want));
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(count(), before);
    ok(&["unpause", &name]);
    assert_eq!(name.at(), "running");
    eventually("it goes on", || count() != before);
    ok(&["pause", &name]);
    ok(&["rm", "-f", &name]);
    assert!(!name.state().exists() && !cgroup(&name).exists());
}

#[test]
fn kill_ends_the_remaining_processes_in_the_hosts_pid_namespace() {
    if !root() {
        return;
    }
    let flags = ["--pid", "host", "--log-max-size", "none"];
    let name = Name::detached(&flags, &["sh", "-c", "sleep 1000 &"]);
    eventually("its first process has ended", || name.at() == "exited");
    let populated =
        || std::fs::read_to_string(cgroup(&name).join("cgroup.events")).unwrap().contains("populated 1");
    assert!(populated());
    assert_eq!(nspod(&["kill", "-s", "TERM", &name]).code(), 125, "only KILL goes to all processes");
    ok(&["kill", &name]);
    eventually("no process is left", || !populated());
    assert_eq!(nspod(&["kill", &name]).code(), 125);
    ok(&["rm", &name]);
}

#[test]
fn exec_finds_the_cgroup_that_the_first_process_has_moved_to() {
    if !root() {
        return;
    }
    let name = Name::detached(&["--cgroupns", "host"], &["sleep", "1000"]);
    let pid = name.row().unwrap()["host_pid"].to_string();
    let enter = |path: &Path, pid: &str| std::fs::write(path.join("cgroup.procs"), pid).unwrap();
    let first = cgroup(&name);
    // A cgroup that delegates a controller cannot contain processes. Without controllers it can.
    let below = first.join("below");
    std::fs::create_dir(&below).unwrap();
    let pids = std::fs::read_to_string(first.join("cgroup.procs")).unwrap();
    pids.lines().for_each(|pid| enter(&below, pid));
    let controllers = std::fs::read_to_string(first.join("cgroup.controllers")).unwrap();
    if let Some(one) = controllers.split_whitespace().next() {
        std::fs::write(first.join("cgroup.subtree_control"), format!("+{one}")).unwrap();
        assert!(ok(&["exec", &name, "cat", "/proc/self/cgroup"]).contains(&format!("/{}/below\n", &*name)));
        std::fs::write(first.join("cgroup.subtree_control"), format!("-{one}")).unwrap();
    }
    let moved = first.with_file_name(format!("{}-moved", &*name));
    std::fs::create_dir(&moved).unwrap();
    pids.lines().for_each(|pid| enter(&moved, pid));
    std::fs::remove_dir(&below).and_then(|()| std::fs::remove_dir(&first)).unwrap();
    let seen = nspod(&["exec", &name, "cat", "/proc/self/cgroup"]);
    std::fs::write(moved.join("cgroup.kill"), "1").unwrap();
    ok(&["rm", "-f", &name]);
    eventually(&format!("{pid} is gone"), || std::fs::remove_dir(&moved).is_ok());
    assert!(seen.ok().contains("-moved\n"), "{}", seen.out);
}

#[test]
fn stats_end_with_the_container_although_it_is_removed() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let mut command = Command::new(NSPOD);
    let mut stats = command.args(["--json", "stats", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut samples = BufReader::new(stats.stdout.take().unwrap()).lines();
    assert!(samples.next().unwrap().unwrap().contains(&*name));
    ok(&["rm", "-f", &name]);
    assert_eq!(samples.last().unwrap().unwrap(), "[]");
    assert_eq!(end_of(&mut stats).code(), Some(0));
}

#[test]
fn a_foreground_container_is_kept_only_on_request() {
    if !root() {
        return;
    }
    let (gone, kept) = (Name::container(), Name::container());
    assert_eq!(nspod(&["run", "--name", &gone, "sh", "-c", "exit 4"]).code(), 4);
    assert!(!gone.state().exists() && gone.row().is_none());
    assert_eq!(nspod(&["run", "--keep", "--name", &kept, "sh", "-c", "exit 4"]).code(), 4);
    let seen = json(&["inspect", &kept]);
    assert_eq!((&seen[0]["state"], &seen[0]["exit_code"]), (&"exited".into(), &4.into()));
    assert!(seen[0]["outcome"]["wall_time"].is_object(), "{seen}");
    let rm = Name::detached(&["--rm"], &["true"]);
    eventually("it is swept away", || rm.row().is_none());
    assert!(!cgroup(&rm).exists());
}

#[test]
fn an_id_is_found_by_its_first_digits() {
    if !root() {
        return;
    }
    let id = ok(&["run", "-d", "sleep", "1000"]).trim().to_owned();
    let found = nspod(&["inspect", &id[..8]]);
    let removed = nspod(&["rm", "-f", &id[..8]]);
    assert!(found.ok().contains(&id));
    assert_eq!(removed.ok().trim(), id);
}

#[test]
fn a_pod_is_shared_and_outlives_its_containers() {
    if !root() {
        return;
    }
    let (pod, server) = (Name::pod(), Name::container());
    assert_eq!(ok(&["pod", "create", &pod]), format!("{}\n", &*pod));
    let script = "$s = IO::Socket::INET->new(Listen => 1, LocalPort => 4712) or die; \
        while ($c = $s->accept) { print $c \"hello\\n\"; close $c }";
    ok(&["pod", "run", &pod, "-d", "--name", &server, "perl", "-MIO::Socket::INET", "-e", script]);
    let client = "until cat < /dev/tcp/127.0.0.1/4712; do sleep 0.05; done 2> /dev/null";
    assert_eq!(ok(&["run", "--pod", &pod, "timeout", "60", "bash", "-c", client]), "hello\n");
    let alone = "cat < /dev/tcp/127.0.0.1/4712";
    assert_ne!(nspod(&["run", "bash", "-c", alone]).code(), 0);

    let seen = json(&["inspect", &server]);
    let inside = json(&["pod", "inspect", &pod]);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(seen[0]["namespaces"][kind], inside[0]["namespaces"][kind], "{kind}");
    }
    assert_eq!(inside[0]["containers"], serde_json::json!([&*server]));
    assert_eq!(ok(&["run", "--pod", &pod, "hostname"]), format!("{}\n", &*pod));
    let listed = json(&["--json", "pod", "ls"]);
    let row = listed.as_array().unwrap().iter().find(|row| row["name"] == *pod).unwrap();
    assert_eq!(row["containers"], serde_json::json!([&*server]));
    assert!(ok(&["ps", "--pod", &pod, "-q"]) == format!("{}\n", &*server));

    let refused = nspod(&["pod", "rm", &pod]);
    assert_eq!(
        refused.err,
        format!(
            "nspod: the pod {0} has containers: {1}; `nspod pod rm -f {0}` ends and removes them\n",
            &*pod, &*server
        )
    );
    ok(&["pod", "kill", &pod]);
    assert_eq!(ok(&["wait", &server]), "137\n");
    ok(&["rm", &server]);
    // An empty pod still exists, and so does its network.
    let net = ok(&["run", "--pod", &pod, "readlink", "/proc/self/ns/net"]);
    assert_eq!(Some(net.trim()), inside[0]["namespaces"]["net"].as_str());
    assert_eq!(ok(&["pod", "rm", &pod]), format!("{}\n", &*pod));
    assert!(!Path::new("/run/nspod/pods").join(&*pod).exists());
    assert!(!cgroup(&format!("pod:{}", &*pod)).exists());
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&*pod));
}

#[test]
fn a_pod_shares_the_requested_kinds() {
    if !root() {
        return;
    }
    let (pod, one) = (Name::pod(), Name::container());
    ok(&["pod", "create", "--share", "pid,mnt,net", &pod]);
    let script = "echo x > /tmp/x; exec sleep 1000";
    ok(&["pod", "run", &pod, "-d", "--log-max-size", "none", "--name", &one, "sh", "-c", script]);
    let two = "until [ -e /tmp/x ]; do sleep 0.02; done; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /tmp/x";
    let seen = ok(&["run", "--pod", &pod, "sh", "-c", two]);
    assert!(seen.contains("sleep 1000") && seen.ends_with("x\n"), "{seen}");
    // uts is not shared here, so the container can have a host name.
    assert_eq!(ok(&["run", "--pod", &pod, "-h", "own", "hostname"]), "own\n");
    ok(&["pod", "rm", "-f", &pod]);
    assert!(!one.state().exists() && !cgroup(&one).exists());
}

#[test]
fn the_census_shows_a_container_and_its_pod() {
    if !root() {
        return;
    }
    let (pod, one) = (Name::pod(), Name::container());
    ok(&["pod", "create", &pod]);
    ok(&["run", "-d", "--pod", &pod, "--name", &one, "sleep", "1000"]);
    // The census may warn on standard error about processes that it cannot read.
    let census = |args: &[&str]| {
        let output = nspod(&[&["census"], args].concat());
        assert_eq!(output.code(), 0, "{}", output.err);
        output.out
    };
    assert!(census(&[]).contains(&*one));
    let pid = json(&["inspect", &one])[0]["pid"].clone();
    let all: serde_json::Value = serde_json::from_str(&census(&["--json"])).unwrap();
    let found = all["containers"].as_array().unwrap().iter().find(|c| c["name"] == *one).unwrap();
    assert!(found["pids"].as_array().unwrap().contains(&pid), "{found}");
    assert_eq!(found["pod_name"], *pod, "{found}");
    assert!(census(&["--pid", &pid.to_string()]).contains(&*one));
}

#[test]
fn an_unknown_exit_status_has_a_reason_that_is_true() {
    if !root() {
        return;
    }
    let (init, pid) =
        ("was started with --init=false", "only a container with its own pid namespace has one");
    for (flags, why) in [
        (&["--init=false", "--log-max-size=none"][..], init),
        (&["--pid=host", "--log-max-size=none"], pid),
        (&[], "the init of the container records it, and was killed"),
    ] {
        let name = Name::detached(flags, &["sleep", "1000"]);
        let first = name.row().unwrap()["host_pid"].as_i64().unwrap();
        // nspod would record the status if it killed the process itself.
        let pid_of_first = nix::unistd::Pid::from_raw(first as i32);
        nix::sys::signal::kill(pid_of_first, nix::sys::signal::Signal::SIGKILL).unwrap();
        eventually("it has ended", || name.at() == "exited");
        let unknown = nspod(&["wait", &name]);
        assert_eq!(unknown.code(), 125, "{flags:?}: {unknown:?}");
        assert!(unknown.err.contains(why), "{flags:?}: {}", unknown.err);
        assert_eq!(unknown.err.contains("--init"), why == init, "{}", unknown.err);
    }
}

/// Runs nspod, and returns its exit code, its errors and the report.
fn report(flags: &[&str]) -> (i32, String, serde_json::Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = nspod(&[&["run", "--report", file.path().to_str().unwrap()], flags].concat());
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
    (output.code(), output.err, serde_json::from_str(&text).unwrap())
}

#[test]
fn the_report_says_how_the_container_ended() {
    let name = Name::container();
    let (code, _, end) = report(&["--name", &name, "sh", "-c", "exit 3"]);
    assert_eq!((code, &end["exit_code"], &end["id"]), (3, &3.into(), &(*name).into()));
    assert_eq!(end["outcome"]["status"], serde_json::json!({ "exited": 3 }), "{end}");
    assert!(end["outcome"]["wall_time"]["nanos"].as_u64().unwrap() > 0, "{end}");
    assert!(end["error"].is_null(), "{end}");
    let (code, _, end) = report(&["--init", "sh", "-c", "kill -9 $$"]);
    assert_eq!((code, &end["exit_code"]), (137, &137.into()));
    assert_eq!(end["outcome"]["status"]["signaled"]["signal"], 9, "{end}");
    let (code, _, end) = report(&["--bare", "sh", "-c", "exit 4"]);
    assert_eq!((code, &end["outcome"]["status"]["exited"]), (4, &4.into()));
}

#[test]
fn the_report_says_why_a_container_did_not_start() {
    let (code, err, end) = report(&["no-such"]);
    assert_eq!(
        (code, &end["exit_code"], &end["error"]["kind"]),
        (127, &127.into(), &"program_not_found".into())
    );
    assert_eq!(err, format!("nspod: {}\n", end["error"]["message"].as_str().unwrap()));
    assert!(end["outcome"].is_null(), "{end}");
    let (code, _, end) = report(&["-w", "/no/such", "true"]);
    assert_eq!((code, &end["error"]["step"]), (125, &"cwd".into()));
}

#[test]
fn the_report_goes_to_a_descriptor() {
    let script = r#"$N run --report 3 echo out 3>&1 >/dev/null | grep -o '"exited":0'"#;
    assert_eq!(alone(script).out, "\"exited\":0\n");
    // The program does not inherit it.
    assert_eq!(
        alone("$N run --report 3 sh -c 'echo no >&3' 3>/dev/null 2>/dev/null || echo refused").out,
        "refused\n"
    );
    let (mut own, other) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut run = Command::new(NSPOD);
    run.args(["run", "--report", "1", "true"]).stdout(OwnedFd::from(other));
    assert!(run.status().unwrap().success());
    drop(run);
    let mut line = String::new();
    own.read_to_string(&mut line).unwrap();
    assert!(line.contains("\"exited\":0"), "{line}");
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("started");
    let volume = format!("{0}:{0}", marker.path().display());
    let touch =
        |report: &str| nspod(&["run", "--report", report, "-v", &volume, "touch", file.to_str().unwrap()]);
    let refused = touch("/no/such/report");
    assert_eq!(refused.code(), 125);
    assert_eq!(
        refused.err,
        "nspod: cannot open the report /no/such/report: No such file or directory (ENOENT)\n"
    );
    assert_eq!(
        touch("4711").err,
        "nspod: cannot open the report /proc/self/fd/4711: No such file or directory (ENOENT)\n"
    );
    assert!(!file.exists());
    let full = touch("/dev/full");
    assert_eq!((full.code(), file.exists()), (125, true));
    assert_eq!(full.err, "nspod: cannot write the report /dev/full: No space left on device (ENOSPC)\n");
    assert_eq!(nspod(&["run", "-d", "--report", "x", "true"]).code(), 125);
}

#[test]
fn a_time_limit_ends_every_process() {
    let marker = tempfile::tempdir().unwrap();
    let volume = format!("{0}:{0}", marker.path().display());
    let late = marker.path().join("late");
    let script = format!("(sleep 1; touch {}) & sleep 1000", late.display());
    for flags in [&["--init"][..], &[]] {
        let name = Name::container();
        let run =
            [&["--timeout", "0.2", "--name", &name, "-v", &volume], flags, &["sh", "-c", &script]].concat();
        let (code, err, end) = report(&run);
        assert_eq!((code, &end["exit_code"]), (124, &124.into()));
        assert_eq!(err, "nspod: the container exceeded --timeout and was killed\n");
        assert_eq!(end["outcome"]["ended_by"], "wall_time", "{end}");
        assert!(name.row().is_none());
        assert!(!cgroup(&name).exists());
    }
    // A process in another session that has the caller's pipe open ends too, so the reader finds the end.
    let held = nspod(&["run", "--timeout", "2s", "sh", "-c", "echo out; setsid sleep 995 & sleep 995"]);
    assert_eq!((held.code(), held.out.as_str()), (124, "out\n"), "{held:?}");
    // More than a second has passed since the other containers ended.
    assert!(!late.exists());
    // Without the limit, the process writes.
    ok(&["run", "-v", &volume, "sh", "-c", &format!("(touch {}) & wait", late.display())]);
    assert!(late.exists());
    assert_eq!(nspod(&["run", "--timeout", "100", "sh", "-c", "exit 3"]).code(), 3);
    let bare = nspod(&["run", "--bare", "--timeout", "100ms", "sleep", "1000"]);
    assert_eq!(
        (bare.code(), bare.err.as_str()),
        (124, "nspod: the container exceeded --timeout and was killed\n")
    );
    assert_eq!(nspod(&["run", "-d", "--timeout", "1s", "true"]).code(), 125);
}

#[test]
fn the_cpu_time_of_a_container_is_limited() {
    if !root() {
        return;
    }
    let spin = "spin() { while :; do :; done; }; spin & spin & wait";
    let (code, err, end) = report(&["--cpu-time", "200ms", "sh", "-c", spin]);
    assert_eq!((code, err.as_str()), (124, "nspod: the container exceeded --cpu-time and was killed\n"));
    assert_eq!(end["outcome"]["ended_by"], "cpu_time", "{end}");
    assert!(end["outcome"]["cpu_time"]["nanos"].as_u64().unwrap() >= 200_000_000, "{end}");
}

/// Returns whether a process has this word in its command line.
fn has_process(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()))
}

#[test]
fn a_container_ends_with_nspod_and_with_the_parent_of_nspod() {
    if !root() {
        return;
    }
    for flags in ["", "--init", "--bare", "--bare --pid new"] {
        for kills_parent in [false, true] {
            let word = format!("1000.{}", common::unique().replace(|c: char| !c.is_ascii_digit(), ""));
            let script = format!(
                "{NSPOD} run --die-with-parent {flags} -- sh -c 'setsid sleep {word} & exec sleep {word}' & echo $!; wait"
            );
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut shell = shell.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
            eventually("the container runs", || has_process(&word));
            let nspod = line.trim().parse().unwrap();
            let victim = if kills_parent { shell.id() as i32 } else { nspod };
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
            eventually(&format!("{flags:?}: the container ends"), || !has_process(&word));
            end_of(&mut shell);
            eventually("nspod ends", || !is_running(nspod));
        }
    }
    assert_eq!(nspod(&["run", "-d", "--die-with-parent", "true"]).code(), 125);
    let refused = nspod(&["run", "--bare", "--pid", "host", "--die-with-parent", "true"]);
    assert_eq!(refused.code(), 125);
    assert!(refused.err.contains("a new pid namespace"), "{}", refused.err);
}

fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}
