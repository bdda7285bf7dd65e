//! Attacks by the program of a container on the host: leaked descriptors of the caller, cgroups, capabilities, keys,
//! setuid programs, and the caller's terminal. As a control, each attack succeeds where nothing prevents it.
#![allow(unsafe_code)]

mod common;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::bundle::Bundle;
use common::terminal::Terminal;
use common::{NSPOD, Name, OCI, busybox_root, ok, programs, root, run_with};
use nix::errno::Errno;
use nix::libc;
use nspod_testkit::in_own_process;
use serde_json::json;

/// The attacker's command in each of the root file systems.
const ATTACKER: [&str; 5] = ["/attacker", "--exact", "the_attacker", "--nocapture", "--test-threads=1"];
const UNCONFINED: [&str; 2] = ["--security-opt", "seccomp=unconfined"];
/// Marks the lines of the attacker in the output of its test program.
const MARK: &str = "ATTACK ";

/// Not a test by itself: the program of the container. It tries the attack that the variable names.
#[test]
fn the_attacker() {
    let Ok(attack) = std::env::var("ATTACK") else { return };
    let (what, argument) = attack.split_once('=').unwrap_or((&attack, ""));
    match what {
        "descriptors" => descriptors(argument),
        "cgroups" => cgroups(),
        "status" => status(),
        "key" => key(argument),
        "terminal" => terminal(),
        "stay" => stay(),
        _ => panic!("unknown: {attack}"),
    }
}

fn say(text: impl std::fmt::Display) {
    println!("\n{MARK}{text}");
}

fn errno<T>(result: Result<T, Errno>) -> String {
    result.map_or_else(|errno| format!("{errno:?}"), |_| "succeeded".into())
}

/// Returns the attacker's lines in an output.
fn lines(out: &str) -> Vec<&str> {
    out.lines().filter_map(|line| line.trim_end().strip_prefix(MARK)).collect()
}

/// Returns a root file system with busybox and the attacker.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    busybox_root(dir.path(), &["sh", "sleep", "true", "cat"]);
    add_attacker(dir.path());
    dir
}

fn add_attacker(root: &Path) {
    nspod_testkit::copy_program(std::env::current_exe().unwrap(), root.join("attacker"));
}

/// Returns a bundle of nspod-oci with the attacker.
fn bundle(attack: &str, change: impl FnOnce(&mut serde_json::Value)) -> Bundle {
    let bundle = Bundle::changed("exec sleep 1000", |config| {
        config["process"]["args"] = json!(ATTACKER);
        config["process"]["env"] = json!(["PATH=/bin", format!("ATTACK={attack}")]);
        change(config);
    });
    add_attacker(&bundle.path("rootfs"));
    bundle
}

/// Returns the arguments of `nspod run` or `nspod exec` for an attack.
fn with<'a>(verb: &[&'a str], attack: &'a str, flags: &[&'a str], on: &[&'a str]) -> Vec<&'a str> {
    [verb, &["-e", attack], flags, on, &ATTACKER].concat()
}

/// Returns the arguments of `nspod run` in this root.
fn run<'a>(root: &'a str, attack: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    with(&["run", "--rm"], attack, flags, &["--rootfs", root, "--"])
}

// Descriptors

/// Lists the processes that have a descriptor of one of these files, given as `DEVICE:INODE`.
fn descriptors(leaked: &str) {
    let leaked: BTreeSet<&str> = leaked.split(',').collect();
    let mut seen = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        if process.file_name().to_string_lossy().parse::<u32>().is_err() {
            continue;
        }
        // A process that has ended has no descriptors.
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        let files: Vec<_> = fds.flatten().filter_map(|fd| fs::metadata(fd.path()).ok()).collect();
        let found = |file: &&fs::Metadata| leaked.contains(format!("{}:{}", file.dev(), file.ino()).as_str());
        seen.push((files.len(), files.iter().filter(found).count()));
    }
    let found: usize = seen.iter().map(|(_, found)| found).sum();
    let most = seen.iter().map(|(all, _)| *all).max().unwrap();
    say(format_args!("processes={} most={most} found={found}", seen.len()));
}

