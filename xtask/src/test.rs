//! `cargo xtask test`: everything that must pass, in all lanes.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::guest::{self, Stream, repository};
use crate::tally::{Counts, FAILED, Failure, PROGRAM, Tally};
use crate::{aarch64, cycles, dependencies, fuzz, install, references, sh, uml};

/// Ends a guest that hangs, in seconds.
const GUEST_TIMEOUT: u64 = 60 * 60;
/// Seconds for each fuzz target.
const FUZZ_SECONDS: u32 = 5;
/// The lane in which tests may be skipped, because its kernel may lack features.
const HOST: &str = "host lane";
/// The test program for any OCI runtime. In the guest it also runs against each of `CONTROLS`.
const CONTROLLED: &str = "oci_fields";
const CONTROLS: [&str; 2] = ["crun", "runc"];
/// The number of lines of output that the command repeats at its end.
const REASONS: usize = 120;
/// The number of programs that each lane lists with their times.
const SLOWEST: usize = 8;
/// Ends a test program that hangs, in seconds, so that the next ones run.
const BINARY_TIMEOUT: u64 = 600;

/// The tests for a kernel that lacks a kind of namespace, by program and filter.
const LACKING: [(&str, &str); 3] =
    [("namespaces", "kernel_lacks"), ("e2e_namespaces", "kernel_lacks"), ("oci_fields", "kernel_lacks")];

/// Run every check and test, here, in the guest and under user-mode Linux
///
/// The host lane runs on the kernel of this machine: formatting, lints (also for aarch64), documentation, tests, a few seconds of each
/// fuzz target, and each benchmark once. The guest lane runs the same tests under `cargo xtask guest`, where no test
/// may be skipped. The uml lane runs the tests about missing time namespaces on a kernel without them. The last lines
/// of the output list the skipped tests, the failed checks and the failed tests, and the end of the output of each
/// failed test.
///
/// Missing programs are installed from Debian's packages, as root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to run
    #[arg(long, value_enum, default_value = "all")]
    lane: Lane,
    /// Install nothing: fail, or skip tests, where something is missing
    #[arg(long)]
    no_install: bool,
    /// Run only the tests whose names contain one of these, and no other check
    filters: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lane {
    Host,
    Guest,
    Uml,
    All,
}

