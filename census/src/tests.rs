//! Compares the model with its definition, for random processes.

use std::collections::{BTreeMap, BTreeSet};

use ns_core::{Kind, Kinds, NamespaceId, NamespaceSet};
use proptest::prelude::*;

use crate::holders::namespace_mounts;
use crate::matrix::Matrix;
use crate::model::{ContainerInfo, LINKS, Model, derive};
use crate::record::ProcessInfo;

const HOST: [u64; 8] = [0; 8];

fn set(numbers: [u64; 8]) -> NamespaceSet {
    NamespaceSet::new(numbers.map(|ino| NamespaceId { dev: 4, ino }))
}

/// Kinds in the order mnt, net, pid, user, uts, ipc, cgroup, time.
fn process(pid: i32, numbers: [u64; 8], cgroup: Option<&str>, inside: &[i32]) -> ProcessInfo {
    ProcessInfo {
        pid,
        parent: 0,
        uid: 0,
        name: String::new(),
        inside: [&[pid], inside].concat(),
        cgroup: cgroup.map(Into::into),
        namespaces: set(numbers),
        kernel: false,
    }
}

fn pids(model: &Model) -> Vec<Vec<i32>> {
    model.containers.iter().map(|c| c.pids.clone()).collect()
}

#[test]
fn a_system_in_a_container_is_one_container_however_many_cgroups_it_creates() {
    let own_cgroup_ns = [1, 1, 1, 0, 1, 1, 1, 0];
    let host_cgroup_ns = [2, 2, 2, 0, 2, 2, 0, 0];
    let model = derive(
        &[
            process(10, own_cgroup_ns, Some("/c1/init.scope"), &[1]),
            process(11, own_cgroup_ns, Some("/c1/system.slice/sshd"), &[7]),
            process(20, host_cgroup_ns, Some("/c2/init.scope"), &[1]),
            process(21, host_cgroup_ns, Some("/c2/system.slice/sshd"), &[7]),
        ],
        &set(HOST),
    );
    assert_eq!(pids(&model), [[10, 11], [20, 21]]);
    assert_eq!(model.containers[0].cgroup.as_deref(), Some("/c1"));
    assert_eq!(model.containers[1].init, Some(20));
    assert!(model.containers.iter().all(|c| c.cgroup_is_own));
}

#[test]
fn containers_that_share_every_kind_are_distinguished_by_their_cgroups() {
    let all_shared = [1, 1, 0, 0, 1, 1, 0, 0];
    let model = derive(
        &[
            process(10, all_shared, Some("/pod/a"), &[]),
            process(11, all_shared, Some("/pod/b"), &[]),
            process(12, all_shared, Some("/pod/a/worker"), &[]),
            process(13, all_shared, Some("/pod/aa"), &[]),
        ],
        &set(HOST),
    );
    assert_eq!(pids(&model), [vec![10, 12], vec![11], vec![13]]);
    assert_eq!(model.pods.len(), 1);
    assert_eq!(model.pods[0].shared, Kinds::MNT | Kinds::NET | Kinds::UTS | Kinds::IPC);
}

#[test]
fn a_pod_shares_net_and_keeps_mnt_apart_and_a_shared_user_namespace_makes_no_pod() {
    let model = derive(
        &[
            process(1, HOST, Some("/"), &[]),
            process(10, [1, 1, 1, 1, 1, 1, 1, 0], Some("/pod/a"), &[1]),
            process(20, [2, 1, 2, 1, 1, 1, 2, 0], Some("/pod/b"), &[1]),
            process(30, [3, 3, 3, 1, 3, 3, 3, 1], Some("/other"), &[1]),
        ],
        &set(HOST),
    );
    assert_eq!(model.host, [1]);
    let members: Vec<_> = model.pods.iter().map(|p| p.containers.clone()).collect();
    assert_eq!(members, [[0, 1]]);
    assert_eq!(model.containers[2].pod, None);
    assert_eq!(model.pods[0].shared, Kinds::NET | Kinds::UTS | Kinds::IPC | Kinds::USER);
    assert_eq!(
        Matrix::of(&model).to_string(),
        "pod containers   mnt net pid user uts ipc cgroup time\n\
         \x20 0 10           a   a   a   a    a   a   a      .\n\
         \x20 0 20           b   a   b   a    a   a   b      .\n\
         \x20 - 30           c   b   c   a    b   b   c      a"
    );
}

