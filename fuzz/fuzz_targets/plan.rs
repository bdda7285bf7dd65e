//! From any spec and any host to a plan: never a panic, and a plan that is made keeps the order
//! that its child relies on, and never reaches what the spec does not make its own.
#![no_main]

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
use libfuzzer_sys::fuzz_target;
use ns_core::{Kind, Kinds, Namespace};
use nspod_fuzz::spec;
use nspod_sandbox::spec::{Join, Namespace as Choice, Root, Spec};
use nspod_sandbox::step::{Dest, Place, Slot, Step};
use nspod_sandbox::{Handles, Hold, Host, Plan};

fuzz_target!(|data: &[u8]| {
    if let Some(mut spec) = nspod_fuzz::json_or(data, spec::any) {
        spec::harmless(&mut spec);
        match serde_json::to_string(&spec) {
            Ok(json) => assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec),
            // JSON holds bytes for arguments and the environment, but not for paths.
            Err(error) => assert!(error.to_string().contains("UTF-8"), "{error}"),
        }
        for host in hosts(data) {
            check(&spec, &host, data.len() % 2 == 0);
        }
    }
});

/// Root, an ordinary user, and one of chance.
fn hosts(data: &[u8]) -> Vec<Host> {
    let root = Host { capabilities: u64::MAX, ..Host::default() };
    let user = Host { uid: 1000, gid: 1000, ..Host::default() };
    let mut backwards: Vec<u8> = data.to_vec();
    backwards.reverse();
    let any: Result<Host> = spec::host(&mut Unstructured::new(&backwards));
    [root, user].into_iter().chain(any).collect()
}

fn check(spec: &Spec, host: &Host, hold: bool) {
    let Ok(plan) = Plan::on(spec, host, handles(spec, hold)) else { return };
    assert_eq!(plan.spec(), spec);
    let (steps, text) = (plan.steps(), plan.to_string());
    assert_eq!(text.lines().filter(|line| line.starts_with("   0  ")).count(), 1, "{text}");
    let again = Plan::on(spec, host, handles(spec, hold)).unwrap();
    assert_eq!(again.to_string(), text);

    one_program_at_the_end(spec, host, steps);
    each_namespace_once(spec, steps, &text);
    ids_are_mapped_once(spec, steps, &text);
    files_in_order(spec, steps);
    nothing_of_the_host_is_changed(spec, steps);
    privileges_last(spec, steps, hold);
    if text.contains("memory shared until exec") {
        let time = !matches!(spec.namespaces.time, Choice::Host);
        let waits = find(steps, |s| matches!(s, Step::AwaitMaps | Step::Hold)).is_some();
        assert!(!time && !waits, "{text}");
    }
}

fn handles(spec: &Spec, hold: bool) -> Handles {
    let wanted = Kind::ALL.into_iter().filter(|k| *spec.namespaces.get(*k) == Choice::Join(Join::Handle));
    let namespaces = wanted.map(|kind| Namespace::open(format!("/proc/self/ns/{kind}")).unwrap()).collect();
    Handles { namespaces, hold: hold.then_some(Hold::Here), ..Handles::default() }
}

fn find(steps: &[Step], is: impl Fn(&Step) -> bool) -> Option<usize> {
    steps.iter().position(is)
}

fn count(steps: &[Step], is: impl Fn(&&Step) -> bool) -> usize {
    steps.iter().filter(is).count()
}

fn one_program_at_the_end(spec: &Spec, host: &Host, steps: &[Step]) {
    assert_eq!(count(steps, |s| matches!(s, Step::Exec(_))), 1);
    let Some(Step::Exec(exec)) = steps.last() else { panic!("the program is not the last step") };
    // The sealed init comes first where it stays, and where the program is an image's while the
    // caller's could be written to.
    let image = !matches!(spec.root, Root::Host | Root::HostReadOnly);
    let image = image || matches!(spec.namespaces.mnt, Choice::Join(_));
    assert_eq!(exec.file.is_some(), spec.init || image && !host.sealed);
    assert_eq!(exec.envp.strings().len(), spec.process.env.len());
    if exec.file.is_none() {
        assert_eq!(exec.argv.strings().len(), spec.process.args.len());
    }
}

