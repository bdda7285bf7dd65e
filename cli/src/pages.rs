//! `nspod man`, and the sections of the manual pages that the definitions of the commands do not have.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use clap::{Args, Command, ValueHint};
use nspod_cli::manual::{self, ManArgs, Section};
use serde_json::json;

use crate::error::{Error, Result};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct PageArgs {
    /// Write all manual pages to this directory, which must exist
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "command")]
    dir: Option<PathBuf>,
    /// The command, such as `run` or `pod create` [default: nspod]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Shows the manual page of a command.
pub(crate) fn man(args: &PageArgs, program: Command, json: bool) -> Result<()> {
    if let Some(dir) = &args.dir {
        manual::man(&ManArgs { dir: dir.clone() }, program, sections)?;
        return if json { output::json(&json!({ "dir": dir })) } else { Ok(()) };
    }
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut command = &program;
    for name in &args.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            let problem = format!("there is no command {}; `nspod --help` lists all", args.command.join(" "));
            Error::usage("COMMAND", problem)
        })?;
    }
    let page = manual::page(command, sections).unwrap_or_default();
    if json {
        return output::json(&json!({ "page": String::from_utf8_lossy(&page) }));
    }
    if !std::io::stdout().is_terminal() {
        return output::print(page);
    }
    // On a host without man(1) the help has the same content, except for the sections of this file.
    match show(&page) {
        Ok(()) => Ok(()),
        Err(_) => output::print(plain(command)),
    }
}

