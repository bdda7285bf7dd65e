//! The fields `root` and `mounts`, and the fields of `linux` that result in mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use cgroup_core::Controllers;
use serde_json::{Value, json};

use crate::bundle::{Bundle, cgroups, mounted, ours, runtime_lacks};

const MOUNTINFO: &str = "/proc/self/mountinfo";

#[test]
fn the_root_is_written_to_or_read_only() {
    let bundle = Bundle::sh("echo inside > /file");
    bundle.run().ok();
    assert_eq!(fs::read_to_string(bundle.path("rootfs/file")).unwrap(), "inside\n");
    let bundle = Bundle::sh("echo inside > /file; echo kept > /dev/shm/file && cat /dev/shm/file")
        .set("/root/readonly", true);
    let output = bundle.run();
    assert_eq!(output.out, "kept\n");
    assert!(output.err.contains("Read-only file system"), "{}", output.err);
    assert!(!bundle.path("rootfs/file").exists());
}

#[test]
fn the_root_is_absolute_or_in_the_bundle_and_must_exist() {
    let bundle = Bundle::sh("echo started");
    let rootfs = bundle.path("rootfs").to_str().unwrap().to_owned();
    assert_eq!(bundle.set("/root/path", rootfs).run().ok(), "started\n");
    Bundle::sh("true").set("/root/path", "elsewhere").refused("root.path: cannot find ");
    Bundle::sh("true").set("/root/path", "rootfs/bin/sh").refused("rootfs/bin/sh is not a directory; name ");
}

#[test]
fn nothing_of_the_hosts_root_is_left() {
    let bundle = Bundle::of(&["cat", MOUNTINFO]).namespace(json!({ "type": "mount" }));
    let output = bundle.run();
    let rootfs = bundle.path("rootfs");
    let root = mounted(output.ok(), "/");
    assert!(!root.is("shared"), "{root:?}");
    assert!(!output.out.lines().any(|line| line.split(' ').nth(4) == rootfs.to_str()), "{}", output.out);
    assert_eq!(
        output.out.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count(),
        1,
        "{}",
        output.out
    );
}

/// For each option: its effect on the mount or on the file system of a tmpfs, in mountinfo.
#[test]
fn options_of_a_mount_are_set_and_cleared_and_the_last_one_wins() {
    let symbolic: &[&str] = if runtime_lacks(&["crun", "runc"], "nosymfollow requires version 1.1") {
        &[]
    } else {
        &["nosymfollow"]
    };
    let mut mounts: Vec<(Vec<&str>, Vec<&str>, Vec<&str>)> = vec![
        (vec!["ro"], vec!["ro"], vec!["rw"]),
        (vec!["ro", "rw"], vec!["rw"], vec!["ro"]),
        (vec!["rw", "ro"], vec!["ro"], vec!["rw"]),
        (vec!["nosuid"], vec!["nosuid"], vec![]),
        (vec!["nosuid", "suid"], vec![], vec!["nosuid"]),
        (vec!["suid", "nosuid"], vec!["nosuid"], vec![]),
        (vec!["nodev"], vec!["nodev"], vec![]),
        (vec!["nodev", "dev"], vec![], vec!["nodev"]),
        (vec!["dev", "nodev"], vec!["nodev"], vec![]),
        (vec!["noexec"], vec!["noexec"], vec![]),
        (vec!["noexec", "exec"], vec![], vec!["noexec"]),
        (vec!["exec", "noexec"], vec!["noexec"], vec![]),
        (vec!["noatime"], vec!["noatime"], vec!["relatime"]),
        (vec!["noatime", "atime"], vec!["relatime"], vec!["noatime"]),
        (vec!["relatime"], vec!["relatime"], vec!["noatime"]),
        (vec!["strictatime"], vec![], vec!["noatime", "relatime"]),
        (vec!["nodiratime"], vec!["nodiratime"], vec![]),
        (vec!["nodiratime", "diratime"], vec![], vec!["nodiratime"]),
        (vec!["nosuid", "nodev", "noexec", "ro"], vec!["nosuid", "nodev", "noexec", "ro"], vec![]),
    ];
    if !runtime_lacks(&["runc"], "defaults") {
        mounts.push((vec!["defaults"], vec!["rw", "relatime"], vec!["nosuid", "nodev", "noexec"]));
    }
    for &option in symbolic {
        mounts.push((vec![option], vec![option], vec![]));
        mounts.push((vec![option, "symfollow"], vec![], vec![option]));
    }
    // The kernel does not show these options. The runtime must accept them.
    let shows_nothing = [
        "norelatime",
        "nostrictatime",
        "iversion",
        "noiversion",
        "silent",
        "loud",
        "mand",
        "nomand",
        "async",
    ];
    for option in shows_nothing {
        if !option.contains("atime") && runtime_lacks(&["crun"], option) {
            continue;
        }
        mounts.push((vec![option], vec![], vec!["ro", "nosuid"]));
    }
    let mut bundle = Bundle::of(&["cat", MOUNTINFO]);
    for (i, (options, ..)) in mounts.iter().enumerate() {
        let destination = format!("/m{i}");
        bundle = bundle.mount(
            json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options }),
        );
    }
    let output = bundle.run();
    for (i, (options, has, lacks)) in mounts.iter().enumerate() {
        if options.len() == 2
            && runtime_lacks(&["crun"], "the last of two options does not override the first")
        {
            continue;
        }
        let mount = mounted(output.ok(), &format!("/m{i}"));
        assert!(has.iter().all(|option| mount.has(option)), "{options:?} has {has:?}: {mount:?}");
        assert!(!lacks.iter().any(|option| mount.has(option)), "{options:?} lacks {lacks:?}: {mount:?}");
    }
}

