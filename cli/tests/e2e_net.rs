//! The network limits of containers and pods.

mod common;

use common::user::User;
use common::{Name, json, nspod, ok, root};
use serde_json::Value;

/// Connects to each port of the loopback address, and prints why that failed.
const CONNECT: &str = r#"for port in "$@"; do
    why=$( (: </dev/tcp/127.0.0.1/$port) 2>&1 ) && why=open
    case $why in *"not permitted"*) why=denied;; *refused*) why=closed;; esac
    echo $port $why
done"#;

fn connect<'a>(ports: &[&'a str]) -> Vec<&'a str> {
    [&["bash", "-c", CONNECT, "bash"], ports].concat()
}

fn connects(name: &str, ports: &[&str]) -> String {
    ok(&[&["exec", name], &connect(ports)[..]].concat())
}

#[test]
fn a_denied_network_is_out_of_reach_from_the_first_process_on() {
    if !root() {
        return;
    }
    let run = |flags: &[&str]| ok(&[&["run"], flags, &connect(&["80", "81"])].concat());
    assert_eq!(run(&["--deny-net", "127.0.0.1:80/tcp"]), "80 denied\n81 closed\n");
    assert_eq!(
        run(&["--allow-net", "127.0.0.0/8:80", "--allow-net", "10.0.0.0/8"]),
        "80 closed\n81 denied\n"
    );
    assert_eq!(run(&["--connect-rate", "1"]), "80 closed\n81 denied\n");
    assert_eq!(run(&[]), "80 closed\n81 closed\n");
}

#[test]
fn an_update_changes_the_named_limits_and_keeps_the_others() {
    if !root() {
        return;
    }
    let name = Name::detached(&["--deny-net", "*:80"], &["sleep", "1000"]);
    assert_eq!(connects(&name, &["80", "81"]), "80 denied\n81 closed\n");
    let rates = ["--connect-rate", "100", "--egress-rate", "10mbit", "--ingress-rate", "1gbit"];
    ok(&[&["update", "--allow-net", "*:80-81"], &rates[..], &[&name]].concat());
    assert_eq!(connects(&name, &["80", "81", "82"]), "80 denied\n81 closed\n82 denied\n");
    let net = json(&["inspect", &name])[0]["spec"]["limits"]["net"].clone();
    let want = serde_json::json!({ "allow": ["*:80-81"], "deny": ["*:80"], "connects.max": 100,
        "egress.max": 1_250_000, "ingress.max": 125_000_000 });
    assert_eq!(net, want);
    let stats = json(&["--json", "stats", "--no-stream", &name]);
    let egress = &stats[0]["usage"]["net"]["egress"];
    assert_eq!(egress["denied"], 3, "{stats}");
    assert_eq!(egress["packets"], 2, "{stats}");
    let burst = || {
        let net = &json(&["inspect", &name])[0]["spec"]["limits"]["net"];
        (net["egress.burst"].clone(), net["ingress.burst"].clone())
    };
    ok(&["update", "--egress-burst", "64k", "--ingress-burst", "1m", &name]);
    assert_eq!(burst(), (65536.into(), 1_048_576.into()));
    ok(&["update", "--ingress-burst", "default", &name]);
    assert_eq!(burst(), (65536.into(), serde_json::Value::Null));
    let shown = ok(&["stats", "--no-stream", &name]);
    assert!(shown.contains("SENT / RECEIVED") && !shown.contains("- / -"), "{shown}");
    let rates = ["--connect-rate", "max", "--egress-rate", "max", "--ingress-rate", "max"];
    ok(&[&["update", "--allow-net", "none", "--deny-net", "none"], &rates[..], &[&name]].concat());
    assert_eq!(json(&["inspect", &name])[0]["spec"]["limits"]["net"], serde_json::json!({}));
    assert_eq!(connects(&name, &["80", "82"]), "80 closed\n82 closed\n");
}

/// Opens as many sockets of IPv6 as it can, and prints their number and why the next one failed.
const OPEN_ALL: &str = r#"n=0; while (exec 9<>/dev/udp/::1/9) 2>/tmp/why && exec {fd}<>/dev/udp/::1/9; do n=$((n+1)); done
    case $(cat /tmp/why) in *"not permitted"*) echo $n denied;; esac"#;

#[test]
fn sockets_are_limited_by_run_pod_and_update() {
    if !root() {
        return;
    }
    let open = ["bash", "-c", OPEN_ALL];
    assert_eq!(ok(&[&["run", "--max-sockets", "7"], &open[..]].concat()), "7 denied\n");
    let pod = Name::pod();
    ok(&["pod", "create", "--max-sockets", "5", &pod]);
    let name = Name::detached(&["--pod", &pod, "--max-sockets", "4"], &["sleep", "1000"]);
    let opened = || ok(&[&["exec", &name], &open[..]].concat());
    assert_eq!(opened(), "4 denied\n");
    ok(&["update", "--max-sockets", "max", &name]);
    assert_eq!(opened(), "5 denied\n");
    ok(&["pod", "update", "--max-sockets", "2", &pod]);
    assert_eq!(opened(), "2 denied\n");
    assert_eq!(json(&["pod", "inspect", &pod])[0]["spec"]["limits"]["net"]["sockets.max"], 2);
    let stats = json(&["--json", "stats", "--no-stream", &name]);
    assert_eq!(
        stats[0]["usage"]["net"]["sockets"],
        serde_json::json!({ "alive": 0, "denied": 1 }),
        "{stats}"
    );
}

