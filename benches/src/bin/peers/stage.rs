//! Where it is measured: the private view of this host, the programs, and the processes that
//! start containers as they are told.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SIGKILL, kill};
use nix::unistd::Pid;
use nspod_benches::work::Ground;
use serde_json::{Value, json};

use crate::measure::{Budget, LOST, Side, micros};
use crate::options::Options;

/// Where cgroup2 is mounted within.
const CGROUPS: &str = "/sys/fs/cgroup";

pub(crate) struct Stage {
    pub(crate) quick: bool,
    pub(crate) files: PathBuf,
    pub(crate) ground: Ground,
    /// The folder of the release binaries.
    built: PathBuf,
    /// Whether a runtime that wants a device filter can have one here.
    pub(crate) device_rules: bool,
    /// What was found in the guest lane, if it was looked at.
    pub(crate) pids_max_in_guest: Option<bool>,
}

impl Stage {
    /// Makes this mount namespace's `/sys/fs/cgroup` a pure cgroup2, and what the measurements need.
    pub(crate) fn new(files: &Path, options: &Options) -> Result<Stage> {
        pure_cgroup2()?;
        let built = std::env::current_exe()?.parent().context("the folder of this program")?.to_owned();
        let ground =
            Ground::new(&built.join("nothing"), files.join("root"), Path::new(CGROUPS).join("bench"))
                .context("the root directory and the cgroup of what is started")?;
        let (quick, pids_max_in_guest) = (options.quick, options.pids_max_in_guest);
        let files = files.to_owned();
        let mut stage = Stage { quick, files, ground, built, device_rules: true, pids_max_in_guest };
        stage.device_rules = stage.probe_device_rules()?;
        Ok(stage)
    }

    /// So many seconds and rounds, or the tenth of them where it must be quick.
    pub(crate) fn budget(&self, seconds: f64, rounds: usize) -> Budget {
        match self.quick {
            true => Budget::new(seconds / 10.0, (rounds / 10).max(2)),
            false => Budget::new(seconds, rounds),
        }
    }

    /// One of the release binaries.
    pub(crate) fn our(&self, name: &str) -> Result<PathBuf> {
        let path = self.built.join(name);
        ensure!(path.exists(), "{} is not there: cargo build --release -p nspod-cli", path.display());
        Ok(path)
    }

    /// A program of somebody else's, if it is on the PATH or in target/peers/bin.
    pub(crate) fn peer(&self, name: &str) -> Option<PathBuf> {
        let own = self.built.join("../../peers/bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories = std::iter::once(own).chain(std::env::split_paths(&path));
        directories.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
    }

    pub(crate) fn need(&self, name: &str) -> Result<PathBuf> {
        self.peer(name).ok_or_else(|| anyhow!("{name} is not present"))
    }

    /// A process that starts containers as it is told.
    pub(crate) fn station(&self) -> Result<Station> {
        Station::new(&self.ground)
    }

    /// A bundle whose container runs the program with these arguments, with the configuration that
    /// `runc spec` writes but for what [`Stage::bundle_note`] says.
    pub(crate) fn bundle(&self, args: &[&str]) -> Result<PathBuf> {
        let bundle = self.files.join(format!("bundle-{}", args.len()));
        fs::create_dir_all(&bundle)?;
        let path = bundle.join("config.json");
        if !path.exists() {
            let writer = self.peer("runc").map_or_else(|| self.our("nspod-oci"), Ok)?;
            call(Command::new(writer).arg("spec").current_dir(&bundle))?;
        }
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        config["root"]["path"] = json!(self.ground.root);
        if !self.device_rules {
            config["linux"].as_object_mut().context("linux of config.json")?.remove("resources");
        }
        fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        Ok(bundle)
    }

    /// Whether crun, which sets a filter of devices wherever there is a rule, starts here at all.
    fn probe_device_rules(&self) -> Result<bool> {
        let Some(crun) = self.peer("crun") else { return Ok(true) };
        let bundle = self.bundle(&["/nothing"])?;
        let mut command = Command::new(crun);
        command.args(["--cgroup-manager=cgroupfs", "run", "--bundle"]).arg(bundle).arg("probe");
        Ok(call(&mut command).is_ok())
    }

    pub(crate) fn bundle_note(&self) -> String {
        let rules = match self.device_rules {
            true => "",
            false => {
                " and without `linux.resources` (crun cannot set the device filter here: without \
                      CAP_SYS_RESOURCE it may not raise RLIMIT_MEMLOCK)"
            }
        };
        format!(
            "The bundle holds one static program; its config.json is what `runc spec` writes, with ociVersion \
             1.0.2, `terminal: false`, the program as `args`{rules}. The same file for every runtime."
        )
    }
}

fn pure_cgroup2() -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make all mounts private")?;
    umount2(CGROUPS, MntFlags::MNT_DETACH).with_context(|| format!("unmount {CGROUPS} in this namespace"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), flags, none)
        .with_context(|| format!("mount cgroup2 on {CGROUPS} in this namespace"))?;
    // No process may be in a cgroup that hands controllers down.
    let own = Path::new(CGROUPS).join("worker");
    fs::create_dir(&own)?;
    let pids = fs::read_to_string(Path::new(CGROUPS).join("cgroup.procs"))?;
    for pid in pids.lines() {
        fs::write(own.join("cgroup.procs"), pid)
            .with_context(|| format!("move {pid} to {}", own.display()))?;
    }
    Ok(())
}

