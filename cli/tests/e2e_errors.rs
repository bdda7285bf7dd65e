//! The exact sentence of each error: what failed, on what, why and what to do.

mod common;

use common::{Name, nspod, root};

/// What clap says after its first line.
const TRY_HELP: &str = "\n\nFor more information, try '--help'.";

/// Runs each and compares all of standard error; nothing may be printed or started.
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
    assert!(wrong.is_empty(), "these are otherwise:\n{wrong}");
}

/// The same where clap names the flag and the value before the sentence.
#[track_caller]
fn wrong_values(table: &[(&[&str], &str, &str)]) {
    for (args, of, sentence) in table {
        let value = args[2];
        let said = format!("invalid value '{value}' for '{of}': {sentence}{TRY_HELP}");
        refused(125, &[(args, &said)]);
    }
}

#[test]
fn values_that_are_none_are_explained() {
    wrong_values(&[
        (&["run", "-m", "12q", "true"], "--memory <BYTES>", "\"12q\" is not a size such as 512k, 64m or 1g"),
        (&["run", "--cpus", "0", "true"], "--cpus <NUMBER>", "0 processors: the kernel takes 0.01 and more"),
        (
            &["run", "-v", "data:/mnt", "true"],
            "--volume <SOURCE:DESTINATION[:OPTIONS]>",
            "\"data\" would be the name of a volume, and nspod keeps none: give the path of a directory or file, ./data for one that lies here",
        ),
        (
            &["run", "--tmpfs", "mnt", "true"],
            "--tmpfs <DESTINATION[:OPTIONS]>",
            "\"mnt\" is not of the form /DESTINATION[:OPTIONS]",
        ),
        (
            &["run", "--mount", "type=nfs,target=/x", "true"],
            "--mount <TYPE,…>",
            "type=nfs is none of bind, tmpfs, proc, sysfs, mqueue, devpts, cgroup and dev",
        ),
        (
            &["run", "--cap-add", "FLY", "true"],
            "--cap-add <CAP>",
            "\"FLY\" is not a capability such as NET_ADMIN",
        ),
        (
            &["run", "--ulimit", "nofile=20:10", "true"],
            "--ulimit <NAME=SOFT[:HARD]>",
            "\"nofile=20:10\" has a soft limit above the hard one",
        ),
        (
            &["run", "--stop-signal", "FOO", "true"],
            "--stop-signal <SIGNAL>",
            "\"FOO\" is not a signal such as TERM, SIGUSR1, RTMIN+3 or 9",
        ),
        (
            &["run", "--name", "../x", "true"],
            "--name <NAME>",
            "\"../x\" is not a name: 1 to 64 letters, digits, '_', '.' and '-', a letter or digit first, no '..'",
        ),
        (
            &["run", "--ns", "foo=new", "true"],
            "--ns <KIND=WHICH>",
            "cannot parse \"foo\" as a kind of namespace: the kinds are mnt, net, pid, user, uts, ipc, cgroup, time",
        ),
        (
            &["run", "--ipc", "weird", "true"],
            "--ipc <WHICH>",
            "\"weird\" is none of new, host, pod, container:ID, join:PID and join:/PATH",
        ),
        (
            &["run", "--uidmap", "0:x", "true"],
            "--uidmap <INSIDE:OUTSIDE[:COUNT]>",
            "\"0:x\" is not of the form INSIDE:OUTSIDE[:COUNT]",
        ),
        (&["run", "--umask", "9", "true"], "--umask <MODE>", "\"9\" is not an octal mode such as 1777"),
    ]);
}

