//! The files and variables of all cases, and what a case may leave behind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chown};
use nspod_faults::{Case, Fault, Run, Script, trace};
use nspod_testkit::copy_program;
use serde_json::{Value, json};

use crate::environments::Environment;
use crate::paths;
use crate::probe;

const NSPOD: &str = env!("CARGO_BIN_EXE_nspod");
const OCI: &str = env!("CARGO_BIN_EXE_nspod-oci");
/// Everything that the test makes. /run is a tmpfs of the test.
const DIR: &str = "/run/faults";
/// Outputs, which change in each case.
const OUTPUTS: &str = "/run/faults/outputs";
const CGROUPS: &str = "/sys/fs/cgroup";
/// User and group `nobody`.
const NOBODY: u32 = 65_534;
/// Time in which a traced command must end.
const BOUND: Duration = Duration::from_secs(30);
/// Time in which a removed container's processes and cgroups must have disappeared.
const GRACE: Duration = Duration::from_secs(5);

/// One case, after everything that its name had has been removed.
pub(crate) struct Attempt {
    pub(crate) run: Run,
    /// Standard error of the traced command.
    pub(crate) err: String,
    /// The report, if the command succeeded.
    pub(crate) report: String,
    /// A command without a fault that did not end.
    pub(crate) stuck: Option<String>,
    /// The same command again, without a fault, after one that was killed.
    pub(crate) again: Option<(i32, String)>,
    /// Output of the removal.
    pub(crate) after: String,
    /// What is left after the removal.
    pub(crate) left: Vec<String>,
}

/// The output of a command without a fault. Its code is 124 if it did not end.
struct Done {
    code: i32,
    out: String,
    err: String,
}

