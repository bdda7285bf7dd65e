//! `kill`: sends a signal.

use clap::Args;
use ns_core::Kind;
use nspod_cli::error::{Error, Result};
use nspod_cli::value;

use crate::args::Global;
use crate::log;
use crate::state::{Entry, Record};

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// To all its processes
    #[arg(short, long)]
    all: bool,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
    /// By name or number
    #[arg(value_name = "SIGNAL", value_parser = value::signal, default_value = "TERM")]
    signal: i32,
}

pub(crate) fn kill(global: &Global, args: &KillArgs) -> Result<()> {
    let entry = global.store()?.find(&args.id)?;
    let record = entry.record()?;
    if args.all {
        return all(record, args.signal);
    }
    if args.signal == nix::libc::SIGKILL && record.cgroup_path().is_some() && shares_pid(global, &entry)? {
        // No end of a first process takes the others along, and they may have outlived theirs.
        return all(record, args.signal);
    }
    let process = record.pidfd()?.ok_or_else(not_running)?;
    log::debug(&format_args!("send signal {} to process {}", args.signal, record.init_process_pid));
    match process.send_signal(args.signal) {
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Err(not_running()),
        other => Ok(other?),
    }
}

/// Whether its pid namespace is not its own.
fn shares_pid(global: &Global, entry: &Entry) -> Result<bool> {
    let config = entry.config()?;
    Ok(!config.container_spec(&entry.context(global)?)?.spec.namespaces.is_new(Kind::Pid))
}

fn not_running() -> Error {
    Error::new("container not running")
}

/// Whatever is in its cgroup, be its first process there still or not.
fn all(record: &Record, signal: i32) -> Result<()> {
    log::debug(&format_args!("send signal {signal} to all processes of the container"));
    let gone = |e: &cgroup_core::Error| e.kind() == cgroup_core::ErrorKind::NotFound;
    let done = if signal == nix::libc::SIGKILL {
        record.cgroup()?.kill()
    } else {
        let cgroup = record.cgroup()?;
        cgroup.procs_recursive().map(|pids| {
            for pid in pids {
                // One that has ended meanwhile needs no signal.
                let _ = ns_core::Pidfd::open(pid).and_then(|process| process.send_signal(signal));
            }
        })
    };
    match done {
        Err(e) if gone(&e) => Ok(()),
        other => Ok(other?),
    }
}
