//! Asserts the exact number of system calls of a start. One more is a regression. If a change saves calls, lower
//! the number here.
//!
//! The test program runs itself again under strace, which counts the calls.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::Image;
use nspod_sandbox::ns_core::{Extent, IdMap, Kinds};
use nspod_sandbox::spec::{IdMaps, Mount, MountKind, Root};
use nspod_sandbox::{Command, Pool, PoolOptions, Stdio};

const BUSYBOX: &str = "/bin/busybox";
const STAGE: &str = "NSPOD_TEST_CALLS";
const ROOT: &str = "NSPOD_TEST_ROOT";
/// The cost of one start is the difference between these two numbers of starts.
const STARTS: [usize; 2] = [2, 5];
/// Calls for memory management depend on the amount of memory and not on the number of starts.
const MEMORY: [&str; 7] = ["brk", "mmap", "mprotect", "mremap", "munmap", "madvise", "futex"];

/// Prepares the command to start. Its program sleeps, so that waiting for its end always blocks.
fn command(what: &str, root: &Path) -> Command {
    let mut command = Command::bare(BUSYBOX);
    command.args(["sleep", "0.1"]).stdin(Stdio::Null).no_cgroup();
    if let Some(of) = what.strip_suffix(" without init") {
        command = self::command(of, root);
        command.init(false);
        return command;
    }
    match what {
        "plain" => {}
        "five kinds" => {
            command.isolate(Kinds::FIVE);
        }
        "range of ids" | "own ids" => {
            let map = IdMap::from(vec![Extent { inside: 0, outside: 0x6fff_0000, count: 1000 }]);
            command.isolate(Kinds::FIVE | Kinds::USER).spec_mut().id_maps = match what {
                "own ids" => IdMaps::Own { uid: map.clone(), gid: map },
                _ => IdMaps::Maps { uid: map.clone(), gid: map },
            };
        }
        "clocks" | "clock offsets" => {
            command.isolate(Kinds::FIVE | Kinds::TIME);
            let offsets = (what == "clock offsets").then(|| "monotonic 7 0".parse().unwrap());
            command.spec_mut().time_offsets = offsets;
        }
        // The file system of an ordinary container: nine mounts, six nodes, five links.
        "container"
        | "container with a cgroup"
        | "container with a cgroup that is tied"
        | "container that is tied"
        | "container with a pool" => {
            let root = Root::Dir { path: root.to_owned(), readonly: false };
            command.isolate(Kinds::FIVE).hostname("c").root(root);
            let mounts = [("/proc", MountKind::Proc), ("/dev", MountKind::Dev), ("/sys", MountKind::Sysfs)];
            for (path, kind) in mounts {
                command.mount(Mount::new(path, kind));
            }
        }
        other => panic!("{other}"),
    }
    if what.starts_with("container with a cgroup") {
        let host = nspod_sandbox::cgroup_core::Hierarchy::detect().unwrap();
        command.cgroup_parent(host.mount_point().unwrap());
    }
    command.die_with_parent(what.ends_with("tied"));
    command
}

/// Not a test itself: the tests below run this function under strace.
#[test]
fn the_stage() {
    let Ok(stage) = std::env::var(STAGE) else { return };
    let (what, starts) = stage.split_once(':').unwrap();
    let root = std::env::var_os(ROOT).unwrap();
    let mut sleeper = command("five kinds", Path::new(&root));
    let sleeper = (what == "exec").then(|| {
        sleeper.spec_mut().process.args[1] = "1000".into();
        sleeper.spawn().unwrap()
    });
    let mut command = match &sleeper {
        Some(container) => container.exec(BUSYBOX).unwrap(),
        None => command(what, Path::new(&root)),
    };
    // The pool refills itself when half of it is taken, which does not happen here. The process exits without
    // removing the rest, because the number of calls for that depends on the entries taken.
    let pool = || Pool::new(PoolOptions { size: 16, cgroups: false, ..PoolOptions::default() }).unwrap();
    if let Some(pool) = (what == "container with a pool").then(pool) {
        command.spec_mut().loopback = true;
        command.pool(&pool);
        std::mem::forget(pool);
    }
    if sleeper.is_some() {
        command.args(["sleep", "0.1"]);
    }
    for _ in 0..starts.parse().unwrap() {
        command.stdin(Stdio::Null);
        assert!(command.status().unwrap().status.success());
    }
}

/// Calls of the caller, and calls of the started processes up to the exec of the program, both by name. The calls
/// of the init are among the second ones until it ends.
type Calls = [BTreeMap<String, i64>; 2];

/// Returns the text of strace for this many starts.
fn trace(what: &str, starts: usize, root: &Path) -> String {
    let temp = tempfile::NamedTempFile::new().unwrap();
    let output = std::process::Command::new("strace")
        .args(["-qq", "-f", "-e", "signal=none", "-o"])
        .arg(temp.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "the_stage", "--test-threads=1"])
        .env(STAGE, format!("{what}:{starts}"))
        .env(ROOT, root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read_to_string(temp.path()).unwrap()
}

