//! The names by which the containers of a pod reach each other.

mod common;

use std::process::{Command, Stdio};

use common::user::User;
use common::{NSPOD, Name, end_of, eventually, nspod, ok, root};
use nspod_testkit::is_slow;

/// Returns the names of the containers in a hosts file. Each has an address of IPv4 and one of IPv6.
#[track_caller]
fn named(hosts: &str) -> Vec<&str> {
    let lines = hosts.split_once("# containers of the pod\n").map_or("", |(_, lines)| lines);
    let of = |address: &str| lines.lines().filter_map(|line| line.strip_prefix(address)).collect::<Vec<_>>();
    assert_eq!(of("127.0.0.1\t"), of("::1\t"), "{hosts}");
    of("127.0.0.1\t")
}

/// Checks the names that a container sees now.
#[track_caller]
fn sees(container: &str, expected: &[&str]) {
    let hosts = ok(&["exec", container, "cat", "/etc/hosts"]);
    assert_eq!(named(&hosts), expected, "{hosts}");
}

#[test]
fn the_containers_of_a_pod_reach_each_other_by_name() {
    if !root() {
        return;
    }
    let (pod, server) = (Name::pod(), Name::container());
    ok(&["pod", "create", &pod]);
    let script = "use Socket; socket(S,2,1,0); bind(S,sockaddr_in(4711,INADDR_LOOPBACK)) or die; listen(S,1); $|=1; print qq(ready\n); accept(C,S); print C qq(hello\n)";
    ok(&["run", "--pod", &pod, "-d", "--name", &server, "perl", "-e", script]);
    eventually("the server is ready", || ok(&["logs", &server]).contains("ready"));
    let client = "use Socket; socket(S,2,1,0); connect(S,sockaddr_in(4711,inet_aton($ARGV[0]))) or die qq($!\n); print <S>";
    assert_eq!(ok(&["run", "--pod", &pod, "perl", "-e", client, &server]), "hello\n");
}

#[test]
fn the_names_follow_the_containers() {
    if !root() {
        return;
    }
    let (pod, first) = (Name::pod(), Name::container());
    let others = [Name::container(), Name::container(), Name::container()];
    ok(&["pod", "create", &pod]);
    let run = |name: &str, command: &[&str]| {
        ok(&[&["run", "--pod", &pod, "-d", "--name", name], command].concat());
    };
    run(&first, &["sleep", "1000"]);
    sees(&first, &[&first]);
    others.iter().for_each(|name| run(name, &["sleep", "1000"]));
    let [a, b, c] = &others;
    sees(&first, &[&first, a, b, c]);
    ok(&["stop", a]);
    sees(&first, &[&first, b, c]);
    ok(&["kill", b]);
    sees(&first, &[&first, c]);
    ok(&["rm", "-f", c]);
    sees(&first, &[&first]);
    if is_slow() {
        return;
    }
    // No process of nspod is there when a detached container ends by itself. The next `ps` removes the name.
    ok(&["rm", a]);
    run(a, &["true"]);
    eventually("the container has ended", || ok(&["ps", "-q"]).lines().all(|line| line != &**a));
    sees(&first, &[&first]);
    // A container in the foreground has its own name, and leaves none.
    let seen = ok(&["run", "--pod", &pod, "--name", c, "cat", "/etc/hosts"]);
    assert_eq!(named(&seen), [&*first, c]);
    sees(&first, &[&first]);
    ok(&["rm", a]);
    ok(&["run", "--keep", "--pod", &pod, "--name", a, "true"]);
    sees(&first, &[&first]);
    assert_eq!(nspod(&["run", "--pod", &pod, "no-such-program"]).code(), 127);
    sees(&first, &[&first]);
    let after = ok(&["run", "cat", "/etc/hosts"]);
    assert_eq!(named(&after), [""; 0], "a container without the pod");
}

