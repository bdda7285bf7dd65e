//! Sockets of the caller in a container. The tests run as root.
#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use ns_core::Kind;
use nspod_sandbox::spec::{Mount, NamespaceMode};
use nspod_sandbox::{Command, Container, Stdio};

const LOCAL: &str = "127.0.0.1:7000";

fn local() -> SocketAddr {
    LOCAL.parse().unwrap()
}

/// Starts a container in which `/dev/tcp` of bash can be used.
fn bash(script: &str) -> Container {
    let mut command = Command::new("bash");
    command.args(["-c", script]).stdin(Stdio::Piped).stdout(Stdio::Piped);
    command.spawn().unwrap()
}

#[test]
fn programs_inside_connect_to_listeners_of_the_caller() {
    if !nspod_testkit::root() || !nspod_testkit::programs(&["bash"]) {
        return;
    }
    let script = "read go; exec 3<>/dev/tcp/127.0.0.1/7000; echo question >&3; cat <&3";
    let mut container = bash(script);
    let listener = container.listen(local()).unwrap();
    assert_eq!(listener.local_addr().unwrap(), local());
    // The caller's own namespace has no such listener.
    assert!(std::net::TcpStream::connect(local()).is_err());
    let taken = container.listen(local()).unwrap_err();
    assert_eq!(taken.raw_os_error(), Some(libc::EADDRINUSE), "{taken}");
    container.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut question = [0; 9];
    stream.read_exact(&mut question).unwrap();
    stream.write_all(b"answer\n").unwrap();
    drop(stream);
    let mut text = String::new();
    container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((&question, &*text), (b"question\n", "answer\n"));
    assert!(container.wait().unwrap().status.success());
    container.delete().unwrap();
}

#[test]
fn the_caller_connects_to_programs_inside() {
    if !nspod_testkit::root() || !nspod_testkit::programs(&["busybox"]) {
        return;
    }
    for user in [NamespaceMode::Host, NamespaceMode::New] {
        let mut command = Command::new("sh");
        command.args(["-c", "busybox nc -l -p 7000 -e cat; sleep 1000"]).namespace(Kind::User, user);
        let container = command.spawn().unwrap();
        let mut stream = None;
        nspod_testkit::eventually("a program listens", || {
            stream = container.connect(local()).ok();
            stream.is_some()
        });
        let mut stream = stream.unwrap();
        stream.write_all(b"text").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        let (one, two) = (
            container.bind_udp(local()).unwrap(),
            container.bind_udp("127.0.0.1:0".parse().unwrap()).unwrap(),
        );
        two.send_to(b"datagram", local()).unwrap();
        let mut buffer = [0; 8];
        one.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer, b"datagram");
        let refused = container.connect("127.0.0.1:1".parse().unwrap()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "{refused}");
        let pid = container.pid();
        container.kill().unwrap();
        nspod_testkit::eventually("the container ends", || container.connect(local()).is_err());
        container.delete().unwrap();
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    }
}

#[test]
fn unix_sockets_are_reached_in_the_containers_root() {
    if !nspod_testkit::root() || !nspod_testkit::programs(&["python3"]) {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    // A link in the container that leads to a socket of the host must not reach it.
    let outside = temp.path().join("outside");
    let _listener = UnixListener::bind(&outside).unwrap();
    let shared = temp.path().join("shared");
    fs::create_dir(&shared).unwrap();
    symlink(&outside, shared.join("link")).unwrap();
    let script = "import socket\ns = socket.socket(socket.AF_UNIX)\ninput()\ns.connect('/run/caller')\ns.send(b'hello')";
    let mut command = Command::new("python3");
    command.args(["-c", script]).mount(Mount::bind(&shared, "/mnt")).stdin(Stdio::Piped);
    let mut container = command.spawn().unwrap();
    let listener = container.listen_unix("/run/caller").unwrap();
    assert!(!fs::exists("/run/caller").unwrap());
    container.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    drop(listener);
    drop(container);
    let container = Command::new("sleep").arg("1000").mount(Mount::bind(&shared, "/mnt")).spawn().unwrap();
    let listener = container.listen_unix("/mnt/socket").unwrap();
    assert!(container.connect_unix("/mnt/socket").is_ok() && listener.accept().is_ok());
    let astray = container.connect_unix("/mnt/link").unwrap_err();
    // The container has no such file, or sees the file of the host's socket through an overlay, without a listener.
    assert!(matches!(astray.raw_os_error(), Some(libc::ENOENT | libc::ECONNREFUSED)), "{astray}");
    let relative = container.connect_unix("mnt/socket").unwrap_err();
    assert!(relative.to_string().contains("must be absolute"), "{relative}");
    container.delete().unwrap();
}

#[test]
fn a_port_of_the_caller_is_passed_as_a_descriptor() {
    if !nspod_testkit::root() || !nspod_testkit::programs(&["python3"]) {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = "import socket\ns, _ = socket.socket(fileno=3).accept()\ns.send(b'from inside')";
    let mut command = Command::new("python3");
    let mut container = command.args(["-c", script]).fd(listener, 3).spawn().unwrap();
    let mut text = String::new();
    std::net::TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "from inside");
    assert!(container.wait().unwrap().status.success());
    container.delete().unwrap();
}

#[test]
fn a_program_that_ignores_its_children_makes_sockets_inside() {
    if !nspod_testkit::root()
        || nspod_testkit::in_own_process("a_program_that_ignores_its_children_makes_sockets_inside")
    {
        return;
    }
    // SAFETY: no handler runs.
    unsafe {
        nix::sys::signal::signal(nix::sys::signal::Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn)
    }
    .unwrap();
    let container = Command::new("sleep").arg("1000").spawn().unwrap();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    for _ in 0..3 {
        let listener = container.listen(local()).unwrap();
        let _client = container.connect(local()).unwrap();
        assert!(listener.accept().is_ok());
    }
    assert_eq!(count(), before);
    // Nothing is left to reap.
    let children = fs::read_to_string("/proc/thread-self/children").unwrap();
    assert_eq!(children.trim(), container.pid().to_string());
    container.delete().unwrap();
}
