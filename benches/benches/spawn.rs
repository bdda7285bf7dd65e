//! The time of a start, from the call until the program has ended and its resources are removed.
//!
//! All groups start the same static program and differ in the isolation. Each group contains the baselines to
//! compare the library with.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use nspod_benches::work::{self, Ground, clone_flags};
use nspod_benches::{Program, c};
use nspod_sandbox::ns_core::{Extent, IdMap, Kind, Kinds};
use nspod_sandbox::spec::{IdMaps, NamespaceMode};
use nspod_sandbox::{Command, Pod, PodSpec, Stdio};

const NOTHING: &str = env!("CARGO_BIN_EXE_nothing");

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(40);
    group
}

fn run(command: &mut Command) {
    work::run(command).expect("start");
}

/// No isolation: the cost of the kernel and the library alone.
fn plain(criterion: &mut Criterion, ground: &Ground) {
    let mut group = group(criterion, "plain");
    let mut std = std::process::Command::new(ground.program());
    group.bench_function("std", |b| b.iter(|| work::run_std(&mut std).expect("start")));
    let mut library = Command::bare(ground.program());
    group.bench_function("library", |b| b.iter(|| run(&mut library)));
    group.bench_function("library-planned-anew", |b| b.iter(|| run(&mut Command::bare(ground.program()))));
    group.finish();
}

/// New namespaces only.
fn kinds(criterion: &mut Criterion, ground: &Ground) {
    let program = ground.program_c().expect("a path");
    let mut group = group(criterion, "kinds");
    let mut all = |name: &str, kinds: Kinds| {
        let mut library = Command::bare(ground.program());
        library.isolate(kinds).init(false);
        group.bench_function(format!("{name}/library"), |b| b.iter(|| run(&mut library)));
        let flags = clone_flags(kinds);
        group.bench_function(format!("{name}/raw-c"), |b| {
            b.iter(|| c::raw(&program, flags).expect("start"));
        });
        // A child that shares memory cannot make a new time namespace.
        if !kinds.contains(Kinds::TIME) {
            group.bench_function(format!("{name}/raw-c-shared"), |b| {
                b.iter(|| c::raw_shared(&program, flags).expect("start"));
            });
        }
    };
    if !nspod_benches::is_quick() {
        Kind::ALL.into_iter().for_each(|kind| all(kind.name(), kind.into()));
    }
    all("five", Kinds::FIVE);
    all("eight", Kinds::all());
    group.finish();
}

/// Containers, beside the fewest system calls that make one.
fn containers(criterion: &mut Criterion, ground: &Ground) {
    let cgroup = ground.cgroup_path("floor").expect("a path");
    let floor = ground.floor().expect("floor");
    let floor_in_rust = ground.floor_in_rust().expect("floor");
    let mut library = ground.container();
    let mut group = group(criterion, "container");
    group.bench_function("floor-c", |b| b.iter(|| floor.run(&cgroup).expect("floor")));
    group.bench_function("floor-rust", |b| b.iter(|| floor_in_rust.run().expect("floor")));
    group.bench_function("like-floor", |b| b.iter(|| run(&mut library)));
    group.bench_function("like-floor-planned-anew", |b| b.iter(|| run(&mut ground.container())));
    let launcher = ground.container().launcher().expect("plan");
    group.bench_function("like-floor-plan-spawn", |b| {
        b.iter(|| {
            let mut container = launcher.spawn().expect("start");
            assert!(container.wait().expect("wait").status.success());
            container.delete().expect("delete");
        });
    });
    let mut filtered = ground.container_with_seccomp();
    group.bench_function("like-floor-seccomp", |b| b.iter(|| run(&mut filtered)));
    let nothing = Program::copy(NOTHING);
    group.bench_function("new", |b| b.iter(|| run(&mut Command::new(&nothing))));
    group.bench_function("without-init", |b| b.iter(|| run(Command::new(&nothing).init(false))));
    group.bench_function("user-single", |b| b.iter(|| run(&mut in_user_namespace(&nothing, IdMaps::Single))));
    group.bench_function("user-range", |b| {
        let map = || IdMap::from(vec![Extent { inside: 0, outside: 0x6fff_0000, count: 65_536 }]);
        b.iter(|| run(&mut in_user_namespace(&nothing, IdMaps::Maps { uid: map(), gid: map() })));
    });
    group.bench_function("plan-alone", |b| {
        b.iter(|| black_box(Command::new(&nothing).plan().expect("plan")));
    });
    group.finish();
    nothing.remove();
}

fn in_user_namespace(nothing: &Program, maps: IdMaps) -> Command {
    let mut command = Command::new(nothing);
    command.namespace(Kind::User, NamespaceMode::New);
    command.spec_mut().id_maps = maps;
    command
}

/// A further process in an existing container or pod.
fn joining(criterion: &mut Criterion, ground: &Ground) {
    let mut group = group(criterion, "join");
    let nothing = Program::copy(NOTHING);
    let mut sleeper = Command::new(&nothing);
    let container = sleeper.arg("sleep").stdin(Stdio::Null).spawn().expect("start");
    group.bench_function("exec", |b| b.iter(|| run(&mut container.exec(&nothing).expect("exec"))));
    container.delete().expect("delete");
    // The same in a container with the floor's mounts and without a filter.
    let container = ground.sleeper().expect("start");
    group.bench_function("exec-bare", |b| b.iter(|| run(&mut container.exec("/nothing").expect("exec"))));
    container.delete().expect("delete");

    let pod = Pod::create("bench", &PodSpec::default()).expect("pod");
    group.bench_function("pod-member", |b| b.iter(|| run(&mut pod.command(&nothing).expect("member"))));
    pod.delete().expect("delete");
    group.bench_function("pod-create-delete", |b| {
        b.iter(|| Pod::create("bench", &PodSpec::default()).expect("pod").delete().expect("delete"));
    });
    group.finish();
    nothing.remove();
}

/// The time of one container while every processor starts containers.
fn throughput(criterion: &mut Criterion, ground: &Ground) {
    let mut group = group(criterion, "throughput");
    group.bench_function("library", |b| {
        b.iter_custom(|count| {
            on_all_processors(count, |_| {
                let mut command = ground.container();
                move || run(&mut command)
            })
        });
    });
    // In threads of one process, which share a memory map. The measuring program uses one process for each floor.
    group.bench_function("floor-c", |b| {
        b.iter_custom(|count| {
            on_all_processors(count, |thread| {
                let cgroup = ground.cgroup_path(&format!("floor-{thread}")).expect("a path");
                let floor = ground.floor().expect("floor");
                move || floor.run(&cgroup).expect("floor")
            })
        });
    });
    group.finish();
}

/// Runs the function this many times in total, on one thread for each processor.
fn on_all_processors<F: FnMut()>(count: u64, prepare: impl Fn(usize) -> F + Sync) -> Duration {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (prepare, started) = (&prepare, &started);
            scope.spawn(move || {
                let mut once = prepare(thread);
                while started.fetch_add(1, Ordering::Relaxed) < count {
                    once();
                }
            });
        }
    });
    start.elapsed()
}

fn all(criterion: &mut Criterion) {
    let Some(ground) = nspod_benches::ground(NOTHING) else { return };
    plain(criterion, &ground);
    kinds(criterion, &ground);
    containers(criterion, &ground);
    joining(criterion, &ground);
    throughput(criterion, &ground);
}

criterion_group!(spawn, all);
criterion_main!(spawn);