#[test]
fn the_containers_of_a_pod_share_a_network_and_have_limits_of_their_own() {
    if !root() {
        return;
    }
    let pod = Name::pod();
    ok(&["pod", "create", "--share", "net,ipc,uts", "--deny-net", "*:80", &pod]);
    let first = Name::detached(&["--pod", &pod, "--deny-net", "*:81"], &["sleep", "1000"]);
    let second = Name::detached(&["--pod", &pod, "--allow-net", "*:80-81"], &["sleep", "1000"]);
    let net = |name: &str| ok(&["exec", name, "readlink", "/proc/self/ns/net"]);
    assert_eq!(net(&first), net(&second));
    assert_eq!(connects(&first, &["80", "81", "82"]), "80 denied\n81 denied\n82 closed\n");
    assert_eq!(connects(&second, &["80", "81", "82"]), "80 denied\n81 closed\n82 denied\n");
}

#[test]
fn two_updates_at_the_same_time_are_both_in_force() {
    if !root() {
        return;
    }
    let name = Name::detached(&["--connect-rate", "1000"], &["sleep", "1000"]);
    let pod = Name::pod();
    ok(&["pod", "create", &pod]);
    for port in 90..94 {
        let flags = [["--deny-net".into(), format!("*:{port}")], ["--max-sockets".into(), port.to_string()]];
        std::thread::scope(|scope| {
            for [flag, value] in &flags {
                scope.spawn(|| ok(&["update", flag, value, &name]));
                scope.spawn(|| ok(&["pod", "update", flag, value, &pod]));
            }
        });
        for all in [json(&["inspect", &name]), json(&["pod", "inspect", &pod])] {
            let net = &all[0]["spec"]["limits"]["net"];
            assert_eq!(net["deny"], serde_json::json!([format!("*:{port}")]), "{net}");
            assert_eq!(net["sockets.max"], port, "{net}");
        }
        let port = port.to_string();
        assert_eq!(connects(&name, &[&port]), format!("{port} denied\n"));
    }
}

#[test]
fn limits_that_cannot_be_enforced_are_refused_with_the_reason() {
    if !root() {
        return;
    }
    let wrong = nspod(&["run", "--deny-net", "10.0.0.0/8:80/icmp", "true"]);
    assert_eq!(wrong.code(), 125);
    assert!(
        wrong.err.contains("--deny-net <RULE>") && wrong.err.contains("the protocol has no ports"),
        "{}",
        wrong.err
    );
    let user = User::new();
    let refused = user.nspod(&["run", "--deny-net", "*:80", "true"]);
    assert_eq!((refused.code(), refused.out.as_str()), (125, ""), "{}", refused.err);
    assert!(refused.err.contains("cgroup"), "{}", refused.err);
    let lax = user.nspod(&["run", "--lax-limits", "--deny-net", "*:80", "echo", "started"]);
    assert_eq!((lax.code(), lax.out.as_str()), (0, "started\n"), "{}", lax.err);
    assert!(lax.err.contains("no network limit is enforced: "), "{}", lax.err);
    let plan = ok(&[
        "run",
        "--explain",
        "--deny-net",
        "*:80",
        "--accept-rate",
        "5",
        "--packet-rate",
        "6",
        "--egress-rate",
        "10mbit",
        "--ingress-rate",
        "1gbit",
        "--egress-burst",
        "64k",
        "true",
    ]);
    let want = "net.deny = *:80\n      net.accepts.max = 5\n      net.packets.max = 6\n      net.egress.max = 1250000\n      net.ingress.max = 125000000\n      net.egress.burst = 65536\n";
    assert!(plan.contains(want), "{plan}");
}

#[test]
fn lax_limits_keep_the_network_limits_that_can_be_enforced() {
    if !root() {
        return;
    }
    // No kernel has this file, so the start with all limits fails.
    let lax = ["run", "--lax-limits", "--limit", "cgroup.none=1", "--deny-net", "127.0.0.1:80/tcp"];
    let output = nspod(&[&lax[..], &connect(&["80", "81"])].concat());
    assert!(output.err.contains("cgroup.none"), "{}", output.err);
    assert_eq!(output.out, "80 denied\n81 closed\n", "{}", output.err);
}

#[test]
fn the_report_and_the_census_have_the_counters() {
    if !root() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    ok(&[&["run", "--report", path, "--deny-net", "*:80"], &connect(&["80", "81"])[..]].concat());
    let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let net = &report["outcome"]["net"];
    assert_eq!((&net["egress"]["denied"], &net["egress"]["packets"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(net["ingress"]["packets"], 1, "{report}");

    let name = Name::detached(&["--deny-net", "*:80"], &["sleep", "1000"]);
    let other = Name::detached(&[], &["sleep", "1000"]);
    connects(&name, &["80", "81"]);
    // Another process of the host may be unreadable, which is a warning.
    let census: Value = serde_json::from_str(&nspod(&["census", "--json"]).out).unwrap();
    let of = |name: &str| {
        let all = census["containers"].as_array().unwrap();
        all.iter().find(|c| c["name"] == name).unwrap()["net"].clone()
    };
    assert_eq!(of(&name)["egress"]["denied"], 1, "{census}");
    assert_eq!(of(&other), Value::Null);
    let pid = json(&["inspect", &name])[0]["pid"].to_string();
    let place = nspod(&["census", "--pid", &pid]).out;
    assert!(place.contains("network    sent 60 B in 1 packet, dropped 0 packets, denied 1 call;"), "{place}");
}
