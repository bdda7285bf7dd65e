//! Names of containers, pods, users and processes.

use std::collections::HashMap;

use cgroup_core::{Hierarchy, net};
use nspod_census::{ContainerInfo, Model};

use crate::cmd::top;
use crate::output;
use crate::state::Store;

/// Names from nspod's store, by index of the container.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<usize, (String, Option<String>)>);

impl Names {
    /// Reads the names from the caller's store. A container without a readable entry has no name.
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
                names.0.insert(*at, (entry.id().to_owned(), record.pod.clone()));
            }
        }
        names
    }

    pub(super) fn container(&self, index: usize) -> Option<&str> {
        self.0.get(&index).map(|(name, _)| name.as_str())
    }

    /// Returns the name of the pod that the container was started in.
    pub(super) fn pod(&self, index: usize) -> Option<&str> {
        self.0.get(&index)?.1.as_deref()
    }

    /// Returns the name of a container, or its lowest pid.
    pub(super) fn or_pid(&self, model: &Model, index: usize) -> String {
        self.container(index).map_or_else(|| model.containers[index].pids[0].to_string(), str::to_owned)
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
    const WIDTH: usize = 48;
    let text = top::command(pid).unwrap_or_default();
    match text.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
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
