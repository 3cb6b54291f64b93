//! One blob on its way to a registry: in one request, in pieces, resumed or begun again.

use std::{
    io::{self, Read},
    sync::Arc,
};

use reqwest::{
    Method, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue},
};

use super::{
    auth::Need,
    body::{self, Meter},
    client::{Call, Core, Target},
    error::{Error, Failure},
    fetch::PROGRESS_BYTES,
    location,
    mirrors::Endpoint,
    push::{check_digest, next_location, no_location},
};
use crate::oci::Descriptor;

/// The pieces that are tried when a proxy refuses the whole, one after the other. The first stays below the 100 MB
/// that a large content delivery network admits, the last below the 1 MB that nginx comes with.
const CHUNK_BYTES: [u64; 3] = [64 << 20, 8 << 20, 1_000_000];
/// Blobs up to this size are not resumed but sent again, unless they travel in pieces.
const MIN_RESUME_BYTES: u64 = 1 << 20;

/// An upload that a registry has begun.
#[derive(Debug)]
pub(super) struct Begun {
    /// Where it wants the next request.
    pub(super) location: Url,
    /// The smallest piece that it takes, the last aside.
    pub(super) min_piece: u64,
}

/// An upload under way.
pub(super) struct Session<'a> {
    pub(super) core: &'a Core,
    pub(super) endpoint: &'a Endpoint,
    /// Opens the blob so many bytes from its beginning.
    pub(super) open: &'a (dyn Fn(u64) -> io::Result<Box<dyn Read + Send>> + Sync),
    /// The blob, once it is whole.
    pub(super) blob: Option<&'a Descriptor>,
    /// How many bytes are to be sent; all of them, when the blob is whole.
    pub(super) reach: u64,
    pub(super) what: String,
    pub(super) meter: Arc<Meter>,
    /// Where the registry wants the next request; `None` before the first one and after it forgot the upload.
    pub(super) location: Option<Url>,
    /// How many bytes the registry has.
    pub(super) offset: u64,
    /// The largest body of a request.
    pub(super) chunk: Option<u64>,
    /// Whether the registry can be asked how far it is.
    pub(super) may_resume: bool,
    /// Whether the latest request was the one that ends the upload.
    pub(super) is_ending: bool,
}