/// Opens files, directories, sockets, pipes and memory that this process leaks to each program that it executes.
fn leak(dir: &Path) -> Vec<OwnedFd> {
    use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket, socketpair};
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    fs::write(dir.join("secret"), "secret").unwrap();
    let mut all = Vec::new();
    while all.len() < 1000 {
        all.push(open(dir.join("secret"), OFlags::RDWR, Mode::empty()).unwrap());
        all.push(open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap());
        all.push(open("/", OFlags::PATH, Mode::empty()).unwrap());
        all.push(socket(AddressFamily::INET, SocketType::STREAM, None).unwrap());
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).unwrap();
        all.extend([pair.0, pair.1]);
        let pipe = std::io::pipe().unwrap();
        all.extend([pipe.0.into(), pipe.1.into()]);
        all.push(memfd_create("secret", MemfdFlags::empty()).unwrap());
        all.push(File::open("/proc/self/ns/mnt").map(OwnedFd::from).unwrap());
    }
    for file in &all {
        rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).unwrap();
    }
    all
}

#[track_caller]
fn assert_no_descriptor(what: &str, out: &str) {
    let found = lines(out);
    let number = |name: &str| -> usize {
        let all = found.first().unwrap_or_else(|| panic!("{what}: {out}"));
        all.split(' ').find_map(|part| part.strip_prefix(name)).unwrap().parse().unwrap()
    };
    assert!(number("processes=") >= 1, "{what}: {found:?}");
    assert_eq!(number("found="), 0, "{what}: {found:?}");
    assert!(number("most=") < 12, "{what}: {found:?}");
}

#[test]
fn a_thousand_leaked_descriptors_are_not_in_the_container() {
    if !root() || in_own_process("a_thousand_leaked_descriptors_are_not_in_the_container") {
        return;
    }
    let place = place();
    let secret = tempfile::tempdir().unwrap();
    let leaked = leak(secret.path());
    let ids: BTreeSet<String> = leaked
        .iter()
        .map(|fd| fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap())
        // The container has a root of its own.
        .filter(|file| file.ino() != fs::metadata("/").unwrap().ino())
        .map(|file| format!("{}:{}", file.dev(), file.ino()))
        .collect();
    let attack = format!("ATTACK=descriptors={}", ids.iter().cloned().collect::<Vec<_>>().join(","));
    let root = place.path().to_str().unwrap();

    // The control: chroot(8) closes nothing.
    let naive = "mount -t proc none $0/proc && exec chroot $0 \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "sh", "-c", naive, root]).args(ATTACKER);
    let naive = run_with(command.env("ATTACK", attack.strip_prefix("ATTACK=").unwrap()), "");
    let found = lines(naive.ok())[0].rsplit('=').next().unwrap().parse::<usize>().unwrap();
    assert!(found >= 900, "{}", naive.out);

    let trace = ["--cap-add", "SYS_PTRACE"];
    for flags in [&[][..], &["--userns", "auto"], &["--init"]] {
        assert_no_descriptor("run", &ok(&run(root, &attack, &[&trace[..], flags].concat())));
    }
    let name = Name::detached(&["--cap-add", "SYS_PTRACE", "--rootfs", root, "--"], &["sleep", "1000"]);
    assert_no_descriptor("exec", &ok(&with(&["exec"], &attack, &[], &[&name])));
    let pod = Name::pod();
    ok(&["pod", "create", "--share", "net,ipc,uts,pid", &pod]);
    let of_pod = ["--cap-add", "SYS_PTRACE", "--pod", &pod];
    assert_no_descriptor("pod", &ok(&run(root, &attack, &of_pod)));
    oci_descriptors(&attack);
    drop(leaked);
}

