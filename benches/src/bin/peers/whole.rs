//! Whole programs, from their start to their end, as a shell runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::measure::{Samples, Side, alternate, micros};
use crate::plot::Plot;
use crate::report::{Line, Report, Target, Unit};
use crate::stage::{Stage, call, line, program, short};

/// The runtimes, with nspod's first, and the target ratio of nspod to each.
const RUNTIMES: [(&str, f64); 4] = [("nspod-oci", 1.0), ("crun", 0.40), ("runc", 0.10), ("youki", 0.10)];

/// Returns the command of `nspod run` that does the same work as bwrap's.
fn nspod_like_bwrap(stage: &Stage) -> Result<Command> {
    let mut command = Command::new(stage.our("nspod")?);
    command.args(["run", "--privileged", "--userns", "single", "--rootfs"]);
    command.arg(&stage.ground.root).args(["--", "/nothing"]);
    Ok(command)
}

fn nspod_default(stage: &Stage) -> Result<Command> {
    let mut command = Command::new(stage.our("nspod")?);
    command.args(["run", "--rootfs"]).arg(&stage.ground.root).args(["--", "/nothing"]);
    Ok(command)
}

fn bwrap(stage: &Stage) -> Result<Command> {
    let mut command = Command::new(stage.need("bwrap")?);
    command.args(["--unshare-all", "--bind"]).arg(&stage.ground.root).arg("/");
    command.args(["--proc", "/proc", "--dev", "/dev", "/nothing"]);
    Ok(command)
}

pub(crate) fn run(stage: &Stage) -> Result<Report> {
    let what = "`nspod run` with the work of bwrap";
    let Ok(bwrap) = bwrap(stage) else {
        return Ok(Report::default().line(Line::absent(
            what,
            "bwrap",
            Target::AtMost(0.60),
            "bwrap is not present",
        )));
    };
    let nspod = nspod_like_bwrap(stage)?;
    let text = format!("`{}` beside `{}`.", short(stage, &nspod), short(stage, &bwrap));
    let sides = vec![
        program("nspod run", nspod, nothing),
        program("bwrap", bwrap, nothing),
        program("default", nspod_default(stage)?, nothing),
    ];
    let samples = alternate(stage.budget(10.0, 500), sides)?;
    let mut report = Report::of(&samples)
        .line(Line::compare(what, &samples[0], &samples[1], Target::AtMost(0.60)))
        .line(Line::compare("`nspod run` with its own defaults", &samples[2], &samples[1], Target::None));
    report.text.push(text);
    report.plots.push(Plot::bars("run", "nspod run and bwrap, whole processes", &samples));
    Ok(report)
}

pub(crate) fn unshare(stage: &Stage) -> Result<Report> {
    let what = "`nspod run` with the five kinds";
    let Some(unshare) = stage.peer("unshare") else {
        let why = "unshare is not present";
        return Ok(Report::default().line(Line::absent(what, "unshare", Target::AtMost(1.0), why)));
    };
    let mut theirs = Command::new(unshare);
    theirs.args(["-pfmiun", "--"]).arg(stage.ground.program());
    let mut nspod = Command::new(stage.our("nspod")?);
    nspod.args(["run", "--bare", "--"]).arg(stage.ground.program());
    let text = format!("`{}` beside `{}`.", short(stage, &nspod), short(stage, &theirs));
    let samples = alternate(
        stage.budget(8.0, 500),
        vec![program("nspod run", nspod, nothing), program("unshare", theirs, nothing)],
    )?;
    let mut report =
        Report::of(&samples).line(Line::compare(what, &samples[0], &samples[1], Target::AtMost(1.0)));
    report.text.push(text);
    Ok(report)
}

/// Cleans up after a program that leaves nothing.
fn nothing() -> Result<()> {
    Ok(())
}

/// A runtime: its program, and its command line.
struct Runtime {
    name: &'static str,
    target: f64,
    program: PathBuf,
}

