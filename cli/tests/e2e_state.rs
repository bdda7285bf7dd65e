//! Saved state survives concurrent invocations, crashes and reboots, and attempts to redirect nspod to other
//! files.

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use common::{Guard, NSPOD, Name, alone, cgroup, end_of, eventually, fault, nspod, ok, root, unique};
use nix::fcntl::{Flock, FlockArg};

#[test]
fn one_of_many_concurrent_creations_gets_the_name() {
    if !root() {
        return;
    }
    let name = Name::container();
    let run = || nspod(&["run", "-d", "--name", &name, "sleep", "1000"]);
    let outputs: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let taken = format!(
        "nspod: there is a container {0} already; choose another --name, or `nspod rm -f {0}`\n",
        &*name
    );
    let (won, lost): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.code() == 0);
    assert_eq!((won.len(), lost.len()), (1, 7), "{outputs:?}");
    assert!(lost.iter().all(|output| output.code() == 125 && output.err == taken), "{lost:?}");
    assert_eq!(name.at(), "running");
}

#[test]
fn many_containers_start_and_are_removed_at_once() {
    if !root() {
        return;
    }
    let names: Vec<_> = (0..20).map(|_| Name::container()).collect();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || {
                ok(&["run", "-d", "--name", name, "sleep", "1000"]);
                ok(&["exec", name, "true"]);
                nspod(&["ps", "-a"]);
                ok(&["rm", "-f", name]);
            });
        }
    });
    for name in &names {
        assert!(!name.state().exists() && !cgroup(name).exists());
    }
}

#[test]
fn many_removals_of_one_container_do_not_hang() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let outputs: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| nspod(&["rm", "-f", &name]))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // The container may be gone, or another command may be working on it.
    let said = ["there is no container", "another command is starting or removing the container"];
    let fine = |o: &common::Output| o.code() == 0 || said.iter().any(|said| o.err.contains(said));
    assert!(outputs.iter().all(fine) && outputs.iter().any(|o| o.code() == 0), "{outputs:?}");
    assert!(!name.state().exists() && !cgroup(&name).exists());
}

#[test]
fn removing_a_container_spares_the_next_one_of_its_name() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["true"]);
    ok(&["wait", &name]);
    // Hold the lock, so that the removal waits.
    let dir = std::fs::File::open(name.state()).unwrap();
    let lock = Flock::lock(dir, FlockArg::LockExclusive).unwrap();
    let mut rm = Guard(Command::new(NSPOD).args(["rm", &name]).stdout(Stdio::null()).spawn().unwrap());
    let blocked = format!("{} ", nix::libc::SYS_flock);
    eventually("it waits for the lock", || {
        std::fs::read_to_string(format!("/proc/{}/syscall", rm.0.id()))
            .is_ok_and(|call| call.starts_with(&blocked))
    });
    std::fs::remove_dir_all(name.state()).unwrap();
    let _ = std::fs::remove_dir(cgroup(&name));
    ok(&["run", "-d", "--name", &name, "sleep", "1000"]);
    drop(lock);
    end_of(&mut rm.0);
    assert_eq!(name.at(), "running");
}

/// Runs a script in a private /run. The script begins with an nspod that stops at a call.
fn raced(script: &str, name: &str) -> common::Output {
    let script = script.replace("NAME", name);
    alone(&format!("{{ $N ps; $N pod ls; }} > /run/out; {}\n{script}", fault::LATE))
}

#[test]
fn creating_a_container_adopts_no_other_one_of_its_name() {
    if !root() || !fault::able() {
        return;
    }
    let script = "late mkdirat:signal=STOP:when=1 run -d --name NAME sleep 1000
        $N rm -f NAME; $N run -d --name NAME sleep 1000
        go_on $late; cat /run/late; $N exec NAME echo runs; $N rm -f NAME";
    let name = unique();
    let want = "NAME
NAME
125
nspod: there is a container NAME already; choose another --name, or `nspod rm -f NAME`
runs
NAME
";
    let seen = raced(script, &name);
    assert_eq!(seen.out, want.replace("NAME", &name), "{}", seen.err);
}