#[test]
fn what_is_typed_wrong_is_named() {
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
fn programs_that_cannot_be_had_are_told_apart() {
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
    let none = |program: &str| execve(program, "No such file or directory (ENOENT)", missing);
    refused(
        127,
        &[
            (&["run", "no-such"], &none("no-such")),
            (&["run", "-d", "/no/such"], &none("/no/such")),
            (&["run", path], &none(path)),
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
fn files_that_are_not_there_are_named() {
    if !root() {
        return;
    }
    let nothing = "open_tree: No such file or directory (ENOENT); there is nothing at that path on the host";
    refused(
        125,
        &[
            (
                &["run", "--env-file", "/no/such", "true"],
                "cannot read /no/such: No such file or directory (ENOENT)",
            ),
            (
                &["run", "-v", "/no/such:/mnt", "true"],
                &format!("cannot bind /no/such with all below it on /mnt (nodev): {nothing}"),
            ),
            (
                &["run", "--rootfs", "/no/such", "true"],
                &format!("cannot bind /no/such with all below it as the new root (nodev): {nothing}"),
            ),
            (&["run", "--rootfs", "/etc/passwd", "true"], "--rootfs /etc/passwd is not a directory"),
            (
                &["run", "-v", "/usr:/no/such", "true"],
                "cannot bind /usr with all below it on /no/such (nodev): openat2: No such file or directory (ENOENT); the place to mount on does not exist within the root",
            ),
            (
                &["run", "-w", "/no/such", "pwd"],
                "cannot enter the directory /no/such: chdir: No such file or directory (ENOENT); there is no such directory in the container: make it, or name another",
            ),
            (
                &["run", "-u", "no-such", "true"],
                "the user \"no-such\" is not in the container's /etc/passwd: give a number, or add it there",
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
                &["run", "-d", "--log-file", "/no/such", "true"],
                "cannot open the log /no/such: No such file or directory (ENOENT)",
            ),
            (
                &["run", "--security-opt", "seccomp=/etc/passwd", "true"],
                "/etc/passwd is not a profile of system calls: expected value at line 1 column 1",
            ),
            (
                &["run", "--ns", "net=join:/etc/passwd", "true"],
                "cannot open the namespace /etc/passwd: it is not a namespace file (not on nsfs): nothing is pinned there, or it was unmounted",
            ),
        ],
    );
}

#[test]
fn contradictions_and_what_the_kernel_would_refuse_are_refused_first() {
    if !root() {
        return;
    }
    refused(
        125,
        &[
            (
                &["run", "-d", "-t", "true"],
                "-t and -i need somebody at the other end, and with -d nspod leaves nobody: start it with -d alone, then `nspod exec -it`",
            ),
            (
                &["run", "--network", "none", "--ns", "net=host", "true"],
                "--ns net=… and the flag of its own say different things",
            ),
            (
                &["run", "--privileged", "--cap-add", "KILL", "true"],
                "--privileged gives every capability: leave it out to choose them by --cap-add and --cap-drop",
            ),
            (
                &["run", "--security-opt", "label=x", "true"],
                "--security-opt \"label=x\" is none of no-new-privileges[=false], seccomp=unconfined and seccomp=FILE",
            ),
            (
                &["run", "--sysctl", "vm.swappiness=1", "true"],
                "sysctls.vm.swappiness: it belongs to no namespace, and setting it would change the host",
            ),
            (
                &["run", "--oom-score-adj", "2000", "true"],
                "process.oom_score_adj: 2000 is not between -1000 and 1000",
            ),
            (
                &["run", "-m", "2m", "--memory-swap", "1m", "true"],
                "--memory-swap counts memory and swap together: 1048576 bytes are less than the 2097152 of --memory",
            ),
            (
                &["run", "--limit", "cgroup.procs=1", "true"],
                "cgroup.procs cannot be \"1\": this file acts on processes and is not a limit",
            ),
            (
                &["run", "--device-read-bps", "/dev/null:1m", "true"],
                "/dev/null is not a block device: name a disk such as /dev/sda",
            ),
            (&["run", "-e", "=x", "true"], "\"=x\" does not name a variable"),
            (&["run", ""], "process.args: name a program"),
        ],
    );
}

#[test]
fn containers_and_pods_that_are_not_there_or_in_the_way_are_named() {
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
            (&["run", "--network", "pod", "true"], "no pod's net namespace to join: name one with --pod"),
            (
                &["pod", "create", "--share", "net", "-h", "x", "no-such"],
                "a host name of the pod's takes uts among --share",
            ),
            (&["update", "no-such"], "name a limit to change, such as --memory 64m"),
            (
                &["inspect", "../x"],
                "\"../x\" is not a name: 1 to 64 letters, digits, '_', '.' and '-', a letter or digit first, no '..'",
            ),
        ],
    );
    let (pod, name) = (Name::pod(), Name::detached(&["--init=false"], &["sleep", "1000"]));
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
                    "signal 15 would be lost: the program of {} is pid 1 and has no handler for it, and the kernel drops such signals; use --signal KILL, or run it with --init",
                    &*name
                ),
            ),
            (
                &["pod", "create", &pod],
                &format!("there is a pod {0} already; choose another name, or `nspod pod rm -f {0}`", &*pod),
            ),
            (
                &["run", "--pod", &pod, "--network", "host", "true"],
                "the pod shares net: leave the choice of it to the pod",
            ),
            (
                &["pod", "run", &pod, "--pod", &pod, "true"],
                "name the pod once: `nspod pod run POD` has no --pod",
            ),
        ],
    );
}