/// Runs all steps, even if one fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut steps = Steps::default();
    let mut skips: Vec<String> = Vec::new();
    if !args.no_install {
        steps.step("packages", || install::packages(install::TESTS, true));
    }
    let runs = |lane| args.lane == lane || args.lane == Lane::All;
    let (host, guest, uml) = (runs(Lane::Host), runs(Lane::Guest), runs(Lane::Uml));
    let checks = host && args.filters.is_empty();
    if checks {
        steps.step("format", || sh::run(&mut cargo(&["fmt", "--all", "--check"])));
        steps.step("module cycles", cycles::check);
        steps.step("references", references::check);
        steps.step("dependencies", dependencies::check);
        steps.step("lints", || {
            sh::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        });
        if aarch64::is_installed(!args.no_install) {
            steps.step("lints for aarch64", aarch64::lints);
        } else {
            skips.push(format!("lints for aarch64: run `rustup target add {}`", aarch64::TARGET));
        }
        steps.step("documentation", || {
            sh::run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
        });
    }
    let mut total = Counts::default();
    let mut failures = Vec::new();
    let mut notes = Vec::new();
    type RunLane = fn(&Args, &mut Tally) -> Result<()>;
    let lanes: [(&str, bool, RunLane); 3] = [
        (HOST, host, host_lane),
        ("guest lane", guest, guest_lane),
        ("uml lane", uml && args.filters.is_empty(), uml_lane),
    ];
    for (lane, _, run) in lanes.into_iter().filter(|(_, wanted, _)| *wanted) {
        let mut tally = Tally::default();
        let ok = steps.step(&format!("tests, {lane}"), || run(args, &mut tally));
        print_slowest(&tally);
        add(&mut total, tally.counts(), ok);
        if lane == HOST {
            // The other lanes fail when a test is skipped, and name it then.
            skips.extend(tally.skips().map(str::to_owned));
        }
        notes.extend(tally.notes().iter().map(|note| format!("{lane}, {note}")));
        failures.extend(tally.into_failures().into_iter().map(|failure| {
            let name = format!("{lane}, {}", failure.name);
            Failure { name, ..failure }
        }));
    }
    if checks {
        if fuzz::has_nightly() {
            steps.step("fuzz targets", || fuzz::run_all(FUZZ_SECONDS));
        } else {
            skips.push(
                "fuzz targets: install a nightly toolchain: `rustup toolchain install nightly`".to_owned(),
            );
        }
        // Each benchmark runs once. The packages and the profile are those of the tests, so only the
        // benchmarks themselves are built.
        steps.step("benchmarks", || {
            sh::run(&mut cargo(&["test", "--workspace", "--bench", "*", "--", "--test"]))
        });
        if Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success()) {
            steps.step("licences", || sh::run(&mut cargo(&["deny", "check", "licenses", "bans", "sources"])));
        }
    }
    for skip in &skips {
        eprintln!("SKIP {skip}");
    }
    for note in &notes {
        eprintln!("NOTE {note}");
    }
    for failed in &steps.failed {
        eprintln!("FAILED {failed}");
    }
    for failure in &failures {
        eprintln!("FAILED test: {}", failure.name);
    }
    for line in reasons(&failures) {
        eprintln!("{line}");
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(if steps.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_slowest(tally: &Tally) {
    for (program, time) in tally.slowest(SLOWEST) {
        eprintln!("{:6.1} s {program}", time.as_secs_f64());
    }
}

/// Returns the outputs of the failed tests, in lines. Leaves out what exceeds `REASONS`, so that the end of a log
/// also has the names.
fn reasons(failures: &[Failure]) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, failure) in failures.iter().enumerate() {
        let output: Vec<String> = failure.output.lines().map(|line| format!("    {line}")).collect();
        if output.is_empty() {
            continue;
        }
        if lines.len() + output.len() > REASONS {
            lines.push(format!("The output of {} failed tests is only above.", failures.len() - index));
            break;
        }
        lines.push(format!("Output of the failed test: {}", failure.name));
        lines.extend(output);
    }
    lines
}

/// The steps that have failed. Each step prints a heading and its time.
#[derive(Default)]
struct Steps {
    failed: Vec<String>,
}

impl Steps {
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = step();
        let seconds = start.elapsed().as_secs_f64();
        match &result {
            Ok(()) => eprintln!("== {name}: {seconds:.1} s"),
            Err(error) => {
                eprintln!("== {name}: failed after {seconds:.1} s: {error:#}");
                self.failed.push(format!("{name}: {error:#}"));
            }
        }
        result.is_ok()
    }
}

/// Adds the counts of a lane. A lane that failed without a failed test, for example in the build, counts as one.
fn add(total: &mut Counts, lane: Counts, ok: bool) {
    total.passed += lane.passed;
    total.failed += if ok { lane.failed } else { lane.failed.max(1) };
    total.skipped += lane.skipped;
}

fn host_lane(args: &Args, tally: &mut Tally) -> Result<()> {
    let tests = build()?;
    let mut programs = programs(&tests, &args.filters, Machine::Host);
    // The output of `cargo test --doc` names each test by its file.
    let line = format!(
        "printf '\\n{PROGRAM}documentation\\n'\n\
         cargo test --workspace --doc --no-fail-fast -- --show-output{} || {}\n",
        words(&args.filters),
        failed()
    );
    programs.push(Program { heading: "documentation".to_owned(), line });
    let script = script(&programs);
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(repository()).stdin(Stdio::null());
    ensure!(tee(&mut command, tally)?, "some tests failed");
    Ok(())
}

