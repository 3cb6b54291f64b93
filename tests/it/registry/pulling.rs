//! Pulls from a registry that lies, redirects and breaks off.

use std::sync::{Arc, Mutex};

use rbuild::{
    oci::{Index, MediaType, Platform, sha256, to_json},
    reference::Reference,
    registry::{Client, Content, Exchange, Settings, parse_registries_conf, settings::Warn},
};

use super::{client, is_blob_get, noise, pull, push, put_image, quick, reference};
use crate::support::{FakeRegistry, Fault};

#[test]
fn a_tag_is_resolved_by_one_head_and_stays_what_it_was() {
    let fake = FakeRegistry::start();
    let image = reference(&fake.host(), "a/b:1");
    let first = put_image(&fake, "a/b", "1", "linux/amd64");
    let client = client();
    let resolved = client.resolve(&image).expect("resolves");
    assert_eq!((resolved.digest, resolved.size), (first.digest, first.size));
    assert_eq!(fake.lines(), ["HEAD /v2/a/b/manifests/1"]);
    put_image(&fake, "a/b", "1", "linux/arm64");
    assert_eq!(client.resolve(&image).expect("known"), resolved);
    let document = client.manifest(&image).expect("still there by digest");
    assert_eq!(document.descriptor.digest, first.digest);
    assert_eq!(fake.lines().len(), 2);
}

#[test]
fn registries_without_head_or_digest_header_are_understood() {
    for fault in [
        Fault::Answer(405, vec![], vec![]),
        Fault::Answer(404, vec![], vec![]),
        Fault::Headers(vec![("Docker-Content-Digest", String::new())]),
        Fault::Headers(vec![("Content-Type", "text/plain".to_owned())]),
    ] {
        let fake = FakeRegistry::start();
        let want = put_image(&fake, "a", "1", "linux/amd64");
        let shown = format!("{fault:?}");
        fake.faults(move |r, _| (r.method == "HEAD").then(|| fault.clone()));
        let resolved = client()
            .resolve(&reference(&fake.host(), "a:1"))
            .expect(&shown);
        assert_eq!(resolved.digest, want.digest, "{shown}");
        assert_eq!(resolved.media_type, MediaType::OCI_MANIFEST, "{shown}");
    }
}

#[test]
fn an_index_gives_the_platform_or_says_what_there_is() {
    let fake = FakeRegistry::start();
    let mut manifests = vec![
        put_image(&fake, "a", "x", "linux/amd64"),
        put_image(&fake, "a", "y", "linux/arm/v6"),
        put_image(&fake, "a", "z", "linux/arm/v7"),
    ];
    let mut attestation = put_image(&fake, "a", "w", "linux/s390x");
    attestation.platform = Some(Platform {
        os: "unknown".to_owned(),
        architecture: "unknown".to_owned(),
        ..Platform::default()
    });
    manifests.push(attestation);
    let index = to_json(&Index::new(manifests));
    fake.put_manifest("a", "1", &MediaType::OCI_INDEX, &index);
    let image = reference(&fake.host(), "a:1");
    let client = client();
    let get = |platform: &str| client.image(&image, &platform.parse().expect("a platform"));
    let amd64 = get("linux/amd64").expect("it has that");
    assert_eq!(amd64.config.platform.architecture, "amd64");
    assert_eq!(amd64.index.expect("an index lists it").bytes, index);
    assert_eq!(
        get("linux/arm/v7")
            .expect("it has that")
            .config
            .platform
            .architecture,
        "arm"
    );
    assert_eq!(
        get("linux/arm/v6").expect("it has that").manifest.layers[0].size,
        "linux/arm/v6".len() as u64
    );
    let error = get("linux/s390x").expect_err("it has not").to_string();
    assert_eq!(
        error,
        format!(
            "{image} has no image for linux/s390x; it has linux/amd64, linux/arm/v6, linux/arm/v7"
        )
    );
}

