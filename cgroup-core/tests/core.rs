//! The features of a cgroup that need no controller, on the real kernel.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use cgroup_core::{Cgroup, Controller, Controllers, ErrorKind, Hierarchy, Layout, Limits, Max, Missing};
use common::Own;
use nspod_testkit::Guard;

#[test]
fn the_hierarchy_reports_its_mount_point_and_why_each_controller_is_missing() {
    let host = Hierarchy::detect().unwrap();
    assert!(matches!(host.layout(), Layout::Unified | Layout::Hybrid), "{}", host.layout());
    let root = host.root().unwrap();
    assert_eq!(Some(root.path()), host.mount_point());
    assert_eq!(root.available().unwrap(), host.controllers());
    for controller in Controller::ALL {
        let missing = host.why_missing(controller);
        assert_eq!(missing.is_none(), host.controllers().contains(controller.into()), "{controller}");
    }
}

#[test]
fn a_process_is_found_in_the_cgroup_that_it_was_moved_to() {
    let host = Hierarchy::detect().unwrap();
    let (own, helper) = (Own::new(), Guard::sleep());
    own.attach(helper.pid()).unwrap();
    assert_eq!(own.procs().unwrap(), [helper.pid()]);
    assert_eq!(own.threads().unwrap(), [helper.pid()]);
    assert_eq!(host.of(helper.pid()).unwrap().path(), own.path());
    assert!(own.events().unwrap().populated);
    assert!(host.own().unwrap().procs().unwrap().contains(&(std::process::id() as i32)));
}

#[test]
fn names_that_are_not_one_component_are_refused() {
    let own = Own::new();
    for name in ["", ".", "..", "a/b", "/a", "a\nb", "a\0b", &"n".repeat(256)] {
        assert_eq!(own.create_child(name).unwrap_err().kind(), ErrorKind::InvalidName, "{name:?}");
        assert_eq!(own.child(name).unwrap_err().kind(), ErrorKind::InvalidName, "{name:?}");
    }
    assert_eq!(own.children().unwrap().len(), 0);
}

