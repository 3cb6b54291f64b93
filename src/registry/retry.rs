//! When to try again, and how long to wait before.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

use super::{
    error::{Error, Failure},
    settings::{Retry, Warn},
};

/// Whether an answer with this status may be different next time.
pub(super) fn is_transient(status: StatusCode) -> bool {
    match status.as_u16() {
        408 | 425 | 429 | 499 => true,
        // "Not implemented" and "HTTP version not supported" stay so.
        501 | 505 => false,
        code => code >= 500,
    }
}

/// The `Retry-After` of an answer, in seconds or as a date; at least nothing, for a date that has passed.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::DateTimeParser::new()
        .relaxed_weekday(true)
        .parse_timestamp(value)
        .ok()?;
    // The server's own clock, where it tells it, keeps a wrong local clock from making this absurd.
    let now = headers
        .get(reqwest::header::DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(|date| {
            jiff::fmt::rfc2822::DateTimeParser::new()
                .relaxed_weekday(true)
                .parse_timestamp(date.trim())
                .ok()
        })
        .unwrap_or_else(jiff::Timestamp::now);
    let seconds = then.as_second().saturating_sub(now.as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Counts the failures of one piece of work and decides after each whether there is another attempt.
pub(super) struct Attempts<'a> {
    policy: &'a Retry,
    warn: Option<&'a Warn>,
    n_failed: u32,
    limit: u32,
}

/// A refused connection, an unknown name or a server that is silent for a minute rarely heals while one waits, unlike one that
/// answers that it is overloaded.
const MAX_ATTEMPTS_TO_CONNECT: u32 = 3;

impl<'a> Attempts<'a> {
    pub(super) fn new(policy: &'a Retry, warn: Option<&'a Warn>) -> Self {
        Self {
            policy,
            warn,
            n_failed: 0,
            limit: policy.attempts.max(1),
        }
    }

    /// At most `limit` attempts, whatever the policy says.
    pub(super) fn at_most(mut self, limit: u32) -> Self {
        self.limit = self.limit.min(limit);
        self
    }

    /// Forgets earlier failures, because the work has come on since.
    pub(super) fn progressed(&mut self) {
        self.n_failed = 0;
    }

    /// Waits before the next attempt, or gives the error back when there is none.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), Error> {
        self.n_failed += 1;
        let limit = match failure.error {
            Error::Unreachable {
                connected: false, ..
            }
            | Error::TooSlow { .. } => self.limit.min(MAX_ATTEMPTS_TO_CONNECT),
            _ => self.limit,
        };
        if !failure.transient || self.n_failed >= limit {
            return Err(failure.error);
        }
        let delay = match failure.retry_after {
            Some(asked) if asked > self.policy.max_retry_after => return Err(failure.error),
            // Many clients were told the same; they need not all come back in the same instant.
            Some(asked) => asked + jittered(self.policy.base).min(asked / 10),
            None => jittered(backoff(self.policy, self.n_failed)),
        };
        if let Some(Warn(warn)) = self.warn
            && delay >= Duration::from_millis(500)
        {
            warn(&format!(
                "{}; trying again in {:.0} s (attempt {} of {limit})",
                failure.error,
                delay.as_secs_f32().max(1.0),
                self.n_failed + 1,
            ));
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

fn backoff(policy: &Retry, n_failed: u32) -> Duration {
    let factor = 1u32.checked_shl(n_failed - 1).unwrap_or(u32::MAX);
    policy.base.saturating_mul(factor).min(policy.max)
}

/// Within a fifth of the given time.
fn jittered(time: Duration) -> Duration {
    // Every `RandomState` has other keys, which is randomness enough to spread clients.
    let random = RandomState::new().build_hasher().finish();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a random fraction needs no precision"
    )]
    let fraction = random as f64 / u64::MAX as f64;
    time.min(Duration::from_hours(24))
        .mul_f64(0.8 + 0.4 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_delays() {
        for (status, want) in [
            (400, false),
            (401, false),
            (404, false),
            (408, true),
            (425, true),
            (429, true),
            (499, true),
            (500, true),
            (501, false),
            (503, true),
            (522, true),
        ] {
            let status = StatusCode::from_u16(status).expect("valid");
            assert_eq!(is_transient(status), want, "{status}");
        }
        let policy = Retry::default();
        assert_eq!(backoff(&policy, 1), Duration::from_secs(1));
        assert_eq!(backoff(&policy, 4), Duration::from_secs(8));
        assert_eq!(backoff(&policy, 100), Duration::from_mins(1));
        for _ in 0..100 {
            let delay = jittered(Duration::from_secs(10)).as_secs_f64();
            assert!((8.0..=12.0).contains(&delay), "{delay}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |value: &'static str, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("valid"));
            if let Some(date) = date {
                headers.insert(reqwest::header::DATE, date.parse().expect("valid"));
            }
            retry_after(&headers)
        };
        assert_eq!(after("17", None), Some(Duration::from_secs(17)));
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(
            after("Sun, 06 Nov 1994 08:49:47 GMT", date),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            after("Sun, 06 Nov 1994 08:49:47 GMT", None),
            Some(Duration::ZERO)
        );
        assert_eq!(after("soon", None), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
