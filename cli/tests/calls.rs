//! The exact number of system calls on each path of the command line. One more is a regression.
//! If a change saves calls, lower the number here.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cgroup_core::{Controllers, Hierarchy, Layout};

use common::{NSPOD, OCI, end_of, eventually, programs, root, skip};

const BUSYBOX: &str = "/bin/busybox";

/// Calls that are not counted: memory calls depend on the amount, waits on the order of events, and readlink
/// on the depth of the bundle's path. Each signal is reset by a separate call. The Rust runtime makes the
/// others at its start and end.
const LEFT_OUT: [&str; 13] = [
    "brk",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "madvise",
    "futex",
    "poll",
    "ppoll",
    "readlink",
    "rt_sigaction",
    "sigaltstack",
    "sched_yield",
];

/// Calls that are also not counted in started processes if files of /proc and /sys are masked. The set of
/// these files depends on the kernel. A test of the library counts a full container.
const OF_MASKS: [&str; 6] = ["close", "fstat", "mount_setattr", "move_mount", "open_tree", "openat2"];

/// Expected calls. The array has the calls of the program itself, if v2 has all controllers and if v1 has
/// them. The first hosts are expected to have a kernel before Linux 6.3, which needs 8 more calls for an init: its
/// file is made anew for each start. The last number is that of the started processes up to their program, with all calls of the init.
const WANTED: [(&str, [i32; 2], i32); 10] = [
    ("run --bare", [43, 35], 27),
    ("run --bare --init=false", [25, 25], 10),
    ("run", [138, 123], 124),
    ("run --init=false", [139, 124], 114),
    // Two calls make a session keyring, and one its name: without a filter the program could read the keys of the caller.
    ("run, bwrap's work", [156, 141], 156),
    // Three calls read the names of the standard streams, which a later checkpoint needs.
    ("oci run", [145, 137], 131),
    ("oci create", [132, 130], 139),
    ("oci start", [42, 42], 0),
    // Three calls read the owners of the standard streams, as in `run` and `create`. The first number is that
    // of Linux 6.1. Before Linux 6.3 a memory file cannot be sealed as not executable, so each process gets a
    // separate copy of the stage.
    ("oci exec", [121, 110], 66),
    ("oci delete", [44, 44], 0),
];

/// A root with one program, two bundles of it, and a cgroup that keeps its parent alive.
struct Stage {
    dir: tempfile::TempDir,
    keeper: PathBuf,
}

impl Stage {
    fn new(top: &Path) -> Stage {
        let keeper = top.join("nspod").join(format!("calls-{}", std::process::id()));
        std::fs::create_dir_all(&keeper).unwrap();
        let stage = Stage { dir: tempfile::tempdir().unwrap(), keeper };
        std::fs::create_dir(stage.path("root")).unwrap();
        nspod_testkit::copy_program(BUSYBOX, stage.path("root/busybox"));
        for (name, args) in [("true", &["/busybox", "true"][..]), ("sleep", &["/busybox", "sleep", "1000"])] {
            let bundle = stage.path(name);
            std::fs::create_dir(&bundle).unwrap();
            assert!(Command::new(OCI).arg("spec").current_dir(&bundle).status().unwrap().success());
            let path = bundle.join("config.json");
            let mut config: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            config["process"]["terminal"] = false.into();
            config["process"]["args"] = args.into();
            config["root"]["path"] = stage.path("root").to_str().unwrap().into();
            std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All commands use the same private state directory.
    fn command(&self, what: &str) -> Command {
        let words: Vec<&str> = what.split(' ').collect();
        let mut command = Command::new("strace");
        command.args(["-qq", "-f", "-e", "signal=none", "-o"]).arg(self.path("trace"));
        command.arg(if words[0] == "oci" { OCI } else { NSPOD });
        if words[0] == "oci" {
            command.arg("--root").arg(self.path("state"));
        }
        let bundle = |name| ["--bundle".into(), self.path(name)];
        match what {
            "run --bare" => command.args(["run", "--bare", "--", BUSYBOX, "true"]),
            "run --bare --init=false" => {
                command.args(["run", "--bare", "--init=false", "--", BUSYBOX, "true"])
            }
            "run" => {
                command.args(["run", "--rootfs"]).arg(self.path("root")).args(["--", "/busybox", "true"])
            }
            "run --init=false" => command
                .args(["run", "--init=false", "--rootfs"])
                .arg(self.path("root"))
                .args(["--", "/busybox", "true"]),
            "run, bwrap's work" => command
                .args(["run", "--privileged", "--userns", "single", "--rootfs"])
                .arg(self.path("root"))
                .args(["--", "/busybox", "true"]),
            "oci run" => command.arg("run").args(bundle("true")).arg("calls-run"),
            "oci create" => command.arg("create").args(bundle("sleep")).arg("calls"),
            "oci start" => command.args(["start", "calls"]),
            // The program must outlive the start: if it had ended, nspod-oci would need one call less to wait
            // for it.
            "oci exec" => command.args(["exec", "calls", "/busybox", "sleep", "1"]),
            "oci delete" => command.args(["delete", "--force", "calls"]),
            other => panic!("{other}"),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mut delete = Command::new(OCI);
        delete.arg("--root").arg(self.path("state")).args(["delete", "--force", "calls"]);
        let _ = delete.stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir(&self.keeper);
        let _ = self.keeper.parent().map(std::fs::remove_dir);
    }
}

/// Calls by name: those of the program itself, and those of the started processes up to their program.
type Calls = [BTreeMap<String, i32>; 2];

fn calls(what: &str, trace: &Path) -> Calls {
    let masks = matches!(what, "run" | "run --init=false" | "oci run" | "oci create");
    let text = std::fs::read_to_string(trace).unwrap();
    let lines: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(pid, rest)| (pid, rest.trim())).collect();
    // If a line of another process interrupts a call, the call continues on a separate line: `<... read`.
    let name =
        |rest: &str| rest.split_once('(').map(|(name, _)| name.to_owned()).filter(|n| !n.contains('<'));
    let is_exec = |rest: &str| rest.starts_with("execve(") || rest.starts_with("execveat(");
    // The last call of the Rust runtime before `main`.
    let is_main = |rest: &str| rest.starts_with("rt_sigaction(SIGBUS, {");
    let first = lines[0].0;
    let last: BTreeMap<&str, usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, (_, rest))| is_exec(rest))
        .map(|(at, (pid, rest))| (*pid, if rest.contains("[\"nspod-init\"") { usize::MAX } else { at }))
        .collect();
    let mut calls = Calls::default();
    let mut in_main = !lines.iter().any(|(pid, rest)| *pid == first && is_main(rest));
    for (at, (pid, rest)) in lines.iter().enumerate() {
        let side = usize::from(*pid != first);
        // Calls after the last exec are those of the container's program, or of the init.
        if side == 1 && last.get(pid).is_some_and(|last| at > *last)
            || side == 0 && !in_main && !is_main(rest)
        {
            continue;
        }
        if side == 0 && !in_main {
            in_main = true;
            continue;
        }
        if side == 0 && is_exec(rest) {
            in_main = false;
        }
        let resumed =
            rest.strip_prefix("<... ").and_then(|rest| rest.split_once(' ')).map(|(name, _)| name.to_owned());
        let in_vain =
            rest.contains("= -1 EAGAIN") || rest.contains("= -1 EINTR") || rest.contains("= ? ERESTART");
        let is_ioctl = rest.starts_with("ioctl(") || resumed.as_deref() == Some("ioctl");
        // Before Linux 6.13 a pidfd does not return its pid, which is then read from /proc.
        if side == 0 && is_ioctl && rest.contains("= -1") {
            for name in ["openat", "read", "read", "close"] {
                *calls[0].entry(name.to_owned()).or_insert(0) -= 1;
            }
        }
        let (by, name) = match (name(rest), resumed) {
            (Some(name), _) if !in_vain => (1, name),
            (None, Some(name)) if in_vain => (-1, name),
            _ => continue,
        };
        // A debug build checks each descriptor that it closes.
        if LEFT_OUT.contains(&name.as_str()) || name == "fcntl" && rest.contains("F_GETFD") {
            continue;
        }
        // There is a call for each gap between the required descriptors, and the caller determines their
        // numbers.
        if side == 1 && name == "close_range" {
            continue;
        }
        if side == 1 && masks && OF_MASKS.contains(&name.as_str()) {
            continue;
        }
        *calls[side].entry(name).or_insert(0) += by;
    }
    calls
}

