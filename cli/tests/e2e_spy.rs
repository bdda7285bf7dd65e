//! A container with CAP_SYS_PTRACE watches and attacks the processes that enter its pid namespace. It finds no memory,
//! executable, environment, descriptor or capability of the runtime there, attaches to no process that has one of
//! them, and reads and writes no such memory. As a control, the same spy succeeds with a process that enters with
//! nsenter(1).
#![allow(unsafe_code)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use common::{NSPOD, Name, OCI, busybox_root, eventually, fault, ok, root, run_with, skip, unique};
use nix::libc;
use serde_json::{Value, json};

const SECRET: &str = "NSPOD_TEST_SECRET=of-the-host";
const SECRET_DIR: &str = "nspod-secret-directory";
/// Returns how many processes enter. The guest is an emulated machine with few processors, and the spy alone
/// keeps two busy.
fn times() -> usize {
    if std::env::var_os("NSPOD_LANE").is_some_and(|lane| lane == "guest") { 6 } else { 40 }
}

/// Only one spy runs at a time: several would compete for the processors and observe less.
static ONE: Mutex<()> = Mutex::new(());

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What the spy must not find or do.
const FINDINGS: [&str; 9] = [
    "executables",
    "written",
    "memory",
    "environment",
    "descriptors",
    "capabilities",
    "attached",
    "memory-read",
    "memory-written",
];

/// The environment of the spy: a root file system with the spy and busybox, and a directory for its findings.
struct Place {
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Place {
        let alone = ONE.lock().unwrap_or_else(|e| e.into_inner());
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        busybox_root(&root, &["true", "sleep", "sh"]);
        fs::create_dir(root.join("out")).unwrap();
        fs::create_dir_all(dir.path().join(SECRET_DIR)).unwrap();
        nspod_testkit::copy_program(std::env::current_exe().unwrap(), root.join("spy"));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Place { dir, _alone: alone }
    }

    fn root(&self) -> String {
        self.dir.path().join("root").to_str().unwrap().to_owned()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join("root/out").join(name)
    }

    /// Returns the spy's command, with the files that it must recognize.
    fn spy(&self, files: &[&Path]) -> (Vec<String>, Vec<String>) {
        let ids = files.iter().map(|file| {
            let there = file.metadata().unwrap();
            format!("{}:{}", there.dev(), there.ino())
        });
        let names: Vec<_> = files.iter().map(|file| file.to_str().unwrap()).collect();
        let env = vec![
            format!("SPY_IDS={}", ids.collect::<Vec<_>>().join(",")),
            format!("SPY_FILES={}", names.join(",")),
        ];
        let program = ["/spy", "--exact", "the_spy", "--nocapture", "--test-threads=1"];
        (program.map(str::to_owned).to_vec(), env)
    }

    /// Waits until the spy is watching.
    fn watched(&self) {
        eventually("the spy watches", || self.out("ready").exists());
    }

    /// Returns a host program that has what the spy looks for: a variable, a directory, a descriptor.
    fn host(&self, program: &str, args: &[&str]) -> Command {
        let secret = self.dir.path().join(SECRET_DIR);
        let mut command = Command::new("sh");
        // The program inherits the descriptor.
        command.args(["-c", "exec 3< . && exec \"$0\" \"$@\"", program]).args(args);
        let (name, value) = SECRET.split_once('=').unwrap();
        command.current_dir(secret).env(name, value);
        command
    }

    /// Returns the spy's findings: the number of processes, and in how many of them each thing was found.
    fn found(&self) -> Value {
        fs::write(self.out("stop"), "").unwrap();
        eventually("the spy reports", || self.out("found").exists());
        serde_json::from_slice(&fs::read(self.out("found")).unwrap()).unwrap()
    }

    #[track_caller]
    fn assert_nothing_found(&self) {
        let found = self.found();
        assert!(found["seen"].as_u64().unwrap() >= times() as u64 / 2, "the spy was blind: {found}");
        for what in FINDINGS {
            assert_eq!(found[what], 0, "{what}: {found}");
        }
    }
}

