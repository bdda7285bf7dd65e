//! `ps`: lists the processes of a container.

use std::path::Path;

use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_cli::output;
use nspod_sandbox::ErrorKind;

use super::list::Format;
use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Output format: a table from ps(1), or pids as JSON
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Options of ps(1) [default: -ef]
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) fn ps(global: &Global, args: &PsArgs) -> Result<()> {
    let pids = global.container(&args.id).pids()?;
    if args.format == Format::Json {
        return output::json_line(&pids);
    }
    let mut command = std::process::Command::new("ps");
    match args.options.is_empty() {
        true => command.arg("-ef"),
        false => command.args(&args.options),
    };
    let done = command
        .output()
        .map_err(|e| Error::io("ps", "run", Path::new("ps"), &e).hint("install it, or use --format json"))?;
    if !done.status.success() {
        let problem = format!("ps failed: {}", String::from_utf8_lossy(&done.stderr).trim());
        return Err(Error::new(ErrorKind::HelperFailed, "ps", problem).on("ps"));
    }
    output::print(output::plain_lines(&only(&String::from_utf8_lossy(&done.stdout), &pids)?))
}

/// Returns the heading and the lines of these processes from the output of ps(1).
fn only(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID").ok_or_else(|| {
        let problem = "the output of ps has no PID column: use options that print it, such as -ef";
        Error::new(ErrorKind::HelperFailed, "ps", problem).on("ps")
    })?;
    let of_them = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Ok(std::iter::once(heading).chain(lines.filter(of_them)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_selected_by_the_pid_column() {
        let table = "UID          PID    PPID CMD\nroot          10       1 a\nroot          20      10 b\n";
        assert_eq!(only(table, &[10]).unwrap(), "UID          PID    PPID CMD\nroot          10       1 a\n");
        nspod_testkit::assert_refused(only("UID CMD\n", &[1]), "PID");
    }
}
