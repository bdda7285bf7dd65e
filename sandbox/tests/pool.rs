//! The entries that a pool hands out, on the real kernel. The tests run as root.
#![allow(unsafe_code)]

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ns_core::{Kind, Kinds, NamespaceId, NamespaceSet};
use nspod_sandbox::cgroup_core::{Cgroup, Hierarchy};
use nspod_sandbox::spec::{NamespaceMode, Root};
use nspod_sandbox::{Command, Container, ErrorKind, Handles, Launcher, Plan, Pool, PoolOptions, Stdio};
use proptest::prelude::{ProptestConfig, any, proptest};

use common::output;
use nspod_testkit::in_time;

fn pool(size: usize) -> Pool {
    Pool::new(PoolOptions { size, ..PoolOptions::default() }).unwrap()
}

/// Starts a container that lives until it is deleted.
fn sleeper(pool: &Pool) -> Container {
    sleeping(Command::new("sleep").pool(pool))
}

fn sleeping(command: &mut Command) -> Container {
    command.arg("1000").stdin(Stdio::Null).stdout(Stdio::Null);
    command.spawn().unwrap()
}

fn ids(container: &Container) -> [NamespaceId; 2] {
    let set = container.namespaces().unwrap();
    [Kind::Net, Kind::Ipc].map(|kind| set.get(kind))
}

/// A parent cgroup for the pools of a test.
struct Parent(PathBuf);

