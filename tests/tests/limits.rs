//! Limits restrict their own container and no other.
//!
//! Each test has a control, which succeeds without the limit. The tests require controllers of cgroup v2, which the
//! guest lane has.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Controller, Controllers, CpuMax, Hierarchy, Limits, Max};
use nspod_sandbox::{Command, EndedBy, ErrorKind, ExitStatus, Oom, OomLevel, Pod, PodSpec, Stdio};
use nspod_tests::{Cell, GONE, command, eventually, join, lane, unique};

const MIB: u64 = 1 << 20;
/// Amount that the memory hogs request.
const HOLD: &str = "hold 134217728";

fn memory(max: u64) -> Limits {
    // Limit swap too: otherwise the kernel would swap pages out.
    let unified = [("memory.swap.max".to_owned(), "0".to_owned())].into();
    Limits { memory_max: Some(Max::Value(max)), unified, ..Limits::default() }
}

fn pids(max: Max) -> Limits {
    Limits { pids_max: Some(max), ..Limits::default() }
}

/// Starts containers with limits in a pod with limits.
fn containers<const N: usize>(pod: Limits, limits: [Limits; N]) -> (Pod, [Cell; N]) {
    let pod = Pod::create(&unique("limits"), &PodSpec { limits: pod, ..PodSpec::default() }).unwrap();
    let cells = limits.map(|limits| Cell::start(join(&pod).unwrap().limits(limits)).unwrap());
    (pod, cells)
}

#[test]
fn memory_max_kills_the_hog_and_neither_its_neighbour_nor_its_pod() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let limits = [memory(32 * MIB), memory(32 * MIB), Limits::default()];
    let (pod, [mut hog, mut neighbour, mut free]) = containers(Limits::default(), limits);
    assert_eq!(hog.order(HOLD), Err(GONE));
    let outcome = hog.container.wait().unwrap();
    assert_eq!(outcome.status, ExitStatus::Signaled { signal: libc::SIGKILL, core_dumped: false });
    assert_eq!(outcome.oom, Some(Oom { level: OomLevel::Container, killed: 1 }));
    assert_eq!(neighbour.order("ping").as_deref(), Ok("pong"));
    // The control: the same without a limit.
    assert!(free.order(HOLD).is_ok());
    assert_eq!(free.order("exit 0"), Err(GONE));
    let outcome = free.container.wait().unwrap();
    assert_eq!((outcome.status, outcome.oom.clone()), (ExitStatus::Exited(0), None));
    assert!(outcome.peak_memory.unwrap() >= 128 * MIB, "{outcome:?}");
    assert_eq!(neighbour.order("ping").as_deref(), Ok("pong"));
    pod.delete().unwrap();
}

#[test]
fn the_outcome_names_the_pod_whose_memory_max_was_exceeded() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let (_pod, [mut hog, mut neighbour]) =
        containers(memory(64 * MIB), [Limits::default(), Limits::default()]);
    assert_eq!(hog.order(HOLD), Err(GONE));
    let oom = hog.container.wait().unwrap().oom;
    assert_eq!(oom, Some(Oom { level: OomLevel::Pod, killed: 1 }));
    assert_eq!(neighbour.order("ping").as_deref(), Ok("pong"));
}

struct Parent(Cgroup);

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = self.0.destroy();
    }
}

#[test]
fn the_outcome_names_the_ancestor_whose_memory_max_was_exceeded() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let root = Hierarchy::detect().unwrap().root().unwrap();
    let parent = Parent(root.create_child(unique("ancestor")).unwrap());
    parent.0.enable_path(Controllers::MEMORY).unwrap();
    parent.0.apply(&memory(64 * MIB)).unwrap();
    let mut roomy = command();
    let mut hog = Cell::start(roomy.cgroup_parent(parent.0.path()).limits(memory(512 * MIB))).unwrap();
    assert_eq!(hog.order(HOLD), Err(GONE));
    let level = OomLevel::Ancestor(parent.0.path().to_owned());
    assert_eq!(hog.container.wait().unwrap().oom, Some(Oom { level, killed: 1 }));
    drop(hog);
}

