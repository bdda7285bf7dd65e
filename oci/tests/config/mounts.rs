//! The options of mount(8).

use libc::{
    MOUNT_ATTR__ATIME as TIMES, MOUNT_ATTR_NOATIME as NOATIME, MOUNT_ATTR_NODEV as NODEV,
    MOUNT_ATTR_NODIRATIME as NODIRATIME, MOUNT_ATTR_NOEXEC as NOEXEC, MOUNT_ATTR_NOSUID as NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW as NOSYMFOLLOW, MOUNT_ATTR_RDONLY as RDONLY, MOUNT_ATTR_STRICTATIME as STRICT,
};
use nspod_sandbox::spec::{Attributes, Mount, MountKind, Propagation, PropagationKind};
use serde_json::{Value, json};

use crate::json::with;

fn translated(mount: Value) -> Result<Mount, String> {
    let mut container = crate::container(&with("mounts[0]", mount)).map_err(|e| e.to_string())?;
    Ok(container.spec.mounts.remove(0))
}

fn with_options(typ: &str, options: &[&str]) -> Mount {
    let mount = json!({ "destination": "/m", "type": typ, "source": "/source", "options": options });
    translated(mount).unwrap_or_else(|e| panic!("{options:?}: {e}"))
}

/// Returns all attributes of the mount, both those from fields and those from flags.
fn own(mount: &Mount) -> Attributes {
    let flags =
        [(mount.readonly, RDONLY), (mount.nosuid, NOSUID), (mount.nodev, NODEV), (mount.noexec, NOEXEC)];
    let flags = flags.into_iter().filter(|(on, _)| *on).fold(0, |set, (_, bit)| set | bit);
    Attributes { set: mount.attributes.set | flags, clear: mount.attributes.clear }
}

#[test]
fn each_attribute_applies_to_the_mount_alone_or_with_an_r_to_all_below() {
    let set = |set| Attributes { set, clear: 0 };
    let clear = |clear| Attributes { set: 0, clear };
    let time = |set| Attributes { set, clear: TIMES };
    let options = [
        ("ro", set(RDONLY)),
        ("rw", clear(RDONLY)),
        ("nosuid", set(NOSUID)),
        ("suid", clear(NOSUID)),
        ("nodev", set(NODEV)),
        ("dev", clear(NODEV)),
        ("noexec", set(NOEXEC)),
        ("exec", clear(NOEXEC)),
        ("nodiratime", set(NODIRATIME)),
        ("diratime", clear(NODIRATIME)),
        ("nosymfollow", set(NOSYMFOLLOW)),
        ("symfollow", clear(NOSYMFOLLOW)),
        ("noatime", time(NOATIME)),
        ("atime", time(0)),
        ("relatime", time(0)),
        ("norelatime", time(0)),
        ("strictatime", time(STRICT)),
        ("nostrictatime", time(0)),
    ];
    for (option, expected) in options {
        for (typ, bind) in [("tmpfs", "async"), ("bind", "bind"), ("bind", "rbind")] {
            let mount = with_options(typ, &[bind, option]);
            assert_eq!(own(&mount), expected, "{typ} {bind} {option}");
            assert_eq!(mount.recursive_attributes, Attributes::default(), "{option}");
            let mount = with_options(typ, &[bind, &format!("r{option}")]);
            assert_eq!(mount.recursive_attributes, expected, "r{option}");
            assert_eq!(own(&mount), Attributes::default(), "r{option}");
        }
    }
}

#[test]
fn only_flags_of_the_listed_options_go_to_the_file_system() {
    let options = nspod_oci_runtime::config::mount_options();
    assert!(options.is_sorted() && options.iter().any(|option| option == "rnosymfollow"), "{options:?}");
    for option in options {
        let to_file_system = match with_options("tmpfs", &[&option]).kind {
            MountKind::FileSystem { options, .. } => options.iter().any(|(key, _)| key == &option),
            _ => false,
        };
        let flag = ["dirsync", "iversion", "lazytime", "mand", "sync"].contains(&option.as_str());
        assert_eq!(to_file_system, flag, "{option}");
    }
}

#[test]
fn ro_on_a_recursive_bind_applies_to_the_mount_alone() {
    let mount = with_options("bind", &["rbind", "ro", "nosuid"]);
    // The named fields of the spec would also apply to nested mounts.
    assert!(!mount.readonly && !mount.nosuid);
    assert_eq!(mount.attributes.set, RDONLY | NOSUID);
}

