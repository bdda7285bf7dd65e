//! The command line: subcommands and their help.

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use nspod_cli::manual;

use crate::{cmd, complete, pages};

/// Run isolated processes, containers and pods, and show which processes are isolated from which.
///
/// Namespaces decide what a process can see, cgroups how much it can use.
/// The exit code is that of the program, 124 if it exceeded a time limit, or as in docker: 125 nspod failed, 126 the program cannot
/// be executed, 127 the program does not exist, 128+N signal N killed the program.
#[derive(Debug, Parser)]
#[command(
    name = "nspod",
    version,
    max_term_width = 100,
    subcommand_required = true,
    after_help = "`nspod man COMMAND` shows the manual page of a command, with examples."
)]
pub(crate) struct Cli {
    /// Print JSON; errors and warnings are one line of JSON each on standard error
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
    /// By default the container has new namespaces of all kinds except user and time, the host's
    /// files read-only with new /proc, /dev, /sys, /tmp and /run, docker's capabilities without
    /// MKNOD, and no new privileges. For a caller without privileges it also has a new user namespace.
    ///
    /// In the foreground nspod waits for the program, forwards signals to it, and removes the
    /// container (see --keep). With -d it prints the id and exits; only a small init stays in the
    /// container. With -it, the keys ctrl-p ctrl-q leave the container running: see `nspod attach`.
    Run(Box<cmd::run::RunArgs>),
    /// Run another command in a running container
    Exec(Box<cmd::exec::ExecArgs>),
    /// Return to the terminal of a container that was left with ctrl-p ctrl-q
    ///
    /// Without a daemon, a small process of nspod keeps the terminal of a container that was left. It
    /// ends with the container. The last 64 KiB that the program wrote meanwhile are shown first.
    Attach(cmd::attach::AttachArgs),
    /// List containers, or the processes of one
    Ps(cmd::ps::PsArgs),
    /// List the processes of a container, with their pids on the host and inside
    Top(cmd::top::TopArgs),
    /// Print the output of a detached container, standard output and standard error in their order
    Logs(cmd::logs::LogsArgs),
    /// Show the resource usage of containers, as counted by their cgroups
    Stats(cmd::stats::StatsArgs),
    /// List what a container changed in the directory of its overlay (--overlay=DIR of `nspod run`)
    ///
    /// Each line is A (added), C (changed) or D (deleted, with everything below) and a path. Control
    /// characters, bytes that are not UTF-8, and backslashes of a path are escaped as in `ls -b`. A file
    /// that the container only opened for writing is not a change. With --json, the output has the
    /// path, type, mode, owner, size, time of modification and extended attributes before and after.
    /// Changes in memory (--overlay without DIR) cannot be listed.
    Diff(cmd::layer::DiffArgs),
    /// Copy files and directories between the host and a running container
    ///
    /// Owners, modes and times are kept; a user of the container is the user with the same id on the host.
    /// Set-user-ID bits are not kept on the host. Pipes, sockets and devices are left out. A symbolic link
    /// is copied as a link, and no link of the container leads out of its files.
    Cp(cmd::cp::CpArgs),
    /// Apply the changes of a container to a directory, or discard them
    ///
    /// DIR is the directory below the overlay or a copy of it. It then has the files that the
    /// container saw: content, type, mode, owner, time of modification, extended attributes and hard
    /// links. A commit can be repeated after an interruption, and applies what is missing. The changes
    /// stay in the overlay until --discard removes them. A running container is frozen meanwhile. It
    /// must be stopped first if DIR is the directory below its overlay, or with --discard.
    Commit(cmd::layer::CommitArgs),
    /// Print the state and configuration of containers as JSON
    Inspect(cmd::inspect::InspectArgs),
    /// Give a container another name
    ///
    /// Its host name and its cgroup keep the old one.
    Rename(cmd::rename::RenameArgs),
    /// Change limits of running containers; the other limits stay unchanged
    Update(Box<cmd::update::UpdateArgs>),
    /// Freeze all processes of containers
    Pause(cmd::pause::PauseArgs),
    /// Thaw paused containers
    Unpause(cmd::pause::PauseArgs),
    /// Send a signal to the first process of containers; KILL kills all processes
    Kill(cmd::kill::KillArgs),
    /// Stop containers: send the stop signal, and kill them after a timeout
    Stop(cmd::kill::StopArgs),
    /// Wait until containers have exited, and print their exit codes
    Wait(cmd::wait::WaitArgs),
    /// Remove containers that have exited, and their state and logs
    Rm(cmd::rm::RmArgs),
    /// Remove all containers that have exited, and what crashes left behind
    Prune(cmd::rm::PruneArgs),
    /// Manage pods: containers that share namespaces and limits
    Pod(cmd::pod::PodArgs),
    /// Show which processes share which namespaces, and the containers and pods that they form
    ///
    /// Containers and pods are derived from shared namespaces alone, regardless of the program that
    /// started them. A container is the set of processes that are in the same namespace of each kind,
    /// if at least one of these namespaces is not the host's. A pod is a set of containers that
    /// share a pid, net, mnt, ipc or uts namespace.
    Census(cmd::census::CensusArgs),
    /// Check what this host supports, and print how to fix what is missing
    ///
    /// Each check tries the feature instead of comparing versions, and removes everything that it
    /// made. The last one is `nspod run true`. The exit code is 0 if the caller can start containers on this host, otherwise 1.
    Doctor(cmd::doctor::DoctorArgs),
    /// Print completions for a shell
    ///
    /// They complete commands, flags, and the names of containers, pods and networks. `source <(nspod completions
    /// bash)` loads them into a bash. For zsh, write them to the file _nspod in a directory of fpath; for fish, to
    /// ~/.config/fish/completions/nspod.fish.
    Completions(manual::CompletionsArgs),
    /// Show the manual page of a command
    ///
    /// At a terminal, man(1) shows the page. Otherwise the source of the page is printed.
    Man(pages::PageArgs),
    /// Print the versions of nspod and of the kernel
    Version(cmd::version::VersionArgs),
    /// Keep the terminal of a container that was left
    #[command(hide = true)]
    KeepTerminal(cmd::attach::KeepArgs),
}