#[test]
fn the_limit_of_a_cgroup_in_the_containers_counts_as_the_containers() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let mut hog = Cell::start(&mut command()).unwrap();
    let own = hog.container.cgroup().unwrap();
    let inner = own.create_child("inner").unwrap();
    for pid in own.procs().unwrap() {
        inner.attach(pid).unwrap();
    }
    own.enable(Controllers::MEMORY).unwrap();
    inner.apply(&memory(32 * MIB)).unwrap();
    assert_eq!(hog.order(HOLD), Err(GONE));
    let oom = hog.container.wait().unwrap().oom;
    assert_eq!(oom, Some(Oom { level: OomLevel::Container, killed: 1 }));
}

#[test]
fn a_process_in_an_existing_cgroup_names_the_ancestor_whose_memory_max_was_exceeded() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let (_pod, [mut first]) = containers(memory(64 * MIB), [Limits::default()]);
    let path = first.container.cgroup().unwrap().path().to_owned();
    let mut hog = Cell::start(command().cgroup_inside(&path)).unwrap();
    assert_eq!(hog.order(HOLD), Err(GONE));
    let level = OomLevel::Ancestor(path.parent().unwrap().to_owned());
    assert_eq!(hog.container.wait().unwrap().oom, Some(Oom { level, killed: 1 }));
    assert_eq!(first.order("ping").as_deref(), Ok("pong"));
}

#[test]
fn pids_max_stops_a_fork_bomb_and_not_its_neighbours_forks() {
    if !lane::controllers(Controllers::PIDS) {
        return;
    }
    let limits = [pids(Max::Value(16)), Limits::default()];
    let (_pod, [mut bomb, mut neighbour]) = containers(Limits::default(), limits);
    // The init and the program count.
    assert_eq!(bomb.order("fork 64").as_deref(), Ok("14"));
    assert_eq!(bomb.order("fork 1"), Err(libc::EAGAIN));
    assert!(bomb.container.usage().unwrap().pids.events.max.unwrap() > 0);
    assert_eq!(neighbour.order("fork 64").as_deref(), Ok("64"));
}

#[test]
fn pids_max_of_a_pod_counts_all_its_containers_together() {
    if !lane::controllers(Controllers::PIDS) {
        return;
    }
    let limits = [Limits::default(), Limits::default()];
    let (_pod, [mut a, mut b]) = containers(pids(Max::Value(20)), limits);
    assert_eq!(a.order("fork 10").as_deref(), Ok("10"));
    assert_eq!(b.order("fork 64").as_deref(), Ok("6"));
}

/// Processor time that a container has used, in µs.
fn used(cell: &Cell) -> u64 {
    cell.container.usage().unwrap().cpu.usage_usec.unwrap()
}

#[test]
fn cpu_max_halves_a_spinner_and_lets_its_neighbour_spin() {
    if !lane::controllers(Controllers::CPU) {
        return;
    }
    let half = Limits { cpu_max: Some(CpuMax::new(50_000, 100_000)), ..Limits::default() };
    let (_pod, [mut limited, mut free]) = containers(Limits::default(), [half, Limits::default()]);
    let (start, before) = (Instant::now(), used(&limited));
    limited.order("spin").unwrap();
    free.order("spin").unwrap();
    // On a busy machine the container does not reach its quota at first.
    let throttled = |cell: &Cell| cell.container.usage().unwrap().cpu.throttled_usec;
    eventually("the spinner is throttled", || {
        used(&limited) - before > 400_000 && throttled(&limited).unwrap() > 0
    });
    let share = (used(&limited) - before) as f64 / start.elapsed().as_micros() as f64;
    // The upper limit is the quota plus one period, however busy the machine is.
    assert!(share < 0.7, "half a processor is {share}");
    assert!(throttled(&limited).unwrap() > 0);
    assert_eq!(throttled(&free).unwrap_or(0), 0);
    limited.container.kill().unwrap();
    let outcome = limited.container.wait().unwrap();
    assert!(
        !outcome.throttled_time.is_zero() && outcome.cpu_time > Duration::from_millis(400),
        "{outcome:?}"
    );
}

#[test]
fn cpu_weight_divides_a_processor_three_to_one() {
    if !lane::controllers(Controllers::CPU | Controllers::CPUSET) {
        return;
    }
    let weight = |weight| Limits {
        cpu_weight: Some(weight),
        cpuset_cpus: Some("0".parse().unwrap()),
        ..Limits::default()
    };
    let (pod, [mut heavy, mut light]) = containers(Limits::default(), [weight(300), weight(100)]);
    heavy.order("spin").unwrap();
    light.order("spin").unwrap();
    let before = (used(&heavy), used(&light));
    eventually("the spinners spin", || used(&heavy) + used(&light) - before.0 - before.1 > 2_000_000);
    pod.freeze().unwrap();
    let (heavy, light) = (used(&heavy) - before.0, used(&light) - before.1);
    let ratio = heavy as f64 / light as f64;
    assert!((2.0..4.5).contains(&ratio), "{heavy} µs to {light} µs is {ratio}");
}

