//! A container is written to images by criu, and continues from them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use cgroup_core::Controllers;
use serde_json::{Value, json};

use crate::bundle::{Bundle, ConsoleSocket, cgroups, ours, pid_of, runtime_lacks};
use crate::common::{self, Output, end_of, eventually, root, run_with, skip};

/// Returns whether the runtime can checkpoint, and the kernel supports criu. If not, the test is skipped.
fn able() -> bool {
    if !root() || runtime_lacks(&["crun"], "Debian's package is built without criu") {
        return false;
    }
    if !Command::new("criu").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip("criu is not installed");
        return false;
    }
    let check = run_with(Command::new("criu").arg("check"), "");
    if check.code() != 0 {
        skip(&format!("`criu check` fails: {}", check.err.lines().next().unwrap_or_default()));
    }
    check.code() == 0
}

/// A container that counts in memory. The target of the link `/tmp/count` is the counter and a word that is
/// random for each start. It ends when `/tmp/stop` exists.
///
/// The container has no file open: criu restores a process only if each file that the process had open is
/// there, and the next step of the program renames such a file.
fn counter() -> Bundle {
    Bundle::sh(
        "word=$(cat /proc/sys/kernel/random/uuid); i=0
         until [ -e /tmp/stop ]; do i=$((i + 1)); ln -s \"$word $i\" /tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done
         echo stopped; exit 7",
    )
}

/// Returns the word and the counter.
fn count(bundle: &Bundle) -> Option<(String, u32)> {
    let target = fs::read_link(bundle.path("rootfs/tmp/count")).ok()?;
    let (word, count) = target.to_str()?.split_once(' ')?;
    Some((word.into(), count.parse().unwrap()))
}

fn goes_on(bundle: &Bundle) -> (String, u32) {
    let mut last = None;
    eventually("it counts", || {
        let before = last.replace(count(bundle)).flatten();
        before.is_some() && last != Some(before)
    });
    last.flatten().unwrap()
}

/// Starts the container without descriptors of the caller: runc cannot checkpoint a container that has an
/// open file outside.
fn up(bundle: Bundle) -> Bundle {
    bundle.write_config();
    let mut command = bundle.command(&["run", "--detach", bundle.id()]);
    assert!(end_of(&mut command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()).success());
    bundle
}

/// Restores the container without an output file of the caller.
fn restored(bundle: &Bundle, flags: &[&str]) {
    let args = [&["restore", "--image-path", "images", "--detach"], flags, &[bundle.id()]].concat();
    let mut command = bundle.command(&args);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let err = || fs::read_to_string(bundle.path("restore.err")).unwrap();
    assert!(end_of(&mut child).success(), "{}", err());
}

fn checkpoint(bundle: &Bundle, flags: &[&str]) -> Output {
    bundle.verb(&[&["checkpoint", "--image-path", "images"], flags, &[bundle.id()]].concat())
}

fn restore(bundle: &Bundle, flags: &[&str]) -> Output {
    bundle.verb(&[&["restore", "--image-path", "images"], flags, &[bundle.id()]].concat())
}

#[test]
fn a_checkpointed_container_continues_where_it_was() {
    if !able() {
        return;
    }
    let bundle = up(counter());
    let (word, _) = goes_on(&bundle);
    let pid = bundle.pid();
    checkpoint(&bundle, &["--leave-running"]).ok();
    assert_eq!((bundle.pid(), bundle.status().as_str()), (pid, "running"));
    goes_on(&bundle);
    fs::remove_dir_all(bundle.path("images")).unwrap();
    checkpoint(&bundle, &[]).ok();
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0, "it is not gone");
    let (_, then) = count(&bundle).unwrap();
    fs::remove_file(bundle.path("rootfs/tmp/count")).unwrap();

    restored(&bundle, &["--pid-file", "pid"]);
    let (same, now) = goes_on(&bundle);
    assert_eq!(same, word);
    assert!(now > then && now < then + 10_000, "{then} and then {now}");
    assert_eq!(bundle.status(), "running");
    assert_eq!(fs::read_to_string(bundle.path("pid")).unwrap(), bundle.pid().to_string());
    // The restored container can be checkpointed and restored again.
    fs::remove_dir_all(bundle.path("images")).unwrap();
    checkpoint(&bundle, &[]).ok();
    if runtime_lacks(&["crun", "runc"], "--pidfd-socket requires version 1.2") {
        restored(&bundle, &[]);
    } else {
        let socket = ConsoleSocket::new();
        restored(&bundle, &["--pidfd-socket", socket.path()]);
        let (word, pidfd) = socket.received();
        assert_eq!((word.as_str(), pid_of(&pidfd)), ("standard", bundle.pid()));
    }
    assert_eq!(goes_on(&bundle).0, word);
    assert_eq!(bundle.verb(&["exec", bundle.id(), "cat", "/proc/1/comm"]).ok(), "sh\n");
    bundle.verb(&["kill", bundle.id(), "KILL"]).ok();
    bundle.wait_until("stopped");
    bundle.delete(&[]);
}