/// Runs each command once, and returns its calls.
fn counted(stage: &Stage) -> Vec<Calls> {
    let mut all = Vec::new();
    let mut running: Option<Child> = None;
    for (what, ..) in WANTED {
        let trace = stage.path("trace");
        let mut child = stage.command(what).spawn().unwrap();
        if what == "oci create" {
            // strace runs as long as the container.
            eventually("the container is created", || is_created(stage));
            std::fs::rename(&trace, stage.path("trace of create")).unwrap();
            running = Some(child);
            all.push(Calls::default());
            continue;
        }
        assert!(end_of(&mut child).success(), "{what}");
        all.push(calls(what, &trace));
    }
    end_of(&mut running.unwrap());
    let create = WANTED.iter().position(|(what, ..)| *what == "oci create").unwrap();
    all[create] = calls("oci create", &stage.path("trace of create"));
    all
}

fn is_created(stage: &Stage) -> bool {
    let mut state = Command::new(OCI);
    let output = state.arg("--root").arg(stage.path("state")).args(["state", "calls"]).output().unwrap();
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    state["status"] == "created"
}

#[test]
fn each_path_makes_exactly_these_calls() {
    if !root() {
        return;
    }
    if !programs(&["strace", BUSYBOX]) {
        return;
    }
    let host = Hierarchy::detect().unwrap();
    let five =
        Controllers::CPU | Controllers::CPUSET | Controllers::IO | Controllers::MEMORY | Controllers::PIDS;
    let legacy = match (host.layout(), host.controllers() & five) {
        (Layout::Unified, all) if all == five => false,
        (Layout::Hybrid, none) if none.is_empty() => true,
        (layout, some) => {
            return skip(&format!("there are no counts for {layout} cgroups with {some} in v2"));
        }
    };
    let stage = Stage::new(host.mount_point().unwrap());
    // The first run creates state directories and enables controllers.
    counted(&stage);
    let hands_down_nothing = host.root().unwrap().enabled().unwrap().is_empty();
    let mut wrong = Vec::new();
    for ((what, own, started), calls) in WANTED.iter().zip(counted(&stage)) {
        // An empty cgroup.subtree_control requires one read. Otherwise a second read finds the end.
        let one_less = hands_down_nothing && ["oci run", "oci create"].contains(what);
        let wanted = [own[usize::from(legacy)] - i32::from(one_less), *started];
        let count = [0, 1].map(|side| calls[side].values().sum::<i32>());
        if count != wanted {
            wrong.push(format!("{what}: {count:?} and not {wanted:?}: {calls:?}"));
        }
    }
    assert!(wrong.is_empty(), "calls of the program and of those that it starts:\n{}", wrong.join("\n"));
}
