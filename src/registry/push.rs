//! Pushing: blobs, manifests, tags.
//!
//! A blob that the repository has is not sent; one that another repository of the same registry has is mounted;
//! else it is sent in one request, which every registry understands. Pieces are used where a proxy refuses the
//! whole (413) or the settings ask for them. A broken upload goes on where the registry says it stands, and begins
//! again where it does not say.
//!
//! Nothing is tagged here before the caller has pushed what the manifest names: blobs first, then the config, the
//! manifest, the index, and tags last.

use std::{
    io::{self, Read},
    time::Duration,
};

use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION},
};

use super::{
    answer::Answer,
    auth::Need,
    body::{Meter, OnBytes},
    challenge::Scope,
    client::{Call, Client, Core, Target},
    error::{Error, Failure},
    location,
    mirrors::Endpoint,
    retry,
    upload::Session,
};
use crate::{
    oci::{Descriptor, Digest, MediaType, sha256},
    reference::Reference,
};

/// How many other repositories are tried for a mount. Each costs a request.
const MAX_MOUNTS: usize = 3;
/// A blob to push.
pub struct Upload<'a> {
    /// What it is.
    pub descriptor: &'a Descriptor,
    /// Opens its bytes, from the beginning; called again when the upload has to begin again.
    pub open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync),
    /// Images that may have it, best first; those in other registries are passed over.
    pub mount_from: &'a [Reference],
    /// Told how many bytes were sent.
    pub progress: Option<OnBytes>,
}

impl std::fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("descriptor", &self.descriptor)
            .field("mount_from", &self.mount_from)
            .finish_non_exhaustive()
    }
}

/// How a blob came to be in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted {
        /// Which.
        from: String,
    },
    /// It was sent.
    Uploaded,
}

impl Client {
    /// Whether the repository of a reference has a blob. Where the registry does not want to say, it has not.
    pub fn blob_exists(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<bool, Error> {
        let endpoint = self.core.push_endpoint(reference)?;
        self.block_on(self.core.exists(&endpoint, descriptor))
    }

    /// Makes sure that the repository of a reference has a blob. May be called from several threads at once.
    pub fn push_blob(&self, reference: &Reference, upload: &Upload<'_>) -> Result<Pushed, Error> {
        let endpoint = self.core.push_endpoint(reference)?;
        self.block_on(self.core.push_blob(&endpoint, upload))
    }

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
        let names = self.core.names(&endpoint, &selector, document.digest);
        self.block_on(async { Ok(names.await) }).unwrap_or(false)
    }

    /// Finds out whether a push to the repository would be allowed, by beginning an upload and giving it up.
    pub fn check_push(&self, reference: &Reference) -> Result<(), Error> {
        let endpoint = self.core.push_endpoint(reference)?;
        self.block_on(async {
            let mut attempts = self.core.attempts();
            loop {
                match self.core.begin(&endpoint, "").await {
                    Ok(location) => {
                        self.core.give_up(&endpoint, &location).await;
                        return Ok(());
                    }
                    Err(failure) => attempts.after(failure).await?,
                }
            }
        })
    }

    /// Shows the credentials for a registry (`host[:port]`) to it; succeeds when it accepts them. Says whose they
    /// were and where they came from.
    pub fn login(&self, registry: &str) -> Result<String, Error> {
        let name = format!("{registry}/x");
        let reference = Reference::parse(&name).map_err(|e| Error::Setting {
            what: "registry",
            value: registry.to_owned(),
            reason: e.to_string(),
        })?;
        let endpoint = Endpoint {
            repository: String::new(),
            ..self.core.push_endpoint(&reference)?
        };
        let call = Call {
            endpoint: &endpoint,
            method: Method::GET,
            target: Target::Root,
            headers: HeaderMap::new(),
            need: Need {
                scopes: Vec::new(),
                strict: true,
            },
            limit: None,
            meter: None,
        };
        self.block_on(async {
            let mut attempts = self.core.attempts();
            loop {
                let failure = match self.core.ask(&call).await {
                    Ok(answer) if answer.status().is_success() => {
                        return Ok(self.core.describe(&endpoint));
                    }
                    // Some registries below a path have no root; the token server has judged by then.
                    Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                        return Ok(self.core.describe(&endpoint));
                    }
                    Ok(answer) => {
                        let credentials = self.core.describe(&endpoint);
                        answer.refusal("login", &Method::GET, &credentials).await
                    }
                    Err(failure) => failure,
                };
                attempts.after(failure).await?;
            }
        })
    }
}