#[test]
fn options_of_a_file_system_are_set() {
    let options = json!(["size=128k", "mode=0711", "uid=12", "gid=34", "nr_inodes=100"]);
    let bundle = Bundle::sh("stat -c '%a %u:%g' /m; cat /proc/self/mountinfo")
        .mount(json!({ "destination": "/m", "type": "tmpfs", "source": "named", "options": options }))
        .mount(json!({ "destination": "/s", "type": "tmpfs", "options": ["sync", "dirsync"] }))
        .mount(json!({ "destination": "/a", "type": "tmpfs", "options": ["sync", "async"] }));
    let output = bundle.run();
    assert!(output.ok().starts_with("711 12:34\n"), "{}", output.out);
    let superblock = |place| mounted(&output.out, place).superblock;
    assert!(superblock("/m").iter().any(|option| option == "size=128k"), "{}", output.out);
    assert!(superblock("/m").iter().any(|option| option == "nr_inodes=100"), "{}", output.out);
    assert!(
        ["sync", "dirsync"].iter().all(|&option| superblock("/s").iter().any(|has| has == option)),
        "{}",
        output.out
    );
    if !runtime_lacks(&["crun"], "options of file systems are not cleared") {
        assert!(!superblock("/a").iter().any(|option| option == "sync"), "{}", output.out);
    }
    assert!(output.out.contains(" - tmpfs named "), "{}", output.out);
}

#[test]
fn an_unknown_file_system_is_refused() {
    for mount in [
        json!({ "destination": "/m", "type": "tmpfs", "options": ["nosuchoption"] }),
        json!({ "destination": "/m", "type": "nosuchfs" }),
        json!({ "destination": "/m", "options": ["bind"], "source": "/not/there" }),
    ] {
        Bundle::sh("true").mount(mount).fails();
    }
}

/// Two trees of two mounts each. The second tree has every attribute that can be cleared.
const TREES: &str = "mkdir $B/plain $B/full
    mount -t tmpfs none $B/plain; mkdir $B/plain/sub; mount -t tmpfs none $B/plain/sub
    mount -t tmpfs none $B/full; mkdir $B/full/sub; mount -t tmpfs none $B/full/sub
    for dir in full full/sub; do mount -o remount,bind,ro,nosuid,nodev,noexec,noatime,nodiratime $B/$dir; done";

#[test]
fn recursive_options_reach_the_mounts_below() {
    const SET: &[(&str, &[&str], &[&str])] = &[
        ("rro", &["ro"], &["rw"]),
        ("rnosuid", &["nosuid"], &[]),
        ("rnodev", &["nodev"], &[]),
        ("rnoexec", &["noexec"], &[]),
        ("rnodiratime", &["nodiratime"], &[]),
        ("rnoatime", &["noatime"], &["relatime"]),
        ("rstrictatime", &[], &["noatime", "relatime"]),
    ];
    const CLEAR: &[(&str, &[&str], &[&str])] = &[
        ("rrw", &["rw"], &["ro"]),
        ("rsuid", &[], &["nosuid"]),
        ("rdev", &[], &["nodev"]),
        ("rexec", &[], &["noexec"]),
        ("rdiratime", &[], &["nodiratime"]),
        ("ratime", &[], &["noatime"]),
        ("rrelatime", &["relatime"], &["noatime"]),
    ];
    let mut bundle = Bundle::of(&["cat", MOUNTINFO]).before(TREES);
    let unknown = |option: &str| {
        option.ends_with("atime") && runtime_lacks(&["crun"], option)
            || ["ratime", "rrelatime", "rstrictatime"].contains(&option) && runtime_lacks(&["runc"], option)
    };
    for (source, table) in [("plain", SET), ("full", CLEAR)] {
        for &(option, ..) in table {
            if unknown(option) {
                continue;
            }
            let destination = format!("/{option}");
            bundle = bundle
                .mount(json!({ "destination": destination, "source": source, "options": ["rbind", option] }));
        }
    }
    for option in ["rnorelatime", "rnostrictatime"] {
        if runtime_lacks(&["crun", "runc"], option) {
            continue;
        }
        let destination = format!("/{option}");
        bundle = bundle
            .mount(json!({ "destination": destination, "source": "plain", "options": ["rbind", option] }));
    }
    let output = bundle.run();
    for (option, has, lacks) in [SET, CLEAR].concat() {
        if unknown(option) {
            continue;
        }
        for place in [format!("/{option}"), format!("/{option}/sub")] {
            let mount = mounted(output.ok(), &place);
            assert!(has.iter().all(|option| mount.has(option)), "{place} has {has:?}: {mount:?}");
            assert!(!lacks.iter().any(|option| mount.has(option)), "{place} lacks {lacks:?}: {mount:?}");
        }
    }
}

