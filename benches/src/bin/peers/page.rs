//! Prints the results to a terminal and writes `RESULTS.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::options::Options;
use crate::report::{Heading, Line, Report, Target, Unit};
use crate::stage::Stage;

/// Hand-written notes. Each heading is the name of an experiment.
const NOTES: &str = include_str!("../../../notes.md");
/// The output of `cargo bench -p nspod-benches --bench net`, with a heading.
const NET: &str = include_str!("../../../net.md");

/// Returns a row for a terminal.
pub(crate) fn plain(line: &Line) -> String {
    let against = if line.against.is_empty() { String::new() } else { format!(" / {}", line.against) };
    if let Some(why) = &line.absent {
        return format!("{:7} {}{against}: {why}", "-", line.what);
    }
    let ratio = line.ratio().map_or(String::new(), |ratio| format!("  ratio {ratio:.3}"));
    let theirs = line.theirs.map_or(String::new(), |pair| format!(" beside {}", figures(pair, line.unit)));
    let ours = line.ours.map_or(String::new(), |pair| figures(pair, line.unit));
    format!(
        "{:7} {}{against}: {ours}{theirs}{ratio}{}",
        verdict(line),
        line.what,
        target(line, " (target ", ")")
    )
}

/// Indents each line by two spaces.
pub(crate) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn verdict(line: &Line) -> &'static str {
    match line.met() {
        Some(true) => "PASS",
        Some(false) => "MISS",
        None => "",
    }
}

fn target(line: &Line, before: &str, after: &str) -> String {
    match line.target {
        Target::AtMost(most) => format!("{before}≤ {most:.2}{after}"),
        Target::AtLeast(least) => format!("{before}≥ {least:.2}{after}"),
        Target::Exactly(value) => format!("{before}{value:.0}{after}"),
        Target::None => String::new(),
    }
}

/// Formats minimum and median.
fn figures([min, median]: [f64; 2], unit: Unit) -> String {
    match unit {
        Unit::Micros => format!("{:.3} / {:.3} ms", min / 1000.0, median / 1000.0),
        Unit::Kib => format!("{min:.0} / {median:.0} KiB"),
        Unit::PerSecond => format!("{min:.0} / {median:.0} a second"),
        Unit::Count => format!("{median:.0}"),
    }
}

/// Writes RESULTS.md and the plots.
pub(crate) fn write(stage: &Stage, options: &Options, found: &[(Heading, Report)]) -> Result<()> {
    let plots = options.output.join("plots");
    fs::create_dir_all(&plots)?;
    for plot in found.iter().flat_map(|(_, report)| &report.plots) {
        plot.draw(&plots).with_context(|| format!("draw {}", plot.name()))?;
    }
    let path = options.output.join("RESULTS.md");
    fs::write(&path, page(stage, options, found)?).with_context(|| format!("write {}", path.display()))?;
    println!("written: {} and {}", path.display(), plots.display());
    Ok(())
}

fn page(stage: &Stage, options: &Options, found: &[(Heading, Report)]) -> Result<String> {
    let mut page = String::new();
    let quick = if options.quick { " --quick" } else { "" };
    writeln!(
        page,
        "# Results\n\n\
         Written by `cargo xtask bench-peers{quick}`. The texts about single rows come from [notes.md](notes.md).\n\
         Absolute times depend on the machine and drift. Compare the ratios: medians of two sides that took turns in \
         one run.\n"
    )?;
    if options.quick {
        writeln!(
            page,
            "**This was a quick run with few rounds and small numbers. Its figures are not results.**\n"
        )?;
    }
    machine(&mut page, stage)?;
    writeln!(
        page,
        "\n## Targets\n\nTimes are minimum / median. The ratio is the median of nspod divided by the median of the other side.\n\n\
         | measurement | against | nspod | the other | ratio | target | |\n|---|---|---:|---:|---:|---:|---|"
    )?;
    let lines = || found.iter().flat_map(|(_, report)| &report.lines);
    lines().filter(|line| line.target != Target::None).for_each(|line| row(&mut page, line));
    writeln!(
        page,
        "\nMeasurements without a target:\n\n| measurement | against | nspod | the other | ratio |\n|---|---|---:|---:|---:|"
    )?;
    for line in lines().filter(|line| line.target == Target::None) {
        match &line.absent {
            Some(why) => writeln!(page, "| {} | {} | {why} | | |", line.what, line.against)?,
            None => {
                let pair =
                    |pair: Option<[f64; 2]>| pair.map_or(String::new(), |pair| figures(pair, line.unit));
                let ratio = line.ratio().map_or(String::new(), |ratio| format!("{ratio:.3}"));
                let (ours, theirs) = (pair(line.ours), pair(line.theirs));
                writeln!(page, "| {} | {} | {ours} | {theirs} | {ratio} |", line.what, line.against)?;
            }
        }
    }
    misses(&mut page, found)?;
    writeln!(page, "\n## Row by row")?;
    for (heading, report) in found {
        let note = note(heading.name);
        if report.text.is_empty() && report.plots.is_empty() && note.is_none() {
            continue;
        }
        writeln!(page, "\n### {}\n", heading.title)?;
        let mut parts = report.text.clone();
        parts.extend(note.filter(|_| !missed(report)).map(str::to_owned));
        let plots = report.plots.iter().map(|plot| format!("![{}](plots/{}.svg)", plot.title(), plot.name()));
        parts.extend(plots);
        writeln!(page, "{}", parts.join("\n\n"))?;
    }
    write!(page, "\n{NET}")?;
    Ok(page)
}

