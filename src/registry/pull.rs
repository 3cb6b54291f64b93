//! Pulling: tags to digests, manifests and indexes, blobs.
//!
//! Bytes are believed, headers are not: a document is what its digest says, and its media type is what it says of
//! itself, as long as nobody contradicts that.

use std::{io, sync::Arc};

use base64::Engine as _;
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, HeaderMap, HeaderValue, RANGE},
};

use super::{
    auth::Need,
    client::{Call, Client, Core, Target},
    error::{Error, Failure},
    location::content_range,
    mirrors::Endpoint,
    retry::Attempts,
    transport::Answer,
};
use crate::{
    oci::{ConfigFile, Descriptor, Digest, Digester, Index, Manifest, MediaType, Platform, sha256},
    reference::Reference,
};

/// The largest manifest or index that is read; the distribution spec asks registries to take this much.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The largest config that is read. Real ones are some kilobytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// How deep indexes may be nested.
const MAX_INDEX_DEPTH: usize = 4;
/// After how many further bytes earlier failures of a transfer are forgotten.
pub(super) const PROGRESS_BYTES: u64 = 1 << 20;

/// What is asked for, best first. Some registries answer 406 without the last one.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// A manifest or an index, with the bytes that its digest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its media type, digest and size.
    pub descriptor: Descriptor,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// An image for one platform, without its layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The index that lists it; `None` when the reference names the manifest itself.
    pub index: Option<Document>,
    /// Its manifest.
    pub document: Document,
    /// The manifest, parsed.
    pub manifest: Manifest,
    /// The exact bytes of its config.
    pub config_bytes: Vec<u8>,
    /// The config, parsed.
    pub config: ConfigFile,
}

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

impl Document {
    /// The index, if it is one.
    pub fn index(&self) -> Option<Index> {
        let is_index = self.descriptor.media_type.is_index();
        is_index.then(|| serde_json::from_slice(&self.bytes).ok())?
    }

    /// The manifest, if it is one.
    pub fn manifest(&self) -> Option<Manifest> {
        let is_manifest = self.descriptor.media_type.is_manifest();
        is_manifest.then(|| serde_json::from_slice(&self.bytes).ok())?
    }
}

impl Client {
    /// What a reference means now: digest, size and media type of its manifest or index. A tag that was resolved
    /// once keeps its meaning for the life of the client.
    pub fn resolve(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let reference = reference.clone().with_default_tag();
        if let Some(known) = self.core.known_descriptor(&reference) {
            return Ok(known);
        }
        let descriptor = self.block_on(self.core.at_endpoints(
            &reference,
            async |endpoint, mut attempts| {
                loop {
                    match self.core.resolve_at(endpoint, &reference).await {
                        Ok(descriptor) => return Ok(descriptor),
                        Err(failure) => attempts.after(failure).await?,
                    }
                }
            },
        ))?;
        let mut known = self.core.known();
        Ok(known.tags.entry(reference).or_insert(descriptor).clone())
    }

    /// The manifest or index that a reference names.
    pub fn manifest(&self, reference: &Reference) -> Result<Document, Error> {
        let reference = reference.clone().with_default_tag();
        self.block_on(self.core.document(&reference))
            .map(|document| (*document).clone())
    }

