//! `events`: prints the resource usage and OOM kills of a container, in runc's JSON format.

use std::time::Duration;

use clap::Args;
use nspod_cli::error::{Error, Result};
use nspod_cli::output;

use crate::global::Global;

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Interval between two reports of the resource usage
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    interval: Duration,
    /// Print the resource usage once
    #[arg(long)]
    stats: bool,
    /// Id of the container
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn events(global: &Global, args: &EventsArgs) -> Result<()> {
    if args.interval.is_zero() {
        return Err(Error::usage("--interval", "--interval must be greater than 0"));
    }
    let container = global.container(&args.id);
    if args.stats {
        return output::json_line(&container.stats()?);
    }
    for event in container.events(args.interval)? {
        let event = event?;
        if !event.is_oom() && output::unread() {
            return Ok(());
        }
        output::json_line(&event)?;
    }
    Ok(())
}

/// Parses a duration as Go writes it: `5s`, `1m30s`, `500ms`.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 500ms, 5s or 1m30s");
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_in_go() {
        let ms = |ms| Ok(Duration::from_millis(ms));
        assert_eq!(duration("5s"), ms(5000));
        assert_eq!(duration("1m30s"), ms(90_000));
        assert_eq!(duration("1.5s500ms"), ms(2000));
        for wrong in ["", "5", "s", "5x", "-1s", "1s2"] {
            nspod_testkit::assert_refused(duration(wrong), &format!("{wrong:?} is not a time"));
        }
    }
}
