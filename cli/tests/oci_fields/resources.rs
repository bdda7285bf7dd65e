//! The fields `linux.cgroupsPath` and `linux.resources`, read back from the kernel's files.

use std::fs;

use cgroup_core::Controllers;
use serde_json::{Value, json};

use crate::bundle::{Bundle, cgroups, hierarchy, ours, runtime_lacks};
use crate::common::{eventually, unique};

/// Creates a container with these resources.
#[track_caller]
fn with(resources: Value) -> Bundle {
    let bundle = Bundle::of(&["sleep", "1000"]).set("/linux/resources", resources);
    bundle.create();
    bundle
}

#[track_caller]
fn refused(resources: Value, field: &str) {
    Bundle::sh("true").set("/linux/resources", resources).refused(&format!("linux.resources.{field}"));
}

#[track_caller]
fn fails(resources: Value) {
    Bundle::sh("true").set("/linux/resources", resources).fails();
}

#[test]
fn an_absolute_cgroups_path_starts_at_the_root_of_the_hierarchy() {
    if !cgroups(Controllers::empty()) {
        return;
    }
    let parent = unique();
    let bundle = Bundle::of(&["sleep", "1000"]).set("/linux/cgroupsPath", format!("/{parent}/inner"));
    bundle.create();
    assert_eq!(bundle.cgroup(), hierarchy().join(&parent).join("inner"));
    bundle.delete(&["--force"]);
    assert!(!hierarchy().join(&parent).join("inner").exists());
    let _ = fs::remove_dir(hierarchy().join(&parent));
}

#[test]
fn a_relative_cgroups_path_starts_at_the_runtimes_cgroup() {
    if !cgroups(Controllers::empty()) {
        return;
    }
    let name = unique();
    let bundle = || {
        let bundle = Bundle::of(&["sleep", "1000"]).set("/linux/cgroupsPath", format!("{name}/inner"));
        bundle.create();
        bundle
    };
    let (first, path) = {
        let bundle = bundle();
        (bundle.cgroup(), bundle.path(""))
    };
    assert!(first.ends_with(format!("{name}/inner")), "{}", first.display());
    assert!(!first.exists() && !path.exists());
    assert_eq!(bundle().cgroup(), first);
    let _ = fs::remove_dir(first.parent().unwrap());
}

#[test]
fn a_cgroups_path_cannot_leave_the_hierarchy() {
    if !cgroups(Controllers::empty()) {
        return;
    }
    let name = unique();
    let bundle = Bundle::of(&["sleep", "1000"]).set("/linux/cgroupsPath", format!("/../../../{name}"));
    bundle.write_config();
    if bundle.verb(&["create", bundle.id()]).code() == 0 {
        assert_eq!(bundle.cgroup(), hierarchy().join(&name));
    }
}

#[test]
fn a_container_without_a_path_has_its_own_cgroup_which_is_removed_with_it() {
    if !cgroups(Controllers::empty()) {
        return;
    }
    let (one, two) = (with(json!({})), with(json!({})));
    let path = one.cgroup();
    assert_ne!(path, two.cgroup());
    assert!(path.to_str().unwrap().contains(one.id()), "{}", path.display());
    one.delete(&["--force"]);
    assert!(!path.exists());
}

#[test]
fn a_container_has_every_controller_that_the_host_has() {
    if !cgroups(Controllers::empty()) || runtime_lacks(&["crun"], "rdma and misc are not enabled") {
        return;
    }
    let host = fs::read_to_string(hierarchy().join("cgroup.controllers")).unwrap();
    let has = with(json!({})).limit("cgroup.controllers");
    assert_eq!(has.trim(), host.trim());
}

#[test]
fn memory_limit_reservation_and_swap_are_set() {
    if !cgroups(Controllers::MEMORY) {
        return;
    }
    let megabytes = |n: i64| n << 20;
    let limits =
        json!({ "memory": { "limit": megabytes(64), "reservation": megabytes(16), "swap": megabytes(96) } });
    let bundle = with(limits);
    let files = ["memory.max", "memory.low", "memory.swap.max"].map(|file| bundle.limit(file));
    assert_eq!(files, ["67108864", "16777216", "33554432"]);
    // `swap` is memory and swap together; -1 means no limit.
    let bundle = with(json!({ "memory": { "limit": megabytes(64), "swap": megabytes(64) } }));
    assert_eq!(bundle.limit("memory.swap.max"), "0");
    let bundle = with(json!({ "memory": { "limit": -1, "swap": -1 } }));
    assert_eq!(["memory.max", "memory.swap.max"].map(|file| bundle.limit(file)), ["max", "max"]);
    refused(json!({ "memory": { "limit": megabytes(64), "swap": megabytes(32) } }), "memory.swap");
    if !runtime_lacks(&["runc", "crun"], "swap without a memory limit is rejected or unlimited") {
        refused(json!({ "memory": { "swap": megabytes(32) } }), "memory.swap");
    }
}

