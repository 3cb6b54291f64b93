//! One request and its answer: scheme, redirects, time limits, and what a failure means.
//!
//! Invariants: `Authorization` goes to the server it was made for and to no other, whatever redirects say;
//! nothing goes over plain HTTP unless the registry is on loopback or configured as insecure; the body of an
//! answer is read piece by piece and never without a limit.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WARNING},
};

use super::{
    body::Meter,
    error::{Error, Failure},
    location,
    mirrors::Endpoint,
    redact::{printable, redacted, redacted_text},
    retry,
    settings::{Settings, Warn},
    tls::Clients,
};

pub(super) use super::tls::host_and_port;

/// How many redirects are followed; browsers and Docker draw the line here too.
const MAX_REDIRECTS: usize = 10;
/// How much of an error's body is read.
const MAX_ERROR_BYTES: u64 = 64 << 10;
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
pub(super) type MakeBody<'a> = dyn FnMut() -> Result<Option<reqwest::Body>, Failure> + 'a;

/// An answer whose body has not been read.
#[derive(Debug)]
pub(super) struct Answer {
    response: reqwest::Response,
    /// The server that gave it, after redirects.
    pub(super) host: String,
    idle: Duration,
}

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
                transient: matches!(error, Error::Unreachable { .. }),
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
            }),
            Ok(Err(error)) => Err(failure(&name, &error)),
            Err(limit) => Err(Failure::transient(no_answer(&name, limit))),
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

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Where it came from, after redirects.
    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    /// A header's text; `None` when it is missing or not plain text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The `Content-Length`.
    pub(super) fn declared_len(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, Failure> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(failure(&self.host, &error)),
            Err(_elapsed) => Err(Failure::transient(no_answer(&self.host, self.idle))),
        }
    }

    /// The whole body; more than `limit` bytes are an error.
    pub(super) async fn bytes(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_large = |host: &str| Error::TooLarge {
            host: host.to_owned(),
            what: what.to_owned(),
            limit,
        };
        if self.declared_len().is_some_and(|len| len > limit) {
            return Err(too_large(&self.host).into());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(chunk.as_ref());
            if bytes.len() as u64 > limit {
                return Err(too_large(&self.host).into());
            }
        }
        Ok(bytes)
    }

    /// What there is of the body of an error; nothing when it cannot be read.
    pub(super) async fn text(&mut self) -> String {
        let mut bytes = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        while (bytes.len() as u64) < MAX_ERROR_BYTES && Instant::now() < until {
            match tokio::time::timeout(Duration::from_secs(5), self.chunk()).await {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(chunk.as_ref()),
                _ => break,
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The failure that an unexpected status stands for.
    pub(super) async fn refusal(
        mut self,
        what: &str,
        method: &Method,
        credentials: &str,
    ) -> Failure {
        let status = self.status();
        let retry_after = retry::retry_after(self.headers());
        let remaining = self.header("ratelimit-remaining").map(|r| printable(r, 40));
        let url = redacted(self.url());
        let body = self.text().await;
        let (code, mut message) = explain(&body);
        let host = self.host;
        let error = match status.as_u16() {
            401 | 403 => Error::Unauthorized {
                host,
                what: what.to_owned(),
                status: status.as_u16(),
                credentials: credentials.to_owned(),
                message,
            },
            404 => Error::NotFound {
                host,
                what: what.to_owned(),
                message,
            },
            429 => {
                if let Some(remaining) = remaining {
                    message = format!("{message} (remaining: {remaining})");
                }
                Error::RateLimited {
                    host,
                    credentials: credentials.to_owned(),
                    retry_after,
                    message,
                }
            }
            _ => Error::Status {
                host,
                method: method.to_string(),
                url,
                status: status.as_u16(),
                code,
                message,
            },
        };
        Failure {
            error,
            transient: retry::is_transient(status),
            retry_after,
        }
    }
}

/// The code and the words of an error's body: `{"errors": [{"code": …, "message": …}]}`, or whatever text it is.
fn explain(body: &str) -> (String, String) {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
        // Token servers and some proxies.
        #[serde(default)]
        details: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    let Ok(parsed) = serde_json::from_str::<Body>(body) else {
        // An HTML page of a proxy helps nobody but for its title.
        let lower = body.to_ascii_lowercase();
        let title = lower.find("<title>").and_then(|start| {
            let end = lower.get(start..)?.find("</title>")? + start;
            body.get(start + "<title>".len()..end)
        });
        let text = match title {
            Some(title) => title,
            None if lower.trim_start().starts_with('<') => "",
            None => body,
        };
        return (String::new(), printable(text, 300));
    };
    let code = parsed
        .errors
        .iter()
        .find_map(|e| e.code.clone())
        .unwrap_or_default();
    let mut texts: Vec<String> = parsed
        .errors
        .into_iter()
        .map(|e| match (e.code, e.message) {
            (Some(code), Some(message)) if !message.is_empty() => format!("{code}: {message}"),
            (Some(code), _) => code,
            (None, message) => message.unwrap_or_default(),
        })
        .collect();
    texts.extend(parsed.details.or(parsed.message));
    (printable(&code, 60), printable(&texts.join("; "), 300))
}

fn base_url(scheme: &str, name: &str) -> Result<Url, Error> {
    Url::parse(&format!("{scheme}://{name}/")).map_err(|e| Error::Setting {
        what: "registry",
        value: name.to_owned(),
        reason: e.to_string(),
    })
}

/// Why a redirect is not followed.
fn forbidden(home: &Home, from: &Url, to: &Url) -> Option<&'static str> {
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

/// Whether a `host[:port]` is this machine.
pub(super) fn is_loopback(name: &str) -> bool {
    match address(name) {
        Some(IpAddr::V6(v6)) => {
            v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        Some(address) => address.is_loopback(),
        None => {
            let host = name.split(':').next().unwrap_or_default();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

fn is_link_local(name: &str) -> bool {
    match address(name) {
        Some(IpAddr::V4(v4)) => v4.is_link_local() || v4.is_unspecified(),
        Some(IpAddr::V6(v6)) => v6.is_unicast_link_local() || v6 == Ipv6Addr::UNSPECIFIED,
        None => false,
    }
}

fn address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok();
    }
    name.split(':').next()?.parse().ok()
}

pub(super) fn no_answer(host: &str, limit: Duration) -> Error {
    unreachable(
        host,
        &format!("no answer within {} s", limit.as_secs()),
        true,
    )
}

fn unreachable(host: &str, reason: &str, connected: bool) -> Error {
    Error::Unreachable {
        host: host.to_owned(),
        reason: reason.to_owned(),
        connected,
    }
}

/// What a failure of the HTTP library means.
pub(super) fn failure(host: &str, error: &reqwest::Error) -> Failure {
    let mut io_kind = None;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut is_dns = false;
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return tls_failure(host, tls);
        }
        is_dns |= e.to_string().contains("dns error");
        next = match e.downcast_ref::<std::io::Error>() {
            // What such an error wraps is not its source.
            Some(io) => {
                io_kind = Some(io.kind());
                io.get_ref()
                    .map(|inner| inner as &(dyn std::error::Error + 'static))
            }
            None => e.source(),
        };
    }
    let innermost = cause(error);
    // What the two resolvers say of a name that does not exist, as opposed to a server that does not answer.
    if is_dns && (innermost.contains("no records found") || innermost.contains("not known")) {
        return unreachable(host, "there is no host of that name", false).into();
    }
    let reason = if is_dns {
        format!("its name cannot be looked up ({innermost})")
    } else if error.is_timeout() && error.is_connect() {
        "no connection in time".to_owned()
    } else {
        match io_kind {
            Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            Some(std::io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
            Some(std::io::ErrorKind::UnexpectedEof) => "the connection was closed early".to_owned(),
            _ => innermost,
        }
    };
    if error.is_builder() {
        return Error::Setting {
            what: "request to",
            value: host.to_owned(),
            reason,
        }
        .into();
    }
    Failure::transient(unreachable(host, &reason, !error.is_connect()))
}

fn tls_failure(host: &str, error: &rustls::Error) -> Failure {
    use rustls::{CertificateError, Error as Tls};
    let reason = match error {
        Tls::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not signed by a trusted authority".to_owned()
        }
        Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another name".to_owned(),
        other => other.to_string(),
    };
    Error::Tls {
        host: host.to_owned(),
        reason,
    }
    .into()
}

/// The innermost reason, which never holds a URL.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if innermost.is::<reqwest::Error>() {
        return "the request failed".to_owned();
    }
    printable(&innermost.to_string(), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised() {
        for (name, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("reg.localhost:80", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("127.0.0.1.example", false),
            ("10.0.0.1", false),
            ("[fe80::1]", false),
            ("mylocalhost", false),
        ] {
            assert_eq!(is_loopback(name), want, "{name}");
        }
    }

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

    #[test]
    fn bodies_of_errors_are_explained() {
        for (body, code, message) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no","detail":{}},{"code":"X"}]}"#,
                "DENIED",
                "DENIED: no; X",
            ),
            (
                r#"{"details":"incorrect username or password"}"#,
                "",
                "incorrect username or password",
            ),
            ("plain\ntext", "", "plain text"),
            (
                "<html><head><title>502 Bad Gateway</title>",
                "",
                "502 Bad Gateway",
            ),
            ("<html><body>x", "", ""),
            ("", "", ""),
            ("[1]", "", "[1]"),
        ] {
            assert_eq!(
                explain(body),
                (code.to_owned(), message.to_owned()),
                "{body}"
            );
        }
    }
}
