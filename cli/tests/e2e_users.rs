//! Objects that the kernel counts for each user, whatever the cgroup: a container takes all of them from another
//! container of the same user, unless each has a user namespace with ids and an owner of its own.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cgroup_core::Controllers;
use common::user::User;
use common::{NSPOD, Name, Output, controllers, eventually, root, run_with};
use nix::libc;
use nspod_troubles::hog;

/// A directory with this program, which any user can execute.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
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

/// Runs a victim while a hog of another container has taken all objects that it gets. `nspod` returns a command that
/// runs nspod with these arguments.
fn beside_by(
    nspod: &dyn Fn(&[&str]) -> Command,
    name: &str,
    hog_flags: &[&str],
    victim_flags: &[&str],
) -> Seen {
    let place = Place::new();
    let container = Name::container();
    let run = |flags: &[&str], role| {
        let args = place.args(flags, role, name);
        let args: Vec<&str> = ["run"].into_iter().chain(args.iter().map(String::as_str)).collect();
        run_with(&mut nspod(&args), "")
    };
    let [log, pid] = ["log", "pid"].map(|name| place.0.path().join(name).display().to_string());
    let flags = ["-d", "--name", &container, "--log-file", &log, "--pidfile", &pid];
    run(&[&flags, hog_flags].concat(), "hog").ok();
    let process = format!("/proc/{}", std::fs::read_to_string(pid).unwrap().trim());
    let said = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().find_map(|line| Some(line.split_once("ready ")?.1.to_owned()))
    };
    eventually(&format!("{name}: the hog is ready"), || said().is_some() || !Path::new(&process).exists());
    let victim = run(victim_flags, "victim");
    Seen { hog: said().unwrap_or("ended".into()), victim }
}

/// Runs a victim beside a hog, both as root.
fn beside(name: &str, hog_flags: &[&str], victim_flags: &[&str]) -> Seen {
    beside_by(&nspod, name, hog_flags, victim_flags)
}

fn nspod(args: &[&str]) -> Command {
    let mut command = Command::new(NSPOD);
    command.args(args);
    command
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
    let measured = (trouble.victim)().map(|mut victim| victim.progress(Duration::from_millis(50)));
    let (progress, problem) = measured.unwrap_or_else(|error| (0.0, Some(error)));
    writeln!(out, "\nprogress {progress}").unwrap();
    if let Some(problem) = problem {
        eprintln!("the victim cannot work: {problem}");
    }
}

/// Checks that a hog takes all objects of its user from a victim, unless each has its own user namespace.
#[track_caller]
fn assert_separate(name: &str, flags: &[&str], errno: i32) {
    let control = beside(name, flags, flags);
    let refused = control.victim.err.contains(&format!("(os error {errno})"));
    assert!(!control.victim_works() && refused, "{name}: {control:?}");
    let flags = [flags, &["--userns", "auto"]].concat();
    let apart = beside(name, &flags, &flags);
    assert!(apart.hog.contains(&format!("(os error {errno})")), "{name}: {apart:?}");
    assert!(apart.victim_works(), "{name}: {apart:?}");
}

#[test]
fn inotify_instances() {
    if root() {
        assert_separate("inotify", &["-u", "41001"], libc::EMFILE);
    }
}

#[test]
fn inotify_watches() {
    if root() {
        assert_separate("inotify-watches", &["-u", "41002"], libc::ENOSPC);
    }
}

#[test]
fn fanotify_groups() {
    if root() {
        let flags = ["-u", "41003", "--security-opt", "seccomp=unconfined"];
        assert_separate("fanotify", &flags, libc::EMFILE);
    }
}

#[test]
fn pages_of_pipes() {
    if root() {
        assert_separate("pipes", &["-u", "41004"], libc::EPERM);
    }
}

#[test]
fn timers_and_queued_signals() {
    if root() {
        let flags = ["-u", "41005", "--ulimit", "sigpending=1000:1000"];
        assert_separate("timers", &flags, libc::EAGAIN);
    }
}

#[test]
fn message_queues() {
    if root() {
        assert_separate("message-queues", &["-u", "41006"], libc::EMFILE);
    }
}

#[test]
fn keys() {
    if root() {
        let flags = ["-u", "41007", "--security-opt", "seccomp=unconfined"];
        assert_separate("keys", &flags, libc::EDQUOT);
    }
}

#[test]
fn locked_shared_memory() {
    if root() {
        assert_separate("locked-memory", &["-u", "41008"], libc::ENOMEM);
    }
}

#[test]
fn processes() {
    if root() {
        // The victim must start before it meets the limit, and an init would meet it first.
        let flags = ["-u", "41009", "--init=false", "--ulimit", "nproc=50:50"];
        assert_separate("processes", &flags, libc::EAGAIN);
    }
}

#[test]
fn descriptors_in_messages() {
    if root() {
        let flags = ["-u", "41010", "--ulimit", "nofile=300:300"];
        assert_separate("sent-descriptors", &flags, libc::ETOOMANYREFS);
    }
}