fn oci_descriptors(attack: &str) {
    let attack = attack.strip_prefix("ATTACK=").unwrap();
    let may_trace = |config: &mut serde_json::Value| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_SYS_PTRACE"]);
        }
    };
    assert_no_descriptor("oci run", bundle(attack, may_trace).verb(&["run"]).ok());
    let created = bundle(attack, |config| {
        may_trace(config);
        let log = "exec \"$@\" > /found";
        config["process"]["args"] = json!([&["sh", "-c", log, "sh"], &ATTACKER[..]].concat());
    });
    created.verb(&["create"]).ok();
    // The process that waits for `start` is visible from the host.
    let waits = created.record()["process"]["pid"].as_i64();
    let fds = waits.map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count());
    assert!(fds.is_none_or(|number| number < 12), "{fds:?} descriptors");
    created.verb(&["start"]).ok();
    created.wait_for("stopped");
    let found = fs::read_to_string(created.path("rootfs/found")).unwrap();
    assert_no_descriptor("oci start", &found);

    let sleeps = bundle(attack, |config| {
        may_trace(config);
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    sleeps.verb(&["run", "--detach"]).ok();
    let exec = [&["exec", "--cap", "CAP_SYS_PTRACE", &sleeps.id][..], &ATTACKER].concat();
    assert_no_descriptor("oci exec", sleeps.command(&exec).ok());
}

// Cgroups

/// Files through which a process leaves its cgroup, raises its limits, or runs a program on the host.
const CGROUP_FILES: [&str; 10] = [
    "release_agent",
    "notify_on_release",
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
    "tasks",
    "cgroup.kill",
    "cgroup.freeze",
    "memory.max",
    "devices.allow",
];

/// Opens the files of cgroups for writing, and mounts hierarchies.
fn cgroups() {
    say(format_args!("opened={}", open_below(Path::new("/sys/fs/cgroup"))));
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    for unshare in [false, true] {
        if unshare {
            // SAFETY: a plain system call.
            let result = Errno::result(unsafe { libc::unshare(flags) });
            say(format_args!("unshare={}", errno(result)));
        }
        for (kind, options) in [("cgroup2", ""), ("cgroup", "rdma"), ("cgroup", "none,name=attack")] {
            let at = format!("/tmp/{kind}-{options}-{unshare}");
            fs::create_dir_all(&at).unwrap();
            let [kind_c, at_c, options_c] = [kind, &at, options].map(|text| CString::new(text).unwrap());
            let (at_c, kind_c) = (at_c.as_ptr(), kind_c.as_ptr());
            // SAFETY: the strings end with a NUL byte and outlive the call.
            let mounted =
                unsafe { libc::mount(c"none".as_ptr(), at_c, kind_c, 0, options_c.as_ptr().cast()) };
            let mounted = Errno::result(mounted);
            let opened = if mounted.is_ok() { open_below(Path::new(&at)) } else { 0 };
            say(format_args!("mount={} opened={opened}", errno(mounted)));
        }
    }
}

/// Returns how many of the files below a directory can be opened for writing.
fn open_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let opened = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => open_below(&entry.path()),
        _ if CGROUP_FILES.iter().any(|name| entry.file_name() == *name) => {
            usize::from(File::options().write(true).open(entry.path()).is_ok())
        }
        _ => 0,
    });
    opened.sum()
}

#[test]
fn a_container_does_not_write_to_cgroups_and_mounts_none() {
    if !root() {
        return;
    }
    let place = place();
    let root = place.path().to_str().unwrap();
    let attack = "ATTACK=cgroups";
    let mut outputs = vec![ok(&run(root, attack, &[])), ok(&run(root, attack, &UNCONFINED))];
    outputs.push(ok(&run(root, attack, &["--userns", "auto"])));
    outputs.push(bundle("cgroups", |_| ()).verb(&["run"]).ok().to_owned());
    for out in &outputs {
        let found = lines(out);
        assert_eq!(found.len(), 8, "{out}");
        let failed = |line: &&&str| !line.contains("succeeded") && !line.contains("opened=0");
        // Without a filter the container makes a user namespace, which mounts no hierarchy of the host.
        assert_eq!(found.iter().find(|line| line.starts_with("mount=succeeded")), None, "{found:?}");
        assert_eq!(found.iter().filter(|line| line.contains("opened=")).find(failed), None, "{found:?}");
    }
    // The control: with the capability, a container mounts its own cgroups and can write to them.
    let out = ok(&run(root, attack, &[&["--cap-add", "SYS_ADMIN"][..], &UNCONFINED].concat()));
    let mounted = |line: &&str| line.starts_with("mount=succeeded") && !line.ends_with("opened=0");
    assert!(lines(&out).iter().any(mounted), "{out}");
}

// Capabilities and setuid programs

/// Prints the ids and capabilities of this process.
fn status() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    for line in status.lines().filter(|line| line.starts_with("Cap") || line.starts_with("Uid")) {
        say(line);
    }
}

#[track_caller]
fn line_of<'a>(out: &'a str, name: &str) -> Vec<&'a str> {
    let line = lines(out).into_iter().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}: {out}")).split_whitespace().collect()
}

const NO_CAPABILITY: [&str; 1] = ["0000000000000000"];

