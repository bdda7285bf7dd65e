//! `nspod doctor`: tries which features of containers this host supports, and prints how to fix what is
//! missing.

mod act;
mod caller;
mod calls;
mod cgroups;
mod namespaces;
mod probe;
mod report;
mod trial;

use clap::Args;

use crate::error::Result;
use crate::output;
use report::{Check, Mark, report};

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Run one probe in this process. A probe changes the process, so doctor runs itself for each probe
    #[arg(long, hide = true, value_name = "WHAT")]
    probe: Option<String>,
}

pub(crate) fn doctor(args: &DoctorArgs, json: bool) -> Result<i32> {
    if let Some(what) = &args.probe {
        return act::act(what).map(|()| 0);
    }
    let privileged = caller::privileged();
    let groups = [
        caller::check(),
        namespaces::check(privileged),
        cgroups::check(),
        calls::check(privileged),
        trial::check(privileged),
    ];
    let checks: Vec<Check> = groups.into_iter().flat_map(|group| group.checks).collect();
    let usable = checks.iter().any(|c| c.group == trial::GROUP && c.name == trial::OWN && c.mark == Mark::Ok);
    match json {
        true => output::json(&serde_json::json!({ "usable": usable, "checks": checks }))?,
        false => output::print(report(&checks, usable, columns()))?,
    }
    Ok(if usable { 0 } else { 1 })
}

/// Returns the width of the terminal, if standard output is one.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}
