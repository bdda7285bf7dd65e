//! The place of one process: its container, its pod, its pids, and the processes that share its
//! namespaces.

use cgroup_core::net::{Sockets, Traffic, Usage};
use ns_core::{Kind, NamespaceId};
use nspod_census::{Census, Model, PodInfo, ProcessInfo};
use nspod_sandbox::ErrorKind;
use serde_json::json;

use super::who::{self, Cgroups, Names, Users, count};
use crate::error::{Error, Result};
use crate::output;

/// Process and its place in the model.
struct ProcessReport<'a> {
    census: &'a Census,
    model: Model,
    names: Names,
    process: &'a ProcessInfo,
    /// Index of the container; `None` for a process of the host.
    container: Option<usize>,
}

pub(super) fn show(census: &Census, pid: i32, json: bool) -> Result<()> {
    let process = census.process(pid).ok_or_else(|| absent(census, pid))?;
    let model = census.model();
    let container = model.container_of(pid);
    let names = Names::read(&model);
    let report = ProcessReport { census, model, names, process, container };
    if json { report.json() } else { report.print() }
}

fn absent(census: &Census, pid: i32) -> Error {
    if census.unreadable().iter().any(|p| p.pid == pid) {
        let problem = format!("the namespaces of process {pid} are not readable");
        let error = Error::new(ErrorKind::PermissionDenied, "census", problem).on(pid);
        return error.hint(how_to_read());
    }
    let problem = match census.zombies().iter().find(|z| z.pid == pid) {
        Some(zombie) => format!(
            "process {pid} has ended and left its namespaces; its parent {} has not waited for it yet",
            zombie.parent
        ),
        None => format!("there is no process {pid}"),
    };
    Error::new(ErrorKind::ProcessEnded, "census", problem).on(pid)
}

fn traffic(net: &Usage) -> String {
    let side = |name, side: &Traffic| {
        format!(
            "{name} {} in {}, dropped {}, denied {}",
            output::bytes(side.bytes),
            count(side.packets as usize, "packet", "packets"),
            count(side.dropped as usize, "packet", "packets"),
            count(side.denied as usize, "call", "calls")
        )
    };
    let sockets = match net.sockets {
        Sockets { alive: 0, denied: 0, .. } => String::new(),
        sockets => format!(
            "; {} counted, denied {}",
            count(sockets.alive as usize, "socket", "sockets"),
            sockets.denied
        ),
    };
    format!("{}; {}{sockets}", side("sent", &net.egress), side("received", &net.ingress))
}

