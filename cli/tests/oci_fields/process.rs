//! The field `process`, except seccomp.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::bundle::{Bundle, ConsoleSocket, ours, runtime_lacks};
use crate::common::{Output, end_of, eventually, run_with, skip, unique};

#[test]
fn a_terminal_has_its_size_and_is_sent_to_the_console_socket() {
    let script = "stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo three; \
        stat -c '%t:%T' /dev/console; echo controls > /dev/tty; echo console > /dev/console; \
        read line; echo \"<$line>\"";
    let bundle = Bundle::sh(script)
        .set("/process/terminal", true)
        .set("/process/consoleSize", json!({ "height": 33, "width": 101 }));
    bundle.write_config();
    let socket = ConsoleSocket::new();
    bundle.verb(&["create", "--console-socket", socket.path(), bundle.id()]).ok();
    let mut terminal = socket.terminal();
    bundle.start();
    for line in ["33 101", "/dev/pts/0", "three", "88:0", "controls", "console"] {
        terminal.expect(&format!("{line}\r\n"));
    }
    terminal.type_in("typed\n");
    terminal.expect("<typed>\r\n");
    bundle.wait_until("stopped");
}

#[test]
fn a_terminal_belongs_to_the_user() {
    let bundle = Bundle::sh("stat -c %u /dev/pts/0; echo mine > /dev/tty")
        .set("/process/terminal", true)
        .set("/process/user/uid", 1000);
    bundle.write_config();
    let socket = ConsoleSocket::new();
    bundle.verb(&["run", "--detach", "--console-socket", socket.path(), bundle.id()]).ok();
    let terminal = socket.terminal();
    terminal.expect("1000\r\n");
    terminal.expect("mine\r\n");
}

#[test]
fn a_detached_terminal_and_a_console_socket_require_each_other() {
    let bundle = Bundle::sh("true").set("/process/terminal", true);
    bundle.write_config();
    assert_ne!(bundle.verb(&["create", bundle.id()]).code(), 0);
    if runtime_lacks(&["crun"], "a console socket without a terminal is ignored") {
        return;
    }
    let (bundle, socket) = (Bundle::sh("true"), ConsoleSocket::new());
    bundle.write_config();
    assert_ne!(bundle.verb(&["create", "--console-socket", socket.path(), bundle.id()]).code(), 0);
}

#[test]
fn user_group_and_additional_groups_are_set() {
    let bundle = Bundle::sh("id -u; id -g; awk '/^(Uid|Gid|Groups)/ { $1 = $1; print }' /proc/self/status")
        .set(
            "/process/user",
            json!({ "uid": 1000, "gid": 2000, "additionalGids": [3000, 4000, 2_000_000_000] }),
        );
    let want = "1000\n2000\nUid: 1000 1000 1000 1000\nGid: 2000 2000 2000 2000\n";
    let output = bundle.run();
    let (ids, groups) = output.ok().split_once("Groups: ").unwrap();
    assert_eq!(ids, want);
    let mut groups: Vec<_> = groups.split_whitespace().collect();
    groups.retain(|&group| group != "2000"); // Some add the group itself.
    assert_eq!(groups, ["3000", "4000", "2000000000"]);
}

#[test]
fn the_callers_groups_are_dropped() {
    let groups = "awk '/^Groups/ { $1 = \"\"; print }' /proc/self/status";
    let output = Bundle::sh(groups).before("exec setpriv --groups 4,24 \"$@\"").run();
    assert!(["", "0"].contains(&output.ok().trim()), "{}", output.out);
}

