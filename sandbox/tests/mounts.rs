//! File systems, binds, nodes and links of a container, as a process inside sees them.
#![allow(unsafe_code)]

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nspod_sandbox::ns_core::{IdMap, Kind};
use nspod_sandbox::spec::{
    Attributes, Hook, Link, Mount, MountIdMaps, MountKind, NamespaceMode, Node, NodeKind, Propagation,
    PropagationKind, Root, StorageLimit, Terminal, Writes,
};
use nspod_sandbox::{Command, ErrorKind, Stdio};

use common::{Image, error, output};
use nspod_testkit::in_time;

fn file_system(to: &str, fstype: &str, options: &str) -> Mount {
    let option = |o: &str| match o.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (o.to_owned(), None),
    };
    let options = options.split(',').filter(|o| !o.is_empty()).map(option).collect();
    Mount::new(to, MountKind::FileSystem { fstype: fstype.into(), source: fstype.into(), options })
}

fn bind(source: &Path, to: &str) -> Mount {
    Mount::new(to, MountKind::Bind { source: source.into(), recursive: true })
}

/// Returns a container that lists every mount by its kernel name, as an OCI configuration does.
fn listed(image: &Image) -> Command {
    let mut command = Command::new("sh");
    command.root(Root::Dir { path: image.path(), readonly: false });
    let spec = command.spec_mut();
    spec.root_nodev = false;
    spec.mounts = vec![
        file_system("/proc", "proc", ""),
        file_system("/dev", "tmpfs", "mode=755,size=65536k"),
        file_system("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
        file_system("/dev/shm", "tmpfs", "mode=1777,size=65536k"),
        file_system("/dev/mqueue", "mqueue", ""),
        file_system("/sys", "sysfs", ""),
    ];
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7)] {
        spec.nodes.push(node(&format!("/dev/{name}"), NodeKind::Char(1, minor)));
    }
    spec.links = vec![Link { path: "/dev/fd".into(), target: "/proc/self/fd".into() }];
    command
}

fn node(path: &str, kind: NodeKind) -> Node {
    Node { path: path.into(), kind, mode: 0o666, uid: 0, gid: 0 }
}

/// Gives this thread its own mount namespace, with private mounts.
fn own_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

/// Returns the line of mountinfo for this path in the container.
fn mountinfo(command: &mut Command, at: &str) -> String {
    let text = output(command, "while read l; do echo \"$l\"; done < /proc/self/mountinfo");
    let of = |line: &&str| line.split(' ').nth(4) == Some(at);
    text.lines().rfind(of).unwrap_or_else(|| panic!("{at}: {text}")).to_owned()
}

#[test]
fn no_mount_of_the_host_is_left_above_any_kind_of_root() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let writes = tempfile::tempdir().unwrap();
    let [upper, work] = ["upper", "work"].map(|name| writes.path().join(name));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    let limit = StorageLimit::default();
    let overlay = |writes| Root::Overlay { lower: vec![image.path()], writes, limit };
    let roots = [
        Root::HostReadOnly,
        Root::Dir { path: image.path(), readonly: false },
        overlay(Writes::Tmpfs),
        overlay(Writes::Dir { upper, work }),
    ];
    // `..` of the root resolves to the topmost mount on it.
    let script = "while read id parent dev in at rest; do [ $at = / ] && echo mount; done < /proc/self/mountinfo; \
        stat -c %d:%i / /.. /../..";
    for root in roots {
        for user in [NamespaceMode::Host, NamespaceMode::New] {
            // A user namespace cannot create an overlay of the host's directories and a tmpfs.
            if user == NamespaceMode::New && matches!(root, Root::Overlay { .. }) {
                continue;
            }
            let mut command = Command::new("sh");
            command.root(root.clone()).namespace(Kind::User, user.clone());
            command
                .spec_mut()
                .mounts
                .retain(|m| ["/proc", "/dev"].map(Path::new).contains(&m.destination.as_path()));
            let text = output(&mut command, script);
            let lines: Vec<&str> = text.lines().collect();
            let [mount, root_id, up, further] = lines[..] else { panic!("{root:?} {user:?}: {text}") };
            assert_eq!((mount, up, further), ("mount", root_id, root_id), "{root:?} {user:?}");
        }
    }
    // A mount over the caller's own root is also detached.
    let caller = std::thread::spawn(move || {
        own_mounts();
        mount(Some("tmpfs"), "/", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let mut command = Command::new("sh");
        command.root(Root::Dir { path: image.path(), readonly: false });
        command.spec_mut().mounts.retain(|m| m.destination == Path::new("/proc"));
        output(&mut command, script)
    });
    let text = caller.join().unwrap();
    assert!(text.starts_with("mount\n") && !text[6..].contains("mount"), "{text}");
}