    /// The image that a reference names for a platform: its index, manifest and config, all verified.
    ///
    /// A reference to a single manifest gives that one, whatever its platform; the config tells which it is.
    pub fn image(&self, reference: &Reference, platform: &Platform) -> Result<Image, Error> {
        let reference = reference.clone().with_default_tag();
        let mut document = self.block_on(self.core.document(&reference))?;
        let mut index = None;
        for _ in 0..MAX_INDEX_DEPTH {
            let Some(list) = document.index() else { break };
            let chosen = select(&list, platform).map_err(|available| Error::NoPlatform {
                what: reference.to_string(),
                wanted: Box::new(platform.clone()),
                available,
            })?;
            index.get_or_insert_with(|| (*document).clone());
            let child = reference.clone().with_digest(chosen.digest);
            document = self.block_on(self.core.document(&child))?;
            check_descriptor(&reference, &chosen, &document)?;
        }
        let malformed = |reason: &str| Error::Malformed {
            host: reference.registry().to_owned(),
            what: reference.to_string(),
            reason: reason.to_owned(),
        };
        let manifest = document
            .manifest()
            .ok_or_else(|| malformed("there is no manifest at the end of its indexes"))?;
        let config_bytes = self.blob_bytes(&reference, &manifest.config, MAX_CONFIG_BYTES)?;
        let config = serde_json::from_slice(&config_bytes)
            .map_err(|e| malformed(&format!("its config is not that of an image ({e})")))?;
        Ok(Image {
            index,
            document: (*document).clone(),
            manifest,
            config_bytes,
            config,
        })
    }

    /// Fetches a blob into a sink. When this succeeds the sink has exactly the bytes that the descriptor names;
    /// never are more bytes written than it declares. A broken transfer goes on where it broke.
    pub fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
    ) -> Result<(), Error> {
        let what = format!("blob {}", descriptor.digest);
        let write = |source| Error::Io {
            action: "write",
            what: what.clone(),
            source,
        };
        if let Some(inline) = inline_data(descriptor) {
            sink.reset().map_err(write)?;
            return sink.write(&inline).map_err(write);
        }
        let mut seen = Digester::new();
        let mut offset = sink.resume(&mut seen).map_err(write)?;
        let mut is_first = true;
        self.block_on(
            self.core
                .at_endpoints(reference, async |endpoint, attempts| {
                    if !is_first || offset > descriptor.size {
                        // What a lying mirror sent is not built upon.
                        sink.reset().map_err(write)?;
                        seen = Digester::new();
                        offset = 0;
                    }
                    is_first = false;
                    let mut fetch = Fetch {
                        core: &self.core,
                        endpoint,
                        descriptor,
                        what: &what,
                        sink,
                        seen: std::mem::take(&mut seen),
                        offset,
                    };
                    fetch.run(attempts).await
                }),
        )
    }

    /// The bytes of a small blob; one that is declared larger than `limit` is refused.
    pub fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, Error> {
        if descriptor.size > limit {
            return Err(Error::TooLarge {
                host: reference.registry().to_owned(),
                what: format!("blob {}", descriptor.digest),
                limit,
            });
        }
        let mut bytes = Vec::new();
        self.blob(reference, descriptor, &mut bytes)?;
        Ok(bytes)
    }
}

impl Core {
    fn known_descriptor(&self, reference: &Reference) -> Option<Descriptor> {
        let known = self.known();
        known.tags.get(reference).cloned().or_else(|| {
            let document = known.documents.get(&reference.digest()?)?;
            Some(document.descriptor.clone())
        })
    }

    /// HEAD, which costs nothing of a rate limit; GET where a registry cannot do that.
    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<Descriptor, Failure> {
        let answer = self
            .ask(&manifest_call(endpoint, reference, Method::HEAD))
            .await?;
        let what = reference.to_string();
        if super::retry::is_transient(answer.status()) {
            return Err(answer
                .refusal(&what, &Method::HEAD, &self.describe(endpoint))
                .await);
        }
        if answer.status() == StatusCode::OK
            && let Some(digest) = header_digest(&answer)
            && let Some(size) = answer.declared_len()
            && let Some(media_type) = header_media_type(&answer)
        {
            let expected = reference.digest().unwrap_or(digest);
            if expected != digest {
                return Err(Error::DigestMismatch {
                    host: answer.host,
                    what,
                    expected,
                    actual: digest,
                }
                .into());
            }
            return Ok(Descriptor::new(media_type, digest, size));
        }
        // Also for refusals: the answer to a HEAD has no body that could say why.
        let document = self.document_at(endpoint, reference).await?;
        Ok(document.descriptor.clone())
    }