impl Parent {
    fn new(name: &str) -> Parent {
        let top = Hierarchy::detect().unwrap().mount_point().unwrap().to_owned();
        let path = top.join(format!("nspod-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Parent(path)
    }

    fn children(&self) -> HashSet<String> {
        let children = Cgroup::open(&self.0).unwrap().children().unwrap();
        children.iter().map(|c| c.name().to_string_lossy().into_owned()).collect()
    }

    fn options(&self, size: usize) -> PoolOptions {
        PoolOptions { size, cgroup_parent: Some(self.0.clone()), ..PoolOptions::default() }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = Cgroup::open(&self.0).and_then(|cgroup| cgroup.destroy());
    }
}

#[test]
fn each_entry_of_a_pool_is_handed_out_once() {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(3);
    let mut seen: HashSet<NamespaceId> =
        [Kind::Net, Kind::Ipc].map(|kind| NamespaceSet::current().unwrap().get(kind)).into();
    let mut cgroups = HashSet::new();
    let mut alive = Vec::new();
    for round in 1..=10 {
        pool.fill().unwrap();
        let container = sleeper(&pool);
        // No two living containers share an entry.
        assert!(ids(&container).into_iter().all(|id| seen.insert(id)), "round {round}");
        assert!(cgroups.insert(container.cgroup().unwrap().path().to_owned()));
        alive.push(container);
        assert_eq!((pool.namespaces().taken, pool.namespaces().missed), (round, 0));
        assert_eq!((pool.cgroups().taken, pool.cgroups().missed), (round, 0));
    }
    assert!(cgroups.iter().all(|path| path.file_name().unwrap().to_string_lossy().starts_with("pool-")));
    alive.into_iter().for_each(|container| container.delete().unwrap());
    assert!(cgroups.iter().all(|path| !path.exists()), "a cgroup outlives its container");
}

#[test]
fn a_launcher_takes_from_its_pool_at_each_start() {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(4);
    let mut command = Command::new("sleep");
    command.arg("1000");
    let plan = Plan::new(command.spec(), Handles::default()).unwrap();
    let launcher = Launcher::new(plan).with_pool(&pool);
    let containers: Vec<_> = (0..2).map(|_| launcher.spawn().unwrap()).collect();
    assert_eq!((pool.namespaces().taken, pool.namespaces().missed), (2, 0));
    assert_eq!((pool.cgroups().taken, pool.cgroups().missed), (2, 0));
    let [one, two] = [ids(&containers[0]), ids(&containers[1])];
    assert!(
        one[0] != two[0] && one[1] != two[1],
        "both have the same namespaces of the pool: {one:?} {two:?}"
    );
    for container in containers {
        let cgroup = container.cgroup().unwrap().path().to_owned();
        assert!(cgroup.file_name().unwrap().to_string_lossy().starts_with("pool-"), "{}", cgroup.display());
        container.delete().unwrap();
        assert!(!cgroup.exists());
    }
    // Without a pool, the start creates the container's namespaces.
    let plan = Plan::new(command.spec(), Handles::default()).unwrap();
    Launcher::new(plan).spawn().unwrap().delete().unwrap();
    assert_eq!(pool.namespaces().taken, 2);
}

/// Prints the state that a container can see of pool entries. Mounts are sorted, because mountinfo lists them by
/// age. The kernel has one table of netlink sockets and shows some of them twice while the table grows.
const LOOK: &str = "
    cat /sys/class/net/lo/flags /proc/net/dev_mcast /proc/net/route /proc/net/if_inet6 /proc/net/fib_trie
    cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmax
    grep -c . /proc/net/unix /proc/net/tcp /proc/sysvipc/shm; sort -u /proc/net/netlink | grep -c .
    ls /sys/class/net; ls -ARn --time-style=+ /dev; cat /dev/null; hostname; umask
    sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //; s/ master:[0-9]*//' /proc/self/mountinfo | grep ' /dev' | sort
    cat /proc/self/cgroup | sed 's/pool-//; s/[0-9a-f]\\{12\\}/NAME/'
    ip -br addr 2>/dev/null; ip rule 2>/dev/null; nft list ruleset 2>/dev/null; true";

fn looking() -> Command {
    let mut command = Command::new("sh");
    command.spec_mut().process.capabilities = None;
    command
}

#[test]
fn a_container_from_a_pool_equals_any_other() {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(1);
    let (without, with) = (output(&mut looking(), LOOK), output(looking().pool(&pool), LOOK));
    assert_eq!(with, without);
    assert!(with.starts_with("0x9\n"), "lo is not up: {with}");
    assert_eq!((pool.namespaces().taken, pool.cgroups().taken), (1, 1));
}

#[test]
fn no_state_of_a_container_reaches_the_next_one() {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(2);
    let untouched = output(looking().pool(&pool), LOOK);
    for _ in 0..3 {
        pool.fill().unwrap();
        let mut tenant = looking();
        tenant.spec_mut().sysctls.insert("net.ipv4.ip_default_ttl".into(), "33".into());
        tenant.spec_mut().sysctls.insert("kernel.shmmax".into(), "4096".into());
        tenant.spec_mut().limits.unified.insert("cgroup.max.depth".into(), "7".into());
        let left = "
            ip addr add 10.99.0.1/32 dev lo; ip route add 10.98.0.0/16 dev lo; ip rule add prio 7 table 7
            ip link add left type dummy 2>/dev/null; nft add table ip left 2>/dev/null
            echo left > /dev/shm/left; mkdir /dev/left; rm /dev/full; touch /dev/mqueue/left
            hostname left; ip addr; ls /dev /dev/shm /dev/mqueue; ip rule; cat /proc/sys/net/ipv4/ip_default_ttl";
        // The control: the changes were visible before.
        let seen = output(tenant.pool(&pool), left);
        for (what, times) in [("10.99.0.1", 1), ("left", 3), ("lookup 7", 1), ("33", 1)] {
            assert!(seen.matches(what).count() >= times, "{what}: {seen}");
        }
        for _ in 0..3 {
            pool.fill().unwrap();
            assert_eq!(output(looking().pool(&pool), LOOK), untouched);
        }
    }
    assert_eq!((pool.namespaces().taken, pool.namespaces().missed), (13, 0));
}

#[test]
fn limits_belong_to_the_container_and_end_with_it() {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(1);
    let depth = |container: &Container| container.cgroup().unwrap().read("cgroup.max.depth").unwrap();
    for (limit, expected) in [(Some("7"), "7\n"), (None, "max\n"), (Some("3"), "3\n"), (None, "max\n")] {
        pool.fill().unwrap();
        let mut command = Command::new("sleep");
        if let Some(limit) = limit {
            command.spec_mut().limits.unified.insert("cgroup.max.depth".into(), limit.into());
        }
        let container = sleeping(command.pool(&pool));
        assert_eq!(depth(&container), expected);
        container.delete().unwrap();
    }
    assert_eq!(pool.cgroups().taken, 4);
    // A limit that cannot be set is an error as without a pool, and the cgroup is removed.
    let parent = Parent::new("limits");
    let pool = Pool::new(parent.options(1)).unwrap();
    let mut command = Command::new("true");
    command.spec_mut().limits.unified.insert("cgroup.max.depth".into(), "many".into());
    let error = common::error(command.cgroup_parent(&parent.0).pool(&pool));
    assert_eq!(error.step(), "cgroup", "{error}");
    assert_eq!(pool.cgroups().taken, 1);
    drop(pool);
    assert_eq!(parent.children(), HashSet::new());
}

#[test]
fn a_pool_is_bounded_and_refilled() {
    if !nspod_testkit::root() {
        return;
    }
    let parent = Parent::new("bounded");
    let pool = Pool::new(parent.options(4)).unwrap();
    assert_eq!((pool.namespaces().ready, pool.namespaces().made), (4, 4));
    assert_eq!(parent.children().len(), 4);
    for taken in 1..=9 {
        Command::new("true").cgroup_parent(&parent.0).pool(&pool).status().unwrap();
        assert!(pool.namespaces().ready <= 4 && parent.children().len() <= 4);
        pool.fill().unwrap();
        for counts in [pool.namespaces(), pool.cgroups()] {
            assert_eq!((counts.ready, counts.made, counts.taken), (4, 4 + taken, taken));
        }
    }
}

#[test]
fn a_container_creates_its_own_namespaces_if_the_pool_is_empty() {
    if !nspod_testkit::root() {
        return;
    }
    let parent = Parent::new("own");
    let pool = Pool::new(parent.options(1)).unwrap();
    let mut command = looking();
    command.cgroup_parent(&parent.0).pool(&pool);
    let with = output(&mut command, LOOK);
    // The command outlives the pool.
    drop(pool);
    assert_eq!(output(&mut command, LOOK), with);
    assert_eq!(parent.children(), HashSet::new());
    // Starts that are faster than the refill of the pool.
    in_time(|| {
        let pool = self::pool(1);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while pool.namespaces().missed == 0 {
                        Command::new("true").pool(&pool).status().unwrap();
                    }
                });
            }
        });
    });
}

