//! Compares `nspod census` with namespaces that unshare(1) and nsenter(1) make, and with lsns(8).

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use common::terminal::Terminal;
use common::user::User;
use common::{Guard, NSPOD, Name, eventually, nspod, programs};
use ns_core::{Kind, NamespaceSet};
use serde_json::Value;

/// Process that sleeps in its own namespaces until it is dropped.
struct Sleeper(Guard);

impl Sleeper {
    /// Starts a command line of programs, each of which executes the next.
    fn start(line: &str) -> Sleeper {
        let mut words = line.split(' ').chain(["sleep", "1000"]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let sleeper = Sleeper(Guard(command.spawn().unwrap()));
        eventually("it sleeps", || sleeper.name() == "sleep");
        sleeper
    }

    fn pid(&self) -> i32 {
        self.0.pid()
    }

    fn name(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/comm", self.pid())).unwrap().trim().to_owned()
    }

    fn namespaces(&self) -> NamespaceSet {
        NamespaceSet::of_pid(self.pid()).unwrap()
    }
}

fn census(args: &[&str]) -> String {
    let output = nspod(&[&["census"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", output.err);
    output.out
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&census(&[args, &["--json"]].concat())).unwrap()
}

fn pids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap() as i32).collect()
}

/// Returns the container that a process is in.
fn container_of(all: &Value, pid: i32) -> &Value {
    let mut found = all["containers"].as_array().unwrap().iter().filter(|c| pids(&c["pids"]).contains(&pid));
    let one = found.next().unwrap_or_else(|| panic!("{pid} is in no container"));
    assert!(found.next().is_none(), "{pid} is in two containers");
    one
}

/// Inode number, kind, lowest pid and number of processes.
type Listed = BTreeSet<(u64, String, i32, u64)>;

fn by_lsns() -> Listed {
    let output = Command::new("lsns").args(["-n", "-o", "NS,TYPE,PID,NPROCS"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (ns, kind) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        Some((ns, kind, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).filter(|(_, _, _, processes)| *processes > 0).collect()
}

fn by_census() -> Listed {
    let text = census(&["--namespaces"]);
    assert!(text.starts_with("NS "), "{text}");
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (ns, kind) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        let processes = words.next()?.parse().ok()?;
        Some((ns, kind, words.next()?.parse().ok()?, processes))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Returns whether lsns can list a namespace. It reads only main threads. One that has ended is only in its pid and
/// user namespaces, even if other threads of its process live.
fn is_known_to_lsns((_, kind, first, _): &(u64, String, i32, u64)) -> bool {
    matches!(&**kind, "pid" | "user") || File::open(format!("/proc/{first}/ns/mnt")).is_ok()
}

#[test]
fn the_listed_namespaces_equal_those_of_lsns() {
    if !nspod_testkit::root() {
        return;
    }
    if !programs(&["python3"]) {
        return;
    }
    let sleeper = Sleeper::start("unshare -mnuiC");
    let end_main_thread = format!(
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(1000,)).start(); \
         ctypes.CDLL(None).syscall({}, 0)",
        nix::libc::SYS_exit
    );
    let mut headless = Command::new("unshare");
    let headless = headless.args(["-u", "python3", "-c", &end_main_thread]).stdin(Stdio::null());
    let headless = Guard(headless.spawn().unwrap());
    let main_thread = format!("/proc/{}/ns/mnt", headless.pid());
    eventually("its main thread has ended", || File::open(&main_thread).is_err());
    let (own, pid) = (sleeper.namespaces(), sleeper.pid());
    // Other processes start and end meanwhile, and lsns and the census count themselves.
    eventually("both agree", || {
        let (lsns, census) = (by_lsns(), by_census());
        assert!(census.iter().any(|(_, kind, first, _)| kind == "uts" && *first == headless.pid()));
        let census: Listed = census.into_iter().filter(is_known_to_lsns).collect();
        let names =
            |all: &Listed| all.iter().map(|(ns, kind, ..)| (*ns, kind.clone())).collect::<BTreeSet<_>>();
        let ours =
            |all: &Listed| all.iter().filter(|(_, _, first, _)| *first == pid).cloned().collect::<Listed>();
        assert_eq!(ours(&census).len(), 5, "{census:?}");
        assert!(ours(&census).iter().all(|(ns, kind, ..)| own[kind.parse::<Kind>().unwrap()].ino == *ns));
        names(&lsns) == names(&census) && ours(&lsns) == ours(&census)
    });
}

#[test]
fn a_container_made_by_unshare_is_listed() {
    if !nspod_testkit::root() {
        return;
    }
    let sleeper = Sleeper::start("unshare -mnui");
    let (pid, host) = (sleeper.pid(), NamespaceSet::current().unwrap());
    let all = json(&[]);
    let container = container_of(&all, pid);
    assert_eq!(pids(&container["pids"]), [pid]);
    assert_eq!(container["isolated"], serde_json::json!(["mnt", "net", "uts", "ipc"]));
    assert_eq!(container["name"], Value::Null);
    assert!(!pids(&all["host_pids"]).contains(&pid));

    let picture = census(&[]);
    let row = picture.lines().find(|line| line.contains(&format!(" {pid} "))).expect(&picture);
    assert!(row.ends_with("sleep 1000"), "{row}");
    let cells: Vec<&str> = row.split_whitespace().skip(2).take(8).collect();
    let dots: Vec<bool> = cells.iter().map(|cell| *cell == "·").collect();
    assert_eq!(dots, [false, false, true, true, false, false, true, true], "{row}");

    let place = census(&["--pid", &pid.to_string()]);
    assert!(place.contains("isolated in mnt,net,uts,ipc\n"), "{place}");
    let net = sleeper.namespaces()[Kind::Net].display(Kind::Net).to_string();
    let line = place.lines().find(|line| line.starts_with(&net)).expect(&place);
    assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>(), ["1", "none"]);
    let user = host[Kind::User].display(Kind::User).to_string();
    assert!(place.lines().any(|line| line.starts_with(&user) && line.ends_with("the host")), "{place}");
}

#[test]
fn the_pids_of_a_nested_process_are_listed_from_the_host_inwards() {
    if !nspod_testkit::root() {
        return;
    }
    // unshare forks into the new pid namespace, and kills its child when it ends.
    let outer = Command::new("unshare").args(["-pf", "--kill-child", "sleep", "1000"]).spawn().unwrap();
    let outer = Sleeper(Guard(outer));
    let children = format!("/proc/{0}/task/{0}/children", outer.pid());
    let mut inner = String::new();
    eventually("it has a child", || {
        inner = std::fs::read_to_string(&children).unwrap().trim().to_owned();
        std::fs::read_to_string(format!("/proc/{inner}/comm")).is_ok_and(|name| name.trim() == "sleep")
    });
    let place = census(&["--pid", &inner]);
    assert!(
        place.contains(&format!("pids       {inner} > 1 (from the host's namespace to its own)\n")),
        "{place}"
    );
    let all = json(&["--pid", &inner]);
    assert_eq!(pids(&all["process"]["inside"]), [inner.parse().unwrap(), 1]);
    assert_eq!(all["container"]["init"], inner.parse::<i32>().unwrap());
}

#[test]
fn two_processes_that_share_net_and_not_mnt_are_a_pod() {
    if !nspod_testkit::root() {
        return;
    }
    let first = Sleeper::start("unshare -mnui");
    let second = Sleeper::start(&format!("nsenter -t {} -n -u -i unshare -m", first.pid()));
    let alone = Sleeper::start("unshare -mnui");
    let all = json(&[]);
    let pod = |sleeper: &Sleeper| container_of(&all, sleeper.pid())["pod"].as_u64().unwrap();
    assert_eq!(pod(&first), pod(&second));
    assert_eq!(container_of(&all, alone.pid())["pod"], Value::Null, "one container is no pod");
    let pod = &all["pods"][pod(&first) as usize];
    assert_eq!(pod["shared"], serde_json::json!(["net", "uts", "ipc"]));
    assert_eq!(pod["containers"].as_array().unwrap().len(), 2);

    let picture = census(&[]);
    let cells = |sleeper: &Sleeper| {
        let pid = format!(" {} ", sleeper.pid());
        let row = picture.lines().find(|line| line.contains(&pid)).expect(&picture);
        row.split_whitespace().take(10).map(str::to_owned).collect::<Vec<_>>()
    };
    let (a, b, c) = (cells(&first), cells(&second), cells(&alone));
    let same: Vec<usize> = (0..10).filter(|i| a[*i] == b[*i] && a[*i] != c[*i]).collect();
    // The pod, net, uts and ipc.
    assert_eq!(same, [0, 3, 6, 7], "{picture}");
    let place = census(&["--pid", &first.pid().to_string()]);
    let want = format!("containers {}, {}; all share net,uts,ipc\n", first.pid(), second.pid());
    assert!(place.contains(&want), "{place}");
}

#[test]
fn a_namespace_held_only_by_a_descriptor_is_found_on_request() {
    if !nspod_testkit::root() {
        return;
    }
    let sleeper = Sleeper::start("unshare -u");
    let ino = sleeper.namespaces()[Kind::Uts].ino;
    let file = File::open(format!("/proc/{}/ns/uts", sleeper.pid())).unwrap();
    drop(sleeper);
    let line = |text: String| text.lines().find(|l| l.starts_with(&format!("{ino} "))).map(str::to_owned);
    let found = line(census(&["--fds", "--namespaces", "uts"])).expect("it is held");
    let want = format!("fd {} of {}", file.as_raw_fd(), std::process::id());
    assert!(found.ends_with(&want), "{found}");
    assert_eq!(line(census(&["--namespaces", "uts"])), None);
    assert_eq!(line(census(&["--fds", "--namespaces", "net"])), None);
}

#[test]
fn containers_of_nspod_are_shown_by_name() {
    if !nspod_testkit::root() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    let picture = census(&[]);
    let row = picture.lines().find(|line| line.split_whitespace().nth(1) == Some(&*name)).expect(&picture);
    assert!(row.split_whitespace().skip(2).take(3).all(|cell| cell != "·"), "{row}");
    assert!(row.ends_with(" sleep 1000"), "{row}");
    let all = json(&[]);
    let mine = all["containers"].as_array().unwrap().iter().find(|c| c["name"] == *name).unwrap();
    let place = census(&["--pid", &mine["init"].to_string()]);
    assert!(place.contains(&format!("container  {}, ", &*name)), "{place}");
}

#[test]
fn kernel_threads_are_of_the_host() {
    if !nspod_testkit::root() {
        return;
    }
    // The thread of devtmpfs has a mount namespace of its own.
    let all = json(&[]);
    let kernel = |p: &&Value| p["kernel"] == true;
    let of_census = all["processes"].as_array().unwrap();
    let threads: Vec<i32> = of_census.iter().filter(kernel).map(pid_of).collect();
    let in_proc = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // PF_KTHREAD is a flag in the seventh field after the name; see proc_pid_stat(5).
    let by_flags = |pid: &i32| {
        let stat = in_proc(pid);
        let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
        flags.is_some_and(|flags| flags & 0x0020_0000 != 0)
    };
    // A kernel thread can end meanwhile.
    let alive: Vec<i32> = of_census.iter().map(pid_of).filter(|pid| !in_proc(pid).is_empty()).collect();
    let wanted: Vec<i32> = alive.iter().copied().filter(by_flags).collect();
    let still = |pid: &i32| !in_proc(pid).is_empty();
    let known: Vec<i32> = threads.iter().copied().filter(|pid| alive.contains(pid)).collect();
    let differ: Vec<i32> = known.iter().filter(|pid| !wanted.contains(pid)).copied().filter(still).collect();
    assert!(differ.is_empty() && wanted.iter().all(|pid| known.contains(pid)), "{known:?} {wanted:?}");
    let host = pids(&all["host_pids"]);
    assert!(threads.iter().all(|pid| host.contains(pid)), "{threads:?} {host:?}");
}

fn pid_of(process: &Value) -> i32 {
    process["pid"].as_i64().unwrap() as i32
}

#[test]
fn a_pod_has_its_name_in_each_row_and_one_container_is_no_pod() {
    if !nspod_testkit::root() {
        return;
    }
    let (pod, one) = (Name::pod(), Name::container());
    let alone = Name::detached(&[], &["sleep", "1000"]);
    let foreign = Sleeper::start("unshare -mnui");
    // A process holds the namespaces of a pod that shares pid.
    assert!(nspod(&["pod", "create", "--share", "net,ipc,uts,pid", &pod]).status.success());
    let label = |picture: &str, pid: &str| {
        let of = |line: &&str| line.split_whitespace().any(|word| word == pid);
        let row = picture.lines().find(of).unwrap_or_else(|| panic!("{pid} is not in {picture}"));
        row.split_whitespace().next().unwrap().to_owned()
    };
    let rows = |picture: &str| picture.lines().filter(|line| line.starts_with(&*pod)).count();
    assert_eq!(rows(&census(&[])), 1, "the holder has the pod's name");
    let no_log = ["--log-max-size", "none"];
    let run = [&["run", "-d", "--pod", &pod, "--name", &one][..], &no_log, &["sleep", "1000"]].concat();
    let started = nspod(&run);
    assert!(started.status.success(), "{}", started.err);
    let picture = census(&[]);
    assert_eq!(rows(&picture), 2, "{picture}");
    assert_eq!(label(&picture, &one), *pod);
    assert_eq!(label(&picture, &alone), "-");
    assert_eq!(label(&picture, &foreign.pid().to_string()), "-");

    // Only the selected ones.
    let of_pod = census(&[&pod]);
    assert!(of_pod.ends_with("\n2 containers, 1 pod\n"), "{of_pod}");
    assert_eq!(census(&[&one]), of_pod, "a container is shown with its pod");
    let by_json = json(&[&one]);
    assert_eq!(by_json["containers"].as_array().unwrap().len(), 2);
    assert!(by_json["containers"].as_array().unwrap().iter().all(|c| c["pod"] == 0 && c["pod_name"] == *pod));
    assert_eq!(by_json["pods"][0]["containers"], serde_json::json!([0, 1]));
    let inside: Vec<i32> =
        by_json["containers"].as_array().unwrap().iter().flat_map(|c| pids(&c["pids"])).collect();
    assert!(by_json["processes"].as_array().unwrap().iter().all(|p| inside.contains(&pid_of(p))));
    let of_alone = census(&[&alone]);
    assert!(of_alone.ends_with("\n1 container, 0 pods\n"), "{of_alone}");
    let mine = census(&["--mine"]);
    assert!(mine.contains(&*alone) && mine.contains(&*pod));
    assert!(mine.lines().all(|line| !line.contains(&format!(" {} ", foreign.pid()))), "{mine}");
    let none = nspod(&["census", "no-such"]);
    assert_eq!(none.code(), 125);
    assert!(none.err.starts_with("nspod: there is no running container or pod no-such; "), "{}", none.err);
}

#[test]
fn on_a_terminal_the_table_fits_its_width() {
    if !nspod_testkit::root() {
        return;
    }
    let long = Name::detached(
        &[],
        &["sh", "-c", "sleep 1000; echo a command that is longer than a terminal is wide, with words"],
    );
    let mut terminal = Terminal::nspod(&["census", &long]);
    terminal.expect("1 container, 0 pods");
    let shown = terminal.shown();
    // The name can be cut off after 7 of its bytes.
    let row = shown.lines().find(|line| line.contains(&long[..7])).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.contains("sh -c") && row.contains('…'), "{shown}");
    assert_eq!(without_colours(row).chars().count(), 80, "{shown}");
    // Without a terminal nothing is cut off.
    assert!(!census(&[&long]).contains('…'));
}

/// Removes SGR sequences.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.filter_map(|part| part.split_once('m')).map(|(_, rest)| rest).collect::<String>()
}

#[test]
fn an_ordinary_user_sees_how_much_is_not_counted() {
    if !nspod_testkit::root() {
        return;
    }
    let user = User::new();
    let output = user.nspod(&["census", "--namespaces"]);
    assert!(output.status.success());
    let said = &output.err;
    assert!(said.contains("nspod: INCOMPLETE: "), "{said}");
    assert!(said.contains(" processes are not readable") && said.ends_with(": run it as root\n"), "{said}");
    let own = NamespaceSet::current().unwrap()[Kind::Net].ino.to_string();
    assert!(output.out.contains(&own));
    assert!(!user.dir().join("nspod").exists(), "a command that only reads creates no state directory");
}

#[test]
fn a_missing_process_is_an_error() {
    let output = nspod(&["census", "--pid", "2147483647"]);
    assert_eq!((output.code(), output.err.as_str()), (125, "nspod: there is no process 2147483647\n"));
    assert_eq!(nspod(&["census", "--namespaces", "netz"]).code(), 125);
}

/// Returns the number of system calls of a census in a pid namespace with this many sleepers, and the
/// number of descriptors of each sleeper. Calls that manage memory are not counted, because they depend
/// on the amount, nor are those by which a debug build checks each descriptor that it closes.
fn calls(sleepers: usize, args: &str) -> (usize, usize) {
    const SCRIPT: &str = r#"
        mount -t tmpfs none /run && for i in $(seq "$1"); do sleep 1000 & done
        set -- "$@" /proc/$!/fd/*
        echo $(($# - 4))
        strace -qq -f -c -U name,calls -o "$2" "$3" $4 > /dev/null"#;
    let counts = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", SCRIPT, "sh", &sleepers.to_string()])
        .arg(counts.path())
        .args([NSPOD, args])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let fds = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let text = std::fs::read_to_string(counts.path()).unwrap();
    let left_out = ["fcntl", "brk", "mmap", "mprotect", "mremap", "munmap", "madvise", "futex", "total"];
    let count = |line: &str| {
        let (name, calls) = line.trim().split_once(char::is_whitespace)?;
        (!left_out.contains(&name)).then(|| calls.trim().parse::<usize>().ok())?
    };
    (text.lines().filter_map(count).sum(), fds)
}

#[test]
fn each_process_costs_eight_links_and_two_files_at_any_number_of_processes() {
    if !nspod_testkit::root() {
        return;
    }
    let each = |args| {
        let ((few, _), (many, fds)) = (calls(20, args), calls(120, args));
        assert!(fds > 0 && many > few, "{few} calls, then {many}, with {fds} descriptors each");
        ((many - few) as f64 / 100.0, fds as f64)
    };
    // Open and close of the directory, eight links, and open, read and close of two files.
    let (picture, _) = each("census");
    assert!(picture <= 16.0, "a census makes {picture} calls for a process");
    // In addition, the list of descriptors, and a link for each.
    let (everything, fds) = each("--json census");
    assert!(everything <= 16.0 + 6.0 + fds, "with {fds} descriptors it makes {everything} calls");
}
