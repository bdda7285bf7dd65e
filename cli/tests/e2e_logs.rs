//! The logs of detached containers: their size, their order, and who pays for them.

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cgroup_core::{Cgroup, Controllers};
use nix::sys::signal::Signal;

use common::{
    NSPOD, Name, Output, alone, controllers, eventually, json, nspod, ok, programs, root, run_with, unique,
};

/// Returns the directory of a container's log.
fn log_dir(name: &Name) -> PathBuf {
    std::fs::read_link(name.state().join("log")).unwrap()
}

/// Returns the sizes of the files of a container's log, with their times.
fn sizes(name: &Name) -> Vec<u64> {
    let dir = log_dir(name);
    let files =
        (0..16).map_while(|n| dir.join(format!("log.{n}")).metadata().ok().map(|found| (n, found.len())));
    files.map(|(n, size)| size + dir.join(format!("times.{n}")).metadata().unwrap().len()).collect()
}

#[test]
fn the_log_has_its_size_and_the_newest_output() {
    if !root() {
        return;
    }
    let name = Name::detached(
        &["--log-max-size", "64k", "--log-max-files", "2"],
        &["sh", "-c", "seq 1 200000; echo end >&2; exit 3"],
    );
    assert_eq!(ok(&["wait", &name]), "3\n");
    let sizes = sizes(&name);
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 64 << 10), "{sizes:?}");
    let text = ok(&["logs", &name]);
    assert!(text.len() > 64 << 10, "{}", text.len());
    let (first, rest) = text.split_once('\n').unwrap();
    let numbers: Vec<&str> = rest.lines().collect();
    let from: u32 = numbers[0].parse().unwrap();
    let want: Vec<String> = (from..=200_000).map(|n| n.to_string()).chain(["end".into()]).collect();
    assert!(numbers == want && (from - 1).to_string().ends_with(first), "{first} {from}");
    assert_eq!(ok(&["logs", "-n", "2", &name]), "200000\nend\n");
    // The last lines are in both files.
    let many = ok(&["logs", "--tail", "12000", &name]);
    assert_eq!(many.lines().next(), Some("188002"));
    let dir = log_dir(&name);
    let seen = &json(&["inspect", &name])[0]["log"];
    assert_eq!((&seen["path"], &seen["lost"]), (&dir.to_str().unwrap().into(), &0.into()));
    assert_eq!(seen["size"], sizes.iter().sum::<u64>());
    ok(&["rm", &name]);
    assert!(!dir.exists());
}

#[test]
fn stats_show_the_size_of_the_log() {
    if !root() || !controllers(Controllers::MEMORY) {
        return;
    }
    let name = Name::detached(&[], &["sh", "-c", "head -c 5000 /dev/zero; exec sleep 1000"]);
    eventually("it has written", || ok(&["logs", &name]).len() == 5000);
    let size = sizes(&name).iter().sum::<u64>();
    assert!(size >= 5000 + 64 + 32, "{size}");
    assert_eq!(json(&["stats", "--no-stream", "--json", &name])[0]["log_bytes"], size);
    let shown = format!("  {:.1} KiB  ", size as f64 / 1024.0);
    assert!(ok(&["stats", "--no-stream", &name]).contains(&shown));
}

/// Returns the time and the text of each line.
fn timed(text: &str) -> Vec<(&str, &str)> {
    text.lines().map(|line| line.split_once(' ').unwrap()).collect()
}