/// Returns what to use instead of a command of docker that nspod does not have.
pub(crate) fn instead_of(command: &str) -> Option<&'static str> {
    Some(match command {
        "create" => "'run -d' makes a container and starts it; 'pod create' makes a pod",
        "start" | "restart" => "a container that has ended does not start again; 'run' starts a new one",
        "build" | "image" | "images" | "import" | "load" | "pull" | "push" | "rmi" | "save" | "tag" => {
            "nspod has no images: 'run --rootfs DIR' runs the files of a directory, and podman or docker run images \
             with the runtime nspod-oci"
        }
        "container" => "the commands for containers have no prefix: 'run', 'ps', 'inspect', 'rm', …",
        "events" => "'wait' returns when a container ends, and 'stats' shows its usage",
        "export" => "'cp NAME:/DIR DIR' copies the files of a running container",
        "info" => "'doctor' shows what this host supports, and 'version' the versions",
        "list" | "ls" => "'ps' lists the containers",
        "network" => "'run --network pasta' or 'run --network cni:NAME' connects a container",
        "port" => "'inspect' shows the published ports",
        "volume" => "'run -v DIR:PATH' shows a directory of the host in a container",
        _ => return None,
    })
}

/// Returns the definition of the command line. The help of each command names its manual page.
pub(crate) fn program() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let line = format!("`nspod man {}` shows the manual page, with examples.", command.get_name());
        command.after_help(line)
    })
}