#[test]
fn umask() {
    assert_eq!(Bundle::sh("umask").set("/process/user/umask", 0o27).run().ok(), "0027\n");
    let bundle = Bundle::sh("umask");
    let mut command = Command::new("sh");
    // The specification leaves the default umask to the runtime, and all runtimes use this one.
    bundle.write_config();
    let runtime = bundle.command(&["run", bundle.id()]);
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    let output = command.current_dir(bundle.path("")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0022\n", "{output:?}");
}

#[test]
fn arguments_arrive_as_they_are() {
    let bundle =
        Bundle::of(&["/bin/sh", "-c", "printf '<%s>' \"$0\" \"$@\"", "a b", "", "ü*", "-x", "\"'\\\n"]);
    assert_eq!(bundle.run().ok(), "<a b><><ü*><-x><\"'\\\n>");
}

#[test]
fn the_environment_is_exactly_the_configured_one() {
    let bundle =
        Bundle::of(&["env"]).set("/process/env", json!(["PATH=/bin", "HOME=/h", "EMPTY=", "A=b c=d"]));
    let output = bundle.run();
    let mut lines: Vec<_> = output.ok().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b c=d", "EMPTY=", "HOME=/h", "PATH=/bin"]);
}

#[test]
fn an_unset_home_comes_from_the_images_passwd() {
    let bundle = Bundle::sh("echo $HOME")
        .file("rootfs/etc/passwd", "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/tmp:/bin/sh\n")
        .set("/process/env", json!(["PATH=/bin"]))
        .set("/process/user/uid", 1000);
    assert_eq!(bundle.run().ok(), "/tmp\n");
}

#[test]
fn an_empty_home_comes_from_the_images_passwd() {
    if runtime_lacks(&["crun", "runc"], "it stays empty; runc sets it since 1.3") {
        return;
    }
    let passwd = "root:x:0:0::/home/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n";
    let bundle = Bundle::sh("env | grep HOME; sleep 1000")
        .file("rootfs/etc/passwd", passwd)
        .set("/process/env", json!(["HOME=/other", "PATH=/bin", "HOME="]))
        .set("/process/user/uid", 1000)
        .up();
    eventually("it prints", || bundle.printed("create") == "HOME=/home/me\n");
    let exec = |flags: &[&str]| {
        let args = [&["exec"], flags, &[bundle.id(), "sh", "-c", "env | grep HOME"]].concat();
        bundle.verb(&args).ok().to_owned()
    };
    assert_eq!(exec(&["--user", "0", "--env", "HOME="]), "HOME=/home/root\n");
    assert_eq!(exec(&["--user", "7:7", "--env", "HOME="]), "HOME=/\n");
    assert_eq!(exec(&["--env", "HOME=/mine"]), "HOME=/mine\n");
}

#[test]
fn the_last_value_of_a_variable_wins() {
    let env = json!(["A=first", "PATH=/none", "A=second", "PATH=/bin", "HOME=/h"]);
    let sorted = |output: Output| {
        let mut lines: Vec<_> = output.ok().lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let bundle = Bundle::of(&["env"]).set("/process/env", env.clone());
    if !runtime_lacks(&["crun"], "the first PATH is searched") {
        assert_eq!(sorted(bundle.run()), ["A=second", "HOME=/h", "PATH=/bin"]);
    }
    let process = json!({ "args": ["env"], "cwd": "/", "env": env, "user": { "uid": 0, "gid": 0 } });
    let bundle = Bundle::of(&["sleep", "1000"]).file("process.json", &process.to_string());
    let bundle = bundle.set("/process/env/-", "A=configured").up();
    if !runtime_lacks(&["crun"], "the first PATH is searched") {
        let file = bundle.path("process.json").to_str().unwrap().to_owned();
        let output = bundle.verb(&["exec", "--process", &file, bundle.id()]);
        assert_eq!(sorted(output), ["A=second", "HOME=/h", "PATH=/bin"]);
    }
    if !runtime_lacks(&["crun"], "--env replaces the environment instead of adding to it") {
        let flags = ["-e", "A=x", "-e", "A=flag=2", "-e", "B="];
        let output = bundle.verb(&[&["exec"], &flags[..], &[bundle.id(), "env"]].concat());
        assert_eq!(sorted(output), ["A=flag=2", "B=", "HOME=/root", "PATH=/bin"]);
    }
}

#[test]
fn a_passwd_that_is_not_a_regular_file_is_not_opened_and_home_is_the_root() {
    let bundle = || {
        Bundle::sh("exec 3<>/etc/passwd; echo started; exec sleep 1000")
            .set("/process/env", json!(["PATH=/bin"]))
            .set("/process/user/uid", 1000)
    };
    // The device node has a number without a driver.
    let device = bundle().set("/process/args", json!(["/bin/sh", "-c", "exec echo $HOME"]));
    let args = ["rootfs/etc/passwd", "c", "511", "1"];
    assert!(Command::new("mknod").args(args).current_dir(device.path("")).status().unwrap().success());
    let output = device.run();
    assert_eq!((output.code(), &output.out[..]), (0, "/\n"), "{}", output.err);
    assert!(!ours() || output.err.contains("etc/passwd: it is not a regular file"), "{}", output.err);
    if runtime_lacks(&["crun", "runc"], "a FIFO in place of passwd is read") {
        return;
    }
    let pipe = bundle();
    let mkfifo = Command::new("mkfifo").args(["-m", "666"]).arg(pipe.path("rootfs/etc/passwd")).status();
    assert!(mkfifo.unwrap().success());
    pipe.write_config();
    assert_eq!(pipe.verb(&["create", pipe.id()]).code(), 0);
    pipe.start();
    eventually("it holds the pipe open", || pipe.printed("create").contains("started"));
    assert_eq!(pipe.exec(&["/bin/sh", "-c", "echo $HOME"]).out, "/\n");
}

#[test]
fn a_program_is_searched_for_in_the_containers_path() {
    let bundle = Bundle::of(&["prog"])
        .file("rootfs/opt/prog", "#!/bin/sh\necho found\n")
        .set("/process/env", json!(["PATH=/none:/opt"]));
    assert_eq!(bundle.run().ok(), "found\n");
    // The program is not looked up among the host's files.
    Bundle::of(&["setsid"]).fails();
    Bundle::of(&[]).refused("process.args");
}

#[test]
fn the_working_directory_is_entered_and_created_if_missing() {
    assert_eq!(
        Bundle::sh("pwd; readlink /proc/self/cwd").set("/process/cwd", "/tmp").run().ok(),
        "/tmp\n/tmp\n"
    );
    assert_eq!(Bundle::sh("pwd").set("/process/cwd", "/not/there").run().ok(), "/not/there\n");
    if !runtime_lacks(&["crun"], "a relative path is accepted") {
        Bundle::sh("pwd").set("/process/cwd", "tmp").refused("process.cwd");
    }
}

#[test]
fn a_working_directory_that_only_root_or_only_the_user_may_enter_is_entered() {
    let closed = |bundle: Bundle, owner: (u32, u32), mode: u32| {
        let bundle = bundle.file("rootfs/closed/file", "").set("/process/cwd", "/closed");
        let closed = bundle.path("rootfs/closed");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&closed, Some(owner.0), Some(owner.1)).unwrap();
        bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).capabilities(&[])
    };
    let pwd = || Bundle::sh("/bin/pwd");
    assert_eq!(closed(pwd(), (0, 0), 0o700).run().ok(), "/closed\n");
    assert_eq!(closed(pwd(), (1000, 1000), 0o700).run().ok(), "/closed\n");
    // The owner is not mapped in the user namespace, so root has no access there. The user has access through
    // the group.
    assert_eq!(closed(pwd().user_namespace(), (0, 101_000), 0o750).run().ok(), "/closed\n");
    let said = closed(pwd().user_namespace(), (0, 102_000), 0o750).fails();
    assert!(!ours() || said.contains("the container's user lacks the permission to enter it"), "{said}");
    // A process of exec can have another user and working directory.
    let bundle = closed(Bundle::sh("sleep 1000"), (0, 0), 0o700).set("/process/cwd", "/").up();
    let exec = ["exec", "--user", "1000", "--cwd", "/closed", bundle.id(), "/bin/pwd"];
    assert_eq!(bundle.verb(&exec).ok(), "/closed\n");
}

