//! Bundles, and the verbs of the runtime under test.

#![allow(unreachable_pub)]

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use cgroup_core::{Controllers, Hierarchy};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{self, Guard, Output, end_of, eventually, unique};

/// The runtime under test and its global options.
static RUNTIME: LazyLock<Vec<String>> = LazyLock::new(|| match std::env::var("NSPOD_TEST_RUNTIME") {
    Ok(control) => control.split_whitespace().map(str::to_owned).collect(),
    Err(_) => vec![common::OCI.to_owned()],
});

fn name() -> &'static str {
    Path::new(&RUNTIME[0]).file_name().unwrap().to_str().unwrap()
}

/// Returns whether the runtime under test is nspod-oci, and not a control.
pub fn ours() -> bool {
    name() == "nspod-oci"
}

/// Returns whether the runtime is one of these controls, which lack the tested feature.
pub fn runtime_lacks(controls: &[&str], what: &str) -> bool {
    let lacks = controls.contains(&name());
    if lacks {
        eprintln!("LACKS {}: {}: {what}", thread::current().name().unwrap_or_default(), name());
    }
    lacks
}

/// Returns whether the runtime makes cgroups, in a v2 hierarchy with these controllers. If not, the test is
/// skipped.
pub fn cgroups(wanted: Controllers) -> bool {
    if RUNTIME.iter().any(|word| word == "--cgroup-manager=disabled") {
        eprintln!("LACKS {}: it runs without cgroups", thread::current().name().unwrap_or_default());
        return false;
    }
    common::controllers(wanted)
}

/// Returns the mount point of the v2 hierarchy.
pub fn hierarchy() -> PathBuf {
    Hierarchy::detect().unwrap().mount_point().unwrap().to_owned()
}

/// Programs of a container: links to busybox.
const APPLETS: &str = "awk cat chmod chown cp cut date dd echo env false find grep head hostname id ifconfig ionice \
    ip kill ln ls mkdir mkfifo mknod mount nproc od printf ps pwd readlink rm sed seq sh sleep sort stat stty \
    sysctl tail taskset test touch tr true truncate tty umount uname wc yes";

/// A bundle with its root file system, and the container created from it.
pub struct Bundle {
    dir: TempDir,
    id: String,
    config: Value,
    before: String,
}

impl Bundle {
    /// Creates a bundle that runs a script.
    pub fn sh(script: &str) -> Bundle {
        Bundle::of(&["/bin/sh", "-c", script])
    }

