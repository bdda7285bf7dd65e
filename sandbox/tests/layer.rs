//! The changes of an overlay: running on a copy equals running on the overlay, followed by a commit.

mod layer {
    pub(crate) mod action;
    pub(crate) mod tree;
}

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nspod_sandbox::ErrorKind;
use nspod_sandbox::layer::{Change, ChangeKind, FileType, Layer, Marks, Part};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use layer::action::{Action, actions};
use layer::tree::{Tree, differences};

/// The directories of one overlay.
struct Overlay {
    dir: tempfile::TempDir,
    marks: Marks,
}

impl Overlay {
    /// Makes the directories, with an empty lower one.
    fn new(marks: Marks) -> Overlay {
        let dir = tempfile::tempdir().unwrap();
        for name in ["lower", "work", "merged"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Overlay { dir, marks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the upper directory, and runs a function on the mounted overlay.
    fn run(&self, on: impl FnOnce(&Path)) {
        Layer::prepare(&self.path("upper"), &self.path("lower")).unwrap();
        let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| self.path(name));
        let user = if self.marks == Marks::User { ",userxattr" } else { ",redirect_dir=off,metacopy=off" };
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off{user}",
            lower.display(),
            upper.display(),
            work.display()
        );
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(&*options)).unwrap();
        let done = catch_unwind(AssertUnwindSafe(|| on(&merged)));
        detach(&merged);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }

    fn layer(&self) -> Layer {
        Layer::open(&self.path("upper"), &self.path("lower"), self.marks).unwrap()
    }

    /// Copies the lower directory.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        let copied = Command::new("cp").arg("-a").arg(self.path("lower")).arg(&to).status().unwrap();
        assert!(copied.success());
        to
    }

    fn changes(&self) -> Vec<Change> {
        self.layer().changes().unwrap()
    }

    /// Returns the changes as `docker diff` prints them.
    fn diff(&self) -> Vec<String> {
        self.changes().iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect()
    }

    fn commit(&self, target: &Path) -> u64 {
        self.layer().commit(target, &mut |_, _| Ok(())).unwrap()
    }
}

/// Runs a test in a thread with its own mount namespace.
fn with_own_mounts(test: impl FnOnce() + Send + 'static) {
    if !nspod_testkit::root() {
        return;
    }
    nspod_testkit::in_time(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        test();
    });
}

