//! The field `linux.namespaces`, id mappings, names of a UTS namespace, and network devices.

use std::fs;
use std::path::Path;
use std::process::Command;

use cgroup_core::Controllers;
use serde_json::json;

use crate::bundle::{Bundle, Neighbour, cgroups, identity, ours, runtime_lacks};
use crate::common::{eventually, unique};

/// Types of the specification, and their names in /proc.
const KINDS: [(&str, &str); 8] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mount", "mnt"),
    ("network", "net"),
    ("pid", "pid"),
    ("time", "time"),
    ("user", "user"),
    ("uts", "uts"),
];

/// Returns a container that prints its namespace of a kind.
fn says(kind: &str) -> Bundle {
    Bundle::of(&["readlink", &format!("/proc/self/ns/{kind}")])
}

#[test]
fn each_kind_of_namespace_is_new_if_listed_and_the_hosts_otherwise() {
    for (kind, name) in KINDS {
        if kind == "time" && runtime_lacks(&["runc", "crun"], "time namespaces require version 1.2")
            || kind == "cgroup" && !cgroups(Controllers::empty())
        {
            continue;
        }
        let host = identity(&format!("/proc/self/ns/{name}"));
        let new = match kind {
            "user" => says(name).user_namespace(),
            _ => says(name).namespace(json!({ "type": kind })),
        };
        assert_ne!(new.run().ok().trim_end(), host, "{kind}");
        // Separate tests cover a container without a mount namespace, because its mounts are the host's.
        if kind != "mount" {
            let mut bundle = says(name).without(kind);
            if kind == "network" {
                // In the host's network namespace, sysfs cannot be mounted anew, but it can be bind-mounted.
                bundle = bundle.set(
                    "/mounts/5",
                    json!({ "destination": "/sys", "source": "/sys", "options": ["rbind", "ro"] }),
                );
            }
            assert_eq!(bundle.run().ok().trim_end(), host, "{kind}");
        }
    }
}

#[test]
fn each_kind_of_namespace_is_joined_by_its_path() {
    let flags: [(&str, &str, &[&str]); 8] = [
        ("cgroup", "cgroup", &["--cgroup"]),
        ("ipc", "ipc", &["--ipc"]),
        ("mount", "mnt", &["--mount"]),
        ("network", "net", &["--net"]),
        ("pid", "pid", &["--pid", "--mount-proc"]),
        ("time", "time", &["--time"]),
        ("user", "user", &["--user", "--map-root-user"]),
        ("uts", "uts", &["--uts"]),
    ];
    for (kind, name, flags) in flags {
        if kind == "time" && runtime_lacks(&["runc", "crun"], "time namespaces require version 1.2")
            || kind == "cgroup" && !cgroups(Controllers::empty())
            || kind == "user"
                && runtime_lacks(
                    &["crun", "runc"],
                    "joining a user namespace without mappings is not supported",
                )
        {
            continue;
        }
        let neighbour = Neighbour::new(flags);
        let path = neighbour.namespace(name);
        let mut bundle = says(name);
        if kind == "user" {
            // The root of the container belongs to the host. So the container can mount neither a sysfs of
            // another network namespace nor an mqueue of another ipc namespace.
            bundle = bundle.set("/process/capabilities", json!({}));
        }
        assert_eq!(
            bundle.namespace(json!({ "type": kind, "path": path })).run().ok().trim_end(),
            identity(&path),
            "{kind}"
        );
    }
}

/// The kernel of user-mode Linux lacks time namespaces. Other test kernels have every kind.
#[test]
fn a_kind_that_the_kernel_lacks_stops_only_containers_that_request_it() {
    // On this kernel, programs may have to avoid registers that the kernel does not save.
    let registers = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
    let registers = format!("GLIBC_TUNABLES={registers}");
    let bundle = Bundle::of(&["sleep", "1000"]).set("/process/env/-", registers.as_str()).up();
    assert_eq!(bundle.exec(&["echo", "in"]).ok(), "in\n");
    assert_eq!(bundle.status(), "running");
    for (kind, name) in KINDS {
        if !Path::new("/proc/self/ns").join(name).exists() {
            let said = Bundle::sh("true").namespace(json!({ "type": kind })).fails();
            assert!(!ours() || said.contains(&format!("no {name} namespaces")), "{said}");
        }
    }
}

