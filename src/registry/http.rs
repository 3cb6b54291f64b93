//! Files from ordinary web servers: `ADD https://…` and contexts by URL.

use std::io;

use jiff::{civil::DateTime, fmt::rfc2822, tz::TimeZone};
use reqwest::{
    Method, StatusCode, Url,
    header::{
        ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
        LAST_MODIFIED, RANGE,
    },
};

use super::{
    client::Client,
    error::{Error, Failure},
    fetch::BlobSink,
    location::content_range,
    redact::redacted,
    transport::{Follow, Home, Request, host_and_port},
};
use crate::oci::{Digest, Digester};

/// What to fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Get {
    /// The `http://` or `https://` address; a user and password in it are sent to its server alone.
    pub url: String,
    /// The `ETag` of a copy that is at hand; the file is sent only when it is another by now.
    pub etag: Option<String>,
    /// The `Last-Modified` of such a copy.
    pub last_modified: Option<String>,
}

/// What a server said of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Whether the copy at hand is still right; then nothing was written.
    pub is_unchanged: bool,
    /// Where it came from after redirects, without secrets.
    pub url: String,
    /// The path of that address, whose last part may serve as a name.
    pub path: String,
    /// Its `ETag`.
    pub etag: Option<String>,
    /// Its `Last-Modified`, as the server wrote it.
    pub last_modified: Option<String>,
    /// Its `Content-Disposition`, which may name it.
    pub content_disposition: Option<String>,
    /// Its `Content-Type`.
    pub content_type: Option<String>,
    /// The number of bytes that were written.
    pub size: u64,
    /// Their digest.
    pub digest: Digest,
}

impl Download {
    /// When the file changed last, in seconds since 1970, if the server told.
    pub fn modified(&self) -> Option<i64> {
        self.last_modified.as_deref().and_then(http_date)
    }
}

/// Seconds since 1970 of a date in a header (RFC 9110, 5.6.7), in the form of today or in one of the two obsolete ones.
fn http_date(text: &str) -> Option<i64> {
    let of_today = text.strip_suffix("GMT").and_then(|date| {
        let date = format!("{date}+0000");
        let parsed = rfc2822::DateTimeParser::new().parse_timestamp(&date);
        parsed.ok()
    });
    let obsolete = || {
        let parsed = DateTime::strptime("%A, %d-%b-%y %H:%M:%S GMT", text);
        let parsed = parsed.or_else(|_| DateTime::strptime("%a %b %e %H:%M:%S %Y", text));
        let zoned = parsed.and_then(|date| date.to_zoned(TimeZone::UTC));
        zoned.ok().map(|zoned| zoned.timestamp())
    };
    of_today.or_else(obsolete).map(jiff::Timestamp::as_second)
}

impl Client {
    /// Fetches a file into a sink. Redirects are followed; broken transfers go on where they broke if the server can
    /// tell that the file is still the same, and begin again else.
    pub fn download(&self, get: &Get, sink: &mut dyn BlobSink) -> Result<Download, Error> {
        let url = Url::parse(&get.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::Setting {
                what: "address",
                value: super::redact::redacted_text(&get.url),
                reason: "it does not begin with http:// or https:// and a host".to_owned(),
            })?;
        let settings = self.settings();
        let is_insecure = settings.insecure.contains(&host_and_port(&url));
        let mut transfer = Transfer {
            client: self,
            get,
            what: redacted(&url),
            home: Home::of(&url, is_insecure),
            url,
            sink,
            seen: Digester::new(),
            offset: 0,
            validator: None,
        };
        self.block_on(async {
            let mut attempts = self.core.attempts();
            loop {
                let before = transfer.offset;
                match transfer.attempt().await {
                    Ok(download) => return Ok(download),
                    Err(failure) => {
                        if transfer.offset > before {
                            attempts.progressed();
                        }
                        attempts.after(failure).await?;
                    }
                }
            }
        })
    }
}

struct Transfer<'a> {
    client: &'a Client,
    get: &'a Get,
    /// The address, for messages.
    what: String,
    home: Home,
    url: Url,
    sink: &'a mut dyn BlobSink,
    seen: Digester,
    offset: u64,
    /// What tells whether the file is still the one that the bytes so far belong to.
    validator: Option<HeaderValue>,
}

