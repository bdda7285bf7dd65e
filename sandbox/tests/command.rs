//! `Command` behaves like `std::process::Command` where names agree, and errors carry data.

mod common;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use nspod_sandbox::spec::Capabilities;
use nspod_sandbox::{Command, ErrorKind, ExitStatus, Pod, PodSpec, Stdio, init};

fn sh(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::Null);
    command
}

#[test]
fn a_process_in_a_limited_container_cannot_have_capabilities_that_exceed_the_limit() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = sh("true");
    command.spec_mut().process.keep_projects = true;
    let mut field = |capabilities| {
        command.spec_mut().process.capabilities = capabilities;
        command.plan().err().and_then(|e| e.field().map(str::to_owned))
    };
    let only = |number: u32| Some(Capabilities { bounding: 1 << number, ..Capabilities::default() });
    // CAP_SYS_ADMIN, CAP_SYS_RESOURCE, and all.
    for refused in [only(21), only(24), None] {
        assert_eq!(field(refused).as_deref(), Some("process.capabilities"), "{refused:?}");
    }
    assert_eq!(field(only(0)), None);
}

#[test]
fn a_second_spawn_has_the_streams_of_the_first() {
    if !nspod_testkit::root() {
        return;
    }
    let mut log = tempfile::tempfile().unwrap();
    let mut command = sh("read word; echo $word; echo error >&2");
    command.stdin(Stdio::Piped).stdout(Stdio::Piped).stderr(log.try_clone().unwrap());
    for word in ["first", "second"] {
        let mut container = command.spawn().unwrap();
        container.stdin.take().unwrap().write_all(format!("{word}\n").as_bytes()).unwrap();
        let mut text = String::new();
        container.stdout.take().expect("a pipe").read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{word}\n"));
        assert!(container.wait().unwrap().status.success());
        container.delete().unwrap();
    }
    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(text, "error\nerror\n");
}

#[test]
fn a_second_spawn_has_the_exit_file_and_the_pod_of_the_first() {
    if !nspod_testkit::root() {
        return;
    }
    let pod = Pod::create(&format!("test-command-{}", std::process::id()), &PodSpec::default()).unwrap();
    let exit_file = tempfile::tempfile().unwrap();
    let mut command = sh("exit $CODE");
    command.init(true);
    command.exit_file(exit_file.try_clone().unwrap());
    pod.join(&mut command).unwrap();
    let net = |container: &nspod_sandbox::Container| {
        let ids = container.namespaces().unwrap();
        ids.get(ns_core::Kind::Net)
    };
    let mut seen = Vec::new();
    for code in [3, 4] {
        command.env("CODE", code.to_string()).hold();
        let mut container = command.spawn().unwrap();
        seen.push(net(&container));
        let cgroup = container.cgroup().unwrap().path().to_owned();
        assert_eq!(cgroup.parent(), pod.cgroup().map(|cgroup| cgroup.path()), "the pod's limits apply");
        container.start().unwrap();
        assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(code));
        container.delete().unwrap();
        assert_eq!(init::read_exit(&exit_file), Some(ExitStatus::Exited(code)));
    }
    assert_eq!(seen[0], seen[1], "both have the pod's network");
    pod.delete().unwrap();
}

#[test]
fn a_function_that_can_be_called_once_prevents_a_second_start() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = sh("true");
    command.prepared(|_| Ok(Vec::new()));
    assert!(command.status().unwrap().status.success());
    assert_eq!(command.spawn().unwrap_err().kind(), ErrorKind::State);
    command.prepared(|_| Ok(Vec::new()));
    assert!(command.status().unwrap().status.success());
}

#[test]
fn envs_sets_variables_and_env_remove_removes_one() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.env_clear().envs([("PATH", "/usr/bin:/bin"), ("A", "1"), ("B", "2"), ("A", "3")]);
    command.env_remove("B");
    assert_eq!(common::output(&mut command, "echo $A-$B"), "3-");
}

