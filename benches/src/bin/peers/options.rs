//! The command line.

use std::path::PathBuf;

/// The choice of measurements.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// A minute in all: fewer rounds and smaller numbers
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure only these rows, by their names, and write nothing
    #[arg(long, value_name = "ROW")]
    pub(crate) only: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    pub(crate) list: bool,
    /// The directory in which RESULTS.md and plots/ are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) output: PathBuf,
    /// Whether a container limited to one process has started in the guest lane, for a host that
    /// cannot tell
    #[arg(long, hide = true, value_name = "WHETHER")]
    pub(crate) pids_max_in_guest: Option<bool>,
}

impl Options {
    /// Returns the options as arguments for the worker.
    pub(crate) fn words(&self) -> Vec<std::ffi::OsString> {
        let mut words = vec!["--output".into(), self.output.clone().into()];
        words.extend(self.quick.then(|| "--quick".into()));
        words.extend(self.only.iter().flat_map(|row| ["--only".into(), row.into()]));
        words.extend(self.pids_max_in_guest.map(|started| format!("--pids-max-in-guest={started}").into()));
        words
    }
}
