//! nspod-oci as its clients see it: messages and logs, ids, remains of containers and crashes, terminals,
//! descriptors, and ordinary users. The tests in `oci_fields` cover each field of a configuration.

mod common;

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::bundle::Bundle;
use common::{OCI, Output, alone, end_of, eventually, fault, root, run_with, unique};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

const SLEEP: &str = "exec sleep 1000";

#[track_caller]
fn fails(output: &Output, code: i32, words: &str) {
    assert_eq!(output.code(), code, "{} {}", output.out, output.err);
    assert!(output.err.contains(words), "{words:?} is not in: {}", output.err);
}

#[test]
fn verbs_in_the_wrong_state_fail_with_runcs_messages() {
    if !root() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    for verb in ["start", "state", "pause", "resume", "kill", "delete", "ps"] {
        fails(&bundle.verb(&[verb]), 1, "container does not exist");
    }
    fails(&bundle.command(&["exec", &bundle.id, "true"]), 255, "container does not exist");
    bundle.verb(&["create"]).ok();
    assert_eq!(bundle.status(), "created");
    fails(&bundle.verb(&["create"]), 1, "container with given ID already exists");
    fails(&bundle.verb(&["resume"]), 1, "container not paused");
    bundle.verb(&["start"]).ok();
    assert_eq!(bundle.status(), "running");
    fails(&bundle.verb(&["start"]), 1, "cannot start an already running container");
    let words = format!("cannot delete container {} that is not stopped: running", bundle.id);
    fails(&bundle.verb(&["delete"]), 1, &words);
    fails(&bundle.command(&["exec", &bundle.id, "nothere"]), 255, "executable file not found in $PATH");
    fails(&bundle.command(&["exec", &bundle.id, "/not/here"]), 255, "no such file or directory");
    let cgroup = bundle.cgroup();
    assert!(cgroup.is_dir());
    bundle.command(&["kill", &bundle.id, "SIGKILL"]).ok();
    bundle.wait_for("stopped");
    fails(&bundle.verb(&["start"]), 1, "cannot start a container that has stopped");
    fails(&bundle.verb(&["kill"]), 1, "container not running");
    fails(&bundle.command(&["exec", &bundle.id, "true"]), 255, "cannot exec in a stopped container");
    bundle.verb(&["kill", "--all"]).ok();
    bundle.verb(&["delete"]).ok();
    assert!(!cgroup.exists() && !bundle.path("state").join(&bundle.id).exists());
    bundle.verb(&["delete", "--force"]).ok();
}

#[test]
fn the_log_has_a_line_for_each_error_and_clients_read_the_last_one() {
    if !root() {
        return;
    }
    let bundle = Bundle::new("true");
    let log = bundle.path("log");
    let to_log = ["--log", log.to_str().unwrap()];
    let output = bundle.command(&[&to_log[..], &["--log-format", "json", "state", "nobody"]].concat());
    assert_eq!((output.code(), output.err.as_str()), (1, "container does not exist: nobody\n"));
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim_end()).unwrap();
    assert_eq!((&line["level"], &line["msg"]), (&json!("error"), &json!("container does not exist: nobody")));
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    bundle.command(&[&to_log[..], &["state", "nobody"]].concat());
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("level=error msg=\"container does not exist: nobody\""), "{text}");
    fails(&bundle.command(&["state", "nobody"]), 1, "level=error msg=");
    let usage = bundle.command(&["create", "--nothing-such", "x"]);
    fails(&usage, 1, "error: unexpected argument '--nothing-such' found\n");
    assert!(!usage.err.contains("\\n"), "{}", usage.err);
}

#[test]
fn a_log_without_a_reader_does_not_block() {
    let bundle = Bundle::new("");
    let fifo = bundle.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let output = bundle.command(&["--log", fifo.to_str().unwrap(), "state", "nobody"]);
    fails(&output, 1, "cannot open the log");
    assert!(output.err.contains("no process reads from it"), "{}", output.err);
}

#[test]
fn create_reports_a_program_that_cannot_be_executed() {
    if !root() {
        return;
    }
    for (program, words) in [
        ("nothere", "executable file not found in $PATH"),
        ("/bin/nothere", "no such file or directory"),
        ("/etc", "permission denied"),
    ] {
        let bundle = Bundle::changed("", |config| config["process"]["args"] = json!([program]));
        for verb in [&["create"][..], &["run"], &["run", "--detach"]] {
            let output = bundle.verb(verb);
            assert_eq!(output.code(), 1, "{program} {verb:?}");
            assert!(output.err.to_lowercase().contains(&words.to_lowercase()), "{}", output.err);
            fails(&bundle.verb(&["state"]), 1, "container does not exist");
        }
    }
}

