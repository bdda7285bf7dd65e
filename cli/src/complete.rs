//! Completions for a shell, which know the names of containers, pods and networks.
//!
//! The functions that `nspod completions` prints call nspod again with [`VARIABLE`] and the words of the command line.

use std::ffi::OsStr;

use clap::{Arg, Command};
use clap_complete::CompleteEnv;
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::Shells;
use nspod_cli::manual::CompletionsArgs;
use nspod_sandbox::ErrorKind;
use serde_json::json;

use crate::error::{Error, Result};
use crate::network;
use crate::output;
use crate::state::Store;
use crate::state::pods::Pods;

/// The variable that asks nspod for completions. Its value is the name of the shell.
const VARIABLE: &str = "NSPOD_COMPLETE";

/// Prints the functions of a shell that complete command lines of nspod.
pub(crate) fn print(args: &CompletionsArgs, json: bool) -> Result<()> {
    let shell = args.shell.to_string();
    let mut text = Vec::new();
    let written = Shells::builtins()
        .completer(&shell)
        .ok_or_else(|| std::io::Error::other("the shell is not known"))
        .and_then(|shell| shell.write_registration(VARIABLE, "nspod", "nspod", "nspod", &mut text));
    written.map_err(|e| {
        let problem = format!("there are no completions for {shell}: {e}");
        Error::new(ErrorKind::Unsupported, "completions", problem)
    })?;
    match json {
        true => output::json(&json!({ "shell": shell, "script": String::from_utf8_lossy(&text) })),
        false => output::print(text),
    }
}

/// Answers a shell that asks for completions, and then ends this process.
pub(crate) fn answer(program: fn() -> Command) {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(|| with_names(program())).var(VARIABLE).complete();
    }
}

/// Returns the program with completions for its values.
fn with_names(mut program: Command) -> Command {
    // The arguments of the commands are defined at this moment.
    program.build();
    described(program)
}

fn described(command: Command) -> Command {
    let makes_pod = command.get_name() == "create";
    command.mut_args(|argument| complete(argument, makes_pod)).mut_subcommands(described)
}

/// Adds the completion of an argument.
fn complete(argument: Arg, makes_pod: bool) -> Arg {
    let name = argument.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    match (argument.get_id().as_str(), name.as_deref().unwrap_or_default()) {
        ("network", _) if makes_pod => argument.add(ArgValueCandidates::new(networks_of_pods)),
        ("network", _) => argument.add(ArgValueCandidates::new(networks)),
        ("pid" | "ipc" | "uts", "WHICH") => argument.add(ArgValueCandidates::new(namespaces)),
        (_, "CONTAINER" | "OLD") => argument.add(ArgValueCandidates::new(containers)),
        (_, "POD") => argument.add(ArgValueCandidates::new(pods)),
        (_, "CONTAINER DIR") => argument.add(ArgValueCompleter::new(containers_or_paths)),
        (_, "SRC" | "DST") => argument.add(ArgValueCompleter::new(places)),
        _ => argument,
    }
}

fn container_names() -> Vec<String> {
    Store::peek().and_then(|store| store.names().ok()).unwrap_or_default()
}

fn candidates(names: impl IntoIterator<Item = impl Into<String>>) -> Vec<CompletionCandidate> {
    names.into_iter().map(|name| CompletionCandidate::new(name.into())).collect()
}

fn containers() -> Vec<CompletionCandidate> {
    candidates(container_names())
}

fn pods() -> Vec<CompletionCandidate> {
    candidates(Pods::peek().and_then(|pods| pods.names().ok()).unwrap_or_default())
}

fn networks_of_pods() -> Vec<CompletionCandidate> {
    let named = network::cni_networks().into_iter().map(|name| format!("cni:{name}"));
    candidates(["none".to_owned(), "pasta".to_owned()].into_iter().chain(named))
}

fn networks() -> Vec<CompletionCandidate> {
    let mut all = networks_of_pods();
    all.extend(candidates(["host", "pod"]));
    all.extend(candidates(of_containers()));
    all
}

fn namespaces() -> Vec<CompletionCandidate> {
    let mut all = candidates(["new", "host", "pod"]);
    all.extend(candidates(of_containers()));
    all
}

fn of_containers() -> impl Iterator<Item = String> {
    container_names().into_iter().map(|name| format!("container:{name}"))
}

fn containers_or_paths(typed: &OsStr) -> Vec<CompletionCandidate> {
    beginning(container_names(), typed).chain(PathCompleter::dir().complete(typed)).collect()
}

/// Completes an operand of `nspod cp`: a path of the host, or the name of a container with a colon.
fn places(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = container_names().into_iter().map(|name| format!("{name}:"));
    beginning(names, typed).chain(PathCompleter::any().complete(typed)).collect()
}

/// Returns the names that begin with a text.
fn beginning(
    names: impl IntoIterator<Item = String>,
    typed: &OsStr,
) -> impl Iterator<Item = CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    names.into_iter().filter(move |name| name.starts_with(&typed)).map(CompletionCandidate::new)
}
