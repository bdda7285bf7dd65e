//! If the host's files are the root, its sockets and named pipes are visible but cannot be used.

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc::O_NONBLOCK;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use common::user::User;
use common::{NSPOD, Name, Output, root, run_with};

const DIRECTORY: &str = "NSPOD_TEST_SOCKETS";
const REACHED: &str = "reached:";
/// All sockets and pipes that the attack tries.
const ALL: &str = "stream datagram seqpacket pipe-write pipe-read";

/// Not a test by itself: the program that runs in the containers.
#[test]
fn the_attack() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let at = |name: &str| directory.join(name);
    let pipe = |name: &str, write: bool| {
        OpenOptions::new().read(!write).write(write).custom_flags(O_NONBLOCK).open(at(name))
    };
    let datagram = UnixDatagram::unbound().unwrap();
    let seqpacket = seqpacket();
    let mut byte = [0];
    let reached = [
        ("stream", UnixStream::connect(at("stream")).is_ok()),
        ("datagram", datagram.connect(at("datagram")).is_ok()),
        ("seqpacket", connect(seqpacket.as_raw_fd(), &UnixAddr::new(&at("seqpacket")).unwrap()).is_ok()),
        ("pipe-write", pipe("pipe", true).is_ok_and(|mut pipe| pipe.write(b"x").is_ok())),
        ("pipe-read", pipe("secret", false).is_ok_and(|mut pipe| pipe.read(&mut byte).is_ok_and(|n| n == 1))),
    ];
    let reached: Vec<_> = reached.into_iter().filter(|(_, so)| *so).map(|(name, _)| name).collect();
    println!("\n{REACHED}{}", reached.join(" "));
}

fn seqpacket() -> OwnedFd {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

/// A daemon of the host that listens in a directory outside /run, /tmp and /dev.
struct Daemon {
    _stream: UnixListener,
    _datagram: UnixDatagram,
    _seqpacket: OwnedFd,
    _pipes: [File; 2],
    directory: PathBuf,
}

impl Daemon {
    fn new(directory: &Path) -> Daemon {
        let at = |name: &str| directory.join(name);
        let seqpacket = seqpacket();
        bind(seqpacket.as_raw_fd(), &UnixAddr::new(&at("seqpacket")).unwrap()).unwrap();
        listen(&seqpacket, Backlog::MAXCONN).unwrap();
        let pipes = ["pipe", "secret"].map(|name| {
            nix::unistd::mkfifo(&at(name), nix::sys::stat::Mode::empty()).unwrap();
            OpenOptions::new().read(true).write(true).open(at(name)).unwrap()
        });
        // Enough bytes for all readers.
        (&pipes[1]).write_all(&[b's'; 100]).unwrap();
        let daemon = Daemon {
            _stream: UnixListener::bind(at("stream")).unwrap(),
            _datagram: UnixDatagram::bind(at("datagram")).unwrap(),
            _seqpacket: seqpacket,
            _pipes: pipes,
            directory: directory.into(),
        };
        for name in ["stream", "datagram", "seqpacket", "pipe", "secret"] {
            fs::set_permissions(at(name), Permissions::from_mode(0o666)).unwrap();
        }
        daemon
    }
}

/// A directory of the host that every user can reach, with the program of the attack.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("attack");
        nspod_testkit::copy_program(std::env::current_exe().unwrap(), &program);
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        Place(dir)
    }

    fn daemon(&self, name: &str) -> Daemon {
        let directory = self.0.path().join(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        Daemon::new(&directory)
    }

    /// Returns the arguments of a `run` or `exec`, up to the container's name.
    fn attack(&self, verb: &[&str], at: &Path, container: &[&str]) -> Vec<String> {
        let variable = format!("{DIRECTORY}={}", at.display());
        let program = self.0.path().join("attack").display().to_string();
        let attack = [&program, "--exact", "the_attack", "--nocapture", "--test-threads=1"];
        [verb, &["-e", &variable], container, &attack].concat().into_iter().map(Into::into).collect()
    }
}

fn nspod(args: &[String]) -> Output {
    run_with(Command::new(NSPOD).args(args), "")
}

