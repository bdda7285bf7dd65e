//! TROUBLES.md and its chart.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::chart::{self, Bars};
use crate::measure::{HURT, KEPT, Outcome};
use crate::rows::{ROWS, Relation, Row};

/// The files of the report.
const PAGE: &str = "TROUBLES.md";
const CHART: &str = "TROUBLES.svg";

/// Writes the page and the chart to this directory. If that fails, the files of an earlier report remain.
///
/// # Errors
/// If there is no result, or a file cannot be written.
pub fn write(directory: &Path, outcomes: &[Outcome]) -> Result<()> {
    ensure!(!outcomes.is_empty(), "there is no result to report");
    let measured: Vec<(&Row, Vec<&Outcome>)> = ROWS
        .iter()
        .map(|row| (row, outcomes.iter().filter(|outcome| outcome.row == row.name).collect::<Vec<_>>()))
        .collect();
    let bars = measured.iter().filter(|(_, outcomes)| !outcomes.is_empty());
    let bars: Vec<Bars> = bars.map(|(row, outcomes)| self::bars(row, outcomes)).collect();
    let files = [(PAGE, text(&measured)), (CHART, chart::draw(&bars)?)];
    let written = files.map(|(name, text)| {
        let path = directory.join(name);
        let file = new_file(directory, &text).with_context(|| format!("writing {}", path.display()))?;
        Ok((file, path))
    });
    for (file, path) in written.into_iter().collect::<Result<Vec<_>>>()? {
        file.persist(&path)?;
    }
    Ok(())
}

/// Writes a file without its final name. Dropping it removes it.
fn new_file(directory: &Path, text: &str) -> std::io::Result<NamedTempFile> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file =
        tempfile::Builder::new().prefix(".troubles-").permissions(permissions).tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Returns the worst ratios of the relations: the chart shows the greatest harm that remains with the limit.
fn bars(row: &Row, outcomes: &[&Outcome]) -> Bars {
    let ratios: Vec<(f64, f64)> = outcomes.iter().map(|outcome| outcome.ratios()).collect();
    Bars {
        name: row.name.to_owned(),
        flag: row.missing.map_or(row.flag, |_| "nothing bounds it").to_owned(),
        free: ratios.iter().map(|ratios| ratios.0).fold(f64::INFINITY, f64::min),
        bound: ratios.iter().map(|ratios| ratios.1).fold(f64::INFINITY, f64::min),
    }
}

fn text(measured: &[(&Row, Vec<&Outcome>)]) -> String {
    let runs =
        measured.iter().find_map(|(_, outcomes)| Some(outcomes.first()?.alone.progress.len())).unwrap_or(0);
    let figures = if runs == 1 {
        "Each figure is that of one run.".to_owned()
    } else {
        format!("Each figure is the median of {runs} runs.")
    };
    let one_relation =
        if measured.iter().all(|(_, outcomes)| outcomes.len() <= 1) { " --one-relation" } else { "" };
    let mut page = format!(
        "# What one container can do to another

`cargo xtask troubles --runs {runs}{one_relation}` measures this table: a victim alone, beside a hog without a limit,
and beside the same hog with its limit, in the guest with every cgroup controller. {figures}

![The victim's progress in each row](TROUBLES.svg)

A cell is the victim's progress beside the hog without its limit → with its limit, as part of its progress alone. A victim
has a fixed amount of work per second, tries a step ten times, or measures its share of a processor, so that the speed
of the machine does not matter. In a row about a wall, such as a namespace, the progress is 1 if the victim's possession is as it was, and 0 if
not; without the wall, the hog is in the victim's namespace or has an additional right. The chart shows the smallest
ratios of each row. `troubles/tests/table.rs` fails if a hog without its limit leaves the victim more than {HURT}, or with
it less than {KEPT}. The limits of `two pods` are those of the hog's pod, if pods have them. A `-` means that the row was
not measured for this relation: a limit of a directory belongs to a container and not to its pod, and the range of ports
in `sockets` is that of the host's net namespace.

| trouble | the hog … | bound by | {} |
|---|---|---|---|---|---|
",
        Relation::ALL.map(Relation::name).join(" | ")
    );
    for (row, outcomes) in measured {
        let cell = |relation: Relation| {
            let outcome = outcomes.iter().find(|outcome| outcome.relation == relation.name());
            outcome.map_or("-".to_owned(), |outcome| {
                let (free, bound) = outcome.ratios();
                format!("{free:.2} → {bound:.2}")
            })
        };
        let flag = row
            .missing
            .map_or_else(|| code(row.flag), |missing| format!("nothing; the kernel lacks {missing}"));
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "| {} | {} | {flag} | {} |",
            row.name,
            row.about,
            Relation::ALL.map(cell).join(" | ")
        );
    }
    page
}

/// Returns flags as code, and other words as they are.
fn code(flag: &str) -> String {
    if flag.starts_with('-') { format!("`{flag}`") } else { flag.to_owned() }
}