    /// A manifest or index, from memory or from the first endpoint that has it.
    pub(super) async fn document(&self, reference: &Reference) -> Result<Arc<Document>, Error> {
        {
            let known = self.known();
            let digest = reference
                .digest()
                .or_else(|| Some(known.tags.get(reference)?.digest));
            if let Some(document) = digest.and_then(|digest| known.documents.get(&digest)) {
                return Ok(Arc::clone(document));
            }
        }
        // A tag that was resolved is asked for by digest: it may have moved since.
        let resolved = self.known().tags.get(reference).map(|d| d.digest);
        let asked = match resolved {
            Some(digest) => reference.clone().with_digest(digest),
            None => reference.clone(),
        };
        self.at_endpoints(&asked, async |endpoint, mut attempts| {
            loop {
                match self.document_at(endpoint, &asked).await {
                    Ok(document) => return Ok(document),
                    Err(failure) => attempts.after(failure).await?,
                }
            }
        })
        .await
    }

    async fn document_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<Arc<Document>, Failure> {
        let mut answer = self
            .ask(&manifest_call(endpoint, reference, Method::GET))
            .await?;
        let what = reference.to_string();
        if answer.status() != StatusCode::OK {
            return Err(answer
                .refusal(&what, &Method::GET, &self.describe(endpoint))
                .await);
        }
        let bytes = answer.bytes(&what, MAX_MANIFEST_BYTES).await?;
        let actual = sha256(&bytes);
        if let Some(expected) = reference.digest().or_else(|| header_digest(&answer))
            && expected != actual
        {
            return Err(Error::DigestMismatch {
                host: answer.host,
                what,
                expected,
                actual,
            }
            .into());
        }
        let media_type = document_type(&answer.host, &what, header_media_type(&answer), &bytes)?;
        let document = Arc::new(Document {
            descriptor: Descriptor::new(media_type, actual, bytes.len() as u64),
            bytes,
        });
        let mut known = self.known();
        known.documents.insert(actual, Arc::clone(&document));
        if reference.digest().is_none() {
            known
                .tags
                .entry(reference.clone())
                .or_insert_with(|| document.descriptor.clone());
        }
        Ok(document)
    }
}

/// A blob on its way.
struct Fetch<'a> {
    core: &'a Core,
    endpoint: &'a Endpoint,
    descriptor: &'a Descriptor,
    what: &'a str,
    sink: &'a mut dyn BlobSink,
    /// Has seen `offset` bytes, which are those in the sink.
    seen: Digester,
    offset: u64,
}

impl Fetch<'_> {
    async fn run(&mut self, mut attempts: Attempts<'_>) -> Result<(), Error> {
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
        while let Some(chunk) = answer.chunk().await? {
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

/// The best manifest for a platform; else the platforms there are.
pub fn select(index: &Index, platform: &Platform) -> Result<Descriptor, Vec<Platform>> {
    let candidates = || {
        index.manifests.iter().filter_map(|descriptor| {
            let platform = descriptor.platform.as_ref()?;
            // Signatures and attestations pose as images for a platform that does not exist.
            let is_image = platform.os != "unknown"
                && !descriptor
                    .annotations
                    .contains_key("vnd.docker.reference.type");
            is_image.then_some((descriptor, platform))
        })
    };
    let best = candidates()
        .filter_map(|(descriptor, p)| Some((platform.match_rank(p)?, descriptor)))
        // The first of equals.
        .min_by_key(|(rank, _)| *rank);
    if let Some((_, descriptor)) = best {
        return Ok(descriptor.clone());
    }
    // An index without platforms that lists one thing means that thing.
    if let [only] = index.manifests.as_slice()
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    let mut available: Vec<Platform> = candidates().map(|(_, p)| p.clone().normalized()).collect();
    available.dedup();
    Err(available)
}

fn manifest_call<'a>(endpoint: &'a Endpoint, reference: &Reference, method: Method) -> Call<'a> {
    manifest_call_at(endpoint, &reference.selector(), method)
}

