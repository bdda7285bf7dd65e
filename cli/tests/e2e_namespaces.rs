//! Each kind of namespace, chosen separately: new, the host's, or another process's.

mod common;

use std::path::{Path, PathBuf};

use common::{NSPOD, Name, alone, json, nspod, ok, root};
use ns_core::Kind;

fn own(kind: Kind) -> PathBuf {
    std::fs::read_link(format!("/proc/self/ns/{}", kind.name())).unwrap()
}

/// Returns the namespace of a kind that a container with these flags is in.
#[track_caller]
fn of(flags: &[&str], kind: Kind) -> PathBuf {
    let path = format!("/proc/self/ns/{}", kind.name());
    ok(&[&["run"], flags, &["readlink", &path]].concat()).trim().into()
}

#[test]
fn new_creates_a_namespace_and_host_keeps_the_callers() {
    if !root() {
        return;
    }
    for kind in Kind::ALL {
        let (new, host) = (format!("{}=new", kind.name()), format!("{}=host", kind.name()));
        assert_ne!(of(&["--ns", &new], kind), own(kind), "{new}");
        assert_eq!(of(&["--ns", &host], kind), own(kind), "{host}");
        let usual = of(&[], kind) == own(kind);
        assert_eq!(usual, matches!(kind, Kind::User | Kind::Time), "{kind} without a flag");
    }
}

/// The kernel of user-mode Linux lacks time namespaces. Other test kernels have every kind.
#[test]
fn a_kind_that_the_kernel_lacks_stops_only_containers_that_request_it() {
    if !root() {
        return;
    }
    let absent = |kind: Kind| !Path::new("/proc/self/ns").join(kind.name()).exists();
    // On this kernel, programs may have to avoid registers that the kernel does not save.
    let flags = ["-e", "GLIBC_TUNABLES"];
    // This kernel also lacks overlayfs, which the default root requires.
    let run = [&flags[..], &["--host-sockets"]].concat();
    let container = Name::detached(&run, &["sleep", "1000"]);
    assert_eq!(ok(&[&["exec"], &flags[..], &[&container, "echo", "in"]].concat()), "in\n");
    assert!(!json(&["inspect", &container])[0]["namespaces"].is_null());
    assert!(ok(&["top", &container]).contains("sleep"));
    assert!(nspod(&["census"]).out.contains("sleep 1000"));
    let pod = Name::pod();
    ok(&["pod", "create", "--share", "net,ipc,uts,pid", &pod]);
    assert_eq!(ok(&[&["run", "--pod", &pod], &run[..], &["echo", "in"]].concat()), "in\n");
    // Without overlayfs, doctor reports a problem. A missing kind of namespace does not stop its trials.
    let checks = nspod(&["doctor", "--json"]).out;
    assert!(checks.contains("\"a container\"") && !checks.contains("ns/time"), "{checks}");
    for kind in Kind::ALL {
        let new = format!("{kind}=new");
        let asked = nspod(&[&["run", "--ns", &new], &run[..], &["true"]].concat());
        let refused = asked.err.contains(&format!("no {kind} namespaces"));
        let code = if absent(kind) { 125 } else { 0 };
        assert_eq!((asked.code(), refused), (code, absent(kind)), "{kind}: {}", asked.err);
    }
}

#[test]
fn bare_creates_the_namespaces_and_nothing_else() {
    if !root() {
        return;
    }
    let inside = |kind: Kind, flags: &[&str]| -> PathBuf {
        let link = format!("/proc/$$/ns/{}", kind.name());
        // With --bare, /proc is not remounted, so it shows the host's pids.
        let script =
            format!("read line < /proc/self/stat; set -- $line; readlink {}", link.replace("$$", "$1"));
        ok(&[&["run", "--bare"], flags, &["sh", "-c", &script]].concat()).trim().into()
    };
    let apart = |kind| matches!(kind, Kind::Mnt | Kind::Net | Kind::Pid | Kind::Ipc | Kind::Uts);
    for kind in Kind::ALL {
        assert_eq!(inside(kind, &[]) != own(kind), apart(kind), "{kind}");
    }
    assert_eq!(inside(Kind::Net, &["--net", "host"]), own(Kind::Net));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let script =
        format!("echo $$ $NSPOD_TEST_BARE $(cat /proc/self/cgroup | wc -l) > {}; exit 3", file.display());
    let mut command = std::process::Command::new(NSPOD);
    command.args(["run", "--bare", "sh", "-c", &script]).env("NSPOD_TEST_BARE", "there");
    assert_eq!(common::run_with(&mut command, "").code(), 3);
    let lines = std::fs::read_to_string("/proc/self/cgroup").unwrap().lines().count();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("2 there {lines}\n"));
    let refused = nspod(&["run", "--bare", "-m", "64m", "true"]);
    assert_eq!(refused.code(), 125);
    assert!(refused.err.contains("'--bare' cannot be used with"), "{}", refused.err);
}

#[test]
fn bare_mounts_proc_on_request() {
    if !root() {
        return;
    }
    let script = "echo $$; exec readlink /proc/self";
    let seen = |flags: &[&str]| ok(&[&["run", "--bare"], flags, &["sh", "-c", script]].concat());
    assert_eq!(seen(&["--mount-proc"]), "2\n2\n");
    assert_ne!(seen(&[]), "2\n2\n");
    let user = common::user::User::new();
    let run = user.nspod(&["run", "--bare", "--mount-proc", "--kill-child", "readlink", "/proc/self"]);
    assert_eq!(run.ok(), "2\n");
    for pid in [&["--pid", "host"][..], &["--ns", "mnt=host"]] {
        let refused = nspod(&[&["run", "--bare", "--mount-proc"], pid, &["true"]].concat());
        assert_eq!(refused.code(), 125);
        assert!(refused.err.contains("--mount-proc requires a new mnt namespace"), "{}", refused.err);
    }
}

