//! The checks of doctor and their table.

use serde::Serialize;

use crate::output::{self, paint};

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    /// The host supports the feature.
    Ok,
    /// Containers can be started, with restrictions.
    Limited,
    /// Containers cannot be started without the feature.
    Missing,
}

/// One check of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) group: &'static str,
    pub(super) name: String,
    pub(super) mark: Mark,
    /// Finding. If the mark is not ok: the reason and the fix.
    finding: String,
}

/// The checks of a group.
#[derive(Debug)]
pub(super) struct Group {
    name: &'static str,
    pub(super) checks: Vec<Check>,
}

impl Group {
    pub(super) fn new(name: &'static str) -> Group {
        Group { name, checks: Vec::new() }
    }

    pub(super) fn add(&mut self, name: impl Into<String>, mark: Mark, finding: impl Into<String>) {
        let finding = output::plain(finding.into().trim());
        self.checks.push(Check { group: self.name, name: name.into(), mark, finding });
    }

    pub(super) fn ok(&mut self, name: impl Into<String>, finding: impl Into<String>) {
        self.add(name, Mark::Ok, finding);
    }

    /// Adds the result of an attempt: ok, or the mark `otherwise` with the error.
    pub(super) fn tried<E: std::fmt::Display>(
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

/// Formats the checks as a table of at most `columns` columns, and says whether containers can be started.
pub(super) fn report(checks: &[Check], usable: bool, columns: Option<usize>) -> String {
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

/// Breaks a text at spaces into lines of at most `room` characters.
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
    fn a_finding_wraps_at_spaces_beside_its_check() {
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
