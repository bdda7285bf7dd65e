//! `list`: lists all containers under `--root`.

use clap::{Args, ValueEnum};
use nspod_cli::error::Result;
use nspod_cli::output;
use nspod_oci_runtime::{Container, State};

use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

pub(crate) fn list(global: &Global, args: &ListArgs) -> Result<()> {
    let runtime = global.runtime();
    if args.quiet {
        let ids = Container::ids(&runtime)?;
        return output::print(ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    }
    let states = Container::list(&runtime)?;
    if args.format == Format::Json {
        return output::json_line(&states);
    }
    let rows: Vec<Vec<String>> = states.iter().map(row).collect();
    output::print(output::table(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], &rows))
}

fn row(state: &State) -> Vec<String> {
    let (bundle, status) = (output::plain(&state.bundle.to_string_lossy()), state.status.to_string());
    let (created, owner) = (state.created.clone(), output::plain(&state.owner));
    vec![state.id.clone(), state.pid.to_string(), status, bundle, created, owner]
}