/// Shows a page with man(1).
fn show(page: &[u8]) -> std::io::Result<()> {
    let mut man = Process::new("man").args(["-l", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = man.stdin.take() {
        // The reader can leave before the end.
        let _ = input.write_all(page);
    }
    match man.wait()?.success() {
        true => Ok(()),
        false => Err(std::io::Error::other("man failed")),
    }
}

/// Returns the page as plain text.
fn plain(command: &Command) -> String {
    let mut text = command.clone().render_long_help().to_string();
    for section in sections(manual::page_name(command)) {
        text += &format!("\n{}:\n{}\n", section.title, section.text);
    }
    text
}

/// Returns the sections of a page.
pub(crate) fn sections(page: &str) -> Vec<Section> {
    let section = |title, text| Section { title, text };
    vec![
        section("EXAMPLES", examples(page)),
        section("ENVIRONMENT", environment(page)),
        section("EXIT STATUS", exit_status(page).into()),
        section("SEE ALSO", see_also(page)),
    ]
}

fn examples(page: &str) -> String {
    let texts: Vec<String> =
        examples_of(page).iter().map(|(what, line)| format!("{what}:\n    {line}")).collect();
    texts.join("\n\n")
}

/// What a command line does, and the command line.
type Example = (&'static str, &'static str);

/// The examples of each page.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "nspod",
        &[
            ("Run a program in a container that sees the host's files read-only", "nspod run -- make check"),
            (
                "Start a server in the background, look at it and end it",
                "nspod run -d --name web -m 64m -- python3 -m http.server",
            ),
            ("Show its output", "nspod logs -f web"),
            ("Show which processes of the host are isolated", "nspod census"),
        ],
    ),
    (
        "nspod-run",
        &[
            ("Run a shell at the terminal", "nspod run -it -- bash"),
            (
                "Limit memory, processors, processes and time",
                "nspod run -m 64m --cpus 0.5 --pids-limit 100 --timeout 30s -- ./job.sh",
            ),
            (
                "Show a directory of the host, and start in it",
                "nspod run -v /srv/app:/srv/app -w /srv/app -- make",
            ),
            ("Use the files of a directory as root", "nspod run --rootfs /srv/alpine -- sh"),
            ("Publish a port", "nspod run -d --network pasta -p 8080:80 -- python3 -m http.server 80"),
            ("Print what a start would do", "nspod run --explain -- true"),
        ],
    ),
    (
        "nspod-attach",
        &[("Return to the container web, which was left with ctrl-p ctrl-q", "nspod attach web")],
    ),
    (
        "nspod-exec",
        &[
            ("Run a shell in the container web", "nspod exec -it web bash"),
            ("Run a program with limits of its own", "nspod exec -m 64m --timeout 30s web ./test.sh"),
        ],
    ),
    (
        "nspod-ps",
        &[
            ("List all containers, also those that have exited", "nspod ps -a"),
            ("List names and states", "nspod ps --format {{.Name}}:{{.Status}}"),
            (
                "List the ids of the containers of a pod that have exited",
                "nspod ps -q --filter pod=shop --filter status=exited",
            ),
        ],
    ),
    ("nspod-top", &[("List the processes of the container web", "nspod top web")]),
    (
        "nspod-logs",
        &[
            ("Print the last 20 lines, and continue", "nspod logs -n 20 -f web"),
            ("Print the lines of the last ten minutes with their times", "nspod logs --since 10m -t web"),
        ],
    ),
    ("nspod-stats", &[("Print the usage once", "nspod stats --no-stream web")]),
    (
        "nspod-diff",
        &[("List what the container web changed, with modes and owners", "nspod diff --long web")],
    ),
    (
        "nspod-commit",
        &[
            (
                "Apply the changes of the container web to the directory below its overlay",
                "nspod commit web /srv/alpine",
            ),
            ("Remove the changes", "nspod commit --discard web"),
        ],
    ),
    (
        "nspod-cp",
        &[
            ("Copy a file into the container web", "nspod cp app.conf web:/etc/app.conf"),
            ("Copy what is in a directory to an existing directory", "nspod cp web:/var/log/. logs"),
        ],
    ),
    (
        "nspod-inspect",
        &[
            ("Print everything about the container web", "nspod inspect web"),
            ("Print the host pid of its first process", "nspod inspect -f {{.Pid}} web"),
        ],
    ),
    ("nspod-rename", &[("Give a container another name", "nspod rename 3f2a web")]),
    ("nspod-update", &[("Change the memory limit of the container web", "nspod update -m 128m web")]),
    ("nspod-pause", &[("Freeze the container web", "nspod pause web")]),
    ("nspod-unpause", &[("Thaw the container web", "nspod unpause web")]),
    ("nspod-kill", &[("Send SIGHUP to the container web", "nspod kill -s HUP web")]),
    ("nspod-stop", &[("Give the container web 30 seconds to end", "nspod stop -t 30 web")]),
    ("nspod-wait", &[("Print the exit code of the container web when it has ended", "nspod wait web")]),
    ("nspod-rm", &[("End and remove the container web, if it exists", "nspod rm -f web")]),
    ("nspod-prune", &[("Remove all containers that have exited", "nspod prune")]),
    (
        "nspod-pod",
        &[
            (
                "Create a pod with a published port, and run two containers in it",
                "nspod pod create --network pasta -p 8080:80 shop",
            ),
            ("Run a server in it", "nspod pod run shop -d --name web -- python3 -m http.server 80"),
        ],
    ),
    (
        "nspod-pod-create",
        &[
            ("Create a pod with a limit for all its containers", "nspod pod create -m 256m shop"),
            ("Share the pid namespace too", "nspod pod create --share net,ipc,uts,pid shop"),
        ],
    ),
    (
        "nspod-pod-run",
        &[("Run a program in the pod shop", "nspod pod run shop -d --name web -- python3 -m http.server")],
    ),
    ("nspod-pod-ls", &[("List the pods", "nspod pod ls")]),
    ("nspod-pod-inspect", &[("Print everything about the pod shop", "nspod pod inspect shop")]),
    ("nspod-pod-kill", &[("Kill the processes of the pod shop", "nspod pod kill shop")]),
    ("nspod-pod-update", &[("Change the memory limit of the pod shop", "nspod pod update -m 512m shop")]),
    ("nspod-pod-rm", &[("End and remove the pod shop and its containers", "nspod pod rm -f shop")]),
    (
        "nspod-census",
        &[
            ("List the containers and pods of the host, whatever started them", "nspod census"),
            ("The same for programs", "nspod census --json"),
        ],
    ),
    ("nspod-doctor", &[("Check what this host supports", "nspod doctor")]),
    (
        "nspod-completions",
        &[
            ("Complete in this bash", "source <(nspod completions bash)"),
            ("Complete in each zsh, if the directory is in fpath", "nspod completions zsh > ~/.zfunc/_nspod"),
            ("Complete in each fish", "nspod completions fish > ~/.config/fish/completions/nspod.fish"),
        ],
    ),
    (
        "nspod-man",
        &[
            ("Show the manual page of a command", "nspod man pod create"),
            ("Write all pages for man(1)", "nspod man --dir /usr/local/share/man/man1"),
        ],
    ),
    ("nspod-version", &[("Print the versions for programs", "nspod version --json")]),
];

