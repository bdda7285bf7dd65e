//! Starts from a measuring process: the library beside the baselines.

use std::time::Instant;

use anyhow::{Result, ensure};
use nspod_benches::work;

use crate::measure::{Side, alternate, micros};
use crate::report::{Line, Report, Target};
use crate::stage::Stage;
use crate::station::prepare;

pub(crate) const FIVE: &str = "pid,mnt,ipc,uts,net";

fn side<'a>(stage: &Stage, name: &str, what: &str) -> Result<Side<'a>> {
    let once = prepare(&stage.ground, what, 0)?;
    Ok(Side::timed(name, once))
}

pub(crate) fn container(stage: &Stage) -> Result<Report> {
    let sides = vec![
        side(stage, "the library", "container")?,
        side(stage, "floor in C", "floor")?,
        side(stage, "floor in Rust", "floor-rust")?,
        side(stage, "planned anew", "container-anew")?,
        side(stage, "Launcher::spawn", "container-plan")?,
    ];
    let samples = alternate(stage.budget(12.0, 1000), sides)?;
    let [ours, c, rust, anew, plan] = samples.as_slice() else { unreachable!("five sides") };
    Ok(Report::of(&samples)
        .line(Line::compare("library: full container", ours, c, Target::AtMost(1.10)))
        .line(Line::compare("library: full container", ours, rust, Target::None))
        .line(Line::compare(
            "library: full container by `Launcher::spawn`, in a cgroup that it chooses",
            plan,
            c,
            Target::None,
        ))
        .line(Line::compare("library: full container, planned anew each time", anew, c, Target::None)))
}

pub(crate) fn five(stage: &Stage) -> Result<Report> {
    let sides = vec![
        side(stage, "the library", &format!("kinds:{FIVE}"))?,
        side(stage, "raw clone3 in C", &format!("raw:{FIVE}"))?,
        side(stage, "raw clone in C, memory shared", &format!("raw-shared:{FIVE}"))?,
    ];
    let samples = alternate(stage.budget(8.0, 1000), sides)?;
    let [ours, raw, shared] = samples.as_slice() else { unreachable!("three sides") };
    let what = "library: one process in five namespaces, no mounts";
    Ok(Report::of(&samples).line(Line::compare(what, ours, raw, Target::AtMost(1.05))).line(Line::compare(
        what,
        ours,
        shared,
        Target::None,
    )))
}

pub(crate) fn pool(stage: &Stage) -> Result<Report> {
    let (pool, drained) = (stage.ground.pool()?, stage.ground.pool()?);
    let mut of_pool = stage.ground.container_of(&pool);
    let mut of_drained = stage.ground.container_of(&drained);
    let sides = vec![
        Side::of("warm pool", || {
            // Filling the pool is not measured.
            pool.fill()?;
            let start = Instant::now();
            work::run(&mut of_pool)?;
            Ok(micros(start.elapsed()))
        }),
        side(stage, "floor in C", "floor")?,
        side(stage, "the library without a pool", "container")?,
        Side::timed("a pool that refills during the starts", || work::run(&mut of_drained)),
    ];
    let samples = alternate(stage.budget(10.0, 1000), sides)?;
    for counts in [pool.namespaces(), pool.cgroups()] {
        ensure!(counts.missed == 0, "the pool was not warm: {counts:?}");
    }
    let [warm, floor, without, unfilled] = samples.as_slice() else { unreachable!("four sides") };
    let what = "library: full container with a warm pool";
    let mut report = Report::of(&samples)
        .line(Line::compare(what, warm, floor, Target::AtMost(0.60)))
        .line(Line::compare(what, warm, without, Target::None))
        .line(Line::compare(
            "library: full container, pool refilling during the starts",
            unfilled,
            floor,
            Target::None,
        ));
    report.text.push(
        "The pool makes the net and ipc namespaces, `/dev` and the cgroup before the measurement. The measurement \
         includes the rest of the floor's work and the removal of the cgroup. `lo` is up in the container, but \
         down in the floor."
            .to_owned(),
    );
    Ok(report)
}

pub(crate) fn plain(stage: &Stage) -> Result<Report> {
    let sides = vec![side(stage, "the library", "plain")?, side(stage, "`std::process::Command`", "std")?];
    let samples = alternate(stage.budget(6.0, 2000), sides)?;
    let what = "library: plain spawn without isolation";
    Ok(Report::of(&samples).line(Line::compare(what, &samples[0], &samples[1], Target::AtMost(1.00))))
}

pub(crate) fn seccomp(stage: &Stage) -> Result<Report> {
    let sides = vec![
        side(stage, "with the profile", "container-seccomp")?,
        side(stage, "without the profile", "container")?,
    ];
    let samples = alternate(stage.budget(8.0, 1000), sides)?;
    let what = "library: default seccomp profile on, second start";
    Ok(Report::of(&samples).line(Line::compare(what, &samples[0], &samples[1], Target::AtMost(1.05))))
}
