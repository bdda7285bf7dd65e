//! Plans any spec on any host. Planning never panics. A plan keeps the order of steps that its child relies on, and
//! changes only namespaces that the spec makes new.
#![no_main]

use std::collections::{BTreeSet, HashSet};
use std::fs::File;

use arbitrary::{Result, Unstructured};
use libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
use libfuzzer_sys::fuzz_target;
use ns_core::{Kind, Kinds, Namespace};
use nspod_fuzz::seccomp::{ARCH, run};
use nspod_fuzz::spec;
use nspod_sandbox::spec::{Join, NamespaceMode, Root, Seccomp, Spec};
use nspod_sandbox::step::{Dest, Lsm, Place, Slot, Step};
use nspod_sandbox::{Handles, Hold, Host, Plan};

const CAP_SETPCAP: u64 = 1 << 8;
const CAP_SYS_ADMIN: u64 = 1 << 21;

fuzz_target!(|data: &[u8]| {
    if let Some(mut spec) = nspod_fuzz::json_or(data, spec::any) {
        spec::harmless(&mut spec);
        match serde_json::to_string(&spec) {
            Ok(json) => assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec),
            // JSON can hold arbitrary bytes for arguments and the environment, but not for paths.
            Err(error) => assert!(error.to_string().contains("UTF-8"), "{error}"),
        }
        let asked = Asked::of(&spec, data);
        for host in hosts(data) {
            check(&spec, &host, &asked);
        }
    }
});

/// Root, an ordinary user, or a random user.
fn hosts(data: &[u8]) -> Vec<Host> {
    let root = Host { capabilities: u64::MAX, ..Host::default() };
    let user = Host { uid: 1000, gid: 1000, ..Host::default() };
    let mut backwards: Vec<u8> = data.to_vec();
    backwards.reverse();
    let any: Result<Host> = spec::host(&mut Unstructured::new(&backwards));
    [root, user].into_iter().chain(any).collect()
}

/// Requests in addition to the spec.
struct Asked {
    hold: Option<Hold>,
    ready: bool,
    /// Enter the root of a process whose mount namespace is joined.
    root: bool,
}

impl Asked {
    fn of(spec: &Spec, data: &[u8]) -> Asked {
        let bits = data.iter().fold(data.len(), |sum, byte| sum.wrapping_add(usize::from(*byte)));
        let hold = match bits % 3 {
            0 => None,
            1 => Some(Hold::Here),
            _ => Some(Hold::At("/run/box".into())),
        };
        let joined = matches!(spec.namespaces.mnt, NamespaceMode::Join(_));
        Asked { hold, ready: bits % 5 == 0, root: joined && bits % 2 == 0 }
    }

    fn handles(&self, spec: &Spec) -> Handles {
        let wanted =
            Kind::ALL.into_iter().filter(|k| *spec.namespaces.get(*k) == NamespaceMode::Join(Join::Handle));
        let mut handles = Handles::default();
        handles.namespaces =
            wanted.map(|kind| Namespace::open(format!("/proc/self/ns/{kind}")).unwrap()).collect();
        handles.hold = self.hold.clone();
        handles.ready = self.ready;
        handles.root = self.root.then(|| File::open("/").unwrap().into());
        handles
    }
}

fn check(spec: &Spec, host: &Host, asked: &Asked) {
    let plan = match Plan::on(spec, host, asked.handles(spec)) {
        Ok(plan) => plan,
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains("after its stage"), "a step that the stage cannot perform: {error}");
            return;
        }
    };
    assert_eq!(plan.spec(), spec);
    let (steps, text) = (plan.instructions(), plan.to_string());
    assert_eq!(text.lines().filter(|line| line.starts_with("   0  ")).count(), 1, "{text}");
    let again = Plan::on(spec, host, asked.handles(spec)).unwrap();
    assert_eq!(again.to_string(), text);

    one_program_at_the_end(spec, steps);
    the_stage_has_nothing_of_the_callers(spec, asked, steps);
    each_namespace_once(spec, steps, &text);
    ids_are_mapped_once(spec, steps, &text);
    files_in_order(spec, asked, steps);
    nothing_of_the_host_is_changed(spec, steps);
    privileges_last(spec, host, steps);
    the_filter_is_last(spec, host, asked, steps);
    rights_are_given_up(spec, host, steps);
    memory_is_shared_by_whom_nobody_waits_for(spec, asked, steps, &text);
}