/// The default filter denies the calls that make keys, groups of fanotify, io_uring instances, perf events and
/// namespaces.
#[test]
fn objects_that_the_filter_denies() {
    if !root() {
        return;
    }
    let calls = [
        libc::SYS_add_key,
        libc::SYS_fanotify_init,
        libc::SYS_io_uring_setup,
        libc::SYS_perf_event_open,
        libc::SYS_unshare,
    ];
    let script = "for (@ARGV) { $! = 0; syscall($_, 0x10000000, 0, 0, 0, 0); print $! + 0, ' ' }";
    let numbers = calls.map(|call| call.to_string());
    let call = |flags: &[&str]| {
        let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
        common::ok(&[&["run"], flags, &["perl", "-e", script], &numbers].concat())
    };
    assert_eq!(call(&[]), "1 1 1 1 1 ");
    let allowed = call(&["--security-opt", "seccomp=unconfined"]);
    assert!(allowed.split(' ').filter(|errno| *errno == "1").count() < 3, "{allowed}");
}

/// The host counts terminals for all users together. Each container has at most a third of them.
#[test]
fn terminals() {
    if !root() {
        return;
    }
    let number = |name: &str| -> u32 {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/pty/{name}")).unwrap();
        text.trim().parse().unwrap()
    };
    assert!(number("max") - number("reserve") >= 2 * 1024);
    let flags = ["--ulimit", "nofile=4096:4096"];
    let seen = beside("terminals", &flags, &flags);
    assert_eq!(seen.hog, "1024, then: No space left on device (os error 28)");
    assert!(seen.victim_works(), "{seen:?}");
}

/// A kernel parameter of the host with another value. Dropping it restores the value.
struct Parameter(String, String);

impl Parameter {
    /// Returns `None` on a machine whose parameters the tests leave alone, and skips the test.
    fn set(name: &str, value: &str) -> Option<Parameter> {
        if !nspod_testkit::is_slow() {
            common::skip("changes a kernel parameter of the host");
            return None;
        }
        let path = format!("/proc/sys/{name}");
        let usual = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, value).unwrap();
        Some(Parameter(path, usual))
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        std::fs::write(&self.0, &self.1).unwrap();
    }
}

#[test]
fn epoll_watches() {
    if !controllers(Controllers::MEMORY) {
        return;
    }
    let Some(_fewer) = Parameter::set("fs/epoll/max_user_watches", "100000") else { return };
    let flags = ["-u", "41011"];
    assert_separate("epoll", &flags, libc::ENOSPC);
    // The watches of the hog need more than 16 MiB.
    let limited = beside("epoll", &["-u", "41011", "-m", "8m", "--memory-swap", "8m"], &flags);
    assert!(limited.hog == "ended" && limited.victim_works(), "{limited:?}");
}

/// The kernel counts the events of asynchronous I/O for the whole host, and nothing divides them. If there are so many
/// that their memory exceeds the limits of the containers, the memory bounds them.
#[test]
fn asynchronous_io() {
    if !controllers(Controllers::MEMORY) {
        return;
    }
    let auto = ["--userns", "auto"];
    let limited = ["--userns", "auto", "-m", "8m", "--memory-swap", "8m"];
    let shared = beside("aio", &auto, &auto);
    assert!(!shared.victim_works() && shared.victim.err.contains("os error 11"), "{shared:?}");
    let Some(_more) = Parameter::set("fs/aio-max-nr", "4000000") else { return };
    let bounded = beside("aio", &limited, &auto);
    assert!(bounded.victim_works(), "{bounded:?}");
}

/// The kernel charges objects also to the owner of the user namespace. With the same owner, other ids are not enough.
#[test]
fn other_ids_of_the_same_owner_share_limits() {
    if !root() {
        return;
    }
    // Root's other processes have a higher limit.
    let nspod = |args: &[&str]| {
        let mut command = Command::new("prlimit");
        command.args(["--msgqueue=100000:100000", NSPOD]).args(args);
        command
    };
    let (hog, victim) = (["--uidmap", "0:1879900000:10"], ["--uidmap", "0:1879900100:10"]);
    let shared = beside_by(&nspod, "message-queues", &hog, &victim);
    assert!(!shared.victim_works(), "{shared:?}");
    let auto = ["--userns", "auto"];
    let apart = beside_by(&nspod, "message-queues", &auto, &auto);
    assert!(apart.victim_works(), "{apart:?}");
}

/// The kernel counts the objects of all containers of an ordinary user for that user. Each user of a container gets a
/// quarter.
#[test]
fn a_container_of_an_ordinary_user_gets_a_share() {
    if !root() {
        return;
    }
    let seen = |ids| {
        // Dropping the user ends the hog.
        let user = User::with_subids("nobody:300000:65536\n");
        let flags = ["--userns", ids];
        beside_by(&|args| user.command(args), "inotify", &flags, &flags)
    };
    let control = seen("new");
    assert!(!control.victim_works(), "{control:?}");
    let apart = seen("auto");
    let limit = std::fs::read_to_string("/proc/sys/user/max_inotify_instances").unwrap();
    let share = limit.trim().parse::<u32>().unwrap() / 4;
    assert_eq!(apart.hog, format!("{share}, then: Too many open files (os error 24)"));
    assert!(apart.victim_works(), "{apart:?}");
}

#[test]
fn a_parameter_of_the_user_namespace_bounds_each_user_of_a_container() {
    if !root() {
        return;
    }
    let flags = ["--userns", "auto", "--sysctl", "user.max_inotify_instances=3"];
    let seen = beside("inotify", &flags, &["--userns", "auto"]);
    assert_eq!(seen.hog, "3, then: Too many open files (os error 24)");
    assert!(seen.victim_works(), "{seen:?}");
}
