//! Containers and pods of a measurement, which are removed at the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::run;

/// The time after which a start counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs of a measurement.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The program `nspod`.
    pub nspod: PathBuf,
    /// The program `nspod-hog`, at a path that containers see too.
    pub hog: PathBuf,
    /// Whether the measurement must end.
    pub interrupted: Arc<AtomicBool>,
}

impl Programs {
    /// Finds the programs beside the running one, or beside its directory, where cargo places those of other packages.
    ///
    /// # Errors
    /// If they have not been built.
    pub fn find() -> Result<Programs> {
        let own = std::env::current_exe()?;
        let find = |name: &str| {
            let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
            places
                .find(|path| path.is_file())
                .with_context(|| format!("the program {name} is not beside {}", own.display()))
        };
        Ok(Programs { nspod: find("nspod")?, hog: find("nspod-hog")?, interrupted: Arc::default() })
    }

    /// Runs nspod to its end.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub fn nspod(&self, args: &[&str]) -> Result<()> {
        run(Command::new(&self.nspod).args(args))
    }
}

/// Returns a name that no other container of this machine has.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("trouble-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A pod. Dropping it removes it with its containers.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) name: String,
    programs: &'a Programs,
}

impl<'a> Pod<'a> {
    pub(crate) fn create(programs: &'a Programs, flags: &[String]) -> Result<Pod<'a>> {
        let pod = Pod { name: unique(), programs };
        let mut args = vec!["pod", "create"];
        args.extend(flags.iter().map(String::as_str));
        args.push(&pod.name);
        programs.nspod(&args)?;
        Ok(pod)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // It may not have been created.
        let _ = self.programs.nspod(&["pod", "rm", "-f", &self.name]);
    }
}

/// A container with a victim or a hog. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub(crate) name: String,
    programs: &'a Programs,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl<'a> Container<'a> {
    /// Starts the container and waits until its program is ready.
    pub(crate) fn start(programs: &'a Programs, flags: &[String], command: &[&str]) -> Result<Container<'a>> {
        let name = unique();
        let mut run = Command::new(&programs.nspod);
        let directory = tempfile::tempdir()?;
        let pid = directory.path().join("pid");
        run.args(["run", "-i", "--name", &name, "--pidfile"])
            .arg(&pid)
            .args(flags)
            .arg("--")
            .arg(&programs.hog)
            .args(command);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = run.spawn().context("starting nspod")?;
        let input = child.stdin.take();
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take().context("no pipe")?;
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut stderr = child.stderr.take().context("no pipe")?;
        let errors = Some(thread::spawn(move || {
            let mut text = Vec::new();
            // What has been read is sufficient for a message.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_owned()
        }));
        let mut this = Container { name, programs, child, input, lines, errors };
        match this.line(PATIENCE)? {
            Some(line) if line == "ready" => {
                // Other containers can join this one when its state has been saved, and the pid comes after the state.
                while !pid.exists() && this.is_running() {
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(this)
            }
            other => {
                let words = [&flags.join(" "), " -- nspod-hog ", &command.join(" ")].concat();
                bail!("nspod run {words}: {}", other.unwrap_or_else(|| this.end()))
            }
        }
    }

    /// Returns the next line of the program, or nothing if it has ended or says nothing for this time.
    fn line(&self, patience: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return Ok(Some(line)),
                Err(_) if self.programs.interrupted.load(Ordering::Relaxed) => bail!("interrupted"),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Gives the program a line. Returns its answer, or nothing if it has ended or says nothing for this time.
    fn ask(&mut self, patience: Duration) -> Result<Option<String>> {
        let asked = self.input.as_mut().is_some_and(|input| input.write_all(b"\n").is_ok());
        if asked { self.line(patience) } else { Ok(None) }
    }

    /// Lets a victim work. Returns its progress, which is 0 if the victim has ended or does not answer for this time.
    pub(crate) fn progress(&mut self, patience: Duration) -> Result<f64> {
        let answer = self.ask(patience)?;
        answer.map_or(Ok(0.0), |number| number.parse().with_context(|| format!("{number} is not a progress")))
    }

    /// Starts a hog. Returns what it says.
    pub(crate) fn start_hog(&mut self) -> Result<String> {
        let answer = self.ask(PATIENCE)?;
        match answer.as_deref().and_then(|line| line.strip_prefix("ready")) {
            Some(said) => Ok(said.trim().to_owned()),
            None => bail!("the hog's container: {}", answer.unwrap_or_else(|| self.end())),
        }
    }

    /// Ends the hog.
    pub(crate) fn end_hog(&mut self) -> Result<()> {
        match self.ask(PATIENCE)?.as_deref() {
            Some("ended") => Ok(()),
            other => bail!("the hog has not ended: {}", other.unwrap_or("its container does not answer")),
        }
    }

    /// Returns whether the container has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the container. Returns what it has printed on standard error.
    fn end(&mut self) -> String {
        // Both programs end with their standard input, unless the trouble holds them.
        self.input = None;
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        if self.is_running() {
            // It may end meanwhile.
            if let Err(error) = self.programs.nspod(&["rm", "-f", &self.name])
                && self.is_running()
            {
                eprintln!("{error:#}");
            }
            let _ = self.child.wait();
        }
        self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A container that has run in the background to its end. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Detached<'a> {
    name: String,
    logs: &'a str,
    programs: &'a Programs,
}

impl<'a> Detached<'a> {
    /// Runs the container to its end. Its log is in this directory.
    pub(crate) fn run(
        programs: &'a Programs,
        flags: &[String],
        logs: &'a str,
        command: &[&str],
    ) -> Result<Detached<'a>> {
        let this = Detached { name: unique(), logs, programs };
        let hog = programs.hog.to_string_lossy();
        let flags = flags.iter().map(String::as_str);
        let run = ["run", "-d", "--name", &this.name].into_iter().chain(flags).chain(["--", &hog]);
        this.nspod(&run.chain(command.iter().copied()).collect::<Vec<_>>())?;
        this.nspod(&["wait", &this.name])?;
        Ok(this)
    }

    fn nspod(&self, args: &[&str]) -> Result<()> {
        run(Command::new(&self.programs.nspod).args(args).env("NSPOD_LOG_DIR", self.logs))
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        // It may not have been created.
        let _ = self.nspod(&["rm", "-f", &self.name]);
    }
}

/// Returns a path of the program that containers see. Their /tmp and /run are empty.
///
/// # Errors
/// As copying a file.
pub fn visible(program: &Path, directory: &Path) -> Result<PathBuf> {
    if !program.starts_with("/tmp") && !program.starts_with("/run") {
        return Ok(program.to_owned());
    }
    let copy = directory.join("nspod-hog");
    std::fs::copy(program, &copy).with_context(|| format!("copying {}", program.display()))?;
    Ok(copy)
}