#[test]
fn recursive_nosymfollow() {
    if runtime_lacks(&["crun", "runc"], "rnosymfollow requires version 1.1") {
        return;
    }
    let bundle = Bundle::of(&["cat", MOUNTINFO])
        .before(&format!("{TREES}\nmount -o remount,bind,nosymfollow $B/full; mount -o remount,bind,nosymfollow $B/full/sub"))
        .mount(json!({ "destination": "/set", "source": "plain", "options": ["rbind", "rnosymfollow"] }))
        .mount(json!({ "destination": "/clear", "source": "full", "options": ["rbind", "rsymfollow"] }));
    let output = bundle.run();
    for (place, has) in [("/set", true), ("/set/sub", true), ("/clear", false), ("/clear/sub", false)] {
        assert_eq!(mounted(output.ok(), place).has("nosymfollow"), has, "{place}: {}", output.out);
    }
}

#[test]
fn options_of_a_bind_mount_change_it_alone_and_keep_the_rest() {
    if runtime_lacks(&["crun"], "a bind mount has only the flags of its options") {
        return;
    }
    let bind = |destination: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": "bind", "source": source, "options": options });
    let bundle = Bundle::of(&["cat", MOUNTINFO])
        .before(TREES)
        .mount(bind("/ro", "plain", &["rbind", "ro"]))
        .mount(bind("/kept", "full", &["rbind"]))
        .mount(bind("/alone", "plain", &["bind"]))
        .mount(bind("/cleared", "full", &["rbind", "exec", "rw", "suid"]));
    let output = bundle.run();
    let at = |place| mounted(output.ok(), place);
    assert!(at("/ro").has("ro") && at("/ro/sub").has("rw"), "{}", output.out);
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"] {
        assert!(at("/kept").has(option) && at("/kept/sub").has(option), "{option}: {}", output.out);
    }
    if runtime_lacks(&["runc"], "flags of a bind mount are not cleared") {
        return;
    }
    assert!(at("/cleared").has("rw"), "{}", output.out);
    for option in ["exec", "suid"] {
        assert!(!at("/cleared").has(&format!("no{option}")), "{option}: {}", output.out);
    }
    assert!(!output.out.contains(" /alone/sub "), "{}", output.out);
}

#[test]
fn every_propagation_type_is_set() {
    if runtime_lacks(&["crun"], "the root's propagation overrides all others") {
        return;
    }
    // Bind mounts of a shared source.
    let before = format!("{TREES}\nmount --make-rshared $B/plain");
    let mut bundle = Bundle::of(&["cat", MOUNTINFO]).before(&before);
    let table: &[(&str, &[&str], &[&str])] = &[
        ("shared", &["shared"], &[]),
        ("slave", &["master"], &["shared"]),
        ("private", &[], &["shared", "master", "unbindable"]),
        ("unbindable", &["unbindable"], &["shared", "master"]),
    ];
    for (propagation, ..) in table {
        for (destination, options) in [
            (format!("/{propagation}"), ["rbind".to_owned(), propagation.to_string()]),
            (format!("/r{propagation}"), ["rbind".to_owned(), format!("r{propagation}")]),
        ] {
            bundle =
                bundle.mount(json!({ "destination": destination, "source": "plain", "options": options }));
        }
    }
    let output = bundle.run();
    for (propagation, is, is_not) in table {
        for place in [format!("/{propagation}"), format!("/r{propagation}"), format!("/r{propagation}/sub")] {
            let mount = mounted(output.ok(), &place);
            assert!(is.iter().all(|tag| mount.is(tag)), "{place} is {is:?}: {mount:?}");
            assert!(!is_not.iter().any(|tag| mount.is(tag)), "{place} is not {is_not:?}: {mount:?}");
        }
    }
    let below = mounted(&output.out, "/unbindable/sub");
    assert!(!below.is("unbindable"), "{below:?}");
}