fn find(steps: &[Step], is: impl Fn(&Step) -> bool) -> Option<usize> {
    steps.iter().position(is)
}

fn count(steps: &[Step], is: impl Fn(&&Step) -> bool) -> usize {
    steps.iter().filter(is).count()
}

/// Returns the index of the only matching step, if there is one.
fn only(steps: &[Step], is: impl Fn(&Step) -> bool) -> Option<usize> {
    assert!(count(steps, |s| is(s)) <= 1);
    find(steps, is)
}

fn enters(spec: &Spec) -> bool {
    matches!(spec.namespaces.pid, NamespaceMode::Join(_))
}

/// Returns whether the container has its own mounts, including a root.
fn own_root(spec: &Spec) -> bool {
    (spec.namespaces.is_new(Kind::Mnt) || spec.mounts_stay) && spec.root != Root::Host
}

fn one_program_at_the_end(spec: &Spec, steps: &[Step]) {
    assert_eq!(count(steps, |s| matches!(s, Step::Exec(_))), 1);
    let Some(Step::Exec(exec)) = steps.last() else { panic!("the program is not the last step") };
    assert_eq!(exec.file.is_some(), spec.has_init());
    assert_eq!(exec.candidates.is_empty(), spec.has_init() || no_directory(spec));
    let names: HashSet<_> = spec.process.env.iter().map(|(name, _)| name).collect();
    // The init gets its task and the paths of the program before the variables.
    let more = exec.envp.strings().len() - names.len();
    assert!(if spec.has_init() { more >= 1 } else { more == 0 });
    let (args, argv) = (&spec.process.args, exec.argv.strings());
    let own = if spec.has_init() { argv.len() - args.len() } else { 0 };
    assert!(argv[own..].iter().zip(args).all(|(a, b)| a.as_bytes() == b.as_encoded_bytes()));
    assert_eq!(argv.len() - own, args.len());
}

/// Returns whether the program is searched in a `PATH` without directories.
fn no_directory(spec: &Spec) -> bool {
    let path = spec.process.env.iter().rev().find(|(key, _)| key == "PATH");
    path.is_some_and(|(_, path)| path.as_encoded_bytes().iter().all(|byte| *byte == b':'))
        && spec.process.args.first().is_some_and(|name| !name.as_encoded_bytes().contains(&b'/'))
}

