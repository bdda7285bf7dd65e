//! Everyday tasks, as a user types them, with their exit codes and outputs. `cargo test --test e2e_tasks --
//! --nocapture` shows the outputs.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use cgroup_core::Controllers;
use common::{NSPOD, busybox_root, controllers, root, run_with, unique};
use nspod_testkit::is_slow;

/// What the user types, the exit code, and texts of the output. A text after `!` must not be in the output. `%` in a
/// name makes it unique.
type Task = (&'static str, i32, &'static [&'static str]);

/// The first steps.
const FIRST: &[Task] = &[
    ("nspod run -- echo hello", 0, &["hello\n"]),
    ("nspod run -h box hostname", 0, &["box\n"]),
    ("nspod run -- sh -c 'exit 7'", 7, &[]),
    ("nspod run -- no-such-program", 127, &["nspod: cannot execute no-such-program"]),
    ("nspod run -- /etc/passwd", 126, &["nspod: cannot execute /etc/passwd", "(EACCES)"]),
    ("nspod run --no-such-flag true", 125, &["unexpected argument '--no-such-flag'"]),
    ("nspod run -- ps ax", 0, &["nspod-init -- ps ax", "!systemd"]),
    ("nspod run -- ls /sys/class/net", 0, &["lo\n", "!eth0"]),
    ("nspod run -u nobody -- id -un", 0, &["nobody\n"]),
    ("nspod run -- touch /etc/new", 1, &["Read-only file system"]),
    ("nspod run -- sh -c 'touch /tmp/new /run/new && ls /tmp'", 0, &["new\n", "!work"]),
    ("nspod run -e A=1 -- sh -c 'echo A is $A'", 0, &["A is 1\n"]),
    ("SECRET=1 nspod run -- env", 0, &["PATH=", "!SECRET"]),
    ("echo data | nspod run -i -- cat", 0, &["data\n"]),
    ("echo data | nspod run -- cat", 0, &["!data"]),
    ("nspod run -- yes | head -1", 0, &["y\n", "!nspod:"]),
    ("nspod run -- sh -c 'kill -KILL $$'", 137, &[]),
    ("nspod run -- sh -c 'kill -ABRT $$'", 134, &[]),
    ("nspod run -- mount -t tmpfs none /mnt", 32, &["ermission denied"]),
    ("nspod run --explain -- true", 0, &["clone3", "execute true"]),
    ("nspod --json run -w /no/such true", 125, &[r#""errno":"ENOENT""#, r#""object":"/no/such""#]),
    ("nspod run --help", 0, &["Usage: nspod run", "--memory <BYTES>"]),
    ("nspod completions bash", 0, &["-F _clap_complete_nspod"]),
];

#[test]
fn the_first_steps() {
    perform(FIRST);
}

/// Files of the host and of a root directory. The working directory has the file data.txt and the program job.sh.
const FILES: &[Task] = &[
    ("nspod run -v \"$PWD\":/mnt:ro -- cat /mnt/data.txt", 0, &["content\n"]),
    ("nspod run -v \"$PWD\":/mnt:ro -- touch /mnt/new", 1, &["Read-only file system"]),
    ("nspod run -v \"$PWD\":/mnt -w /mnt -- ./job.sh && cat made", 0, &["made by job.sh in /mnt\n"]),
    ("nspod run -v ./data.txt:/etc/issue -- cat /etc/issue", 0, &["content\n"]),
    ("nspod run -v /no/such:/mnt true", 125, &["/no/such", "(ENOENT)"]),
    ("nspod run -v data:/mnt true", 125, &["nspod has no named volumes", "./data"]),
    (
        "nspod run --tmpfs /mnt:size=1m -- sh -c 'head -c 2000000 /dev/zero >/mnt/x'",
        1,
        &["No space left on device"],
    ),
    ("nspod run --overlay -- sh -c 'echo changed >/etc/issue && cat /etc/issue'", 0, &["changed\n"]),
    ("cat /etc/issue", 0, &["!changed"]),
    (
        "nspod run --rootfs root --keep --overlay=\"$PWD\"/layer --name edit% -- sh -c 'echo new >/etc/new'",
        0,
        &[],
    ),
    ("nspod diff edit%", 0, &["A /etc/new\n"]),
    ("nspod commit edit% root && cat root/etc/new", 0, &["new\n"]),
    ("nspod rm edit%", 0, &["edit%\n"]),
    ("nspod run --rootfs root -- sh -c 'echo $0 in /: $(ls /bin)'", 0, &["sh in /:", "busybox", "!bash"]),
    ("nspod run --rootfs root --read-only -- sh -c 'echo >/x'", 1, &["Read-only file system"]),
    ("nspod run --device /dev/null -- sh -c 'echo >/dev/null'", 0, &[]),
];

#[test]
fn files() {
    perform(FILES);
}

/// The life of a detached container.
const LIFE: &[Task] = &[
    ("nspod run -d --name web% -- sh -c 'echo up; sleep 1000'", 0, &["web%\n"]),
    ("until nspod logs web% | grep up; do sleep 0.1; done", 0, &["up\n"]),
    ("nspod ps", 0, &["web%", "running", "sh -c echo up"]),
    ("nspod exec web% hostname", 0, &["web%\n"]),
    ("nspod exec web% sh -c 'exit 5'", 5, &[]),
    ("nspod top web%", 0, &["nspod-init -- sh", "sleep 1000"]),
    ("nspod inspect web%", 0, &["\"id\": \"web%\"", "\"state\": \"running\""]),
    ("nspod census web%", 0, &["web%"]),
    ("nspod cp data.txt web%:/tmp/copy && nspod exec web% cat /tmp/copy", 0, &["content\n"]),
    ("nspod cp web%:/etc/hostname copied && test -s copied", 0, &[]),
    ("nspod ps --filter name=web% --format '{{.ID}} {{.Status}}'", 0, &["web% running\n"]),
    ("nspod inspect -f '{{.id}} {{.state}}' web%", 0, &["web% running\n"]),
    ("nspod rename web% old% && nspod exec old% true && nspod rename old% web%", 0, &[]),
    ("nspod logs --since 10m -t web%", 0, &["Z up\n"]),
    ("nspod logs --until 2020-01-01 web%", 0, &["!up"]),
    ("nspod version", 0, &["nspod"]),
    ("nspod images", 125, &["nspod has no images"]),
    ("nspod run --name web% true", 125, &["there is a container web% already", "nspod rm -f web%"]),
    ("nspod attach web%", 125, &["the container web% has no terminal", "nspod logs -f web%"]),
    ("nspod rm web%", 125, &["the container web% is running", "nspod stop web%"]),
    ("nspod stop web%", 0, &["web%\n"]),
    ("nspod stop web%", 0, &["web%\n"]),
    ("nspod wait web%", 0, &["143\n"]),
    ("nspod ps -a", 0, &["web%", "exited (143)"]),
    ("nspod ps", 0, &["!web%"]),
    ("nspod logs web%", 0, &["up\n"]),
    ("nspod rm web%", 0, &["web%\n"]),
    ("nspod rm -f web%", 0, &[]),
    ("nspod logs web%", 125, &["there is no container web%", "nspod ps -a"]),
    ("for n in 1 2 3; do nspod run -d --name job$n% -- sleep 1000; done; nspod ps -q | wc -l", 0, &["3\n"]),
    ("nspod kill job1% job2% && nspod wait job1%", 0, &["137\n"]),
    ("nspod rm -f $(nspod ps -aq)", 0, &["job1%\n", "job3%\n"]),
    (
        "nspod run -d --rm --name gone% -- true >/dev/null; while nspod ps -a | grep -q gone%; do sleep 0.1; done",
        0,
        &[],
    ),
    ("nspod prune", 0, &[]),
];

#[test]
fn the_life_of_a_container() {
    perform(LIFE);
}

/// Limits, reports and rights.
const BOUNDS: &[Task] = &[
    ("nspod run --timeout 300ms -- sleep 100", 124, &["exceeded --timeout"]),
    ("nspod run --report report -- sh -c 'exit 3'; cat report", 0, &["\"exit_code\":3", "\"exited\":3"]),
    (
        "nspod run --report report -- no-such; cat report",
        0,
        &["\"outcome\":null", "\"kind\":\"program_not_found\""],
    ),
    ("nspod run --report 3 -- true 3>&1", 0, &["\"exit_code\":0"]),
    ("nspod run --ulimit nofile=10 -- sh -c 'ulimit -n'", 0, &["10\n"]),
    ("nspod run --ulimit cpu=1:2 -- sh -c 'while :; do :; done'", 152, &[]),
    ("nspod run --ulimit fsize=1000 -- sh -c 'head -c 2000 /dev/zero >/tmp/x'; echo is $?", 0, &["is 153\n"]),
    ("nspod run --die-with-parent -- echo tied", 0, &["tied\n"]),
    ("nspod run --cap-drop ALL -- grep CapEff /proc/self/status", 0, &["CapEff:\t0000000000000000\n"]),
    ("nspod run --network host -- ls /sys/class/net", 0, &["lo\n"]),
    ("nspod run --userns single -- cat /proc/self/uid_map", 0, &[" 1\n"]),
    ("nspod run --bare -- sh -c 'echo pid $$ in $(pwd)'", 0, &["pid 2 in "]),
    (
        "nspod run --bare --ns time=new --time-offset boottime=1000000 -- cut -d. -f1 /proc/uptime | grep -E '^1?[0-9]{7}'",
        0,
        &[],
    ),
    ("nspod run -m lots true", 125, &["--memory"]),
];

#[test]
fn bounds_reports_and_rights() {
    perform(BOUNDS);
}

/// Limits of a cgroup.
const LIMITS: &[Task] = &[
    ("nspod run -m 64m -- cat /sys/fs/cgroup/memory.max", 0, &["67108864\n"]),
    ("nspod run -m 32m --memory-swap 32m -- tail /dev/zero", 137, &["memory.max"]),
    (
        "nspod run --pids-limit 20 -- sh -c 'for n in $(seq 40); do sleep 1 & done' 2>&1 | tail -1",
        0,
        &["ork"],
    ),
    ("nspod run --cpus 0.5 -- cat /sys/fs/cgroup/cpu.max", 0, &["50000 100000\n"]),
    ("nspod run --cpu-time 200ms -- sh -c 'while :; do :; done'", 124, &["exceeded --cpu-time"]),
    ("nspod run -d --name box% -m 64m -- sleep 1000", 0, &[]),
    ("nspod update -m 32m box% && nspod exec box% cat /sys/fs/cgroup/memory.max", 0, &["33554432\n"]),
    ("nspod stats --no-stream box%", 0, &["box%", "32.0"]),
    ("nspod exec --timeout 200ms box% sleep 100", 124, &["exceeded --timeout"]),
    ("nspod pause box% && nspod ps", 0, &["paused"]),
    ("nspod exec box% true", 125, &["nspod unpause box%"]),
    ("nspod unpause box% && nspod ps", 0, &["running"]),
    ("nspod rm -f box%", 0, &[]),
];

#[test]
fn limits_of_the_cgroup() {
    if controllers(Controllers::MEMORY | Controllers::PIDS | Controllers::CPU) {
        perform_by("", LIMITS);
    }
}

/// Containers of a pod.
const PODS: &[Task] = &[
    ("nspod pod create shop%", 0, &["shop%\n"]),
    ("nspod run -d --name db% --pod shop% -- sleep 1000", 0, &["db%\n"]),
    ("nspod run --pod shop% -- getent hosts db%", 0, &["db%"]),
    ("nspod pod run shop% hostname", 0, &["shop%\n"]),
    ("nspod run --pod shop% -- cat /etc/hostname", 0, &["shop%\n"]),
    ("nspod ps --pod shop%", 0, &["db%"]),
    ("nspod pod ls", 0, &["shop%", "net,uts,ipc", "db%"]),
    ("nspod census", 0, &["db%", "shop%"]),
    ("nspod run --pod none% true", 125, &["there is no pod none%", "nspod pod ls"]),
    ("nspod pod rm shop%", 125, &["the pod shop% has containers: db%", "nspod pod rm -f shop%"]),
    ("nspod pod rm -f shop%", 0, &["shop%\n"]),
    ("nspod ps -aq", 0, &["!db%"]),
];

#[test]
fn pods() {
    perform(PODS);
}

/// What users of bubblewrap, unshare, nsjail, isolate and firejail type in other programs.
const TOOLS: &[Task] = &[
    // bwrap --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib … --unshare-all --die-with-parent
    (
        "mkdir empty && nspod run --rootfs empty -v /usr:/usr:ro --symlink usr/bin:/bin --symlink usr/lib:/lib \
         --symlink usr/lib64:/lib64 --die-with-parent -- /bin/echo only usr",
        0,
        &["only usr\n"],
    ),
    // bwrap --ro-bind-try
    ("nspod run -v /no/such:/mnt:ro,optional -- ls /mnt", 0, &[]),
    // bwrap without --clearenv
    ("A=1 nspod run --keep-env -- sh -c 'echo A is $A'", 0, &["A is 1\n"]),
    // bwrap --userns FD
    ("nspod run --ns ipc=join:/proc/self/fd/9 -- echo joined 9</proc/self/ns/ipc", 0, &["joined\n"]),
    // bwrap --disable-userns
    (
        "nspod run --disable-userns --cap-add SYS_ADMIN -- unshare --user true",
        1,
        &["Operation not permitted"],
    ),
    // bwrap --info-fd 1 --json-status-fd 3
    ("nspod run --report 3 --pidfile pid -- true 3>status && cat status pid", 0, &["\"exited\":0"]),
    // bwrap --as-pid-1
    ("nspod run --init=false -- sh -c 'echo pid $$'", 0, &["pid 1\n"]),
    // unshare --fork --pid --mount-proc
    ("nspod run --bare --mount-proc -- ps ax", 0, &["nspod-init -- ps ax", "!bash"]),
    // unshare --map-root-user
    ("nspod run --bare --userns single -- id -u", 0, &["0\n"]),
    // unshare --map-users
    ("nspod run --uidmap 5:5 --gidmap 5:5 -u 5:5 -- id -u", 0, &["5\n"]),
    // unshare --kill-child
    ("nspod run --bare --kill-child -- echo tied", 0, &["tied\n"]),
    // nsjail -Mo -t 5 --rlimit_as 512 --rlimit_nofile 32 -u 65534 -g 65534
    (
        "nspod run --timeout 5s --ulimit as=536870912 --ulimit nofile=32 --cap-drop ALL -u 65534:65534 -- id -u",
        0,
        &["65534\n"],
    ),
    // isolate --run --time=2 --wall-time=5 --fsize=64 --meta=meta --stdin=data.txt --stdout=sorted
    (
        "nspod run -i --ulimit cpu=2 --timeout 5s --ulimit fsize=65536 --report meta -v .:/box -w /box -- sort \
         <data.txt >sorted && cat sorted meta",
        0,
        &["content\n", "\"exit_code\":0", "\"ended_by\":\"exit\""],
    ),
    // firejail --net=none --private
    ("nspod run --tmpfs /root -- sh -c 'touch ~/new && ls ~'", 0, &["new\n"]),
    // docker run -v $PWD:/app -w /app
    ("nspod run -v \"$PWD\":/app -w /app -- ./job.sh && cat made", 0, &["made by job.sh in /app\n"]),
    ("nspod run -v \"$PWD\":\"$PWD\" -w \"$PWD\" -- ./job.sh && cat made", 0, &["made by job.sh in /"]),
    ("nspod run -- ./job.sh", 127, &["-w"]),
    ("nspod run alpine sh", 127, &["--rootfs", "podman", "nspod-oci"]),
];

#[test]
fn the_command_lines_of_other_tools() {
    perform(TOOLS);
}

/// An ordinary user.
const USER: &[Task] = &[
    ("nspod run -- id -u", 0, &["0\n"]),
    ("nspod run -- touch /etc/new", 1, &["Read-only file system"]),
    ("nspod run -v \"$PWD\":/mnt -- sh -c 'echo mine >/mnt/mine'; cat mine", 0, &["mine\n"]),
    ("nspod run -m 64m true", 125, &["delegated"]),
    ("nspod run --lax-limits -m 64m -- echo unlimited", 0, &["unlimited\n"]),
    ("nspod run -d --name box% -- sleep 1000", 0, &["box%\n"]),
    ("nspod exec box% hostname", 0, &["box%\n"]),
    ("nspod stop box% && nspod ps -a", 0, &["exited (143)"]),
    ("nspod rm box%", 0, &["box%\n"]),
    ("nspod run --userns host true", 125, &["nspod:"]),
    ("nspod run -- no-such-program", 127, &["cannot execute no-such-program"]),
];

#[test]
fn an_ordinary_user() {
    if root() {
        let as_user = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        perform_by(as_user, USER);
    }
}

/// Performs tasks that do not depend on the kernel of the guest.
fn perform(tasks: &[Task]) {
    if root() && !is_slow() {
        perform_by("", tasks);
    }
}

/// Performs the tasks in their order, on a host without other containers.
fn perform_by(prefix: &str, tasks: &[Task]) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let mark = unique();
    let make = |name: &str| fs::create_dir_all(dir.join(name)).unwrap();
    ["bin", "run", "steps", "work"].iter().for_each(|name| make(name));
    nspod_testkit::copy_program(NSPOD, dir.join("bin/nspod"));
    fs::write(dir.join("work/data.txt"), "content\n").unwrap();
    let job = dir.join("work/job.sh");
    fs::write(&job, "#!/bin/sh\necho made by job.sh in $(pwd) >made\n").unwrap();
    fs::set_permissions(job, fs::Permissions::from_mode(0o755)).unwrap();
    busybox_root(&dir.join("work/root"), &["sh", "ls", "cat"]);
    for (n, (typed, ..)) in tasks.iter().enumerate() {
        fs::write(dir.join(format!("steps/{n}")), typed.replace('%', &format!("-{mark}"))).unwrap();
    }
    let script = r#"
mount -t tmpfs none /run
[ -z "$BY" ] || { chown -R 65534:65534 $T; chmod 755 $T; export XDG_RUNTIME_DIR=$T/run XDG_STATE_HOME=$T/run; }
export PATH=$T/bin:$PATH NSPOD_LOG_DIR=$T/run/logs
cd $T/work
for n in $(seq 0 $LAST); do
    $BY bash $T/steps/$n >$T/steps/$n.out 2>&1 </dev/null; echo $? >$T/steps/$n.code
done
for name in $($BY nspod ps -aq); do $BY nspod rm -f $name; done
ls $XDG_RUNTIME_DIR/nspod/pods /run/nspod/pods 2>/dev/null | grep -e - | xargs -r $BY nspod pod rm -f
"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c", script]);
    command.env("T", dir).env("BY", prefix).env("LAST", (tasks.len() - 1).to_string());
    let output = run_with(&mut command, "");
    let wrong: Vec<String> =
        tasks.iter().enumerate().filter_map(|(n, task)| differs(dir, n, task, &mark)).collect();
    assert!(wrong.is_empty(), "{}\n{output:?}", wrong.join("\n"));
}

/// Returns how a task went, if its exit code or its output is not the expected one.
fn differs(dir: &Path, n: usize, (typed, code, shows): &Task, mark: &str) -> Option<String> {
    let read = |of: &str| fs::read(dir.join(format!("steps/{n}.{of}"))).unwrap_or_default();
    let text = |of: &str| String::from_utf8_lossy(&read(of)).replace(&format!("-{mark}"), "%");
    let (ended, out) = (text("code"), text("out"));
    println!("$ {typed}\n{}-> {ended}", out.chars().take(3000).collect::<String>());
    let mut why = Vec::new();
    if ended.trim() != code.to_string() {
        why.push(format!("the exit code is {} and not {code}", ended.trim()));
    }
    for text in *shows {
        match text.strip_prefix('!') {
            Some(absent) if out.contains(absent) => why.push(format!("{absent:?} is in the output")),
            None if !out.contains(text) => why.push(format!("{text:?} is not in the output")),
            _ => {}
        }
    }
    (!why.is_empty()).then(|| format!("$ {typed}\n{out}{}", why.join("\n")))
}