#[test]
fn file_systems_are_mounted_by_name_with_their_own_options() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = listed(&image);
    command.mount(file_system("/t", "tmpfs", "size=1m,mode=1750,uid=7,nr_inodes=99"));
    assert_eq!(output(&mut command, "stat -c '%a %u' /t; stat -f -c '%b %S %c' /t"), "1750 7\n256 4096 99");
    assert!(
        mountinfo(&mut command, "/t").contains(" - tmpfs tmpfs rw,size=1024k,nr_inodes=99,mode=1750,uid=7")
    );
    let text = output(&mut command, "echo $$; ls /dev /dev/pts; echo x > /dev/null; cat /proc/mounts");
    assert!(text.starts_with("2\n/dev:\n"), "{text}");
    for line in ["devpts /dev/pts devpts rw,relatime,mode=620,ptmxmode=666 0 0", "mqueue /dev/mqueue mqueue"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    // The kernel shows `none` for a mount without a source.
    let source = PathBuf::new();
    let kind = MountKind::FileSystem { fstype: "tmpfs".into(), source, options: Vec::new() };
    command.mount(Mount::new("/none", kind));
    assert!(mountinfo(&mut command, "/none").contains(" - tmpfs none "));
}

#[test]
fn an_option_that_a_file_system_refuses_is_named() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = listed(&image);
    command.mount(file_system("/t", "tmpfs", "mode=700,colour=red,size=1m"));
    let e = error(&mut command);
    assert_eq!(
        e.to_string(),
        "cannot mount a new tmpfs (mode=700,colour=red,size=1m) on /t: fsconfig: Invalid argument (EINVAL); the file system rejects the option colour=red"
    );
    let mut command = listed(&image);
    command.mount(file_system("/t", "nonsensefs", ""));
    let e = error(&mut command);
    assert!(
        e.to_string().ends_with("fsopen: No such device (ENODEV); this kernel lacks that file system"),
        "{e}"
    );
}

#[test]
fn options_longer_than_the_limit_of_fsconfig_are_mounted() {
    if !nspod_testkit::root() {
        return;
    }
    let (image, layers) = (Image::new(), tempfile::tempdir().unwrap());
    let mut lower = Vec::new();
    for number in 0..9 {
        let layer = layers.path().join(format!("{number}{}", "x".repeat(60)));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join(format!("of-{number}")), "").unwrap();
        lower.push(layer.display().to_string());
    }
    let mut command = listed(&image);
    let mut overlay = file_system("/o", "overlay", &format!("lowerdir={}", lower.join(":")));
    overlay.noexec = true;
    command.mount(overlay);
    assert_eq!(output(&mut command, "cd /o; echo *"), "of-0 of-1 of-2 of-3 of-4 of-5 of-6 of-7 of-8");
    let line = mountinfo(&mut command, "/o");
    assert!(line.contains(" /o rw,noexec,relatime ") && line.contains(" - overlay overlay "), "{line}");
    // The intermediate steps leave nothing else behind.
    assert_eq!(output(&mut command, "cd /; echo *"), "bin dev lib lib64 o proc sys tmp");
    // The working directory of the caller stays the same.
    let text = output(listed(&image).current_dir("/tmp"), "pwd");
    assert_eq!(text, "/tmp");
    lower.iter_mut().for_each(|layer| *layer = layer.repeat(20));
    let mut command = listed(&image);
    command.mount(file_system("/o", "overlay", &format!("lowerdir={}", lower.join(":"))));
    assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec);
}

#[test]
fn a_remount_changes_what_is_mounted() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = listed(&image);
    command.mount(Mount { nosuid: true, ..file_system("/t", "tmpfs", "") });
    let mut remount = Mount::new("/t", MountKind::Remount);
    remount.readonly = true;
    remount.attributes.clear = libc::MOUNT_ATTR_NOSUID;
    command.mount(remount);
    assert!(mountinfo(&mut command, "/t").contains(" /t ro,relatime "));
    let mut command = listed(&image);
    command.mount(Mount::new("/tmp", MountKind::Remount));
    command.spec_mut().mounts.last_mut().unwrap().readonly = true;
    let e = error(&mut command);
    assert!(
        e.to_string().ends_with("mount_setattr: Invalid argument (EINVAL); nothing is mounted there"),
        "{e}"
    );
}

#[test]
fn attributes_apply_to_the_mount_alone_or_to_all_below() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        own_mounts();
        let none = None::<&str>;
        // A tree of two mounts.
        let (image, tree) = (Image::new(), tempfile::tempdir().unwrap());
        let below = tree.path().join("below");
        mount(Some("t"), tree.path(), Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NOATIME, none).unwrap();
        std::fs::create_dir(&below).unwrap();
        mount(Some("t"), &below, Some("tmpfs"), MsFlags::MS_NOSUID, none).unwrap();
        let flags = |attributes, recursive_attributes| {
            let mut command = listed(&image);
            let nodev = false;
            command.mount(Mount { attributes, recursive_attributes, nodev, ..bind(tree.path(), "/t") });
            ["/t", "/t/below"].map(|at| mountinfo(&mut command, at).split(' ').nth(5).unwrap().to_owned())
        };
        let (set, clear) = (libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_NOSUID);
        let nothing = Attributes::default();
        assert_eq!(flags(nothing, nothing), ["rw,nosuid,noatime", "rw,nosuid,relatime"]);
        assert_eq!(flags(Attributes { set, clear }, nothing), ["ro,noatime", "rw,nosuid,relatime"]);
        assert_eq!(flags(nothing, Attributes { set, clear }), ["ro,noatime", "ro,relatime"]);
        let set = libc::MOUNT_ATTR_STRICTATIME | libc::MOUNT_ATTR_NODIRATIME | libc::MOUNT_ATTR_NOSYMFOLLOW;
        let strict = "rw,nosuid,nodiratime,nosymfollow";
        assert_eq!(flags(nothing, Attributes { set, clear: 0 }), [strict; 2]);
        let clear = libc::MOUNT_ATTR__ATIME;
        let relatime = flags(Attributes { set: 0, clear }, nothing);
        assert_eq!(relatime, ["rw,nosuid,relatime", "rw,nosuid,relatime"]);
        let mut command = listed(&image);
        command.mount(Mount { attributes: Attributes { set: 1 << 20, clear: 0 }, ..bind(tree.path(), "/t") });
        assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec);
    });
}