#[test]
fn memory_fields_of_cgroup_v1_alone_are_refused() {
    if !cgroups(Controllers::MEMORY) || runtime_lacks(&["runc", "crun"], "it is ignored") {
        return;
    }
    refused(json!({ "memory": { "swappiness": 10 } }), "memory.swappiness");
    refused(json!({ "memory": { "disableOOMKiller": true } }), "memory.disableOOMKiller");
    refused(json!({ "network": { "classID": 7 } }), "network");
    refused(json!({ "cpu": { "realtimeRuntime": 1000, "realtimePeriod": 10_000 } }), "cpu.realtime");
}

#[test]
fn a_hog_is_ended_at_its_memory_limit() {
    if !cgroups(Controllers::MEMORY) {
        return;
    }
    let memory = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    let bundle = Bundle::of(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"])
        .set("/linux/resources/memory", memory);
    assert_eq!(bundle.run().code(), 137);
}

#[test]
fn cpu_shares_become_a_weight() {
    if !cgroups(Controllers::CPU) {
        return;
    }
    for (shares, weight) in [(2, 1), (262_144, 10_000)] {
        assert_eq!(with(json!({ "cpu": { "shares": shares } })).limit("cpu.weight"), weight.to_string());
    }
    if !runtime_lacks(&["crun", "runc"], "the curve of crun 1.23 and runc 1.3.2, which keeps the default") {
        for (shares, weight) in [(1024, 100), (2000, 170), (22_000, 1204)] {
            assert_eq!(with(json!({ "cpu": { "shares": shares } })).limit("cpu.weight"), weight.to_string());
        }
    }
    assert_eq!(with(json!({ "cpu": { "shares": 0 } })).limit("cpu.weight"), "100");
}

#[test]
fn cpu_quota_period_and_burst_are_set() {
    if !cgroups(Controllers::CPU) {
        return;
    }
    let max = |cpu| with(json!({ "cpu": cpu })).limit("cpu.max");
    assert_eq!(max(json!({ "quota": 20_000, "period": 50_000 })), "20000 50000");
    assert_eq!(max(json!({ "quota": 20_000 })), "20000 100000");
    assert_eq!(max(json!({ "period": 50_000 })), "max 50000");
    assert_eq!(max(json!({ "quota": -1, "period": 50_000 })), "max 50000");
    assert_eq!(max(json!({ "quota": -2, "period": 50_000 })), "max 50000");
    if !runtime_lacks(&["runc", "crun"], "cpu.burst requires version 1.1") {
        let bundle = with(json!({ "cpu": { "quota": 20_000, "period": 50_000, "burst": 7_000 } }));
        assert_eq!([bundle.limit("cpu.max"), bundle.limit("cpu.max.burst")], ["20000 50000", "7000"]);
    }
    fails(json!({ "cpu": { "quota": 10, "period": 50_000 } }));
}

#[test]
fn cpu_idle() {
    if !cgroups(Controllers::CPU) || runtime_lacks(&["runc"], "cpu.idle requires version 1.1") {
        return;
    }
    assert_eq!(with(json!({ "cpu": { "idle": 1 } })).limit("cpu.idle"), "1");
    assert_eq!(with(json!({ "cpu": { "idle": 0 } })).limit("cpu.idle"), "0");
    refused(json!({ "cpu": { "idle": 7 } }), "cpu.idle");
}

#[test]
fn cpus_and_mems_are_set() {
    if !cgroups(Controllers::CPUSET) {
        return;
    }
    let bundle = with(json!({ "cpu": { "cpus": "1", "mems": "0" } }));
    assert_eq!([bundle.limit("cpuset.cpus"), bundle.limit("cpuset.mems")], ["1", "0"]);
    assert!(bundle.proc("status").contains("\nCpus_allowed_list:\t1\n"));
    refused(json!({ "cpu": { "cpus": "1-0" } }), "cpu.cpus");
    if !runtime_lacks(&["crun", "runc"], "the kernel accepts processors that do not exist") {
        refused(json!({ "cpu": { "cpus": "all" } }), "cpu.cpus");
    }
}

#[test]
fn pids_limit() {
    if !cgroups(Controllers::PIDS) {
        return;
    }
    assert_eq!(with(json!({ "pids": { "limit": 23 } })).limit("pids.max"), "23");
    assert_eq!(with(json!({ "pids": { "limit": -1 } })).limit("pids.max"), "max");
    assert_eq!(with(json!({ "pids": {} })).limit("pids.max"), "max");
    if !runtime_lacks(&["crun", "runc"], "a limit of 0, of specification 1.3; runc 1.4 sets 1") {
        assert_eq!(with(json!({ "pids": { "limit": 0 } })).limit("pids.max"), "1");
    }
    // The limit leaves room for the threads with which a runtime starts the first process.
    let bomb = "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i + 1)); done";
    let output = Bundle::sh(bomb).set("/linux/resources/pids/limit", 20).run();
    assert_ne!(output.code(), 0);
    assert!(output.err.contains("can't fork"), "{}", output.err);
}

/// Returns the device number of a disk.
fn disk() -> (u64, u64) {
    let disks = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap());
    let disk = disks
        .filter(|disk| disk.file_name().to_str().unwrap().starts_with("vd"))
        .min_by_key(|disk| disk.file_name());
    let numbers = fs::read_to_string(disk.expect("a disk").path().join("dev")).unwrap();
    let (major, minor) = numbers.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

#[test]
fn block_io_throttles_are_set() {
    if !cgroups(Controllers::IO) {
        return;
    }
    let (major, minor) = disk();
    let throttle = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    let bundle = with(json!({ "blockIO": {
        "throttleReadBpsDevice": throttle(1_000_001), "throttleWriteBpsDevice": throttle(2_000_002),
        "throttleReadIOPSDevice": throttle(303), "throttleWriteIOPSDevice": throttle(404),
    } }));
    assert_eq!(
        bundle.limit("io.max"),
        format!("{major}:{minor} rbps=1000001 wbps=2000002 riops=303 wiops=404")
    );
    let nowhere = json!([{ "major": 4095, "minor": 1, "rate": 1 }]);
    fails(json!({ "blockIO": { "throttleReadBpsDevice": nowhere } }));
}

#[test]
fn block_io_weight_is_set() {
    if !cgroups(Controllers::IO) {
        return;
    }
    for (weight, shown) in [(10, "default 1"), (1000, "default 10000")] {
        let bundle = with(json!({ "blockIO": { "weight": weight } }));
        assert_eq!(bundle.limit("io.weight").lines().next().unwrap(), shown);
    }
    refused(json!({ "blockIO": { "weight": 1001 } }), "blockIO.weight");
    let (major, minor) = disk();
    if !runtime_lacks(&["runc", "crun"], "weights of devices require a scheduler that this kernel lacks") {
        let devices = json!([{ "major": major, "minor": minor, "weight": 1000 }]);
        // The kernel applies weights of a disk only if its cost model is enabled. Otherwise the runtime
        // reports an error.
        let model = "/sys/fs/cgroup/io.cost.qos";
        Bundle::sh("true").set("/linux/resources/blockIO/weightDevice", devices.clone()).fails();
        fs::write(model, format!("{major}:{minor} enable=1")).unwrap();
        let shown = with(json!({ "blockIO": { "weightDevice": devices } })).limit("io.weight");
        fs::write(model, format!("{major}:{minor} enable=0")).unwrap();
        assert!(shown.contains(&format!("{major}:{minor} 10000")), "{shown}");
    }
}

#[test]
fn huge_page_limits_are_set() {
    if !cgroups(Controllers::HUGETLB) {
        return;
    }
    let bundle = with(
        json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }, { "pageSize": "1GB", "limit": 0 }] }),
    );
    assert_eq!([bundle.limit("hugetlb.2MB.max"), bundle.limit("hugetlb.1GB.max")], ["4194304", "0"]);
    // Reservations are limited too, so that mmap fails instead of a fatal page fault.
    let reserved = ["2MB", "1GB"].map(|size| bundle.limit(&format!("hugetlb.{size}.rsvd.max")));
    if !runtime_lacks(&["crun", "runc"], "limits of reservations require a later version") {
        assert_eq!(reserved, ["4194304", "0"]);
    }
    fails(json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 1 }] }));
}