#[test]
fn ambient_and_inheritable_capabilities_of_the_caller_are_not_in_the_container() {
    if !root() || !programs(&["setpriv"]) {
        return;
    }
    let place = place();
    let root = place.path().to_str().unwrap();
    let caller = |program: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([
            "--inh-caps",
            "+sys_admin,+dac_override",
            "--ambient-caps",
            "+sys_admin,+dac_override",
        ]);
        run_with(command.arg(program).args(args).env("ATTACK", "status"), "")
    };
    // The control: another program keeps both sets.
    let own = std::env::current_exe().unwrap();
    let naive = caller(own.to_str().unwrap(), &ATTACKER[1..]);
    assert_ne!(line_of(naive.ok(), "CapAmb:"), NO_CAPABILITY);
    assert_ne!(line_of(naive.ok(), "CapInh:"), NO_CAPABILITY);

    let attack = "ATTACK=status";
    let name = Name::detached(&["--rootfs", root, "--"], &["sleep", "1000"]);
    let user = ["-u", "1000:1000"];
    let oci = bundle("status", |config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        config["process"]["capabilities"] = json!({});
    });
    let (dir, state) = (oci.path("").display().to_string(), oci.path("state").display().to_string());
    let oci_run = ["--root", &state, "run", "--bundle", &dir, &oci.id];
    for (program, args, is_root) in [
        (NSPOD, run(root, attack, &[]), true),
        (NSPOD, run(root, attack, &user), false),
        (NSPOD, run(root, attack, &["--userns", "auto"]), true),
        (NSPOD, with(&["exec"], attack, &[], &[&name]), true),
        (NSPOD, with(&["exec"], attack, &user, &[&name]), false),
        (OCI, oci_run.to_vec(), false),
    ] {
        let output = caller(program, &args);
        let sets: &[&str] =
            if is_root { &["CapInh:", "CapAmb:"] } else { &["CapInh:", "CapAmb:", "CapPrm:"] };
        for set in sets {
            assert_eq!(line_of(output.ok(), set), NO_CAPABILITY, "{set} {args:?}");
        }
    }
}

#[test]
fn a_setuid_program_grants_nothing() {
    if !root() {
        return;
    }
    let place = place();
    let root = place.path().to_str().unwrap();
    fs::set_permissions(place.path().join("attacker"), fs::Permissions::from_mode(0o4755)).unwrap();
    let user = ["-u", "1000:1000"];
    let name = Name::detached(&["--rootfs", root, "--"], &["sleep", "1000"]);
    let attack = "ATTACK=status";
    for args in [run(root, attack, &user), with(&["exec"], attack, &user, &[&name])] {
        let out = ok(&args);
        assert_eq!(line_of(&out, "Uid:"), ["1000"; 4], "{args:?}");
        assert_eq!(line_of(&out, "CapEff:"), NO_CAPABILITY, "{args:?}");
    }
    // The control: without no_new_privs the program is root's.
    for prevents in [true, false] {
        let oci = bundle("status", |config| {
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            config["process"]["noNewPrivileges"] = prevents.into();
        });
        let file = oci.path("rootfs/attacker");
        fs::set_permissions(file, fs::Permissions::from_mode(0o4755)).unwrap();
        let out = oci.verb(&["run"]);
        assert_eq!(line_of(out.ok(), "Uid:")[1] == "0", !prevents, "{}", out.out);
    }
}

// Keys

const SESSION_KEYRING: libc::c_long = -3;
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
const KEYCTL_SEARCH: libc::c_long = 10;
const KEYCTL_READ: libc::c_long = 11;

/// Searches the session keyring for a key, requests it, and reads it by its number. `NAME,NUMBER` names the key.
fn key(argument: &str) {
    let (name, number) = argument.split_once(',').unwrap();
    let (name, number): (_, libc::c_long) = (CString::new(name).unwrap(), number.parse().unwrap());
    let (kind, mut buffer) = (c"user".as_ptr(), [0u8; 64]);
    // SAFETY: the strings end with a NUL byte, the buffer has the given length, and all outlive the calls.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_keyctl, KEYCTL_SEARCH, SESSION_KEYRING, kind, name.as_ptr(), 0),
            libc::syscall(libc::SYS_request_key, kind, name.as_ptr(), std::ptr::null::<u8>(), 0),
            libc::syscall(libc::SYS_keyctl, KEYCTL_READ, number, buffer.as_mut_ptr(), buffer.len()),
        ]
        .map(Errno::result)
    };
    for result in results {
        say(errno(result));
    }
    let listed = fs::read_to_string("/proc/keys").unwrap_or_default();
    say(if listed.contains(name.to_str().unwrap()) { "succeeded" } else { "not listed" });
}