#[test]
fn attributes_of_a_new_file_system_are_set() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = listed(&image);
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NOSYMFOLLOW;
    let attributes = Attributes { set, clear: 0 };
    command.mount(Mount { attributes, ..file_system("/t", "tmpfs", "") });
    assert!(mountinfo(&mut command, "/t").contains(" /t ro,noatime,nosymfollow "));
}

#[test]
fn nodes_and_links_are_created_at_their_paths() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    std::fs::write(image.path().join("file"), "").unwrap();
    let mut command = listed(&image);
    let spec = command.spec_mut();
    spec.nodes.push(Node { mode: 0o640, uid: 3, gid: 4, ..node("/dev/deep/er/loop", NodeKind::Block(7, 9)) });
    spec.nodes.push(Node { mode: 0o4622, ..node("/run/pipe", NodeKind::Fifo) });
    spec.links.push(Link { path: "/new/link".into(), target: "../file".into() });
    // Existing files stay unchanged.
    spec.links.push(Link { path: "/file".into(), target: "/elsewhere".into() });
    let text = output(
        &mut command,
        "stat -c '%F %a %u %g %t %T' /dev/deep/er/loop /run/pipe /dev/null; readlink /new/link /dev/fd; stat -c %F /file",
    );
    assert_eq!(
        text,
        "block special file 640 3 4 7 9\nfifo 4622 0 0 0 0\ncharacter special file 666 0 0 1 3\n../file\n/proc/self/fd\nregular empty file"
    );
    // An existing identical FIFO is accepted. Any other existing file is an error.
    let before = image.path().join("run/pipe").metadata().unwrap();
    assert!(before.file_type().is_fifo());
    output(&mut command, "true");
    assert_eq!(image.path().join("run/pipe").metadata().unwrap().ino(), before.ino());
    for kind in [NodeKind::Fifo, NodeKind::Char(1, 3)] {
        let mut command = listed(&image);
        command.spec_mut().nodes.push(node("/file", kind));
        let e = error(&mut command);
        assert!(
            e.to_string().contains("/file") && e.to_string().contains("another file at that path"),
            "{e}"
        );
    }
    for path in ["/", "relative", "/a/../b"] {
        let mut command = listed(&image);
        command.spec_mut().nodes.push(node(path, NodeKind::Fifo));
        let e = error(&mut command).to_string();
        assert!(e.starts_with("nodes[3].path: "), "{e}");
    }
}

#[test]
fn the_callers_umask_applies_to_the_program_and_its_hooks_and_not_to_nodes() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        let (image, note) = (Image::new(), tempfile::NamedTempFile::new().unwrap());
        // A new mount namespace also gives the thread its own umask.
        own_mounts();
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let mut command = listed(&image);
        command.spec_mut().hooks.create_container = vec![Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", &format!("umask > {}", note.path().display())].map(Into::into).to_vec(),
            env: None,
            timeout: None,
        }];
        assert_eq!(output(&mut command, "umask; stat -c %a /dev/null"), "0077\n666");
        assert_eq!(std::fs::read_to_string(note.path()).unwrap(), "0077\n");
        let mut command = Command::new("sh");
        let limit = StorageLimit::of_size(1 << 20);
        command.root(Root::Overlay { lower: vec![image.path()], writes: Writes::Tmpfs, limit });
        assert_eq!(output(&mut command, "umask; stat -c %a / /dev/null"), "0077\n755\n666");
    });
}

