//! The conversion of each field.

use std::path::{Path, PathBuf};

use ns_core::{Extent, IdMap, Kind, TimeOffset};
use nspod_oci_runtime::config::{self as oci, CgroupsPath, Context, IntelRdt, SeccompListener};
use nspod_sandbox::spec::{
    Capabilities, Hook, IdMaps, IoPriority, Join, MemoryPolicy, NamespaceMode, Node, NodeKind, Process,
    Propagation, PropagationKind, Rlimit, Root, Scheduler, Seccomp, StreamOwner, Terminal, User,
};
use serde_json::{Value, json};

use crate::json::{full, with};
use crate::{container, context};

fn process(document: &Value) -> Process {
    container(document).unwrap().spec.process
}

fn error(document: &Value) -> String {
    crate::planned(document).unwrap_err().to_string()
}

#[test]
fn the_process_has_the_configured_attributes() {
    let process = process(&full());
    let chown_and_kill = 1 << 0 | 1 << 5;
    let expected = Process {
        args: ["/bin/sh", "-c", "true"].map(Into::into).into(),
        env: [("PATH", "/bin"), ("TERM", "xterm")].map(|(k, v)| (k.into(), v.into())).into(),
        cwd: Some("/tmp".into()),
        user: Some(User { uid: 5, gid: 6, groups: vec![7, 8] }),
        umask: Some(0o077),
        capabilities: Some(Capabilities {
            bounding: chown_and_kill,
            effective: 1 << 5,
            permitted: chown_and_kill,
            inheritable: 1 << 5,
            ambient: 1 << 5,
        }),
        no_new_privs: true,
        seccomp: process.seccomp.clone(),
        rlimits: vec![
            Rlimit { name: "RLIMIT_NOFILE".into(), soft: 1024, hard: 4096 },
            Rlimit { name: "RLIMIT_CORE".into(), soft: 0, hard: u64::MAX },
        ],
        oom_score_adj: Some(100),
        terminal: Some(Terminal { rows: 24, columns: 80 }),
        keep_projects: false,
        no_user_namespaces: false,
        new_session: true,
        create_cwd: true,
        streams: StreamOwner::User,
        scheduler: Some(Scheduler { policy: 3, flags: 1, nice: 5, ..Scheduler::default() }),
        io_priority: Some(IoPriority { class: 2, level: 4 }),
        affinity: None,
        apparmor_profile: Some("web".into()),
        selinux_label: Some("system_u:system_r:container_t:s0:c1,c2".into()),
        personality: Some(8),
        memory_policy: Some(MemoryPolicy { mode: 2, flags: 1 << 15, nodes: "0".parse().unwrap() }),
        keyring: Some("_ses.web".into()),
    };
    assert_eq!(process, expected);
    let Seccomp::Profile(profile) = process.seccomp else { panic!("no filter") };
    assert_eq!(profile.default_errno_ret, Some(38));
    assert_eq!(profile.syscalls[1].args[0].value, 8);
}

#[test]
fn a_minimal_process_gets_the_defaults() {
    let document = with("process", json!({ "args": ["/bin/true"], "cwd": "/" }));
    let expected = Process {
        args: vec!["/bin/true".into()],
        cwd: Some("/".into()),
        user: Some(User::default()),
        umask: Some(0o022),
        capabilities: Some(Capabilities::NONE),
        new_session: true,
        create_cwd: true,
        streams: StreamOwner::User,
        ..Process::default()
    };
    let process = process(&document);
    assert_eq!(
        Process {
            seccomp: Seccomp::Unconfined,
            personality: None,
            memory_policy: None,
            keyring: None,
            ..process
        },
        expected
    );
    // Without a terminal, the size is ignored.
    let document = with("process.terminal", json!(false));
    assert_eq!(container(&document).unwrap().spec.process.terminal, None);
}

