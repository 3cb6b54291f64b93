//! A cache in a bucket of S3, or of anything that speaks its protocol.
//!
//! ```text
//! PREFIX blobs/sha256/HEX    layers
//! PREFIX manifests/NAME      the records, in one object
//! ```
//! Every request is authorized by its URL (Signature Version 4 with a query, payload unsigned): the bytes are verified by
//! digest anyway, and a signed URL can be fetched by the very code that fetches every other file, which goes on
//! where a transfer broke.

use std::{fmt::Write as _, sync::Arc};

use jiff::Timestamp;
use ring::hmac;

use super::{Place, PlaceError, Records, Selection, records::MAX_DOCUMENT_BYTES};
use crate::{
    oci::{Descriptor, Digest, Platform, sha256},
    registry::{BlobSink, Client, Content, Exchange, Pushed, Secret, Upload, http::Get},
};

/// How long a signed URL is good for, in seconds; a transfer that has begun may take longer.
const EXPIRES: u32 = 3600;
/// The largest object that one request may put.
const MAX_OBJECT_BYTES: u64 = 5 << 30;

/// Which bucket, and how to get in.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// The region, which is part of every signature.
    pub region: String,
    /// `https://host[:port]`; `None` is Amazon's.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path, not in the host's name.
    pub path_style: bool,
    /// Stands in front of every key.
    pub prefix: String,
    /// Stands in front of the keys of layers.
    pub blobs_prefix: String,
    /// Stands in front of the keys of records.
    pub manifests_prefix: String,
    /// The names of the cache; written to all, read from all. At least one.
    pub names: Vec<String>,
    /// The access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret,
    /// A temporary key's token.
    pub session_token: Option<Secret>,
}

/// A bucket.
#[derive(Debug)]
pub struct S3Place {
    client: Arc<Client>,
    settings: S3Settings,
    clock: fn() -> Timestamp,
}

impl S3Place {
    /// The place with these settings; `clock` gives the time of signatures.
    pub fn new(client: Arc<Client>, settings: S3Settings, clock: fn() -> Timestamp) -> Self {
        Self {
            client,
            settings,
            clock,
        }
    }

    fn blob_key(&self, digest: &Digest) -> String {
        let S3Settings {
            prefix,
            blobs_prefix,
            ..
        } = &self.settings;
        format!("{prefix}{blobs_prefix}sha256/{}", digest.hex())
    }

    fn records_key(&self, name: &str) -> String {
        let S3Settings {
            prefix,
            manifests_prefix,
            ..
        } = &self.settings;
        format!("{prefix}{manifests_prefix}{name}")
    }

    fn url(&self, method: &str, key: &str) -> String {
        signed_url(&self.settings, method, key, (self.clock)())
    }

    fn has(&self, blob: &Descriptor) -> Result<bool, PlaceError> {
        let url = self.url("HEAD", &self.blob_key(&blob.digest));
        let request = Exchange {
            method: "HEAD",
            url: &url,
            headers: &[],
            body: Content::Nothing,
            limit: 0,
        };
        // Without the right to list a bucket, 403 is what a missing object looks like.
        let reply = self.client.exchange(&request, &[200, 403, 404])?;
        Ok(reply.status == 200)
    }
}

impl Place for S3Place {
    fn name(&self) -> String {
        let names = self.settings.names.join(";");
        format!("s3://{}/{}", self.settings.bucket, self.records_key(&names))
    }

    fn records(&self, _: &[Platform]) -> Result<Selection, PlaceError> {
        let mut found = Vec::new();
        for name in &self.settings.names {
            let url = self.url("GET", &self.records_key(name));
            let request = Exchange {
                method: "GET",
                url: &url,
                headers: &[],
                body: Content::Nothing,
                limit: MAX_DOCUMENT_BYTES,
            };
            let reply = self.client.exchange(&request, &[200, 404])?;
            if reply.status == 200 {
                found.push(Records::from_object(&reply.bytes)?);
            }
        }
        if found.is_empty() {
            return Err(PlaceError::Absent);
        }
        Ok(found)
    }

    fn blob(&self, blob: &Descriptor, sink: &mut dyn BlobSink) -> Result<(), PlaceError> {
        let get = Get {
            url: self.url("GET", &self.blob_key(&blob.digest)),
            ..Get::default()
        };
        self.client.download(&get, sink)?;
        Ok(())
    }

