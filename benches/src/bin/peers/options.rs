//! The command line.

use std::path::PathBuf;

/// The choice of measurements.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Last about a minute: fewer rounds and smaller numbers
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure only the rows with these names, and write nothing
    #[arg(long, value_name = "ROW")]
    pub(crate) only: Vec<String>,
    /// Print the names of the rows
    #[arg(long)]
    pub(crate) list: bool,
    /// The directory for RESULTS.md and plots/
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) output: PathBuf,
    /// Whether a container limited to one process has started in the guest lane, for a host without the pids
    /// controller
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