/// A script that prints what a container without a new mount namespace sees of its root.
const ROOT: &str = "ls -d /..; ls /; wc -c < /secret; echo > /dir/file; readlink /proc/self/ns/mnt";

/// Adds mounts to a container without a new mount namespace.
fn guest(bundle: Bundle) -> Bundle {
    bundle
        .file("rootfs/secret", "told\n")
        .file("rootfs/dir/file", "")
        .file("volume/file", "from the volume\n")
        .mount(json!({ "destination": "/volume", "source": "volume", "options": ["rbind"] }))
}

#[test]
fn mounts_are_made_in_a_joined_mount_namespace_whose_other_processes_keep_their_root() {
    let neighbour = Neighbour::new(&["--mount"]);
    let path = neighbour.namespace("mnt");
    let bundle = guest(Bundle::sh(&format!("{ROOT}; cat /volume/file; exec sleep 1000")))
        .set("/linux/maskedPaths", json!(["/secret"]))
        .set("/linux/readonlyPaths", json!(["/dir"]))
        .set("/root/readonly", true)
        .namespace(json!({ "type": "mount", "path": path }))
        .up();
    let ends = format!("0\n{}\nfrom the volume\n", identity(&path));
    eventually("it shows its root", || bundle.printed("create").ends_with(&ends));
    let shown = bundle.printed("create");
    assert!(shown.starts_with("/..\nbin\ndev\ndir\netc\n"), "{shown}");
    if !runtime_lacks(&["crun", "runc"], "exec has another root") {
        assert_eq!(bundle.exec(&["cat", "/volume/file"]).ok(), "from the volume\n");
    }
    if !runtime_lacks(&["crun", "runc"], "it changes the root of all processes in the namespace") {
        let root = fs::read_link(path.replace("ns/mnt", "root")).unwrap();
        assert_eq!(root.to_str(), Some("/"));
        assert!(fs::exists(path.replace("ns/mnt", "root/etc/passwd")).unwrap());
    }
    let here = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!here.contains(bundle.path("").to_str().unwrap()), "{here}");
}

#[test]
fn mounts_without_a_mount_namespace_are_on_the_host_and_end_with_the_container() {
    // Use a mount namespace other than the machine's.
    let bundle = guest(Bundle::sh(&format!("{ROOT}; cat /volume/file")))
        .without("mount")
        .before("readlink /proc/self/ns/mnt; trap 'grep -c $B /proc/self/mountinfo > $B/left' EXIT; run() { \"$@\"; }; run \"$@\"; exit");
    let output = bundle.run();
    let (first, rest) = output.out.split_once('\n').unwrap();
    assert!(rest.starts_with("/..\nbin\ndev\ndir\netc\n"), "{} {}", output.out, output.err);
    assert!(rest.ends_with(&format!("\n5\n{first}\nfrom the volume\n")), "{} {}", output.out, output.err);
    if runtime_lacks(&["crun", "runc"], "the mounts remain") {
        return;
    }
    assert_eq!(fs::read_to_string(bundle.path("left")).unwrap(), "0\n");
    // A failed creation leaves no mount either. exec finds the root of a created container.
    let bundle = guest(Bundle::of(&["sleep", "1000"])).without("mount");
    let bundle = bundle.set("/hooks/createContainer", json!([{ "path": "/bin/false" }]));
    bundle.write_config();
    assert_ne!(bundle.verb(&["create", bundle.id()]).code(), 0);
    let mounts = |bundle: &Bundle| {
        let here = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let rootfs = bundle.path("rootfs").to_str().unwrap().to_owned();
        here.lines().filter(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(&rootfs))).count()
    };
    assert_eq!(mounts(&bundle), 0);
    let bundle = bundle.set("/hooks", json!({})).up();
    assert_eq!(mounts(&bundle), 8);
    assert_eq!(bundle.exec(&["cat", "/volume/file"]).ok(), "from the volume\n");
    bundle.delete(&["--force"]);
    assert_eq!(mounts(&bundle), 0);
    Bundle::sh("true").without("mount").set("/root/path", "/").refused("root.path");
}

