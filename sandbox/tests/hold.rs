//! Held containers, which another program starts, and the hooks that run during their start. The tests run as root.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nspod_sandbox::seccomp::{Action, Profile, Rule};
use nspod_sandbox::spec::{Capabilities, Hook, Seccomp, Spec};
use nspod_sandbox::{Command, Container, Error, ErrorKind, ExitStatus, Stdio, is_held, start_held};

/// Returns a command that runs this shell line.
fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::Null);
    command
}

/// Returns a hook that runs this shell line.
fn hook(line: &str, timeout: Option<u32>) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: vec!["hook".into(), "-c".into(), line.into()],
        env: Some(vec![("GREETING".into(), "hello".into())]),
        timeout,
    }
}

fn held(command: &mut Command, directory: &Path) -> Container {
    let container = command.hold_at(directory).spawn().unwrap();
    assert!(is_held(directory).unwrap());
    container
}

/// A file outside the container that its hooks can write to.
fn note(directory: &Path) -> String {
    directory.join("note").display().to_string()
}

#[test]
fn a_container_held_at_a_directory_starts_through_it_and_leaves_nothing_there() {
    if !nspod_testkit::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut container = held(&mut shell("exit 3"), directory.path());
    let mode = fs::metadata(directory.path().join("exec.fifo")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    start_held(directory.path()).unwrap();
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(3));
    container.delete().unwrap();
    assert!(!is_held(directory.path()).unwrap());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert_eq!(start_held(directory.path()).unwrap_err().kind(), ErrorKind::State);
}

/// The program itself sees the effective and permitted sets that execve(2) computes.
#[test]
fn a_held_container_already_has_its_capability_sets() {
    if !nspod_testkit::root() {
        return;
    }
    let sets = Capabilities {
        inheritable: 0b00011,
        permitted: 0b00111,
        effective: 0b00101,
        bounding: 0b01111,
        ambient: 0b00010,
    };
    let mut command = shell("exit 0");
    command.spec_mut().process.capabilities = Some(sets);
    let mut container = command.hold().spawn().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let [inheritable, permitted, effective, bounding, ambient] =
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(set);
    assert_eq!(Capabilities { inheritable, permitted, effective, bounding, ambient }, sets);
    container.start().unwrap();
    assert!(container.wait().unwrap().status.success());
}

#[test]
fn a_container_killed_while_held_cannot_be_started() {
    if !nspod_testkit::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut container = held(&mut shell("exit 3"), directory.path());
    container.kill().unwrap();
    container.wait().unwrap();
    let error = start_held(directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert_eq!(error.to_string(), "cannot start a container that has stopped");
}

#[test]
fn start_reports_what_keeps_a_held_container_from_its_program() {
    if !nspod_testkit::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("/no/such/program");
    command.stdin(Stdio::Null);
    let mut container = held(&mut command, directory.path());
    let error = start_held(directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProgramNotFound);
    assert!(error.to_string().contains("/no/such/program: execve: No such file"), "{error}");
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(127));
    // The same start through the init, which executes the program of an image.
    command.init(true);
    let mut container = held(&mut command, directory.path());
    let error = start_held(directory.path()).unwrap_err();
    assert!(error.to_string().contains("/no/such/program: execve: No such file"), "{error}");
    container.wait().unwrap();
}

#[test]
fn a_held_container_outlives_the_program_that_created_it() {
    if !nspod_testkit::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let exit = tempfile::NamedTempFile::new().unwrap();
    let mut command = shell("exit 4");
    command.init(true);
    command.exit_file(exit.reopen().unwrap());
    let container = held(&mut command, directory.path());
    let pid = container.pid();
    let cgroup = container.cgroup().map(|c| c.path().to_owned());
    container.detach();
    start_held(directory.path()).unwrap();
    let process = ns_core::Pidfd::open(pid).unwrap();
    process.wait().unwrap();
    assert_eq!(fs::read_to_string(exit.path()).unwrap(), "exited 4\n");
    if let Some(path) = cgroup {
        cgroup_core::Cgroup::open(path).unwrap().destroy().unwrap();
    }
}

#[test]
fn the_callers_function_runs_once_the_namespaces_exist_and_can_refuse() {
    if !nspod_testkit::root() {
        return;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut command = shell("exit 0");
    command.prepared(move |container| {
        let mine = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = fs::read_link(format!("/proc/{}/ns/net", container.pid)).unwrap();
        sender.send((container.pid, mine != theirs)).unwrap();
        Ok(Vec::new())
    });
    let mut container = command.spawn().unwrap();
    assert_eq!(receiver.recv().unwrap(), (container.pid(), true));
    assert!(container.wait().unwrap().status.success());
    command.stdin(Stdio::Null).prepared(|_| Err(Error::caller("not today")));
    let error = command.spawn().unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Caller, "not today"));
}

