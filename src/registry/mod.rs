//! Registries: where images come from and go to.
//!
//! [`Settings`] is what the caller decides; nothing here reads the environment or a home directory.

pub mod credentials;
mod error;
pub mod helper;
pub mod mirrors;
pub mod redact;
pub mod settings;

pub use credentials::{Credential, Credentials, DockerConfig, parse_docker_config};
pub use error::Error;
pub use mirrors::{RegistriesConf, parse_registries_conf};
pub use redact::Secret;
pub use settings::Settings;
