//! How the cost of a start grows with its surroundings, as curves.

use std::time::Duration;

use anyhow::Result;
use nspod_benches::available_mib;

use crate::inside::FIVE;
use crate::measure::{Samples, Side, alternate};
use crate::plot::{Curve, Plot};
use crate::report::{Line, Report, Target};
use crate::stage::{Stage, Station};
use crate::station::{net_namespaces, prepare};

/// Returns a side for each station, which measures this start there.
fn sides_of<'a>(stations: &'a mut [(&str, &mut Station, &'a str)]) -> Vec<Side<'a>> {
    stations
        .iter_mut()
        .map(|(name, station, what)| Side::of(*name, move || station.number(&format!("start {what}"))))
        .collect()
}

/// Measures several kinds of starts in one station, in turns.
fn starts(
    stage: &Stage,
    station: &mut Station,
    whats: &[(&str, String)],
    seconds: f64,
    rounds: usize,
) -> Result<Vec<Samples>> {
    let station = std::cell::RefCell::new(station);
    let sides = whats.iter().map(|(name, what)| {
        let station = &station;
        Side::of(*name, move || station.borrow_mut().number(&format!("start {what}")))
    });
    alternate(stage.budget(seconds, rounds), sides.collect())
}

/// Returns a curve for each side, and a markdown table of the medians.
fn curves(x_name: &str, points: &[(f64, Vec<Samples>)]) -> (Vec<Curve>, String) {
    let names: Vec<&str> =
        points.first().map_or(vec![], |(_, s)| s.iter().map(|s| s.name.as_str()).collect());
    let curves = names.iter().enumerate().map(|(at, name)| Curve {
        name: (*name).to_owned(),
        points: points.iter().filter_map(|(x, s)| Some((*x, s.get(at)?.median() / 1000.0))).collect(),
    });
    let mut table = format!("| {x_name} | {} |\n|---:|{}", names.join(" | "), "---:|".repeat(names.len()));
    for (x, samples) in points {
        let cells: Vec<String> = samples.iter().map(|s| format!("{:.3} ms", s.median() / 1000.0)).collect();
        table += &format!("\n| {x} | {} |", cells.join(" | "));
    }
    (curves.collect(), table)
}

fn rounds(points: &[(f64, Vec<Samples>)]) -> usize {
    points.iter().flat_map(|(_, s)| s).map(Samples::count).min().unwrap_or(0)
}

/// Starts for which other runtimes copy the memory of the parent: one waits for the parent's id maps, and one enters
/// the namespace that it has made.
const WITHOUT_COPY: [(&str, &str); 2] = [
    ("spawn with a range of ids", "range:pid,mnt,ipc,uts,net,user"),
    ("spawn in a new time namespace", "kinds:pid,mnt,ipc,uts,net,time"),
];

pub(crate) fn parent_size(stage: &Stage) -> Result<Report> {
    // Half of the available memory, because other programs need some.
    let most = available_mib() / 2;
    let wanted: &[u64] = if stage.quick { &[10, 256, 1024] } else { &[10, 64, 256, 1024, 2048, 4096, 8192] };
    let sizes: Vec<u64> = wanted.iter().copied().filter(|mib| *mib <= most.max(10)).collect();
    let mut small = stage.station()?;
    small.ask("ballast 10")?;
    let mut large = stage.station()?;
    let mut copied = stage.station()?;
    let mut points = Vec::new();
    let mut report = Report::default();
    let target = |mib| if mib == 8192 { Target::AtMost(1.20) } else { Target::None };
    for mib in sizes {
        large.ask(&format!("ballast {mib}"))?;
        let mut stations =
            [("a parent of 10 MiB", &mut small, "container"), ("library", &mut large, "container")];
        let pair = alternate(stage.budget(5.0, 400), sides_of(&mut stations))?;
        for (what, order) in WITHOUT_COPY.into_iter().filter(|_| mib == 1024 || mib == 8192) {
            let mut stations = [("a parent of 10 MiB", &mut small, order), ("library", &mut large, order)];
            let pair = alternate(stage.budget(3.0, 200), sides_of(&mut stations))?;
            let what = format!("{what} from a parent of {mib} MiB resident memory");
            report.lines.push(Line::compare(&what, &pair[1], &pair[0], target(mib)));
        }
        // One size after the other, so that only one large parent exists at a time.
        large.ask("ballast 1")?;
        copied.ask(&format!("ballast {mib}"))?;
        let mut forks = [("floor in C (fork)", &mut copied, "floor")];
        let fork = alternate(stage.budget(3.0, 60), sides_of(&mut forks))?;
        copied.ask("ballast 1")?;
        if mib >= 1024 {
            let what = format!("spawn from a parent of {mib} MiB resident memory");
            report.lines.push(Line::compare(&what, &pair[1], &pair[0], target(mib)));
        }
        points.push((mib as f64, vec![pair[1].clone()].into_iter().chain(fork).collect()));
    }
    if report.lines.iter().all(|line| line.target == Target::None) {
        let why = if stage.quick { "not with --quick" } else { "this machine has too little free memory" };
        let what = "spawn from a parent of 8192 MiB resident memory";
        report.lines.push(Line::absent(what, "a parent of 10 MiB", Target::AtMost(1.20), why));
    }
    let (curves, table) = curves("MiB resident", &points);
    report.plots.push(
        Plot::curves(
            "parent-size",
            "A start from a growing parent",
            "resident memory of the parent, MiB",
            curves,
        )
        .log(),
    );
    report.text.push(table);
    report.rounds = rounds(&points);
    Ok(report)
}

pub(crate) fn alive(stage: &Stage) -> Result<Report> {
    let counts: &[u64] = if stage.quick { &[10, 100, 300] } else { &[10, 100, 300, 1000, 2000, 5000] };
    let whats = [("library", "container".to_owned()), ("floor in C", "floor".to_owned())];
    let mut keeper = stage.station()?;
    let mut starter = stage.station()?;
    let mut points = Vec::new();
    for count in counts {
        keeper.ask(&format!("alive {count}"))?;
        points.push((*count as f64, starts(stage, &mut starter, &whats, 6.0, 400)?));
    }
    // Back to the first number, because the sides cannot alternate.
    keeper.ask("alive 10")?;
    settle();
    let again = starts(stage, &mut starter, &whats, 6.0, 400)?;
    let (first, last) = (&points[0].1, &points[points.len() - 1].1);
    let target = if stage.quick { Target::None } else { Target::AtMost(1.25) };
    let most = counts[counts.len() - 1];
    let name = "with 10 alive, before and after";
    let (few, few_floors) = (first[0].and(name, &again[0]), first[1].and(name, &again[1]));
    let mut report = Report::default()
        .line(Line::compare(&format!("spawn with {most} containers alive"), &last[0], &few, target))
        .line(Line::compare(
            &format!("floor in C with {most} containers alive"),
            &last[1],
            &few_floors,
            Target::None,
        ));
    let (curves, table) = curves("containers alive", &points);
    report.text.push(table);
    report.text.push(format!(
        "The numbers of living containers cannot alternate, so 10 are measured again at the end: library {:.3} ms, floor {:.3} ms.",
        again[0].median() / 1000.0,
        again[1].median() / 1000.0
    ));
    report
        .plots
        .push(Plot::curves("alive", "A start beside living containers", "containers alive", curves).log());
    report.rounds = rounds(&points);
    Ok(report)
}

/// Waits until the kernel has finished the deferred part of deletions: until the number of net namespaces no longer
/// falls.
pub(crate) fn settle() {
    let mut last = net_namespaces();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_secs(3));
        let now = net_namespaces();
        if now >= last {
            break;
        }
        last = now;
    }
}

