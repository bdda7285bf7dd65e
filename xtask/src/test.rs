//! `cargo xtask test`: everything that must pass, in all lanes.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::guest::{self, Stream, repository};
use crate::tally::{Counts, Tally};
use crate::{fuzz, install, sh, uml};

/// Ends a guest that hangs. All the tests take a fraction of it.
const GUEST_TIMEOUT: u64 = 55 * 60;
/// The exit code with which the harness says that tests failed.
const TEST_FAILED: i32 = 101;
/// The test program that takes any OCI runtime, and whose own controls these are in the guest.
const CONTROLLED: &str = "oci_fields";
const CONTROLS: [&str; 2] = ["crun", "runc"];
/// Ends a test program in the guest that hangs, in seconds, so that the next ones run.
const BINARY_TIMEOUT: u64 = 900;

/// The tests that are run on a kernel that lacks a kind of namespace, by program and filter.
const LACKING: [(&str, &str); 3] =
    [("namespaces", "kernel_lacks"), ("e2e_namespaces", "kernel_lacks"), ("oci_fields", "kernel_lacks")];

/// Run every check and test, here, in the guest and under user-mode Linux
///
/// The host lane is this machine's kernel: formatting, lints, documentation, tests, a few seconds of each fuzz
/// target, and one run of each benchmark. A test that this kernel cannot run is listed at the end. The guest
/// lane runs the same tests under `cargo xtask guest`, where none may be skipped. The uml lane runs the few that
/// are about a kernel without time namespaces on such a one.
///
/// What is missing is installed from Debian's packages, as root.
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

