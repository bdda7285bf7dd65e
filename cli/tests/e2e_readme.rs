//! The commands in README's first section work as described.

mod common;

use std::path::Path;

use common::{NSPOD, Output, json, nspod, ok, programs, root, run_with, unique};

/// Returns the `sh` blocks of a section.
fn blocks(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let section = readme.split(&format!("\n## {section}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn sh(script: &str) -> Output {
    run_with(std::process::Command::new("bash").args(["-ec", script]), "")
}

#[test]
fn the_first_command_shows_a_host_name_own_processes_and_limits() {
    if !root() {
        return;
    }
    // `cargo run` chooses this program of the two in the package.
    assert!(include_str!("../Cargo.toml").contains("\ndefault-run = \"nspod\"\n"));
    let cargo = "cargo run --release -p nspod-cli --";
    let command = blocks("Start here")[0].replace(cargo, NSPOD);
    assert!(command.starts_with(NSPOD), "README's first command is not {cargo}: {command}");
    let seen = sh(&command);
    assert_eq!(seen.code(), 0, "{}", seen.err);
    let mut lines = seen.out.lines();
    assert_eq!(lines.next(), Some("I am box, process 2, among these:"));
    let processes: Vec<_> = lines.by_ref().take_while(|line| !line.contains(".max:")).collect();
    assert!(processes.len() <= 4 && seen.out.contains("ps ax"), "{}", seen.out);
    for (file, value) in [("memory.max", "67108864"), ("pids.max", "32"), ("cpu.max", "50000 100000")] {
        let shown = seen.out.contains(&format!("{file}:{value}\n"));
        let missing = seen.err.contains(&format!("nspod: {file} is not enforced: the "));
        assert!(shown != missing, "{file}: {}{}", seen.out, seen.err);
    }
}

/// Makes a link to nspod in this directory, and returns a value of `PATH` that begins with the directory.
fn path_with_nspod(dir: &Path) -> String {
    std::os::unix::fs::symlink(NSPOD, dir.join("nspod")).unwrap();
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

/// Runs the commands of a block that start with `nspod`, with other names for the pod and the containers.
struct Commands {
    lines: std::vec::IntoIter<String>,
    path: String,
    _dir: tempfile::TempDir,
    pod: Option<String>,
}

impl Commands {
    /// `names` are README's names and those to use, since other containers may have README's. The first is the
    /// pod's.
    fn new(block: &str, names: &[(&str, &str)]) -> Commands {
        let lines: Vec<String> = block
            .replace("\\\n", "")
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("nspod "))
            .map(|line| {
                let spaced = |name: &str| format!(" {name} ");
                let start = format!("{line} ");
                names.iter().fold(start, |line, (name, other)| line.replace(&spaced(name), &spaced(other)))
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let path = path_with_nspod(dir.path());
        let pod = names.first().map(|(_, pod)| (*pod).to_owned());
        Commands { lines: lines.into_iter(), path, _dir: dir, pod }
    }

    /// Runs the next command.
    fn run(&mut self) -> Output {
        let line = self.lines.next().unwrap();
        run_with(std::process::Command::new("bash").args(["-c", &line]).env("PATH", &self.path), "")
    }

    /// Returns the output of the next command, which must succeed.
    fn ok(&mut self) -> String {
        let output = self.run();
        assert_eq!(output.code(), 0, "{output:?}");
        output.out
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.pod.iter().for_each(|pod| drop(nspod(&["pod", "rm", "-f", pod])));
    }
}

#[test]
fn the_pod_talks_over_localhost_and_is_in_the_census() {
    if !root() {
        return;
    }
    let (pod, server) = (unique(), unique());
    let mut commands = Commands::new(&blocks("Start here")[1], &[("web", &pod), ("server", &server)]);
    assert_eq!(commands.lines.len(), 5);
    assert_eq!(commands.ok(), format!("{pod}\n"));
    assert_eq!(commands.ok(), format!("{server}\n"));
    assert_eq!(commands.ok(), "hello over localhost\n");
    let census = commands.ok();
    let row = census.lines().find(|line| line.contains(&*server)).unwrap_or_else(|| panic!("{census}"));
    assert!(row.contains(&*pod), "{row}");
    assert_eq!(commands.ok(), format!("{pod}\n"));
    assert!(!ok(&["ps", "-aq"]).contains(&*server));
    assert!(json(&["--json", "pod", "ls"]).as_array().unwrap().iter().all(|row| row["name"] != *pod));
}

#[test]
fn a_container_has_a_rate_and_reaches_only_what_is_allowed() {
    if !root() {
        return;
    }
    let block = &blocks("Limits")[0];
    let mut commands = Commands::new(block, &[]);
    let denied = commands.run();
    assert_eq!(denied.code(), 1, "{denied:?}");
    assert!(denied.err.contains("192.0.2.1/443: Operation not permitted"), "{denied:?}");
    assert_eq!(commands.lines.len(), 0);
    // An allowed connection succeeds, and its bytes pass at the rate. No other test uses this address.
    let listener = std::net::TcpListener::bind("127.77.0.1:8080").unwrap();
    let received = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        std::io::copy(&mut connection, &mut std::io::sink()).unwrap()
    });
    assert_eq!(block.matches("192.0.2.1/443").count(), 1);
    let allowed = block.replace("192.0.2.1/443", "127.77.0.1/8080; head -c 2000000 /dev/zero >&3");
    let began = std::time::Instant::now();
    assert_eq!(Commands::new(&allowed, &[]).ok(), "");
    assert_eq!(received.join().unwrap(), 2_000_000);
    // 2 MB at 1.25 MB/s last 1.6 s, and the bytes of 220 ms may leave at once.
    assert!(began.elapsed() >= std::time::Duration::from_millis(1200));
}

#[test]
fn two_containers_of_a_pod_have_different_rates() {
    if !root() {
        return;
    }
    let (pod, store) = (unique(), unique());
    let mut commands = Commands::new(&blocks("Limits")[1], &[("shop", &pod), ("store", &store)]);
    assert_eq!(commands.lines.len(), 5);
    commands.ok();
    commands.ok();
    assert_eq!(commands.ok(), "3000000\n");
    let began = std::time::Instant::now();
    assert_eq!(commands.ok(), "3000000\n");
    // 3 MB at 1 MB/s take 3 s, and the bytes of 220 ms may arrive at once.
    assert!(began.elapsed() >= std::time::Duration::from_secs(2));
    commands.ok();
}

#[test]
fn the_build_is_limited_and_its_changes_are_listed_and_applied() {
    if !root() || !programs(&["busybox"]) {
        return;
    }
    let block = blocks("Limits").into_iter().find(|block| block.contains("nspod diff")).unwrap();
    let (dir, name) = (tempfile::tempdir().unwrap(), unique());
    let script = block.replace(" builder", &format!(" {name}"));
    let large = "nspod run --rootfs image --overlay=build -- busybox dd if=/dev/zero of=/large bs=1M count=65 2>&1 && exit 9
nspod diff";
    assert_eq!(script.matches("nspod diff").count(), 1);
    let script = script.replace("nspod diff", large);
    std::fs::create_dir(dir.path().join("path")).unwrap();
    let path = path_with_nspod(&dir.path().join("path"));
    // The mount ends with its mount namespace, also if a command fails.
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-ec", &script]);
    let seen = run_with(command.env("PATH", &path).current_dir(dir.path()), "");
    nspod(&["rm", "-f", &name]);
    assert_eq!(seen.code(), 0, "{}{}", seen.out, seen.err);
    let (failed, listed) = seen.out.split_once("C /\n").unwrap_or_else(|| panic!("{}", seen.out));
    assert!(failed.contains("No space left on device"), "{failed}");
    assert_eq!(listed, format!("A /app\nA /app/result\nA /large\n{name}\n"));
    assert_eq!(std::fs::read(dir.path().join("image/app/result")).unwrap(), b"done\n");
}
