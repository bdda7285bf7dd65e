//! The table of containers and kinds. Equal letters in a column stand for the same namespace.

use ns_core::Kind;
use nspod_census::{Census, Matrix};

use super::who::{self, Names, count};
use crate::error::Result;
use crate::output::{self, paint};

/// Colours of the namespaces of a column, repeated as often as necessary.
const COLOURS: [&str; 6] = ["36", "33", "35", "32", "34", "31"];

pub(super) fn show(census: &Census) -> Result<()> {
    let model = census.model();
    let names = Names::read(&model);
    let matrix = Matrix::of(&model);
    let mut headings = vec!["POD", "CONTAINER"];
    headings.extend(Kind::ALL.map(Kind::name));
    headings.extend(["HOST PIDS", "CGROUP", "COMMAND"]);
    let rows: Vec<Vec<String>> = matrix
        .rows
        .iter()
        .map(|row| {
            let container = &model.containers[row.container];
            let pod = match names.pod(row.container) {
                Some(name) => name.to_owned(),
                None => (row.pod + 1).to_string(),
            };
            let mut cells = vec![pod, names.container(row.container).unwrap_or("-").to_owned()];
            cells.extend(row.cells.iter().map(|letters| cell(letters)));
            cells.push(who::some(&container.pids));
            let note = if container.cgroup_is_own || container.cgroup.is_none() { "" } else { " (shared)" };
            cells.push(format!("{}{note}", who::cgroup(container.cgroup.as_deref())));
            cells.push(program(&container.pids));
            cells
        })
        .collect();
    let mut text = String::new();
    if !rows.is_empty() {
        text += &output::table(&headings, &rows);
        text += "\nIn each column, equal letters are the same namespace; · is the host's.\n";
    }
    text += &format!(
        "{} in {}; {}, {} of them in the host's namespaces only; {}\n",
        count(model.containers.len(), "container", "containers"),
        count(model.pods.len(), "pod", "pods"),
        count(census.processes().len(), "process", "processes"),
        model.host.len(),
        count(census.namespaces().len(), "namespace", "namespaces"),
    );
    text += &threads(census);
    output::print(text)
}

/// Returns the command of a container's first process other than nspod's init.
fn program(pids: &[i32]) -> String {
    let mut all = pids.iter().map(|pid| who::command(*pid));
    let first = all.next().unwrap_or_default();
    if first == "nspod-init" { all.next().unwrap_or(first) } else { first }
}

fn cell(letters: &str) -> String {
    match letters {
        "." => paint("·", "2"),
        letters => {
            let number = letters.bytes().fold(0, |n, b| n * 26 + usize::from(b - b'a'));
            paint(letters, COLOURS[number % COLOURS.len()])
        }
    }
}

/// Lists the threads whose namespaces differ from those of their process.
fn threads(census: &Census) -> String {
    let differs = |thread: &nspod_census::Thread| {
        let process = census.process(thread.pid)?;
        let kinds = process.namespaces.coincide(&thread.namespaces).complement();
        let elsewhere: Vec<_> =
            kinds.kinds().map(|kind| thread.namespaces[kind].display(kind).to_string()).collect();
        let name = output::plain(&process.name);
        Some(vec![thread.tid.to_string(), thread.pid.to_string(), elsewhere.join(" "), name])
    };
    let rows: Vec<_> = census.threads().iter().filter_map(differs).collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("\n{}", output::table(&["THREAD", "OF PID", "IS IN", "NAME"], &rows)),
    }
}
