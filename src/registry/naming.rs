//! Manifests, indexes, and the tags that name them: what is pushed last.
//!
//! A tag that names the document already is left alone, since putting it again would be refused where tags cannot be
//! changed. A registry refuses a manifest that names blobs which it does not have.

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};

use super::{
    auth::Need,
    client::{Call, Client, Core, Target},
    error::Error,
    mirrors::Endpoint,
    push::check_digest,
};
use crate::{
    oci::{Descriptor, Digest, MediaType, sha256},
    reference::Reference,
};

impl Client {
    /// Puts a manifest or index in the repository of a reference: under its tag, or under its digest alone when the
    /// reference has a digest or no tag. All that the document names must be there. A tag that names it already is
    /// left alone.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        let endpoint = self.core.push_endpoint(reference)?;
        self.block_on(
            self.core
                .push_manifest(&endpoint, reference, media_type, bytes),
        )
    }

    /// Whether the name of a reference stands for this very document in the registry; not, where it does not say.
    pub fn is_named(&self, reference: &Reference, document: &Descriptor) -> bool {
        let Ok(endpoint) = self.core.push_endpoint(reference) else {
            return false;
        };
        let selector = match (reference.digest(), reference.tag()) {
            (None, Some(tag)) => tag.to_owned(),
            (Some(_), _) | (None, None) => document.digest.to_string(),
        };
        let (core, digest) = (&self.core, document.digest);
        self.block_on(async {
            Ok(match core.seen(&endpoint.key(), &selector, digest).await {
                Some(is_named) => is_named,
                None => core.names(&endpoint, &selector, digest).await,
            })
        })
        .unwrap_or(false)
    }
}

impl Core {
    async fn push_manifest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        let digest = sha256(bytes);
        let what = reference.to_string();
        if let Some(expected) = reference.digest().filter(|d| *d != digest) {
            return Err(Error::DigestMismatch {
                host: "this machine".to_owned(),
                what,
                expected,
                actual: digest,
            });
        }
        let descriptor = Descriptor::new(media_type.clone(), digest, bytes.len() as u64);
        let selector = match (reference.digest(), reference.tag()) {
            (None, Some(tag)) => tag.to_owned(),
            (Some(_), _) | (None, None) => digest.to_string(),
        };
        let key = endpoint.key();
        let is_named = match self.seen(&key, &selector, digest).await {
            Some(is_named) => is_named,
            None => self.names(endpoint, &selector, digest).await,
        };
        if is_named {
            self.known().tags.insert(reference.clone(), descriptor);
            return Ok(digest);
        }
        let mut headers = HeaderMap::new();
        headers.extend(
            HeaderValue::from_str(media_type.as_str())
                .ok()
                .map(|value| (CONTENT_TYPE, value)),
        );
        let call = Call {
            endpoint,
            method: Method::PUT,
            target: Target::Repository(format!("manifests/{selector}")),
            headers,
            need: Need::push(endpoint),
            limit: Some(self.settings().timeouts.commit),
            meter: None,
        };
        let mut attempts = self.attempts();
        let mut n_unknown = 0;
        loop {
            let mut body = || Ok(Some(reqwest::Body::from(bytes.to_vec())));
            let mut failure = match self.call(&call, &mut body).await {
                Ok(answer) if answer.status().is_success() => {
                    check_digest(&answer, &what, digest)?;
                    let mut known = self.known();
                    known.tags.insert(reference.clone(), descriptor);
                    // What was seen before is over.
                    known.looks.remove(&key);
                    return Ok(digest);
                }
                Ok(answer) => {
                    answer
                        .refusal(&what, &Method::PUT, &self.describe(endpoint))
                        .await
                }
                Err(failure) => failure,
            };
            let is_refusal = matches!(
                failure.error,
                Error::NotFound { .. } | Error::Status { .. } if !failure.transient
            );
            if is_refusal && self.doubt(&key) {
                return Err(failure.error);
            }
            // A registry over several stores may not see at once what it has just been given.
            let is_unknown_blob = matches!(
                &failure.error,
                Error::Status { message, .. } | Error::NotFound { message, .. }
                    if message.contains("BLOB_UNKNOWN")
            );
            if is_unknown_blob && n_unknown < 3 {
                n_unknown += 1;
                failure.transient = true;
            }
            attempts.after(failure).await?;
        }
    }

    /// Whether a tag or digest names this very document already. Putting it again would be refused where tags
    /// cannot be changed.
    async fn names(&self, endpoint: &Endpoint, selector: &str, digest: Digest) -> bool {
        let mut call = super::pull::manifest_call_at(endpoint, selector, Method::HEAD);
        call.need = Need::push(endpoint);
        // Whatever goes wrong here goes wrong again with the request that matters.
        let Ok(answer) = self.ask(&call).await else {
            return false;
        };
        answer.status() == StatusCode::OK && super::pull::header_digest(&answer) == Some(digest)
    }
}
