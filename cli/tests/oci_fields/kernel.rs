//! Fields with settings of the kernel: sysctls, personality, memory policy, cache allocation.

use serde_json::json;

use crate::bundle::{Bundle, runtime_lacks};

#[test]
fn sysctls_are_set_in_the_containers_namespaces() {
    let script = "cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/conf/lo/forwarding kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max";
    let bundle = Bundle::sh(script).set(
        "/linux/sysctl",
        json!({
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.lo.forwarding": "1",
            "kernel.shm_rmid_forced": "1",
            "kernel.msgmax": "12345",
            "fs.mqueue.msg_max": "17",
        }),
    );
    assert_eq!(bundle.run().ok(), "1\n1\n1\n12345\n17\n");
}

#[test]
fn a_sysctl_of_the_host_is_refused() {
    let sysctl = |name: &str, value: &str| Bundle::sh("true").set("/linux/sysctl", json!({ name: value }));
    sysctl("vm.overcommit_memory", "0").refused("linux.sysctl");
    sysctl("kernel.panic", "0").refused("linux.sysctl");
    sysctl("net.ipv4.ip_forward", "0")
        .without("network")
        .set("/mounts/5", json!({ "destination": "/m", "type": "tmpfs" }))
        .refused("linux.sysctl");
    sysctl("kernel.msgmax", "8192").without("ipc").refused("linux.sysctl");
    sysctl("net.ipv4.not_there", "0").fails();
    sysctl("net.ipv4.ip_forward", "yes").fails();
    sysctl("net/../kernel/panic", "0").refused("linux.sysctl");
}

#[test]
fn a_sysctl_of_a_name_conflicts_with_the_field_of_that_name() {
    let sysctl = |name: &str| {
        Bundle::sh("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname")
            .set("/linux/sysctl", json!({ name: "other" }))
    };
    sysctl("kernel.hostname").refused("linux.sysctl.kernel.hostname");
    // Engines set the domain name in this way since before the field existed.
    assert_eq!(sysctl("kernel.domainname").run().ok(), "box\nother\n");
    assert_eq!(sysctl("kernel.domainname").set("/domainname", "other").run().ok(), "box\nother\n");
    if !runtime_lacks(&["runc"], "domainname requires version 1.1") {
        sysctl("kernel.domainname").set("/domainname", "another").refused("linux.sysctl.kernel.domainname");
    }
    sysctl("kernel.domainname").without("uts").refused("linux.sysctl");
}

#[test]
fn a_user_sysctl_is_set_in_a_new_user_namespace() {
    if runtime_lacks(&["crun", "runc"], "parameters of user namespaces are not supported") {
        return;
    }
    let file = "/proc/sys/user/max_user_namespaces";
    let host = std::fs::read_to_string(file).unwrap();
    let sysctl =
        Bundle::sh(&format!("cat {file}")).set("/linux/sysctl", json!({ "user.max_user_namespaces": "0" }));
    assert_eq!(sysctl.user_namespace().run().ok(), "0\n");
    assert_eq!(std::fs::read_to_string(file).unwrap(), host);
    let sysctl = Bundle::sh("true").set("/linux/sysctl", json!({ "user.max_user_namespaces": "7" }));
    sysctl.refused("linux.sysctl.user.max_user_namespaces");
    assert_eq!(std::fs::read_to_string(file).unwrap(), host);
}

#[test]
fn personality() {
    if runtime_lacks(&["runc"], "linux.personality requires version 1.1") {
        return;
    }
    let personality = |value| Bundle::of(&["uname", "-m"]).set("/linux/personality", value);
    let of = std::env::consts::ARCH;
    assert_eq!(personality(json!({ "domain": "LINUX" })).run().ok(), format!("{of}\n"));
    if of == "x86_64" {
        assert_eq!(personality(json!({ "domain": "LINUX32" })).run().ok(), "i686\n");
    }
    if runtime_lacks(&["crun"], "an unknown domain is accepted") {
        return;
    }
    personality(json!({ "domain": "LINUX64" })).refused("linux.personality.domain");
    personality(json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] }))
        .refused("linux.personality.flags");
}

#[test]
fn every_memory_policy_is_set() {
    if runtime_lacks(&["crun", "runc"], "linux.memoryPolicy requires version 1.3") {
        return;
    }
    let policy = |policy| {
        Bundle::sh("cut -d' ' -f2 /proc/self/numa_maps | sort | uniq | head -n 1")
            .set("/linux/memoryPolicy", policy)
    };
    for (given, shown) in [
        (json!({ "mode": "MPOL_DEFAULT" }), "default"),
        (json!({ "mode": "MPOL_BIND", "nodes": "0" }), "bind:0"),
        (json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0" }), "interleave:0"),
        (json!({ "mode": "MPOL_PREFERRED", "nodes": "0" }), "prefer:0"),
        (json!({ "mode": "MPOL_PREFERRED_MANY", "nodes": "0-0" }), "prefer (many):0"),
        (json!({ "mode": "MPOL_LOCAL" }), "local"),
        (json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }), "bind=static:0"),
        (json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"] }), "bind=relative:0"),
    ] {
        let bundle = Bundle::of(&["head", "-n", "1", "/proc/self/numa_maps"])
            .set("/linux/memoryPolicy", given.clone());
        let output = bundle.run();
        let (_, rest) = output.ok().split_once(' ').unwrap();
        assert!(rest.starts_with(shown), "{given}: {rest}");
    }
    policy(json!({ "mode": "MPOL_NONE" })).refused("linux.memoryPolicy.mode");
    policy(json!({ "mode": "MPOL_BIND", "nodes": "1-0" })).refused("linux.memoryPolicy.nodes");
    policy(json!({ "mode": "MPOL_BIND", "nodes": "4000" })).fails();
    policy(json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NONE"] }))
        .refused("linux.memoryPolicy.flags[0]");
}

#[test]
fn cache_allocation_is_refused_without_kernel_support() {
    let resctrl = std::fs::read_to_string("/proc/filesystems").unwrap().contains("resctrl");
    if resctrl || runtime_lacks(&["crun"], "unsupported linux.intelRdt is ignored") {
        return;
    }
    Bundle::sh("true")
        .set("/linux/intelRdt", json!({ "closID": "group", "l3CacheSchema": "L3:0=f" }))
        .refused("linux.intelRdt");
}

#[test]
fn unknown_fields_are_ignored() {
    let bundle = Bundle::sh("echo started")
        .set("/tomorrow", json!({ "a": [1, 2] }))
        .set("/linux/tomorrow", true)
        .set("/process/tomorrow", "x");
    assert_eq!(bundle.run().ok(), "started\n");
}
