//! Names of containers, pods, users and processes.

use std::collections::HashMap;

use cgroup_core::{Hierarchy, net};
use nspod_census::{ContainerInfo, Model};
use nspod_sandbox::ErrorKind;

use crate::cmd::top;
use crate::error::{Error, Result};
use crate::output;
use crate::state::Store;
use crate::state::pods::Pods;

/// Names from nspod's stores, by index of the container.
#[derive(Debug, Default)]
pub(super) struct Names {
    containers: HashMap<usize, String>,
    pods: HashMap<usize, String>,
}

impl Names {
    /// Reads the names from the caller's stores. A container without a readable entry has no name.
    pub(super) fn read(model: &Model) -> Names {
        let mut names = Names::default();
        let of_pid: HashMap<i32, usize> =
            (0..).zip(&model.containers).flat_map(|(i, c)| c.pids.iter().map(move |pid| (*pid, i))).collect();
        let entries = Store::peek().and_then(|store| store.all().ok()).unwrap_or_default();
        for entry in entries {
            let Some(record) =
                entry.saved().filter(|record| matches!(record.container.process.is_alive(), Ok(true)))
            else {
                continue;
            };
            if let Some(at) = of_pid.get(&record.container.process.pid) {
                names.containers.insert(*at, entry.id().to_owned());
                names.pods.extend(record.pod.clone().map(|pod| (*at, pod)));
            }
        }
        for pod in Pods::peek().and_then(|pods| pods.all().ok()).unwrap_or_default() {
            if let Some(at) = pod.holder().and_then(|pid| of_pid.get(&pid)) {
                names.pods.insert(*at, pod.name().to_owned());
            }
        }
        for pod in &model.pods {
            let name = pod.containers.iter().find_map(|mate| names.pods.get(mate)).cloned();
            for (mate, name) in pod.containers.iter().zip(name.iter().cycle()) {
                names.pods.entry(*mate).or_insert_with(|| name.clone());
            }
        }
        names
    }

    pub(super) fn container(&self, index: usize) -> Option<&str> {
        self.containers.get(&index).map(String::as_str)
    }

    /// Returns the name of the pod that the container was started in or holds.
    pub(super) fn pod(&self, index: usize) -> Option<&str> {
        self.pods.get(&index).map(String::as_str)
    }

    /// Returns the name of a container, or its lowest pid.
    pub(super) fn or_pid(&self, model: &Model, index: usize) -> String {
        self.container(index).map_or_else(|| model.containers[index].pids[0].to_string(), str::to_owned)
    }

    /// Returns the name of a container's pod, or its number. `None` if the container is in no pod.
    pub(super) fn pod_or_number(&self, model: &Model, index: usize) -> Option<String> {
        let number = || model.containers[index].pod.map(|pod| (pod + 1).to_string());
        self.pod(index).map(str::to_owned).or_else(number)
    }

    /// Removes the containers other than those of nspod with one of these names, or all but nspod's without a name.
    /// A name is that of a container or of a pod. The other containers of a pod stay with the selected one.
    pub(super) fn select(&mut self, model: &mut Model, wanted: &[String]) -> Result<()> {
        let is = |index: usize, name: &String| [self.container(index), self.pod(index)].contains(&Some(name));
        let all = 0..model.containers.len();
        if let Some(name) = wanted.iter().find(|name| !all.clone().any(|index| is(index, name))) {
            let problem = format!("there is no running container or pod {name}");
            let error = Error::new(ErrorKind::NotFound, "census", problem).on(name);
            return Err(error.hint("`nspod ps` and `nspod pod ls` list nspod's own"));
        }
        let selected = |index: usize| match wanted {
            [] => self.container(index).or(self.pod(index)).is_some(),
            wanted => wanted.iter().any(|name| is(index, name)),
        };
        let keep: Vec<usize> = all
            .filter(|index| match model.containers[*index].pod {
                Some(pod) => model.pods[pod].containers.iter().any(|mate| selected(*mate)),
                None => selected(*index),
            })
            .collect();
        let mut pods: Vec<usize> = keep.iter().filter_map(|index| model.containers[*index].pod).collect();
        pods.sort_unstable();
        pods.dedup();
        model.pods = pods.iter().map(|pod| model.pods[*pod].clone()).collect();
        for index in model.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
            *index = keep.binary_search(index).expect("a pod is kept as a whole");
        }
        model.containers = keep.iter().map(|index| model.containers[*index].clone()).collect();
        for pod in model.containers.iter_mut().filter_map(|container| container.pod.as_mut()) {
            *pod = pods.binary_search(pod).expect("its pod is kept");
        }
        for names in [&mut self.containers, &mut self.pods] {
            let kept = (0..).zip(&keep).filter_map(|(now, before)| Some((now, names.remove(before)?)));
            *names = kept.collect();
        }
        Ok(())
    }
}

/// Cgroups of containers.
#[derive(Debug)]
pub(super) struct Cgroups(Option<Hierarchy>);

impl Cgroups {
    pub(super) fn detect() -> Cgroups {
        Cgroups(Hierarchy::detect().ok())
    }

    /// Returns the network traffic of a container with its own cgroup. Returns `None` if it has no
    /// network limits or the caller may not read the counters.
    pub(super) fn net(&self, container: &ContainerInfo) -> Option<net::Usage> {
        let path = container.cgroup.as_deref().filter(|_| container.cgroup_is_own)?;
        self.0.as_ref()?.open(path).ok()?.net_usage().ok()?
    }
}

/// Names of users.
#[derive(Debug)]
pub(super) struct Users(String);

impl Users {
    pub(super) fn read() -> Users {
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        Users(String::from_utf8_lossy(&passwd).into_owned())
    }

    /// Returns the name of a user, or its number.
    pub(super) fn name(&self, uid: u32) -> String {
        ns_core::user_name(&self.0, uid).map_or_else(|| uid.to_string(), str::to_owned)
    }
}

/// Returns the command line of a process, shortened.
pub(super) fn command(pid: i32) -> String {
    const WIDEST: usize = 48;
    output::shortened(&top::command(pid).unwrap_or_default(), WIDEST)
}

/// Lists the first pids and the number of the others: `1 2 3 4 +12`.
pub(super) fn some(pids: &[i32]) -> String {
    const MOST: usize = 4;
    let shown = if pids.len() > MOST + 1 { &pids[..MOST] } else { pids };
    let mut text = shown.iter().map(i32::to_string).collect::<Vec<_>>().join(" ");
    if pids.len() > shown.len() {
        text += &format!(" +{}", pids.len() - shown.len());
    }
    text
}

/// Returns the path of a cgroup without control characters.
pub(super) fn cgroup(path: Option<&str>) -> String {
    path.map_or_else(|| "?".into(), output::plain)
}

/// Formats a number and its noun: `1 process`, `2 processes`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_pids_says_how_many_it_leaves_out() {
        assert_eq!(some(&[1]), "1");
        assert_eq!(some(&[1, 2, 3, 4, 5]), "1 2 3 4 5");
        assert_eq!(some(&[1, 2, 3, 4, 5, 6]), "1 2 3 4 +2");
    }
}
