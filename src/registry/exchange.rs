//! Requests to servers that are no registries: a method, a URL, headers, a body, and an answer of limited size.
//!
//! What has to be authorized is so by its URL or its headers; redirects are not followed, so neither goes elsewhere.

use std::{
    io::{self, Read},
    sync::Arc,
};

use reqwest::{
    Method, Url,
    header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue},
};

use super::{
    body::{self, Meter, OnBytes},
    client::Client,
    error::{Error, Failure},
    redact::redacted,
    retry,
    transport::{Follow, Home, Request, host_and_port},
};

/// A request.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// `GET`, `POST` …
    pub method: &'a str,
    /// The address. Its query may hold secrets; messages leave it out.
    pub url: &'a str,
    /// Headers; values may be secret.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: Content<'a>,
    /// The largest body of an answer that is read, in bytes.
    pub limit: u64,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// None.
    Nothing,
    /// These bytes.
    Bytes(&'a [u8]),
    /// What a reader gives.
    File {
        /// How many bytes there are.
        size: u64,
        /// Opens it, from the beginning; called for each attempt.
        open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync),
        /// Told how many bytes were sent.
        progress: Option<&'a OnBytes>,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = super::redact::redacted_text(self.url);
        f.debug_struct("Exchange")
            .field("method", &self.method)
            .field("url", &url)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::File { size, .. } => write!(f, "File({size} bytes)"),
        }
    }
}

impl Client {
    /// Sends a request, again where a server is busy or a connection breaks. Statuses in `fine` are answers; all others are
    /// errors.
    pub fn exchange(&self, request: &Exchange<'_>, fine: &[u16]) -> Result<Reply, Error> {
        let setting = |what: &'static str| Error::Setting {
            what,
            value: super::redact::redacted_text(request.url),
            reason: "it cannot be used in a request".to_owned(),
        };
        let url = Url::parse(request.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| setting("address"))?;
        let method = Method::from_bytes(request.method.as_bytes())
            .ok()
            .ok_or_else(|| setting("method"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers {
            let name = HeaderName::try_from(*name).ok();
            let value = HeaderValue::try_from(*value).ok();
            let (Some(name), Some(mut value)) = (name, value) else {
                return Err(setting("header"));
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Content::File { size, .. } = request.body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        }
        let is_insecure = self.settings().insecure.contains(&host_and_port(&url));
        let what = {
            let mut place = url.clone();
            place.set_query(None);
            redacted(&place)
        };
        let home = Home::of(&url, is_insecure);
        self.block_on(async {
            let mut attempts = self.core.attempts();
            loop {
                let meter = match request.body {
                    Content::File { progress, .. } => Some(Meter::new(progress.cloned())),
                    Content::Nothing | Content::Bytes(_) => None,
                };
                let sent = Request {
                    method: method.clone(),
                    url: url.clone(),
                    headers: headers.clone(),
                    authorization: None,
                    home: home.clone(),
                    limit: self.settings().timeouts.idle,
                    follow: Follow::Never,
                    meter: meter.clone(),
                };
                let outcome = self
                    .attempt(&sent, request, meter.as_ref(), &what, fine)
                    .await;
                let failure = match outcome {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => failure,
                };
                if let Some(source) = meter.and_then(|meter| meter.take_failure()) {
                    return Err(Error::Io {
                        action: "read",
                        what,
                        source,
                    });
                }
                attempts.after(failure).await?;
            }
        })
    }

    async fn attempt(
        &self,
        sent: &Request,
        request: &Exchange<'_>,
        meter: Option<&Arc<Meter>>,
        what: &str,
        fine: &[u16],
    ) -> Result<Reply, Failure> {
        let mut make = || {
            Ok(match (request.body, meter) {
                (Content::Bytes(bytes), _) => Some(reqwest::Body::from(bytes.to_vec())),
                (Content::File { size, open, .. }, Some(meter)) => {
                    // Whoever opens it may fetch it first, with this very client; a thread of the runtime could not wait
                    // for that.
                    let opened = std::thread::scope(|scope| scope.spawn(open).join());
                    let reader = opened
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                        .map_err(|source| Error::Io {
                            action: "read",
                            what: what.to_owned(),
                            source,
                        })?;
                    Some(body::stream(reader, 0, size, meter))
                }
                _ => None,
            })
        };
        let mut answer = self.core.transport.send(sent, &mut make).await?;
        let status = answer.status();
        if fine.contains(&status.as_u16()) && !retry::is_transient(status) {
            // The length that an answer to HEAD tells is that of what GET would give.
            let bytes = if sent.method == Method::HEAD {
                Vec::new()
            } else {
                answer.bytes(what, request.limit).await?
            };
            return Ok(Reply {
                status: status.as_u16(),
                bytes,
            });
        }
        let mut failure = answer
            .refusal(what, &sent.method, "the given credentials")
            .await;
        // No registry, so nobody logs in there; what its address is signed with helps nobody.
        match &mut failure.error {
            Error::Unauthorized {
                host,
                status,
                message,
                ..
            } => {
                failure.error = Error::Status {
                    host: std::mem::take(host),
                    method: sent.method.to_string(),
                    url: what.to_owned(),
                    status: *status,
                    code: String::new(),
                    message: std::mem::take(message),
                };
            }
            Error::Status { url, .. } => what.clone_into(url),
            _ => {}
        }
        Err(failure)
    }
}
