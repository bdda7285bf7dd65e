//! The examples do what they promise. As root.

use std::fs;
use std::process::{self, Stdio};
use std::time::Duration;

use cgroup_core::{Controllers, Hierarchy, Resource, Stall};
use judge::Verdict;
use nspod_sandbox::{Command, EndedBy};

#[path = "../examples/agent.rs"]
#[allow(dead_code)]
mod agent;
#[path = "../examples/build.rs"]
#[allow(dead_code)]
mod build;
#[path = "../examples/judge.rs"]
#[allow(dead_code)]
mod judge;
#[path = "../examples/ops.rs"]
#[allow(dead_code)]
mod ops;

/// Submissions and their verdicts. The input is `6 7`, and the answer 42.
const SUBMISSIONS: [(&str, Verdict); 10] = [
    ("read a b; echo $((a * b))", Verdict::Accepted),
    ("echo 41", Verdict::WrongAnswer),
    ("bomb() { bomb | bomb & bomb; }; bomb", Verdict::RuntimeError),
    ("dd if=/dev/zero of=/dev/null bs=64M count=1", Verdict::MemoryLimit),
    ("yes", Verdict::OutputLimit),
    ("sleep 1000", Verdict::TimeLimit),
    ("while :; do :; done", Verdict::TimeLimit),
    ("kill -ABRT $$; echo 42", Verdict::RuntimeError),
    // A process that leaves its session ends with the submission.
    ("setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & echo 42", Verdict::Accepted),
    ("i=0; while echo $i >/tmp/$i; do i=$((i + 1)); done; exit 1", Verdict::RuntimeError),
];

/// Returns whether the tests run as root, and the host's cgroups limit processors, memory and processes. If not,
/// the test is skipped.
fn limits() -> bool {
    let has = Hierarchy::detect().unwrap().controllers();
    let enough = has.contains(Controllers::CPU | Controllers::MEMORY | Controllers::PIDS);
    if !enough {
        nspod_testkit::skip("this test needs the cpu, memory and pids controllers of cgroup v2");
    }
    enough && nspod_testkit::root()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn the_judge_gives_fifty_submissions_at_once_their_verdicts() {
    if !limits() {
        return;
    }
    let runtime = runtime();
    for round in 0..nspod_testkit::rounds(1) {
        runtime.block_on(async {
            let tasks = SUBMISSIONS.iter().cycle().take(50).map(|(script, verdict)| {
                (tokio::spawn(judge::judge(script, "6 7\n", "42\n")), script, verdict)
            });
            for (task, script, verdict) in tasks.collect::<Vec<_>>() {
                assert_eq!(task.await.unwrap().unwrap(), *verdict, "round {round}: {script}");
            }
        });
    }
}

#[test]
fn the_calls_of_an_agent_share_the_session_and_not_its_end() {
    if !limits() {
        return;
    }
    runtime().block_on(async {
        let session = agent::Session::start().await.unwrap();
        let stored = session.call("echo text >/tmp/a; setsid sleep 1000 & exit 3").await.unwrap();
        assert_eq!(stored.outcome.status.code(), Some(3));
        let short = session.call("dd if=/dev/zero of=/dev/null bs=128M count=1").await.unwrap();
        assert!(short.outcome.oom.is_some(), "{:?}", short.outcome);
        let slow = session.call("cat /tmp/a; setsid sleep 1000 & sleep 1000").await.unwrap();
        assert_eq!((&*slow.stdout, slow.outcome.ended_by), (&b"text\n"[..], EndedBy::WallTime));
        let left = session.call("ls /proc | grep -c '^[0-9]'").await.unwrap();
        // The init, the program of the session, and the three of this call.
        assert_eq!(String::from_utf8_lossy(&left.stdout), "5\n");
        session.end().await.unwrap();
    });
}

#[test]
fn the_build_sees_its_source_and_stops_at_the_first_failure() {
    if !nspod_testkit::root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (source, output) = (temp.path().join("source"), temp.path().join("output"));
    [&source, &output].into_iter().for_each(|path| fs::create_dir(path).unwrap());
    fs::write(source.join("words"), "one\ntwo\n").unwrap();
    let steps = ["grep -c o words >/out/count; cat /out/count", "echo more >>words", "echo not reached"];
    let done = build::build(&source, &output, &steps.map(str::to_owned)).unwrap();
    assert_eq!((done.len(), &*done[0].stdout), (2, &b"2\n"[..]));
    assert!(!done[1].outcome.status.success());
    assert!(String::from_utf8_lossy(&done[1].stdout).contains("Read-only file system"));
    assert_eq!(fs::read_to_string(output.join("count")).unwrap(), "2\n");
    let hidden =
        build::build(&source, &output, &["ls /; ls /root /home 2>&1 || ip route".to_owned()]).unwrap();
    let text = String::from_utf8_lossy(&hidden[0].stdout).into_owned();
    assert!(text.contains("src\n") && text.contains("No such file") && !text.contains("home\n"), "{text}");
}

/// The argument of the submissions of a judge that is killed.
const MARK: &str = "98765431";

/// Returns the cgroups of the processes with this argument.
fn marked() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let marked = processes.filter(|process| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == MARK.as_bytes())
    });
    marked.filter_map(|process| fs::read_to_string(process.join("cgroup")).ok()).collect()
}