#[test]
fn nothing_is_created_outside_the_root() {
    if !nspod_testkit::root() {
        return;
    }
    let (image, outside) = (Image::new(), tempfile::tempdir().unwrap());
    let link = |name: &str| std::os::unix::fs::symlink(outside.path(), image.path().join(name)).unwrap();
    ["run", "leads", "ends"].into_iter().for_each(link);
    let mut command = listed(&image);
    let spec = command.spec_mut();
    spec.nodes.push(node("/run/pipe", NodeKind::Fifo));
    spec.links.push(Link { path: "/leads/link".into(), target: "x".into() });
    spec.process.cwd = Some("/ends/a/b".into());
    spec.process.create_cwd = true;
    // The links resolve within the root, and their target is created there.
    output(&mut command, "true");
    let inside = image.path().join(outside.path().strip_prefix("/").unwrap());
    for name in ["pipe", "link", "a/b"] {
        assert!(inside.join(name).symlink_metadata().is_ok(), "{name}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn devices_in_a_user_namespace_are_those_of_the_host() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = listed(&image);
    command.namespace(Kind::User, NamespaceMode::New);
    command.spec_mut().nodes.push(Node { mode: 0o600, ..node("/dev/pipe", NodeKind::Fifo) });
    let text = output(
        &mut command,
        "echo x > /dev/null; stat -c '%F %t %T' /dev/zero; stat -c '%F %a %u' /dev/pipe",
    );
    assert_eq!(text, "character special file 1 5\nfifo 600 0");
    assert!(mountinfo(&mut command, "/dev/null").contains(" /null /dev/null "));
    // A device node with another number is replaced, and the host's device is not shown.
    command.spec_mut().nodes.push(Node { mode: 0o640, uid: 7, ..node("/dev/random", NodeKind::Char(1, 3)) });
    assert_eq!(output(&mut command, "stat -c '%t %T %a %u' /dev/random"), "1 3 640 7");
}

#[test]
fn mounts_stay_in_a_namespace_only_on_request() {
    let image = Image::new();
    let mut command = listed(&image);
    command.namespace(Kind::Mnt, NamespaceMode::Host);
    assert!(error(&mut command).to_string().starts_with("mounts: this requires a new mnt namespace"));
    command.spec_mut().mounts_stay = true;
    command.root(Root::Dir { path: "/".into(), readonly: false });
    assert!(error(&mut command).to_string().starts_with("mounts_stay: "));
    command.root(Root::Empty);
    assert!(error(&mut command).to_string().starts_with("mounts_stay: "));
    let mut command = listed(&image);
    command.spec_mut().mounts_stay = true;
    assert!(error(&mut command).to_string().starts_with("mounts_stay: "));
    let mut command = listed(&image);
    command.spec_mut().no_pivot = true;
    command.spec_mut().propagation = Some(Propagation { kind: PropagationKind::Shared, recursive: true });
    assert!(error(&mut command).to_string().starts_with("propagation: "));
}

fn terminal_says(command: &mut Command, line: &str) -> String {
    command.spec_mut().process.args = vec!["sh".into(), "-c".into(), line.into()];
    command.spec_mut().process.terminal = Some(Terminal { rows: 30, columns: 90 });
    let mut container = command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"));
    let mut terminal = container.terminal.take().unwrap();
    terminal.write_all(b"word\n").unwrap();
    let mut text = Vec::new();
    // Reading a terminal fails with EIO after the other end is closed.
    let _ = terminal.read_to_end(&mut text);
    container.wait().unwrap();
    container.delete().unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn the_terminal_is_the_console_of_a_listed_dev() {
    if !nspod_testkit::root() {
        return;
    }
    let look = "tty; stat -c '%F %t' /dev/console; read x < /dev/console; echo got $x > /dev/console";
    let image = Image::new();
    std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    for user in [NamespaceMode::Host, NamespaceMode::New] {
        let mut command = listed(&image);
        command.namespace(Kind::User, user);
        let text = terminal_says(&mut command, look);
        for expected in ["/dev/pts/0\r\n", "character special file 88\r\n", "got word\r\n"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
    // The host's /dev with its terminals.
    let mut command = listed(&image);
    command.spec_mut().mounts.retain(|m| !m.destination.starts_with("/dev"));
    command.mount(Mount { nodev: false, ..bind(Path::new("/dev"), "/dev") });
    command.spec_mut().nodes.clear();
    let console = std::fs::metadata("/dev/console").map(|m| m.rdev()).ok();
    let text = terminal_says(&mut command, look);
    assert!(
        text.contains("/dev/pts/") && text.contains("file 88\r\n") && text.contains("got word"),
        "{text}"
    );
    assert_eq!(std::fs::metadata("/dev/console").map(|m| m.rdev()).ok(), console);
}

#[test]
fn the_console_is_not_mounted_through_a_link() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    std::fs::write(image.path().join("victim"), "").unwrap();
    std::os::unix::fs::symlink("/victim", image.path().join("dev/console")).unwrap();
    let mut command = listed(&image);
    command.spec_mut().mounts.retain(|m| !m.destination.starts_with("/dev"));
    command.spec_mut().process.terminal = Some(Terminal::default());
    let e = error(&mut command);
    assert_eq!(
        e.to_string(),
        "cannot mount the terminal on /dev/console: openat2: Too many symbolic links encountered (ELOOP); a symbolic link in the root is on the path, and it is not followed"
    );
}

#[test]
fn devices_of_the_root_open_unless_they_are_denied() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let zero = image.path().join("zero");
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    nix::sys::stat::mknod(&zero, kind, nix::sys::stat::Mode::all(), libc::makedev(1, 5)).unwrap();
    let open = "(: < /zero) 2> /dev/null && echo opens || echo denied";
    let mut command = listed(&image);
    assert_eq!(output(&mut command, open), "opens");
    command.spec_mut().root_nodev = true;
    assert_eq!(output(&mut command, open), "denied");
}

#[test]
fn a_missing_working_directory_is_created() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = listed(&image);
    command.current_dir("/work/in/here");
    assert_eq!(error(&mut command).failed_call(), Some("chdir"));
    command.spec_mut().process.create_cwd = true;
    assert_eq!(output(&mut command, "pwd; stat -c '%a %u' /work/in"), "/work/in/here\n755 0");
    command.current_dir("/proc/nothing");
    assert_eq!(error(&mut command).failed_call(), Some("chdir"));
}

fn host_mounts() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    text.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect()
}

fn parse(text: &str) -> Propagation {
    let recursive = text.starts_with('r');
    let kind = match text.trim_start_matches('r') {
        "shared" => PropagationKind::Shared,
        "slave" => PropagationKind::Slave,
        "private" => PropagationKind::Private,
        "unbindable" => PropagationKind::Unbindable,
        other => panic!("{other}"),
    };
    Propagation { kind, recursive }
}

/// Propagation of the namespace's mounts and of the bind mount, and whether the host and the container see each
/// other's new mounts. With a user namespace the host never sees one.
const PROPAGATIONS: [(&str, &str, bool, bool); 15] = [
    ("", "", false, false),
    ("", "rslave", false, true),
    ("", "rshared", false, true),
    ("", "rprivate", false, false),
    ("rshared", "rshared", true, true),
    ("rshared", "", true, true),
    ("rshared", "rprivate", false, false),
    ("shared", "rprivate", false, false),
    ("rslave", "", false, true),
    ("slave", "rslave", false, true),
    ("rslave", "rprivate", false, false),
    ("rprivate", "rshared", false, false),
    ("private", "rprivate", false, false),
    ("runbindable", "", false, false),
    ("unbindable", "rprivate", false, false),
];

#[test]
fn mounts_propagate_to_and_from_the_host_only_as_requested() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        own_mounts();
        let none = None::<&str>;
        // The host's mounts are shared, as systemd makes them.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).unwrap();
        let image = Image::new();
        std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        // The root is a mount point of its own.
        mount(Some(&image.path()), &image.path(), none, MsFlags::MS_BIND, none).unwrap();
        for (user, (all, one, out, into)) in [NamespaceMode::Host, NamespaceMode::New]
            .into_iter()
            .flat_map(|u| PROPAGATIONS.map(|case| (u.clone(), case)))
        {
            let new = user == NamespaceMode::New;
            let case = format!("{all:?} {one:?} user: {new}");
            let source = tempfile::tempdir().unwrap();
            std::fs::set_permissions(source.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
            mount(Some("t"), source.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
            mount(none, source.path(), none, MsFlags::MS_SHARED, none).unwrap();
            for name in ["inside", "outside"] {
                std::fs::create_dir(source.path().join(name)).unwrap();
            }
            let before = host_mounts();
            let mut command = listed(&image);
            command.namespace(Kind::User, user);
            command.spec_mut().propagation = Some(all).filter(|p| !p.is_empty()).map(parse);
            let propagation = Some(one).filter(|p| !p.is_empty()).map(parse).into_iter().collect();
            command.mount(Mount { propagation, ..bind(source.path(), "/v") });
            command.mount(file_system("/v/inside", "tmpfs", ""));
            command.mount(bind(source.path(), "/w"));
            let line = "read x; while read l; do echo \"$l\"; done < /proc/self/mountinfo";
            command.spec_mut().process.args = ["sh", "-c", line].map(Into::into).to_vec();
            command.stdin(Stdio::Piped).stdout(Stdio::Piped);
            let mut container = command.spawn().unwrap_or_else(|e| panic!("{case}: {e}"));
            let mut seen = host_mounts();
            let inside = source.path().join("inside").display().to_string();
            let got_out = seen.contains(&inside);
            seen.retain(|at| *at != inside);
            assert_eq!(seen, before, "{case}");
            // A container in a user namespace cannot change the mounts of the host.
            assert_eq!(got_out, out && !new, "{case}");
            mount(Some("t"), &source.path().join("outside"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
            container.stdin.take().unwrap().write_all(b"\n").unwrap();
            let mut text = String::new();
            container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(container.wait().unwrap().status.success());
            container.delete().unwrap();
            assert_eq!(text.contains(" /v/outside "), into && (!new || !one.is_empty()), "{case}: {text}");
            // The mount does not appear below another bind mount.
            assert!(!(all.is_empty() && text.contains(" /w/outside ")), "{case}: {text}");
            // Propagation type of the root.
            let root = text.lines().find(|l| l.split(' ').nth(4) == Some("/")).unwrap();
            let last = if all.ends_with("shared") { "shared:" } else { "unbindable" };
            assert_eq!(
                root.contains(last),
                all.ends_with("shared") || all.ends_with("unbindable"),
                "{case}: {root}"
            );
            assert!(host_mounts().len() >= before.len(), "{case}");
            for at in [
                Some(source.path().join("outside")),
                got_out.then(|| inside.into()),
                Some(source.path().into()),
            ] {
                // A process that another test has just forked can have a file of the mount open.
                let detach = nix::mount::MntFlags::MNT_DETACH;
                at.into_iter().for_each(|at: PathBuf| nix::mount::umount2(&at, detach).unwrap());
            }
        }
    });
}

#[test]
fn propagation_types_are_set_in_order() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let optional = |types: &[&str]| {
        let mut command = listed(&image);
        let propagation = types.iter().map(|t| parse(t)).collect();
        command.mount(Mount { propagation, ..file_system("/t", "tmpfs", "") });
        let line = mountinfo(&mut command, "/t");
        let fields: Vec<_> = line.split(' ').skip(6).take_while(|f| *f != "-").collect();
        fields.iter().map(|f| f.split(':').next().unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(optional(&[]), "");
    assert_eq!(optional(&["shared"]), "shared");
    assert_eq!(optional(&["rshared", "private"]), "");
    assert_eq!(optional(&["shared", "unbindable"]), "unbindable");
    assert_eq!(optional(&["unbindable", "shared"]), "shared");
}

fn id_maps(uid: Option<&str>, recursive: bool) -> Option<MountIdMaps> {
    let map: Option<IdMap> = uid.map(|text| text.parse().unwrap());
    Some(MountIdMaps { uid: map.clone(), gid: map, recursive })
}

#[test]
fn files_of_an_idmapped_mount_have_mapped_owners() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        own_mounts();
        let (image, data) = (Image::new(), tempfile::tempdir().unwrap());
        std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        for name in ["file", "below"] {
            std::fs::create_dir(data.path().join(name)).unwrap();
        }
        std::os::unix::fs::chown(data.path().join("file"), Some(3), Some(4)).unwrap();
        mount(Some(&image.path()), &data.path().join("below"), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap();
        let owners = "stat -c '%u %g' /d/file /d/below/bin";
        let with = |id_maps| Mount { id_maps, ..bind(data.path(), "/d") };

        let mut command = listed(&image);
        command.mount(with(id_maps(Some("0 1000 10"), false)));
        assert_eq!(output(&mut command, owners), "1003 1004\n0 0");
        let mut command = listed(&image);
        command.mount(with(id_maps(Some("0 1000 10"), true)));
        assert_eq!(output(&mut command, owners), "1003 1004\n1000 1000");
        assert!(command.plan().unwrap().to_string().contains(" with mapped ids\n"));

        // Mapped by the container's own user namespace, so that a file created inside has the same ids outside.
        let mut command = listed(&image);
        command.namespace(Kind::User, NamespaceMode::New).mount(bind(data.path(), "/d"));
        assert_eq!(output(&mut command, owners), "65534 65534\n65534 65534");
        let mut command = listed(&image);
        command.namespace(Kind::User, NamespaceMode::New).mount(with(id_maps(None, true)));
        assert_eq!(output(&mut command, &format!("touch /d/made; {owners}")), "3 4\n0 0");
        assert_eq!(std::fs::metadata(data.path().join("made")).unwrap().uid(), 0);
        let mut command = Command::bare("sleep");
        command.arg("1000").isolate(Kind::User.into()).stdin(Stdio::Null);
        let host = command.spawn().unwrap();
        let mut command = listed(&image);
        command.join_pidfd(Kind::User.into(), host.pidfd()).unwrap();
        command.mount(with(id_maps(None, true)));
        assert_eq!(output(&mut command, owners), "3 4\n0 0");
        host.delete().unwrap();

        for maps in [id_maps(None, false), id_maps(Some("0 5 1\n0 6 1"), false), id_maps(Some(""), false)] {
            let mut command = listed(&image);
            command.mount(with(maps));
            assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec);
        }
        let mut command = listed(&image);
        command.mount(Mount { id_maps: id_maps(Some("0 5 1"), false), ..bind(Path::new("/proc"), "/d") });
        let e = error(&mut command);
        assert!(e.to_string().starts_with("cannot map the ids of /proc: mount_setattr: "), "{e}");
        assert!(e.to_string().contains("this kernel cannot map the ids of that file system"), "{e}");
    });
}

