//! What a server answered, and what a refusal means.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode, Url, header::HeaderMap};

use super::{
    error::{Error, Failure},
    fault::failure,
    redact::{Secret, printable, redacted, without},
    retry,
};

/// How much of an error's body is read.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// A document comes faster than this over any line that a build is possible with.
const LEAST_BYTES_PER_SECOND: u64 = 4 << 10;

/// What a body brings at the least, by the time that is spent waiting for it: a line of 16 kbit/s that four transfers share.
const LEAST_BODY_BYTES_PER_SECOND: u64 = 512;

/// An answer whose body has not been read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: reqwest::Response,
    /// The server that gave it, after redirects.
    pub(super) host: String,
    pub(super) idle: Duration,
    pub(super) pace: Pace,
    /// What the server was told and may say again.
    pub(super) secrets: Vec<Secret>,
}

/// How long pieces of a body were waited for, and what they were. A stretch of waiting ends when it has reached the time that a
/// server may be silent for: dripping is no better than silence.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    n_bytes: u64,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Where it came from, after redirects.
    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    /// A header's text; `None` when it is missing or not plain text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The `Content-Length`.
    pub(super) fn declared_len(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The next piece of the body; `None` at its end. A body that comes too slowly over a while is an error, and another attempt may
    /// have it faster.
    pub(super) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, Failure> {
        let begun = Instant::now();
        let chunk = match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(failure(&self.host, &error)),
            Err(_elapsed) => return Err(self.too_slow("the rest of an answer", 0, self.idle)),
        };
        // Only what is waited for: whoever takes the bytes may be slow himself.
        self.pace.waited += begun.elapsed();
        self.pace.n_bytes += chunk.len() as u64;
        if self.pace.waited >= self.idle {
            let Pace { waited, n_bytes } = std::mem::take(&mut self.pace);
            if n_bytes < LEAST_BODY_BYTES_PER_SECOND * waited.as_secs() {
                return Err(self.too_slow("the rest of an answer", n_bytes, waited));
            }
        }
        Ok(Some(chunk))
    }

    fn too_slow(&self, what: &str, n_bytes: u64, time: Duration) -> Failure {
        Failure::transient(Error::TooSlow {
            host: self.host.clone(),
            what: what.to_owned(),
            n_bytes,
            time,
        })
    }

    /// The whole body of a document; more than `limit` bytes are an error, and so are some that come a few at a time: whoever waits
    /// for it holds up all others, and no pause of it may ever be too long.
    pub(super) async fn bytes(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_large = |host: &str| Error::TooLarge {
            host: host.to_owned(),
            what: what.to_owned(),
            limit,
        };
        if self.declared_len().is_some_and(|len| len > limit) {
            return Err(too_large(&self.host).into());
        }
        let mut bytes = Vec::new();
        let begun = Instant::now();
        while let Some(chunk) = self.chunk().await.map_err(|failure| failure.about(what))? {
            bytes.extend_from_slice(chunk.as_ref());
            if bytes.len() as u64 > limit {
                return Err(too_large(&self.host).into());
            }
            let usual = Duration::from_secs(bytes.len() as u64 / LEAST_BYTES_PER_SECOND);
            let time = begun.elapsed();
            if time > self.idle + usual {
                return Err(self.too_slow(what, bytes.len() as u64, time));
            }
        }
        Ok(bytes)
    }

    /// What there is of the body of an error; nothing when it cannot be read.
    pub(super) async fn text(&mut self) -> String {
        let mut bytes = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        while (bytes.len() as u64) < MAX_ERROR_BYTES && Instant::now() < until {
            match tokio::time::timeout(Duration::from_secs(5), self.chunk()).await {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(chunk.as_ref()),
                _ => break,
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The failure that an unexpected status stands for.
    pub(super) async fn refusal(
        mut self,
        what: &str,
        method: &Method,
        credentials: &str,
    ) -> Failure {
        let status = self.status();
        let retry_after = retry::retry_after(self.headers());
        let remaining = self.header("ratelimit-remaining").map(|r| printable(r, 40));
        let url = redacted(self.url());
        let body = self.text().await;
        // Before it is cut, and once more when nothing in it is escaped.
        let (code, message) = explain(&without(&body, &self.secrets));
        let code = without(&code, &self.secrets);
        let mut message = without(&message, &self.secrets);
        let host = self.host;
        let error = match status.as_u16() {
            401 | 403 => Error::Unauthorized {
                host,
                what: what.to_owned(),
                status: status.as_u16(),
                credentials: credentials.to_owned(),
                message,
            },
            404 => Error::NotFound {
                host,
                what: what.to_owned(),
                message,
            },
            429 => {
                if let Some(remaining) = remaining {
                    message = format!("{message} (remaining: {remaining})");
                }
                Error::RateLimited {
                    host,
                    credentials: credentials.to_owned(),
                    retry_after,
                    message,
                }
            }
            _ => Error::Status {
                host,
                method: method.to_string(),
                url,
                status: status.as_u16(),
                code,
                message,
            },
        };
        Failure {
            error,
            transient: retry::is_transient(status),
            retry_after,
        }
    }
}

/// The code and the words of an error's body: `{"errors": [{"code": …, "message": …}]}`, or whatever text it is.
fn explain(body: &str) -> (String, String) {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
        // Token servers and some proxies.
        #[serde(default)]
        details: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    let Ok(parsed) = serde_json::from_str::<Body>(body) else {
        if let Some(code) = element(body, "Code") {
            let message = element(body, "Message").unwrap_or_default();
            return (
                printable(code, 60),
                printable(&format!("{code}: {message}"), 300),
            );
        }
        // An HTML page of a proxy helps nobody but for its title.
        let text = match element(body, "title") {
            Some(title) => title,
            None if body.trim_start().starts_with('<') => "",
            None => body,
        };
        return (String::new(), printable(text, 300));
    };
    let code = parsed
        .errors
        .iter()
        .find_map(|e| e.code.clone())
        .unwrap_or_default();
    let mut texts: Vec<String> = parsed
        .errors
        .into_iter()
        .map(|e| match (e.code, e.message) {
            (Some(code), Some(message)) if !message.is_empty() => format!("{code}: {message}"),
            (Some(code), _) => code,
            (None, message) => message.unwrap_or_default(),
        })
        .collect();
    texts.extend(parsed.details.or(parsed.message));
    (printable(&code, 60), printable(&texts.join("; "), 300))
}

/// What is between the tags of the first such element, of HTML or of what buckets answer.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let lower = body.to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = lower.find(&open)? + open.len();
    let end = start + lower.get(start..)?.find(&close)?;
    body.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_errors_are_explained() {
        for (body, code, message) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no","detail":{}},{"code":"X"}]}"#,
                "DENIED",
                "DENIED: no; X",
            ),
            (
                r#"{"details":"incorrect username or password"}"#,
                "",
                "incorrect username or password",
            ),
            ("plain\ntext", "", "plain text"),
            (
                "<html><head><title>502 Bad Gateway</title>",
                "",
                "502 Bad Gateway",
            ),
            ("<html><body>x", "", ""),
            (
                "<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>too old</Message></Error>",
                "ExpiredToken",
                "ExpiredToken: too old",
            ),
            ("", "", ""),
            ("[1]", "", "[1]"),
        ] {
            assert_eq!(
                explain(body),
                (code.to_owned(), message.to_owned()),
                "{body}"
            );
        }
    }
}
