//! Exit codes, signals and streams of a foreground container.

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use common::terminal::Terminal;
use common::{Guard, NSPOD, Name, end_of, eventually, nspod, ok, programs, root, run_with, signal};

/// Prints "ready" when the traps are set, and then the name of each signal that arrives.
const TRAPS: &str = "for s in INT TERM HUP QUIT USR1 USR2; do trap \"echo $s; exit 42\" $s; done; \
    echo ready; while :; do sleep 0.02; done";

#[test]
fn the_exit_code_is_the_programs_or_tells_what_failed() {
    if !root() {
        return;
    }
    for code in [0, 1, 42, 125, 127, 255] {
        assert_eq!(nspod(&["run", "sh", "-c", &format!("exit {code}")]).code(), code);
    }
    for (flags, number) in [(&["--init"][..], 15), (&["--init"], 9), (&["--init"], 11), (&["--pid=host"], 6)]
    {
        let kill = format!("kill -{number} $$");
        let args = [&["run"], flags, &["sh", "-c", &kill]].concat();
        assert_eq!(nspod(&args).code(), 128 + number, "{flags:?} {number}");
    }
    for args in [&["run", "/no/such"][..], &["run", "-d", "no-such"], &["run", "--init", "no-such"]] {
        assert_eq!(nspod(args).code(), 127, "{args:?}");
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), "#!/no/such/interpreter\n").unwrap();
    for program in ["/etc", "/etc/passwd"] {
        assert_eq!(nspod(&["run", program]).code(), 126, "{program}");
        assert_eq!(nspod(&["run", "-d", program]).code(), 126, "{program}");
    }
    for args in [&[][..], &["frob"], &["run"], &["run", "--frob", "true"], &["run", "-m"], &["rm"]] {
        assert_eq!(nspod(args).code(), 125, "{args:?}");
    }
    for args in [&["--help"][..], &["help", "run"], &["run", "--help"], &["--version"], &["pod", "ls"]] {
        assert_eq!(nspod(args).code(), 0, "{args:?}");
    }
}

/// Commands that end by a signal that they cause themselves.
const SELF_INFLICTED: [(&[&str], i32); 4] = [
    (&["perl", "-e", "use POSIX; POSIX::abort()"], 6),
    (&["sh", "-c", "kill -KILL $$; exit 3"], 9),
    (&["sh", "-c", "ulimit -S -t 1; while :; do :; done"], 24),
    (&["sh", "-c", "kill -TERM $$; exit 3"], 15),
];

#[test]
fn a_program_ends_by_the_signals_that_it_sends_itself() {
    if !root() {
        return;
    }
    for flags in [&[][..], &["--bare"], &["--rootfs", "/"], &["--userns", "auto"]] {
        for (command, number) in SELF_INFLICTED {
            let ended = nspod(&[&["run"], flags, command].concat());
            assert_eq!(ended.code(), 128 + number, "{flags:?} {command:?}: {}", ended.err);
        }
    }
    for (command, number) in SELF_INFLICTED {
        let mut terminal = Terminal::nspod(&[&["run", "-it"], command].concat());
        assert_eq!(terminal.end(), 128 + number, "-it {command:?}");
    }
    // Without an init, the program is pid 1.
    for flags in [&["--init=false"][..], &["--init=false", "--bare"]] {
        let ignored = nspod(&[&["run"], flags, SELF_INFLICTED[1].0].concat());
        assert_eq!(ignored.code(), 3, "{flags:?}");
    }
}

#[test]
fn a_limit_of_one_process_requires_a_program_that_is_pid_1() {
    if !root() {
        return;
    }
    let refused = nspod(&["run", "--explain", "--pids-limit", "1", "true"]);
    assert_eq!(refused.code(), 125);
    assert!(refused.err.contains("the init is a process too"), "{}", refused.err);
    for flags in [&["--init=false", "--pids-limit", "1"][..], &["--pids-limit", "2"]] {
        assert!(ok(&[&["run", "--explain"], flags, &["true"]].concat()).contains("pids.max = "));
    }
}

