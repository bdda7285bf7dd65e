//! From coincidence to containers and pods: a pure function of what each process is in.
//!
//! 1. The **host** is every process whose eight namespaces are the host's.
//! 2. A **container** is a class of processes that coincide in all eight kinds, and differ
//!    from the host in at least one; [`Container::isolated`] says in which. So a service that
//!    only has a mount namespace of its own is a container isolated in one kind: a reader who
//!    wants fewer asks for more kinds.
//! 3. Cgroups tell containers of one class apart where nothing unites them. A class that has
//!    a cgroup namespace of its own, or holds pid 1 of a pid namespace of its own, is one
//!    container, however many cgroups it makes for its services. Any other class is divided
//!    by the *outermost* cgroups that it occupies: `/pod/a`, `/pod/a/worker` and `/pod/b`
//!    make two containers, `/pod/a` and `/pod/b`. Where a process's cgroup is not known
//!    (no v2 hierarchy) the class stays whole.
//! 4. A **pod** is a set of containers that are linked by sharing a namespace, not the
//!    host's, of one of the five classic kinds ([`LINKS`]); links carry on from one container
//!    to the next. The user, cgroup and time kinds link nothing: nothing passes between
//!    processes through them, and unrelated containers of one rootless user share his user
//!    namespace. A container that shares nothing is a pod of one.

use std::collections::{BTreeMap, HashMap};

use ns_core::{Kind, Kinds, NamespaceId, NamespaceSet};
use serde::Serialize;

use crate::record::Process;

/// The kinds by which containers are linked into a pod: pid, net, mnt, ipc, uts.
pub const LINKS: Kinds = Kinds::FIVE;

/// Who shares what with whom, as [`derive()`] finds it. Ordered by lowest pid throughout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Model {
    /// The pids of the processes that are in all eight of the host's namespaces.
    pub host: Vec<i32>,
    /// Every container.
    pub containers: Vec<Container>,
    /// Every pod: each container is in exactly one.
    pub pods: Vec<Pod>,
}

/// Processes that share one namespace of each kind, not all of them the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// The pids of its processes, ascending; never empty.
    pub pids: Vec<i32>,
    /// The one namespace of each kind that they share.
    pub namespaces: NamespaceSet,
    /// The kinds in which they are not in the host's namespace; never empty.
    pub isolated: Kinds,
    /// Pid of the process that is pid 1 in the container's own pid namespace, if it is in
    /// the container itself.
    pub init: Option<i32>,
    /// The innermost cgroup (v2) that holds all of its processes, where it is known.
    pub cgroup: Option<String>,
    /// Whether no process of another container or of the host is in that cgroup or below
    /// it, as the model wants it.
    pub cgroup_is_own: bool,
    /// Index of its pod in [`Model::pods`].
    pub pod: usize,
}

/// Containers that share namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Indices of its containers in [`Model::containers`], ascending; never empty.
    pub containers: Vec<usize>,
    /// The kinds in which all of its containers are in one and the same namespace that is not
    /// the host's; for a pod of one, the kinds in which it is isolated.
    pub shared: Kinds,
}

/// Derives containers and pods from the coincidence of namespaces, by the rules that head
/// [this module](self). Nothing but the arguments matters: not who started a process, not its
/// name, not the numbers that the namespaces happen to have.
///
/// ```
/// use nspod_census::{Census, model};
/// let census = Census::take()?;
/// let model = model::derive(census.processes(), census.host());
/// let inside: usize = model.containers.iter().map(|c| c.pids.len()).sum();
/// assert_eq!(model.host.len() + inside, census.processes().len());
/// # Ok::<(), nspod_census::Error>(())
/// ```
pub fn derive(processes: &[Process], host: &NamespaceSet) -> Model {
    let mut classes: HashMap<&NamespaceSet, Vec<&Process>> = HashMap::new();
    for process in processes {
        classes.entry(&process.namespaces).or_default().push(process);
    }
    let mut at_home = Vec::new();
    let mut containers = Vec::new();
    for (namespaces, class) in classes {
        if namespaces == host {
            at_home.extend(class.iter().map(|p| p.pid));
            continue;
        }
        let isolated = namespaces.coincide(host).complement();
        let groups = if is_united(&class, isolated) { vec![class] } else { by_outermost_cgroup(class) };
        containers.extend(groups.into_iter().map(|group| container(group, *namespaces, isolated)));
    }
    at_home.sort_unstable();
    containers.sort_unstable_by_key(|c| c.pids[0]);
    mark_own_cgroups(&mut containers, processes);
    let pods = link(&mut containers);
    Model { host: at_home, containers, pods }
}

