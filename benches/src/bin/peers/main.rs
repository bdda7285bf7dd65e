//! Measures nspod beside its peers with alternating sides, and writes `benches/RESULTS.md`.
//! Started by `cargo xtask bench-peers`.
//!
//! Everything runs in its own pid, mnt and cgroup namespaces, so that nothing is left behind even after a failure.
//! Its processes, mounts and state end with the namespaces. Its cgroups lie below one cgroup, which is removed at
//! the end.

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
    /// Measure, inside the namespaces
    #[command(hide = true)]
    Worker {
        /// A directory for files
        files: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Start containers on orders from standard input
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

/// Runs the worker in its own namespaces, and cleans up after its end.
fn supervise(options: &Options) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "NOTHING MEASURED: the measurements start containers, which requires root; run this as root"
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
    worker.mount(Mount::new("/run", MountKind::Tmpfs { mode: Some(0o755) }));
    // Runtimes leave their containers to pid 1, which must reap them as on any host.
    worker.init(true);
    worker.cgroup_at(PathBuf::from("/").join(&name));
    let mut worker = worker.spawn().context("start the measuring process in new namespaces")?;
    let outcome = loop {
        if interrupted.load(Ordering::Relaxed) {
            worker.kill()?;
        }
        if let Some(outcome) = worker.wait_timeout(Duration::from_millis(200))? {
            break outcome;
        }
    };
    worker.delete().context("remove the namespaces of the measuring process")?;
    drop(files);
    ensure!(!interrupted.load(Ordering::Relaxed), "interrupted; everything is cleaned up");
    Ok(match outcome.status {
        ExitStatus::Exited(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        status => {
            eprintln!("peers: the measuring process ended with {status:?}");
            ExitCode::FAILURE
        }
    })
}

/// A directory that is removed at the end. Containers can see it, unlike /tmp.
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