#[test]
fn one_of_many_concurrent_creates_of_an_id_succeeds() {
    if !root() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    let ends: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    end_of(&mut bundle.raw(&["create", &bundle.id]).stderr(Stdio::null()).spawn().unwrap())
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(ends.iter().filter(|end| end.success()).count(), 1, "{ends:?}");
    assert_eq!(bundle.status(), "created");
}

#[test]
fn delete_force_removes_leftovers_of_a_crashed_create() {
    if !root() {
        return;
    }
    // A hook kills the runtime when the container's process exists.
    let bundle = Bundle::changed(SLEEP, |config| {
        let script = "kill -KILL $PPID; sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > hook";
        config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }] });
    });
    let output = bundle.verb(&["create"]);
    assert_eq!(output.code(), 128 + 9, "{}", output.err);
    let cgroup = bundle.cgroup();
    bundle.verb(&["delete", "--force"]).ok();
    assert!(!cgroup.exists() && !bundle.path("state").join(&bundle.id).exists());
    eventually("the hook has noted its child", || bundle.path("hook").exists());
    let hook = fs::read_to_string(bundle.path("hook")).unwrap();
    run_with(Command::new("kill").arg(hook.trim()), "").ok();
    // The runtime was killed when only the directory existed.
    bundle.edit(|config| config["hooks"] = json!({}));
    let own = fs::Permissions::from_mode(0o700);
    fs::create_dir(bundle.path("state").join(&bundle.id)).unwrap();
    fs::set_permissions(bundle.path("state").join(&bundle.id), own).unwrap();
    bundle.verb(&["delete", "--force"]).ok();
    bundle.verb(&["create"]).ok();
}

#[test]
fn create_adopts_no_other_container_of_its_id() {
    if !root() || !fault::able() {
        return;
    }
    let bundle = Bundle::new("sleep 1000");
    bundle.command(&["list"]).ok();
    let script = format!(
        "N={OCI}; cd {}; create='--root {} create {}'; delete='--root {1} delete --force {2}'; {}
         late mkdirat:signal=STOP:when=1 $create
         $N $delete; $N $create > /run/created 2>&1; go_on $late; cat /run/late",
        bundle.path("").display(),
        bundle.path("state").display(),
        bundle.id,
        fault::LATE
    );
    let seen = alone(&format!(": ; {script}"));
    let mut lines = seen.out.lines();
    assert_eq!((lines.next(), seen.err.as_str()), (Some("1"), ""), "{}", seen.out);
    assert!(lines.next().unwrap().contains("container with given ID already exists"), "{}", seen.out);
    assert_eq!(bundle.status(), "created");
    bundle.verb(&["start"]).ok();
    bundle.verb(&["delete", "--force"]).ok();
    // The id can be used again.
    bundle.verb(&["create"]).ok();
}

#[test]
fn a_failed_system_call_leaves_a_created_container_or_none() {
    if !root() || !fault::able() {
        return;
    }
    let bundle = Bundle::new("sleep 1000");
    let points = fault::points(fault::FAILING, "error=EIO", &mut bundle.raw(&["create", &bundle.id]));
    let cgroup = bundle.cgroup();
    bundle.verb(&["delete", "--force"]).ok();
    for point in points {
        let output = bundle.run(&mut fault::with(&point, &bundle.raw(&["create", &bundle.id])));
        if output.code() == 0 {
            assert_eq!(bundle.status(), "created", "{point}");
            bundle.verb(&["start"]).ok();
            bundle.verb(&["delete", "--force"]).ok();
        } else {
            assert_ne!(output.err, "", "{point}");
        }
        assert!(!bundle.path("state").join(&bundle.id).exists(), "{point}: {}", output.err);
        assert!(!cgroup.exists(), "{point}: {}", output.err);
    }
}

