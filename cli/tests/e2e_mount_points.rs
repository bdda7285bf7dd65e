//! Mount points that the host lacks leave no trace there.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::user::User;
use common::{Guard, NSPOD, Name, Output, alone, end_of, eventually, fault, nspod, ok, root};

/// Mount points and a link that no host has.
const MISSING: [&str; 4] = ["/e2e-app", "/usr/share/e2e-new/a b", "/var/lib/e2e-file", "/e2e-link"];

/// Returns the flags for a directory with a file `f`.
fn flags(dir: &Path) -> Vec<String> {
    let dir = dir.display();
    let [top, deep, file, link] = MISSING;
    let volumes = [format!("{dir}:{top}"), format!("{dir}:{deep}:ro"), format!("{dir}/f:{file}")];
    let mut flags: Vec<String> = volumes.into_iter().flat_map(|volume| ["-v".into(), volume]).collect();
    flags.extend(["--symlink".to_owned(), format!("/usr/share:{link}")]);
    flags
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(dir.path().join("f"), "there\n").unwrap();
    dir
}

#[track_caller]
fn leaves_nothing(output: Output, want: &str) {
    assert_eq!(output.ok(), want);
    let left: Vec<_> =
        MISSING.into_iter().filter(|path| Path::new(path).symlink_metadata().is_ok()).collect();
    assert!(left.is_empty() && !Path::new("/usr/share/e2e-new").exists(), "{left:?}");
}