/// A stage exists if other processes can see this process during its last steps. All later steps use only resources
/// that the stage received.
fn the_stage_has_nothing_of_the_callers(spec: &Spec, asked: &Asked, steps: &[Step]) {
    let image = !matches!(spec.root, Root::Host | Root::HostReadOnly)
        || matches!(spec.namespaces.mnt, NamespaceMode::Join(_))
        || asked.root;
    let hooks = !spec.hooks.start_container.is_empty();
    let needed = enters(spec) || asked.hold.is_some() || hooks || image && !spec.has_init();
    let at = only(steps, |s| matches!(s, Step::Stage(_)));
    assert_eq!(at.is_some(), needed);
    let label = only(steps, |s| matches!(s, Step::Label { .. }));
    let proc = only(steps, |s| matches!(s, Step::Proc { .. }));
    assert_eq!(proc.is_some(), at.is_some() && label.is_some());
    if let Some(proc) = proc {
        assert!(matches!(steps[proc], Step::Proc { to, enters: joined } if to > 2 && joined == enters(spec)));
        assert!(proc > find(steps, |s| matches!(s, Step::Descriptors)).unwrap());
    }
    let Some(at) = at else {
        assert!(!steps.iter().any(|s| matches!(s, Step::Hold | Step::Started)));
        return;
    };
    let Step::Stage(exec) = &steps[at] else { unreachable!() };
    assert!(exec.file.is_some() && exec.candidates.is_empty());
    assert_eq!((exec.argv.strings().len(), exec.envp.strings().len()), (2, 0));
    // The processes of a joined pid namespace, and hooks of the image, see only the stage.
    let seen = |s: &Step| match s {
        Step::Hold | Step::Started => true,
        Step::Clone(_) => enters(spec),
        Step::Hook(hook) => hook.when == "startContainer",
        _ => false,
    };
    assert!(!steps[..at].iter().any(seen), "other processes see the caller's memory");
    assert!(label.is_none_or(|label| proc.unwrap() < at && at < label));
    for step in &steps[at + 1..] {
        use Step::{
            Ambient, Capabilities, Clone, ControllingTerminal, Exec, Hold, Hook, Label, Seccomp, Setsid,
            Signals, Started,
        };
        let known = matches!(step, Capabilities { .. } | Ambient(_) | Seccomp { .. } | Label { .. })
            || matches!(step, Clone(_) | Setsid | ControllingTerminal)
            || matches!(step, Hold | Signals | Started | Hook(_) | Exec(_));
        assert!(known, "{step} after the stage");
    }
    let clone = only(&steps[at..], |s| matches!(s, Step::Clone(_)));
    assert_eq!(clone.is_some(), enters(spec));
    if let Some(clone) = clone {
        let clone = at + clone;
        assert!(matches!(steps[clone], Step::Clone(kinds) if kinds.is_empty()));
        // Steps that affect only one process come after the clone.
        for step in &steps[..clone] {
            use Step::{ControllingTerminal, Hold, Label, Setsid, Signals};
            let own = matches!(step, Setsid | ControllingTerminal | Label { .. } | Hold | Signals);
            assert!(!own, "{step} before the process is made");
        }
    }
}

fn each_namespace_once(spec: &Spec, steps: &[Step], text: &str) {
    // The text of the plan tells which namespaces the first clone makes.
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
        // The clone of the stage comes when everything is ready, and makes no namespace.
        matches!(s, JoinFd { .. } | JoinPidfd { .. } | Unshare(_) | TimeOffsets(_))
            || matches!(s, Clone(_) if !enters(spec))
            || matches!(s, AwaitMaps | MapSelf { .. } | Become { .. })
    };
    let inside = |s: &Step| {
        use Step::{
            ChangeRoot, Descriptors, Domainname, EnterRoot, Hostname, Loopback, Mount, PivotRoot,
            Propagation, Setsid, Sysctl, Terminal,
        };
        matches!(s, Setsid | Hostname(_) | Domainname(_) | Loopback | Terminal { .. } | Descriptors)
            || matches!(s, Propagation(_) | Mount(_) | Sysctl { .. })
            || matches!(s, PivotRoot { .. } | ChangeRoot { .. } | EnterRoot(_))
    };
    let first = find(steps, inside).unwrap();
    assert!(!steps[first..].iter().any(namespaces), "a namespace step after a step inside the namespaces");
    // Only a later child is a member of a pid namespace that a step joins or makes.
    let unshared_pid = steps.iter().any(|s| matches!(s, Step::Unshare(k) if k.contains(Kinds::PID)));
    assert!(!unshared_pid);
    if joined.contains(Kinds::PID) {
        assert_eq!(count(steps, |s| matches!(s, Step::Clone(_))), 1);
    }
    if spec.time_offsets.is_some() {
        let set = find(steps, |s| matches!(s, Step::TimeOffsets(_))).unwrap();
        let made = find(steps, |s| matches!(s, Step::Unshare(k) if k.contains(Kinds::TIME))).unwrap();
        assert!(made < set && find(steps, |s| matches!(s, Step::Clone(_))).is_none_or(|clone| set < clone));
    }
}

