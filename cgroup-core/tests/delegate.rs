//! Delegation of cgroups to a user without privileges. The tests start this program again as
//! another user, in a cgroup that they create. `report_as_another_user` prints the result.

mod common;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cgroup_core::delegate::{Delegation, Move, Right, find};
use cgroup_core::{Cgroup, ErrorKind, Hierarchy};
use common::Own;
use nspod_testkit::Guard;

const USER: u32 = 65_534;

/// Delegates a cgroup: the directory, and the files to move processes and enable controllers.
fn hand_over(cgroup: &Cgroup) {
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        chown(cgroup.path().join(file), Some(USER), Some(USER)).unwrap();
    }
}

/// Returns the report of this program in the cgroup, as the user.
fn report(cgroup: &Cgroup, may: &str) -> String {
    let me = std::env::current_exe().unwrap();
    let child = Command::new("sh")
        .args(["-c", "read line; exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"", "sh"])
        .arg(me)
        .args(["--ignored", "--exact", "report_as_another_user", "--nocapture"])
        .env("NSPOD_TEST_MOVE", may)
        .env("XDG_RUNTIME_DIR", "/nonexistent")
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut helper = Guard(child.unwrap());
    cgroup.attach(helper.pid()).unwrap();
    drop(helper.0.stdin.take());
    let mut out = String::new();
    helper.0.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
    assert!(helper.0.wait().unwrap().success(), "{out}");
    out.lines().find_map(|line| line.strip_prefix("REPORT ")).unwrap_or_else(|| panic!("{out}")).to_owned()
}

#[test]
#[ignore = "run by the other tests, as another user"]
fn report_as_another_user() {
    let pid = std::process::id() as i32;
    let may =
        if std::env::var("NSPOD_TEST_MOVE").unwrap() == "self" { Move::Process(pid) } else { Move::Nothing };
    let found = find("base", may);
    // The harness prints the name of the test on the same line.
    println!();
    match found {
        Err(error) => println!("REPORT {:?} {error}", error.kind()),
        Ok(Delegation { base, right, in_the_way, .. }) => {
            base.create_child("job").unwrap().remove().unwrap();
            assert_eq!(find("base", may).unwrap().base.path(), base.path(), "a second call finds the same");
            let can = base.parent().unwrap().unwrap().available().unwrap();
            let enabled = base.enable_path(can).and_then(|()| base.enable(can));
            let enabled = enabled.map_err(|error| error.kind());
            let others = in_the_way.iter().filter(|&&other| other != pid).count();
            let own = Hierarchy::detect().unwrap().own().unwrap();
            let right = if matches!(right, Right::Scope(_)) { "Scope".into() } else { format!("{right:?}") };
            println!(
                "REPORT {right} own={} self-in-the-way={} others={others} controllers={can} enabled={enabled:?}",
                own.name().display(),
                in_the_way.contains(&pid),
            );
        }
    }
}

/// Returns the controllers of the cgroup. Every lane has at least one.
fn controllers(own: &Own) -> String {
    let all = own.available().unwrap();
    own.enable_path(Hierarchy::detect().unwrap().controllers()).unwrap();
    let all = all | own.available().unwrap();
    assert!(!all.is_empty());
    all.to_string()
}

#[test]
fn root_gets_a_cgroup_parent_below_the_top_of_the_mount() {
    let name = format!("nspod-test-{}-root", std::process::id());
    let found = find(&name, Move::Nothing).unwrap();
    let again = find(&name, Move::Nothing);
    found.base.remove().unwrap();
    assert_eq!((found.right, found.in_the_way), (Right::Root, vec![]));
    assert_eq!(again.unwrap().base.path(), Hierarchy::detect().unwrap().mount_point().unwrap().join(name));
}

#[test]
fn a_user_in_a_delegated_cgroup_can_enable_every_controller_after_moving_itself_out() {
    let own = Own::new();
    let all = controllers(&own);
    hand_over(&own);
    let expected =
        format!("Delegated own=base-callers self-in-the-way=false others=0 controllers={all} enabled=Ok(())");
    assert_eq!(report(&own, "self"), expected);
}

#[test]
fn without_permission_no_process_is_moved_and_the_obstacle_is_reported() {
    let own = Own::new();
    let all = controllers(&own);
    hand_over(&own);
    let name = own.name().display();
    let expected =
        format!("Delegated own={name} self-in-the-way=true others=0 controllers={all} enabled=Err(Busy)");
    assert_eq!(report(&own, "nothing"), expected);
}

#[test]
fn a_user_without_a_delegated_cgroup_gets_an_error_with_the_cure() {
    let own = Own::new();
    let path = own.path().display();
    let cure = "run it under systemd-run --user --scope -p Delegate=yes, or have root give the user a cgroup: \
                chown it, its cgroup.procs and its cgroup.subtree_control, and move the process there";
    let expected = format!(
        "NotDelegated the cgroup {path} is not delegated to user 65534: {path} is not writable: Permission denied (EACCES); \
         no systemd scope was requested, because it would move the caller: {cure}"
    );
    assert_eq!(report(&own, "nothing"), expected);
    assert!(report(&own, "self").contains(
        "cannot connect to systemd at /nonexistent/bus: No such file or directory (ENOENT) or at "
    ));
}

#[test]
fn a_partly_delegated_cgroup_is_refused_with_the_missing_file() {
    let own = Own::new();
    hand_over(&own);
    chown(own.path().join("cgroup.subtree_control"), Some(0), None).unwrap();
    assert!(report(&own, "nothing").contains("/cgroup.subtree_control is not writable"));
}

#[test]
fn a_unit_without_the_delegation_mark_is_used_and_reported_as_unmarked() {
    let own = Own::new();
    let unit = own.create_child("app.scope").unwrap();
    hand_over(&unit);
    assert!(report(&unit, "nothing").starts_with("Unmarked "));
    mark(&unit);
    assert!(report(&unit, "nothing").starts_with("Delegated "));
    let deep = unit.create_child("leaf").unwrap();
    hand_over(&deep);
    assert!(report(&deep, "nothing").starts_with("Delegated "));
}

/// Sets the mark of delegation, like systemd.
#[allow(unsafe_code)]
fn mark(cgroup: &Cgroup) {
    let (fd, name, value) = (cgroup.as_raw_fd(), c"user.delegate".as_ptr(), c"1".as_ptr().cast());
    // SAFETY: both strings are static, and the length is that of the second without its NUL.
    let done = unsafe { libc::fsetxattr(fd, name, value, 1, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn systemd_creates_a_scope_for_a_user_in_a_session() {
    let own = Own::new();
    own.enable_path(Hierarchy::detect().unwrap().controllers()).unwrap();
    hand_over(&own);
    let run = ["--exact", "report_as_another_user"];
    let Some(out) = common::beside_systemd(&own, USER, &run, &[("NSPOD_TEST_MOVE", "self")]) else { return };
    let found = out.lines().find_map(|line| line.strip_prefix("REPORT ")).unwrap_or_else(|| panic!("{out}"));
    assert!(found.starts_with("Scope own=base-callers self-in-the-way=false others=0"), "{found}");
    assert!(found.ends_with("enabled=Ok(())"), "{found}");
}

#[test]
fn a_cgroup_parent_with_an_invalid_name_is_refused() {
    assert_eq!(find("a/b", Move::Nothing).unwrap_err().kind(), ErrorKind::InvalidName);
}

/// The last container of a program removes the base of all.
#[test]
fn a_base_that_another_program_removes_is_made_again() {
    let name = format!("nspod-find-{}", std::process::id());
    let path = find(&name, Move::Nothing).unwrap().base.path().to_owned();
    let (done, removed) = (AtomicBool::new(false), AtomicU32::new(0));
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                removed.fetch_add(std::fs::remove_dir(&path).is_ok().into(), Ordering::Relaxed);
            }
        });
        let mut found = Ok(());
        while found.is_ok() && removed.load(Ordering::Relaxed) < 100 {
            found = find(&name, Move::Nothing).map(drop);
        }
        done.store(true, Ordering::Relaxed);
        found
    });
    let _ = std::fs::remove_dir(&path);
    found.unwrap();
}
