//! Authentication: what is sent as `Authorization`, learnt from the challenges of each server.
//!
//! Nothing is asked beforehand: the first request to a server goes without, and its 401 says what the server
//! wants. From then on requests carry what is needed from the start. Access tokens are kept for the scopes they
//! were made for and renewed at four fifths of their life, or when a server refuses one.
//!
//! One lock for each server, held while a token is fetched, so that requests side by side share one token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use base64::Engine as _;
use reqwest::{StatusCode, header::HeaderValue};

use super::{
    challenge::{Challenge, Scope},
    credentials::{Candidate, Credential, Found},
    error::{Error, Failure},
    mirrors::Endpoint,
    redact::Secret,
    settings::{Canceled, Warn},
    token::{Ask, Token},
    transport::{Home, Transport},
};

/// All that is known of servers' wishes.
#[derive(Debug, Default)]
pub(super) struct Auth {
    servers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Server>>>>,
    found: Mutex<HashMap<(String, String), Option<Found>>>,
}

#[derive(Debug, Default)]
struct Server {
    /// What it wants; `None` as long as it never asked.
    wants: Option<Wants>,
    tokens: Vec<Token>,
    /// When a token was waited for in vain, and why. Whoever waited for his turn meanwhile need not try the same anew.
    failed: Option<(Instant, Error)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// What a request needs.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) scopes: Vec<Scope>,
    /// Whether the credentials must be used: never fall back to being anonymous.
    pub(super) strict: bool,
}

impl Auth {
    /// What to send as `Authorization` for a request that was `begun` then, as far as the server's wishes are known.
    pub(super) async fn header(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        home: &Home,
        need: &Need,
        begun: Instant,
    ) -> Result<Option<HeaderValue>, Failure> {
        let server = self.server(home);
        let mut server = server.lock().await;
        if let Some((at, error)) = &server.failed
            && *at > begun
            && let Some(error) = error.shared()
        {
            return Err(error.into());
        }
        match server.wants.clone() {
            None => match self.found(transport, endpoint, need.strict)? {
                // A bearer token that was given outright needs no invitation.
                Some(Found {
                    credential: Credential::RegistryToken(token),
                    ..
                }) => bearer(&token).map(Some),
                _ => Ok(None),
            },
            Some(Wants::Basic) => self
                .found(transport, endpoint, need.strict)?
                .map(|found| basic(&found.credential, home))
                .transpose(),
            Some(Wants::Bearer { realm, service }) => {
                let found = self.found(transport, endpoint, need.strict)?;
                if let Some(Found {
                    credential: Credential::RegistryToken(token),
                    ..
                }) = &found
                {
                    return bearer(token).map(Some);
                }
                let now = Instant::now();
                server.tokens.retain(|t| t.renew_at > now);
                if let Some(token) = server
                    .tokens
                    .iter()
                    .find(|t| t.origin == found && Scope::cover(&t.scopes, &need.scopes))
                {
                    return bearer(&token.value).map(Some);
                }
                let ask = Ask {
                    transport,
                    endpoint,
                    home,
                    realm: &realm,
                    service: service.as_deref(),
                    need,
                };
                let token = match ask.token(found.as_ref()).await {
                    Ok(token) => token,
                    Err(failure) => {
                        let error = failure.error.shared();
                        server.failed = error.map(|error| (Instant::now(), error));
                        return Err(failure);
                    }
                };
                let header = bearer(&token.value).map(Some);
                server.tokens.push(Token {
                    origin: found,
                    ..token
                });
                header
            }
        }
    }