#[test]
fn flags_with_dockers_names_select_the_same() {
    if !root() {
        return;
    }
    for (flag, kind) in [
        ("--network", Kind::Net),
        ("--pid", Kind::Pid),
        ("--ipc", Kind::Ipc),
        ("--uts", Kind::Uts),
        ("--userns", Kind::User),
        ("--cgroupns", Kind::Cgroup),
    ] {
        assert_eq!(of(&[flag, "host"], kind), own(kind), "{flag}");
    }
    assert_ne!(of(&["--network", "none"], Kind::Net), own(Kind::Net));
    assert_eq!(ok(&["run", "--network", "none", "ls", "/sys/class/net"]), "lo\n");
    assert_eq!(ok(&["run", "--network", "none", "cat", "/sys/class/net/lo/operstate"]), "unknown\n");
}

#[test]
fn a_namespace_is_joined_by_container_pid_or_path() {
    if !root() {
        return;
    }
    let name = Name::detached(
        &["--init=false", "--log-max-size=none", "--userns=auto", "--ns=time=new", "-h", "joined"],
        &["sleep", "1000"],
    );
    let seen = json(&["inspect", &name]);
    let pid = &seen[0]["pid"];
    for kind in Kind::ALL {
        let theirs = PathBuf::from(seen[0]["namespaces"][kind.name()].as_str().unwrap());
        assert_ne!(theirs, own(kind), "{kind}");
        // Join with and without the user namespace that owns the namespace.
        for with in [None, Some("--ns=user=join:container:")] {
            let user = with.map(|flag| format!("{flag}{}", &*name));
            for whose in
                [format!("container:{}", &*name), format!("{pid}"), format!("/proc/{pid}/ns/{}", kind.name())]
            {
                let flag = format!("--ns={}=join:{whose}", kind.name());
                let mut flags: Vec<&str> = user.as_deref().into_iter().collect();
                flags.retain(|_| kind != Kind::User);
                // The joined /proc shows the pids of its pid namespace.
                let pids = format!("--pid=container:{}", &*name);
                flags.extend((kind == Kind::Mnt).then_some(pids.as_str()));
                flags.push(&flag);
                assert_eq!(of(&flags, kind), theirs, "{flags:?}");
            }
        }
    }
    assert_eq!(ok(&["run", &format!("--uts=container:{}", &*name), "hostname"]), "joined\n");
    let seen = ok(&["run", &format!("--pid=container:{}", &*name), "cat", "/proc/1/cmdline"]);
    assert_eq!(seen, "sleep\x001000\0");
}

#[test]
fn a_pinned_namespace_is_joined_by_its_path() {
    if !root() {
        return;
    }
    let script = "mkdir -m 700 /run/pins && touch /run/pins/uts && \
        unshare --uts=/run/pins/uts hostname pinned && $N run --ns uts=join:/run/pins/uts hostname";
    assert_eq!(alone(script).ok(), "pinned\n");
}

#[test]
fn users_are_mapped_as_requested() {
    if !root() {
        return;
    }
    let map = |flags: &[&str]| {
        let text = ok(&[&["run"], flags, &["cat", "/proc/self/uid_map", "/proc/self/gid_map"]].concat());
        text.lines()
            .map(|l| l.split_whitespace().map(|n| n.parse().unwrap()).collect())
            .collect::<Vec<Vec<u32>>>()
    };
    assert_eq!(map(&["--userns", "single"]), [[0, 0, 1], [0, 0, 1]]);
    assert_eq!(map(&["--uidmap", "0:1000:10", "--gidmap", "0:2000:20"]), [[0, 1000, 10], [0, 2000, 20]]);
    let auto = map(&["--userns", "auto"]);
    assert!(auto.iter().all(|extent| extent[0] == 0 && extent[1] >= 1000 && extent[2] >= 65_536), "{auto:?}");
    // Root in the container is not root on the host.
    let seen = nspod(&["run", "--userns", "auto", "sh", "-c", "id -u; cat /etc/shadow"]);
    assert!(seen.out == "0\n" && seen.err.contains("Permission denied"), "{seen:?}");
}

#[test]
fn clocks_have_the_requested_offsets() {
    if !root() {
        return;
    }
    let uptime = |text: &str| text.split('.').next().unwrap().parse::<u64>().unwrap();
    let host = uptime(&std::fs::read_to_string("/proc/uptime").unwrap());
    let inside = uptime(&ok(&["run", "--time-offset", "boottime=1000000", "cat", "/proc/uptime"]));
    assert!(inside >= host + 1_000_000, "{inside} {host}");
}

#[test]
fn a_missing_or_invalid_namespace_is_named() {
    if !root() {
        return;
    }
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let gone = format!("net=join:{}", child.id());
    let refused = nspod(&["run", "--ns", &gone, "true"]);
    assert_eq!(refused.code(), 125);
    let want = format!("nspod: cannot open a pidfd of process {}: pidfd_open: ", child.id());
    assert!(refused.err.starts_with(&want), "{}", refused.err);
    let refused = nspod(&["run", "--ns", &format!("net=join:{NSPOD}"), "true"]);
    assert!(refused.err.contains("the file is not a namespace"), "{}", refused.err);
    let uts = nspod(&["run", "--ns", "net=join:/proc/self/ns/uts", "true"]);
    assert_eq!(uts.code(), 125);
    assert!(uts.err.contains("uts"), "{}", uts.err);
}