#[test]
fn keys_in_the_callers_session_keyring_are_not_in_the_container() {
    if !root() || in_own_process("keys_in_the_callers_session_keyring_are_not_in_the_container") {
        return;
    }
    let name = common::unique();
    let text = CString::new(name.clone()).unwrap();
    // SAFETY: the strings end with a NUL byte and outlive the calls.
    let number = unsafe {
        // The thread that starts the programs has the keyring.
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
        let (kind, payload) = (c"user".as_ptr(), c"secret".as_ptr());
        Errno::result(libc::syscall(libc::SYS_add_key, kind, text.as_ptr(), payload, 6, SESSION_KEYRING))
    };
    let number = match number {
        Err(Errno::ENOSYS) => return common::skip("the kernel has no keyrings"),
        number => number.unwrap(),
    };
    let attack = format!("ATTACK=key={name},{number}");
    let own = attack.strip_prefix("ATTACK=").unwrap();
    // The control: another program finds the key.
    let naive =
        run_with(Command::new(std::env::current_exe().unwrap()).args(&ATTACKER[1..]).env("ATTACK", own), "");
    assert_eq!(lines(naive.ok()), ["succeeded"; 4]);

    let place = place();
    let root = place.path().to_str().unwrap();
    let [held, lax] = [&[][..], &UNCONFINED].map(|flags| {
        let flags = [flags, &["--rootfs", root, "--"]].concat();
        Name::detached(&flags, &["sleep", "1000"])
    });
    let oci = bundle(own, |_| ());
    for (what, out) in [
        ("run", ok(&run(root, &attack, &[]))),
        ("run without a filter", ok(&run(root, &attack, &UNCONFINED))),
        ("run as a user", ok(&run(root, &attack, &["--userns", "auto"]))),
        ("user namespace", ok(&run(root, &attack, &[&UNCONFINED[..], &["--userns", "auto"]].concat()))),
        ("exec", ok(&with(&["exec"], &attack, &[], &[&held]))),
        ("exec --privileged", ok(&with(&["exec"], &attack, &["--privileged"], &[&held]))),
        ("exec without a filter", ok(&with(&["exec"], &attack, &[], &[&lax]))),
        ("oci", oci.verb(&["run"]).ok().to_owned()),
    ] {
        let found = lines(&out);
        assert!(found.len() == 4 && !found.contains(&"succeeded"), "{what}: {found:?}");
    }
}

// The terminal

const TIOCSTI: libc::Ioctl = 0x5412;
const TIOCLINUX: libc::Ioctl = 0x541c;
const PUSHED: &str = "pushed-by-the-container";

/// Pushes a line into the input of each terminal that the program can reach.
fn terminal() {
    let mut terminals: Vec<File> = Vec::new();
    for fd in 0..3 {
        // Opening a terminal could make it the controlling terminal.
        let opened = File::options().read(true).write(true).open(format!("/proc/self/fd/{fd}"));
        terminals.extend(opened);
    }
    for path in ["/dev/tty", "/dev/console", "/dev/tty0", "/dev/tty1"] {
        terminals.extend(File::options().read(true).write(true).open(path));
    }
    let own = [0, 1, 2].into_iter().chain(terminals.iter().map(AsRawFd::as_raw_fd));
    for fd in own {
        for byte in format!("{PUSHED}\n").bytes() {
            // SAFETY: each call reads one byte, and TIOCSCTTY takes a number.
            let _ = unsafe {
                libc::ioctl(fd, libc::TIOCSCTTY, 1);
                libc::ioctl(fd, TIOCSTI, &raw const byte)
            };
        }
        // Paste the selection of a virtual console.
        let paste = [3u8; 16];
        // SAFETY: the call reads at most 16 bytes for this subcode.
        let pasted = Errno::result(unsafe { libc::ioctl(fd, TIOCLINUX, paste.as_ptr()) });
        say(format_args!("paste={}", errno(pasted)));
    }
}

/// Runs a program on a terminal, and returns what the terminal shows with the line that a program reads afterwards.
fn on_a_terminal(program: &str, args: &[&str]) -> String {
    // A line of the user follows. A line that the attacker pushed would be read first.
    let script = "\"$0\" \"$@\"; echo now; read line; echo \"<$line>\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, program]).args(args).env("ATTACK", "terminal");
    let mut terminal = Terminal::of(&command);
    terminal.expect("now\r\n");
    terminal.type_in("of-the-user\r");
    terminal.expect(">\r\n");
    terminal.end();
    terminal.shown()
}

