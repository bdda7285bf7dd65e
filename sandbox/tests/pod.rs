//! Pods: shared and separate namespaces, and complete removal.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use ns_core::{Kind, Kinds, NamespaceSet};
use nspod_sandbox::{ErrorKind, HoldBy, Pod, PodSpec, Stdio};

use common::Private;

fn name(what: &str) -> String {
    format!("test-{what}-{}", std::process::id())
}

fn sleeper(pod: &Pod) -> nspod_sandbox::Container {
    pod.command("sleep").unwrap().arg("1000").stdin(Stdio::Null).spawn().unwrap()
}

#[test]
fn containers_of_a_pod_share_net_ipc_and_uts_and_nothing_else() {
    if !nspod_testkit::root() {
        return;
    }
    let spec = PodSpec { hostname: Some("pod".into()), ..PodSpec::default() };
    let pod = Pod::create(&name("default"), &spec).unwrap();
    let (a, b) = (sleeper(&pod), sleeper(&pod));
    let shared: Kinds = [Kind::Net, Kind::Ipc, Kind::Uts].into_iter().collect();
    let not_isolated: Kinds = [Kind::User, Kind::Time].into_iter().collect();
    let (set_a, set_b) = (a.namespaces().unwrap(), b.namespaces().unwrap());
    assert_eq!(set_a.coincide(&set_b), shared | not_isolated);
    assert_eq!(set_a.coincide(&NamespaceSet::current().unwrap()), not_isolated);
    assert_ne!(a.cgroup().unwrap().path(), b.cgroup().unwrap().path());
    assert_eq!(a.cgroup().unwrap().path().parent(), Some(pod.cgroup().unwrap().path()));
    assert_eq!(pod.holder_pid(), None);
}

#[test]
fn containers_of_a_pod_talk_over_localhost_and_shared_memory_under_one_host_name() {
    if !nspod_testkit::root() {
        return;
    }
    let spec = PodSpec { hostname: Some("both".into()), ..PodSpec::default() };
    let pod = Pod::create(&name("talk"), &spec).unwrap();
    let mut server = pod.command("sh").unwrap();
    server.args(["-c", "echo word > /dev/shm/file; hostname; exec sleep 1000"]);
    let mut server = server.stdin(Stdio::Null).stdout(Stdio::Piped).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "both\n");
    let mut client = pod.command("sh").unwrap();
    client.args(["-c", "cat /dev/shm/file; hostname; cat /sys/class/net/lo/operstate"]);
    let mut client = client.stdin(Stdio::Null).stdout(Stdio::Piped).spawn().unwrap();
    let mut text = String::new();
    client.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "word\nboth\nunknown\n");
}

#[test]
fn a_shared_pid_namespace_has_an_init_and_its_containers_see_each_other() {
    if !nspod_testkit::root() {
        return;
    }
    let share = [Kind::Net, Kind::Pid].into_iter().collect();
    let pod = Pod::create(&name("pid"), &PodSpec { share, ..PodSpec::default() }).unwrap();
    assert!(pod.holder_pid().is_some());
    let (a, b) = (sleeper(&pod), sleeper(&pod));
    assert_eq!(a.namespaces().unwrap()[Kind::Pid], b.namespaces().unwrap()[Kind::Pid]);
    let mut look = pod.command("sh").unwrap();
    look.args(["-c", "cat /proc/[0-9]*/comm"]).stdin(Stdio::Null).stdout(Stdio::Piped);
    let mut look = look.spawn().unwrap();
    let mut text = String::new();
    look.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("sleep").count(), 2, "{text}");
}

#[test]
fn a_pod_that_is_pinned_outlives_its_handle() {
    if !nspod_testkit::root() {
        return;
    }
    // Pins require a private mount, which this test creates.
    let dir = tempfile::tempdir().unwrap();
    let private = Private::new(dir.path());
    let mut pod = Pod::create(&name("pinned"), &PodSpec::default()).unwrap();
    pod.pin(dir.path()).unwrap();
    let first = sleeper(&pod);
    let before = first.namespaces().unwrap()[Kind::Net];
    let (spec, record) = (pod.spec().clone(), pod.record());
    pod.detach();
    drop(first);
    let pod = Pod::open(&spec, &record).unwrap();
    let second = sleeper(&pod);
    assert_eq!(second.namespaces().unwrap()[Kind::Net], before);
    drop(second);
    pod.delete().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    drop(private);
}

#[test]
fn a_pod_is_not_opened_by_the_pid_of_another_process() {
    if !nspod_testkit::root() {
        return;
    }
    let share = [Kind::Net, Kind::Pid].into_iter().collect();
    let pod = Pod::create(&name("reused"), &PodSpec { share, ..PodSpec::default() }).unwrap();
    let (spec, mut record) = (pod.spec().clone(), pod.record());
    let same = Pod::open(&spec, &record).unwrap();
    assert_eq!(same.holder_pid(), pod.holder_pid());
    // A reused pid has another start time.
    record.holder.as_mut().unwrap().start += 1;
    let error = Pod::open(&spec, &record).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProcessEnded);
    assert!(error.to_string().contains("has ended"), "{error}");
}

#[test]
fn deleting_a_pod_kills_its_containers_and_leaves_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    for hold_by in [HoldBy::Descriptors, HoldBy::Process] {
        let name = name(&format!("delete-{hold_by:?}"));
        let pod = Pod::create(&name, &PodSpec { hold_by, ..PodSpec::default() }).unwrap();
        let mut container = sleeper(&pod);
        let cgroup = pod.cgroup().unwrap().path().to_owned();
        pod.delete().unwrap();
        assert!(!cgroup.exists());
        assert_eq!(container.wait().unwrap().status.shell_code(), 128 + libc::SIGKILL);
        let shm = std::fs::read_dir("/dev/shm").unwrap().flatten();
        assert!(!shm.into_iter().any(|e| e.file_name().to_string_lossy().contains(&name)));
    }
}

#[test]
fn shared_files_have_their_own_shared_memory() {
    if !nspod_testkit::root() {
        return;
    }
    let share = Kind::Mnt.into();
    let files = nspod_sandbox::Files {
        root: nspod_sandbox::spec::Root::HostReadOnly,
        mounts: nspod_sandbox::spec::Spec::new("").mounts,
    };
    let spec = PodSpec { share, files: Some(files), ..PodSpec::default() };
    let name = name("files");
    let pod = Pod::create(&name, &spec).unwrap();
    let path = format!("/dev/shm/{name}");
    let mut writes = pod.command("sh").unwrap();
    writes.args(["-c", &format!("echo x > {path}")]).stdin(Stdio::Null);
    assert!(writes.status().unwrap().status.success());
    assert!(!Path::new(&path).exists(), "the path exists on the host");
    let mut reads = pod.command("cat").unwrap();
    assert!(reads.arg(&path).stdin(Stdio::Null).stdout(Stdio::Null).status().unwrap().status.success());
}
