//! Completions and manual pages, for packages to install.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::{Error, Result};
use crate::output;

/// Print completions for a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Write manual pages to a directory
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Existing directory
    pub dir: PathBuf,
}

/// Prints completions of a program.
///
/// # Errors
/// If standard output cannot be written.
pub fn completions(args: &CompletionsArgs, mut program: Command) -> Result<()> {
    let (name, mut text) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(args.shell, &mut program, name, &mut text);
    output::print(text)
}

/// Writes the manual pages of a program, one for each of its commands.
///
/// # Errors
/// If the directory cannot be written.
pub fn man(args: &ManArgs, program: Command) -> Result<()> {
    clap_mangen::generate_to(program, &args.dir)
        .map_err(|e| Error::io("write", "write manual pages to", &args.dir, &e))
}