    /// Creates a bundle that runs a program.
    pub fn of(args: &[&str]) -> Bundle {
        let dir = tempfile::tempdir().unwrap();
        // Root of another user namespace must be able to search the directory.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let rootfs = dir.path().join("rootfs");
        for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(directory)).unwrap();
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        nspod_testkit::copy_program("/bin/busybox", rootfs.join("bin"));
        for applet in APPLETS.split_whitespace() {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": ["PATH=/bin", "HOME=/root"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "noNewPrivileges": true,
            },
            "root": { "path": "rootfs" },
            "hostname": "box",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                {
                    "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
                },
                {
                    "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
                },
                {
                    "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                    "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
                },
                {
                    "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                    "options": ["nosuid", "noexec", "nodev"],
                },
                {
                    "destination": "/sys", "type": "sysfs", "source": "sysfs",
                    "options": ["nosuid", "noexec", "nodev", "ro"],
                },
            ],
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                    { "type": "mount" },
                ],
            },
        });
        Bundle { dir, id: unique(), config, before: String::new() }
    }

    /// Sets the value at a JSON pointer. A `-` at the end of the pointer appends to an array.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Bundle {
        let mut at = &mut self.config;
        for part in pointer[1..].split('/') {
            if at.is_null() {
                *at = if part == "-" { json!([]) } else { json!({}) };
            }
            at = if part == "-" {
                let items = at.as_array_mut().unwrap();
                items.push(Value::Null);
                items.last_mut().unwrap()
            } else if let Ok(index) = part.parse::<usize>() {
                &mut at[index]
            } else {
                &mut at[part]
            };
        }
        *at = value.into();
        self
    }

    /// Adds a mount.
    pub fn mount(self, mount: Value) -> Bundle {
        self.set("/mounts/-", mount)
    }

    /// Sets the capabilities in every set.
    pub fn capabilities(self, names: &[&str]) -> Bundle {
        ["bounding", "effective", "permitted", "inheritable"]
            .iter()
            .fold(self, |bundle, set| bundle.set(&format!("/process/capabilities/{set}"), names))
    }

    /// Sets a namespace. It replaces a namespace of the same type.
    pub fn namespace(self, namespace: Value) -> Bundle {
        self.without(namespace["type"].as_str().unwrap()).set("/linux/namespaces/-", namespace)
    }

    /// Removes the namespace of a type, so that the container shares the host's.
    pub fn without(mut self, kind: &str) -> Bundle {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != kind);
        if kind == "uts" {
            self.config.as_object_mut().unwrap().remove("hostname");
        }
        self
    }

    /// Adds a user namespace that maps ids from 100000 on. Its root owns the root file system.
    pub fn user_namespace(self) -> Bundle {
        let chown = Command::new("chown").args(["-hR", "100000:100000"]).arg(self.path("rootfs")).status();
        assert!(chown.unwrap().success());
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        self.namespace(json!({ "type": "user" }))
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    /// Sets a script that runs before the runtime, in a private mount namespace, with `$B` for the bundle.
    pub fn before(mut self, script: &str) -> Bundle {
        self.before = script.into();
        self
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns a path in the bundle.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes a file into the bundle.
    pub fn file(self, path: &str, contents: &str) -> Bundle {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub fn write_config(&self) {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
    }

    /// Returns a command of the runtime with these arguments; the first is the verb.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = if self.before.is_empty() {
            Command::new(&RUNTIME[0])
        } else {
            let mut command = Command::new("unshare");
            let script = format!("{}\nexec \"$@\"", self.before);
            command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh", &RUNTIME[0]]);
            command
        };
        command.args(&RUNTIME[1..]).arg("--root").arg(self.path("state")).args(args);
        // The output goes to files, because a container may keep the descriptors open while it lives.
        let [out, err] =
            ["out", "err"].map(|end| File::create(self.path(&format!("{}.{end}", args[0]))).unwrap());
        command.current_dir(self.dir.path()).env("B", self.dir.path()).env("NSPOD_TEST_MARK", &self.id);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        command
    }

    /// Returns the output of a verb or of the container that it started.
    pub fn printed(&self, verb: &str) -> String {
        fs::read_to_string(self.path(&format!("{verb}.out"))).unwrap()
    }

    #[track_caller]
    fn ended(&self, verb: &str, child: &mut Child) -> Output {
        let status = end_of(child);
        let err = fs::read_to_string(self.path(&format!("{verb}.err"))).unwrap();
        Output { status, out: self.printed(verb), err }
    }

    /// Runs a verb with exactly these arguments.
    #[track_caller]
    pub fn verb(&self, args: &[&str]) -> Output {
        self.ended(args[0], &mut self.command(args).spawn().unwrap())
    }

    /// Runs a verb with this text as its standard input.
    #[track_caller]
    pub fn verb_with(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        self.ended(args[0], &mut child)
    }

    /// Runs the container to its end.
    #[track_caller]
    pub fn run(&self) -> Output {
        self.write_config();
        self.verb(&["run", self.id()])
    }

    /// Checks that the container is not started because a field is invalid. nspod-oci names the field.
    #[track_caller]
    pub fn refused(self, field: &str) {
        let said = self.fails();
        assert!(!ours() || said.contains(field), "{field:?} is not in: {said}");
    }

    /// Checks that the container is not started. Returns the error message of the runtime.
    #[track_caller]
    pub fn fails(self) -> String {
        let output = self.run();
        assert_ne!(output.code(), 0, "it ran");
        assert_eq!(output.out, "");
        assert_ne!(output.err, "");
        assert_ne!(self.verb(&["state", self.id()]).code(), 0, "a container is left");
        output.err
    }

    /// Creates the container.
    #[track_caller]
    pub fn create(&self) -> &Bundle {
        self.write_config();
        let output = self.verb(&["create", self.id()]);
        assert_eq!((output.code(), output.err.as_str()), (0, ""));
        self
    }

    #[track_caller]
    pub fn start(&self) -> &Bundle {
        self.verb(&["start", self.id()]).ok();
        self
    }

    /// Creates the container and starts it.
    #[track_caller]
    pub fn up(self) -> Bundle {
        self.create().start();
        self
    }

    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(self.verb(&["state", self.id()]).ok()).unwrap()
    }

    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().into()
    }

    #[track_caller]
    pub fn wait_until(&self, status: &str) {
        eventually(&format!("it is {status}"), || self.status() == status);
    }

    /// Returns the pid of the first process on the host.
    #[track_caller]
    pub fn pid(&self) -> u64 {
        self.state()["pid"].as_u64().unwrap()
    }

    /// Returns a file of the first process in /proc.
    #[track_caller]
    pub fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap()
    }

    /// Runs a program in the container.
    #[track_caller]
    pub fn exec(&self, args: &[&str]) -> Output {
        self.verb(&[&["exec", self.id()], args].concat())
    }

    #[track_caller]
    pub fn delete(&self, flags: &[&str]) {
        self.verb(&[&["delete"], flags, &[self.id()]].concat()).ok();
    }

    /// Returns the directory of the container's cgroup.
    #[track_caller]
    pub fn cgroup(&self) -> PathBuf {
        let lines = self.proc("cgroup");
        let path = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        hierarchy().join(path)
    }

    /// Returns the contents of a file of the container's cgroup.
    #[track_caller]
    pub fn limit(&self, file: &str) -> String {
        let path = self.cgroup().join(file);
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim_end()
            .into()
    }

    /// Returns the live processes that the runtime started, including the container's.
    pub fn processes(&self) -> Vec<u64> {
        let mark = format!("NSPOD_TEST_MARK={}", self.id);
        let marked = |pid: &u64| {
            let holds = |file, text: &str| {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                bytes.windows(text.len()).any(|at| at == text.as_bytes())
            };
            holds("environ", &mark) || holds("cmdline", &self.id)
        };
        let pids =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(marked).collect()
    }

    /// Prints the ends of criu's logs, which are deleted with the bundle.
    fn print_logs_of_criu(&self) {
        for name in ["dump.log", "restore.log"] {
            let Ok(log) = fs::read(self.path("images").join(name)) else { continue };
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            println!("the end of {name}:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_logs_of_criu();
        }
        self.before.clear();
        let _ = self.command(&["delete", "--force", self.id()]).status();
    }
}

