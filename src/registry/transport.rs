//! One request and its answer: scheme, redirects, time limits, and what a failure means.
//!
//! Invariants: `Authorization` goes to the server it was made for and to no other, whatever redirects say;
//! nothing goes over plain HTTP unless the registry is on loopback or configured as insecure; the body of an
//! answer is read piece by piece and never without a limit.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WARNING},
};

use super::{
    address::{is_link_local, is_loopback},
    answer::{Answer, Pace},
    body::Meter,
    error::{Error, Failure},
    fault::{failure, unreachable},
    location,
    mirrors::Endpoint,
    redact::{printable, redacted_text, secrets_of},
    settings::{Settings, Warn},
    tls::Clients,
};

pub(super) use super::tls::host_and_port;

/// How many redirects are followed; browsers and Docker draw the line here too.
const MAX_REDIRECTS: usize = 10;
/// How long a host that may or may not speak TLS has for its first answer before the other way is tried too.
const HEAD_START: Duration = Duration::from_millis(300);

/// Sends requests.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) settings: Arc<Settings>,
    clients: Clients,
    /// `http` or `https`, for hosts where that had to be found out.
    schemes: tokio::sync::Mutex<HashMap<String, &'static str>>,
    /// Remarks of servers that were passed on already.
    remarks: Mutex<HashSet<String>>,
}

/// A request, apart from its body.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// For [`Request::home`] only.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) home: Home,
    /// The time limit for the head of the answer; an upload's meter has its own.
    pub(super) limit: Duration,
    pub(super) follow: Follow,
    pub(super) meter: Option<Arc<Meter>>,
}

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    Never,
    /// Those that a registry may rightly ask for: never away from TLS, never to this machine.
    Guarded,
    Anywhere,
}

/// The server that a request is meant for.
#[derive(Clone, Debug)]
pub(super) struct Home {
    /// Scheme, host and port.
    pub(super) base: Url,
    /// The name that certificates are filed under.
    pub(super) name: String,
    /// Whether unverified certificates are fine there.
    pub(super) insecure: bool,
}

impl Home {
    /// A server that is known by a URL alone.
    pub(super) fn of(url: &Url, insecure: bool) -> Self {
        Self {
            base: url.clone(),
            name: host_and_port(url),
            insecure,
        }
    }

    fn is_at(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }
}

/// Makes the body of a request anew for each time that it is sent.
pub(super) type MakeBody<'a> = dyn FnMut() -> Result<Option<reqwest::Body>, Failure> + Send + 'a;