/// Not a test by itself: the program of the container.
#[test]
fn the_spy() {
    let Ok(ids) = std::env::var("SPY_IDS") else { return };
    let ids: BTreeSet<&str> = ids.split(',').collect();
    let files = std::env::var("SPY_FILES").unwrap();
    let files: Vec<&str> = files.split(',').collect();
    // An attack takes time, in which a process can become another program.
    let looks_first = std::env::var_os("SPY_LOOKS_FIRST").is_some();
    let privileged = std::env::var_os("SPY_PRIVILEGED").is_some();
    let own = std::process::id();
    let mut last = last_pid();
    let mut held = Vec::new();
    let mut counts = [0u32; 8];
    let [mut seen, mut rounds] = [0u32, 0u32];
    fs::write("/out/ready", "").unwrap();
    loop {
        let newest = last_pid();
        for pid in last + 1..=newest {
            if pid == own {
                continue;
            }
            let mut found = [false; 8];
            for at in 0..400 {
                // Attacks first: what follows shows which process was attacked.
                let first = if looks_first { pid % 4 } else { 0 };
                let attacks = if at % 4 == first { attack(pid, &files) } else { [false; 3] };
                let Some(now) = look(pid, &ids, &files, &mut held) else { break };
                // A privileged program has all capabilities, and can be attacked.
                let is_ours =
                    now.into_iter().zip(0..).any(|(found, what)| found && !(what == 4 && privileged));
                let attacks = attacks.map(|succeeded| succeeded && is_ours);
                let now = now.into_iter().chain(attacks);
                found.iter_mut().zip(now).for_each(|(all, one)| *all |= one);
                // The process has become the container's own program.
                if is_program(pid) {
                    break;
                }
            }
            seen += 1;
            counts.iter_mut().zip(found).for_each(|(count, one)| *count += u32::from(one));
        }
        last = newest;
        rounds += 1;
        if rounds.is_multiple_of(64) && Path::new("/out/stop").exists() {
            break;
        }
    }
    let [executables, memory, environment, descriptors, capabilities, attached, read, rewritten] = counts;
    let written = held.iter().filter(|file| {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        File::options().write(true).open(path).is_ok()
    });
    let found = json!({
        "seen": seen, "executables": executables, "written": written.count(), "memory": memory,
        "environment": environment, "descriptors": descriptors, "capabilities": capabilities,
        "attached": attached, "memory-read": read, "memory-written": rewritten,
    });
    fs::write("/out/found.new", found.to_string()).unwrap();
    fs::rename("/out/found.new", "/out/found").unwrap();
}

/// Returns the most recent pid in this pid namespace.
fn last_pid() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    text.split_whitespace().next_back().unwrap().parse().unwrap()
}

/// Returns whether the process is the container's busybox.
fn is_program(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.ends_with("busybox"))
}

/// Attaches to a process, and reads and writes its memory. Returns which of the three succeeded.
fn attack(pid: u32, files: &[&str]) -> [bool; 3] {
    // The kernel detaches the process when this thread ends.
    let attached = std::thread::spawn(move || {
        // SAFETY: no pointer is passed.
        unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid as libc::pid_t, 0, 0) == 0 }
    });
    let attached = attached.join().unwrap();
    let Ok(memory) = File::options().read(true).write(true).open(format!("/proc/{pid}/mem")) else {
        return [attached, false, false];
    };
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    // The stack, or the first pages of the program.
    let line =
        maps.lines().find(|line| line.contains("[stack]") || files.iter().any(|file| line.ends_with(file)));
    let start = line.and_then(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
    let Some(start) = start else { return [attached, false, false] };
    let mut byte = [0];
    let read = memory.read_exact_at(&mut byte, start).is_ok();
    // The same byte does not disturb the process.
    [attached, read, read && memory.write_all_at(&byte, start).is_ok()]
}