#[test]
fn a_hook_that_cannot_be_waited_for_is_killed() {
    if !root() || !fault::able() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    let note = bundle.path("hook");
    let script = format!("echo $$ > {}; exec sleep 1000", note.display());
    bundle.edit(|config| {
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1000 });
        config["hooks"]["createRuntime"] = json!([hook]);
    });
    let output =
        bundle.run(&mut fault::with("pidfd_open:error=EMFILE", &bundle.raw(&["create", &bundle.id])));
    assert!(output.code() == 1 && output.err.contains("EMFILE"), "{}", output.err);
    // The hook may have been killed before it wrote its pid.
    std::thread::sleep(Duration::from_millis(200));
    let pid = fs::read_to_string(note).unwrap_or_default();
    assert!(pid.is_empty() || !Path::new("/proc").join(pid.trim()).exists(), "{pid}");
}

#[test]
fn a_container_that_cannot_be_inspected_is_not_reported_as_stopped() {
    if !root() || !fault::able() {
        return;
    }
    let bundle = Bundle::new("sleep 1000");
    bundle.verb(&["create"]).ok();
    bundle.verb(&["start"]).ok();
    for (verb, fine) in [("state", "running"), ("delete", "")] {
        for point in fault::points(fault::FAILING, "error=EIO", &mut bundle.raw(&["state", &bundle.id])) {
            let output = bundle.run(&mut fault::with(&point, &bundle.raw(&[verb, &bundle.id])));
            let right = output.code() == 0 && output.out.contains(fine) && verb == "state";
            assert!(right || output.code() == 1 && !output.err.is_empty(), "{verb}, {point}: {}", output.out);
            assert_eq!(bundle.status(), "running", "{verb}, {point}");
        }
    }
}

#[test]
fn a_cgroup_of_another_owner_is_left_alone() {
    if !root() {
        return;
    }
    let place = format!("/{}", unique());
    let in_place = |config: &mut Value| config["linux"]["cgroupsPath"] = place.as_str().into();
    let (first, second) = (Bundle::changed(SLEEP, in_place), Bundle::changed(SLEEP, in_place));
    first.verb(&["run", "--detach"]).ok();
    assert_eq!(second.verb(&["create"]).code(), 1);
    second.verb(&["delete", "--force"]).ok();
    assert_eq!(first.status(), "running");
}

#[test]
fn a_pid_file_has_the_pid_and_nothing_else() {
    if !root() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    bundle.verb(&["create", "--pid-file", "pid"]).ok();
    let state: Value = serde_json::from_str(bundle.verb(&["state"]).ok()).unwrap();
    assert_eq!(fs::read_to_string(bundle.path("pid")).unwrap(), state["pid"].to_string());
    bundle.verb(&["start"]).ok();
    let exec = ["exec", "--detach", "--pid-file", "exec-pid", &bundle.id, "sleep", "1000"];
    bundle.command(&exec).ok();
    let pid = fs::read_to_string(bundle.path("exec-pid")).unwrap();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name, "sleep\n");
}

/// Receives the terminal from a socket, and the name in its message.
fn receive(listener: &UnixListener) -> (fs::File, String) {
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut name)];
    let bytes = recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = control.drain().next() else { panic!() };
    (fds.next().unwrap().into(), String::from_utf8_lossy(&name[..bytes]).into_owned())
}

#[test]
fn the_master_of_a_terminal_is_sent_to_the_console_socket() {
    if !root() {
        return;
    }
    let bundle = Bundle::changed("stty size; read line; echo got $line", |config| {
        config["process"]["terminal"] = true.into();
        config["process"]["consoleSize"] = json!({ "height": 11, "width": 22 });
    });
    let path = bundle.path("console");
    let listener = UnixListener::bind(&path).unwrap();
    let flag = ["--console-socket", path.to_str().unwrap()];
    bundle.verb(&[&["create"][..], &flag].concat()).ok();
    let (mut master, name) = receive(&listener);
    assert!(name.starts_with("/dev/p"), "{name}");
    bundle.verb(&["start"]).ok();
    master.write_all(b"typed\n").unwrap();
    let mut screen = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        screen.extend_from_slice(&buffer[..n]);
    }
    let screen = String::from_utf8_lossy(&screen);
    assert!(screen.contains("11 22\r\n") && screen.contains("got typed\r\n"), "{screen:?}");
}

#[test]
fn a_terminal_and_a_console_socket_go_together() {
    if !root() {
        return;
    }
    let terminal = Bundle::changed("true", |config| config["process"]["terminal"] = true.into());
    for verb in [&["create"][..], &["run", "--detach"]] {
        fails(&terminal.verb(verb), 1, "cannot allocate tty");
    }
    let none = Bundle::new("true");
    fails(&none.verb(&["create", "--console-socket", "nowhere"]), 1, "cannot use console socket");
    fails(&terminal.verb(&["create", "--console-socket", "nowhere"]), 1, "No such file or directory");
    fails(&terminal.verb(&["state"]), 1, "container does not exist");
}