#[test]
fn hooks_run_in_the_container_in_order_with_the_state_on_standard_input() {
    if !nspod_testkit::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let note = note(directory.path());
    let mut command = shell("exit 0");
    let spec: &mut Spec = command.spec_mut();
    let line = format!("cat >> {note}; readlink /proc/self/ns/net /proc/self/fd/1 >> {note}; env >> {note}");
    spec.hooks.create_container = vec![hook(&line, None), hook(&format!("echo second >> {note}"), Some(60))];
    // The hook sees the container's read-only file system and cannot write to it.
    let line = format!("read state; test \"$state\" = the-state && ! echo third >> {note}");
    spec.hooks.start_container = vec![hook(&line, None)];
    command.prepared(|_| Ok(b"the-state\n".to_vec()));
    let mut container = command.hold().spawn().unwrap();
    let net = fs::read_link(format!("/proc/{}/ns/net", container.pid())).unwrap();
    container.start().unwrap();
    assert!(container.wait().unwrap().status.success());
    let text = fs::read_to_string(&note).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "the-state");
    assert_eq!(lines[1], net.to_str().unwrap());
    assert!(lines.contains(&"GREETING=hello"), "{text}");
    assert_eq!(lines.last(), Some(&"second"));
}

#[test]
fn a_hook_that_fails_or_takes_too_long_ends_the_start() {
    if !nspod_testkit::root() {
        return;
    }
    let failing = |hook: Hook, first: bool| {
        let mut command = shell("exit 0");
        let hooks = &mut command.spec_mut().hooks;
        if first { &mut hooks.create_container } else { &mut hooks.start_container }.push(hook);
        command.spawn().unwrap_err().to_string()
    };
    assert_eq!(
        failing(hook("exit 5", None), true),
        "cannot run the createContainer hook /bin/sh: it exited with code 5"
    );
    assert_eq!(
        failing(hook("kill -9 $$", None), false),
        "cannot run the startContainer hook /bin/sh: it was ended by signal 9"
    );
    let late = failing(hook("sleep 60", Some(1)), true);
    assert!(late.ends_with("it took longer than its timeout and was killed"), "{late}");
    let missing = failing(Hook { path: "/no/such/hook".into(), ..hook("", None) }, true);
    assert!(missing.ends_with("its program does not exist or cannot be executed"), "{missing}");
}

#[test]
fn start_reports_a_start_hook_that_fails() {
    if !nspod_testkit::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = shell("exit 0");
    command.spec_mut().hooks.start_container = vec![hook("exit 6", None)];
    let mut container = held(&mut command, directory.path());
    let error = start_held(directory.path()).unwrap_err().to_string();
    assert_eq!(error, "cannot run the startContainer hook /bin/sh: it exited with code 6");
    container.wait().unwrap();
}

#[test]
fn a_held_process_of_two_clones_becomes_the_program() {
    if !nspod_testkit::root() {
        return;
    }
    for _ in 0..20 {
        let mut command = shell("exit 0");
        let spec = command.spec_mut();
        spec.namespaces.time = nspod_sandbox::spec::NamespaceMode::New;
        spec.time_offsets = Some("monotonic 7 0".parse().unwrap());
        let mut container = command.hold().spawn().unwrap();
        let offsets = fs::read_to_string(format!("/proc/{}/timens_offsets", container.pid())).unwrap();
        assert!(offsets.contains(" 7 "), "{offsets}");
        container.start().unwrap();
        assert!(container.wait().unwrap().status.success());
    }
}

#[test]
fn a_cgroup_at_a_path_is_created_with_its_parents_and_refused_if_in_use() {
    if !nspod_testkit::root() {
        return;
    }
    let top = format!("/nspod-test-{}", std::process::id());
    let path = format!("{top}/a/b");
    let mut command = shell("sleep 1000");
    let container = command.cgroup_at(&path).spawn().unwrap();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    assert!(own.lines().any(|line| line == format!("0::{path}")), "{own}");
    let error = shell("exit 0").cgroup_at(&path).spawn().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
    container.delete().unwrap();
    let hierarchy = cgroup_core::Hierarchy::detect().unwrap();
    let top = hierarchy.mount_point().unwrap().join(top.trim_start_matches('/'));
    assert!(!top.join("a/b").exists());
    cgroup_core::Cgroup::open(top).unwrap().destroy().unwrap();
}

#[test]
fn a_starting_container_has_no_descriptor_of_the_caller() {
    if !nspod_testkit::root() {
        return;
    }
    use std::os::fd::AsRawFd;
    let directory = tempfile::tempdir().unwrap();
    let secret = fs::File::open(directory.path()).unwrap();
    // The descriptor is also closed if the program gets another file at the same number.
    for same_number in [false, true] {
        let path = directory.path().to_owned();
        let mut command = shell("true");
        if same_number {
            command.fd(fs::File::open("/dev/null").unwrap(), secret.as_raw_fd());
        }
        command.prepared(move |made| {
            let open = fs::read_dir(format!("/proc/{}/fd", made.pid)).unwrap();
            let open: Vec<_> = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect();
            assert!(open.len() >= 3 && !open.contains(&path), "{open:?}");
            Ok(Vec::new())
        });
        assert!(command.status().unwrap().status.success());
    }
}

#[test]
fn a_container_whose_init_may_not_write_starts() {
    if !nspod_testkit::root() {
        return;
    }
    let rule = Rule { names: vec!["write".into()], action: Action::Errno, ..Rule::default() };
    let profile = Profile { default_action: Action::Allow, syscalls: vec![rule], ..Profile::default() };
    let mut command = shell("sleep 0.3; exit 3");
    command.init(true);
    command.spec_mut().process.seccomp = Seccomp::Profile(Box::new(profile));
    let mut container = command.hold().spawn().unwrap();
    container.start().unwrap();
    // The init cannot record how the program ended.
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(3));
    container.delete().unwrap();
}
