//! The commands in README's first section work as described.

mod common;

use common::{NSPOD, Output, json, nspod, ok, root, run_with, unique};

/// Returns the `sh` blocks of "Start here".
fn blocks() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let section = readme.split("\n## Start here\n").nth(1).unwrap().split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn sh(script: &str) -> Output {
    run_with(std::process::Command::new("bash").args(["-ec", script]), "")
}

#[test]
fn the_first_command_shows_a_host_name_pid_1_own_processes_and_limits() {
    if !root() {
        return;
    }
    // `cargo run` chooses this program of the two in the package.
    assert!(include_str!("../Cargo.toml").contains("\ndefault-run = \"nspod\"\n"));
    let cargo = "cargo run --release -p nspod-cli --";
    let command = blocks()[0].replace(cargo, NSPOD);
    assert!(command.starts_with(NSPOD), "README's first command is not {cargo}: {command}");
    let seen = sh(&command);
    assert_eq!(seen.code(), 0, "{}", seen.err);
    let mut lines = seen.out.lines();
    assert_eq!(lines.next(), Some("I am box, process 1, among these:"));
    let processes: Vec<_> = lines.by_ref().take_while(|line| !line.contains(".max:")).collect();
    assert!(processes.len() <= 3 && seen.out.contains("ps ax"), "{}", seen.out);
    for (file, value) in [("memory.max", "67108864"), ("pids.max", "32"), ("cpu.max", "50000 100000")] {
        let shown = seen.out.contains(&format!("{file}:{value}\n"));
        let missing = seen.err.contains(&format!("nspod: {file} is not enforced: the "));
        assert!(shown != missing, "{file}: {}{}", seen.out, seen.err);
    }
}

#[test]
fn the_pod_talks_over_localhost_and_is_in_the_census() {
    if !root() {
        return;
    }
    let block = &blocks()[1];
    let (pod, server) = (unique(), unique());
    // Replace README's names, since other containers may have them.
    let commands: Vec<String> = block
        .replace("\\\n", "")
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("nspod "))
        .map(|line| {
            format!("{line} ")
                .replace(" web ", &format!(" {pod} "))
                .replace(" server ", &format!(" {server} "))
        })
        .collect();
    assert_eq!(commands.len(), 5, "{block}");
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(NSPOD, dir.path().join("nspod")).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    struct Remove<'a>(&'a str);
    impl Drop for Remove<'_> {
        fn drop(&mut self) {
            nspod(&["pod", "rm", "-f", self.0]);
        }
    }
    let _remove = Remove(&pod);
    let mut outputs = commands.iter().map(|command| {
        let output =
            run_with(std::process::Command::new("bash").args(["-c", command]).env("PATH", &path), "");
        assert_eq!(output.code(), 0, "{command}: {}", output.err);
        output.out
    });
    assert_eq!(outputs.next().unwrap(), format!("{pod}\n"));
    assert_eq!(outputs.next().unwrap(), format!("{server}\n"));
    assert_eq!(outputs.next().unwrap(), "hello over localhost\n");
    let census = outputs.next().unwrap();
    let row = census.lines().find(|line| line.contains(&*server)).unwrap_or_else(|| panic!("{census}"));
    assert!(row.contains(&*pod), "{row}");
    assert_eq!(outputs.next().unwrap(), format!("{pod}\n"));
    assert!(!ok(&["ps", "-aq"]).contains(&*server));
    assert!(json(&["--json", "pod", "ls"]).as_array().unwrap().iter().all(|row| row["name"] != *pod));
}