#[test]
fn removing_a_container_that_never_started_spares_one_that_starts_meanwhile() {
    if !root() || !fault::able() {
        return;
    }
    // The first process has created the directory and not locked it yet. The second checks whether the
    // directory is locked, which requires one lock and one unlock, and then locks it.
    let script = "late mkdirat:signal=STOP:when=1 run -d --name NAME sleep 1000; run=$late
        late flock:signal=STOP:when=2 rm NAME; rm=$late
        go_on $run; go_on $rm; $N exec NAME echo runs; $N rm -f NAME";
    let name = unique();
    let seen = raced(script, &name);
    assert_eq!(seen.out, "0\n125\nruns\nNAME\n".replace("NAME", &name), "{}", seen.err);
}

#[test]
fn a_failed_start_spares_the_cgroup_of_another_container_of_its_name() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let seen = alone(&format!("$N run --name {0} true; echo $?; ls /run/nspod/containers", &*name));
    assert_eq!(seen.out, "125\n", "{}", seen.err);
    assert_eq!(name.at(), "running");
}

#[test]
fn creating_a_pod_adopts_no_other_one_of_its_name() {
    if !root() || !fault::able() {
        return;
    }
    let script = "late mkdirat:signal=STOP:when=1 pod create NAME
        $N pod rm -f NAME; $N pod create NAME
        go_on $late; cat /run/late; $N pod run NAME echo runs; $N pod rm NAME";
    let name = unique();
    let want = "NAME
NAME
125
nspod: there is a pod NAME already; choose another name, or `nspod pod rm -f NAME`
runs
NAME
";
    let seen = raced(script, &name);
    assert_eq!(seen.out, want.replace("NAME", &name), "{}", seen.err);
}

/// Returns the parts of a pod outside its directory: its cgroup, and its shared memory.
fn of_pod(name: &str) -> Vec<PathBuf> {
    let begins = format!("nspod-pod:{name}-");
    let shm = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().path());
    let shm = shm.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&begins));
    shm.chain(Some(cgroup(&format!("pod:{name}"))).filter(|path| path.exists())).collect()
}

/// Returns the processes that have this text in their environment.
fn marked(mark: &str) -> Vec<String> {
    let pids =
        std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let has = |pid: &String| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.windows(mark.len()).any(|at| at == mark.as_bytes())
    };
    pids.filter(|pid| pid.parse::<u32>().is_ok()).filter(has).collect()
}

const CHANGING: &[&str] = &[
    "mkdir",
    "mkdirat",
    "openat",
    "write",
    "renameat",
    "renameat2",
    "unlinkat",
    "mount",
    "clone3",
    "close",
    "chmod",
];

#[test]
fn leftovers_of_a_killed_creation_of_a_pod_are_removed() {
    if !root() || !fault::able() {
        return;
    }
    let ways =
        ["prune", "pod rm NAME", "pod rm -f NAME", "pod create NAME; $N pod run NAME true; $N pod rm NAME"];
    let mut next = ways.iter().cycle();
    for share in ["net,ipc,uts", "net,ipc,pid"] {
        let counted = Name::pod();
        let mut create = Command::new(NSPOD);
        create.args(["pod", "create", "--share", share, &counted]);
        for point in fault::points(CHANGING, "signal=KILL", &mut create) {
            let (name, way) = (unique(), next.next().unwrap());
            let script = "
                NSPOD_TEST_MARK=NAME STRACEPOINT $N pod create --share SHARE NAME > /run/out 2>&1
                { if $N pod ls | grep -q 'never finished'; then $N WAY
                elif $N pod ls | grep -q NAME; then $N pod rm NAME; fi; } > /run/out
                ls /run/nspod/pods; grep -o '/run/nspod/pods/NAME[^ ]*' /proc/self/mountinfo";
            let words = [
                ("STRACE", fault::STRACE),
                ("POINT", &point),
                ("SHARE", share),
                ("WAY", way),
                ("NAME", &name),
            ];
            let script = words.iter().fold(script.to_owned(), |script, (from, to)| script.replace(from, to));
            let seen = alone(&script);
            let at = format!("{share}, {point}, {way}");
            assert_eq!((seen.out.as_str(), seen.err.as_str()), ("", ""), "{at}");
            let left = of_pod(&name);
            assert!(left.is_empty(), "{at}: {left:?}");
            let mark = format!("NSPOD_TEST_MARK={name}");
            eventually(&format!("{at}: no process is left"), || marked(&mark).is_empty());
        }
    }
}