#[test]
fn a_container_that_cannot_use_an_entry_creates_its_own_namespaces() {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(1);
    let net = |command: &mut Command| {
        output(command.pool(&pool), "readlink /proc/self/ns/net; cat /sys/class/net/lo/flags")
    };
    let own = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let mut user = Command::new("sh");
    // The new user namespace owns its net namespace, which it could not with one of the pool.
    user.namespace(Kind::User, NamespaceMode::New)
        .spec_mut()
        .sysctls
        .insert("net.ipv4.ip_forward".into(), "1".into());
    assert!(net(&mut user).ends_with("0x9"));
    let mut clocks = Command::new("sh");
    clocks.namespace(Kind::Time, NamespaceMode::New).spec_mut().time_offsets =
        Some("boottime 9 0\n".parse().unwrap());
    assert!(net(&mut clocks).ends_with("0x9"));
    let mut hosts = Command::new("sh");
    assert!(net(hosts.namespace(Kind::Net, NamespaceMode::Host)).starts_with(&own));
    let mut down = Command::new("sh");
    down.spec_mut().loopback = false;
    assert!(net(&mut down).ends_with("0x8"));
    // Since Linux 6.2, the offsets do not need a second clone.
    let of_clocks = u64::from(nspod_testkit::kernel_is_at_least(6, 2));
    assert_eq!((pool.namespaces().taken, pool.namespaces().missed), (of_clocks, 0));
    // Unnamed containers can still use cgroups of the pool.
    let taken = pool.cgroups().taken;
    assert!(taken > 0);
    pool.fill().unwrap();
    net(Command::new("sh").name(format!("named-{}", std::process::id())));
    assert_eq!((pool.cgroups().taken, pool.namespaces().taken), (taken, of_clocks + 1));
    pool.fill().unwrap();
    // One kind of entry can be used without the others.
    let mut shares = Command::new("sh");
    shares.namespace(Kind::Ipc, NamespaceMode::Host);
    assert_ne!(net(&mut shares).lines().next(), Some(own.as_str()));
    pool.fill().unwrap();
    let mut no_dev = Command::bare("/bin/sh");
    no_dev.isolate(Kinds::FIVE).root(Root::Host).spec_mut().loopback = true;
    output(no_dev.pool(&pool), "true");
    assert_eq!(pool.namespaces().taken, of_clocks + 3);
}

