//! The commands: one file each.

use clap::Subcommand;
use nspod_cli::error::Result;
use nspod_cli::manual;

use crate::global::Global;

mod create;
mod criu;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod update;

pub(crate) use features::version;

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Create a container; `start` runs its program
    Create(create::CreateArgs),
    /// Run the program of a created container
    Start(start::StartArgs),
    /// Create a container and run its program
    ///
    /// In the foreground, the exit code is that of the program, and the container is deleted afterwards.
    Run(run::RunArgs),
    /// Run another process in a container
    Exec(Box<exec::ExecArgs>),
    /// Print the state of a container
    State(state::StateArgs),
    /// List containers
    List(list::ListArgs),
    /// List the processes of a container
    Ps(ps::PsArgs),
    /// Send a signal to the first process of a container
    Kill(kill::KillArgs),
    /// Remove a container that is stopped or has not been started
    Delete(delete::DeleteArgs),
    /// Suspend all processes of a container
    Pause(pause::PauseArgs),
    /// Resume the processes of a paused container
    Resume(pause::PauseArgs),
    /// Change limits of a container; the other limits stay unchanged
    Update(Box<update::UpdateArgs>),
    /// Print the resource usage and OOM kills of a container
    Events(events::EventsArgs),
    /// Write the state of a running container to images, and stop the container
    Checkpoint(Box<criu::CheckpointArgs>),
    /// Create a container from images
    Restore(Box<criu::RestoreArgs>),
    /// Write an example config.json
    Spec(spec::SpecArgs),
    /// Print the features that this runtime supports
    Features(features::FeaturesArgs),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Write manual pages to a directory
    #[command(hide = true)]
    Man(manual::ManArgs),
}

impl Command {
    /// Runs the command; returns the exit code. `cli` describes the whole command line.
    pub(crate) fn run(self, global: &Global, cli: fn() -> clap::Command) -> Result<i32> {
        let done = |()| 0;
        match self {
            Command::Create(args) => create::create(global, &args).map(done),
            Command::Start(args) => start::start(global, &args).map(done),
            Command::Run(args) => run::run(global, &args),
            Command::Exec(args) => exec::exec(global, *args),
            Command::State(args) => state::state(global, &args).map(done),
            Command::List(args) => list::list(global, &args).map(done),
            Command::Ps(args) => ps::ps(global, &args).map(done),
            Command::Kill(args) => kill::kill(global, &args).map(done),
            Command::Delete(args) => delete::delete(global, &args).map(done),
            Command::Pause(args) => pause::pause(global, &args).map(done),
            Command::Resume(args) => pause::resume(global, &args).map(done),
            Command::Update(args) => update::update(global, &args).map(done),
            Command::Events(args) => events::events(global, &args).map(done),
            Command::Checkpoint(args) => criu::checkpoint(global, *args).map(done),
            Command::Restore(args) => criu::restore(global, *args),
            Command::Spec(args) => spec::spec(&args).map(done),
            Command::Features(_) => features::features().map(done),
            Command::Completions(args) => manual::completions(&args, cli()).map(done),
            Command::Man(args) => manual::man(&args, cli(), |_| Vec::new()).map(done),
        }
    }
}
