//! `cargo xtask bench-peers`: measures nspod beside its peers and writes benches/RESULTS.md.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::guest::{self, repository};
use crate::install;
use crate::sh;

/// The programs to compare nspod with, and strace, which counts system calls.
const PEERS: &[&str] = &["bubblewrap", "crun", "gcc", "runc|containerd.io", "strace", "util-linux"];
/// A peer that Debian does not package. If it is missing, its rows say so.
const YOUKI: [&str; 4] = ["youki", "--locked", "--no-default-features", "--features=v2"];

/// Measure nspod beside crun, runc, youki, bubblewrap and unshare
///
/// Installs them from Debian's packages (builds youki from crates.io in target/peers), builds the release
/// binaries, measures the sides in turns, and writes benches/RESULTS.md and benches/plots. Requires root. Lasts about
/// ten minutes on an idle machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Last about a minute: fewer rounds and smaller numbers
    #[arg(long)]
    quick: bool,
    /// Measure only this row, and write nothing. Can be repeated
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Install nothing: leave out missing peers
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let root = repository();
    if !args.no_install && !args.list {
        install::packages(PEERS, true)?;
        let peers = root.join("target/peers");
        if !peers.join("bin/youki").exists()
            && let Err(error) = sh::run(
                // Outside of the repository, whose cargo configuration would apply.
                Command::new("cargo").arg("install").args(YOUKI).arg("--root").arg(&peers).current_dir("/"),
            )
        {
            eprintln!("xtask: no youki to compare with: {error:#}");
        }
    }
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--bins", "-p", "nspod-cli", "-p", "nspod-benches"]).current_dir(&root);
    sh::run(&mut build)?;
    let mut peers = Command::new("cargo");
    peers.args(["run", "--quiet", "--release", "-p", "nspod-benches", "--bin", "peers", "--"]);
    peers.arg("--output").arg(root.join("benches")).current_dir(&root);
    for (flag, is_set) in [("--quick", args.quick), ("--list", args.list)] {
        peers.args(is_set.then_some(flag));
    }
    peers.args(args.only.iter().flat_map(|row| ["--only", row]));
    if let Some(started) = pids_max_in_guest(args)? {
        peers.arg(format!("--pids-max-in-guest={started}"));
    }
    // Replace this process, so that signals reach the process that cleans up.
    let error = peers.exec();
    Err(error).with_context(|| format!("`{}` could not be started", sh::line(&peers)))
}

/// Returns whether a container limited to one process starts in the guest, if the cgroups of this host cannot limit
/// processes. `None` if this is not to be measured or the guest does not boot.
fn pids_max_in_guest(args: &Args) -> Result<Option<bool>> {
    let here = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let wanted = args.only.is_empty() || args.only.iter().any(|row| row == "pids-max");
    if !wanted || args.list || args.quick || args.no_install || here.split_whitespace().any(|c| c == "pids") {
        return Ok(None);
    }
    let own = std::env::current_exe()?;
    let built = own.ancestors().nth(2).context("this program is in no directory")?.join("release/nspod");
    let limited = "read max < /sys/fs/cgroup/pids.max && [ $max = 1 ]";
    let command = [
        &built.to_string_lossy(),
        "run",
        "--init=false",
        "--pids-limit",
        "1",
        "--",
        "/bin/sh",
        "-c",
        limited,
    ];
    let guest = guest::Args { command: command.map(str::to_owned).to_vec(), ..Default::default() };
    match guest::run_with(&guest, &[], guest::print) {
        Ok(code) if code != guest::BOOT_FAILED => Ok(Some(code == 0)),
        Ok(_) => Ok(None),
        Err(error) => {
            eprintln!("xtask: no guest to limit a container in: {error:#}");
            Ok(None)
        }
    }
}