/// Counts the cases, and knows what was there before.
pub(crate) struct World {
    count: usize,
    own: Vec<PathBuf>,
    mounts: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl World {
    /// Makes a root file system, bundles and the state directory of an ordinary user. All orphans become children
    /// of this process.
    pub(crate) fn new() -> World {
        set_child_subreaper(true).unwrap();
        let dir = Path::new(DIR);
        let root = dir.join("root");
        for made in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        fs::create_dir(OUTPUTS).unwrap();
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        copy_program(busybox.expect("busybox is installed"), root.join("bin/busybox"));
        fs::write(root.join("probe"), probe::script()).unwrap();
        // A build during a long run must not change the programs, and an ordinary user must reach them.
        let own = [(NSPOD, "nspod"), (OCI, "nspod-oci")].map(|(program, name)| {
            copy_program(program, dir.join(name));
            dir.join(name)
        });
        fs::create_dir(dir.join("user")).unwrap();
        chown(&dir.join("user"), Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
        let mut world = World { count: 0, own: own.into(), mounts: BTreeSet::new(), files: BTreeSet::new() };
        for (bundle, options, argument) in [
            ("probe", "", None),
            ("stay", "", Some("stay")),
            ("user-probe", "--rootless", None),
            ("user-stay", "--rootless", Some("stay")),
        ] {
            world.make_bundle(&dir.join("bundles").join(bundle), &root, options, argument);
        }
        // The state directories stay, and a directory of mount(8).
        world.command("", "$N prune; $U prune; mkdir -p /run/mount");
        world.remember();
        world
    }

    fn make_bundle(&self, bundle: &Path, root: &Path, options: &str, argument: Option<&str>) {
        fs::create_dir_all(bundle).unwrap();
        let user = format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups");
        let spec = match options {
            "" => "$O spec".to_owned(),
            // The ids of the caller are in the file.
            _ => format!("chown {NOBODY} . && {user} $O spec {options}"),
        };
        let made = self.command("", &format!("cd {} && {spec}", bundle.display()));
        assert_eq!(made.code, 0, "{}", made.err);
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let program = ["/bin/busybox", "sh", "/probe"].into_iter().chain(argument);
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(program.collect::<Vec<_>>());
        config["root"]["path"] = root.to_str().unwrap().into();
        fs::write(&path, config.to_string()).unwrap();
    }

    /// Runs a path without a fault. What it leaves outside of its name is there from now on.
    pub(crate) fn undisturbed(&mut self, path: &paths::Path) -> Attempt {
        let attempt = self.attempt(path, None, None);
        let context = format!("{}: {}", path.name, attempt.err);
        assert_eq!((attempt.run.code, &attempt.stuck), (0, &None), "{context}");
        let named: Vec<_> = attempt.left.iter().filter(|left| !left.starts_with("file")).collect();
        assert!(named.is_empty(), "{context}: {named:?}");
        assert!(
            !attempt.left.iter().any(|left| left.contains(&self.name())),
            "{context}: {:?}",
            attempt.left
        );
        self.remember();
        attempt
    }

    fn name(&self) -> String {
        format!("f{}n{:05}", std::process::id(), self.count)
    }

    /// Runs a path with a new name, with a fault or in an environment, and removes what the name has.
    pub(crate) fn attempt(
        &mut self,
        path: &paths::Path,
        case: Option<&Case>,
        environment: Option<&Environment>,
    ) -> Attempt {
        self.count += 1;
        let name = self.name();
        let is_plain = case.is_none() && environment.is_none();
        let before = self.command(&name, environment.map_or("", |environment| &environment.enter));
        assert_eq!(before.code, 0, "{}, the environment: {}", path.name, before.err);
        let before = self.command(&name, path.before);
        assert_eq!(before.code, 0, "{}, before the case: {}", path.name, before.err);
        let output = |which: &str| Path::new(OUTPUTS).join(which);
        let text = environment.map_or(path.traced, |environment| &environment.wrap).into();
        let script = Script { text, own: self.own.clone(), bound: BOUND };
        let run = trace(&script, case, |command| {
            set_up(command, &name);
            command.env("TRACED", path.traced);
            command.stdin(Stdio::null()).stdout(new_file(&output("out"))).stderr(new_file(&output("err")));
        });
        let run = run.unwrap_or_else(|e| panic!("{}: cannot trace: {e}", path.name));
        let err = read(&output("err")).replace(&name, "NAME");
        let mut stuck = None;
        let mut bounded = |world: &World, text: &str| {
            let done = world.command(&name, text);
            if done.code == 124 {
                stuck = Some(format!("{text}: {}", done.err));
            }
            done
        };
        let report = if run.code != 0 {
            String::new()
        } else if path.report.is_empty() {
            read(&output("out"))
        } else {
            let done = bounded(self, path.report);
            done.out + &done.err
        };
        let is_killed = case.is_some_and(|case| !matches!(case.fault, Fault::Errno(_)));
        let again = (is_killed && run.code != 0).then(|| {
            let done = bounded(self, path.traced);
            (done.code, done.err.replace(&name, "NAME"))
        });
        let mut after = bounded(self, path.after).err;
        let leave = environment.map_or("", |environment| environment.leave);
        if !leave.is_empty() {
            after += &bounded(self, leave).err;
        }
        let mut left = self.left(&name);
        if !left.is_empty() && !is_plain {
            after += &bounded(self, "$N prune; $U prune").err;
            left = self.left(&name);
        }
        if !is_plain {
            // What cannot be removed must not be in the way of the next case.
            self.clean(&name);
        }
        let report = report.replace(&name, "NAME");
        Attempt { run, err, report, stuck, again, after: after.replace(&name, "NAME"), left }
    }

    /// Runs a script without a fault. The script is killed after [`BOUND`].
    fn command(&self, name: &str, script: &str) -> Done {
        if script.is_empty() {
            return Done { code: 0, out: String::new(), err: String::new() };
        }
        let output = |which: &str| Path::new(OUTPUTS).join(which);
        let (out, err) = (output("command.out"), output("command.err"));
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", &BOUND.as_secs().to_string(), "sh", "-c", script]);
        set_up(&mut command, name);
        command.stdin(Stdio::null()).stdout(new_file(&out)).stderr(new_file(&err));
        let child = Pid::from_raw(command.spawn().unwrap().id().cast_signed());
        let code = loop {
            // Pid 1 of a container cannot end before its orphans are reaped, as the init of a host does.
            match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::Exited(pid, code) if pid == child => break code,
                WaitStatus::Signaled(pid, ..) if pid == child => break 124,
                _ => {}
            }
        };
        Done { code: if code == 137 { 124 } else { code }, out: read(&out), err: read(&err) }
    }

    fn remember(&mut self) {
        self.mounts = mounts();
        self.files = files();
    }

    /// Returns what is left after a moment.
    fn left(&self, name: &str) -> Vec<String> {
        let start = Instant::now();
        loop {
            let left = self.look(name);
            if left.is_empty() || start.elapsed() > GRACE {
                return left;
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn look(&self, name: &str) -> Vec<String> {
        let mut left: Vec<String> = children().iter().map(|pid| describe(*pid)).collect();
        left.extend(cgroups(name).iter().map(|path| format!("cgroup {}", path.display())));
        left.extend(mounts().difference(&self.mounts).map(|line| format!("mount {line}")));
        left.extend(shared_memory(name).iter().map(|path| format!("file {}", path.display())));
        left.extend(files().difference(&self.files).map(|path| format!("file {}", path.display())));
        left
    }

    /// Removes by force what is left.
    fn clean(&self, name: &str) {
        if self.look(name).is_empty() {
            return;
        }
        let start = Instant::now();
        loop {
            let children = children();
            if children.is_empty() || start.elapsed() > BOUND {
                break;
            }
            for child in children {
                let _ = kill(child, Signal::SIGKILL);
            }
            sleep(Duration::from_millis(5));
        }
        for cgroup in cgroups(name).iter().rev() {
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            sleep(Duration::from_millis(20));
            let _ = fs::remove_dir(cgroup);
        }
        for line in mounts().difference(&self.mounts) {
            if let Some(path) = line.split(' ').nth(4) {
                let _ = umount2(path, MntFlags::MNT_DETACH);
            }
        }
        for path in files().difference(&self.files).chain(&shared_memory(name)) {
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
        }
    }
}

fn set_up(command: &mut Command, name: &str) {
    let user = |program: &str| {
        format!(
            "env XDG_RUNTIME_DIR={DIR}/user XDG_STATE_HOME={DIR}/user NSPOD_LOG_DIR={DIR}/user/logs \
             setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {DIR}/{program}"
        )
    };
    command
        .current_dir("/")
        .env("NAME", name)
        .env("N", format!("{DIR}/nspod"))
        .env("O", format!("{DIR}/nspod-oci --root /run/oci"));
    command.env("R", format!("{DIR}/root")).env("B", format!("{DIR}/bundles"));
    command.env("U", user("nspod")).env("V", user("nspod-oci"));
    command.env("P", "/bin/busybox sh /probe").env("OUT", format!("{OUTPUTS}/out"));
    command.env("NSPOD_LOG_DIR", "/run/logs");
}

/// Makes a new file in place of an earlier one, which a container may still write to.
fn new_file(path: &Path) -> File {
    let _ = fs::remove_file(path);
    File::create_new(path).unwrap()
}

/// Returns the text of an output, which may have any bytes.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

/// Reaps the children of this process that have ended, and returns the others.
fn children() -> Vec<Pid> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) => break,
            Ok(_) => {}
            Err(Errno::ECHILD) => return Vec::new(),
            Err(errno) => panic!("waitpid: {errno}"),
        }
    }
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    pids.map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

fn describe(pid: Pid) -> String {
    let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    let state = status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap_or("?").to_owned();
    let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    format!("process {} ({state})", line.chars().take(60).collect::<String>())
}

/// Returns the cgroups with the name in their path, each after its parent.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from(CGROUPS)];
    while let Some(dir) = todo.pop() {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        todo.extend(dirs.map(|entry| entry.path()));
        if dir.to_string_lossy().contains(name) {
            found.push(dir);
        }
    }
    found
}

fn mounts() -> BTreeSet<String> {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect()
}

/// Returns the shared memory of pods, which all tests keep in the same directory.
fn shared_memory(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(name)).collect()
}

/// Returns all files in /run without the outputs.
fn files() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![PathBuf::from("/run")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path == Path::new(OUTPUTS) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}
