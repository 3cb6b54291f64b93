//! Tokens: what a registry's token server gives for credentials, as in the distribution project's token specification.
//!
//! The server is the one that the registry names in its challenge, and is believed as little as a redirect of the registry. It is
//! asked with the scopes that a request needs, by GET, or by POST where there is an identity token (OAuth 2's refresh token); a
//! server that does not know the latter is asked by GET.

use std::time::{Duration, Instant};

use reqwest::{
    Method, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;

use super::{
    auth::{Need, basic},
    challenge::Scope,
    credentials::{Credential, Found},
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
/// How long an answer of a token server may take: it has next to nothing to do, and all that need its token wait for it. Docker
/// waits 15 seconds.
const TOKEN_WAIT: Duration = Duration::from_secs(20);
/// The name by which this program asks for tokens.
const CLIENT_ID: &str = "rbuild";

/// A token that a server has given.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) scopes: Vec<Scope>,
    /// Whom it was made for.
    pub(super) origin: Option<Found>,
    pub(super) value: Secret,
    pub(super) renew_at: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// A number; some servers put it in quotes, and a default is good enough for those.
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// A request for a token.
pub(super) struct Ask<'a> {
    pub(super) transport: &'a Transport,
    pub(super) endpoint: &'a Endpoint,
    pub(super) home: &'a Home,
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) need: &'a Need,
}

impl Ask<'_> {
    /// Asks for a token with these credentials, or with none.
    pub(super) async fn token(&self, found: Option<&Found>) -> Result<Token, Failure> {
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
            limit: self.transport.settings.timeouts.idle.min(TOKEN_WAIT),
            follow: Follow::Guarded,
            meter: None,
        };
        self.exchange(request, None, found).await
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
            limit: self.transport.settings.timeouts.idle.min(TOKEN_WAIT),
            // A form with a secret goes to the server that was named and to no other.
            follow: Follow::Never,
            meter: None,
        };
        let body = form.query().unwrap_or_default().to_owned();
        self.exchange(request, Some(body), found).await
    }

    async fn exchange(
        &self,
        mut request: Request,
        form: Option<String>,
        found: Option<&Found>,
    ) -> Result<Token, Failure> {
        let json = HeaderValue::from_static("application/json");
        request.headers.insert(ACCEPT, json);
        let mut body = || Ok(form.clone().map(reqwest::Body::from));
        let what = format!("a token for {}", self.purpose());
        let sent = self.transport.send(&request, &mut body).await;
        let mut answer = sent.map_err(|failure| failure.about(&what))?;
        if let Some(Credential::IdentityToken(token)) = found.map(|found| &found.credential) {
            answer.secrets.push(token.clone());
        }
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
        if HeaderValue::from_str(&value).is_err() {
            return Err(malformed("the token has characters that no header can carry").into());
        }
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