fn examples_of(page: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(name, _)| *name == page).map(|(_, examples)| *examples).unwrap_or_default()
}

fn environment(page: &str) -> String {
    const STATE: &str = "XDG_RUNTIME_DIR: directory of the state of containers and pods, for users other than root. \
        Without it, the state is in /tmp/nspod-UID; that of root is in /run/nspod.";
    const LOGS: &str = "NSPOD_LOG_DIR: directory of logs. The default is /var/lib/nspod/logs for root, otherwise \
        $XDG_STATE_HOME/nspod/logs (~/.local/state/nspod/logs).";
    const NETWORK: &str =
        "NETCONFPATH, CNI_PATH: directories of the configuration and of the plugins of CNI.";
    const PATH: &str = "PATH: directories in which pasta is searched.";
    const COLOUR: &str = "NO_COLOR: if set, output has no colours.";
    const TERMINAL: &str = "TERM: the value in a container with a terminal (-t).";
    let lines: &[&str] = match page {
        "nspod" => &[STATE, LOGS, NETWORK, PATH, TERMINAL, COLOUR],
        "nspod-run" | "nspod-pod-run" => &[STATE, LOGS, NETWORK, PATH, TERMINAL],
        "nspod-pod-create" => &[STATE, NETWORK, PATH],
        "nspod-exec" => &[STATE, TERMINAL],
        "nspod-logs" | "nspod-prune" | "nspod-rm" => &[STATE, LOGS],
        "nspod-ps" | "nspod-top" | "nspod-stats" | "nspod-census" | "nspod-pod-ls" => &[STATE, COLOUR],
        "nspod-doctor" => &[COLOUR, PATH],
        "nspod-completions" => &["NSPOD_COMPLETE: set by the completions of a shell, which then call nspod."],
        "nspod-man" => &["MANPAGER, PAGER: the pager of man(1)."],
        "nspod-version" => &["The command reads no variable."],
        _ => &[STATE],
    };
    lines.join("\n\n")
}

fn exit_status(page: &str) -> &'static str {
    match page {
        "nspod" | "nspod-run" | "nspod-exec" | "nspod-attach" | "nspod-pod-run" => {
            "That of the program, or:\n\n\
             124: the program exceeded --timeout or --cpu-time.\n\n\
             125: nspod failed; the error is on standard error.\n\n\
             126: the program cannot be executed.\n\n\
             127: the program does not exist.\n\n\
             128+N: signal N ended the program."
        }
        "nspod-doctor" => {
            "0: the caller can start containers on this host.\n\n1: it cannot.\n\n125: nspod failed; the error is on standard error."
        }
        _ => "0: success.\n\n125: nspod failed; the error is on standard error.",
    }
}