#[test]
fn a_container_pushes_no_input_into_the_callers_terminal() {
    if !root() {
        return;
    }
    let place = place();
    let root = place.path().to_str().unwrap();
    // The control: a program of the caller's session pushes a line.
    let own = std::env::current_exe().unwrap();
    let is_allowed =
        fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").map_or(true, |text| text == "1\n");
    if is_allowed {
        let shown = on_a_terminal(own.to_str().unwrap(), &ATTACKER[1..]);
        assert!(shown.contains(&format!("<{PUSHED}>")), "{shown}");
    }
    let attack = "ATTACK=terminal";
    let name = Name::detached(&["--rootfs", root, "--"], &["sleep", "1000"]);
    let oci = bundle("terminal", |_| ());
    let (dir, state) = (oci.path("").display().to_string(), oci.path("state").display().to_string());
    let oci_run = ["--root", &state, "run", "--bundle", &dir, &oci.id];
    let at_a_terminal = bundle("terminal", |config| config["process"]["terminal"] = true.into());
    let (dir, state) =
        (at_a_terminal.path("").display().to_string(), at_a_terminal.path("state").display().to_string());
    let oci_terminal = ["--root", &state, "run", "--bundle", &dir, &at_a_terminal.id];
    for (program, args) in [
        (NSPOD, run(root, attack, &[])),
        (NSPOD, run(root, attack, &["-i"])),
        (NSPOD, run(root, attack, &["-it"])),
        (NSPOD, run(root, attack, &["-i", "--init"])),
        (NSPOD, run(root, attack, &["-i", "--userns", "auto"])),
        (NSPOD, with(&["exec"], attack, &["-i"], &[&name])),
        (NSPOD, with(&["exec"], attack, &["-it"], &[&name])),
        (OCI, oci_run.to_vec()),
        (OCI, oci_terminal.to_vec()),
    ] {
        let shown = on_a_terminal(program, &args);
        assert!(shown.contains("paste="), "the attacker did not run: {args:?}: {shown}");
        assert!(!shown.contains("paste=succeeded"), "{args:?}: {shown}");
        assert!(shown.contains("<of-the-user>"), "{args:?}: {shown}");
    }
}

// Escape sequences

/// Text that a terminal interprets: it sets the title, a colour and the position, in both forms of CSI.
const EVIL: &str = "a\x1b]0;title\x07b\x1b[31mc\x7f\r\u{9b}2Jd\u{9d}e";

#[track_caller]
fn assert_plain(what: &str, text: &str) {
    let raw = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(raw, None, "{what}: {text:?}");
}

/// Runs a program and checks both streams. Returns them together.
#[track_caller]
fn plain(program: &str, args: &[&str]) -> String {
    let output = run_with(Command::new(program).args(args), "");
    let both = output.out + &output.err;
    assert_plain(&format!("{args:?}"), &both);
    both
}

/// Stays with a name that a terminal interprets.
fn stay() {
    // SAFETY: the string ends with a NUL byte and outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"\x1b[31mx\xc2\x9b2J\x07".as_ptr()) };
    fs::write("/tmp/ready", "").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1000));
}

