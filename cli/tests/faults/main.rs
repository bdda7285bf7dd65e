//! Each system call of each path of our programs fails once, and kills its process once before and once after it.
//!
//! After each case the container's name must be free of everything: processes, cgroups, mounts and files. A
//! success must be a real one: the program of the container reports what it sees, and the report must equal that
//! of an undisturbed run. A failure must name its errno.
//!
//! By default the test tries a sample, which changes daily. `NSPOD_FAULTS_SEED` repeats a sample, with the
//! number that the output prints. `NSPOD_FAULTS=all` tries all cases, and `NSPOD_FAULTS='run -d: 0/openat'` those
//! whose name begins with this text.

mod environments;
mod known;
mod paths;
mod probe;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use nspod_faults::{Call, Case, Fault};
use nspod_testkit::{is_slow, programs, root, skip};

use known::Known;
use paths::{PATHS, Path};
use world::{Attempt, World};

/// Number of cases of each path in a sample.
const SAMPLE: usize = 40;
/// Paths and calls with a case that once had a wrong effect. A sample has all their cases.
const ONCE_WRONG: [(&str, &str); 8] = [
    ("run", "capget"),
    ("exec", "pread64"),
    ("oci run", "pread64"),
    ("pod create", "read"),
    ("pod rm", "umount2"),
    ("pod create, as a user", "close_range"),
    ("pod run, as a user", "write"),
    ("exec, as a user", "read"),
];
/// Set in the process that runs in a mount namespace of its own.
const ALONE: &str = "NSPOD_FAULTS_ALONE";

#[test]
fn each_call_fails_once_and_is_the_last_one_once() {
    if is_alone("each_call_fails_once_and_is_the_last_one_once") {
        try_calls();
    }
}

#[test]
fn a_host_that_lacks_something_gets_an_error_and_keeps_nothing() {
    if is_alone("a_host_that_lacks_something_gets_an_error_and_keeps_nothing") {
        try_environments();
    }
}

/// Runs a test of this program again, in a process and a mount namespace of its own. Returns `true` there.
fn is_alone(test: &str) -> bool {
    // The guest is too slow, and its kernel has nothing that these cases need.
    if is_slow() || !root() || !programs(&["busybox", "setpriv", "timeout"]) {
        return false;
    }
    if !nspod_faults::is_supported() {
        skip("the injector supports only x86_64 with the GNU C library");
        return false;
    }
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        "mount -t tmpfs none /run && exec \"$@\"",
    ]);
    command.arg("sh").arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(ALONE, "1");
    let is_ok = if std::env::var_os("NSPOD_FAULTS").is_some() {
        // A long run prints each problem at once.
        command.status().unwrap().success()
    } else {
        let output = command.output().unwrap();
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        output.status.success()
    };
    assert!(is_ok, "some faults have effects that they must not have");
    false
}

/// Which cases are tried.
enum Choice {
    Sample(u64),
    All,
    Beginning(String),
}

impl Choice {
    fn new() -> Choice {
        let seed = std::env::var("NSPOD_FAULTS_SEED");
        match std::env::var("NSPOD_FAULTS") {
            Ok(all) if all == "all" => Choice::All,
            Ok(name) => Choice::Beginning(name),
            Err(_) => {
                let days = || UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
                Choice::Sample(seed.map_or_else(
                    |_| days(),
                    |seed| seed.parse().expect("NSPOD_FAULTS_SEED must be a number"),
                ))
            }
        }
    }

    fn skips(&self, path: &Path) -> bool {
        let Choice::Beginning(name) = self else { return false };
        !name.starts_with(&format!("{}:", path.name)) && *name != path.name
    }

    /// Returns the chosen ones of all cases of a path.
    fn of(&self, path: &Path, cases: Vec<Case>) -> Vec<Case> {
        match self {
            Choice::All => cases,
            Choice::Beginning(name) => {
                cases.into_iter().filter(|case| format!("{}: {case}", path.name).starts_with(name)).collect()
            }
            Choice::Sample(seed) => {
                let of_path = path.name.bytes().map(u64::from).sum::<u64>();
                let (mut chosen, others): (Vec<_>, Vec<_>) =
                    cases.into_iter().partition(|case| ONCE_WRONG.contains(&(path.name, case.call.name)));
                chosen.extend(sample(others, seed.wrapping_mul(1 << 16) + of_path));
                chosen
            }
        }
    }
}

/// Returns `SAMPLE` of the cases, in a random order that depends on the seed alone.
fn sample(mut cases: Vec<Case>, seed: u64) -> Vec<Case> {
    let mut state = seed;
    // splitmix64
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let count = SAMPLE.min(cases.len());
    for at in 0..count {
        let rest = (cases.len() - at) as u64;
        let other = at + (random() % rest) as usize;
        cases.swap(at, other);
    }
    cases.truncate(count);
    cases
}

/// The counts of one path.
#[derive(Default)]
struct Row {
    calls: usize,
    cases: usize,
    missed: usize,
    recovered: usize,
    hung: usize,
    left: usize,
    wrong: usize,
    silent: usize,
    known: usize,
}