#[test]
fn a_killed_runner_leaves_a_container_that_can_be_managed() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volume = format!("{}:/mnt", dir.path().display());
    let start = |name: &str| {
        let script = "until [ -e /mnt/go ]; do sleep 0.02; done";
        let args = ["run", "--name", name, "-v", &volume, "sh", "-c", script];
        Guard(Command::new(NSPOD).args(args).spawn().unwrap())
    };
    let (ended, removed) = (Name::container(), Name::container());
    for name in [&ended, &removed] {
        let mut run = start(name);
        eventually("it runs", || name.at() == "running");
        run.0.kill().unwrap();
        run.0.wait().unwrap();
        assert_eq!(name.at(), "running", "it goes on by itself");
    }
    ok(&["rm", "-f", &removed]);
    assert!(!removed.state().exists() && !cgroup(&removed).exists());
    std::fs::write(dir.path().join("go"), "").unwrap();
    // The container is marked for removal. The next nspod removes it after its end.
    eventually("it is swept away", || ended.row().is_none());
    assert!(!ended.state().exists() && !cgroup(&ended).exists());
}

#[test]
fn an_interrupted_start_is_reported_and_removed() {
    if !root() {
        return;
    }
    // Use a private /run, because the `ps` of another test would remove the container.
    for (then, left) in [
        ("$N kill NAME; $N logs NAME; $N exec NAME true; $N wait NAME; $N rm NAME", ""),
        ("$N ps -aq", ""),
        ("$N run -d --name NAME true > /run/out; $N wait NAME; $N ps -aq; $N rm NAME > /run/out", "NAME\n"),
    ] {
        let name = unique();
        let script = format!(
            "mkdir -m 700 -p /run/nspod/containers/NAME {}; chmod 700 /run/nspod
             {{ {then}; }} 2>&1; ls /run/nspod/containers",
            cgroup(&name).display()
        );
        let seen = alone(&script.replace("NAME", &name));
        let refused =
            "nspod: the container NAME has not been started; `nspod rm -f NAME` removes the rest of it\n";
        let want = match then.contains("kill") {
            true => refused.repeat(4) + "NAME\n",
            false if then.contains("run") => "0\n".to_owned() + left,
            false => left.to_owned(),
        };
        assert_eq!((seen.out, seen.err.as_str()), (want.replace("NAME", &name), ""), "{then}");
        assert!(!cgroup(&name).exists(), "{then}");
    }
}

#[test]
fn the_next_ps_removes_everything_that_a_killed_start_leaves() {
    if !root() || !fault::able() {
        return;
    }
    let counted = Name::container();
    let mut run = Command::new(NSPOD);
    run.args(["run", "-d", "--name", &counted, "sleep", "1000"]);
    for point in fault::points(CHANGING, "signal=KILL", &mut run) {
        let name = unique();
        let script = "
            NSPOD_TEST_MARK=NAME STRACEPOINT $N run -d -e NSPOD_TEST_MARK=NAME --name NAME sleep 1000 > /run/out 2>&1
            test -n \"$($N ps -q)\" && $N rm -f NAME > /run/out
            $N ps -aq; ls /run/nspod/containers; find /run -path '/run/logs/*/*'";
        let words = [("STRACE", fault::STRACE), ("POINT", &point), ("NAME", &name)];
        let script = words.iter().fold(script.to_owned(), |script, (from, to)| script.replace(from, to));
        let seen = alone(&script);
        assert_eq!((seen.out.as_str(), seen.err.as_str()), ("", ""), "{point}");
        assert!(!cgroup(&name).exists(), "{point}");
        let mark = format!("NSPOD_TEST_MARK={name}");
        eventually(&format!("{point}: no process is left"), || marked(&mark).is_empty());
    }
}

#[test]
fn a_failed_system_call_leaves_a_container_with_its_cgroup_or_an_error_and_none() {
    if !root() || !fault::able() {
        return;
    }
    let counted = Name::container();
    let mut run = Command::new(NSPOD);
    run.args(["run", "-d", "--userns", "auto", "--name", &counted, "sleep", "1000"]);
    for point in fault::points(fault::FAILING, "error=EIO", &mut run) {
        let name = unique();
        let script = "$N ps > /run/out
            STRACEPOINT $N run -d --userns auto --name NAME sleep 1000 > /run/out 2>&1; code=$?
            echo $code; test -s /run/out && echo said; ls -d CGROUP; $N ps -q; ls /run/nspod/containers; $N rm -f NAME";
        let cgroup = cgroup(&name);
        let at = cgroup.display().to_string();
        let words = [("STRACE", fault::STRACE), ("POINT", &point), ("CGROUP", &at), ("NAME", &name)];
        let script = words.iter().fold(script.to_owned(), |script, (from, to)| script.replace(from, to));
        let seen = alone(&script);
        let fine = format!("0\nsaid\n{at}\n{name}\n{name}\n{name}\n");
        assert!(seen.out == fine || seen.out == "125\nsaid\n", "{point}: {}{}", seen.out, seen.err);
        assert!(!cgroup.exists(), "{point}");
    }
}

