//! Pulling: tags to digests, manifests and indexes, blobs.
//!
//! Bytes are believed, headers are not: a document is what its digest says, and its media type is what it says of
//! itself, as long as nobody contradicts that.

use std::sync::Arc;

use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, HeaderMap, HeaderValue},
};

use super::{
    answer::Answer,
    auth::Need,
    client::{Call, Client, Core, Target},
    document::{Document, Image, check_descriptor, document_type, select},
    error::{Error, Failure},
    fetch::{BlobSink, Fetch, inline_data},
    mirrors::Endpoint,
};
use crate::{
    oci::{Descriptor, Digest, Digester, MediaType, Platform, sha256},
    reference::Reference,
};

/// The largest manifest or index that is read; the distribution spec asks registries to take this much.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The largest config that is read. Real ones are some kilobytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// How deep indexes may be nested.
const MAX_INDEX_DEPTH: usize = 4;

/// What is asked for, best first. Some registries answer 406 without the last one.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

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
