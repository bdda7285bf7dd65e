//! `nspod top`: lists the processes of a container, with their pids on the host and inside.

use clap::Args;
use ns_core::{Kind, NamespaceSet};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::output;
use crate::state::{Entry, Store};

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

#[derive(Debug, Serialize)]
struct Row {
    host_pid: i32,
    /// Pid in the process's own pid namespace.
    pid: i32,
    command: String,
}

pub(crate) fn top(args: &TopArgs, json: bool) -> Result<()> {
    show(&args.id, json)
}

pub(crate) fn show(id: &str, json: bool) -> Result<()> {
    let entry = Store::open()?.find(id)?;
    let mut rows = Vec::new();
    for host_pid in processes(&entry)? {
        // Leave out processes that have ended in the meantime.
        let Ok(chain) = ns_core::pid_chain(host_pid) else { continue };
        let Some(command) = command(host_pid) else { continue };
        rows.push(Row { host_pid, pid: chain.last().copied().unwrap_or(host_pid), command });
    }
    if json {
        return output::json(&rows);
    }
    let cells = |row: &Row| vec![row.host_pid.to_string(), row.pid.to_string(), row.command.clone()];
    output::print(output::table(&["HOST PID", "PID", "COMMAND"], &rows.iter().map(cells).collect::<Vec<_>>()))
}

/// Returns the pids of the processes in the container's cgroup or, without a cgroup, in its pid namespace.
fn processes(entry: &Entry) -> Result<Vec<i32>> {
    let container = entry.open()?;
    if let Some(cgroup) = container.cgroup() {
        let mut all = cgroup.procs_recursive()?;
        all.sort_unstable();
        return Ok(all);
    }
    let own = container.namespaces()?[Kind::Pid];
    if own == NamespaceSet::current()?[Kind::Pid] {
        return Ok(vec![container.pid()]);
    }
    let proc = std::path::Path::new("/proc");
    let entries = proc.read_dir().map_err(|e| Error::io("list", "list", proc, &e))?;
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    let mut all: Vec<i32> =
        pids.filter(|pid| NamespaceSet::of_pid(*pid).is_ok_and(|set| set[Kind::Pid] == own)).collect();
    all.sort_unstable();
    Ok(all)
}

/// Returns the arguments of a process, or its name in brackets if it has no arguments.
pub(super) fn command(pid: i32) -> Option<String> {
    let args = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text: Vec<_> = args.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    let text = text.join(" ");
    if !text.trim().is_empty() {
        return Some(output::plain(text.trim_end()));
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("[{}]", output::plain(name.trim_end())))
}