fn each_namespace_once(spec: &Spec, steps: &[Step], text: &str) {
    // What the first clone makes is told by the plan's text.
    let line = text.lines().find(|line| line.starts_with("clone3 into its cgroup")).unwrap();
    let names = line.split_once(", new ").and_then(|(_, rest)| rest.split_once(" namespaces"));
    let first = names.map_or("".to_owned(), |(names, _)| names.replace(", ", ","));
    let mut made: Kinds = first.parse().unwrap();
    let mut joined = Kinds::empty();
    for step in steps {
        let (kinds, all) = match step {
            Step::Unshare(kinds) | Step::Clone(kinds) => (*kinds, &mut made),
            Step::JoinPidfd { kinds, .. } => (*kinds, &mut joined),
            Step::JoinFd { kind, .. } => ((*kind).into(), &mut joined),
            _ => continue,
        };
        assert!(!all.intersects(kinds), "{kinds} twice");
        *all |= kinds;
    }
    assert_eq!((made, joined), (spec.namespaces.new_kinds(), spec.namespaces.joined_kinds()));
    assert!(count(steps, |s| matches!(s, Step::Clone(_))) <= 1);
    let namespaces = |s: &Step| {
        use Step::{AwaitMaps, Become, Clone, JoinFd, JoinPidfd, MapSelf, TimeOffsets, Unshare};
        matches!(s, JoinFd { .. } | JoinPidfd { .. } | Unshare(_) | Clone(_) | TimeOffsets(_))
            || matches!(s, AwaitMaps | MapSelf { .. } | Become { .. })
    };
    let inside = |s: &Step| {
        use Step::{
            Descriptors, Domainname, Hostname, Loopback, Mount, Propagation, Setsid, Sysctl, Terminal,
        };
        matches!(s, Setsid | Hostname(_) | Domainname(_) | Loopback | Terminal { .. } | Descriptors)
            || matches!(s, Propagation(_) | Mount(_) | Sysctl { .. })
    };
    let first = find(steps, inside).unwrap();
    assert!(!steps[first..].iter().any(namespaces), "namespaces after what is done in them");
    // In a pid namespace that is joined or made by a step only a later child lives.
    let unshared_pid = steps.iter().any(|s| matches!(s, Step::Unshare(k) if k.contains(Kinds::PID)));
    assert!(!unshared_pid);
    if joined.contains(Kinds::PID) || spec.time_offsets.is_some() {
        assert_eq!(count(steps, |s| matches!(s, Step::Clone(_))), 1);
    }
    if spec.time_offsets.is_some() {
        let set = find(steps, |s| matches!(s, Step::TimeOffsets(_))).unwrap();
        let made = find(steps, |s| matches!(s, Step::Unshare(k) if k.contains(Kinds::TIME))).unwrap();
        assert!(made < set && set < find(steps, |s| matches!(s, Step::Clone(_))).unwrap());
    }
}

fn ids_are_mapped_once(spec: &Spec, steps: &[Step], text: &str) {
    let maps = count(steps, |s| matches!(s, Step::AwaitMaps | Step::MapSelf { .. }));
    assert_eq!(maps, usize::from(spec.namespaces.is_new(Kind::User)));
    let awaited = find(steps, |s| matches!(s, Step::AwaitMaps));
    assert_eq!(awaited.is_some(), text.contains("write the id maps"), "{text}");
    if let Some(at) = find(steps, |s| matches!(s, Step::AwaitMaps | Step::MapSelf { .. })) {
        // Clocks are set before the ids change.
        let mut next = steps[at + 1..].iter().skip_while(|s| {
            matches!(s, Step::TimeOffsets(_)) || matches!(s, Step::Unshare(k) if *k == Kinds::TIME)
        });
        assert!(matches!(next.next(), Some(Step::Become { .. })));
        assert!(
            find(steps, |s| matches!(s, Step::Unshare(k) if k.contains(Kinds::USER))).is_none_or(|u| u < at)
        );
    }
}

fn files_in_order(spec: &Spec, steps: &[Step]) {
    let mut kept: BTreeSet<u8> = BTreeSet::new();
    let mut pivoted = false;
    for step in steps {
        let need = |slot: Slot| assert!(kept.contains(&(slot as u8)), "{step}: no {slot:?}");
        match step {
            Step::File { slot, .. } | Step::Mkdir { slot, .. } => need(*slot),
            Step::Sysctl { .. } => need(Slot::Proc),
            Step::PivotRoot { .. } => need(Slot::Root),
            Step::Console(dest) => {
                need(Slot::Terminal);
                need(dest.base);
                stays_inside(dest);
            }
            Step::Terminal { .. } => {
                kept.insert(Slot::Terminal as u8);
            }
            Step::Mask(dest)
            | Step::ReadOnly(dest)
            | Step::Directory(dest)
            | Step::Node { dest, .. }
            | Step::Symlink { dest, .. } => {
                need(dest.base);
                stays_inside(dest);
            }
            Step::Mount(mount) => {
                match &mount.place {
                    Place::In(dest) => {
                        need(dest.base);
                        stays_inside(dest);
                    }
                    Place::Within(slot, name) => {
                        need(*slot);
                        assert!(!name.as_bytes().contains(&b'/') && !name.as_bytes().starts_with(b"."));
                    }
                    Place::NewRoot | Place::At(_) | Place::Detached => {}
                }
                kept.extend(mount.keep.map(|slot| slot as u8));
            }
            _ => continue,
        }
        assert!(!pivoted, "{step} after the old root has gone");
        pivoted = matches!(step, Step::PivotRoot { .. });
    }
    let own_root = spec.namespaces.is_new(Kind::Mnt) && spec.root != Root::Host;
    assert_eq!(pivoted, own_root);
}