fn ids_are_mapped_once(spec: &Spec, steps: &[Step], text: &str) {
    let maps = count(steps, |s| matches!(s, Step::AwaitMaps | Step::MapSelf { .. }));
    assert_eq!(maps, usize::from(spec.namespaces.is_new(Kind::User)));
    let awaited = find(steps, |s| matches!(s, Step::AwaitMaps));
    assert_eq!(awaited.is_some(), text.contains("write the id maps"), "{text}");
    if let Some(at) = find(steps, |s| matches!(s, Step::Owner(_))) {
        assert!(matches!(&steps[at + 1], Step::Unshare(kinds) if kinds.contains(Kinds::USER)));
    }
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

fn files_in_order(spec: &Spec, asked: &Asked, steps: &[Step]) {
    let mut kept: BTreeSet<u8> = BTreeSet::new();
    let mut entered = false;
    for step in steps {
        let need = |slot: Slot| assert!(kept.contains(&(slot as u8)), "{step}: no {slot:?}");
        match step {
            Step::File { slot, .. } | Step::Mkdir { slot, .. } => need(*slot),
            Step::Sysctl { .. } => need(Slot::Proc),
            Step::PivotRoot { .. } => {
                need(Slot::Root);
                assert!(!spec.no_pivot && !spec.mounts_stay);
            }
            Step::ChangeRoot { over, hide, .. } => {
                need(Slot::Root);
                assert!(spec.no_pivot || spec.mounts_stay);
                // Other processes of the namespace keep their root and its mounts.
                assert!(!spec.mounts_stay || !over && hide.is_empty());
            }
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
            Step::Hook(hook) if hook.when == "createContainer" => {}
            _ => continue,
        }
        assert!(!entered, "{step} after the old root has gone");
        entered = matches!(step, Step::PivotRoot { .. } | Step::ChangeRoot { .. });
    }
    assert_eq!(entered, own_root(spec));
    // The root of a process is entered in its mount namespace, before descriptors are closed.
    let root = only(steps, |s| matches!(s, Step::EnterRoot(_)));
    assert_eq!(root.is_some(), asked.root);
    let descriptors = find(steps, |s| matches!(s, Step::Descriptors)).unwrap();
    assert!(root.is_none_or(|root| root + 1 == descriptors));
    assert!(
        !steps[descriptors..].iter().any(|s| matches!(s, Step::PivotRoot { .. } | Step::ChangeRoot { .. }))
    );
}

/// Checks that a destination is relative to the new root and has no `..`.
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

/// Checks that only new namespaces are changed: every joined namespace here is the caller's own.
fn nothing_of_the_host_is_changed(spec: &Spec, steps: &[Step]) {
    let changed = find(steps, |s| matches!(s, Step::ChangeRoot { .. }));
    for (at, step) in steps.iter().enumerate() {
        let kind = match step {
            Step::Mount(mount) if matches!(mount.place, Place::Detached) => continue,
            // The root is mounted on its own path, and all other mounts lie below it.
            Step::Mount(mount) if spec.mounts_stay => {
                assert!(!matches!(mount.place, Place::NewRoot), "{step} over the root of others");
                continue;
            }
            // Propagation of the root mount, after the root is entered.
            Step::Propagation(_) if spec.mounts_stay => {
                assert!(changed.is_some_and(|changed| changed < at), "{step} of the root of others");
                continue;
            }
            Step::Mask(_) | Step::ReadOnly(_) | Step::Node { .. } | Step::Mkdir { .. }
                if spec.mounts_stay =>
            {
                continue;
            }
            Step::File { .. } | Step::Symlink { .. } | Step::Directory(_) if spec.mounts_stay => continue,
            Step::Console(_) | Step::ChangeRoot { .. } if spec.mounts_stay => continue,
            Step::Mount(_) | Step::Propagation(_) | Step::Private(_) => Kind::Mnt,
            Step::PivotRoot { .. } | Step::ChangeRoot { .. } => Kind::Mnt,
            Step::Mask(_) | Step::ReadOnly(_) | Step::Node { .. } | Step::Mkdir { .. } => Kind::Mnt,
            Step::File { .. } | Step::Symlink { .. } | Step::Directory(_) | Step::Console(_) => Kind::Mnt,
            Step::Hostname(_) | Step::Domainname(_) => Kind::Uts,
            Step::Loopback => Kind::Net,
            Step::TimeOffsets(_) => Kind::Time,
            Step::AwaitMaps | Step::MapSelf { .. } => Kind::User,
            Step::Become { .. } => {
                assert_ne!(spec.namespaces.user, NamespaceMode::Host);
                continue;
            }
            Step::Sysctl { path, .. } => {
                let path = path.to_str().unwrap();
                assert!(
                    path.starts_with("sys/") && !path.split('/').any(|part| part == ".." || part.is_empty())
                );
                match path {
                    "sys/kernel/hostname" => panic!("the name has a field of its own"),
                    "sys/kernel/domainname" => Kind::Uts,
                    _ if path.starts_with("sys/net/") => Kind::Net,
                    _ if path.starts_with("sys/user/") => Kind::User,
                    _ => Kind::Ipc,
                }
            }
            _ => continue,
        };
        assert!(spec.namespaces.is_new(kind), "{step} without a new {kind} namespace");
    }
    // In a mount namespace with shared mounts, the mount that holds the root is private or a slave. Mounts do not
    // propagate from a slave.
    let attached = |s: &Step| matches!(s, Step::Mount(m) if matches!(m.place, Place::NewRoot | Place::At(_)));
    let Some(root) = find(steps, attached) else { return };
    let keeps_apart = |flags: u64| flags & (libc::MS_PRIVATE | libc::MS_SLAVE) != 0;
    if spec.mounts_stay {
        let Step::Mount(mount) = &steps[root] else { unreachable!() };
        assert!(mount.propagation.iter().any(|flags| keeps_apart(*flags)), "mounts in the root propagate");
        return;
    }
    let apart = libc::MS_REC | libc::MS_PRIVATE;
    let private = find(steps, |s| {
        matches!(s, Step::Private(_))
            || matches!(s, Step::Propagation(f) if *f == apart || f & libc::MS_SLAVE != 0)
    });
    assert!(private.is_some_and(|private| private < root), "the root propagates to other namespaces");
}

/// Checks the order of steps after the descriptors are closed: steps that may need privileges come before the
/// privileges are dropped.
fn privileges_last(spec: &Spec, host: &Host, steps: &[Step]) {
    let process = &spec.process;
    let at = |is: fn(&Step) -> bool| only(steps, is);
    let descriptors = at(|s| matches!(s, Step::Descriptors)).expect("descriptors are not closed");
    let credentials = at(|s| matches!(s, Step::Credentials { .. }));
    let capabilities = find(steps, |s| matches!(s, Step::Capabilities { .. }));
    let bounding = at(|s| matches!(s, Step::DropBounding(_)));
    let no_new_privs = at(|s| matches!(s, Step::NoNewPrivs));
    let end = at(|s| matches!(s, Step::Stage(_))).unwrap_or(steps.len() - 1);
    assert_eq!(credentials.is_some(), process.user.is_some());
    assert_eq!(capabilities.is_some(), process.capabilities.is_some());
    assert_eq!(bounding.is_some(), process.capabilities.is_some());
    assert_eq!(no_new_privs.is_some(), process.no_new_privs);
    for privileged in [credentials, capabilities, bounding, no_new_privs].into_iter().flatten() {
        assert!(descriptors < privileged && privileged < end);
    }
    if let (Some(credentials), Some(capabilities)) = (credentials, capabilities) {
        assert!(credentials < capabilities);
    }
    // Steps that may need privileges run with the caller's.
    let left = [credentials, capabilities, bounding].into_iter().flatten().min().unwrap_or(end);
    for (at, step) in steps.iter().enumerate() {
        use Step::{
            Affinity, GiveStreams, IoPriority, Keyring, MemoryPolicy, OomScoreAdj, Personality, Proc, Rlimit,
            Scheduler, Umask,
        };
        let attribute = matches!(step, Rlimit(_) | OomScoreAdj(_) | Umask(_) | Keyring(_) | Scheduler(_))
            || matches!(step, IoPriority { .. } | Affinity { .. } | Personality(_) | MemoryPolicy { .. })
            || matches!(step, GiveStreams { .. } | Proc { .. });
        assert!(!attribute || at < left, "{step} after rights are left");
    }
    // A process that still has the caller's memory must not be traceable by processes with as few capabilities:
    // neighbours in the pid namespace, or processes of the host with the same ids. A process that the stage creates
    // in a joined pid namespace no longer has this memory.
    let undumpable = at(|s| matches!(s, Step::Undumpable));
    if let Some(capabilities) = capabilities
        && (!spec.namespaces.is_new(Kind::User) || host.privileged())
        && !enters(spec)
    {
        let marked = undumpable.expect("the caller's memory can be traced");
        assert!([Some(capabilities), credentials, bounding].into_iter().flatten().all(|at| marked < at));
    }
    // From the join on, the processes of a joined user namespace have rights over this process.
    if matches!(spec.namespaces.user, NamespaceMode::Join(_)) && host.privileged() && !enters(spec) {
        let joins = |s: &Step| matches!(s, Step::JoinFd { .. } | Step::JoinPidfd { .. });
        assert!(undumpable.is_some_and(|marked| marked < find(steps, joins).unwrap()));
    }
    // The working directory is entered with the caller's rights and, if these are not sufficient, with the user's.
    let chdir = at(|s| matches!(s, Step::Chdir { .. }));
    let as_user = at(|s| matches!(s, Step::ChdirAsUser(_)));
    assert_eq!(chdir.is_some(), process.cwd.is_some());
    assert_eq!(as_user.is_some(), process.cwd.is_some() && process.user.is_some());
    if let Some(chdir) = chdir {
        assert!(matches!(steps[chdir], Step::Chdir { again, .. } if again == as_user.is_some()));
        assert!(descriptors < chdir && chdir < left);
    }
    if let Some(as_user) = as_user {
        assert!(credentials.unwrap() < as_user && capabilities.is_none_or(|c| c < as_user) && as_user < end);
    }
    // A terminal is created, becomes standard input, and then controls the session.
    let session = at(|s| matches!(s, Step::Setsid));
    let terminal = at(|s| matches!(s, Step::Terminal { .. }));
    let controlling = at(|s| matches!(s, Step::ControllingTerminal));
    assert_eq!(session.is_some(), process.new_session || process.terminal.is_some());
    assert_eq!(terminal.is_some(), process.terminal.is_some());
    assert_eq!(controlling.is_some(), process.terminal.is_some());
    if let Some(controlling) = controlling {
        assert!(terminal.unwrap() < descriptors && descriptors < controlling);
        assert!(session.unwrap() < controlling);
    }
}

/// Checks that no call that the container's own filter may deny comes after the filter, except in its programs.
fn the_filter_is_last(spec: &Spec, host: &Host, asked: &Asked, steps: &[Step]) {
    let process = &spec.process;
    let at = |is: fn(&Step) -> bool| only(steps, is);
    let seccomp = at(|s| matches!(s, Step::Seccomp { .. }));
    let held = at(|s| matches!(s, Step::Hold));
    let signals = at(|s| matches!(s, Step::Signals)).expect("signals stay blocked");
    assert_eq!(held.is_some(), asked.hold.is_some());
    let projects = process.keep_projects || spec.limits_directories();
    let rules = projects || process.no_user_namespaces;
    assert_eq!(seccomp.is_some(), rules || process.seccomp != Seccomp::Unconfined);
    // After a held child's wait there are only the filter, the hooks and the program.
    if let Some(held) = held {
        assert_eq!(held + 1, signals);
    }
    let started = at(|s| matches!(s, Step::Started));
    assert_eq!(started, matches!(asked.hold, Some(Hold::At(_))).then_some(signals + 1));
    let mut rest = &steps[started.unwrap_or(signals) + 1..steps.len() - 1];
    let late = matches!(rest.first(), Some(Step::Seccomp { .. }));
    if late {
        rest = &rest[1..];
    }
    assert_eq!(rest.len(), spec.hooks.start_container.len());
    assert!(rest.iter().all(|s| matches!(s, Step::Hook(hook) if hook.when == "startContainer")));
    let (Some(seccomp), false) = (seccomp, late) else { return };

    let Step::Seccomp { filter, flags } = &steps[seccomp] else { unreachable!() };
    let stage = at(|s| matches!(s, Step::Stage(_)));
    if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        // The program that supervises the filter receives the listener before the container is started. Only the
        // stage sends it, and makes no call in between that the filter denies.
        assert!(stage.is_some_and(|stage| stage < seccomp) && held.is_some_and(|held| seccomp < held));
        if held == Some(seccomp + 1) {
            return;
        }
    }
    if !process.no_new_privs && !keeps(spec, host) {
        // The caller loses the right to load the filter together with its credentials.
        let privileges = |s: &Step| {
            use Step::{Ambient, Capabilities, Credentials, DropBounding, KeepCapabilities};
            matches!(s, DropBounding(_) | KeepCapabilities | Credentials { .. })
                || matches!(s, Capabilities { .. } | Ambient(_))
        };
        assert!(find(steps, privileges).is_none_or(|first| seccomp < first));
        let before = |s: &Step| matches!(s, Step::Descriptors | Step::Chdir { .. } | Step::Proc { .. });
        assert!(steps.iter().rposition(before).is_some_and(|before| before < seccomp));
        return;
    }
    // The filter is loaded early, so that no process that others can see has the right to load it.
    assert!(stage.is_some_and(|stage| stage < seccomp));
    assert!(keeps(spec, host) && (enters(spec) || asked.hold.is_some()));
    let clone = at(|s| matches!(s, Step::Clone(_))).filter(|_| enters(spec));
    assert!(clone.or(held).is_some_and(|seen| seccomp < seen));
    assert!(matches!(steps[seccomp + 1], Step::Capabilities { .. }));
    for step in &steps[seccomp + 1..signals + 1 + usize::from(started.is_some())] {
        for (number, args) in calls(step) {
            let mut all = [0; 6];
            all[..3].copy_from_slice(&args);
            let answer = run(filter, ARCH, number as u32, all) & libc::SECCOMP_RET_ACTION_FULL;
            let allowed = matches!(answer, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG);
            assert!(allowed, "{step} after a filter that refuses its call {number}");
        }
    }
}

