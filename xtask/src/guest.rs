//! `cargo xtask guest`: runs a command on a kernel whose cgroup v2 hierarchy has every controller.

use std::env;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cpio::Cpio;
use crate::demux::Demux;
use crate::kernel::Kernel;
use crate::qemu::{Machine, Qemu};
use crate::{install, sh};

/// The exit code if the guest failed, and not the command in it.
pub(crate) const BOOT_FAILED: u8 = 125;

/// The mount point of an ext4 in the guest, where an overlay can have its upper layer.
const SCRATCH: &str = "/scratch";
const DEFAULT_CPUS: u32 = 2;
const DEFAULT_MEMORY: &str = "2G";
/// Time without a sign of life after which a guest is stuck. It sends one every 10 s.
const SILENCE: Duration = Duration::from_secs(180);
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// Modules of Debian's kernel: for the devices of the machine, for the root, and for tests.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtiofs",
    "overlay",
    "veth",
    "tun",
    "bridge",
    "loop",
    "quota_v2",
    "xfs",
];

/// Run a command in a virtual machine whose kernel has every cgroup v2 controller
///
/// The guest is a Debian kernel under qemu, without KVM. Its root is the root of this machine under a
/// copy-on-write layer: the command sees every file except those of /tmp and /run, and its writes are discarded.
/// The command starts in the current directory, with the variables PATH, HOME, LANG, TERM, CI, RUST*, NSPOD* and
/// PROPTEST* of this environment, and TMPDIR=/scratch, an ext4. Its standard input is empty.
///
/// The exit code is that of the command, or 125 if the guest failed. Missing programs are installed from Debian's
/// packages. The kernel is only unpacked, in target/guest. Delete this directory to get the newest kernel.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of CPUs
    #[arg(long, default_value_t = DEFAULT_CPUS)]
    pub(crate) cpus: u32,
    /// Memory, with a suffix M or G
    #[arg(long, default_value = DEFAULT_MEMORY)]
    pub(crate) memory: String,
    /// End the command this many seconds after the boot
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Boot with this machine's systemd as process 1, and run the command as a service that owns its cgroup
    #[arg(long)]
    pub(crate) systemd: bool,
    /// Install nothing: list the missing packages
    #[arg(long)]
    pub(crate) no_install: bool,
    /// The command and its arguments. Without them, an interactive shell
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

impl Default for Args {
    fn default() -> Self {
        let memory = DEFAULT_MEMORY.to_owned();
        Self {
            cpus: DEFAULT_CPUS,
            memory,
            timeout: None,
            systemd: false,
            no_install: false,
            command: Vec::new(),
        }
    }
}

/// The stream of a piece of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// The guest no longer runs: its processors or its clock stand still, so nothing in it can end a test.
#[derive(Debug)]
pub(crate) struct Stuck {
    log: String,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the guest has not run for {} s. The end of its log:\n{}",
            SILENCE.as_secs(),
            last(&self.log, 15)
        )
    }
}

impl std::error::Error for Stuck {}

enum Event {
    Read(Stream, Vec<u8>),
    Signal(i32),
}

/// Runs the chore.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.command.is_empty() && !io::stdin().is_terminal() {
        bail!("a shell needs a terminal as standard input: give a command to run instead");
    }
    let code = run_with(args, &[], print)?;
    Ok(ExitCode::from(code))
}

/// Checks the machine and the caller.
pub(crate) fn is_possible() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the guest requires x86_64");
    }
    if !install::is_root()? {
        bail!("the guest shares the whole file system of this machine: run this as root");
    }
    Ok(())
}

/// Writes a piece of output to the same stream of this process.
pub(crate) fn print(stream: Stream, bytes: &[u8]) -> Result<()> {
    match stream {
        Stream::Out => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
        Stream::Err => io::stderr().write_all(bytes),
    }
    .context("printing the command's output")
}

