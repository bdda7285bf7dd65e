//! Dropping and deleting containers in any order and at any time neither hangs nor affects other containers.
//!
//! Each test runs under a watchdog, so that a hang fails the test.

use nspod_sandbox::{Command, Pod, Stdio};
use nspod_testkit::in_time;
use nspod_tests::{Cell, PATIENCE, command, join, lane, pod, unique};

fn sleeper(command: &mut Command) -> &mut Command {
    command.arg("1000").stdin(Stdio::Null).stdout(Stdio::Null)
}

#[test]
fn a_container_can_be_deleted_while_the_handle_of_a_further_process_is_held() {
    if !lane::root() {
        return;
    }
    in_time(|| {
        let cell = Cell::start(&mut command()).unwrap();
        let mut further = sleeper(&mut cell.container.exec("sleep").unwrap()).spawn().unwrap();
        cell.container.delete().unwrap();
        assert_eq!(further.wait().unwrap().status.shell_code(), 128 + libc::SIGKILL);
        further.delete().unwrap();
    });
}

#[test]
fn dropping_a_further_process_ends_it_and_not_its_container() {
    if !lane::root() {
        return;
    }
    in_time(|| {
        let mut cell = Cell::start(&mut command()).unwrap();
        let further = sleeper(&mut cell.container.exec("sleep").unwrap()).spawn().unwrap();
        let pidfd = ns_core::Pidfd::open(further.pid()).unwrap();
        drop(further);
        assert!(pidfd.poll(Some(PATIENCE)).unwrap());
        assert_eq!(cell.order("ping").as_deref(), Ok("pong"));
        assert!(cell.container.cgroup().unwrap().path().exists());
    });
}

#[test]
fn a_container_can_be_deleted_while_another_traces_it() {
    if !lane::root() {
        return;
    }
    in_time(|| {
        let pod = Pod::create(&unique("traced"), &pod([ns_core::Kind::Pid])).unwrap();
        let [mut victim, mut tracer] = [0; 2].map(|_| Cell::start(&mut join(&pod).unwrap()).unwrap());
        victim.order("secret").unwrap();
        let pid = victim.order("pid").unwrap();
        tracer.order(&format!("ptrace {pid}")).unwrap();
        victim.container.delete().unwrap();
        assert_eq!(tracer.order("ping").as_deref(), Ok("pong"));
    });
}
