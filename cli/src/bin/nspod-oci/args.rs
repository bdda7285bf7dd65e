//! The commands, as typed: runc's, and what clients send of crun's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use nspod_cli::error::Result;
use nspod_cli::{manual, runtime_dir};
use nspod_sandbox::Host;

use crate::cmd;
use crate::log::Format;

/// Run containers as the Open Container Initiative specifies them
///
/// A bundle is a directory with a config.json and a root file system. Clients such as podman,
/// containerd and CRI-O use this program as they use runc.
#[derive(Debug, Parser)]
#[command(name = "nspod-oci", disable_version_flag = true, max_term_width = 100, args_override_self = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the state of containers is kept [default: /run/nspod-oci, or
    /// $XDG_RUNTIME_DIR/nspod-oci of an ordinary user, who may be root in a user namespace]
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub(crate) root: MaybePath,
    /// Write the log to a file and not to standard error
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub(crate) log: MaybePath,
    /// How to write the log
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: Format,
    /// Log more
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) debug: bool,
    /// Make cgroups by asking systemd: cgroupsPath is then SLICE:PREFIX:NAME
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) systemd_cgroup: bool,
    /// Who makes cgroups
    #[arg(long, value_name = "MANAGER", value_enum)]
    pub(crate) cgroup_manager: Option<CgroupManager>,
    /// Go on without a cgroup where none is to be had and no limit is asked for
    #[arg(long, value_name = "WHETHER", value_enum, default_value = "auto")]
    pub(crate) rootless: Rootless,
    #[arg(long, hide = true, value_name = "FILE", default_value = "", hide_default_value = true)]
    criu: MaybePath,
    /// Print the version
    #[arg(short, long)]
    pub(crate) version: bool,
}

/// A path that may be left out or empty. runc treats both alike.
#[derive(Debug, Clone)]
pub(crate) struct MaybePath(PathBuf);

impl From<OsString> for MaybePath {
    fn from(text: OsString) -> Self {
        MaybePath(text.into())
    }
}