#[test]
fn a_bind_mount_needs_no_type_and_finds_its_source_from_the_bundle() {
    let bundle = Bundle::sh("cat /a/file /b /c/d/file").file("source/file", "bound\n");
    let absolute = bundle.path("source").to_str().unwrap().to_owned();
    let bundle = bundle
        .mount(json!({ "destination": "/a", "source": "source", "options": ["bind"] }))
        .mount(json!({ "destination": "/b", "type": "none", "source": "source/file", "options": ["rbind", "ro"] }))
        .mount(json!({ "destination": "/c/d", "type": "bind", "source": absolute, "options": ["bind"] }));
    assert_eq!(bundle.run().ok(), "bound\nbound\nbound\n");
}

#[test]
fn a_tmpfs_needs_no_source() {
    let bundle = Bundle::of(&["cat", MOUNTINFO]).mount(json!({ "destination": "/m", "type": "tmpfs" }));
    assert_eq!(mounted(bundle.run().ok(), "/m").kind, "tmpfs");
}

#[test]
fn mounts_are_made_in_order() {
    let tmpfs = |size: &str| json!({ "destination": "/m", "type": "tmpfs", "options": [size] });
    let bundle = Bundle::of(&["cat", MOUNTINFO]).mount(tmpfs("size=64k")).mount(tmpfs("size=128k"));
    let output = bundle.mount(json!({ "destination": "/m/below", "type": "tmpfs" })).run();
    assert!(mounted(output.ok(), "/m").superblock.contains(&"size=128k".to_owned()), "{}", output.out);
    mounted(&output.out, "/m/below");
}

#[test]
fn a_relative_destination_starts_at_the_root() {
    let bundle =
        Bundle::of(&["cat", MOUNTINFO]).mount(json!({ "destination": "some/where", "type": "tmpfs" }));
    assert_eq!(mounted(&bundle.run().out, "/some/where").kind, "tmpfs");
}