fn see_also(page: &str) -> String {
    let pages = match page {
        "nspod" => {
            "nspod-run(1), nspod-exec(1), nspod-ps(1), nspod-pod(1), nspod-census(1), nspod-doctor(1), namespaces(7), cgroups(7)"
        }
        "nspod-run" => {
            "nspod(1), nspod-exec(1), nspod-pod-run(1), nspod-doctor(1), namespaces(7), cgroups(7), capabilities(7), seccomp(2)"
        }
        "nspod-attach" => "nspod(1), nspod-run(1), nspod-exec(1), nspod-logs(1)",
        "nspod-exec" => "nspod(1), nspod-run(1), nspod-cp(1), nsenter(1)",
        "nspod-ps" => "nspod(1), nspod-top(1), nspod-inspect(1), nspod-census(1)",
        "nspod-top" => "nspod(1), nspod-ps(1), ps(1), pid_namespaces(7)",
        "nspod-logs" => "nspod(1), nspod-run(1)",
        "nspod-stats" | "nspod-update" => "nspod(1), nspod-run(1), cgroups(7)",
        "nspod-diff" => "nspod(1), nspod-commit(1), nspod-run(1)",
        "nspod-commit" => "nspod(1), nspod-diff(1), nspod-run(1)",
        "nspod-cp" => "nspod(1), nspod-exec(1), nspod-diff(1), cp(1)",
        "nspod-inspect" => "nspod(1), nspod-ps(1), nspod-pod-inspect(1)",
        "nspod-pause" => "nspod(1), nspod-unpause(1), cgroups(7)",
        "nspod-unpause" => "nspod(1), nspod-pause(1), cgroups(7)",
        "nspod-kill" | "nspod-stop" => "nspod(1), nspod-kill(1), nspod-stop(1), nspod-wait(1), signal(7)",
        "nspod-wait" => "nspod(1), nspod-stop(1), nspod-run(1)",
        "nspod-rm" | "nspod-prune" => "nspod(1), nspod-stop(1), nspod-rm(1), nspod-prune(1)",
        "nspod-census" => "nspod(1), nspod-ps(1), lsns(8), namespaces(7)",
        "nspod-man" => "nspod(1), man(1)",
        page if page.starts_with("nspod-pod") => {
            "nspod(1), nspod-pod(1), nspod-pod-create(1), nspod-pod-run(1), nspod-run(1), namespaces(7)"
        }
        _ => "nspod(1)",
    };
    // A page does not name itself.
    let own = format!("{page}(1)");
    pages.split(", ").filter(|other| *other != own).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    /// Calls a function for each command that has a page, with the name of the page.
    fn each(command: &Command, act: &mut dyn FnMut(&str, &Command)) {
        act(manual::page_name(command), command);
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            each(command, act);
        }
    }

    fn program() -> Command {
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        program
    }

    #[test]
    fn each_page_has_all_sections() {
        each(&program(), &mut |page, command| {
            for section in sections(page) {
                assert!(!section.text.is_empty(), "{page}: {}", section.title);
            }
            let text = String::from_utf8(manual::page(command, sections).unwrap()).unwrap();
            for title in ["NAME", "SYNOPSIS", "EXAMPLES", "ENVIRONMENT", "EXIT STATUS", "SEE ALSO"] {
                assert!(text.contains(&format!(".SH {title}\n")), "{page}: {title}");
            }
        });
    }

    #[test]
    fn each_page_that_another_names_exists() {
        let mut pages = Vec::new();
        each(&program(), &mut |page, _| pages.push(page.to_owned()));
        for page in &pages {
            for other in see_also(page).split(", ").filter_map(|other| other.strip_suffix("(1)")) {
                let own = !other.starts_with("nspod") || pages.iter().any(|page| page == other);
                assert!(own, "{page} names {other}");
            }
        }
    }

    #[test]
    fn each_example_is_a_valid_command_line() {
        each(&program(), &mut |page, _| {
            for (_, line) in examples_of(page) {
                let line = line.strip_prefix("source <(").map_or(*line, |line| line.trim_end_matches(')'));
                let own = line.split([' ']).take_while(|word| !["|", ">"].contains(word));
                Cli::command().try_get_matches_from(own).unwrap_or_else(|e| panic!("{page}: {line}: {e}"));
            }
        });
    }
}