#[test]
fn a_restored_container_is_in_its_own_cgroup_with_its_limits() {
    if !able() || !cgroups(Controllers::PIDS | Controllers::MEMORY) {
        return;
    }
    let bundle = up(counter()
        .set("/linux/resources", json!({ "pids": { "limit": 50 }, "memory": { "limit": 67_108_864 } })));
    goes_on(&bundle);
    let (cgroup, limit) = (bundle.cgroup(), |name: &str| bundle.cgroup().join(name));
    checkpoint(&bundle, &[]).ok();
    assert!(!cgroup.exists());
    restored(&bundle, &[]);
    goes_on(&bundle);
    assert_eq!(bundle.cgroup(), cgroup);
    assert_eq!(fs::read_to_string(limit("pids.max")).unwrap(), "50\n");
    assert_eq!(fs::read_to_string(limit("memory.max")).unwrap(), "67108864\n");
    assert_eq!(bundle.verb(&["ps", bundle.id()]).code(), 0);
    bundle.delete(&["--force"]);
    assert!(!cgroup.exists());
    if !ours() {
        return;
    }
    // A container that is restored under another name gets another cgroup, also if criu ignores cgroups.
    for (flags, id) in [(&[][..], "other"), (&["--manage-cgroups-mode", "ignore"], "third")] {
        let id = format!("{}-{id}", bundle.id());
        let args = [&["restore", "--image-path", "images", "--detach"], flags, &[&id]].concat();
        bundle.verb(&args).ok();
        goes_on(&bundle);
        let own = bundle.verb(&["exec", &id, "cat", "/proc/1/cgroup"]);
        bundle.verb(&["delete", "--force", &id]).ok();
        assert!(own.ok().ends_with(&format!("{id}\n")), "{own:?}");
    }
}

/// Checkpoints the container, restores it in the foreground, and stops its program when it counts again.
fn stopped_after_restore(bundle: &Bundle) -> Output {
    checkpoint(bundle, &[]).ok();
    fs::remove_file(bundle.path("rootfs/tmp/count")).unwrap();
    thread::scope(|scope| {
        let restored = scope.spawn(|| restore(bundle, &[]));
        goes_on(bundle);
        fs::write(bundle.path("rootfs/tmp/stop"), "").unwrap();
        restored.join().unwrap()
    })
}

#[test]
fn restore_in_foreground_prints_output_and_returns_exit_code() {
    if !able() || runtime_lacks(&["runc"], "it cannot checkpoint a container with an output file outside") {
        return;
    }
    let bundle = counter().up();
    goes_on(&bundle);
    let output = stopped_after_restore(&bundle);
    assert_eq!((output.code(), output.out.as_str()), (7, "stopped\n"), "{}", output.err);
    assert_eq!(bundle.printed("create"), "");
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0, "it is not deleted");
}

#[test]
fn a_program_that_has_redirected_its_output_has_the_callers_again() {
    if !able() || runtime_lacks(&["runc"], "it cannot checkpoint a container with an output file outside") {
        return;
    }
    // While the shell counts, its standard output is a file of the container, and another descriptor is the
    // caller's.
    let bundle = Bundle::sh(
        "{ i=0
           until [ -e /tmp/stop ]; do i=$((i + 1)); ln -s \"x $i\" /tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done
         } > /tmp/inside 2> /tmp/errors
         echo stopped; echo failed >&2; exit 7",
    )
    .up();
    goes_on(&bundle);
    let output = stopped_after_restore(&bundle);
    assert_eq!((output.code(), output.out.as_str(), output.err.as_str()), (7, "stopped\n", "failed\n"));
}

