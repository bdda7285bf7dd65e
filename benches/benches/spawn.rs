//! How long a start takes, from the call to the program's end and the removal of what was made.
//!
//! All groups start the same static program, so what differs is the isolation.

use std::sync::LazyLock;

use nspod_benches::Program;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use nspod_benches::floor::Floor;
use nspod_sandbox::cgroup_core::Hierarchy;
use nspod_sandbox::ns_core::{IdMap, Kind, Kinds};
use nspod_sandbox::spec::{IdMaps, Namespace, Root};
use nspod_sandbox::{Command, Pod, PodSpec, Stdio};

static NOTHING: LazyLock<Program> = LazyLock::new(|| Program::copy(env!("CARGO_BIN_EXE_nothing")));

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(40);
    group
}

fn run(command: &mut Command) {
    let outcome = command.status().expect("start");
    assert!(outcome.status.success(), "{outcome:?}");
}

/// No isolation: what the kernel and the library cost by themselves.
fn plain(criterion: &mut Criterion) {
    let mut group = group(criterion, "plain");
    group.bench_function("std", |b| {
        b.iter(|| assert!(std::process::Command::new(&*NOTHING).status().expect("start").success()));
    });
    group.bench_function("bare", |b| b.iter(|| run(&mut Command::bare(&*NOTHING))));
    group.finish();
}

/// New namespaces and nothing else.
fn kinds(criterion: &mut Criterion) {
    let mut group = group(criterion, "kinds");
    for kind in Kind::ALL {
        group.bench_function(kind.name(), |b| b.iter(|| run(Command::bare(&*NOTHING).isolate(kind.into()))));
    }
    group.bench_function("five", |b| b.iter(|| run(Command::bare(&*NOTHING).isolate(Kinds::FIVE))));
    group.bench_function("eight", |b| b.iter(|| run(Command::bare(&*NOTHING).isolate(Kinds::all()))));
    group.finish();
}

/// Containers, beside the fewest system calls that make one.
fn containers(criterion: &mut Criterion) {
    let root = Rootfs::new();
    let cgroup = Hierarchy::detect().expect("cgroups").mount_point().expect("cgroup2").join("nspod-floor");
    let floor = Floor::new(&root.0, Path::new("/nothing"), &cgroup).expect("floor");
    let mut group = group(criterion, "container");
    group.bench_function("floor", |b| b.iter(|| floor.run().expect("floor")));
    group.bench_function("like-floor", |b| b.iter(|| run(&mut like_floor(&root.0))));
    group.bench_function("new", |b| b.iter(|| run(&mut Command::new(&*NOTHING))));
    group.bench_function("init", |b| {
        b.iter(|| {
            let mut command = Command::new(&*NOTHING);
            command.spec_mut().init = true;
            run(&mut command);
        });
    });
    group.bench_function("user-single", |b| b.iter(|| run(&mut in_user_namespace(IdMaps::Single))));
    group.bench_function("user-range", |b| {
        let map = || {
            IdMap::from(vec![nspod_sandbox::ns_core::Extent {
                inside: 0,
                outside: 0x6fff_0000,
                count: 65_536,
            }])
        };
        b.iter(|| run(&mut in_user_namespace(IdMaps::Maps { uid: map(), gid: map() })));
    });
    group.bench_function("plan-alone", |b| {
        b.iter(|| black_box(Command::new(&*NOTHING).plan().expect("plan")))
    });
    group.finish();
}

/// The floor's work by the library: its mounts over the same root, with no filter, no
/// capability and nothing masked.
fn like_floor(root: &Path) -> Command {
    use nspod_sandbox::spec::{Mount, MountKind};
    let mut command = Command::bare("/nothing");
    command.isolate(Kinds::FIVE).hostname("c").root(Root::Dir { path: root.to_owned(), readonly: false });
    command.cgroup_parent(Hierarchy::detect().expect("cgroups").mount_point().expect("cgroup2"));
    for (path, kind) in [("/proc", MountKind::Proc), ("/dev", MountKind::Dev), ("/sys", MountKind::Sysfs)] {
        command.mount(Mount::new(path, kind));
    }
    command
}

fn in_user_namespace(maps: IdMaps) -> Command {
    let mut command = Command::new(&*NOTHING);
    command.namespace(Kind::User, Namespace::New);
    command.spec_mut().id_maps = maps;
    command
}

/// A further process in what is there already.
fn joining(criterion: &mut Criterion) {
    let mut group = group(criterion, "join");
    let mut sleeper = Command::new(&*NOTHING);
    let container = sleeper.arg("sleep").stdin(Stdio::Null).spawn().expect("start");
    group.bench_function("exec", |b| b.iter(|| run(&mut container.exec(&*NOTHING).expect("exec"))));
    container.delete().expect("delete");

    let pod = Pod::create("bench", &PodSpec::default()).expect("pod");
    group.bench_function("pod-member", |b| b.iter(|| run(&mut pod.command(&*NOTHING).expect("member"))));
    pod.delete().expect("delete");
    group.bench_function("pod-create-delete", |b| {
        b.iter(|| Pod::create("bench", &PodSpec::default()).expect("pod").delete().expect("delete"));
    });
    group.finish();
}

/// A root file system with nothing but the program.
struct Rootfs(PathBuf);

impl Rootfs {
    fn new() -> Rootfs {
        let root = Rootfs(std::env::temp_dir().join(format!("nspod-bench-{}", std::process::id())));
        for dir in ["proc", "dev", "sys"] {
            std::fs::create_dir_all(root.0.join(dir)).expect("a directory for the root");
        }
        std::fs::copy(&*NOTHING, root.0.join("nothing")).expect("copy the program");
        root
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn all(criterion: &mut Criterion) {
    if nspod_benches::is_root() {
        plain(criterion);
        kinds(criterion);
        containers(criterion);
        joining(criterion);
        NOTHING.remove();
    }
}

criterion_group!(spawn, all);
criterion_main!(spawn);
