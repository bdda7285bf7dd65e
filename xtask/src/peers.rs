//! `cargo xtask bench-peers`: nspod beside its peers, into benches/RESULTS.md.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::guest::{self, repository};
use crate::install;
use crate::sh;

/// Whom nspod is compared with, and what counts system calls.
const PEERS: &[&str] = &["bubblewrap", "crun", "gcc", "runc|containerd.io", "strace", "util-linux"];
/// One more, which Debian has not. Optional: what is not present is a row that says so.
const YOUKI: [&str; 4] = ["youki", "--locked", "--no-default-features", "--features=v2"];

/// Measure nspod beside crun, runc, youki, bubblewrap and unshare
///
/// Installs them from Debian's packages (youki: builds it from crates.io into target/peers), builds the release
/// binaries, lets the sides take turns row by row, and writes benches/RESULTS.md and benches/plots. As root; it
/// takes some ten minutes on a machine that should have nothing else to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A minute in all: fewer rounds and smaller numbers
    #[arg(long)]
    quick: bool,
    /// Measure only this row, and write nothing; may be given more than once
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    list: bool,
    /// Install nothing: what is not present is not compared with
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
                // Elsewhere, so that it is built as its authors mean it and not by our configuration.
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
    // In this one's place, so that a signal to end reaches the one that has to clean up.
    let error = peers.exec();
    Err(error).with_context(|| format!("`{}` could not be started", sh::line(&peers)))
}

/// Whether a container limited to one process starts, in the guest lane, where this host's cgroup v2 cannot limit
/// them; `None` where that is not asked for or the guest does not come up.
fn pids_max_in_guest(args: &Args) -> Result<Option<bool>> {
    let here = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let wanted = args.only.is_empty() || args.only.iter().any(|row| row == "pids-max");
    if !wanted || args.list || args.quick || args.no_install || here.split_whitespace().any(|c| c == "pids") {
        return Ok(None);
    }
    let own = std::env::current_exe()?;
    let built = own.ancestors().nth(2).context("the folder of this program")?.join("release/nspod");
    let limited = "read max < /sys/fs/cgroup/pids.max && [ $max = 1 ]";
    let command = [&built.to_string_lossy(), "run", "--pids-limit", "1", "--", "/bin/sh", "-c", limited];
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
