//! File systems, binds, nodes and links of a container, each read back from inside.
#![allow(unsafe_code)]

#[macro_use]
mod common;

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nspod_sandbox::spec::{Attributes, Link, Mount, MountKind, Namespace, Node, NodeKind, Root, Terminal};
use nspod_sandbox::{Command, ErrorKind, ns_core::Kind};

use common::{Image, error, output};

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

/// A container as OCI's configurations have it: every mount is listed, by its kernel name.
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

/// The line of mountinfo that is about this place, in the container.
fn mountinfo(command: &mut Command, at: &str) -> String {
    let text = output(command, "while read l; do echo \"$l\"; done < /proc/self/mountinfo");
    let of = |line: &&str| line.split(' ').nth(4) == Some(at);
    text.lines().rfind(of).unwrap_or_else(|| panic!("{at}: {text}")).to_owned()
}

#[test]
fn file_systems_are_mounted_by_name_with_their_own_options() {
    need_root!("file_systems_are_mounted_by_name_with_their_own_options");
    let image = Image::new();
    let mut command = listed(&image);
    command.mount(file_system("/t", "tmpfs", "size=1m,mode=1750,uid=7,nr_inodes=99"));
    assert_eq!(output(&mut command, "stat -c '%a %u' /t; stat -f -c '%b %S %c' /t"), "1750 7\n256 4096 99");
    assert!(
        mountinfo(&mut command, "/t").ends_with(" - tmpfs tmpfs rw,size=1024k,nr_inodes=99,mode=1750,uid=7")
    );
    let text = output(&mut command, "echo $$; ls /dev /dev/pts; echo x > /dev/null; cat /proc/mounts");
    assert!(text.starts_with("1\n/dev:\n"), "{text}");
    for line in ["devpts /dev/pts devpts rw,relatime,mode=620,ptmxmode=666 0 0", "mqueue /dev/mqueue mqueue"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Without a source there is none.
    let source = PathBuf::new();
    let kind = MountKind::FileSystem { fstype: "tmpfs".into(), source, options: Vec::new() };
    command.mount(Mount::new("/none", kind));
    assert!(mountinfo(&mut command, "/none").contains(" - tmpfs none "));
}

#[test]
fn an_option_that_a_file_system_refuses_is_named() {
    need_root!("an_option_that_a_file_system_refuses_is_named");
    let image = Image::new();
    let mut command = listed(&image);
    command.mount(file_system("/t", "tmpfs", "mode=700,colour=red,size=1m"));
    let e = error(&mut command);
    assert_eq!(
        e.to_string(),
        "cannot mount a new tmpfs (mode=700,colour=red,size=1m) on /t: fsconfig: Invalid argument (EINVAL); the file system refuses the option colour=red"
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
fn options_longer_than_fsconfig_takes_are_mounted_all_the_same() {
    need_root!("options_longer_than_fsconfig_takes_are_mounted_all_the_same");
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
    // And nothing else is where it went by.
    assert_eq!(output(&mut command, "cd /; echo *"), "bin dev lib lib64 o proc sys tmp");
    // A caller's directory stays what it was.
    let text = output(listed(&image).current_dir("/tmp"), "pwd");
    assert_eq!(text, "/tmp");
    lower.iter_mut().for_each(|layer| *layer = layer.repeat(20));
    let mut command = listed(&image);
    command.mount(file_system("/o", "overlay", &format!("lowerdir={}", lower.join(":"))));
    assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec);
}

#[test]
fn a_remount_changes_what_is_mounted() {
    need_root!("a_remount_changes_what_is_mounted");
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
fn attributes_are_of_the_mount_alone_or_of_all_below() {
    need_root!("attributes_are_of_the_mount_alone_or_of_all_below");
    common::in_time(|| {
        use nix::mount::{MsFlags, mount};
        // A tree of two mounts in a namespace of this thread's own.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
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
    need_root!("attributes_of_a_new_file_system_are_set");
    let image = Image::new();
    let mut command = listed(&image);
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NOSYMFOLLOW;
    let attributes = Attributes { set, clear: 0 };
    command.mount(Mount { attributes, ..file_system("/t", "tmpfs", "") });
    assert!(mountinfo(&mut command, "/t").contains(" /t ro,noatime,nosymfollow "));
}

#[test]
fn nodes_and_links_are_made_where_they_are_asked_for() {
    need_root!("nodes_and_links_are_made_where_they_are_asked_for");
    let image = Image::new();
    std::fs::write(image.path().join("file"), "").unwrap();
    let mut command = listed(&image);
    let spec = command.spec_mut();
    spec.nodes.push(Node { mode: 0o640, uid: 3, gid: 4, ..node("/dev/deep/er/loop", NodeKind::Block(7, 9)) });
    spec.nodes.push(Node { mode: 0o4622, ..node("/run/pipe", NodeKind::Fifo) });
    spec.links.push(Link { path: "/new/link".into(), target: "../file".into() });
    // What is there already stays.
    spec.links.push(Link { path: "/file".into(), target: "/elsewhere".into() });
    let text = output(
        &mut command,
        "stat -c '%F %a %u %g %t %T' /dev/deep/er/loop /run/pipe /dev/null; readlink /new/link /dev/fd; stat -c %F /file",
    );
    assert_eq!(
        text,
        "block special file 640 3 4 7 9\nfifo 4622 0 0 0 0\ncharacter special file 666 0 0 1 3\n../file\n/proc/self/fd\nregular empty file"
    );
    // The same pipe again is no obstacle, and anything else is.
    let before = image.path().join("run/pipe").metadata().unwrap();
    assert!(before.file_type().is_fifo());
    output(&mut command, "true");
    assert_eq!(image.path().join("run/pipe").metadata().unwrap().ino(), before.ino());
    for kind in [NodeKind::Fifo, NodeKind::Char(1, 3)] {
        let mut command = listed(&image);
        command.spec_mut().nodes.push(node("/file", kind));
        let e = error(&mut command);
        assert!(
            e.to_string().contains("/file") && e.to_string().contains("something else is there already"),
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
fn nothing_is_made_outside_of_the_root() {
    need_root!("nothing_is_made_outside_of_the_root");
    let (image, outside) = (Image::new(), tempfile::tempdir().unwrap());
    let link = |name: &str| std::os::unix::fs::symlink(outside.path(), image.path().join(name)).unwrap();
    ["run", "leads", "ends"].into_iter().for_each(link);
    let mut command = listed(&image);
    let spec = command.spec_mut();
    spec.nodes.push(node("/run/pipe", NodeKind::Fifo));
    spec.links.push(Link { path: "/leads/link".into(), target: "x".into() });
    spec.process.cwd = Some("/ends/a/b".into());
    spec.process.create_cwd = true;
    // The links lead to a place within the root, which is not there.
    let e = error(&mut command);
    assert!(e.to_string().contains("ENOENT") || e.to_string().contains("EEXIST"), "{e}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn devices_in_a_user_namespace_are_the_hosts() {
    need_root!("devices_in_a_user_namespace_are_the_hosts");
    let image = Image::new();
    std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = listed(&image);
    command.namespace(Kind::User, Namespace::New);
    command.spec_mut().nodes.push(Node { mode: 0o600, ..node("/dev/pipe", NodeKind::Fifo) });
    let text = output(
        &mut command,
        "echo x > /dev/null; stat -c '%F %t %T' /dev/zero; stat -c '%F %a %u' /dev/pipe",
    );
    assert_eq!(text, "character special file 1 5\nfifo 600 0");
    assert!(mountinfo(&mut command, "/dev/null").contains(" /null /dev/null "));
    // Only what has the number that was asked for.
    command.spec_mut().nodes.push(node("/dev/random", NodeKind::Char(1, 3)));
    let e = error(&mut command);
    assert!(e.to_string().ends_with("it is not the device that its name says"), "{e}");
}

fn terminal_says(command: &mut Command, line: &str) -> String {
    command.spec_mut().process.args = vec!["sh".into(), "-c".into(), line.into()];
    command.spec_mut().process.terminal = Some(Terminal { rows: 30, columns: 90 });
    let mut container = command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"));
    let mut terminal = container.terminal.take().unwrap();
    terminal.write_all(b"word\n").unwrap();
    let mut text = Vec::new();
    // The other end closing is EIO here.
    let _ = terminal.read_to_end(&mut text);
    container.wait().unwrap();
    container.delete().unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn the_terminal_is_the_console_of_a_listed_dev() {
    need_root!("the_terminal_is_the_console_of_a_listed_dev");
    let look = "tty; stat -c '%F %t' /dev/console; read x < /dev/console; echo got $x > /dev/console";
    let image = Image::new();
    std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    for user in [Namespace::Host, Namespace::New] {
        let mut command = listed(&image);
        command.namespace(Kind::User, user);
        let text = terminal_says(&mut command, look);
        for expected in ["/dev/pts/0\r\n", "character special file 88\r\n", "got word\r\n"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
    // A /dev of the host's, and its terminals.
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
fn the_console_is_mounted_along_no_link() {
    need_root!("the_console_is_mounted_along_no_link");
    let image = Image::new();
    std::fs::write(image.path().join("victim"), "").unwrap();
    std::os::unix::fs::symlink("/victim", image.path().join("dev/console")).unwrap();
    let mut command = listed(&image);
    command.spec_mut().mounts.retain(|m| !m.destination.starts_with("/dev"));
    command.spec_mut().process.terminal = Some(Terminal::default());
    let e = error(&mut command);
    assert_eq!(
        e.to_string(),
        "cannot mount the terminal on /dev/console: openat2: Too many symbolic links encountered (ELOOP); a link in the root is in the way, and it is not followed"
    );
}

#[test]
fn devices_of_the_root_open_unless_they_are_denied() {
    need_root!("devices_of_the_root_open_unless_they_are_denied");
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
fn a_missing_working_directory_is_made() {
    need_root!("a_missing_working_directory_is_made");
    let image = Image::new();
    let mut command = listed(&image);
    command.current_dir("/work/in/here");
    assert_eq!(error(&mut command).failed_call(), Some("chdir"));
    command.spec_mut().process.create_cwd = true;
    assert_eq!(output(&mut command, "pwd; stat -c '%a %u' /work/in"), "/work/in/here\n755 0");
    command.current_dir("/proc/nothing");
    assert_eq!(error(&mut command).failed_call(), Some("chdir"));
}