#[test]
fn a_user_opens_the_standard_streams_and_a_file_for_reading_stays_the_callers() {
    if !root() {
        return;
    }
    let script = "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr";
    let streams = |args: &[&str]| {
        let output = run_with(Command::new(NSPOD).args(args).args(["sh", "-c", script]), "in\n");
        assert_eq!((output.code(), output.out.as_str(), output.err.as_str()), (0, "in\nout\n", "err\n"));
    };
    streams(&["run", "-i", "-u", "1000:1000"]);
    streams(&["run", "-i", "-u", "1000:1000", "--init"]);
    let sleeper = Name::detached(&[], &["sleep", "1000"]);
    streams(&["exec", "-i", "-u", "1000:1000", &sleeper]);
    let dir = tempfile::tempdir().unwrap();
    let [input, output] = ["input", "output"].map(|name| dir.path().join(name));
    std::fs::write(&input, "in\n").unwrap();
    let mut command = Command::new(NSPOD);
    command.args(["run", "-i", "-u", "1000:1000", "sh", "-c", "cat; echo out >> /dev/stdout"]);
    command.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap());
    assert!(end_of(&mut command.spawn().unwrap()).success());
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "in\nout\n");
    assert_eq!([&input, &output].map(|path| path.metadata().unwrap().uid()), [0, 1000]);
    // Root opens a file of another user and does not change its owner.
    let mut command = Command::new(NSPOD);
    command
        .args(["run", "sh", "-c", "echo out >> /dev/stdout"])
        .stdout(OpenOptions::new().append(true).open(&output).unwrap());
    assert!(end_of(&mut command.spawn().unwrap()).success());
    assert_eq!(output.metadata().unwrap().uid(), 1000);
}

#[test]
fn a_working_directory_that_the_user_may_not_enter_is_entered() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volume = format!("{}:/mnt", dir.path().display());
    // With CAP_DAC_OVERRIDE the user may enter it.
    let volume = ["-v", &volume, "--cap-drop", "all"];
    let user = ["-u", "42:42", "-w", "/mnt"];
    let run = [&["run"][..], &volume, &user, &["pwd"]].concat();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(ok(&run), "/mnt\n");
    let sleeper = Name::detached(&volume, &["sleep", "1000"]);
    assert_eq!(ok(&[&["exec"][..], &user, &[&sleeper, "pwd"]].concat()), "/mnt\n");
}

#[test]
fn nspod_refuses_to_run_itself_as_the_program() {
    if !root() {
        return;
    }
    const SELF: &str = "/proc/self/exe";
    let root = tempfile::tempdir().unwrap();
    let rootfs = ["--rootfs", root.path().to_str().unwrap()];
    for flags in [&["--init"][..], &rootfs] {
        let output = nspod(&[&["run"], flags, &[SELF]].concat());
        assert!(output.code() == 125 && output.err.contains(SELF), "{flags:?}: {output:?}");
    }
    let name = Name::detached(&[], &[SELF]);
    eventually("it says so in its log", || ok(&["logs", &name]).contains(SELF));
}

#[test]
fn flags_after_the_program_are_its_own() {
    if !root() {
        return;
    }
    assert_eq!(ok(&["run", "echo", "--help", "--json", "-d", "--", "x"]), "--help --json -d -- x\n");
    assert_eq!(ok(&["run", "--", "echo", "--", "x"]), "-- x\n");
}

#[test]
fn signals_are_forwarded_and_the_program_decides_the_exit_code() {
    if !root() {
        return;
    }
    for (number, word) in [(2, "INT"), (15, "TERM"), (1, "HUP"), (3, "QUIT"), (10, "USR1"), (12, "USR2")] {
        for init in ["--init=false", "--init"] {
            // Also if the caller ignores them, as a shell does with SIGINT for a job in the background.
            let ignored = if init == "--init" { "--ignore-signal" } else { "--default-signal" };
            let mut command = Command::new("env");
            let log = tempfile::NamedTempFile::new().unwrap();
            command.args([ignored, NSPOD, "run", init, "sh", "-c", TRAPS]).stdout(log.reopen().unwrap());
            let mut run = Guard(command.spawn().unwrap());
            let said = || std::fs::read_to_string(log.path()).unwrap();
            eventually("the traps are set", || said() == "ready\n");
            signal(&run.0, number);
            assert_eq!(end_of(&mut run.0).code(), Some(42), "{word} {init}");
            assert_eq!(said(), format!("ready\n{word}\n"));
        }
    }
}

