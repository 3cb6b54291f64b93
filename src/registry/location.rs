//! `Location` and range headers, in all the forms that registries write them.

use reqwest::Url;

/// Where a `Location` points, seen from the URL whose answer had it. The query is kept to the byte: it holds the
/// server's own state. `None` when it is no HTTP URL.
pub(super) fn resolve(base: &Url, location: &str) -> Option<Url> {
    let location = location.trim();
    // Some proxies leave out the scheme: `registry.example/v2/…`. A path must begin with a slash to be one.
    let host = base.host_str().unwrap_or_default();
    let begins_with_host = location
        .strip_prefix(host)
        .is_some_and(|rest| rest.starts_with([':', '/']));
    let text = if !host.is_empty() && begins_with_host {
        format!("//{location}")
    } else {
        location.to_owned()
    };
    let mut url = base.join(&text).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return None;
    }
    // A proxy that ends TLS often does not tell the registry behind it.
    let is_downgrade = base.scheme() == "https" && url.scheme() == "http";
    let same_port = url.port().is_none() || url.port() == base.port();
    if is_downgrade && url.host() == base.host() && same_port {
        url.set_scheme("https").ok()?;
        // Port 80 was implied before and port 443 is now; an explicit port stays.
    }
    url.set_fragment(None);
    Some(url)
}

/// The URL with `digest=…` added to its query, the rest of which is kept to the byte.
pub(super) fn with_digest(url: &Url, digest: &str) -> Url {
    let mut url = url.clone();
    let query = match url.query() {
        None | Some("") => format!("digest={digest}"),
        Some(query) => format!("{query}&digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

/// How many bytes an upload has received, from its `Range: 0-N`. `None` when the header makes no sense.
pub(super) fn received(range: &str) -> Option<u64> {
    let range = range.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    if first.trim().parse::<u64>().ok()? != 0 {
        return None;
    }
    let last: u64 = last.trim().parse().ok()?;
    // `0-0` says "nothing" from most registries and "one byte" by the letter; sending that byte again is refused
    // by none, while skipping it would spoil the blob.
    if last == 0 {
        Some(0)
    } else {
        last.checked_add(1)
    }
}

/// The first byte and the whole size in a `Content-Range: bytes FIRST-LAST/SIZE`; the size may be unknown.
pub(super) fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    (first <= last && size.is_none_or(|size| last < size)).then_some((first, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        for (base, location, want) in [
            (
                "https://r.io/v2/a/blobs/uploads/",
                "/v2/a/blobs/uploads/1?_state=a%2Bb==&x=%7e",
                "https://r.io/v2/a/blobs/uploads/1?_state=a%2Bb==&x=%7e",
            ),
            (
                "https://r.io/v2/a/blobs/uploads/",
                "https://cdn.io/u/1",
                "https://cdn.io/u/1",
            ),
            (
                "https://r.io/v2/a/blobs/uploads/",
                "1234?s=1",
                "https://r.io/v2/a/blobs/uploads/1234?s=1",
            ),
            (
                "https://r.io/v2/a/blobs/uploads/",
                "//other.io/u",
                "https://other.io/u",
            ),
            (
                "https://r.io/v2/a/blobs/uploads/",
                "r.io/v2/u?x",
                "https://r.io/v2/u?x",
            ),
            (
                "https://r.io:8443/v2/a",
                "r.io:8443/v2/u",
                "https://r.io:8443/v2/u",
            ),
            ("https://r.io/v2/a", "http://r.io/v2/u", "https://r.io/v2/u"),
            (
                "https://r.io:8443/v2/a",
                "http://r.io:8443/v2/u",
                "https://r.io:8443/v2/u",
            ),
            (
                "https://r.io/v2/a",
                "http://other.io/v2/u",
                "http://other.io/v2/u",
            ),
            (
                "http://[::1]:5000/v2/a",
                "/v2/u#frag",
                "http://[::1]:5000/v2/u",
            ),
        ] {
            let base = Url::parse(base).expect(base);
            assert_eq!(
                resolve(&base, location).map(String::from).as_deref(),
                Some(want),
                "{location}"
            );
        }
        let base = Url::parse("https://r.io/").expect("valid");
        for location in ["ftp://r.io/x", "data:x", "http://"] {
            assert_eq!(resolve(&base, location), None, "{location}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics_and_no_scheme_is_smuggled_in(text in "\\PC{0,30}|(https?:)?//[a-z.:0-9@\\[\\]/?#]{0,20}|bytes [0-9*/-]{0,20}") {
            let base = Url::parse("https://r.io:8443/v2/a/").expect("valid");
            if let Some(url) = resolve(&base, &text) {
                proptest::prop_assert!(matches!(url.scheme(), "http" | "https"));
                with_digest(&url, "sha256:1");
            }
            received(&text);
            content_range(&text);
        }
    }

    #[test]
    fn the_digest_is_added_without_touching_the_rest() {
        for (url, want) in [
            ("https://r.io/u", "https://r.io/u?digest=sha256:1"),
            ("https://r.io/u?", "https://r.io/u?digest=sha256:1"),
            (
                "https://r.io/u?_state=a%2Bb==",
                "https://r.io/u?_state=a%2Bb==&digest=sha256:1",
            ),
        ] {
            let url = Url::parse(url).expect(url);
            assert_eq!(with_digest(&url, "sha256:1").as_str(), want);
        }
    }

    #[test]
    fn ranges_are_read() {
        for (text, want) in [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-", None),
            ("0-18446744073709551615", None),
            ("", None),
        ] {
            assert_eq!(received(text), want, "{text}");
        }
        for (text, want) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("items 0-1/2", None),
        ] {
            assert_eq!(content_range(text), want, "{text}");
        }
    }
}