#[test]
fn activation_sockets_come_before_preserved_descriptors() {
    if !root() {
        return;
    }
    let bundle = Bundle::new("cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd | wc -l");
    fs::write(bundle.path("one"), "first\n").unwrap();
    fs::write(bundle.path("two"), "second\n").unwrap();
    let run = |before: &str, flag: &str| {
        let state = bundle.path("state");
        let (state, id) = (state.display(), &bundle.id);
        let script = format!("{before} exec {OCI} --root {state} run {flag} {id} 3<one 4<two 5<two");
        bundle.run(Command::new("sh").args(["-c", &script]).current_dir(bundle.path("")))
    };
    let both = run("LISTEN_FDS=1 LISTEN_PID=$$", "--preserve-fds 1");
    assert!(both.out.starts_with("first\nsecond\n1 1\n"), "{both:?}");
    let others = run("LISTEN_FDS=1 LISTEN_PID=1", "--preserve-fds 2");
    assert!(others.out.starts_with("first\nsecond\n\n"), "{others:?}");
    let neither = run("", "");
    assert!(!neither.out.contains("first"), "{neither:?}");
    // Descriptors that the program opens itself do not count as the caller's.
    fails(&run("", "--preserve-fds 4"), 1, "cannot pass on descriptor 6");
}

#[test]
fn a_service_can_report_that_it_is_ready() {
    if !root() {
        return;
    }
    let bundle = Bundle::new("echo $NOTIFY_SOCKET; test -S $NOTIFY_SOCKET && echo there");
    let path = bundle.path("notify");
    let _socket = UnixDatagram::bind(&path).unwrap();
    let output = run_with(bundle.raw(&["run", &bundle.id]).env("NOTIFY_SOCKET", &path), "");
    assert_eq!(output.ok(), format!("{}\nthere\n", path.display()));
}

#[test]
fn the_images_of_an_earlier_checkpoint_are_named_relative_to_the_new_ones() {
    if !root() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    bundle.verb(&["run", "--detach"]).ok();
    fs::write(bundle.path("file"), "").unwrap();
    for (path, words) in [
        ("/before", "--parent-path: /before is not relative to --image-path"),
        ("../before", "--parent-path: cannot find the images of the earlier --pre-dump at images/../before"),
        ("../file", "--parent-path: images/../file is not a directory"),
    ] {
        fails(&bundle.verb(&["checkpoint", "--image-path", "images", "--parent-path", path]), 1, words);
    }
    assert_eq!(bundle.status(), "running");
}

#[test]
fn missing_criu_or_systemd_is_reported() {
    if !root() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    bundle.verb(&["run", "--detach"]).ok();
    let output = run_with(bundle.raw(&["checkpoint", &bundle.id]).env("PATH", "/nowhere"), "");
    fails(&output, 1, "criu is not installed");
    assert_eq!(bundle.status(), "running");
    let other = Bundle::new("true");
    let nowhere = ["DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere"];
    if !Path::new("/run/systemd/private").exists() {
        let output =
            run_with(other.raw(&["--systemd-cgroup", "run", &other.id]).env(nowhere[0], nowhere[1]), "");
        fails(&output, 1, "cannot connect to systemd");
    }
    fails(&other.verb(&["state"]), 1, "container does not exist");
}

#[test]
fn a_container_without_a_cgroup_manager_stays_in_the_callers_cgroup() {
    if !root() {
        return;
    }
    let bundle = Bundle::changed("cat /proc/self/cgroup", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    });
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let run = ["--cgroup-manager", "disabled", "run", &bundle.id];
    assert_eq!(bundle.command(&run).ok(), own);
    bundle.edit(|config| config["linux"]["resources"]["pids"] = json!({ "limit": 7 }));
    let output = bundle.command(&run);
    assert_eq!((output.code(), &output.out), (0, &own));
    assert!(output.err.contains("linux.resources has no effect"), "{}", output.err);
}