impl Session<'_> {
    /// Ends well only when the registry has the blob, or what there is of it so far.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        let mut attempts = self.core.attempts();
        if self.blob.is_none() {
            // Patience is better spent on it once it is whole: who breaks off may not like pieces.
            attempts = attempts.at_most(3);
        }
        let mut mark = 0;
        loop {
            // `mark` only grows, so a registry that forgets uploads cannot make this endless.
            if self.offset >= mark + self.chunk.map_or(PROGRESS_BYTES, |c| c.min(PROGRESS_BYTES)) {
                attempts.progressed();
                mark = self.offset;
            }
            let had_session = self.location.is_some();
            let before = self.offset;
            let mut failure = match self.step().await {
                Ok(true) => return Ok(()),
                Ok(false) if self.blob.is_none() && self.offset == self.reach => return Ok(()),
                Ok(false) => continue,
                Err(failure) => failure,
            };
            if let Some(source) = self.meter.take_failure() {
                return Err(Error::Io {
                    action: "read",
                    what: self.what.clone(),
                    source,
                });
            }
            if failure.transient {
                attempts.after(failure).await?;
                // What broke may have been the answer alone.
                if self.is_ending
                    && let Some(blob) = self.blob
                    && let Ok(true) = self.core.exists_now(self.endpoint, blob).await
                {
                    return Ok(());
                }
                // Some registries cannot end an upload with an empty request.
                if before > 0 && before == self.reach {
                    self.may_resume = false;
                }
                self.resync().await;
                continue;
            }
            match failure.error {
                // It is sent once it is whole.
                error if self.blob.is_none() => return Err(error),
                Error::Status { status: 413, .. } => {
                    let now = self.chunk.unwrap_or(self.reach);
                    let Some(smaller) = CHUNK_BYTES.into_iter().find(|bytes| *bytes < now) else {
                        return Err(failure.error);
                    };
                    self.core.warn(&format!(
                        "{} refuses requests of {now} bytes; sending pieces of {smaller}",
                        self.endpoint.host
                    ));
                    self.chunk = Some(smaller);
                    self.restart().await;
                }
                // The registry lost the upload, or does not agree on how far it is.
                Error::NotFound { .. } | Error::Status { status: 416, .. } if had_session => {
                    failure.transient = true;
                    self.may_resume = false;
                    self.restart().await;
                    attempts.after(failure).await?;
                }
                // Going on where a broken upload stopped did not work out; the whole may.
                Error::Status {
                    status: 400..=499, ..
                } if before > 0 && self.may_resume => {
                    self.may_resume = false;
                    self.restart().await;
                }
                error => return Err(error),
            }
        }
    }

    /// One request. True when that was the last.
    async fn step(&mut self) -> Result<bool, Failure> {
        let Some(location) = self.location.clone() else {
            self.offset = 0;
            self.is_ending = false;
            let begun = match self.core.spare(self.endpoint).await {
                Some(begun) => begun,
                None => self.core.begin(self.endpoint, &self.what).await?,
            };
            self.location = Some(begun.location);
            return Ok(false);
        };
        let left = self.reach - self.offset;
        let len = self.chunk.map_or(left, |chunk| chunk.min(left));
        // The last piece travels with the request that ends the upload: some registries refuse an empty one.
        let last = self.blob.filter(|_| len == left);
        self.is_ending = last.is_some();
        let (method, url) = match last {
            Some(blob) => {
                let digest = blob.digest.to_string();
                (Method::PUT, location::with_digest(&location, &digest))
            }
            None => (Method::PATCH, location),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        if len > 0 && (last.is_none() || self.offset > 0) {
            let range = format!("{}-{}", self.offset, self.offset + len - 1);
            headers.extend(
                HeaderValue::try_from(range)
                    .ok()
                    .map(|v| (CONTENT_RANGE, v)),
            );
        }
        let call = Call {
            endpoint: self.endpoint,
            method: method.clone(),
            target: Target::Url(&url),
            headers,
            need: Need::push(self.endpoint),
            limit: None,
            meter: Some(&self.meter),
        };
        let offset = self.offset;
        let (open, meter, what) = (self.open, &self.meter, &self.what);
        let mut body = || {
            let failed = |source| Error::Io {
                action: "read",
                what: what.clone(),
                source,
            };
            // Whoever opens the blob may fetch it first, with this very client.
            let opened = || -> io::Result<_> {
                let mut reader = open(offset)?;
                let mut bytes = Vec::new();
                if len <= body::SMALL_BYTES {
                    bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
                    reader.read_exact(&mut bytes)?;
                }
                Ok((reader, bytes))
            };
            let (reader, bytes) = tokio::task::block_in_place(opened).map_err(failed)?;
            Ok(Some(if len <= body::SMALL_BYTES {
                body::whole(bytes, offset, meter)
            } else {
                body::stream(reader, offset, len, meter)
            }))
        };
        let answer = self.core.call(&call, &mut body).await?;
        if answer.status().is_success() {
            if let Some(blob) = last {
                check_digest(&answer, &self.what, blob.digest)?;
                return Ok(true);
            }
            // The registry's own count is not asked: one large registry forgets to move it on.
            self.offset += len;
            self.location =
                Some(next_location(&answer).ok_or_else(|| no_location(&answer, &self.what))?);
            return Ok(false);
        }
        let credentials = self.core.describe(self.endpoint);
        Err(answer.refusal(&self.what, &method, &credentials).await)
    }

    /// Finds out how far the registry is after a broken request; begins again where it does not say.
    async fn resync(&mut self) {
        let Some(location) = self.location.clone() else {
            return;
        };
        let is_worth_it = self.offset > 0 || self.reach > MIN_RESUME_BYTES;
        if self.may_resume && is_worth_it {
            let call = Call {
                endpoint: self.endpoint,
                method: Method::GET,
                target: Target::Url(&location),
                headers: HeaderMap::new(),
                need: Need::push(self.endpoint),
                limit: None,
                meter: None,
            };
            if let Ok(answer) = self.core.ask(&call).await
                && answer.status().is_success()
                && let Some(received) = answer.header("range").and_then(location::received)
                && received <= self.reach
            {
                self.location = next_location(&answer).or(Some(location));
                self.offset = received;
                return;
            }
        }
        self.restart().await;
    }

    async fn restart(&mut self) {
        if let Some(location) = self.location.take() {
            self.core.give_up(self.endpoint, &location).await;
        }
        self.offset = 0;
    }
}