/// Inspects a process and returns what was found; `None` if it is gone.
fn look(pid: u32, ids: &BTreeSet<&str>, files: &[&str], held: &mut Vec<File>) -> Option<[bool; 5]> {
    let proc = format!("/proc/{pid}");
    let exe = File::options().read(true).custom_flags(libc::O_PATH).open(format!("{proc}/exe"));
    let mut theirs = false;
    match exe {
        Ok(exe) => {
            let there = exe.metadata().unwrap();
            theirs = ids.contains(format!("{}:{}", there.dev(), there.ino()).as_str());
            if theirs {
                held.push(exe);
            }
        }
        Err(_) if !Path::new(&proc).exists() => return None,
        Err(_) => {}
    }
    let read = |name: &str| fs::read(format!("{proc}/{name}")).unwrap_or_default();
    let has = |text: &[u8], what: &str| text.windows(what.len()).any(|part| part == what.as_bytes());
    let maps = read("maps");
    let memory = files.iter().any(|file| has(&maps, file));
    let environment = has(&read("environ"), SECRET);
    let mut links: Vec<PathBuf> = fs::read_link(format!("{proc}/cwd")).into_iter().collect();
    let fds = fs::read_dir(format!("{proc}/fd")).into_iter().flatten().flatten();
    links.extend(fds.filter_map(|fd| fs::read_link(fd.path()).ok()));
    let descriptors = links.iter().any(|link| link.to_string_lossy().contains(SECRET_DIR));
    let status = String::from_utf8(read("status")).unwrap_or_default();
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t"));
    let permitted = permitted.and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
    Some([theirs, memory, environment, descriptors, permitted & CAP_SYS_ADMIN != 0])
}

/// Starts a container of nspod in which the spy runs.
fn spied(place: &Place, files: &[&Path], more: &[&str]) -> Name {
    let (program, env) = place.spy(files);
    let root = place.root();
    let out = format!("{}:/out", place.out("").display());
    let mut flags = vec!["--cap-add", "SYS_PTRACE", "--rootfs", &root, "-v", &out];
    flags.extend(env.iter().flat_map(|pair| ["-e", pair]));
    flags.extend(more);
    flags.push("--");
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let name = Name::detached(&flags, &program);
    place.watched();
    name
}

fn enter(place: &Place, program: &str, args: &[&str]) {
    for _ in 0..times() {
        let output = run_with(&mut place.host(program, args), "");
        assert_eq!((output.code(), output.err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn the_spy_detects_a_process_that_enters_by_nsenter() {
    if !root() {
        return;
    }
    let place = Place::new();
    // Use a copy, because the test opens it for writing.
    let nsenter = place.dir.path().join("nsenter");
    let found = run_with(Command::new("sh").args(["-c", "command -v nsenter"]), "");
    if found.code() != 0 {
        return skip("nsenter is not installed");
    }
    nspod_testkit::copy_program(found.ok().trim(), &nsenter);
    let name = spied(&place, &[&nsenter], &["-e", "SPY_LOOKS_FIRST=1"]);
    let pid = common::json(&["inspect", &name])[0]["pid"].as_u64().unwrap().to_string();
    enter(&place, nsenter.to_str().unwrap(), &["-t", &pid, "-m", "-p", "-r", "true"]);
    let found = place.found();
    for what in FINDINGS.into_iter().filter(|what| *what != "descriptors") {
        assert!(found[what].as_u64().unwrap() > 0, "{what}: {found}");
    }
}

#[test]
fn exec_shows_the_container_nothing_of_the_runtime() {
    if !root() {
        return;
    }
    let place = Place::new();
    let name = spied(&place, &[Path::new(NSPOD)], &[]);
    enter(&place, NSPOD, &["exec", &name, "true"]);
    place.assert_nothing_found();
}

/// The spy is root in the user namespace that the process joins too.
#[test]
fn exec_into_pid_and_user_namespaces_shows_the_container_nothing_of_the_runtime() {
    if !root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.out(""), fs::Permissions::from_mode(0o777)).unwrap();
    let name = spied(&place, &[Path::new(NSPOD)], &["--userns", "auto", "--log-max-size", "none"]);
    enter(&place, NSPOD, &["exec", &name, "true"]);
    place.assert_nothing_found();
}

/// Other paths of a start: in the background, with limits of its own, and with more rights.
#[test]
fn each_kind_of_exec_shows_the_container_nothing_of_the_runtime() {
    if !root() {
        return;
    }
    let place = Place::new();
    let name = spied(&place, &[Path::new(NSPOD)], &["-e", "SPY_PRIVILEGED=1"]);
    for flags in [&["-d"][..], &["-u", "1000:1000"], &["--timeout", "60"], &["--privileged"]] {
        for _ in 0..times().div_ceil(4) {
            let args = [&["exec"], flags, &[&name, "true"]].concat();
            let output = run_with(&mut place.host(NSPOD, &args), "");
            assert_eq!((output.code(), output.err.as_str()), (0, ""), "{args:?}");
        }
    }
    let found = place.found();
    assert!(found["seen"].as_u64().unwrap() >= times() as u64 / 2, "the spy was blind: {found}");
    // A privileged process has all capabilities.
    for what in FINDINGS.into_iter().filter(|what| *what != "capabilities") {
        assert_eq!(found[what], 0, "{what}: {found}");
    }
}

#[test]
fn a_container_that_joins_a_pid_namespace_shows_nothing_of_the_runtime() {
    if !root() {
        return;
    }
    let place = Place::new();
    let name = spied(&place, &[Path::new(NSPOD)], &[]);
    let pid = format!("container:{}", &*name);
    enter(&place, NSPOD, &["run", "--rm", "--pid", &pid, "--rootfs", &place.root(), "--", "true"]);
    place.assert_nothing_found();
}

#[test]
fn a_container_of_a_pod_that_shares_pids_shows_nothing_of_the_runtime() {
    if !root() {
        return;
    }
    let place = Place::new();
    let pod = Name::pod();
    ok(&["pod", "create", "--share", "net,ipc,uts,pid", &pod]);
    let _spy = spied(&place, &[Path::new(NSPOD)], &["--pod", &pod, "--log-max-size", "none"]);
    enter(&place, NSPOD, &["run", "--rm", "--pod", &pod, "--rootfs", &place.root(), "--", "true"]);
    place.assert_nothing_found();
}

/// A bundle with the root of the place, and the state directory of its containers.
struct Bundle<'a> {
    place: &'a Place,
    id: String,
}

impl Bundle<'_> {
    fn new<'a>(place: &'a Place, name: &str, change: impl FnOnce(&mut Value)) -> Bundle<'a> {
        let bundle = Bundle { place, id: unique() };
        let dir = place.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        run_with(Command::new(OCI).args(["spec", "--bundle"]).arg(&dir), "").ok();
        let path = dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(["true"]);
        config["process"]["noNewPrivileges"] = false.into();
        config["root"] = json!({ "path": place.root(), "readonly": false });
        config["linux"].as_object_mut().unwrap().remove("resources");
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
        bundle
    }

    fn args<'a>(&'a self, args: &[&'a str], root: &'a str) -> Vec<&'a str> {
        [&["--root", root], args].concat()
    }

    fn state_root(&self) -> String {
        self.place.dir.path().join("state").to_str().unwrap().to_owned()
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        let root = self.state_root();
        let _ = Command::new(OCI).args(["--root", &root, "delete", "--force", &self.id]).output();
    }
}