/// Returns the calls of this many starts.
fn traced(what: &str, starts: usize, root: &Path) -> Calls {
    let text = trace(what, starts, root);
    let lines = || text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    // strace continues a call that another process interrupted on a second line: `<... read`.
    let call = |rest: &str| {
        let (name, _) = rest.trim_start().split_once('(')?;
        (!name.starts_with('<')).then(|| name.to_owned())
    };
    let is_exec = |name: &str| matches!(name, "execve" | "execveat");
    // The line of the last exec of each process. The calls after it belong to the program, or to the init.
    let mut last = BTreeMap::new();
    for (at, (pid, rest)) in lines().enumerate() {
        if call(rest).is_some_and(|name| is_exec(&name)) {
            last.insert(pid, if rest.contains("[\"nspod-init\"") { usize::MAX } else { at });
        }
    }
    let first = lines().next().unwrap().0;
    let mut calls = Calls::default();
    for (at, (pid, rest)) in lines().enumerate() {
        // Other threads of the test program have no exec. Their calls count as the caller's.
        let started = pid != first && last.contains_key(pid);
        if started && at > last[pid] {
            continue;
        }
        let counts = |name: &String| match name.as_str() {
            // A debug build checks each descriptor that it closes.
            "fcntl" => started,
            // One call for each signal number.
            "rt_sigaction" => false,
            name => !MEMORY.contains(&name),
        };
        if let Some(name) = call(rest).filter(counts) {
            *calls[usize::from(started)].entry(name).or_default() += 1;
        }
    }
    calls
}

/// Returns the numbers of calls of one start: the caller's and the started processes'.
fn counted(what: &str, root: &Path) -> ([i64; 2], String) {
    let [few, many] = STARTS.map(|starts| traced(what, starts, root));
    let more = (STARTS[1] - STARTS[0]) as i64;
    let mut said = String::new();
    let counts = std::array::from_fn(|side| {
        let mut total = 0;
        for (name, count) in &many[side] {
            let of_these = count - few[side].get(name).copied().unwrap_or(0);
            assert_eq!(of_these % more, 0, "{what}: not each start calls {name} as often: {of_these}");
            total += of_these / more;
            said.push_str(&format!("{name} {}, ", of_these / more));
        }
        said.push_str("| ");
        total
    });
    (counts, said)
}

#[test]
fn a_start_makes_exactly_these_calls() {
    if !nspod_testkit::root() {
        return;
    }
    if !nspod_testkit::programs(&["strace", BUSYBOX]) {
        return;
    }
    let image = Image::new();
    image.add("busybox");
    // Before Linux 6.3 a memory file cannot be sealed as not executable, so each process gets its own copy.
    let copy = if nspod_testkit::kernel_is_at_least(6, 3) { 0 } else { 5 };
    let wanted = [
        ("plain", [14, 12]),
        ("five kinds", [18 + copy, 39]),
        ("five kinds without init", [14, 16]),
        ("container", [18 + copy, 114]),
        ("container without init", [19 + copy, 102]),
        ("container with a pool", [25 + copy, 77]),
    ];
    let mut wrong = String::new();
    for (what, wanted) in wanted {
        let (counts, said) = counted(what, &image.path());
        if counts != wanted {
            wrong.push_str(&format!("{what}: {counts:?} and not {wanted:?}: {said}\n"));
        }
    }
    assert!(wrong.is_empty(), "calls of the caller and of the started processes:\n{wrong}");
    // With a cgroup: the calls that create it, start in it, measure it and remove it. Each ancestor with memory
    // accounting is read as well.
    let (with, said) = counted("container with a cgroup without init", &image.path());
    let (without, _) = counted("container without init", &image.path());
    assert_eq!(with[1], without[1], "{said}");
    assert!(with[0] - without[0] <= 40, "{said}");
    // The pid of the caller, whether its watcher lives, and the inode of the cgroup.
    let (tied, said) = counted("container with a cgroup that is tied without init", &image.path());
    assert_eq!(tied, [with[0] + 3, with[1]], "{said}");
    // Without a cgroup, the stage holds the container until its process is known.
    let (tied, said) = counted("container that is tied without init", &image.path());
    assert_eq!(tied, [without[0] + 8, without[1] + 2], "{said}");
}

#[test]
fn no_start_copies_the_memory_for_ids_or_clocks() {
    if !nspod_testkit::root() || !nspod_testkit::programs(&["strace", BUSYBOX]) {
        return;
    }
    // Before Linux 6.2, a process that shares memory cannot enter a time namespace.
    let enters_time = nspod_testkit::kernel_is_at_least(6, 2);
    for (what, shares) in [
        ("five kinds", true),
        ("range of ids", true),
        ("own ids", true),
        ("clocks", enters_time),
        ("clock offsets", enters_time),
    ] {
        let plan = command(what, Path::new("/")).plan().unwrap();
        assert_eq!(!plan.copies_memory(), shares, "{what}");
        let text = trace(what, 2, Path::new("/"));
        let clones: Vec<_> = text
            .lines()
            .filter(|line| line.contains("clone3({") || line.contains("clone("))
            .filter(|line| !line.contains("CLONE_THREAD"))
            .collect();
        assert!(clones.len() >= 4, "{what}: two starts, each with an init: {clones:?}");
        let shared = |line: &&str| line.contains("CLONE_VM") && line.contains("CLONE_VFORK");
        assert_eq!(clones.iter().all(shared), shares, "{what}: {clones:?}");
    }
}