impl Core {
    async fn exists(&self, endpoint: &Endpoint, descriptor: &Descriptor) -> Result<bool, Error> {
        let mut attempts = self.attempts();
        loop {
            match self.exists_now(endpoint, descriptor).await {
                Ok(exists) => return Ok(exists),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    /// Asks once.
    pub(super) async fn exists_now(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
    ) -> Result<bool, Failure> {
        let key = (
            endpoint.host.clone(),
            endpoint.repository.clone(),
            descriptor.digest,
        );
        if self.known().blobs.contains(&key) {
            return Ok(true);
        }
        let call = Call {
            endpoint,
            method: Method::HEAD,
            target: Target::Repository(format!("blobs/{}", descriptor.digest)),
            headers: HeaderMap::new(),
            need: Need::push(endpoint),
            limit: None,
            meter: None,
        };
        let answer = self.ask(&call).await?;
        if answer.status() == StatusCode::OK {
            let is_same = answer
                .declared_len()
                .is_none_or(|len| len == descriptor.size);
            if is_same {
                self.known().blobs.insert(key);
            }
            return Ok(is_same);
        }
        if retry::is_transient(answer.status()) {
            let what = format!("blob {}", descriptor.digest);
            return Err(answer
                .refusal(&what, &Method::HEAD, &self.describe(endpoint))
                .await);
        }
        // Not there, or not for us to see; the upload will tell.
        Ok(false)
    }

    async fn push_blob(&self, endpoint: &Endpoint, upload: &Upload<'_>) -> Result<Pushed, Error> {
        if self.exists(endpoint, upload.descriptor).await? {
            return Ok(Pushed::Existed);
        }
        let (pushed, location) = self.mount(endpoint, upload).await;
        if pushed.is_none() {
            let mut session = Session {
                core: self,
                endpoint,
                upload,
                what: format!("blob {}", upload.descriptor.digest),
                meter: Meter::new(upload.progress.clone()),
                location,
                offset: 0,
                chunk: self.settings().chunk_bytes.filter(|bytes| *bytes > 0),
                may_resume: true,
                is_ending: false,
            };
            if let Err(error) = session.run().await {
                if let Some(location) = &session.location {
                    self.give_up(endpoint, location).await;
                }
                return Err(error);
            }
        }
        self.known().blobs.insert((
            endpoint.host.clone(),
            endpoint.repository.clone(),
            upload.descriptor.digest,
        ));
        Ok(pushed.unwrap_or(Pushed::Uploaded))
    }

    /// Tries to have the blob mounted. Failures do not matter, since there is another way; but a registry that
    /// cannot mount begins an upload instead, whose address is not to be wasted.
    async fn mount(
        &self,
        endpoint: &Endpoint,
        upload: &Upload<'_>,
    ) -> (Option<Pushed>, Option<Url>) {
        let mut location = None;
        let mut repositories: Vec<&str> = Vec::new();
        for reference in upload.mount_from {
            let is_candidate = reference.registry() == endpoint.host
                && reference.repository() != endpoint.repository
                && !repositories.contains(&reference.repository());
            if is_candidate && repositories.len() < MAX_MOUNTS {
                repositories.push(reference.repository());
            }
        }
        for from in repositories {
            let mut need = Need::push(endpoint);
            need.scopes.push(Scope::pull(from));
            let call = Call {
                endpoint,
                method: Method::POST,
                target: Target::Repository(format!(
                    "blobs/uploads/?mount={}&from={from}",
                    upload.descriptor.digest
                )),
                headers: no_content(),
                need,
                limit: None,
                meter: None,
            };
            let Ok(answer) = self.ask(&call).await else {
                continue;
            };
            match answer.status() {
                StatusCode::CREATED => {
                    if let Some(unused) = &location {
                        self.give_up(endpoint, unused).await;
                    }
                    let from = format!("{}/{from}", endpoint.host);
                    return (Some(Pushed::Mounted { from }), None);
                }
                StatusCode::ACCEPTED => {
                    if let Some(unused) = std::mem::replace(&mut location, next_location(&answer)) {
                        self.give_up(endpoint, &unused).await;
                    }
                }
                _ => {}
            }
        }
        (None, location)
    }

    /// Begins an upload; `what` is the blob, for messages.
    pub(super) async fn begin(&self, endpoint: &Endpoint, what: &str) -> Result<Url, Failure> {
        let call = Call {
            endpoint,
            method: Method::POST,
            target: Target::Repository("blobs/uploads/".to_owned()),
            headers: no_content(),
            need: Need::push(endpoint),
            limit: None,
            meter: None,
        };
        let answer = self.ask(&call).await?;
        if answer.status() != StatusCode::ACCEPTED {
            let what = format!("push to {}/{}", endpoint.host, endpoint.repository);
            return Err(answer
                .refusal(&what, &Method::POST, &self.describe(endpoint))
                .await);
        }
        next_location(&answer).ok_or_else(|| no_location(&answer, what).into())
    }

    /// Tells the registry to forget an upload. Some cannot, and it expires anyway.
    pub(super) async fn give_up(&self, endpoint: &Endpoint, location: &Url) {
        let call = Call {
            endpoint,
            method: Method::DELETE,
            target: Target::Url(location),
            headers: HeaderMap::new(),
            need: Need::push(endpoint),
            limit: Some(Duration::from_secs(5)),
            meter: None,
        };
        // Nothing depends on it.
        self.ask(&call).await.ok();
    }

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
        if self.names(endpoint, &selector, digest).await {
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
                    self.known().tags.insert(reference.clone(), descriptor);
                    return Ok(digest);
                }
                Ok(answer) => {
                    answer
                        .refusal(&what, &Method::PUT, &self.describe(endpoint))
                        .await
                }
                Err(failure) => failure,
            };
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

fn no_content() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers
}

pub(super) fn next_location(answer: &Answer) -> Option<Url> {
    location::resolve(answer.url(), answer.header(LOCATION.as_str())?)
}

pub(super) fn no_location(answer: &Answer, what: &str) -> Error {
    Error::Malformed {
        host: answer.host.clone(),
        what: format!("an answer to an upload of {what}"),
        reason: "it does not say where to send the bytes".to_owned(),
    }
}

/// A registry that says which digest it stored must have stored ours.
pub(super) fn check_digest(answer: &Answer, what: &str, expected: Digest) -> Result<(), Error> {
    match super::pull::header_digest(answer) {
        Some(actual) if actual != expected => Err(Error::DigestMismatch {
            host: answer.host.clone(),
            what: what.to_owned(),
            expected,
            actual,
        }),
        _ => Ok(()),
    }
}
