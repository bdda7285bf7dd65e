//! Many containers at a time: throughput, deletion, the census.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::growth::settle;
use crate::measure::{Samples, Side, alternate};
use crate::report::{Line, Report, Target, Unit};
use crate::stage::{Stage, Station};
use crate::station::{dying, net_namespaces};
use crate::whole::once;

pub(crate) fn throughput(stage: &Stage) -> Result<Report> {
    let processors = std::thread::available_parallelism()?.get();
    let milliseconds = if stage.quick { 300 } else { 1500 };
    let mut ours = stage.station()?;
    let mut floors = (0..processors).map(|_| stage.station()).collect::<Result<Vec<Station>>>()?;
    let sides = vec![
        Side::of(format!("library, {processors} threads"), || {
            ours.number(&format!("loop container {processors} {milliseconds}"))
        }),
        Side::of(format!("{processors} floors in C, each a process"), || {
            floors.iter_mut().try_for_each(|floor| floor.tell(&format!("loop floor 1 {milliseconds}")))?;
            let mut sum = 0.0;
            for floor in &mut floors {
                sum += floor.answer()?.first().context("a number")?.parse::<f64>()?;
            }
            Ok(sum)
        }),
    ];
    let samples = alternate(stage.budget(30.0, 8), sides)?;
    let what = "throughput: containers a second, all processors busy";
    let line = Line::compare(what, &samples[0], &samples[1], Target::AtLeast(0.90)).unit(Unit::PerSecond);
    Ok(Report::of(&samples).line(line))
}

pub(crate) fn delete(stage: &Stage) -> Result<Report> {
    let count = if stage.quick { 100 } else { 1000 };
    let rounds = if stage.quick { 1 } else { 7 };
    let patience = Duration::from_secs(if stage.quick { 1 } else { 10 });
    let mut station = stage.station()?;
    let mut times = [Vec::new(), Vec::new()];
    let mut left = 0.0;
    let mut table = "| side | when | cgroups | cgroups dying | net namespaces in the kernel |\n\
                     |---|---|---:|---:|---:|"
        .to_owned();
    let unknown = |number: Option<u64>| number.map_or("?".to_owned(), |n| n.to_string());
    for round in 0..rounds {
        for (side, order) in ["delete", "delete-floor"].into_iter().enumerate() {
            let name = ["library", "floor in C"][side];
            settle();
            let mut row = |when: &str, left: &str| {
                let (dying, nets) = (unknown(dying(&stage.ground.cgroup)), unknown(net_namespaces()));
                if round == 0 {
                    table += &format!("\n| {name} | {when} | {left} | {dying} | {nets} |");
                }
            };
            row("before", "0");
            let words = station.ask(&format!("{order} {count}"))?;
            let [time, remain] = words.as_slice() else { anyhow::bail!("{words:?}") };
            row("after the call", remain);
            times[side].push(time.parse()?);
            if side == 0 {
                left += remain.parse::<f64>()?;
            }
            if round == 0 {
                std::thread::sleep(patience);
                row(&format!("{} s later", patience.as_secs()), remain);
            }
        }
    }
    let [ours, floor] = times;
    let samples = [Samples::new("library", ours), Samples::new("floor in C", floor)];
    let what = format!("delete {count} containers concurrently");
    let target = if stage.quick { Target::None } else { Target::AtMost(1.0) };
    let mut report = Report::of(&samples)
        .line(Line::compare(&what, &samples[0], &samples[1], target))
        .line(Line::value(&format!("containers left of {count}"), left, Target::Exactly(0.0)));
    report.text.push(
        "The slab allocator counts the net namespaces, with a small delay. Kernel threads free cgroups and net \
         namespaces for both sides."
            .to_owned(),
    );
    report.text.push(table);
    Ok(report)
}

pub(crate) fn census(stage: &Stage) -> Result<Report> {
    let (sets, each) = if stage.quick { (50, 10) } else { (1000, 10) };
    let mut station = stage.station()?;
    station.ask(&format!("crowd {sets} {each}"))?;
    let what = format!("census of {} processes in {sets} sets of namespaces", sets * each);
    let target = if stage.quick { Target::None } else { Target::AtMost(0.20) };
    let mut nspod = Command::new(stage.our("nspod")?);
    nspod.arg("census");
    let mut sides = vec![
        Side::of("nspod census", move || once(&mut nspod)),
        Side::timed("library", || nspod_census::Census::take().map(drop)),
    ];
    if let Some(lsns) = stage.peer("lsns") {
        let mut lsns = Command::new(lsns);
        sides.push(Side::of("lsns", move || once(&mut lsns)));
    }
    let samples = alternate(stage.budget(40.0, 7), sides)?;
    let mut report = Report::of(&samples);
    match samples.get(2) {
        Some(lsns) => {
            report.lines.push(Line::compare(&what, &samples[0], lsns, target));
            report.lines.push(Line::compare(&format!("library: {what}"), &samples[1], lsns, Target::None));
        }
        None => report.lines.push(Line::absent(&what, "lsns", target, "lsns is not present")),
    }
    Ok(report)
}
