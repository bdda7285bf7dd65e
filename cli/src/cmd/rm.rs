//! `nspod rm` and `nspod prune`: remove containers.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{each, print_id};
use crate::error::{Error, Result};
use crate::output;
use crate::state::pods::Pods;
use crate::state::{self, Locked, State, Store};

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Kill running containers first. A container that does not exist is not an error
    #[arg(short, long)]
    force: bool,
    /// Names or ids of the containers
    #[arg(value_name = "CONTAINER", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Do not ask. nspod never asks; scripts for docker use this flag
    #[arg(short = 'f', long = "force")]
    _force: bool,
}

pub(crate) fn rm(args: &RmArgs, json: bool) -> Result<()> {
    let store = Store::open()?;
    each(&args.ids, |id| {
        let found = if args.force { store.get(id)? } else { Some(store.find(id)?) };
        let Some(entry) = found else { return Ok(()) };
        if entry.state()? == State::Creating {
            let problem = format!("another command is starting or removing the container {}", entry.id());
            return Err(Error::state("rm", entry.id(), problem));
        }
        let Locked::Ours(entry, lock) = store.lock(entry.id(), true)? else {
            // Another invocation has just removed or renamed it.
            return if args.force { print_id(entry.id(), json) } else { Err(state::missing(entry.id())) };
        };
        if args.force {
            entry.end()?;
        } else if entry.lives()? {
            return Err(Error::state("rm", entry.id(), format!("the container {} is running", entry.id()))
                .hint(format!(
                    "`nspod stop {0}` ends it, `nspod rm -f {0}` ends and removes it",
                    entry.id()
                )));
        }
        store.remove(&entry, &lock)?;
        print_id(entry.id(), json)
    })
}

/// What `nspod prune` has removed.
#[derive(Debug, Default, Serialize)]
struct Pruned {
    pods: Vec<String>,
    containers: Vec<String>,
    /// Paths of logs whose container does not exist any more.
    logs: Vec<PathBuf>,
}

pub(crate) fn prune(_: &PruneArgs, json: bool) -> Result<()> {
    let mut pruned = Pruned::default();
    let removed = pruned.remove();
    pruned.print(json)?;
    removed
}

impl Pruned {
    fn remove(&mut self) -> Result<()> {
        let store = Store::open()?;
        let pods = Pods::open()?;
        let of_pods = each(&pods.names()?, |name| {
            if pods.prune(name)? {
                self.pods.push(name.clone());
            }
            Ok(())
        });
        each(&store.all()?, |entry| match store.lock(entry.id(), false)? {
            Locked::Ours(entry, lock) if !entry.lives()? => {
                store.remove(&entry, &lock)?;
                self.containers.push(entry.id().to_owned());
                Ok(())
            }
            _ => Ok(()),
        })?;
        // These containers belong to other programs, so the output does not list them.
        nspod_sandbox::reap_stale()?;
        self.logs = store.prune_logs()?;
        of_pods
    }

    fn print(&self, json: bool) -> Result<()> {
        if json {
            return output::json(self);
        }
        let logs = self.logs.iter().map(|log| log.display().to_string());
        let all = self.pods.iter().chain(&self.containers).cloned().chain(logs);
        output::print(all.map(|name| format!("{name}\n")).collect::<String>())
    }
}
