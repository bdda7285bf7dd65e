//! Each row of the table of troubles, once: the hog without a limit hurts the victim, and with its limit it does not.
//! The rows take turns in the relation of the two containers. `cargo xtask troubles` measures all relations.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use nspod_troubles::container::Programs;
use nspod_troubles::host;
use nspod_troubles::measure::{Outcome, Seen, measure_all};
use nspod_troubles::rows::{Kind, ROWS, Row, select};

/// Measures these rows, one function at a time: measurements disturb each other.
fn holds(rows: impl Fn(&Row) -> bool) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let programs = Programs::find().unwrap();
    let (mut cases, mut skipped) = (Vec::new(), Vec::new());
    for row in ROWS.iter().filter(|row| rows(row)) {
        match host::why_not(row) {
            Some(reason) => skipped.push(format!("{}: {reason}", row.name)),
            None => cases.push((row, row.one_relation())),
        }
    }
    let wrong = Mutex::new(Vec::new());
    measure_all(&programs, &cases, 1, |_, outcome| {
        let problem = outcome.map_or_else(|error| Some(format!("{error:#}")), |outcome| outcome.wrong());
        wrong.lock().unwrap().extend(problem);
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if !skipped.is_empty() {
        nspod_testkit::skip(&skipped.join("; "));
    }
}

#[test]
fn a_hog_hurts_its_victim_without_its_limit_and_not_with_it() {
    holds(|row| row.kind == Kind::Amount);
}

#[test]
fn an_attack_succeeds_without_the_wall_and_fails_at_it() {
    holds(|row| row.kind != Kind::Amount);
}

#[test]
fn a_victim_that_is_not_hurt_or_not_protected_is_reported() {
    let seen = |progress: f64| Seen { progress: vec![progress], said: String::new() };
    let outcome = |[alone, free, bound]: [f64; 3]| Outcome {
        alone: seen(alone),
        free: seen(free),
        bound: seen(bound),
        ..Outcome::default()
    };
    assert_eq!(outcome([50.0, 10.0, 45.0]).wrong(), None);
    for (progress, part) in [
        ([50.0, 45.0, 50.0], "without a limit leaves the victim 0.90"),
        ([50.0, 10.0, 30.0], "with its limit leaves the victim only 0.60"),
        ([0.0, 0.0, 0.0], "no progress alone"),
    ] {
        let wrong = outcome(progress).wrong();
        assert!(wrong.as_ref().is_some_and(|text| text.contains(part)), "{wrong:?}");
    }
}

#[test]
fn each_row_has_a_victim_a_hog_and_a_name_of_its_own() {
    for (index, row) in ROWS.iter().enumerate() {
        assert!(nspod_troubles::hog::find(row.name).is_some(), "{}", row.name);
        assert!(ROWS[..index].iter().all(|other| other.name != row.name), "{} occurs twice", row.name);
        assert!(!row.flag.is_empty() && !row.about.is_empty(), "{}", row.name);
    }
}

#[test]
fn a_text_selects_the_rows_whose_names_contain_it() {
    let names = |texts: &[&str]| {
        let rows = select(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        rows.map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
    };
    assert_eq!(names(&["inotify"]).unwrap(), ["inotify", "inotify-watches"]);
    assert_eq!(names(&[]).unwrap().len(), ROWS.len());
    assert_eq!(names(&["inotify", "notes", "x-y"]).unwrap_err(), ["notes", "x-y"]);
}

#[test]
fn a_full_disk_leaves_the_old_report() {
    if !nix::unistd::geteuid().is_root() {
        return nspod_testkit::skip("requires root");
    }
    let seen = r#"{"progress":[1.0],"said":""}"#;
    let states = format!(r#""alone":{seen},"free":{seen},"bound":{seen}"#);
    let result = format!(r#"{{"row":"cpu","relation":"one pod",{states},"unbounded":false}}"#);
    let written = |size: &str| {
        let script = "mount -t tmpfs -o size=$1 tmpfs /mnt && cd /mnt && echo old >TROUBLES.md
            echo \"$2\" | \"$0\" --write .
            ls -A && cat TROUBLES.md";
        let program = env!("CARGO_BIN_EXE_nspod-troubles");
        let mut command = Command::new("unshare");
        let output = command.args(["--mount", "sh", "-c", script, program, size, &result]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let (files, said) = written("64k");
    assert!(files.starts_with("TROUBLES.md\nTROUBLES.svg\n# What one container can do"), "{files} {said}");
    let (files, said) = written("8k");
    assert_eq!(files, "TROUBLES.md\nold\n", "{said}");
    assert!(said.contains("TROUBLES.") && said.contains("No space left on device"), "{said}");
}
