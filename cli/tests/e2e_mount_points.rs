//! Mount points that the host's files lack leave no trace on the host.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::user::User;
use common::{Output, alone, nspod, ok, root};

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