/// Runs a program to its end with no output; what it printed is the error.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| line(command))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}: {}", line(command), output.status, text.trim());
    }
    Ok(())
}

/// A side that starts a whole program, anew for each round, and waits for its end. What hangs is
/// killed, `then` clears up after it, and the round does not count.
pub(crate) fn program<'a>(name: &str, mut command: Command, then: impl Fn() -> Result<()> + 'a) -> Side<'a> {
    Side::of(name, move || {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let (status, killed) = watch(command.spawn()?)?;
        let time = micros(start.elapsed());
        if killed {
            then()?;
            return Ok(LOST);
        }
        if !status.success() {
            // Once more, with what it has to say.
            call(&mut command)?;
            bail!("`{}`: {status}, and then it did not fail again", line(&command));
        }
        Ok(time)
    })
}

/// How long a program that does nothing may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waits for a child. One that hangs is killed, by another thread, as this one must see the end at once.
fn watch(mut child: Child) -> Result<(ExitStatus, bool)> {
    type Watched = Mutex<Option<(i32, Instant)>>;
    static WATCHED: Watched = Mutex::new(None);
    static WATCHER: OnceLock<()> = OnceLock::new();
    let lock = || WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    WATCHER.get_or_init(|| {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(PATIENCE / 4);
                let mut watched = lock();
                if let Some((pid, since)) = *watched
                    && since.elapsed() > PATIENCE
                {
                    let _ = kill(Pid::from_raw(pid), SIGKILL);
                    *watched = None;
                }
            }
        });
    });
    *lock() = Some((i32::try_from(child.id())?, Instant::now()));
    let status = child.wait()?;
    Ok((status, lock().take().is_none()))
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The same for readers, who know neither where programs are installed nor where the root directory is.
pub(crate) fn short(stage: &Stage, command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let words =
        words.map(|word| word.to_string_lossy().replace(&*stage.ground.root.to_string_lossy(), "ROOT"));
    words.collect::<Vec<_>>().join(" ")
}

/// A process that starts containers as it is told, and ends when this is dropped.
pub(crate) struct Station {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Station {
    fn new(ground: &Ground) -> Result<Station> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("station")
            .args([&ground.root, &ground.cgroup])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Station { child, stdin, stdout })
    }

    /// Tells it something, and returns the words of its answer.
    pub(crate) fn ask(&mut self, order: &str) -> Result<Vec<String>> {
        self.tell(order)?;
        self.answer()
    }

    pub(crate) fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.stdin.as_mut().context("its input")?, "{order}")?;
        Ok(())
    }

    pub(crate) fn answer(&mut self) -> Result<Vec<String>> {
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        match answer.trim().split_once(' ').unwrap_or((answer.trim(), "")) {
            ("ok", rest) => Ok(rest.split(' ').map(str::to_owned).collect()),
            ("error", text) => bail!("{text}"),
            _ => bail!("the process that starts containers has ended"),
        }
    }

    /// Tells it something, of which it returns a number.
    pub(crate) fn number(&mut self, order: &str) -> Result<f64> {
        let words = self.ask(order)?;
        Ok(words.first().context("a number")?.parse()?)
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
