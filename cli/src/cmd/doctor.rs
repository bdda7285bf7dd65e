//! `nspod doctor`: what this host can and cannot do for containers, found out by trying, and
//! how to mend it.

mod caller;
mod calls;
mod cgroups;
mod namespaces;
mod probe;
mod trial;

use clap::Args;
use serde::Serialize;

use crate::error::Result;
use crate::output::{self, paint};

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Tries one thing in this process, which it changes: doctor runs itself for each
    #[arg(long, hide = true, value_name = "WHAT")]
    probe: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    /// As it should be.
    Ok,
    /// Containers can do without, but will notice.
    Limited,
    /// Not there.
    Missing,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    group: &'static str,
    name: String,
    mark: Mark,
    /// What was found; where it is not as it should be, why, and the cure.
    finding: String,
}

/// The checks of a group.
#[derive(Debug)]
struct Group {
    name: &'static str,
    checks: Vec<Check>,
}

impl Group {
    fn new(name: &'static str) -> Group {
        Group { name, checks: Vec::new() }
    }

    fn add(&mut self, name: impl Into<String>, mark: Mark, finding: impl Into<String>) {
        let finding = output::plain(finding.into().trim());
        self.checks.push(Check { group: self.name, name: name.into(), mark, finding });
    }

    fn ok(&mut self, name: impl Into<String>, finding: impl Into<String>) {
        self.add(name, Mark::Ok, finding);
    }

    /// What was tried: fine, or why not.
    fn tried<E: std::fmt::Display>(
        &mut self,
        name: &str,
        otherwise: Mark,
        tried: std::result::Result<(), E>,
    ) {
        match tried {
            Ok(()) => self.ok(name, ""),
            Err(why) => self.add(name, otherwise, why.to_string()),
        }
    }
}

pub(crate) fn doctor(args: &DoctorArgs, json: bool) -> Result<i32> {
    if let Some(what) = &args.probe {
        return probe::act(what).map(|()| 0);
    }
    let privileged = caller::privileged();
    let groups = [
        caller::check(),
        namespaces::check(privileged),
        cgroups::check(),
        calls::check(privileged),
        trial::check(privileged),
    ];
    let checks: Vec<Check> = groups.into_iter().flat_map(|group| group.checks).collect();
    let usable = checks.iter().any(|c| c.group == trial::GROUP && c.name == trial::OWN && c.mark == Mark::Ok);
    match json {
        true => output::json(&serde_json::json!({ "usable": usable, "checks": checks }))?,
        false => output::print(report(&checks, usable, columns()))?,
    }
    Ok(if usable { 0 } else { 1 })
}

/// The width of the terminal, if there is one.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

fn report(checks: &[Check], usable: bool, columns: Option<usize>) -> String {
    let longest = |of: fn(&Check) -> usize| checks.iter().map(of).max().unwrap_or(0);
    let before = longest(|c| c.group.len()) + longest(|c| c.name.len()) + "limited".len() + 6;
    let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(before).max(24));
    let mut rows = Vec::new();
    let mut group = "";
    for check in checks {
        let heading = if check.group == group { "" } else { check.group };
        group = check.group;
        let mark = match check.mark {
            Mark::Ok => paint("ok", "32"),
            Mark::Limited => paint("limited", "33"),
            Mark::Missing => paint("missing", "31"),
        };
        let mut lines = wrap(&check.finding, room).into_iter();
        rows.push(vec![heading.to_owned(), check.name.clone(), mark, lines.next().unwrap_or_default()]);
        rows.extend(lines.map(|line| vec![String::new(), String::new(), String::new(), line]));
    }
    let count = |mark| checks.iter().filter(|c| c.mark == mark).count();
    let verdict = if usable { "Containers can be started" } else { "Containers CANNOT be started" };
    format!(
        "{}\n{verdict} here by the caller; {} ok, {} limited, {} missing.\n",
        output::table(&["", "CHECK", "STATE", "FOUND"], &rows),
        count(Mark::Ok),
        count(Mark::Limited),
        count(Mark::Missing),
    )
}

/// Lines of at most so many characters, broken at spaces.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_broken_at_spaces_to_fit_beside_its_check() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("longer-than-that b", 7), ["longer-than-that", "b"]);
        assert_eq!(wrap("one two", usize::MAX), ["one two"]);
        let checks = [Check {
            group: "g",
            name: "n".into(),
            mark: Mark::Missing,
            finding: "because of that and this".into(),
        }];
        let text = report(&checks, false, Some(20));
        assert!(
            text.starts_with("   CHECK  STATE    FOUND\ng  n      missing  because of that and this\n"),
            "{text}"
        );
        assert!(
            text.ends_with("CANNOT be started here by the caller; 0 ok, 0 limited, 1 missing.\n"),
            "{text}"
        );
    }
}