#[test]
fn signals_that_the_caller_ignores_have_their_default_in_the_container() {
    if !root() {
        return;
    }
    let ignored = |args: &[&str]| {
        let mut command = Command::new("env");
        command.arg("--ignore-signal").arg(NSPOD).args(args).args(["grep", "SigIgn", "/proc/self/status"]);
        run_with(&mut command, "")
    };
    let sleeper = Name::detached(&[], &["sleep", "1000"]);
    let pod = Name::pod();
    run_with(
        Command::new("env").args(["--ignore-signal", NSPOD, "pod", "create", "--share", "pid", &pod]),
        "",
    )
    .ok();
    for args in [
        &["run"][..],
        &["run", "--bare"],
        &["run", "--init"],
        &["run", "--userns", "single"],
        &["run", "--pod", &pod],
        &["exec", &sleeper],
    ] {
        assert_eq!(ignored(args).ok(), "SigIgn:\t0000000000000000\n", "{args:?}");
    }
}

#[test]
fn an_unhandled_signal_ends_the_program_as_without_a_container() {
    if !root() {
        return;
    }
    for (number, init) in [(15, "--init=false"), (2, "--init"), (3, "--init=false"), (10, "--init")] {
        let name = Name::container();
        let args = ["run", "--name", &name, init, "sleep", "1000"];
        let mut run = Guard(Command::new(NSPOD).args(args).spawn().unwrap());
        eventually("it runs", || name.at() == "running");
        signal(&run.0, number);
        assert_eq!(end_of(&mut run.0).code(), Some(128 + number), "{init}");
        assert!(!name.state().exists() && !common::cgroup(&name).exists());
    }
}

#[test]
fn standard_input_is_forwarded_with_i_and_empty_without() {
    if !root() {
        return;
    }
    let text = "x".repeat(300_000);
    let counted = run_with(Command::new(NSPOD).args(["run", "-i", "wc", "-c"]), &text);
    assert_eq!(counted.ok().trim(), "300000");
    assert_eq!(run_with(Command::new(NSPOD).args(["run", "wc", "-c"]), &text).ok().trim(), "0");
    let mut exec = Command::new(NSPOD);
    let name = Name::detached(&[], &["sleep", "1000"]);
    assert_eq!(run_with(exec.args(["exec", "-i", &name, "wc", "-c"]), &text).ok().trim(), "300000");
    // The container has a terminal between two pipes; the terminal echoes the input.
    let typed = run_with(Command::new(NSPOD).args(["run", "-i", "-t", "cat"]), "hello\n");
    assert_eq!(typed.ok(), "hello\r\nhello\r\n");
}

#[test]
fn standard_output_and_standard_error_stay_separate() {
    if !root() {
        return;
    }
    let both = nspod(&["run", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.out.as_str(), both.err.as_str(), both.code()), ("out\n", "err\n", 0));
}

#[test]
fn a_closed_output_pipe_ends_a_command_without_an_error() {
    if !root() {
        return;
    }
    let name = Name::detached(&[], &["sh", "-c", "while :; do echo line; sleep 0.02; done"]);
    for args in [
        &["ps", "-a"][..],
        &["logs", "-f", &name],
        &["stats"],
        &["inspect", &name],
        &["run", "--init", "yes"],
    ] {
        let mut command = Command::new(NSPOD);
        let child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut nspod = Guard(child.unwrap());
        drop(nspod.0.stdout.take());
        let status = end_of(&mut nspod.0);
        let mut err = String::new();
        std::io::Read::read_to_string(&mut nspod.0.stderr.take().unwrap(), &mut err).unwrap();
        // `head` ends `yes` in the same way: SIGPIPE kills it.
        let want = if args[0] == "run" { 128 + 13 } else { 0 };
        assert_eq!((status.code(), err.as_str()), (Some(want), ""), "{args:?}");
        assert_eq!(status.signal(), None);
    }
}

