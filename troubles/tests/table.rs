//! Each row of the table of troubles, once: the hog without a limit hurts the victim, and with its limit it does not.
//! The rows take turns in the relation of the two containers. `cargo xtask troubles` measures all relations.

use std::sync::{Mutex, PoisonError};

use nspod_troubles::container::Programs;
use nspod_troubles::host;
use nspod_troubles::measure::{Outcome, Seen, measure};
use nspod_troubles::rows::{Kind, ROWS, Row};

/// Measures these rows, one at a time: measurements disturb each other.
fn holds(rows: impl Fn(&Row) -> bool) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let programs = Programs::find().unwrap();
    let (mut wrong, mut skipped) = (Vec::new(), Vec::new());
    for (index, row) in ROWS.iter().enumerate().filter(|(_, row)| rows(row)) {
        if let Some(reason) = host::why_not(row) {
            skipped.push(format!("{}: {reason}", row.name));
            continue;
        }
        let relation = row.relations[index % row.relations.len()];
        wrong.extend(measure(&programs, row, relation, 1).unwrap().wrong());
    }
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
