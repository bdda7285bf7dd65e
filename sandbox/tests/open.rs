//! Containers that a second handle or another process opens by their entry in a store.

use std::time::Duration;

use cgroup_core::Limits;
use ns_core::ExitStatus;
use nspod_sandbox::store::{EXIT, Lock, RECORD, Store};
use nspod_sandbox::{Command, Container, ContainerRecord, Error, ErrorKind, Stdio};

/// A store with one running container, which is killed at the end of the test.
struct Stage {
    container: Container,
    store: Store<ContainerRecord>,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new(program: &str, args: &[&str], init: bool) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::<ContainerRecord>::open(&dir.path().join("store")).unwrap();
        let (entry, _lock) = create(&store);
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::Null);
        command.init(init);
        command.exit_file(entry.dir().create(EXIT).unwrap());
        let container = command.spawn().unwrap();
        entry.write(&container.record().unwrap()).unwrap();
        Stage { container, store, dir }
    }

    fn open(&self) -> Result<Container, Error> {
        Container::open(&self.store, "web")
    }
}

fn create(store: &Store<ContainerRecord>) -> (nspod_sandbox::store::Entry<ContainerRecord>, Lock) {
    store.create("web", |_, _| Ok::<_, Error>(false)).unwrap().expect("the name is free")
}

#[test]
fn an_opened_container_is_signalled_and_its_exit_status_is_found() {
    if !nspod_testkit::root() {
        return;
    }
    let mut stage = Stage::new("sh", &["-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"], true);
    let mut opened = stage.open().unwrap();
    assert_eq!(opened.pid(), stage.container.pid());
    assert_eq!(opened.spec(), stage.container.spec());
    assert_eq!(opened.wait_timeout(Duration::from_millis(300)).unwrap(), None);
    opened.signal(libc::SIGTERM).unwrap();
    // The init writes the exit file before it ends. This process reaps it later.
    assert_eq!(opened.wait().unwrap().status, ExitStatus::Exited(7));
    assert_eq!(stage.container.wait().unwrap().status, ExitStatus::Exited(7));
}

#[test]
fn dropping_an_opened_container_leaves_it_running_and_delete_ends_it() {
    if !nspod_testkit::root() {
        return;
    }
    let mut stage = Stage::new("sleep", &["1000"], false);
    let cgroup = stage.container.cgroup().map(|cgroup| cgroup.path().to_owned());
    drop(stage.open().unwrap());
    stage.open().unwrap().detach();
    assert_eq!(stage.container.wait_timeout(Duration::from_millis(100)).unwrap(), None);
    assert!(cgroup.as_ref().is_some_and(|path| path.exists()));
    stage.open().unwrap().delete().unwrap();
    let killed = ExitStatus::Signaled { signal: libc::SIGKILL, core_dumped: false };
    assert_eq!(stage.container.wait().unwrap().status, killed);
    assert!(!cgroup.unwrap().exists());
}

#[test]
fn a_further_process_of_an_opened_container_joins_its_namespaces() {
    if !nspod_testkit::root() {
        return;
    }
    let stage = Stage::new("sleep", &["1000"], false);
    let opened = stage.open().unwrap();
    let mut guest = opened.exec("sleep").unwrap();
    let guest = guest.args(["1000"]).stdin(Stdio::Null).spawn().unwrap();
    assert_eq!(guest.namespaces().unwrap(), stage.container.namespaces().unwrap());
    let cgroup = stage.container.cgroup().unwrap();
    assert!(cgroup.procs().unwrap().contains(&guest.pid()));
    assert!(opened.usage().is_ok());
    opened.freeze().unwrap();
    assert!(cgroup.events().unwrap().frozen);
    opened.thaw().unwrap();
    opened.update(&Limits::default()).unwrap();
}

#[test]
fn a_container_that_has_ended_or_never_started_is_not_opened() {
    if !nspod_testkit::root() {
        return;
    }
    let mut stage = Stage::new("true", &[], false);
    stage.container.wait().unwrap();
    let error = stage.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProcessEnded);
    assert!(error.to_string().contains("is not running"), "{error}");
    let missing = Container::open(&stage.store, "other").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("there is no container other"), "{missing}");
    std::fs::remove_file(stage.dir.path().join("store/web").join(RECORD)).unwrap();
    let error = stage.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains("has not been started"), "{error}");
}

#[test]
fn a_process_with_the_pid_of_the_first_one_is_not_taken_for_it() {
    if !nspod_testkit::root() {
        return;
    }
    let stage = Stage::new("sleep", &["1000"], false);
    let mut record = stage.container.record().unwrap();
    stage.open().unwrap();
    record.process.start += 1;
    stage.store.find("web").unwrap().unwrap().write(&record).unwrap();
    let error = stage.open().unwrap_err();
    assert!(error.to_string().contains("is not running"), "{error}");
}
