//! The commands, as typed.

use clap::{CommandFactory, Parser, Subcommand};
use nspod_cli::manual;

use crate::cmd;

/// Run isolated processes, containers and pods, and see what is isolated from what.
///
/// Namespaces decide what a process can see, cgroups how much it can use.
/// Exit codes are docker's: 125 nspod itself failed, 126 the program cannot be executed,
/// 127 it is not there, 128+N signal N ended it, else the program's own.
#[derive(Debug, Parser)]
#[command(name = "nspod", version, max_term_width = 100, subcommand_required = true)]
pub(crate) struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Run a command in a container
    ///
    /// Without flags: new namespaces of all kinds but user and time, the host's files
    /// read-only with /proc, /dev, /sys, /tmp and /run of its own, the customary capabilities,
    /// no new privileges. An ordinary user gets a user namespace as well.
    ///
    /// In the foreground nspod waits, hands signals on, and leaves nothing behind (but see
    /// --keep). With -d it prints the id and ends; no process of its own stays.
    Run(Box<cmd::run::RunArgs>),
    /// Run a further command in a running container
    Exec(cmd::exec::ExecArgs),
    /// List containers, or the processes of one
    Ps(cmd::ps::PsArgs),
    /// List the processes of a container, with their pids on the host and inside
    Top(cmd::top::TopArgs),
    /// Show what a detached container has written, standard output and error in the order they
    /// came
    Logs(cmd::logs::LogsArgs),
    /// Show what containers use, as their cgroups count it
    Stats(cmd::stats::StatsArgs),
    /// Print everything about containers, as JSON
    Inspect(cmd::inspect::InspectArgs),
    /// Change the limits of running containers; those not named stay
    Update(Box<cmd::update::UpdateArgs>),
    /// Stop everything in containers, unseen by them
    Pause(cmd::pause::PauseArgs),
    /// Let paused containers go on
    Unpause(cmd::pause::PauseArgs),
    /// Send a signal to the first process of containers; KILL ends everything in them
    Kill(cmd::kill::KillArgs),
    /// Ask containers to end, and end them if they do not
    Stop(cmd::kill::StopArgs),
    /// Wait for containers to end, and print their exit codes
    Wait(cmd::wait::WaitArgs),
    /// Remove containers that have ended, with all that is kept of them
    Rm(cmd::rm::RmArgs),
    /// Remove all containers that have ended, and what crashes have left
    Prune(cmd::rm::PruneArgs),
    /// Containers that share namespaces and limits
    Pod(cmd::pod::PodArgs),
    /// Show which processes share which namespaces, and the containers and pods that they make
    ///
    /// Containers and pods are derived from coincidence alone, whoever started them: a container
    /// is what shares one namespace of each kind, not all of them the host's; a pod is containers
    /// that share one of pid, net, mnt, ipc and uts.
    Census(cmd::census::CensusArgs),
    /// Say what this host can and cannot do, and how to mend it
    ///
    /// Everything is tried, nothing is concluded from versions, and nothing is left behind.
    /// The exit code is 0 if the caller can start containers on this host, else 1.
    Doctor(cmd::doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Write manual pages to a directory
    #[command(hide = true)]
    Man(manual::ManArgs),
}

impl Cli {
    pub(crate) fn run(self) -> crate::error::Result<i32> {
        let json = self.json;
        let done = |()| 0;
        match self.command {
            Command::Run(args) => cmd::run::run(&args, json),
            Command::Exec(args) => cmd::exec::exec(&args),
            Command::Ps(args) => cmd::ps::ps(&args, json).map(done),
            Command::Top(args) => cmd::top::top(&args, json).map(done),
            Command::Logs(args) => cmd::logs::logs(&args).map(done),
            Command::Stats(args) => cmd::stats::stats(&args, json).map(done),
            Command::Inspect(args) => cmd::inspect::inspect(&args).map(done),
            Command::Update(args) => cmd::update::update(&args).map(done),
            Command::Pause(args) => cmd::pause::pause(&args, true).map(done),
            Command::Unpause(args) => cmd::pause::pause(&args, false).map(done),
            Command::Kill(args) => cmd::kill::kill(&args).map(done),
            Command::Stop(args) => cmd::kill::stop(&args).map(done),
            Command::Wait(args) => cmd::wait::wait(&args, json).map(done),
            Command::Rm(args) => cmd::rm::rm(&args).map(done),
            Command::Prune(args) => cmd::rm::prune(&args).map(done),
            Command::Pod(args) => cmd::pod::pod(args.command, json),
            Command::Census(args) => cmd::census::census(&args, json).map(done),
            Command::Doctor(args) => cmd::doctor::doctor(&args, json),
            Command::Completions(args) => manual::completions(&args, Cli::command()).map(done),
            Command::Man(args) => manual::man(&args, Cli::command()).map(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_list_says_of_each_command_what_it_does() {
        // What an argument type says is not read before its command is chosen, and must say the same.
        let mut built = Cli::command();
        built.build();
        for command in Cli::command().get_subcommands() {
            let said = |command: &clap::Command| command.get_about().map(ToString::to_string);
            let name = command.get_name();
            assert!(said(command).is_some(), "{name}");
            assert_eq!(built.find_subcommand(name).and_then(said), said(command), "{name}");
        }
    }

    #[test]
    fn a_manual_page_renders_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        manual::man(&manual::ManArgs { dir: dir.path().into() }, Cli::command()).unwrap();
        for page in ["nspod.1", "nspod-run.1", "nspod-pod-create.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS") && text.len() > 500, "{page}");
        }
    }

    #[test]
    fn completions_know_the_flags() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nspod", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("pids-limit"), "{shell}");
        }
    }

    #[test]
    fn flags_of_the_program_are_the_programs() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let Command::Run(args) = parse("nspod run -m 1g ls -l --json -- x").unwrap().command else {
            panic!()
        };
        assert_eq!(args.command, ["ls", "-l", "--json", "--", "x"]);
        assert_eq!(parse("nspod run --unknown ls").unwrap_err().kind(), ErrorKind::UnknownArgument);
        assert_eq!(parse("nspod run").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        assert!(parse("nspod --json run ls").unwrap().json);
    }

    #[test]
    fn h_is_the_host_name_of_run() {
        let parsed = Cli::try_parse_from(["nspod", "run", "-h", "box", "hostname"]);
        assert!(parsed.is_ok());
    }
}