#[test]
fn restore_in_foreground_forwards_signals() {
    if !able() || runtime_lacks(&["runc"], "it cannot checkpoint a container with an output file outside") {
        return;
    }
    let bundle = Bundle::sh("trap 'echo told; exit 9' TERM; i=0; while true; do i=$((i + 1)); ln -s \"x $i\" /tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done").up();
    goes_on(&bundle);
    checkpoint(&bundle, &[]).ok();
    fs::remove_file(bundle.path("rootfs/tmp/count")).unwrap();
    let mut restored = bundle.command(&["restore", "--image-path", "images", bundle.id()]).spawn().unwrap();
    goes_on(&bundle);
    run_with(Command::new("kill").arg(restored.id().to_string()), "").ok();
    assert_eq!(end_of(&mut restored).code(), Some(9));
    assert_eq!(bundle.printed("restore"), "told\n");
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0, "it is not deleted");
}

#[test]
fn restore_connects_the_pipes_of_its_caller() {
    if !able() {
        return;
    }
    let bundle = counter();
    bundle.write_config();
    let piped = |args: &[&str]| {
        common::Guard({
            let mut command = bundle.command(args);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
        })
    };
    let first = piped(&["run", "--detach", bundle.id()]);
    goes_on(&bundle);
    checkpoint(&bundle, &[]).ok();
    drop(first);
    let mut second = piped(&["restore", "--image-path", "images", "--detach", bundle.id()]);
    goes_on(&bundle);
    fs::write(bundle.path("rootfs/tmp/stop"), "").unwrap();
    let said = std::io::read_to_string(second.0.stdout.take().unwrap()).unwrap();
    assert_eq!(said, "stopped\n");
}

#[test]
fn mounts_from_outside_are_restored() {
    if !able() {
        return;
    }
    let bundle = counter().file("dir/a", "a directory's").file("file", "a file's").file("rootfs/run/x", "");
    std::os::unix::fs::symlink("/run", bundle.path("rootfs/linked")).unwrap();
    let bind = |from: &str, to: &str| json!({ "destination": to, "type": "bind", "source": bundle.path(from), "options": ["rbind"] });
    let mounts = [bind("dir", "/outside"), bind("file", "/linked/file")];
    let [dir, file] = mounts;
    let masked = json!(["/proc/kcore", "/proc/acpi", "/sys/firmware", "/proc/nothing"]);
    let bundle = bundle.mount(dir).mount(file).set("/linux/maskedPaths", masked);
    let bundle = bundle.set("/linux/readonlyPaths", json!(["/proc/sys"]));
    let bundle = up(bundle);
    let look = |bundle: &Bundle| {
        let script = "cat /outside/a /run/file; head -c 1 /proc/kcore; ls /sys/firmware; grep -c . /proc/mounts; \
            echo > /proc/sys/kernel/hostname";
        let output = bundle.verb(&["exec", bundle.id(), "sh", "-c", script]);
        (output.out.clone(), output.err.contains("Read-only file system"))
    };
    goes_on(&bundle);
    let before = look(&bundle);
    assert!(before.0.starts_with("a directory'sa file's") && before.1, "{before:?}");
    checkpoint(&bundle, &[]).ok();
    restored(&bundle, &[]);
    goes_on(&bundle);
    assert_eq!(look(&bundle), before);
}

#[test]
fn a_paused_container_can_be_checkpointed() {
    if !able() || runtime_lacks(&["runc"], "it rejects this") || !cgroups(Controllers::empty()) {
        return;
    }
    let bundle = up(counter());
    goes_on(&bundle);
    bundle.verb(&["pause", bundle.id()]).ok();
    checkpoint(&bundle, &[]).ok();
    restored(&bundle, &[]);
    goes_on(&bundle);
    assert_eq!(bundle.status(), "running");
}