#[test]
fn the_last_value_of_a_variable_wins_and_one_without_a_value_is_refused() {
    let document = with("process.env", json!(["A=1", "B=2", "A=3=4", "C="]));
    let env = process(&document).env;
    assert_eq!(env, [("A", "3=4"), ("B", "2"), ("C", "")].map(|(k, v)| (k.into(), v.into())));
    for entry in ["A", "=A", "", "A=\0"] {
        let error = error(&with("process.env", json!(["X=1", entry])));
        assert!(error.starts_with("process.env[1]: "), "{error}");
    }
}

#[test]
fn unknown_capabilities_are_dropped_with_a_warning() {
    let mut document = with("process.capabilities.bounding", json!(["CAP_TIME_TRAVEL", "CAP_KILL"]));
    document["process"]["capabilities"]["ambient"] = json!(["CAP_KILL", "CAP_CHOWN"]);
    let container = container(&document).unwrap();
    let sets = container.spec.process.capabilities.unwrap();
    // CAP_CHOWN is not inheritable, and so cannot be ambient.
    assert_eq!((sets.bounding, sets.ambient), (1 << 5, 1 << 5));
    // CAP_CHOWN causes no warning, because engines set such ambient capabilities by default.
    let [unknown] = &container.warnings[..] else { panic!("{:?}", container.warnings) };
    assert!(unknown.starts_with("process.capabilities.bounding: \"CAP_TIME_TRAVEL\""), "{unknown}");
}