#[test]
fn tables_and_json_show_no_escape_sequence_of_a_container() {
    if !root() {
        return;
    }
    // The path of a root file system is shown too.
    let parent = tempfile::tempdir().unwrap();
    let place = parent.path().join(EVIL);
    fs::create_dir(&place).unwrap();
    busybox_root(&place, &["sh"]);
    add_attacker(&place);
    let variable = format!("OF={EVIL}");
    let flags = ["--hostname", EVIL, "-e", &variable, "-e", "ATTACK=stay", "--log-max-size", "none"];
    let flags = [&flags, &["--rootfs", place.to_str().unwrap(), "--"][..]].concat();
    let name = Name::detached(&flags, &[&ATTACKER[..], &[EVIL]].concat());
    common::eventually("the program has its name", || place.join("tmp/ready").exists());
    let pid = common::json(&["inspect", &name])[0]["pid"].to_string();
    for args in [
        &["ps"][..],
        &["ps", "-a"],
        &["ps", "--no-trunc"],
        &["ps", "--json"],
        &["ps", &name],
        &["ps", &name, "--json"],
        &["ps", "--format", "{{.Command}} {{.Name}}"],
        &["ps", "--format", "table {{.Command}}\t{{.Name}}"],
        &["ps", "--format", "json"],
        &["inspect", &name],
        &["inspect", "--format", "{{json .Spec}}", &name],
        &["top", &name],
        &["top", "--json", &name],
        &["stats", "--no-stream", &name],
        &["census", "--threads"],
        &["census", "--json"],
        &["census", "--namespaces"],
        &["census", "--namespaces", "--fds", "--json"],
        &["census", "--pid", &pid],
        &["census", "--json", "--pid", &pid],
        &["run", "--explain", "--hostname", EVIL, "--rootfs", place.to_str().unwrap(), "--", EVIL],
        &["run", "--explain", "--json", "--hostname", EVIL, "--", EVIL],
    ] {
        assert_ne!(plain(NSPOD, args), "", "{args:?}");
    }
    // A script gets the value of a field as it is. A terminal does not.
    let format = ["inspect", "--format", "{{.Spec.Hostname}}", &name];
    assert_eq!(ok(&format), format!("{EVIL}\n"));
    let mut terminal = Terminal::nspod(&format);
    terminal.expect("2Jd");
    terminal.end();
    assert_plain("on a terminal", &terminal.shown().replace("\r\n", "\n"));
    let bundle = bundle("stay", |config| {
        config["process"]["args"] = json!([&ATTACKER[..], &[EVIL]].concat());
        config["hostname"] = EVIL.into();
        config["annotations"] = json!({ EVIL: EVIL });
    });
    let moved = bundle.path(EVIL);
    fs::create_dir(&moved).unwrap();
    fs::copy(bundle.path("config.json"), moved.join("config.json")).unwrap();
    std::os::unix::fs::symlink("../rootfs", moved.join("rootfs")).unwrap();
    bundle.verb(&["run", "--detach", "--bundle", moved.to_str().unwrap()]).ok();
    common::eventually("the program has its name", || bundle.path("rootfs/tmp/ready").exists());
    let state = bundle.path("state").display().to_string();
    for args in [
        &["list"][..],
        &["list", "--format", "json"],
        &["state", &bundle.id],
        &["ps", &bundle.id],
        &["ps", &bundle.id, "-eo", "pid,comm,args"],
        &["events", "--stats", &bundle.id],
    ] {
        assert_ne!(plain(OCI, &[&["--root", &state], args].concat()), "", "{args:?}");
    }
}

#[test]
fn errors_of_nspod_show_no_escape_sequence() {
    let at = format!("/nowhere/{EVIL}");
    for args in [
        &["run", "--name", EVIL, "true"][..],
        &["run", "--rootfs", &at, "true"],
        &["run", "-v", &format!("{at}:/x"), "true"],
        &["run", "--", EVIL],
        &["run", "-w", &at, "true"],
        &["run", "-u", EVIL, "true"],
        &["run", "-m", EVIL, "true"],
        &["run", "--limit", EVIL, "true"],
        &["run", "--cap-add", EVIL, "true"],
        &["run", "--sysctl", &format!("kernel.{EVIL}=1"), "true"],
        &["run", "--pod", EVIL, "true"],
        &["run", "--pid", &format!("container:{EVIL}"), "true"],
        &["run", "--security-opt", EVIL, "true"],
        &["run", &format!("--{EVIL}"), "true"],
        &["exec", EVIL, "true"],
        &["inspect", EVIL],
        &["rename", EVIL, EVIL],
        &["pod", "create", EVIL],
        &["cp", &at, EVIL],
        &["ps", "--format", &format!("{{{{.{EVIL}}}}}")],
        &["ps", "--filter", EVIL],
        &["census", EVIL],
        &["logs", EVIL],
        &["stop", "-t", EVIL, "x"],
        &["man", EVIL],
        &[EVIL],
    ] {
        assert_ne!(plain(NSPOD, args), "", "{args:?}");
        assert_ne!(plain(NSPOD, &[&["--json"], args].concat()), "", "{args:?}");
    }
}

