//! Waiting for events and for pressure, on the real kernel.

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use cgroup_core::{ErrorKind, Resource, Stall, Trigger};
use common::Own;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nspod_testkit::Guard;

const LONG: Option<Duration> = Some(Duration::from_secs(60));
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

fn readable(fd: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn a_watch_sees_a_cgroup_fill_freeze_and_empty() {
    let own = Own::new();
    let mut watch = own.watch().unwrap();
    assert!(!watch.seen().cgroup.populated && !watch.seen().cgroup.frozen);
    assert_eq!(watch.next(SHORT).unwrap(), None);
    let mut helper = Guard::sleep();
    own.attach(helper.pid()).unwrap();
    assert!(watch.next(LONG).unwrap().unwrap().cgroup.populated);
    own.freeze().unwrap();
    assert!(watch.next(LONG).unwrap().unwrap().cgroup.frozen);
    own.kill().unwrap();
    helper.0.wait().unwrap();
    assert!(!watch.wait(LONG, |state| !state.cgroup.populated).unwrap().unwrap().cgroup.populated);
}

#[test]
fn the_watch_of_a_parent_sees_changes_below() {
    let own = Own::new();
    let child = own.create_child("a").unwrap();
    let mut watch = own.watch().unwrap();
    let helper = Guard::sleep();
    child.attach(helper.pid()).unwrap();
    assert!(watch.next(LONG).unwrap().unwrap().cgroup.populated);
}

#[test]
fn a_watch_as_a_descriptor_is_readable_from_a_change_until_it_is_read() {
    let own = Own::new();
    let mut watch = own.watch().unwrap();
    assert!(!readable(&watch));
    own.freeze().unwrap();
    assert!(readable(&watch) && readable(&watch));
    watch.now().unwrap();
    assert!(!readable(&watch));
}

#[test]
fn the_watch_of_a_removed_cgroup_reports_the_removal() {
    let own = Own::new();
    let child = own.create_child("a").unwrap();
    let mut watch = child.watch().unwrap();
    child.remove().unwrap();
    let error = watch.next(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().ends_with("the cgroup was removed"), "{error}");
}

#[test]
fn a_trigger_fires_when_processes_wait_for_a_processor() {
    let own = Own::new();
    let window = Duration::from_secs(2);
    let trigger = match own.trigger(Resource::Cpu, Stall::Some, Duration::from_millis(10), window) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => {
            return nspod_testkit::skip(&error.to_string());
        }
        trigger => trigger.unwrap(),
    };
    assert!(!trigger.wait(SHORT).unwrap());
    let processors = std::thread::available_parallelism().unwrap().get();
    let mut spinners: Vec<Guard> =
        (0..processors * 2).map(|_| Guard::sh("read line; while :; do :; done")).collect();
    for spinner in &mut spinners {
        own.attach(spinner.pid()).unwrap();
        drop(spinner.0.stdin.take());
    }
    assert!(trigger.wait(LONG).unwrap());
    own.kill().unwrap();
}

#[test]
fn a_trigger_with_a_window_out_of_range_is_refused_with_the_range() {
    let ms = Duration::from_millis;
    match Trigger::host(Resource::Cpu, Stall::Some, ms(10), ms(100)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            assert!(error.to_string().contains("the window must be from 0.5 to 10 s"), "{error}");
        }
        Err(error) => return nspod_testkit::skip(&error.to_string()),
        Ok(_) => panic!("a window of 100 ms was accepted"),
    }
    let trigger = Trigger::host(Resource::Cpu, Stall::Some, ms(1999), ms(2000)).unwrap();
    assert!(!trigger.wait(SHORT).unwrap());
}
