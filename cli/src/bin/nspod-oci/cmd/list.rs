//! `list`: all containers under `--root`.

use clap::{Args, ValueEnum};
use nspod_cli::error::Result;
use nspod_cli::output;

use crate::args::Global;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How to print them
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

pub(crate) fn list(global: &Global, args: &ListArgs) -> Result<()> {
    let all = global.store()?.all()?;
    if args.quiet {
        return output::print(all.iter().map(|entry| format!("{}\n", entry.id())).collect::<String>());
    }
    let mut states = Vec::new();
    for entry in &all {
        states.push(entry.record()?.state(entry.status()?));
    }
    if args.format == Format::Json {
        return output::json_line(&states);
    }
    let rows: Vec<Vec<String>> = states.iter().map(|state| state.row()).collect();
    output::print(output::table(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], &rows))
}
