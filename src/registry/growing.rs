//! Blobs that are sent while they are made, and turns: no blob is sent to a repository twice at the same time.
//!
//! The digest of a blob is in the last request of its upload only, so the bytes can go ahead of it: in pieces, since nobody
//! knows yet how many there will be. Whatever goes wrong with that, the blob is sent as any other once it is whole.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::Url;

use super::{
    body::{Meter, OnBytes},
    client::{Client, Core},
    error::Error,
    mirrors::Endpoint,
    push::{Pushed, Upload},
    upload::Session,
};
use crate::{
    oci::{Descriptor, Digest},
    reference::Reference,
};

/// The pieces of a blob that is not whole yet. More than the 5 MiB that stores on S3 want of all pieces but the last, and
/// less than what proxies commonly admit.
pub const GROWING_PIECE_BYTES: u64 = 16 << 20;
/// A registry that wants larger pieces gets the blob once it is whole.
const MAX_PIECE_BYTES: u64 = 128 << 20;

/// What messages call a blob that has no digest yet.
const WHAT: &str = "a layer in the making";

/// Whether a registry takes uploads in pieces, as far as its name tells.
fn takes_pieces(host: &str) -> bool {
    // Google's take whole blobs only; GitHub's refuses all pieces but small ones.
    let is_google = host == "gcr.io" || host.ends_with(".gcr.io") || host.ends_with(".pkg.dev");
    !is_google && host != "ghcr.io"
}

/// A blob's place among the uploads to a repository.
#[derive(Default)]
pub(super) struct Turn {
    taken: Arc<tokio::sync::Mutex<()>>,
    /// Who waits for it, and wants to know how far it is.
    waiting: Mutex<Option<OnBytes>>,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").finish_non_exhaustive()
    }
}

/// The right to send a blob to a repository; others who want that wait until it is dropped.
#[derive(Debug)]
pub struct Claim {
    turn: Arc<Turn>,
    _held: tokio::sync::OwnedMutexGuard<()>,
}

impl Claim {
    /// Watches an upload for its own side and for those who wait.
    pub(super) fn meter(&self, progress: Option<OnBytes>) -> Arc<Meter> {
        let turn = Arc::clone(&self.turn);
        Meter::new(Some(Arc::new(move |sent| {
            if let Some(progress) = &progress {
                progress(sent);
            }
            let waiting = turn
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(waiting) = waiting {
                waiting(sent);
            }
        })))
    }
}

impl Core {
    fn turn(&self, endpoint: &Endpoint, digest: Digest) -> Arc<Turn> {
        let mut known = self.known();
        Arc::clone(known.turns.entry((endpoint.key(), digest)).or_default())
    }

    fn claim_now(&self, endpoint: &Endpoint, digest: Digest) -> Result<Claim, Arc<Turn>> {
        let turn = self.turn(endpoint, digest);
        match Arc::clone(&turn.taken).try_lock_owned() {
            Ok(held) => Ok(Claim { turn, _held: held }),
            Err(_taken) => Err(turn),
        }
    }

    /// Waits for the right to send a blob; whether somebody else had it.
    pub(super) async fn claim(
        &self,
        endpoint: &Endpoint,
        digest: Digest,
        progress: Option<&OnBytes>,
    ) -> (Claim, bool) {
        let turn = match self.claim_now(endpoint, digest) {
            Ok(claim) => return (claim, false),
            Err(turn) => turn,
        };
        let mine = progress.cloned();
        *turn.waiting.lock().unwrap_or_else(PoisonError::into_inner) = mine;
        let held = Arc::clone(&turn.taken).lock_owned().await;
        *turn.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        (Claim { turn, _held: held }, true)
    }
}

/// Opens the bytes of a blob so many bytes from its beginning.
pub type OpenAt = dyn Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync;

/// A blob on its way to a registry while it is made. Dropped before [`GrowingUpload::finish`] or
/// [`GrowingUpload::give_up`], the registry is left to forget it.
pub struct GrowingUpload<'a> {
    client: &'a Client,
    endpoint: Endpoint,
    open: Box<OpenAt>,
    meter: Arc<Meter>,
    location: Option<Url>,
    offset: u64,
    piece: u64,
}

impl std::fmt::Debug for GrowingUpload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrowingUpload")
            .field("endpoint", &self.endpoint)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The right to send a blob to the repository of a reference; `None` while somebody else has it. Who calls
    /// [`Client::push_blob`] meanwhile waits.
    pub fn claim_blob(&self, reference: &Reference, digest: Digest) -> Option<Claim> {
        let endpoint = self.core.push_endpoint(reference).ok()?;
        self.core.claim_now(&endpoint, digest).ok()
    }

    /// Begins to send a blob that is still being made. `None` where the registry is known not to take pieces.
    pub fn push_growing(
        &self,
        reference: &Reference,
        open: Box<OpenAt>,
    ) -> Option<GrowingUpload<'_>> {
        let endpoint = self.core.push_endpoint(reference).ok()?;
        let is_whole = self.core.known().whole_only.contains(&endpoint.host);
        if is_whole || !takes_pieces(&endpoint.host) {
            return None;
        }
        let wanted = self.settings().chunk_bytes.filter(|bytes| *bytes > 0);
        Some(GrowingUpload {
            client: self,
            endpoint,
            open,
            meter: Meter::new(None),
            location: None,
            offset: 0,
            piece: wanted.map_or(GROWING_PIECE_BYTES, |bytes| bytes.min(GROWING_PIECE_BYTES)),
        })
    }
}

