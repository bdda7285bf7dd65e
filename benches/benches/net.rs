//! The cost of network limits: the first limits of a cgroup in a process that has set some before, an update, and
//! loopback TCP. Requires root. A process without programs has to load them: `nspod run` with and without
//! `--packet-rate` shows that cost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nspod_sandbox::cgroup_core::net::Limits;
use nspod_sandbox::cgroup_core::{Cgroup, Hierarchy};

/// The bytes of a measured transfer.
const BYTES: usize = 64 << 20;

fn limits() -> [(&'static str, Limits); 4] {
    let deny = || vec!["10.0.0.0/8:80/tcp".parse().expect("a rule")];
    [
        ("none", Limits::default()),
        ("packets", Limits { packets_max: Some(u32::MAX), ..Limits::default() }),
        ("sockets", Limits { sockets_max: Some(1000), ..Limits::default() }),
        ("rules", Limits { deny: deny(), ..Limits::default() }),
    ]
}

fn root() -> Cgroup {
    Hierarchy::detect().and_then(|host| host.root()).expect("cgroup v2")
}

fn create(name: &str) -> Cgroup {
    root().create_child(format!("nspod-bench-{name}-{}", std::process::id())).expect("root")
}

fn starts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("net-limits");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(40);
    for (name, limits) in limits() {
        group.bench_function(format!("first/{name}"), |b| {
            b.iter_custom(|count| {
                (0..count)
                    .map(|_| {
                        let cgroup = create("first");
                        let began = Instant::now();
                        cgroup.limit_net(&limits).expect("limits");
                        let taken = began.elapsed();
                        cgroup.remove().expect("remove");
                        taken
                    })
                    .sum()
            });
        });
    }
    let cgroup = create("update");
    let [.., (_, rules)] = limits();
    group.bench_function("update/rules", |b| b.iter(|| cgroup.limit_net(&rules).expect("limits")));
    cgroup.remove().expect("remove");
    group.finish();
}

/// Both ends of the connection are in the cgroup, so each packet is checked twice.
fn loopback(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("net-loopback");
    group
        .measurement_time(Duration::from_secs(4))
        .sample_size(40)
        .throughput(Throughput::Bytes(BYTES as u64));
    for (name, limits) in limits() {
        let cgroup = create(name);
        cgroup.limit_net(&limits).expect("limits");
        cgroup.attach(std::process::id() as i32).expect("attach");
        group.bench_function(name, |b| b.iter(|| transfer().expect("transfer")));
        root().attach(std::process::id() as i32).expect("attach");
        cgroup.remove().expect("remove");
    }
    group.finish();
}

fn transfer() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut to = TcpStream::connect(listener.local_addr()?)?;
    let (mut from, _) = listener.accept()?;
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        while from.read(&mut buffer)? > 0 {}
        Ok(())
    });
    let buffer = vec![0; 256 << 10];
    for _ in 0..BYTES / buffer.len() {
        to.write_all(&buffer)?;
    }
    drop(to);
    reader.join().expect("the reader")
}

criterion_group!(net, starts, loopback);
criterion_main!(net);
