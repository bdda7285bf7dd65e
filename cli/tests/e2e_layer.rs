//! `nspod diff` and `nspod commit`: the changes of a container in its overlay.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::user::User;
use common::{Guard, NSPOD, Name, busybox_root, end_of, eventually, json, nspod, ok, programs, root};

/// An image with busybox, and a directory for an overlay.
struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Image {
        let dir = tempfile::tempdir().unwrap();
        let image = Image(dir);
        std::fs::set_permissions(image.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let names = ["sh", "cat", "sleep", "mkdir", "rm", "chmod", "mv", "ln", "touch", "seq"];
        busybox_root(&image.path("image"), &names);
        std::fs::create_dir(image.path("image/old")).unwrap();
        for (file, text) in [("etc/conf", "1"), ("etc/gone", "1"), ("old/file", "1"), ("script", "1")] {
            std::fs::write(image.path("image").join(file), text).unwrap();
        }
        image
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Copies the image.
    fn copy(&self) -> String {
        let copied = Command::new("cp").arg("-a").arg(self.path("image")).arg(self.path("copy")).status();
        assert!(copied.unwrap().success());
        self.text("copy")
    }

    /// Returns the flags of a container with this image and overlay.
    fn flags(&self) -> [String; 3] {
        ["--rootfs".into(), self.text("image"), format!("--overlay={}", self.text("o"))]
    }

    /// Runs a script in a container that is kept.
    fn kept(&self, script: &str) -> Name {
        let name = Name::container();
        let [rootfs, image, overlay] = self.flags();
        ok(&["run", "--keep", "--name", &name, &rootfs, &image, &overlay, "sh", "-c", script]);
        name
    }

    fn detached(&self, script: &str) -> Name {
        let [rootfs, image, overlay] = self.flags();
        Name::detached(&[&rootfs, &image, &overlay], &["sh", "-c", script])
    }

    /// Returns the flags that name the overlay itself.
    fn overlay(&self) -> [String; 4] {
        ["--overlay".into(), self.text("o"), "--lower".into(), self.text("image")]
    }
}

/// Checks that nspod fails with a sentence that contains this text.
#[track_caller]
fn refused(args: &[&str], part: &str) {
    let output = nspod(args);
    assert_eq!(output.code(), 125, "{args:?}: {}", output.out);
    assert!(output.err.contains(part), "{}: {part:?} is not in it", output.err);
}

const SCRIPT: &str = "echo 22 > /etc/conf; rm /etc/gone; chmod 700 /script; rm -r /old; mkdir /old; \
    mkdir /new; ln -s target /new/link; echo x > \"/new/$(printf 'a\\nb')\"";

#[test]
fn diff_lists_the_changes_and_commit_applies_them() {
    if !root() || !programs(&["busybox"]) {
        return;
    }
    let image = Image::new();
    let name = image.kept(SCRIPT);
    let lines = ok(&["diff", &name]);
    let wanted = "C /\nC /etc\nC /etc/conf\nD /etc/gone\nA /new\nA /new/a\\nb\nA /new/link\nC /old\nD /old/file\nC /script\n";
    assert_eq!(lines, wanted);
    let table = ok(&["diff", "-l", &name]);
    let row = |end: &str| {
        let row = table.lines().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{table}"));
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("/etc/conf"), "C file 0644 0:0 1 → 3 content,modified /etc/conf");
    assert_eq!(row("/script"), "C file 0644 → 0700 0:0 1 mode /script");
    assert_eq!(row("-> target"), "A symlink 0777 0:0 6 /new/link -> target");
    let changes = json(&["--json", "diff", &name]);
    let change =
        |path: &str| changes.as_array().unwrap().iter().find(|change| change["path"] == path).unwrap();
    assert_eq!(change("/script")["parts"], serde_json::json!(["mode"]));
    assert_eq!(change("/script")["before"]["mode"], 0o644);
    assert_eq!(
        (&change("/etc/gone")["kind"], &change("/etc/gone")["after"]),
        (&"deleted".into(), &().into())
    );
    assert_eq!(change("/new/link")["after"]["target"], "target");
    assert_eq!(change("/new/a\nb")["after"]["type"], "file");

    let copy = image.copy();
    assert_eq!(json(&["--json", "commit", &name, &copy])["changes"], 10);
    assert_eq!((image.read("copy/etc/conf"), image.read("image/etc/conf")), ("22\n".into(), "1".into()));
    assert_eq!(image.path("copy/script").metadata().unwrap().mode() & 0o777, 0o700);
    assert!(!image.path("copy/old/file").exists() && !image.path("copy/etc/gone").exists());
    assert_eq!(ok(&["commit", &name, &image.text("image")]), "");
    assert_eq!(image.read("image/etc/conf"), "22\n");
    assert_eq!(ok(&["diff", &name]), "", "the directory below has the changes now");
    assert!(image.path("o/upper/new").exists());
    ok(&["commit", "--discard", &name]);
    assert!(!image.path("o/upper/new").exists());
    assert_eq!(image.read("image/etc/conf"), "22\n");
}

#[test]
fn discard_removes_the_changes_and_the_overlay_can_be_used_again() {
    if !root() || !programs(&["busybox"]) {
        return;
    }
    let image = Image::new();
    let name = image.kept(SCRIPT);
    refused(&["commit", &name], "--discard");
    ok(&["commit", "--discard", &name]);
    assert_eq!((ok(&["diff", &name]), image.read("image/etc/conf")), (String::new(), "1".into()));
    ok(&["rm", &name]);
    // The overlay of a container that is gone is named by its directories.
    let [rootfs, path, overlay] = image.flags();
    ok(&["run", &rootfs, &path, &overlay, "sh", "-c", "cat /etc/gone && echo 3 > /etc/conf"]);
    let [a, b, c, d] = image.overlay();
    assert_eq!(ok(&["diff", &a, &b, &c, &d]), "C /etc/conf\n");
    ok(&["commit", "--discard", &a, &b, &c, &d, &path]);
    assert_eq!((image.read("image/etc/conf"), ok(&["diff", &a, &b, &c, &d])), ("3\n".into(), String::new()));
    refused(&["diff", &a, &b], "--lower");
    refused(&["commit", &a, &b, &c, &d], "--discard");
    refused(&["diff", &name], "there is no container");
}

#[test]
fn a_commit_freezes_a_running_container() {
    if !root() || !programs(&["busybox"]) {
        return;
    }
    let image = Image::new();
    let files = nspod_testkit::rounds(500).max(100);
    let script = format!("for i in $(seq {files}); do echo $i > /new$i; done; echo ready; sleep 1000");
    let name = image.detached(&script);
    eventually("the container is ready", || ok(&["logs", &name]).contains("ready"));
    let own = image.text("image");
    refused(&["commit", &name, &own], "is running: the directory below its overlay cannot be changed");
    refused(&["commit", "--discard", &name], "is running: its changes cannot be removed");
    let [a, b, c, d] = image.overlay();
    refused(&["commit", "--discard", &a, &b, &c, &d], "is running");
    let copy = image.copy();
    let commit = || Command::new(NSPOD).args(["commit", &name, &copy]).stderr(Stdio::null()).spawn().unwrap();
    // An interrupted commit lets the container continue, and a repeated one completes it.
    let mut first = Guard(commit());
    eventually("the container is frozen", || first.0.try_wait().unwrap().is_some() || name.at() == "paused");
    common::signal(&first.0, nix::libc::SIGINT);
    let ended = end_of(&mut first.0);
    assert_eq!(name.at(), "running");
    // The signal can be too late.
    assert!(ended.success() || ended.signal() == Some(nix::libc::SIGINT), "{ended}");
    // A commit that is killed can be repeated, too.
    let mut second = Guard(commit());
    eventually("a file is there", || image.path("copy/new1").exists());
    second.0.kill().unwrap();
    end_of(&mut second.0);
    nspod(&["unpause", &name]);
    assert_eq!(ok(&["commit", &name, &copy]), "");
    assert_eq!(name.at(), "running");
    assert!((1..=files).all(|i| image.read(&format!("copy/new{i}")) == format!("{i}\n")));
    assert!(!image.path("copy/.nspod-commit").exists());
    // A paused container stays paused.
    ok(&["pause", &name]);
    ok(&["commit", &name, &copy]);
    assert_eq!(name.at(), "paused");
}

#[test]
fn changes_in_memory_cannot_be_listed() {
    if !root() {
        return;
    }
    let name = Name::container();
    ok(&["run", "--keep", "--name", &name, "--overlay", "true"]);
    let cure =
        "the changes of this container are in memory and cannot be reached: start it with --overlay=DIR";
    refused(&["diff", &name], cure);
    refused(&["commit", "--discard", &name], cure);
    let name = Name::container();
    ok(&["run", "--keep", "--name", &name, "true"]);
    refused(&["diff", &name], "this container does not have an overlay: start it with --overlay=DIR");
}

#[test]
fn an_ordinary_user_lists_and_commits_changes() {
    if !root() || !programs(&["busybox"]) {
        return;
    }
    // With files of several users, and with one id.
    let all = [("nobody:300000:65536\n", 33), ("", 0)];
    for (subids, owner) in &all[..if nspod_testkit::is_slow() { 1 } else { 2 }] {
        let (image, user) = (Image::new(), User::with_subids(subids));
        let chown = Command::new("chown").args(["-R", "65534:65534"]).arg(image.0.path()).status().unwrap();
        assert!(chown.success());
        let [rootfs, path, overlay] = image.flags();
        let run = |args: &[&str]| user.nspod(args).ok().to_owned();
        // nspod also reads a directory without permissions, and one of another user.
        let own =
            format!("mkdir -p /new/closed/in && busybox chown {owner} /new/closed && chmod 0 /new/closed");
        let script = format!("{SCRIPT}; {own}");
        run(&["run", "--keep", "--name", "n", &rootfs, &path, &overlay, "sh", "-c", &script]);
        let listed = run(&["diff", "n"]);
        assert!(listed.contains("D /old/file\n") && listed.contains("A /new/closed/in\n"), "{listed}");
        let table = run(&["diff", "-l", "n"]);
        let row = table.lines().find(|line| line.ends_with("/new/closed")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[2..4], ["0000".to_owned(), format!("{owner}:0")], "{row}");
        let changes: serde_json::Value = serde_json::from_str(&run(&["--json", "diff", "n"])).unwrap();
        let committed: serde_json::Value =
            serde_json::from_str(&run(&["--json", "commit", "n", &path])).unwrap();
        assert_eq!(committed["changes"], changes.as_array().unwrap().len());
        assert_eq!(run(&["diff", "n"]), "");
        assert!(!Path::new(&path).join("old/file").exists());
        let host_id = if *owner == 0 { 65_534 } else { 300_000 + owner - 1 };
        assert_eq!(image.path("image/new/closed").metadata().unwrap().uid(), host_id);
        let missing = user.nspod(&["commit", "n", "/no/such"]);
        assert_eq!(missing.code(), 125);
        assert!(missing.err.contains("cannot open /no/such: open: No such file"), "{}", missing.err);
        run(&["commit", "--discard", "n"]);
        assert_eq!(std::fs::read_dir(image.path("o/upper")).unwrap().count(), 0);
    }
}