#[test]
fn an_ordinary_user_runs_a_bundle_of_spec_rootless() {
    if !root() {
        return;
    }
    let bundle = Bundle::new("");
    fs::remove_file(bundle.path("config.json")).unwrap();
    bundle.command(&["spec", "--rootless"]).ok();
    bundle.edit(|config| {
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(["id"]);
        config["linux"]["uidMappings"][0]["hostID"] = 65_534.into();
        config["linux"]["gidMappings"][0]["hostID"] = 65_534.into();
    });
    let program = bundle.path("nspod-oci");
    nspod_testkit::copy_program(OCI, &program);
    let runtime = bundle.path("runtime");
    fs::create_dir(&runtime).unwrap();
    nix::unistd::chown(&runtime, Some(65_534.into()), Some(65_534.into())).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    command.args(["run", &bundle.id]).current_dir(bundle.path("")).env("XDG_RUNTIME_DIR", &runtime);
    let output = run_with(&mut command, "");
    assert!(output.ok().starts_with("uid=0 gid=0"), "{output:?}");
    assert_eq!(fs::read_dir(runtime.join("nspod-oci")).unwrap().count(), 0);
}

#[test]
fn exec_is_refused_while_the_root_of_the_container_is_the_hosts() {
    if !root() {
        return;
    }
    let bundle = Bundle::new("true");
    let (state, said) = (bundle.path("state"), bundle.path("said"));
    let line =
        format!("{OCI} --root {} exec {} true 2> {}; true", state.display(), bundle.id, said.display());
    bundle.edit(|config| {
        config["hooks"]["createRuntime"] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", line] }]);
    });
    bundle.verb(&["run"]).ok();
    let said = fs::read_to_string(said).unwrap();
    assert!(said.contains("cannot exec in a container that is being created"), "{said}");
}

#[test]
fn many_concurrent_forced_deletes_succeed() {
    if !root() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    let delete = || bundle.raw(&["delete", "--force", &bundle.id]).stdin(Stdio::null()).status().unwrap();
    for _ in 0..5 {
        bundle.verb(&["create"]).ok();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(delete)).collect();
            assert!(all.into_iter().all(|one| one.join().unwrap().success()));
        });
    }
}