/// Returns the calls of the stage's steps, with their first arguments.
fn calls(step: &Step) -> Vec<(libc::c_long, [u64; 3])> {
    let flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD) as u64;
    match step {
        Step::Capabilities { .. } => vec![(libc::SYS_capset, [0; 3])],
        Step::Clone(_) => vec![
            (libc::SYS_clone, [flags, 0, 0]),
            (libc::SYS_sendmsg, [0; 3]),
            (libc::SYS_exit_group, [0; 3]),
        ],
        Step::Setsid => vec![(libc::SYS_setsid, [0; 3])],
        Step::ControllingTerminal => vec![(libc::SYS_ioctl, [0, libc::TIOCSCTTY, 0])],
        Step::Label { lsm: Lsm::AppArmor | Lsm::Selinux, .. } => {
            vec![(libc::SYS_openat2, [0; 3]), (libc::SYS_write, [0; 3]), (libc::SYS_close, [0; 3])]
        }
        Step::Hold => {
            vec![(libc::SYS_write, [0; 3]), (libc::SYS_read, [0; 3]), (libc::SYS_close, [0; 3])]
        }
        Step::Signals => vec![(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as u64, 0, 0])],
        Step::Started => vec![(libc::SYS_write, [0; 3])],
        other => panic!("{other} after a filter that was loaded early"),
    }
}