/// Not a test itself: the next test runs this function in another program, with few descriptors.
#[test]
fn the_program_with_few_descriptors() {
    let Ok(path) = std::env::var(FEW) else { return };
    let top = Cgroup::open(path).unwrap();
    assert_eq!(top.children().unwrap_err().raw_os_error(), Some(libc::EMFILE));
    assert_eq!(top.each_child().unwrap().map(Result::unwrap).count(), 30);
    assert_eq!(top.procs_recursive().unwrap(), []);
    let error = top.remove_within(Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    top.destroy().unwrap();
    assert!(!top.path().exists());
}

const FEW: &str = "CGROUP_CORE_TEST_FEW";

#[test]
fn a_cgroup_with_more_children_than_free_descriptors_is_removed() {
    let own = Own::new();
    let top = own.create_child("many").unwrap();
    (0..30).for_each(|n| drop(top.create_child(n.to_string()).unwrap()));
    let mut program = std::process::Command::new("sh");
    program.args(["-c", "ulimit -n 20 && exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
    program.args(["--exact", "the_program_with_few_descriptors", "--nocapture"]).env(FEW, top.path());
    let output = program.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!top.path().exists());
}

#[test]
fn creating_twice_fails_as_already_exists_and_opening_a_missing_cgroup_as_not_found() {
    let own = Own::new();
    own.create_child("a").unwrap();
    assert_eq!(own.create_child("a").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(own.child("b").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(own.child("a").unwrap().name(), "a");
}

#[test]
fn no_file_outside_the_cgroup_can_be_reached_by_name() {
    let own = Own::new();
    own.create_child("a").unwrap();
    for file in ["../cgroup.procs", "/proc/self/status", "..", "a/../../cgroup.procs"] {
        for error in [own.read(file).unwrap_err(), own.write(file, "0").unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{file}: {error}");
        }
    }
}

#[test]
fn a_directory_of_another_file_system_is_not_a_cgroup() {
    assert_eq!(Cgroup::open("/tmp").unwrap_err().kind(), ErrorKind::NotCgroup2);
    assert_eq!(Cgroup::open("/nonexistent").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn parents_lead_to_the_top_of_the_mount_and_no_further() {
    let own = Own::new();
    let child = own.create_child("a").unwrap();
    let parent = child.parent().unwrap().unwrap();
    assert_eq!(parent.path(), own.path());
    let root = parent.parent().unwrap().unwrap();
    assert_eq!(Some(root.path()), Hierarchy::detect().unwrap().mount_point());
    assert!(root.parent().unwrap().is_none());
}

#[test]
fn frozen_processes_stand_still_until_thawed_and_can_be_killed() {
    let own = Own::new();
    let mut helper = Guard::sh("while :; do :; done");
    own.attach(helper.pid()).unwrap();
    own.freeze().unwrap();
    assert!(own.events().unwrap().frozen);
    let used = || own.cpu_stat().unwrap().usage_usec.unwrap();
    let frozen = used();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used(), frozen);
    own.thaw().unwrap();
    assert!(!own.events().unwrap().frozen);
    nspod_testkit::eventually("the process continues", || used() != frozen);
    own.freeze().unwrap();
    own.kill().unwrap();
    assert_eq!(helper.0.wait().unwrap().signal(), Some(9));
}

#[test]
fn thawing_below_a_frozen_ancestor_times_out_with_the_reason() {
    let own = Own::new();
    let child = own.create_child("a").unwrap();
    own.freeze().unwrap();
    let error = child.thaw_within(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("an ancestor is frozen"), "{error}");
}

#[test]
fn kill_reaches_every_level_and_removal_waits_for_dying_processes() {
    let own = Own::new();
    let deep = own.create_child("a").unwrap().create_child("b").unwrap();
    let helpers: Vec<Guard> = (0..4).map(|_| Guard::sleep()).collect();
    for (i, helper) in helpers.iter().enumerate() {
        if i % 2 == 0 { own.attach(helper.pid()).unwrap() } else { deep.attach(helper.pid()).unwrap() }
    }
    let mut found = own.procs_recursive().unwrap();
    found.sort_unstable();
    let mut expected: Vec<i32> = helpers.iter().map(Guard::pid).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    own.kill().unwrap();
    own.remove_recursive().unwrap();
    assert!(!own.path().exists());
    own.remove_recursive().unwrap();
    assert_eq!(own.read("cgroup.procs").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn removal_of_an_occupied_cgroup_is_refused_with_its_processes() {
    let (own, helper) = (Own::new(), Guard::sleep());
    own.attach(helper.pid()).unwrap();
    let error = own.remove_within(Duration::from_millis(20)).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Busy, Some(libc::EBUSY)));
    assert!(error.to_string().contains(&helper.pid().to_string()), "{error}");
    let child = own.create_child("inner").unwrap();
    let error = own.remove().unwrap_err();
    assert!(error.to_string().contains("inner"), "{error}");
    child.remove().unwrap();
}

#[test]
fn attaching_an_ended_process_is_refused_with_the_reason() {
    let own = Own::new();
    let error = own.attach(i32::MAX).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::NotFound, Some(libc::ESRCH)));
    let path = own.path().display();
    let expected = format!(
        "cannot write \"2147483647\" to {path}/cgroup.procs: write: No such process (ESRCH); the process has ended"
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!((error.field(), error.failed_call()), (Some("cgroup.procs"), Some("write")));
    assert_eq!(error.object(), own.path().to_str());
}

#[test]
fn controllers_are_enabled_down_the_path_and_only_for_cgroups_without_processes() {
    // The other controllers support threads, so the kernel accepts them beside processes.
    let domain = [Controller::Memory, Controller::Io, Controller::Hugetlb];
    let has = Hierarchy::detect().unwrap().controllers();
    let Some(controller) = domain.into_iter().find(|&controller| has.contains(controller.into())) else {
        return nspod_testkit::skip("v2 has neither memory nor io nor hugetlb here");
    };
    let wanted = Controllers::from(controller);
    let own = Own::new();
    let deep = own.create_child("a").unwrap().create_child("b").unwrap();
    deep.enable_path(wanted).unwrap();
    assert!(deep.available().unwrap().contains(wanted));
    let helper = Guard::sleep();
    let child = own.create_child("c").unwrap();
    child.attach(helper.pid()).unwrap();
    let error = child.enable(wanted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("move the processes to a child first"), "{error}");
    assert_eq!(own.attach(helper.pid()).unwrap_err().kind(), ErrorKind::Busy);
    own.child("a").unwrap().disable(wanted).unwrap();
    assert!(!deep.available().unwrap().contains(wanted));
}

#[test]
fn enabling_controllers_beside_processes_is_refused_with_their_pids() {
    // The kernel would accept some of these, and then permit only threads in the child.
    let has = Hierarchy::detect().unwrap().controllers();
    let wanted = has & (Controllers::CPU | Controllers::PIDS | Controllers::HUGETLB);
    if wanted.is_empty() {
        return nspod_testkit::skip("v2 has neither cpu nor pids nor hugetlb here");
    }
    let own = Own::new();
    own.enable_path(wanted).unwrap();
    let helper = Guard::sleep();
    own.attach(helper.pid()).unwrap();
    let child = own.create_child("c").unwrap();
    let error = child.enable_path(wanted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let expected = format!(
        "cannot enable {wanted} in {}, which holds the processes [{}]: write: Device or resource busy (EBUSY); \
         a cgroup has either processes or controllers for its children, not both",
        own.path().display(),
        helper.pid()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(child.read("cgroup.type").unwrap(), "domain\n");
}

#[test]
fn a_path_is_created_with_its_parents_and_the_controllers_that_they_can_enable() {
    let own = Own::new();
    let has = Hierarchy::detect().unwrap().controllers();
    own.enable_path(has).unwrap();
    let made = own.create_path("/kubepods//burstable/./pod1/c", Controllers::all()).unwrap();
    assert_eq!(made.path(), own.path().join("kubepods/burstable/pod1/c"));
    assert_eq!((made.available().unwrap(), made.enabled().unwrap()), (has, Controllers::empty()));
    // An empty cgroup is used as it is.
    own.create_path("kubepods/burstable/pod1/c", Controllers::empty()).unwrap();
    let deep = "a/".repeat(129);
    for wrong in ["", "/", ".", "a/../b", "a\nb", &deep] {
        let error = own.create_path(wrong, Controllers::empty()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{wrong}: {error}");
    }
    assert_eq!(own.children().unwrap().len(), 1, "a rejected path creates nothing");
}

#[test]
fn a_path_beside_processes_is_created_and_only_its_limits_are_refused() {
    let own = Own::new();
    let has = Hierarchy::detect().unwrap().controllers();
    own.enable_path(has).unwrap();
    let helper = Guard::sleep();
    own.attach(helper.pid()).unwrap();
    let made = own.create_path("a/b", Controllers::all()).unwrap();
    assert_eq!(made.available().unwrap(), Controllers::empty());
    made.attach(helper.pid()).unwrap();
    own.attach(helper.pid()).unwrap();
    if !has.is_empty() {
        assert_eq!(made.enable_path(has).unwrap_err().kind(), ErrorKind::Busy);
    }
}

#[test]
fn a_path_to_a_cgroup_in_use_is_refused_with_its_processes() {
    let own = Own::new();
    let below = own.create_path("a/b", Controllers::empty()).unwrap();
    let helper = Guard::sleep();
    below.attach(helper.pid()).unwrap();
    let error = own.create_path("/a", Controllers::empty()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let expected = format!(
        "cannot create cgroup {}/a, which holds the processes [{}]: mkdirat: File exists (EEXIST); \
         end them first, or choose another path",
        own.path().display(),
        helper.pid()
    );
    assert_eq!(error.to_string(), expected);
    own.create_path("/frozen", Controllers::empty()).unwrap().write("cgroup.freeze", "1").unwrap();
    let error = own.create_path("/frozen", Controllers::empty()).unwrap_err();
    assert!(error.to_string().contains("/frozen, which is frozen: "), "{error}");
}

#[test]
fn a_limit_without_its_controller_is_refused_with_the_reason_and_nothing_is_written() {
    let host = Hierarchy::detect().unwrap();
    let top = Own::new();
    top.enable_path(Controllers::PIDS & host.controllers()).unwrap();
    let own = top.create_child("leaf").unwrap();
    own.write("cgroup.max.depth", "7").unwrap();
    let limits = Limits {
        pids_max: Some(Max::Value(7)),
        unified: [("cgroup.max.depth".into(), "3".into())].into(),
        ..Limits::default()
    };
    let error = own.apply(&limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unenforceable);
    let [(file, missing)] = error.unenforceable() else { panic!("{error}") };
    assert_eq!((file.as_str(), error.field()), ("pids.max", Some("pids.max")));
    let expected = host.why_missing(Controller::Pids);
    let here = Missing::NotDelegated { controller: Controller::Pids, at: own.path().to_owned() };
    assert_eq!(*missing, expected.unwrap_or(here));
    assert!(
        error.to_string().starts_with("pids.max cannot be enforced here: the pids controller"),
        "{error}"
    );
    assert_eq!(own.read("cgroup.max.depth").unwrap(), "7\n");
}

#[test]
fn a_file_unknown_to_the_kernel_is_unenforceable_and_no_earlier_limit_is_written() {
    let own = Own::new();
    own.write("cgroup.max.depth", "7").unwrap();
    let unified = [("cgroup.max.depth", "3"), ("cgroup.unheard-of", "1")];
    let unified = unified.map(|(file, value)| (file.to_owned(), value.to_owned())).into();
    let error = own.apply(&Limits { unified, ..Limits::default() }).unwrap_err();
    let [(limit, Missing::NoFile { file, .. })] = error.unenforceable() else { panic!("{error}") };
    assert_eq!((limit.as_str(), file.as_str()), ("cgroup.unheard-of", "cgroup.unheard-of"));
    assert_eq!(own.read("cgroup.max.depth").unwrap(), "7\n");
}

#[test]
fn usage_has_the_values_of_the_cgroups_files_and_nothing_else() {
    let (own, mut helper) =
        (Own::new(), Guard::sh("read line; i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"));
    // The parent enables no controller.
    let leaf = own.create_child("leaf").unwrap();
    leaf.attach(helper.pid()).unwrap();
    drop(helper.0.stdin.take());
    helper.0.wait().unwrap();
    let usage = leaf.usage().unwrap();
    assert!(usage.cpu.usage_usec > Some(0), "{usage:?}");
    assert!(!leaf.available().unwrap().contains(Controllers::MEMORY));
    assert_eq!((usage.memory.current, usage.memory.events.oom_kill, usage.pids.current), (None, None, None));
    leaf.remove().unwrap();
    assert_eq!(leaf.usage().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn threads_are_spread_over_threaded_cgroups_of_one_domain() {
    let own = Own::new();
    let (left, right) = (own.create_child("l").unwrap(), own.create_child("r").unwrap());
    let helper = Guard::sleep();
    own.attach(helper.pid()).unwrap();
    left.set_type_threaded().unwrap();
    right.set_type_threaded().unwrap();
    right.attach_thread(helper.pid()).unwrap();
    assert_eq!(right.threads().unwrap(), [helper.pid()]);
    let error = right.procs().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(own.procs_recursive().unwrap(), [helper.pid()]);
}