#[test]
fn every_scheduling_flag_of_the_specification_is_read() {
    let flags = [
        "SCHED_FLAG_RESET_ON_FORK",
        "SCHED_FLAG_RECLAIM",
        "SCHED_FLAG_DL_OVERRUN",
        "SCHED_FLAG_KEEP_POLICY",
        "SCHED_FLAG_KEEP_PARAMS",
        "SCHED_FLAG_UTIL_CLAMP_MIN",
        "SCHED_FLAG_UTIL_CLAMP_MAX",
    ];
    for (bit, flag) in flags.into_iter().enumerate() {
        let scheduler = json!({ "policy": "SCHED_OTHER", "flags": [flag] });
        let scheduler = process(&with("process.scheduler", scheduler)).scheduler.unwrap();
        assert_eq!(scheduler.flags, 1 << bit, "{flag}");
    }
    let deadline = json!({ "policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3 });
    let scheduler = process(&with("process.scheduler", deadline)).scheduler.unwrap();
    assert_eq!((scheduler.policy, scheduler.runtime, scheduler.deadline, scheduler.period), (6, 1, 2, 3));
    let round_robin = json!({ "policy": "SCHED_RR", "priority": 99 });
    let scheduler = process(&with("process.scheduler", round_robin)).scheduler.unwrap();
    assert_eq!((scheduler.policy, scheduler.priority), (2, 99));
}

#[test]
fn every_memory_policy_is_the_kernels_number() {
    let modes = [
        ("MPOL_DEFAULT", ""),
        ("MPOL_PREFERRED", "1"),
        ("MPOL_BIND", "0-1"),
        ("MPOL_INTERLEAVE", "0,1"),
        ("MPOL_LOCAL", ""),
        ("MPOL_PREFERRED_MANY", "0"),
        ("MPOL_WEIGHTED_INTERLEAVE", "0"),
    ];
    for (number, (mode, nodes)) in modes.into_iter().enumerate() {
        let policy = json!({ "mode": mode, "nodes": nodes });
        let policy = process(&with("linux.memoryPolicy", policy)).memory_policy.unwrap();
        assert_eq!((policy.mode, policy.nodes), (number as u32, nodes.parse().unwrap()), "{mode}");
    }
    let flags = json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING"] });
    let policy = process(&with("linux.memoryPolicy", flags)).memory_policy.unwrap();
    assert_eq!((policy.mode, policy.flags), (2, 1 << 14 | 1 << 13));
}

#[test]
fn a_process_of_exec_inherits_unset_fields_from_the_container() {
    let config = oci::parse(&serde_json::to_vec(&full()).unwrap()).unwrap();
    let exec = |process: Value| {
        let (process, warnings) = oci::parse_process(&serde_json::to_vec(&process).unwrap()).unwrap();
        let process = oci::process(&process, &config, &context()).unwrap();
        (process, warnings)
    };
    let (first, _) = exec(json!({ "args": ["id"], "cwd": "/" }));
    let own = process(&full());
    assert_eq!(first.capabilities, own.capabilities);
    assert_eq!(first.rlimits, own.rlimits);
    assert_eq!(first.seccomp, own.seccomp);
    assert_eq!(first.apparmor_profile, own.apparmor_profile);
    assert_eq!(first.selinux_label, own.selinux_label);
    assert_eq!(first.keyring, own.keyring);
    assert!(first.no_new_privs);
    assert_eq!((first.user, first.affinity), (Some(User::default()), None));

    let (second, warnings) = exec(json!({
        "args": ["id"], "cwd": "/", "noNewPrivileges": false, "apparmorProfile": "other",
        "capabilities": { "bounding": ["CAP_NONE_SUCH"] }, "execCPUAffinity": { "final": "2-3" },
        "rlimits": [{ "type": "RLIMIT_CPU", "soft": 1, "hard": 1 }]
    }));
    assert_eq!(second.capabilities, Some(Capabilities::NONE));
    assert_eq!(second.apparmor_profile.as_deref(), Some("other"));
    assert_eq!(second.affinity, Some("2-3".parse().unwrap()));
    assert_eq!(second.rlimits.len(), 1);
    assert!(!second.no_new_privs);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn a_user_without_a_mapped_id_is_refused() {
    for (field, value) in
        [("uid", json!(65536)), ("gid", json!(65536)), ("additionalGids", json!([0, 65536]))]
    {
        let error = error(&with(&format!("process.user.{field}"), value));
        let path = if field == "additionalGids" { "additionalGids[1]" } else { field };
        assert!(error.starts_with(&format!("process.user.{path}: ")), "{error}");
    }
}

#[test]
fn each_namespace_is_new_or_joined_or_the_callers() {
    let kinds = [
        ("mount", Kind::Mnt),
        ("network", Kind::Net),
        ("pid", Kind::Pid),
        ("user", Kind::User),
        ("uts", Kind::Uts),
        ("ipc", Kind::Ipc),
        ("cgroup", Kind::Cgroup),
        ("time", Kind::Time),
    ];
    let spec = container(&full()).unwrap().spec;
    assert!(kinds.iter().all(|(_, kind)| spec.namespaces.is_new(*kind)));
    assert!(spec.loopback);
    // The smallest configuration has a mount namespace.
    let minimal = json!({
        "ociVersion": "1.0.2", "root": { "path": "/rootfs" }, "process": { "cwd": "/", "args": ["sh"] },
        "linux": { "namespaces": [{ "type": "mount" }] }
    });
    for (name, kind) in kinds.into_iter().filter(|(_, kind)| *kind != Kind::Mnt) {
        let mut document = minimal.clone();
        let joined = json!({ "type": name, "path": format!("/proc/1/ns/{kind}") });
        document["linux"]["namespaces"] = json!([{ "type": "mount" }, joined]);
        let namespaces = container(&document).unwrap().spec.namespaces;
        let joined = NamespaceMode::Join(Join::Path(format!("/proc/1/ns/{kind}").into()));
        for other in Kind::ALL {
            let expected = match other {
                Kind::Mnt => NamespaceMode::New,
                _ if other == kind => joined.clone(),
                _ => NamespaceMode::Host,
            };
            assert_eq!(*namespaces.get(other), expected, "{name} {other}");
        }
        document["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": name }));
        assert!(error(&document).starts_with("linux.namespaces[2]: "), "{name}");
    }
    // Without namespaces, the container shares the caller's, with its mounts.
    let mut without = minimal.clone();
    for linux in [json!({ "namespaces": [] }), Value::Null] {
        without["linux"] = linux;
        let spec = container(&without).unwrap().spec;
        assert!(spec.namespaces.new_kinds().is_empty() && spec.namespaces.joined_kinds().is_empty());
        assert!(spec.mounts_stay);
    }
}

#[test]
fn a_setting_of_a_namespace_requires_that_namespace() {
    let without = |kind: &str| {
        let mut document = full();
        let namespaces = document["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != kind);
        document
    };
    assert!(error(&without("user")).starts_with("linux.uidMappings: "));
    assert!(error(&without("uts")).starts_with("hostname: "));
    assert!(error(&without("time")).starts_with("linux.timeOffsets: "));
    let mut document = without("network");
    assert!(error(&document).starts_with("linux.netDevices: "));
    document["linux"]["netDevices"] = Value::Null;
    let sysctl = crate::planned(&document).unwrap_err();
    assert_eq!(sysctl.field(), Some("linux.sysctl.net.ipv4.ip_forward"));
    document["linux"]["sysctl"] = Value::Null;
    container(&document).unwrap();
    let mut document = full();
    document["linux"]["uidMappings"] = json!([]);
    assert!(error(&document).starts_with("linux.uidMappings: "));
    // Without a user namespace, a mount cannot use its mappings.
    let mut document = without("user");
    document["linux"]["uidMappings"] = Value::Null;
    document["linux"]["gidMappings"] = Value::Null;
    container(&document).unwrap();
    document["mounts"][5]["options"] = json!(["rbind", "ridmap"]);
    assert!(error(&document).starts_with("mounts[5].options: "));
}

#[test]
fn id_maps_and_clock_offsets_require_their_namespaces() {
    let spec = container(&full()).unwrap().spec;
    let map = |outside| IdMap::from(vec![Extent { inside: 0, outside, count: 65536 }]);
    assert_eq!(spec.id_maps, IdMaps::Maps { uid: map(100_000), gid: map(200_000) });
    let offsets = spec.time_offsets.unwrap();
    assert_eq!(offsets.monotonic, TimeOffset { secs: 60, nanos: 5 });
    assert_eq!(offsets.boottime, TimeOffset { secs: -60, nanos: 0 });
    // A joined user namespace keeps its own mappings.
    let joined = container(&with("linux.namespaces[5]", json!({ "type": "user", "path": "/ns" }))).unwrap();
    assert_eq!(joined.spec.id_maps, IdMaps::Auto);
}

#[test]
fn the_other_fields_of_the_spec_are_set() {
    let spec = container(&full()).unwrap().spec;
    assert_eq!(spec.root, Root::Dir { path: "/bundle/rootfs".into(), readonly: true });
    assert!(!spec.root_nodev);
    assert_eq!(spec.hostname.as_deref(), Some("web"));
    assert_eq!(spec.domainname.as_deref(), Some("example.test"));
    assert_eq!(spec.masked_paths, [PathBuf::from("/proc/kcore")]);
    assert_eq!(spec.readonly_paths, [PathBuf::from("/proc/sys")]);
    assert_eq!(spec.sysctls, [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into());
    assert_eq!(spec.propagation, Some(Propagation { kind: PropagationKind::Slave, recursive: true }));
    for (name, recursive) in [("private", false), ("rprivate", true)] {
        let spec = container(&with("linux.rootfsPropagation", json!(name))).unwrap().spec;
        assert_eq!(spec.propagation, Some(Propagation { kind: PropagationKind::Private, recursive }));
    }
    assert_eq!(container(&with("linux.rootfsPropagation", json!(""))).unwrap().spec.propagation, None);
}

#[test]
fn devices_are_the_default_and_the_configured_ones_unless_dev_is_the_hosts() {
    let spec = container(&full()).unwrap().spec;
    let node = |path: &str, kind, mode, uid, gid| Node { path: path.into(), kind, mode, uid, gid };
    let own = [
        node("/dev/fuse", NodeKind::Char(10, 229), 0o666, 1, 2),
        node("/dev/sda", NodeKind::Block(8, 0), 0o666, 0, 0),
        node("/dev/pipe", NodeKind::Fifo, 0o666, 0, 0),
    ];
    assert_eq!(spec.nodes[..3], own);
    let customary: Vec<_> = spec.nodes[3..].iter().map(|node| node.path.to_str().unwrap()).collect();
    let expected = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    assert_eq!(customary, expected);
    let links: Vec<_> = spec.links.iter().map(|link| link.path.to_str().unwrap()).collect();
    assert_eq!(links, ["/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx", "/dev/core"]);

    let devices = json!([
        { "path": "/dev/null", "type": "u", "major": 1, "minor": 3, "fileMode": 0o20600 },
        { "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 }
    ]);
    let spec = container(&with("linux.devices", devices)).unwrap().spec;
    assert_eq!(spec.nodes.len(), 6);
    assert_eq!(spec.nodes[0], node("/dev/null", NodeKind::Char(1, 3), 0o600, 0, 0));

    let bind = json!({ "destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"] });
    let spec = container(&with("mounts[1]", bind)).unwrap().spec;
    assert_eq!((spec.nodes.len(), spec.links.len()), (0, 0));
}

#[test]
fn hooks_run_in_the_namespaces_of_the_specification() {
    let container = container(&full()).unwrap();
    let hook = |name: &str| Hook {
        path: format!("/hook/{name}").into(),
        args: vec![format!("/hook/{name}").into()],
        env: None,
        timeout: None,
    };
    let first = Hook {
        args: ["a", "1"].map(Into::into).into(),
        env: Some(vec![("A".into(), "b=c".into())]),
        timeout: Some(3),
        ..hook("a")
    };
    assert_eq!(container.hooks.prestart, [first]);
    assert_eq!(container.hooks.create_runtime, [hook("b")]);
    assert_eq!(container.spec.hooks.create_container, [hook("c")]);
    assert_eq!(container.spec.hooks.start_container, [hook("d")]);
    assert_eq!(container.hooks.poststart, [hook("e")]);
    assert_eq!(container.hooks.poststop, [hook("f")]);
}

#[test]
fn settings_that_the_runtime_applies_are_kept_beside_the_spec() {
    let mut document = full();
    document["linux"]["seccomp"]["listenerPath"] = "/run/agent.sock".into();
    document["linux"]["seccomp"]["listenerMetadata"] = "x".into();
    let container = container(&document).unwrap();
    assert_eq!(container.cgroup, CgroupsPath::Absolute("/pods/web".into()));
    assert_eq!(container.annotations, [("org.example.key".to_owned(), "value".to_owned())].into());
    assert_eq!(container.net_devices, [("eth0".into(), Some("lan".into())), ("eth1".into(), None)]);
    assert_eq!(container.console_size, Some((24, 80)));
    let rdt = IntelRdt {
        clos_id: Some("guests".into()),
        schemata: vec!["L2:0=f".into()],
        l3_cache_schema: Some("L3:0=f".into()),
        mem_bw_schema: Some("MB:0=70".into()),
        monitoring: true,
    };
    assert_eq!(container.intel_rdt, Some(rdt));
    let listener = SeccompListener { path: "/run/agent.sock".into(), metadata: Some("x".into()) };
    assert_eq!(container.seccomp_listener, Some(listener));
}

#[test]
fn a_cgroup_is_a_path_or_a_systemd_scope() {
    let config = |path: &str| {
        oci::parse(&serde_json::to_vec(&with("linux.cgroupsPath", json!(path))).unwrap()).unwrap()
    };
    let systemd = Context { systemd_cgroup: true, ..context() };
    let at = |path: &str, context| {
        config(path).container_spec(&context).map(|c| c.cgroup).map_err(|e| e.to_string())
    };
    assert_eq!(at("", context()), Ok(CgroupsPath::Default));
    assert_eq!(at("/a//b/./c/", context()), Ok(CgroupsPath::Absolute("/a/b/c".into())));
    assert_eq!(at("a/b", context()), Ok(CgroupsPath::Relative("a/b".into())));
    assert_eq!(at("a:b:c", context()), Ok(CgroupsPath::Relative("a:b:c".into())));
    let scope =
        |slice: &str| CgroupsPath::Systemd { slice: slice.into(), prefix: "p".into(), name: "n".into() };
    assert_eq!(at("user.slice:p:n", systemd), Ok(scope("user.slice")));
    assert_eq!(at(":p:n", systemd), Ok(scope("")));
    assert_eq!(at("", systemd), Ok(CgroupsPath::Default));
    for (path, context) in [
        ("a/../b", context()),
        ("a\nb", context()),
        ("a\0b", context()),
        ("/a/b", systemd),
        ("a:b", systemd),
        ("a:b:c:d", systemd),
        ("a:b:", systemd),
        ("a:b:c/d", systemd),
    ] {
        assert!(at(path, context).unwrap_err().starts_with("linux.cgroupsPath: "), "{path}");
    }
}

#[test]
fn the_context_decides_on_the_keyring_and_the_bundle() {
    let config = oci::parse(&serde_json::to_vec(&full()).unwrap()).unwrap();
    let container = config.container_spec(&Context { no_new_keyring: true, ..context() }).unwrap();
    assert_eq!(container.spec.process.keyring, None);
    let container = config.container_spec(&Context { bundle: Path::new("/other"), ..context() }).unwrap();
    assert_eq!(container.spec.root, Root::Dir { path: "/other/rootfs".into(), readonly: true });
}

#[test]
fn versions_from_1_0_are_accepted_and_later_minor_versions_with_a_warning() {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0-rc.2", "1.1.0+build.5", "1.2.0", "1.2.1", "1.3.9"] {
        assert!(container(&with("ociVersion", json!(version))).unwrap().warnings.is_empty(), "{version}");
    }
    for version in ["1.4.0", "1.10.0-dev"] {
        let warnings = container(&with("ociVersion", json!(version))).unwrap().warnings;
        assert_eq!(
            warnings,
            [format!("ociVersion: settings that {version:?} has added to 1.3.0 are ignored")]
        );
    }
    for version in ["", "1", "1.0", "2.0.0", "0.5.0-dev", "1.0.x", "v1.0.0", "1.0.0.0"] {
        let error = error(&with("ociVersion", json!(version)));
        assert!(error.starts_with("ociVersion: "), "{version}: {error}");
    }
}

#[test]
fn process_and_root_are_required() {
    for field in ["process", "root"] {
        let document = with(field, Value::Null);
        oci::parse(&serde_json::to_vec(&document).unwrap()).unwrap();
        assert!(error(&document).starts_with(&format!("{field}: ")));
    }
}

#[test]
fn unknown_fields_and_nulls_are_ignored() {
    let mut document = full();
    let expected = container(&document).unwrap();
    for object in
        ["", "/process", "/process/user", "/linux", "/linux/resources/memory", "/mounts/0", "/hooks"]
    {
        let object = document.pointer_mut(object).unwrap();
        object["x-unknown"] = json!({ "a": [1, null] });
        object["x-null"] = Value::Null;
    }
    document["linux"]["resources"]["network"] = Value::Null;
    // oci-spec requires this number.
    document["linux"]["devices"][2]["major"] = Value::Null;
    document["windows"] = json!({});
    assert_eq!(container(&document).unwrap(), expected);
}

#[test]
fn an_unreachable_rule_and_a_rule_in_the_old_form_are_accepted() {
    let rule = |names: &[&str], action: &str| json!({ "names": names, "action": action });
    let rules =
        json!([rule(&["read", "setns"], "SCMP_ACT_ALLOW"), rule(&["setns", "bpf"], "SCMP_ACT_ERRNO")]);
    let document = with("linux.seccomp.syscalls", rules);
    let Seccomp::Profile(profile) = process(&document).seccomp else { panic!("no filter") };
    profile.compile().unwrap();
    let old = json!([{ "name": "bpf", "action": "SCMP_ACT_ERRNO" }]);
    let Seccomp::Profile(profile) = process(&with("linux.seccomp.syscalls", old)).seccomp else {
        panic!("no filter")
    };
    assert_eq!(profile.syscalls[0].names, ["bpf"]);
}
