//! The environment of the measurements: a private view of this host, the programs, and the processes that start
//! containers on request.

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

/// The mount point of cgroup2 in the private view.
const CGROUPS: &str = "/sys/fs/cgroup";

pub(crate) struct Stage {
    pub(crate) quick: bool,
    pub(crate) files: PathBuf,
    pub(crate) ground: Ground,
    /// The directory of the release binaries.
    built: PathBuf,
    /// Whether a runtime can set a device filter here.
    pub(crate) device_rules: bool,
    /// The result of the guest lane, if it was measured there.
    pub(crate) pids_max_in_guest: Option<bool>,
}

impl Stage {
    /// Makes `/sys/fs/cgroup` of this mount namespace a pure cgroup2, and creates the directories and the cgroup
    /// for the measurements.
    pub(crate) fn new(files: &Path, options: &Options) -> Result<Stage> {
        pure_cgroup2()?;
        let built =
            std::env::current_exe()?.parent().context("find the directory of this program")?.to_owned();
        let ground =
            Ground::new(&built.join("nothing"), files.join("root"), Path::new(CGROUPS).join("bench"))
                .context("create the root directory and the cgroup of the containers")?;
        let (quick, pids_max_in_guest) = (options.quick, options.pids_max_in_guest);
        let files = files.to_owned();
        let mut stage = Stage { quick, files, ground, built, device_rules: true, pids_max_in_guest };
        stage.device_rules = stage.probe_device_rules()?;
        Ok(stage)
    }

    /// Returns a budget of this many seconds and rounds, or a tenth of them with `--quick`.
    pub(crate) fn budget(&self, seconds: f64, rounds: usize) -> Budget {
        match self.quick {
            true => Budget::new(seconds / 10.0, (rounds / 10).max(2)),
            false => Budget::new(seconds, rounds),
        }
    }

    /// Returns the path of one of the release binaries.
    pub(crate) fn our(&self, name: &str) -> Result<PathBuf> {
        let path = self.built.join(name);
        ensure!(path.exists(), "{} is missing: run cargo build --release -p nspod-cli", path.display());
        Ok(path)
    }

    /// Returns the path of a peer, if it is in the PATH or in target/peers/bin.
    pub(crate) fn peer(&self, name: &str) -> Option<PathBuf> {
        let own = self.built.join("../../peers/bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories = std::iter::once(own).chain(std::env::split_paths(&path));
        directories.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
    }

    pub(crate) fn need(&self, name: &str) -> Result<PathBuf> {
        self.peer(name).ok_or_else(|| anyhow!("{name} is not present"))
    }

    /// Returns a new process that starts containers on request.
    pub(crate) fn station(&self) -> Result<Station> {
        Station::new(&self.ground)
    }

    /// Creates a bundle whose container runs the program with these arguments. Its configuration is that of `runc
    /// spec`, except for the differences that [`Stage::bundle_note`] lists.
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

    /// Returns whether crun starts here. It sets a device filter if the configuration has any rule.
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
                " and without `linux.resources` (crun cannot set the device filter here, because \
                      it needs CAP_SYS_RESOURCE to raise RLIMIT_MEMLOCK)"
            }
        };
        format!(
            "The bundle contains one static program. Its config.json is that of `runc spec` with ociVersion 1.0.2, \
             `terminal: false` and the program as `args`{rules}. All runtimes use the same file."
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
    // A cgroup that enables controllers for its children must not contain processes.
    let own = Path::new(CGROUPS).join("worker");
    fs::create_dir(&own)?;
    let pids = fs::read_to_string(Path::new(CGROUPS).join("cgroup.procs"))?;
    for pid in pids.lines() {
        fs::write(own.join("cgroup.procs"), pid)
            .with_context(|| format!("move {pid} to {}", own.display()))?;
    }
    Ok(())
}

/// Runs a program to its end without output. If it fails, the error contains its output.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| line(command))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}: {}", line(command), output.status, text.trim());
    }
    Ok(())
}

/// Returns a side that starts a whole program in each round and waits for its end. A program that hangs is killed,
/// `then` cleans up after it, and the round does not count.
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
            // Run it again to get its message.
            call(&mut command)?;
            bail!("`{}`: {status}; run again, it did not fail", line(&command));
        }
        Ok(time)
    })
}

/// Time limit for a program that does nothing.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waits for a child. Another thread kills a hanging child, because this thread must notice the end at once.
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

/// Formats the command line.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Formats the command line without the directories of the programs and of the root, which readers do not know.
pub(crate) fn short(stage: &Stage, command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let words =
        words.map(|word| word.to_string_lossy().replace(&*stage.ground.root.to_string_lossy(), "ROOT"));
    words.collect::<Vec<_>>().join(" ")
}

/// A process that starts containers on request, and ends when this is dropped.
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

    /// Sends an order, and returns the words of the answer.
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

    /// Sends an order, and returns its answer, which is a number.
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