/// Socket to which the runtime sends the terminal of a container, or another descriptor.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    _dir: TempDir,
}

impl ConsoleSocket {
    pub fn new() -> ConsoleSocket {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        ConsoleSocket { listener: UnixListener::bind(&path).unwrap(), path, _dir: dir }
    }

    /// Receives a message and a descriptor from the runtime.
    pub fn received(&self) -> (String, OwnedFd) {
        let (stream, _) = self.listener.accept().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags).unwrap();
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let text = String::from_utf8_lossy(&bytes[..message.bytes]).into_owned();
        (text, fd.expect("a descriptor comes with the message"))
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Receives the master of the terminal from the runtime, and returns the terminal.
    pub fn terminal(self) -> Terminal {
        let (master, shown) = (File::from(self.received().1), Arc::new(Mutex::new(Vec::new())));
        let (mut reader, screen) = (master.try_clone().unwrap(), shown.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                screen.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Terminal { master, shown }
    }
}

pub struct Terminal {
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    #[track_caller]
    pub fn expect(&self, text: &str) {
        let start = std::time::Instant::now();
        while !self.shown().contains(text) {
            assert!(start.elapsed() < common::PATIENCE, "{text:?} is not shown: {:?}", self.shown());
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// A process in new namespaces that `unshare` creates with these flags.
pub struct Neighbour {
    _unshare: Guard,
    pid: u32,
}

impl Neighbour {
    pub fn new(flags: &[&str]) -> Neighbour {
        let mut command = Command::new("unshare");
        command.args(["--fork", "--kill-child"]).args(flags).args(["sleep", "1000"]);
        let unshare = Guard(command.spawn().unwrap());
        let parent = unshare.0.id();
        let child =
            || fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?.trim().parse().ok();
        let sleeps =
            |pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
        eventually("unshare has a child", || child().is_some_and(sleeps));
        Neighbour { pid: child().unwrap(), _unshare: unshare }
    }

    /// Returns the path of a namespace of the process, by the kind's name in /proc.
    pub fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.pid)
    }
}

/// Returns the pid of a pidfd.
pub fn pid_of(pidfd: &OwnedFd) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

/// Returns the identity of a namespace: `net:[4026531840]`.
pub fn identity(path: &str) -> String {
    fs::read_link(path).unwrap().to_str().unwrap().into()
}

/// A line of mountinfo.
#[derive(Debug)]
pub struct Mounted {
    pub options: Vec<String>,
    /// Tags of the propagation.
    pub tags: Vec<String>,
    pub kind: String,
    pub superblock: Vec<String>,
}

impl Mounted {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|has| has == option)
    }

    /// Returns whether the mount has a tag of propagation, in any peer group.
    pub fn is(&self, tag: &str) -> bool {
        self.tags.iter().any(|has| has.split(':').next() == Some(tag))
    }
}

/// Returns the topmost mount at a mount point.
#[track_caller]
pub fn mounted(mountinfo: &str, place: &str) -> Mounted {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(place));
    let line = line.unwrap_or_else(|| panic!("nothing is mounted at {place}:\n{mountinfo}"));
    let (here, rest) = line.split_once(" - ").unwrap();
    let (mut here, rest) = (here.split(' ').skip(5), rest.split(' ').collect::<Vec<_>>());
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let options = list(here.next().unwrap());
    Mounted {
        options,
        tags: here.map(str::to_owned).collect(),
        kind: rest[0].into(),
        superblock: list(rest[2]),
    }
}
