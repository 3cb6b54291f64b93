//! What is said about an image, beside it in its index.
//!
//! ```text
//! index ─┬─ manifest of the image
//!        └─ attestation manifest (platform unknown/unknown, vnd.docker.reference.digest says which image it is about)
//!             └─ in-toto statements, one a layer: lists of packages, then provenance
//! ```
//! The layout is BuildKit's, see `docs/attestations/attestation-storage.md` there.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{OutputError, documents::Written, provenance::package_url};
use crate::{
    oci::{Descriptor, Manifest, MediaType, Platform, to_json},
    reference::Reference,
    store::Store,
};

/// The config of what is no image.
const EMPTY: &[u8] = b"{}";

/// One thing that is said about an image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    /// What kind of thing: a URL that says how to read it.
    pub(super) predicate_type: String,
    /// What it is about, where that is not the image.
    pub(super) subjects: Vec<Value>,
    /// What is said.
    pub(super) predicate: Value,
}

impl Statement {
    /// The statement about these, unless it says itself what it is about.
    pub(super) fn about(&self, subjects: &[Value]) -> Value {
        let own = &self.subjects[..];
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": self.predicate_type,
            "subject": if own.is_empty() { subjects } else { own },
            "predicate": self.predicate,
        })
    }
}

/// Puts into the store what is said about a manifest that has these names: as an artifact that names the manifest as its subject, or in
/// the older form, as an image for an unknown platform.
pub(super) fn write(
    store: &Store,
    about: &Descriptor,
    names: &[Reference],
    statements: &[Statement],
    as_artifact: bool,
) -> Result<Written, OutputError> {
    let platform = about.platform.clone().unwrap_or_else(Platform::host);
    let digest = json!({"sha256": about.digest.hex()});
    let subjects: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": package_url("docker", &name.familiar(), None, &platform), "digest": digest}))
        .collect();
    let put = |media_type: &'static str, bytes: &[u8]| -> Result<Descriptor, OutputError> {
        let digest = store.put_bytes(bytes)?;
        let media_type = MediaType::new(media_type);
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    };
    let mut layers = Vec::with_capacity(statements.len());
    for statement in statements {
        let bytes = to_json(&statement.about(&subjects));
        let mut layer = put("application/vnd.in-toto+json", &bytes)?;
        layer.annotations.insert(
            "in-toto.io/predicate-type".to_owned(),
            statement.predicate_type.clone(),
        );
        layers.push(layer);
    }
    let config = if as_artifact {
        let mut config = put("application/vnd.oci.empty.v1+json", EMPTY)?;
        config
            .other
            .insert("data".to_owned(), STANDARD.encode(EMPTY).into());
        config
    } else {
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest).collect();
        let image = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        put("application/vnd.oci.image.config.v1+json", &to_json(&image))?
    };
    let mut manifest = Manifest::new(config.clone(), layers.clone());
    if as_artifact {
        manifest.artifact_type = Some(MediaType::new(
            "application/vnd.docker.attestation.manifest.v1+json",
        ));
        manifest.subject = Some(Descriptor::new(
            about.media_type.clone(),
            about.digest,
            about.size,
        ));
    }
    let mut descriptor = put(
        "application/vnd.oci.image.manifest.v1+json",
        &to_json(&manifest),
    )?;
    descriptor.annotations = BTreeMap::from([
        (
            "vnd.docker.reference.digest".to_owned(),
            about.digest.to_string(),
        ),
        (
            "vnd.docker.reference.type".to_owned(),
            "attestation-manifest".to_owned(),
        ),
    ]);
    descriptor.platform = Some(Platform {
        os: "unknown".to_owned(),
        architecture: "unknown".to_owned(),
        ..Platform::default()
    });
    Ok(Written {
        descriptor,
        config,
        layers,
    })
}
