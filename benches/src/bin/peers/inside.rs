//! Starts within this process: the library beside the baselines.

use anyhow::Result;

use crate::experiment::{Line, Report, Target};
use crate::measure::{Side, alternate};
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
        side(stage, "Plan::spawn", "container-plan")?,
    ];
    let samples = alternate(stage.budget(12.0, 1000), sides)?;
    let [ours, c, rust, anew, plan] = samples.as_slice() else { unreachable!("five sides") };
    Ok(Report::of(&samples)
        .line(Line::compare("library: full container", ours, c, Target::AtMost(1.10)))
        .line(Line::compare("library: full container", ours, rust, Target::None))
        .line(Line::compare(
            "library: full container by `Plan::spawn`, in the cgroup of its choice",
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

pub(crate) fn pool(_: &Stage) -> Result<Report> {
    let what = "library: full container with a warm pool";
    let why = "the library has no pool yet";
    Ok(Report::default().line(Line::absent(what, "floor in C", Target::AtMost(0.60), why)))
}

pub(crate) fn plain(stage: &Stage) -> Result<Report> {
    let sides = vec![side(stage, "the library", "plain")?, side(stage, "`std::process::Command`", "std")?];
    let samples = alternate(stage.budget(6.0, 2000), sides)?;
    let what = "library: plain spawn with no isolation";
    Ok(Report::of(&samples).line(Line::compare(what, &samples[0], &samples[1], Target::AtMost(1.00))))
}

pub(crate) fn seccomp(stage: &Stage) -> Result<Report> {
    let sides = vec![
        side(stage, "with the profile", "container-seccomp")?,
        side(stage, "the same without", "container")?,
    ];
    let samples = alternate(stage.budget(8.0, 1000), sides)?;
    let what = "library: default seccomp profile on, second start";
    Ok(Report::of(&samples).line(Line::compare(what, &samples[0], &samples[1], Target::AtMost(1.05))))
}