#[test]
fn a_start_with_too_few_descriptors_fails_and_leaves_nothing() {
    if !root() {
        return;
    }
    let name = unique();
    // Raise the limit until there are enough descriptors.
    let script = format!(
        "$N ps > /run/out; n=4
        until [ $n = 100 ] || prlimit --nofile=$n $N run -d --name {name} sleep 1000 > /run/out 2>&1; do
            n=$((n + 1)); ls /run/nspod/containers; ls -d {}
        done 2> /run/err; cat /run/out; $N rm -f {name}",
        cgroup(&name).display()
    );
    assert_eq!(alone(&script).ok(), format!("{name}\n{name}\n"));
}

#[test]
fn a_removal_that_cannot_inspect_the_container_fails() {
    if !root() || !fault::able() {
        return;
    }
    let counted = Name::detached(&[], &["sleep", "1000"]);
    for point in fault::points(fault::FAILING, "error=EIO", Command::new(NSPOD).args(["rm", "-f", &counted]))
    {
        let name = unique();
        let script = "$N run -d --name NAME sleep 1000 > /run/out
            STRACEPOINT $N rm -f NAME > /run/out 2>&1; test $? = 0 || $N rm -f NAME > /run/out
            ls /run/nspod/containers";
        let words = [("STRACE", fault::STRACE), ("POINT", &point), ("NAME", &name)];
        let script = words.iter().fold(script.to_owned(), |script, (from, to)| script.replace(from, to));
        let seen = alone(&script);
        assert_eq!((seen.out.as_str(), seen.err.as_str()), ("", ""), "{point}");
        assert!(!cgroup(&name).exists(), "{point}");
    }
}

#[test]
fn a_container_is_removed_from_a_full_disk() {
    if !root() {
        return;
    }
    let name = unique();
    let script = format!(
        "mkdir -m 700 /run/nspod && mount -t tmpfs -o size=100k,mode=700 none /run/nspod &&
         $N run -d --name {name} sleep 1000 > /run/out &&
         {{ head -c 1m /dev/zero > /run/nspod/fill; }} 2> /run/err; $N rm -f {name}; ls /run/nspod/containers"
    );
    assert_eq!(alone(&script).ok(), format!("{name}\n"));
    assert!(!cgroup(&name).exists());
}

#[test]
fn prune_removes_ended_containers_and_spares_running_ones() {
    if !root() {
        return;
    }
    let names: Vec<_> = (0..3).map(|_| unique()).collect();
    let script = format!(
        "trap '$N rm -f {0} {1} >/dev/null 2>&1' EXIT
         $N run -d --name {0} sleep 1000 && $N run -d --name {1} true && $N wait {1} &&
         mkdir -m 700 /run/nspod/containers/{2} && echo pruned && $N prune && echo left && $N ps -aq",
        names[0], names[1], names[2]
    );
    let want = format!("{0}\n{1}\n0\npruned\n{1}\n{2}\nleft\n{0}\n", names[0], names[1], names[2]);
    assert_eq!(alone(&script).out, want);
}

/// Changes the saved state of a container.
fn forge(name: &Name, change: impl FnOnce(&mut serde_json::Value)) {
    let file = name.state().join("state.json");
    let mut record = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut record);
    // Replace the file atomically, because other tests read it too.
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, record.to_string()).unwrap();
    std::fs::rename(&fresh, &file).unwrap();
}