#[test]
fn a_joined_pid_namespace_shows_its_processes() {
    // Before Linux 6.17 the procfs is a copy of that of a process in the namespace.
    let neighbour = Neighbour::new(&["--pid", "--mount-proc"]);
    let bundle = Bundle::sh("cat /proc/1/comm; test $$ != 1 && echo another");
    let bundle = bundle.namespace(json!({ "type": "pid", "path": neighbour.namespace("pid") }));
    assert_eq!(bundle.run().ok(), "sleep\nanother\n");
}

#[test]
fn a_namespace_of_the_wrong_or_unknown_type_or_listed_twice_is_refused() {
    let path = |path: &str| Bundle::sh("true").namespace(json!({ "type": "network", "path": path }));
    path("/proc/self/ns/uts").fails();
    path("/not/there").fails();
    path("/etc/passwd").fails();
    Bundle::sh("true").namespace(json!({ "type": "colour" })).refused("linux.namespaces[5].type");
    if !runtime_lacks(&["crun"], "a duplicate type is accepted") {
        Bundle::sh("true")
            .set("/linux/namespaces/-", json!({ "type": "uts" }))
            .refused("linux.namespaces[5]");
    }
}

#[test]
fn the_first_process_is_pid_1_of_a_new_pid_namespace() {
    assert_eq!(Bundle::sh("echo $$; ls -d /proc/[0-9]* | wc -l").run().ok().lines().next(), Some("1"));
}

#[test]
fn host_name_and_domain_name_are_set() {
    assert_eq!(Bundle::sh("hostname").set("/hostname", "box.example").run().ok(), "box.example\n");
    Bundle::sh("true").without("uts").set("/hostname", "box").refused("hostname");
    if runtime_lacks(&["runc"], "domainname requires version 1.1") {
        return;
    }
    let bundle = Bundle::of(&["cat", "/proc/sys/kernel/domainname"]).set("/domainname", "example.org");
    assert_eq!(bundle.run().ok(), "example.org\n");
    Bundle::sh("true").without("uts").set("/domainname", "box").refused("domainname");
}

#[test]
fn id_maps_are_set() {
    let bundle = Bundle::sh("cat /proc/self/uid_map /proc/self/gid_map; id -u").user_namespace();
    let bundle = bundle
        .set("/linux/uidMappings/-", json!({ "containerID": 70_000, "hostID": 300_000, "size": 3 }))
        .set("/linux/gidMappings/-", json!({ "containerID": 80_000, "hostID": 400_000, "size": 4 }));
    let output = bundle.run();
    let lines: Vec<Vec<_>> = output.ok().lines().map(|line| line.split_whitespace().collect()).collect();
    let ranges = [
        vec!["0", "100000", "65536"],
        vec!["70000", "300000", "3"],
        vec!["0", "100000", "65536"],
        vec!["80000", "400000", "4"],
        vec!["0"],
    ];
    assert_eq!(lines, ranges);
}

