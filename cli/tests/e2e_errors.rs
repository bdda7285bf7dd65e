//! The exact text of each error: what failed, on which object, the reason, and what to do.

mod common;

use common::{Name, commands, nspod, root};
use serde_json::{Value, json};

/// Text that clap prints after its first line.
const TRY_HELP: &str = "\n\nFor more information, try '--help'.";

/// Flags of a detached container without an init, which could not limit the size of a log.
const NO_INIT: &[&str] = &["--init=false", "--log-max-size=none"];

/// Runs each command and compares standard error exactly. Nothing may be printed or started.
#[track_caller]
fn refused(code: i32, table: &[(&[&str], &str)]) {
    let mut wrong = String::new();
    for (args, sentence) in table {
        let output = nspod(args);
        let want = format!("nspod: {sentence}\n");
        if (output.code(), output.out.as_str(), &output.err) != (code, "", &want) {
            wrong += &format!("{args:?}\n  {} {}{}", output.code(), output.out, output.err);
        }
    }
    assert!(wrong.is_empty(), "these messages differ:\n{wrong}");
}

/// Does the same for invalid values: clap names the flag and the value before the sentence.
#[track_caller]
fn wrong_values(table: &[(&[&str], &str, &str)]) {
    for (args, of, sentence) in table {
        let value = args[2];
        let said = format!("invalid value '{value}' for '{of}': {sentence}{TRY_HELP}");
        refused(125, &[(args, &said)]);
    }
}

#[test]
fn invalid_values_are_explained() {
    wrong_values(&[
        (&["run", "-m", "12q", "true"], "--memory <BYTES>", "\"12q\" is not a size such as 512k, 64m or 1g"),
        (&["run", "--cpus", "0", "true"], "--cpus <NUMBER>", "0 processors: must be at least 0.01"),
        (
            &["run", "-v", "data:/mnt", "true"],
            "--volume <SOURCE:DESTINATION[:OPTIONS]>",
            "\"data\" must be a path: nspod has no named volumes; for a directory or file in the working directory use ./data",
        ),
        (
            &["run", "--tmpfs", "mnt", "true"],
            "--tmpfs <DESTINATION[:OPTIONS]>",
            "\"mnt\" must have the form /DESTINATION[:OPTIONS]",
        ),
        (
            &["run", "--mount", "type=nfs,target=/x", "true"],
            "--mount <TYPE,…>",
            "type=nfs must be bind, tmpfs, proc, sysfs, mqueue, devpts, cgroup or dev",
        ),
        (
            &["run", "--cap-add", "FLY", "true"],
            "--cap-add <CAP>",
            "\"FLY\" is not a capability such as NET_ADMIN",
        ),
        (
            &["run", "--ulimit", "nofile=20:10", "true"],
            "--ulimit <NAME=SOFT[:HARD]>",
            "\"nofile=20:10\" has a soft limit above the hard limit",
        ),
        (
            &["run", "--stop-signal", "FOO", "true"],
            "--stop-signal <SIGNAL>",
            "\"FOO\" is not a signal such as TERM, SIGUSR1, RTMIN+3 or 9",
        ),
        (
            &["run", "--name", "../x", "true"],
            "--name <NAME>",
            "\"../x\" is not a valid name: use 1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit, without '..'",
        ),
        (
            &["run", "--ns", "foo=new", "true"],
            "--ns <KIND=WHICH>",
            "cannot parse \"foo\" as a kind of namespace: the kinds are mnt, net, pid, user, uts, ipc, cgroup, time",
        ),
        (
            &["run", "--ipc", "weird", "true"],
            "--ipc <WHICH>",
            "\"weird\" must be new, host, pod, container:ID, join:PID or join:/PATH",
        ),
        (
            &["run", "--uidmap", "0:x", "true"],
            "--uidmap <INSIDE:OUTSIDE[:COUNT]>",
            "\"0:x\" must have the form INSIDE:OUTSIDE[:COUNT]",
        ),
        (&["run", "--umask", "9", "true"], "--umask <MODE>", "\"9\" is not an octal mode such as 1777"),
    ]);
}

