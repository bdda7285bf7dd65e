//! Network limits at the start of a container. As root.

mod common;

use std::path::Path;

use cgroup_core::net::{self, Rule};
use cgroup_core::{Hierarchy, Limits};
use nspod_sandbox::Command;

/// Returns a command with these rules.
fn denying(deny: Vec<Rule>) -> Command {
    let mut command = Command::new("true");
    let net = Some(net::Limits { deny, allow: vec!["*:3/tcp".parse().unwrap()], ..net::Limits::default() });
    command.limits(Limits { net, ..Limits::default() });
    command
}

/// Returns rules for different networks. Each requires 30 prefixes of ports for each protocol.
fn many_rules(count: u32) -> Vec<Rule> {
    let rule = |i: u32| format!("out 10.{}.{}.0/24:{}-65534", i / 256, i % 256, 1 + i % 2000);
    (0..count).map(|i| rule(i).parse().unwrap()).collect()
}

/// Changes how a start runs: the child shares the memory of this process, or copies it and stops for the parent.
fn kinds_of_start() -> [fn(&mut Command); 3] {
    [
        |_| {},
        |command| _ = command.prepared(|_| Ok(Vec::new())),
        |command| _ = command.user(65_534, 65_534).hold(),
    ]
}

/// Returns whether a cgroup with this name exists.
fn exists(name: &str) -> bool {
    fn search(dir: &Path, name: &str) -> bool {
        let children = || std::fs::read_dir(dir).into_iter().flatten().flatten();
        dir.join(name).is_dir()
            || children()
                .any(|child| child.file_type().is_ok_and(|kind| kind.is_dir()) && search(&child.path(), name))
    }
    search(Hierarchy::detect().unwrap().mount_point().unwrap(), name)
}

#[test]
fn the_first_call_of_the_program_is_limited() {
    if !nspod_testkit::root() || !nspod_testkit::programs(&["bash"]) {
        return;
    }
    // So many rules last longer than the rest of the start.
    let mut rules = many_rules(300);
    rules.push("127.0.0.0/8:9/tcp".parse().unwrap());
    for start in &kinds_of_start()[..2] {
        let mut command = denying(rules.clone());
        start(&mut command);
        command.spec_mut().process.args =
            ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9"].map(Into::into).into();
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("Operation not permitted"), "{text}");
    }
}

#[test]
fn limits_that_cannot_be_set_fail_the_start_and_leave_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    // More entries than the table may have.
    let rules = many_rules(4096);
    for (start, number) in kinds_of_start().into_iter().zip(0..) {
        let name = format!("net-refused-{}-{number}", std::process::id());
        let mut command = denying(rules.clone());
        start(command.name(&name));
        let error = common::error(&mut command);
        assert!(error.to_string().contains("more than 131072 entries"), "{error}");
        assert!(!exists(&name));
    }
}