#[test]
fn a_later_option_overrides_an_earlier_one() {
    let of = |options: &[&str]| own(&with_options("tmpfs", options));
    assert_eq!(of(&["ro", "rw"]), Attributes { set: 0, clear: RDONLY });
    assert_eq!(of(&["exec", "noexec"]), Attributes { set: NOEXEC, clear: 0 });
    assert_eq!(of(&["noatime", "strictatime"]), Attributes { set: STRICT, clear: TIMES });
    assert_eq!(of(&["noatime", "atime"]), Attributes { set: 0, clear: TIMES });
    // An option cancels only the option that it names.
    assert_eq!(of(&["strictatime", "atime"]), Attributes { set: STRICT, clear: TIMES });
}

#[test]
fn propagation_is_kept_in_order() {
    use PropagationKind::{Private, Shared, Slave, Unbindable};
    for (name, kind) in
        [("private", Private), ("shared", Shared), ("slave", Slave), ("unbindable", Unbindable)]
    {
        let mount = with_options("bind", &["rbind", &format!("r{name}"), name]);
        let expected = [true, false].map(|recursive| Propagation { kind, recursive });
        assert_eq!(mount.propagation, expected);
    }
}

#[test]
fn an_unknown_option_is_passed_to_the_file_system() {
    let options =
        ["size=64k", "huge", "sync", "dirsync", "mand", "lazytime", "iversion", "mode=", "x=y=z", "runknown"];
    let MountKind::FileSystem { fstype, source, options } = with_options("tmpfs", &options).kind else {
        panic!("not a file system")
    };
    assert_eq!((fstype.as_str(), source.to_str()), ("tmpfs", Some("/source")));
    let some = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let flag = |key: &str| (key.to_owned(), None);
    let mut expected = vec![
        some("size", "64k"),
        flag("huge"),
        flag("sync"),
        flag("dirsync"),
        flag("mand"),
        flag("lazytime"),
        flag("iversion"),
        some("mode", ""),
        some("x", "y=z"),
        flag("runknown"),
    ];
    // linux.mountLabel of the full configuration.
    expected.push(some("context", "system_u:object_r:container_file_t:s0:c1,c2"));
    assert_eq!(options, expected);
}

#[test]
fn options_without_effect_are_dropped() {
    let options = ["defaults", "async", "nomand", "nolazytime", "noiversion", "silent", "loud"];
    assert_eq!(with_options("proc", &options).kind, MountKind::Proc);
    assert_eq!(with_options("bind", &options).attributes, Attributes::default());
}

#[test]
fn the_kind_follows_from_type_and_options() {
    let bind =
        |source: &str, recursive| MountKind::Bind { source: format!("/bundle/{source}").into(), recursive };
    let plain = |fstype: &str, source: &str| MountKind::FileSystem {
        fstype: fstype.into(),
        source: source.into(),
        options: Vec::new(),
    };
    let hidepid = MountKind::FileSystem {
        fstype: "proc".into(),
        source: "proc".into(),
        options: vec![("hidepid".into(), Some("2".into()))],
    };
    let cases = [
        (json!({ "type": "bind", "source": "a" }), bind("a", false)),
        (json!({ "type": "bind", "source": "a", "options": ["rbind"] }), bind("a", true)),
        (json!({ "type": "none", "source": "a", "options": ["bind"] }), bind("a", false)),
        (json!({ "source": "a", "options": ["rbind", "bind"] }), bind("a", true)),
        (json!({ "type": "tmpfs", "source": "../a", "options": ["bind"] }), bind("../a", false)),
        (
            json!({ "source": "/a", "options": ["bind"] }),
            MountKind::Bind { source: "/a".into(), recursive: false },
        ),
        (json!({ "options": ["remount", "ro"] }), MountKind::Remount),
        (json!({ "type": "proc", "source": "proc" }), MountKind::Proc),
        (json!({ "type": "proc", "source": "proc", "options": ["hidepid=2"] }), hidepid),
        (json!({ "type": "sysfs" }), MountKind::Sysfs),
        (json!({ "type": "cgroup", "source": "cgroup" }), MountKind::Cgroup),
        (json!({ "type": "cgroup2" }), MountKind::Cgroup),
        (json!({ "type": "mqueue" }), MountKind::Mqueue),
        (json!({ "type": "ext4", "source": "/dev/sda" }), plain("ext4", "/dev/sda")),
        (json!({ "type": "tmpfs" }), plain("tmpfs", "tmpfs")),
    ];
    for (mut mount, expected) in cases {
        mount["destination"] = "/m".into();
        let mut document = with("mounts[0]", mount.clone());
        document["linux"]["mountLabel"] = Value::Null;
        let container = crate::container(&document).unwrap_or_else(|e| panic!("{mount}: {e}"));
        assert_eq!(container.spec.mounts[0].kind, expected, "{mount}");
    }
}

