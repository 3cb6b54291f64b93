//! One blob on its way here: verified while it arrives, resumed where it broke.

use std::io;

use base64::Engine as _;
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, HeaderValue, RANGE},
};

use super::{
    auth::Need,
    client::{Call, Core, Target},
    error::{Error, Failure},
    location::content_range,
    mirrors::Endpoint,
    retry::Attempts,
};
use crate::oci::{Descriptor, Digester, sha256};

/// After how many further bytes earlier failures of a transfer are forgotten.
pub(super) const PROGRESS_BYTES: u64 = 1 << 20;

/// Takes the bytes of a blob as they arrive. What it has is worth nothing until the transfer has succeeded.
pub trait BlobSink {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets everything it has: the transfer begins again.
    fn reset(&mut self) -> io::Result<()>;

    /// What it has already from an earlier transfer of the same blob: feeds these bytes to `seen` and tells their
    /// number. The transfer goes on behind them.
    fn resume(&mut self, seen: &mut Digester) -> io::Result<u64> {
        let _ = seen;
        Ok(0)
    }
}

impl BlobSink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl BlobSink for std::fs::File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(self, bytes)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.set_len(0)?;
        io::Seek::rewind(self)
    }
}

/// After how many further bytes a [`Watched`] sink tells.
const TELL_EVERY: u64 = 256 << 10;

/// A sink that passes everything on to another one and tells how many bytes that one has: first at the first bytes, then
/// now and then, not at the end.
pub struct Watched<'a> {
    sink: &'a mut dyn BlobSink,
    tell: &'a mut dyn FnMut(u64),
    size: u64,
    told: Option<u64>,
}

impl<'a> Watched<'a> {
    /// One that passes on to `sink`, which has nothing yet.
    pub fn new(sink: &'a mut dyn BlobSink, tell: &'a mut dyn FnMut(u64)) -> Self {
        Self {
            sink,
            tell,
            size: 0,
            told: None,
        }
    }
}

impl std::fmt::Debug for Watched<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl BlobSink for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write(bytes)?;
        self.size += bytes.len() as u64;
        if self.told.is_none_or(|told| self.size >= told + TELL_EVERY) {
            self.told = Some(self.size);
            (self.tell)(self.size);
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.size = 0;
        self.told = None;
        self.sink.reset()
    }
}

/// A blob on its way.
pub(super) struct Fetch<'a> {
    pub(super) core: &'a Core,
    pub(super) endpoint: &'a Endpoint,
    pub(super) descriptor: &'a Descriptor,
    pub(super) what: &'a str,
    pub(super) sink: &'a mut dyn BlobSink,
    /// Has seen `offset` bytes, which are those in the sink.
    pub(super) seen: Digester,
    pub(super) offset: u64,
}

impl Fetch<'_> {
    pub(super) async fn run(&mut self, mut attempts: Attempts<'_>) -> Result<(), Error> {
        let mut mark = self.offset;
        while self.offset < self.descriptor.size || self.descriptor.size == 0 {
            let result = self.attempt().await;
            if self.offset >= mark + PROGRESS_BYTES {
                attempts.progressed();
                mark = self.offset;
            }
            match result {
                Ok(()) => break,
                Err(failure) => attempts.after(failure).await?,
            }
        }
        let actual = std::mem::take(&mut self.seen).finish();
        if actual != self.descriptor.digest {
            return Err(Error::DigestMismatch {
                host: self.endpoint.host.clone(),
                what: self.what.to_owned(),
                expected: self.descriptor.digest,
                actual,
            });
        }
        Ok(())
    }

    /// Ends well only when all bytes are there.
    async fn attempt(&mut self) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        if self.offset > 0 {
            let range = format!("bytes={}-", self.offset);
            headers.extend(HeaderValue::try_from(range).ok().map(|v| (RANGE, v)));
        }
        let call = Call {
            endpoint: self.endpoint,
            method: Method::GET,
            target: Target::Repository(format!("blobs/{}", self.descriptor.digest)),
            headers,
            need: Need::pull(self.endpoint),
            limit: None,
            meter: None,
        };
        let mut answer = self.core.ask(&call).await?;
        let size = self.descriptor.size;
        let wrong_size = |host: &str, actual| Error::SizeMismatch {
            host: host.to_owned(),
            what: self.what.to_owned(),
            expected: size,
            actual,
        };
        // Bytes of the answer that are here already.
        let mut skip = match answer.status() {
            StatusCode::OK => {
                if let Some(actual) = answer.declared_len().filter(|len| *len != size) {
                    return Err(wrong_size(&answer.host, actual).into());
                }
                self.offset
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.header("content-range").and_then(content_range);
                match range {
                    Some((_, Some(actual))) if actual != size => {
                        return Err(wrong_size(&answer.host, actual).into());
                    }
                    Some((first, _)) if first == self.offset => 0,
                    _ => {
                        return Err(Error::Malformed {
                            host: answer.host.clone(),
                            what: self.what.to_owned(),
                            reason: "it is another range than the one asked for".to_owned(),
                        }
                        .into());
                    }
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.offset > 0 => {
                // The server has fewer bytes than it sent before, or knows no ranges: from the beginning.
                let failure = answer
                    .refusal(self.what, &Method::GET, &self.core.describe(self.endpoint))
                    .await;
                self.restart()?;
                return Err(Failure::transient(failure.error));
            }
            _ => {
                let credentials = self.core.describe(self.endpoint);
                return Err(answer.refusal(self.what, &Method::GET, &credentials).await);
            }
        };
        let too_slow = |failure: Failure| failure.about(self.what);
        while let Some(chunk) = answer.chunk().await.map_err(too_slow)? {
            let mut bytes = chunk.as_ref();
            let n_skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[n_skipped..];
            skip -= n_skipped as u64;
            if self.offset + bytes.len() as u64 > size {
                return Err(wrong_size(&answer.host, self.offset + bytes.len() as u64).into());
            }
            self.seen.update(bytes);
            self.offset += bytes.len() as u64;
            self.sink.write(bytes).map_err(|e| self.write_error(e))?;
        }
        if self.offset < size {
            return Err(Failure::transient(Error::Truncated {
                host: answer.host,
                what: self.what.to_owned(),
                expected: size,
                actual: self.offset,
            }));
        }
        Ok(())
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
            what: self.what.to_owned(),
            source,
        }
    }
}

/// The blob itself, where the descriptor carries it and it is what the descriptor says.
pub(super) fn inline_data(descriptor: &Descriptor) -> Option<Vec<u8>> {
    let text = descriptor.other.get("data")?.as_str()?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    (bytes.len() as u64 == descriptor.size && sha256(&bytes) == descriptor.digest).then_some(bytes)
}
