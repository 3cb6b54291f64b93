//! Pushes to a registry that refuses, forgets and breaks off.

use std::{
    io::Cursor,
    sync::atomic::{AtomicUsize, Ordering},
};

use rbuild::{
    oci::{Descriptor, Manifest, MediaType, sha256, to_json},
    reference::Reference,
    registry::{Client, Error, Pushed, Settings, Upload},
};

use super::{client, noise, push, quick, reference};
use crate::support::{FakeRegistry, Fault, Received};

#[test]
fn blobs_are_skipped_mounted_or_sent() {
    let fake = FakeRegistry::start();
    fake.relative_locations();
    let (base, image) = (
        reference(&fake.host(), "base/x:1"),
        reference(&fake.host(), "app:1"),
    );
    let bytes = noise(50_000);
    let descriptor = fake.put_blob("base/x", &bytes);
    let client = client();
    let elsewhere = Reference::parse("ghcr.io/base/x").expect("valid");
    let mounted = push(
        &client,
        &image,
        &bytes,
        &[elsewhere, image.clone(), base.clone()],
    )
    .expect("mounted");
    assert_eq!(mounted, Pushed::Mounted { from: base.name() });
    let digest = descriptor.digest;
    assert_eq!(
        fake.lines(),
        [
            format!("HEAD /v2/app/blobs/{digest}"),
            format!("POST /v2/app/blobs/uploads/?mount={digest}&from=base/x"),
        ]
    );
    // What was pushed once is known, also to a new client, who asks.
    fake.clear_log();
    assert_eq!(
        push(&client, &image, &bytes, &[]).expect("known"),
        Pushed::Existed
    );
    assert!(fake.lines().is_empty());
    assert_eq!(
        push(&super::client(), &image, &bytes, &[]).expect("asked"),
        Pushed::Existed
    );
    assert_eq!(fake.lines(), [format!("HEAD /v2/app/blobs/{digest}")]);

    // A registry that does not mount begins an upload, which is used.
    fake.clear_log();
    fake.cannot_mount();
    let other = reference(&fake.host(), "other:1");
    assert_eq!(
        push(&client, &other, &bytes, &[base]).expect("sent"),
        Pushed::Uploaded
    );
    let methods: Vec<String> = fake
        .lines()
        .iter()
        .map(|l| l.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(methods, ["HEAD", "POST", "PUT"]);
    assert!(fake.blob("other", digest).expect("there") == bytes);
    assert_eq!(fake.n_uploads(), 0);
}

#[test]
fn a_proxy_that_limits_requests_gets_pieces() {
    let fake = FakeRegistry::start();
    fake.max_body(1 << 20);
    let bytes = noise(3_500_000);
    let image = reference(&fake.host(), "app:1");
    push(&client(), &image, &bytes, &[]).expect("in pieces");
    assert!(fake.blob("app", sha256(&bytes)).expect("there") == bytes);
    let sent: Vec<(String, String)> = fake
        .log()
        .iter()
        .filter(|r| matches!(r.method.as_str(), "PATCH" | "PUT"))
        .map(|r| (r.method.clone(), r.header("content-range").to_owned()))
        .collect();
    let pieces: Vec<(&str, &str)> = sent.iter().map(|(m, r)| (m.as_str(), r.as_str())).collect();
    assert_eq!(
        pieces,
        [
            ("PUT", ""),
            ("PATCH", "0-999999"),
            ("PATCH", "1000000-1999999"),
            ("PATCH", "2000000-2999999"),
            ("PUT", "3000000-3499999"),
        ]
    );
}

#[test]
fn broken_uploads_go_on_or_begin_again() {
    let bytes = noise(3_000_000);
    let digest = sha256(&bytes);
    let is_put = |r: &Received| r.method == "PUT";
    // Goes on where the registry says it stands.
    let fake = FakeRegistry::start();
    let image = reference(&fake.host(), "app:1");
    fake.faults(move |r, _| {
        let is_first = is_put(r) && r.target.contains("_state=a%2Bb0==");
        is_first.then_some(Fault::CutRequest(1_000_000))
    });
    push(&client(), &image, &bytes, &[]).expect("in the end");
    let log = fake.log();
    let ranges: Vec<&str> = log
        .iter()
        .filter(|r| is_put(r))
        .map(|r| r.header("content-range"))
        .collect();
    assert_eq!(ranges, ["", "1000000-2999999"]);
    assert!(fake.blob("app", digest).expect("there") == bytes);

    // Begins again where it lost the upload.
    let fake = FakeRegistry::start();
    let image = reference(&fake.host(), "app:1");
    fake.faults(move |r, n| match r.method.as_str() {
        "PUT" if n == 0 && r.target.contains("u1") => Some(Fault::CutRequest(1_000_000)),
        "GET" if r.target.contains("/uploads/") => Some(Fault::ForgetUploads),
        _ => None,
    });
    push(&client(), &image, &bytes, &[]).expect("in the end");
    assert!(fake.blob("app", digest).expect("there") == bytes);
    assert_eq!(
        fake.lines()
            .iter()
            .filter(|l| l.starts_with("POST"))
            .count(),
        2
    );

    // Does not begin again when only the answer was lost.
    let fake = FakeRegistry::start();
    let image = reference(&fake.host(), "app:1");
    fake.faults(move |r, _| is_put(r).then_some(Fault::DropAnswer));
    push(&client(), &image, &bytes, &[]).expect("it is there");
    assert!(fake.blob("app", digest).expect("there") == bytes);
    assert_eq!(fake.log().iter().filter(|r| is_put(r)).count(), 1);

    // In pieces, some of which break.
    let fake = FakeRegistry::start();
    let image = reference(&fake.host(), "app:1");
    let n_pieces = AtomicUsize::new(0);
    fake.faults(move |r, n| match r.method.as_str() {
        "PATCH" if n_pieces.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
            Some(Fault::CutRequest(300_000))
        }
        "PUT" if n == 0 => Some(Fault::Answer(503, vec![], vec![])),
        _ => None,
    });
    let in_pieces = Client::new(Settings {
        chunk_bytes: Some(700_000),
        ..quick()
    })
    .expect("client");
    push(&in_pieces, &image, &bytes, &[]).expect("in the end");
    assert!(fake.blob("app", digest).expect("there") == bytes);
    assert_eq!(fake.n_uploads(), 0);

    // And an end is an end.
    let fake = FakeRegistry::start();
    let image = reference(&fake.host(), "app:1");
    fake.faults(move |r, _| is_put(r).then_some(Fault::Drop));
    let error = push(&client(), &image, &bytes, &[]).expect_err("never");
    assert!(error.to_string().contains(&fake.host()), "{error}");
    assert_eq!(
        fake.n_uploads(),
        0,
        "an upload that is given up is taken back"
    );
}