#[test]
fn options_for_a_copy_and_for_mapped_owners_are_read() {
    assert!(with_options("tmpfs", &["tmpcopyup"]).copy_up);
    let recursive = |options: &[&str]| with_options("bind", options).id_maps.map(|maps| maps.recursive);
    assert_eq!(recursive(&["bind", "idmap"]), Some(false));
    assert_eq!(recursive(&["bind", "ridmap"]), Some(true));
    assert_eq!(recursive(&["bind"]), None);
    let full = crate::container(&crate::json::full()).unwrap();
    let maps = full.spec.mounts[6].id_maps.clone().unwrap();
    // A file of root appears as a file of user 1000.
    assert_eq!(maps.uid.unwrap().to_outside(0), Some(1000));
    assert_eq!(maps.gid.unwrap().to_outside(9), Some(2009));
}

#[test]
fn a_relative_destination_is_below_the_root_and_causes_a_warning() {
    let container =
        crate::container(&with("mounts[0]", json!({ "destination": "m", "type": "proc" }))).unwrap();
    assert_eq!(container.spec.mounts[0].destination.to_str(), Some("/m"));
    assert_eq!(container.warnings, ["mounts[0].destination: m is not absolute; it is resolved against /"]);
}

#[test]
fn options_of_a_file_system_on_a_bind_mount_cause_a_warning() {
    let options = json!(["rbind", "sync", "ro", "size=1"]);
    let mount = json!({ "destination": "/m", "source": "a", "options": options });
    let container = crate::container(&with("mounts[0]", mount)).unwrap();
    assert_eq!(container.warnings, ["mounts[0].options[1]: sync,size=1 has no effect on a bind mount"]);
}

#[test]
fn an_idmap_has_its_mappings_in_its_option() {
    let option = "ridmap=uids=0-7-1#1-100-5;gids=0-8-1";
    let maps = with_options("bind", &["bind", option]).id_maps.unwrap();
    let (uid, gid) = (maps.uid.unwrap(), maps.gid.unwrap());
    assert_eq!((uid.to_outside(0), uid.to_outside(3), gid.to_outside(0)), (Some(7), Some(102), Some(8)));
    assert!(maps.recursive);
}

#[test]
fn an_invalid_mount_is_refused() {
    let maps = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    let cases = [
        (json!({ "destination": "" }), "mounts[0].destination: "),
        (json!({ "destination": "/a/../b", "type": "tmpfs" }), "mounts[0].destination: "),
        (json!({ "destination": "/m" }), "mounts[0].type: "),
        (json!({ "destination": "/m", "type": "none", "options": ["rshared"] }), "mounts[0].type: "),
        (json!({ "destination": "/m", "type": "bind" }), "mounts[0].source: "),
        (json!({ "destination": "/m", "type": "cgroup", "options": ["memory"] }), "mounts[0].options[0]: "),
        (json!({ "destination": "/m", "options": ["remount", "size=1"] }), "mounts[0].options[1]: "),
        (json!({ "destination": "/m", "type": "tmpfs", "options": ["a\0"] }), "mounts[0].options[0]: "),
        (
            json!({ "destination": "/m", "type": "bind", "source": "a", "options": ["idmap=uids=0-1-1"] }),
            "mounts[0].options[0]: ",
        ),
        (
            json!({
                "destination": "/m", "type": "bind", "source": "a",
                "options": ["idmap=uids=@0-4000000000-1;gids=0-1-1"],
            }),
            "mounts[0].options[0]: ",
        ),
        (
            json!({
                "destination": "/m", "type": "bind", "source": "a", "uidMappings": maps, "gidMappings": maps,
                "options": ["idmap=uids=0-1-1;gids=0-1-1"],
            }),
            "mounts[0].uidMappings: ",
        ),
        (json!({ "destination": "/m", "type": "proc", "options": ["tmpcopyup"] }), "mounts[0].options: "),
        (json!({ "destination": "/m", "type": "tmpfs", "options": ["idmap"] }), "mounts[0].options: "),
        (
            json!({ "destination": "/m", "type": "bind", "source": "a", "uidMappings": maps }),
            "mounts[0].gidMappings: ",
        ),
        (
            json!({ "destination": "/m", "type": "bind", "source": "a", "gidMappings": maps }),
            "mounts[0].uidMappings: ",
        ),
    ];
    for (mount, path) in cases {
        let error = crate::planned(&with("mounts[0]", mount.clone())).unwrap_err().to_string();
        assert!(error.starts_with(path), "{mount}: {error}");
    }
}
