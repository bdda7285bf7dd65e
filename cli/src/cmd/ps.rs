//! `nspod ps`: lists the containers.

use std::mem::discriminant;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::top;
use crate::error::{Error, Result};
use crate::output;
use crate::state::{self, Entry, State, Store};
use crate::template::Template;

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
    /// List only containers with this property: name=TEXT (a part of the name), status=STATE (running, paused,
    /// exited, dead or creating) or pod=POD. Of several filters with the same key, one must hold
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<Filter>,
    /// Print a line for each container from a template, such as `{{.Name}} {{.Status}}`, or a table after the word
    /// `table`, or `json`. The fields are Name, ID, Status, State, ExitCode, HostPid, Pid, Pod, Created (seconds
    /// since 1970), RunningFor and Command
    #[arg(long, value_name = "TEMPLATE", value_parser = format, conflicts_with = "quiet")]
    format: Option<Format>,
    /// Print whole command lines, also if the table is wider than the terminal
    #[arg(long)]
    no_trunc: bool,
    /// List the processes of this container, with their pids on the host and inside
    #[arg(
        value_name = "CONTAINER",
        conflicts_with_all = ["all", "quiet", "pod", "filter", "format", "no_trunc"]
    )]
    id: Option<String>,
}

/// The form of `--format`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Format {
    /// One line of JSON for each container.
    Json,
    Lines(Template),
    Table(Template),
}

fn format(text: &str) -> std::result::Result<Format, String> {
    match text.strip_prefix("table ") {
        Some(columns) => Template::parse(columns).map(Format::Table),
        None if text == "json" => Ok(Format::Json),
        None => Template::parse(text).map(Format::Lines),
    }
}

/// A property that a listed container must have.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    /// Part of the name.
    Name(String),
    Status(State),
    Pod(String),
}

fn filter(text: &str) -> std::result::Result<Filter, String> {
    let form = || format!("{text:?} must have the form name=TEXT, status=STATE or pod=POD");
    let (key, value) = text.split_once('=').ok_or_else(form)?;
    match key {
        "name" => Ok(Filter::Name(value.into())),
        "pod" => Ok(Filter::Pod(value.into())),
        "status" => [State::Creating, State::Running, State::Paused, State::Exited, State::Dead]
            .into_iter()
            .find(|state| state.name() == value)
            .map(Filter::Status)
            .ok_or_else(|| format!("status {value:?} must be running, paused, exited, dead or creating")),
        _ => Err(form()),
    }
}

impl Filter {
    fn holds(&self, row: &Row) -> bool {
        match self {
            Filter::Name(part) => row.id.contains(&**part),
            Filter::Status(state) => row.state == *state,
            Filter::Pod(pod) => row.pod.as_ref() == Some(pod),
        }
    }

    /// Returns whether a container passes the filters: for each key, one of its filters must hold.
    fn all_hold(filters: &[Filter], row: &Row) -> bool {
        let same = |one: &Filter, other: &Filter| discriminant(one) == discriminant(other);
        filters.iter().all(|one| filters.iter().any(|other| same(one, other) && other.holds(row)))
    }
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
    let rows = args.rows()?;
    if args.quiet {
        let ids = rows.iter().map(|row| row.id.as_str());
        return match json {
            true => output::json(&ids.collect::<Vec<_>>()),
            false => output::print(ids.map(|id| format!("{id}\n")).collect::<String>()),
        };
    }
    match &args.format {
        Some(Format::Json) => rows.iter().try_for_each(|row| output::json_line(&row.fields())),
        Some(Format::Lines(template)) => {
            let lines = rows.iter().map(|row| Ok(fill(template, row)? + "\n")).collect::<Result<String>>()?;
            output::print(lines)
        }
        Some(Format::Table(template)) => {
            let columns = template.columns();
            let headings: Vec<String> = columns.iter().map(Template::heading).collect();
            let cells =
                |row: &Row| columns.iter().map(|column| fill(column, row)).collect::<Result<Vec<String>>>();
            let rows = rows.iter().map(cells).collect::<Result<Vec<_>>>()?;
            output::print(output::table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &rows))
        }
        None if json => output::json(&rows),
        None => output::print(table(&rows, args.no_trunc)),
    }
}