#[test]
fn rdma_limits_of_a_missing_device_are_refused() {
    if !cgroups(Controllers::RDMA) {
        return;
    }
    if runtime_lacks(&["crun"], "limits of such a device are ignored") {
        return;
    }
    fails(json!({ "rdma": { "mlx5_9": { "hcaHandles": 3, "hcaObjects": 10000 } } }));
    if !runtime_lacks(&["runc"], "an empty limit is accepted") {
        refused(json!({ "rdma": { "mlx5_9": {} } }), "rdma");
    }
}

#[test]
fn unified_sets_the_kernels_files_and_wins() {
    if !cgroups(Controllers::MEMORY | Controllers::PIDS) {
        return;
    }
    let unified = json!({ "memory.high": "33554432", "memory.oom.group": "1", "pids.max": "77" });
    let bundle = with(json!({ "pids": { "limit": 23 }, "unified": unified }));
    let files = ["memory.high", "memory.oom.group", "pids.max"].map(|file| bundle.limit(file));
    assert_eq!(files, ["33554432", "1", "77"]);
    fails(json!({ "unified": { "memory.none": "1" } }));
    refused(json!({ "unified": { "memory/../../cgroup.procs": "1" } }), "unified");
    fails(json!({ "unified": { "pids.max": "a few" } }));
}