#[test]
fn containers_that_start_at_once_are_all_named() {
    if !root() || is_slow() {
        return;
    }
    let pod = Name::pod();
    ok(&["pod", "create", &pod]);
    let mut names: Vec<Name> = (0..6).map(|_| Name::container()).collect();
    let start = |name: &Name| {
        let mut command = Command::new(NSPOD);
        command.args(["run", "--pod", &pod, "-d", "--name", name, "sleep", "1000"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    };
    for mut child in names.iter().map(start).collect::<Vec<_>>() {
        assert!(end_of(&mut child).success());
    }
    names.sort_by(|a, b| a.cmp(b));
    let hosts = ok(&["exec", &names[0], "cat", "/etc/hosts"]);
    let mut seen = named(&hosts);
    seen.sort_unstable();
    assert_eq!(seen, names.iter().map(|name| &**name).collect::<Vec<_>>());
}

#[test]
fn a_container_cannot_change_the_names_and_its_host_name_is_in_both_places() {
    if !root() {
        return;
    }
    let same = "hostname; cat /etc/hostname; getent hosts $(hostname) | head -c 3";
    for (flags, own) in
        [(&[][..], false), (&["--share", "net,ipc"], true), (&["--share", "net,uts,mnt"], false)]
    {
        let pod = Name::pod();
        ok(&[&["pod", "create"], flags, &[&pod]].concat());
        let name = Name::container();
        let seen = ok(&["run", "--pod", &pod, "--name", &name, "sh", "-c", same]);
        let host = if own { &*name } else { &*pod };
        assert!(seen.starts_with(&format!("{host}\n{host}\n")), "{flags:?}: {seen}");
        // getent prefers ::1.
        assert!(seen.ends_with("::1") || seen.ends_with("127"), "{flags:?}: {seen}");
        let write =
            "echo 10.0.0.1 evil >>/etc/hosts; echo evil >/etc/hostname; rm -f /etc/hosts; cat /etc/hosts";
        let written = nspod(&["run", "--pod", &pod, "sh", "-c", write]);
        assert!(!written.out.contains("evil") && written.out.contains("localhost"), "{written:?}");
        assert!(written.err.matches("ead-only file system").count() >= 2, "{written:?}");
    }
    let host = std::fs::read_to_string("/etc/hosts").unwrap();
    assert!(!host.contains("# containers of the pod"), "{host}");
}

#[test]
fn a_host_name_adds_no_line() {
    if !root() || is_slow() {
        return;
    }
    let (pod, name) = (Name::pod(), Name::container());
    ok(&["pod", "create", "-h", "box\n10.9.9.9\tevil", &pod]);
    let seen = ok(&["run", "--pod", &pod, "--name", &name, "cat", "/etc/hosts"]);
    assert!(!seen.contains("evil") && !seen.contains("box"), "{seen}");
    assert_eq!(named(&seen), [&*name]);
}

#[test]
fn a_lease_on_the_names_does_not_suspend_the_next_start() {
    if !root() || is_slow() {
        return;
    }
    let (pod, holder) = (Name::pod(), Name::container());
    ok(&["pod", "create", &pod]);
    // F_SETLEASE is 1024, F_RDLCK 0. A program that does not handle SIGIO loses the lease when it ends.
    let script = "$SIG{IO} = 'IGNORE'; $| = 1; open(F, '<', '/etc/hosts') or die; fcntl(F, 1024, 0) // die qq($!); print qq(leased\n); sleep 1000 while 1";
    ok(&["run", "--pod", &pod, "-d", "--name", &holder, "perl", "-e", script]);
    eventually("the program has the lease", || ok(&["logs", &holder]).contains("leased"));
    let start = std::time::Instant::now();
    let run = nspod(&["run", "--pod", &pod, "echo", "started"]);
    assert_eq!((run.code(), &*run.out), (0, "started\n"), "{run:?}");
    assert!(run.err.contains("cannot open") && run.err.contains("hosts"), "{run:?}");
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn an_ordinary_users_pod_has_names_too() {
    if !root() {
        return;
    }
    let user = User::new();
    user.nspod(&["pod", "create", "p"]).ok();
    user.nspod(&["run", "--pod", "p", "-d", "--name", "db", "sleep", "1000"]).ok();
    let seen =
        user.nspod(&["run", "--pod", "p", "--name", "web", "sh", "-c", "cat /etc/hosts; cat /etc/hostname"]);
    let removed = user.nspod(&["pod", "rm", "-f", "p"]);
    let hosts = seen.ok();
    assert!(hosts.ends_with("\np\n"), "{hosts}");
    assert_eq!(named(hosts.trim_end_matches("p\n")), ["db", "web"]);
    assert_eq!(removed.ok(), "p\n");
}