/// Builds all tests. The lanes build the same packages, because another set has other features and builds all anew.
fn build() -> Result<Vec<TestBinary>> {
    let mut build = cargo(&["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    let tests = test_binaries(&sh::read(&mut build)?)?;
    ensure!(!tests.is_empty(), "cargo has built no test");
    Ok(tests)
}

fn uml_lane(args: &Args, tally: &mut Tally) -> Result<()> {
    let tests = build()?;
    let mut script = format!("export NSPOD_LANE=uml NSPOD_NO_SKIP=1\n{BEGIN}");
    for (name, filter) in LACKING {
        let test = tests.iter().find(|test| test.name == name);
        let test = test.with_context(|| format!("cargo has built no test {name}"))?;
        script.push_str(&run_program(test, "", "", &words(&[filter.to_owned()]), Machine::Guest).line);
    }
    script.push_str(END);
    let code = uml::run(&script, !args.no_install, |stream, bytes| {
        tally.push(stream as usize, bytes);
        guest::print(stream, bytes)
    })?;
    ensure!(code == 0, "some tests failed under user-mode Linux");
    let Counts { passed, .. } = tally.counts();
    ensure!(passed >= LACKING.len() as u32, "some of the tests for user-mode Linux are not there any more");
    Ok(())
}

fn guest_lane(args: &Args, tally: &mut Tally) -> Result<()> {
    let mut tests = build()?;
    tests.retain(|test| test.directory != repository().join("xtask"));
    let docker = guest::directory()?.join("docker");
    if !docker.exists() && !args.no_install {
        // If it was installed, it would run on this host from now on.
        install::unpack(|| Ok("docker.io".to_owned()), &docker, |_| Ok(()))
            .context("Debian's package docker.io could not be fetched and unpacked")?;
    }
    let path = format!("PATH=$PATH:{0}/usr/bin:{0}/usr/sbin\n", sh::quote(&docker.to_string_lossy()));
    let deadline = Instant::now() + Duration::from_secs(GUEST_TIMEOUT);
    let mut programs = programs(&tests, &args.filters, Machine::Guest);
    let mut is_second = false;
    let code = loop {
        let script = path.clone() + &script(&programs);
        let guest = guest::Args {
            timeout: Some(deadline.saturating_duration_since(Instant::now()).as_secs()),
            no_install: args.no_install,
            command: vec!["sh".to_owned(), "-c".to_owned(), script],
            ..guest::Args::default()
        };
        let variables = [("NSPOD_LANE", "guest"), ("NSPOD_NO_SKIP", "1"), ("PROPTEST_CASES", "32")];
        let ran = guest::run_with(&guest, &variables, |stream, bytes| {
            tally.push(stream as usize, bytes);
            guest::print(stream, bytes)
        });
        match ran {
            Ok(code) => break code,
            // A test that stops the machine stops the second one too.
            Err(e) if !is_second && e.is::<guest::Stuck>() => {
                eprintln!("{}: {e}", tally.program());
                tally.again("the guest stopped, and a new one ran this program and the next ones");
                let at = programs.iter().position(|program| program.heading == tally.program());
                programs.drain(..at.unwrap_or(0));
                is_second = true;
            }
            Err(e) => {
                tally.cut_short();
                return Err(e);
            }
        }
    };
    ensure!(code == 0 && tally.counts().failed == 0, "some tests failed in the guest");
    let skips: Vec<&str> = tally.skips().collect();
    ensure!(skips.is_empty(), "the guest lane must skip nothing, and skipped: {}", skips.join("; "));
    Ok(())
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct TestBinary {
    name: String,
    /// Directory of its package, in which the tests run.
    directory: PathBuf,
    executable: PathBuf,
}

/// Reads the output of `cargo test --no-run --message-format=json`, which has one JSON object in each line.
fn test_binaries(messages: &str) -> Result<Vec<TestBinary>> {
    let mut tests = Vec::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo's messages")?;
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            continue;
        }
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let (Some(executable), Some(manifest), Some(name)) =
            (text(&message["executable"]), text(&message["manifest_path"]), text(&message["target"]["name"]))
        else {
            continue;
        };
        let directory = PathBuf::from(manifest).parent().context("a manifest is in a folder")?.to_path_buf();
        tests.push(TestBinary { name, directory, executable: executable.into() });
    }
    Ok(tests)
}

/// The machine on which the test programs run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Machine {
    Host,
    Guest,
}

