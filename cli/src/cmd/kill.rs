//! `nspod kill` and `nspod stop`.

use std::time::Duration;

use clap::Args;
use nspod_sandbox::ErrorKind;

use super::{each, print_id};
use crate::error::{Error, Result};
use crate::foreground::would_be_lost;
use crate::state::{Entry, Store};
use crate::value;

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal to send, by name or number
    #[arg(short, long, value_name = "SIGNAL", value_parser = value::signal, default_value = "KILL")]
    signal: i32,
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds to wait before the containers are killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u64,
    /// Signal to send first, instead of the --stop-signal of the container
    #[arg(short, long, value_name = "SIGNAL", value_parser = value::signal)]
    signal: Option<i32>,
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

pub(crate) fn kill(args: &KillArgs, json: bool) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        send(args.signal, &store, &entry)?;
        if json { print_id(entry.id(), json) } else { Ok(()) }
    })
}

/// Sends a signal to the first process of a container. SIGKILL kills all its processes.
fn send(signal: i32, store: &Store, entry: &Entry) -> Result<()> {
    let kills = signal == nix::libc::SIGKILL;
    if kills && entry.is_outlived()? {
        return store.kill(entry);
    }
    let container = entry.open()?;
    if kills {
        return store.kill(entry);
    }
    if would_be_lost(container.pid(), signal) {
        let problem = format!(
            "signal {signal} would be lost: the program of {} is pid 1 and has no handler for it, and the kernel drops such signals; use --signal KILL, or run it without --init=false",
            entry.id()
        );
        return Err(Error::state("kill", entry.id(), problem));
    }
    Ok(container.signal(signal)?)
}

pub(crate) fn stop(args: &StopArgs, json: bool) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let entry = store.find(id)?;
        let container = match entry.open() {
            Ok(container) => container,
            // It has ended already. Processes can have outlived the first one.
            Err(_) if entry.saved().is_some() && !entry.lives()? => {
                if entry.is_outlived()? {
                    store.kill(&entry)?;
                }
                store.disconnect(&entry)?;
                return print_id(entry.id(), json);
            }
            Err(e) => return Err(e),
        };
        let signal = args.signal.unwrap_or(entry.record()?.stop_signal);
        // The kernel drops this signal, so the program would not end during the wait.
        let lost = would_be_lost(container.pid(), signal);
        if !lost {
            match container.signal(signal) {
                // It has just ended.
                Err(e) if e.kind() == ErrorKind::ProcessEnded => {}
                sent => sent?,
            }
        }
        if lost || !container.pidfd().poll(Some(Duration::from_secs(args.time)))? {
            store.kill(&entry)?;
        }
        store.disconnect(&entry)?;
        print_id(entry.id(), json)
    })
}