#[test]
fn the_log_has_the_times_of_the_output() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volume = format!("{}:/mnt", dir.path().display());
    let script = "echo one; until [ -e /mnt/go ]; do sleep 0.05; done; printf two; sleep 0.3; echo -end; \
         until [ -e /mnt/end ]; do sleep 0.05; done; echo three";
    let date = || humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string();
    let start = date();
    let name = Name::detached(&["-v", &volume], &["sh", "-c", script]);
    eventually("it has written", || ok(&["logs", &name]) == "one\n");
    let middle = date();
    std::fs::write(dir.path().join("go"), "").unwrap();
    eventually("the second line is copied", || ok(&["logs", &name]) == "one\ntwo-end\n");
    std::fs::write(dir.path().join("end"), "").unwrap();
    ok(&["wait", &name]);
    let end = date();
    let text = ok(&["logs", "-t", &name]);
    let [(one, "one"), (two, "two-end"), (three, "three")] = timed(&text)[..] else { panic!("{text}") };
    assert!(
        *start < *one && *one < *middle && *middle < *two && *two < *three && *three < *end,
        "{start} {text}"
    );
    let logs = |flags: &[&str]| ok(&[&["logs"], flags, &[&*name]].concat());
    assert_eq!(logs(&["--since", &middle]), "two-end\nthree\n");
    assert_eq!(logs(&["--until", &middle]), "one\n");
    assert_eq!(logs(&["--since", two, "--until", two]), "two-end\n");
    assert_eq!(logs(&["-n", "1", "--since", "10m"]), "three\n");
    assert_eq!(logs(&["--since", &end, "--until", "0s"]), "");
    assert_eq!(logs(&["-f", "--until", &middle, "-t"]), format!("{one} one\n"));
    let line: serde_json::Value = serde_json::from_str(&logs(&["--json", "-t", "-n", "1"])).unwrap();
    assert_eq!(line, serde_json::json!({ "line": "three", "time": three }));
    let wrong = nspod(&["logs", "--since", "yesterday", &name]);
    assert!(wrong.code() == 125 && wrong.err.contains("10m for ten minutes ago"), "{wrong:?}");
    let file = dir.path().join("out");
    let other = Name::detached(&["--log-file", file.to_str().unwrap()], &["true"]);
    let refused = nspod(&["logs", "-t", &other]);
    assert!(refused.code() == 125 && refused.err.contains("has no times"), "{refused:?}");
}

#[test]
fn a_file_and_its_times_have_the_size_of_a_file() {
    if !root() || !programs(&["perl"]) {
        return;
    }
    // Most writes are copied, and recorded, one by one.
    let script = "$| = 1; for (1..600) { syswrite STDOUT, \"$_ \" . (\"x\" x 12) . \"\\n\"; select undef, undef, undef, 0.002 }";
    let name = Name::detached(&["--log-max-size", "4k", "--log-max-files", "2"], &["perl", "-e", script]);
    ok(&["wait", &name]);
    let sizes = sizes(&name);
    assert!(sizes.iter().all(|size| *size <= 4096), "{sizes:?}");
    let text = ok(&["logs", "-t", &name]);
    let lines = timed(&text);
    assert!(lines.is_sorted_by_key(|line| line.0) && lines.len() < 600, "{text}");
    assert_eq!(lines.last().unwrap().1, "600 xxxxxxxxxxxx");
    assert!(lines[0].0.starts_with("20") && lines[0].0 < lines[lines.len() / 2].0, "{text}");
}

#[test]
fn a_line_without_an_end_is_printed_as_json_in_parts() {
    if !root() {
        return;
    }
    let name =
        Name::detached(&[], &["sh", "-c", "printf a; yes é | head -100000 | tr -d '\\n'; printf 'b\\nlast'"]);
    ok(&["wait", &name]);
    let text = ok(&["logs", "--json", &name]);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let partial: Vec<bool> = lines.iter().map(|line| line["partial"] == true).collect();
    assert_eq!(partial, [true, true, true, false, false]);
    let whole: String = lines[..4].iter().map(|line| line["line"].as_str().unwrap()).collect();
    assert!(whole == format!("a{}b", "é".repeat(100_000)), "{}", whole.len());
    assert_eq!(lines[4], serde_json::json!({ "line": "last" }));
}

#[test]
fn both_streams_stay_in_the_order_in_which_they_were_written() {
    if !root() {
        return;
    }
    let script = "i=0; while [ $i -lt 500 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done";
    let name = Name::detached(&[], &["sh", "-c", script]);
    ok(&["wait", &name]);
    let want: String = (0..500).map(|n| format!("o{n}\ne{n}\n")).collect();
    assert_eq!(ok(&["logs", &name]), want);
}