#[test]
fn a_destination_cannot_leave_the_root() {
    let bundle = Bundle::of(&["cat", MOUNTINFO])
        .mount(json!({ "destination": "/link/there", "type": "tmpfs" }))
        .mount(json!({ "destination": "/up/../../../there", "type": "tmpfs" }));
    let outside = bundle.path("outside");
    fs::create_dir(&outside).unwrap();
    symlink("../../../../../../..", bundle.path("rootfs/link")).unwrap();
    symlink(&outside, bundle.path("rootfs/up")).unwrap();
    let output = bundle.run();
    // The runtime may reject the mount, or resolve its path within the root.
    if output.code() == 0 {
        mounted(&output.out, "/there");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/there").exists());
}

#[test]
fn a_destination_behind_dangling_links_is_created_at_their_target() {
    if runtime_lacks(&["crun"], "it creates no mount point behind such a link") {
        return;
    }
    let places = [
        ("/var/run/there", "/run/there"),
        ("/chain/there", "/some/where/deep/there"),
        ("/etc/file", "/etc/real/file"),
        ("/out", "/outside/of"),
    ];
    let mut bundle = Bundle::of(&["cat", MOUNTINFO]).file("file", "").file("rootfs/var/keep", "");
    let file = bundle.path("file").to_str().unwrap().to_owned();
    for (place, _) in places {
        bundle = bundle.mount(match place {
            "/etc/file" => json!({ "destination": place, "source": file, "options": ["bind"] }),
            _ => json!({ "destination": place, "type": "tmpfs" }),
        });
    }
    for (link, target) in [
        ("var/run", "/run"),
        ("chain", "var/next"),
        ("var/next", "../some//where/deep/"),
        ("etc/file", "real/file"),
        ("out", "../../../../../../../../../outside/of"),
    ] {
        symlink(target, bundle.path("rootfs").join(link)).unwrap();
    }
    let output = bundle.run();
    for (_, led) in places {
        mounted(output.ok(), led);
    }
    assert!(bundle.path("rootfs/etc/real/file").is_file());
    assert!(!std::path::Path::new("/outside").exists() && !std::path::Path::new("/some").exists());
    // A link that points to itself cannot be resolved.
    let bundle = Bundle::sh("true").mount(json!({ "destination": "/loop/there", "type": "tmpfs" }));
    symlink("loop/on", bundle.path("rootfs/loop")).unwrap();
    bundle.fails();
}

#[test]
fn tmpcopyup_fills_a_tmpfs_with_the_directory_that_it_hides() {
    let bundle = Bundle::sh("cat /data/file /data/below/file; stat -c %a /data/file; echo changed > /data/file; readlink /data/link")
        .file("rootfs/data/file", "copied\n")
        .file("rootfs/data/below/file", "below\n")
        .mount(json!({ "destination": "/data", "type": "tmpfs", "options": ["tmpcopyup"] }));
    symlink("file", bundle.path("rootfs/data/link")).unwrap();
    assert_eq!(bundle.run().ok(), "copied\nbelow\n755\nfile\n");
    assert_eq!(fs::read_to_string(bundle.path("rootfs/data/file")).unwrap(), "copied\n");
}

/// Adds a directory with uid and gid 7 that contains a file.
fn owned_by_seven(bundle: Bundle) -> Bundle {
    let bundle = bundle.file("source/file", "");
    for path in ["source", "source/file"] {
        chown(bundle.path(path), Some(7), Some(7)).unwrap();
    }
    bundle
}

#[test]
fn an_idmap_maps_the_owners_of_a_mount() {
    if runtime_lacks(&["runc"], "idmap requires version 1.2")
        || runtime_lacks(&["crun"], "idmap requires a user namespace")
    {
        return;
    }
    let map = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
    let mount = json!({
        "destination": "/m", "source": "source", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map,
    });
    let bundle = owned_by_seven(Bundle::sh("stat -c %u:%g /m/file").mount(mount));
    assert_eq!(bundle.run().ok(), "5007:5007\n");
    assert_eq!(fs::metadata(bundle.path("source/file")).unwrap().uid(), 7);
}

#[test]
fn an_idmap_has_the_mappings_of_the_user_namespace_or_of_the_mount() {
    if runtime_lacks(&["runc"], "idmap requires version 1.2") {
        return;
    }
    let bundle = Bundle::sh("stat -c %u:%g /plain/file /own/file /given/file; echo > /own/new");
    let source = bundle.path("source").to_str().unwrap().to_owned();
    let plain = json!({ "destination": "/plain", "source": source, "options": ["bind"] });
    let own = json!({ "destination": "/own", "source": source, "options": ["bind", "idmap"] });
    let map = json!([{ "containerID": 0, "hostID": 100_050, "size": 100 }]);
    let given = json!({
        "destination": "/given", "source": source, "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map,
    });
    for place in ["plain", "own", "given"] {
        fs::create_dir(bundle.path(&format!("rootfs/{place}"))).unwrap();
    }
    let bundle = owned_by_seven(bundle).user_namespace().mount(plain).mount(own).mount(given);
    chown(bundle.path("source"), Some(0), Some(0)).unwrap();
    assert_eq!(bundle.run().ok(), "65534:65534\n7:7\n57:57\n");
    assert_eq!(fs::metadata(bundle.path("source/new")).unwrap().uid(), 0);
}

#[test]
fn ridmap_maps_the_mounts_below_and_idmap_does_not() {
    if runtime_lacks(&["runc"], "idmap requires version 1.2")
        || runtime_lacks(&["crun"], "idmap requires a user namespace")
    {
        return;
    }
    let map = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
    let mount = |destination: &str, option: &str| {
        json!({
            "destination": destination, "source": "source", "options": ["rbind", option],
            "uidMappings": map, "gidMappings": map,
        })
    };
    // The nested mount is of the same file system, because not every kernel can idmap a tmpfs.
    let bundle = owned_by_seven(Bundle::sh("stat -c %u /one/file /one/sub/file /all/file /all/sub/file"))
        .file("below/file", "")
        .before("mkdir $B/source/sub; mount --bind $B/below $B/source/sub")
        .mount(mount("/one", "idmap"))
        .mount(mount("/all", "ridmap"));
    assert_eq!(bundle.run().ok(), "5007\n0\n5007\n5000\n");
}

#[test]
fn idmap_without_mappings_or_with_half_of_them_is_refused() {
    if runtime_lacks(&["crun", "runc"], "idmap requires a user namespace") {
        return;
    }
    let map = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
    let mount = json!({ "destination": "/m", "source": "source", "options": ["bind", "idmap"] });
    let bundle = || owned_by_seven(Bundle::sh("true")).mount(mount.clone());
    bundle().refused("mounts[6]");
    bundle().set("/mounts/6/uidMappings", map).refused("mounts[6]");
}

#[test]
fn the_cgroup_is_mounted_as_v2() {
    if !cgroups(Controllers::PIDS) {
        return;
    }
    let mount = json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    });
    let script = "cat /proc/self/mountinfo /proc/self/cgroup; echo 1 > /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/pids.max";
    for own in [true, false] {
        let bundle = Bundle::sh(script).mount(mount.clone()).set("/linux/resources/pids/limit", 23);
        let bundle = if own { bundle.namespace(json!({ "type": "cgroup" })) } else { bundle };
        let output = bundle.run();
        let mount = mounted(&output.out, "/sys/fs/cgroup");
        assert_eq!(mount.kind, "cgroup2");
        assert!(["ro", "nosuid", "noexec", "nodev"].iter().all(|option| mount.has(option)), "{mount:?}");
        assert_eq!(output.out.contains("\n0::/\n"), own, "{}", output.out);
        assert_eq!(output.out.ends_with("\n23\n"), own, "{}", output.out);
        assert!(output.err.contains("Read-only file system"), "{}", output.err);
    }
}