#[test]
fn a_refused_container_leaves_nothing() {
    if !cgroups(Controllers::PIDS) || !ours() {
        return;
    }
    let name = unique();
    let bundle = Bundle::sh("true").set("/linux/cgroupsPath", format!("/{name}"));
    bundle.set("/linux/resources/unified", json!({ "pids.max": "a few" })).fails();
    assert!(!hierarchy().join(&name).exists());
}

#[test]
fn everything_in_the_cgroup_is_killed_with_the_container() {
    if !cgroups(Controllers::PIDS) {
        return;
    }
    let bundle = Bundle::sh("sleep 1000 & sleep 1000 & wait").without("pid").up();
    let cgroup = bundle.cgroup();
    let procs = || fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    eventually("three processes", || procs().lines().count() == 3);
    bundle.verb(&["kill", "--all", bundle.id(), "KILL"]).ok();
    eventually("no process", || procs().is_empty());
    bundle.wait_until("stopped");
    bundle.delete(&[]);
    assert!(!cgroup.exists());
}

#[test]
fn a_memory_limit_that_is_too_low_for_the_start_is_named() {
    if !cgroups(Controllers::MEMORY)
        || runtime_lacks(&["crun"], "it only reports that it cannot read from its child")
    {
        return;
    }
    let error = Bundle::sh("true").set("/linux/resources", json!({ "memory": { "limit": 65536 } })).fails();
    assert!(error.contains("memory limit"), "{error}");
}

#[test]
fn annotations_limit_the_network_of_a_container() {
    if !cgroups(Controllers::empty()) || !ours() {
        return;
    }
    let connect = || Bundle::sh("busybox nc 127.0.0.1 80 2>&1 || true");
    let denied = "Operation not permitted";
    let limited = connect().set("/annotations", json!({ "org.nspod.net.deny": "127.0.0.0/8:80/tcp" }));
    assert!(limited.run().ok().contains(denied));
    assert!(!connect().run().ok().contains(denied));
    connect()
        .set("/annotations", json!({ "org.nspod.net.egress.max": "10" }))
        .refused("annotations.org.nspod.net.egress.max");
}

#[test]
fn the_bandwidth_of_a_kubernetes_pod_is_a_limit_of_the_cgroup_above_its_sandbox() {
    if !cgroups(Controllers::empty()) || !ours() {
        return;
    }
    let parent = unique();
    let annotations = |kind: &str| json!({ "kubernetes.io/egress-bandwidth": "10M", "io.kubernetes.cri.container-type": kind });
    let limited = |path: &str| {
        let cgroup = cgroup_core::Cgroup::open(hierarchy().join(path)).unwrap();
        cgroup.net_usage().unwrap().is_some()
    };
    let [pod, inside] = ["", "/inside"].map(|end| format!("{parent}/pod1{end}"));
    for (kind, of_pod) in [("container", false), ("sandbox", true)] {
        let bundle = Bundle::of(&["sleep", "1000"]).set("/annotations", annotations(kind));
        let bundle = bundle.set("/linux/cgroupsPath", format!("/{inside}"));
        bundle.create();
        assert_eq!((limited(&pod), limited(&inside)), (of_pod, false), "{kind}");
        bundle.delete(&["--force"]);
    }
    fs::remove_dir(hierarchy().join(&pod)).unwrap();
    fs::remove_dir(hierarchy().join(&parent)).unwrap();
    let other = Bundle::sh("true").set("/annotations", annotations("sandbox"));
    other.set("/linux/cgroupsPath", format!("/{parent}/inside")).refused("linux.cgroupsPath");
}