fn try_calls() {
    let choice = Choice::new();
    if let Choice::Sample(seed) = choice {
        eprintln!("A sample of the faults: NSPOD_FAULTS_SEED={seed}");
    }
    let start = SystemTime::now();
    let mut world = World::new();
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for path in PATHS.iter().filter(|path| !choice.skips(path)) {
        let row = try_path(&mut world, path, &choice, &mut problems);
        eprintln!("{}: {} cases", path.name, row.cases);
        rows.push((path.name, row));
    }
    eprintln!(
        "\n| path | calls | cases | missed | recovered | hung | left behind | wrong success | no errno in the message | known |"
    );
    eprintln!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut missed = (0, 0);
    for (name, row) in &rows {
        let Row { calls, cases, recovered, hung, left, wrong, silent, known, .. } = row;
        eprintln!(
            "| {name} | {calls} | {cases} | {} | {recovered} | {hung} | {left} | {wrong} | {silent} | {known} |",
            row.missed
        );
        missed = (missed.0 + row.missed, missed.1 + row.cases);
    }
    eprintln!("\n{} s", start.elapsed().map_or(0, |time| time.as_secs()));
    for reason in known::KNOWN.iter().map(|known| known.reason).collect::<BTreeSet<_>>() {
        eprintln!("known: {reason}");
    }
    assert!(missed.0 * 10 <= missed.1, "{} of {} cases did not reach their call", missed.0, missed.1);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Runs the paths in each environment.
fn try_environments() {
    let mut world = World::new();
    let mut plain = BTreeMap::new();
    let mut problems = Vec::new();
    for environment in environments::all() {
        for path in environment.paths() {
            let wanted = plain.entry(path.name).or_insert_with(|| world.undisturbed(path).report);
            let mut attempt = world.attempt(path, None, Some(&environment));
            let [wanted, found] = [&*wanted, &attempt.report].map(|report| {
                let lines = report.lines().filter(|line| !line.starts_with(environment.changes));
                lines.map(|line| format!("{line}\n")).collect::<String>()
            });
            attempt.report = found;
            for (_, text) in judge(path, None, &attempt, &wanted) {
                problems.push(format!("{}: {}: {text}", path.name, environment.name));
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Records the calls of a path, and tries the chosen cases.
fn try_path(world: &mut World, path: &Path, choice: &Choice, problems: &mut Vec<String>) -> Row {
    // The first run makes directories that stay.
    let (plain, again) = (world.undisturbed(path), world.undisturbed(path));
    assert_eq!(plain.report, again.report, "{}: two undisturbed runs differ", path.name);
    // The number of some calls depends on the time.
    let both: BTreeSet<_> = again.run.calls.iter().map(Call::id).collect();
    let calls: Vec<&Call> = plain.run.calls.iter().filter(|call| both.contains(&call.id())).collect();
    let mut row = Row { calls: calls.len(), ..Row::default() };
    let main = calls.first().expect("the path makes calls").task;
    let cases = choice.of(path, calls.iter().flat_map(|call| call.cases()).collect());
    for case in cases {
        row.cases += 1;
        let attempt = world.attempt(path, Some(&case), None);
        if !attempt.run.reached {
            row.missed += 1;
        }
        if attempt.run.reached && attempt.run.code == 0 {
            row.recovered += 1;
        }
        let known = Known::of(path, &case, main);
        for (problem, text) in judge(path, Some((&case, main)), &attempt, &plain.report) {
            if known.is_some() {
                row.known += 1;
                break;
            }
            match problem {
                Problem::Hung => row.hung += 1,
                Problem::Left => row.left += 1,
                Problem::Wrong => row.wrong += 1,
                Problem::Silent => row.silent += 1,
            }
            let text = format!("{}: {case}: {text}", path.name);
            eprintln!("FAULT {text}");
            problems.push(text);
        }
    }
    row
}

#[derive(Clone, Copy)]
enum Problem {
    Hung,
    Left,
    Wrong,
    Silent,
}

/// Returns what is wrong after a case, or in an environment. The number is that of the program's process.
fn judge(
    path: &Path,
    case: Option<(&Case, usize)>,
    attempt: &Attempt,
    wanted: &str,
) -> Vec<(Problem, String)> {
    let mut found = Vec::new();
    let (code, err) = (attempt.run.code, attempt.err.trim());
    if attempt.run.hung {
        found.push((Problem::Hung, "the command did not end".to_owned()));
        return found;
    }
    if let Some(stuck) = &attempt.stuck {
        found.push((Problem::Hung, format!("a later command did not end: {stuck}")));
    }
    if !attempt.left.is_empty() {
        let (left, after) = (attempt.left.join(", "), attempt.after.trim());
        found.push((Problem::Left, format!("this is left: {left}; exit code {code}: {err}; then: {after}")));
    }
    if code == 0 && attempt.report != wanted {
        let difference = probe::difference(wanted, &attempt.report);
        found.push((Problem::Wrong, format!("success, but {difference}; {err}")));
    }
    if let Some((code, err)) = &attempt.again {
        let says = ["already", "does not exist", "not running"].iter().any(|word| err.contains(word));
        if *code != 0 && !(path.codes.contains(code) && says) {
            found.push((Problem::Wrong, format!("the same command again: exit code {code}: {err}")));
        }
    }
    let is_killed = code == 137 && case.is_some_and(|(case, _)| !matches!(case.fault, Fault::Errno(_)));
    if code != 0 && !is_killed && !path.codes.contains(&code) {
        found.push((Problem::Wrong, format!("exit code {code}: {err}")));
        return found;
    }
    let names = match case.map(|(case, main)| (case.fault, case.call.task == main)) {
        Some((Fault::Errno(errno), _)) => err.contains(&format!("({errno:?})")),
        // The program itself says nothing when it is killed.
        Some((_, is_main)) => {
            is_main || is_killed || ["SIGKILL", "ended"].iter().any(|word| err.contains(word))
        }
        // A fact about the host, such as a file system that is not mounted, has no errno.
        None => !err.is_empty(),
    };
    let is_reached = case.is_none() || attempt.run.reached;
    if is_reached && code != 0 && !names {
        found.push((Problem::Silent, format!("exit code {code}, and the message is: {err}")));
    }
    found
}
