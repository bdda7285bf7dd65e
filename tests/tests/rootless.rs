//! Tests as an ordinary user: containers with one id and with ranges of ids, pods, and the message if a limit
//! cannot be set.
//!
//! Each test runs in the program `alone` as such a user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nspod_tests::{lane, unique};

/// The user nobody, who owns no file and has no rights.
const NOBODY: u32 = 65_534;

/// Runs `alone` as nobody, or as the current user if that is not root.
fn alone(what: &str, with: impl Fn(&Path, &mut Command)) {
    if !user_namespaces() {
        return lane::skip("this host lets ordinary users have no user namespaces: see `nspod doctor`");
    }
    // Other users may have no access to the build directory.
    let dir = tempfile::tempdir().unwrap();
    let everyone = |mode| PermissionsExt::from_mode(mode);
    fs::set_permissions(dir.path(), everyone(0o755)).unwrap();
    for program in [env!("CARGO_BIN_EXE_alone"), env!("CARGO_BIN_EXE_probe")] {
        let copy = dir.path().join(Path::new(program).file_name().unwrap());
        nspod_testkit::copy_program(program, &copy);
        fs::set_permissions(copy, everyone(0o755)).unwrap();
    }
    let mut command = Command::new(dir.path().join("alone"));
    command.args([what, &unique(what)]).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    with(dir.path(), &mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn user_namespaces() -> bool {
    let nobody = |command: &mut Command| {
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.status().is_ok_and(|status| status.success())
    };
    nobody(Command::new("unshare").args(["--user", "--map-root-user", "true"]))
}

#[test]
fn an_ordinary_user_gets_a_container_of_a_single_id() {
    alone("single-id", |_, _| {});
}

#[test]
fn an_ordinary_user_gets_a_pod_whose_containers_share_its_user_namespace() {
    alone("rootless-pod", |_, _| {});
}

#[test]
fn an_ordinary_user_listens_and_connects_in_a_container() {
    alone("rootless-sockets", |_, _| {});
}

#[test]
fn an_ordinary_user_without_a_cgroup_gets_an_error_for_a_limit() {
    alone("rootless-limit", |_, _| {});
}

/// Runs in its own mount namespace, where `/etc/subuid` has a line for nobody.
#[test]
fn an_ordinary_user_gets_ranges_of_ids_through_newuidmap() {
    if !lane::root() {
        return;
    }
    if !["/usr/bin/newuidmap", "/usr/bin/newgidmap"].iter().all(|path| Path::new(path).exists()) {
        return lane::skip("newuidmap and newgidmap are not installed: apt install uidmap");
    }
    alone("id-ranges", |dir, command| {
        let lines = dir.join("subid");
        fs::write(&lines, "nobody:700000:65536\n").unwrap();
        fs::set_permissions(&lines, PermissionsExt::from_mode(0o644)).unwrap();
        let program = dir.join("alone");
        *command = Command::new(&program);
        command.args(["as-nobody", lines.to_str().unwrap(), program.to_str().unwrap(), "id-ranges"]);
    });
}
