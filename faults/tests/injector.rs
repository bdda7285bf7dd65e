//! The injector hits exactly the call of its case.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;
use nspod_faults::{Case, Fault, Run, Script, is_supported, trace};
use nspod_testkit::skip;

const VICTIM: &str = env!("CARGO_BIN_EXE_nspod-faults-victim");

/// The tracer waits for all children of this process, so only one test at a time may have any.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> Option<MutexGuard<'static, ()>> {
    if !is_supported() {
        skip("the injector supports only x86_64 with the GNU C library");
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Runs a script with `$V` for the victim, and returns its standard error too.
fn run(dir: &Path, text: &str, bound: Duration, case: Option<&Case>) -> (Run, String) {
    let script = Script { text: text.into(), own: vec![VICTIM.into()], bound };
    let err = dir.join("err");
    let run = trace(&script, case, |command| {
        command.env("V", VICTIM).current_dir(dir).stderr(File::create(&err).unwrap());
    });
    (run.unwrap(), fs::read_to_string(err).unwrap())
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn one_call_of_one_process_fails_or_its_process_is_killed() {
    let Some(_alone) = alone() else { return };
    let outcomes = [
        (Fault::Errno(Errno::EIO), 1, false),
        (Fault::KillBefore, 137, false),
        (Fault::KillAfter, 137, true),
    ];
    for (fault, code, is_made) in outcomes {
        let dir = tempfile::tempdir().unwrap();
        let script = "$V a b && { $V c d; exit $?; }";
        let (plain, _) = run(dir.path(), script, LONG, None);
        assert_eq!(plain.code, 0);
        let made: Vec<_> = plain.calls.iter().filter(|call| call.name == "mkdir").collect();
        assert_eq!(made.iter().map(|call| call.nth).collect::<Vec<_>>(), [1, 2, 1, 2]);
        for name in ["a", "b", "c", "d"] {
            fs::remove_dir(dir.path().join(name)).unwrap();
        }
        let case = Case { call: made[3].clone(), fault };
        let (hit, err) = run(dir.path(), script, LONG, Some(&case));
        assert!(hit.reached && !hit.hung, "{case}");
        assert_eq!(hit.code, code, "{case}: {err}");
        assert_eq!(err.contains("d: Input/output error"), fault == Fault::Errno(Errno::EIO), "{case}: {err}");
        let there = ["a", "b", "c", "d"].map(|name| dir.path().join(name).exists());
        assert_eq!(there, [true, true, true, is_made], "{case}");
    }
}

#[test]
fn a_case_of_a_call_that_is_not_made_is_not_reached() {
    let Some(_alone) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (plain, _) = run(dir.path(), "$V a b", LONG, None);
    let last = plain.calls.iter().rfind(|call| call.name == "mkdir").unwrap();
    let case = last.cases().next().unwrap();
    let (missed, _) = run(dir.path(), "$V c", LONG, Some(&case));
    assert!(!missed.reached && missed.code == 0);
}

#[test]
fn a_script_that_exceeds_its_bound_is_killed_with_its_children() {
    let Some(_alone) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (run, _) = run(dir.path(), "sleep 1000 & sleep 1000", Duration::from_millis(300), None);
    assert!(run.hung);
    assert_eq!(run.code, 137);
    // The sleeping process in the background was killed too: it is reaped by now.
    let own = format!("PPid:\t{}\n", std::process::id());
    let statuses = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("status")).ok());
    assert!(!statuses.into_iter().any(|status| status.contains(&own) && status.contains("Name:\tsleep")));
}
