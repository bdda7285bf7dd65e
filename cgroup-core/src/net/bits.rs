//! Text of a rate in bits per second: a pure function.

use crate::error::{Error, Result};

/// Parses a rate in bits per second, and returns bytes per second, rounded up. The units are those of
/// [tc(8)](https://man7.org/linux/man-pages/man8/tc.8.html): `bit`, `kbit`, `mbit`, `gbit` and `tbit`,
/// which are powers of 1000. The number can have a fraction.
///
/// ```
/// use cgroup_core::net::bytes_per_second;
/// assert_eq!(bytes_per_second("10mbit")?, 1_250_000);
/// assert_eq!(bytes_per_second("1.5 gbit")?, 187_500_000);
/// assert!(bytes_per_second("10").unwrap_err().to_string().contains("10mbit"));
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidLimit`: the text has another form, or the rate does not fit in 64 bits.
pub fn bytes_per_second(text: &str) -> Result<u64> {
    let wrong =
        || Error::limit("net", text, "a rate is a number with a unit, such as 500kbit, 10mbit or 1gbit");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit: u128 = match unit.trim_start() {
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        "tbit" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u128 = fraction.parse().map_err(|_| wrong())?;
    let bits = u128::from(whole) * unit + (part * unit).div_ceil(10_u128.pow(fraction.len() as u32));
    u64::try_from(bits.div_ceil(8)).map_err(|_| Error::limit("net", text, "it does not fit in 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bits_with_a_decimal_unit() {
        for (text, bytes) in [
            ("0bit", 0),
            ("1bit", 1),
            ("8bit", 1),
            ("1kbit", 125),
            ("2.5Mbit", 312_500),
            ("1tbit", 125_000_000_000),
        ] {
            assert_eq!(bytes_per_second(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "10", "10m", "mbit", ".5mbit", "1.mbit", "1.2.3mbit", "-1mbit", "10mbps", "1e3bit"] {
            assert!(bytes_per_second(text).is_err(), "{text}");
        }
        assert!(bytes_per_second("99999999999999tbit").unwrap_err().to_string().contains("64 bits"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.]{0,24}[ kmgt]{0,2}(bit)?.*") {
            let _ = bytes_per_second(&text);
        }
    }
}