#[test]
fn writes_of_several_processes_stay_whole() {
    if !root() {
        return;
    }
    let script = "for p in 1 2 3 4; do perl -e '$| = 1; syswrite(STDOUT, \"$ARGV[0] $_ \" . (\"x\" x 200) . \"\\n\") for 1..400' $p & done; wait";
    let name = Name::detached(&[], &["sh", "-c", script]);
    ok(&["wait", &name]);
    let text = ok(&["logs", &name]);
    for process in 1..=4 {
        let mine: Vec<&str> = text.lines().filter(|line| line.starts_with(&format!("{process} "))).collect();
        let want: Vec<String> = (1..=400).map(|n| format!("{process} {n} {}", "x".repeat(200))).collect();
        assert!(mine == want, "process {process}: {} lines", mine.len());
    }
    assert_eq!(text.lines().count(), 1600);
}

#[test]
fn logs_follows_across_rotations() {
    if !root() {
        return;
    }
    let go = tempfile::tempdir().unwrap();
    // Each step fills two files. The next one starts when its output has been read.
    let script = "for step in 1 2 3 4 5; do seq -f \"$step %080g\" 1 100; until [ -e /mnt/$step ]; do sleep 0.02; done; done";
    let volume = format!("{}:/mnt", go.path().display());
    let flags = ["-v", &volume, "--log-max-size", "4k", "--log-max-files", "4"];
    let name = Name::detached(&flags, &["sh", "-c", script]);
    let mut follow = Command::new(NSPOD).args(["logs", "-f", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stream = follow.stdout.take().unwrap();
    nspod_testkit::in_time(move || {
        for step in 1..=5 {
            let want: String = (1..=100).map(|n| format!("{step} {n:080}\n")).collect();
            let mut seen = vec![0; want.len()];
            stream.read_exact(&mut seen).unwrap();
            assert!(seen == want.as_bytes(), "step {step}: {}", String::from_utf8_lossy(&seen));
            std::fs::write(go.path().join(step.to_string()), "").unwrap();
        }
    });
    assert!(common::end_of(&mut follow).success());
    assert!(sizes(&name).iter().all(|size| *size <= 4096));
}

/// Runs a script as `alone` does, with a tmpfs of 1 MiB for the logs.
fn on_a_small_disk(script: &str) -> Output {
    alone(&format!("mkdir -m 700 /run/logs && mount -t tmpfs -o size=1m none /run/logs && {script}"))
}

#[test]
fn a_full_disk_loses_output_and_neither_the_program_nor_its_exit_status() {
    if !root() {
        return;
    }
    let name = unique();
    let script = format!(
        "$N run -d --name {name} sh -c 'seq 1 400000; exit 7' && $N wait {name}
         $N logs {name} > /run/seen; $N inspect {name} > /run/inspect; $N rm {name}; head -n 1 /run/seen
         stat -c %s /run/seen; grep -o '\"lost\": [0-9]*' /run/inspect"
    );
    let seen = on_a_small_disk(&script);
    let lines: Vec<&str> = seen.out.lines().collect();
    let [id, code, removed, first, kept, lost] = lines[..] else { panic!("{}{}", seen.out, seen.err) };
    assert_eq!((id, code, removed, first), (&*name, "7", &*name, "1"));
    let (kept, lost): (u64, u64) = (kept.parse().unwrap(), lost[8..].parse().unwrap());
    let all = (1..=400_000).map(|n| n.to_string().len() as u64 + 1).sum::<u64>();
    assert!(kept > 900 << 10 && kept + lost == all, "{kept} {lost} {all}");
    let note = format!("nspod: {lost} bytes of output were not logged, because the disk was full\n");
    assert_eq!(seen.err, note);
}

#[test]
fn a_start_on_a_full_disk_works_or_says_why_and_a_later_one_works() {
    if !root() {
        return;
    }
    let name = unique();
    // A directory requires no space in a tmpfs, but an inode.
    let script = format!(
        "mount -o remount,nr_inodes=11 /run/logs && touch /run/logs/a /run/logs/b /run/logs/c /run/logs/d
         $N run -d --name {name} true; echo $?; rm /run/logs/?; ls /run/nspod/containers
         $N run -d --name {name} sh -c 'echo works' && $N wait {name} && $N logs {name}; $N rm -f {name}"
    );
    let seen = on_a_small_disk(&script);
    assert_eq!(seen.out, format!("125\n{name}\n0\nworks\n{name}\n"), "{}", seen.err);
    let want = "(ENOSPC); the file system is full: remove files from it";
    assert!(
        seen.err.starts_with("nspod: cannot make ") && seen.err.trim_end().ends_with(want),
        "{}",
        seen.err
    );
}

#[test]
fn the_exit_status_survives_a_full_run() {
    if !root() {
        return;
    }
    let (name, other) = (unique(), unique());
    let script = format!(
        "mkdir -m 700 /run/nspod /tmp/{name} && mount -t tmpfs -o size=100k,mode=700 none /run/nspod
         mkdir /run/go; export NSPOD_LOG_DIR=/tmp/{name}
         $N run -d --name {name} -v /run/go:/mnt sh -c 'until [ -e /mnt/on ]; do sleep 0.02; done; exit 5'
         {{ head -c 1m /dev/zero > /run/nspod/fill; }} 2> /run/err
         touch /run/go/on; $N wait {name}; $N ps -a --json | grep exit_code
         $N run -d --name {other} true; echo $?
         rm /run/nspod/fill; $N run -d --name {other} sh -c 'exit 6' && $N wait {other}
         $N rm {name} {other}; rm -r /tmp/{name}"
    );
    let seen = alone(&script);
    let want = format!("{name}\n5\n    \"exit_code\": 5,\n125\n{other}\n6\n{name}\n{other}\n");
    assert_eq!(seen.out, want, "{}", seen.err);
    assert!(seen.err.contains("(ENOSPC); the file system is full: remove files from it"), "{}", seen.err);
}

#[test]
fn a_killed_program_and_a_killed_init_leave_the_log() {
    if !root() {
        return;
    }
    // The program dies with output in the pipe, because the init is stopped.
    let go = tempfile::tempdir().unwrap();
    let script =
        "select(undef, undef, undef, 0.02) until -e '/mnt/on'; syswrite(STDOUT, 'x' x 60000); kill 9, $$";
    let volume = format!("{}:/mnt", go.path().display());
    let name = Name::detached(&["-v", &volume], &["perl", "-e", script]);
    let init = name.row().unwrap()["host_pid"].as_i64().unwrap();
    let send = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(init as i32), signal).unwrap();
    send(Signal::SIGSTOP);
    std::fs::write(go.path().join("on"), "").unwrap();
    let program = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let stat = format!("/proc/{}/stat", program.trim());
    eventually("the program has ended", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
    assert_eq!(ok(&["logs", &name]), "");
    send(Signal::SIGCONT);
    assert_eq!(ok(&["wait", &name]), "137\n");
    assert_eq!(ok(&["logs", &name]).len(), 60_000);
    let name = Name::detached(&[], &["sh", "-c", "echo one; exec sleep 1000"]);
    eventually("it has written", || ok(&["logs", &name]) == "one\n");
    let pid = name.row().unwrap()["host_pid"].as_i64().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    eventually("it has ended", || name.at() == "exited");
    assert_eq!(ok(&["logs", &name]), "one\n");
}

#[test]
fn a_process_that_holds_the_pipe_does_not_keep_the_container() {
    if !root() {
        return;
    }
    // The other process writes until the container has ended.
    let script = "yes & (sleep 1000 &); sleep 0.2; echo; echo end";
    let flags = ["--log-max-size", "64k"];
    let name = Name::detached(&flags, &["sh", "-c", script]);
    assert_eq!(ok(&["wait", &name]), "0\n");
    assert!(ok(&["logs", &name]).contains("\nend\n"));
    // A program that has closed its output continues.
    let name = Name::detached(&[], &["sh", "-c", "echo open; exec > /dev/null 2>&1; sleep 0.1; exit 4"]);
    assert_eq!(ok(&["wait", &name]), "4\n");
    assert_eq!(ok(&["logs", &name]), "open\n");
}

#[test]
fn a_limit_on_the_size_of_files_does_not_end_the_program() {
    if !root() {
        return;
    }
    let flags = ["--ulimit", "fsize=8192:8192", "--log-max-size", "64k"];
    let name = Name::detached(&flags, &["sh", "-c", "seq 1 20000; exit 3"]);
    assert_eq!(ok(&["wait", &name]), "3\n");
    // The limit holds for a file and for its times, which are few.
    assert!(sizes(&name).iter().all(|size| *size <= 8192 + 1024));
    assert_eq!(ok(&["logs", "-n", "1", &name]), "20000\n");
}

#[test]
fn a_filter_that_rejects_the_calls_of_the_log_slows_it_down() {
    if !root() {
        return;
    }
    for call in ["signalfd4", "ppoll"] {
        let profile = without(call);
        let option = format!("seccomp={}", profile.path().display());
        let flags = ["--security-opt", &option];
        let name = Name::detached(
            &flags,
            &["sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.1; done"],
        );
        eventually("it is ready", || ok(&["logs", &name]) == "ready\n");
        ok(&["kill", "-s", "TERM", &name]);
        assert_eq!(ok(&["wait", &name]), "3\n", "{call}");
        assert_eq!(ok(&["logs", &name]), "ready\ngot\n", "{call}");
    }
}

#[test]
fn a_filter_that_rejects_the_calls_of_the_log_does_not_end_the_program_or_keep_the_container() {
    if !root() {
        return;
    }
    let profile = without("signalfd4");
    let option = format!("seccomp={}", profile.path().display());
    let flags = ["--security-opt", &option, "--ulimit", "fsize=8192:8192", "--log-max-size", "64k"];
    // The init gets a signal when it reaches the limit, and more output than it can copy.
    let flood = "seq 1 20000; yes & yes & yes & yes & sleep 0.3; exit 3";
    let name = Name::detached(&flags, &["sh", "-c", flood]);
    assert_eq!(ok(&["wait", &name]), "3\n");
}

#[test]
fn a_filter_that_rejects_close_range_does_not_give_the_log_to_the_program() {
    if !root() {
        return;
    }
    let profile = without("close_range");
    let option = format!("seccomp={}", profile.path().display());
    let name = Name::detached(&["--security-opt", &option], &["sh", "-c", "ls /proc/self/fd | wc -l"]);
    assert_eq!(ok(&["wait", &name]), "0\n");
    // The fourth one is the directory itself.
    assert_eq!(ok(&["logs", &name]), "4\n");
}

/// Returns a file with a profile that rejects this call only.
fn without(call: &str) -> tempfile::NamedTempFile {
    let profile = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["{call}"], "action": "SCMP_ACT_ERRNO"}}]}}"#
    );
    std::fs::write(profile.path(), text).unwrap();
    profile
}