/// Whether something holds the class together whatever cgroups its processes are in.
fn is_united(class: &[&Process], isolated: Kinds) -> bool {
    isolated.contains(Kinds::CGROUP)
        || isolated.contains(Kinds::PID) && class.iter().any(|p| is_init(p))
        || class.iter().any(|p| p.cgroup.is_none())
}

fn is_init(process: &Process) -> bool {
    process.inside.last() == Some(&1)
}

fn by_outermost_cgroup(class: Vec<&Process>) -> Vec<Vec<&Process>> {
    let mut by_path: BTreeMap<Vec<&str>, Vec<&Process>> = BTreeMap::new();
    for process in class {
        by_path.entry(parts(process.cgroup.as_deref().unwrap_or(""))).or_default().push(process);
    }
    // In this order a cgroup comes right before all that is below it.
    let mut groups: Vec<(Vec<&str>, Vec<&Process>)> = Vec::new();
    for (path, mut members) in by_path {
        match groups.last_mut() {
            Some((outer, group)) if path.starts_with(outer) => group.append(&mut members),
            _ => groups.push((path, members)),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn container(group: Vec<&Process>, namespaces: NamespaceSet, isolated: Kinds) -> Container {
    let mut pids: Vec<i32> = group.iter().map(|p| p.pid).collect();
    pids.sort_unstable();
    let init = group.iter().filter(|p| isolated.contains(Kinds::PID) && is_init(p)).map(|p| p.pid).min();
    let cgroup = common_cgroup(&group);
    Container { pids, namespaces, isolated, init, cgroup, cgroup_is_own: false, pod: 0 }
}

fn parts(cgroup: &str) -> Vec<&str> {
    cgroup.split('/').filter(|part| !part.is_empty()).collect()
}

fn common_cgroup(group: &[&Process]) -> Option<String> {
    let mut common: Option<Vec<&str>> = None;
    for process in group {
        let path = parts(process.cgroup.as_deref()?);
        common = Some(match common {
            None => path,
            Some(so_far) => {
                let same = so_far.iter().zip(&path).take_while(|(a, b)| a == b).count();
                path[..same].to_vec()
            }
        });
    }
    Some(format!("/{}", common?.join("/")))
}

fn mark_own_cgroups(containers: &mut [Container], processes: &[Process]) {
    let mut inhabitants: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    for cgroup in processes.iter().filter_map(|p| p.cgroup.as_deref()) {
        *inhabitants.entry(parts(cgroup)).or_default() += 1;
    }
    for container in containers {
        let Some(cgroup) = &container.cgroup else { continue };
        let path = parts(cgroup);
        let mut left = container.pids.len();
        let below = inhabitants.range(path.clone()..).take_while(|(p, _)| p.starts_with(&path));
        container.cgroup_is_own = below.into_iter().all(|(_, count)| {
            let all_mine = *count <= left;
            left = left.saturating_sub(*count);
            all_mine
        });
    }
}

/// Connected components: union-find, the lowest index being a pod's root.
fn link(containers: &mut [Container]) -> Vec<Pod> {
    let mut root: Vec<usize> = (0..containers.len()).collect();
    let find = |root: &mut Vec<usize>, mut i: usize| {
        while root[i] != i {
            root[i] = root[root[i]];
            i = root[i];
        }
        i
    };
    let mut first: HashMap<(Kind, NamespaceId), usize> = HashMap::new();
    for (i, container) in containers.iter().enumerate() {
        for kind in (container.isolated & LINKS).kinds() {
            let other = *first.entry((kind, container.namespaces[kind])).or_insert(i);
            let (a, b) = (find(&mut root, other), find(&mut root, i));
            root[a.max(b)] = a.min(b);
        }
    }
    let mut pods: Vec<Pod> = Vec::new();
    for i in 0..containers.len() {
        let top = find(&mut root, i);
        if top == i {
            containers[i].pod = pods.len();
            pods.push(Pod { containers: vec![i], shared: containers[i].isolated });
        } else {
            let (pod, first) = (containers[top].pod, containers[top].namespaces);
            containers[i].pod = pod;
            pods[pod].containers.push(i);
            pods[pod].shared &= first.coincide(&containers[i].namespaces);
        }
    }
    pods
}
