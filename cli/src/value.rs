//! Parsers of flag values: sizes, rates, pairs, signals. Pure functions of text.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cgroup_core::{CpuList, CpuMax, Max, v1};
use nix::sys::signal::Signal;
use nspod_sandbox::log::{MAX_FILES, MAX_SIZE, MIN_SIZE};

/// Parses bytes: `1024`, `64k`, `64m`, `1.5g`, `64MiB`. The units are powers of 1024, as in docker.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 512k, 64m or 1g");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim_start();
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(wrong()),
    };
    let unit = 1u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(|| format!("{text:?} does not fit in 64 bits"));
    }
    let (whole, fraction) = number.split_once('.').ok_or_else(wrong)?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = fraction.parse().map_err(|_| wrong())?;
    let part = u128::from(part) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    let sum = whole.checked_mul(unit).and_then(|w| w.checked_add(part as u64));
    sum.ok_or_else(|| format!("{text:?} does not fit in 64 bits"))
}

/// Parses bytes like [`bytes`], as runc's flags do: -1 means no limit, and an empty text means 0 (not set).
pub fn signed_bytes(text: &str) -> Result<i64, String> {
    match text {
        "-1" => Ok(-1),
        "" => Ok(0),
        _ => i64::try_from(bytes(text)?).map_err(|_| format!("{text:?} does not fit in 63 bits")),
    }
}

/// Parses a time: `500ms`, `1m 30s`, or seconds, as timeout(1) does. Zero is refused.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 500ms, 30s or 1h");
    let parsed = match text.trim().parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
        Err(_) => humantime::parse_duration(text).map_err(|_| wrong())?,
    };
    if parsed.is_zero() { Err(wrong()) } else { Ok(parsed) }
}

/// Parses a time as docker reads it: a date and time (RFC 3339, UTC without a zone), the seconds since 1970, or how long
/// ago, such as 10m.
pub fn time(text: &str) -> Result<SystemTime, String> {
    let wrong = || format!("{text:?} is not a time such as 2026-01-31T10:00:00Z, or 10m for ten minutes ago");
    let ago = match text.parse::<f64>() {
        Ok(seconds) => {
            let since = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
            return SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(wrong);
        }
        Err(_) => humantime::parse_duration(text),
    };
    match ago {
        Ok(ago) => SystemTime::now().checked_sub(ago).ok_or_else(wrong),
        Err(_) => date(text).ok_or_else(wrong),
    }
}

fn date(text: &str) -> Option<SystemTime> {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00"),
        _ => text.replace('t', "T").replace('z', "Z"),
    };
    let at = whole.len().checked_sub(6)?;
    // A zone such as +02:00.
    let (local, zone) = match whole.get(at..)?.as_bytes() {
        [sign @ (b'+' | b'-'), hours @ .., b':', _, _] if hours.len() == 2 => {
            let number = |range: std::ops::Range<usize>| whole.get(range)?.parse::<u64>().ok();
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            let offset =
                (hours < 24 && minutes < 60).then(|| Duration::from_secs(hours * 3600 + minutes * 60))?;
            (whole.get(..at)?, Some((*sign == b'+', offset)))
        }
        _ => (&*whole, None),
    };
    let time = humantime::parse_rfc3339_weak(local).ok()?;
    match zone {
        Some((true, offset)) => time.checked_sub(offset),
        Some((false, offset)) => time.checked_add(offset),
        None => Some(time),
    }
}

/// Parses bytes, or `max` (`-1`, `unlimited`) for no limit.
pub fn max_bytes(text: &str) -> Result<Max, String> {
    match unlimited(text) {
        true => Ok(Max::Max),
        false => bytes(text).map(Max::Value),
    }
}

/// Parses the maximum size of a file of a log: bytes like [`bytes`], or `none` (0) for no log.
pub fn log_size(text: &str) -> Result<u64, String> {
    let size = if text == "none" { 0 } else { bytes(text)? };
    match size == 0 || (MIN_SIZE..MAX_SIZE).contains(&size) {
        true => Ok(size),
        false => Err(format!("{text:?} is not none, and not at least 4k and less than 2t")),
    }
}

/// Parses the number of files of a log.
pub fn log_files(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| (1..=MAX_FILES).contains(count));
    count.ok_or_else(|| format!("{text:?} must be a number from 1 to {MAX_FILES}"))
}