/// Prints every file of a directory tree with its attributes, one file on each line.
const TREE: &str = "cd /etc/tree && find . -printf '%p %y %m %U %G %T@ %l %s\\n' | sort";

#[test]
fn a_tmpfs_starts_with_a_copy_of_the_directory_that_it_covers() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    ["find", "sort", "cmp"].into_iter().for_each(|name| image.add(name));
    let tree = image.path().join("etc/tree");
    std::fs::create_dir_all(&tree).unwrap();
    // More entries than one `getdents64` returns, with directories among them.
    for number in 0..400 {
        let name = format!("{number}-{}", "n".repeat(40));
        match number % 10 {
            3 => {
                std::fs::create_dir(tree.join(&name)).unwrap();
                std::fs::write(tree.join(&name).join("in"), name.as_bytes()).unwrap();
            }
            _ => std::fs::write(tree.join(&name), name.as_bytes()).unwrap(),
        }
    }
    let deep: PathBuf = std::iter::repeat_n("d", 60).collect();
    std::fs::create_dir_all(tree.join(&deep)).unwrap();
    std::fs::write(tree.join(&deep).join("large"), vec![7; 20 << 20]).unwrap();
    std::os::unix::fs::symlink("no where", tree.join("link")).unwrap();
    std::os::unix::fs::lchown(tree.join("link"), Some(8), Some(9)).unwrap();
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRUSR);
    nix::sys::stat::mknod(&tree.join("zero"), kind, mode, libc::makedev(1, 5)).unwrap();
    nix::unistd::mkfifo(&tree.join("pipe"), mode).unwrap();
    let large = tree.join(&deep).join("large");
    std::os::unix::fs::chown(&large, Some(11), Some(12)).unwrap();
    std::fs::set_permissions(&large, std::fs::Permissions::from_mode(0o4751)).unwrap();
    let day = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(86_400, 123);
    std::fs::File::options().write(true).open(&large).unwrap().set_modified(day).unwrap();
    std::fs::File::open(tree.join("d")).unwrap().set_modified(day).unwrap();
    std::fs::set_permissions(&tree, std::fs::Permissions::from_mode(0o1751)).unwrap();
    std::os::unix::fs::chown(&tree, Some(5), Some(6)).unwrap();

    let mut plain = listed(&image);
    // The size of a directory depends on the file system.
    let without_size = |text: String| -> Vec<String> {
        let dir = |l: &str| l.split(' ').nth(1) == Some("d");
        text.lines()
            .map(|l| if dir(l) { l.rsplit_once(' ').unwrap().0.into() } else { l.to_owned() })
            .collect()
    };
    let expected = without_size(output(&mut plain, TREE));
    assert!(expected.len() > 500, "{expected:?}");
    let mut command = listed(&image);
    command.mount(Mount { copy_up: true, readonly: true, ..file_system("/etc/tree", "tmpfs", "") });
    let copied = without_size(output(&mut command, TREE));
    for (copied, expected) in copied.iter().zip(&expected) {
        assert_eq!(copied, expected);
    }
    assert_eq!(copied.len(), expected.len());
    assert!(mountinfo(&mut command, "/etc/tree").contains(" /etc/tree ro,"));
    command.mount(bind(&tree, "/original"));
    let same = format!("cmp /etc/tree/{0}/large /original/{0}/large", deep.display());
    assert_eq!(output(&mut command, &same), "");

    // With an explicit mode the mode is not copied. A missing directory has no content to copy.
    let mut command = listed(&image);
    command.mount(Mount { copy_up: true, ..file_system("/etc/tree", "tmpfs", "mode=700") });
    command.mount(Mount { copy_up: true, ..file_system("/not/there", "tmpfs", "") });
    assert_eq!(output(&mut command, "stat -c '%a %u' /etc/tree; ls /not/there"), "700 0");
    assert!(!large.metadata().unwrap().permissions().readonly());

    let mut command = listed(&image);
    command.mount(Mount { copy_up: true, ..file_system("/etc/tree", "tmpfs", "size=1m") });
    let e = error(&mut command);
    assert!(e.to_string().ends_with("the copy does not fit into the tmpfs: set a larger size"), "{e}");
    let deeper: PathBuf = std::iter::repeat_n("d", 140).collect();
    std::fs::create_dir_all(tree.join(deeper)).unwrap();
    let mut command = listed(&image);
    command.mount(Mount { copy_up: true, ..file_system("/etc/tree", "tmpfs", "") });
    let e = error(&mut command);
    assert!(e.to_string().ends_with("the tree to copy is more than 128 directories deep"), "{e}");
    let mut command = listed(&image);
    command.mount(Mount { copy_up: true, ..bind(&tree, "/t") });
    assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec);
}

