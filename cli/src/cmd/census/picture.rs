//! The table of containers and kinds. Equal letters in a column stand for the same namespace.

use std::collections::BTreeSet;

use ns_core::Kind;
use nspod_census::{Census, Matrix, Model};

use super::who::{self, Names, count};
use crate::cmd::top;
use crate::error::Result;
use crate::output::{self, paint};

/// Colours of the namespaces of a column, repeated as often as necessary.
const COLOURS: [&str; 6] = ["36", "33", "35", "32", "34", "31"];

/// Prints the table. On a terminal, it fits the width.
pub(super) fn show(census: &Census, model: &Model, names: &Names, selected: bool) -> Result<()> {
    let pod = |index| names.pod_or_number(model, index);
    let mut text = String::new();
    if !model.containers.is_empty() {
        text += &table(model, names);
        text += "\nIn each column, equal letters are the same namespace; · is the host's.\n";
    }
    let pods: BTreeSet<String> = (0..model.containers.len()).filter_map(pod).collect();
    let containers = count(model.containers.len(), "container", "containers");
    text += &format!("{containers}, {}", count(pods.len(), "pod", "pods"));
    if !selected {
        text += &format!(
            "; {}, {} of them of the host; {}",
            count(census.processes().len(), "process", "processes"),
            model.host.len(),
            count(census.namespaces().len(), "namespace", "namespaces"),
        );
    }
    text += "\n";
    text += &threads(census, |pid| !selected || model.container_of(pid).is_some());
    output::print(text)
}

fn table(model: &Model, names: &Names) -> String {
    let kinds = Kind::ALL.map(Kind::name).join(" ");
    let rows: Vec<Vec<String>> = Matrix::of(model)
        .rows
        .iter()
        .map(|row| {
            let container = &model.containers[row.container];
            let pod = names.pod_or_number(model, row.container).unwrap_or("-".into());
            let more = container.pids.len() - 1;
            let pids =
                container.pids[0].to_string() + &if more > 0 { format!(" +{more}") } else { String::new() };
            let note = if container.cgroup_is_own || container.cgroup.is_none() { "" } else { " (shared)" };
            vec![
                pod,
                names.container(row.container).unwrap_or("-").to_owned(),
                cells(&row.cells),
                pids,
                format!("{}{note}", who::cgroup(container.cgroup.as_deref())),
                program(&container.pids),
            ]
        })
        .collect();
    let headings = ["POD", "CONTAINER", &kinds, "HOST PID", "CGROUP", "COMMAND"];
    output::fitted(&headings, &rows, "CGROUP", &["POD", "CONTAINER", "COMMAND"])
}

/// Returns one cell for all kinds, because the gaps between eight columns would not fit a terminal.
fn cells(letters: &[String; 8]) -> String {
    let cell = |(kind, letters): (Kind, &String)| {
        let gap = (kind.name().len() + 1).saturating_sub(letters.len());
        self::cell(letters) + &" ".repeat(gap)
    };
    Kind::ALL.into_iter().zip(letters).map(cell).collect::<String>().trim_end().to_owned()
}

/// Returns the command of a container's first process other than nspod's init.
fn program(pids: &[i32]) -> String {
    let mut all = pids.iter().map(|pid| top::command(*pid).unwrap_or_default());
    let first = all.next().unwrap_or_default();
    if first == "nspod-init" || first.starts_with("nspod-init -- ") {
        all.next().unwrap_or(first)
    } else {
        first
    }
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
fn threads(census: &Census, shown: impl Fn(i32) -> bool) -> String {
    let differs = |thread: &nspod_census::Thread| {
        let process = census.process(thread.pid)?;
        let kinds = process.namespaces.coincide(&thread.namespaces).complement();
        let elsewhere: Vec<_> =
            kinds.kinds().map(|kind| thread.namespaces[kind].display(kind).to_string()).collect();
        let name = output::plain(&process.name);
        Some(vec![thread.tid.to_string(), thread.pid.to_string(), elsewhere.join(" "), name])
    };
    let rows: Vec<_> =
        census.threads().iter().filter(|thread| shown(thread.pid)).filter_map(differs).collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("\n{}", output::table(&["THREAD", "OF PID", "IS IN", "NAME"], &rows)),
    }
}