/// Parses a count, or `max` (`-1`, `unlimited`) for no limit.
pub fn max_count(text: &str) -> Result<Max, String> {
    match unlimited(text) {
        true => Ok(Max::Max),
        false => text.parse().map(Max::Value).map_err(|_| format!("{text:?} must be a count or max")),
    }
}

/// Parses bits per second, such as `10mbit`, or `max` (`-1`, `unlimited`) for no limit. Returns bytes.
pub fn max_bits(text: &str) -> Result<Max, String> {
    match unlimited(text) {
        true => Ok(Max::Max),
        false => cgroup_core::net::bytes_per_second(text).map(Max::Value).map_err(|e| e.to_string()),
    }
}

/// Parses the bytes of a burst like [`bytes`], or `default`, for which it returns `Max`.
pub fn burst(text: &str) -> Result<Max, String> {
    match text {
        "default" => Ok(Max::Max),
        text => bytes(text).map(Max::Value).map_err(|problem| format!("{problem}, or default")),
    }
}

fn unlimited(text: &str) -> bool {
    matches!(text, "-1" | "max" | "unlimited")
}

/// Parses a number of processors, such as `0.5` or `2`, and returns `cpu.max` with a period of 100 ms.
pub fn cpus(text: &str) -> Result<CpuMax, String> {
    const PERIOD: f64 = 100_000.0;
    let cpus: f64 =
        text.parse().map_err(|_| format!("{text:?} is not a number of processors such as 0.5"))?;
    if !(0.01..=1_000_000.0).contains(&cpus) {
        return Err(format!("{text} processors: must be at least 0.01"));
    }
    Ok(CpuMax::new((cpus * PERIOD).round() as u64, PERIOD as u64))
}

/// Parses docker's `--cpu-shares`, 2 to 262144, and returns `cpu.weight`, 1 to 10000: see [`v1::cpu_weight`].
pub fn cpu_shares(text: &str) -> Result<u64, String> {
    let shares = text.parse().ok().filter(|shares| (2..=262_144).contains(shares));
    shares.and_then(v1::cpu_weight).ok_or_else(|| format!("{text:?} must be a number from 2 to 262144"))
}

/// Parses a list of processors or memory nodes: `0-3,7`.
pub fn cpu_list(text: &str) -> Result<CpuList, String> {
    text.parse().map_err(|e: cgroup_core::Error| e.to_string())
}

/// Parses `NAME=VALUE` with a name that is not empty.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("{text:?} must have the form NAME=VALUE")),
    }
}

/// Parses `PATH:RATE` with a rate in bytes per second.
pub fn device_bytes(text: &str) -> Result<(PathBuf, Max), String> {
    device(text, max_bytes)
}

/// Parses `PATH:RATE` with a rate in operations per second.
pub fn device_count(text: &str) -> Result<(PathBuf, Max), String> {
    device(text, max_count)
}

fn device(text: &str, rate: fn(&str) -> Result<Max, String>) -> Result<(PathBuf, Max), String> {
    match text.rsplit_once(':') {
        Some((path, number)) if !path.is_empty() => Ok((path.into(), rate(number)?)),
        _ => Err(format!("{text:?} must have the form /dev/PATH:RATE")),
    }
}

/// Parses an octal mode: `1777`.
pub fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("{text:?} is not an octal mode such as 1777")),
    }
}

/// Parses a signal: `TERM`, `SIGTERM`, `15`, or `RTMIN+3` and `RTMAX-1` with glibc's `SIGRTMIN` and
/// `SIGRTMAX`. With `0`, kill(2) only checks whether a signal could be sent.
pub fn signal(text: &str) -> Result<i32, String> {
    let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse::<i32>().ok(),
        false => None,
    };
    let (first, last) = (nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX());
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = match (name.get(..5), name.get(5..)) {
        (Some("RTMIN"), Some("")) => Some(first),
        (Some("RTMAX"), Some("")) => Some(last),
        (Some("RTMIN"), Some(rest)) => {
            rest.strip_prefix('+').and_then(number).map(|n| first.saturating_add(n))
        }
        (Some("RTMAX"), Some(rest)) => {
            rest.strip_prefix('-').and_then(number).map(|n| last.saturating_sub(n))
        }
        _ => None,
    };
    let ordinary = match name {
        "CLD" => Some(Signal::SIGCHLD),
        "IOT" => Some(Signal::SIGABRT),
        "POLL" => Some(Signal::SIGIO),
        name => format!("SIG{name}").parse().ok(),
    };
    let found = real_time.filter(|n| (first..=last).contains(n));
    let found = found.or(ordinary.map(|signal| signal as i32)).or(number(text).filter(|n| *n <= last));
    found.ok_or_else(|| format!("{text:?} is not a signal such as TERM, SIGUSR1, RTMIN+3 or 9"))
}