#[test]
fn threads_take_concurrently_and_share_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(8);
    let alive = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let container = sleeper(&pool);
                    alive.lock().unwrap().push(container);
                }
            });
        }
    });
    let alive = alive.into_inner().unwrap();
    let all: HashSet<_> = alive.iter().flat_map(ids).collect();
    assert_eq!(all.len(), 80);
    let counts = pool.namespaces();
    assert_eq!(counts.taken + counts.missed, 40);
    assert!(counts.taken >= 8, "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// Starts, ends and waits for containers in random order.
    #[test]
    fn no_two_live_containers_share_a_namespace(
        size in 1usize..5,
        actions in proptest::collection::vec(any::<u8>(), 1..20),
    ) {
        live_and_share_nothing(size, &actions);
    }
}

fn live_and_share_nothing(size: usize, actions: &[u8]) {
    if !nspod_testkit::root() {
        return;
    }
    let pool = pool(size);
    let mut alive: Vec<Container> = Vec::new();
    for action in actions {
        match action % 4 {
            0 if !alive.is_empty() => {
                alive.swap_remove(usize::from(*action) / 4 % alive.len()).delete().unwrap();
            }
            1 => pool.fill().unwrap(),
            _ => alive.push(sleeper(&pool)),
        }
        let all: HashSet<_> = alive.iter().flat_map(ids).collect();
        assert_eq!(all.len(), 2 * alive.len());
        assert!(pool.namespaces().ready <= size);
    }
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn dropping_a_pool_leaves_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    if nspod_testkit::in_own_process("dropping_a_pool_leaves_nothing") {
        return;
    }
    let parent = Parent::new("dropped");
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    let signals = || {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let masks =
            text.lines().filter(|line| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|m| line.starts_with(m)));
        masks.map(str::to_owned).collect::<Vec<_>>()
    };
    let mask = signals();
    let pool = Pool::new(parent.options(5)).unwrap();
    assert_eq!(count("/proc/self/task"), before.1 + 1);
    assert!(count("/proc/self/fd") <= before.0 + 5 * 7 + 2, "more than is documented");
    let mut command = Command::new("sleep");
    let container = sleeping(command.init(false).cgroup_parent(&parent.0).pool(&pool).die_with_parent(false));
    drop(pool);
    // /proc may list a thread for a moment after it was joined.
    for _ in 0..10_000 {
        if count("/proc/self/task") == before.1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(count("/proc/self/task"), before.1);
    assert_eq!(parent.children().len(), 1, "only the container's");
    container.delete().unwrap();
    assert_eq!(parent.children(), HashSet::new());
    assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), before);
    assert_eq!(signals(), mask);
}