#[test]
fn mistyped_arguments_are_named() {
    refused(
        125,
        &[
            (
                &["frob"],
                "unrecognized subcommand 'frob'\n\nUsage: nspod [OPTIONS] <COMMAND>\n\nFor more information, try '--help'.",
            ),
            (
                &["run", "-m"],
                "a value is required for '--memory <BYTES>' but none was supplied\n\nFor more information, try '--help'.",
            ),
            (
                &["run"],
                "the following required arguments were not provided:\n  <COMMAND>...\n\nUsage: nspod run <COMMAND>...\n\nFor more information, try '--help'.",
            ),
            (
                &["run", "--read-only", "--overlay", "true"],
                "the argument '--read-only' cannot be used with '--overlay[=<DIR>]'\n\nUsage: nspod run --read-only <COMMAND>...\n\nFor more information, try '--help'.",
            ),
        ],
    );
}

#[test]
fn missing_and_unusable_programs_are_distinguished() {
    if !root() {
        return;
    }
    let missing = "no such program in the container's PATH, or its interpreter or loader is missing";
    let denied = "it is not executable for the container's user, or on a noexec mount";
    let script = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    std::fs::write(script.path(), "#!/no/such\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(script.path(), mode).unwrap();
    let path = script.into_temp_path();
    let path = path.to_str().unwrap();
    let execve =
        |program: &str, why: &str, hint: &str| format!("cannot execute {program}: execve: {why}; {hint}");
    let none = |program: &str, hint: &str| execve(program, "No such file or directory (ENOENT)", hint);
    let no_file = "the container has no such file, or its interpreter or loader is missing";
    let hidden = "the file exists on the host, but the container has its own /tmp: bind the directory that contains it (-v DIR:DIR)";
    let relative = |cwd: &str| {
        format!(
            "the path is relative to the container's working directory, {cwd}: bind the directory that contains the program (-v DIR:DIR) and enter it (-w DIR)"
        )
    };
    let in_tmp = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let in_tmp = in_tmp.path().to_str().unwrap();
    refused(
        127,
        &[
            (&["run", "no-such"], &none("no-such", missing)),
            (&["run", "-d", "/no/such"], &none("/no/such", no_file)),
            (&["run", path], &none(path, no_file)),
            (&["run", in_tmp], &none(in_tmp, hidden)),
            (&["run", "--tmpfs", "/var/tmp", path], &none(path, &hidden.replace("/tmp", "/var/tmp"))),
            (&["run", "/tmp/no-such"], &none("/tmp/no-such", no_file)),
            (&["run", "./no-such"], &none("./no-such", &relative("/"))),
            (&["run", "-w", "/usr", "bin/no-such"], &none("bin/no-such", &relative("/usr"))),
        ],
    );
    refused(
        126,
        &[
            (&["run", "/etc/passwd"], &execve("/etc/passwd", "Permission denied (EACCES)", denied)),
            (&["run", "--init", "/etc"], &execve("/etc", "Permission denied (EACCES)", denied)),
        ],
    );
}

#[test]
fn the_callers_directory_is_named_if_it_has_the_program() {
    if !root() {
        return;
    }
    for (parent, why, cure) in [
        ("/var/tmp", ", not in the caller's directory: start it there (-w DIR)", &["-w", "DIR"][..]),
        (
            "/tmp",
            " and has its own /tmp: bind the caller's directory and start there (-v DIR:DIR -w DIR)",
            &["-v", "DIR:DIR", "-w", "DIR"],
        ),
    ] {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let path = dir.path().to_str().unwrap();
        let job = dir.path().join("job.sh");
        std::fs::write(&job, "#!/bin/sh\necho done\n").unwrap();
        std::fs::set_permissions(&job, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let run = |flags: &[&str]| {
            let flags = flags.iter().map(|flag| flag.replace("DIR", path));
            let mut command = std::process::Command::new(common::NSPOD);
            command.arg("run").args(flags).args(["--", "./job.sh"]).current_dir(path);
            common::run_with(&mut command, "")
        };
        let (missing, why) = (run(&[]), why.replace("DIR", path));
        let want = format!(
            "nspod: cannot execute ./job.sh: execve: No such file or directory (ENOENT); the container starts in /{why}\n"
        );
        assert_eq!((missing.code(), missing.err), (127, want));
        assert_eq!(run(cure).ok(), "done\n");
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let other = "cannot execute ./job.sh: execve: No such file or directory (ENOENT); the path is relative to the container's working directory, /: name another one (-w DIR), or an absolute path";
    refused(127, &[(&["exec", &name, "./job.sh"], other)]);
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let path = dir.path().to_str().unwrap();
    let why = format!(
        "cannot enter the directory {path}: chdir: No such file or directory (ENOENT); the directory exists on the host, but the container has its own /tmp: bind it (-v {path}:{path})"
    );
    refused(125, &[(&["run", "-w", path, "pwd"], &why)]);
}

#[test]
fn the_name_of_an_image_is_explained() {
    if !root() {
        return;
    }
    for args in [&["run", "ubuntu:24.04", "ls"][..], &["run", "-d", "no-such-image", "sh"]] {
        let (output, name) = (nspod(args), args[args.len() - 2]);
        let why = format!("; if {name} is an image: nspod has none, and the first argument is the program");
        assert!(output.code() == 127 && output.err.contains(&why), "{output:?}");
        for cure in
            ["--rootfs DIR".to_owned(), format!("`podman --runtime \"$(command -v nspod-oci)\" run {name}`")]
        {
            assert!(output.err.contains(&cure), "{}", output.err);
        }
    }
}

#[test]
fn missing_files_are_named() {
    if !root() {
        return;
    }
    let nothing = "open_tree: No such file or directory (ENOENT); that path does not exist on the host";
    refused(
        125,
        &[
            (
                &["run", "--env-file", "/no/such", "true"],
                "cannot read /no/such: No such file or directory (ENOENT)",
            ),
            (
                &["run", "-v", "/no/such:/mnt", "true"],
                &format!("cannot bind /no/such with all mounts below it on /mnt (nodev): {nothing}"),
            ),
            (
                &["run", "--rootfs", "/no/such", "true"],
                &format!("cannot bind /no/such with all mounts below it as the new root (nodev): {nothing}"),
            ),
            (&["run", "--rootfs", "/etc/passwd", "true"], "--rootfs /etc/passwd is not a directory"),
            (
                &["run", "--host-sockets", "-v", "/usr:/no/such", "true"],
                "cannot bind /usr with all mounts below it on /no/such (nodev): openat2: No such file or directory (ENOENT); the mount point does not exist within the root: create it there, choose an existing one, or leave --host-sockets out",
            ),
            (
                &["run", "-w", "/no/such", "pwd"],
                "cannot enter the directory /no/such: chdir: No such file or directory (ENOENT); there is no such directory in the container: create it, or choose another one",
            ),
            (
                &["run", "-u", "no-such", "true"],
                "the user \"no-such\" is not in the container's /etc/passwd: use a number, or add it to the file",
            ),
            (&["run", "--device", "/etc/passwd", "true"], "/etc/passwd is not a device"),
            (
                &["run", "--device", "/dev/no-such", "true"],
                "cannot look at /dev/no-such: No such file or directory (ENOENT)",
            ),
            (
                &["run", "--cidfile", "/no/such", "true"],
                "cannot write the id to /no/such: No such file or directory (ENOENT)",
            ),
            (
                &["run", "--pidfile", "/no/such", "true"],
                "cannot write the pid to /no/such: No such file or directory (ENOENT)",
            ),
            (
                &["run", "-d", "--init=false", "true"],
                "the size of the log cannot be limited, because the container has no init: use --log-max-size none for no log, or --log-file FILE for a log without a limit",
            ),
            (
                &["run", "-d", "--log-file", "/no/such", "true"],
                "cannot open the log /no/such: No such file or directory (ENOENT)",
            ),
            (
                &["run", "--security-opt", "seccomp=/etc/passwd", "true"],
                "/etc/passwd is not a seccomp profile: expected value at line 1 column 1",
            ),
            (
                &["run", "--ns", "net=join:/etc/passwd", "true"],
                "cannot open the namespace /etc/passwd: the file is not a namespace (not on nsfs): nothing is pinned there, or the pin was unmounted",
            ),
        ],
    );
}

#[test]
fn contradictions_and_values_that_the_kernel_would_refuse_are_refused_first() {
    if !root() {
        return;
    }
    refused(
        125,
        &[
            (
                &["run", "-d", "-t", "true"],
                "-d conflicts with -t and -i: start the container with -d alone, then use `nspod exec -it`",
            ),
            (
                &["run", "--network", "none", "--ns", "net=host", "true"],
                "`--ns net=…` conflicts with `--network`",
            ),
            (
                &["run", "--privileged", "--cap-add", "KILL", "true"],
                "--privileged grants every capability and conflicts with --cap-add and --cap-drop",
            ),
            (
                &["run", "--security-opt", "label=x", "true"],
                "--security-opt \"label=x\" must be no-new-privileges[=false], seccomp=unconfined or seccomp=FILE",
            ),
            (
                &["run", "--sysctl", "vm.swappiness=1", "true"],
                "--sysctl vm.swappiness: it belongs to no namespace, and setting it would change the host",
            ),
            (
                &["run", "--oom-score-adj", "2000", "true"],
                "--oom-score-adj: 2000 is not between -1000 and 1000",
            ),
            (
                &["run", "-m", "2m", "--memory-swap", "1m", "true"],
                "--memory-swap is memory and swap together: 1048576 bytes are less than the 2097152 of --memory",
            ),
            (
                &["run", "--limit", "cgroup.procs=1", "true"],
                "cgroup.procs cannot be \"1\": this file acts on processes and is not a limit",
            ),
            (
                &["run", "--device-read-bps", "/dev/null:1m", "true"],
                "/dev/null is not a block device: name a disk such as /dev/sda",
            ),
            (&["run", "-e", "=x", "true"], "\"=x\" must begin with the name of a variable"),
            (&["run", ""], "COMMAND: a program is required"),
            (
                &["run", "--sysctl", "kernel.hostname=box", "true"],
                "--sysctl kernel.hostname: set the hostname instead of this parameter",
            ),
            (&["run", "-w", "usr", "true"], "--workdir: usr is not an absolute path"),
            (&["run", "-v", "/usr:/mnt/..", "true"], "--volume /usr:/mnt/..: /mnt/.. contains `..`"),
            (
                &["run", "--tmpfs", "/proc/sys", "true"],
                "--tmpfs /proc/sys: /proc/sys cannot be mounted because it is inside /proc: only cpuinfo, diskstats, meminfo, stat, swaps, uptime, loadavg, slabinfo, net/dev, sys/kernel/ns_last_pid, sys/crypto/fips_enabled may be mounted over there",
            ),
            (
                &["run", "--explain", "--mount", "type=sysfs,target=/proc", "true"],
                "--mount target=/proc: /proc cannot be mounted because it is not of type proc: mount a procfs there",
            ),
            (
                &["run", "--ns", "net=join:/proc/self/ns/uts", "true"],
                "--ns net=…: /proc/self/ns/uts is a uts namespace",
            ),
            (
                &["run", "--network", "join:/proc/self/ns/uts", "true"],
                "--network: /proc/self/ns/uts is a uts namespace",
            ),
            (
                &["run", "--uts", "host", "--hostname", "box", "true"],
                "--hostname: a name requires a new or joined uts namespace, or the host would be renamed",
            ),
        ],
    );
}

#[test]
fn missing_and_conflicting_containers_and_pods_are_named() {
    if !root() {
        return;
    }
    let none = "there is no container no-such; `nspod ps -a` lists all";
    let no_pod = "there is no pod no-such; `nspod pod ls` lists all";
    refused(
        125,
        &[
            (&["rm", "no-such"], none),
            (&["logs", "no-such"], none),
            (&["exec", "no-such", "true"], none),
            (&["run", "--network", "container:no-such", "true"], none),
            (&["rm", "no-such", "no-such"], &format!("{none}\nnspod: {none}")),
            (&["run", "--pod", "no-such", "true"], no_pod),
            (&["pod", "rm", "no-such"], no_pod),
            (
                &["run", "--network", "pod", "true"],
                "cannot join the net namespace of a pod: name the pod with --pod",
            ),
            (
                &["pod", "create", "--share", "net", "-h", "x", "no-such"],
                "--hostname requires uts in --share",
            ),
            (&["update", "no-such"], "name a limit to change, such as --memory 64m"),
            (
                &["inspect", "../x"],
                "\"../x\" is not a valid name: use 1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit, without '..'",
            ),
        ],
    );
    let (pod, name) = (Name::pod(), Name::detached(NO_INIT, &["sleep", "1000"]));
    common::ok(&["pod", "create", &pod]);
    refused(
        125,
        &[
            (
                &["run", "--name", &name, "true"],
                &format!(
                    "there is a container {0} already; choose another --name, or `nspod rm -f {0}`",
                    &*name
                ),
            ),
            (
                &["rm", &name],
                &format!(
                    "the container {0} is running; `nspod stop {0}` ends it, `nspod rm -f {0}` ends and removes it",
                    &*name
                ),
            ),
            (
                &["kill", "-s", "TERM", &name],
                &format!(
                    "signal 15 would be lost: the program of {} is pid 1 and has no handler for it, and the kernel drops such signals; use --signal KILL, or run it without --init=false",
                    &*name
                ),
            ),
            (
                &["pod", "create", &pod],
                &format!("there is a pod {0} already; choose another name, or `nspod pod rm -f {0}`", &*pod),
            ),
            (
                &["run", "--pod", &pod, "--network", "host", "true"],
                "the pod shares its net namespace, so `--network` must be omitted",
            ),
            (&["pod", "run", &pod, "--pod", &pod, "true"], "`nspod pod run POD` does not accept --pod"),
        ],
    );
}

/// Runs with `--json`, and returns the object in the last line of standard error.
#[track_caller]
fn failed(code: i32, args: &[&str]) -> Value {
    let output = nspod(&[&["--json"], args].concat());
    assert_eq!((output.code(), output.out.as_str()), (code, ""), "{args:?}: {}", output.err);
    let error: Value = serde_json::from_str(output.err.lines().last().unwrap()).unwrap();
    let mut keys: Vec<&String> = error.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["call", "errno", "field", "kind", "message", "object", "step"], "{args:?}");
    error
}

/// Compares every key except the message with the documented schema. The message must equal the text that the
/// same command prints without `--json`.
#[track_caller]
fn reports(code: i32, args: &[&str], mut expected: Value) {
    let mut error = failed(code, args);
    let message = error.as_object_mut().unwrap().remove("message").unwrap();
    for key in ["step", "object", "call", "errno", "field"] {
        expected.as_object_mut().unwrap().entry(key).or_insert(Value::Null);
    }
    assert_eq!(error, expected, "{args:?}: {message}");
    let plain = nspod(args).err;
    assert_eq!(format!("nspod: {}\n", message.as_str().unwrap()), plain, "{args:?}");
}

#[test]
fn an_error_in_json_names_the_flag_that_is_wrong() {
    reports(
        125,
        &["run", "--memory", "12q", "true"],
        json!({ "kind": "usage", "step": "arguments", "field": "--memory", "object": "12q" }),
    );
    reports(
        125,
        &["run", "--no-such", "true"],
        json!({ "kind": "usage", "step": "arguments", "field": "--no-such" }),
    );
    reports(125, &["run", "-m"], json!({ "kind": "usage", "step": "arguments", "field": "--memory" }));
    reports(
        125,
        &["run", "--env", "=x", "true"],
        json!({ "kind": "usage", "step": "arguments", "field": "--env", "object": "=x" }),
    );
    reports(125, &["frob"], json!({ "kind": "usage", "step": "arguments", "object": "frob" }));
    reports(
        125,
        &["run", "--network", "none", "--ns", "net=host", "true"],
        json!({ "kind": "usage", "step": "arguments", "field": "--ns" }),
    );
    // Arguments after `--` belong to the program.
    let output = nspod(&["run", "--no-such", "--", "--json"]);
    assert!(output.err.starts_with("nspod: unexpected argument"), "{}", output.err);
}

#[test]
fn an_error_in_json_names_step_object_call_and_errno() {
    if !root() {
        return;
    }
    let exec = |kind: &str, program: &str, errno: &str| json!({ "kind": kind, "step": "exec", "object": program, "call": "execve", "errno": errno });
    reports(127, &["run", "no-such"], exec("program_not_found", "no-such", "ENOENT"));
    reports(126, &["run", "/etc/passwd"], exec("program_not_executable", "/etc/passwd", "EACCES"));
    reports(
        125,
        &["run", "-v", "/no/such:/mnt", "true"],
        json!({ "kind": "not_found", "step": "mount", "object": "/no/such", "call": "open_tree", "errno": "ENOENT" }),
    );
    reports(
        125,
        &["run", "-w", "/no/such", "pwd"],
        json!({ "kind": "not_found", "step": "cwd", "object": "/no/such", "call": "chdir", "errno": "ENOENT" }),
    );
    reports(
        125,
        &["run", "--env-file", "/no/such", "true"],
        json!({ "kind": "not_found", "step": "read", "object": "/no/such", "errno": "ENOENT" }),
    );
    reports(
        125,
        &["run", "--oom-score-adj", "2000", "true"],
        json!({ "kind": "invalid_spec", "step": "plan", "field": "--oom-score-adj" }),
    );
    reports(
        125,
        &["run", "--ns", "net=join:2147483647", "true"],
        json!({ "kind": "process_ended", "step": "namespace", "object": "2147483647", "call": "pidfd_open", "errno": "ESRCH" }),
    );
    reports(
        125,
        &["run", "--cpu-weight", "0", "true"],
        json!({ "kind": "invalid_input", "step": "cgroup", "field": "cpu.weight" }),
    );
}

#[test]
fn an_error_in_json_names_the_limit_that_the_host_cannot_enforce() {
    if !root() {
        return;
    }
    let name = Name::container();
    let error = failed(125, &["run", "--name", &name, "--limit", "pids.no-such=1", "true"]);
    let of = |key: &str| error[key].as_str();
    assert_eq!(
        (of("kind"), of("step"), of("call")),
        (Some("unenforceable"), Some("cgroup"), None),
        "{error}"
    );
    assert_eq!(of("field"), Some("pids.no-such"), "{error}");
    assert!(of("object").is_some_and(|cgroup| cgroup.ends_with(&format!("/{}", &*name))), "{error}");
}

#[test]
fn an_error_in_json_reports_a_missing_or_conflicting_container() {
    if !root() {
        return;
    }
    let missing = json!({ "kind": "not_found", "step": "store", "object": "no-such" });
    for args in [&["rm", "no-such"][..], &["exec", "no-such", "true"], &["pod", "rm", "no-such"]] {
        reports(125, args, missing.clone());
    }
    reports(125, &["rm", "../x"], json!({ "kind": "invalid_input", "step": "store", "object": "../x" }));
    reports(125, &["update", "no-such"], json!({ "kind": "usage", "step": "arguments", "field": "OPTIONS" }));
    reports(
        125,
        &["run", "--device-read-bps", "/dev/null:1m", "true"],
        json!({ "kind": "invalid_input", "step": "limits", "object": "/dev/null" }),
    );
    let name = Name::detached(NO_INIT, &["sleep", "1000"]);
    // sleep(1) is pid 1 and has no handler for SIGTERM.
    reports(
        125,
        &["kill", "--signal", "TERM", &name],
        json!({ "kind": "state", "step": "kill", "object": &*name }),
    );
    let taken = nspod(&["--json", "run", "--name", &name, "true"]);
    let taken: Value = serde_json::from_str(&taken.err).unwrap();
    assert_eq!((taken["kind"].as_str(), taken["object"].as_str()), (Some("already_exists"), Some(&*name)));
    reports(125, &["rm", &name], json!({ "kind": "state", "step": "rm", "object": &*name }));
    // Each failure is reported on a separate line.
    let both = nspod(&["--json", "rm", "no-such", &name]);
    let kinds: Vec<Value> = both.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(kinds.iter().map(|error| &error["kind"]).collect::<Vec<_>>(), ["not_found", "state"]);
}

#[test]
fn an_error_in_json_reports_missing_rights() {
    if !root() {
        return;
    }
    // A runtime directory of another user.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    nspod_testkit::copy_program(env!("CARGO_BIN_EXE_nspod"), &path);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(path);
    command.args(["--json", "run", "-d", "true"]).env("XDG_RUNTIME_DIR", dir.path());
    let output = command.output().unwrap();
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["kind"], "permission_denied", "{error}");
    assert_eq!(error["errno"], "EACCES", "{error}");
}

/// The kinds in the table of the README's section "Errors as JSON".
fn documented_kinds() -> Vec<&'static str> {
    let readme = include_str!("../README.md");
    let section = readme.split("\n## Errors as JSON\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let table = section.split("| kind | meaning |\n").nth(1).unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('`').nth(1)).collect()
}

/// Checks lines of JSON in standard error. Each is an error of a documented kind with a step.
#[track_caller]
fn documented(of: &str, err: &str, code: i32, message: &str) {
    assert_ne!(code, 0, "{of}");
    assert!(!err.is_empty(), "{of} prints nothing");
    for line in err.lines() {
        let error: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{of}: {e}: {err}"));
        let kind = error["kind"].as_str().unwrap();
        assert!(documented_kinds().contains(&kind), "{of}: {line}");
        assert!(error["step"].as_str().is_some_and(|step| !step.contains(' ')), "{of}: {line}");
        for key in ["object", "call", "errno", "field"] {
            assert!(
                error[key].is_null() || error[key].as_str().is_some_and(|text| !text.is_empty()),
                "{of}: {line}"
            );
        }
        // An errno in the sentence is in the data too.
        let (said, data) = (error[message].as_str().unwrap(), error["errno"].as_str());
        assert_eq!(said.contains(&format!("({})", data.unwrap_or("E"))), data.is_some(), "{of}: {line}");
    }
}

#[test]
fn each_command_that_fails_prints_json_of_a_documented_kind() {
    if !root() {
        return;
    }
    // `@full` is a command whose standard output is /dev/full.
    let failing: &[(&str, &str)] = &[
        ("run", "run --env-file /no/such true"),
        ("run", "run --rootfs /no/such true"),
        ("exec", "exec no-such true"),
        ("attach", "attach no-such"),
        ("ps", "ps @full"),
        ("top", "top no-such"),
        ("logs", "logs no-such"),
        ("stats", "stats no-such"),
        ("diff", "diff no-such"),
        ("commit", "commit no-such /tmp"),
        ("inspect", "inspect no-such"),
        ("update", "update --memory 64m no-such"),
        ("pause", "pause no-such"),
        ("unpause", "unpause no-such"),
        ("kill", "kill no-such"),
        ("stop", "stop no-such"),
        ("wait", "wait no-such"),
        ("rm", "rm no-such other-such"),
        ("prune", "prune excess"),
        ("pod", "pod"),
        ("pod create", "pod create --share net --hostname x no-such"),
        ("pod ls", "pod ls @full"),
        ("pod run", "pod run no-such true"),
        ("pod kill", "pod kill no-such"),
        ("pod rm", "pod rm no-such"),
        ("pod inspect", "pod inspect no-such"),
        ("pod update", "pod update --memory 64m no-such"),
        ("census", "census --pid 2147483647"),
        ("census", "census @full"),
        ("doctor", "doctor @full"),
        ("cp", "cp no-such:/x /tmp"),
        ("rename", "rename no-such other"),
        ("version", "version @full"),
        ("completions", "completions bash @full"),
        ("man", "man no-such"),
        ("man", "man --dir /no/such"),
    ];
    let help = |args: &[&str]| nspod(&[args, &["--help"]].concat()).out;
    let (top, pod) = (help(&[]), help(&["pod"]));
    let all = commands(&top).into_iter().map(str::to_owned);
    for command in all.chain(commands(&pod).into_iter().map(|name| format!("pod {name}"))) {
        assert!(failing.iter().any(|(name, _)| *name == command), "{command} has no failing input here");
        let unknown: Vec<&str> = command.split(' ').chain(["--no-such"]).collect();
        let output = nspod(&[&["--json"][..], &unknown].concat());
        documented(&command, &output.err, output.code(), "message");
    }
    for (_, line) in failing {
        let full = line.ends_with(" @full");
        let out = if full { "/dev/full" } else { "/dev/null" };
        let command = format!("exec {} --json {} > {out}", common::NSPOD, line.trim_end_matches(" @full"));
        let output = common::run_with(std::process::Command::new("sh").args(["-c", &command]), "");
        assert_eq!(output.code(), 125, "{line}: {}", output.err);
        documented(line, &output.err, output.code(), "message");
    }
}

#[test]
fn each_command_of_nspod_oci_that_fails_logs_json_of_a_documented_kind() {
    if !root() {
        return;
    }
    let program = common::OCI;
    let (state, bundle) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bundle = bundle.path().to_str().unwrap();
    std::fs::write(state.path().join("file"), "").unwrap();
    let failing: &[(&str, &str)] = &[
        ("create", "create --bundle @bundle box"),
        ("run", "run --bundle /no/such box"),
        ("start", "start box"),
        ("state", "state box"),
        ("kill", "kill box"),
        ("delete", "delete box"),
        ("exec", "exec box true"),
        ("exec", "exec --process /no/such box"),
        ("pause", "pause box"),
        ("resume", "resume box"),
        ("update", "update --memory 64m box"),
        ("events", "events --stats box"),
        ("ps", "ps box"),
        ("list", "list @full"),
        ("spec", "spec --bundle /no/such"),
        ("checkpoint", "checkpoint box"),
        ("restore", "restore --bundle /no/such box"),
        ("features", "features @full"),
        ("completions", "completions bash @full"),
        ("man", "man /no/such"),
    ];
    let help = common::run_with(std::process::Command::new(program).arg("--help"), "").out;
    for command in commands(&help) {
        assert!(failing.iter().any(|(name, _)| *name == command), "{command} has no failing input here");
    }
    let run = |line: &str| {
        let out = if line.ends_with(" @full") { "/dev/full" } else { "/dev/null" };
        let line = line.trim_end_matches(" @full").replace("@bundle", bundle);
        let root = state.path().display();
        let command = format!("exec {program} --log-format json --root {root}/state {line} > {out}");
        common::run_with(std::process::Command::new("sh").args(["-c", &command]), "")
    };
    for (name, line) in failing {
        let unknown = format!("{name} --no-such");
        for line in [line, unknown.as_str()] {
            let output = run(line);
            let expected = if *name == "exec" && line != unknown { 255 } else { 1 };
            assert_eq!(output.code(), expected, "{line}: {}", output.err);
            documented(line, &output.err, output.code(), "msg");
            assert!(output.err.contains("\"level\":\"error\""), "{line}: {}", output.err);
        }
    }
    // The log itself cannot be opened.
    let output = run("--log /no/such state box");
    documented("--log", &output.err, output.code(), "msg");
}