#[test]
fn a_frozen_pod_makes_no_progress_until_it_is_thawed() {
    if !lane::root() {
        return;
    }
    let (pod, mut cells) = containers(Limits::default(), [Limits::default(), Limits::default()]);
    for cell in &mut cells {
        cell.order("spin").unwrap();
    }
    pod.freeze().unwrap();
    let look = || cells.each_ref().map(used);
    let before = look();
    sleep(Duration::from_millis(100));
    assert_eq!(look(), before);
    pod.thaw().unwrap();
    eventually("both continue", || look().iter().zip(&before).all(|(now, then)| now > then));
}

#[test]
fn an_update_changes_a_live_container() {
    if !lane::controllers(Controllers::PIDS | Controllers::MEMORY) {
        return;
    }
    let (_pod, [mut cell]) = containers(Limits::default(), [pids(Max::Value(4))]);
    assert_eq!(cell.order("fork 8").as_deref(), Ok("2"));
    cell.container.update(&pids(Max::Value(6))).unwrap();
    assert_eq!(cell.order("fork 8").as_deref(), Ok("2"));
    cell.container.update(&pids(Max::Max)).unwrap();
    assert_eq!(cell.order("fork 8").as_deref(), Ok("8"));
    // Limits that are not named stay.
    cell.container.update(&memory(32 * MIB)).unwrap();
    assert_eq!(cell.order("fork 8").as_deref(), Ok("8"));
    assert_eq!(cell.order(HOLD), Err(GONE));
    assert_eq!(cell.container.wait().unwrap().oom.unwrap().level, OomLevel::Container);
}

/// The host lane uses a controller of v1. The guest lane uses a file that no kernel has.
#[test]
fn a_limit_that_cannot_be_enforced_is_refused_with_the_reason() {
    if !lane::root() {
        return;
    }
    let host = Hierarchy::detect().unwrap();
    let mut wanted = vec![(
        Limits { hugetlb_max: [("3MB".to_owned(), Max::Value(0))].into(), ..Limits::default() },
        "hugetlb.3MB.max".to_owned(),
        None,
    )];
    for (limits, controller, file) in [
        (memory(MIB), Controller::Memory, "memory.max"),
        (pids(Max::Value(9)), Controller::Pids, "pids.max"),
        (Limits { cpu_weight: Some(5), ..Limits::default() }, Controller::Cpu, "cpu.weight"),
    ] {
        if let Some(missing) = host.why_missing(controller) {
            wanted.push((limits, file.to_owned(), Some(missing.to_string())));
        }
    }
    for (limits, file, reason) in wanted {
        let mut command = command();
        let name = unique("unenforceable");
        let error = Cell::start(command.name(&name).limits(limits)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unenforceable, "{error}");
        let text = error.to_string();
        assert!(text.contains(&file) && text.contains(reason.as_deref().unwrap_or("")), "{text}");
        let base = host.root().unwrap().path().join("nspod");
        assert!(!base.join(name).exists(), "the cgroup is left behind");
    }
}

#[test]
fn the_outcome_counts_refused_processes_and_names_the_oom_killer() {
    if !lane::controllers(Controllers::MEMORY | Controllers::PIDS) {
        return;
    }
    let refused = |limits: Limits| {
        let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done 2>/dev/null; wait";
        let mut command = Command::new("sh");
        command.args(["-c", forks]).limits(limits).stderr(Stdio::Null);
        command.status().unwrap().pids_refused
    };
    assert!(refused(pids(4.into())).unwrap() > 0);
    assert_eq!(refused(pids(100.into())), Some(0));
    assert_eq!(refused(Limits::default()), None);
    let outcome = Command::new("tail").arg("/dev/zero").limits(memory(16 * MIB)).output().unwrap().outcome;
    assert_eq!((outcome.ended_by, outcome.status.signal()), (EndedBy::Oom, Some(libc::SIGKILL)));
}