fn row(page: &mut String, line: &Line) {
    let target = target(line, "", "");
    let text = match &line.absent {
        Some(why) => format!("| {} | {} | – | – | – | {target} | {why} |", line.what, line.against),
        None => {
            let pair =
                |pair: Option<[f64; 2]>| pair.map_or("–".to_owned(), |pair| figures(pair, line.unit));
            let ratio = line.ratio().map_or("–".to_owned(), |ratio| format!("{ratio:.3}"));
            let (ours, theirs) = (pair(line.ours), pair(line.theirs));
            let verdict = verdict(line);
            let verdict =
                if verdict == "MISS" { format!("[**MISS**](#{MISSES})") } else { verdict.to_owned() };
            format!(
                "| {} | {} | {ours} | {theirs} | {ratio} | {target} | {verdict} |",
                line.what, line.against
            )
        }
    };
    page.push_str(&text);
    page.push('\n');
}

/// The anchor of the heading of [`misses`].
const MISSES: &str = "targets-missed-and-why";

fn missed(report: &Report) -> bool {
    report.lines.iter().any(|line| line.met() == Some(false))
}

fn misses(page: &mut String, found: &[(Heading, Report)]) -> Result<()> {
    writeln!(page, "\n## Targets missed, and why\n")?;
    let mut none = true;
    for (heading, report) in found.iter().filter(|(_, report)| missed(report)) {
        none = false;
        for line in report.lines.iter().filter(|line| line.met() == Some(false)) {
            let ratio = line.ratio().map_or(String::new(), |ratio| format!(" {ratio:.3}"));
            let against =
                if line.against.is_empty() { String::new() } else { format!(" against {}", line.against) };
            writeln!(page, "- **{}{against}**:{ratio}, target {}", line.what, target(line, "", ""))?;
        }
        let note = note(heading.name).unwrap_or("Not explained yet in notes.md.");
        writeln!(page, "\n{}\n", indent_list(note))?;
    }
    if none {
        writeln!(page, "None.")?;
    }
    Ok(())
}

fn indent_list(text: &str) -> String {
    text.lines().map(|line| format!("  {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Returns the note under the heading of an experiment.
fn note(name: &str) -> Option<&'static str> {
    let (_, rest) = NOTES.split_once(&format!("\n## {name}\n"))?;
    let text = rest.split_once("\n## ").map_or(rest, |(text, _)| text).trim();
    Some(text).filter(|text| !text.is_empty())
}

fn machine(page: &mut String, stage: &Stage) -> Result<()> {
    let first = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let value =
            text.lines().find_map(|line| Some(line.strip_prefix(key)?.split_once(':')?.1.trim().to_owned()));
        value.unwrap_or_else(|| "unknown".to_owned())
    };
    let memory = first("/proc/meminfo", "MemTotal");
    let gib = memory.split(' ').next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_048_576.0;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism()?;
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let date = output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default();
    writeln!(page, "| | |\n|---|---|")?;
    writeln!(page, "| date | {date} |")?;
    writeln!(page, "| processors | {processors} × {} |", first("/proc/cpuinfo", "model name"))?;
    writeln!(page, "| memory | {gib:.0} GiB |")?;
    writeln!(page, "| kernel | Linux {} |", release.trim())?;
    let controllers = if controllers.trim().is_empty() { "none" } else { controllers.trim() };
    writeln!(page, "| cgroup v2 controllers | {controllers} |")?;
    for (name, flag) in [
        ("bwrap", "--version"),
        ("unshare", "--version"),
        ("lsns", "--version"),
        ("crun", "--version"),
        ("runc", "--version"),
        ("youki", "--version"),
        ("strace", "--version"),
    ] {
        let version = match stage.peer(name) {
            None => "not present".to_owned(),
            Some(path) => output(&path, &[flag]).unwrap_or_else(|| "unknown version".to_owned()),
        };
        writeln!(page, "| {name} | {version} |")?;
    }
    writeln!(
        page,
        "\nEverything runs in one pid, mnt and cgroup namespace, with a pure cgroup2 on /sys/fs/cgroup and an empty \
         /run. So nothing is left behind, and crun also runs on hosts with hybrid hierarchies, which it rejects. \
         Every side starts the same static program, which does nothing. The measuring process starts whole programs \
         by posix_spawn. The library's container and the floor do the same work: a cgroup, one clone3 into it with \
         five new namespaces, nine mounts, six nodes, five links, pivot_root, a host name, exec, wait, rmdir. The \
         floors ([floor.c](src/floor.c), [floor.rs](src/floor.rs)) are called within the measuring process."
    )?;
    Ok(())
}

/// Returns the first line that a program prints.
fn output(program: impl AsRef<Path>, args: &[&str]) -> Option<String> {
    let output = Command::new(program.as_ref()).args(args).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::ALL;

    #[test]
    fn every_heading_of_the_notes_is_the_name_of_a_row() {
        for heading in NOTES.lines().filter_map(|line| line.strip_prefix("## ")) {
            assert!(ALL.iter().any(|e| e.heading.name == heading), "{heading:?} is not a row");
            assert!(note(heading).is_some(), "{heading:?} has no text");
        }
    }

    #[test]
    fn a_missed_target_is_explained_by_its_note_or_marked_as_unexplained() {
        let mut line = Line::value("left", 1.0, Target::Exactly(0.0));
        line.row = "alive";
        let found = |name| vec![(Heading { name, title: name }, Report::default().line(line.clone()))];
        let text = |name| {
            let mut page = String::new();
            misses(&mut page, &found(name)).unwrap();
            page
        };
        assert!(text("alive").contains(note("alive").unwrap().lines().next().unwrap()));
        assert!(text("of no note").contains("Not explained yet"));
    }
}