#[test]
fn the_callers_umask_applies_as_without_a_pool() {
    use std::os::unix::fs::PermissionsExt;
    if !nspod_testkit::root() {
        return;
    }
    if nspod_testkit::in_own_process("the_callers_umask_applies_as_without_a_pool") {
        return;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    let parent = Parent::new("umask");
    let pool = Pool::new(parent.options(3)).unwrap();
    for name in parent.children() {
        let mode = std::fs::metadata(parent.0.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
    }
    let mut command = looking();
    let without = output(command.cgroup_parent(&parent.0), LOOK);
    assert_eq!(output(command.pool(&pool), LOOK), without);
    assert_eq!(pool.namespaces().taken, 1);
}

#[test]
fn a_forked_process_does_not_change_its_parents_pool() {
    if !nspod_testkit::root() {
        return;
    }
    if nspod_testkit::in_own_process("a_forked_process_does_not_change_its_parents_pool") {
        return;
    }
    let parent = Parent::new("forked");
    let pool = Pool::new(parent.options(3)).unwrap();
    let mut command = Command::new("true");
    command.cgroup_parent(&parent.0).pool(&pool).stdin(Stdio::Null);
    // SAFETY: no other thread of this process runs: the pool's thread waits, and holds no lock.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let started = command.status().is_ok_and(|outcome| outcome.status.success());
        let refused = pool.fill().is_err_and(|e| e.kind() == ErrorKind::State);
        drop(pool);
        // SAFETY: ends the child.
        unsafe { libc::_exit(if started && refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child created above.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(status, 0);
    assert_eq!(parent.children().len(), 3);
    assert_eq!((pool.namespaces().taken, pool.namespaces().ready), (0, 3));
    command.status().unwrap();
    assert_eq!(pool.namespaces().taken, 1);
}

#[test]
fn leftovers_of_an_ended_program_are_removed() {
    if !nspod_testkit::root() {
        return;
    }
    let parent = Parent::new("abandoned");
    let at = |name: &str| parent.0.join(name);
    for name in ["pool-0123456789ab", "pool-alive", "other"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    // A cgroup that contains a process belongs to a living container.
    let alive = sleeping(Command::new("sleep").cgroup_inside(at("pool-alive")));
    let first = Pool::new(parent.options(2)).unwrap();
    let left = parent.children();
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(!left.contains("pool-0123456789ab") && left.contains("pool-alive") && left.contains("other"));
    // The cgroups of another pool are kept, and so is the cgroup of an ended container that took it from a pool.
    let mut ended = Command::new("true").cgroup_parent(&parent.0).pool(&first).spawn().unwrap();
    ended.wait().unwrap();
    first.fill().unwrap();
    let second = Pool::new(parent.options(2)).unwrap();
    assert_eq!(parent.children().len(), 7);
    assert!(ended.cgroup().unwrap().path().exists());
    Command::new("true").cgroup_parent(&parent.0).pool(&first).status().unwrap();
    drop((first, second, ended));
    alive.delete().unwrap();
    assert_eq!(parent.children(), HashSet::from(["pool-alive".into(), "other".into()]));
}

#[test]
fn an_impossible_pool_is_refused_with_the_reason() {
    if !nspod_testkit::root() {
        return;
    }
    let refused = |options: PoolOptions| Pool::new(options).unwrap_err();
    for size in [0, 1025] {
        let error = refused(PoolOptions { size, ..PoolOptions::default() });
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert_eq!(error.to_string(), format!("size: {size} is not between 1 and 1024"));
    }
    let cgroup_parent = Some(Path::new("/proc").to_owned());
    let error = refused(PoolOptions { cgroup_parent, ..PoolOptions::default() });
    assert_eq!(error.step(), "cgroup", "{error}");
    assert!(error.to_string().contains("/proc"), "{error}");
    // A pool that fails after its creation returns an error and still serves its remaining entries.
    let parent = Parent::new("fails");
    let pool = Pool::new(parent.options(2)).unwrap();
    let mut command = Command::new("true");
    command.cgroup_parent(&parent.0).pool(&pool);
    std::fs::write(parent.0.join("cgroup.max.descendants"), "2").unwrap();
    let alive = sleeping(Command::new("sleep").cgroup_parent(&parent.0).pool(&pool));
    let error = pool.fill().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
    command.status().unwrap();
    std::fs::write(parent.0.join("cgroup.max.descendants"), "max").unwrap();
    // One more call may return the earlier failure.
    pool.fill().or_else(|_| pool.fill()).unwrap();
    drop(alive);
}