#[test]
fn the_standard_streams_belong_to_the_user() {
    let user = |args: &str| {
        let bundle = Bundle::sh(args).set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
        bundle.write_config();
        bundle
    };
    let script = "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr";
    let bundle = user(script);
    let output = run_with(&mut bundle.command(&["run", bundle.id()]), "in\n");
    assert_eq!((output.code(), output.out.as_str(), output.err.as_str()), (0, "in\nout\n", "err\n"));
    // Standard output is a file, and standard error is a named pipe. With `run`, some runtimes put pipes in
    // between.
    let bundle = user("echo out >> /dev/stdout; echo err > /dev/stderr");
    let fifo = bundle.path("fifo");
    assert!(Command::new("mkfifo").arg("-m").arg("600").arg(&fifo).status().unwrap().success());
    let both = || std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let mut reader = both();
    let mut child = bundle.command(&["create", bundle.id()]).stderr(both()).spawn().unwrap();
    assert!(end_of(&mut child).success());
    bundle.start().wait_until("stopped");
    assert_eq!(bundle.printed("create"), "out\n");
    let mut line = [0; 4];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"err\n");
    let owner = |path: &std::path::Path| path.metadata().unwrap().uid();
    assert_eq!((owner(&bundle.path("create.out")), owner(&fifo)), (1000, 1000));
    // The group of the stream does not change.
    let kept = runtime_lacks(&["crun"], "the group is changed too")
        || bundle.path("create.out").metadata().unwrap().gid() == 0;
    assert!(kept);
    // A process of exec has separate streams.
    let bundle = Bundle::sh("sleep 1000").up();
    let pipes = |args: &[&str]| run_with(&mut bundle.command(args), "in\n");
    let output = pipes(&["exec", "--user", "1000", bundle.id(), "/bin/sh", "-c", script]);
    assert_eq!((output.code(), output.out.as_str(), output.err.as_str()), (0, "in\nout\n", "err\n"));
}