fn write(path: PathBuf, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Checks the list of changes against the two trees.
fn assert_lists(changes: &[Change], before: &Tree, after: &Tree) {
    let is_link_only = |change: &&Change| change.parts == [Part::HardLink];
    let listed: Vec<(ChangeKind, PathBuf)> = changes
        .iter()
        .filter(|change| !is_link_only(change))
        .map(|change| (change.kind, change.path.strip_prefix("/").unwrap().to_owned()))
        .collect();
    assert_eq!(listed, differences(before, after));
}

fn a_commit_equals_a_copy(marks: Marks, first: &[Action], then: &[Action], interrupted_at: u64) {
    let overlay = Overlay::new(marks);
    for (number, action) in first.iter().enumerate().filter(|(_, action)| !action.marks(marks)) {
        let _ = action.run(&overlay.path("lower"), number);
    }
    let before = Tree::read(&overlay.path("lower"));
    let (copy, target) = (overlay.copy("copy"), overlay.copy("target"));
    let linked = layer::action::linked(&copy);
    overlay.run(|merged| {
        for (number, action) in then.iter().enumerate() {
            if action.links_to(&copy, &linked) {
                continue;
            }
            // An action that fails, for example because a path is missing, fails in both.
            if action.run(merged, number + 1000).is_ok() {
                action.break_links(&copy, &linked);
                action.run(&copy, number + 1000).unwrap_or_else(|e| panic!("{action:?} on the copy: {e}"));
            }
        }
    });
    let expected = Tree::read(&copy);
    assert_eq!(Tree::read(&overlay.path("lower")), before);
    assert_lists(&overlay.changes(), &before, &expected);

    let layer = overlay.layer();
    let _ = catch_unwind(AssertUnwindSafe(|| {
        layer.commit(&target, &mut |done, _| {
            if done == interrupted_at {
                std::panic::resume_unwind(Box::new("interrupted"));
            }
            Ok(())
        })
    }));
    layer.commit(&target, &mut |_, _| Ok(())).unwrap();
    assert_eq!(Tree::read(&target), expected);
    assert_eq!(layer.commit(&target, &mut |_, _| Ok(())).unwrap(), 0, "a second commit has nothing to do");

    overlay.commit(&overlay.path("lower"));
    assert_eq!(Tree::read(&overlay.path("lower")), expected);
    assert_eq!(overlay.diff(), [""; 0]);
    layer.discard().unwrap();
    assert_eq!(std::fs::read_dir(overlay.path("upper")).unwrap().count(), 0);
    assert_eq!(overlay.diff(), [""; 0]);
}

#[test]
fn a_run_on_the_overlay_and_a_commit_equal_a_run_on_a_copy() {
    with_own_mounts(|| {
        let cases = nspod_testkit::rounds(60);
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let marks = prop_oneof![Just(Marks::Trusted), Just(Marks::User)];
        let all = (marks, actions(25), actions(25), 0u64..12);
        runner
            .run(&all, |(marks, first, then, interrupted_at)| {
                a_commit_equals_a_copy(marks, &first, &then, interrupted_at);
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn the_list_names_what_changed() {
    with_own_mounts(|| {
        let overlay = Overlay::new(Marks::Trusted);
        let lower = overlay.path("lower");
        for name in
            ["kept", "content", "mode", "owner", "touched", "attribute", "gone", "type", "dir/in", "old/x"]
        {
            write(lower.join(name), "1");
        }
        overlay.run(|root| {
            write(root.join("new/file"), "1");
            std::fs::write(root.join("content"), "2").unwrap();
            std::fs::set_permissions(root.join("mode"), std::fs::Permissions::from_mode(0o4755)).unwrap();
            std::os::unix::fs::chown(root.join("owner"), Some(7), None).unwrap();
            let times = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            std::fs::File::options()
                .write(true)
                .open(root.join("touched"))
                .unwrap()
                .set_times(times)
                .unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(root.join("attribute"), "user.a", b"b", flags).unwrap();
            std::fs::remove_file(root.join("gone")).unwrap();
            std::fs::remove_file(root.join("type")).unwrap();
            symlink("kept", root.join("type")).unwrap();
            std::fs::remove_dir_all(root.join("old")).unwrap();
            std::fs::create_dir(root.join("old")).unwrap();
            // This copies the file up without a change.
            drop(std::fs::File::options().append(true).open(root.join("kept")).unwrap());
            drop(std::fs::File::options().append(true).open(root.join("dir/in")).unwrap());
        });
        assert!(overlay.path("upper/kept").exists() && overlay.path("upper/dir/in").exists());
        let changes = overlay.changes();
        let parts = |path: &str| {
            let found = changes.iter().find(|change| change.path == Path::new(path));
            found.unwrap_or_else(|| panic!("{path}: {changes:?}")).parts.clone()
        };
        assert_eq!(parts("/content"), [Part::Content, Part::Modified]);
        assert_eq!(parts("/mode"), [Part::Mode]);
        assert_eq!(parts("/owner"), [Part::Owner]);
        assert_eq!(parts("/touched"), [Part::Modified]);
        assert_eq!(parts("/attribute"), [Part::Xattrs]);
        assert_eq!(parts("/type"), [Part::Type]);
        let expected = [
            "Changed /",
            "Changed /attribute",
            "Changed /content",
            "Deleted /gone",
            "Changed /mode",
            "Added /new",
            "Added /new/file",
            "Changed /old",
            "Deleted /old/x",
            "Changed /owner",
            "Changed /touched",
            "Changed /type",
        ];
        assert_eq!(overlay.diff(), expected);
        let link = changes.iter().find(|change| change.path == Path::new("/type")).unwrap();
        let after = link.after.as_ref().unwrap();
        assert_eq!((after.file_type, after.target.as_deref()), (FileType::Symlink, Some(Path::new("kept"))));
    });
}

#[test]
fn hard_links_are_listed_and_committed() {
    with_own_mounts(|| {
        let overlay = Overlay::new(Marks::Trusted);
        let times = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        for name in ["a", "b", "c", "d"] {
            write(overlay.path("lower").join(name), "equal");
            let file = std::fs::File::options().write(true).open(overlay.path("lower").join(name)).unwrap();
            file.set_times(times).unwrap();
        }
        std::fs::hard_link(overlay.path("lower/d"), overlay.path("lower/e")).unwrap();
        overlay.run(|root| {
            std::fs::remove_file(root.join("b")).unwrap();
            std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
            // A name that is added to a file, and a change of one of its two names.
            std::fs::hard_link(root.join("c"), root.join("new")).unwrap();
            std::fs::write(root.join("d"), "changed").unwrap();
        });
        let changes = overlay.changes();
        let b = changes.iter().find(|change| change.path == Path::new("/b")).unwrap();
        assert_eq!((b.kind, &b.parts[..]), (ChangeKind::Changed, &[Part::HardLink][..]));
        assert_eq!(overlay.diff(), ["Changed /", "Changed /b", "Changed /d", "Added /new"]);
        let lower = overlay.path("lower");
        overlay.commit(&lower);
        let inode = |name: &str| lower.join(name).metadata().unwrap().ino();
        assert_eq!((inode("a"), inode("c")), (inode("b"), inode("new")));
        assert_ne!(inode("d"), inode("e"));
        assert_eq!(std::fs::read(lower.join("e")).unwrap(), b"equal");
        assert_eq!(overlay.diff(), [""; 0]);
    });
}

#[test]
fn a_commit_keeps_holes() {
    with_own_mounts(|| {
        let overlay = Overlay::new(Marks::Trusted);
        overlay.run(|root| {
            let file = std::fs::File::create(root.join("sparse")).unwrap();
            file.set_len(1 << 30).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 29).unwrap();
        });
        let target = overlay.copy("target");
        overlay.commit(&target);
        let made = target.join("sparse").metadata().unwrap();
        assert_eq!(made.len(), 1 << 30);
        assert!(made.blocks() < 1 << 11, "{} blocks", made.blocks());
    });
}

#[test]
fn a_full_disk_is_an_error_and_a_repeated_commit_continues() {
    with_own_mounts(|| {
        let overlay = Overlay::new(Marks::Trusted);
        write(overlay.path("lower/a"), "old");
        overlay.run(|merged| write(merged.join("b"), &"x".repeat(300 << 10)));
        write(overlay.path("upper/a"), &"y".repeat(300 << 10));
        let target = overlay.path("small");
        std::fs::create_dir(&target).unwrap();
        let resize = |size, flags| {
            mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some(&*format!("size={size}"))).unwrap();
        };
        resize("400k", MsFlags::empty());
        write(target.join("a"), "old");
        let error = overlay.layer().commit(&target, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().ends_with("(ENOSPC); free space, and repeat the command"), "{error}");
        assert!(!target.join(".nspod-commit").exists());
        resize("4m", MsFlags::MS_REMOUNT);
        overlay.commit(&target);
        assert_eq!(std::fs::read(target.join("a")).unwrap().len(), 300 << 10);
        assert_eq!(std::fs::read(target.join("b")).unwrap().len(), 300 << 10);
        detach(&target);
    });
}

/// Detaches a mount. A process that another test has just forked can have a file of it open until it executes a
/// program.
fn detach(at: &Path) {
    umount2(at, MntFlags::MNT_DETACH).unwrap();
}

fn whiteout(path: &Path) {
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    nix::sys::stat::mknod(path, kind, nix::sys::stat::Mode::empty(), 0).unwrap();
}

/// Makes an overlay whose upper directory is written by hand.
fn by_hand(upper: impl FnOnce(&Path)) -> Overlay {
    let overlay = Overlay::new(Marks::Trusted);
    std::fs::create_dir(overlay.path("upper")).unwrap();
    upper(&overlay.path("upper"));
    overlay
}

#[test]
fn a_commit_does_not_leave_its_target() {
    with_own_mounts(|| {
        let outside = tempfile::tempdir().unwrap();
        write(outside.path().join("victim"), "safe");
        let overlay = by_hand(|upper| {
            write(upper.join("dir/victim"), "attack");
            symlink(outside.path(), upper.join("link")).unwrap();
        });
        symlink(outside.path(), overlay.path("lower/dir")).unwrap();
        write(overlay.path("lower/link/victim"), "inside");
        // The directory replaces the symlink, and the symlink the directory.
        overlay.commit(&overlay.path("lower"));
        assert_eq!(std::fs::read(overlay.path("lower/dir/victim")).unwrap(), b"attack");
        assert!(overlay.path("lower/link").is_symlink());
        // The symlink is also removed, and not its target.
        std::fs::remove_file(overlay.path("upper/link")).unwrap();
        whiteout(&overlay.path("upper/link"));
        overlay.commit(&overlay.path("lower"));
        assert!(overlay.path("lower/link").symlink_metadata().is_err());
        assert_eq!(std::fs::read(outside.path().join("victim")).unwrap(), b"safe");
        // A mount is not entered.
        std::fs::create_dir(overlay.path("lower/mnt")).unwrap();
        std::fs::create_dir(overlay.path("upper/mnt")).unwrap();
        whiteout(&overlay.path("upper/mnt/victim"));
        let flags = MsFlags::MS_BIND;
        mount(Some(outside.path()), &overlay.path("lower/mnt"), None::<&str>, flags, None::<&str>).unwrap();
        let error =
            overlay.layer().commit(&overlay.path("lower"), &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("(EXDEV); a file system is mounted there"), "{error}");
        detach(&overlay.path("lower/mnt"));
        assert_eq!(std::fs::read(outside.path().join("victim")).unwrap(), b"safe");
    });
}

#[test]
fn named_pipes_and_devices_are_not_opened() {
    with_own_mounts(|| {
        let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let overlay = by_hand(|upper| {
            fifo(&upper.join("fifo"));
            write(upper.join("file"), "text");
        });
        fifo(&overlay.path("lower/file"));
        write(overlay.path("lower/fifo"), "text");
        assert_eq!(overlay.changes().iter().filter(|change| change.parts == [Part::Type]).count(), 2);
        overlay.commit(&overlay.path("lower"));
        assert!(overlay.path("lower/fifo").metadata().unwrap().file_type().is_fifo());
        assert!(overlay.path("lower/file").is_file());
    });
}

#[test]
fn only_the_overlays_own_marks_count() {
    with_own_mounts(|| {
        let flags = rustix::fs::XattrFlags::empty();
        let mark =
            |path: &Path, name: &str, value: &[u8]| rustix::fs::lsetxattr(path, name, value, flags).unwrap();
        let overlay = by_hand(|upper| {
            for name in ["data", "opaque"] {
                write(upper.join(name).join("x"), "");
            }
            // A container can set this attribute if the marks are `trusted.*`.
            mark(&upper.join("data"), "user.overlay.opaque", b"y");
            mark(&upper.join("opaque"), "trusted.overlay.opaque", b"y");
            // Only the uppermost opaque directory has the mark.
            write(upper.join("opaque/sub/x"), "");
        });
        write(overlay.path("lower/opaque/sub/old"), "");
        for name in ["data", "opaque"] {
            write(overlay.path("lower").join(name).join("old"), "");
        }
        let deleted: Vec<_> = overlay.diff().into_iter().filter(|line| line.starts_with("Deleted")).collect();
        assert_eq!(deleted, ["Deleted /opaque/old", "Deleted /opaque/sub/old"]);
        // A directory that is marked with x contains whiteouts that are marked files.
        let overlay = Overlay { marks: Marks::User, ..by_hand(|upper| write(upper.join("dir/gone"), "")) };
        write(overlay.path("lower/dir/gone"), "");
        mark(&overlay.path("upper/dir/gone"), "user.overlay.whiteout", b"");
        assert!(!overlay.diff().contains(&"Deleted /dir/gone".into()));
        mark(&overlay.path("upper/dir"), "user.overlay.opaque", b"x");
        assert!(overlay.diff().contains(&"Deleted /dir/gone".into()));
        // The content of a redirected directory is elsewhere.
        mark(&overlay.path("upper/dir"), "user.overlay.redirect", b"/other");
        let error = overlay.layer().changes().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
}

#[test]
fn a_target_that_is_not_a_copy_is_refused() {
    with_own_mounts(|| {
        let overlay = by_hand(|upper| write(upper.join("etc/new"), ""));
        std::fs::create_dir(overlay.path("lower/etc")).unwrap();
        let commit = |target: PathBuf| overlay.layer().commit(&target, &mut |_, _| Ok(()));
        let other = overlay.path("other");
        std::fs::create_dir(&other).unwrap();
        write(other.join("etc"), "a file");
        nspod_testkit::assert_refused(commit(other.clone()), "is not a copy of");
        assert!(other.join("etc").is_file());
        nspod_testkit::assert_refused(commit(overlay.path("upper")), "contains the changes");
        let copy = overlay.copy("copy");
        let lock = std::fs::File::open(&copy).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        nspod_testkit::assert_refused(commit(copy.clone()), "another commit");
        drop(lock);
        assert_eq!(commit(copy).unwrap(), overlay.changes().len() as u64);
    });
}