impl Runtime {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if self.name == "crun" {
            command.arg("--cgroup-manager=cgroupfs");
        }
        command
    }

    fn verb(&self, words: &[&str]) -> Command {
        let mut command = self.command();
        command.args(words);
        command
    }

    fn run(&self, bundle: &Path, id: &str) -> Command {
        let mut command = self.command();
        command.args(["run", "--bundle"]).arg(bundle).arg(id);
        command
    }

    /// Creates and starts a container whose program sleeps.
    fn start(&self, bundle: &Path, id: &str) -> Result<()> {
        let mut create = self.command();
        create.args(["create", "--bundle"]).arg(bundle).arg(id);
        // The container inherits the standard streams and would keep pipes open.
        create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = create.status()?;
        ensure!(status.success(), "`{}`: {status}", line(&create));
        call(&mut self.verb(&["start", id]))
    }

    fn delete(&self, id: &str) -> Result<()> {
        call(&mut self.verb(&["delete", "--force", id]))
    }
}

/// Returns the runtimes that are present, with nspod's first, and a row for each that is missing or fails.
fn runtimes(stage: &Stage, what: &str, only: &[&str]) -> Result<(Vec<Runtime>, Vec<Line>)> {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    let bundle = stage.bundle(&["/nothing"])?;
    for (name, target) in RUNTIMES {
        if name != "nspod-oci" && !only.contains(&name) {
            continue;
        }
        let program = match name {
            "nspod-oci" => Some(stage.our(name)?),
            _ => stage.peer(name),
        };
        let why = match program {
            None => "not present".to_owned(),
            Some(program) => {
                let runtime = Runtime { name, target, program };
                match call(&mut runtime.run(&bundle, "probe")) {
                    Ok(()) => {
                        present.push(runtime);
                        continue;
                    }
                    Err(error) if name == "nspod-oci" => return Err(error),
                    Err(error) => {
                        let _ = runtime.delete("probe");
                        format!("does not start here: {error:#}")
                    }
                }
            }
        };
        absent.push(Line::absent(what, name, Target::AtMost(target), why));
    }
    Ok((present, absent))
}

/// Adds a row for each peer.
fn against(what: &str, samples: &[Samples], runtimes: &[Runtime], absent: Vec<Line>) -> Report {
    let mut report = Report::of(samples);
    for (theirs, runtime) in samples.iter().zip(runtimes).skip(1) {
        report.lines.push(Line::compare(what, &samples[0], theirs, Target::AtMost(runtime.target)));
    }
    report.lines.extend(absent);
    for side in samples.iter().filter(|side| side.lost > 0) {
        let rounds = side.lost + side.count();
        report
            .text
            .push(format!("{} hung in {} of {rounds} rounds, which do not count.", side.name, side.lost));
    }
    report
}

pub(crate) fn oci_run(stage: &Stage) -> Result<Report> {
    let what = "`nspod-oci run` of a one-program bundle";
    let bundle = stage.bundle(&["/nothing"])?;
    let (runtimes, absent) = runtimes(stage, what, &["crun", "runc", "youki"])?;
    let sides = runtimes
        .iter()
        .map(|r| program(r.name, r.run(&bundle, "bench-run"), || r.delete("bench-run")))
        .collect();
    let samples = alternate(stage.budget(20.0, 300), sides)?;
    let mut report = against(what, &samples, &runtimes, absent);
    report.text.push(stage.bundle_note());
    report.plots.push(Plot::bars("oci-run", "run of a one-program bundle", &samples));
    Ok(report)
}

pub(crate) fn oci_life(stage: &Stage) -> Result<Report> {
    let what = "`nspod-oci` create + start + delete";
    let bundle = stage.bundle(&["/nothing", "sleep"])?;
    let (mut runtimes, absent) = runtimes(stage, what, &["crun", "runc"])?;
    runtimes.iter_mut().for_each(|r| r.target = 0.40);
    let sides = runtimes.iter().map(|runtime| {
        let bundle = &bundle;
        Side::timed(runtime.name, move || {
            runtime.start(bundle, "bench-life")?;
            runtime.delete("bench-life")
        })
    });
    let samples = alternate(stage.budget(10.0, 200), sides.collect())?;
    let mut report = against(what, &samples, &runtimes, absent);
    untargeted(&mut report, "runc");
    report.text.push("The container's program sleeps and `delete --force` ends it.".to_owned());
    Ok(report)
}