#[test]
fn nothing_is_mounted_in_proc_by_a_path_or_by_a_link() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    std::os::unix::fs::symlink("/proc/self", image.path().join("link")).unwrap();
    let tmpfs = |to: &str| Mount::new(to, MountKind::Tmpfs { mode: None });
    for mount in [
        tmpfs("/proc"),
        tmpfs("/proc/self/attr"),
        Mount::new("/proc/dev", MountKind::Dev),
        Mount::new("/proc/1", MountKind::Proc),
        bind(&image.path(), "/proc/sys"),
        file_system("/proc", "sysfs", ""),
    ] {
        let mut command = listed(&image);
        command.mount(mount);
        let e = error(&mut command);
        assert_eq!(e.kind(), ErrorKind::InvalidSpec, "{e}");
        assert!(e.to_string().starts_with("mounts[6].destination: "), "{e}");
    }
    for mount in [tmpfs("/link/attr"), bind(&image.path(), "/link"), bind(&image.path(), "/proc")] {
        let mut command = listed(&image);
        command.mount(mount);
        let e = error(&mut command);
        assert!(e.to_string().contains("it cannot be mounted because it is "), "{e}");
    }
    // In a user namespace a device is bound, because it cannot be created.
    let mut command = listed(&image);
    command.spec_mut().namespaces.user = NamespaceMode::New;
    command.spec_mut().nodes.push(node("/proc/kcore", NodeKind::Char(1, 3)));
    let e = error(&mut command).to_string();
    assert!(e.starts_with("nodes[3].path: /proc/kcore cannot be mounted because it is inside /proc"), "{e}");
    // A bind of the host's own procfs, and of a file of the container over it.
    let file = image.path().join("uptime");
    std::fs::write(&file, "1.00 1.00\n").unwrap();
    let mut command = listed(&image);
    command.mount(bind(Path::new("/proc"), "/proc")).mount(bind(&file, "/proc/uptime"));
    assert_eq!(output(&mut command, "cat /proc/uptime"), "1.00 1.00");
}