#[test]
fn the_propagation_of_the_root_is_set() {
    for (propagation, is, is_not) in [
        ("shared", &["shared"] as &[&str], &[] as &[&str]),
        ("slave", &["master"], &["shared"]),
        ("private", &[], &["shared", "master"]),
        ("unbindable", &["unbindable"], &["shared", "master"]),
    ] {
        for recursive in [false, true] {
            let value = if recursive { format!("r{propagation}") } else { propagation.into() };
            let lack: &[&str] = match &value[..] {
                "slave" => &["crun", "runc"],
                "rslave" => &["crun"],
                "private" | "rprivate" => &[],
                _ => &["runc"],
            };
            if runtime_lacks(lack, &format!("a root that is {value}")) {
                continue;
            }
            let bundle = Bundle::of(&["cat", MOUNTINFO])
                .before("mount --make-rshared /")
                .set("/linux/rootfsPropagation", value.clone());
            let output = bundle.run();
            let root = mounted(output.ok(), "/");
            assert!(is.iter().all(|tag| root.is(tag)), "{value} is {is:?}: {root:?}");
            assert!(!is_not.iter().any(|tag| root.is(tag)), "{value} is not {is_not:?}: {root:?}");
        }
    }
    if !runtime_lacks(&["crun"], "unknown names are ignored") {
        Bundle::sh("true").set("/linux/rootfsPropagation", "sideways").refused("linux.rootfsPropagation");
    }
}

#[test]
fn a_slave_receives_mounts_of_the_host_and_sends_none() {
    let bundle = Bundle::sh("mount -t tmpfs none /mnt && echo mounted").capabilities(&["CAP_SYS_ADMIN"]);
    fs::create_dir(bundle.path("rootfs/mnt")).unwrap();
    assert_eq!(bundle.run().ok(), "mounted\n");
    let here = fs::read_to_string(MOUNTINFO).unwrap();
    assert!(!here.contains(bundle.path("").to_str().unwrap()), "{here}");
}

#[test]
fn masked_paths_show_nothing() {
    let script = "wc -c < /secret; ls /hidden | wc -l; echo > /hidden/new; cat /link";
    let bundle = Bundle::sh(script)
        .file("rootfs/secret", "told\n")
        .file("rootfs/hidden/file", "told\n")
        .set("/linux/maskedPaths", json!(["/secret", "/hidden", "/not/there", "/proc/kcore"]));
    symlink("secret", bundle.path("rootfs/link")).unwrap();
    let output = bundle.run();
    assert_eq!(output.out, "0\n0\n");
    assert!(output.err.contains("Read-only file system"), "{}", output.err);
}

#[test]
fn readonly_paths_refuse_writes() {
    let script = "echo > /file; echo > /dir/file; echo > /dir/tree/file; echo ok > /dir2; cat /dir2; echo > /proc/sys/net/ipv4/ip_forward";
    let bundle = Bundle::sh(script)
        .file("rootfs/file", "")
        .file("rootfs/dir/tree/file", "")
        .set("/linux/readonlyPaths", json!(["/file", "/dir", "/not/there", "/proc/sys"]));
    let output = bundle.run();
    assert_eq!(output.out, "ok\n");
    assert_eq!(output.err.matches("Read-only file system").count(), 4, "{}", output.err);
}

#[test]
fn mounts_below_a_readonly_path_refuse_writes() {
    if runtime_lacks(&["crun", "runc"], "mounts below a read-only path are not changed") {
        return;
    }
    let bundle = Bundle::sh("cat /dir/below/seed; echo > /dir/below/file")
        .file("rootfs/dir/file", "")
        .file("volume/seed", "seed\n")
        .mount(json!({ "destination": "/dir/below", "source": "volume", "options": ["bind"] }))
        .set("/linux/readonlyPaths", json!(["/dir"]));
    let output = bundle.run();
    assert_eq!(output.out, "seed\n");
    assert!(output.err.contains("Read-only file system"), "{}", output.err);
    assert!(!bundle.path("volume/file").exists());
}