/// Removes the target of the rows against a peer.
fn untargeted(report: &mut Report, peer: &str) {
    report.lines.iter_mut().filter(|line| line.against == peer).for_each(|line| line.target = Target::None);
}

pub(crate) fn exec(stage: &Stage) -> Result<Report> {
    let what = "exec into a running container";
    let bundle = stage.bundle(&["/nothing", "sleep"])?;
    let (mut runtimes, absent) = runtimes(stage, what, &["crun", "runc"])?;
    runtimes.iter_mut().for_each(|r| r.target = 0.40);
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut sides = Vec::new();
    for runtime in &runtimes {
        runtime.start(&bundle, "bench-exec")?;
        running.push(Running(runtime));
        sides.push(program(runtime.name, runtime.verb(&["exec", "bench-exec", "/nothing"]), nothing));
    }
    let samples = alternate(stage.budget(10.0, 300), sides)?;
    drop(running);
    let mut report = against(what, &samples, &runtimes, absent);
    untargeted(&mut report, "runc");
    Ok(report)
}

/// A container that is deleted at the end.
struct Running<'a>(&'a Runtime);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.delete("bench-exec") {
            eprintln!("peers: {error:#}");
        }
    }
}

pub(crate) fn memory(stage: &Stage) -> Result<Report> {
    let what = "peak resident memory of `nspod-oci run`";
    let bundle = stage.bundle(&["/nothing"])?;
    let (runtimes, absent) = runtimes(stage, what, &["crun", "runc"])?;
    let peak = stage.our("peak")?;
    let sides = runtimes.iter().map(|runtime| {
        let run = runtime.run(&bundle, "bench-memory");
        let mut command = Command::new(&peak);
        command.arg(run.get_program()).args(run.get_args()).stdin(Stdio::null());
        Side::of(runtime.name, move || {
            let output = command.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            Ok(text.split_whitespace().next().context("a number")?.parse()?)
        })
    });
    let samples = alternate(stage.budget(5.0, 20), sides.collect())?;
    let output = Command::new(&peak).arg(stage.our("nothing")?).output()?;
    let nothing = String::from_utf8(output.stdout)?;
    let least = nothing.split_whitespace().next().context("a number")?;
    let mut report = against(what, &samples, &runtimes, absent);
    report.lines = report.lines.into_iter().map(|line| line.unit(Unit::Kib)).collect();
    for line in report.lines.iter_mut().filter(|line| line.against != "crun") {
        line.target = Target::None;
    }
    report.lines.iter_mut().filter(|l| l.against == "crun").for_each(|l| l.target = Target::AtMost(1.0));
    report.text.push(format!(
        "ru_maxrss of the runtime and of the processes that it waited for, including the container's program. A \
         program that does nothing has {least} KiB."
    ));
    Ok(report)
}

pub(crate) fn helpers(stage: &Stage) -> Result<Report> {
    let bundle = stage.bundle(&["/nothing", "sleep"])?;
    let (runtimes, _) = runtimes(stage, "", &["crun", "runc"])?;
    let mut report = Report::default();
    for runtime in &runtimes {
        let before = processes()?;
        runtime.start(&bundle, "bench-exec")?;
        let running = Running(runtime);
        // Processes that the commands started need a moment to end.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let more = processes()? as f64 - before as f64;
        drop(running);
        let what = format!("{}: additional processes of a detached container", runtime.name);
        let target = if runtime.name == "nspod-oci" { Target::Exactly(0.0) } else { Target::None };
        report.lines.push(Line::value(&what, more - 1.0, target));
    }
    report.rounds = 1;
    Ok(report)
}

/// Returns the number of processes in this pid namespace.
fn processes() -> Result<usize> {
    let is_pid = |name: &std::ffi::OsStr| name.to_str().is_some_and(|n| n.parse::<u32>().is_ok());
    Ok(fs::read_dir("/proc")?.flatten().filter(|entry| is_pid(&entry.file_name())).count())
}

