//! The device filter on the real kernel. In v2 it needs no controller.

mod common;

use cgroup_core::Cgroup;
use cgroup_core::device::{DEFAULT, Rule};
use common::Own;
use nspod_testkit::Guard;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Returns what a shell in the cgroup can do: `r` and `w` for opening null, `z` for reading zero,
/// `m` for creating a node for null.
fn can(own: &Cgroup) -> String {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let mut helper = Guard::sh(&format!(
        "read line
        (: </dev/null) 2>&- && printf r; (: >/dev/null) 2>&- && printf w
        (: </dev/zero) 2>&- && printf z; mknod {} c 1 3 2>&- && printf m",
        node.display()
    ));
    own.attach(helper.pid()).unwrap();
    drop(helper.0.stdin.take());
    let mut out = String::new();
    std::io::Read::read_to_string(helper.0.stdout.as_mut().unwrap(), &mut out).unwrap();
    out
}

#[test]
fn a_filter_denies_what_no_rule_allows_and_without_a_filter_everything_is_allowed() {
    let own = Own::new();
    assert_eq!(can(&own), "rwzm");
    own.attach_devices(&rules(&["allow c 1:5 rw"])).unwrap();
    assert_eq!(can(&own), "z");
}

#[test]
fn a_later_rule_overrides_an_earlier_one_for_its_own_accesses() {
    let own = Own::new();
    own.attach_devices(&rules(&["allow a *:* rwm", "deny c 1:3 w", "deny c *:* m"])).unwrap();
    assert_eq!(can(&own), "rz");
}

#[test]
fn two_filters_must_both_allow_and_replacing_leaves_one() {
    let own = Own::new();
    own.attach_devices(&rules(&["allow c 1:* rwm"])).unwrap();
    own.attach_devices(&rules(&["allow c 1:3 r"])).unwrap();
    assert_eq!(can(&own), "r");
    own.replace_devices(&rules(&["allow c *:* rw"])).unwrap();
    assert_eq!(can(&own), "rwz");
    own.replace_devices(&DEFAULT).unwrap();
    assert_eq!(can(&own), "rwzm");
    own.replace_devices(&[]).unwrap();
    assert_eq!(can(&own), "");
    own.detach_devices().unwrap();
    assert_eq!(can(&own), "rwzm");
}

#[test]
fn the_filter_of_a_parent_binds_its_children() {
    let own = Own::new();
    let child = own.create_child("a").unwrap();
    own.attach_devices(&rules(&["allow c 1:5 r"])).unwrap();
    child.attach_devices(&rules(&["allow a *:* rwm"])).unwrap();
    assert_eq!(can(&child), "z");
    child.replace_devices(&DEFAULT).unwrap();
    assert_eq!(can(&child), "z");
}

#[test]
fn a_long_list_passes_the_verifier() {
    let own = Own::new();
    let mut many: Vec<Rule> = (0..300)
        .map(|i| {
            format!(
                "{} {} {i}:{} {}",
                ["allow", "deny"][i % 2],
                ["a", "b", "c"][i % 3],
                ["*", "7"][i % 2],
                ["r", "wm", "rwm"][i % 3]
            )
            .parse()
            .unwrap()
        })
        .collect();
    many.push("allow c 1:3 rw".parse().unwrap());
    own.attach_devices(&many).unwrap();
    assert!(can(&own).starts_with("rw"));
}