#[test]
fn the_null_device_and_the_callers_terminal_keep_their_owner() {
    if runtime_lacks(&["crun"], "the null device is chowned to the user") {
        return;
    }
    let owners = || {
        let owner = |path: &str| std::fs::metadata(path).unwrap().uid();
        [owner("/dev/null"), owner("/dev/zero")]
    };
    let before = owners();
    let user = |script: &str| {
        let bundle = Bundle::sh(script).set("/process/user/uid", 1000);
        bundle.write_config();
        bundle
    };
    let bundle = user("stat -L -c %u /dev/stdin");
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut child = bundle.command(&["create", bundle.id()]).stdin(null).spawn().unwrap();
    assert!(end_of(&mut child).success());
    bundle.start().wait_until("stopped");
    assert_eq!((bundle.printed("create"), owners()), (format!("{}\n", before[0]), before));
    if runtime_lacks(&["runc"], "devices of the caller except /dev/null are chowned to the user") {
        return;
    }
    let bundle = user("true");
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&main).unwrap();
    let line =
        std::fs::File::options().write(true).open(ptsname(&main, Vec::new()).unwrap().to_str().unwrap());
    let line = line.unwrap();
    let owner = line.metadata().unwrap().uid();
    let mut child =
        bundle.command(&["create", bundle.id()]).stderr(line.try_clone().unwrap()).spawn().unwrap();
    assert!(end_of(&mut child).success());
    bundle.start().wait_until("stopped");
    assert_eq!(line.metadata().unwrap().uid(), owner);
}

