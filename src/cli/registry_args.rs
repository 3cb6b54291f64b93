//! Options about registries, the same for every command that talks to one. They add to what configuration files say.

use std::{path::PathBuf, str::FromStr};

use clap::Args;
use rbuild::{reference::is_registry, registry::Settings};

use super::{diagnostics::Failure, environment::Environment, settings};

/// How to reach registries.
#[derive(Debug, Args, Default)]
pub(crate) struct RegistryArgs {
    /// Ask this mirror of docker.io first; may be repeated
    #[arg(long, value_name = "HOST", help_heading = "Registries")]
    registry_mirror: Vec<String>,
    /// Speak to this registry without TLS, or with a certificate that nobody vouches for; may be repeated
    #[arg(long, value_name = "HOST", value_parser = host, help_heading = "Registries")]
    insecure_registry: Vec<String>,
    /// Trust the authorities in this PEM file, for one registry or for all; may be repeated
    #[arg(long, value_name = "[HOST=]FILE", help_heading = "Registries")]
    registry_certificate: Vec<Certificate>,
    /// Times that a request is tried again when a registry is busy or a connection breaks [default: 5]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=1000), help_heading = "Registries")]
    registry_retries: Option<u32>,
}

/// Authorities, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Certificate {
    /// `None` for all.
    registry: Option<String>,
    path: PathBuf,
}

impl FromStr for Certificate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (registry, path) = match text.split_once('=') {
            Some((registry, path)) if is_registry(registry) => (Some(registry.to_owned()), path),
            _ => (None, text),
        };
        if path.is_empty() {
            return Err("there is no file name".to_owned());
        }
        Ok(Self {
            registry,
            path: path.into(),
        })
    }
}

fn host(text: &str) -> Result<String, String> {
    if is_registry(text) || text == "docker.io" {
        return Ok(text.to_owned());
    }
    Err("it is not a registry (HOST or HOST:PORT)".to_owned())
}

impl RegistryArgs {
    /// How to talk to registries: the environment, the configuration files, these options.
    pub(crate) fn settings(&self, env: &Environment) -> Result<Settings, Failure> {
        let mut settings = settings::registry(env)?;
        settings
            .mirrors
            .extend(self.registry_mirror.iter().cloned());
        settings
            .insecure
            .extend(self.insecure_registry.iter().cloned());
        for Certificate { registry, path } in &self.registry_certificate {
            match registry {
                Some(registry) => settings.registry_ca.push((registry.clone(), path.clone())),
                None => settings.extra_ca.push(path.clone()),
            }
        }
        if let Some(retries) = self.registry_retries {
            settings.retry.attempts = retries + 1;
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_for_one_registry_or_all() {
        let read = |text: &str| text.parse::<Certificate>().expect("valid");
        assert_eq!(
            read("r.test:5000=/ca.pem"),
            Certificate {
                registry: Some("r.test:5000".into()),
                path: "/ca.pem".into()
            }
        );
        assert_eq!(read("/a=b.pem").registry, None);
        assert!("r.test=".parse::<Certificate>().is_err());
    }

    #[test]
    fn options_add_to_the_configuration() {
        let args = RegistryArgs {
            registry_mirror: vec!["m.test".into()],
            insecure_registry: vec!["i.test".into()],
            registry_certificate: vec![
                "c.test=ca".parse().expect("valid"),
                "all".parse().expect("valid"),
            ],
            registry_retries: Some(0),
        };
        let settings = args
            .settings(&Environment::of(&[("HOME", "/nowhere")], 1000))
            .expect("valid");
        assert_eq!(settings.mirrors, ["m.test"]);
        assert_eq!(settings.insecure, ["i.test"]);
        assert_eq!(settings.registry_ca.len(), 1);
        assert_eq!(settings.extra_ca, [PathBuf::from("all")]);
        assert_eq!(settings.retry.attempts, 1);
    }
}
