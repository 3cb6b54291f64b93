//! What a push will need, found out and begun while the build still goes on.
//!
//! A *look* asks once what the tag stands for that will be pushed, and reads that once there is something new to push.
//! Whatever the manifest names, the repository has, so that nobody needs to ask for each layer; should the registry refuse
//! a manifest all the same, what was only concluded is forgotten ([`Client::reconsider`]). A *spare* is an upload that was begun before its blob was there, which saves the blob that takes
//! it a round trip.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};

use super::{
    auth::Need,
    client::{Client, Core, Repository},
    mirrors::Endpoint,
    pull::{MAX_MANIFEST_BYTES, header_digest, manifest_call_at},
    upload::Begun,
};
use crate::{
    oci::{Digest, Manifest, sha256},
    reference::{DOCKER_IO, Reference},
};

/// How many uploads are begun in advance: for a layer, and for the config after it.
const N_SPARES: usize = 2;
/// Some registries forget uploads that nothing is sent to, the fastest after some minutes.
const SPARE_LIFE: Duration = Duration::from_secs(30);
/// How long it counts that a tag names a document already; somebody else may have moved it since.
const LOOK_LIFE: Duration = Duration::from_secs(2);

/// What a tag stood for.
#[derive(Debug)]
pub(super) struct Look {
    tag: String,
    at: Instant,
    /// `None` when there was no such tag.
    digest: Option<Digest>,
}

/// The outcome of a look, locked until it is there; `None` when the registry did not say.
pub(super) type Pending = Arc<tokio::sync::Mutex<Option<Look>>>;

/// Locked while what the tag stands for is read.
pub(super) type Reading = Arc<tokio::sync::Mutex<()>>;

/// An upload that was begun for whoever comes.
#[derive(Debug)]
pub(super) struct Spare {
    endpoint: Endpoint,
    begun: tokio::task::JoinHandle<Option<(Begun, Instant)>>,
}

impl Client {
    /// Begins to find out what the repository of a reference has, and does not wait for it. Failures are left to those who
    /// push.
    pub fn look_ahead(&self, reference: &Reference) {
        let (None, Some(tag)) = (reference.digest(), reference.tag()) else {
            return;
        };
        let Ok(endpoint) = self.core.push_endpoint(reference) else {
            return;
        };
        let look = Pending::default();
        let Ok(mut found) = Arc::clone(&look).try_lock_owned() else {
            return;
        };
        let earlier = self.core.known().looks.insert(endpoint.key(), look);
        drop(earlier);
        let (core, tag) = (Arc::clone(&self.core), tag.to_owned());
        self.runtime().spawn(async move {
            *found = core.look(&endpoint, tag).await;
        });
    }

    /// Says that blobs for the repository of a reference are being made: uploads are begun for them, which is not waited for.
    pub fn expect_blobs(&self, reference: &Reference) {
        let Ok(endpoint) = self.core.push_endpoint(reference) else {
            return;
        };
        let mut known = self.core.known();
        let look = known.looks.get(&endpoint.key()).map(Arc::clone);
        // A pull counts where pulls are limited.
        let is_limited = reference.registry() == DOCKER_IO;
        if let Some(look) = look
            && !is_limited
            && !known.reading.contains_key(&endpoint.key())
        {
            let reading = Reading::default();
            let held = Arc::clone(&reading).try_lock_owned();
            known.reading.insert(endpoint.key(), reading);
            let (core, endpoint) = (Arc::clone(&self.core), endpoint.clone());
            self.runtime().spawn(async move {
                let look = look.lock().await;
                if let Some(digest) = look.as_ref().and_then(|look| look.digest) {
                    core.read_contents(&endpoint, digest).await;
                }
                drop(held);
            });
        }
        let spares = known.spares.entry(endpoint.key()).or_default();
        while spares.len() < N_SPARES {
            let (core, to) = (Arc::clone(&self.core), endpoint.clone());
            let begun = self.runtime().spawn(async move {
                let begun = core.begin(&to, "").await.ok()?;
                Some((begun, Instant::now()))
            });
            spares.push_back(Spare {
                endpoint: endpoint.clone(),
                begun,
            });
        }
    }