/// Returns a set of capabilities in /proc/self/status.
fn capability_set(status: &str, set: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const SETUID: u64 = 1 << 7;
const NET_RAW: u64 = 1 << 13;

#[test]
fn the_five_capability_sets_are_set() {
    let bundle = Bundle::of(&["cat", "/proc/self/status"]).set("/process/user/uid", 1000).set(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_CHOWN", "CAP_KILL"],
            "ambient": ["CAP_KILL"],
        }),
    );
    let output = bundle.run();
    let sets =
        ["CapBnd:", "CapInh:", "CapAmb:", "CapPrm:", "CapEff:"].map(|set| capability_set(output.ok(), set));
    // The program has no file capabilities, so its permitted set is the ambient set.
    assert_eq!(sets, [CHOWN | KILL | SETUID | NET_RAW, CHOWN | KILL, KILL, KILL, KILL]);
    // With no_new_privs, programs of root keep the permitted set.
    let bundle = Bundle::of(&["cat", "/proc/self/status"]).set(
        "/process/capabilities",
        json!({ "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"] }),
    );
    let output = bundle.run();
    let sets = ["CapBnd:", "CapInh:", "CapAmb:", "CapPrm:"].map(|set| capability_set(output.ok(), set));
    assert_eq!(sets, [CHOWN | KILL, 0, 0, KILL]);
}

#[test]
fn a_process_without_the_field_has_no_capabilities() {
    for capabilities in [json!({}), json!({ "bounding": [] })] {
        let bundle = Bundle::of(&["cat", "/proc/self/status"]).set("/process/capabilities", capabilities);
        let output = bundle.run();
        let sets = ["CapBnd:", "CapInh:", "CapAmb:", "CapPrm:", "CapEff:"];
        assert_eq!(sets.map(|set| capability_set(output.ok(), set)), [0; 5]);
    }
}

#[test]
fn an_ambient_capability_that_is_not_inheritable_is_dropped_silently() {
    let capabilities = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"],
        "ambient": ["CAP_CHOWN", "CAP_KILL"],
    });
    let bundle = Bundle::of(&["cat", "/proc/self/status"])
        .set("/process/user/uid", 1000)
        .set("/process/capabilities", capabilities);
    let output = bundle.run();
    assert_eq!(capability_set(output.ok(), "CapAmb:"), 0);
}

#[test]
fn a_capability_that_exec_adds_is_ambient_if_it_is_inheritable() {
    if runtime_lacks(&["crun", "runc"], "exec --cap sets no ambient capabilities; runc does since 1.2") {
        return;
    }
    let bundle = Bundle::of(&["sleep", "1000"])
        .set("/process/user/uid", 1000)
        .set("/process/capabilities/bounding", json!(["CAP_CHOWN", "CAP_KILL"]))
        .set("/process/capabilities/inheritable", json!(["CAP_CHOWN"]))
        .up();
    let output = bundle.verb(&[
        "exec",
        "--cap",
        "CAP_CHOWN",
        "--cap",
        "CAP_NET_RAW",
        bundle.id(),
        "cat",
        "/proc/self/status",
    ]);
    let sets = ["CapInh:", "CapAmb:", "CapEff:"].map(|set| capability_set(output.ok(), set));
    assert_eq!(sets, [CHOWN; 3]);
}

#[test]
fn an_unknown_capability_causes_a_warning_and_no_failure() {
    if runtime_lacks(&["crun"], "an unknown capability is an error") {
        return;
    }
    let bundle = Bundle::sh("echo started").set("/process/capabilities/bounding/-", "CAP_OF_TOMORROW");
    let output = bundle.run();
    assert_eq!((output.code(), output.out.as_str()), (0, "started\n"), "{}", output.err);
    assert!(output.err.contains("CAP_OF_TOMORROW"), "{}", output.err);
}

/// Returns whether the caller may raise limits and protect processes from the OOM killer. If not, these
/// checks are skipped.
fn may_raise() -> bool {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let may = capability_set(&status, "CapEff:") & SYS_RESOURCE != 0;
    if !may {
        skip("this check requires CAP_SYS_RESOURCE");
    }
    may
}

