//! Table of containers and kinds of namespaces.

use std::collections::HashMap;
use std::fmt;

use ns_core::{Kind, NamespaceId};
use serde::Serialize;

use crate::model::Model;

/// Table with one row for each container and one column for each kind.
///
/// In a column, equal letters stand for the same namespace, and a dot stands for the host's. Letters of
/// different columns are unrelated.
///
/// ```
/// use nspod_census::Census;
/// println!("{}", Census::take()?.matrix());
/// // pod containers   mnt net pid user uts ipc cgroup time
/// //   0 4711         a   a   a   .    a   a   a      .
/// //   0 4780 (+2)    b   a   b   .    a   a   b      .
/// //   - 5012         c   .   .   .    .   .   .      .
/// # Ok::<(), nspod_census::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// Containers. Those of one pod follow each other.
    pub rows: Vec<Row>,
}

/// Container in a [`Matrix`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Index of the pod in [`Model::pods`], if the container is in one.
    pub pod: Option<usize>,
    /// Index of the container in [`Model::containers`].
    pub container: usize,
    /// Lowest pid of the container.
    pub pid: i32,
    /// Number of processes in the container.
    pub processes: usize,
    /// For each of [`Kind::ALL`]: `.` for the host's namespace, or the letters of the namespace.
    pub cells: [String; 8],
}

impl Matrix {
    /// Returns the table of a model.
    pub fn of(model: &Model) -> Matrix {
        let mut names: HashMap<(Kind, NamespaceId), String> = HashMap::new();
        let mut counts = [0; 8];
        let mut order: Vec<usize> = (0..model.containers.len()).collect();
        // The place of a pod is that of its first container.
        let first = |pod: usize| model.pods[pod].containers[0];
        order.sort_by_key(|index| model.containers[*index].pod.map_or(*index, first));
        let rows = order.into_iter().map(|index| {
            let container = &model.containers[index];
            let cells = Kind::ALL.map(|kind| {
                if !container.isolated.contains_kind(kind) {
                    return ".".to_owned();
                }
                let name = names.entry((kind, container.namespaces[kind])).or_insert_with(|| {
                    counts[kind as usize] += 1;
                    letters(counts[kind as usize])
                });
                name.clone()
            });
            let (pid, processes) = (container.pids[0], container.pids.len());
            Row { pod: container.pod, container: index, pid, processes, cells }
        });
        Matrix { rows: rows.collect() }
    }
}

/// Returns the letters of a number: 1 is a, 26 is z, 27 is aa.
fn letters(mut n: usize) -> String {
    let mut text = Vec::new();
    while n > 0 {
        text.push(b"abcdefghijklmnopqrstuvwxyz"[(n - 1) % 26] as char);
        n = (n - 1) / 26;
    }
    text.iter().rev().collect()
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |pod: &str, container: &str, cells: [&str; 8]| {
            let mut line = format!("{pod:>3} {container:<12}");
            for (kind, cell) in Kind::ALL.into_iter().zip(cells) {
                line += &format!(" {cell:<width$}", width = kind.name().len().max(3));
            }
            line.truncate(line.trim_end().len());
            line
        };
        f.write_str(&line("pod", "containers", Kind::ALL.map(Kind::name)))?;
        for row in &self.rows {
            let container = match row.processes - 1 {
                0 => row.pid.to_string(),
                more => format!("{} (+{more})", row.pid),
            };
            let cells = row.cells.each_ref().map(String::as_str);
            let pod = row.pod.map_or("-".to_owned(), |pod| pod.to_string());
            write!(f, "\n{}", line(&pod, &container, cells))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn letters_continue_after_z() {
        assert_eq!([1, 26, 27, 702, 703].map(super::letters), ["a", "z", "aa", "zz", "aaa"]);
    }
}
