//! Values that must not be seen: secrets, and URLs that may carry some.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Url, header::HeaderValue};

/// A password or token. `Debug` prints stars; nothing prints the value but [`Secret::expose`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends or stores it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What an `Authorization` header holds that must not be seen: a token, or a password and the form in which it is sent.
pub(super) fn secrets_of(authorization: &HeaderValue) -> Vec<Secret> {
    let text = authorization.to_str().unwrap_or_default();
    let Some((scheme, value)) = text.split_once(' ') else {
        return vec![Secret::new(text)];
    };
    let mut secrets = vec![Secret::new(value)];
    if scheme.eq_ignore_ascii_case("basic")
        && let Ok(pair) = STANDARD.decode(value)
        && let Some((_user, password)) = String::from_utf8_lossy(&pair).split_once(':')
    {
        secrets.push(Secret::new(password));
    }
    secrets
}

/// A text of the server that was told the secrets, with stars where it repeats one.
pub(super) fn without(text: &str, secrets: &[Secret]) -> String {
    let secrets = secrets.iter().map(Secret::expose);
    secrets
        .filter(|secret| !secret.is_empty())
        .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

/// Query parameters of the registry protocol, whose values are no secrets.
const PLAIN_PARAMETERS: [&str; 8] = [
    "digest", "mount", "from", "scope", "service", "account", "n", "last",
];

/// The text of a URL that may be shown: without user, password and fragment, and with the values of all
/// parameters but the registry protocol's own replaced by `…`, since blob stores sign their URLs there.
pub fn redacted(url: &Url) -> String {
    let mut text = url.origin().ascii_serialization();
    if text == "null" {
        text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    }
    text.push_str(url.path());
    for (i, (name, value)) in url.query_pairs().enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.push_str(&name);
        text.push('=');
        if PLAIN_PARAMETERS.contains(&name.as_ref()) {
            text.push_str(&value);
        } else {
            text.push('…');
        }
    }
    text
}

/// [`redacted`] for a text that may be no URL: then only what stands before `?`, `#` and behind `@` is kept.
pub fn redacted_text(text: &str) -> String {
    if let Ok(url) = Url::parse(text)
        && url.has_host()
    {
        return redacted(&url);
    }
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let text = text.rsplit('@').next().unwrap_or_default();
    printable(text, 200)
}

/// What a remote said, made fit for one line of a terminal: no control characters, at most `limit` characters.
pub fn printable(text: &str, limit: usize) -> String {
    let mut clean: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(limit)
        .collect();
    if text.trim().chars().count() > limit {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_holds_is_not_shown() {
        let shown = |header: &str, text: &str| {
            let header = HeaderValue::from_str(header).expect(header);
            without(text, &secrets_of(&header))
        };
        // me:pa:ss
        assert_eq!(
            shown("Basic bWU6cGE6c3M=", "pa:ss of me is bWU6cGE6c3M=, pa:ss"),
            "*** of me is ***, ***"
        );
        assert_eq!(shown("Basic bWU6", "me has none"), "me has none");
        assert_eq!(shown("Bearer abc", "no abc here"), "no *** here");
        assert_eq!(shown("abc", "no abc here"), "no *** here");
    }

    #[test]
    fn secrets_and_signatures_do_not_show() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
        for (url, shown) in [
            (
                "https://user:pw@r.io/v2/a/blobs/uploads/u?_state=abc&digest=sha256:1#frag",
                "https://r.io/v2/a/blobs/uploads/u?_state=…&digest=sha256:1",
            ),
            (
                "https://s3.example/b?X-Amz-Signature=00&X-Amz-Credential=k",
                "https://s3.example/b?X-Amz-Signature=…&X-Amz-Credential=…",
            ),
            ("http://[::1]:5000/v2/", "http://[::1]:5000/v2/"),
        ] {
            assert_eq!(redacted(&Url::parse(url).expect(url)), shown);
            assert_eq!(redacted_text(url), shown);
        }
        assert_eq!(redacted_text("me:pw@host/x?sig=1"), "host/x");
        assert_eq!(printable("a\u{1b}[31mb\nc", 100), "a [31mb c");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
