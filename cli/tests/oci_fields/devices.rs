//! The field `linux.devices`, and the default devices.

use cgroup_core::Controllers;
use serde_json::{Value, json};

use crate::bundle::{Bundle, cgroups, runtime_lacks};

const STAT: &str = "stat -c '%n %F %a %u:%g %t:%T'";

#[test]
fn the_default_devices_and_links_exist() {
    let script = format!(
        "cd /dev; {STAT} full null random tty urandom zero; for l in fd ptmx stderr stdin stdout; do readlink $l; done; \
         echo > null; head -c 2 zero | od -An -tx1; echo > full"
    );
    let output = Bundle::sh(&script).run();
    let lines: Vec<_> = output.out.lines().collect();
    assert_eq!(
        lines,
        [
            "full character special file 666 0:0 1:7",
            "null character special file 666 0:0 1:3",
            "random character special file 666 0:0 1:8",
            "tty character special file 666 0:0 5:0",
            "urandom character special file 666 0:0 1:9",
            "zero character special file 666 0:0 1:5",
            "/proc/self/fd",
            "pts/ptmx",
            "/proc/self/fd/2",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            " 00 00",
        ]
    );
    assert!(output.err.contains("No space left on device"), "{}", output.err);
}

#[test]
fn devices_have_their_type_numbers_mode_and_owner() {
    let bundle = Bundle::sh(&format!(
        "cd /dev; {STAT} char block fifo unbuffered plain below/dir/char; {STAT} /elsewhere"
    ));
    let bundle = bundle.set(
        "/linux/devices",
        json!([
            { "path": "/dev/char", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 12, "gid": 34 },
            { "path": "/dev/block", "type": "b", "major": 7, "minor": 300, "fileMode": 0o600, "uid": 0, "gid": 6 },
            { "path": "/dev/fifo", "type": "p", "fileMode": 0o622, "uid": 56, "gid": 78 },
            { "path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 3, "fileMode": 0o666 },
            { "path": "/dev/plain", "type": "c", "major": 1, "minor": 3, "fileMode": 0o777 },
            { "path": "/dev/below/dir/char", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 },
            { "path": "/elsewhere", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 },
        ]),
    );
    let output = bundle.run();
    let lines: Vec<_> = output.ok().lines().collect();
    assert_eq!(
        lines,
        [
            "char character special file 640 12:34 1:5",
            "block block special file 600 0:6 7:12c",
            "fifo fifo 622 56:78 0:0",
            "unbuffered character special file 666 0:0 1:3",
            "plain character special file 777 0:0 1:3",
            "below/dir/char character special file 666 0:0 1:3",
            "/elsewhere character special file 666 0:0 1:3",
        ]
    );
}

#[test]
fn a_device_has_all_bits_of_its_mode() {
    if runtime_lacks(&["crun", "runc"], "the change of owner clears bits of the mode") {
        return;
    }
    let devices = json!([
        { "path": "/dev/one", "type": "c", "major": 1, "minor": 3, "fileMode": 0o2770, "uid": 12, "gid": 34 },
        { "path": "/dev/two", "type": "c", "major": 1, "minor": 3, "fileMode": 0o27755 },
        { "path": "/dev/three", "type": "p", "fileMode": 0o4711, "uid": 12 },
    ]);
    let bundle = Bundle::sh("cd /dev; stat -c '%a %u:%g' one two three").set("/linux/devices", devices);
    assert_eq!(bundle.run().ok(), "2770 12:34\n7755 0:0\n4711 12:0\n");
}

#[test]
fn a_device_without_type_or_numbers_or_listed_twice_is_refused() {
    let devices = |devices: Value| Bundle::sh("true").set("/linux/devices", devices);
    if !runtime_lacks(&["crun"], "an invalid type is accepted") {
        devices(json!([{ "path": "/dev/x", "type": "x", "major": 1, "minor": 3 }]))
            .refused("linux.devices[0].type");
    }
    if !runtime_lacks(&["crun", "runc"], "a relative path is accepted") {
        devices(json!([{ "path": "dev/x", "type": "c", "major": 1, "minor": 3 }]))
            .refused("linux.devices[0].path");
    }
    if !runtime_lacks(&["crun", "runc"], "a device without numbers becomes 0:0") {
        devices(json!([{ "path": "/dev/x", "type": "c" }])).refused("linux.devices[0]");
    }
}

#[test]
fn devices_work_in_a_user_namespace() {
    // In a user namespace, a device is a bind mount of the host's device with the same path.
    let kmsg = json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o600 });
    let bundle = Bundle::sh("cd /dev; echo > null; head -c 1 zero | od -An -tx1; stat -c %t:%T zero kmsg");
    let bundle = bundle.set("/linux/devices/-", kmsg).user_namespace();
    assert_eq!(bundle.run().ok(), " 00\n1:5\n1:b\n");
}

