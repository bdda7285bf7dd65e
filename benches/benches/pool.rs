//! The cost of a start whose net and ipc namespaces, `/dev` and cgroup come from a pool, beside the fewest system
//! calls that make the same container without a pool.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use nspod_benches::work;
use nspod_sandbox::Command;

const NOTHING: &str = env!("CARGO_BIN_EXE_nothing");

fn run(command: &mut Command) {
    work::run(command).expect("start");
}

fn pool(criterion: &mut Criterion) {
    let Some(ground) = nspod_benches::ground(NOTHING) else { return };
    let cgroup = ground.cgroup_path("floor").expect("a path");
    let floor = ground.floor().expect("floor");
    let floor_in_rust = ground.floor_in_rust().expect("floor");
    let pool = ground.pool().expect("pool");
    let mut without = ground.container();
    let mut with = ground.container_of(&pool);

    let mut group = criterion.benchmark_group("pool");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(40);
    group.bench_function("floor-c", |b| b.iter(|| floor.run(&cgroup).expect("floor")));
    group.bench_function("floor-rust", |b| b.iter(|| floor_in_rust.run().expect("floor")));
    group.bench_function("without", |b| b.iter(|| run(&mut without)));
    group.bench_function("warm", |b| {
        b.iter_custom(|count| {
            let mut total = Duration::ZERO;
            for _ in 0..count {
                // Not measured.
                pool.fill().expect("fill");
                let start = Instant::now();
                run(&mut with);
                total += start.elapsed();
            }
            total
        });
    });
    // The pool's thread refills the pool while the starts empty it.
    group.bench_function("drained", |b| b.iter(|| run(&mut with)));
    group.finish();
}

criterion_group!(benches, pool);
criterion_main!(benches);
