//! rbuild turns a Dockerfile and a directory into an OCI image, without a daemon and without root.

pub mod build;
pub mod cache;
pub mod context;
pub mod copy;
pub mod dockerfile;
pub mod explain;
pub mod layer;
pub mod oci;
pub mod output;
pub mod plan;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod sandbox;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod tree;
pub mod upkeep;
pub mod used;