/// Boots a guest and runs the command with additional variables. Passes its output to `sink` as it comes, and
/// returns the exit code.
pub(crate) fn run_with(
    args: &Args,
    variables: &[(&str, &str)],
    mut sink: impl FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<u8> {
    is_possible()?;
    install::packages(install::GUEST, !args.no_install)?;
    let kernel = Kernel::get(&directory()?)?;
    let mark = format!("nspod-guest-{:x}", std::process::id() as u128 ^ nanoseconds());
    let initramfs = initramfs(&kernel, args, variables, &mark)?;

    let (sender, events) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let signals_handle = signals.handle();
    let signal_sender = sender.clone();
    thread::spawn(move || signals.forever().try_for_each(|signal| signal_sender.send(Event::Signal(signal))));

    let (mut qemu, out, err) = Qemu::start(&Machine {
        cpus: args.cpus,
        memory: &args.memory,
        kernel: &kernel.image,
        initramfs: &initramfs,
        terminal: args.command.is_empty(),
    })?;
    read(out, Stream::Out, sender.clone());
    read(err, Stream::Err, sender);

    let mut streams = [Demux::new(&mark), Demux::new(&mark)];
    let mut ended = [None, None];
    let mut deadline = Some(Instant::now() + BOOT_TIMEOUT);
    let mut booted = false;
    let mut heard = Instant::now();
    let code = loop {
        match events.recv_timeout(Duration::from_millis(200)) {
            Ok(Event::Read(stream, bytes)) => {
                heard = Instant::now();
                let piece = streams[stream as usize].push(&bytes);
                sink(stream, &piece.output)?;
                for said in piece.said {
                    if let Ok(code) = said.parse::<u8>() {
                        ended[stream as usize] = Some(code);
                    } else if !booted {
                        booted = true;
                        deadline = args.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
                        qemu.forget_files();
                    }
                }
                if let [Some(code), Some(_)] = ended {
                    break code;
                }
            }
            Ok(Event::Signal(signal)) => {
                drop(qemu);
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                eprintln!("xtask: {name} ended the guest and its command");
                signal_hook::low_level::emulate_default_handler(signal)?;
                bail!("ended by signal {signal}");
            }
            Err(RecvTimeoutError::Timeout) if qemu.has_ended()? => {
                bail!("{}", death(booted, &qemu.logs()?));
            }
            Err(_) => {}
        }
        if booted && heard.elapsed() > SILENCE {
            return Err(Stuck { log: qemu.logs()? }.into());
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            let logs = qemu.logs()?;
            if booted {
                let seconds = args.timeout.unwrap_or(0);
                bail!(
                    "the command was ended because it ran longer than {seconds} s. Its log:\n{}",
                    last(&logs, 15)
                );
            }
            bail!("the guest did not boot within {} s. Its log:\n{logs}", BOOT_TIMEOUT.as_secs());
        }
    };
    signals_handle.close();
    Ok(code)
}

/// Returns the reason why qemu ended before the command, from the log of the kernel.
fn death(booted: bool, logs: &str) -> String {
    let when = if booted { "while the command ran" } else { "while it booted" };
    let why = match logs.lines().find(|line| is_fatal(line)) {
        Some(line) => format!("its kernel died: {}", line.trim()),
        None => "the reason is in its log below, or in the output of qemu above".to_owned(),
    };
    format!("the guest ended {when}: {why}\n{}", last(logs, 60))
}

/// Returns the last lines of the log.
fn last(logs: &str, count: usize) -> String {
    let lines: Vec<&str> = logs.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Returns whether this line of the kernel's log reports a bug or a panic.
fn is_fatal(line: &str) -> bool {
    ["Kernel panic", "BUG: ", "kernel BUG at", "Oops: ", "general protection fault"]
        .iter()
        .any(|sign| line.contains(sign))
}

/// Accepts one connection and forwards what it reads.
fn read(listener: UnixListener, stream: Stream, events: Sender<Event>) {
    thread::spawn(move || {
        let Ok((mut socket, _)) = listener.accept() else { return };
        let mut buffer = [0; 1 << 16];
        while let Ok(len @ 1..) = socket.read(&mut buffer) {
            if events.send(Event::Read(stream, buffer[..len].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// Returns the first file system of the guest: busybox, modules, and the job.
fn initramfs(kernel: &Kernel, args: &Args, variables: &[(&str, &str)], mark: &str) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for directory in ["bin", "dev", "proc", "sys", "modules", "job", "host", "disk", "root"] {
        cpio.directory(directory);
    }
    cpio.console("dev/console");
    cpio.program("bin/busybox", &contents(Path::new("/bin/busybox"))?);
    for applet in [
        "cat",
        "chmod",
        "cp",
        "echo",
        "grep",
        "hostname",
        "insmod",
        "ip",
        "ln",
        "mkdir",
        "mkfifo",
        "mount",
        "poweroff",
        "sh",
        "sleep",
        "switch_root",
        "uname",
    ] {
        cpio.symlink(&format!("bin/{applet}"), "busybox");
    }
    let mut order = String::new();
    for file in kernel.load_order(MODULES)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        cpio.program(&format!("modules/{name}"), &contents(&file)?);
        order.push_str(&format!("{name}\n"));
    }
    cpio.program("modules/order", order.as_bytes());

    let cwd = env::current_dir().context("the current directory")?;
    // A new tmpfs there would hide these.
    let needed = [&cwd, &repository(), &kernel.modules];
    let temporary =
        ["/run", "/tmp"].into_iter().filter(|dir| !needed.iter().any(|path| path.starts_with(dir)));
    let settings = format!(
        "MARK={}\nTMPFS={}\nMODULES={}\nINTERACTIVE={}\nSYSTEMD={}\n",
        sh::quote(mark),
        sh::quote(&temporary.collect::<Vec<_>>().join(" ")),
        sh::quote(&kernel.modules.to_string_lossy()),
        yes_or_no(args.command.is_empty()),
        yes_or_no(args.systemd),
    );
    cpio.program("job/settings", settings.as_bytes());
    cpio.program("job/run", job(args, variables, &cwd)?.as_bytes());
    cpio.program("job/main", include_bytes!("../guest/main"));
    cpio.program("job/guest.service", include_bytes!("../guest/guest.service"));
    cpio.program("init", include_bytes!("../guest/init"));
    Ok(cpio.finish())
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Returns the script that executes the command.
fn job(args: &Args, variables: &[(&str, &str)], cwd: &Path) -> Result<String> {
    let mut script = String::new();
    for (name, value) in env::vars().filter(|(name, _)| goes_along(name)) {
        script.push_str(&format!("export {name}={}\n", sh::quote(&value)));
    }
    script.push_str(&format!("export TMPDIR={SCRATCH}\n"));
    for (name, value) in variables {
        script.push_str(&format!("export {name}={}\n", sh::quote(value)));
    }
    script.push_str(&format!("cd {} || exit\n", sh::quote(&cwd.to_string_lossy())));
    if args.command.is_empty() {
        let size = sh::read(Command::new("stty").arg("size").stdin(std::process::Stdio::inherit()))?;
        let (rows, columns) = size.trim().split_once(' ').unwrap_or(("24", "80"));
        script.push_str(&format!(
            "stty rows {rows} columns {columns}\nexport PS1='guest:\\w\\$ '\nexec bash --norc -i\n"
        ));
    } else {
        let words: Vec<String> = args.command.iter().map(|word| sh::quote(word)).collect();
        script.push_str(&format!("exec {}\n", words.join(" ")));
    }
    Ok(script)
}

/// Returns whether a variable of the caller's environment is also set in the guest.
fn goes_along(name: &str) -> bool {
    const NAMES: &[&str] =
        &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "COLORTERM", "CI", "CARGO_HOME"];
    const PREFIXES: &[&str] = &["RUST", "NSPOD", "PROPTEST", "LC_"];
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_word && (NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Returns the root of the repository.
pub(crate) fn repository() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(here).parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

/// Returns the directory for the files of the guest.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(target_directory()?.join("guest"))
}

/// Returns cargo's target directory.
fn target_directory() -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--format-version=1"]).current_dir(repository());
    let metadata: serde_json::Value = serde_json::from_str(&sh::read(&mut command)?)?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

fn nanoseconds() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_panic_is_named_in_the_error() {
        let log = "[  1.0] fine\n[  2.0] Kernel panic - not syncing: VFS\n[  2.1] more\n";
        let sentence = death(true, log);
        assert!(
            sentence
                .starts_with("the guest ended while the command ran: its kernel died: [  2.0] Kernel panic")
        );
        assert!(sentence.ends_with("[  2.1] more"));
    }

    #[test]
    fn only_variables_with_the_same_meaning_in_the_guest_are_passed_on() {
        for name in ["PATH", "RUST_BACKTRACE", "NSPOD_LANE", "LC_ALL"] {
            assert!(goes_along(name), "{name}");
        }
        for name in ["TMPDIR", "DBUS_SESSION_BUS_ADDRESS", "RUST-X", "XDG_RUNTIME_DIR"] {
            assert!(!goes_along(name), "{name}");
        }
    }
}