#[test]
fn only_harmless_files_in_proc_can_be_mounted_over() {
    let bind = |destination: &str, source: &str| json!({ "destination": destination, "source": source, "options": ["bind"] });
    let bundle = Bundle::sh("cat /proc/cpuinfo /proc/sys/kernel/ns_last_pid")
        .file("file", "fake\n")
        .mount(bind("/proc/cpuinfo", "file"))
        .mount(bind("/proc/sys/kernel/ns_last_pid", "file"));
    assert_eq!(bundle.run().ok(), "fake\nfake\n");
    // Only a procfs can be mounted on /proc itself.
    let host = Bundle::sh("cat /proc/self/comm").without("pid").set("/mounts/0", bind("/proc", "/proc"));
    assert_eq!(host.run().ok(), "cat\n");
    if runtime_lacks(&["crun"], "mounts in /proc are not checked") {
        return;
    }
    let refused = |mount: Value, link: Option<(&str, &str)>| {
        let bundle = Bundle::sh("true").file("dir/file", "fake\n").mount(mount);
        if let Some((link, target)) = link {
            symlink(target, bundle.path("rootfs").join(link)).unwrap();
        }
        let said = bundle.fails();
        assert!(!ours() || said.contains("/proc"), "{said}");
        assert!(said.contains("cannot be mounted because it is "), "{said}");
    };
    refused(bind("/proc", "dir"), None);
    for destination in
        ["/proc/self", "/proc/sys", "/proc/self/attr", "proc//thread-self/attr", "/proc/sys/kernel"]
    {
        refused(bind(destination, "dir"), None);
    }
    refused(bind("/proc/self/attr/exec", "dir/file"), None);
    // A link in the image can also lead there.
    refused(bind("/link", "dir"), Some(("link", "/proc/self")));
    refused(bind("/link", "dir"), Some(("link", "../../proc")));
    refused(bind("/link/attr", "dir"), Some(("link", "proc/self")));
    if runtime_lacks(&["runc"], "only bind mounts are checked") {
        return;
    }
    refused(json!({ "destination": "/proc", "type": "tmpfs" }), None);
    refused(json!({ "destination": "/proc", "type": "sysfs" }), None);
    refused(json!({ "destination": "/proc/sys", "type": "tmpfs" }), None);
    refused(json!({ "destination": "/proc/sys", "type": "proc", "source": "proc" }), None);
    refused(json!({ "destination": "/link/sys", "type": "tmpfs" }), Some(("link", "proc")));
}

#[test]
fn a_tmpfs_without_a_mode_has_that_of_the_directory_that_it_covers() {
    let tmpfs = |place: &str, options: &[&str]| json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options });
    let bundle = Bundle::sh("stat -c %a /closed /given /copied /sticky /new")
        .file("rootfs/closed/file", "")
        .file("rootfs/given/file", "")
        .file("rootfs/copied/file", "")
        .file("rootfs/sticky/file", "")
        .mount(tmpfs("/closed", &["size=64k"]))
        .mount(tmpfs("/given", &["mode=700"]))
        .mount(tmpfs("/copied", &["tmpcopyup"]))
        .mount(tmpfs("/sticky", &["ro", "uid=5"]))
        .mount(tmpfs("/new", &[]));
    for (place, mode) in [("closed", 0o710), ("given", 0o710), ("copied", 0o701), ("sticky", 0o3770)] {
        fs::set_permissions(bundle.path("rootfs").join(place), fs::Permissions::from_mode(mode)).unwrap();
    }
    let output = bundle.run();
    if runtime_lacks(&["crun", "runc"], "the mode is not inherited, or overrides the option") {
        return;
    }
    let (there, new) = output.ok().split_at(output.out.trim_end().rfind('\n').unwrap() + 1);
    assert_eq!(there, "710\n700\n701\n3770\n");
    // If there was no directory, the kernel's default applies.
    assert_eq!(new, "1777\n");
}

#[test]
fn a_bind_mount_finds_its_source_in_an_earlier_mount_of_the_list() {
    for user in [false, true] {
        if user && runtime_lacks(&["runc", "crun"], "sources are opened before other mounts are made") {
            continue;
        }
        let bundle = Bundle::sh("cat /file /dir/file; ls /dir/tmpfs /tmpfs")
            .file("volume/file", "from the volume\n")
            .file("volume/tmpfs/covered", "")
            .file("rootfs/data/keep", "");
        let data = bundle.path("rootfs/data").to_str().unwrap().to_owned();
        let bind = |destination: &str, source: &str| json!({ "destination": destination, "source": source, "options": ["rbind"] });
        let places = ["rootfs/dir", "rootfs/tmpfs", "rootfs/data/tmpfs"];
        places.iter().for_each(|place| fs::create_dir(bundle.path(place)).unwrap());
        fs::write(bundle.path("rootfs/file"), "").unwrap();
        let bundle = if user { bundle.user_namespace() } else { bundle };
        let bundle = bundle
            .mount(bind("/data", "volume"))
            .mount(json!({ "destination": "/data/tmpfs", "type": "tmpfs" }))
            .mount(bind("/dir", &data))
            .mount(bind("/file", &format!("{data}/file")))
            .mount(bind("/tmpfs", &format!("{data}/tmpfs")));
        assert_eq!(bundle.run().ok(), "from the volume\nfrom the volume\n/dir/tmpfs:\n\n/tmpfs:\n", "{user}");
    }
}

