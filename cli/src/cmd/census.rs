//! `nspod census`: the containers and pods of this host, regardless of the program that started them.

mod namespaces;
mod picture;
mod place;
mod who;

use clap::Args;
use ns_core::Kind;
use nspod_census::{Census, HostFrom, Model, NamespaceInfo, Options};
use serde_json::json;

use self::who::Names;
use crate::error::Result;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct CensusArgs {
    /// List the namespaces, of these kinds or of all: mnt, net, pid, user, uts, ipc, cgroup, time
    #[arg(short, long, value_name = "KIND", num_args = 0.., value_delimiter = ',')]
    namespaces: Option<Vec<Kind>>,
    /// Include namespaces that only an open descriptor keeps alive
    #[arg(long, requires = "namespaces")]
    fds: bool,
    /// Show the namespaces of this process, and the processes that share them
    #[arg(short, long, conflicts_with = "namespaces")]
    pid: Option<i32>,
    /// Show only the containers that nspod started, and the other containers of their pods
    #[arg(long, conflicts_with_all = ["namespaces", "pid"])]
    mine: bool,
    /// Show only these containers and pods of nspod, and the other containers of the same pods
    #[arg(value_name = "NAME", conflicts_with_all = ["namespaces", "pid", "mine"])]
    names: Vec<String>,
    /// Include threads whose namespaces differ from those of their process
    #[arg(long)]
    threads: bool,
}

pub(crate) fn census(args: &CensusArgs, json: bool) -> Result<()> {
    let listed = args.namespaces.is_some();
    // Read only what is printed.
    let options = match (json, listed, args.pid) {
        (true, false, None) => Options::ALL,
        _ => Options { threads: args.threads, fds: args.fds, mounts: listed, owners: listed && json },
    };
    let census = options.take()?;
    match (&args.namespaces, args.pid) {
        (Some(kinds), _) => namespaces::show(&census, kinds, json)?,
        (None, Some(pid)) => place::show(&census, pid, json)?,
        (None, None) => {
            let mut model = census.model();
            let mut names = Names::read(&model);
            let selected = args.mine || !args.names.is_empty();
            if selected {
                names.select(&mut model, &args.names)?;
            }
            if json {
                everything(&census, &model, &names, selected)?
            } else {
                picture::show(&census, &model, &names, selected)?
            }
        }
    }
    warn(&census);
    Ok(())
}

/// Prints the census. If containers were selected, leaves out other processes, threads and namespaces, but not
/// the zombies and unreadable processes, which may belong to them.
fn everything(census: &Census, model: &Model, names: &Names, selected: bool) -> Result<()> {
    let cgroups = who::Cgroups::detect();
    let inside = |pid: i32| model.container_of(pid).is_some();
    let inhabited = |n: &NamespaceInfo| model.containers.iter().any(|c| c.namespaces[n.kind] == n.id);
    output::json(&json!({
        "host": census.host(),
        "host_from": census.host_from(),
        "namespaces": census.namespaces().iter().filter(|n| !selected || inhabited(n)).collect::<Vec<_>>(),
        "processes": census.processes().iter().filter(|p| !selected || inside(p.pid)).collect::<Vec<_>>(),
        "threads": census.threads().iter().filter(|t| !selected || inside(t.pid)).collect::<Vec<_>>(),
        "zombies": census.zombies(),
        "unreadable": census.unreadable(),
        "containers": model.containers.iter().enumerate().map(|(i, c)| json!({
            "name": names.container(i),
            "pod_name": names.pod(i),
            "pids": c.pids,
            "namespaces": c.namespaces,
            "isolated": c.isolated,
            "init": c.init,
            "cgroup": c.cgroup,
            "cgroup_is_own": c.cgroup_is_own,
            "net": cgroups.net(c),
            "pod": c.pod,
        })).collect::<Vec<_>>(),
        "pods": model.pods,
        "host_pids": model.host,
    }))
}

/// Warns if the census is incomplete.
fn warn(census: &Census) {
    if census.host_from() == HostFrom::Caller {
        output::note(
            "the namespaces of pid 1 are not readable, so those of nspod itself count as the host's",
        );
    }
    let unread = census.unreadable();
    if !unread.is_empty() {
        let most: Vec<i32> = unread.iter().map(|p| p.pid).collect();
        let cure = place::how_to_read();
        output::note(format!(
            "INCOMPLETE: the namespaces of {} of {} processes are not readable and not counted \
             (pids {}): {cure}",
            unread.len(),
            unread.len() + census.processes().len(),
            who::some(&most),
        ));
    }
}