pub(crate) fn pids_max(stage: &Stage) -> Result<Report> {
    let what = "a container limited to pids.max = 1 starts";
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    if !controllers.split_whitespace().any(|name| name == "pids") {
        let why = "cgroup v1 has the pids controller on this host, and the guest lane was not run";
        return Ok(Report::default().line(match stage.pids_max_in_guest {
            Some(started) => {
                let what =
                    format!("{what} (in the guest lane, because v1 has the pids controller on this host)");
                Line::value(&what, f64::from(u8::from(started)), Target::Exactly(1.0))
            }
            None => Line::absent(what, "", Target::Exactly(1.0), why),
        }));
    }
    let mut nspod = Command::new(stage.our("nspod")?);
    nspod
        .args(["run", "--init=false", "--pids-limit", "1", "--rootfs"])
        .arg(&stage.ground.root)
        .args(["--", "/nothing"]);
    let started = call(&mut nspod);
    let mut report = Report { rounds: 1, ..Report::default() };
    report.lines.push(Line::value(what, f64::from(u8::from(started.is_ok())), Target::Exactly(1.0)));
    report.text.extend(started.err().map(|error| format!("{error:#}")));
    Ok(report)
}

pub(crate) fn syscalls(stage: &Stage) -> Result<Report> {
    let what = "system calls of a container";
    if stage.peer("strace").is_none() {
        return Ok(Report::default().line(Line::absent(what, "", Target::None, "strace is not present")));
    }
    let bundle = stage.bundle(&["/nothing"])?;
    let (runtimes, _) = runtimes(stage, what, &["crun", "runc", "youki"])?;
    let mut commands = vec![
        ("nspod run, work of bwrap".to_owned(), nspod_like_bwrap(stage)?),
        ("nspod run".to_owned(), nspod_default(stage)?),
    ];
    commands.extend(bwrap(stage).ok().map(|command| ("bwrap".to_owned(), command)));
    commands.extend(runtimes.iter().map(|r| (format!("{} run", r.name), r.run(&bundle, "bench-strace"))));
    let mut report = Report { rounds: 1, ..Report::default() };
    let mut table = vec!["| what | system calls |".to_owned(), "|---|---:|".to_owned()];
    for (name, what) in [("library: full container", "container"), ("floor in C", "floor")] {
        table.push(format!("| {name}, one more start | {} |", in_process(stage, what)?));
    }
    for (name, command) in commands {
        table.push(match strace(stage, &command) {
            Ok(count) => format!("| {name} | {count} |"),
            Err(error) => format!("| {name} | failed: {error:#} |"),
        });
    }
    report.text.push(
        "Counted by `strace -f -c`: all processes from start to end, including the program itself.".into(),
    );
    report.text.push(table.join("\n"));
    Ok(report)
}

/// Returns the number of system calls of one more start in the same process.
fn in_process(stage: &Stage, what: &str) -> Result<u64> {
    const MORE: u64 = 10;
    let of = |repeat: u64| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["station"]).args([&stage.ground.root, &stage.ground.cgroup]);
        let orders = stage.files.join("orders");
        fs::write(&orders, format!("repeat {repeat} {what}\n"))?;
        strace_with(stage, &command, Stdio::from(fs::File::open(orders)?))
    };
    Ok((of(MORE + 1)? - of(1)?) / MORE)
}

fn strace(stage: &Stage, command: &Command) -> Result<u64> {
    strace_with(stage, command, Stdio::null())
}

fn strace_with(stage: &Stage, command: &Command, stdin: Stdio) -> Result<u64> {
    let counts = stage.files.join("strace");
    // youki may hang.
    let mut traced = Command::new("timeout");
    traced.args(["--signal=KILL", "20"]).arg(stage.need("strace")?);
    traced.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&counts).arg("--");
    traced.arg(command.get_program()).args(command.get_args());
    let output = traced.stdin(stdin).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let text = fs::read_to_string(&counts)?;
    let total =
        text.lines().find(|line| line.trim_end().ends_with(" total")).context("a line with the total")?;
    Ok(total.split_whitespace().next().context("a number")?.parse()?)
}

/// Measures a single run of a program.
pub(crate) fn once(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "`{}`: {status}", line(command));
    Ok(micros(start.elapsed()))
}