#[track_caller]
fn reached(output: &Output) -> String {
    let line = output.out.lines().find_map(|line| line.strip_prefix(REACHED));
    line.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

#[test]
fn only_sockets_and_pipes_of_the_host_that_are_bound_by_name_are_reached() {
    if !root() {
        return;
    }
    let place = Place::new();
    let daemon = place.daemon("before");
    let volume = format!("{}:/mnt", daemon.directory.display());
    let read_only = format!("{volume}:ro");
    for flags in [&[][..], &["-u", "1000:1000"], &["--userns", "auto"], &["--init"], &["--overlay"]] {
        let run = |more: &[&str], at: &Path| {
            let verb = [&["run"], flags, more].concat();
            reached(&nspod(&place.attack(&verb, at, &[])))
        };
        assert_eq!(run(&[], &daemon.directory), "", "{flags:?}");
        // The overlay has a layer with a mount point that the host lacks.
        let beside = format!("/usr:{}/new", daemon.directory.display());
        assert_eq!(run(&["-v", &beside], &daemon.directory), "", "{flags:?} -v {beside}");
        // The control: the same attack succeeds if the sockets are mounted into the container.
        for volume in [&volume, &read_only] {
            assert_eq!(run(&["-v", volume], Path::new("/mnt")), ALL, "{flags:?} -v {volume}");
        }
        if !flags.contains(&"--overlay") {
            assert_eq!(run(&["--host-sockets"], &daemon.directory), ALL, "{flags:?} --host-sockets");
        }
    }
}

#[test]
fn sockets_that_the_host_creates_later_are_not_reached() {
    if !root() {
        return;
    }
    let place = Place::new();
    let sleep = ["sleep", "1000"];
    let volume = format!("{}:/mnt", place.0.path().display());
    for flags in [&[][..], &["--userns", "auto"]] {
        let [plain, control, bound] = [&[][..], &["--host-sockets"], &["-v", &volume]]
            .map(|more| Name::detached(&[flags, more].concat(), &sleep));
        let name = format!("after-{}", flags.len());
        let daemon = place.daemon(&name);
        let exec = |container: &str, at: &Path| reached(&nspod(&place.attack(&["exec"], at, &[container])));
        assert_eq!(exec(&plain, &daemon.directory), "", "{flags:?}");
        assert_eq!(exec(&control, &daemon.directory), ALL, "{flags:?}");
        assert_eq!(exec(&bound, &Path::new("/mnt").join(&name)), ALL, "{flags:?}");
    }
}

#[test]
fn an_ordinary_users_container_reaches_no_socket_of_the_host() {
    if !root() {
        return;
    }
    let place = Place::new();
    let daemon = place.daemon("before");
    let volume = format!("{}:/mnt", daemon.directory.display());
    for subids in ["", "nobody:300000:65536\n"] {
        let user = User::with_subids(subids);
        let run = |flags: &[&str], at: &Path| {
            let args = place.attack(&[&["run"], flags].concat(), at, &[]);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            reached(&user.nspod(&args))
        };
        assert_eq!(run(&[], &daemon.directory), "", "{subids:?}");
        assert_eq!(run(&["--host-sockets"], &daemon.directory), ALL, "{subids:?}");
        assert_eq!(run(&["-v", &volume], Path::new("/mnt")), ALL, "{subids:?}");
    }
}

/// Runs a script in a private mount namespace, with `$N` for nspod, and `args` as `$1` and so on.
fn apart(script: &str, args: &[String]) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]).args(args);
    run_with(command.env("N", NSPOD), "")
}

#[test]
fn mounts_of_the_host_are_shown_and_lead_to_no_socket() {
    if !root() {
        return;
    }
    let place = Place::new();
    let daemon = place.daemon("a, b:c\\d");
    let directory = daemon.directory.display();
    // A mount that contains a mount and a file; a mount with another flag; and a mount that is covered.
    let script = format!(
        "mount -t tmpfs none /mnt; mkdir '/mnt/x, y:z' /mnt/hidden; echo file > /mnt/file; \
         mount --bind '{directory}' '/mnt/x, y:z'; mount -o bind,noexec /usr/bin /mnt/hidden; \
         touch /mnt/bound; mount --bind /mnt/file /mnt/bound; exec \"$N\" \"$@\""
    );
    let at = Path::new("/mnt/x, y:z");
    for flags in [&[][..], &["--userns", "auto"]] {
        let run = |more: &[&str]| {
            reached(&apart(&script, &place.attack(&[&["run"], flags, more].concat(), at, &[])))
        };
        assert_eq!(run(&[]), "", "{flags:?}");
        assert_eq!(run(&["--host-sockets"]), ALL, "{flags:?}");
        let sh = "cat /mnt/file /mnt/bound; ls /mnt; touch /mnt/new 2> /dev/null || echo read-only; \
            /mnt/hidden/true 2> /dev/null || echo noexec; ls / | wc -l";
        let seen = |more: &[&str]| {
            let args = [&["run"], flags, more, &["sh", "-c", sh]].concat();
            apart(&script, &args.iter().map(|arg| arg.to_string()).collect::<Vec<_>>()).ok().to_owned()
        };
        assert_eq!(seen(&[]), seen(&["--host-sockets"]), "{flags:?}");
        assert!(seen(&[]).starts_with("file\nfile\nbound\nfile\nhidden\nx, y:z\nread-only\nnoexec\n"));
    }
}

#[test]
fn a_mount_that_cannot_be_shown_safely_is_an_error_with_its_cures() {
    if !root() {
        return;
    }
    // Two nested overlays, the kernel's maximum.
    let script = "mount -t tmpfs none /mnt; cd /mnt; mkdir a b c d e; \
        mount -t overlay none -o lowerdir=/mnt/e:/mnt/a /mnt/b; \
        mount -t overlay none -o lowerdir=/mnt/b:/mnt/c /mnt/d; exec \"$N\" run \"$@\"";
    let run = |args: &[&str]| apart(script, &args.iter().map(|arg| arg.to_string()).collect::<Vec<_>>());
    let output = run(&["true"]);
    assert_eq!(output.code(), 125, "{output:?}");
    for part in ["lowerdir=/mnt/d", "--host-sockets", "--tmpfs", "already on two overlays"] {
        assert!(output.err.contains(part), "{part}: {}", output.err);
    }
    for cure in
        [&["--host-sockets"][..], &["--tmpfs", "/mnt/d"], &["-v", "/mnt/d:/mnt/d:ro"], &["--tmpfs", "/mnt"]]
    {
        assert_eq!(run(&[cure, &["true"]].concat()).code(), 0, "{cure:?}");
    }
}