#[test]
fn a_kernel_thread_in_its_own_mount_namespace_is_of_the_host() {
    let devtmpfs = ProcessInfo { kernel: true, ..process(25, [1, 0, 0, 0, 0, 0, 0, 0], Some("/"), &[]) };
    let model = derive(&[process(1, HOST, Some("/"), &[]), devtmpfs], &set(HOST));
    assert_eq!((model.host, model.containers), (vec![1, 25], vec![]));
}

#[test]
fn a_container_does_not_own_a_cgroup_with_a_neighbour_below_it() {
    let (a, b) = ([1, 1, 1, 0, 0, 0, 1, 0], [2, 2, 2, 0, 0, 0, 2, 0]);
    let model = derive(
        &[
            process(10, a, Some("/a"), &[1]),
            process(11, b, Some("/a/b"), &[1]),
            process(12, HOST, Some("/ab"), &[]),
        ],
        &set(HOST),
    );
    assert_eq!(model.containers.iter().map(|c| c.cgroup_is_own).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn only_nsfs_mounts_of_known_kinds_are_namespaces() {
    let text = b"1 0 0:4 net:[7] /a\\134\\040b rw shared:1 master:2 - nsfs nsfs rw\n\
        2 0 8:1 net:[8] /x rw - ext4 /dev/sda1 rw\n\
        3 0 0:4 foo:[9] /y rw - nsfs nsfs rw\n\
        4 0 0:4 mnt:[10] /z rw - nsfs nsfs rw\n";
    let mounts: Vec<_> = namespace_mounts(text).map(|(kind, id, path)| (kind, id.ino, path)).collect();
    assert_eq!(mounts, [(Kind::Net, 7, "/a\\ b".into()), (Kind::Mnt, 10, "/z".into())]);
}

/// Eight numbers, a cgroup, a pid in an inner pid namespace.
type Facts = ([u64; 8], Option<&'static str>, Option<i32>);

fn processes() -> impl Strategy<Value = Vec<ProcessInfo>> {
    let cgroup = prop::option::weighted(
        0.95,
        prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/a/bb", "/d/e", "/d/f"]),
    );
    // Mostly 0, the host's, so that sets coincide often and host processes occur.
    let numbers = prop::array::uniform8(prop::sample::select(vec![0u64, 0, 0, 0, 1, 2]));
    prop::collection::vec((numbers, cgroup, prop::option::of(1..3)), 0..24).prop_map(|all| {
        let make = |(i, (numbers, cgroup, inside)): (usize, Facts)| {
            process(i as i32 + 100, numbers, cgroup, inside.as_slice())
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

/// Returns the groups of pids that share a namespace of the kind.
fn partition<T: Ord>(of: impl IntoIterator<Item = (T, i32)>) -> BTreeSet<BTreeSet<i32>> {
    let mut parts: BTreeMap<T, BTreeSet<i32>> = BTreeMap::new();
    for (key, pid) in of {
        parts.entry(key).or_default().insert(pid);
    }
    parts.into_values().collect()
}

fn is_within(inner: &str, outer: &str) -> bool {
    outer == "/" || inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

fn linked(a: &ContainerInfo, b: &ContainerInfo) -> bool {
    a.namespaces.coincide(&b.namespaces).intersects(a.isolated & LINKS)
}

proptest! {
    #[test]
    fn every_process_is_in_the_host_or_in_exactly_one_container(processes in processes()) {
        let model = derive(&processes, &set(HOST));
        let mut pids: Vec<i32> = model.host.iter().chain(model.containers.iter().flat_map(|c| &c.pids)).copied().collect();
        pids.sort_unstable();
        prop_assert_eq!(pids, processes.iter().map(|p| p.pid).collect::<Vec<_>>());
    }

    #[test]
    fn the_members_of_a_container_coincide_in_every_kind_and_each_kind_keeps_its_partition(processes in processes()) {
        let host = set(HOST);
        let model = derive(&processes, &host);
        for kind in Kind::ALL {
            let given = partition(processes.iter().map(|p| (p.namespaces[kind], p.pid)));
            let at_home = model.host.iter().map(|pid| (host[kind], *pid));
            let contained = model.containers.iter().flat_map(|c| c.pids.iter().map(move |pid| (c.namespaces[kind], *pid)));
            prop_assert_eq!(given, partition(at_home.chain(contained)));
        }
        for container in &model.containers {
            prop_assert!(!container.isolated.is_empty());
            prop_assert_eq!(container.isolated.complement(), container.namespaces.coincide(&host));
        }
    }

    #[test]
    fn containers_of_one_set_have_separate_cgroups_and_no_common_init(processes in processes()) {
        let model = derive(&processes, &set(HOST));
        let cgroups = |c: &ContainerInfo| -> Vec<String> {
            processes.iter().filter(|p| c.pids.contains(&p.pid)).map(|p| p.cgroup.clone().unwrap()).collect()
        };
        for (i, a) in model.containers.iter().enumerate() {
            for b in model.containers[..i].iter().filter(|b| b.namespaces == a.namespaces) {
                prop_assert!(!a.isolated.contains(Kinds::CGROUP));
                prop_assert_eq!((a.init, b.init), (None, None));
                for (x, y) in cgroups(a).iter().flat_map(|x| cgroups(b).into_iter().map(move |y| (x.clone(), y))) {
                    prop_assert!(!is_within(&x, &y) && !is_within(&y, &x), "{} {}", x, y);
                }
            }
        }
    }

    #[test]
    fn a_container_owns_its_cgroup_if_no_other_process_is_in_it_or_below(processes in processes()) {
        for container in derive(&processes, &set(HOST)).containers {
            let Some(own) = &container.cgroup else { continue };
            let others = processes.iter().filter(|p| !container.pids.contains(&p.pid));
            let alone = others.filter_map(|p| p.cgroup.as_deref()).all(|cgroup| !is_within(cgroup, own));
            prop_assert_eq!(container.cgroup_is_own, alone);
        }
    }

    #[test]
    fn pods_are_the_connected_components_of_containers(processes in processes()) {
        let model = derive(&processes, &set(HOST));
        for (i, container) in model.containers.iter().enumerate() {
            let mut others = model.containers.iter().enumerate().filter(|(at, _)| *at != i);
            prop_assert_eq!(container.pod.is_some(), others.any(|(_, other)| linked(container, other)));
            let members = model.pods.iter().filter(|pod| pod.containers.contains(&i)).count();
            prop_assert_eq!(members, usize::from(container.pod.is_some()));
        }
        for (number, pod) in model.pods.iter().enumerate() {
            // Everything that can be reached from the first, by brute force.
            let mut reached = BTreeSet::from([pod.containers[0]]);
            for _ in 0..model.containers.len() {
                for (i, container) in model.containers.iter().enumerate() {
                    if reached.iter().any(|r| linked(&model.containers[*r], container)) {
                        reached.insert(i);
                    }
                }
            }
            prop_assert_eq!(&reached.into_iter().collect::<Vec<_>>(), &pod.containers);
            let members = || pod.containers.iter().map(|c| &model.containers[*c]);
            prop_assert!(members().all(|c| c.pod == Some(number)));
            for kind in Kind::ALL {
                let first = members().next().unwrap();
                let shared = first.isolated.contains_kind(kind) && members().all(|c| c.namespaces[kind] == first.namespaces[kind]);
                prop_assert_eq!(pod.shared.contains_kind(kind), shared);
            }
        }
    }

    #[test]
    fn the_result_depends_on_neither_namespace_ids_nor_process_order(
        processes in processes(), shift in prop::array::uniform8(1u64..1000), seed in any::<u64>(),
    ) {
        let renamed = |set: &NamespaceSet| {
            NamespaceSet::new(Kind::ALL.map(|k| NamespaceId { dev: 4, ino: (set[k].ino + 1) * shift[k as usize] }))
        };
        let mut others = processes.clone();
        others.sort_by_key(|p| (p.pid as u64).wrapping_mul(seed | 1));
        for process in &mut others {
            process.namespaces = renamed(&process.namespaces);
        }
        let mut model = derive(&processes, &set(HOST));
        let other = derive(&others, &renamed(&set(HOST)));
        for container in &mut model.containers {
            container.namespaces = renamed(&container.namespaces);
        }
        prop_assert_eq!(model, other);
    }

    #[test]
    fn equal_letters_are_the_same_namespace(processes in processes()) {
        let model = derive(&processes, &set(HOST));
        let rows = Matrix::of(&model).rows;
        prop_assert_eq!(rows.len(), model.containers.len());
        for (a, b) in rows.iter().flat_map(|a| rows.iter().map(move |b| (a, b))) {
            let (left, right) = (&model.containers[a.container], &model.containers[b.container]);
            for kind in Kind::ALL {
                let same = left.namespaces[kind] == right.namespaces[kind];
                prop_assert_eq!(a.cells[kind as usize] == b.cells[kind as usize], same);
                prop_assert_eq!(a.cells[kind as usize] == ".", !left.isolated.contains_kind(kind));
            }
        }
    }
}