#[test]
fn lies_about_manifests_are_named() {
    let manifest =
        |client: &Client, image: &Reference| client.manifest(image).expect_err("a lie").to_string();
    for (fault, want) in [
        (Fault::Body(b"{}".to_vec()), "instead of sha256:"),
        (
            Fault::Headers(vec![("Content-Type", MediaType::OCI_INDEX.to_string())]),
            "but it says",
        ),
        (Fault::Headers(vec![("Content-Length", "99999999".to_owned())]), "more than 4194304 bytes"),
        (
            Fault::Answer(200, vec![], br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec()),
            "obsolete schema 1",
        ),
        (
            Fault::Answer(200, vec![], br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#.to_vec()),
            "neither clearly a manifest nor clearly an index",
        ),
        (Fault::Answer(200, vec![], b"<html>log in</html>".to_vec()), "not the JSON of a manifest"),
        (
            Fault::Answer(
                200,
                vec![("Content-Type", MediaType::OCI_MANIFEST.to_string())],
                br#"{"schemaVersion":2,"layers":[{"digest":"md5:1","size":-1,"mediaType":"x"}],"config":{}}"#.to_vec(),
            ),
            "malformed",
        ),
        (Fault::CutAnswer(10), "cannot be reached"),
    ] {
        let fake = FakeRegistry::start();
        put_image(&fake, "a", "1", "linux/amd64");
        let shown = format!("{fault:?}");
        fake.faults(move |r, _| r.target.contains("/manifests/").then(|| fault.clone()));
        let message = manifest(&client(), &reference(&fake.host(), "a:1"));
        assert!(message.contains(want), "{shown}: {message}");
        assert!(message.contains(&fake.host()), "{message}");
    }
}

#[test]
fn lies_about_blobs_are_named_and_never_more_is_written_than_declared() {
    let bytes = noise(100_000);
    let mut longer = bytes.clone();
    longer.extend_from_slice(&bytes);
    let mut other = bytes.clone();
    other[5] ^= 1;
    for (fault, want) in [
        (Fault::Body(other), "instead of sha256:"),
        (Fault::Body(longer.clone()), "served 200000 bytes"),
        (Fault::Body(b"short".to_vec()), "served 5 bytes"),
        (Fault::CutAnswer(100), "cannot be reached"),
        (Fault::Answer(404, vec![], vec![]), "not found"),
        (
            Fault::Answer(301, vec![("Location", "ftp://x/".to_owned())], vec![]),
            "not the address of an HTTP server",
        ),
        (
            Fault::Answer(
                403,
                vec![],
                br#"{"errors":[{"code":"DENIED","message":"no"}]}"#.to_vec(),
            ),
            "DENIED: no",
        ),
    ] {
        let fake = FakeRegistry::start();
        let descriptor = fake.put_blob("a", &bytes);
        let shown = format!("{fault:?}").chars().take(60).collect::<String>();
        // Only the first piece arrives, and every further attempt brings nothing.
        fake.faults(move |r, n| {
            is_blob_get(r).then(|| match (&fault, n) {
                (Fault::CutAnswer(_), 1..) => Fault::CutAnswer(0),
                _ => fault.clone(),
            })
        });
        let mut sink = Vec::new();
        let error = client()
            .blob(&reference(&fake.host(), "a:1"), &descriptor, &mut sink)
            .expect_err(&shown);
        assert!(error.to_string().contains(want), "{shown}: {error}");
        assert!(error.to_string().contains(&fake.host()), "{error}");
        assert!(sink.len() <= bytes.len(), "{shown}");
    }
}

#[test]
fn endless_redirects_end() {
    let fake = FakeRegistry::start();
    let descriptor = fake.put_blob("a", b"x");
    fake.faults(|r, _| {
        is_blob_get(r).then(|| Fault::Answer(307, vec![("Location", r.target.clone())], vec![]))
    });
    let error = pull(&client(), &reference(&fake.host(), "a"), &descriptor).expect_err("endless");
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[test]
fn broken_downloads_go_on_where_they_broke() {
    let bytes = noise(300_000);
    for keeps_ranges in [true, false] {
        let fake = FakeRegistry::start();
        let descriptor = fake.put_blob("a", &bytes);
        fake.faults(move |r, n| {
            if !is_blob_get(r) {
                return None;
            }
            match n {
                0 => Some(Fault::CutAnswer(100_000)),
                1 => Some(Fault::Answer(
                    503,
                    vec![("Retry-After", "0".to_owned())],
                    vec![],
                )),
                2 => Some(Fault::Drop),
                _ if keeps_ranges => None,
                _ => Some(Fault::NoRanges),
            }
        });
        let got = pull(&client(), &reference(&fake.host(), "a"), &descriptor).expect("in the end");
        assert!(got == bytes);
        let ranges: Vec<String> = fake
            .log()
            .iter()
            .filter(|r| is_blob_get(r))
            .map(|r| r.header("range").to_owned())
            .collect();
        assert_eq!(
            ranges,
            ["", "bytes=100000-", "bytes=100000-", "bytes=100000-"]
        );
    }
}

#[test]
fn a_download_that_always_gets_on_is_never_given_up() {
    let bytes = noise(12 << 20);
    let fake = FakeRegistry::start();
    let descriptor = fake.put_blob("a", &bytes);
    fake.faults(|r, _| is_blob_get(r).then_some(Fault::CutAnswer(1_200_000)));
    let got = pull(&client(), &reference(&fake.host(), "a"), &descriptor).expect("in the end");
    assert!(got == bytes);
}

#[test]
fn mirrors_are_asked_first_and_passed_over_when_they_fail() {
    let (origin, mirror, liar) = (
        FakeRegistry::start(),
        FakeRegistry::start(),
        FakeRegistry::start(),
    );
    let want = put_image(&origin, "lib/a", "1", "linux/amd64");
    let conf = format!(
        "[[registry]]\nprefix = 'quay.io'\nlocation = '{}/lib'\n\
         [[registry.mirror]]\nlocation = '{}'\ninsecure = true\n\
         [[registry.mirror]]\nlocation = '{}/lib'\n",
        origin.host(),
        mirror.host(),
        liar.host()
    );
    liar.faults(|_, _| Some(Fault::Answer(200, vec![], b"{}".to_vec())));
    let remarks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&remarks);
    let client = Client::new(Settings {
        registries: parse_registries_conf(&conf).expect("valid"),
        warn: Some(Warn(Arc::new(move |text: &str| {
            seen.lock().expect("no panic").push(text.to_owned());
        }))),
        ..quick()
    })
    .expect("client");
    let image = Reference::parse("quay.io/a:1").expect("valid");
    let got = client
        .image(&image, &Platform::host())
        .expect("from the origin");
    assert_eq!(got.document.descriptor.digest, want.digest);
    assert!(mirror.lines().iter().any(|l| l == "GET /v2/a/manifests/1"));
    let told = remarks.lock().expect("no panic").join("\n");
    assert!(
        told.contains("mirror skipped") && told.contains(&liar.host()),
        "{told}"
    );
    // A push goes to the registry itself, which is not reached from here.
    let requests = origin.lines().len();
    assert!(push(&client, &image, b"x", &[]).is_err());
    assert_eq!(origin.lines().len(), requests);
}

#[test]
fn blocked_registries_are_not_contacted() {
    let fake = FakeRegistry::start();
    let conf = format!("[[registry]]\nlocation = '{}'\nblocked = true", fake.host());
    let client = Client::new(Settings {
        registries: parse_registries_conf(&conf).expect("valid"),
        ..quick()
    })
    .expect("client");
    let image = reference(&fake.host(), "a:1");
    let error = client.resolve(&image).expect_err("blocked").to_string();
    assert!(error.contains("is blocked by the entry"), "{error}");
    assert!(push(&client, &image, b"x", &[]).is_err());
    assert!(fake.log().is_empty());
}

#[test]
fn loopback_works_over_ipv6_too() {
    let Ok(fake) = FakeRegistry::start_at("[::1]:0") else {
        #[expect(clippy::print_stderr, reason = "a skipped test says why")]
        {
            eprintln!("skipped: there is no IPv6 loopback");
        }
        return;
    };
    let image = reference(&fake.host(), "a:1");
    assert!(image.registry().starts_with("[::1]:"));
    put_image(&fake, "a", "1", "linux/amd64");
    client().image(&image, &Platform::host()).expect("works");
    assert!(fake.log().iter().all(|r| r.header("host") == fake.host()));
}

#[test]
fn files_are_fetched_with_redirects_resumption_and_conditions() {
    use rbuild::registry::http::Get;
    let fake = FakeRegistry::start();
    let bytes = noise(200_000);
    let (first, rest) = (bytes[..100_000].to_vec(), bytes[100_000..].to_vec());
    fake.faults(move |r, n| {
        let etag = ("ETag", "\"v1\"".to_owned());
        Some(match (r.target.as_str(), n) {
            ("/moved", _) => Fault::Answer(
                302,
                vec![("Location", "/dir/file.txt?sig=secret".to_owned())],
                vec![],
            ),
            (_, 0) if r.header("if-none-match") == "\"v1\"" => {
                Fault::Answer(304, vec![etag], vec![])
            }
            (_, 0) => Fault::Answer(
                200,
                vec![
                    etag,
                    ("Content-Length", "200000".to_owned()),
                    ("Connection", "close".to_owned()),
                ],
                first.clone(),
            ),
            _ if r.header("range") == "bytes=100000-" && r.header("if-range") == "\"v1\"" => {
                Fault::Answer(
                    206,
                    vec![
                        etag,
                        ("Content-Range", "bytes 100000-199999/200000".to_owned()),
                    ],
                    rest.clone(),
                )
            }
            _ => Fault::Answer(404, vec![], b"gone".to_vec()),
        })
    });
    let get = |path: &str| Get {
        url: format!("http://{}{path}", fake.host()),
        ..Get::default()
    };
    // The server closes after the first half of what it promised.
    let mut sink = Vec::new();
    let download = client()
        .download(&get("/moved"), &mut sink)
        .expect("in two parts");
    assert!(sink == bytes);
    assert_eq!((download.size, download.digest), (200_000, sha256(&bytes)));
    assert_eq!(download.etag.as_deref(), Some("\"v1\""));
    assert_eq!(download.path, "/dir/file.txt");
    assert!(!download.url.contains("secret"), "{}", download.url);

    let mut sink = Vec::new();
    let known = Get {
        etag: Some("\"v1\"".to_owned()),
        ..get("/again")
    };
    let download = client().download(&known, &mut sink).expect("unchanged");
    assert!(download.is_unchanged && sink.is_empty());

    fake.faults(|_, _| Some(Fault::Answer(404, vec![], vec![])));
    let error = client()
        .download(&get("/x?sig=secret"), &mut Vec::new())
        .expect_err("gone")
        .to_string();
    assert!(
        error.contains("not found") && error.contains(&fake.host()) && !error.contains("secret"),
        "{error}"
    );
    let bad = Get {
        url: "file:///etc/passwd".to_owned(),
        ..Get::default()
    };
    assert!(client().download(&bad, &mut Vec::new()).is_err());
}

#[test]
fn localhost_is_found_by_name() {
    let fake = FakeRegistry::start();
    let port = fake.host().rsplit(':').next().expect("a port").to_owned();
    put_image(&fake, "a", "1", "linux/amd64");
    let image = reference(&format!("localhost:{port}"), "a:1");
    client().image(&image, &Platform::host()).expect("works");
}

#[test]
fn what_a_registry_wants_people_to_read_is_passed_on_once() {
    let fake = FakeRegistry::start();
    put_image(&fake, "a", "1", "linux/amd64");
    fake.faults(|r, _| {
        (r.target != "/v2/").then(|| {
            let text = "299 - \"this registry moves on Friday\"".to_owned();
            Fault::Headers(vec![("Warning", text)])
        })
    });
    let remarks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&remarks);
    let client = Client::new(Settings {
        warn: Some(Warn(Arc::new(move |text: &str| {
            seen.lock().expect("no panic").push(text.to_owned());
        }))),
        ..quick()
    })
    .expect("client");
    client
        .image(&reference(&fake.host(), "a:1"), &Platform::host())
        .expect("works");
    let told = remarks.lock().expect("no panic").clone();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn what_head_tells_of_a_length_is_no_body() {
    let fake = FakeRegistry::start();
    let blob = fake.put_blob("a", b"some bytes");
    let url = format!("http://{}/v2/a/blobs/{}", fake.host(), blob.digest);
    let request = Exchange {
        method: "HEAD",
        url: &url,
        headers: &[],
        body: Content::Nothing,
        limit: 0,
    };
    let reply = client()
        .exchange(&request, &[200, 404])
        .expect("it is there");
    assert_eq!((reply.status, reply.bytes.len()), (200, 0));
}