#[test]
fn drop_kills_without_waiting_unless_kill_on_drop_is_off() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = sh("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; exec sleep 1000");
    let container = command.spawn().unwrap();
    let (pid, cgroup) = (container.pid(), container.cgroup().map(|cgroup| cgroup.path().to_owned()));
    let start = Instant::now();
    drop(container);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    nspod_testkit::in_time(move || {
        let there = || cgroup.as_ref().is_some_and(|path| path.exists());
        while there() || File::open(format!("/proc/{pid}/stat")).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });

    let container = command.kill_on_drop(false).spawn().unwrap();
    let (pid, cgroup) = (container.pid(), container.cgroup().map(|cgroup| cgroup.path().to_owned()));
    drop(container);
    let pidfd = ns_core::Pidfd::open(pid).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(pidfd.try_wait().unwrap().is_none(), "it is still alive");
    pidfd.send_signal(9).unwrap();
    pidfd.wait().unwrap();
    if let Some(path) = cgroup {
        nspod_sandbox::cgroup_core::Cgroup::open(&path).unwrap().destroy().unwrap();
    }
}

#[test]
fn an_error_has_its_parts_as_data() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("true");
    let error = common::error(command.current_dir("/no/such"));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!((error.step(), error.object()), ("cwd", Some("/no/such")));
    assert_eq!((error.failed_call(), error.raw_os_error()), (Some("chdir"), Some(libc::ENOENT)));
    let report = error.report();
    assert_eq!((report.kind.as_str(), report.errno.as_deref()), ("not_found", Some("ENOENT")));
    assert_eq!(report.message, error.to_string());
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<nspod_sandbox::ErrorReport>(&json).unwrap(), report);

    // The source is the error of the lower crate.
    let mut command = Command::new("true");
    command.namespace(
        ns_core::Kind::Net,
        nspod_sandbox::spec::NamespaceMode::Join(nspod_sandbox::spec::Join::Pid(i32::MAX)),
    );
    let error = common::error(&mut command);
    assert_eq!(error.kind(), ErrorKind::ProcessEnded, "{error}");
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<ns_core::Error>(), "{source}");
}

#[test]
fn a_program_that_does_not_exist_is_an_error_of_exec() {
    if !nspod_testkit::root() {
        return;
    }
    let error = common::error(&mut Command::new("no-such"));
    assert_eq!((error.kind(), error.step()), (ErrorKind::ProgramNotFound, "exec"));
    assert_eq!(error.object(), Some("no-such"));
}

#[test]
fn a_drop_is_short_although_the_process_cannot_be_reaped() {
    if !nspod_testkit::root() || !nspod_testkit::programs(&["strace"]) {
        return;
    }
    let container = Command::new("sleep").arg("1000").stdin(Stdio::Null).spawn().unwrap();
    let cgroup = container.cgroup().unwrap().path().to_owned();
    let pid = container.pid().to_string();
    let mut tracer = std::process::Command::new("strace");
    tracer.args(["-qq", "-o", "/dev/null", "-p", &pid]).stdin(std::process::Stdio::null());
    let mut tracer = tracer.spawn().unwrap();
    let status = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let traced_by = format!("TracerPid:\t{}\n", tracer.id());
    nspod_testkit::eventually("the process is traced", || status(&pid).contains(&traced_by));
    let stop =
        |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(tracer.id() as i32), signal).unwrap();
    stop(nix::sys::signal::Signal::SIGSTOP);
    nspod_testkit::eventually("the tracer stops", || status(&tracer.id().to_string()).contains("State:\tT"));
    let start = std::time::Instant::now();
    drop(container);
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
    // The kernel tells the tracer first that the process has ended.
    stop(nix::sys::signal::Signal::SIGCONT);
    nspod_testkit::eventually("the process is reaped", || status(&pid).is_empty());
    nspod_testkit::eventually("the cgroup is removed", || !cgroup.exists());
    tracer.wait().unwrap();
}