#[test]
fn a_file_that_shrank_is_our_own_failure() {
    let fake = FakeRegistry::start();
    let bytes = noise(500_000);
    let descriptor = Descriptor::of(MediaType::OCI_LAYER, &bytes);
    let error = client()
        .push_blob(
            &reference(&fake.host(), "app:1"),
            &Upload {
                descriptor: &descriptor,
                open: &|| Ok(Box::new(Cursor::new(vec![0; 1000]))),
                mount_from: &[],
                is_new: false,
                progress: None,
            },
        )
        .expect_err("it shrank");
    assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
    assert!(!error.is_remote());
}

#[test]
fn manifests_are_put_once_and_blobs_first() {
    let fake = FakeRegistry::start();
    let image = reference(&fake.host(), "app:1");
    let client = client();
    let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
    let manifest = to_json(&Manifest::new(config, vec![]));
    // A registry that is slow to see its own blobs.
    fake.faults(|r, n| {
        (r.method == "PUT" && r.target.contains("/manifests/") && n == 0).then(|| {
            Fault::Answer(
                400,
                vec![],
                br#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#.to_vec(),
            )
        })
    });
    push(&client, &image, b"{}", &[]).expect("pushed");
    let digest = client
        .push_manifest(&image, &MediaType::OCI_MANIFEST, &manifest)
        .expect("pushed");
    assert_eq!(digest, sha256(&manifest));
    assert_eq!(fake.manifest("app", "1").expect("tagged"), manifest);
    fake.clear_log();
    super::client()
        .push_manifest(&image, &MediaType::OCI_MANIFEST, &manifest)
        .expect("there already");
    assert_eq!(fake.lines(), ["HEAD /v2/app/manifests/1"]);
    // By digest alone.
    let untagged = reference(&fake.host(), "app").with_digest(digest);
    client
        .push_manifest(&untagged, &MediaType::OCI_MANIFEST, &manifest)
        .expect("pushed");
    let tagged_child = reference(&fake.host(), "app:2").with_digest(digest);
    client
        .push_manifest(&tagged_child, &MediaType::OCI_MANIFEST, &manifest)
        .expect("pushed");
    assert_eq!(
        fake.manifest("app", "2"),
        None,
        "a digest decides over the tag"
    );
    let wrong = untagged.with_digest(sha256(b"other"));
    assert!(
        client
            .push_manifest(&wrong, &MediaType::OCI_MANIFEST, &manifest)
            .is_err()
    );
}