impl MaybePath {
    pub(crate) fn get(&self) -> Option<&Path> {
        (!self.0.as_os_str().is_empty()).then_some(&self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    True,
    False,
    Auto,
}

impl Global {
    pub(crate) fn rootless(&self) -> bool {
        match self.rootless {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto => !nix::unistd::geteuid().is_root() || Host::is_nested(),
        }
    }

    pub(crate) fn store(&self) -> Result<crate::state::Store> {
        let own = || runtime_dir::of_user().unwrap_or_else(|| "/run".into()).join("nspod-oci");
        crate::state::Store::open(&self.root.get().map_or_else(own, Path::to_owned))
    }
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Make a container, all but its program, which `start` runs
    Create(cmd::create::CreateArgs),
    /// Run the program of a container that was created
    Start(cmd::start::StartArgs),
    /// Make a container and run its program
    ///
    /// In the foreground its exit code is the program's, and the container is deleted.
    Run(cmd::run::RunArgs),
    /// Run a further process in a container
    Exec(Box<cmd::exec::ExecArgs>),
    /// Print the state of a container
    State(cmd::state::StateArgs),
    /// List containers
    List(cmd::list::ListArgs),
    /// List the processes of a container
    Ps(cmd::ps::PsArgs),
    /// Send a signal to the first process of a container
    Kill(cmd::kill::KillArgs),
    /// Remove a container that has stopped, or was not started
    Delete(cmd::delete::DeleteArgs),
    /// Stop all processes of a container
    Pause(cmd::pause::PauseArgs),
    /// Let the processes of a paused container go on
    Resume(cmd::pause::PauseArgs),
    /// Change the limits of a container; those not named stay
    Update(Box<cmd::update::UpdateArgs>),
    /// Print what a container uses, and when it runs out of memory
    Events(cmd::events::EventsArgs),
    /// Write a running container to images, and end it
    Checkpoint(Box<cmd::criu::CheckpointArgs>),
    /// Make a container from images
    Restore(Box<cmd::criu::RestoreArgs>),
    /// Write a config.json to begin with
    Spec(cmd::spec::SpecArgs),
    /// Print what this runtime supports
    Features(cmd::features::FeaturesArgs),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Write manual pages to a directory
    #[command(hide = true)]
    Man(manual::ManArgs),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<i32> {
        let done = |()| 0;
        match self {
            Command::Create(args) => cmd::create::create(global, &args).map(done),
            Command::Start(args) => cmd::start::start(global, &args).map(done),
            Command::Run(args) => cmd::run::run(global, &args),
            Command::Exec(args) => cmd::exec::exec(global, &args),
            Command::State(args) => cmd::state::state(global, &args).map(done),
            Command::List(args) => cmd::list::list(global, &args).map(done),
            Command::Ps(args) => cmd::ps::ps(global, &args).map(done),
            Command::Kill(args) => cmd::kill::kill(global, &args).map(done),
            Command::Delete(args) => cmd::delete::delete(global, &args).map(done),
            Command::Pause(args) => cmd::pause::pause(global, &args).map(done),
            Command::Resume(args) => cmd::pause::resume(global, &args).map(done),
            Command::Update(args) => cmd::update::update(global, &args).map(done),
            Command::Events(args) => cmd::events::events(global, &args).map(done),
            Command::Checkpoint(args) => cmd::criu::checkpoint(global, &args).map(done),
            Command::Restore(args) => cmd::criu::restore(global, &args),
            Command::Spec(args) => cmd::spec::spec(&args).map(done),
            Command::Features(_) => cmd::features::features().map(done),
            Command::Completions(args) => manual::completions(&args, Cli::command()).map(done),
            Command::Man(args) => manual::man(&args, Cli::command()).map(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

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
        for page in ["nspod-oci.1", "nspod-oci-create.1", "nspod-oci-update.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS") && text.len() > 500, "{page}");
        }
    }

    #[test]
    fn clients_lines_are_understood() {
        for line in [
            "nspod-oci --root /r --log /l --log-format json --debug --systemd-cgroup create --bundle /b --pid-file /p --console-socket /s --pidfd-socket /f --no-pivot --no-new-keyring --preserve-fds 2 id",
            "nspod-oci --systemd-cgroup=false --debug=true --rootless=auto create id -b /b",
            "nspod-oci --cgroup-manager disabled run -d -b /b id",
            "nspod-oci run --keep --no-subreaper id",
            "nspod-oci --log-format=json start id",
            "nspod-oci kill id",
            "nspod-oci kill --all id 9",
            "nspod-oci kill id -a SIGTERM",
            "nspod-oci delete --force id",
            "nspod-oci delete id -f",
            "nspod-oci exec --process /p --console-socket /s --pid-file /f --detach id",
            "nspod-oci exec -d -t -u 1:2 --cwd / -e A=b --cap CAP_KILL id sh -c true",
            "nspod-oci exec id --tty sh",
            "nspod-oci list --format json",
            "nspod-oci list -q",
            "nspod-oci ps --format json id",
            "nspod-oci ps id -ef",
            "nspod-oci update --resources - id",
            "nspod-oci update id --memory 1000 --memory-swap -1 --cpu-quota -1",
            "nspod-oci events --stats id",
            "nspod-oci events --interval 1s id",
            "nspod-oci checkpoint --image-path /i --work-path /w --leave-running --tcp-established --ext-unix-sk --shell-job --file-locks --link-remap --tcp-skip-in-flight id",
            "nspod-oci restore --image-path /i --work-path /w --bundle /b --detach --pid-file /p --no-pivot --no-subreaper id",
            "nspod-oci spec --rootless --bundle /b",
            "nspod-oci features",
            "nspod-oci --root /a --root /b state id",
            "nspod-oci exec --cwd /a --cwd /b id true",
            "nspod-oci --version",
            "nspod-oci -v",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn an_empty_path_is_none() {
        let line = ["nspod-oci", "--log", "", "--root", "", "create", "--pid-file", "", "--bundle", "", "id"];
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(cli.global.log.get().is_none() && cli.global.root.get().is_none());
        assert!(
            Cli::try_parse_from(["nspod-oci", "exec", "--process", "", "--cwd", "", "id", "true"]).is_ok()
        );
    }

    #[test]
    fn what_follows_the_program_is_the_programs() {
        let Some(Command::Exec(args)) = parse("nspod-oci exec id ls -d --tty -- x").unwrap().command else {
            panic!()
        };
        assert_eq!(args.command, ["ls", "-d", "--tty", "--", "x"]);
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        assert!(parse("nspod-oci create --unknown id").is_err());
        assert!(parse("nspod-oci create").is_err());
        assert!(parse("nspod-oci --rootless maybe state id").is_err());
    }
}
