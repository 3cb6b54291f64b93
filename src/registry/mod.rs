//! Registries: where images come from and go to.
//!
//! [`Client`] speaks the distribution protocol: it resolves, pulls and pushes, with the credentials, mirrors,
//! certificates and patience that [`Settings`] give it. It also fetches files for `ADD` from other servers and talks to those that keep caches, so that
//! TLS, proxies and retries are in one place. Nothing here reads the environment or a home directory, and
//! nothing is kept on disk: blobs go into a [`BlobSink`] and come from readers.
//!
//! Invariants:
//! - a blob or document that is handed out has the digest that was asked for, and a sink never gets more bytes
//!   than the descriptor declares;
//! - a secret goes to the server it is for, over TLS unless that server is configured otherwise, and into no
//!   message ([`Secret`], [`redact`]);
//! - refusals are final at once, and faults are met with [`settings::Retry`].
//!
//! Specs: distribution-spec 1.1; Docker's token authentication; containers-registries.conf(5);
//! containers-auth.json(5); the protocol of docker-credential-helpers.

mod address;
mod ahead;
mod answer;
mod auth;
mod body;
mod challenge;
mod client;
pub mod credentials;
mod docker_config;
mod document;
mod error;
mod exchange;
mod fault;
mod fetch;
mod growing;
pub mod helper;
pub mod http;
mod location;
pub mod mirrors;
mod naming;
mod pull;
mod push;
pub mod redact;
mod retry;
pub mod settings;
mod tls;
mod token;
mod transport;
mod upload;

pub use body::OnBytes;
pub use client::Client;
pub use credentials::{Credential, Credentials};
pub use docker_config::{DockerConfig, parse_docker_config};
pub use document::{Document, Image, select};
pub use error::Error;
pub use exchange::{Content, Exchange, Reply};
pub use fetch::{BlobSink, Watched};
pub use growing::{Claim, GROWING_PIECE_BYTES, GrowingUpload, OpenAt};
pub use mirrors::{RegistriesConf, parse_registries_conf};
pub use pull::{MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES};
pub use push::{Pushed, Upload};
pub use redact::Secret;
pub use settings::Settings;