/// A destination is relative to the new root and never goes up.
fn stays_inside(dest: &Dest) {
    let path = dest.path.to_bytes();
    assert!(!path.is_empty() && !path.starts_with(b"/"), "{dest}");
    assert!(path.split(|b| *b == b'/').all(|part| part != b".." && !part.is_empty()), "{dest}");
    match &dest.last {
        Some(last) => {
            let within = last.within.iter().flat_map(|dir| [dir.to_bytes(), b"/"].concat());
            assert_eq!(within.chain(last.name.to_bytes().iter().copied()).collect::<Vec<_>>(), path);
        }
        None => assert_eq!(path, b"."),
    }
}

fn nothing_of_the_host_is_changed(spec: &Spec, steps: &[Step]) {
    for step in steps {
        let kind = match step {
            Step::Mount(mount) if matches!(mount.place, Place::Detached) => continue,
            Step::Mount(_) | Step::Propagation(_) | Step::Private(_) | Step::PivotRoot { .. } => Kind::Mnt,
            Step::Mask(_) | Step::ReadOnly(_) | Step::Node { .. } | Step::Mkdir { .. } => Kind::Mnt,
            Step::File { .. } | Step::Symlink { .. } | Step::Directory(_) | Step::Console(_) => Kind::Mnt,
            Step::Hostname(_) | Step::Domainname(_) => {
                assert_ne!(spec.namespaces.uts, Choice::Host);
                continue;
            }
            Step::Loopback => Kind::Net,
            Step::TimeOffsets(_) => Kind::Time,
            Step::AwaitMaps | Step::MapSelf { .. } => Kind::User,
            Step::Become { .. } => {
                assert_ne!(spec.namespaces.user, Choice::Host);
                continue;
            }
            Step::Sysctl { path, .. } => {
                let path = path.to_str().unwrap();
                assert!(
                    path.starts_with("sys/") && !path.split('/').any(|part| part == ".." || part.is_empty())
                );
                let kind = match path {
                    _ if path.starts_with("sys/net/") => Kind::Net,
                    "sys/kernel/hostname" | "sys/kernel/domainname" => Kind::Uts,
                    _ => Kind::Ipc,
                };
                assert_ne!(*spec.namespaces.get(kind), Choice::Host);
                continue;
            }
            _ => continue,
        };
        assert!(spec.namespaces.is_new(kind), "{step} without a new {kind} namespace");
    }
    // Where the namespace's mounts are shared, the one that holds the root is not: from a slave
    // nothing passes either.
    let attached = |s: &Step| matches!(s, Step::Mount(m) if matches!(m.place, Place::NewRoot | Place::At(_)));
    if let Some(root) = find(steps, attached) {
        let apart = libc::MS_REC | libc::MS_PRIVATE;
        let private = find(steps, |s| {
            matches!(s, Step::Private(_))
                || matches!(s, Step::Propagation(f) if *f == apart || f & libc::MS_SLAVE != 0)
        });
        assert!(private.is_some_and(|private| private < root), "a root that others could see");
    }
}

fn privileges_last(spec: &Spec, steps: &[Step], hold: bool) {
    let at = |is: fn(&Step) -> bool| {
        assert!(count(steps, |s| is(s)) <= 1);
        find(steps, is)
    };
    let descriptors = at(|s| matches!(s, Step::Descriptors)).expect("descriptors are not closed");
    let credentials = at(|s| matches!(s, Step::Credentials { .. }));
    let capabilities = at(|s| matches!(s, Step::Capabilities { .. }));
    let no_new_privs = at(|s| matches!(s, Step::NoNewPrivs));
    let seccomp = at(|s| matches!(s, Step::Seccomp { .. }));
    let held = at(|s| matches!(s, Step::Hold));
    assert_eq!(credentials.is_some(), spec.process.user.is_some());
    assert_eq!(capabilities.is_some(), spec.process.capabilities.is_some());
    assert_eq!(no_new_privs.is_some(), spec.process.no_new_privs);
    assert_eq!(seccomp.is_some(), spec.process.seccomp != nspod_sandbox::spec::Seccomp::Unconfined);
    // Behind a held child there are but the filter, which it needs not then, and the program.
    let last = steps.len() - 2;
    let late =
        matches!(&steps[last], Step::Seccomp { flags, .. } if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER == 0);
    assert_eq!(held, hold.then(|| if late { last - 1 } else { last }));
    // Nobody with as few capabilities may trace what has the caller's memory still.
    if let Some(capabilities) = capabilities
        && !spec.namespaces.is_new(Kind::User)
    {
        assert!(at(|s| matches!(s, Step::Undumpable)).is_some_and(|marked| marked < capabilities));
    }
    for privileged in [credentials, capabilities, no_new_privs].into_iter().flatten() {
        assert!(descriptors < privileged);
    }
    if let (Some(credentials), Some(capabilities)) = (credentials, capabilities) {
        assert!(credentials < capabilities);
    }
    match (seccomp, no_new_privs) {
        (Some(seccomp), Some(no_new_privs)) => assert!(no_new_privs < seccomp),
        (Some(seccomp), None) => assert!(capabilities.is_none_or(|capabilities| seccomp < capabilities)),
        _ => {}
    }
}