#[test]
fn files_written_by_root_of_a_user_namespace_have_its_id_on_the_host() {
    use std::os::unix::fs::MetadataExt;
    let bundle = Bundle::sh("echo > /file; exec stat -c %u:%g / /proc/1 /dev/null").user_namespace();
    assert!(bundle.run().ok().starts_with("0:0\n0:0\n"));
    let file = fs::metadata(bundle.path("rootfs/file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (100_000, 100_000));
}

#[test]
fn a_user_namespace_without_maps_and_maps_without_one_are_refused() {
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let bundle = Bundle::sh("true").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    if !runtime_lacks(&["crun", "runc"], "mappings without a user namespace are ignored") {
        bundle.refused("linux.uidMappings");
    }
    if !runtime_lacks(&["crun", "runc"], "a user namespace without mappings is accepted") {
        Bundle::sh("true").namespace(json!({ "type": "user" })).refused("linux.uidMappings");
    }
    let bundle = Bundle::sh("true").user_namespace().set("/process/user/uid", 70_000);
    bundle.refused("process.user.uid");
}

#[test]
fn clocks_are_offset_in_a_time_namespace() {
    if runtime_lacks(&["crun", "runc"], "time namespaces require version 1.2") {
        return;
    }
    let bundle = Bundle::sh("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime").namespace(json!({ "type": "time" })).set(
        "/linux/timeOffsets",
        json!({ "monotonic": { "secs": 1_000, "nanosecs": 5 }, "boottime": { "secs": 90_000_000, "nanosecs": 7 } }),
    );
    let output = bundle.run();
    let fields: Vec<_> = output.ok().split_whitespace().collect();
    assert_eq!(fields[..6], ["monotonic", "1000", "5", "boottime", "90000000", "7"]);
    assert!(fields[6].parse::<u64>().unwrap() >= 90_000_000);
    let offsets = json!({ "boottime": { "secs": 1 } });
    Bundle::sh("true").set("/linux/timeOffsets", offsets).refused("linux.timeOffsets");
    Bundle::sh("true")
        .namespace(json!({ "type": "time" }))
        .set("/linux/timeOffsets", json!({ "uptime": { "secs": 1 } }))
        .refused("linux.timeOffsets");
}

#[test]
fn a_new_network_namespace_has_a_loopback_device_that_is_up() {
    let bundle = Bundle::sh("ls /sys/class/net; ip -o link show lo");
    let output = bundle.run();
    let (devices, lo) = output.ok().split_once('\n').unwrap();
    assert_eq!(devices, "lo");
    assert!(lo.contains("LOOPBACK,UP"), "{lo}");
}

/// A pair of network devices of the host, removed at the end.
struct Pair {
    name: String,
    peer: String,
}

impl Pair {
    fn new() -> Pair {
        // A name of a device has at most 15 bytes.
        let number = unique().replace("e2e-", "").replace('-', "");
        let pair = Pair { name: format!("a{number}"), peer: format!("b{number}") };
        ip(&["link", "add", &pair.name, "type", "veth", "peer", "name", &pair.peer]);
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.peer]).status();
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().unwrap().success(), "{args:?}");
}

#[test]
fn network_devices_move_into_the_container_and_keep_their_addresses() {
    if runtime_lacks(&["crun", "runc"], "linux.netDevices requires version 1.3") {
        return;
    }
    let (renamed, same) = (Pair::new(), Pair::new());
    ip(&["addr", "add", "10.98.76.5/24", "dev", &renamed.name]);
    ip(&["link", "set", &renamed.name, "mtu", "1400", "up"]);
    let bundle = Bundle::sh(
        "ls /sys/class/net; cat /sys/class/net/eth5/mtu; ip -o addr show dev eth5; ip link show dev eth5",
    )
    .set("/linux/netDevices", json!({ &renamed.name: { "name": "eth5" }, &same.name: {} }));
    let output = bundle.run();
    let lines: Vec<_> = output.ok().lines().collect();
    assert_eq!(lines[..4], [&same.name, "eth5", "lo", "1400"], "{}", output.out);
    assert!(output.out.contains("inet 10.98.76.5/24 "), "{}", output.out);
    assert!(output.out.contains("UP"), "{}", output.out);
    assert!(!fs::exists(format!("/sys/class/net/{}", renamed.name)).unwrap());
}

#[test]
fn network_devices_are_refused_without_a_namespace_or_a_name() {
    if runtime_lacks(&["crun", "runc"], "linux.netDevices requires version 1.3") {
        return;
    }
    let devices = |devices| Bundle::sh("true").set("/linux/netDevices", devices);
    devices(json!({ "notthere0": {} })).fails();
    devices(json!({ "lo": { "name": "with space" } })).refused("linux.netDevices");
    devices(json!({ "lo": { "name": "a-name-that-is-too-long" } })).refused("linux.netDevices");
    let pair = Pair::new();
    devices(json!({ &pair.name: {} })).without("network").refused("linux.netDevices");
    assert!(fs::exists(format!("/sys/class/net/{}", pair.name)).unwrap());
}