/// Runs the steps, all of them even when one fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut steps = Steps::default();
    if !args.no_install {
        steps.step("packages", || install::packages(install::TESTS, true));
    }
    let runs = |lane| args.lane == lane || args.lane == Lane::All;
    let (host, guest, uml) = (runs(Lane::Host), runs(Lane::Guest), runs(Lane::Uml));
    let checks = host && args.filters.is_empty();
    if checks {
        steps.step("format", || sh::run(&mut cargo(&["fmt", "--all", "--check"])));
        steps.step("lints", || {
            sh::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        });
        steps.step("documentation", || {
            sh::run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
        });
    }
    let mut total = Counts::default();
    let mut skips = Vec::new();
    if host {
        let mut tally = Tally::default();
        let ok = steps.step("tests, host lane", || host_lane(args, &mut tally));
        add(&mut total, tally.counts(), ok);
        skips.extend(tally.skips().map(str::to_owned));
    }
    if guest {
        let mut tally = Tally::default();
        let ok = steps.step("tests, guest lane", || guest_lane(args, &mut tally));
        add(&mut total, tally.counts(), ok);
    }
    if uml && args.filters.is_empty() {
        let mut tally = Tally::default();
        let ok = steps.step("tests, uml lane", || uml_lane(args, &mut tally));
        add(&mut total, tally.counts(), ok);
    }
    if checks {
        if repository().join("fuzz/Cargo.toml").exists() {
            steps.step("fuzz targets", || fuzz::run(&mut skips));
        }
        if repository().join("benches/benches").exists() {
            steps.step("benchmarks", || {
                sh::run(&mut cargo(&["bench", "--package", "nspod-benches", "--benches", "--", "--quick"]))
            });
        }
        if Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success()) {
            steps.step("licences", || sh::run(&mut cargo(&["deny", "check", "licenses", "bans", "sources"])));
        }
    }
    for skip in &skips {
        eprintln!("SKIP {skip}");
    }
    for failed in &steps.failed {
        eprintln!("FAILED {failed}");
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(if steps.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Steps, each with a heading and the time that it took.
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

/// Adds the counts of a lane. One that failed without a failed test, by not building for example, is a failure.
fn add(total: &mut Counts, lane: Counts, ok: bool) {
    total.passed += lane.passed;
    total.failed += if ok { lane.failed } else { lane.failed.max(1) };
    total.skipped += lane.skipped;
}

fn host_lane(args: &Args, tally: &mut Tally) -> Result<()> {
    // --show-output: the harness keeps what a test that passes prints, and a skip is such a thing.
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    command.args(&args.filters);
    tee(&mut command, tally)
}

/// Builds the tests that other kernels run.
fn build() -> Result<Vec<TestBinary>> {
    // The whole workspace, as in the host lane, or other features would have it all built anew.
    let mut build = cargo(&["test", "--workspace", "--no-run", "--message-format=json"]);
    let mut tests = test_binaries(&sh::read(&mut build)?)?;
    tests.retain(|test| test.directory != repository().join("xtask"));
    ensure!(!tests.is_empty(), "cargo has built no test");
    Ok(tests)
}

fn uml_lane(args: &Args, tally: &mut Tally) -> Result<()> {
    let tests = build()?;
    let mut script = "export NSPOD_LANE=uml NSPOD_NO_SKIP=1\nfailed=0\n".to_owned();
    for (name, filter) in LACKING {
        let test = tests.iter().find(|test| test.name == name);
        let TestBinary { directory, executable, .. } =
            test.with_context(|| format!("cargo has built no test {name}"))?;
        let (directory, executable) = (directory.to_string_lossy(), executable.to_string_lossy());
        let (directory, executable) = (sh::quote(&directory), sh::quote(&executable));
        script.push_str(&format!(
            "(cd {directory} && timeout {BINARY_TIMEOUT} {executable} --show-output {filter}) || failed=1\n"
        ));
    }
    script.push_str("exit $failed\n");
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
    let tests = build()?;
    let docker = guest::directory()?.join("docker");
    if !docker.exists() && !args.no_install {
        // If it was installed, it would run on this host from now on.
        install::unpack(|| Ok("docker.io".to_owned()), &docker, |_| Ok(()))
            .context("Debian's package docker.io could not be fetched and unpacked")?;
    }
    let path = format!("PATH=$PATH:{0}/usr/bin:{0}/usr/sbin\n", sh::quote(&docker.to_string_lossy()));
    let guest = guest::Args {
        timeout: Some(GUEST_TIMEOUT),
        no_install: args.no_install,
        command: vec!["sh".to_owned(), "-c".to_owned(), path + &script(&tests, &args.filters)],
        ..guest::Args::default()
    };
    let variables = [("NSPOD_LANE", "guest"), ("NSPOD_NO_SKIP", "1"), ("PROPTEST_CASES", "32")];
    let code = guest::run_with(&guest, &variables, |stream, bytes| {
        tally.push(stream as usize, bytes);
        guest::print(stream, bytes)
    })?;
    ensure!(code == 0, "some tests failed in the guest");
    let skips: Vec<&str> = tally.skips().collect();
    ensure!(skips.is_empty(), "the guest lane must skip nothing, and skipped: {}", skips.join("; "));
    Ok(())
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct TestBinary {
    name: String,
    /// Of its package: tests run there.
    directory: PathBuf,
    executable: PathBuf,
}

/// Reads what `cargo test --no-run --message-format=json` prints: a JSON object a line.
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

/// A script that runs them all, and fails if one did. One that hung (code 124) or crashed gave no result of its
/// own, and counts as a failed test.
fn script(tests: &[TestBinary], filters: &[String]) -> String {
    let filters: String = filters.iter().map(|filter| format!(" {}", sh::quote(filter))).collect();
    let mut script = "failed=0\n".to_owned();
    let controls = |test: &TestBinary| if test.name == CONTROLLED { &CONTROLS[..] } else { &[] };
    let own = tests.iter().map(|test| (test, None));
    let all = own.chain(tests.iter().flat_map(|test| controls(test).iter().map(move |c| (test, Some(*c)))));
    for (TestBinary { name, directory, executable }, control) in all {
        let (directory, executable) = (directory.to_string_lossy(), executable.to_string_lossy());
        let directory = sh::quote(&directory);
        let name = control.map_or_else(|| name.clone(), |runtime| format!("{name} of {runtime}"));
        let runtime = control.map(|runtime| format!("NSPOD_TEST_RUNTIME={runtime} ")).unwrap_or_default();
        script.push_str(&format!(
            "echo '     Running '{name} >&2\n\
             (cd {directory} && {runtime}CARGO_MANIFEST_DIR={directory} \
             timeout --kill-after=5 {BINARY_TIMEOUT} {exe} --show-output{filters}) || \
             {{ code=$?; failed=1; echo {name}\" failed with code $code\" >&2; \
             [ $code = {TEST_FAILED} ] || echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; }}\n",
            name = sh::quote(&format!("{name} in {}", directory.trim_matches('\''))),
            exe = sh::quote(&executable),
        ));
    }
    script.push_str("exit $failed\n");
    script
}

/// Runs the command, printing and counting what it prints as it comes.
fn tee(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let line = sh::line(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{line}` could not be started"))?;
    let (sender, pieces) = mpsc::channel();
    let out = child.stdout.take().context("stdout is a pipe")?;
    let err = child.stderr.take().context("stderr is a pipe")?;
    forward(out, Stream::Out, sender.clone());
    forward(err, Stream::Err, sender);
    for (stream, bytes) in pieces {
        tally.push(stream as usize, &bytes);
        guest::print(stream, &bytes)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
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
    fn only_executables_of_tests_are_run() {
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
        let script = script(&[test("bad", "/bin/false"), test("good", "/bin/echo")], &["a b".to_owned()]);
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "test result: FAILED. 0 passed; 1 failed; 0 ignored\n--show-output a b\n"
        );
        assert!(String::from_utf8(output.stderr).unwrap().contains("bad in / failed with code 1"));
    }

    #[test]
    fn the_suite_of_runtimes_is_run_with_its_controls_too() {
        let test =
            |name: &str| TestBinary { name: name.into(), directory: "/".into(), executable: "/t".into() };
        let script = script(&[test(CONTROLLED), test("other")], &[]);
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