#[test]
fn a_reused_pid_is_never_touched() {
    if !root() {
        return;
    }
    let mut bystander = Guard(Command::new("sleep").arg("1000").spawn().unwrap());
    let pid = bystander.0.id();
    // The kernel counts start times in hundredths of a second.
    thread::sleep(std::time::Duration::from_millis(50));
    type Forgery = fn(&mut serde_json::Value, u32);
    let recycled: Forgery = |record, pid| record["process"]["pid"] = pid.into();
    // The same start time, but before a reboot.
    let rebooted: Forgery = |record, pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start: u64 =
            stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
        record["process"] = serde_json::json!({ "pid": pid, "start": start, "boot": "0-0" });
    };
    for forgery in [recycled, rebooted] {
        let name = Name::detached(&[], &["true"]);
        ok(&["wait", &name]);
        forge(&name, |record| forgery(record, pid));
        assert_eq!(name.at(), "exited");
        for args in [
            &["kill", &name][..],
            &["kill", "-s", "TERM", &name],
            &["pause", &name],
            &["exec", &name, "true"],
            &["top", &name],
            &["update", "--pids-limit", "5", &name],
        ] {
            let refused = nspod(args);
            let want = format!("nspod: the container {} is not running\n", &*name);
            assert_eq!((refused.code(), refused.err), (125, want), "{args:?}");
        }
        assert_eq!(ok(&["stop", &name]), format!("{}\n", &*name));
        ok(&["rm", "-f", &name]);
        assert!(bystander.0.try_wait().unwrap().is_none());
    }
}

#[test]
fn a_damaged_record_is_named_and_hides_no_other() {
    if !root() {
        return;
    }
    let name = unique();
    let other = format!("{name}-other");
    let script = format!(
        "trap '$N rm -f {other} >/dev/null 2>&1; rm -r /run/nspod' EXIT
         $N run -d --name {other} sleep 1000 >/dev/null && mkdir -m 700 /run/nspod/containers/{name} &&
         echo '{{' > /run/nspod/containers/{name}/state.json && $N ps -q; echo $?; $N inspect {name}; echo $?"
    );
    let seen = alone(&script);
    assert_eq!(seen.out, format!("{other}\n0\n125\n"));
    let want = format!("nspod: /run/nspod/containers/{name}/state.json is not a valid record");
    assert!(seen.err.lines().all(|line| line.starts_with(&want)), "{}", seen.err);
}

#[test]
fn a_state_directory_that_is_a_link_or_open_to_others_is_refused() {
    if !root() {
        return;
    }
    let seen =
        alone("mkdir -m 700 /run/trap && ln -s /run/trap /run/nspod && $N run true; echo $?; ls /run/trap");
    assert_eq!(seen.out, "125\n");
    let want = "nspod: cannot open the state directory /run/nspod: open: Not a directory (ENOTDIR); \
        /run/nspod is a symbolic link, which is not followed: remove it\n";
    assert!(seen.err.starts_with(want), "{}", seen.err);
    for (make, why) in [
        ("mkdir -m 777 /run/nspod", "has owner 0 and mode 777"),
        ("mkdir -m 700 /run/nspod && chown 65534 /run/nspod", "has owner 65534 and mode 700"),
    ] {
        let seen = alone(&format!("{make} && $N run true; echo $?; ls /run/nspod"));
        assert_eq!(seen.out, "125\n", "{make}");
        let want = format!(
            "nspod: the state directory /run/nspod {why} instead of owner 0 and mode 700; remove it\n"
        );
        assert_eq!(seen.err, want);
    }
    // A symbolic link replaces a container's directory, or a file in it.
    let name = unique();
    let script = format!(
        "mkdir -m 700 /run/nspod /run/nspod/containers /run/trap && ln -s /run/trap /run/nspod/containers/{name}
         $N run --name {name} true; echo $?; $N rm -f {name}; echo $?; ls /run/trap; ls /run/nspod/containers"
    );
    let seen = alone(&script);
    assert_eq!(seen.out, format!("125\n125\n{name}\n"), "{}", seen.err);
}

#[test]
fn a_full_disk_prevents_a_start() {
    if !root() {
        return;
    }
    let name = unique();
    for (size, flags) in
        [("size=4k,nr_inodes=100", "-d"), ("nr_inodes=3", "-d"), ("size=4k,nr_inodes=100", "--rm")]
    {
        let script = format!(
            "mkdir -m 700 /run/nspod && mount -t tmpfs -o {size},mode=700 none /run/nspod &&
             mkdir -m 700 /run/nspod/containers && {{ head -c 1m /dev/zero > /run/nspod/fill || true; }} 2>/dev/null
             $N run {flags} --name {name} sleep 1000; echo $?; ls /run/nspod/containers"
        );
        let seen = alone(&script);
        assert_eq!(seen.out, "125\n", "{size} {flags}: {}", seen.err);
        assert!(seen.err.starts_with("nspod: cannot ") && seen.err.contains("(ENOSPC)"), "{}", seen.err);
        assert!(!cgroup(&name).exists(), "{size} {flags}");
    }
}
