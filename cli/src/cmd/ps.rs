//! `nspod ps`: lists the containers.

use clap::Args;
use serde::Serialize;

use super::top;
use crate::error::Result;
use crate::output;
use crate::state::{self, Entry, State, Store};

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Include containers that have exited
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// List only the containers of this pod
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// List the processes of this container, with their pids on the host and inside
    #[arg(value_name = "CONTAINER", conflicts_with_all = ["all", "quiet", "pod"])]
    id: Option<String>,
}

/// A container in a list.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    state: State,
    /// Exit code, or 128 plus the signal that killed the program.
    exit_code: Option<i32>,
    /// Pid of the first process on the host.
    host_pid: Option<i32>,
    /// Pid of the first process in its own pid namespace.
    pid: Option<i32>,
    pod: Option<String>,
    created: Option<u64>,
    command: Vec<String>,
}

pub(crate) fn ps(args: &PsArgs, json: bool) -> Result<()> {
    if let Some(id) = &args.id {
        return top::show(id, json);
    }
    let store = Store::open()?;
    store.sweep()?;
    let mut rows = Vec::new();
    for entry in store.all()? {
        let row = Row::of(&entry)?;
        let ended = matches!(row.state, State::Exited | State::Dead);
        if (args.all || !ended) && (args.pod.is_none() || args.pod == row.pod) {
            rows.push(row);
        }
    }
    if args.quiet {
        return output::print(rows.iter().map(|row| format!("{}\n", row.id)).collect::<String>());
    }
    match json {
        true => output::json(&rows),
        false => output::print(output::table(
            &["ID", "STATUS", "HOST PID", "PID", "POD", "CREATED", "COMMAND"],
            &rows.iter().map(Row::cells).collect::<Vec<_>>(),
        )),
    }
}

/// Returns whether the container is running or paused.
pub(crate) fn running(entry: &Entry) -> Result<bool> {
    Ok(matches!(entry.state()?, State::Running | State::Paused))
}

impl Row {
    fn of(entry: &Entry) -> Result<Row> {
        let state = entry.state()?;
        let record = entry.saved();
        let running = matches!(state, State::Running | State::Paused);
        let host_pid = record.filter(|_| running).map(|r| r.container.process.pid);
        let chain = host_pid.and_then(|pid| ns_core::pid_chain(pid).ok());
        let ended = state == State::Exited;
        Ok(Row {
            id: entry.id().to_owned(),
            state,
            exit_code: if ended { entry.status()?.map(|s| s.shell_code()) } else { None },
            host_pid,
            pid: chain.and_then(|chain| chain.last().copied()),
            pod: record.and_then(|r| r.pod.clone()),
            created: record.map(|r| r.created),
            command: record.map_or(Vec::new(), |r| {
                r.container.spec.process.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
            }),
        })
    }

    fn cells(&self) -> Vec<String> {
        let number = |n: Option<i32>| n.map_or(String::new(), |n| n.to_string());
        let status = match (self.state, self.exit_code) {
            (State::Creating, _) => "creating".into(),
            (State::Running, _) => "running".into(),
            (State::Paused, _) => "paused".into(),
            (State::Exited, Some(code)) => format!("exited ({code})"),
            (State::Exited, None) => "exited (unknown)".into(),
            (State::Dead, _) => "never started".into(),
        };
        let mut command = output::plain(&self.command.join(" "));
        if command.chars().count() > 40 {
            command = command.chars().take(39).chain(['…']).collect();
        }
        vec![
            self.id.clone(),
            status,
            number(self.host_pid),
            number(self.pid),
            self.pod.clone().unwrap_or_default(),
            self.created.map_or(String::new(), |at| output::ago(state::age(at))),
            command,
        ]
    }
}