    fn put_blob(&self, upload: &Upload<'_>) -> Result<Pushed, PlaceError> {
        let blob = upload.descriptor;
        if self.has(blob)? {
            return Ok(Pushed::Existed);
        }
        if blob.size > MAX_OBJECT_BYTES {
            return Err(PlaceError::TooLarge(blob.size));
        }
        let url = self.url("PUT", &self.blob_key(&blob.digest));
        let request = Exchange {
            method: "PUT",
            url: &url,
            headers: &[],
            body: Content::File {
                size: blob.size,
                open: upload.open,
                progress: upload.progress.as_ref(),
            },
            limit: MAX_DOCUMENT_BYTES,
        };
        self.client.exchange(&request, &[200])?;
        Ok(Pushed::Uploaded)
    }

    fn put_records(&self, records: &Records) -> Result<Option<Descriptor>, PlaceError> {
        let object = records.to_object();
        for name in &self.settings.names {
            let url = self.url("PUT", &self.records_key(name));
            let request = Exchange {
                method: "PUT",
                url: &url,
                headers: &[("content-type", "application/json")],
                body: Content::Bytes(&object),
                limit: MAX_DOCUMENT_BYTES,
            };
            self.client.exchange(&request, &[200])?;
        }
        Ok(None)
    }
}

/// The URL of an object, good for one method and a while (AWS Signature Version 4, query parameters).
fn signed_url(settings: &S3Settings, method: &str, key: &str, now: Timestamp) -> String {
    let region = &settings.region;
    let endpoint = match &settings.endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", &endpoint));
    let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
    let mut path = String::new();
    if !base.is_empty() {
        path = format!("/{base}");
    }
    let host = if settings.path_style {
        path = format!("{path}/{}", encoded(&settings.bucket, true));
        host.to_owned()
    } else {
        format!("{}.{host}", settings.bucket)
    };
    path = format!("{path}/{}", encoded(key, true));
    // The default port is not part of the `Host` that the server sees.
    let default_port = if scheme == "http" { ":80" } else { ":443" };
    let seen_host = host.strip_suffix(default_port).unwrap_or(&host);

    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &time[..8];
    let scope = format!("{day}/{region}/s3/aws4_request");
    let credential = format!("{}/{scope}", settings.access_key_id);
    // In the order of their names, as the signature wants them.
    let mut query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={time}&X-Amz-Expires={EXPIRES}",
        encoded(&credential, false)
    );
    if let Some(token) = &settings.session_token {
        let token = encoded(token.expose(), false);
        query.push_str("&X-Amz-Security-Token=");
        query.push_str(&token);
    }
    query.push_str("&X-Amz-SignedHeaders=host");
    let request = format!("{method}\n{path}\n{query}\nhost:{seen_host}\n\nhost\nUNSIGNED-PAYLOAD");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        sha256(request.as_bytes()).hex()
    );
    let secret = format!("AWS4{}", settings.secret_access_key.expose());
    let mut signing_key = secret.into_bytes();
    for part in [day, region.as_str(), "s3", "aws4_request"] {
        signing_key = mac(&signing_key, part.as_bytes());
    }
    let mut signature = String::new();
    for byte in mac(&signing_key, to_sign.as_bytes()) {
        write!(signature, "{byte:02x}").expect("writing to a string cannot fail");
    }
    format!("{scheme}://{host}{path}?{query}&X-Amz-Signature={signature}")
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, data).as_ref().to_vec()
}

/// Percent-encodes all but unreserved characters, and slashes in a path.
fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_plain || (is_path && byte == b'/') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Amazon's documentation, "Authenticating Requests: Using Query Parameters", but for the time
    /// that a URL is good for, which is a day there.
    #[test]
    fn a_signature_is_as_documented() {
        let settings = S3Settings {
            bucket: "examplebucket".to_owned(),
            region: "us-east-1".to_owned(),
            endpoint: Some("https://s3.amazonaws.com".to_owned()),
            path_style: false,
            prefix: String::new(),
            blobs_prefix: String::new(),
            manifests_prefix: String::new(),
            names: Vec::new(),
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        };
        let time: Timestamp = "2013-05-24T00:00:00Z".parse().expect("valid");
        let url = signed_url(&settings, "GET", "test.txt", time);
        assert!(
            url.starts_with(
                "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
                 &X-Amz-Date=20130524T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature="
            ),
            "{url}"
        );
        let path_style = S3Settings {
            endpoint: Some("http://127.0.0.1:9000/".to_owned()),
            path_style: true,
            session_token: Some(Secret::new("a+b")),
            ..settings
        };
        let url = signed_url(&path_style, "GET", "a b/c", time);
        assert!(
            url.starts_with("http://127.0.0.1:9000/examplebucket/a%20b/c?"),
            "{url}"
        );
        assert!(url.contains("&X-Amz-Security-Token=a%2Bb&"), "{url}");
    }
}
