//! A user namespace whose ids no other container has, and whose owner is one of them.

mod common;

use ns_core::{IdMap, Kind, Kinds, Namespace, TimeOffset, TimeOffsets};
use nspod_sandbox::spec::{IdMaps, NamespaceMode, Root};
use nspod_sandbox::{Command, ErrorKind, Host, Plan, Pod, PodSpec};

use common::{Image, output};

const FIRST: u32 = 0x5000_0000;

fn ids() -> IdMaps {
    let map: IdMap = format!("0 {FIRST} 1000").parse().unwrap();
    IdMaps::Own { uid: map.clone(), gid: map }
}

fn own(command: &mut Command) -> &mut Command {
    command.namespace(Kind::User, NamespaceMode::New);
    command.spec_mut().id_maps = ids();
    command
}

/// Makes a pod whose containers share a user namespace with these ids.
fn pod_with_ids() -> Pod {
    let share = PodSpec::default().share | Kinds::USER;
    let spec = PodSpec { share, id_maps: ids(), ..PodSpec::default() };
    Pod::create(&nspod_testkit::unique("own"), &spec).unwrap()
}

#[test]
fn the_first_id_of_the_range_owns_the_namespace() {
    if !nspod_testkit::root() {
        return;
    }
    let offsets =
        TimeOffsets { boottime: TimeOffset { secs: 1_000_000, nanos: 0 }, ..TimeOffsets::default() };
    for time in [None, Some(offsets)] {
        let mut command = Command::new("sleep");
        own(&mut command).arg("1000");
        if time.is_some() {
            command.namespace(Kind::Time, NamespaceMode::New);
            command.spec_mut().time_offsets = time;
        }
        let container = command.spawn().unwrap();
        let user = Namespace::of_pid(container.pid(), Kind::User).unwrap();
        assert_eq!(user.creator_uid().unwrap(), FIRST);
        for kind in Kinds::FIVE.kinds() {
            let namespace = Namespace::of_pid(container.pid(), kind).unwrap();
            assert_eq!(namespace.owner_user().unwrap().id(), user.id(), "{kind}");
        }
        container.delete().unwrap();
    }
}

#[test]
fn the_container_has_the_usual_capabilities_and_no_securebits() {
    if !nspod_testkit::root() {
        return;
    }
    let script = "id -u; id -g; grep CapEff /proc/self/status; mkdir /tmp/x && chown 7:8 /tmp/x && stat -c %u:%g /tmp/x";
    let usual = output(&mut Command::new("sh"), "grep CapEff /proc/self/status");
    let seen = output(own(&mut Command::new("sh")), script);
    let (usual, seen): (Vec<_>, Vec<_>) = (usual.lines().collect(), seen.lines().collect());
    assert_eq!((seen[0], seen[1], seen[2], seen[3]), ("0", "0", usual[0], "7:8"));
    let bits = "perl -e 'print syscall(157, 27, 0, 0, 0, 0)'";
    assert_eq!(output(own(&mut Command::new("sh")), bits), "0");
}

#[test]
fn a_container_of_a_pod_has_its_own_ids() {
    if !nspod_testkit::root() {
        return;
    }
    let pod = Pod::create(&nspod_testkit::unique("own"), &PodSpec::default()).unwrap();
    let mut command = pod.command("sleep").unwrap();
    let container = own(&mut command).arg("1000").spawn().unwrap();
    let user = Namespace::of_pid(container.pid(), Kind::User).unwrap();
    assert_eq!(user.creator_uid().unwrap(), FIRST);
    container.delete().unwrap();
    pod.delete().unwrap();
    // All containers of a pod that shares the user namespace have the range of the pod.
    let pod = pod_with_ids();
    assert_eq!(pod.namespace(Kind::User).unwrap().creator_uid().unwrap(), FIRST);
    pod.delete().unwrap();
}

#[test]
fn a_root_directory_shows_the_ids_of_its_files() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    image.add("chown");
    std::fs::write(image.path().join("mark"), "").unwrap();
    nix::unistd::chown(&image.path().join("mark"), Some(7.into()), Some(8.into())).unwrap();
    let pod = pod_with_ids();
    let mut in_pod = pod.command("sh").unwrap();
    in_pod.root(Root::Dir { path: image.path(), readonly: false });
    assert_eq!(output(&mut in_pod, "stat -c %u:%g /mark; : > /in-pod; stat -c %u /in-pod"), "7:8\n0");
    pod.delete().unwrap();
    let mut command = Command::new("sh");
    own(&mut command).root(Root::Dir { path: image.path(), readonly: false });
    let script = "stat -c %u:%g /mark; chown 9:9 /mark; stat -c %u:%g / /mark; : > /made";
    assert_eq!(output(&mut command, script), "7:8\n0:0\n9:9");
    for (name, id) in [("mark", 9), ("made", 0), ("in-pod", 0)] {
        let meta = image.path().join(name).metadata().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), id, "{name}");
    }
}

#[test]
fn only_a_privileged_caller_can_choose_the_owner() {
    let mut command = Command::new("true");
    let spec = own(&mut command).spec_mut().clone();
    let error = Plan::on(&spec, &Host { uid: 1000, newidmap: true, ..Host::default() }, Default::default());
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some("id_maps")));
}

/// Several threads start containers whose ids a further thread maps, next to containers without maps.
#[test]
fn many_threads_start_containers_with_ranges_of_ids() {
    if !nspod_testkit::root() {
        return;
    }
    let start = |which: u32| {
        let mut command = Command::new("sh");
        match which % 3 {
            0 => _ = own(&mut command),
            1 => {
                let map: IdMap = format!("0 {FIRST} 1000").parse().unwrap();
                command.namespace(Kind::User, NamespaceMode::New).spec_mut().id_maps =
                    IdMaps::Maps { uid: map.clone(), gid: map };
            }
            _ => _ = command.user(7, 7),
        }
        let text = output(&mut command, "id -u; cut -c1-40 /proc/self/uid_map");
        let expected = if which % 3 == 2 { "7\n".into() } else { format!("0\n         0 {FIRST:>10}") };
        assert!(text.starts_with(&expected), "{which}: {text}");
        let missing = command.spec_mut();
        missing.process.args = vec!["/no/such/program".into()];
        assert_eq!(command.spawn().unwrap_err().kind(), ErrorKind::ProgramNotFound);
    };
    std::thread::scope(|scope| {
        for thread in 0..6 {
            scope.spawn(move || (0..4).for_each(|n| start(thread + n)));
        }
    });
    assert!(nix::sys::prctl::get_dumpable().unwrap());
}