/// The first and the last line of a script that runs tests.
const BEGIN: &str = "failed=0\n";
const END: &str = "exit $failed\n";

/// A test program in a script.
struct Program {
    /// Its name in the output.
    heading: String,
    line: String,
}

/// Returns a script that runs the test programs and fails if one failed. Its stdout names each program, and the
/// exit code of each that failed, in the form that [`Tally`] reads.
fn script(programs: &[Program]) -> String {
    let lines: String = programs.iter().map(|program| program.line.as_str()).collect();
    format!("{BEGIN}{lines}{END}")
}

/// Returns all test programs, and those that also run against other runtimes.
fn programs(tests: &[TestBinary], filters: &[String], machine: Machine) -> Vec<Program> {
    let own = tests.iter().map(|test| (test, None));
    let controlled = tests.iter().filter(|test| machine == Machine::Guest && test.name == CONTROLLED);
    let controls = controlled.flat_map(|test| CONTROLS.iter().map(move |runtime| (test, Some(*runtime))));
    let program = |(test, control): (&TestBinary, Option<&str>)| {
        let runtime = control.map(|runtime| format!("NSPOD_TEST_RUNTIME={runtime} ")).unwrap_or_default();
        let of = control.map(|runtime| format!(" of {runtime}")).unwrap_or_default();
        run_program(test, &of, &runtime, &words(filters), machine)
    };
    own.chain(controls).map(program).collect()
}

/// Returns the script of one test program.
fn run_program(test: &TestBinary, of: &str, variables: &str, filters: &str, machine: Machine) -> Program {
    let package = test.directory.file_name().unwrap_or_default().to_string_lossy();
    let directory = sh::quote(&test.directory.to_string_lossy());
    // With a process group of its own the program would not be interrupted from the terminal.
    let group = if machine == Machine::Host { " --foreground" } else { "" };
    let heading = format!("{package}, {}{of}", test.name);
    let line = format!(
        "printf '\\n%s\\n' {printed}\n\
         (cd {directory} && {variables}CARGO_MANIFEST_DIR={directory} \
         timeout{group} --kill-after=5 {BINARY_TIMEOUT} {executable} --show-output{filters}) || \
         {failed}\n",
        failed = failed(),
        printed = sh::quote(&format!("{PROGRAM}{heading}")),
        executable = sh::quote(&test.executable.to_string_lossy()),
    );
    Program { heading, line }
}

/// Returns the command of script that reports the failure of the last command.
fn failed() -> String {
    format!("{{ code=$?; failed=1; printf '\\n{FAILED}%s\\n' $code; }}")
}

/// Returns the filters as words of shell script, each with a space before it.
fn words(filters: &[String]) -> String {
    filters.iter().map(|filter| format!(" {}", sh::quote(filter))).collect()
}

/// Runs the command, prints and counts its output as it comes, and returns whether the command succeeded.
fn tee(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the shell could not be started")?;
    let (sender, pieces) = mpsc::channel();
    let out = child.stdout.take().context("stdout is a pipe")?;
    let err = child.stderr.take().context("stderr is a pipe")?;
    forward(out, Stream::Out, sender.clone());
    forward(err, Stream::Err, sender);
    for (stream, bytes) in pieces {
        tally.push(stream as usize, &bytes);
        guest::print(stream, &bytes)?;
    }
    Ok(child.wait()?.success())
}