#[test]
fn a_failure_reports_the_reason_of_criu_and_changes_nothing() {
    if !able() {
        return;
    }
    let bundle = counter();
    bundle.create();
    let words = |output: &Output, ours_alone: &str| {
        assert_ne!(output.code(), 0, "{output:?}");
        assert!(!ours() || output.err.contains(ours_alone), "{ours_alone:?} is not in {}", output.err);
    };
    words(&checkpoint(&bundle, &[]), "cannot be checkpointed in created state");
    bundle.start();
    goes_on(&bundle);
    words(&checkpoint(&bundle, &["--page-server", "127.0.0.1:1"]), "criu failed: (00.");
    goes_on(&bundle);
    assert_eq!(bundle.status(), "running");
    let cgroup = bundle.cgroup();
    bundle.delete(&["--force"]);
    fs::create_dir_all(bundle.path("images")).unwrap();
    words(&restore(&bundle, &["--detach"]), "criu failed: (00.");
    assert_ne!(bundle.verb(&["state", bundle.id()]).code(), 0, "a container is left");
    assert!(!cgroup.exists(), "a cgroup is left");
}

/// Checks that nothing of a container is left: state, cgroup, mounts and processes. The root has its files.
#[track_caller]
fn nothing_is_left(bundle: &Bundle, cgroup: Option<&Path>) {
    let state: Vec<_> =
        fs::read_dir(bundle.path("state")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(state.is_empty(), "{state:?}");
    assert!(cgroup.is_none_or(|cgroup| !cgroup.exists()), "a cgroup is left");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = bundle.path("");
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(dir.to_str().unwrap())).collect();
    assert!(left.is_empty(), "{left:?}");
    eventually("its processes have ended", || bundle.processes().is_empty());
    assert!(bundle.path("rootfs/bin/busybox").exists(), "the root is empty");
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    if !able() || !ours() || !cgroups(Controllers::PIDS | Controllers::MEMORY) {
        return;
    }
    let bundle = up(counter().file("outside", "").mount(json!({
        "destination": "/tmp/outside", "type": "bind", "options": ["bind"], "source": "outside",
    })));
    goes_on(&bundle);
    let cgroup = bundle.cgroup();
    checkpoint(&bundle, &[]).ok();
    let fails = |expected: &str| {
        let output = restore(&bundle, &["--detach"]);
        assert_ne!(output.code(), 0, "{expected}");
        assert!(output.err.contains(expected), "{expected:?} is not in {}", output.err);
        nothing_is_left(&bundle, Some(&cgroup));
    };
    // criu reads the first before it starts a process, and the last when the processes exist.
    for (name, kept) in [("inventory.img", None), ("core-1.img", Some(100)), ("pagemap-1.img", None)] {
        let path = bundle.path("images").join(name);
        let bytes = fs::read(&path).unwrap();
        match kept {
            None => fs::remove_file(&path).unwrap(),
            Some(length) => fs::write(&path, &bytes[..length]).unwrap(),
        }
        fails("criu failed");
        fs::write(&path, bytes).unwrap();
    }
    fs::rename(bundle.path("outside"), bundle.path("elsewhere")).unwrap();
    fails("criu failed");
    fs::rename(bundle.path("elsewhere"), bundle.path("outside")).unwrap();
    let config = fs::read_to_string(bundle.path("config.json")).unwrap();
    for resources in [json!({ "pids": { "limit": 2 } }), json!({ "memory": { "limit": 1_048_576 } })] {
        let mut limited: Value = serde_json::from_str(&config).unwrap();
        limited["linux"]["resources"] = resources;
        fs::write(bundle.path("config.json"), limited.to_string()).unwrap();
        fails("criu failed");
    }
    fs::write(bundle.path("config.json"), config).unwrap();
    let args = ["--detach", "--pid-file", "/not/there/pid"];
    assert!(restore(&bundle, &args).err.contains("/not/there/pid"));
    nothing_is_left(&bundle, Some(&cgroup));
    // The images are still good.
    restored(&bundle, &[]);
    goes_on(&bundle);
}