/// Returns whether CAP_SYS_ADMIN is kept for the filter.
fn keeps(spec: &Spec, host: &Host) -> bool {
    let process = &spec.process;
    let filter = process.seccomp != Seccomp::Unconfined && !process.no_new_privs;
    filter
        && process.capabilities.is_some()
        && (host.privileged() || spec.namespaces.user != NamespaceMode::Host)
}

/// Checks that the program has exactly the capabilities of the spec, and that earlier steps keep only those that
/// the filter requires in addition.
fn rights_are_given_up(spec: &Spec, host: &Host, steps: &[Step]) {
    let Some(sets) = spec.process.capabilities else {
        assert!(!steps.iter().any(|s| matches!(s, Step::Ambient(_))));
        return;
    };
    let stage = find(steps, |s| matches!(s, Step::Stage(_)));
    let filter = find(steps, |s| matches!(s, Step::Seccomp { .. }));
    let (mut permitted, mut inheritable, mut ambient) = (0, 0, 0);
    for (at, step) in steps.iter().enumerate() {
        let staged = stage.is_some_and(|stage| stage < at);
        match step {
            Step::DropBounding(mask) => {
                assert_eq!(*mask, !sets.bounding);
                assert!(!staged);
            }
            Step::Capabilities { effective, permitted: may, inheritable: hands_on } => {
                assert_eq!(effective & !may, 0);
                // From the stage to the filter, or to the program if there is no filter.
                let kept = match (stage, staged) {
                    _ if !keeps(spec, host) || filter.is_some_and(|filter| filter < at) => 0,
                    (Some(_), false) => CAP_SYS_ADMIN | CAP_SETPCAP,
                    _ => CAP_SYS_ADMIN,
                };
                assert_eq!(may & !(sets.permitted | kept), 0, "{step}");
                assert_eq!(effective & !(sets.effective | kept), 0, "{step}");
                let across = if stage.is_some() && !staged { kept & CAP_SYS_ADMIN } else { 0 };
                assert_eq!(*hands_on, sets.inheritable | across, "{step}");
                if !staged {
                    assert_eq!((*may, *effective), (sets.permitted | kept, sets.effective | kept));
                }
                if kept != 0 {
                    assert_eq!(effective & kept, kept, "{step}: the filter could not be loaded");
                }
                (permitted, inheritable) = (*may, *hands_on);
                ambient &= permitted & inheritable;
            }
            Step::Ambient(mask) => {
                assert_eq!(mask & !(permitted & inheritable), 0, "{step}: the kernel refuses it");
                ambient = *mask;
            }
            Step::Seccomp { .. } if keeps(spec, host) => assert_ne!(permitted & CAP_SYS_ADMIN, 0),
            _ => {}
        }
    }
    assert_eq!((inheritable, ambient), (sets.inheritable, sets.ambient));
}