#[test]
fn a_volume_is_mounted_where_the_host_has_nothing() {
    if !root() {
        return;
    }
    let (dir, user) = (directory(), User::new());
    let volumes = flags(dir.path());
    let script =
        "cat /e2e-app/f '/usr/share/e2e-new/a b/f' /var/lib/e2e-file; touch /e2e-app/made && rm /e2e-app/made
        ls -d /e2e-link/e2e-new; touch /e2e-x '/usr/share/e2e-new/x' 2>/dev/null || echo read-only";
    let want = "there\nthere\nthere\n/e2e-link/e2e-new\nread-only\n";
    let command = |more: &[&str]| {
        let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
        let args = [&["run"], more, &volumes, &["sh", "-c", script]].concat();
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for more in [&[][..], &["-u", "1000:1000"], &["--userns", "auto"], &["--userns=new"], &["--init=false"]] {
        let args = command(more);
        leaves_nothing(nspod(&args.iter().map(String::as_str).collect::<Vec<_>>()), want);
    }
    let args = command(&[]);
    leaves_nothing(user.nspod(&args.iter().map(String::as_str).collect::<Vec<_>>()), want);
}

#[test]
fn the_callers_umask_does_not_hide_a_mount_point() {
    if !root() {
        return;
    }
    let dir = directory();
    let volume = dir.path().display();
    let script = format!(
        "umask 077; $N run -u 1000:1000 -v {volume} -v /etc/passwd:{volume}/a/b -- test -r {volume}/a/b"
    );
    let output = nspod_testkit::run_with(Command::new("sh").args(["-c", &script]).env("N", NSPOD), "");
    assert_eq!(output.code(), 0, "{output:?}");
    assert!(!dir.path().join("a").exists());
}

#[test]
fn the_directories_above_a_missing_mount_point_stay_as_they_are() {
    if !root() {
        return;
    }
    let dir = directory();
    let volumes = flags(dir.path());
    let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
    let script =
        "stat -c '%n %a %u %g' / /usr /usr/share /var/lib; ls -A / /usr/share /var/lib | grep -v e2e-";
    let seen = |volumes: &[&str]| ok(&[&["run"], volumes, &["sh", "-c", script]].concat());
    assert_eq!(seen(&volumes), seen(&[]));
    // Another mount of the host, with another owner. The user of the container may enter it, and others may not.
    let script = "mount -t tmpfs -o mode=755 none /mnt; mkdir -m 710 /mnt/d; chown 7:8 /mnt/d; echo there > /mnt/d/f
        for id in 7:8 8:8 9:9; do
            $N run -u $id -v /usr:/mnt/d/new -- sh -c 'stat -c \"%a %u %g\" /mnt/d; ls -d /mnt/d/new/bin /mnt/d/f' 2>&1
        done; ls /mnt/d; mount -t tmpfs none /mnt/d; $N run --userns auto -v /usr:/mnt/new true && ls /mnt";
    let inside = "710 7 8\n/mnt/d/f\n/mnt/d/new/bin\n";
    let denied = "710 7 8\nls: cannot access '/mnt/d/new/bin': Permission denied\nls: cannot access '/mnt/d/f': Permission denied\n";
    let output = alone(script);
    assert_eq!(output.out, format!("{inside}{inside}{denied}f\nd\n"), "{}", output.err);
}

#[test]
fn without_overlays_a_missing_mount_point_is_refused() {
    if !root() {
        return;
    }
    let refused = nspod(&["run", "--host-sockets", "-v", "/usr:/e2e-app", "true"]);
    assert!(
        refused.code() == 125 && refused.err.contains("the mount point does not exist"),
        "{}",
        refused.err
    );
    assert!(!Path::new("/e2e-app").exists());
}

/// Returns the flags that mount this directory on itself, and mask a file and cover a directory in it.
fn masks(dir: &Path) -> Vec<String> {
    let dir = dir.display();
    let volumes =
        [format!("{dir}:{dir}"), format!("/dev/null:{dir}/.env:ro"), format!("/usr:{dir}/a/usr:ro")];
    volumes.into_iter().flat_map(|volume| ["-v".into(), volume]).collect()
}

/// Returns a `run` with [`masks`].
fn masked(dir: &Path, flags: &[&str], script: &str) -> Vec<String> {
    let mut args = vec!["run".to_owned()];
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    args.extend(masks(dir));
    args.extend(["sh", "-c", script].map(str::to_owned));
    args
}

fn run(args: &[String]) -> Output {
    nspod(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn what_was_made_in_a_volume_is_removed_and_what_was_there_stays() {
    if !root() {
        return;
    }
    let (dir, user) = (tempfile::tempdir().unwrap(), User::new());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (env, above) = (dir.path().join(".env"), dir.path().join("a"));
    let script = format!("cd {}; test -c .env && ls -d a/usr/bin", dir.path().display());
    for flags in [&[][..], &["--userns", "auto"]] {
        assert_eq!(run(&masked(dir.path(), flags, &script)).ok(), "a/usr/bin\n");
        assert!(list(dir.path()).is_empty(), "{flags:?}: {:?}", list(dir.path()));
    }
    let args = masked(dir.path(), &[], &script);
    assert_eq!(user.nspod(&args.iter().map(String::as_str).collect::<Vec<_>>()).ok(), "a/usr/bin\n");
    assert!(list(dir.path()).is_empty());
    // A start that fails removes them too.
    let failed = run(&masked(dir.path(), &["-w", "/no/such"], "true"));
    assert_eq!((failed.code(), list(dir.path())), (125, Vec::new()));
    // What the container leaves in a directory stays.
    run(&masked(dir.path(), &[], &format!("echo x > {}/kept", above.display()))).ok();
    assert_eq!((list(dir.path()), list(&above)), (vec![above.clone()], vec![above.join("kept")]));
    fs::remove_file(above.join("kept")).unwrap();
    // An empty file and an empty directory that were there.
    fs::write(&env, "").unwrap();
    assert_eq!(run(&masked(dir.path(), &[], &script)).ok(), "a/usr/bin\n");
    assert_eq!((list(dir.path()), list(&above)), (vec![env, above], Vec::new()));
}

#[test]
fn the_last_container_removes_a_mount_point() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let masked_in = |name: &Name| {
        ok(&["exec", name, "sh", "-c", &format!("test -c {}/.env; echo $?", dir.path().display())])
    };
    let [first, second] = [Name::container(), Name::container()];
    for name in [&first, &second] {
        run(&masked(dir.path(), &["-d", "--name", name], "sleep 1000")).ok();
    }
    assert_eq!(list(dir.path()).len(), 2);
    ok(&["rm", "-f", &first]);
    assert_eq!((masked_in(&second).as_str(), list(dir.path()).len()), ("0\n", 2));
    ok(&["rm", "-f", &second]);
    assert!(list(dir.path()).is_empty());
    // After nspod was killed.
    let third = Name::container();
    let args = masked(dir.path(), &["--name", &third], "sleep 1000");
    let mut killed = Guard(Command::new(NSPOD).args(&args).spawn().unwrap());
    eventually("the container runs", || third.at() == "running");
    killed.0.kill().unwrap();
    end_of(&mut killed.0);
    assert_eq!(list(dir.path()).len(), 2);
    ok(&["rm", "-f", &third]);
    assert!(list(dir.path()).is_empty());
}

#[test]
fn a_start_that_is_killed_at_any_point_leaves_what_the_next_command_removes() {
    if !root() || !fault::able() {
        return;
    }
    // The guest is slow.
    let points = if std::env::var_os("NSPOD_LANE").is_some() { "2 5 8" } else { "1 2 3 4 5 6 7 8 9 10" };
    let script = "d=$(mktemp -d /var/tmp/e2e.XXXXXX)
        for n in POINTS; do
            strace -qq -o /dev/null -e signal=none -e inject=renameat2,mkdirat:signal=KILL:when=$n \
                $N run --name x -v $d:/mnt -v /dev/null:/mnt/a/.env true
            until $N prune >/dev/null && [ -z \"$(ls -A $d)\" ]; do sleep 0.05; done
        done; rmdir $d && echo empty";
    assert_eq!(alone(&script.replace("POINTS", points)).out, "empty\n");
}