#[test]
fn a_container_can_be_without_a_log() {
    if !root() {
        return;
    }
    for size in ["none", "0"] {
        let name = Name::detached(
            &["--log-max-size", size],
            &["sh", "-c", "echo lost; readlink /proc/self/fd/1 >&2"],
        );
        ok(&["wait", &name]);
        let said = nspod(&["logs", &name]);
        let want = format!(
            "nspod: the container {0} has no log; only containers started with -d and without --log-max-size none have one\n",
            &*name
        );
        assert_eq!((said.code(), said.err), (125, want));
        assert!(json(&["inspect", &name])[0]["log"].is_null());
    }
}

#[test]
fn logs_without_a_container_are_pruned() {
    if !root() {
        return;
    }
    let names: [String; 3] = std::array::from_fn(|_| unique());
    let script = format!(
        "for name in {0} {1}; do $N run -d --name $name sh -c 'echo x; sleep 1000' > /run/out; done
         store=$(ls -d /run/logs/*); old=/run/logs/00000000-1-2; other=$store$store
         mkdir $store/{2} $old $old/web /run/logs/mine; touch $store/{2}/log.0 $old/web/log.0
         rm -r /run/nspod/containers/{1}; $N prune | sed s:$store:STORE: | sort
         ls $store; ls -d $old /run/logs/mine; $N logs {0}; $N rm -f {0} > /run/out",
        names[0], names[1], names[2]
    );
    let seen = alone(&script);
    let mut gone = [format!("STORE/{}", names[1]), format!("STORE/{}", names[2])];
    gone.sort();
    let want = format!("/run/logs/00000000-1-2\n{}\n{}\n/run/logs/mine\nx\n", gone.join("\n"), names[0]);
    // The container without an entry still runs in its cgroup, which no command of nspod finds any more.
    Cgroup::open(common::cgroup(&names[1])).and_then(|cgroup| cgroup.destroy()).unwrap();
    assert_eq!(seen.out, want, "{}", seen.err);
}

#[test]
fn the_container_does_not_pay_for_its_log() {
    if !root() || !controllers(Controllers::MEMORY) {
        return;
    }
    // In the guest, this is an ext4.
    let dir = tempfile::tempdir().unwrap();
    let name = Name::container();
    let mut run = Command::new(NSPOD);
    run.args(["run", "-d", "--name", &name, "-m", "64m", "--memory-swap", "64m"]);
    run.args(["sh", "-c", "head -c 100000000 /dev/zero; touch /tmp/done; exec sleep 1000"]);
    assert_eq!(run_with(run.env("NSPOD_LOG_DIR", dir.path()), "").code(), 0);
    eventually("it has written", || nspod(&["exec", &name, "test", "-e", "/tmp/done"]).code() == 0);
    let cgroup = common::cgroup(&name);
    let read = |file: &str| std::fs::read_to_string(cgroup.join(file)).unwrap();
    assert!(read("memory.events").contains("oom_kill 0\n"));
    let cached = |stat: &str| {
        let line = stat.lines().find(|line| line.starts_with("file ")).unwrap().to_owned();
        line[5..].parse::<u64>().unwrap()
    };
    assert!(cached(&read("memory.stat")) < 4 << 20, "{}", read("memory.stat"));
    assert_eq!(sizes(&name).iter().filter(|size| **size > (10 << 20) - 32).count(), 2);
    assert!(log_dir(&name).starts_with(dir.path()));
}

#[test]
fn a_container_of_64_mib_can_fill_the_default_log_where_it_is() {
    if !root() || !controllers(Controllers::MEMORY) {
        return;
    }
    let flags = ["-m", "64m", "--memory-swap", "64m"];
    let name = Name::detached(&flags, &["sh", "-c", "head -c 40000000 /dev/zero; exit 3"]);
    assert_eq!(ok(&["wait", &name]), "3\n");
    assert!(Path::new("/var/lib/nspod/logs").is_dir());
}

#[test]
fn output_of_300_mb_leaves_run_and_the_next_start_as_they_were() {
    if !root() || nspod_testkit::is_slow() {
        return;
    }
    let name = Name::detached(&[], &["sh", "-c", "head -c 300000000 /dev/zero; exit 4"]);
    assert_eq!(ok(&["wait", &name]), "4\n");
    assert!(sizes(&name).iter().sum::<u64>() <= 30 << 20);
    assert_eq!(ok(&["logs", "-n", "0", &name]), "");
    let next = Name::detached(&[], &["true"]);
    assert_eq!(ok(&["wait", &next]), "0\n");
}
