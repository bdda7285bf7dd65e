//! User-mode Linux: a kernel that runs as a program and has no time namespaces. It comes from Debian's package,
//! which is unpacked below target/guest and never installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{guest, install, sh};

const PACKAGE: &str = "user-mode-linux";
/// Seconds after which a hanging kernel is killed. It boots in two seconds.
const TIMEOUT: u32 = 300;
/// Denies ptrace(PTRACE_GETREGSET) to the kernel by a seccomp filter. With this call, the kernel keeps the
/// registers of its processes in a buffer that is too small for a processor with AMX. Without it, the kernel keeps
/// the registers that every processor has.
const FILTER: &str = r#"
my @filter = ([0x20, 0, 0, 0], [0x15, 0, 3, 101], [0x20, 0, 0, 16], [0x15, 0, 1, 0x4204],
    [0x06, 0, 0, 0x00050005], [0x06, 0, 0, 0x7fff0000]);
my $filter = join "", map { pack "SCCL", @$_ } @filter;
my $program = pack "Sx6P", scalar @filter, $filter;
syscall(157, 38, 1, 0, 0, 0) == 0 && syscall(157, 22, 2, $program) == 0 or die "prctl: $!";
exec @ARGV or die "$ARGV[0]: $!";
"#;
/// Processor features that the C library of the programs in the kernel must not use when the filter is loaded.
const REGISTERS: &str = "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,\
    -XSAVE,-XSAVEC,-Prefer_No_VZEROUPPER";

/// Boots the kernel with this machine's files, read-only, runs a shell script as root, and passes its output to
/// `sink`. Returns its exit code.
pub(crate) fn run(
    script: &str,
    may_install: bool,
    mut sink: impl FnMut(guest::Stream, &[u8]) -> Result<()>,
) -> Result<u8> {
    if !cfg!(target_arch = "x86_64") {
        bail!("Debian has user-mode Linux for x86_64 only");
    }
    if !install::is_root()? {
        bail!("user-mode Linux shares this machine's whole file system, which needs root: run this as root");
    }
    let unpacked = guest::directory()?.join("uml");
    if !unpacked.exists() {
        if !may_install {
            bail!("{} is missing: run this without --no-install", unpacked.display());
        }
        install::unpack(|| Ok(PACKAGE.to_owned()), &unpacked, |_| Ok(()))
            .with_context(|| format!("Debian's package {PACKAGE} could not be fetched and unpacked"))?;
    }
    let job = tempfile::Builder::new().prefix("nspod-uml-").tempdir()?;
    let at = |name: &str| job.path().join(name);
    let is_wide = fs::read_to_string("/proc/cpuinfo")?.contains(" amx_tile");
    let registers = if is_wide { format!("export GLIBC_TUNABLES={REGISTERS}\n") } else { String::new() };
    let init = include_str!("../guest/uml").replace("@JOB@", &sh::quote(&job.path().to_string_lossy()));
    program(&at("init"), &init)?;
    program(&at("run"), &format!("{registers}{script}"))?;

    // The kernel's processes are in a pid namespace and end with the kernel.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "timeout"]);
    command.args(["--kill-after=5", &TIMEOUT.to_string()]);
    if is_wide {
        command.args(["perl", "-e", FILTER]);
    }
    command.arg(unpacked.join("usr/bin/linux.uml"));
    command.args(["mem=768M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]);
    command.args(["con=null", "con0=null,fd:1", "umid=nspod"]);
    command.arg(format!("uml_dir={}/", job.path().display()));
    command.arg(format!("init={}", at("init").display()));
    let console = command.env("TMPDIR", "/dev/shm").stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    for (name, stream) in [("out", guest::Stream::Out), ("err", guest::Stream::Err)] {
        sink(stream, &fs::read(at(name)).unwrap_or_default())?;
    }
    let code = fs::read_to_string(at("code")).unwrap_or_default();
    code.trim().parse().with_context(|| {
        let said = String::from_utf8_lossy(&console.stdout);
        format!("user-mode Linux ended ({}) before the script did; it said:\n{said}", console.status)
    })
}

fn program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_refuses_one_ptrace_request_and_nothing_else() {
        if !cfg!(target_arch = "x86_64") {
            return;
        }
        let trace = |request: u32| {
            let script = format!("syscall(101, {request}, 1, 1, 0); print $! + 0");
            let command = ["-e", FILTER, "perl", "-e", &script];
            sh::read(Command::new("perl").args(command)).unwrap()
        };
        // The filter returns EIO. The kernel returns ESRCH for a process that is not traced.
        assert_eq!([trace(0x4204), trace(0x4205)], ["5", "3"]);
    }
}