/// The capabilities of runc's default configuration, and CAP_SYS_PTRACE.
fn may_trace(config: &mut Value) {
    let caps = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE"]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = caps.clone();
    }
}

/// Starts the spy as an OCI container, with this filter.
fn oci_spied<'a>(place: &'a Place, seccomp: Option<Value>) -> (Bundle<'a>, i64) {
    let (program, env) = place.spy(&[Path::new(OCI)]);
    let bundle = Bundle::new(place, "spy", |config| {
        config["process"]["args"] = json!(program);
        config["process"]["env"] = json!(env);
        if let Some(seccomp) = seccomp {
            config["linux"]["seccomp"] = seccomp;
        }
        may_trace(config);
    });
    let dir = place.dir.path().join("spy");
    let root = bundle.state_root();
    let run = bundle.args(&["run", "--detach", "--bundle", dir.to_str().unwrap(), &bundle.id], &root);
    let status = Command::new(OCI).args(&run).stdout(File::create(place.out("said")).unwrap()).status();
    assert!(status.unwrap().success());
    place.watched();
    let state = run_with(Command::new(OCI).args(["--root", &root, "state", &bundle.id]), "");
    let pid = serde_json::from_str::<Value>(state.ok()).unwrap()["pid"].as_i64().unwrap();
    (bundle, pid)
}

/// Returns a filter that engines use for a container that may gain privileges: it allows most calls, and
/// rejects the others.
fn lenient() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }],
    })
}

#[test]
fn exec_of_the_oci_runtime_shows_the_container_nothing() {
    if !root() {
        return;
    }
    for seccomp in [None, Some(lenient())] {
        let place = Place::new();
        let (bundle, _) = oci_spied(&place, seccomp);
        let root = bundle.state_root();
        enter(&place, OCI, &bundle.args(&["exec", &bundle.id, "true"], &root));
        place.assert_nothing_found();
    }
}