    /// Says that no more blobs are expected: uploads that nobody took are given up.
    pub fn expect_no_more(&self) {
        let spares: Vec<Spare> = self
            .core
            .known()
            .spares
            .drain()
            .flat_map(|(_, spares)| spares)
            .collect();
        if spares.is_empty() {
            return;
        }
        let core = &self.core;
        let given_up = spares.into_iter().map(|spare| async move {
            if let Ok(Some((begun, _))) = spare.begun.await {
                core.give_up(&spare.endpoint, &begun.location).await;
            }
        });
        self.tidy_up(async {
            futures_util::future::join_all(given_up).await;
        });
    }

    /// Whether a manifest was refused after it had been concluded, not asked, which blobs the repository has. That is forgotten
    /// by now, so that pushing them again helps.
    pub fn reconsider(&self, reference: &Reference) -> bool {
        let endpoint = self.core.push_endpoint(reference);
        endpoint.is_ok_and(|endpoint| self.core.known().doubted.remove(&endpoint.key()))
    }
}

impl Core {
    async fn look(&self, endpoint: &Endpoint, tag: String) -> Option<Look> {
        let mut call = manifest_call_at(endpoint, &tag, Method::HEAD);
        call.need = Need::push(endpoint);
        let answer = self.ask(&call).await.ok()?;
        let digest = match answer.status() {
            StatusCode::NOT_FOUND => None,
            StatusCode::OK => Some(header_digest(&answer)?),
            _ => return None,
        };
        Some(Look {
            tag,
            at: Instant::now(),
            digest,
        })
    }

    /// Notes what the repository has since it has this manifest.
    async fn read_contents(&self, endpoint: &Endpoint, digest: Digest) -> Option<()> {
        let selector = digest.to_string();
        let mut call = manifest_call_at(endpoint, &selector, Method::GET);
        call.need = Need::push(endpoint);
        let mut answer = self.ask(&call).await.ok()?;
        if answer.status() != StatusCode::OK {
            return None;
        }
        let bytes = answer.bytes(&selector, MAX_MANIFEST_BYTES).await.ok()?;
        if sha256(&bytes) != digest {
            return None;
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        let layers = manifest
            .layers
            .iter()
            // Layers with addresses may be elsewhere.
            .filter(|layer| layer.urls.is_empty());
        let key = endpoint.key();
        let mut known = self.known();
        for blob in layers.chain([&manifest.config]) {
            if known.blobs.insert((key.clone(), blob.digest)) {
                let concluded = known.concluded.entry(key.clone()).or_default();
                concluded.insert(blob.digest);
            }
        }
        Some(())
    }

    /// Forgets what was only concluded of a repository; whether there was anything.
    pub(super) fn doubt(&self, key: &Repository) -> bool {
        let mut known = self.known();
        known.looks.remove(key);
        let Some(concluded) = known.concluded.remove(key) else {
            return false;
        };
        known
            .blobs
            .retain(|(repository, digest)| repository != key || !concluded.contains(digest));
        known.doubted.insert(key.clone());
        true
    }

    /// Waits for what is being found out about a repository.
    pub(super) async fn looked(&self, key: &Repository) {
        let reading = self.known().reading.get(key).map(Arc::clone);
        if let Some(reading) = reading {
            drop(reading.lock().await);
        }
    }

    /// Whether a tag stands for a document, as far as a look has told.
    pub(super) async fn seen(&self, key: &Repository, tag: &str, digest: Digest) -> Option<bool> {
        let look = self.known().looks.get(key).map(Arc::clone)?;
        let look = look.lock().await;
        let look = look.as_ref().filter(|look| look.tag == tag)?;
        let is_same = look.digest == Some(digest);
        (!is_same || look.at.elapsed() < LOOK_LIFE).then_some(is_same)
    }

    /// An upload that was begun in advance.
    pub(super) async fn spare(&self, endpoint: &Endpoint) -> Option<Begun> {
        let key = endpoint.key();
        loop {
            let spare = self.known().spares.get_mut(&key)?.pop_front()?;
            let Ok(Some((begun, at))) = spare.begun.await else {
                continue;
            };
            if at.elapsed() < SPARE_LIFE {
                return Some(begun);
            }
            self.give_up(endpoint, &begun.location).await;
        }
    }
}
