//! The list of namespaces, like that of lsns(8), with the objects that keep each alive.

use std::collections::{HashMap, HashSet};

use ns_core::Kind;
use nspod_census::{Census, Holder, NamespaceInfo};

use super::who::{self, Users};
use crate::error::Result;
use crate::output;

pub(super) fn show(census: &Census, kinds: &[Kind], json: bool) -> Result<()> {
    let wanted: Vec<&NamespaceInfo> =
        census.namespaces().iter().filter(|n| kinds.is_empty() || kinds.contains(&n.kind)).collect();
    if json {
        return output::json(&wanted);
    }
    let users = Users::read();
    // Most processes are the first of several namespaces.
    let mut commands = HashMap::new();
    let mut command = |pid| commands.entry(pid).or_insert_with(|| who::command(pid)).clone();
    let rows: Vec<Vec<String>> =
        wanted.iter().map(|namespace| row(census, &users, &mut command, namespace)).collect();
    output::print(output::table(&["NS", "TYPE", "NPROCS", "PID", "USER", "COMMAND", "HELD BY"], &rows))
}

fn row(
    census: &Census,
    users: &Users,
    command: &mut impl FnMut(i32) -> String,
    namespace: &NamespaceInfo,
) -> Vec<String> {
    let first = namespace.processes.first().and_then(|pid| census.process(*pid));
    let text = |of: &dyn Fn(&nspod_census::ProcessInfo) -> String| first.map_or("-".into(), of);
    vec![
        namespace.id.ino.to_string(),
        namespace.kind.to_string(),
        namespace.processes.len().to_string(),
        text(&|p| p.pid.to_string()),
        text(&|p| users.name(p.uid)),
        first.map_or("-".into(), |p| command(p.pid)),
        held_by(&namespace.holders),
    ]
}

/// Lists the first holders. A mount that several mount namespaces contain is listed once.
fn held_by(holders: &[Holder]) -> String {
    const MOST: usize = 2;
    let mut seen = HashSet::new();
    let mut all: Vec<String> = holders.iter().map(holder).filter(|text| seen.insert(text.clone())).collect();
    if all.len() > MOST {
        let more = format!("{} more", all.len() - MOST);
        all.truncate(MOST);
        all.push(more);
    }
    all.join(", ")
}

fn holder(holder: &Holder) -> String {
    match holder {
        Holder::Thread { pid, tid } => format!("thread {tid} of {pid}"),
        Holder::Zombie { pid } => format!("zombie {pid}"),
        Holder::Fd { pid, fd } => format!("fd {fd} of {pid}"),
        Holder::Mount { path, .. } => format!("mount {}", output::plain(&path.to_string_lossy())),
        Holder::Namespace { kind, id } => id.display(*kind).to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_holder_are_escaped_and_many_holders_are_counted() {
        let mount = Holder::Mount { path: "/a\x1bb".into(), mnt_ns: ns_core::NamespaceId { dev: 4, ino: 1 } };
        let fd = |fd| Holder::Fd { pid: 7, fd };
        let all = [mount.clone(), mount, fd(3), fd(4), fd(5)];
        assert_eq!(held_by(&all), "mount /a�b, fd 3 of 7, 2 more");
        assert_eq!(held_by(&all[..3]), "mount /a�b, fd 3 of 7");
    }
}