/// Returns the table of containers. It fits the terminal, unless the command lines are whole.
fn table(rows: &[Row], whole: bool) -> String {
    const HEADINGS: [&str; 7] = ["ID", "STATUS", "HOST PID", "PID", "POD", "CREATED", "COMMAND"];
    let cells: Vec<_> = rows.iter().map(|row| row.cells(whole)).collect();
    // The column that is left out first.
    let optional = if rows.iter().all(|row| row.pod.is_none()) { "POD" } else { "PID" };
    match whole {
        true => output::table(&HEADINGS, &cells),
        false => output::fitted(&HEADINGS, &cells, optional, &["POD", "COMMAND"]),
    }
}

fn fill(template: &Template, row: &Row) -> Result<String> {
    template.fill(&row.fields()).map_err(|problem| Error::usage("--format", problem))
}

impl PsArgs {
    /// Returns the containers to list.
    fn rows(&self) -> Result<Vec<Row>> {
        let store = Store::open()?;
        store.sweep()?;
        let ended = |state| matches!(state, State::Exited | State::Dead);
        let all = self.all
            || self.filter.iter().any(|filter| matches!(filter, Filter::Status(state) if ended(*state)));
        let mut rows = Vec::new();
        for entry in store.all()? {
            let row = Row::of(&entry)?;
            let is_of_pod = self.pod.is_none() || self.pod == row.pod;
            if (all || !ended(row.state)) && is_of_pod && Filter::all_hold(&self.filter, &row) {
                rows.push(row);
            }
        }
        Ok(rows)
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

    fn status(&self) -> String {
        match (self.state, self.exit_code) {
            (State::Exited, Some(code)) => format!("exited ({code})"),
            (State::Exited, None) => "exited (unknown)".into(),
            (State::Dead, _) => "never started".into(),
            (state, _) => state.name().into(),
        }
    }

    fn command(&self) -> String {
        output::plain(&self.command.join(" "))
    }

    fn running_for(&self) -> String {
        self.created.map_or(String::new(), |at| output::ago(state::age(at)))
    }

    /// Returns the fields of `--format`.
    fn fields(&self) -> Value {
        serde_json::json!({
            "ID": self.id,
            "Name": self.id,
            "Names": self.id,
            "Status": self.status(),
            "State": self.state,
            "ExitCode": self.exit_code,
            "HostPid": self.host_pid,
            "Pid": self.pid,
            "Pod": self.pod,
            "Created": self.created,
            "RunningFor": self.running_for(),
            "Command": self.command(),
        })
    }

    fn cells(&self, whole: bool) -> Vec<String> {
        let number = |n: Option<i32>| n.map_or(String::new(), |n| n.to_string());
        const WIDEST: usize = 40;
        let command = self.command();
        let command = if whole { command } else { output::shortened(&command, WIDEST) };
        vec![
            self.id.clone(),
            self.status(),
            number(self.host_pid),
            number(self.pid),
            self.pod.clone().unwrap_or_default(),
            self.running_for(),
            command,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, state: State, pod: Option<&str>) -> Row {
        Row {
            id: id.into(),
            state,
            exit_code: None,
            host_pid: None,
            pid: None,
            pod: pod.map(Into::into),
            created: None,
            command: vec!["sleep".into(), "x".repeat(60)],
        }
    }

    #[test]
    fn filters_of_one_key_are_alternatives() {
        let passes = |filters: &[&str], row: &Row| {
            let filters: Vec<_> = filters.iter().map(|text| filter(text).unwrap()).collect();
            Filter::all_hold(&filters, row)
        };
        let web = row("web-1", State::Running, Some("shop"));
        for filters in [
            &[][..],
            &["name=web"],
            &["name=db", "name=web"],
            &["status=running", "pod=shop"],
            &["status=paused", "status=running", "name=b-1"],
        ] {
            assert!(passes(filters, &web), "{filters:?}");
        }
        for filters in [&["name=db"][..], &["name=web", "pod=other"], &["status=exited"]] {
            assert!(!passes(filters, &web), "{filters:?}");
        }
        nspod_testkit::assert_refused(filter("web"), "must have the form");
        nspod_testkit::assert_refused(filter("label=x"), "must have the form");
        nspod_testkit::assert_refused(filter("status=restarting"), "must be running");
    }

    #[test]
    fn a_command_line_is_whole_on_request() {
        let row = row("web", State::Running, None);
        assert_eq!(row.cells(false)[6].chars().count(), 40);
        assert_eq!(row.cells(true)[6].chars().count(), 66);
    }
}