impl ProcessReport<'_> {
    fn print(&self) -> Result<()> {
        let process = self.process;
        let pids: Vec<_> = process.inside.iter().map(i32::to_string).collect();
        let mut facts = vec![
            ("process", format!("{} {}", process.pid, who::command(process.pid))),
            ("user", Users::read().name(process.uid)),
            (
                "pids",
                pids.join(" > ")
                    + if pids.len() > 1 { " (from the host's namespace to its own)" } else { "" },
            ),
            ("container", self.container_text()),
            ("pod", self.pod_text()),
        ];
        let mut cgroup = who::cgroup(process.cgroup.as_deref());
        if let Some(container) = self.container.map(|i| &self.model.containers[i])
            && container.cgroup.is_some()
        {
            let own = who::cgroup(container.cgroup.as_deref());
            cgroup += &match container.cgroup_is_own {
                true => format!(" (the cgroup {own} contains only its container)"),
                false => format!(" (the cgroup {own} of its container also contains other processes)"),
            };
        }
        facts.push(("cgroup", cgroup));
        if let Some(net) = self.net() {
            facts.push(("network", traffic(&net)));
        }
        let mut text = String::new();
        for (name, fact) in facts {
            text += &format!("{name:<10} {fact}\n");
        }
        let rows: Vec<Vec<String>> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let id = process.namespaces[kind];
                vec![id.display(kind).to_string(), self.population(kind, id).to_string(), self.with(kind, id)]
            })
            .collect();
        text += "\n";
        text += &output::table(&["NAMESPACE", "NPROCS", "SHARED WITH"], &rows);
        for thread in self.census.threads().iter().filter(|t| t.pid == process.pid) {
            let kinds = process.namespaces.coincide(&thread.namespaces).complement();
            let all: Vec<_> =
                kinds.kinds().map(|kind| thread.namespaces[kind].display(kind).to_string()).collect();
            text += &format!("its thread {} is in {}\n", thread.tid, all.join(" "));
        }
        output::print(text)
    }

    /// Returns the network traffic of the container.
    fn net(&self) -> Option<Usage> {
        Cgroups::detect().net(&self.model.containers[self.container?])
    }

    fn json(&self) -> Result<()> {
        let shared = Kind::ALL.map(|kind| {
            let id = self.process.namespaces[kind];
            let inside = self.census.namespace(kind, id).map(|n| n.processes.as_slice()).unwrap_or(&[]);
            let others: Vec<i32> = inside.iter().copied().filter(|pid| *pid != self.process.pid).collect();
            let host = id == self.census.host()[kind];
            (kind.to_string(), json!({ "id": id, "host": host, "shared_with": others }))
        });
        output::json(&json!({
            "process": self.process,
            "container": self.container.map(|i| json!({
                "name": self.names.container(i),
                "pids": self.model.containers[i].pids,
                "isolated": self.model.containers[i].isolated,
                "init": self.model.containers[i].init,
                "cgroup": self.model.containers[i].cgroup,
                "cgroup_is_own": self.model.containers[i].cgroup_is_own,
                "net": self.net(),
            })),
            "pod": self.pod().map(|pod| json!({
                "name": self.container.and_then(|i| self.names.pod(i)),
                "containers": pod.containers.iter()
                    .map(|c| json!({ "name": self.names.container(*c), "pids": self.model.containers[*c].pids }))
                    .collect::<Vec<_>>(),
                "shared": pod.shared,
            })),
            "namespaces": shared.into_iter().collect::<serde_json::Map<_, _>>(),
            "threads": self.census.threads().iter().filter(|t| t.pid == self.process.pid).collect::<Vec<_>>(),
        }))
    }

    /// Returns the pod, if other containers are in it.
    fn pod(&self) -> Option<&PodInfo> {
        Some(&self.model.pods[self.model.containers[self.container?].pod?])
    }

    fn container_text(&self) -> String {
        let Some(index) = self.container else { return "none: all of its namespaces are the host's".into() };
        let container = &self.model.containers[index];
        let name = self.names.container(index).map_or(String::new(), |name| format!("{name}, "));
        format!(
            "{name}{} ({}), isolated in {}",
            count(container.pids.len(), "process", "processes"),
            who::some(&container.pids),
            container.isolated
        )
    }

    fn pod_text(&self) -> String {
        let Some(index) = self.container else { return "none".into() };
        let name = self.names.pod(index);
        let Some(pod) = self.pod() else {
            return name.map_or("none".into(), |name| format!("{name}, only this container"));
        };
        let name = name.map_or(String::new(), |name| format!("{name}, "));
        let all: Vec<_> = pod.containers.iter().map(|c| self.names.or_pid(&self.model, *c)).collect();
        let shared = if pod.shared.is_empty() { "nothing".into() } else { pod.shared.to_string() };
        format!("{name}containers {}; all share {shared}", all.join(", "))
    }

    fn population(&self, kind: Kind, id: NamespaceId) -> usize {
        self.census.namespace(kind, id).map_or(0, |n| n.processes.len())
    }

    fn with(&self, kind: Kind, id: NamespaceId) -> String {
        if id == self.census.host()[kind] {
            return "the host".into();
        }
        let Some(own) = self.container else { return String::new() };
        let others = |i: &usize| *i != own && self.model.containers[*i].namespaces[kind] == id;
        let all: Vec<_> = (0..self.model.containers.len())
            .filter(others)
            .map(|i| format!("container {}", self.names.or_pid(&self.model, i)))
            .collect();
        match (all.is_empty(), self.model.containers[own].pids.len()) {
            (false, _) => all.join(", "),
            (true, 1) => "none".into(),
            (true, _) => "only its own container".into(),
        }
    }
}

/// Returns how the caller can read the namespaces of all processes.
pub(super) fn how_to_read() -> &'static str {
    match nix::unistd::geteuid().is_root() {
        true => "this requires CAP_SYS_PTRACE, or all capabilities of these processes",
        false => "run it as root",
    }
}
