//! The registry client against a registry that lies, refuses and breaks off, and against real ones.

mod access;
mod credentials;
mod head_start;
mod joining;
mod leaving;
mod lies;
mod patience;
mod pulling;
mod pushing;
pub(crate) mod servers;
mod storm;

use std::{io::Cursor, time::Duration};

use rbuild::{
    oci::{Descriptor, Manifest, MediaType, Platform, sha256, to_json},
    reference::Reference,
    registry::{
        Client, Credential, Credentials, Error, Pushed, Settings, Upload,
        settings::{Retry, Timeouts},
    },
};

use crate::support::{FakeRegistry, Received};

fn quick() -> Settings {
    Settings {
        retry: Retry {
            attempts: 5,
            base: Duration::from_millis(1),
            max: Duration::from_millis(20),
            max_retry_after: Duration::from_secs(5),
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(2),
            commit: Duration::from_secs(2),
            helper: Duration::from_secs(5),
        },
        ..Settings::default()
    }
}

fn client() -> Client {
    Client::new(quick()).expect("a client can be made")
}

fn with_login(host: &str, login: &str) -> Settings {
    let (user, password) = login.split_once(':').expect("user:password");
    let mut credentials = Credentials::default();
    credentials.push(host, Credential::from_login(user, password), "the test");
    Settings {
        credentials,
        ..quick()
    }
}

fn reference(host: &str, rest: &str) -> Reference {
    Reference::parse(&format!("{host}/{rest}")).expect("the test's references are well formed")
}

/// Bytes that no compression or repetition makes look alike.
fn noise(n_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(n_bytes + 32);
    let mut block = sha256(b"seed");
    while bytes.len() < n_bytes {
        bytes.extend_from_slice(block.as_bytes());
        block = sha256(block.as_bytes());
    }
    bytes.truncate(n_bytes);
    bytes
}

fn push(
    client: &Client,
    reference: &Reference,
    bytes: &[u8],
    mount_from: &[Reference],
) -> Result<Pushed, Error> {
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, bytes);
    client.push_blob(
        reference,
        &Upload {
            descriptor: &descriptor,
            open: &|| Ok(Box::new(Cursor::new(bytes.to_vec()))),
            mount_from,
            is_new: false,
            progress: None,
        },
    )
}

fn pull(client: &Client, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    client
        .blob(reference, descriptor, &mut bytes)
        .map(|()| bytes)
}

/// An image of one layer, in the repository and tagged.
fn put_image(fake: &FakeRegistry, repository: &str, tag: &str, platform: &str) -> Descriptor {
    let platform: Platform = platform.parse().expect("a platform");
    let config = format!(
        r#"{{"architecture":"{}","os":"{}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
        platform.architecture, platform.os
    );
    let mut config = fake.put_blob(repository, config.as_bytes());
    config.media_type = MediaType::OCI_CONFIG;
    let layer = fake.put_blob(repository, platform.to_string().as_bytes());
    let manifest = to_json(&Manifest::new(config, vec![layer]));
    let mut descriptor = fake.put_manifest(repository, tag, &MediaType::OCI_MANIFEST, &manifest);
    descriptor.platform = Some(platform);
    descriptor
}

fn is_blob_get(received: &Received) -> bool {
    received.method == "GET" && received.target.contains("/blobs/sha256:")
}