/// Parses the name of a container or pod, which is also the name of a directory and of a cgroup.
pub fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    match starts && text.len() <= 64 && text.bytes().all(plain) && !text.contains("..") {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is not a valid name: use 1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit, without '..'"
        )),
    }
}

/// Returns the variable in a line of an environment file; `None` for a comment or an empty line. The rules are
/// docker's: blanks before the name are ignored, and everything after `=` is the value.
pub fn env_line(line: &str) -> Result<Option<&str>, String> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let name = line.split_once('=').map_or(line, |(name, _)| name);
    match name.contains([' ', '\t']) {
        false => Ok(Some(line)),
        true if name.starts_with("export ") => {
            Err(format!("{name:?} is not the name of a variable: write it without `export`"))
        }
        true => Err(format!("{name:?} is not the name of a variable: it contains a blank")),
    }
}

/// Parses `NAME=VALUE` of an environment. `NAME` alone gets the caller's value from `own`, and is
/// omitted if the caller has none.
pub fn variable(
    text: &OsStr,
    own: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Option<(OsString, OsString)>, String> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|b| *b == b'=') {
        Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        None => (bytes, None),
    };
    if name.is_empty() {
        return Err(format!("{text:?} must begin with the name of a variable"));
    }
    let name = OsStr::from_bytes(name);
    Ok(value.or_else(|| own(name)).map(|value| (name.to_owned(), value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_docker_reads_them() {
        let at = |seconds| Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for text in
            ["2023-11-14T22:13:20Z", "2023-11-14T23:43:20+01:30", "2023-11-14t18:13:20-04:00", "1700000000"]
        {
            assert_eq!(time(text), at(1_700_000_000), "{text}");
        }
        assert_eq!(time("2023-11-14T22:13:20"), at(1_700_000_000));
        assert_eq!(time("2023-11-14"), at(1_699_920_000));
        let half = Duration::from_millis(500);
        assert_eq!(time("2023-11-14T22:13:20.5Z"), at(1_700_000_000).map(|time: SystemTime| time + half));
        let ago = time("10m").unwrap().elapsed().unwrap().as_secs();
        assert!((600..700).contains(&ago), "{ago}");
        for bad in ["", "yesterday", "-5", "2023-11-14T22:13:20+99:00", "2023-13-01", "é2:00", "+02:00"] {
            nspod_testkit::assert_refused(time(bad), "is not a time");
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, size) in [
            ("0", 0),
            ("1024", 1024),
            ("64k", 65_536),
            ("64M", 64 << 20),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("1tb", 1 << 40),
            ("50 M", 50 << 20),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1..5g", "1.g", ".5g", "18446744073709551616"] {
            nspod_testkit::assert_refused(bytes(text), &format!("{text:?} is not a size"));
        }
        nspod_testkit::assert_refused(bytes("16777216t"), "\"16777216t\" does not fit in 64 bits");
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        for (text, millis) in
            [("5", 5000), ("0.25", 250), ("500ms", 500), ("30s", 30_000), ("1m 30s", 90_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0s", "-1", "1x", "s", "NaN", "inf", "1e300"] {
            nspod_testkit::assert_refused(duration(text), &format!("{text:?} is not a time"));
        }
    }

    #[test]
    fn runcs_sizes_have_minus_one_for_no_limit() {
        assert_eq!(["-1", "", "50M"].map(signed_bytes), [Ok(-1), Ok(0), Ok(50 << 20)]);
        for (text, why) in [
            ("-2", "is not a size"),
            ("max", "is not a size"),
            ("9223372036854775808", "does not fit in 63 bits"),
        ] {
            nspod_testkit::assert_refused(signed_bytes(text), &format!("{text:?} {why}"));
        }
    }

    #[test]
    fn no_limit_has_three_spellings() {
        for text in ["-1", "max", "unlimited"] {
            assert_eq!(max_bytes(text), Ok(Max::Max));
            assert_eq!(max_count(text), Ok(Max::Max));
        }
        nspod_testkit::assert_refused(max_count("-2"), "-2");
    }

    #[test]
    fn processors_become_a_quota_of_100_ms_periods() {
        assert_eq!(cpus("0.5"), Ok(CpuMax::new(50_000, 100_000)));
        assert_eq!(cpus("2"), Ok(CpuMax::new(200_000, 100_000)));
        for text in ["0", "-1", "nan", "inf", "0.001"] {
            nspod_testkit::assert_refused(cpus(text), &format!("{text} processors: must be at least 0.01"));
        }
        nspod_testkit::assert_refused(cpus("x"), "\"x\" is not a number of processors");
    }

    #[test]
    fn shares_keep_the_ends_and_the_default_of_the_scale() {
        assert_eq!(cpu_shares("2"), Ok(1));
        assert_eq!(cpu_shares("1024"), Ok(100));
        assert_eq!(cpu_shares("262144"), Ok(10_000));
        nspod_testkit::assert_refused(cpu_shares("1"), "2");
    }

    #[test]
    fn names_cannot_leave_their_directory() {
        for good in ["a", "web-1", "0123456789ab", "A_b.c"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", "a..b", "-a", ".a", "a/b", "a\n", "a b", "é", &"a".repeat(65)] {
            nspod_testkit::assert_refused(name(bad), &format!("{bad:?} is not a valid name"));
        }
    }

    #[test]
    fn signals_are_read_by_name_or_number() {
        for text in ["TERM", "term", "SIGTERM", "15"] {
            assert_eq!(signal(text), Ok(15));
        }
        for (text, number) in [
            ("0", 0),
            ("64", 64),
            ("SIGIOT", 6),
            ("cld", 17),
            ("POLL", 29),
            ("SIGRTMIN", 34),
            ("RTMIN+0", 34),
            ("SIGRTMIN+3", 37),
            ("rtmin+30", 64),
            ("RTMAX", 64),
            ("SIGRTMAX-1", 63),
            ("rtmax-30", 34),
        ] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        let wrong =
            ["65", "-1", "+9", "SIG", "SIG9", "NOPE", "", "RTMIN-1", "RTMAX+1", "RTMIN+31", "RTMAX-31"];
        for text in wrong.into_iter().chain(["RTMIN+", "RTMIN3", "RTMIN+-3", "RTMIN+2147483647", "9.0", " 9"])
        {
            nspod_testkit::assert_refused(signal(text), &format!("{text:?} is not a signal"));
        }
    }

    #[test]
    fn a_variable_without_a_value_is_the_callers() {
        let own = |name: &OsStr| (name == "HOME").then(|| "/root".into());
        assert_eq!(variable("A=b=c".as_ref(), own), Ok(Some(("A".into(), "b=c".into()))));
        assert_eq!(variable("A=".as_ref(), own), Ok(Some(("A".into(), "".into()))));
        assert_eq!(variable("HOME".as_ref(), own), Ok(Some(("HOME".into(), "/root".into()))));
        assert_eq!(variable("NOT_SET".as_ref(), own), Ok(None));
        nspod_testkit::assert_refused(variable("=x".as_ref(), own), "=x");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,24}") {
            let _ = (bytes(&text), max_bytes(&text), max_count(&text), cpus(&text), cpu_shares(&text));
            let _ = (pair(&text), device_bytes(&text), mode(&text), signal(&text), name(&text));
        }

        #[test]
        fn a_number_of_bytes_is_itself(n: u64) {
            prop_assert_eq!(bytes(&n.to_string()), Ok(n));
        }

        #[test]
        fn a_name_is_one_component_of_a_path(text in "\\PC{0,70}") {
            if let Ok(name) = name(&text) {
                let parts: Vec<_> = std::path::Path::new(&name).components().collect();
                prop_assert_eq!(parts.len(), 1);
                prop_assert!(matches!(parts[0], std::path::Component::Normal(_)));
            }
        }
    }
}
