//! The words of an image's history. BuildKit prints its values with Go's `fmt`; tools compare them, so the same
//! bytes come out here.

use crate::oci::Healthcheck;

/// `[a b]`, Go's `%v` of a list.
pub(super) fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// `{Test:[CMD true] Interval:30s …}`, Go's `%+v` of a health check.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// A duration as Go prints it: `1h0m5s`, `1.5s`, `20ms`, `0s`.
fn duration(nanoseconds: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(n, 1_000)),
        1_000_000..SECOND => format!("{sign}{}ms", decimal(n, 1_000_000)),
        _ => {
            let minutes = n / (60 * SECOND);
            let seconds = decimal(n % (60 * SECOND), SECOND);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// `n / unit` without trailing zeros.
fn decimal(n: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let fraction = format!("{:0digits$}", n % unit);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        (n / unit).to_string()
    } else {
        format!("{}.{fraction}", n / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_in_go() {
        for (nanoseconds, want) in [
            (0, "0s"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (20_000_000, "20ms"),
            (1_500_000, "1.5ms"),
            (2_000, "2µs"),
        ] {
            assert_eq!(duration(nanoseconds), want);
        }
    }
}
