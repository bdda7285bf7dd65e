//! The model of any set of processes is consistent: every process belongs to the host or to one container, every
//! container belongs to one pod, and the members of a pod share the namespaces that the model lists as shared.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use ns_core::{Kinds, NamespaceId, NamespaceSet};
use nspod_census::ProcessInfo;
use nspod_census::model::{LINKS, derive};
use nspod_fuzz::several;

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let Ok((host, processes)) = any(&mut u) else { return };
    let model = derive(&processes, &host);

    let mut placed: Vec<i32> = model.host.clone();
    placed.extend(model.containers.iter().flat_map(|c| &c.pids));
    placed.sort_unstable();
    assert_eq!(placed, processes.iter().map(|p| p.pid).collect::<Vec<_>>());
    let of = |pid: &i32| processes.iter().find(|p| p.pid == *pid).unwrap();
    assert!(model.host.iter().all(|pid| of(pid).kernel || of(pid).namespaces == host));

    for (index, container) in model.containers.iter().enumerate() {
        assert!(container.pids.iter().all(|pid| of(pid).namespaces == container.namespaces));
        assert_eq!(container.isolated, container.namespaces.coincide(&host).complement());
        assert!(!container.isolated.is_empty() && !container.pids.is_empty());
        assert!(container.pod.is_none_or(|pod| model.pods[pod].containers.contains(&index)));
    }
    let members: usize = model.pods.iter().map(|pod| pod.containers.len()).sum();
    assert_eq!(members, model.containers.iter().filter(|container| container.pod.is_some()).count());
    for pod in &model.pods {
        let containers: Vec<_> = pod.containers.iter().map(|i| &model.containers[*i]).collect();
        let same = containers
            .windows(2)
            .fold(Kinds::all(), |all, w| all & w[0].namespaces.coincide(&w[1].namespaces));
        assert_eq!(pod.shared, same & containers[0].isolated);
    }
    // Containers of different pods share no namespace of a linking kind.
    for (i, a) in model.containers.iter().enumerate() {
        for b in model.containers[..i].iter().filter(|b| a.pod.is_none() || b.pod != a.pod) {
            let linked = a.namespaces.coincide(&b.namespaces) & a.isolated & b.isolated & LINKS;
            assert!(linked.is_empty(), "{linked}: {a:?} {b:?}");
        }
    }
});

fn any(u: &mut Unstructured<'_>) -> Result<(NamespaceSet, Vec<ProcessInfo>)> {
    let set = |u: &mut Unstructured<'_>| {
        let mut inos = [0u64; 8];
        for ino in &mut inos {
            *ino = u.int_in_range(0..=2)?;
        }
        Ok(NamespaceSet::new(inos.map(|ino| NamespaceId { dev: 4, ino })))
    };
    let cgroups = ["/", "/a", "/a/b", "/ab", "/c", "", "/../d"];
    let process = |u: &mut Unstructured<'_>| {
        Ok(ProcessInfo {
            pid: 0,
            parent: u.int_in_range(0..=3)?,
            uid: 0,
            name: String::new(),
            inside: several(u, 2, |u| u.int_in_range(1..=3))?,
            cgroup: if u.arbitrary()? { Some(u.choose(&cgroups)?.to_string()) } else { None },
            namespaces: set(u)?,
            kernel: u.ratio(1, 8)?,
        })
    };
    let host = set(u)?;
    let mut processes = several(u, 12, process)?;
    for (pid, process) in (1..).zip(&mut processes) {
        process.pid = pid;
        process.inside.insert(0, pid);
    }
    Ok((host, processes))
}
