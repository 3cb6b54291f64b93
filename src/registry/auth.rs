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
    time::{Duration, Instant},
};

use base64::Engine as _;
use reqwest::{
    Method, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;

use super::{
    challenge::{Challenge, Scope},
    credentials::{Candidate, Credential, Found},
    error::{Error, Failure},
    mirrors::Endpoint,
    redact::{Secret, redacted_text},
    retry::Attempts,
    settings::Warn,
    transport::{Follow, Home, Request, Transport, forbidden},
};

/// The largest answer of a token server that is read.
const MAX_TOKEN_ANSWER_BYTES: u64 = 64 << 10;
/// The life of a token that does not tell; the token specification's own number, and the least that is believed.
const MIN_TOKEN_LIFE: Duration = Duration::from_mins(1);
/// The name by which this program asks for tokens.
const CLIENT_ID: &str = "rbuild";

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
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

#[derive(Debug)]
struct Token {
    scopes: Vec<Scope>,
    /// Whom it was made for.
    origin: Option<Found>,
    value: Secret,
    renew_at: Instant,
}

/// What a request needs.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) scopes: Vec<Scope>,
    /// Whether the credentials must be used: never fall back to being anonymous.
    pub(super) strict: bool,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// A number; some servers put it in quotes, and a default is good enough for those.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Auth {
    /// What to send as `Authorization` for a request, as far as the server's wishes are known.
    pub(super) async fn header(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        home: &Home,
        need: &Need,
    ) -> Result<Option<HeaderValue>, Failure> {
        let server = self.server(home);
        let mut server = server.lock().await;
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
                let token = ask.token(found.as_ref()).await?;
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
                    match helper.get(&server, settings.timeouts.helper) {
                        Ok(Some(credential)) => {
                            result = Some(Found {
                                credential,
                                origin: format!("docker-credential-{}", helper.name()),
                            });
                        }
                        Ok(None) => {}
                        Err(error) if strict => return Err(error.into()),
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

/// A request for a token.
struct Ask<'a> {
    transport: &'a Transport,
    endpoint: &'a Endpoint,
    home: &'a Home,
    realm: &'a str,
    service: Option<&'a str>,
    need: &'a Need,
}

impl Ask<'_> {
    async fn token(&self, found: Option<&Found>) -> Result<Token, Failure> {
        let url = self.realm_url()?;
        match self.patiently(&url, found).await {
            // A login that has run out must not stand in the way of an image that anybody may pull.
            Err(error @ Error::Unauthorized { .. }) if found.is_some() && !self.need.strict => {
                if let Some(Warn(warn)) = &self.transport.settings.warn {
                    warn(&format!("{error}; trying without credentials"));
                }
                Ok(self.patiently(&url, None).await?)
            }
            result => Ok(result?),
        }
    }

    async fn patiently(&self, url: &Url, found: Option<&Found>) -> Result<Token, Error> {
        let settings = &self.transport.settings;
        let mut attempts = Attempts::new(&settings.retry, settings.warn.as_ref());
        loop {
            match self.once(url, found).await {
                Ok(token) => return Ok(token),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    async fn once(&self, url: &Url, found: Option<&Found>) -> Result<Token, Failure> {
        if let Some(Found {
            credential: Credential::IdentityToken(token),
            ..
        }) = found
        {
            match self.by_post(url, token, found).await {
                // Servers that do not know this way say so in all these words.
                Err(Failure {
                    error:
                        Error::Status {
                            status: 400 | 405, ..
                        }
                        | Error::NotFound { .. }
                        | Error::Unauthorized { status: 401, .. },
                    ..
                }) => {}
                result => return result,
            }
        }
        let mut url = url.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = self.service {
                query.append_pair("service", service);
            }
            for scope in &self.need.scopes {
                query.append_pair("scope", &scope.to_string());
            }
            if let Some(Found {
                credential: Credential::Basic { username, .. },
                ..
            }) = found
            {
                query.append_pair("account", username);
            }
        }
        let home = self.token_home(&url);
        let authorization = found.map(|f| basic(&f.credential, self.home)).transpose()?;
        let request = Request {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            authorization,
            home,
            limit: self.transport.settings.timeouts.idle,
            follow: Follow::Guarded,
            meter: None,
        };
        self.exchange(&request, None, found).await
    }

    async fn by_post(
        &self,
        url: &Url,
        token: &Secret,
        found: Option<&Found>,
    ) -> Result<Token, Failure> {
        let scopes: Vec<String> = self.need.scopes.iter().map(ToString::to_string).collect();
        let mut form = url.clone();
        form.set_query(None);
        {
            let mut pairs = form.query_pairs_mut();
            pairs.append_pair("grant_type", "refresh_token");
            if let Some(service) = self.service {
                pairs.append_pair("service", service);
            }
            pairs.append_pair("scope", &scopes.join(" "));
            pairs.append_pair("client_id", CLIENT_ID);
            pairs.append_pair("refresh_token", token.expose());
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let request = Request {
            method: Method::POST,
            url: url.clone(),
            headers,
            authorization: None,
            home: self.token_home(url),
            limit: self.transport.settings.timeouts.idle,
            // A form with a secret goes to the server that was named and to no other.
            follow: Follow::Never,
            meter: None,
        };
        let body = form.query().unwrap_or_default().to_owned();
        self.exchange(&request, Some(body), found).await
    }

    async fn exchange(
        &self,
        request: &Request,
        form: Option<String>,
        found: Option<&Found>,
    ) -> Result<Token, Failure> {
        let mut request_headers = request.headers.clone();
        request_headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let request = Request {
            headers: request_headers,
            method: request.method.clone(),
            url: request.url.clone(),
            authorization: request.authorization.clone(),
            home: request.home.clone(),
            meter: None,
            ..*request
        };
        let mut body = || Ok(form.clone().map(reqwest::Body::from));
        let mut answer = self.transport.send(&request, &mut body).await?;
        let what = format!("a token for {}", self.purpose());
        if answer.status() != StatusCode::OK {
            let credentials = found.map_or("no credentials".to_owned(), ToString::to_string);
            return Err(answer.refusal(&what, &request.method, &credentials).await);
        }
        let host = answer.host.clone();
        let bytes = answer.bytes("a token", MAX_TOKEN_ANSWER_BYTES).await?;
        let malformed = |reason: &str| Error::Malformed {
            host: host.clone(),
            what: what.clone(),
            reason: reason.to_owned(),
        };
        // The parser's own message could show a part of the token.
        let parsed: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_e: serde_json::Error| malformed("not the JSON of a token"))?;
        let value = parsed
            .token
            .filter(|t| !t.is_empty())
            .or(parsed.access_token)
            .filter(|t| !t.is_empty())
            .ok_or_else(|| malformed("it has no token"))?;
        let life = Duration::from_secs(parsed.expires_in.as_u64().unwrap_or(0)).max(MIN_TOKEN_LIFE);
        let renew_in = life.min(Duration::from_hours(24)) * 4 / 5;
        Ok(Token {
            scopes: self.need.scopes.clone(),
            origin: None,
            value: Secret::new(value),
            renew_at: Instant::now() + renew_in,
        })
    }

    fn purpose(&self) -> String {
        let scopes: Vec<String> = self.need.scopes.iter().map(ToString::to_string).collect();
        if scopes.is_empty() {
            self.endpoint.host.clone()
        } else {
            scopes.join(" ")
        }
    }

    /// The token server's address, which the registry names and which therefore is not simply believed.
    fn realm_url(&self) -> Result<Url, Error> {
        let refuse = |reason| Error::Redirect {
            host: self.home.name.clone(),
            target: redacted_text(self.realm),
            reason,
        };
        let url = Url::parse(self.realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| refuse("that is no address of a token server"))?;
        // What a redirect may not do, a token server may not either: it is sent credentials.
        match forbidden(self.home, &self.home.base, &url) {
            Some(reason) => Err(refuse(reason)),
            None => Ok(url),
        }
    }

    fn token_home(&self, url: &Url) -> Home {
        let is_same_host = url.host_str() == self.home.base.host_str();
        Home::of(url, self.home.insecure && is_same_host)
    }
}

fn bearer(token: &Secret) -> Result<HeaderValue, Failure> {
    sensitive(&format!("Bearer {}", token.expose()))
}

fn basic(credential: &Credential, home: &Home) -> Result<HeaderValue, Failure> {
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