impl GrowingUpload<'_> {
    /// How many bytes have to be there for [`GrowingUpload::advance`] to send a piece and leave some for the end: some
    /// registries refuse to end an upload with nothing.
    pub fn next(&self) -> u64 {
        self.offset + self.piece
    }

    /// Sends the next piece, which must be there. An error means that the blob is better sent once it is whole.
    pub fn advance(&mut self) -> Result<(), Error> {
        if self.location.is_none() {
            let core = &self.client.core;
            let begun = self.client.block_on(async {
                match core.spare(&self.endpoint).await {
                    Some(begun) => Ok(begun),
                    None => core.begin(&self.endpoint, WHAT).await.map_err(|f| f.error),
                }
            });
            let begun = begun.inspect_err(|_| self.remember_refusal())?;
            self.piece = self.piece.max(begun.min_piece);
            self.location = Some(begun.location);
            if self.piece > MAX_PIECE_BYTES {
                self.remember_refusal();
                self.take_back();
                return Err(Error::Setting {
                    what: "piece of an upload",
                    value: self.piece.to_string(),
                    reason: "the registry wants very large ones".to_owned(),
                });
            }
            // A larger piece may not be there yet.
            return Ok(());
        }
        let location = self.location.take();
        let mut session = self.session(None, location, Arc::clone(&self.meter));
        let outcome = self.client.block_on(session.run());
        (self.location, self.offset) = (session.location.take(), session.offset);
        outcome.inspect_err(|error| {
            if error.is_remote() {
                self.remember_refusal();
            }
            self.take_back();
        })
    }

    /// Sends what is left of the blob, which is whole now. Where that fails, it is sent as any other.
    pub fn finish(mut self, claim: &Claim, upload: &Upload<'_>) -> Result<Pushed, Error> {
        let core = &self.client.core;
        let is_there = core.exists_now(&self.endpoint, upload.descriptor);
        let is_there = self
            .client
            .block_on(async { Ok(is_there.await.unwrap_or(false)) });
        if is_there? {
            self.take_back();
            return Ok(Pushed::Existed);
        }
        let meter = claim.meter(upload.progress.clone());
        let location = self.location.take();
        let mut session = self.session(Some(upload.descriptor), location, meter);
        let outcome = self.client.block_on(session.run());
        self.location = session.location.take();
        match outcome {
            Ok(()) => {
                core.has(&self.endpoint, upload.descriptor.digest);
                Ok(Pushed::Uploaded)
            }
            Err(error) if error.is_remote() => {
                self.remember_refusal();
                self.take_back();
                self.client
                    .block_on(core.send_blob(&self.endpoint, upload, claim))
            }
            Err(error) => {
                self.take_back();
                Err(error)
            }
        }
    }

    /// Sends on from `location`: the next piece, or all that is left of a blob that is whole.
    fn session<'s>(
        &'s self,
        blob: Option<&'s Descriptor>,
        location: Option<Url>,
        meter: Arc<Meter>,
    ) -> Session<'s> {
        Session {
            core: &self.client.core,
            endpoint: &self.endpoint,
            open: &*self.open,
            blob,
            reach: blob.map_or(self.offset + self.piece, |blob| blob.size),
            what: blob.map_or_else(|| WHAT.to_owned(), |blob| format!("blob {}", blob.digest)),
            meter,
            location,
            offset: self.offset,
            chunk: Some(self.piece),
            may_resume: true,
            is_ending: false,
        }
    }

    /// Takes back what was sent.
    pub fn give_up(mut self) {
        self.take_back();
    }

    fn take_back(&mut self) {
        let core = &self.client.core;
        if let Some(location) = self.location.take() {
            self.client.tidy_up(core.give_up(&self.endpoint, &location));
        }
    }

    fn remember_refusal(&self) {
        let mut known = self.client.core.known();
        known.whole_only.insert(self.endpoint.host.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_that_want_whole_blobs_are_known() {
        for (host, takes) in [
            ("ghcr.io", false),
            ("gcr.io", false),
            ("eu.gcr.io", false),
            ("europe-docker.pkg.dev", false),
            ("registry-1.docker.io", true),
            ("123.dkr.ecr.eu-west-1.amazonaws.com", true),
            ("notgcr.io", true),
            ("127.0.0.1:5000", true),
        ] {
            assert_eq!(takes_pieces(host), takes, "{host}");
        }
    }
}