#[test]
fn a_device_that_the_host_does_not_have_at_that_path_works_in_a_user_namespace() {
    if runtime_lacks(&["runc"], "there is nothing to bind") {
        return;
    }
    let devices = json!([
        { "path": "/dev/nspod-none", "type": "c", "major": 1, "minor": 5, "fileMode": 0o2640, "uid": 12, "gid": 34 },
        { "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 3, "fileMode": 0o644 },
    ]);
    let script = format!("cd /dev; {STAT} nspod-none kmsg; head -c 1 nspod-none | od -An -tx1; echo > kmsg");
    let bundle = Bundle::sh(&script).capabilities(&["CAP_DAC_OVERRIDE"]).set("/linux/devices", devices);
    let expected = "nspod-none character special file 2640 12:34 1:5\n\
        kmsg character special file 644 0:0 1:3\n 00\n";
    assert_eq!(bundle.user_namespace().run().ok(), expected);
    assert!(!std::path::Path::new("/dev/nspod-none").exists());
}

#[test]
fn a_device_that_the_cgroup_denies_cannot_be_opened() {
    if !cgroups(Controllers::empty()) {
        return;
    }
    let script = "for d in full kmsg zero; do for way in '<' '>'; do \
        eval \"(: $way /dev/$d)\" 2> /dev/null && echo \"$d $way\"; done; done; \
        for n in 5 1; do mknod /dev/made$n c 1 $n 2> /dev/null && echo made $n; done; true";

    let kmsg = json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 });
    let bundle = || {
        Bundle::sh(script).set("/linux/devices", json!([kmsg])).capabilities(&[
            "CAP_MKNOD",
            "CAP_DAC_OVERRIDE",
            "CAP_SYSLOG",
        ])
    };
    let deny = json!({ "allow": false, "access": "rwm" });
    let rules = json!([deny, { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" }]);
    let output = bundle().set("/linux/resources/devices", rules).run();
    // The default devices are always allowed.
    assert_eq!(output.ok(), "full <\nfull >\nkmsg <\nzero <\nzero >\nmade 5\nmade 1\n");
    let rules = json!([{ "allow": true, "access": "rwm" }, { "allow": false, "type": "c", "major": 1, "minor": 11, "access": "w" }]);
    let output = bundle().set("/linux/resources/devices", rules).run();
    assert_eq!(output.ok(), "full <\nfull >\nkmsg <\nzero <\nzero >\nmade 5\nmade 1\n");
}

#[test]
fn an_invalid_device_rule_is_refused() {
    if !cgroups(Controllers::empty()) {
        return;
    }
    let rule = |rule: Value| Bundle::sh("true").set("/linux/resources/devices/-", rule);
    if !runtime_lacks(&["crun", "runc"], "unknown names are ignored") {
        rule(json!({ "allow": true, "type": "x", "access": "rwm" }))
            .refused("linux.resources.devices[0].type");
        rule(json!({ "allow": true, "type": "c", "access": "q" }))
            .refused("linux.resources.devices[0].access");
    }
}