#[test]
fn exec_into_a_container_that_is_being_deleted_fails_with_a_clear_message() {
    if !root() {
        return;
    }
    let bundle = Bundle::new(SLEEP);
    let exec = || run_with(&mut bundle.raw(&["exec", &bundle.id, "true"]), "");
    for round in 0..4 {
        bundle.verb(&["run", "--detach"]).ok();
        let cgroup = bundle.cgroup();
        let ends: Vec<Output> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|number| {
                    scope.spawn(move || {
                        std::thread::sleep(Duration::from_millis(number * 2));
                        exec()
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(8 + round * 5));
            let deleted =
                bundle.raw(&["delete", "--force", &bundle.id]).stdin(Stdio::null()).status().unwrap();
            assert!(deleted.success());
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for end in ends.iter().filter(|end| !matches!(end.code(), 0 | 137)) {
            let words = ["cannot exec in a stopped container", "container does not exist"];
            assert!(words.iter().any(|words| end.err.contains(words)), "{end:?}");
        }
        assert!(!cgroup.exists() && !bundle.path("state").join(&bundle.id).exists());
    }
}

#[test]
fn a_poststop_hook_that_hangs_holds_nothing_of_the_container() {
    if !root() {
        return;
    }
    for verb in [&["delete", "--force"][..], &["run"]] {
        let bundle = Bundle::new(if verb == ["run"] { "true" } else { SLEEP });
        let note = bundle.path("hook").display().to_string();
        let script = format!("exec 1> {note}; echo $$; exec sleep 1000");
        bundle.edit(|config| {
            config["hooks"]["poststop"] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
        });
        let mut held = None;
        if verb != ["run"] {
            bundle.verb(&["run", "--detach"]).ok();
            let state: Value = serde_json::from_str(bundle.verb(&["state"]).ok()).unwrap();
            held = Some((bundle.cgroup(), PathBuf::from(format!("/proc/{}/ns/mnt", state["pid"]))));
        }
        let mut line = bundle.raw(&[verb, &[&bundle.id]].concat());
        line.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        // SIGINT must end the runtime, but the process that runs the tests may ignore it.
        nspod_sandbox::inherit_nothing(&mut line);
        let mut hanging = line.spawn().unwrap();
        eventually("the hook runs", || {
            fs::read_to_string(bundle.path("hook")).is_ok_and(|pid| !pid.is_empty())
        });
        if let Some((cgroup, mounts)) = held {
            assert!(!cgroup.exists() && fs::read_link(mounts).is_err());
        }
        fails(&bundle.verb(&["state"]), 1, "container does not exist");
        // Ctrl-C sends the signal to the runtime and to the hook.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(hanging.id() as i32), nix::sys::signal::SIGINT)
            .unwrap();
        assert_eq!(end_of(&mut hanging).signal(), Some(2));
        let hook = fs::read_to_string(bundle.path("hook")).unwrap();
        run_with(Command::new("kill").arg(hook.trim()), "").ok();
        bundle.verb(&["delete", "--force"]).ok();
    }
}

#[test]
fn an_unusable_state_directory_is_reported_with_the_cure() {
    if !root() {
        return;
    }
    let bundle = Bundle::new("");
    let list = |command: &mut Command, at: &str| {
        let list = command.arg("--root").arg(bundle.path(at)).arg("list").env_remove("XDG_RUNTIME_DIR");
        run_with(list, "")
    };
    fs::write(bundle.path("file"), "").unwrap();
    fs::create_dir(bundle.path("ours")).unwrap();
    fs::set_permissions(bundle.path("ours"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("ours", bundle.path("link")).unwrap();
    let cure = "name another directory with --root";
    for at in ["file", "file/below"] {
        let said = list(&mut Command::new(OCI), at);
        fails(
            &said,
            1,
            &format!("(ENOTDIR); {} is not a directory: remove it, or {cure}", bundle.path("file").display()),
        );
    }
    let link = list(&mut Command::new(OCI), "link");
    fails(&link, 1, "link is a symbolic link, which is not followed: remove it, or");
    list(&mut Command::new(OCI), "link/below").ok();
    let program = bundle.path("nspod-oci");
    nspod_testkit::copy_program(OCI, &program);
    for (at, way) in [("ours", "ours"), ("ours/below", "ours"), ("new", "")] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        let said = list(&mut command, at);
        let (way, mode) = (bundle.path(way), if way.is_empty() { 755 } else { 700 });
        let way = way.display().to_string();
        let way = way.trim_end_matches('/');
        fails(
            &said,
            1,
            &format!(
                "(EACCES); {way} has owner 0 and mode {mode}, and the caller has uid 65534: run as uid 0, or {cure}"
            ),
        );
    }
}

#[test]
fn a_held_container_has_neither_the_runtimes_file_nor_its_environment() {
    if !root() {
        return;
    }
    for user_namespace in [false, true] {
        let bundle = Bundle::changed(SLEEP, |config| {
            if user_namespace {
                let same = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
                let linux = &mut config["linux"];
                linux["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
                (linux["uidMappings"], linux["gidMappings"]) = (same.clone(), same);
            }
        });
        bundle.run(bundle.raw(&["create", &bundle.id]).env("NSPOD_TEST_SECRET", "of-the-host")).ok();
        let state: Value = serde_json::from_str(bundle.verb(&["state"]).ok()).unwrap();
        let init = format!("/proc/{}", state["pid"]);
        let (theirs, ours) = (fs::metadata(format!("{init}/exe")).unwrap(), fs::metadata(OCI).unwrap());
        assert_ne!((theirs.dev(), theirs.ino()), (ours.dev(), ours.ino()));
        assert_eq!(fs::read(format!("{init}/environ")).unwrap(), b"");
        let maps = fs::read_to_string(format!("{init}/maps")).unwrap();
        assert!(!maps.contains(OCI) && !maps.contains("[heap]"), "{maps}");
        bundle.verb(&["start"]).ok();
        bundle.wait_for("running");
        let environ = ["exec", "--cap", "CAP_SYS_PTRACE", &bundle.id, "cat", "/proc/1/environ"];
        assert!(bundle.command(&environ).ok().contains("PATH="));
    }
}

#[test]
fn a_configuration_pipe_without_a_writer_does_not_block() {
    let bundle = Bundle::new("");
    fs::remove_file(bundle.path("config.json")).unwrap();
    let made = Command::new("mkfifo").arg(bundle.path("config.json")).status().unwrap();
    assert!(made.success());
    let output = bundle.command(&["create", "--bundle", bundle.path("").to_str().unwrap(), &bundle.id]);
    assert_eq!(output.code(), 1, "{}", output.err);
    assert!(output.err.contains("config.json: this is not a file"), "{}", output.err);
}