    /// Takes in a refusal: what the server wants, that a token is no good, which scopes are needed besides.
    /// The next [`Auth::header`] differs if repeating the request makes sense.
    pub(super) async fn refused(
        &self,
        home: &Home,
        status: StatusCode,
        challenges: &[Challenge],
        sent: Option<&HeaderValue>,
        need: &mut Need,
    ) {
        let challenge = challenges
            .iter()
            .find(|c| c.scheme == "bearer" && c.get("realm").is_some());
        if let Some(scopes) = challenge.and_then(|c| c.get("scope")).map(Scope::parse_all)
            && !Scope::cover(&need.scopes, &scopes)
        {
            Scope::merge(&mut need.scopes, scopes);
        }
        if status == StatusCode::FORBIDDEN {
            // Only a scope that was not asked for can change that.
            return;
        }
        let server = self.server(home);
        let mut server = server.lock().await;
        server
            .tokens
            .retain(|token| bearer(&token.value).ok().as_ref() != sent || sent.is_none());
        let wants = match challenge {
            Some(challenge) => Some(Wants::Bearer {
                realm: challenge.get("realm").unwrap_or_default().to_owned(),
                service: challenge.get("service").map(ToOwned::to_owned),
            }),
            None if challenges.iter().any(|c| c.scheme == "basic") => Some(Wants::Basic),
            None => None,
        };
        if wants.is_some() && server.wants != wants {
            server.tokens.clear();
            server.wants = wants;
        }
    }

    /// Whose credentials are used for an endpoint, for people.
    pub(super) fn describe(&self, endpoint: &Endpoint) -> String {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match found.get(&(endpoint.host.clone(), endpoint.repository.clone())) {
            Some(Some(found)) => found.to_string(),
            _ => "no credentials".to_owned(),
        }
    }

    fn server(&self, home: &Home) -> Arc<tokio::sync::Mutex<Server>> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(servers.entry(home.name.clone()).or_default())
    }

    /// The credentials for an endpoint. A helper that fails is an error where credentials are needed (`strict`)
    /// and a remark else.
    fn found(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        strict: bool,
    ) -> Result<Option<Found>, Failure> {
        let key = (endpoint.host.clone(), endpoint.repository.clone());
        if let Some(found) = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return Ok(found.clone());
        }
        let settings = &transport.settings;
        let mut result = None;
        let general = &settings.registries.credential_helpers;
        for candidate in
            settings
                .credentials
                .candidates(&endpoint.host, &endpoint.repository, general)
        {
            match candidate {
                Candidate::Found(found) => result = Some(found),
                Candidate::Ask { helper, server } => {
                    let is_canceled = || match &settings.canceled {
                        Some(Canceled(is_canceled)) => is_canceled(),
                        None => false,
                    };
                    match helper.get(&server, settings.timeouts.helper, &is_canceled) {
                        Ok(Some(credential)) => {
                            result = Some(Found {
                                credential,
                                origin: format!("docker-credential-{}", helper.name()),
                            });
                        }
                        Ok(None) => {}
                        Err(error) if strict || matches!(error, Error::Canceled) => {
                            return Err(error.into());
                        }
                        Err(error) => {
                            if let Some(Warn(warn)) = &settings.warn {
                                warn(&format!("{error}; going on without it"));
                            }
                        }
                    }
                }
            }
            if result.is_some() {
                break;
            }
        }
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, result.clone());
        Ok(result)
    }
}

fn bearer(token: &Secret) -> Result<HeaderValue, Failure> {
    sensitive(&format!("Bearer {}", token.expose()))
}

pub(super) fn basic(credential: &Credential, home: &Home) -> Result<HeaderValue, Failure> {
    let (username, secret) = match credential {
        Credential::Basic { username, password } => (username.as_str(), password),
        // Azure's registries know refresh tokens by this name.
        Credential::IdentityToken(token) if home.name.ends_with(".azurecr.io") => {
            ("00000000-0000-0000-0000-000000000000", token)
        }
        Credential::IdentityToken(token) | Credential::RegistryToken(token) => ("<token>", token),
    };
    let pair = format!("{username}:{}", secret.expose());
    sensitive(&format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    ))
}

fn sensitive(text: &str) -> Result<HeaderValue, Failure> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_e: reqwest::header::InvalidHeaderValue| {
            Error::Setting {
                what: "credentials",
                value: "***".to_owned(),
                reason: "they hold characters that no header can carry".to_owned(),
            }
        })?;
    value.set_sensitive(true);
    Ok(value)
}