#[test]
fn a_tmpfs_becomes_read_only_after_its_contents_are_created() {
    let script = "test -c /dev/null && test -d /dev/pts && ls -d /dev/fd; ls /m/below; \
        for f in /dev/new /m/new; do echo > $f; done; cat /proc/self/mountinfo";
    let tmpfs = |place: &str| json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["ro", "mode=755"] });
    let below = json!({ "destination": "/m/below", "source": "dir", "options": ["bind"] });
    let bundle = Bundle::sh(script).file("dir/file", "").set("/mounts/1", tmpfs("/dev"));
    let output = bundle.mount(tmpfs("/m")).mount(below).run();
    assert!(output.out.starts_with("/dev/fd\nfile\n"), "{} {}", output.out, output.err);
    assert_eq!(output.err.matches("Read-only file system").count(), 2, "{}", output.err);
    let at = |place| mounted(&output.out, place);
    assert!(
        at("/dev").has("ro") && at("/dev/shm").has("rw") && at("/m").has("ro") && at("/m/below").has("rw")
    );
}

#[test]
fn options_of_a_file_system_have_no_effect_on_a_bind_mount() {
    let options = json!(["bind", "mode=700", "size=1m", "nofail", "ro"]);
    let bundle = Bundle::sh("stat -c %a /m; cat /proc/self/mountinfo")
        .file("dir/file", "")
        .mount(json!({ "destination": "/m", "type": "bind", "source": "dir", "options": options }));
    let output = bundle.run();
    assert!(output.code() == 0 && output.out.starts_with("755\n"), "{} {}", output.out, output.err);
    assert!(mounted(&output.out, "/m").has("ro"), "{}", output.out);
    if ours() {
        let said = "mounts[6].options[1]: mode=700,size=1m,nofail has no effect on a bind mount";
        assert!(output.err.contains(said), "{}", output.err);
    }
}

#[test]
fn a_file_on_a_directory_and_a_directory_on_a_file_report_not_a_directory() {
    let bind = |destination: &str, source: &str| json!({ "destination": destination, "source": source, "options": ["bind"] });
    for mount in
        [bind("/place", "file"), bind("/placed", "dir"), json!({ "destination": "/placed", "type": "tmpfs" })]
    {
        let bundle = Bundle::sh("true").file("file", "").file("dir/file", "");
        let said = bundle.file("rootfs/place/file", "").file("rootfs/placed", "").mount(mount).fails();
        assert!(said.to_lowercase().contains("not a directory"), "{said}");
    }
}

#[test]
fn masked_and_readonly_paths_are_relative_to_the_root_and_apply_once() {
    let script = "ls hidden | wc -l; wc -c < /secret; cat /proc/self/mountinfo; echo > /dir/file";
    let bundle = Bundle::sh(script)
        .file("rootfs/hidden/file", "told\n")
        .file("rootfs/secret", "told\n")
        .file("rootfs/dir/file", "")
        .set("/linux/maskedPaths", json!(["hidden", "/hidden", "/hidden/", "/secret", "//secret"]))
        .set("/linux/readonlyPaths", json!(["dir", "/dir", "/dir/."]));
    let output = bundle.run();
    assert!(output.out.starts_with("0\n0\n"), "{} {}", output.out, output.err);
    assert!(output.err.contains("Read-only file system"), "{}", output.err);
    if runtime_lacks(&["crun", "runc"], "a path that is named twice is masked twice") {
        return;
    }
    for place in ["/hidden", "/secret", "/dir"] {
        let lines = output.out.lines().filter(|line| line.split(' ').nth(4) == Some(place));
        assert_eq!(lines.count(), 1, "{place}: {}", output.out);
    }
}

#[test]
fn the_mappings_of_an_idmap_come_from_its_option() {
    if runtime_lacks(&["runc"], "idmap requires version 1.2") {
        return;
    }
    let bundle = Bundle::sh("stat -c %u:%g /given/seven /given/eight /relative/seven");
    let source = bundle.path("source").to_str().unwrap().to_owned();
    let mount = |destination: &str, option: &str| json!({ "destination": destination, "source": source, "options": ["bind", option] });
    for place in ["given", "relative"] {
        fs::create_dir(bundle.path(&format!("rootfs/{place}"))).unwrap();
    }
    let bundle = bundle.file("source/seven", "").file("source/eight", "");
    chown(bundle.path("source/seven"), Some(7), Some(7)).unwrap();
    chown(bundle.path("source/eight"), Some(8), Some(9)).unwrap();
    let bundle = bundle
        .user_namespace()
        .mount(mount("/given", "idmap=uids=0-100000-8#8-100040-5;gids=0-100000-8#9-100050-1"))
        .mount(mount("/relative", "idmap=uids=@0-30-10;gids=@0-40-10"));
    assert_eq!(bundle.run().ok(), "7:7\n40:50\n37:47\n");
    for option in ["idmap=uids=0-7", "idmap=uids=0-7-1", "idmap=uids=0-7-1;gids=0-8-x", "idmap=kinds=0-1-1"] {
        let bundle = Bundle::sh("true").file("source/file", "").user_namespace();
        bundle.mount(json!({ "destination": "/m", "source": "source", "options": ["bind", option] })).fails();
    }
}