#[test]
fn every_rlimit_is_set() {
    // In the order of /proc/self/limits. Without privileges, the limits of nice and realtime priorities are
    // 0. All others are lowered.
    let nice = if may_raise() { 7 } else { 0 };
    let limits: [(&str, u64, u64, &str); 16] = [
        ("RLIMIT_CPU", 1001, 1002, "Max cpu time"),
        ("RLIMIT_FSIZE", 10_000_001, 10_000_002, "Max file size"),
        ("RLIMIT_DATA", 100_000_001, 100_000_002, "Max data size"),
        ("RLIMIT_STACK", 4_000_001, 4_000_002, "Max stack size"),
        ("RLIMIT_CORE", 0, 1003, "Max core file size"),
        ("RLIMIT_RSS", 5001, 5002, "Max resident set"),
        ("RLIMIT_NPROC", 501, 502, "Max processes"),
        ("RLIMIT_NOFILE", 601, 602, "Max open files"),
        ("RLIMIT_MEMLOCK", 40_001, 40_002, "Max locked memory"),
        ("RLIMIT_AS", 4_000_000_001, 4_000_000_002, "Max address space"),
        ("RLIMIT_LOCKS", 701, 702, "Max file locks"),
        ("RLIMIT_SIGPENDING", 801, 802, "Max pending signals"),
        ("RLIMIT_MSGQUEUE", 9001, 9002, "Max msgqueue size"),
        ("RLIMIT_NICE", 0, nice, "Max nice priority"),
        ("RLIMIT_RTPRIO", 0, nice, "Max realtime priority"),
        ("RLIMIT_RTTIME", 1_000_001, 1_000_002, "Max realtime timeout"),
    ];
    let rlimits: Vec<_> = limits
        .iter()
        .map(|(kind, soft, hard, _)| json!({ "type": kind, "soft": soft, "hard": hard }))
        .collect();
    let output = Bundle::of(&["cat", "/proc/self/limits"]).set("/process/rlimits", rlimits).run();
    for (kind, soft, hard, shown) in limits {
        let line = output.ok().lines().find_map(|line| line.strip_prefix(shown)).unwrap();
        let values: Vec<_> = line.split_whitespace().take(2).map(str::to_owned).collect();
        assert_eq!(values, [soft.to_string(), hard.to_string()], "{kind}");
    }
}

#[test]
fn an_rlimit_is_infinite_raised_or_refused() {
    let rlimit = |kind: &str, soft: u64, hard: u64| json!([{ "type": kind, "soft": soft, "hard": hard }]);
    let run = |rlimits| Bundle::sh("ulimit -c; ulimit -Hn").set("/process/rlimits", rlimits);
    assert!(run(rlimit("RLIMIT_CORE", u64::MAX, u64::MAX)).run().ok().starts_with("unlimited\n"));
    if may_raise() {
        assert!(run(rlimit("RLIMIT_NOFILE", 1024, 1_000_000)).run().ok().ends_with("\n1000000\n"));
    }
    run(rlimit("RLIMIT_NONE", 1, 1)).refused("process.rlimits[0].type");
    run(rlimit("RLIMIT_CORE", 2, 1)).refused("process.rlimits[0]");
    if runtime_lacks(&["crun", "runc"], "a duplicate limit is not rejected") {
        return;
    }
    let one = rlimit("RLIMIT_CORE", 1, 1)[0].clone();
    run(json!([one, one])).refused("process.rlimits[1]");
}

#[test]
fn no_new_privileges() {
    for (value, shown) in [(true, "1\n"), (false, "0\n")] {
        let bundle = Bundle::of(&["awk", "/^NoNewPrivs/ { print $2 }", "/proc/self/status"]);
        assert_eq!(bundle.set("/process/noNewPrivileges", value).run().ok(), shown);
    }
}

