//! Numbers, durations and switches as Dockerfiles write them: in Go's forms.

use std::time::Duration;

use super::quote::quoted;

/// Reads a switch: `1`, `t`, `true` and their opposites, as Go's `ParseBool` does.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a size in bytes: `64m`, `1.5 GiB`. Units are powers of 1024; the letters `b` and `ib` say nothing.
pub fn parse_size(text: &str) -> Option<u64> {
    let at = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))?;
    let (number, unit) = if text.as_bytes()[at] == b' ' {
        (&text[..at], &text[at + 1..])
    } else {
        text.split_at(at + 1)
    };
    let size: f64 = number.parse().ok()?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let bytes = size * f64::from(2.0_f32).powi(shift);
    // 2^63: sizes are signed 64-bit numbers for everybody else.
    (size >= 0.0 && bytes < 9_223_372_036_854_775_808.0).then(|| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked, the fraction is dropped on purpose"
        )]
        let bytes = bytes as u64;
        bytes
    })
}

/// Reads a duration: `1h30m`, `1.5s`, `0`. The error is Go's message.
///
/// A negative one is below every minimum, so it is read as [`None`].
pub fn parse_duration(text: &str) -> Result<Option<Duration>, String> {
    let invalid = || format!("time: invalid duration {}", quoted(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Some(Duration::ZERO));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: u128 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quoted(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quoted(unit),
                    quoted(text)
                ));
            }
        };
        let count = |digits: &str| -> Result<u128, String> {
            match digits {
                "" => Ok(0),
                // More digits than these say nothing below a nanosecond, and overflow above.
                _ if digits.len() > 19 => Err(invalid()),
                _ => digits.parse().map_err(|_error| invalid()),
            }
        };
        let fraction = &fraction[..fraction.len().min(18)];
        let places = u32::try_from(fraction.len()).unwrap_or(18);
        nanos += count(whole)? * scale + count(fraction)? * scale / 10_u128.pow(places);
        if nanos > i64::MAX as u128 {
            return Err(invalid());
        }
        rest = after;
    }
    let nanos = u64::try_from(nanos).map_err(|_error| invalid())?;
    if negative && nanos > 0 {
        return Ok(None);
    }
    Ok(Some(Duration::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64m"), Some(64 << 20));
        assert_eq!(parse_size("1.5 GiB"), Some(3 << 29));
        assert_eq!(parse_size("10"), Some(10));
        for bad in ["", "m", "-1", "1mm", "1x", "1e99p", "nan"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_go_durations() {
        let nanos = |text| parse_duration(text).unwrap().map(|d| d.as_nanos());
        assert_eq!(nanos("1h2m3.5s"), Some(3_723_500_000_000));
        assert_eq!(nanos(".5ms"), Some(500_000));
        assert_eq!(nanos("0"), Some(0));
        assert_eq!(nanos("-1s"), None);
        let error = |text| parse_duration(text).unwrap_err();
        assert_eq!(error("5"), "time: missing unit in duration \"5\"");
        assert_eq!(error("5x"), "time: unknown unit \"x\" in duration \"5x\"");
        assert_eq!(error("x"), "time: invalid duration \"x\"");
        assert_eq!(error("99999999h"), "time: invalid duration \"99999999h\"");
    }
}