#[test]
fn a_standard_dev_is_read_only_after_the_setup() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = listed(&image);
    command.spec_mut().mounts = vec![
        Mount::new("/proc", MountKind::Proc),
        Mount { readonly: true, ..Mount::new("/dev", MountKind::Dev) },
    ];
    assert!(mountinfo(&mut command, "/dev").contains(" /dev ro,"));
    assert!(mountinfo(&mut command, "/dev/shm").contains(" /dev/shm rw,"));
}

/// A file in an image can be replaced between its check and its opening.
#[test]
fn a_copy_does_not_open_a_pipe_that_replaced_a_file() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let tree = image.path().join("etc/tree");
    std::fs::create_dir_all(&tree).unwrap();
    let (file, pipe) = (tree.join("file"), tree.join("pipe"));
    std::fs::write(&file, "text").unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &file, nix::fcntl::AT_FDCWD, &pipe, flags)
                    .unwrap();
            }
        });
        let copies = || {
            let mut command = listed(&image);
            for place in 0..20 {
                let place = format!("/copy{place}");
                command.mount(bind(&tree, &place));
                command.mount(Mount { copy_up: true, ..file_system(&place, "tmpfs", "") });
            }
            let mut container = command.arg("-c").arg("true").spawn()?;
            container.wait()?;
            container.delete()
        };
        // The guest is an emulated machine, which is slow.
        let rounds = if std::env::var_os("NSPOD_LANE").is_some() { 10 } else { 100 };
        let result = (0..rounds).try_for_each(|_| copies());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result.unwrap();
    });
}