#[test]
fn nothing_is_left_of_a_judge_that_is_killed() {
    const JUDGE: &str = "NSPOD_TEST_JUDGE";
    if !limits() {
        return;
    }
    if std::env::var_os(JUDGE).is_some() {
        let script = format!("setsid sleep {MARK} & while :; do sleep {MARK}; done");
        return runtime().block_on(async {
            let all = (0..8).map(|_| {
                let script = script.clone();
                // It runs until this process is killed.
                tokio::spawn(async move { while judge::judge(&script, "", "").await.is_ok() {} })
            });
            for task in all.collect::<Vec<_>>() {
                task.await.unwrap();
            }
        });
    }
    let mut judge = process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_is_left_of_a_judge_that_is_killed"])
        .env(JUDGE, "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    nspod_testkit::eventually("the submissions run", || marked().len() >= 8);
    let cgroups = marked();
    judge.kill().unwrap();
    judge.wait().unwrap();
    nspod_testkit::eventually("no process is left", || marked().is_empty());
    let hierarchy = Hierarchy::detect().unwrap();
    for line in cgroups.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("0::")) {
        nspod_testkit::eventually("no cgroup is left", || hierarchy.open(line).is_err());
    }
}

#[test]
fn a_census_entry_leads_to_the_cgroup_of_a_container() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    let spin = "while :; do :; done";
    command.args(["-c", &format!("for i in 1 2 3 4 5 6 7 8; do {spin} & done; wait")]);
    let container = command.spawn().unwrap();
    let cgroup = container.cgroup().unwrap();
    nspod_testkit::eventually("the container uses the processor", || {
        let all = ops::containers().unwrap();
        let ours = all.iter().find(|(entry, _)| entry.pids.contains(&container.pid())).unwrap();
        assert!(cgroup.path().to_str().unwrap().ends_with(ours.0.cgroup.as_deref().unwrap()));
        ours.1.as_ref().unwrap().cpu.usage_usec > Some(0)
    });
    if fs::exists(cgroup.path().join("cpu.pressure")).unwrap() {
        let (threshold, window) = (Duration::from_millis(50), Duration::from_secs(2));
        let pressure = cgroup.trigger(Resource::Cpu, Stall::Some, threshold, window).unwrap();
        let patience = Some(Duration::from_secs(100));
        assert!(ops::relieve(cgroup, &pressure, patience, Duration::from_millis(10)).unwrap());
        assert!(!cgroup.events().unwrap().frozen);
    }
    container.delete().unwrap();
}
