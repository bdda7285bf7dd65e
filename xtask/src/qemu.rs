//! The programs of a running guest, qemu and virtiofsd, and their files. Dropping the value ends the programs and
//! removes the files.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::sh;

const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";
/// Size of the scratch disk. The file is sparse.
const SCRATCH_SIZE: u64 = 16 << 30;
/// A panic ends qemu, by `panic=-1` and `-no-reboot`.
const KERNEL_OPTIONS: &str = "console=ttyS0 quiet panic=-1 oops=panic cgroup_no_v1=all psi=1 mitigations=off \
     random.trust_cpu=on no_timer_check tsc=reliable rdinit=/init";

/// The parts of a guest.
pub(crate) struct Machine<'a> {
    pub(crate) cpus: u32,
    pub(crate) memory: &'a str,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a [u8],
    /// Whether the terminal hvc0 of the guest is the caller's terminal.
    pub(crate) terminal: bool,
}

/// A running guest.
pub(crate) struct Qemu {
    // Fields are dropped in this order. virtiofsd ends by itself after qemu.
    terminal: Option<Terminal>,
    qemu: OwnedChild,
    virtiofsd: OwnedChild,
    console: File,
    virtiofsd_log: File,
    directory: Option<TempDir>,
}

impl Qemu {
    /// Starts a guest. Returns it with the sockets for its ports `out` and `err`.
    pub(crate) fn start(machine: &Machine<'_>) -> Result<(Self, UnixListener, UnixListener)> {
        // /tmp is often in memory.
        let directory = tempfile::Builder::new().prefix("nspod-guest-").tempdir_in("/var/tmp")?;
        let path = |name: &str| directory.path().join(name);

        fs::write(path("initramfs"), machine.initramfs)?;
        File::create(path("scratch"))?.set_len(SCRATCH_SIZE)?;
        sh::run(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"])
                .arg(path("scratch")),
        )?;
        let console = log(path("console"))?;
        let virtiofsd_log = log(path("virtiofsd"))?;
        let virtiofsd = virtiofsd(UnixListener::bind(path("fs"))?, virtiofsd_log.try_clone()?)?;
        let out = UnixListener::bind(path("out"))?;
        let err = UnixListener::bind(path("err"))?;
        let terminal = machine.terminal.then(Terminal::save).transpose()?;
        let qemu = OwnedChild::start(qemu(machine).current_dir(&directory))?;
        let this = Self { terminal, qemu, virtiofsd, console, virtiofsd_log, directory: Some(directory) };
        Ok((this, out, err))
    }

    /// Removes the files. Call this when both programs have opened them.
    pub(crate) fn forget_files(&mut self) {
        self.directory = None;
    }

    /// Returns whether qemu has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.qemu.0.try_wait()?.is_some())
    }

    /// Returns the logs of the guest's kernel and of virtiofsd.
    pub(crate) fn logs(&mut self) -> Result<String> {
        let mut text = String::new();
        for log in [&mut self.virtiofsd_log, &mut self.console] {
            let mut bytes = Vec::new();
            log.rewind()?;
            log.read_to_end(&mut bytes)?;
            text.push_str(&String::from_utf8_lossy(&bytes).replace('\r', ""));
        }
        Ok(text)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.qemu.end();
        self.virtiofsd.end();
        self.terminal = None;
    }
}

fn log(path: PathBuf) -> Result<File> {
    Ok(File::options().create_new(true).read(true).append(true).open(path)?)
}

/// Returns virtiofsd for /, in a mount namespace where everything is read-only. So root in the guest cannot write to
/// the host. Its standard input is the socket.
fn virtiofsd(socket: UnixListener, log: File) -> Result<OwnedChild> {
    let script = format!(
        "ulimit -Sn $(ulimit -Hn)
         mount -o remount,bind,ro / || exit
         while read -r _ point _; do mount -o remount,bind,ro \"$point\" 2>/dev/null; done </proc/self/mounts
         exec {VIRTIOFSD} --fd=0 -o source=/,sandbox=chroot,cache=always,xattr --rlimit-nofile=0"
    );
    let mut command = tied("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.stdin(OwnedFd::from(socket)).stdout(Stdio::null()).stderr(log);
    OwnedChild::start(&mut command)
}

fn qemu(machine: &Machine<'_>) -> Command {
    let mut command = tied("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args([
        "-machine",
        "q35,memory-backend=ram,hpet=off",
        "-cpu",
        "max",
        "-accel",
        "tcg,thread=multi",
    ]);
    command.args(["-smp", &machine.cpus.to_string(), "-m", machine.memory]);
    // virtiofsd reads and writes the guest's memory.
    command.args(["-object", &format!("memory-backend-memfd,id=ram,size={},share=on", machine.memory)]);
    command.arg("-kernel").arg(machine.kernel);
    command.args(["-initrd", "initramfs", "-append", KERNEL_OPTIONS]);
    command.args(["-chardev", "file,id=console,path=console,append=on", "-serial", "chardev:console"]);
    command.args(["-chardev", "socket,id=fs,path=fs", "-device", "vhost-user-fs-pci,chardev=fs,tag=host"]);
    command.args(["-drive", "file=scratch,if=none,id=scratch,format=raw,cache=unsafe,discard=unmap"]);
    command.args(["-device", "virtio-blk-pci,drive=scratch", "-device", "virtio-serial-pci"]);
    for port in ["out", "err"] {
        command.args(["-chardev", &format!("socket,id={port},path={port}")]);
        command.args(["-device", &format!("virtserialport,chardev={port},name={port}")]);
    }
    if machine.terminal {
        command.args(["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal"]);
    } else {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    command
}

/// A program that is killed when the value is dropped or the calling thread ends.
fn tied(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

struct OwnedChild(Child);

impl OwnedChild {
    fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("`{}` could not be started", sh::line(command)))?))
    }

    /// Kills the program and waits for its end.
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        self.end();
    }
}

/// The settings of the caller's terminal, which qemu makes raw. Restores them when dropped.
struct Terminal(String);

impl Terminal {
    fn save() -> Result<Self> {
        Ok(Self(sh::read(Command::new("stty").arg("-g").stdin(Stdio::inherit()))?.trim().to_owned()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("stty").arg(&self.0).status();
    }
}