#[test]
fn oom_score_adj_is_set_or_kept() {
    let bundle = || Bundle::of(&["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(bundle().set("/process/oomScoreAdj", 321).run().ok(), "321\n");
    if may_raise() {
        assert_eq!(bundle().set("/process/oomScoreAdj", -321).run().ok(), "-321\n");
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(bundle().run().ok(), own);
    bundle().set("/process/oomScoreAdj", 1001).refused("process.oomScoreAdj");
}

#[test]
fn every_scheduling_policy_is_set() {
    if runtime_lacks(&["crun", "runc"], "process.scheduler requires version 1.1.1") {
        return;
    }
    let run = |scheduler| {
        let bundle = Bundle::of(&["awk", "{ print $19, $40, $41 }", "/proc/self/stat"]);
        bundle.set("/process/scheduler", scheduler)
    };
    for (scheduler, nice_priority_policy) in [
        (json!({ "policy": "SCHED_OTHER", "nice": 7 }), "7 0 0\n"),
        (json!({ "policy": "SCHED_OTHER", "nice": -7 }), "-7 0 0\n"),
        (json!({ "policy": "SCHED_FIFO", "priority": 11 }), "0 11 1\n"),
        (json!({ "policy": "SCHED_RR", "priority": 12 }), "0 12 2\n"),
        (json!({ "policy": "SCHED_BATCH", "nice": 5 }), "5 0 3\n"),
        (json!({ "policy": "SCHED_IDLE" }), "0 0 5\n"),
        (
            json!({ "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 20_000_000, "period": 30_000_000 }),
            "0 0 6\n",
        ),
    ] {
        assert_eq!(run(scheduler).run().ok(), nice_priority_policy);
    }
    run(json!({ "policy": "SCHED_NONE" })).refused("process.scheduler.policy");
    run(json!({ "policy": "SCHED_FIFO", "priority": 100 })).refused("process.scheduler");
    run(json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NONE"] }))
        .refused("process.scheduler.flags[0]");
}

#[test]
fn a_scheduling_policy_can_be_reset_on_fork() {
    if runtime_lacks(&["crun", "runc"], "process.scheduler requires version 1.1.1") {
        return;
    }
    let script = "read -r own < /proc/self/stat; echo $own | awk '{ print $41 }'; awk '{ print $41 }' /proc/self/stat; true";
    let scheduler = json!({ "policy": "SCHED_RR", "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    assert_eq!(Bundle::sh(script).set("/process/scheduler", scheduler).run().ok(), "2\n0\n");
}

#[test]
fn every_io_priority_is_set() {
    if runtime_lacks(&["crun", "runc"], "process.ioPriority requires version 1.1.1") {
        return;
    }
    let run = |class: &str, priority| {
        Bundle::of(&["ionice"]).set("/process/ioPriority", json!({ "class": class, "priority": priority }))
    };
    assert_eq!(run("IOPRIO_CLASS_RT", 2).run().ok(), "realtime: prio 2\n");
    assert_eq!(run("IOPRIO_CLASS_BE", 6).run().ok(), "best-effort: prio 6\n");
    assert!(run("IOPRIO_CLASS_IDLE", 0).run().ok().starts_with("idle"));
    run("IOPRIO_CLASS_NONE", 0).refused("process.ioPriority.class");
    run("IOPRIO_CLASS_BE", 8).refused("process.ioPriority.priority");
}

#[test]
fn exec_has_its_configured_cpu_affinity() {
    if runtime_lacks(&["crun", "runc"], "process.execCPUAffinity requires version 1.2.1") {
        return;
    }
    let allowed = ["awk", "/^Cpus_allowed_list/ { print $2 }", "/proc/self/status"];
    let affinity = json!({ "initial": "0", "final": "1" });
    let bundle = Bundle::of(&["sleep", "1000"]).set("/process/execCPUAffinity", affinity).up();
    assert!(
        bundle.proc("status").contains("\nCpus_allowed_list:\t0-"),
        "it is not for the container's first process"
    );
    assert_eq!(bundle.exec(&allowed).ok(), "1\n");
    let first =
        Bundle::of(&["sleep", "1000"]).set("/process/execCPUAffinity", json!({ "initial": "1" })).up();
    assert_eq!(first.exec(&allowed).ok(), "1\n", "the initial affinity stays without a final one");
    Bundle::sh("true")
        .set("/process/execCPUAffinity", json!({ "final": "1-0" }))
        .refused("process.execCPUAffinity.final");
}

/// An AppArmor profile, unloaded at the end.
struct Profile {
    name: String,
    text: String,
}

impl Drop for Profile {
    fn drop(&mut self) {
        run_with(Command::new("apparmor_parser").args(["--quiet", "--remove"]), &self.text);
    }
}

/// Loads a profile that only denies reading a file. Skips the test on a kernel without AppArmor.
fn apparmor_profile(unreadable: &str) -> Option<Profile> {
    if !apparmor() {
        skip("this test requires AppArmor");
        return None;
    }
    let name = unique();
    let allowed = "file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,";
    let text = format!("profile {name} flags=(attach_disconnected) {{ {allowed} deny {unreadable} r, }}\n");
    let mut parser = Command::new("apparmor_parser");
    let loaded = run_with(parser.args(["--quiet", "--skip-cache", "--add"]), &text);
    assert_eq!(loaded.code(), 0, "{loaded:?}");
    Some(Profile { name, text })
}

fn apparmor() -> bool {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with(b"Y"))
}

#[test]
fn an_apparmor_profile_confines_the_container_and_what_is_executed_in_it() {
    let (Some(one), Some(two)) = (apparmor_profile("/one"), apparmor_profile("/two")) else { return };
    let (first, second) = (one.name.as_str(), two.name.as_str());
    let script = "cat /proc/self/attr/current /one /two 2>&1; true";
    let bundle = Bundle::of(&["sleep", "1000"])
        .file("rootfs/one", "read one\n")
        .file("rootfs/two", "read two\n")
        .set("/process/apparmorProfile", first)
        .up();
    eventually("it runs", || bundle.proc("comm") == "sleep\n");
    assert_eq!(bundle.proc("attr/current"), format!("{first} (enforce)\n"));
    let seen_one = format!("{first} (enforce)\ncat: can't open '/one': Permission denied\nread two\n");
    let seen_two = format!("{second} (enforce)\nread one\ncat: can't open '/two': Permission denied\n");
    assert_eq!(bundle.exec(&["sh", "-c", script]).ok(), seen_one);
    let exec = ["exec", "--apparmor", second, bundle.id(), "sh", "-c", script];
    assert_eq!(bundle.verb(&exec).ok(), seen_two);
    let unknown = bundle.verb(&["exec", "--apparmor", "no-such-profile", bundle.id(), "true"]);
    assert_ne!(unknown.code(), 0);
    assert!(!ours() || unknown.err.contains("no such profile is loaded"), "{}", unknown.err);
    let said = Bundle::sh("true").set("/process/apparmorProfile", "no-such-profile").fails();
    assert!(!ours() || said.contains("no such profile is loaded"), "{said}");
}

#[test]
fn labels_are_refused_where_the_kernel_has_no_such_module() {
    if !apparmor() && !runtime_lacks(&["crun"], "an unsupported profile is ignored") {
        Bundle::sh("true").set("/process/apparmorProfile", "a-profile").refused("process.apparmorProfile");
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if !known.contains("selinuxfs") && !runtime_lacks(&["crun"], "an unsupported label is ignored") {
        let label = "system_u:system_r:container_t:s0:c1,c2";
        Bundle::sh("true").set("/process/selinuxLabel", label).refused("process.selinuxLabel");
        Bundle::sh("true").set("/linux/mountLabel", label).refused("linux.mountLabel");
    }
}

#[test]
fn signals_that_the_runtimes_caller_ignores_have_their_default_in_the_container() {
    let bundle = Bundle::sh("grep SigIgn /proc/self/status; exec sleep 1000")
        .before("set -- env --ignore-signal=HUP,INT,QUIT,PIPE,USR1,TERM,RTMAX \"$@\"");
    let none = "SigIgn:\t0000000000000000\n";
    bundle.create().start();
    eventually("it says what it ignores", || !bundle.printed("create").is_empty());
    if runtime_lacks(&["runc"], "signals that its threads ignore stay ignored") {
        return;
    }
    assert_eq!(bundle.printed("create"), none);
    assert_eq!(bundle.exec(&["grep", "SigIgn", "/proc/self/status"]).ok(), none);
}