impl Transfer<'_> {
    async fn attempt(&mut self) -> Result<Download, Failure> {
        let core = &self.client.core;
        if self.validator.is_none() && self.offset > 0 {
            self.restart()?;
        }
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, text: &str| {
            headers.extend(HeaderValue::try_from(text).ok().map(|value| (name, value)));
        };
        if self.offset > 0 {
            set(RANGE, &format!("bytes={}-", self.offset));
        } else {
            let conditions = [
                (IF_NONE_MATCH, &self.get.etag),
                (IF_MODIFIED_SINCE, &self.get.last_modified),
            ];
            for (name, value) in conditions {
                if let Some(value) = value {
                    set(name, value);
                }
            }
        }
        if self.offset > 0
            && let Some(validator) = &self.validator
        {
            headers.insert(IF_RANGE, validator.clone());
        }
        let request = Request {
            method: Method::GET,
            url: self.url.clone(),
            headers,
            authorization: None,
            home: self.home.clone(),
            limit: core.settings().timeouts.idle,
            // The author of the Dockerfile decides whom to trust, as with any other downloader.
            follow: Follow::Anywhere,
            meter: None,
        };
        let mut answer = core.transport.send(&request, &mut || Ok(None)).await?;
        let text = |answer: &super::answer::Answer, name: HeaderName| {
            answer.header(name.as_str()).map(ToOwned::to_owned)
        };
        let mut download = Download {
            is_unchanged: false,
            url: redacted(answer.url()),
            path: answer.url().path().to_owned(),
            etag: text(&answer, ETAG),
            last_modified: text(&answer, LAST_MODIFIED),
            content_disposition: text(&answer, reqwest::header::CONTENT_DISPOSITION),
            content_type: text(&answer, reqwest::header::CONTENT_TYPE),
            size: 0,
            digest: crate::oci::sha256(b""),
        };
        match answer.status() {
            StatusCode::OK => {
                if self.offset > 0 {
                    self.restart()?;
                }
            }
            StatusCode::PARTIAL_CONTENT if self.offset > 0 => {
                let range = answer.header("content-range").and_then(content_range);
                if range.is_none_or(|(first, _)| first != self.offset) {
                    self.validator = None;
                    return Err(Failure::transient(Error::Malformed {
                        host: answer.host.clone(),
                        what: self.what.clone(),
                        reason: "it is another range than the one asked for".to_owned(),
                    }));
                }
            }
            StatusCode::NOT_MODIFIED
                if self.get.etag.is_some() || self.get.last_modified.is_some() =>
            {
                download.is_unchanged = true;
                return Ok(download);
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.offset > 0 => {
                self.validator = None;
                let failure = answer
                    .refusal(&self.what, &Method::GET, "no credentials")
                    .await;
                return Err(Failure::transient(failure.error));
            }
            _ => {
                return Err(answer
                    .refusal(&self.what, &Method::GET, "no credentials")
                    .await);
            }
        }
        // A weak tag stays while bytes change, so it cannot vouch for the rest.
        let strong = |value: &&HeaderValue| !value.as_bytes().starts_with(b"W/");
        self.validator = answer
            .headers()
            .get(ETAG)
            .filter(strong)
            .or_else(|| answer.headers().get(LAST_MODIFIED))
            .cloned();
        let too_slow = |failure: Failure| failure.about(&self.what);
        while let Some(chunk) = answer.chunk().await.map_err(too_slow)? {
            let bytes = chunk.as_ref();
            self.seen.update(bytes);
            self.offset += bytes.len() as u64;
            self.sink.write(bytes).map_err(|e| self.write_error(e))?;
        }
        download.size = self.offset;
        download.digest = self.seen.clone().finish();
        Ok(download)
    }

    fn restart(&mut self) -> Result<(), Error> {
        self.sink.reset().map_err(|e| self.write_error(e))?;
        self.seen = Digester::new();
        self.offset = 0;
        Ok(())
    }

    fn write_error(&self, source: io::Error) -> Error {
        Error::Io {
            action: "write",
            what: self.what.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_headers_are_read() {
        assert_eq!(
            http_date("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(1_445_412_480)
        );
        assert_eq!(
            http_date("Wednesday, 21-Oct-15 07:28:00 GMT"),
            Some(1_445_412_480)
        );
        assert_eq!(http_date("Thu Oct  1 07:28:00 2015"), Some(1_443_684_480));
        assert_eq!(http_date("yesterday"), None);
    }
}
