//! How long ago something was, as Docker's lists say it.

use jiff::Timestamp;

/// `5 minutes ago`; a time that cannot be read, or that is still to come, as it is written.
pub(crate) fn ago(then: &str, now: Timestamp) -> String {
    let Ok(time) = then.parse::<Timestamp>() else {
        return then.to_owned();
    };
    let seconds = now.as_second() - time.as_second();
    let Ok(seconds) = u64::try_from(seconds) else {
        return then.to_owned();
    };
    format!("{} ago", span(seconds))
}

/// The rounding of Docker: hours up to two days, days up to two weeks, weeks up to two months, months up to two years.
fn span(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / (24 * 7)),
        (.., 1440..17520) => format!("{} months", hours / (24 * 30)),
        _ => format!("{} years", seconds / (3600 * 24 * 365)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_docker_tells_them() {
        let now: Timestamp = "2024-03-01T12:00:00Z".parse().expect("a time");
        for (then, want) in [
            ("2024-03-01T12:00:00Z", "Less than a second ago"),
            ("2024-03-01T11:59:18.5Z", "42 seconds ago"),
            ("2024-03-01T11:58:30Z", "About a minute ago"),
            ("2024-03-01T11:15:00Z", "45 minutes ago"),
            ("2024-03-01T10:59:00Z", "About an hour ago"),
            ("2024-02-29T00:00:00Z", "36 hours ago"),
            ("2024-02-25T12:00:00Z", "5 days ago"),
            ("2024-02-01T12:00:00Z", "4 weeks ago"),
            ("2023-10-01T12:00:00Z", "5 months ago"),
            ("1970-01-01T00:00:00Z", "54 years ago"),
            ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
            ("once", "once"),
        ] {
            assert_eq!(ago(then, now), want, "{then}");
        }
    }
}
