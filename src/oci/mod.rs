//! The documents of the OCI image specification, and nothing else.
//!
//! Own types instead of the `oci-spec` crate: that one loses `Healthcheck`, `OnBuild`, `Shell` and unknown
//! keys, and prints maps in random order, so equal images would get different digests. Here every map is
//! ordered, unknown keys survive, and printing a parsed document twice gives the same bytes.
//!
//! Spec: image-spec v1.1, and Docker's "Image Manifest Version 2, Schema 2" where the two differ.

mod config;
mod descriptor;
mod digest;
mod manifest;
mod platform;

pub use config::{Config, ConfigFile, Healthcheck, History, RootFs};
pub use descriptor::{Descriptor, MediaType};
pub use digest::{ChainId, DiffId, Digest, DigestError, DigestState, Digester, sha256};
pub use manifest::{Index, Manifest};
pub use platform::{Platform, PlatformError};

/// The annotation by which an image layout names an image.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the moment of creation, RFC 3339.
pub const ANNOTATION_CREATED: &str = "org.opencontainers.image.created";

/// Prints a document as the compact JSON whose digest names it.
///
/// # Panics
/// Never for the types of this module: their keys are strings and their values are plain data.
pub fn to_json<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document)
        .expect("image documents have string keys and no fallible serialisers")
}
