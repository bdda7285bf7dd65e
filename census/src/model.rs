//! Derives containers and pods from the namespaces and cgroups of processes, by a pure function.
//!
//! 1. The **host** is the set of processes whose eight namespaces are the host's, and all kernel threads. A
//!    kernel thread can have namespaces of its own: that of devtmpfs has a mount namespace.
//! 2. A **container** is a class of processes that share one namespace of each kind and differ from
//!    the host in at least one kind; see [`ContainerInfo::isolated`]. A service that has only its own mount
//!    namespace is therefore a container isolated in one kind. To exclude such services, select
//!    containers that are isolated in more kinds.
//! 3. Cgroups can divide a class into containers. A class with its own cgroup namespace, or with pid 1
//!    of its own pid namespace, is one container with any number of cgroups.
//!    Any other class is divided by the *outermost* cgroups of its processes: `/pod/a`,
//!    `/pod/a/worker` and `/pod/b` make the containers `/pod/a` and `/pod/b`. If the cgroup of a
//!    process is unknown (no v2 hierarchy), the class is not divided.
//! 4. A **pod** is a set of containers that are linked, directly or through others, by a shared
//!    namespace of one of the five classic kinds ([`LINKS`]), other than the host's. The kinds user,
//!    cgroup and time do not link: processes cannot communicate through them, and unrelated
//!    containers of one rootless user share a user namespace. A container without a link is in no
//!    pod.

use std::collections::{BTreeMap, HashMap};

use ns_core::{Kind, Kinds, NamespaceId, NamespaceSet};
use serde::Serialize;

use crate::record::ProcessInfo;

/// Kinds that link containers into a pod: pid, net, mnt, ipc, uts.
pub const LINKS: Kinds = Kinds::FIVE;

/// Result of [`derive()`]. All lists are ordered by lowest pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Model {
    /// Pids of the processes whose eight namespaces are the host's, and of kernel threads.
    pub host: Vec<i32>,
    /// Containers.
    pub containers: Vec<ContainerInfo>,
    /// Pods. Each container is in at most one.
    pub pods: Vec<PodInfo>,
}

impl Model {
    /// Returns the index of the container that a process is in. `None` for a process of the host, and if the
    /// census does not contain the pid.
    ///
    /// ```
    /// use nspod_census::Census;
    /// let model = Census::take()?.model();
    /// for (index, container) in model.containers.iter().enumerate() {
    ///     assert_eq!(model.container_of(container.pids[0]), Some(index));
    /// }
    /// # Ok::<(), nspod_census::Error>(())
    /// ```
    pub fn container_of(&self, pid: i32) -> Option<usize> {
        self.containers.iter().position(|container| container.pids.binary_search(&pid).is_ok())
    }
}

/// Processes that share one namespace of each kind, at least one of which is not the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerInfo {
    /// Pids of the processes, ascending; never empty.
    pub pids: Vec<i32>,
    /// Namespaces of the processes.
    pub namespaces: NamespaceSet,
    /// Kinds in which the namespace is not the host's; never empty.
    pub isolated: Kinds,
    /// Pid of the process that is pid 1 in the container's own pid namespace, if that process is in
    /// the container.
    pub init: Option<i32>,
    /// Innermost cgroup (v2) that contains all of the processes; `None` if it is unknown.
    pub cgroup: Option<String>,
    /// Whether all processes in that cgroup and its descendants belong to this container.
    pub cgroup_is_own: bool,
    /// Index of the pod in [`Model::pods`]; `None` if no other container shares a namespace of one of the
    /// kinds in [`LINKS`].
    pub pod: Option<usize>,
}

/// Set of two or more containers that share namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodInfo {
    /// Indices of the containers in [`Model::containers`], ascending; at least two.
    pub containers: Vec<usize>,
    /// Kinds in which all of the containers share one namespace other than the host's. Empty if only
    /// a third container links two of them.
    pub shared: Kinds,
}

/// Derives containers and pods by the rules of [this module](self). The result depends only on which
/// namespaces and cgroups the processes share. It depends neither on the program that started a process, nor
/// on its name, nor on the values of the ids.
///
/// ```
/// use nspod_census::{Census, model};
/// let census = Census::take()?;
/// let model = model::derive(census.processes(), census.host());
/// let inside: usize = model.containers.iter().map(|c| c.pids.len()).sum();
/// assert_eq!(model.host.len() + inside, census.processes().len());
/// # Ok::<(), nspod_census::Error>(())
/// ```
pub fn derive(processes: &[ProcessInfo], host: &NamespaceSet) -> Model {
    let mut classes: HashMap<&NamespaceSet, Vec<&ProcessInfo>> = HashMap::new();
    for process in processes {
        let namespaces = if process.kernel { host } else { &process.namespaces };
        classes.entry(namespaces).or_default().push(process);
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

/// Returns whether the class is one container even if its processes are in different cgroups.
fn is_united(class: &[&ProcessInfo], isolated: Kinds) -> bool {
    isolated.contains(Kinds::CGROUP)
        || isolated.contains(Kinds::PID) && class.iter().any(|p| is_init(p))
        || class.iter().any(|p| p.cgroup.is_none())
}

fn is_init(process: &ProcessInfo) -> bool {
    process.inside.last() == Some(&1)
}

fn by_outermost_cgroup(class: Vec<&ProcessInfo>) -> Vec<Vec<&ProcessInfo>> {
    let mut by_path: BTreeMap<Vec<&str>, Vec<&ProcessInfo>> = BTreeMap::new();
    for process in class {
        by_path.entry(parts(process.cgroup.as_deref().unwrap_or(""))).or_default().push(process);
    }
    // In this order the descendants of a cgroup follow it directly.
    let mut groups: Vec<(Vec<&str>, Vec<&ProcessInfo>)> = Vec::new();
    for (path, mut members) in by_path {
        match groups.last_mut() {
            Some((outer, group)) if path.starts_with(outer) => group.append(&mut members),
            _ => groups.push((path, members)),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn container(group: Vec<&ProcessInfo>, namespaces: NamespaceSet, isolated: Kinds) -> ContainerInfo {
    let mut pids: Vec<i32> = group.iter().map(|p| p.pid).collect();
    pids.sort_unstable();
    let init = group.iter().filter(|p| isolated.contains(Kinds::PID) && is_init(p)).map(|p| p.pid).min();
    let cgroup = common_cgroup(&group);
    ContainerInfo { pids, namespaces, isolated, init, cgroup, cgroup_is_own: false, pod: None }
}

fn parts(cgroup: &str) -> Vec<&str> {
    cgroup.split('/').filter(|part| !part.is_empty()).collect()
}

fn common_cgroup(group: &[&ProcessInfo]) -> Option<String> {
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

fn mark_own_cgroups(containers: &mut [ContainerInfo], processes: &[ProcessInfo]) {
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

/// Finds the connected components by union-find. The root of a pod is its lowest index.
fn link(containers: &mut [ContainerInfo]) -> Vec<PodInfo> {
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
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..containers.len() {
        members.entry(find(&mut root, i)).or_default().push(i);
    }
    let mut pods = Vec::new();
    for mates in members.into_values().filter(|mates| mates.len() > 1) {
        let first = containers[mates[0]].namespaces;
        let mut shared = containers[mates[0]].isolated;
        for mate in &mates {
            shared &= first.coincide(&containers[*mate].namespaces);
            containers[*mate].pod = Some(pods.len());
        }
        pods.push(PodInfo { containers: mates, shared });
    }
    pods
}