impl Transport {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            clients: Clients::new(),
            schemes: tokio::sync::Mutex::default(),
            remarks: Mutex::default(),
        }
    }

    /// Where the API of an endpoint is.
    pub(super) async fn home(&self, endpoint: &Endpoint) -> Result<Home, Failure> {
        let name = endpoint.api_host();
        let insecure = endpoint.insecure || self.settings.insecure.iter().any(|h| h == name);
        let scheme = if insecure || is_loopback(name) {
            self.scheme(name, insecure).await?
        } else {
            "https"
        };
        Ok(Home {
            base: base_url(scheme, name)?,
            name: name.to_owned(),
            insecure,
        })
    }

    /// Finds out whether a host that may do without TLS does. Nothing secret is sent meanwhile.
    ///
    /// A server on loopback is asked in plain HTTP first, since nearly all of them want that and a TLS greeting
    /// makes some of them wait for the end of a line. Others are asked with TLS first.
    async fn scheme(&self, name: &str, insecure: bool) -> Result<&'static str, Failure> {
        let mut schemes = self.schemes.lock().await;
        if let Some(scheme) = schemes.get(name) {
            return Ok(scheme);
        }
        let first = if is_loopback(name) { "http" } else { "https" };
        let second = if first == "http" { "https" } else { "http" };
        // An untrusted certificate says more than that plain HTTP does not work either.
        let weight = |error: &Error| match error {
            Error::Unreachable { connected, .. } => u8::from(*connected),
            Error::TooSlow { .. } => 1,
            _ => 2,
        };
        let telling = |one: Error, two: Error| {
            if weight(&two) > weight(&one) {
                two
            } else {
                one
            }
        };
        let race = async {
            let one = self.speaks(first, name, insecure);
            let two = self.speaks(second, name, insecure);
            tokio::pin!(one, two);
            match tokio::time::timeout(HEAD_START, &mut one).await {
                Ok(Ok(())) => return Ok(first),
                Ok(Err(error)) => return two.await.map(|()| second).map_err(|e| telling(error, e)),
                Err(_elapsed) => {}
            }
            tokio::select! {
                result = &mut one => match result {
                    Ok(()) => Ok(first),
                    Err(error) => two.await.map(|()| second).map_err(|e| telling(error, e)),
                },
                result = &mut two => match result {
                    Ok(()) => Ok(second),
                    Err(error) => one.await.map(|()| first).map_err(|e| telling(e, error)),
                },
            }
        };
        match race.await {
            Ok(scheme) => {
                schemes.insert(name.to_owned(), scheme);
                Ok(scheme)
            }
            Err(error) => Err(Failure {
                transient: matches!(error, Error::Unreachable { .. } | Error::TooSlow { .. }),
                error,
                retry_after: None,
            }),
        }
    }

    async fn speaks(&self, scheme: &str, name: &str, insecure: bool) -> Result<(), Error> {
        let mut url = base_url(scheme, name)?;
        url.set_path("/v2/");
        let home = Home {
            base: url.clone(),
            name: name.to_owned(),
            insecure,
        };
        let request = Request {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            home,
            limit: self.settings.timeouts.connect,
            follow: Follow::Never,
            meter: None,
        };
        let mut answer = self
            .send_once(&request, &request.url, None)
            .await
            .map_err(|f| f.error)?;
        // A TLS server that is spoken to in plain HTTP answers so, if it answers at all.
        if scheme == "http" && answer.status() == StatusCode::BAD_REQUEST {
            let body = answer.text().await.to_ascii_lowercase();
            if body.contains("https") || body.contains("tls") || body.contains("ssl") {
                return Err(unreachable(name, "it wants TLS", false));
            }
        }
        Ok(())
    }

    /// Sends a request and follows redirects.
    pub(super) async fn send(
        &self,
        request: &Request,
        body: &mut MakeBody<'_>,
    ) -> Result<Answer, Failure> {
        let mut url = request.url.clone();
        let mut n_redirects = 0;
        loop {
            let answer = self.send_once(request, &url, body()?).await?;
            let is_redirect = match answer.status().as_u16() {
                // Only these two say that the method and the body stay.
                307 | 308 => true,
                301..=303 => matches!(request.method, Method::GET | Method::HEAD),
                _ => false,
            };
            let Some(target) = answer
                .header(LOCATION.as_str())
                .filter(|_| is_redirect && request.follow != Follow::Never)
            else {
                self.pass_on_remarks(&answer);
                return Ok(answer);
            };
            let error = |reason| Error::Redirect {
                host: answer.host.clone(),
                target: redacted_text(target),
                reason,
            };
            let next = location::resolve(&url, target)
                .ok_or_else(|| error("that is not the address of an HTTP server"))?;
            n_redirects += 1;
            if n_redirects > MAX_REDIRECTS {
                return Err(error("there are too many redirects").into());
            }
            if request.follow == Follow::Guarded
                && let Some(reason) = forbidden(&request.home, &url, &next)
            {
                return Err(error(reason).into());
            }
            url = next;
        }
    }

    async fn send_once(
        &self,
        request: &Request,
        url: &Url,
        body: Option<reqwest::Body>,
    ) -> Result<Answer, Failure> {
        let is_home = request.home.is_at(url);
        let name = if is_home {
            request.home.name.clone()
        } else {
            host_and_port(url)
        };
        let client =
            self.clients
                .get(&self.settings, url, &name, is_home && request.home.insecure)?;
        let mut builder = client
            .request(request.method.clone(), url.clone())
            .headers(request.headers.clone());
        if let Some(authorization) = request.authorization.as_ref().filter(|_| is_home) {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(body) = body {
            builder = builder.body(body);
        }
        let sent = match &request.meter {
            Some(meter) => meter.watch(&self.settings.timeouts, builder.send()).await,
            None => tokio::time::timeout(request.limit, builder.send())
                .await
                .map_err(|_elapsed| request.limit),
        };
        match sent {
            Ok(Ok(response)) => Ok(Answer {
                response,
                host: name,
                idle: self.settings.timeouts.idle,
                pace: Pace::default(),
                secrets: request
                    .authorization
                    .as_ref()
                    .map_or_else(Vec::new, secrets_of),
            }),
            Ok(Err(error)) => Err(failure(&name, &error)),
            Err(limit) => Err(Failure::transient(Error::TooSlow {
                host: name,
                what: printable(&format!("{} {}", request.method, url.path()), 200),
                n_bytes: 0,
                time: limit,
            })),
        }
    }

    /// `Warning: 299 - "…"`: what a registry wants people to read. Each is passed on once.
    fn pass_on_remarks(&self, answer: &Answer) {
        let Some(Warn(warn)) = &self.settings.warn else {
            return;
        };
        for value in answer.response.headers().get_all(WARNING) {
            let text = String::from_utf8_lossy(value.as_bytes());
            let Some(remark) = text.strip_prefix("299 ") else {
                continue;
            };
            let remark = remark.split_once('"').map_or(remark, |(_, quoted)| {
                quoted.rsplit_once('"').map_or(quoted, |(inner, _)| inner)
            });
            let line = format!("{} says: {}", answer.host, printable(remark, 500));
            let mut remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
            if remarks.len() < 20 && remarks.insert(line.clone()) {
                warn(&line);
            }
        }
    }
}