#[test]
fn a_program_in_a_pipe_ends_quietly_when_the_pipe_is_closed() {
    if !root() || !programs(&["bash"]) {
        return;
    }
    let sleeper = Name::detached(&[], &["sleep", "1000"]);
    const PIPE: &[&str] = &["141"];
    // The program gets SIGHUP, or its write to the terminal fails before the signal arrives.
    const HANGUP: &[&str] = &["129", "1"];
    // The kernel drops SIGPIPE for a pid 1, so the write fails and the program ends itself.
    const PID_1: &[&str] = &["1"];
    for (args, codes) in [
        ("run yes", PIPE),
        ("run --bare yes", PIPE),
        ("run --pid host yes", PIPE),
        ("run -t yes", HANGUP),
        ("exec $C yes", PIPE),
        ("exec -t $C yes", HANGUP),
        ("run --init=false sh -c 'exec yes 2>/dev/null'", PID_1),
    ] {
        let script = format!("$N {args} | head -n 1; echo ${{PIPESTATUS[0]}}");
        let mut bash = Command::new("bash");
        let seen = run_with(bash.args(["-c", &script]).env("N", NSPOD).env("C", &*sleeper), "");
        let lines: Vec<&str> = seen.out.lines().collect();
        assert!(lines[0] == "y" && codes.contains(&lines[1]) && seen.err.is_empty(), "{args}: {seen:?}");
    }
}

#[test]
fn a_command_without_arguments_prints_its_help() {
    for (args, first) in [(&[][..], "Run isolated processes"), (&["pod"], "Manage pods")] {
        let output = nspod(args);
        assert_eq!((output.code(), output.out.as_str()), (125, ""), "{args:?}");
        assert!(output.err.starts_with(first) && output.err.contains("\nUsage: nspod "), "{}", output.err);
    }
}

#[test]
fn streams_that_are_closed_or_full_are_survived() {
    if !root() {
        return;
    }
    let sh = |script: &str| run_with(Command::new("sh").args(["-c", script]).env("N", NSPOD), "");
    for script in ["$N ps >&-", "$N run true <&- >&- 2>&-", "$N ps 2>&-; true"] {
        assert_eq!(sh(script).code(), 0, "{script}");
    }
    assert_eq!(sh("$N run sh -c 'ls /proc/self/fd | wc -l' <&-").ok(), "4\n");
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = |args: &[&str], out: File, err: File| {
        let mut command = Command::new(NSPOD);
        end_of(&mut command.args(args).stdout(out).stderr(err).spawn().unwrap()).code()
    };
    let null = || OpenOptions::new().write(true).open("/dev/null").unwrap();
    for args in [&["run", "--frob"][..], &["rm", "no-such"], &["run", "-v", "/no/such:/mnt", "true"]] {
        assert_eq!(run(args, null(), full()), Some(125), "{args:?}");
    }
    assert_eq!(run(&["ps"], full(), null()), Some(125));
    let refused = sh("$N ps > /dev/full");
    assert_eq!(
        refused.err,
        "nspod: cannot write to standard output: write: No space left on device (ENOSPC)\n"
    );
}

#[test]
fn the_callers_own_path_and_environment_do_not_matter() {
    if !root() {
        return;
    }
    let mut bare = Command::new(NSPOD);
    bare.env_clear().args(["run", "sh", "-c", "echo $PATH; exit 3"]);
    let seen = run_with(&mut bare, "");
    assert_eq!(
        (seen.out.trim(), seen.code()),
        ("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 3)
    );
    let gone = tempfile::tempdir().unwrap();
    let script = format!("cd {} && rmdir $PWD && $N run pwd", gone.path().display());
    let seen = run_with(Command::new("sh").args(["-c", &script]).env("N", NSPOD), "");
    assert_eq!((seen.out.as_str(), seen.code()), ("/\n", 0), "{}", seen.err);
}