impl Cli {
    /// Parses the command line of this process.
    pub(crate) fn parse_own() -> std::result::Result<Cli, clap::Error> {
        let mut program = program();
        let mut matches = program.try_get_matches_from_mut(std::env::args_os())?;
        Cli::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut program))
    }

    pub(crate) fn run(self) -> crate::error::Result<i32> {
        let json = self.json;
        let done = |()| 0;
        match self.command {
            Command::Run(args) => cmd::run::run(&args, json),
            Command::Exec(args) => cmd::exec::exec(&args, json),
            Command::Attach(args) => cmd::attach::attach(&args),
            Command::Ps(args) => cmd::ps::ps(&args, json).map(done),
            Command::Top(args) => cmd::top::top(&args, json).map(done),
            Command::Logs(args) => cmd::logs::logs(&args, json).map(done),
            Command::Stats(args) => cmd::stats::stats(&args, json).map(done),
            Command::Diff(args) => cmd::layer::diff(&args, json),
            Command::Cp(args) => cmd::cp::cp(&args, json).map(done),
            Command::Commit(args) => cmd::layer::commit(&args, json),
            Command::Inspect(args) => cmd::inspect::inspect(&args).map(done),
            Command::Rename(args) => cmd::rename::rename(&args, json).map(done),
            Command::Update(args) => cmd::update::update(&args, json).map(done),
            Command::Pause(args) => cmd::pause::pause(&args, true, json).map(done),
            Command::Unpause(args) => cmd::pause::pause(&args, false, json).map(done),
            Command::Kill(args) => cmd::kill::kill(&args, json).map(done),
            Command::Stop(args) => cmd::kill::stop(&args, json).map(done),
            Command::Wait(args) => cmd::wait::wait(&args, json).map(done),
            Command::Rm(args) => cmd::rm::rm(&args, json).map(done),
            Command::Prune(args) => cmd::rm::prune(&args, json).map(done),
            Command::Pod(args) => cmd::pod::pod(args.command, json),
            Command::Census(args) => cmd::census::census(&args, json).map(done),
            Command::Doctor(args) => cmd::doctor::doctor(&args, json),
            Command::Completions(args) => complete::print(&args, json).map(done),
            Command::Man(args) => pages::man(&args, Cli::command(), json).map(done),
            Command::Version(args) => cmd::version::version(&args, json).map(done),
            Command::KeepTerminal(args) => cmd::attach::keep(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn each_command_is_consistent_and_has_a_manual_page() {
        crate::test_commands::check(Cli::command, ["nspod.1", "nspod-run.1", "nspod-pod-create.1"]);
    }

    /// Returns whether the command has this flag or alias.
    fn has_flag(command: &clap::Command, word: &str) -> bool {
        let word = word.split('=').next().unwrap_or_default();
        command.get_arguments().any(|arg| match word.strip_prefix("--") {
            Some(name) => {
                arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
            }
            None => arg.get_short().is_some_and(|short| word == format!("-{short}")),
        })
    }

    #[test]
    fn the_flags_in_the_tables_about_other_programs_exist() {
        let readme = include_str!("../README.md");
        let section =
            readme.split_once("\n## The options of bwrap, unshare, nsjail and isolate\n").unwrap().1;
        let section = section.split_once("\n## ").unwrap().0;
        let mut program = Cli::command();
        program.build();
        let run = program.find_subcommand("run").unwrap();
        let mut counted = 0;
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
            assert!(cells.len() == 2 && !cells[1].trim().is_empty(), "{row}");
            for code in cells[1].split('`').skip(1).step_by(2) {
                let mut words = code.split(' ').peekable();
                let mut command = run;
                if words.next_if_eq(&"nspod").is_some() {
                    command = &program;
                    while let Some(sub) = words.peek().and_then(|word| command.find_subcommand(word)) {
                        command = sub;
                        words.next();
                    }
                } else if !code.starts_with('-') {
                    continue;
                }
                for word in words.filter(|word| word.starts_with('-')) {
                    assert!(has_flag(command, word), "{word} of `{code}` is not a flag: {row}");
                    counted += 1;
                }
            }
        }
        assert!(counted > 150, "{counted}");
    }

    #[test]
    fn flags_after_the_program_belong_to_it() {
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
    fn h_sets_the_host_name_in_run() {
        let parsed = Cli::try_parse_from(["nspod", "run", "-h", "box", "hostname"]);
        assert!(parsed.is_ok());
    }
}
