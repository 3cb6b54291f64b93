//! A cache in the cache service of GitHub Actions, version 2.
//!
//! The service keeps entries that never change, by key and version. Its calls are twirp: JSON by POST below
//! `twirp/github.actions.results.api.v1.CacheService/`, with the job's token. Bytes go to and come from signed URLs of a
//! blob store. A layer is an entry by its digest; each export of records is a new entry, and the newest of a
//! scope counts:
//!
//! ```text
//! rbuild-blob-sha256:HEX
//! rbuild-records-SCOPE#TIME     TIME: milliseconds since 1970
//! ```

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Place, PlaceError, Records, RecordsError, Selection, records::MAX_DOCUMENT_BYTES};
use crate::{
    oci::{Descriptor, Digest, Platform, sha256, to_json},
    registry::{BlobSink, Client, Content, Exchange, Pushed, Secret, Upload, http::Get},
};

/// The largest answer to a call.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// What one request may put into the blob store behind the service: 5000 MiB.
const MAX_BLOB_BYTES: u64 = 5000 << 20;

/// Which service, and how to get in.
#[derive(Clone, Debug)]
pub struct GhaSettings {
    /// The service's address (`$ACTIONS_RESULTS_URL`).
    pub url: String,
    /// The job's token (`$ACTIONS_RUNTIME_TOKEN`).
    pub token: Secret,
    /// Which cache of several is meant.
    pub scope: String,
}

/// The cache service of a job.
#[derive(Debug)]
pub struct GhaPlace {
    client: Arc<Client>,
    settings: GhaSettings,
    clock: fn() -> Timestamp,
}

/// Where an entry can be had, or put.
#[derive(Deserialize)]
struct Signed {
    ok: bool,
    #[serde(
        default,
        alias = "signedDownloadUrl",
        alias = "signed_download_url",
        alias = "signedUploadUrl",
        alias = "signed_upload_url"
    )]
    url: String,
}

#[derive(Serialize)]
struct Wanted<'a> {
    key: &'a str,
    restore_keys: Vec<&'a str>,
    version: &'a str,
}

#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct Finished<'a> {
    key: &'a str,
    /// A number of 64 bits is a text in the JSON of protocol buffers.
    size_bytes: String,
    version: &'a str,
}

#[derive(Deserialize)]
struct Outcome {
    ok: bool,
}

impl GhaPlace {
    /// The place with these settings; `clock` tells the newest records.
    pub fn new(client: Arc<Client>, settings: GhaSettings, clock: fn() -> Timestamp) -> Self {
        Self {
            client,
            settings,
            clock,
        }
    }

    /// One call; `None` for a refusal that means "there is one already" or "there is none".
    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        message: &impl Serialize,
    ) -> Result<Option<T>, PlaceError> {
        let base = self.settings.url.trim_end_matches('/');
        let url = format!("{base}/twirp/github.actions.results.api.v1.CacheService/{method}");
        let authorization = format!("Bearer {}", self.settings.token.expose());
        let body = to_json(message);
        let request = Exchange {
            method: "POST",
            url: &url,
            headers: &[
                ("authorization", &authorization),
                ("content-type", "application/json"),
            ],
            body: Content::Bytes(&body),
            limit: MAX_ANSWER_BYTES,
        };
        let reply = self.client.exchange(&request, &[200, 404, 409])?;
        if reply.status != 200 {
            return Ok(None);
        }
        Ok(Some(
            serde_json::from_slice(&reply.bytes).map_err(RecordsError::from)?,
        ))
    }

    /// Where an entry can be had; with `prefix`, the newest whose key begins so.
    fn find(&self, key: &str, prefix: Option<&str>) -> Result<Option<String>, PlaceError> {
        let version = version();
        let wanted = Wanted {
            key,
            restore_keys: prefix.into_iter().collect(),
            version: &version,
        };
        let found: Option<Signed> = self.call("GetCacheEntryDownloadURL", &wanted)?;
        Ok(found.filter(|found| found.ok).map(|found| found.url))
    }

    /// Puts an entry. False when there is one with this key.
    fn put(&self, key: &str, size: u64, body: Content<'_>) -> Result<bool, PlaceError> {
        let version = version();
        let entry = Entry {
            key,
            version: &version,
        };
        let place: Option<Signed> = self.call("CreateCacheEntry", &entry)?;
        let Some(place) = place.filter(|place| place.ok) else {
            return Ok(false);
        };
        let request = Exchange {
            method: "PUT",
            url: &place.url,
            headers: &[
                ("x-ms-blob-type", "BlockBlob"),
                ("content-type", "application/octet-stream"),
            ],
            body,
            limit: MAX_ANSWER_BYTES,
        };
        self.client.exchange(&request, &[200, 201])?;
        let finished = Finished {
            key,
            size_bytes: size.to_string(),
            version: &version,
        };
        let outcome: Option<Outcome> = self.call("FinalizeCacheEntryUpload", &finished)?;
        if outcome.is_some_and(|outcome| outcome.ok) {
            return Ok(true);
        }
        Err(PlaceError::Unfinished(key.to_owned()))
    }
}

impl Place for GhaPlace {
    fn name(&self) -> String {
        format!("the Actions cache, scope {}", self.settings.scope)
    }

    fn records(&self, _: &[Platform]) -> Result<Selection, PlaceError> {
        let prefix = records_prefix(&self.settings.scope);
        let Some(url) = self.find(&prefix, Some(&prefix))? else {
            return Err(PlaceError::Absent);
        };
        let request = Exchange {
            method: "GET",
            url: &url,
            headers: &[],
            body: Content::Nothing,
            limit: MAX_DOCUMENT_BYTES,
        };
        let reply = self.client.exchange(&request, &[200])?;
        Ok(vec![Records::from_object(&reply.bytes)?])
    }

    fn blob(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError> {
        let url = self.find(&blob_key(&blob.digest), None)?;
        let get = Get {
            url: url.ok_or(PlaceError::Lost(blob.digest))?,
            ..Get::default()
        };
        self.client.download(&get, sink)?;
        Ok(())
    }

    fn put_blob(&self, upload: &Upload<'_>) -> Result<Pushed, PlaceError> {
        let blob = upload.descriptor;
        let key = blob_key(&blob.digest);
        if self.find(&key, None)?.is_some() {
            return Ok(Pushed::Existed);
        }
        if blob.size > MAX_BLOB_BYTES {
            return Err(PlaceError::TooLarge(blob.size));
        }
        let body = Content::File {
            size: blob.size,
            open: upload.open,
            progress: upload.progress.as_ref(),
        };
        Ok(if self.put(&key, blob.size, body)? {
            Pushed::Uploaded
        } else {
            // Another job is at it.
            Pushed::Existed
        })
    }

    fn put_records(&self, records: &Records) -> Result<Option<Descriptor>, PlaceError> {
        let object = records.to_object();
        let time = (self.clock)().as_millisecond();
        let key = format!("{}{time}", records_prefix(&self.settings.scope));
        if self.put(&key, object.len() as u64, Content::Bytes(&object))? {
            return Ok(None);
        }
        Err(PlaceError::Unfinished(key))
    }
}

fn blob_key(digest: &Digest) -> String {
    format!("rbuild-blob-{digest}")
}

/// Ends with a character that no scope has, so that no scope's is the beginning of another's.
fn records_prefix(scope: &str) -> String {
    format!("rbuild-records-{scope}#")
}

/// Entries of other versions are not seen; the service wants a digest.
fn version() -> String {
    sha256(b"rbuild cache 1").hex()
}
