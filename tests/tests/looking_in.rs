//! The host sees a contained process under a pid of the host. The contained process sees no process of the host.

use ns_core::{Kind, Pidfd, pid_chain};
use nspod_sandbox::Pod;
use nspod_sandbox::spec::NamespaceMode;
use nspod_tests::{Cell, command, join, lane, pod, unique};

fn processes(cell: &mut Cell) -> Vec<i32> {
    let names = cell.order("list /proc").unwrap();
    let mut pids: Vec<i32> = names.split(' ').filter_map(|name| name.parse().ok()).collect();
    pids.sort();
    pids
}

#[test]
fn the_host_sees_a_contained_process_under_another_pid() {
    if !lane::root() {
        return;
    }
    let mut cell = Cell::start(command().init(false)).unwrap();
    let pid = cell.container.pid();
    assert_eq!(cell.order("pid").as_deref(), Ok("1"));
    assert_ne!(pid, 1);
    assert_eq!(pid_chain(pid).unwrap(), [pid, 1]);
    // The host finds the process through its pid on the host.
    assert_eq!(Pidfd::open(pid).unwrap().pid().unwrap(), pid);
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "probe\n");
    let child: i32 = cell.order("spin").unwrap().parse().unwrap();
    assert_eq!(child, 2);
    let seen = cell.container.cgroup().unwrap().procs().unwrap();
    let chains: Vec<_> = seen.iter().map(|pid| pid_chain(*pid).unwrap()[1]).collect();
    assert_eq!((seen.len(), chains.contains(&2)), (2, true), "{seen:?} are {chains:?}");
}

#[test]
fn a_contained_process_sees_its_own_processes_and_none_of_the_hosts() {
    if !lane::root() {
        return;
    }
    let mut cell = Cell::start(&mut command()).unwrap();
    // The init, and the process.
    assert_eq!(processes(&mut cell), [1, 2]);
    cell.order("fork 2").unwrap();
    assert_eq!(processes(&mut cell), [1, 2, 3, 4]);
    // Neither this test nor the process itself can be found by a pid of the host.
    for pid in [std::process::id() as i32, cell.container.pid(), nix::unistd::getppid().as_raw()] {
        if pid > 3 {
            assert_eq!(cell.order(&format!("kill {pid} 0")), Err(libc::ESRCH));
            assert_eq!(cell.order(&format!("read /proc/{pid}/comm")), Err(libc::ENOENT));
        }
    }
    // The control: in the host's pid namespace the same requests succeed.
    let mut open = command();
    open.namespace(Kind::Pid, NamespaceMode::Host);
    let mut open = Cell::start(&mut open).unwrap();
    let own = std::process::id();
    assert!(processes(&mut open).contains(&(own as i32)));
    assert!(open.order(&format!("kill {own} 0")).is_ok());
}

#[test]
fn containers_with_a_shared_pid_namespace_see_each_other_and_none_of_the_hosts_processes() {
    if !lane::root() {
        return;
    }
    let pod = Pod::create(&unique("looking"), &pod([Kind::Pid])).unwrap();
    let mut cells = [0; 2].map(|_| Cell::start(&mut join(&pod).unwrap()).unwrap());
    for cell in &mut cells {
        // The init that holds the namespace, and both containers.
        assert_eq!(processes(cell).len(), 3);
        assert_eq!(processes(cell)[0], 1);
    }
}

/// A user namespace that does not own the pid namespace cannot mount its procfs, so the parent mounts it.
#[test]
fn a_container_with_its_own_user_namespace_sees_the_pods_processes_and_none_of_the_hosts() {
    if !lane::root() {
        return;
    }
    let pod = Pod::create(&unique("looking-user"), &pod([Kind::Pid])).unwrap();
    let mut command = join(&pod).unwrap();
    command.namespace(Kind::User, NamespaceMode::New);
    let mut cell = Cell::start(&mut command).unwrap();
    // The init that holds the namespace, and the container's own init.
    let seen = processes(&mut cell);
    assert!(matches!(seen[..], [1, own] if own.to_string() == cell.order("pid").unwrap()), "{seen:?}");
}
