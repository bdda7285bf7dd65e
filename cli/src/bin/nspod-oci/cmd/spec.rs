//! `spec`: writes an example configuration.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_oci_runtime::config;
use nspod_sandbox::ErrorKind;
use serde::Serialize;

#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Directory in which config.json is written
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write a configuration for a user other than root
    #[arg(long)]
    rootless: bool,
}

pub(crate) fn spec(args: &SpecArgs) -> Result<()> {
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    config::example(args.rootless)
        .serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))
        .map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "write", format!("cannot write this as JSON: {e}"))
        })?;
    text.push(b'\n');
    let path = args.bundle.join("config.json");
    let mut file = std::fs::File::create_new(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let problem = format!("File {} exists. Remove it first", path.display());
            Error::new(ErrorKind::AlreadyExists, "write", problem).on(path.display())
        }
        _ => Error::io("write", "make", &path, &e),
    })?;
    file.write_all(&text).map_err(|e| Error::io("write", "write", &path, &e))
}
