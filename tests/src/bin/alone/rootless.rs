//! Tests as an ordinary user.

use std::os::unix::process::CommandExt;
use std::process::Command;

use cgroup_core::{Limits, Max};
use nix::mount::{MsFlags, mount};
use ns_core::{Kind, Kinds, NamespaceSet};
use nspod_sandbox::spec::{IdMaps, NamespaceMode};
use nspod_sandbox::{ErrorKind, Pod, PodSpec};
use nspod_tests::{Cell, command, join};

pub(crate) fn single_id() {
    let uid = nix::unistd::getuid();
    assert!(!uid.is_root());
    let mut command = command();
    command.namespace(Kind::User, NamespaceMode::New).hostname("box");
    command.spec_mut().id_maps = IdMaps::Single;
    let mut cell = Cell::start(&mut command).expect("a container");
    // It is root inside, and the same user on the host.
    assert_eq!(cell.order("uid").as_deref(), Ok("0"));
    let map = cell.order("read /proc/self/uid_map").expect("the map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &uid.to_string(), "1"]);
    assert_eq!(cell.order("read /proc/self/setgroups").as_deref(), Ok("deny\n"));
    assert_eq!(cell.order("drop-groups"), Err(libc::EPERM));
    assert_eq!(cell.order("hostname").as_deref(), Ok("box"));
    assert_eq!(cell.order("pid").as_deref(), Ok("2"));
    assert!(cell.order("write /tmp/file text").is_ok());
    assert!(cell.order("write /dev/null text").is_ok());
    assert_eq!(cell.order("write /etc/hostname text"), Err(libc::EROFS));
    let own = NamespaceSet::current().expect("own namespaces");
    let kept = cell.container.namespaces().expect("its namespaces").coincide(&own);
    assert_eq!(kept, Kinds::TIME);
    cell.container.delete().expect("deleted");
}

/// Adds a line for the user nobody to `/etc/subuid` that only this process and its children see, and continues as
/// nobody.
pub(crate) fn as_nobody(lines: &str, program: &str, what: &str) {
    ns_core::unshare(Kinds::MNT).expect("a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    for file in ["/etc/subuid", "/etc/subgid"] {
        if !std::path::Path::new(file).exists() {
            panic!("{file} is not there to put a line in");
        }
        mount(Some(lines), file, none, MsFlags::MS_BIND, none).expect(file);
    }
    let error = Command::new(program).args([what, what]).uid(65_534).gid(65_534).exec();
    panic!("{program}: {error}");
}

pub(crate) fn id_ranges() {
    let uid = nix::unistd::getuid().to_string();
    let mut command = command();
    command.namespace(Kind::User, NamespaceMode::New);
    let mut cell = Cell::start(&mut command).expect("a container");
    let map = cell.order("read /proc/self/uid_map").expect("the map");
    let words: Vec<_> = map.split_whitespace().collect();
    assert_eq!(words, ["0", &uid, "1", "1", "700000", "65536"]);
    assert!(cell.order("drop-groups").is_ok());
    // Another user inside is another user on the host.
    let mut command = nspod_tests::command();
    command.namespace(Kind::User, NamespaceMode::New).user(1000, 1000);
    let mut cell = Cell::start(&mut command).expect("a container");
    assert_eq!(cell.order("uid").as_deref(), Ok("1000"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", cell.container.pid())).expect("status");
    assert!(status.contains("Uid:\t700999\t"), "{status}");
}

pub(crate) fn pod(name: &str) {
    let pod = Pod::create(name, &PodSpec { hostname: Some("both".into()), ..PodSpec::default() });
    let pod = pod.expect("a pod");
    assert!(pod.spec().share.contains(Kinds::USER));
    let start = || Cell::start(&mut join(&pod).expect("room")).expect("a container");
    let (mut a, mut b) = (start(), start());
    let sets = [&a, &b].map(|cell| cell.container.namespaces().expect("its namespaces"));
    assert_eq!(sets[0].coincide(&sets[1]), pod.spec().share | Kinds::TIME);
    a.order("tcp listen 80").expect("a port below 1024");
    assert!(b.order("tcp connect 80").is_ok());
    assert_eq!(b.order("hostname").as_deref(), Ok("both"));
    a.order("posix-shm make note").expect("shared memory");
    assert_eq!(b.order("posix-shm read note").as_deref(), Ok("secret"));
    drop((a, b));
    pod.delete().expect("deleted");
}

pub(crate) fn limit() {
    let limits = Limits { pids_max: Some(Max::Value(10)), ..Limits::default() };
    let mut command = command();
    command.namespace(Kind::User, NamespaceMode::New).limits(limits);
    let error = Cell::start(&mut command).expect_err("nothing is delegated to nobody");
    let text = error.to_string();
    assert!(error.step() == "cgroup" || error.kind() == ErrorKind::Unenforceable, "{text}");
    // The message must name the requirement.
    eprintln!("{text}");
    assert!(text.contains("delegate") || text.contains("pids.max"), "{text}");
}

/// Listens and connects in the net namespace of a container of an ordinary user, which requires its user namespace.
pub(crate) fn sockets() {
    let mut command = command();
    command.namespace(Kind::User, NamespaceMode::New);
    let cell = Cell::start(&mut command).expect("a container");
    let address = "127.0.0.1:80".parse().expect("an address");
    let listener = cell.container.listen(address).expect("a listener at a low port");
    let _client = cell.container.connect(address).expect("a connection");
    assert!(listener.accept().is_ok());
    let listener = cell.container.listen_unix("/tmp/socket").expect("a Unix listener");
    let _client = cell.container.connect_unix("/tmp/socket").expect("a Unix connection");
    assert!(listener.accept().is_ok());
    assert!(std::net::TcpStream::connect(address).is_err());
    cell.container.delete().expect("deleted");
}