/// Checks that the child waits for no action of the parent while it shares the parent's memory, because the parent
/// is suspended until the stage or the program. Only the id maps are written, by another thread.
fn memory_is_shared_by_whom_nobody_waits_for(spec: &Spec, asked: &Asked, steps: &[Step], text: &str) {
    let outside = enters(spec) && !spec.hooks.create_container.is_empty();
    let ready = only(steps, |s| matches!(s, Step::Ready));
    assert_eq!(ready.is_some(), asked.ready || outside);
    let hooks = count(steps, |s| matches!(s, Step::Hook(hook) if hook.when == "createContainer"));
    assert_eq!(hooks, if outside { 0 } else { spec.hooks.create_container.len() });
    let end = find(steps, |s| matches!(s, Step::Stage(_) | Step::Exec(_))).unwrap();
    let waits = |s: &Step| matches!(s, Step::Ready | Step::Hold);
    let asks =
        |s: &Step| matches!(s, Step::Seccomp { flags, .. } if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0);
    assert!(!steps[..end].iter().any(asks), "no process receives the listener");
    if text.contains("memory shared until exec") {
        assert!(!matches!(spec.namespaces.time, NamespaceMode::Join(_)), "{text}");
        assert!(!steps[..end].iter().any(waits), "{text}");
        // A process that may not call exit_group ends by a trap. On old kernels this also ends all processes that
        // share its memory.
        for step in &steps[..end] {
            if let Step::Seccomp { filter, .. } = step {
                let answer = run(filter, ARCH, libc::SYS_exit_group as u32, [0; 6]);
                assert!(matches!(answer, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG), "{text}");
            }
        }
    }
}
