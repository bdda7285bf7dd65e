//! Measures nspod beside its peers, each row with the sides alternating, and writes
//! `benches/RESULTS.md`. Started by `cargo xtask bench-peers`.
//!
//! Everything runs within a pid, mnt and cgroup namespace of its own, so that nothing is left
//! behind whatever happens: what runs there ends with it, its mounts and state go with it, and its
//! cgroups lie under one, which is removed at the end.

mod experiment;
mod growth;
mod inside;
mod many;
mod measure;
mod options;
mod page;
mod plot;
mod report;
mod stage;
mod station;
mod whole;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use nspod_sandbox::ns_core::{Kind, Kinds};
use nspod_sandbox::spec::{Mount, MountKind};
use nspod_sandbox::{Command, ExitStatus};
use options::Options;

/// Measure nspod beside its peers
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Within the namespaces: measure
    #[command(hide = true)]
    Worker {
        /// A folder for files
        files: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// A process that starts containers as it is told on standard input
    #[command(hide = true)]
    Station { root: PathBuf, cgroup: PathBuf },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.role {
        None if cli.options.list => {
            for experiment in experiment::ALL {
                println!("{:14} {}", experiment.heading.name, experiment.heading.title);
            }
            Ok(ExitCode::SUCCESS)
        }
        None => supervise(&cli.options),
        Some(Role::Worker { files, options }) => experiment::run_all(&files, &options),
        Some(Role::Station { root, cgroup }) => station::serve(root, cgroup).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("peers: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs the worker in namespaces of its own, and cleans up when it has ended.
fn supervise(options: &Options) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "NOTHING MEASURED: the peers start containers as root does; run it as root"
    );
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let name = format!("nspod-peers-{}", std::process::id());
    let files = Files::new(&name)?;
    let mut worker = Command::bare(std::env::current_exe()?);
    worker.arg("worker").arg(&files.0).args(options.words());
    worker.isolate(Kinds::from(Kind::Pid) | Kinds::from(Kind::Mnt) | Kinds::from(Kind::Cgroup));
    worker.mount(Mount::new("/proc", MountKind::Proc));
    worker.mount(Mount::new("/run", MountKind::Tmpfs { size: None, mode: Some(0o755) }));
    // Orphans are reaped as on any host: runtimes leave their containers to pid 1.
    worker.spec_mut().init = true;
    worker.cgroup_at(PathBuf::from("/").join(&name));
    let mut worker = worker.spawn().context("the namespaces to measure in")?;
    let outcome = loop {
        if interrupted.load(Ordering::Relaxed) {
            worker.kill()?;
        }
        if let Some(outcome) = worker.wait_timeout(Duration::from_millis(200))? {
            break outcome;
        }
    };
    worker.delete().context("remove what was measured in")?;
    drop(files);
    ensure!(!interrupted.load(Ordering::Relaxed), "interrupted; everything is cleaned up");
    Ok(match outcome.status {
        ExitStatus::Exited(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        status => {
            eprintln!("peers: the measuring process ended by {status:?}");
            ExitCode::FAILURE
        }
    })
}

/// A folder that is removed at the end. Containers see it, as they do not see /tmp.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Result<Files> {
        let path = PathBuf::from("/var/tmp").join(name);
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Files(path))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