#[test]
fn a_restore_that_is_killed_half_way_leaves_the_root_its_files() {
    if !root() || !ours() {
        return;
    }
    // A program that is called criu, so that the restore is killed while the root is mounted for criu.
    let bundle = Bundle::of(&["true"]).file("path/criu", "#!/bin/sh\nexec sleep 1000\n");
    bundle.write_config();
    fs::create_dir(bundle.path("images")).unwrap();
    let path = format!("{}:{}", bundle.path("path").display(), std::env::var("PATH").unwrap());
    let mut restored = bundle.command(&["restore", "--image-path", "images", bundle.id()]);
    let mut restored = common::Guard(restored.env("PATH", path).spawn().unwrap());
    let there = bundle.path(&format!("state/{}/criu-root/bin/busybox", bundle.id()));
    eventually("criu runs", || there.exists() && bundle.processes().len() == 2);
    let processes = bundle.processes();
    restored.0.kill().unwrap();
    restored.0.wait().unwrap();
    bundle.delete(&["--force"]);
    if cgroups(Controllers::empty()) {
        eventually("criu is killed with the container", || bundle.processes().is_empty());
    }
    for pid in processes.iter().filter(|pid| bundle.processes().contains(pid)) {
        run_with(Command::new("kill").arg(pid.to_string()), "").ok();
    }
    nothing_is_left(&bundle, None);
}

#[test]
fn restore_hands_over_the_terminal() {
    if !able() {
        return;
    }
    let bundle = Bundle::sh("word=$(cat /proc/sys/kernel/random/uuid); while read line; do echo \"$word <$line> $(stty size)\"; done")
        .set("/process/terminal", true)
        .set("/process/consoleSize", json!({ "height": 33, "width": 101 }));
    bundle.write_config();
    let socket = ConsoleSocket::new();
    bundle.verb(&["run", "--detach", "--console-socket", socket.path(), bundle.id()]).ok();
    let mut first = socket.terminal();
    first.type_in("one\n");
    first.expect(" <one> 33 101\r\n");
    let shown = first.shown();
    let word = shown.lines().find_map(|line| line.strip_suffix(" <one> 33 101")).unwrap();
    checkpoint(&bundle, &[]).ok();
    if ours() {
        assert_ne!(restore(&bundle, &["--detach"]).code(), 0, "no process would receive its terminal");
    }
    let socket = ConsoleSocket::new();
    restored(&bundle, &["--console-socket", socket.path()]);
    let mut second = socket.terminal();
    second.type_in("two\n");
    second.expect(&format!("{word} <two> 33 101\r\n"));
    assert_eq!(bundle.verb(&["exec", bundle.id(), "readlink", "/proc/1/fd/0"]).ok(), "/dev/pts/0\n");
    if runtime_lacks(&["runc"], "in the foreground it requires the caller's terminal") {
        return;
    }
    fs::remove_dir_all(bundle.path("images")).unwrap();
    checkpoint(&bundle, &[]).ok();
    let output = bundle.verb_with(&["restore", "--image-path", "images", bundle.id()], "three\n");
    assert_eq!(output.code(), 0, "{}", output.err);
    assert!(output.out.contains(&format!("{word} <three> 33 101\r\n")), "{}", output.out);
}

#[test]
fn an_open_removed_file_is_linked_to_a_name_if_allowed() {
    if !able() || runtime_lacks(&["runc"], "--link-remap requires version 1.3") {
        return;
    }
    let bundle = Bundle::sh(
        "echo kept > /tmp/file; ln /tmp/file /tmp/link; exec 3< /tmp/file; rm /tmp/file
         i=0; until [ -e /tmp/stop ]; do i=$((i + 1)); ln -s \"x $i\" /tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done
         cat <&3 > /tmp/read",
    );
    let bundle = up(bundle);
    goes_on(&bundle);
    assert_ne!(checkpoint(&bundle, &[]).code(), 0);
    fs::remove_dir_all(bundle.path("images")).unwrap();
    checkpoint(&bundle, &["--link-remap", "--tcp-skip-in-flight"]).ok();
    restored(&bundle, &[]);
    goes_on(&bundle);
    fs::write(bundle.path("rootfs/tmp/stop"), "").unwrap();
    bundle.wait_until("stopped");
    assert_eq!(fs::read_to_string(bundle.path("rootfs/tmp/read")).unwrap(), "kept\n");
}

#[test]
fn a_pre_dump_writes_memory_to_which_the_checkpoint_refers() {
    if !able() {
        return;
    }
    let bundle = up(counter());
    let (word, _) = goes_on(&bundle);
    bundle.verb(&["checkpoint", "--pre-dump", "--image-path", "before", bundle.id()]).ok();
    goes_on(&bundle);
    checkpoint(&bundle, &["--parent-path", "../before"]).ok();
    assert!(bundle.path("images/parent").exists());
    restored(&bundle, &[]);
    assert_eq!(goes_on(&bundle).0, word);
}
