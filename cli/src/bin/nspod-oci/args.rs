//! The command line: runc's, and the options of crun that clients use.

use clap::Parser;

use crate::cmd::Command;
use crate::global::Global;

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn each_command_is_consistent_and_has_a_manual_page() {
        crate::test_commands::check(
            Cli::command,
            ["nspod-oci.1", "nspod-oci-create.1", "nspod-oci-update.1"],
        );
    }

    #[test]
    fn command_lines_of_clients_are_parsed() {
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
    fn an_empty_path_counts_as_unset() {
        let line = ["nspod-oci", "--log", "", "--root", "", "create", "--pid-file", "", "--bundle", "", "id"];
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(cli.global.log.get().is_none() && cli.global.root.get().is_none());
        assert!(
            Cli::try_parse_from(["nspod-oci", "exec", "--process", "", "--cwd", "", "id", "true"]).is_ok()
        );
    }

    #[test]
    fn arguments_after_the_program_belong_to_it() {
        let Some(Command::Exec(args)) = parse("nspod-oci exec id ls -d --tty -- x").unwrap().command else {
            panic!()
        };
        assert_eq!(args.command, ["ls", "-d", "--tty", "--", "x"]);
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        let refused = |line| parse(line).unwrap_err().kind();
        assert_eq!(refused("nspod-oci create --unknown id"), ErrorKind::UnknownArgument);
        assert_eq!(refused("nspod-oci create"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused("nspod-oci --rootless maybe state id"), ErrorKind::InvalidValue);
    }
}
