//! Commands of 8 processes on the same names at once. There is an order of the commands in which each of them can
//! give the answer that it gave, and at the end nothing is left.
//!
//! Some commands start late, some stop in the middle, and one process runs each command with a delay in its system
//! calls: strace(1), `-e inject`.

mod common;

use std::collections::HashSet;
use std::fmt::Debug;
use std::fs;
use std::hash::Hash;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime};

use common::bundle::Bundle;
use common::{NSPOD, Name, OCI, Output, eventually, fault, nspod, ok, root, unique};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nspod_testkit::{PATIENCE, rounds};

const PROCESSES: usize = 8;
const LONGEST_DELAY: Duration = Duration::from_millis(10);

/// Returns the number of commands of each process in a round.
fn commands() -> usize {
    if nspod_testkit::is_slow() { 1 } else { 3 }
}

/// Numbers that look random: xorshift64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn delay(&mut self) -> Duration {
        Duration::from_nanos(self.below(LONGEST_DELAY.as_nanos() as u64))
    }
}

/// A command that has ended.
#[derive(Debug)]
struct Done<O, A> {
    from: Instant,
    to: Instant,
    what: O,
    answer: A,
}

/// The rules of a program.
trait Model: Copy + Eq + Hash + Debug {
    type What: Copy + Debug + Send + Sync;
    type Answer: Debug + Send;
    /// Returns the states that processes reach without a command.
    fn alone(self) -> Vec<Self>;
    /// Returns the state after a part of a command that gives this answer; `None` if the answer is wrong in this
    /// state. `at` is the number of the part.
    fn after(self, what: Self::What, answer: &Self::Answer, at: usize) -> Option<Self>;
    /// Returns how many parts a command has. Other commands can come between two parts.
    fn parts(what: Self::What, answer: &Self::Answer) -> usize;
}

/// Returns whether there is an order of the commands that explains all answers. A command comes after those that had
/// ended before it began.
fn has_order<M: Model>(start: M, all: &[Done<M::What, M::Answer>]) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![(vec![0; all.len()], start)];
    while let Some((done, state)) = open.pop() {
        let is_done = |at: usize| done[at] == M::parts(all[at].what, &all[at].answer);
        let first_end = (0..all.len()).filter(|at| !is_done(*at)).map(|at| all[at].to).min();
        let Some(first_end) = first_end else { return true };
        for at in (0..all.len()).filter(|at| !is_done(*at) && all[*at].from <= first_end) {
            let command = &all[at];
            for before in [vec![state], state.alone()].concat() {
                let Some(after) = before.after(command.what, &command.answer, done[at]) else { continue };
                let mut done = done.clone();
                done[at] += 1;
                if seen.insert((done.clone(), after)) {
                    open.push((done, after));
                }
            }
        }
    }
    false
}