pub(super) fn manifest_call_at<'a>(
    endpoint: &'a Endpoint,
    selector: &str,
    method: Method,
) -> Call<'a> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    Call {
        endpoint,
        method,
        target: Target::Repository(format!("manifests/{selector}")),
        headers,
        need: Need::pull(endpoint),
        limit: None,
        meter: None,
    }
}

pub(super) fn header_digest(answer: &Answer) -> Option<Digest> {
    answer.header("docker-content-digest")?.trim().parse().ok()
}

/// The `Content-Type` without parameters, unless it is one that says nothing.
fn header_media_type(answer: &Answer) -> Option<MediaType> {
    let text = answer.header("content-type")?;
    let text = text.split(';').next().unwrap_or_default().trim();
    let is_vague = matches!(
        text,
        "" | "text/plain" | "application/json" | "application/octet-stream" | "text/html"
    );
    (!is_vague).then(|| MediaType::new(text))
}

/// What a document is, by its own word and the header's, which must not contradict each other.
pub(super) fn document_type(
    host: &str,
    what: &str,
    promised: Option<MediaType>,
    bytes: &[u8],
) -> Result<MediaType, Error> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default)]
        schema_version: u32,
        media_type: Option<MediaType>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let malformed = |reason: &str| Error::Malformed {
        host: host.to_owned(),
        what: what.to_owned(),
        reason: reason.to_owned(),
    };
    let head: Head = serde_json::from_slice(bytes)
        .map_err(|e| malformed(&format!("not the JSON of a manifest ({e})")))?;
    if head.schema_version == 1 {
        return Err(Error::Schema1 {
            host: host.to_owned(),
            what: what.to_owned(),
        });
    }
    // A document that is both would mean one image to one reader and another to the next.
    let shape = match (head.manifests, head.config, head.layers) {
        (Some(_), None, None) => MediaType::OCI_INDEX,
        (None, Some(_), Some(_)) => MediaType::OCI_MANIFEST,
        _ => {
            return Err(malformed(
                "it is neither clearly a manifest nor clearly an index",
            ));
        }
    };
    let own = head.media_type.clone();
    let media_type = own
        .clone()
        .or_else(|| promised.clone())
        .unwrap_or(shape.clone());
    let contradicts = |promised: &MediaType| *promised != media_type;
    if promised.as_ref().is_some_and(contradicts) || media_type.is_index() != shape.is_index() {
        return Err(Error::WrongMediaType {
            host: host.to_owned(),
            what: what.to_owned(),
            promised: promised.unwrap_or(shape).to_string(),
            actual: media_type.to_string(),
        });
    }
    // Only now that nothing contradicts it.
    if !media_type.is_index() && !media_type.is_manifest() {
        return Err(malformed(&format!("`{media_type}` is no type of an image")));
    }
    let is_whole = if media_type.is_index() {
        serde_json::from_slice::<Index>(bytes).map(|_| ())
    } else {
        serde_json::from_slice::<Manifest>(bytes).map(|_| ())
    };
    is_whole.map_err(|e| malformed(&e.to_string()))?;
    Ok(media_type)
}

/// What an index said of a manifest must be true.
fn check_descriptor(
    reference: &Reference,
    promised: &Descriptor,
    document: &Document,
) -> Result<(), Error> {
    let actual = &document.descriptor;
    let (host, what) = (reference.registry().to_owned(), reference.to_string());
    if promised.size != actual.size {
        return Err(Error::SizeMismatch {
            host,
            what,
            expected: promised.size,
            actual: actual.size,
        });
    }
    if promised.media_type != actual.media_type {
        return Err(Error::WrongMediaType {
            host,
            what,
            promised: promised.media_type.to_string(),
            actual: actual.media_type.to_string(),
        });
    }
    Ok(())
}

/// The blob itself, where the descriptor carries it and it is what the descriptor says.
fn inline_data(descriptor: &Descriptor) -> Option<Vec<u8>> {
    let text = descriptor.other.get("data")?.as_str()?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    (bytes.len() as u64 == descriptor.size && sha256(&bytes) == descriptor.digest).then_some(bytes)
}