pub(crate) fn threads(stage: &Stage) -> Result<Report> {
    let counts: &[u64] = if stage.quick { &[1, 32] } else { &[1, 4, 16, 64, 256, 1024] };
    let whats = [("library", "container".to_owned()), ("floor in C", "floor".to_owned())];
    let mut points = Vec::new();
    for count in counts {
        let mut station = stage.station()?;
        station.ask(&format!("threads {}", count - 1))?;
        points.push((*count as f64, starts(stage, &mut station, &whats, 3.0, 300)?));
    }
    let (curves, table) = curves("threads of the parent", &points);
    let mut report = Report { rounds: rounds(&points), ..Report::default() };
    report.plots.push(
        Plot::curves("threads", "A start from a threaded parent", "threads of the parent", curves).log(),
    );
    report.text.push(table);
    Ok(report)
}

pub(crate) fn kinds(stage: &Stage) -> Result<Report> {
    let all: Vec<&str> = FIVE.split(',').chain(["cgroup", "user"]).collect();
    let mut points = Vec::new();
    let mut table =
        "| new kinds | library | raw clone3 in C | memory shared, in C |\n|---|---:|---:|---:|".to_owned();
    let mut last = 0;
    for count in 0..=all.len() {
        let kinds = all[..count].join(",");
        let mut sides = Vec::new();
        for (name, what) in
            [("library", "kinds"), ("raw clone3 in C", "raw"), ("memory shared, in C", "raw-shared")]
        {
            let once = prepare(&stage.ground, &format!("{what}:{kinds}"), 0)?;
            sides.push(Side::timed(name, once));
        }
        let samples = alternate(stage.budget(3.0, 300), sides)?;
        let name = if count == 0 { "none" } else { all[count - 1] };
        let plus = if count == 0 { "" } else { "+ " };
        table += &format!("\n| {plus}{name} |");
        for side in &samples {
            table += &format!(" {:.3} ms |", side.median() / 1000.0);
        }
        last = samples[0].count();
        points.push((count as f64, samples));
    }
    let (curves, _) = curves("kinds", &points);
    let labels = std::iter::once("none".to_owned()).chain(all.iter().map(|kind| format!("+{kind}")));
    let mut report = Report { rounds: last, ..Report::default() };
    report.plots.push(
        Plot::curves(
            "kinds",
            "A start with more and more kinds of namespaces",
            "last kind added, each with all kinds to its left",
            curves,
        )
        .labels(labels.collect()),
    );
    report.text.push(table);
    Ok(report)
}

pub(crate) fn mounts(stage: &Stage) -> Result<Report> {
    let counts: &[u64] = if stage.quick { &[0, 16] } else { &[0, 4, 8, 16, 32, 64] };
    let mut points = Vec::new();
    for count in counts {
        let mut sides = Vec::new();
        for (name, what) in [("library", "container-mounts"), ("floor in C", "floor-mounts")] {
            let once = prepare(&stage.ground, &format!("{what}:{count}"), 0)?;
            sides.push(Side::timed(name, once));
        }
        points.push((*count as f64, alternate(stage.budget(3.0, 300), sides)?));
    }
    let (curves, table) = curves("further mounts", &points);
    let mut report = Report { rounds: rounds(&points), ..Report::default() };
    report.plots.push(Plot::curves(
        "mounts",
        "A start with additional mounts of tmpfs",
        "mounts in addition to the nine",
        curves,
    ));
    report.text.push(table);
    Ok(report)
}