#[test]
fn an_oci_container_that_joins_a_pid_namespace_shows_nothing() {
    if !root() {
        return;
    }
    for seccomp in [None, Some(lenient())] {
        let place = Place::new();
        let (spy, pid) = oci_spied(&place, None);
        let guest = Bundle::new(&place, "guest", |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            let own = namespaces.iter_mut().find(|namespace| namespace["type"] == "pid").unwrap();
            own["path"] = format!("/proc/{pid}/ns/pid").into();
            // The hook runs in the container's namespaces.
            config["hooks"] =
                json!({ "createContainer": [{ "path": "/bin/true", "args": ["true"], "env": [] }] });
            if let Some(seccomp) = seccomp {
                config["linux"]["seccomp"] = seccomp;
            }
            may_trace(config);
        });
        let (dir, root) = (place.dir.path().join("guest"), spy.state_root());
        let run = guest.args(&["run", "--bundle", dir.to_str().unwrap(), &guest.id], &root);
        enter(&place, OCI, &run);
        place.assert_nothing_found();
    }
}

/// The process waits between `create` and `start`.
#[test]
fn an_oci_container_that_was_created_shows_nothing_to_another_one_with_its_pids() {
    if !root() {
        return;
    }
    let place = Place::new();
    let (spy, pid) = oci_spied(&place, None);
    let root = spy.state_root();
    let guest = Bundle::new(&place, "guest", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let own = namespaces.iter_mut().find(|namespace| namespace["type"] == "pid").unwrap();
        own["path"] = format!("/proc/{pid}/ns/pid").into();
        may_trace(config);
    });
    let dir = place.dir.path().join("guest");
    for _ in 0..times().div_ceil(2) {
        let create = ["create", "--bundle", dir.to_str().unwrap(), &guest.id];
        for args in [&create[..], &["start", &guest.id], &["delete", "--force", &guest.id]] {
            let mut command = place.host(OCI, &guest.args(args, &root));
            let status = command.stdout(std::process::Stdio::null()).status().unwrap();
            assert!(status.success(), "{args:?}");
        }
    }
    place.assert_nothing_found();
}

/// If the container shares the host's pid namespace, the spy also sees the process in the user namespace.
#[test]
fn exec_into_a_user_namespace_alone_shows_the_container_nothing() {
    if !root() || !fault::able() {
        return;
    }
    let place = Place::new();
    // Root of the user namespace is another user on the host.
    fs::set_permissions(place.out(""), fs::Permissions::from_mode(0o777)).unwrap();
    let name =
        spied(&place, &[Path::new(NSPOD)], &["--pid", "host", "--userns", "auto", "--log-max-size", "none"]);
    // The delay gives the spy time to look after each step.
    let delay = "inject=setns:delay_exit=100000";
    let exec = ["-f", "-qq", "-o", "/dev/null", "-e", delay, NSPOD, "exec", &name, "true"];
    for _ in 0..5 {
        let output = run_with(&mut place.host("strace", &exec), "");
        assert_eq!((output.code(), output.err.as_str()), (0, ""));
    }
    let found = place.found();
    assert!(found["seen"].as_u64().unwrap() > 10, "the spy was blind: {found}");
    // Every process can read the capabilities of another, so they are not checked.
    for what in FINDINGS.into_iter().filter(|what| *what != "capabilities") {
        assert_eq!(found[what], 0, "{what}: {found}");
    }
}

/// The process waits in the container until the agent of the filter has the listener.
#[test]
fn exec_under_a_filter_that_notifies_shows_the_container_no_right_to_load_it() {
    if !root() {
        return;
    }
    let place = Place::new();
    let socket = place.dir.path().join("listener");
    let listener = UnixListener::bind(&socket).unwrap();
    // The agent keeps the listeners and never has to answer.
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        loop {
            kept.push(listener.accept());
        }
    });
    let mut asks = lenient();
    asks["syscalls"][0]["action"] = "SCMP_ACT_NOTIFY".into();
    asks["listenerPath"] = socket.to_str().unwrap().into();
    let (bundle, _) = oci_spied(&place, Some(asks));
    let root = bundle.state_root();
    enter(&place, OCI, &bundle.args(&["exec", &bundle.id, "true"], &root));
    place.assert_nothing_found();
}
