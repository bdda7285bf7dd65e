//! Time stamps.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time in UTC in the format of RFC 3339, such as `2026-11-24T14:19:37Z`; with nine digits of the
/// second if `nanoseconds` is set. A time before 1970 counts as 1970.
///
/// ```
/// let start = std::time::UNIX_EPOCH;
/// assert_eq!(nspod_oci_runtime::rfc3339(start, false), "1970-01-01T00:00:00Z");
/// ```
pub fn rfc3339(at: SystemTime, nanoseconds: bool) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970: years begin in March.
    let day_of_era = (days + 719_468) % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + (days + 719_468) / 146_097 * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanoseconds {
        let _ = write!(text, ".{:09}", since.subsec_nanos());
    }
    text + "Z"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(at(seconds), false), date);
        }
        let fraction = at(1) + Duration::from_nanos(5);
        assert_eq!(rfc3339(fraction, true), "1970-01-01T00:00:01.000000005Z");
    }
}