#[test]
fn names_and_parameters_are_set_in_a_joined_namespace_but_not_the_callers() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::Null);
    let pod = command.spawn().unwrap();
    let kinds = [Kind::Uts, Kind::Net, Kind::Ipc].map(nspod_sandbox::ns_core::Kinds::from);
    let mut command = Command::new("true");
    command.join_pidfd(kinds.into_iter().collect(), pod.pidfd()).unwrap();
    let spec = command.spec_mut();
    (spec.hostname, spec.domainname) = (Some("shared".into()), Some("domain".into()));
    for (name, value) in [("net.ipv4.ip_forward", "1"), ("kernel.shmmni", "99")] {
        spec.sysctls.insert(name.into(), value.into());
    }
    output(&mut command, "true");
    let mut exec = pod.exec("sh").unwrap();
    let text = output(
        &mut exec,
        "cd /proc/sys; cat kernel/hostname kernel/domainname net/ipv4/ip_forward kernel/shmmni",
    );
    assert_eq!(text, "shared\ndomain\n1\n99");
    pod.delete().unwrap();

    for (kind, field) in [(Kind::Uts, "hostname"), (Kind::Net, "sysctls.net.ipv4.ip_forward")] {
        let mut command = Command::new("true");
        command.join(nspod_sandbox::ns_core::Namespace::current(kind).unwrap());
        match kind {
            Kind::Uts => command.spec_mut().hostname = Some("never".into()),
            _ => drop(command.spec_mut().sysctls.insert("net.ipv4.ip_forward".into(), "1".into())),
        }
        let e = error(&mut command);
        assert!(
            e.to_string().starts_with(&format!("{field}: ")) && e.to_string().contains("the caller's own"),
            "{e}"
        );
    }
}

#[test]
fn hooks_see_the_root_at_its_path_on_the_host() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        own_mounts();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).unwrap();
        let before = host_mounts();
        for propagation in [None, Some(parse("rslave")), Some(parse("rshared")), Some(parse("private"))] {
            let image = Image::new();
            let root = image.path().display().to_string();
            let line = format!(
                "grep -c ' {root}/proc ' /proc/self/mountinfo > {root}/marked; ls -d /proc/1/root >> {root}/marked"
            );
            let mut command = listed(&image);
            command.spec_mut().propagation = propagation;
            command.spec_mut().hooks.create_container = vec![Hook {
                path: "/bin/sh".into(),
                args: ["sh", "-c", &line].map(Into::into).to_vec(),
                env: Some(vec![("PATH".into(), "/usr/bin:/bin".into())]),
                timeout: Some(20),
            }];
            assert_eq!(
                output(
                    &mut command,
                    "cat /marked; ls / | while read x; do [ $x = marked ] && echo $x; done; true"
                ),
                "1\n/proc/1/root\nmarked"
            );
            assert_eq!(host_mounts(), before);
        }
    });
}

#[test]
fn the_cgroup_is_bind_mounted_in_the_hosts_cgroup_namespace() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = listed(&image);
    command.namespace(Kind::Cgroup, NamespaceMode::Host);
    let mount = Mount { readonly: true, ..Mount::new("/sys/fs/cgroup", MountKind::Cgroup) };
    command.spec_mut().mounts.push(mount);
    command.args(["-c", "read a < /sys/fs/cgroup/cgroup.procs; ! mkdir /sys/fs/cgroup/x"]);
    let hierarchy = nspod_sandbox::cgroup_core::Hierarchy::detect().unwrap();
    let point = hierarchy.mount_point().unwrap().display().to_string();
    let plan = command.plan().unwrap().to_string();
    // A new cgroup2 mount would change the options of the host's mount.
    let bound = plan.lines().filter(|line| line.contains(&format!("bind {point} "))).count();
    assert_eq!(bound, 1, "{plan}");
    assert!(command.stdin(Stdio::Null).stderr(Stdio::Null).status().unwrap().status.success());
    command.spec_mut().mounts.pop();
    command.spec_mut().mounts.push(file_system("/sys/fs/cgroup", "cgroup2", "nsdelegate"));
    let e = error(&mut command).to_string();
    assert!(e.contains("mounts[6].kind.options") && e.contains("the whole host"), "{e}");
}

/// `Command` keeps its plan, so the second start meets a host that has changed.
#[test]
fn a_mount_that_the_host_removes_after_the_plan_does_not_stop_the_start() {
    if !nspod_testkit::root() {
        return;
    }
    // A container has its own /tmp.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let private = common::Private::new(dir.path());
    let mut command = Command::new("ls");
    command.arg(dir.path()).stdout(Stdio::Null).stderr(Stdio::Null);
    assert_eq!(command.status().unwrap().status.code(), Some(0));
    drop(private);
    dir.close().unwrap();
    assert_ne!(command.status().unwrap().status.code(), Some(0));
}