fn base_url(scheme: &str, name: &str) -> Result<Url, Error> {
    Url::parse(&format!("{scheme}://{name}/")).map_err(|e| Error::Setting {
        what: "registry",
        value: name.to_owned(),
        reason: e.to_string(),
    })
}

/// Why a redirect is not followed.
pub(super) fn forbidden(home: &Home, from: &Url, to: &Url) -> Option<&'static str> {
    let is_loopback_url = |url: &Url| is_loopback(url.host_str().unwrap_or_default());
    if from.scheme() == "https"
        && to.scheme() == "http"
        && !home.insecure
        && !is_loopback_url(&home.base)
    {
        return Some("that would give up TLS");
    }
    let own = home.base.host_str().unwrap_or_default();
    let other = to.host_str().unwrap_or_default();
    // Private networks are left alone: many companies keep their blob stores there.
    if own != other && !is_loopback(own) && (is_loopback(other) || is_link_local(other)) {
        return Some("a server elsewhere has no business with this machine's own services");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_that_give_up_safety_are_refused() {
        let url = |text: &str| Url::parse(text).expect(text);
        let home = |text: &str, insecure| Home::of(&url(text), insecure);
        for (base, insecure, to, allowed) in [
            ("https://r.io/", false, "https://cdn.io/x", true),
            ("https://r.io/", false, "http://cdn.io/x", false),
            ("https://r.io/", true, "http://cdn.io/x", true),
            ("https://r.io/", false, "https://10.0.0.7/x", true),
            ("https://r.io/", false, "https://127.0.0.1/x", false),
            ("https://r.io/", false, "https://169.254.169.254/x", false),
            ("https://r.io/", false, "https://[fe80::1]/x", false),
            (
                "http://127.0.0.1:5000/",
                false,
                "http://127.0.0.1:5001/x",
                true,
            ),
        ] {
            let refused = forbidden(&home(base, insecure), &url(base), &url(to));
            assert_eq!(refused.is_none(), allowed, "{base} → {to}: {refused:?}");
        }
    }
}
