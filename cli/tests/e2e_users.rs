//! Objects that the kernel counts for each user, whatever the cgroup: a container takes all of them from another
//! container of the same user, unless each has a user namespace with ids and an owner of its own.

mod common;

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use common::{NSPOD, Name, Output, eventually, nspod, root, run_with};
use nspod_troubles::hog;

/// A directory with this program, which any user can execute.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), mode).unwrap();
        nspod_testkit::copy_program(std::env::current_exe().unwrap(), dir.path().join("hog"));
        Place(dir)
    }

    /// Returns the arguments of a container that runs a hog or a victim.
    fn args<'a>(&self, flags: &[&'a str], role: &'a str, name: &'a str) -> Vec<String> {
        let volume = format!("{}:/mnt:ro", self.0.path().display());
        let (role, name) = (format!("ROLE={role}"), format!("NAME={name}"));
        let mut args: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        args.extend(["-v", &volume, "-e", &role, "-e", &name, "/mnt/hog", "--exact", "act"].map(Into::into));
        args.extend(["--ignored", "--nocapture", "--test-threads=1"].map(Into::into));
        args
    }
}

/// What became of a victim beside a hog.
#[derive(Debug)]
struct Seen {
    hog: String,
    victim: Output,
}

impl Seen {
    fn victim_works(&self) -> bool {
        self.victim.out.lines().any(|line| line.strip_prefix("progress ").is_some_and(|number| number != "0"))
    }
}

/// Runs a victim while a hog of another container has taken all objects that it gets. `launcher` is nspod, or a program
/// that runs it.
fn beside(launcher: &[&str], name: &str, hog_flags: &[&str], victim_flags: &[&str]) -> Seen {
    let place = Place::new();
    let container = Name::container();
    let run = |flags: &[&str], role| {
        let mut command = Command::new(launcher[0]);
        command.args(&launcher[1..]).arg("run").args(place.args(flags, role, name));
        run_with(&mut command, "")
    };
    run(&[&["-d", "--name", &container], hog_flags].concat(), "hog").ok();
    let logs = || nspod(&["logs", &container]).out;
    eventually(&format!("{name}: the hog is ready"), || logs().contains("ready "));
    let victim = run(victim_flags, "victim");
    let logs = logs();
    let hog = logs.lines().find_map(|line| Some(line.split_once("ready ")?.1)).unwrap();
    Seen { hog: hog.to_owned(), victim }
}

/// The program of the containers.
#[test]
#[ignore = "runs in the containers of the other tests"]
fn act() {
    let [role, name] = ["ROLE", "NAME"].map(|name| std::env::var(name).unwrap());
    let trouble = hog::find(&name).unwrap();
    let mut out = std::io::stdout();
    if role == "hog" {
        let hog = (trouble.hog)().unwrap();
        writeln!(out, "\nready {}", hog.said).unwrap();
        loop {
            std::thread::park();
        }
    }
    let progress = (trouble.victim)().map(|mut victim| victim.progress(Duration::from_millis(50)));
    match progress {
        Ok(progress) => writeln!(out, "\nprogress {progress}").unwrap(),
        Err(error) => eprintln!("the victim cannot work: {error}"),
    }
}

/// Checks that a hog takes all objects of its user from a victim, and not if each has its own user namespace.
#[track_caller]
fn assert_separate(name: &str, flags: &[&str], errno: i32) {
    let control = beside(&[NSPOD], name, flags, flags);
    let refused = control.victim.err.contains(&format!("(os error {errno})"));
    assert!(!control.victim_works() && refused, "{name}: {control:?}");
    let flags = [flags, &["--userns", "auto"]].concat();
    let apart = beside(&[NSPOD], name, &flags, &flags);
    assert!(apart.hog.contains(&format!("(os error {errno})")), "{name}: {apart:?}");
    assert!(apart.victim_works(), "{name}: {apart:?}");
}

#[test]
fn inotify_instances() {
    if root() {
        assert_separate("inotify", &["-u", "41001"], nix::libc::EMFILE);
    }
}

#[test]
fn inotify_watches() {
    if root() {
        assert_separate("inotify-watches", &["-u", "41002"], nix::libc::ENOSPC);
    }
}

#[test]
fn fanotify_groups() {
    if root() {
        let flags = ["-u", "41003", "--security-opt", "seccomp=unconfined"];
        assert_separate("fanotify", &flags, nix::libc::EMFILE);
    }
}

#[test]
fn pages_of_pipes() {
    if root() {
        assert_separate("pipes", &["-u", "41004"], nix::libc::EPERM);
    }
}

#[test]
fn timers_and_queued_signals() {
    if root() {
        let flags = ["-u", "41005", "--ulimit", "sigpending=1000:1000"];
        assert_separate("timers", &flags, nix::libc::EAGAIN);
    }
}

#[test]
fn message_queues() {
    if root() {
        assert_separate("message-queues", &["-u", "41006"], nix::libc::EMFILE);
    }
}

#[test]
fn keys() {
    if root() {
        let flags = ["-u", "41007", "--security-opt", "seccomp=unconfined"];
        assert_separate("keys", &flags, nix::libc::EDQUOT);
    }
}

#[test]
fn locked_shared_memory() {
    if root() {
        assert_separate("locked-memory", &["-u", "41008"], nix::libc::ENOMEM);
    }
}

#[test]
fn processes() {
    if root() {
        assert_separate("processes", &["-u", "41009", "--ulimit", "nproc=50:50"], nix::libc::EAGAIN);
    }
}

#[test]
fn descriptors_in_messages() {
    if root() {
        let flags = ["-u", "41010", "--ulimit", "nofile=300:300"];
        assert_separate("sent-descriptors", &flags, nix::libc::ETOOMANYREFS);
    }
}

/// The kernel charges objects also to the owner of the user namespace. With the same owner, other ids are not enough.
#[test]
fn other_ids_of_the_same_owner_share_limits() {
    if !root() {
        return;
    }
    // Root's other processes have a higher limit.
    let launcher = ["prlimit", "--msgqueue=100000:100000", NSPOD];
    let (hog, victim) = (["--uidmap", "0:1879900000:10"], ["--uidmap", "0:1879900100:10"]);
    let shared = beside(&launcher, "message-queues", &hog, &victim);
    assert!(!shared.victim_works(), "{shared:?}");
    let auto = ["--userns", "auto"];
    let apart = beside(&launcher, "message-queues", &auto, &auto);
    assert!(apart.victim_works(), "{apart:?}");
}
