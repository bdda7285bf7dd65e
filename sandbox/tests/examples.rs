//! The examples do what they promise. As root.

use std::fs;

use cgroup_core::{Controllers, Hierarchy};
use judge::Verdict;

#[path = "../examples/build.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod build;
#[path = "../examples/judge.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod judge;

/// Submissions and their verdicts. The input is `6 7`, and the answer 42.
const SUBMISSIONS: [(&str, Verdict); 10] = [
    ("read a b; echo $((a * b))", Verdict::Accepted),
    ("echo 41", Verdict::WrongAnswer),
    ("bomb() { bomb | bomb & bomb; }; bomb", Verdict::RuntimeError),
    ("head -c 1000000000 /dev/zero | tail", Verdict::MemoryLimit),
    ("yes", Verdict::OutputLimit),
    ("sleep 1000", Verdict::TimeLimit),
    ("while :; do :; done", Verdict::TimeLimit),
    ("kill -ABRT $$; echo 42", Verdict::RuntimeError),
    // A process that leaves its session ends with the submission.
    ("setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & echo 42", Verdict::Accepted),
    ("i=0; while echo $i >/tmp/$i; do i=$((i + 1)); done; exit 1", Verdict::RuntimeError),
];

/// Returns whether the tests run as root, and the host's cgroups limit memory and processes. If not, the test is
/// skipped.
fn limits() -> bool {
    let has = Hierarchy::detect().unwrap().controllers();
    let enough = has.contains(Controllers::MEMORY | Controllers::PIDS);
    if !enough {
        nspod_testkit::skip("this test needs the memory and pids controllers of cgroup v2");
    }
    enough && nspod_testkit::root()
}

#[test]
fn the_judge_gives_fifty_submissions_at_once_their_verdicts() {
    if !limits() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
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