/// Changes to a configuration that make `create` fail, with this text in the error.
fn bad_configs() -> Vec<(&'static str, serde_json::Value)> {
    let at = format!("/nowhere/{EVIL}");
    vec![
        ("/ociVersion", EVIL.into()),
        ("/process/args", json!([EVIL])),
        ("/process/cwd", at.clone().into()),
        ("/process/env", json!([EVIL])),
        ("/process/capabilities/effective", json!([EVIL])),
        ("/process/rlimits", json!([{ "type": EVIL, "soft": 1, "hard": 1 }])),
        ("/process/apparmorProfile", EVIL.into()),
        ("/process/selinuxLabel", EVIL.into()),
        ("/process/user", json!({ "uid": EVIL })),
        ("/process/terminal", EVIL.into()),
        ("/hostname", EVIL.into()),
        ("/root/path", at.clone().into()),
        ("/mounts/0/type", EVIL.into()),
        ("/mounts/0/source", at.clone().into()),
        ("/mounts/0/destination", EVIL.into()),
        ("/mounts/0/options", json!([EVIL])),
        ("/hooks", json!({ "prestart": [{ "path": at }] })),
        (
            "/hooks",
            json!({ "prestart": [{ "path": "/bin/sh", "args": ["sh", "-c", "printf '\\033]0;x\\007' >&2; exit 1"] }] }),
        ),
        ("/linux/namespaces", json!([{ "type": EVIL }])),
        ("/linux/namespaces", json!([{ "type": "net", "path": at }])),
        ("/linux/cgroupsPath", EVIL.into()),
        ("/linux/sysctl", json!({ EVIL: "1" })),
        ("/linux/devices", json!([{ "path": at, "type": EVIL }])),
        ("/linux/rootfsPropagation", EVIL.into()),
        ("/linux/maskedPaths", json!([EVIL])),
        ("/linux/seccomp", json!({ "defaultAction": EVIL })),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [EVIL] })),
        ("/linux/personality", json!({ "domain": EVIL })),
        ("/linux/resources", json!({ "unified": { EVIL: EVIL } })),
        ("/linux/intelRdt", json!({ "closID": EVIL })),
    ]
}

#[test]
fn errors_and_logs_of_the_oci_runtime_show_no_escape_sequence_of_a_configuration() {
    if !root() {
        return;
    }
    let bundle = Bundle::new("true");
    let original = fs::read(bundle.path("config.json")).unwrap();
    let mut shown = 0;
    for (field, value) in bad_configs() {
        fs::write(bundle.path("config.json"), &original).unwrap();
        bundle.edit(|config| {
            let (parent, key) = field.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
        });
        shown += usize::from(assert_plain_failure(&bundle, field, &["create"]));
    }
    // Most of them are rejected, with the text.
    assert!(shown > 20, "{shown}");
    let start = format!("{{\"ociVersion\": {}", json!(EVIL));
    for text in [start.as_str(), EVIL, &format!("{{\"{EVIL}\": 1}}")] {
        fs::write(bundle.path("config.json"), text).unwrap();
        assert_plain_failure(&bundle, text, &["create"]);
    }
    for args in [
        &["state", EVIL][..],
        &["create", EVIL],
        &["run", "--bundle", EVIL, "x"],
        &["kill", &bundle.id, EVIL],
        &["exec", "--process", EVIL, "x"],
        &["update", "--resources", EVIL, "x"],
        &["--log-format", EVIL, "state", "x"],
        &["--log", &format!("/nowhere/{EVIL}"), "state", "x"],
        &["--root", &format!("/dev/null/{EVIL}"), "state", "x"],
        &["create", "--console-socket", &format!("/nowhere/{EVIL}"), "x"],
        &["create", "--pid-file", &format!("/nowhere/{EVIL}"), "x"],
        &[&format!("--{EVIL}")],
        &[EVIL],
    ] {
        assert_ne!(plain(OCI, args), "", "{args:?}");
    }
}

/// Runs a command with each log, and checks the streams and the log. Returns whether it failed.
#[track_caller]
fn assert_plain_failure(bundle: &Bundle, what: &str, verb: &[&str]) -> bool {
    let log = bundle.path("log");
    let to_log = ["--log", log.to_str().unwrap()];
    let mut failed = false;
    let both = [&to_log[..], &["--log-format", "json"]].concat();
    let all = [&[][..], &["--log-format", "json"], &to_log, &both];
    // The guest is slow: each configuration has one of the logs there.
    let some = if nspod_testkit::is_slow() { &all[what.len() % 4..][..1] } else { &all[..] };
    for flags in some {
        let output = bundle.verb(&[*flags, verb].concat());
        assert_plain(what, &(output.out.clone() + &output.err));
        failed = output.code() != 0;
        if !failed {
            bundle.verb(&["delete", "--force"]).ok();
        }
    }
    assert_plain(what, &fs::read_to_string(&log).unwrap_or_default());
    failed
}
