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
    header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION},
};

use super::{
    answer::Answer,
    auth::Need,
    body::OnBytes,
    challenge::Scope,
    client::{Call, Client, Core, Target},
    error::{Error, Failure},
    growing::Claim,
    location,
    mirrors::Endpoint,
    retry,
    upload::{Begun, Session},
};
use crate::{
    oci::{Descriptor, Digest},
    reference::Reference,
};

/// How many other repositories are tried for a mount. Each costs a request.
const MAX_MOUNTS: usize = 3;
/// A new blob up to this size is sent without asking whether it is there: that takes no longer than asking.
const UNASKED_BYTES: u64 = 64 << 10;

/// A blob to push.
pub struct Upload<'a> {
    /// What it is.
    pub descriptor: &'a Descriptor,
    /// Opens its bytes, from the beginning; called again when the upload has to begin again.
    pub open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync),
    /// Images that may have it, best first; those in other registries are passed over.
    pub mount_from: &'a [Reference],
    /// Whether it was made just now, so that the repository hardly has it.
    pub is_new: bool,
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
    /// Makes sure that the repository of a reference has a blob. May be called from several threads at once.
    pub fn push_blob(&self, reference: &Reference, upload: &Upload<'_>) -> Result<Pushed, Error> {
        let endpoint = self.core.push_endpoint(reference)?;
        self.block_on(self.core.push_blob(&endpoint, upload))
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
        if self.is_known(endpoint, descriptor.digest).await {
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
                self.has(endpoint, descriptor.digest);
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

    /// Notes that a repository has a blob.
    pub(super) fn has(&self, endpoint: &Endpoint, digest: Digest) {
        self.known().blobs.insert((endpoint.key(), digest));
    }

    /// Whether it is known without a request that a repository has a blob.
    async fn is_known(&self, endpoint: &Endpoint, digest: Digest) -> bool {
        let key = endpoint.key();
        self.looked(&key).await;
        self.known().blobs.contains(&(key, digest))
    }

    async fn push_blob(&self, endpoint: &Endpoint, upload: &Upload<'_>) -> Result<Pushed, Error> {
        let digest = upload.descriptor.digest;
        let (claim, has_waited) = self.claim(endpoint, digest, upload.progress.as_ref()).await;
        if has_waited && self.is_known(endpoint, digest).await {
            return Ok(Pushed::Uploaded);
        }
        self.send_blob(endpoint, upload, &claim).await
    }

    /// Makes sure that a repository has a blob, on behalf of who has the claim to that.
    pub(super) async fn send_blob(
        &self,
        endpoint: &Endpoint,
        upload: &Upload<'_>,
        claim: &Claim,
    ) -> Result<Pushed, Error> {
        let descriptor = upload.descriptor;
        let is_there = if upload.is_new && descriptor.size <= UNASKED_BYTES {
            self.is_known(endpoint, descriptor.digest).await
        } else {
            self.exists(endpoint, descriptor).await?
        };
        if is_there {
            return Ok(Pushed::Existed);
        }
        let (pushed, location) = self.mount(endpoint, upload).await;
        let open = |offset| {
            let mut reader = (upload.open)()?;
            let skipped = io::copy(&mut reader.by_ref().take(offset), &mut io::sink())?;
            if skipped < offset {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(reader)
        };
        if pushed.is_none() {
            let mut session = Session {
                core: self,
                endpoint,
                open: &open,
                blob: Some(descriptor),
                reach: descriptor.size,
                what: format!("blob {}", descriptor.digest),
                meter: claim.meter(upload.progress.clone()),
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
        self.has(endpoint, descriptor.digest);
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
        let mut known = Vec::new();
        if repositories.is_empty() {
            known = (self.known()).repositories_with(upload.descriptor.digest, endpoint);
        }
        let known = known.iter().take(MAX_MOUNTS);
        repositories.extend(known.map(String::as_str));
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
    pub(super) async fn begin(&self, endpoint: &Endpoint, what: &str) -> Result<Begun, Failure> {
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
        let location = next_location(&answer).ok_or_else(|| no_location(&answer, what))?;
        let min_piece = answer.header("oci-chunk-min-length");
        Ok(Begun {
            location,
            min_piece: min_piece.and_then(|n| n.trim().parse().ok()).unwrap_or(0),
        })
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
        // Who has refused a request often ends the connection with it. Nothing depends on this one.
        if self.ask(&call).await.is_err() {
            self.ask(&call).await.ok();
        }
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