fn forward(mut from: impl Read + Send + 'static, stream: Stream, to: mpsc::Sender<(Stream, Vec<u8>)>) {
    thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            if to.send((stream, buffer[..len].to_vec())).is_err() {
                return;
            }
        }
    });
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(repository());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_executables_are_run() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/r/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":"/t/a"}
{"reason":"compiler-artifact","manifest_path":"/r/a/Cargo.toml","target":{"name":"x"},"profile":{"test":true},"executable":"/t/x-1"}
{"reason":"compiler-artifact","manifest_path":"/r/a/Cargo.toml","target":{"name":"lib"},"profile":{"test":true},"executable":null}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            test_binaries(messages).unwrap(),
            [TestBinary { name: "x".into(), directory: "/r/a".into(), executable: "/t/x-1".into() }]
        );
    }

    #[test]
    fn a_failure_fails_the_script_and_stops_no_other_test() {
        let test = |name: &str, executable: &str| TestBinary {
            name: name.into(),
            directory: "/".into(),
            executable: executable.into(),
        };
        let tests = [test("bad", "/bin/false"), test("good", "/bin/echo")];
        let script = script(&programs(&tests, &["a b".to_owned()], Machine::Host));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "\n== program , bad\n\n== failed, code 1\n\n== program , good\n--show-output a b\n"
        );
    }

    #[test]
    fn a_program_that_was_killed_is_named_and_the_next_one_has_its_own_failures() {
        let directory = tempfile::tempdir().unwrap();
        let test = |name: &str, script: &str| {
            let executable = directory.path().join(name);
            std::fs::write(&executable, format!("#!/bin/sh\n{script}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&executable, mode).unwrap();
            TestBinary { name: name.into(), directory: "/cli".into(), executable }
        };
        let tests = [
            test("crash", "printf 'test a ... '; kill -SEGV $$"),
            test(
                "fail",
                "echo 'test b ... FAILED'; echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101",
            ),
        ];
        let mut tally = Tally::default();
        let script = script(&programs(&tests, &[], Machine::Host)).replace("cd '/cli'", "cd /");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        tally.push(0, &output.stdout);
        let names: Vec<String> = tally.into_failures().into_iter().map(|failure| failure.name).collect();
        assert_eq!(names, ["cli, crash: the program was killed by signal 11", "cli, fail: b"]);
    }

    #[test]
    fn the_reasons_follow_the_names_within_a_limit() {
        let mut tally = Tally::default();
        tally.push(0, b"== program p\n");
        let names: Vec<String> = (0..6).map(|n| format!("t{n}")).collect();
        for name in &names {
            tally.push(0, format!("test {name} ... FAILED\n").as_bytes());
        }
        tally.push(0, b"failures:\n");
        for name in &names {
            tally.push(0, format!("---- {name} stdout ----\n{}", "because\n".repeat(30)).as_bytes());
        }
        let lines = reasons(&tally.into_failures());
        assert_eq!(lines[..2], ["Output of the failed test: p: t0", "    because"]);
        assert_eq!(lines.len(), 3 * 31 + 1);
        assert_eq!(lines.last().unwrap(), "The output of 3 failed tests is only above.");
        assert!(reasons(&[]).is_empty());
    }

    #[test]
    fn the_runtime_suite_also_runs_with_its_controls() {
        let test =
            |name: &str| TestBinary { name: name.into(), directory: "/".into(), executable: "/t".into() };
        let script = script(&programs(&[test(CONTROLLED), test("other")], &[], Machine::Guest));
        for (words, times) in
            [("/t' --show", 4), ("NSPOD_TEST_RUNTIME=crun ", 1), ("NSPOD_TEST_RUNTIME=runc ", 1)]
        {
            assert_eq!(script.matches(words).count(), times, "{words}: {script}");
        }
    }

    #[test]
    fn a_lane_that_fails_without_a_failed_test_counts_as_one() {
        let mut total = Counts::default();
        add(&mut total, Counts { passed: 3, failed: 0, skipped: 1 }, false);
        assert_eq!(total, Counts { passed: 3, failed: 1, skipped: 1 });
    }
}
