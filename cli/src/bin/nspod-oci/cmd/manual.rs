//! `completions` and `man`: what packages install beside the program.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use nspod_cli::error::{Error, Result};
use nspod_cli::output;

use crate::args::Cli;

/// Print completions for a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Write manual pages to a directory
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// An existing directory
    dir: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nspod-oci", &mut text);
    output::print(text)
}

pub(crate) fn man(args: &ManArgs) -> Result<()> {
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .map_err(|e| Error::io("write manual pages to", &args.dir, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_page_renders_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: dir.path().into() }).unwrap();
        for page in ["nspod-oci.1", "nspod-oci-create.1", "nspod-oci-update.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS") && text.len() > 500, "{page}");
        }
    }
}