/// Runs a command, and stops it for a moment or delays a call if the numbers say so.
fn disturbed(program: &str, args: &[&str], numbers: &mut Numbers, is_traced: bool) -> Output {
    let mut command = Command::new(if is_traced { "strace" } else { program });
    if is_traced {
        let nth = numbers.below(40) + 1;
        let inject = format!("inject=all:delay_enter=10000:when={nth}");
        command.args(["-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &inject, program]);
    }
    // The container has the streams too. A pipe would not end.
    let streams = [0, 1].map(|_| tempfile::NamedTempFile::new().unwrap());
    let [out, err] = [0, 1].map(|at| streams[at].reopen().unwrap());
    let mut child = command.args(args).stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
    if !is_traced && numbers.below(4) == 0 {
        sleep(numbers.delay());
        let pid = Pid::from_raw(child.id().cast_signed());
        // The child is not reaped yet, so the pid is its own.
        kill(pid, Signal::SIGSTOP).unwrap();
        sleep(2 * numbers.delay());
        kill(pid, Signal::SIGCONT).unwrap();
    }
    let status = common::end_of(&mut child);
    let [out, err] = [0, 1].map(|at| fs::read_to_string(streams[at].path()).unwrap());
    Output { status, out, err }
}

/// Runs one round: in each process a few of the commands, one after the other.
fn round<M: Model>(
    numbers: &mut Numbers,
    all: &[M::What],
    run: impl Fn(M::What, &mut Numbers, bool) -> M::Answer + Sync,
) -> Vec<Done<M::What, M::Answer>> {
    let barrier = Barrier::new(PROCESSES);
    scope(|scope| {
        let processes: Vec<_> = (0..PROCESSES)
            .map(|at| {
                let mut numbers = Numbers(numbers.below(u64::MAX) | 1);
                let (barrier, run) = (&barrier, &run);
                scope.spawn(move || {
                    barrier.wait();
                    let one = |_| {
                        sleep(numbers.delay());
                        let what = numbers.one_of(all);
                        let from = Instant::now();
                        let answer = run(what, &mut numbers, at == 0);
                        Done { from, to: Instant::now(), what, answer }
                    };
                    (0..commands()).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        processes.into_iter().flat_map(|process| process.join().unwrap()).collect()
    })
}

#[track_caller]
fn assert_order<M: Model>(start: M, mut all: Vec<Done<M::What, M::Answer>>, seed: u64) {
    if has_order(start, &all) {
        return;
    }
    all.sort_by_key(|one| one.from);
    let first = all[0].from;
    let lines = all.iter().map(|one| {
        let [from, to] = [one.from, one.to].map(|time| (time - first).as_micros());
        format!("{from:>8} to {to:>8} us: {:?}: {:?}\n", one.what, one.answer)
    });
    panic!("no order explains these answers, seed {seed}:\n{}", lines.collect::<String>());
}

/// Returns the seed of a run, which `NSPOD_SEED` repeats. The order of the processes differs nevertheless.
fn seed() -> u64 {
    let given = std::env::var("NSPOD_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1)
}

/// Returns the processes, cgroups, mounts and files that have this text in their name.
fn left(name: &str, dirs: &[PathBuf]) -> Vec<String> {
    let mut all = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| {
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        if read("cgroup").contains(name) || read("cmdline").contains(name) {
            all.push(format!("process {}: {}", process.path().display(), read("cmdline")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    for dir in dirs {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(name) {
                all.push(format!("file {}", entry.path().display()));
            }
        }
    }
    all
}

/// Returns the directories in which the programs make cgroups.
fn cgroups() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).unwrap().flatten().map(|entry| entry.path());
    let hierarchies: Vec<_> = std::iter::once(root.clone()).chain(hierarchies).collect();
    hierarchies.into_iter().flat_map(|dir| [dir.join("nspod"), dir]).collect()
}

#[track_caller]
fn assert_nothing_left(name: &str, dirs: &[PathBuf], seed: u64) {
    let start = Instant::now();
    // A killed process may need a moment to disappear.
    while start.elapsed() < PATIENCE / 12 && !left(name, dirs).is_empty() {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(left(name, dirs), Vec::<String>::new(), "seed {seed}");
}

fn count(counts: &mut std::collections::BTreeMap<String, u32>, what: &impl Debug, answer: &impl Debug) {
    *counts.entry(format!("{what:?}: {answer:?}")).or_default() += 1;
}

// nspod-oci

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Oci {
    Missing,
    /// `create` has the id, and there is no record yet.
    Claimed,
    Creating,
    Created,
    Running,
    /// The first process has SIGKILL.
    Dying,
    Stopped,
}

#[derive(Debug, Clone, Copy)]
enum OciVerb {
    Create,
    Start,
    Exec,
    Kill,
    Delete,
    ForceDelete,
    State,
}

#[derive(Debug, PartialEq, Eq)]
enum OciAnswer {
    Done,
    /// The process of exec was killed.
    Killed,
    Status(Oci),
    Missing,
    Exists,
    IsCreating,
    IsRunning,
    IsStopped,
}

impl Model for Oci {
    type What = OciVerb;
    type Answer = OciAnswer;

    fn alone(self) -> Vec<Oci> {
        match self {
            Oci::Claimed => vec![Oci::Creating],
            Oci::Dying => vec![Oci::Stopped],
            _ => Vec::new(),
        }
    }

    fn parts(what: OciVerb, answer: &OciAnswer) -> usize {
        match (what, answer) {
            (OciVerb::Create | OciVerb::Delete | OciVerb::ForceDelete, OciAnswer::Done)
            | (OciVerb::Exec, OciAnswer::Killed) => 2,
            _ => 1,
        }
    }

    fn after(self, what: OciVerb, answer: &OciAnswer, at: usize) -> Option<Oci> {
        use Oci::*;
        let ended = [Dying, Stopped];
        match (what, answer, at) {
            // The process is killed first.
            (OciVerb::ForceDelete, OciAnswer::Done, 0) => match self {
                Missing | Stopped => Some(self),
                Created | Running | Dying => Some(Dying),
                Claimed | Creating => None,
            },
            (OciVerb::Delete, OciAnswer::Done, 0) => match self {
                Stopped => Some(self),
                Created | Dying => Some(Dying),
                Missing | Running | Claimed | Creating => None,
            },
            (OciVerb::ForceDelete, OciAnswer::Done, _) if self == Missing => Some(self),
            (OciVerb::Delete | OciVerb::ForceDelete, OciAnswer::Done, _) => {
                ended.contains(&self).then_some(Missing)
            }
            (OciVerb::ForceDelete, OciAnswer::Missing, _) => None,
            (_, OciAnswer::Missing, _) => matches!(self, Missing | Claimed).then_some(self),
            (OciVerb::Create, OciAnswer::Done, 0) => (self == Missing).then_some(Claimed),
            (OciVerb::Create, OciAnswer::Done, _) => (self == Creating).then_some(Created),
            (OciVerb::Create, OciAnswer::Exists, _) => (self != Missing).then_some(self),
            (OciVerb::Start, OciAnswer::Done, _) => (self == Created).then_some(Running),
            (OciVerb::Start, OciAnswer::IsRunning, _) => matches!(self, Running | Dying).then_some(self),
            (OciVerb::Start | OciVerb::Exec, OciAnswer::IsStopped, _) => {
                ended.contains(&self).then_some(self)
            }
            (OciVerb::Exec, OciAnswer::IsCreating, _) => (self == Creating).then_some(self),
            (OciVerb::Exec, OciAnswer::Done, _) | (OciVerb::Exec, OciAnswer::Killed, 0) => {
                matches!(self, Created | Running | Dying).then_some(self)
            }
            (OciVerb::Exec, OciAnswer::Killed, _) => (self != Running).then_some(self),
            (OciVerb::Kill, OciAnswer::Done, _) => match self {
                Creating | Created | Running | Dying => Some(Dying),
                Stopped | Missing | Claimed => None,
            },
            (OciVerb::Kill, OciAnswer::IsStopped, _) => matches!(self, Creating | Stopped).then_some(self),
            (OciVerb::Delete, OciAnswer::IsRunning, _) => matches!(self, Running | Dying).then_some(self),
            (OciVerb::State, OciAnswer::Status(status), _) => {
                let is_it = if self == Dying { matches!(status, Created | Running) } else { self == *status };
                is_it.then_some(self)
            }
            _ => None,
        }
    }
}

/// Classifies the answer of nspod-oci. An unknown error is a fault.
fn oci_answer(verb: OciVerb, output: &Output) -> OciAnswer {
    let has = |text: &str| output.err.contains(text);
    match (verb, output.code()) {
        (OciVerb::State, 0) => {
            let state: serde_json::Value = serde_json::from_str(&output.out).unwrap();
            OciAnswer::Status(match state["status"].as_str().unwrap() {
                "creating" => Oci::Creating,
                "created" => Oci::Created,
                "running" => Oci::Running,
                "stopped" => Oci::Stopped,
                other => panic!("{other}"),
            })
        }
        (_, 0) => OciAnswer::Done,
        (OciVerb::Exec, 137) => OciAnswer::Killed,
        _ if has("container does not exist") => OciAnswer::Missing,
        _ if has("given ID already exists") => OciAnswer::Exists,
        _ if has("is being created") => OciAnswer::IsCreating,
        _ if has("already running") || has("not stopped: running") => OciAnswer::IsRunning,
        (OciVerb::Start, _) if has("it was killed") => OciAnswer::IsStopped,
        _ if has("has stopped") || has("stopped container") || has("not running") => OciAnswer::IsStopped,
        _ => panic!("{verb:?}: exit code {}: {}{}", output.code(), output.out, output.err),
    }
}

#[test]
fn commands_of_the_oci_runtime_on_one_id_have_an_order() {
    if !root() || !fault::able() {
        return;
    }
    let seed = seed();
    let mut numbers = Numbers(seed);
    let verbs = [
        OciVerb::Create,
        OciVerb::Create,
        OciVerb::Start,
        OciVerb::Start,
        OciVerb::Exec,
        OciVerb::Kill,
        OciVerb::Delete,
        OciVerb::ForceDelete,
        OciVerb::State,
    ];
    let bundle = Bundle::new("exec sleep 1000");
    let (state, dir) = (bundle.path("state").display().to_string(), bundle.path("").display().to_string());
    let id = bundle.id.as_str();
    let dirs = [cgroups(), vec![bundle.path("state")]].concat();
    let mut counts = std::collections::BTreeMap::new();
    let start = Instant::now();
    let rounds = rounds(5);
    for _ in 0..rounds {
        let all = round::<Oci>(&mut numbers, &verbs, |verb, numbers, is_traced| {
            let args = match verb {
                OciVerb::Create => vec!["create", "--bundle", &dir, id],
                OciVerb::Start => vec!["start", id],
                OciVerb::Exec => vec!["exec", id, "true"],
                OciVerb::Kill => vec!["kill", id, "KILL"],
                OciVerb::Delete => vec!["delete", id],
                OciVerb::ForceDelete => vec!["delete", "--force", id],
                OciVerb::State => vec!["state", id],
            };
            let args = [vec!["--root", &state], args].concat();
            oci_answer(verb, &disturbed(OCI, &args, numbers, is_traced))
        });
        all.iter().for_each(|one| count(&mut counts, &one.what, &one.answer));
        assert_order(Oci::Missing, all, seed);
        bundle.verb(&["delete", "--force"]).ok();
        assert_nothing_left(id, &dirs, seed);
    }
    eprintln!("{rounds} rounds in {:.1} s, seed {seed}: {counts:#?}", start.elapsed().as_secs_f64());
}

// nspod

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Missing,
    /// Its name is taken.
    Starting,
    Running,
    /// The first process has SIGKILL.
    Dying,
    Exited,
    /// A command removes it.
    Removing,
}

/// The states of two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Both([State; 2]);

#[derive(Debug, Clone, Copy)]
enum Verb {
    Run,
    Exec,
    Stop,
    Kill,
    Remove,
    ForceRemove,
    Rename,
    Inspect,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Killed,
    State(State),
    Missing,
    Exists,
    NotRunning,
    NotStarted,
    IsRunning,
    /// Another command starts or removes the container.
    Busy,
}

impl Both {
    fn with(mut self, name: usize, state: State) -> Both {
        self.0[name] = state;
        self
    }
}

impl Model for Both {
    /// A verb, and the name for it.
    type What = (Verb, usize);
    type Answer = Answer;

    fn alone(self) -> Vec<Both> {
        let ends = |both: Both, name: usize| match both.0[name] {
            State::Dying => vec![both, both.with(name, State::Exited)],
            _ => vec![both],
        };
        ends(self, 0).into_iter().flat_map(|both| ends(both, 1)).filter(|both| *both != self).collect()
    }

    fn parts((verb, _): (Verb, usize), answer: &Answer) -> usize {
        match (verb, answer) {
            (Verb::Run | Verb::Stop | Verb::Remove, Answer::Done)
            | (Verb::Exec, Answer::Killed)
            | (Verb::Exec | Verb::Kill, Answer::NotRunning) => 2,
            (Verb::ForceRemove, Answer::Done) => 3,
            _ => 1,
        }
    }

    fn after(self, (verb, name): (Verb, usize), answer: &Answer, at: usize) -> Option<Both> {
        use State::*;
        let (state, other) = (self.0[name], self.0[1 - name]);
        let stays = |holds: bool| holds.then_some(self);
        let becomes = |holds: bool, next: State| holds.then(|| self.with(name, next));
        match (verb, answer, at) {
            // `run` has not locked its directory yet, notices the removal, and makes the directory again.
            (Verb::Remove | Verb::ForceRemove, Answer::Done, _) if state == Starting => Some(self),
            // The process is killed first. Another command can then remove the container.
            (Verb::ForceRemove, Answer::Done, 0) => match state {
                Running | Dying => Some(self.with(name, Dying)),
                Missing | Exited | Removing => Some(self),
                Starting => None,
            },
            (Verb::ForceRemove, Answer::Done, 1) if state != Missing => {
                becomes(matches!(state, Dying | Exited), Removing)
            }
            (Verb::Remove, Answer::Done, 0) => becomes(state == Exited, Removing),
            (Verb::ForceRemove, Answer::Done, _) if state == Missing => Some(self),
            (Verb::Remove | Verb::ForceRemove, Answer::Done, _) => becomes(state == Removing, Missing),
            (_, Answer::Missing, _) => stays(matches!(state, Missing | Starting)),
            // `run` has made the directory, and has not locked it yet.
            (_, Answer::NotStarted, _) => stays(state == Starting),
            // `assert_busy` checks the cause.
            (_, Answer::Busy, _) => Some(self),
            (Verb::Run, Answer::Done, 0) => becomes(state == Missing, Starting),
            (Verb::Run, Answer::Done, _) => becomes(state == Starting, Running),
            (Verb::Run, Answer::Exists, _) => stays(state != Missing),
            (Verb::Exec, Answer::Done, _) | (Verb::Exec, Answer::Killed, 0) => {
                stays(matches!(state, Running | Dying))
            }
            (Verb::Exec, Answer::Killed, _) => stays(state != Running),
            // The command has found the container, which then ends, perhaps under its other name.
            (Verb::Exec | Verb::Kill, Answer::NotRunning, 0) => stays(!matches!(state, Missing | Starting)),
            (Verb::Exec | Verb::Kill, Answer::NotRunning, _) => stays(state != Running),
            (Verb::Kill, Answer::Done, _) => match state {
                Removing => Some(self),
                _ => becomes(matches!(state, Running | Dying), Dying),
            },
            // stop waits for the end. Another command may remove the container then.
            (Verb::Stop, Answer::Done, 0) => match state {
                Running | Dying => Some(self.with(name, Dying)),
                Exited | Removing => Some(self),
                Missing | Starting => None,
            },
            (Verb::Stop, Answer::Done, _) => Some(self),
            (Verb::Remove, Answer::IsRunning, _) => stays(matches!(state, Running | Dying | Removing)),
            (Verb::Rename, Answer::Done, _) => (matches!(state, Running | Dying | Exited)
                && other == Missing)
                .then(|| self.with(name, Missing).with(1 - name, state)),
            (Verb::Rename, Answer::Exists, _) => stays(other != Missing),
            (Verb::Inspect, Answer::State(seen), _) => {
                stays(state == *seen || state == Dying && *seen == Running || state == Removing)
            }
            _ => None,
        }
    }
}

fn answer(verb: Verb, output: &Output) -> Answer {
    let has = |text: &str| output.err.contains(text);
    match (verb, output.code()) {
        (Verb::Inspect, 0) => Answer::State(match output.out.trim_end() {
            "running" => State::Running,
            "exited" => State::Exited,
            // Between the mkdir and the lock of `run`, an entry looks like the rest of a start that was killed.
            "creating" | "dead" => State::Starting,
            other => panic!("{other}"),
        }),
        (_, 0) => Answer::Done,
        (Verb::Exec, 137) => Answer::Killed,
        _ if has("there is no container") || has("has just been removed") => Answer::Missing,
        _ if has("there is a container") => Answer::Exists,
        _ if has("is not running") => Answer::NotRunning,
        _ if has("is running") => Answer::IsRunning,
        _ if has("has not been started") => Answer::NotStarted,
        _ if has("another command is starting or removing") => Answer::Busy,
        _ => panic!("{verb:?}: exit code {}: {}{}", output.code(), output.out, output.err),
    }
}

/// Checks that a container is busy only while another command has its lock.
#[track_caller]
fn assert_busy(all: &[Done<(Verb, usize), Answer>]) {
    for one in all.iter().filter(|one| one.answer == Answer::Busy) {
        let locks = |other: &Done<(Verb, usize), Answer>| {
            let verb = !matches!(other.what.0, Verb::Exec | Verb::Inspect | Verb::Kill);
            verb && !std::ptr::eq(one, other) && other.from < one.to && one.from < other.to
        };
        assert!(all.iter().any(locks), "{one:?} has no cause");
    }
}

#[test]
#[ignore = "an open fault: in about one of 20 rounds no order explains the answers"]
fn commands_of_nspod_on_two_names_have_an_order() {
    if !root() || !fault::able() {
        return;
    }
    let seed = seed();
    let mut numbers = Numbers(seed);
    let verbs: Vec<_> = [
        Verb::Run,
        Verb::Run,
        Verb::Exec,
        Verb::Stop,
        Verb::Kill,
        Verb::Remove,
        Verb::ForceRemove,
        Verb::Rename,
        Verb::Inspect,
    ]
    .into_iter()
    .flat_map(|verb| [(verb, 0), (verb, 1)])
    .collect();
    let common = unique();
    let names = [format!("{common}-a"), format!("{common}-b")];
    let state = ["/run/nspod/containers", "/run/nspod/logs", "/run/nspod-quota", "/var/lib/nspod/logs"];
    let dirs = [cgroups(), state.map(PathBuf::from).to_vec()].concat();
    let mut counts = std::collections::BTreeMap::new();
    let start = Instant::now();
    let rounds = rounds(10);
    for _ in 0..rounds {
        let all = round::<Both>(&mut numbers, &verbs, |(verb, name), numbers, is_traced| {
            let (own, other) = (names[name].as_str(), names[1 - name].as_str());
            let args = match verb {
                Verb::Run => vec!["run", "-d", "--name", own, "--log-max-size", "none", "sleep", "1000"],
                Verb::Exec => vec!["exec", own, "true"],
                Verb::Stop => vec!["stop", "-t", "0", own],
                Verb::Kill => vec!["kill", own],
                Verb::Remove => vec!["rm", own],
                Verb::ForceRemove => vec!["rm", "-f", own],
                Verb::Rename => vec!["rename", own, other],
                Verb::Inspect => vec!["inspect", "--format", "{{.State}}", own],
            };
            answer(verb, &disturbed(NSPOD, &args, numbers, is_traced))
        });
        all.iter().for_each(|one| count(&mut counts, &one.what.0, &one.answer));
        assert_busy(&all);
        assert_order(Both([State::Missing; 2]), all, seed);
        nspod(&["rm", "-f", &names[0], &names[1]]);
        assert_nothing_left(&common, &dirs, seed);
    }
    eprintln!("{rounds} rounds in {:.1} s, seed {seed}: {counts:#?}", start.elapsed().as_secs_f64());
}

#[test]
fn stop_ends_a_container_that_is_renamed_meanwhile() {
    if !root() {
        return;
    }
    let [old, new] = [Name::container(), Name::container()];
    // The program does not end by the signal of stop.
    ok(&[
        "run",
        "-d",
        "--name",
        &old,
        "sh",
        "-c",
        "trap 'touch /tmp/asked' TERM; touch /tmp/ready; while :; do sleep 1000 & wait; done",
    ]);
    let has = |file: &str| nspod(&["exec", &old, "test", "-e", file]).code() == 0;
    eventually("the program handles the signal", || has("/tmp/ready"));
    let mut stop = Command::new(NSPOD).args(["stop", "-t", "5", &old]).stdout(Stdio::null()).spawn().unwrap();
    eventually("stop has sent the signal", || has("/tmp/asked"));
    ok(&["rename", &old, &new]);
    assert!(common::end_of(&mut stop).success());
    eventually("it has ended", || new.at() == "exited");
    // A command that must find the container does not.
    assert_eq!(nspod(&["rm", &old]).code(), 125);
}

/// The check of the order finds answers that no order explains.
#[test]
fn answers_without_an_order_are_found() {
    let start = Instant::now();
    let at = |from: u64, to: u64, what, answer| {
        let [from, to] = [from, to].map(|ms| start + Duration::from_millis(ms));
        Done { from, to, what, answer }
    };
    let create = |from, to| at(from, to, OciVerb::Create, OciAnswer::Done);
    assert!(has_order(Oci::Missing, &[create(0, 9), at(1, 2, OciVerb::Exec, OciAnswer::IsCreating)]));
    // Both have created the same container.
    assert!(!has_order(Oci::Missing, &[create(0, 9), create(1, 8)]));
    assert!(has_order(
        Oci::Missing,
        &[create(0, 9), create(1, 8), at(2, 7, OciVerb::Delete, OciAnswer::Done)]
    ));
    // A command that began after the end of create does not find the container.
    let late = [create(0, 2), at(3, 4, OciVerb::State, OciAnswer::Missing)];
    assert!(!has_order(Oci::Missing, &late));
    let stopped = [
        create(0, 1),
        at(2, 3, OciVerb::Kill, OciAnswer::Done),
        at(4, 5, OciVerb::State, OciAnswer::Status(Oci::Created)),
        at(6, 7, OciVerb::Start, OciAnswer::IsStopped),
    ];
    assert!(has_order(Oci::Missing, &stopped));
    // A container that was killed does not start.
    let started =
        [create(0, 1), at(2, 3, OciVerb::Kill, OciAnswer::Done), at(6, 7, OciVerb::Start, OciAnswer::Done)];
    assert!(!has_order(Oci::Missing, &started));
}
